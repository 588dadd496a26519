//! Which engine an endpoint is, by its labels: the engines that are known, and those that only labels name.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use picker_core::engine::{Engine, Series};
use serde::Deserialize;
use tracing::warn;

/// The labels that name the engine; upstream's and its older one.
const LABELS: [&str; 2] = [
    "llm-d.ai/engine-type",
    "inference.networking.k8s.io/engine-type",
];
/// Names that are not known, of which each is told; what labels say has no bound of its own.
const UNKNOWN_MAX: usize = 100;
/// The name of all further ones.
const OTHER: &str = "other";

/// Names of series, by engine.
const DATA: &str = include_str!("../../data/engines.toml");

/// The engines, by the names that labels give them.
#[derive(Debug)]
pub(crate) struct Engines {
    vllm: Arc<Engine>,
    known: BTreeMap<Arc<str>, Arc<Engine>>,
    /// Engines that a label names and nobody knows.
    unknown: BTreeMap<String, Arc<Engine>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    engine: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    metrics_path: Cow<'static, str>,
    /// Absent where there is one engine behind an address.
    #[serde(default)]
    rank_label: Cow<'static, str>,
    series: Vec<Series>,
}

impl Engines {
    /// vLLM and the engines of `data/engines.toml`.
    pub(crate) fn known() -> Self {
        let document: Document =
            toml::from_str(DATA).expect("data/engines.toml is well formed, as a test shows");
        let vllm = Engine::vllm();
        let of = |entry: Entry| {
            let Entry {
                name,
                metrics_path,
                rank_label,
                series,
            } = entry;
            Arc::new(Engine::new(&name, metrics_path, rank_label, series))
        };
        let others = document.engine.into_iter().map(of);
        let all = others.chain([vllm.clone()]);
        Self {
            vllm,
            known: all.map(|engine| (engine.name.clone(), engine)).collect(),
            unknown: BTreeMap::new(),
        }
    }

    /// The engine that `labels` name; vLLM where they name none. One that is not known is read as vLLM, keeps its name,
    /// and is told of once.
    pub(crate) fn of(&mut self, labels: &BTreeMap<String, String>) -> Arc<Engine> {
        let Some((label, name)) = LABELS
            .iter()
            .find_map(|label| Some((label, labels.get(*label)?)))
        else {
            return self.vllm.clone();
        };
        if let Some(engine) = self.known.get(name.as_str()).or(self.unknown.get(name)) {
            return engine.clone();
        }
        let is_told = self.unknown.len() < UNKNOWN_MAX;
        let name = if is_told { name } else { OTHER };
        if is_told {
            let known: Vec<&str> = self.known.keys().map(|name| &**name).collect();
            let known = known.join(", ");
            warn!(
                label,
                engine = name,
                known,
                "an engine that is not known; its metrics are read as vLLM's"
            );
        }
        let engine = Arc::new(self.vllm.read_for(name));
        let engine = self.unknown.entry(name.to_owned()).or_insert(engine);
        engine.clone()
    }
}

impl Default for Engines {
    fn default() -> Self {
        Self::known()
    }
}

#[cfg(test)]
mod tests {
    use picker_core::endpoint::EngineReading;
    use picker_core::exposition;

    use super::*;

