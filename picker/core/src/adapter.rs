//! Adapters of one endpoint: which it serves, and which sit in its slots.
//!
//! *Servable* is what `/v1/models` lists. *Resident* is a model of the engine's slots: the most recently used
//! adapters, as many as there are slots. It is fed by picks and corrected by the running adapters that metrics
//! show, since vLLM does not show an adapter that is loaded and idle.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;

use crate::endpoint::AdapterReading;

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
    /// Least recently used first. Each name is of the listing, which bounds it.
    resident: Vec<Arc<str>>,
    /// The adapters that ran when the engine was last read.
    running: Vec<Arc<str>>,
}

#[derive(Clone, Debug, Default)]
struct Listing {
    adapters: BTreeSet<Arc<str>>,
    bases: BTreeSet<Arc<str>>,
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

impl Adapters {
    /// Takes over the answer of `/v1/models`.
    pub fn on_models(&mut self, models: &[Model]) {
        let mut listing = Listing::default();
        for model in models {
            let names = if model.adapter {
                &mut listing.adapters
            } else {
                &mut listing.bases
            };
            names.insert(model.name.clone());
        }
        self.resident.retain(|name| listing.adapters.contains(name));
        self.models = Some(listing);
    }

    /// Takes over what a reading shows of running adapters.
    pub fn on_reading(&mut self, reading: &AdapterReading) {
        if reading.slots.is_some() {
            self.slots = reading.slots;
        }
        let running = reading.running.iter().filter_map(|name| self.adapter(name));
        self.running = running.collect();
        for name in self.running.clone() {
            if !self.resident.contains(&name) {
                self.resident.push(name);
            }
        }
        self.evict_to_fit();
    }

    /// Forgets which adapters run: a reading does not show it (any more).
    pub fn forget_running(&mut self) {
        self.running.clear();
    }

    /// Forgets what is resident: the engine's process has started anew.
    pub fn on_restart(&mut self) {
        self.resident.clear();
        self.running.clear();
    }

    /// Notes that a request for `model` was sent here.
    pub fn on_pick(&mut self, model: &str) {
        let Some(name) = self.adapter(model) else {
            return;
        };
        self.resident.retain(|other| *other != name);
        self.resident.push(name);
        self.evict_to_fit();
    }

    /// Whether `model` can be served here: `None` while the endpoint's models are not known.
    #[must_use]
    pub fn serves(&self, model: &str) -> Option<bool> {
        let listing = self.models.as_ref()?;
        Some(listing.adapters.contains(model) || listing.bases.contains(model))
    }

    /// What a request for `model` would ask of the slots.
    #[must_use]
    pub fn need(&self, model: &str) -> Need {
        let listed = self
            .models
            .as_ref()
            .is_some_and(|listing| listing.adapters.contains(model));
        if !listed {
            return Need::NoAdapter;
        }
        if self.resident.iter().any(|name| &**name == model) {
            return Need::Resident;
        }
        match self.slots {
            Some(slots) if self.running.len() >= slots as usize => Need::Wait,
            Some(slots) if self.resident.len() >= slots as usize => Need::Evict,
            _ => Need::Load,
        }
    }

    /// The adapters in the slots, least recently used first.
    #[must_use]
    pub fn resident(&self) -> &[Arc<str>] {
        &self.resident
    }

    /// The listed name equal to `model`, if that is an adapter.
    fn adapter(&self, model: &str) -> Option<Arc<str>> {
        self.models.as_ref()?.adapters.get(model).cloned()
    }

    /// Drops the least recently used adapters that do not run, until the rest fit the slots.
    fn evict_to_fit(&mut self) {
        let Some(slots) = self.slots else {
            return;
        };
        while self.resident.len() > slots as usize {
            let idle = self
                .resident
                .iter()
                .position(|name| !self.running.contains(name));
            self.resident.remove(idle.unwrap_or(0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_slots() -> Adapters {
        let mut adapters = Adapters::default();
        let model = |name: &str, adapter| Model {
            name: name.into(),
            adapter,
        };
        adapters.on_models(&[
            model("base", false),
            model("a", true),
            model("b", true),
            model("c", true),
        ]);
        adapters.on_reading(&reading(&[]));
        adapters
    }

    fn reading(running: &[&str]) -> AdapterReading {
        AdapterReading {
            slots: Some(2),
            running: running.iter().map(ToString::to_string).collect(),
        }
    }

    fn check(adapters: &Adapters, expected: &[&str]) {
        let resident: Vec<&str> = adapters.resident().iter().map(AsRef::as_ref).collect();
        assert_eq!(resident, expected);
    }

    #[test]
    fn picks_fill_the_slots_and_push_out_the_least_recently_used() {
        let mut adapters = two_slots();
        assert_eq!(adapters.need("a"), Need::Load);
        adapters.on_pick("a");
        adapters.on_pick("b");
        adapters.on_pick("a");
        assert_eq!(adapters.need("a"), Need::Resident);
        assert_eq!(adapters.need("c"), Need::Evict);
        adapters.on_pick("c");
        check(&adapters, &["a", "c"]);
    }

    #[test]
    fn running_adapters_correct_the_model_and_are_not_pushed_out() {
        let mut adapters = two_slots();
        adapters.on_pick("a");
        adapters.on_reading(&reading(&["b"]));
        adapters.on_pick("c");
        check(&adapters, &["b", "c"]);
        adapters.on_reading(&reading(&["c", "b"]));
        assert_eq!(adapters.need("a"), Need::Wait);
    }

    #[test]
    fn where_a_reading_shows_no_adapters_none_is_thought_to_hold_its_slot() {
        let mut adapters = two_slots();
        adapters.on_reading(&reading(&["b", "c"]));
        adapters.forget_running();
        assert_eq!(adapters.need("a"), Need::Evict);
    }

    #[test]
    fn a_base_model_and_a_model_that_nobody_lists_need_nothing() {
        let mut adapters = two_slots();
        for model in ["base", "unheard of"] {
            adapters.on_pick(model);
            assert_eq!(adapters.need(model), Need::NoAdapter);
        }
        check(&adapters, &[]);
        assert_eq!(adapters.serves("base"), Some(true));
        assert_eq!(adapters.serves("unheard of"), Some(false));
        assert_eq!(Adapters::default().serves("base"), None);
    }

    #[test]
    fn a_restart_empties_the_slots_and_an_unloaded_adapter_leaves_them() {
        let mut adapters = two_slots();
        adapters.on_pick("a");
        adapters.on_models(&[Model {
            name: "b".into(),
            adapter: true,
        }]);
        check(&adapters, &[]);
        adapters.on_pick("b");
        adapters.on_restart();
        check(&adapters, &[]);
    }
}
