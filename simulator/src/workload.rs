//! Workloads: what clients send and when, by a seed.

mod editions;
mod gaps;
mod length;
pub mod trace;

use std::time::Duration;

use picker_core::seed::Random;
use rand_distr::{Distribution as _, Zipf};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::SeedableRng as _;
use serde::Serialize;

pub use gaps::Gaps;
pub use length::{Law, Span};
pub use trace::Trace;

/// Bytes of prompt text to a token, for clients and simulated servers alike. There is no tokenizer here; English prose has
/// about four.
pub const BYTES_PER_TOKEN: u32 = 4;

/// Every parameter of what clients send; a report can print it whole.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Workload {
    /// What `--workload` calls it.
    pub name: &'static str,
    /// Kinds of requests, by their shares.
    pub kinds: Vec<Kind>,
    /// Adapters that requests are spread over; 0 sends all to the base model.
    pub adapters: u32,
    /// Without groups, adapter k of 1 to `adapters` is asked for in proportion to k to the minus this (Zipf's law); 0 asks for
    /// all alike.
    pub zipf_exponent: f64,
    /// Shares of equal groups of adapters, in order; within a group all are asked for alike.
    pub adapter_groups: Vec<f64>,
    /// How arrivals follow each other.
    pub gaps: Gaps,
    /// What prompts begin with, if they share beginnings.
    pub prefixes: Option<Prefixes>,
    /// Conversations of several turns; a lone request each if there are none.
    pub sessions: Option<Sessions>,
    /// The objectives that requests name, by their shares; none is named if there are none.
    pub priorities: Vec<Priority>,
    /// Recorded requests, whose times and lengths stand for those above.
    pub trace: Option<Trace>,
}

/// One kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Kind {
    /// Its weight among the kinds.
    pub share: f64,
    /// Tokens of the prompt.
    pub prompt_tokens: Span,
    /// Tokens of the answer.
    pub output_tokens: Span,
}

/// Beginnings that prompts share, such as system prompts. They come before the tokens of the kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Prefixes {
    /// How many different ones there are, each as likely.
    pub groups: u32,
    /// Tokens of each.
    pub tokens: u32,
}

/// Conversations: each turn's prompt is all that was said before and something new.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Sessions {
    /// Turns of one conversation.
    pub turns: Span,
    /// From an answer's end to the next turn, in milliseconds.
    pub think_ms: Span,
}

/// An InferenceObjective that requests name.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Priority {
    /// Its name, sent as `x-gateway-inference-objective`.
    pub objective: String,
    /// Its weight.
    pub share: f64,
}

/// One request of a workload, or the first turn of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// After the start of the load.
    pub at: Duration,
    /// The adapter, from 0; `None` is the base model.
    pub adapter: Option<u32>,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens of the answer.
    pub output_tokens: u32,
    /// What the prompt shares with others.
    pub content: Content,
    /// The place of its objective among the workload's.
    pub priority: Option<u32>,
    /// Turns of the conversation that it opens; 1 is a lone request.
    pub turns: u32,
}

/// What a prompt shares with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Nothing.
    Own,
    /// So many tokens at its beginning with all of its group.
    Prefix {
        /// The group, from 0.
        group: u32,
        /// Tokens in common.
        tokens: u32,
    },
    /// The blocks that this row of the trace names.
    Row(u32),
}

/// One later turn of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// From the last answer's end.
    pub think: Duration,
    /// Tokens that the prompt adds to what was said.
    pub prompt_tokens: u32,
    /// Tokens of the answer.
    pub output_tokens: u32,
}

impl Arrival {
    /// Bytes of prompt text that make up its tokens.
    #[must_use]
    pub const fn prompt_bytes(&self) -> u32 {
        self.prompt_tokens * BYTES_PER_TOKEN
    }
}

impl Workload {
    /// The recorded requests of `trace`, for the base model.
    #[must_use]
    pub fn replay(trace: Trace) -> Self {
        Self {
            gaps: Gaps::Trace,
            trace: Some(trace),
            ..Self::of("trace", Vec::new())
        }
    }

    /// Requests without end, `rate` a second on average, in an open loop.
    ///
    /// The same seed gives the same requests at any rate, closer together or further apart: times, lengths and adapters each
    /// have a random stream of their own. `rate` is above 0. A trace starts over when it ends; seed 0 replays it from its
    /// first row, others from a row drawn.
    #[must_use]
    pub fn arrivals(&self, rate: f64, seed: u64) -> Arrivals<'_> {
        let stream =
            |purpose| Xoshiro256PlusPlus::seed_from_u64(Random::split(seed, purpose).next_u64());
        let rows = self.trace.as_ref().map_or(0, |trace| trace.rows().len());
        let first_row = match seed {
            0 => 0,
            _ => Random::split(seed, "trace").below(rows),
        };
        Arrivals {
            workload: self,
            rate,
            units: 0.0,
            first_row,
            rows: first_row..,
            gaps: stream("gaps"),
            adapters: stream("adapters"),
            normals: stream("normals"),
            lengths: Random::split(seed, "lengths"),
            prefixes: Random::split(seed, "prefixes"),
            priorities: Random::split(seed, "priorities"),
            zipf: Zipf::new(f64::from(self.adapters), self.zipf_exponent).ok(),
        }
    }

    /// Exactly `rate` x `duration` requests, rounded, within `duration`, so that the rate that was asked for and the rate that
    /// was reached can be compared. Of Poisson arrivals this gives a Poisson process given its count.
    #[must_use]
    pub fn schedule(&self, rate: f64, duration: Duration, seed: u64) -> Vec<Arrival> {
        let count = (rate * duration.as_secs_f64()).round() as usize;
        let mut arrivals: Vec<_> = self.arrivals(rate, seed).take(count + 1).collect();
        // Given that the last of them comes at `duration`, those before are a Poisson process of `count` within it.
        let stretch = arrivals
            .pop()
            .map_or(1.0, |last| duration.as_secs_f64() / last.at.as_secs_f64());
        for arrival in &mut arrivals {
            arrival.at = arrival.at.mul_f64(stretch);
        }
        arrivals
    }

    /// The later turns of conversation `number`, without end: the same for the same seed, whenever they are sent.
    pub fn later_turns(&self, seed: u64, number: u64) -> impl Iterator<Item = Turn> + use<'_> {
        let purpose = format!("turns of {number}");
        let mut random = Random::split(seed, &purpose);
        let mut normals = Xoshiro256PlusPlus::seed_from_u64(random.next_u64());
        std::iter::repeat_with(move || {
            let think_ms = self.sessions.map_or(0, |sessions| {
                sessions.think_ms.draw(&mut random, &mut normals)
            });
            let kind = self.kind(random.unit());
            Turn {
                think: Duration::from_millis(u64::from(think_ms)),
                prompt_tokens: kind.prompt_tokens.draw(&mut random, &mut normals),
                output_tokens: kind.output_tokens.draw(&mut random, &mut normals),
            }
        })
    }

    /// The kind at `place` of 0 to 1 when each takes its share.
    fn kind(&self, place: f64) -> Kind {
        let shares = self.kinds.iter().map(|kind| kind.share);
        let drawn = weighted(shares, place).and_then(|drawn| self.kinds.get(drawn));
        drawn.copied().unwrap_or(Kind {
            share: 1.0,
            prompt_tokens: Span::exactly(1),
            output_tokens: Span::exactly(1),
        })
    }
}

