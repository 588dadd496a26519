//! The report of one run of load as text for people.

use std::io::{self, Write};

use super::report::{LoadReport, Percentiles, Rate, ServerShare};

/// Writes `report` as a table.
///
/// # Errors
/// Those of `out`.
pub fn write(out: &mut impl Write, report: &LoadReport) -> io::Result<()> {
    write_counts(out, report)?;
    write_latencies(out, report)?;
    writeln!(
        out,
        "\noutput tokens/s         {:9.1}\nanswers/s               {:9.2}",
        report.output_tokens_per_s, report.requests_per_s
    )?;
    write_shares(out, report)?;
    if let Some(loads) = report.adapter_loads_per_1000 {
        writeln!(out, "adapter loads per 1,000 {loads:9.1}")?;
    }
    if let Some(ratio) = report.load_max_over_mean {
        writeln!(out, "busiest server / mean   {ratio:9.2}")?;
    }
    write_servers(out, &report.servers)
}

fn write_shares(out: &mut impl Write, report: &LoadReport) -> io::Result<()> {
    if let Some(goodput) = report.goodput {
        writeln!(
            out,
            "goodput                 {:9.1} % of requests, {:.2}/s",
            goodput.share * 100.0,
            goodput.requests_per_s
        )?;
    }
    if let Some(rate) = report.prefix_hit_rate {
        writeln!(
            out,
            "prefix cache hits       {:9.1} % of tokens",
            rate * 100.0
        )?;
    }
    for (name, cost) in [("generator", report.generator), ("process", report.process)] {
        if let Some(cost) = cost {
            writeln!(
                out,
                "{name:23} {:9.2} cores, {:.0} MiB at most",
                cost.cpu_cores, cost.peak_rss_mib
            )?;
        }
    }
    Ok(())
}

fn write_counts(out: &mut impl Write, report: &LoadReport) -> io::Result<()> {
    let LoadReport {
        requests,
        errors,
        seconds,
        seed,
        unanswered,
        ..
    } = report;
    let Rate { asked, achieved } = report.rate;
    writeln!(
        out,
        "{requests} requests in {seconds:.1} s, {errors} errors"
    )?;
    for (kind, count) in &report.errors_by_kind {
        writeln!(out, "  {count} x {kind}")?;
    }
    match (asked, report.concurrency) {
        (Some(asked), _) => write!(out, "rate: {asked:.2}/s asked, {achieved:.2}/s sent")?,
        (None, under_way) => write!(
            out,
            "closed loop, {} under way: {achieved:.2}/s sent",
            under_way.unwrap_or_default()
        )?,
    }
    writeln!(out, "; seed {seed}")?;
    if !report.rate.is_reached() {
        writeln!(
            out,
            "  WARNING: under 95 % of the asked rate was sent: the numbers say little"
        )?;
    }
    if !report.lag_is_small() {
        writeln!(
            out,
            "  WARNING: the generator sent late (lag below): it was the limit itself"
        )?;
    }
    if *unanswered > 0 {
        writeln!(
            out,
            "stopped early: {unanswered} requests had no answer yet"
        )?;
    }
    Ok(())
}

fn write_latencies(out: &mut impl Write, report: &LoadReport) -> io::Result<()> {
    writeln!(
        out,
        "\n{:10} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "ms", "mean", "p50", "p90", "p95", "p99"
    )?;
    for (name, percentiles) in [
        ("TTFT", report.ttft_ms),
        ("TPOT", report.tpot_ms),
        ("ITL", report.itl_ms),
        ("E2E", report.e2e_ms),
        ("pick", report.pick_ms),
        ("chunk", report.chunk_ms),
        ("lag", report.lag_ms),
    ] {
        if let Some(Percentiles {
            mean,
            p50,
            p90,
            p95,
            p99,
        }) = percentiles
        {
            writeln!(
                out,
                "{name:10} {mean:9.1} {p50:9.1} {p90:9.1} {p95:9.1} {p99:9.1}"
            )?;
        }
    }
    Ok(())
}

fn write_servers(out: &mut impl Write, servers: &[ServerShare]) -> io::Result<()> {
    if servers.is_empty() {
        return Ok(());
    }
    let [requests, errors, p50, p90] = ["requests", "errors", "TTFT p50", "TTFT p90"];
    writeln!(
        out,
        "\n{:20} {requests:>9} {errors:>9} {p50:>9} {p90:>9}",
        "server"
    )?;
    for share in servers {
        write!(
            out,
            "{:20} {:9} {:9}",
            share.server, share.requests, share.errors
        )?;
        match share.ttft_ms {
            Some(ttft) => writeln!(out, " {:9.1} {:9.1}", ttft.p50, ttft.p90)?,
            None => writeln!(out, " {:>9} {:>9}", "-", "-")?,
        }
    }
    Ok(())
}
