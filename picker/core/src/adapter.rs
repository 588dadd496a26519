//! Adapters of one endpoint: which it serves, and which sit in its slots.
//!
//! *Servable* is what `/v1/models` lists. *Resident* is a model of the engine's slots, which hold the most recently used
//! adapters. vLLM runs at most as many adapters in one batch as it has slots (`--max-loras`); a request for another one is passed over
//! until every request of one that runs has ended (`vllm/v1/core/sched/scheduler.py`), and its adapter then takes the slot of the least recently
//! used adapter that does not run (`vllm/lora/model_manager.py`). So what counts is what is in flight, which is booked by
//! our own picks and ends; metrics, which show running adapters only and late, correct it.

pub mod names;

use std::sync::Arc;

use serde::Serialize;

use self::names::{IdSet, ModelId, Names};
use crate::endpoint::AdapterReading;
use crate::time::Instant;

/// One model of an endpoint's `/v1/models`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// The name that requests use.
    pub name: Arc<str>,
    /// Whether it is an adapter: its `parent` names the model that it adapts.
    pub adapter: bool,
}

/// The models of one endpoint, and the adapters in its slots.
#[derive(Clone, Debug, Default)]
pub struct Adapters {
    models: Option<Listing>,
    slots: Option<u32>,
    /// Least recently used first; those that wait stand in the order in which they came. Each was listed, or is in flight.
    held: Vec<Held>,
    /// Whether the server was seen to list an adapter that it did not list before: it loads adapters at run time.
    grows: bool,
    /// Adapters that were given a slot since that was asked last.
    loaded: u32,
}

#[derive(Clone, Debug, Default)]
struct Listing {
    adapters: IdSet,
    bases: IdSet,
}

/// An adapter that sits in a slot, or whose requests wait for one.
#[derive(Clone, Copy, Debug)]
struct Held {
    adapter: ModelId,
    /// Requests of ours.
    in_flight: u32,
    /// When the last of them is expected to end.
    last_end: Instant,
    /// Whether the latest reading showed it running.
    shown: bool,
    /// Whether its requests wait for a slot.
    waits: bool,
}

/// What the use of a model asks of an endpoint's adapter slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Need {
    /// Nothing: the model is no adapter, or nothing is known of it.
    NoAdapter,
    /// Nothing: the adapter is resident.
    Resident,
    /// The adapter is to be loaded, into a free slot.
    Load,
    /// The adapter is to be loaded, and pushes out another.
    Evict,
    /// Every slot runs another adapter; one has to finish first.
    Wait,
}

impl Need {
    /// Whether the adapter has to be loaded.
    #[must_use]
    pub const fn loads(self) -> bool {
        matches!(self, Self::Load | Self::Evict | Self::Wait)
    }
}

/// What one more request for an adapter would mean for an endpoint's slots.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Claim {
    /// What has to happen first.
    pub need: Need,
    /// How long it takes until a slot is free, in milliseconds.
    pub wait_ms: f64,
    /// By how much all requests that wait there for a slot would wait longer, in milliseconds and added up.
    pub delays_ms: f64,
}

impl Claim {
    /// No claim on any slot.
    pub const NONE: Self = Self {
        need: Need::NoAdapter,
        wait_ms: 0.0,
        delays_ms: 0.0,
    };
}

impl Adapters {
    /// Takes over the answer of `/v1/models`.
    pub fn on_models(&mut self, models: &[Model], names: &mut Names) {
        let mut listing = Listing::default();
        for model in models {
            let id = names.intern(&model.name);
            if model.adapter {
                listing.adapters.insert(id);
            } else {
                listing.bases.insert(id);
            }
        }
        if let Some(before) = &self.models {
            self.grows |= listing.adapters.exceeds(&before.adapters);
        }
        self.held
            .retain(|held| held.in_flight > 0 || listing.adapters.contains(held.adapter));
        self.models = Some(listing);
    }

    /// Takes over what a reading shows of running adapters.
    pub fn on_reading(&mut self, reading: &AdapterReading, names: &Names) {
        if reading.slots.is_some() {
            self.slots = reading.slots;
        }
        self.forget_shown();
        for name in &reading.running {
            let Some(id) = names.get(name).filter(|&id| self.is_adapter(id)) else {
                continue;
            };
            match self.held.iter_mut().find(|held| held.adapter == id) {
                Some(held) => {
                    self.loaded += u32::from(held.waits);
                    (held.shown, held.waits) = (true, false);
                }
                // Others have made it load.
                None => {
                    self.loaded += 1;
                    self.held.push(Held {
                        adapter: id,
                        in_flight: 0,
                        last_end: Instant::ZERO,
                        shown: true,
                        waits: false,
                    });
                }
            }
        }
        self.fit();
    }

