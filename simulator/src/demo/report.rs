//! What the demo found, as `report.json` and as a table.

use std::io::{self, Write};

use serde::Serialize;

use crate::load::LoadReport;
use crate::load::report::{DOUBTFUL_LAG_MS, Percentiles};
use crate::workload::Workload;

/// The machine's share of busy processor time above which it may have been the limit.
const DOUBTFUL_BUSY_SHARE: f64 = 0.85;

/// Everything the demo found.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// The seed of the load.
    pub(super) seed: u64,
    /// The load, as a share of what the servers complete with every adapter resident.
    pub(super) rate_of_capacity: f64,
    /// By workload.
    pub(super) workloads: Vec<WorkloadReport>,
}

/// What was found with one workload.
#[derive(Debug, Serialize)]
pub(super) struct WorkloadReport {
    /// Its name.
    pub(super) name: &'static str,
    /// Its parameters.
    pub(super) parameters: Workload,
    /// Requests sent a second.
    pub(super) rate: f64,
    /// Requests a second that the servers complete when they are kept busy with every adapter resident.
    pub(super) capacity: f64,
    /// By route.
    pub(super) routes: Vec<RouteReport>,
}

/// What was found on one route.
#[derive(Debug, Serialize)]
pub(super) struct RouteReport {
    /// Its name.
    pub(super) name: &'static str,
    /// What the load generator found.
    #[serde(flatten)]
    pub(super) load: LoadReport,
    /// The machine's share of busy processor time meanwhile.
    pub(super) machine_busy_share: Option<f64>,
}

impl Report {
    pub(super) fn new(seed: u64, rate_of_capacity: f64) -> Self {
        Self {
            seed,
            rate_of_capacity,
            workloads: Vec::new(),
        }
    }

    /// Says which numbers are not to be trusted, and why.
    pub(super) fn warnings(&self) -> Vec<String> {
        let routes = self.workloads.iter().flat_map(|workload| {
            workload
                .routes
                .iter()
                .map(move |route| (workload.name, route))
        });
        routes
            .flat_map(|(workload, route)| route.warnings(workload))
            .collect()
    }

    pub(super) fn warn(&self, out: &mut impl Write) -> io::Result<()> {
        for warning in self.warnings() {
            writeln!(out, "Doubtful: {warning}")?;
        }
        Ok(())
    }
}

impl RouteReport {
    pub(super) fn new(
        name: &'static str,
        load: LoadReport,
        machine_busy_share: Option<f64>,
    ) -> Self {
        Self {
            name,
            load,
            machine_busy_share,
        }
    }

    /// Time to first token at p50, p90 and p99, and time per output token at p50, for people.
    pub(super) fn latencies(&self) -> [String; 4] {
        let (ttft, tpot) = (self.load.ttft_ms, self.load.tpot_ms);
        [
            ms(ttft, |ttft| ttft.p50),
            ms(ttft, |ttft| ttft.p90),
            ms(ttft, |ttft| ttft.p99),
            ms(tpot, |tpot| tpot.p50),
        ]
    }

    fn warnings(&self, workload: &str) -> Vec<String> {
        let mut warnings = Vec::new();
        let place = format!("{workload}, {}", self.name);
        if let Some(lag) = self.load.lag_ms.filter(|lag| lag.p99 > DOUBTFUL_LAG_MS) {
            warnings.push(format!(
                "{place}: the generator itself was {:.1} ms late at p99",
                lag.p99
            ));
        }
        if let Some(busy) = self
            .machine_busy_share
            .filter(|&busy| busy > DOUBTFUL_BUSY_SHARE)
        {
            warnings.push(format!(
                "{place}: the machine was {:.0} % busy",
                busy * 100.0
            ));
        }
        warnings
    }
}

impl WorkloadReport {
    pub(super) fn new(
        workload: &Workload,
        rate: f64,
        capacity: f64,
        routes: Vec<RouteReport>,
    ) -> Self {
        Self {
            name: short_name(workload),
            parameters: workload.clone(),
            rate,
            capacity,
            routes,
        }
    }

    /// A line for each route.
    pub(super) fn write_table(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(
            out,
            "  {:<14}{:>9}{:>8}{:>11}{:>11}{:>11}{:>10}{:>13}{:>10}",
            "route",
            "requests",
            "errors",
            "TTFT p50",
            "TTFT p90",
            "TTFT p99",
            "TPOT p50",
            "loads/1000",
            "max/mean"
        )?;
        for route in &self.routes {
            let load = &route.load;
            let [p50, p90, p99, tpot] = route.latencies();
            writeln!(
                out,
                "  {:<14}{:>9}{:>8}{p50:>11}{p90:>11}{p99:>11}{tpot:>10}{:>13}{:>10}",
                route.name,
                load.requests,
                load.errors,
                load.adapter_loads_per_1000
                    .map_or("-".into(), |loads| format!("{loads:.0}")),
                load.load_max_over_mean
                    .map_or("-".into(), |share| format!("{share:.2}")),
            )?;
        }
        Ok(())
    }
}

/// One of the percentiles in milliseconds, for people.
fn ms(values: Option<Percentiles>, one: impl Fn(Percentiles) -> f64) -> String {
    values.map_or("-".into(), |values| format!("{:.0} ms", one(values)))
}

/// The workload's name without its edition: the demo has one of each.
pub(super) fn short_name(workload: &Workload) -> &'static str {
    workload.name.trim_start_matches("demo_")
}
