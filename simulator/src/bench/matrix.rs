//! What a bench runs: scenarios, from options or from a file of cells.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::Options;
use crate::engine::Profile;
use crate::policy::Policy;
use crate::workload::{Trace, Workload};

/// One workload at one rate on one pool, under some policies.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What clients send.
    pub workload: Workload,
    /// The servers' hardware and settings.
    pub profile: Profile,
    /// How many servers there are.
    pub servers: u16,
    /// Requests of each run that count.
    pub requests: u32,
    /// Runs of each policy, with the seeds 0, 1, 2 and so on.
    pub seeds: u64,
    /// Requests a second, as a share of the capacity.
    pub rate_of_capacity: f64,
    /// Who chooses the server.
    pub policies: Vec<Policy>,
}

impl Scenario {
    /// `workload` under every policy as `pointsman-sim bench` runs it where nothing else is asked: on the profile that it is
    /// meant for, 8 servers, 5,000 requests, 5 seeds, at its own share of the capacity.
    #[must_use]
    pub fn of(workload: Workload) -> Self {
        let profile = Profile::named(workload.profile_name());
        Self {
            profile: profile.unwrap_or_else(Profile::llama_8b_h100),
            servers: 8,
            requests: 5_000,
            seeds: 5,
            rate_of_capacity: workload.rate_of_capacity(),
            policies: Policy::ALL.to_vec(),
            workload,
        }
    }

    /// The policies, and the oracle if it is none of them.
    pub(super) fn policies_and_oracle(&self) -> Vec<Policy> {
        let mut policies = self.policies.clone();
        if !policies.contains(&Policy::Oracle) {
            policies.push(Policy::Oracle);
        }
        policies
    }
}

/// What `options` ask for.
pub(super) fn scenarios(options: &Options) -> Result<Vec<Scenario>, String> {
    if let Some(file) = &options.cells {
        return read(file);
    }
    let workloads = match &options.trace {
        Some(file) => vec![replay(file)?],
        None => options.workload.clone(),
    };
    let scenario = |workload: Workload| {
        let usual = Scenario::of(workload);
        Scenario {
            profile: options.profile.clone().unwrap_or(usual.profile),
            servers: options.servers,
            requests: options.requests,
            seeds: options.seeds,
            rate_of_capacity: options.rate_of_capacity.unwrap_or(usual.rate_of_capacity),
            policies: match &options.policy[..] {
                [] => usual.policies,
                asked => asked.to_vec(),
            },
            workload: usual.workload,
        }
    };
    Ok(workloads.into_iter().map(scenario).collect())
}

/// A file of cells.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Matrix {
    servers: Option<u16>,
    requests: Option<u32>,
    seeds: Option<u64>,
    policies: Option<Vec<Policy>>,
    cell: Vec<Line>,
}

/// One `[[cell]]`; what it leaves out is as at the top of the file, or else as [`Scenario::of`] has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    workload: Option<String>,
    trace: Option<PathBuf>,
    rates_of_capacity: Option<Vec<f64>>,
    profile: Option<String>,
    servers: Option<u16>,
    requests: Option<u32>,
    seeds: Option<u64>,
    policies: Option<Vec<Policy>>,
}

/// Reads a file of cells; its traces are named relative to it.
///
/// # Errors
/// Names the file and what is wrong in it.
pub fn read(file: &Path) -> Result<Vec<Scenario>, String> {
    let named = |problem: String| format!("{}: {problem}", file.display());
    let text = fs::read_to_string(file).map_err(|error| named(error.to_string()))?;
    let folder = file.parent().unwrap_or(Path::new("."));
    parse(&text, folder).map_err(named)
}

