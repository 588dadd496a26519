//! An engine's metrics page (Prometheus text format) to a [`Reading`], in one pass and without building a tree.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use self::sample::Sample;
use crate::endpoint::{AdapterReading, EngineReading, Reading};
use crate::engine::{Engine, Quantity, Series};

mod sample;

/// More engines than this behind one address are not believed; samples of further ones are dropped.
const MAX_ENGINES: usize = 256;

/// A `vllm:lora_requests_info` value above this (the year 2049) is no unix time but a sum of several.
const MAX_UNIX_TIME_S: f64 = 2.5e9;

/// The page holds no series that this picker knows, so that it says nothing of a model server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpositionError {
    /// The engine whose page it was thought to be.
    pub engine: Arc<str>,
    /// A series that its pages have.
    pub example: String,
    /// Bytes of the page.
    pub page_bytes: usize,
    /// Lines that begin like a known series and then break the format.
    pub malformed_lines: usize,
}

impl std::error::Error for ExpositionError {}

impl fmt::Display for ExpositionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            engine,
            example,
            page_bytes,
            malformed_lines,
        } = self;
        write!(
            f,
            "metrics page of {page_bytes} bytes has no known series of engine {engine} such as \
             {example} ({malformed_lines} malformed lines); check that the endpoint's port serves \
             that engine's metrics, and which engine the label llm-d.ai/engine-type names"
        )
    }
}

/// Reads a metrics page as `engine` serves it.
///
/// A series without the label of a rank belongs to engine `""`; where other engines are on the page, what it says of
/// the cache configuration holds for each of them, and if it shows no requests, its counters are added to the first. Of
/// equal series the first counts, unless they are to be summed. Values that are negative, not finite, or (KV usage) above 1 are treated as absent.
/// A malformed line is skipped, whatever bytes it holds.
///
/// Adapters: vLLM never removes a label set of `vllm:lora_requests_info`; the value is the unix time at which it was
/// last set, so the greatest is the current one (the first of equals). With several API server processes (vLLM's
/// `--api-server-count`) the values are summed over the processes that ever set the series, so the one that more
/// of them have set wins for ever. Once any value exceeds a plausible time the series cannot be told apart, and
/// `adapters` is `None`. Until then the greatest is what one of the processes set last.
///
/// # Errors
///
/// When the page has no well-formed sample of any series of the engine: it is no page of it.
pub fn read(page: &[u8], engine: &Engine) -> Result<Reading, ExpositionError> {
    let mut seen = Seen::default();
    let mut start = 0;
    for end in memchr::memchr_iter(b'\n', page).chain([page.len()]) {
        seen.read_line(&page[start..end], engine);
        start = end + 1;
    }
    seen.into_reading(page.len(), engine)
}

/// What the lines so far have shown.
#[derive(Default)]
struct Seen<'a> {
    engines: Vec<EngineReading>,
    /// The adapter series with the greatest value.
    latest_adapters: Option<Sample<'a>>,
    /// An adapter series had a value that no clock shows.
    adapters_summed: bool,
    process_start_s: Option<f64>,
    /// Well-formed samples of the engine's series.
    known_samples: usize,
    malformed_lines: usize,
}

impl<'a> Seen<'a> {
    fn read_line(&mut self, line: &'a [u8], engine: &Engine) {
        let line = line.trim_ascii_start();
        if let Some(rest) = line.strip_prefix(b"process_start_time_seconds") {
            let ends_here = matches!(rest.first(), None | Some(b' ' | b'\t' | b'{'));
            match Sample::parse(rest) {
                _ if !ends_here => {}
                Ok(sample) => {
                    self.process_start_s = self.process_start_s.or(sample.quantity());
                }
                Err(_) => self.malformed_lines += 1,
            }
            return;
        }
        let Some((series, rest)) = engine.series_of(line) else {
            return;
        };
        let Ok(sample) = Sample::parse(rest) else {
            self.malformed_lines += 1;
            return;
        };
        for one in series {
            if one.means == Quantity::Adapters {
                self.offer_adapters(sample);
            } else if let Some(reading) = self.engine_of(&sample, engine.rank_label()) {
                fill(reading, one, &sample);
            }
        }
        self.known_samples += 1;
    }

    fn offer_adapters(&mut self, sample: Sample<'a>) {
        let Some(set_at_s) = sample.quantity() else {
            return;
        };
        self.adapters_summed |= set_at_s > MAX_UNIX_TIME_S;
        let latest_s = self.latest_adapters.and_then(|latest| latest.quantity());
        if latest_s.is_none_or(|latest_s| set_at_s > latest_s) {
            self.latest_adapters = Some(sample);
        }
    }

    /// The engine that a sample speaks of; `None` when there are too many already.
    fn engine_of(&mut self, sample: &Sample<'_>, rank_label: &str) -> Option<&mut EngineReading> {
        let label = sample.label(rank_label).unwrap_or_default();
        let at = match self.engines.iter().position(|known| known.engine == label) {
            Some(at) => at,
            None if self.engines.len() == MAX_ENGINES => return None,
            None => {
                self.engines.push(EngineReading {
                    engine: label.into_owned(),
                    ..EngineReading::default()
                });
                self.engines.len() - 1
            }
        };
        self.engines.get_mut(at)
    }

