//! Kinds of engines: what each calls, on its metrics page, the quantities that decisions need.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;

/// A kind of model server, as far as its metrics page differs from that of others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Engine {
    /// Its name, as labels of pods give it.
    pub name: Arc<str>,
    /// Whether that name is one for which there are names of series; if not, its page is read as vLLM's.
    pub is_known: bool,
    /// Where it serves its metrics page.
    pub metrics_path: Cow<'static, str>,
    /// The label that tells the engines behind one address (data-parallel ranks) apart.
    rank_label: Cow<'static, str>,
    /// Its series by their names.
    series: Vec<Series>,
    /// What tells most lines that begin with no such name from those that do.
    glance: Option<Glance>,
}

/// A page has a hundred names beside a dozen that count: by a thousand hashes, few of them look like one of those.
const GLANCE_BITS: u32 = 10;

/// The eight bytes that stand at one place in all names of an engine's series: of the hundreds of lines on a page, few have
/// the same there.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Glance {
    at: usize,
    /// Whether some name has bytes with that hash.
    hashes: [bool; 1 << GLANCE_BITS],
}

/// A series of a metrics page, and what it means.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Series {
    /// Its whole name.
    pub name: Cow<'static, str>,
    /// What it says.
    pub means: Quantity,
    /// Only samples with these labels say that.
    #[serde(default, rename = "where")]
    pub labels: BTreeMap<Cow<'static, str>, Cow<'static, str>>,
    /// The label whose value is the quantity, where the sample's own value is not.
    pub label: Option<Cow<'static, str>>,
    /// Whether samples of one engine add up; otherwise the first counts.
    #[serde(default)]
    pub summed: bool,
}

/// What a series can say; [`EngineReading`](crate::endpoint::EngineReading) says more of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantity {
    /// Requests in the running batch.
    Running,
    /// Requests that wait.
    Waiting,
    /// Of those, requests that wait for a batch slot or KV blocks.
    WaitingCapacity,
    /// Of those, requests passed over.
    WaitingDeferred,
    /// The share of KV blocks in use, 0 to 1.
    KvUsage,
    /// Tokens in a KV block.
    BlockSize,
    /// KV blocks in all.
    KvBlocks,
    /// Prompt tokens so far. The counter has to move while the engine works, not when requests end.
    PromptTokens,
    /// Generated tokens so far; the same holds.
    GenerationTokens,
    /// Engine steps so far.
    Steps,
    /// Uncached prompt tokens and generated tokens of all steps.
    StepTokens,
    /// Tokens looked up in the prefix cache.
    PrefixQueries,
    /// Tokens found there.
    PrefixHits,
    /// Preemptions so far.
    Preemptions,
    /// Requests finished so far.
    Finished,
    /// The adapters of running requests, in labels as vLLM has them.
    Adapters,
}

impl Engine {
    /// The name of the engine whose pages are read where nothing says which engine it is.
    pub const VLLM: &'static str = "vllm";

    /// An engine of that name, by its series.
    #[must_use]
    pub fn new(
        name: &str,
        metrics_path: Cow<'static, str>,
        rank_label: Cow<'static, str>,
        mut series: Vec<Series>,
    ) -> Self {
        series.sort_by(|one, other| one.name.cmp(&other.name));
        Self {
            name: name.into(),
            is_known: true,
            metrics_path,
            rank_label,
            glance: Glance::of(&series),
            series,
        }
    }

    /// vLLM, of any version since 0.8.
    #[must_use]
    pub fn vllm() -> Arc<Self> {
        let series = VLLM.iter().map(|&(name, means)| Series {
            name: name.into(),
            means,
            labels: BTreeMap::new(),
            label: None,
            summed: means == Quantity::Finished,
        });
        let by_reason = [
            ("capacity", Quantity::WaitingCapacity),
            ("deferred", Quantity::WaitingDeferred),
        ]
        .map(|(reason, means)| Series {
            name: "vllm:num_requests_waiting_by_reason".into(),
            means,
            labels: BTreeMap::from([("reason".into(), reason.into())]),
            label: None,
            summed: false,
        });
        let configured = [
            ("block_size", Quantity::BlockSize),
            ("num_gpu_blocks", Quantity::KvBlocks),
        ]
        .map(|(label, means)| Series {
            name: "vllm:cache_config_info".into(),
            means,
            labels: BTreeMap::new(),
            label: Some(label.into()),
            summed: false,
        });
        let all = series.chain(by_reason).chain(configured).collect();
        Arc::new(Self::new(
            Self::VLLM,
            "/metrics".into(),
            "engine".into(),
            all,
        ))
    }