    fn labels(label: &str, name: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(label.to_owned(), name.to_owned())])
    }

    #[test]
    fn the_label_names_the_engine_and_without_one_it_is_vllm() {
        let mut engines = Engines::known();
        for (label, name, path) in [
            (LABELS[0], "sglang", "/metrics"),
            (LABELS[1], "sglang", "/metrics"),
            (LABELS[0], "trtllm-serve", "/prometheus/metrics"),
            (LABELS[0], "triton-tensorrt-llm", "/metrics"),
            (LABELS[0], "triton", "/metrics"),
            (LABELS[0], "vllm", "/metrics"),
        ] {
            let engine = engines.of(&labels(label, name));
            assert_eq!((&*engine.name, &*engine.metrics_path), (name, path));
            assert!(engine.is_known, "{name}");
        }
        assert_eq!(engines.of(&BTreeMap::new()), Engine::vllm());
        let mut both = labels(LABELS[0], "triton");
        both.extend(labels(LABELS[1], "sglang"));
        assert_eq!(&*engines.of(&both).name, "triton");
    }

    #[test]
    fn an_engine_that_is_not_known_keeps_its_name_and_is_read_as_vllm() {
        let mut engines = Engines::known();
        let page = b"vllm:num_requests_running 3";
        let mut names = Vec::new();
        for number in 0..UNKNOWN_MAX + 10 {
            let engine = engines.of(&labels(LABELS[0], &format!("mine-{number}")));
            assert!(!engine.is_known);
            let reading = exposition::read(page, &engine).expect("vLLM's page");
            assert_eq!(reading.running(), Some(3));
            names.push(engine.name.to_string());
        }
        assert_eq!((&*names[0], &*names[UNKNOWN_MAX + 9]), ("mine-0", OTHER));
        assert!(engines.unknown.len() <= UNKNOWN_MAX + 1);
    }

    /// Pages with the names and labels of each engine, among them neighbours that must not be read.
    const PAGES: [(&str, &str, &str); 5] = [
        (
            "sglang",
            include_str!("../../tests/engines/sglang.txt"),
            "rank `` running 4 waiting 3 usage 0.35 blocks 4096 of 64 prompt 9000 generated 700 finished 49",
        ),
        (
            "sglang",
            include_str!("../../tests/engines/sglang-ranks.txt"),
            "rank `0` running 2 waiting 5 usage - blocks 2048 of 16 prompt - generated - finished 12
rank `1` running 1 waiting 0 usage - blocks 2048 of 16 prompt - generated - finished -",
        ),
        (
            "trtllm-serve",
            include_str!("../../tests/engines/trtllm-serve.txt"),
            "rank `` running 7 waiting 2 usage 0.62 blocks 6239 of 32 prompt - generated - finished 42",
        ),
        (
            "triton-tensorrt-llm",
            include_str!("../../tests/engines/triton-tensorrt-llm.txt"),
            "rank `` running 4 waiting 3 usage 0.4875 blocks 6239 of 64 prompt - generated - finished -",
        ),
        (
            "triton",
            include_str!("../../tests/engines/triton.txt"),
            "rank `` running - waiting 5 usage - blocks - of - prompt - generated - finished -",
        ),
    ];

    fn shown<T: ToString>(value: Option<T>) -> String {
        value.map_or("-".to_owned(), |value| value.to_string())
    }

    fn line(engine: &EngineReading) -> String {
        format!(
            "rank `{}` running {} waiting {} usage {} blocks {} of {} prompt {} generated {} finished {}",
            engine.engine,
            shown(engine.running),
            shown(engine.waiting),
            shown(engine.kv_usage),
            shown(engine.kv_blocks),
            shown(engine.block_size),
            shown(engine.prompt_tokens),
            shown(engine.generation_tokens),
            shown(engine.finished),
        )
    }

    #[test]
    fn each_engine_is_read_by_its_own_names() {
        let mut engines = Engines::known();
        for (name, page, expected) in PAGES {
            let engine = engines.of(&labels(LABELS[0], name));
            let reading =
                exposition::read(page.as_bytes(), &engine).expect("a page of that engine");
            let lines: Vec<String> = reading.engines.iter().map(line).collect();
            assert_eq!(lines.join("\n"), expected, "{name}");
            let error = exposition::read(page.as_bytes(), &Engine::vllm());
            let error = error.expect_err("nothing of vLLM is on it").to_string();
            assert!(
                error.contains("engine vllm such as vllm:num_requests_running"),
                "{error}"
            );
        }
    }
}
