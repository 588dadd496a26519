//! vLLM's metrics page (Prometheus text format) to a [`Reading`], in one pass and without building a tree.

use std::fmt;

use self::sample::Sample;
use crate::endpoint::{AdapterReading, EngineReading, Reading};

mod sample;

/// More engines than this behind one address are not believed; samples of further ones are dropped.
const MAX_ENGINES: usize = 256;

/// A `vllm:lora_requests_info` value above this (the year 2049) is no unix time but a sum of several.
const MAX_UNIX_TIME_S: f64 = 2.5e9;

/// The page holds no series that this picker knows, so that it says nothing of a model server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpositionError {
    /// Bytes of the page.
    pub page_bytes: usize,
    /// Lines that begin like a known series and then break the format.
    pub malformed_lines: usize,
}

impl std::error::Error for ExpositionError {}

impl fmt::Display for ExpositionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            page_bytes,
            malformed_lines,
        } = self;
        write!(
            f,
            "metrics page of {page_bytes} bytes has no known vLLM series such as \
             vllm:num_requests_running ({malformed_lines} malformed lines); check that the \
             endpoint's port serves vLLM's /metrics"
        )
    }
}

/// Reads a metrics page as vLLM serves it.
///
/// A series without an `engine` label belongs to engine `""`; where other engines are on the page, what it says of
/// the cache configuration holds for each of them. Of equal series the first counts, but `request_success_total` is
/// summed over its reasons. Values that are negative, not finite, or (KV usage) above 1 are treated as absent.
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
/// When the page has no well-formed sample of any series known here: it is not a vLLM page.
pub fn read(page: &[u8]) -> Result<Reading, ExpositionError> {
    let mut seen = Seen::default();
    let mut start = 0;
    for end in memchr::memchr_iter(b'\n', page).chain([page.len()]) {
        seen.read_line(&page[start..end]);
        start = end + 1;
    }
    seen.into_reading(page.len())
}

/// The series that decisions use.
#[derive(Clone, Copy)]
enum Family {
    Running,
    Waiting,
    WaitingByReason,
    KvUsage,
    CacheConfig,
    PromptTokens,
    GenerationTokens,
    Steps,
    StepTokens,
    PrefixQueries,
    PrefixHits,
    Preemptions,
    Finished,
    Adapters,
    ProcessStart,
}

impl Family {
    /// The family of a line, and the line without its name; `None` for the many lines that are not wanted.
    fn of(line: &[u8]) -> Option<(Self, &[u8])> {
        let line = line.trim_ascii_start();
        if let Some(rest) = line.strip_prefix(b"process_start_time_seconds") {
            let ends_here = matches!(rest.first(), None | Some(b' ' | b'\t' | b'{'));
            return ends_here.then_some((Self::ProcessStart, rest));
        }
        let line = line.strip_prefix(b"vllm:")?;
        let end = memchr::memchr3(b'{', b' ', b'\t', line).unwrap_or(line.len());
        let (name, rest) = line.split_at(end);
        let family = match name {
            b"num_requests_running" => Self::Running,
            b"num_requests_waiting" => Self::Waiting,
            b"num_requests_waiting_by_reason" => Self::WaitingByReason,
            // The second name is that of vLLM before 0.9.
            b"kv_cache_usage_perc" | b"gpu_cache_usage_perc" => Self::KvUsage,
            b"cache_config_info" => Self::CacheConfig,
            b"prompt_tokens_total" => Self::PromptTokens,
            b"generation_tokens_total" => Self::GenerationTokens,
            b"iteration_tokens_total_count" => Self::Steps,
            b"iteration_tokens_total_sum" => Self::StepTokens,
            b"prefix_cache_queries_total" => Self::PrefixQueries,
            b"prefix_cache_hits_total" => Self::PrefixHits,
            b"num_preemptions_total" => Self::Preemptions,
            b"request_success_total" => Self::Finished,
            b"lora_requests_info" => Self::Adapters,
            _ => return None,
        };
        Some((family, rest))
    }
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
    /// Well-formed samples of vLLM's families.
    known_samples: usize,
    malformed_lines: usize,
}