    /// An engine of a name that is not known: its page is read as this one's.
    #[must_use]
    pub fn read_for(&self, name: &str) -> Self {
        Self {
            name: name.into(),
            is_known: false,
            ..self.clone()
        }
    }

    /// The label that tells the engines behind one address apart.
    #[must_use]
    pub(crate) fn rank_label(&self) -> &str {
        &self.rank_label
    }

    /// A series that shows on every page of a server that has started.
    pub(crate) fn example(&self) -> &str {
        let mut series = self.series.iter();
        let running = series.find(|one| one.means == Quantity::Running);
        running
            .or(self.series.first())
            .map_or("", |one| one.name.as_ref())
    }

    /// What a line of the page begins with, if that is the name of a series: the series of that name, and the rest of the line.
    pub(crate) fn series_of<'a>(&self, line: &'a [u8]) -> Option<(&[Series], &'a [u8])> {
        if self
            .glance
            .as_ref()
            .is_some_and(|glance| !glance.may_be(line))
        {
            return None;
        }
        let end = memchr::memchr3(b'{', b' ', b'\t', line).unwrap_or(line.len());
        let (name, rest) = line.split_at(end);
        let from = self
            .series
            .partition_point(|one| one.name.as_bytes() < name);
        let named = self.series[from..].iter();
        let count = named.take_while(|one| one.name.as_bytes() == name).count();
        (count > 0).then(|| (&self.series[from..from + count], rest))
    }
}

impl Glance {
    /// At the end of the shortest name, since names differ more towards their ends; `None` if that is too short.
    fn of(series: &[Series]) -> Option<Self> {
        let shortest = series.iter().map(|one| one.name.len()).min()?;
        let at = shortest.checked_sub(8)?;
        let mut hashes = [false; 1 << GLANCE_BITS];
        for one in series {
            hashes[glance_hash(one.name.as_bytes(), at)?] = true;
        }
        Some(Self { at, hashes })
    }

    fn may_be(&self, line: &[u8]) -> bool {
        glance_hash(line, self.at).is_some_and(|hash| self.hashes[hash])
    }
}

/// A hash of the eight bytes that stand there (Knuth's multiplication, by 2^64 over the golden ratio).
fn glance_hash(line: &[u8], at: usize) -> Option<usize> {
    let bytes = line.get(at..)?.first_chunk()?;
    let product = u64::from_le_bytes(*bytes).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    usize::try_from(product >> (u64::BITS - GLANCE_BITS)).ok()
}

/// vLLM's series whose value is the quantity (`vllm/v1/metrics/loggers.py`).
const VLLM: [(&str, Quantity); 13] = [
    ("vllm:num_requests_running", Quantity::Running),
    ("vllm:num_requests_waiting", Quantity::Waiting),
    ("vllm:kv_cache_usage_perc", Quantity::KvUsage),
    // The name before 0.9.
    ("vllm:gpu_cache_usage_perc", Quantity::KvUsage),
    ("vllm:prompt_tokens_total", Quantity::PromptTokens),
    ("vllm:generation_tokens_total", Quantity::GenerationTokens),
    ("vllm:iteration_tokens_total_count", Quantity::Steps),
    ("vllm:iteration_tokens_total_sum", Quantity::StepTokens),
    ("vllm:prefix_cache_queries_total", Quantity::PrefixQueries),
    ("vllm:prefix_cache_hits_total", Quantity::PrefixHits),
    ("vllm:num_preemptions_total", Quantity::Preemptions),
    ("vllm:request_success_total", Quantity::Finished),
    ("vllm:lora_requests_info", Quantity::Adapters),
];
