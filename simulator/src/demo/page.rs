//! `report.html`: the table, the receipts and bars, in one file that needs no other.

use super::report::{Report, RouteReport, WorkloadReport};
use crate::load::page::{STYLE, bars, escape};

/// What is drawn: a title, its unit, and the value of a route.
type Measure = (&'static str, &'static str, fn(&RouteReport) -> Option<f64>);

const MEASURES: [Measure; 4] = [
    ("Time to first token, p50", "ms", |route| {
        route.load.ttft_ms.map(|ttft| ttft.p50)
    }),
    ("Time to first token, p90", "ms", |route| {
        route.load.ttft_ms.map(|ttft| ttft.p90)
    }),
    ("Adapter loads", "per 1,000 requests", |route| {
        route.load.adapter_loads_per_1000
    }),
    ("Busiest server over the mean", "times", |route| {
        route.load.load_max_over_mean
    }),
];

/// The page.
pub(super) fn of(report: &Report, explained: &[String]) -> String {
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Pointsman: the demo</title><style>{STYLE}</style>\
         <h1>Pointsman: the demo</h1><p>The same load through one Envoy to the same simulated model servers, three ways. \
         Seed {}, {:.0} % of what the servers can do with every adapter resident. Simulated servers are not GPUs: read \
         the ratios, not the milliseconds.</p>",
        report.seed,
        report.rate_of_capacity * 100.0
    );
    for warning in report.warnings() {
        page += &format!("<p class=\"doubt\">Doubtful: {}</p>", escape(&warning));
    }
    for workload in &report.workloads {
        page += &section(workload);
    }
    page += "<h2>Why requests went where they went</h2>";
    for text in explained {
        page += &format!("<pre>{}</pre>", escape(text));
    }
    page + "</html>\n"
}

fn section(workload: &WorkloadReport) -> String {
    let mut text = format!(
        "<h2>{}</h2><p>{}; {:.1} requests a second of {:.1}.</p><table><tr><th>route<th>requests<th>errors\
         <th>TTFT p50<th>TTFT p90<th>TTFT p99<th>TPOT p50<th>output tokens/s<th>busy</tr>",
        workload.name,
        escape(&workload.parameters.description()),
        workload.rate,
        workload.capacity
    );
    for route in &workload.routes {
        let load = &route.load;
        text += &format!(
            "<tr><td>{}<td>{}<td>{}<td>{}<td>{:.0}<td>{}</tr>",
            route.name,
            load.requests,
            load.errors,
            route.latencies().join("<td>"),
            load.output_tokens_per_s,
            route
                .machine_busy_share
                .map_or("-".into(), |share| format!("{:.0} %", share * 100.0)),
        );
    }
    text += "</table>";
    for (title, unit, value) in MEASURES {
        let values: Vec<(&str, f64)> = workload
            .routes
            .iter()
            .filter_map(|route| Some((route.name, value(route)?)))
            .collect();
        if values.iter().any(|(_, value)| *value > 0.0) {
            text += &bars(title, unit, &values, "picker");
        }
    }
    text
}