impl<'a> Seen<'a> {
    fn read_line(&mut self, line: &'a [u8]) {
        let Some((family, rest)) = Family::of(line) else {
            return;
        };
        let Ok(sample) = Sample::parse(rest) else {
            self.malformed_lines += 1;
            return;
        };
        match family {
            Family::ProcessStart => {
                self.process_start_s = self.process_start_s.or(sample.quantity());
                return;
            }
            Family::Adapters => self.offer_adapters(sample),
            _ => {
                if let Some(engine) = self.engine_of(&sample) {
                    fill(engine, family, &sample);
                }
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
    fn engine_of(&mut self, sample: &Sample<'_>) -> Option<&mut EngineReading> {
        let label = sample.label("engine").unwrap_or_default();
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

    fn into_reading(mut self, page_bytes: usize) -> Result<Reading, ExpositionError> {
        if self.known_samples == 0 {
            return Err(ExpositionError {
                page_bytes,
                malformed_lines: self.malformed_lines,
            });
        }
        spread_unlabelled_cache_config(&mut self.engines);
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

/// Writes one sample into the field of its family.
fn fill(engine: &mut EngineReading, family: Family, sample: &Sample<'_>) {
    let count = sample.count();
    let field = match family {
        Family::Running => &mut engine.running,
        Family::Waiting => &mut engine.waiting,
        Family::PromptTokens => &mut engine.prompt_tokens,
        Family::GenerationTokens => &mut engine.generation_tokens,
        Family::Steps => &mut engine.steps,
        Family::StepTokens => &mut engine.step_tokens,
        Family::PrefixQueries => &mut engine.prefix_queries,
        Family::PrefixHits => &mut engine.prefix_hits,
        Family::Preemptions => &mut engine.preemptions,
        Family::WaitingByReason => match sample.label("reason").as_deref() {
            Some("capacity") => &mut engine.waiting_capacity,
            Some("deferred") => &mut engine.waiting_deferred,
            _ => return,
        },
        Family::Finished => {
            engine.finished = match (engine.finished, count) {
                (Some(others), Some(more)) => Some(others.saturating_add(more)),
                (others, more) => others.or(more),
            };
            return;
        }
        Family::KvUsage => {
            let share = sample.quantity().filter(|share| *share <= 1.0);
            engine.kv_usage = engine.kv_usage.or(share);
            return;
        }
        Family::CacheConfig => {
            let number = |label| sample.label(label)?.parse().ok();
            engine.block_size = engine.block_size.or(number("block_size"));
            engine.kv_blocks = engine.kv_blocks.or(number("num_gpu_blocks"));
            return;
        }
        // These two speak of the server as a whole.
        Family::Adapters | Family::ProcessStart => return,
    };
    *field = field.or(count);
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

/// Gives the cache configuration of series without an engine label to every labelled engine that lacks it, and
/// forgets the nameless engine if it was nothing else.
fn spread_unlabelled_cache_config(engines: &mut Vec<EngineReading>) {
    if engines.len() < 2 {
        return;
    }
    let Some(at) = engines.iter().position(|one| one.engine.is_empty()) else {
        return;
    };
    let cache = EngineReading {
        block_size: engines[at].block_size,
        kv_blocks: engines[at].kv_blocks,
        ..EngineReading::default()
    };
    if engines[at] == cache {
        engines.swap_remove(at);
    }
    for engine in engines {
        engine.block_size = engine.block_size.or(cache.block_size);
        engine.kv_blocks = engine.kv_blocks.or(cache.kv_blocks);
    }
}

/// Engines by number, and those that have none after them by name.
fn engine_order(label: &str) -> (u64, &str) {
    (label.parse().unwrap_or(u64::MAX), label)
}