/// Where `place` of 0 to 1 falls when each of `shares` takes its part; `None` if there are none.
fn weighted(shares: impl Iterator<Item = f64> + Clone, place: f64) -> Option<usize> {
    let total: f64 = shares.clone().sum();
    let mut left = place * total;
    let last = shares.clone().count().checked_sub(1)?;
    let drawn = shares.into_iter().position(|share| {
        left -= share;
        left < 0.0
    });
    Some(drawn.unwrap_or(last))
}

/// The requests of one workload, in order of time; made by [`Workload::arrivals`].
#[derive(Clone, Debug)]
pub struct Arrivals<'a> {
    workload: &'a Workload,
    rate: f64,
    /// Time so far, in mean gaps.
    units: f64,
    first_row: usize,
    /// Rows of the trace, in all rounds.
    rows: std::ops::RangeFrom<usize>,
    gaps: Xoshiro256PlusPlus,
    adapters: Xoshiro256PlusPlus,
    normals: Xoshiro256PlusPlus,
    lengths: Random,
    prefixes: Random,
    priorities: Random,
    zipf: Option<Zipf<f64>>,
}

impl Iterator for Arrivals<'_> {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        let mut arrival = match &self.workload.trace {
            Some(trace) => {
                let (units, row) = trace.replayed(self.first_row, self.rows.next()?)?;
                self.units += units;
                let recorded = trace.rows().get(row)?;
                Arrival {
                    prompt_tokens: recorded.prompt_tokens,
                    output_tokens: recorded.output_tokens,
                    content: Content::Row(row as u32),
                    ..self.blank()
                }
            }
            None => {
                self.units += self.workload.gaps.draw(&mut self.gaps);
                self.drawn()
            }
        };
        arrival.at = Duration::from_secs_f64(self.units / self.rate);
        arrival.adapter = self.adapter();
        let shares = self.workload.priorities.iter().map(|one| one.share);
        arrival.priority = weighted(shares, self.priorities.unit()).map(|place| place as u32);
        Some(arrival)
    }
}

impl Arrivals<'_> {
    fn blank(&self) -> Arrival {
        Arrival {
            at: Duration::ZERO,
            adapter: None,
            prompt_tokens: 1,
            output_tokens: 1,
            content: Content::Own,
            priority: None,
            turns: 1,
        }
    }

    fn drawn(&mut self) -> Arrival {
        let kind = self.workload.kind(self.lengths.unit());
        let mut arrival = Arrival {
            prompt_tokens: kind
                .prompt_tokens
                .draw(&mut self.lengths, &mut self.normals),
            output_tokens: kind
                .output_tokens
                .draw(&mut self.lengths, &mut self.normals),
            ..self.blank()
        };
        if let Some(Prefixes { groups, tokens }) = self.workload.prefixes {
            let group = self.prefixes.below(groups as usize) as u32;
            arrival.content = Content::Prefix { group, tokens };
            arrival.prompt_tokens += tokens;
        }
        if let Some(sessions) = self.workload.sessions {
            arrival.turns = sessions.turns.draw(&mut self.lengths, &mut self.normals);
        }
        arrival
    }

    fn adapter(&mut self) -> Option<u32> {
        let groups = &self.workload.adapter_groups;
        if groups.is_empty() {
            return self
                .zipf
                .map(|zipf| zipf.sample(&mut self.adapters) as u32 - 1);
        }
        let unit =
            |random: &mut Xoshiro256PlusPlus| -> f64 { rand_distr::StandardUniform.sample(random) };
        let group = weighted(groups.iter().copied(), unit(&mut self.adapters))? as u32;
        let size = self.workload.adapters / groups.len() as u32;
        let within = unit(&mut self.adapters) * f64::from(size);
        Some(group * size + within as u32)
    }
}

/// Adapter names as `pointsman-sim` makes them up: `adapter-1` to `adapter-count`, the most asked for first.
#[must_use]
pub fn adapter_names(count: u32) -> Vec<String> {
    (1..=count)
        .map(|number| format!("adapter-{number}"))
        .collect()
}

#[cfg(test)]
mod tests;