    fn into_reading(
        mut self,
        page_bytes: usize,
        engine: &Engine,
    ) -> Result<Reading, ExpositionError> {
        if self.known_samples == 0 {
            return Err(ExpositionError {
                engine: engine.name.clone(),
                example: engine.example().to_owned(),
                page_bytes,
                malformed_lines: self.malformed_lines,
            });
        }
        spread_unlabelled(&mut self.engines);
        self.engines
            .sort_by(|a, b| engine_order(&a.engine).cmp(&engine_order(&b.engine)));
        let latest = self.latest_adapters.filter(|_| !self.adapters_summed);
        Ok(Reading {
            engines: self.engines,
            adapters: latest.and_then(|sample| adapters(&sample)),
            process_start_s: self.process_start_s,
        })
    }
}

/// Writes one sample into the field that its series is about, if it has the labels that the series asks for.
fn fill(engine: &mut EngineReading, series: &Series, sample: &Sample<'_>) {
    let has = |(name, value): (&Cow<'_, str>, &Cow<'_, str>)| {
        sample.label(name).is_some_and(|found| found == *value)
    };
    if !series.labels.iter().all(has) {
        return;
    }
    let count = match &series.label {
        Some(label) => sample.label(label).and_then(|text| text.parse().ok()),
        None => sample.count(),
    };
    let field = match series.means {
        Quantity::Running => &mut engine.running,
        Quantity::Waiting => &mut engine.waiting,
        Quantity::WaitingCapacity => &mut engine.waiting_capacity,
        Quantity::WaitingDeferred => &mut engine.waiting_deferred,
        Quantity::BlockSize => &mut engine.block_size,
        Quantity::KvBlocks => &mut engine.kv_blocks,
        Quantity::PromptTokens => &mut engine.prompt_tokens,
        Quantity::GenerationTokens => &mut engine.generation_tokens,
        Quantity::Steps => &mut engine.steps,
        Quantity::StepTokens => &mut engine.step_tokens,
        Quantity::PrefixQueries => &mut engine.prefix_queries,
        Quantity::PrefixHits => &mut engine.prefix_hits,
        Quantity::Preemptions => &mut engine.preemptions,
        Quantity::Finished => &mut engine.finished,
        Quantity::KvUsage => {
            let share = sample.quantity().filter(|share| *share <= 1.0);
            engine.kv_usage = engine.kv_usage.or(share);
            return;
        }
        // It speaks of the server as a whole.
        Quantity::Adapters => return,
    };
    *field = match (*field, count) {
        (Some(others), Some(more)) if series.summed => Some(others.saturating_add(more)),
        (others, more) => others.or(more),
    };
}

/// The adapters that a `vllm:lora_requests_info` series names.
fn adapters(sample: &Sample<'_>) -> Option<AdapterReading> {
    let running = sample.label("running_lora_adapters")?;
    Some(AdapterReading {
        slots: sample
            .label("max_lora")
            .and_then(|slots| slots.parse().ok()),
        running: running
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect(),
    })
}

/// Gives what series without the label of a rank say to those that have one: the cache configuration to each that lacks
/// it; if the nameless engine shows no requests, it is none, and its counters are the first one's.
fn spread_unlabelled(engines: &mut Vec<EngineReading>) {
    if engines.len() < 2 {
        return;
    }
    let Some(at) = engines.iter().position(|one| one.engine.is_empty()) else {
        return;
    };
    let whole = engines[at].clone();
    if whole.running.or(whole.waiting).is_none() && whole.kv_usage.is_none() {
        engines.swap_remove(at);
        let first = engines
            .iter_mut()
            .min_by(|a, b| engine_order(&a.engine).cmp(&engine_order(&b.engine)));
        if let Some(first) = first {
            let EngineReading {
                prompt_tokens,
                generation_tokens,
                steps,
                step_tokens,
                prefix_queries,
                prefix_hits,
                preemptions,
                finished,
                ..
            } = whole;
            first.prompt_tokens = first.prompt_tokens.or(prompt_tokens);
            first.generation_tokens = first.generation_tokens.or(generation_tokens);
            first.steps = first.steps.or(steps);
            first.step_tokens = first.step_tokens.or(step_tokens);
            first.prefix_queries = first.prefix_queries.or(prefix_queries);
            first.prefix_hits = first.prefix_hits.or(prefix_hits);
            first.preemptions = first.preemptions.or(preemptions);
            first.finished = first.finished.or(finished);
        }
    }
    for engine in engines {
        engine.block_size = engine.block_size.or(whole.block_size);
        engine.kv_blocks = engine.kv_blocks.or(whole.kv_blocks);
    }
}

/// Engines by number, and those that have none after them by name.
fn engine_order(label: &str) -> (u64, &str) {
    (label.parse().unwrap_or(u64::MAX), label)
}
