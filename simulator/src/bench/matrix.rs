//! What a bench runs: scenarios, from options or from a file of cells.

use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::Options;
use super::constants::Constants;
use crate::engine::Profile;
use crate::policy::Policy;
use crate::virtual_time::Follow;
use crate::workload::{Trace, Workload};

/// One workload at one rate on one pool, under some policies: a cell.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What clients send.
    pub workload: Workload,
    /// The servers' hardware and settings.
    pub profile: Profile,
    /// Whether the servers are what their profile says.
    pub constants: Constants,
    /// How many servers there are.
    pub servers: u16,
    /// How many times slower the second half of the servers is.
    pub half_slower: f64,
    /// Whether servers hang, crash and show stale metrics.
    pub faults: bool,
    /// What the picker sees of responses.
    pub follow: Follow,
    /// What clients say about the length of answers.
    pub limits: Limits,
    /// How long a run is.
    pub length: Length,
    /// Runs of each policy, with the seeds 0, 1, 2 and so on.
    pub seeds: u64,
    /// Requests a second, as a share of the capacity.
    pub rate_of_capacity: f64,
    /// Who chooses the server.
    pub policies: Vec<Policy>,
    /// Whether the oracle runs as the measure of regret where it is none of the policies.
    pub oracle: bool,
}

/// How long a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// So many requests count, after as many as fill queues and slots.
    Requests(u32),
    /// Requests that arrive in so many seconds count, after those of the seconds before.
    Seconds {
        /// What is left out.
        warm_up: u32,
        /// What counts.
        counted: u32,
    },
}

/// What clients say about the length of answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limits {
    /// All set `max_tokens` to the length of the answer.
    #[default]
    Exact,
    /// Half set a limit far above it, and the others none.
    Loose,
}

impl Scenario {
    /// `workload` under every policy as `pointsman-sim bench` runs it where nothing else is asked: on the profile that it is
    /// meant for, 8 servers, 5,000 requests, 5 seeds, at its own share of the capacity.
    #[must_use]
    pub fn of(workload: Workload) -> Self {
        let profile = Profile::named(workload.profile_name());
        let faults = workload.name == "failures";
        Self {
            profile: profile.unwrap_or_else(Profile::llama_8b_h100),
            constants: Constants::Profile,
            servers: 8,
            half_slower: if workload.name == "hetero" { 3.0 } else { 1.0 },
            faults,
            follow: Follow::Full,
            limits: Limits::Exact,
            length: if faults {
                Length::Seconds {
                    warm_up: 60,
                    counted: 120,
                }
            } else {
                Length::Requests(5_000)
            },
            seeds: 5,
            rate_of_capacity: workload.rate_of_capacity(),
            policies: Policy::ALL.to_vec(),
            oracle: true,
            workload,
        }
    }

    /// What tells it from the other cells of a file: `lora-0.6`, `lora-drawn-0.7`.
    #[must_use]
    pub fn name(&self) -> String {
        let drawn = match self.constants {
            Constants::Profile => "",
            Constants::Drawn => "-drawn",
        };
        format!("{}{drawn}-{}", self.workload.name, self.rate_of_capacity)
    }

    /// The policies, and the oracle if it is none of them and to measure by.
    pub(super) fn policies_and_oracle(&self) -> Vec<Policy> {
        let mut policies = self.policies.clone();
        if self.oracle && !policies.contains(&Policy::Oracle) {
            policies.push(Policy::Oracle);
        }
        policies
    }

    /// Whether `asked` is its name or the beginning of it, up to a dash.
    fn is_called(&self, asked: &str) -> bool {
        let name = self.name();
        let rest = name.strip_prefix(asked);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }
}

/// What `options` ask for.
pub(super) fn scenarios(options: &Options) -> Result<Vec<Scenario>, String> {
    if let Some(file) = &options.cells {
        return restricted(read(file)?, options);
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
            length: options.requests.map_or(usual.length, Length::Requests),
            seeds: options.seeds.unwrap_or(usual.seeds),
            rate_of_capacity: options.rate_of_capacity.unwrap_or(usual.rate_of_capacity),
            policies: match &options.policy[..] {
                [] => usual.policies,
                asked => asked.to_vec(),
            },
            ..usual
        }
    };
    Ok(workloads.into_iter().map(scenario).collect())
}

