//! Which adapters a server serves: those it started with and those loaded and unloaded while it runs.

use std::sync::{Mutex, PoisonError};

use super::refusal::Refusal;
use crate::engine::AdapterId;

/// The adapters of one server by name. An id stands for one name for the server's life, whatever is unloaded.
#[derive(Debug)]
pub(super) struct Adapters {
    base: String,
    known: Mutex<Vec<Adapter>>,
}

#[derive(Clone, Debug)]
struct Adapter {
    name: String,
    path: String,
    /// Its place in the list of models; none when it is unloaded.
    listed: Option<u64>,
}

impl Adapters {
    /// `names` beside a base model; their paths are made up.
    pub(super) fn new(base: &str, names: &[String]) -> Self {
        let known = names.iter().zip(0..).map(|(name, place)| Adapter {
            name: name.clone(),
            path: format!("/adapters/{name}"),
            listed: Some(place),
        });
        Self {
            base: base.to_owned(),
            known: Mutex::new(known.collect()),
        }
    }

    /// The id of an adapter that is served.
    pub(super) fn find(&self, name: &str) -> Option<AdapterId> {
        self.with(|known| {
            let place = known
                .iter()
                .position(|one| one.name == name && one.listed.is_some());
            place.map(|place| AdapterId(place as u32))
        })
    }

    /// Every name by its id, unloaded ones included: metrics keep their labels.
    pub(super) fn names(&self) -> Vec<String> {
        self.with(|known| known.iter().map(|one| one.name.clone()).collect())
    }

    /// Name and path of those served, in the order in which they were loaded.
    pub(super) fn served(&self) -> Vec<(String, String)> {
        let mut served = self.with(|known| known.clone());
        served.retain(|one| one.listed.is_some());
        served.sort_by_key(|one| one.listed);
        served.into_iter().map(|one| (one.name, one.path)).collect()
    }

    /// Serves an adapter from now on. A path that begins with `/nonexistent` holds none: every other does.
    ///
    /// # Errors
    /// vLLM's answer to a name that is empty, taken or the base model's, and to a path without an adapter.
    pub(super) fn load(&self, name: &str, path: &str, in_place: bool) -> Result<String, Refusal> {
        if name.is_empty() || path.is_empty() {
            let message = "Both 'lora_name' and 'lora_path' must be provided.";
            return Err(Refusal::adapter_input(message.into()));
        }
        if name == self.base {
            return Err(Refusal::adapter_input(format!(
                "The lora adapter '{name}' conflicts with a served base model."
            )));
        }
        self.with(|known| {
            let place = known.iter().position(|one| one.name == name);
            let is_served = place.is_some_and(|place| known[place].listed.is_some());
            if is_served && !in_place {
                return Err(Refusal::adapter_input(format!(
                    "The lora adapter '{name}' has already been loaded. If you want to load the adapter in place, set \
                     'load_inplace' to True."
                )));
            }
            if path.starts_with("/nonexistent") {
                return Err(Refusal::adapter_not_found(format!(
                    "Loading lora {name} failed: No adapter found for {path}"
                )));
            }
            let last = known.iter().filter_map(|one| one.listed).max();
            let listed = match place.and_then(|place| known[place].listed) {
                Some(listed) => listed,
                None => last.map_or(0, |last| last + 1),
            };
            let adapter = Adapter {
                name: name.to_owned(),
                path: path.to_owned(),
                listed: Some(listed),
            };
            match place {
                Some(place) => known[place] = adapter,
                None => known.push(adapter),
            }
            Ok(format!(
                "Success: LoRA adapter '{name}' added successfully."
            ))
        })
    }

    /// Serves an adapter no more; requests that are in the engine go on.
    ///
    /// # Errors
    /// vLLM's answer to a name that is empty or not served.
    pub(super) fn unload(&self, name: &str) -> Result<String, Refusal> {
        if name.is_empty() {
            let message = "'lora_name' needs to be provided to unload a LoRA adapter.";
            return Err(Refusal::adapter_input(message.into()));
        }
        self.with(|known| {
            let adapter = known
                .iter_mut()
                .find(|one| one.name == name && one.listed.is_some());
            let Some(adapter) = adapter else {
                let message = format!("The lora adapter '{name}' cannot be found.");
                return Err(Refusal::adapter_not_found(message));
            };
            adapter.listed = None;
            Ok(format!(
                "Success: LoRA adapter '{name}' removed successfully."
            ))
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut Vec<Adapter>) -> T) -> T {
        act(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