    /// Forgets which adapters were shown to run: a reading does not show it (any more).
    pub fn forget_shown(&mut self) {
        self.held.iter_mut().for_each(|held| held.shown = false);
    }

    /// Forgets what is resident: the engine's process has started anew.
    pub fn on_restart(&mut self) {
        self.held.clear();
        self.grows = false;
    }

    /// Notes that a request for `model` was sent here, which is expected to end at `ends`. Says whether the adapter has to be loaded for it.
    pub fn on_pick(&mut self, model: ModelId, ends: Instant) -> bool {
        if !self.is_adapter(model) {
            return false;
        }
        if let Some(place) = self.held.iter().position(|held| held.adapter == model) {
            let held = &mut self.held[place];
            held.in_flight += 1;
            held.last_end = held.last_end.max(ends);
            if !held.waits {
                self.held[place..].rotate_left(1);
            }
            return false;
        }
        let waits = self.is_full();
        self.held.push(Held {
            adapter: model,
            in_flight: 1,
            last_end: ends,
            shown: false,
            waits,
        });
        self.fit();
        self.loaded += u32::from(self.held.last().is_some_and(|held| !held.waits));
        true
    }

    /// How many adapters have been given a slot since the last call: loads that the engine spends its time on.
    pub fn take_loads(&mut self) -> u32 {
        std::mem::take(&mut self.loaded)
    }

    /// Notes that a request for `model` that was sent here is over.
    pub fn on_end(&mut self, now: Instant, model: ModelId) {
        let Some(place) = self.held.iter().position(|held| held.adapter == model) else {
            return;
        };
        let held = &mut self.held[place];
        held.in_flight = held.in_flight.saturating_sub(1);
        if held.in_flight > 0 {
            return;
        }
        held.last_end = now;
        held.shown = false;
        if held.waits {
            self.held.remove(place);
        }
        self.admit();
    }

    /// Requests of ours in flight here for `model`, if it is an adapter.
    #[must_use]
    pub fn in_flight(&self, model: ModelId) -> u32 {
        let held = self.held.iter().find(|held| held.adapter == model);
        held.map_or(0, |held| held.in_flight)
    }

    /// Whether `model` can be served here: `None` while the endpoint's models are not known.
    #[must_use]
    pub fn serves(&self, model: ModelId) -> Option<bool> {
        let listing = self.models.as_ref()?;
        Some(listing.adapters.contains(model) || listing.bases.contains(model))
    }

    /// Whether the endpoint's models are known.
    #[must_use]
    pub fn listed(&self) -> bool {
        self.models.is_some()
    }

    /// Whether the server was seen to load adapters at run time.
    #[must_use]
    pub fn loads_at_run_time(&self) -> bool {
        self.grows
    }

    /// What a request for `model` would ask of the slots at `now`, were it to take `service_ms`.
    #[must_use]
    pub fn claim(&self, now: Instant, model: ModelId, service_ms: f64) -> Claim {
        if !self.is_adapter(model) {
            return Claim::NONE;
        }
        let known = self.held.iter().find(|held| held.adapter == model);
        if known.map_or_else(|| self.is_full(), |held| held.waits) {
            return Claim {
                need: Need::Wait,
                wait_ms: self.drain_ms(now, self.waiting_before(model), service_ms),
                delays_ms: 0.0,
            };
        }
        match known {
            Some(held) => Claim {
                need: Need::Resident,
                wait_ms: 0.0,
                delays_ms: self.delays_ms(now, held, service_ms),
            },
            None => {
                let full = self
                    .slots
                    .is_some_and(|slots| self.residents() >= slots as usize);
                Claim {
                    need: if full { Need::Evict } else { Need::Load },
                    ..Claim::NONE
                }
            }
        }
    }

    /// The adapters in the slots, least recently used first.
    pub fn resident(&self) -> impl Iterator<Item = ModelId> {
        let resident = self.held.iter().filter(|held| !held.waits);
        resident.map(|held| held.adapter)
    }