/// Those of a file's cells that are asked for, with the policies and seeds that are.
fn restricted(mut scenarios: Vec<Scenario>, options: &Options) -> Result<Vec<Scenario>, String> {
    if let Some(unknown) = options
        .only
        .iter()
        .find(|asked| !scenarios.iter().any(|one| one.is_called(asked)))
    {
        let names: Vec<String> = scenarios.iter().map(Scenario::name).collect();
        return Err(format!(
            "--only {unknown}: no cell is called so; there are {}",
            names.join(", ")
        ));
    }
    let only = &options.only;
    scenarios.retain(|one| only.is_empty() || only.iter().any(|asked| one.is_called(asked)));
    for scenario in &mut scenarios {
        scenario.seeds = options.seeds.unwrap_or(scenario.seeds);
        if !options.policy.is_empty() {
            scenario.policies.clone_from(&options.policy);
        }
    }
    Ok(scenarios)
}

/// A file of cells.
#[derive(Deserialize)]
struct Matrix {
    cell: Vec<toml::Table>,
    #[serde(flatten)]
    all: toml::Table,
}

/// One `[[cell]]`; what it leaves out is as at the top of the file, or else as [`Scenario::of`] has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    workload: Option<String>,
    trace: Option<PathBuf>,
    rates_of_capacity: Option<Vec<f64>>,
    profile: Option<String>,
    constants: Option<Constants>,
    follow: Option<Follow>,
    limits: Option<Limits>,
    servers: Option<NonZero<u16>>,
    requests: Option<NonZero<u32>>,
    warm_up_seconds: Option<u32>,
    seconds: Option<NonZero<u32>>,
    seeds: Option<NonZero<u64>>,
    policies: Option<Vec<Policy>>,
    oracle: Option<bool>,
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
    for cell in matrix.cell {
        let mut fields = matrix.all.clone();
        fields.extend(cell);
        let line: Line = fields.try_into().map_err(|error| error.to_string())?;
        scenarios.extend(line.scenarios(folder)?);
    }
    Ok(scenarios)
}