fn parse(text: &str, folder: &Path) -> Result<Vec<Scenario>, String> {
    let matrix: Matrix = toml::from_str(text).map_err(|error| error.to_string())?;
    let mut scenarios = Vec::new();
    for line in &matrix.cell {
        let workload = match (&line.workload, &line.trace) {
            (Some(name), None) => Workload::named(name)?,
            (None, Some(trace)) => replay(&folder.join(trace))?,
            _ => return Err("a cell has workload or trace: give one of both".to_owned()),
        };
        let mut scenario = Scenario::of(workload);
        if let Some(name) = &line.profile {
            scenario.profile = super::profile(name)?;
        }
        let or = |own: Option<u64>, all: Option<u64>, usual: u64, field: &str| {
            let value = own.or(all).unwrap_or(usual);
            let refused = format!("{field} is 0: give at least 1");
            if value == 0 { Err(refused) } else { Ok(value) }
        };
        let wide = |value: Option<u16>| value.map(u64::from);
        let servers = or(wide(line.servers), wide(matrix.servers), 8, "servers")?;
        scenario.servers = servers as u16;
        let wide = |value: Option<u32>| value.map(u64::from);
        let requests = or(
            wide(line.requests),
            wide(matrix.requests),
            5_000,
            "requests",
        )?;
        scenario.requests = requests as u32;
        scenario.seeds = or(line.seeds, matrix.seeds, 5, "seeds")?;
        if let Some(policies) = line.policies.as_ref().or(matrix.policies.as_ref()) {
            scenario.policies.clone_from(policies);
        }
        let rates = line.rates_of_capacity.clone();
        for rate in rates.unwrap_or_else(|| vec![scenario.rate_of_capacity]) {
            if !(rate.is_finite() && rate > 0.0) {
                return Err(format!(
                    "rates_of_capacity has {rate}: give numbers above 0, such as 0.7"
                ));
            }
            scenarios.push(Scenario {
                rate_of_capacity: rate,
                ..scenario.clone()
            });
        }
    }
    Ok(scenarios)
}

fn replay(file: &Path) -> Result<Workload, String> {
    let trace = Trace::read(file, false).map_err(|error| error.to_string())?;
    Ok(Workload::replay(trace))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_has_its_own_settings_or_those_of_the_file_or_the_usual_ones() {
        let text = "seeds = 2\nrequests = 100\n\
                    [[cell]]\nworkload = \"lora\"\nrates_of_capacity = [0.5, 0.9]\npolicies = [\"p2c\"]\n\
                    [[cell]]\nworkload = \"overload\"\nrequests = 7\nservers = 3\n";
        let scenarios = parse(text, Path::new(".")).expect("valid");
        let numbers: Vec<_> = scenarios
            .iter()
            .map(|one| (one.rate_of_capacity, one.servers, one.requests, one.seeds))
            .collect();
        assert_eq!(
            numbers,
            [(0.5, 8, 100, 2), (0.9, 8, 100, 2), (1.2, 3, 7, 2)]
        );
        assert_eq!(scenarios[0].policies, [Policy::P2c]);
        assert_eq!(
            scenarios[0].policies_and_oracle(),
            [Policy::P2c, Policy::Oracle]
        );
        assert_eq!(scenarios[2].policies, Policy::ALL);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (text, names) in [
            ("[[cell]]\n", "give one of both"),
            (
                "[[cell]]\nworkload = \"nope\"\n",
                "no workload is called nope",
            ),
            (
                "[[cell]]\nworkload = \"lora\"\nserver = 3\n",
                "unknown field `server`",
            ),
            ("seeds = 0\n[[cell]]\nworkload = \"lora\"\n", "seeds is 0"),
            (
                "[[cell]]\nworkload = \"lora\"\nrates_of_capacity = [0.0]\n",
                "has 0",
            ),
            (
                "[[cell]]\nworkload = \"lora\"\nprofile = \"a\"\n",
                "no profile",
            ),
            ("[[cell]]\ntrace = \"nope.csv\"\n", "nope.csv"),
        ] {
            let error = parse(text, Path::new(".")).expect_err("refused");
            assert!(error.contains(names), "{error}");
        }
    }
}