    /// Adds the adapters that run here or wait for a slot to `wanted`, and says how many slots there are, as far as known.
    pub fn mark_wanted(&self, wanted: &mut IdSet) -> Option<u32> {
        let busy = self.held.iter().filter(|held| held.waits || held.runs());
        busy.for_each(|held| wanted.insert(held.adapter));
        self.slots
    }

    /// Every model that this endpoint's state speaks of.
    pub fn mark(&self, live: &mut IdSet) {
        if let Some(listing) = &self.models {
            live.unite(&listing.adapters);
            live.unite(&listing.bases);
        }
        self.held.iter().for_each(|held| live.insert(held.adapter));
    }

    fn is_adapter(&self, model: ModelId) -> bool {
        self.models
            .as_ref()
            .is_some_and(|listing| listing.adapters.contains(model))
    }

    fn residents(&self) -> usize {
        self.held.iter().filter(|held| !held.waits).count()
    }

    /// Whether every slot runs an adapter.
    fn is_full(&self) -> bool {
        let running = self.held.iter().filter(|held| held.runs()).count();
        self.slots.is_some_and(|slots| running >= slots as usize)
    }

    /// The adapters that are given a slot before `model`, were a request for it to come now: the one that waits longest goes first.
    fn waiting_before(&self, model: ModelId) -> usize {
        let before = self.held.iter().take_while(|held| held.adapter != model);
        before.filter(|held| held.waits).count()
    }

    /// How long it takes until a slot is free for an adapter that `waiting` others go before, if those that run get no further requests.
    fn drain_ms(&self, now: Instant, waiting: usize, service_ms: f64) -> f64 {
        let running = self.held.iter().filter(|held| held.runs());
        let first = running
            .map(|held| held.drain_ms(now, service_ms))
            .fold(f64::INFINITY, f64::min);
        let first = if first.is_finite() { first } else { service_ms };
        // Each of the others runs for a request's time.
        first + waiting as f64 * service_ms / f64::from(self.slots.unwrap_or(1).max(1))
    }

    /// By how much the requests that wait for a slot would wait longer, were `held` to run for `service_ms` more.
    fn delays_ms(&self, now: Instant, held: &Held, service_ms: f64) -> f64 {
        let waiting: u32 = self
            .held
            .iter()
            .filter(|other| other.waits)
            .map(|other| other.in_flight)
            .sum();
        if waiting == 0 {
            return 0.0;
        }
        let own = held.drain_ms(now, service_ms);
        let others = self
            .held
            .iter()
            .filter(|other| other.runs() && other.adapter != held.adapter);
        let others = others
            .map(|other| other.drain_ms(now, service_ms))
            .fold(f64::INFINITY, f64::min);
        let before = own.min(others);
        let after = own.max(service_ms).min(others);
        f64::from(waiting) * (after - before).max(0.0)
    }

    /// Gives slots that have become free to adapters that wait, in the order in which they came.
    fn admit(&mut self) {
        while !self.is_full()
            && let Some(next) = self.held.iter().position(|held| held.waits)
        {
            self.held[next].waits = false;
            self.held[next..].rotate_left(1);
            self.loaded += 1;
            self.fit();
        }
    }

    /// Drops the least recently used adapters that do not run until the rest fit the slots; where too many run, the latest that were not
    /// shown to run wait.
    fn fit(&mut self) {
        let Some(slots) = self.slots.map(|slots| slots as usize) else {
            return;
        };
        while self.residents() > slots {
            let idle = self
                .held
                .iter()
                .position(|held| !held.waits && !held.runs());
            if let Some(idle) = idle {
                self.held.remove(idle);
                continue;
            }
            let unseen = self
                .held
                .iter_mut()
                .rev()
                .find(|held| !held.waits && !held.shown);
            match unseen {
                Some(held) => held.waits = true,
                // More are shown than there are slots: several engines behind one address.
                None => return,
            }
        }
    }
}

/// What an adapter is expected to run on at the least while requests of it are in flight, as a share of a request's time: an end that is
/// overdue is no end.
const OVERDUE_SHARE: f64 = 0.1;

impl Held {
    fn runs(&self) -> bool {
        !self.waits && (self.in_flight > 0 || self.shown)
    }

    /// How long it runs on without further requests.
    fn drain_ms(&self, now: Instant, service_ms: f64) -> f64 {
        let least_ms = if self.in_flight > 0 {
            OVERDUE_SHARE
        } else {
            0.5
        } * service_ms;
        self.last_end.ms_since(now).max(least_ms)
    }
}

#[cfg(test)]
mod tests;