impl Line {
    /// One for each rate.
    fn scenarios(self, folder: &Path) -> Result<Vec<Scenario>, String> {
        let workload = match (&self.workload, &self.trace) {
            (Some(name), None) => Workload::named(name)?,
            (None, Some(trace)) => replay(&folder.join(trace))?,
            _ => return Err("a cell has workload or trace: give one of both".to_owned()),
        };
        let usual = Scenario::of(workload);
        let scenario = Scenario {
            profile: match &self.profile {
                Some(name) => super::profile(name)?,
                None => usual.profile,
            },
            constants: self.constants.unwrap_or(usual.constants),
            follow: self.follow.unwrap_or(usual.follow),
            limits: self.limits.unwrap_or(usual.limits),
            servers: self.servers.map_or(usual.servers, NonZero::get),
            length: match (self.requests, self.seconds, self.warm_up_seconds) {
                (None, None, None) => usual.length,
                (Some(requests), None, None) => Length::Requests(requests.get()),
                (None, Some(seconds), warm_up) => Length::Seconds {
                    warm_up: warm_up.unwrap_or_default(),
                    counted: seconds.get(),
                },
                _ => {
                    return Err(
                        "a run is measured in requests, or in seconds after warm_up_seconds: give one of both"
                            .to_owned(),
                    );
                }
            },
            seeds: self.seeds.map_or(usual.seeds, NonZero::get),
            policies: self.policies.unwrap_or(usual.policies),
            oracle: self.oracle.unwrap_or(usual.oracle),
            ..usual
        };
        let usual_rate = scenario.rate_of_capacity;
        let rates = self.rates_of_capacity.unwrap_or_else(|| vec![usual_rate]);
        if let Some(rate) = rates
            .iter()
            .find(|rate| !(rate.is_finite() && **rate > 0.0))
        {
            return Err(format!(
                "rates_of_capacity has {rate}: give numbers above 0, such as 0.7"
            ));
        }
        let at = |rate_of_capacity| Scenario {
            rate_of_capacity,
            ..scenario.clone()
        };
        Ok(rates.into_iter().map(at).collect())
    }
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
        let text = "seeds = 2\nwarm_up_seconds = 5\nseconds = 10\nfollow = \"watched\"\n\
                    [[cell]]\nworkload = \"lora\"\nrates_of_capacity = [0.5, 0.9]\npolicies = [\"p2c\"]\n\
                    [[cell]]\nworkload = \"hetero\"\nseconds = 7\nservers = 3\nlimits = \"loose\"\n\
                    constants = \"drawn\"\npolicies = [\"p2c\"]\noracle = false\n";
        let scenarios = parse(text, Path::new(".")).expect("valid");
        let numbers: Vec<_> = scenarios
            .iter()
            .map(|one| (one.rate_of_capacity, one.servers, one.length, one.limits))
            .collect();
        let length = |counted| Length::Seconds {
            warm_up: 5,
            counted,
        };
        assert_eq!(
            numbers,
            [
                (0.5, 8, length(10), Limits::Exact),
                (0.9, 8, length(10), Limits::Exact),
                (0.7, 3, length(7), Limits::Loose),
            ]
        );
        assert!(
            scenarios
                .iter()
                .all(|one| (one.seeds, one.follow) == (2, Follow::Watched))
        );
        assert_eq!(scenarios[0].policies, [Policy::P2c]);
        assert_eq!(
            scenarios[0].policies_and_oracle(),
            [Policy::P2c, Policy::Oracle]
        );
        assert_eq!(scenarios[2].policies_and_oracle(), [Policy::P2c]);
        let names: Vec<_> = scenarios.iter().map(Scenario::name).collect();
        assert_eq!(names, ["lora-0.5", "lora-0.9", "hetero-drawn-0.7"]);
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
            (
                "sed = 1\n[[cell]]\nworkload = \"lora\"\n",
                "unknown field `sed`",
            ),
            ("seeds = 0\n[[cell]]\nworkload = \"lora\"\n", "seeds"),
            (
                "[[cell]]\nworkload = \"lora\"\nrates_of_capacity = [0.0]\n",
                "has 0",
            ),
            (
                "seconds = 5\n[[cell]]\nworkload = \"lora\"\nrequests = 7\n",
                "measured in requests, or in seconds",
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

    #[test]
    fn a_file_is_restricted_to_cells_by_the_beginning_of_their_names() {
        use clap::Parser as _;

        #[derive(clap::Parser)]
        struct Command {
            #[command(flatten)]
            options: Options,
        }
        let text = "seeds = 9\n[[cell]]\nworkload = \"lora\"\nrates_of_capacity = [0.6, 0.85]\n\
                    [[cell]]\nworkload = \"lora\"\nconstants = \"drawn\"\n\
                    [[cell]]\nworkload = \"mixed\"\n";
        let names = |arguments: &[&str]| {
            let arguments = ["bench", "--cells", "f"].iter().chain(arguments);
            let options = Command::parse_from(arguments).options;
            let all = parse(text, Path::new(".")).expect("valid");
            let restricted = restricted(all, &options)?;
            let name = |one: &Scenario| format!("{} {}", one.name(), one.seeds);
            Ok::<_, String>(restricted.iter().map(name).collect::<Vec<_>>())
        };
        assert_eq!(names(&[]).map(|all| all.len()), Ok(4));
        let some = names(&["--only", "lora-drawn,mixed", "--seeds", "2"]);
        assert_eq!(
            some,
            Ok(vec!["lora-drawn-0.7 2".into(), "mixed-0.7 2".into()])
        );
        assert_eq!(names(&["--only", "lora"]).map(|all| all.len()), Ok(3));
        let error = names(&["--only", "lor"]).expect_err("no such cell");
        assert!(error.contains("there are lora-0.6, lora-0.85"), "{error}");
    }
}
