//! The report of one run of load as a page: tables and plots in one HTML file that needs no other.

use std::fmt::Write as _;

use super::report::{Curve, LoadReport, Percentiles};

/// How pages look.
pub(crate) const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}\
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .75rem;text-align:right;border-bottom:1px solid #ddd}\
td:first-child,th:first-child{text-align:left}pre{background:#f6f6f4;padding:1rem;overflow:auto}\
svg text{font:13px system-ui,sans-serif;fill:#222}.doubt{color:#a40000}";

/// The page.
#[must_use]
pub fn of(report: &LoadReport) -> String {
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Load</title><style>{STYLE}</style><h1>Load</h1>\
         <p>{}. {} requests in {:.1} s, {} errors; seed {}; {:.1} output tokens/s, {:.2} answers/s.</p>",
        escape(&report.workload.description()),
        report.requests,
        report.seconds,
        report.errors,
        report.seed,
        report.output_tokens_per_s,
        report.requests_per_s,
    );
    for doubt in doubts(report) {
        page += &format!("<p class=\"doubt\">Doubtful: {doubt}</p>");
    }
    if let Some(goodput) = report.goodput {
        page += &format!(
            "<p>{:.1} % of the requests were answered in time: {:.2} a second.</p>",
            goodput.share * 100.0,
            goodput.requests_per_s
        );
    }
    page += &latencies(report);
    for curve in &report.curves {
        page += &plot(curve);
    }
    page += &errors(report);
    let requests: Vec<(&str, f64)> = report
        .servers
        .iter()
        .map(|share| (share.server.as_str(), share.requests as f64))
        .collect();
    if requests.len() > 1 {
        page += &bars("Requests", "by server", &requests, "");
    }
    page + "</html>\n"
}

fn doubts(report: &LoadReport) -> Vec<&'static str> {
    let mut doubts = Vec::new();
    if !report.rate.is_reached() {
        doubts.push("under 95 % of the asked rate was sent");
    }
    if !report.lag_is_small() {
        doubts.push("the generator sent late: it was the limit itself");
    }
    if report.unanswered > 0 {
        doubts.push("stopped early, with requests under way");
    }
    doubts
}

fn latencies(report: &LoadReport) -> String {
    let mut text = "<table><tr><th>ms<th>mean<th>p50<th>p90<th>p95<th>p99</tr>".to_owned();
    for (name, percentiles) in [
        ("time to first token", report.ttft_ms),
        ("time of a token after it", report.tpot_ms),
        ("between tokens", report.itl_ms),
        ("end to end", report.e2e_ms),
        ("pick", report.pick_ms),
        ("answer to a chunk", report.chunk_ms),
        ("generator's lag", report.lag_ms),
    ] {
        if let Some(Percentiles {
            mean,
            p50,
            p90,
            p95,
            p99,
        }) = percentiles
        {
            // Writing to a string cannot fail, here and below.
            let _ = write!(
                text,
                "<tr><td>{name}<td>{mean:.1}<td>{p50:.1}<td>{p90:.1}<td>{p95:.1}<td>{p99:.1}</tr>"
            );
        }
    }
    text + "</table>"
}

fn errors(report: &LoadReport) -> String {
    if report.errors == 0 {
        return String::new();
    }
    let mut text = "<table><tr><th>error<th>requests</tr>".to_owned();
    for (kind, count) in &report.errors_by_kind {
        let _ = write!(text, "<tr><td>{}<td>{count}</tr>", escape(kind));
    }
    text + "</table>"
}

/// A latency over its percentiles.
fn plot(curve: &Curve) -> String {
    const WIDTH: f64 = 560.0;
    const HEIGHT: f64 = 160.0;
    let most = curve.points.iter().map(|point| point.1).fold(0.0, f64::max);
    let mut line = String::new();
    for (percentile, ms) in &curve.points {
        let x = 60.0 + WIDTH * percentile / 100.0;
        let y = 30.0 + HEIGHT * (1.0 - ms / most.max(f64::MIN_POSITIVE));
        let _ = write!(line, "{x:.1},{y:.1} ");
    }
    let name = curve.name;
    let mut text = format!(
        "<svg width=\"640\" height=\"230\" role=\"img\" aria-label=\"{name} by percentile\">\
         <text x=\"0\" y=\"16\">{name}, ms by percentile</text><text x=\"0\" y=\"40\">{most:.0}</text><text x=\"0\" y=\"190\">0</text>\
         <path d=\"M60 30V190H620\" fill=\"none\" stroke=\"#b8b8b0\"/>\
         <polyline points=\"{line}\" fill=\"none\" stroke=\"#2a7f62\" stroke-width=\"2\"/>"
    );
    for percentile in [0.0, 50.0, 90.0, 100.0] {
        let x = 54.0 + WIDTH * percentile / 100.0;
        let _ = write!(text, "<text x=\"{x:.0}\" y=\"208\">{percentile:.0}</text>");
    }
    text + "</svg><br>"
}

/// Horizontal bars; the one called `marked` in another colour.
pub(crate) fn bars(title: &str, unit: &str, values: &[(&str, f64)], marked: &str) -> String {
    let most = values.iter().map(|(_, value)| *value).fold(0.0, f64::max);
    let height = 30 + 26 * values.len();
    let mut text = format!(
        "<svg width=\"640\" height=\"{height}\" role=\"img\" aria-label=\"{title}\"><text x=\"0\" y=\"16\">{title}, {unit}</text>"
    );
    for (place, (name, value)) in values.iter().enumerate() {
        let top = 26 + 26 * place;
        let width = 400.0 * value / most.max(f64::MIN_POSITIVE);
        let colour = if *name == marked {
            "#2a7f62"
        } else {
            "#b8b8b0"
        };
        let digits = if most < 10.0 { 2 } else { 0 };
        let _ = write!(
            text,
            "<text x=\"0\" y=\"{}\">{}</text><rect x=\"120\" y=\"{top}\" width=\"{width:.1}\" height=\"18\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"{}\">{value:.digits$}</text>",
            top + 14,
            escape(name),
            126.0 + width,
            top + 14
        );
    }
    text + "</svg><br>"
}

/// `text` as HTML shows it.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
