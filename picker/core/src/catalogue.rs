//! The model catalogue of a pool: what its servers list, together, as the body of `GET /v1/models`.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::view::PoolView;

/// One model, as vLLM lists it (`vllm/entrypoints/openai/models/protocol.py`); other fields are dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    /// The name that requests use.
    pub id: Arc<str>,
    /// Always `model`.
    #[serde(default = "model")]
    pub object: Arc<str>,
    /// Seconds since 1970.
    #[serde(default)]
    pub created: u64,
    /// Who offers it.
    #[serde(default)]
    pub owned_by: Arc<str>,
    /// Where it was loaded from; of a rewritten name, the model that it becomes.
    #[serde(default)]
    pub root: Option<Arc<str>>,
    /// The model that an adapter adapts.
    #[serde(default)]
    pub parent: Option<Arc<str>>,
    /// The longest sequence that it takes, in tokens.
    #[serde(default)]
    pub max_model_len: Option<u64>,
}

fn model() -> Arc<str> {
    "model".into()
}

#[derive(Deserialize, Serialize)]
struct List {
    #[serde(default = "list")]
    object: Arc<str>,
    data: Vec<Card>,
}

fn list() -> Arc<str> {
    "list".into()
}

/// Reads the answer of one server.
///
/// # Errors
/// The reason, if it is no list of models.
pub fn read(page: &[u8]) -> Result<Vec<Card>, String> {
    let list: List = serde_json::from_slice(page)
        .map_err(|error| format!("the answer of /v1/models is no list of models: {error}"))?;
    Ok(list.data)
}

/// The union of what servers list, and the names that rewrites add, by name.
///
/// Of a model on several servers the first server's card is taken, with the earliest time and the shortest length, so
/// that a request that fits it fits everywhere. A rewritten name is listed if some server has what it becomes.
#[must_use]
pub fn merge<'c>(servers: impl IntoIterator<Item = &'c [Card]>, view: &PoolView) -> Vec<Card> {
    let mut cards: BTreeMap<Arc<str>, Card> = BTreeMap::new();
    for card in servers.into_iter().flatten() {
        let known = cards.entry(card.id.clone()).or_insert_with(|| card.clone());
        known.created = known.created.min(card.created);
        known.max_model_len = shorter(known.max_model_len, card.max_model_len);
    }
    let mut aliases = Vec::new();
    for (name, targets) in view.aliases() {
        let mut served = targets.iter().filter_map(|target| cards.get(*target));
        let Some(first) = served.next().filter(|_| !cards.contains_key(name)) else {
            continue;
        };
        let length = served.fold(first.max_model_len, |length, card| {
            shorter(length, card.max_model_len)
        });
        aliases.push(Card {
            id: name.clone(),
            root: Some(first.id.clone()),
            parent: None,
            max_model_len: length,
            ..first.clone()
        });
    }
    cards.extend(aliases.into_iter().map(|card| (card.id.clone(), card)));
    cards.into_values().collect()
}

/// The body of `GET /v1/models`.
#[must_use]
pub fn body(cards: Vec<Card>) -> String {
    let list = List {
        object: list(),
        data: cards,
    };
    serde_json::to_string(&list).expect("cards are plain values")
}

/// The shorter of two lengths; one that is not known says nothing.
fn shorter(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (known, None) | (None, known) => known,
    }
}
