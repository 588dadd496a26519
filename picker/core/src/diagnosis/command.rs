//! What the command line of a container says: which engine it starts, on which port, with which models.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::object::{Container, Workload};

/// What is known of an engine: how it is told, where it listens, and what its metrics depend on.
///
/// Sources: vLLM `vllm/entrypoints/openai/cli_args.py` and `vllm/v1/engine/async_llm.py` (no stat logger without
/// stats), SGLang `server_args.py`, llama.cpp `tools/server/README.md`.
struct Known {
    name: &'static str,
    /// Words of images and commands that tell it.
    signs: &'static [&'static str],
    port: u16,
    /// The flag without which there are no metrics, or with which.
    metrics: (&'static str, bool),
    /// The value of the label that says what its metrics are called; vLLM's need none.
    label: Option<&'static str>,
}

const ENGINES: &[Known] = &[
    Known {
        name: "vLLM",
        signs: &["vllm"],
        port: 8000,
        metrics: ("--disable-log-stats", false),
        label: None,
    },
    Known {
        name: "SGLang",
        signs: &["sglang"],
        port: 30_000,
        metrics: ("--enable-metrics", true),
        label: Some("sglang"),
    },
    Known {
        name: "llama.cpp",
        signs: &["llama-server", "llama.cpp"],
        port: 8080,
        metrics: ("--metrics", true),
        label: None,
    },
];

/// The engine that a container starts.
pub(super) struct Engine {
    /// What it is called.
    pub(super) name: &'static str,
    /// Where it listens; `None` if that is not written as a number.
    pub(super) port: Option<u16>,
    /// The flag that is missing for metrics, or is too many, and whether it is missing.
    pub(super) metrics_off: Option<(&'static str, bool)>,
    /// The value of the label that its pods need for their metrics to be read.
    pub(super) label: Option<&'static str>,
}

/// The words of a command line.
pub(super) struct Words(Vec<Arc<str>>);

impl Engine {
    /// The engine of a container, if it is one that is known.
    pub(super) fn of(container: &Container) -> Option<Self> {
        let words = Words::of(container);
        let of_command = |sign: &&str| {
            let mut programs = words.0.iter().filter(|word| !word.starts_with('-'));
            programs.any(|word| word.contains(sign))
        };
        let told = |one: &&Known| {
            let mut signs = one.signs.iter();
            signs.any(|sign| container.image.contains(sign) || of_command(sign))
        };
        // A picker or a sidecar of vLLM's has its name in the image and serves nothing.
        let known = ENGINES
            .iter()
            .find(told)
            .filter(|_| !is_picker(container))?;
        let port = match words.value("--port") {
            None => Some(known.port),
            Some(text) => text.parse().ok(),
        };
        let (flag, wanted) = known.metrics;
        let off = words.has(flag) != wanted;
        Some(Self {
            name: known.name,
            port,
            metrics_off: off.then_some((flag, wanted)),
            label: known.label,
        })
    }
}

/// The models and adapters that vLLM serves by the command lines of all of these; `None` if one does not tell.
pub(super) fn served<'w>(
    workloads: impl Iterator<Item = &'w Workload>,
) -> Option<BTreeSet<Arc<str>>> {
    let mut models = BTreeSet::new();
    let mut any = false;
    for workload in workloads {
        let mut engines = workload.containers.iter().filter_map(|container| {
            let engine = Engine::of(container)?;
            Some((container, engine))
        });
        let (container, engine) = engines.next()?;
        if engine.name != "vLLM" || loads_at_run_time(container) {
            return None;
        }
        models.extend(Words::of(container).models()?);
        any = true;
    }
    any.then_some(models)
}

fn loads_at_run_time(container: &Container) -> bool {
    let of_loras = ["VLLM_ALLOW_RUNTIME_LORA_UPDATING", "VLLM_PLUGINS"];
    let mut names = container.env.iter().map(|variable| &*variable.name);
    names.any(|name| of_loras.contains(&name) || name.starts_with("VLLM_LORA_RESOLVER"))
}

/// Whether a container is an endpoint picker, this one or another.
pub(super) fn is_picker(container: &Container) -> bool {
    let words = Words::of(container);
    is_pointsman(container)
        || ["--pool-name", "--poolName", "-poolName", "--pool-namespace"]
            .iter()
            .any(|flag| words.has(flag))
        || ["-epp", "/epp", "endpoint-picker"]
            .iter()
            .any(|sign| container.image.contains(sign))
}

/// Whether a container is this picker.
pub(super) fn is_pointsman(container: &Container) -> bool {
    let words = Words::of(container);
    let last = |path: &str| path.rsplit('/').next().map(str::to_owned);
    let image = last(&container.image).unwrap_or_default();
    let image = image.split([':', '@']).next().unwrap_or_default();
    match container.command.first() {
        Some(program) => last(program).as_deref() == Some("pointsman"),
        None => image == "pointsman" && !words.0.iter().any(|word| &**word == "pointsman-sim"),
    }
}

impl Words {
    pub(super) fn of(container: &Container) -> Self {
        let mut words = Vec::new();
        for argument in container.command.iter().chain(&container.args) {
            if argument.starts_with(['{', '[']) || !argument.contains(char::is_whitespace) {
                words.push(argument.clone());
                continue;
            }
            // A line for a shell.
            let parts = argument.split_whitespace().filter(|word| *word != "\\");
            words.extend(parts.map(|word| word.trim_matches(['"', '\'']).into()));
        }
        Self(words)
    }

    /// Whether a flag is there, with a value or without.
    pub(super) fn has(&self, flag: &str) -> bool {
        self.0.iter().any(|word| {
            word.strip_prefix(flag)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
        })
    }

    /// The value of a flag, as one word with it or as the next word.
    pub(super) fn value(&self, flag: &str) -> Option<Arc<str>> {
        self.values(flag).into_iter().next()
    }

    /// The values of a flag up to the next flag.
    fn values(&self, flag: &str) -> Vec<Arc<str>> {
        for (place, word) in self.0.iter().enumerate() {
            let Some(rest) = word.strip_prefix(flag) else {
                continue;
            };
            if let Some(value) = rest.strip_prefix('=') {
                return vec![value.into()];
            }
            if rest.is_empty() {
                let after = self.0[place + 1..].iter();
                return after
                    .take_while(|word| !word.starts_with('-'))
                    .cloned()
                    .collect();
            }
        }
        Vec::new()
    }

    /// The names that vLLM serves: the base model's and its adapters'.
    fn models(&self) -> Option<BTreeSet<Arc<str>>> {
        let mut names: BTreeSet<Arc<str>> =
            self.values("--served-model-name").into_iter().collect();
        if names.is_empty() {
            let positional = || {
                let serve = self.0.iter().position(|word| &**word == "serve")?;
                let model = self.0.get(serve + 1)?;
                (!model.starts_with('-')).then(|| model.clone())
            };
            names.insert(self.value("--model").or_else(positional)?);
        }
        for module in self.values("--lora-modules") {
            let name = match serde_json::from_str::<serde_json::Value>(&module) {
                Ok(object) => object["name"].as_str()?.into(),
                Err(_) => module.split_once('=')?.0.into(),
            };
            names.insert(name);
        }
        let plain = |name: &Arc<str>| !name.contains('$');
        names.iter().all(plain).then_some(names)
    }
}
