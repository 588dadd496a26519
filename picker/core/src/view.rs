//! What is read of a pool without its lock: how much a request matters, and which model it gets.
//!
//! It is built from the pool's InferenceObjectives and InferenceModelRewrites, and published whole.

pub mod objective;
pub mod rewrite;

use std::collections::BTreeMap;
use std::sync::Arc;

use self::objective::{Objective, Objectives, Standing};
use self::rewrite::{Rewrite, Rewrites, Target};
use crate::route::PoolKey;
use crate::route::object::{Metadata, ObjectKey, POOL_GROUP};

/// The priorities and models of one pool's requests.
#[derive(Clone, Debug, Default)]
pub struct PoolView {
    objectives: Objectives,
    rewrites: Rewrites,
}

/// What a request says of itself, beside its prompt.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked<'a> {
    /// The model that it asks for, where its body names one.
    pub model: Option<&'a str>,
    /// Its headers: names in lower case.
    pub headers: &'a [(&'a str, &'a str)],
}

/// A reference to a pool of the object's own namespace.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
pub struct PoolRef {
    /// The API group.
    #[serde(default = "pool_group")]
    pub group: Arc<str>,
    /// The kind.
    #[serde(default = "pool_kind")]
    pub kind: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

fn pool_group() -> Arc<str> {
    POOL_GROUP.into()
}

fn pool_kind() -> Arc<str> {
    "InferencePool".into()
}

impl PoolView {
    /// The view of `pool`: of these objects it takes those that refer to it.
    #[must_use]
    pub fn new(pool: &PoolKey, objectives: &[Objective], rewrites: &[Rewrite]) -> Self {
        let of_pool = |metadata: &Metadata, reference: &PoolRef| {
            reference.pool(metadata).as_ref() == Some(pool)
        };
        Self {
            objectives: Objectives::new(
                objectives
                    .iter()
                    .filter(|it| of_pool(&it.metadata, &it.spec.pool_ref)),
            ),
            rewrites: Rewrites::new(
                rewrites
                    .iter()
                    .filter(|it| of_pool(&it.metadata, &it.spec.pool_ref)),
            ),
        }
    }

    /// How much a request matters, and in whose name it comes.
    #[must_use]
    pub fn standing(&self, asked: &Asked<'_>) -> Standing {
        self.objectives.standing(asked)
    }

    /// The model that a request gets, if it is another than it asks for or if a rule says so. `draw` is a number of
    /// the caller's generator, new for each request.
    #[must_use]
    pub fn target(&self, asked: &Asked<'_>, draw: u64) -> Option<Target> {
        self.rewrites.target(asked, draw)
    }

    /// The priorities that objectives give, by their names.
    #[must_use]
    pub fn priorities(&self) -> &BTreeMap<Arc<str>, i32> {
        &self.objectives.priorities
    }

    /// The models that requests may ask for though no server has them, with those that they become.
    pub fn aliases(&self) -> impl Iterator<Item = (&Arc<str>, Vec<&Arc<str>>)> {
        self.rewrites.aliases()
    }
}

impl Asked<'_> {
    /// The value of the first of these headers that is there, be it empty.
    fn header(&self, names: &[&str]) -> Option<&str> {
        names.iter().find_map(|name| {
            let found = self.headers.iter().rev().find(|(other, _)| other == name);
            found.map(|(_, value)| *value)
        })
    }
}

impl PoolRef {
    /// The pool that an object with this reference speaks of, if it is a pool at all.
    #[must_use]
    pub fn pool(&self, of: &Metadata) -> Option<PoolKey> {
        let named = &*self.group == POOL_GROUP && &*self.kind == "InferencePool";
        named.then(|| PoolKey {
            namespace: of.namespace.clone(),
            name: self.name.clone(),
        })
    }
}

/// What decides between objects that say different things: the older, then the first by name.
pub(crate) fn age(metadata: &Metadata) -> (Option<Arc<str>>, ObjectKey) {
    (metadata.creation_timestamp.clone(), metadata.key())
}

/// The items of an annotation that is a list with commas.
pub(crate) fn items<'m>(metadata: &'m Metadata, annotation: &str) -> impl Iterator<Item = &'m str> {
    let list = metadata.annotations.get(annotation);
    list.into_iter()
        .flat_map(|list| list.split(','))
        .map(str::trim)
        .filter(|item| !item.is_empty())
}
