//! The inventory: what is known of the served namespaces, and which pools a change is about.
//!
//! Pods are found by their labels and pools by one label of their selector, so that a change costs what it concerns.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use picker_core::endpoint::Endpoint;
use picker_core::route::PoolKey;
use picker_core::view::objective::Objective;
use picker_core::view::rewrite::Rewrite;

use super::super::engines::Engines;
use super::object::{Labels, ObjectKey, Pod, Pool, Service};
use crate::driver::PoolSpec;

/// A change of one kind of object.
#[derive(Debug)]
pub(super) enum Change<T> {
    /// The object is as said.
    Set(ObjectKey, T),
    /// The object is not there, or of no use.
    Gone(ObjectKey),
    /// Of the namespace, or of all without one, only these are there.
    Only(Option<Arc<str>>, HashSet<ObjectKey>),
}

impl<T> Change<T> {
    /// The same of something that is made of the object.
    pub(super) fn map<R>(self, make: impl FnOnce(T) -> R) -> Change<R> {
        match self {
            Self::Set(key, object) => Change::Set(key, make(object)),
            Self::Gone(key) => Change::Gone(key),
            Self::Only(scope, keys) => Change::Only(scope, keys),
        }
    }
}

/// The version of a pool, or the group of an objective or a rewrite; the first that is there counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Edition {
    Current,
    Older,
}

/// Which pools are served of those that there are.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    /// This pool alone, whoever it names as its picker.
    pub(super) pool: Option<PoolKey>,
    /// Pools whose picker is a Service of one of these names; if there are none, of any.
    pub(super) services: BTreeSet<String>,
    /// The port of the listener for all pools.
    pub(super) shared_port: u16,
}

/// All that is known.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    wanted: Wanted,
    engines: Engines,
    namespaces: HashMap<Arc<str>, Namespace>,
    /// The pools that changes were about since they were last asked for.
    touched: BTreeSet<PoolKey>,
}

#[derive(Debug, Default)]
struct Namespace {
    pods: HashMap<Arc<str>, Pod>,
    pods_by_label: HashMap<(String, String), BTreeSet<Arc<str>>>,
    pools: BTreeMap<Arc<str>, Editions<Pool>>,
    /// Pools by the first label of their selector.
    pools_by_label: HashMap<(String, String), BTreeSet<Arc<str>>>,
    services: HashMap<Arc<str>, Service>,
    objectives: BTreeMap<Arc<str>, Editions<Objective>>,
    rewrites: BTreeMap<Arc<str>, Editions<Rewrite>>,
}

#[derive(Debug)]
struct Editions<T> {
    current: Option<T>,
    older: Option<T>,
}

impl Inventory {
    pub(super) fn new(wanted: Wanted) -> Self {
        Self {
            wanted,
            ..Self::default()
        }
    }

    pub(super) fn on_pod(&mut self, change: Change<Pod>) {
        match change {
            Change::Set(key, pod) => self.set_pod(&key, Some(pod)),
            Change::Gone(key) => self.set_pod(&key, None),
            Change::Only(scope, keys) => {
                for key in self.left_out(scope, &keys, |one| one.pods.keys().cloned().collect()) {
                    self.set_pod(&key, None);
                }
            }
        }
    }

    pub(super) fn on_pool(&mut self, edition: Edition, change: Change<Pool>) {
        match change {
            Change::Set(key, pool) => self.set_pool(&key, edition, Some(pool)),
            Change::Gone(key) => self.set_pool(&key, edition, None),
            Change::Only(scope, keys) => {
                for key in self.left_out(scope, &keys, |one| one.pools.keys().cloned().collect()) {
                    self.set_pool(&key, edition, None);
                }
            }
        }
    }

    pub(super) fn on_service(&mut self, change: Change<Service>) {
        match change {
            Change::Set(key, service) => self.set_service(&key, Some(service)),
            Change::Gone(key) => self.set_service(&key, None),
            Change::Only(scope, keys) => {
                let names = |one: &Namespace| one.services.keys().cloned().collect();
                for key in self.left_out(scope, &keys, names) {
                    self.set_service(&key, None);
                }
            }
        }
    }

    pub(super) fn on_objective(&mut self, edition: Edition, change: Change<Objective>) {
        match change {
            Change::Set(key, objective) => self.set_objective(&key, edition, Some(objective)),
            Change::Gone(key) => self.set_objective(&key, edition, None),
            Change::Only(scope, keys) => {
                let names = |one: &Namespace| one.objectives.keys().cloned().collect();
                for key in self.left_out(scope, &keys, names) {
                    self.set_objective(&key, edition, None);
                }
            }
        }
    }

    pub(super) fn on_rewrite(&mut self, edition: Edition, change: Change<Rewrite>) {
        match change {
            Change::Set(key, rewrite) => self.set_rewrite(&key, edition, Some(rewrite)),
            Change::Gone(key) => self.set_rewrite(&key, edition, None),
            Change::Only(scope, keys) => {
                let names = |one: &Namespace| one.rewrites.keys().cloned().collect();
                for key in self.left_out(scope, &keys, names) {
                    self.set_rewrite(&key, edition, None);
                }
            }
        }
    }

    /// The pools that changes were about since the last call, as they are now; `None` if one is not served any more.
    pub(super) fn take_touched(&mut self) -> Vec<(PoolKey, Option<PoolSpec>)> {
        let touched = std::mem::take(&mut self.touched);
        let spec = |pool: PoolKey| {
            let spec = self.spec(&pool);
            (pool, spec)
        };
        touched.into_iter().map(spec).collect()
    }

    /// The Services, by namespace, that served pools name as their picker, each with its ports.
    pub(super) fn picker_services(&self) -> BTreeMap<ObjectKey, BTreeSet<u16>> {
        let mut services: BTreeMap<ObjectKey, BTreeSet<u16>> = BTreeMap::new();
        for (namespace, of) in &self.namespaces {
            for (name, editions) in &of.pools {
                let key = PoolKey {
                    namespace: namespace.clone(),
                    name: name.clone(),
                };
                let Some(pool) = editions.chosen().filter(|pool| self.serves(&key, pool)) else {
                    continue;
                };
                if let Some((service, port)) = &pool.service {
                    let key = ObjectKey {
                        namespace: namespace.clone(),
                        name: service.clone(),
                    };
                    services.entry(key).or_default().extend(port);
                }
            }
        }
        services
    }

    fn serves(&self, key: &PoolKey, pool: &Pool) -> bool {
        if let Some(only) = &self.wanted.pool {
            return only == key;
        }
        let services = &self.wanted.services;
        pool.service
            .as_ref()
            .is_some_and(|(name, _)| services.is_empty() || services.contains(&**name))
    }

    fn spec(&mut self, key: &PoolKey) -> Option<PoolSpec> {
        let namespace = self.namespaces.get(&key.namespace)?;
        let pool = namespace.pools.get(&key.name)?.chosen()?;
        if !self.serves(key, pool) {
            return None;
        }
        let own_port = |(name, port): &(Arc<str>, Option<u16>)| {
            let port = (*port)?;
            let target = namespace.services.get(name)?.targets.get(&port).copied()?;
            (target != self.wanted.shared_port).then_some(target)
        };
        let objectives = namespace.objectives.values().filter_map(Editions::chosen);
        let objectives =
            objectives.filter(|one| one.spec.pool_ref.pool(&one.metadata).as_ref() == Some(key));
        let rewrites = namespace.rewrites.values().filter_map(Editions::chosen);
        let rewrites =
            rewrites.filter(|one| one.spec.pool_ref.pool(&one.metadata).as_ref() == Some(key));
        Some(PoolSpec {
            service: pool.service.as_ref().map(|(name, _)| name.clone()),
            port: pool.service.as_ref().and_then(own_port),
            endpoints: namespace.endpoints(&key.namespace, pool, &mut self.engines),
            objectives: objectives.cloned().collect(),
            rewrites: rewrites.cloned().collect(),
        })
    }

    fn set_pod(&mut self, key: &ObjectKey, pod: Option<Pod>) {
        let namespace = self.namespaces.entry(key.namespace.clone()).or_default();
        for pool in namespace.set_pod(&key.name, pod) {
            self.touched.insert(PoolKey {
                namespace: key.namespace.clone(),
                name: pool,
            });
        }
    }

    fn set_pool(&mut self, key: &ObjectKey, edition: Edition, pool: Option<Pool>) {
        let namespace = self.namespaces.entry(key.namespace.clone()).or_default();
        if namespace.set_pool(&key.name, edition, pool) {
            self.touched.insert(PoolKey {
                namespace: key.namespace.clone(),
                name: key.name.clone(),
            });
        }
    }

    fn set_service(&mut self, key: &ObjectKey, service: Option<Service>) {
        let namespace = self.namespaces.entry(key.namespace.clone()).or_default();
        let before = match service.clone() {
            Some(service) => namespace.services.insert(key.name.clone(), service),
            None => namespace.services.remove(&key.name),
        };
        if before == service {
            return;
        }
        for (name, editions) in &namespace.pools {
            let picker = editions.chosen().and_then(|pool| pool.service.as_ref());
            if picker.is_some_and(|(service, _)| *service == key.name) {
                self.touched.insert(PoolKey {
                    namespace: key.namespace.clone(),
                    name: name.clone(),
                });
            }
        }
    }

    fn set_objective(&mut self, key: &ObjectKey, edition: Edition, objective: Option<Objective>) {
        let namespace = self.namespaces.entry(key.namespace.clone()).or_default();
        let changed = set(&mut namespace.objectives, &key.name, edition, objective);
        let pools = changed.into_iter().flatten();
        self.touched
            .extend(pools.filter_map(|one| one.spec.pool_ref.pool(&one.metadata)));
    }

    fn set_rewrite(&mut self, key: &ObjectKey, edition: Edition, rewrite: Option<Rewrite>) {
        let namespace = self.namespaces.entry(key.namespace.clone()).or_default();
        let changed = set(&mut namespace.rewrites, &key.name, edition, rewrite);
        let pools = changed.into_iter().flatten();
        self.touched
            .extend(pools.filter_map(|one| one.spec.pool_ref.pool(&one.metadata)));
    }

    /// What is known within `scope` and not in `keys`.
    fn left_out(
        &self,
        scope: Option<Arc<str>>,
        keys: &HashSet<ObjectKey>,
        names: impl Fn(&Namespace) -> Vec<Arc<str>>,
    ) -> Vec<ObjectKey> {
        let in_scope = |namespace: &Arc<str>| scope.as_ref().is_none_or(|scope| scope == namespace);
        let all = self
            .namespaces
            .iter()
            .filter(|(namespace, _)| in_scope(namespace));
        let known = all.flat_map(|(namespace, of)| {
            names(of).into_iter().map(|name| ObjectKey {
                namespace: namespace.clone(),
                name,
            })
        });
        known.filter(|key| !keys.contains(key)).collect()
    }
}

impl Namespace {
    /// Takes over a pod; the pools that it was of or is of.
    fn set_pod(&mut self, name: &Arc<str>, pod: Option<Pod>) -> BTreeSet<Arc<str>> {
        if self.pods.get(name) == pod.as_ref() {
            return BTreeSet::new();
        }
        let mut touched = BTreeSet::new();
        let before = self.pods.remove(name);
        for one in before.iter().chain(&pod) {
            touched.extend(self.pools_of(one));
        }
        for label in before.iter().flat_map(|one| &one.labels) {
            let label = (label.0.clone(), label.1.clone());
            if let Some(names) = self.pods_by_label.get_mut(&label) {
                names.remove(name);
                if names.is_empty() {
                    self.pods_by_label.remove(&label);
                }
            }
        }
        if let Some(pod) = pod {
            for (label, value) in &pod.labels {
                let label = (label.clone(), value.clone());
                let names = self.pods_by_label.entry(label).or_default();
                names.insert(name.clone());
            }
            self.pods.insert(name.clone(), pod);
        }
        touched
    }

    fn pools_of<'a>(&'a self, pod: &'a Pod) -> impl Iterator<Item = Arc<str>> + 'a {
        let by_label = pod
            .labels
            .iter()
            .filter_map(|(label, value)| self.pools_by_label.get(&(label.clone(), value.clone())));
        by_label
            .flatten()
            .filter(|name| {
                let pool = self.pools.get(*name).and_then(Editions::chosen);
                pool.is_some_and(|pool| pod.has(&pool.selector))
            })
            .cloned()
    }

    /// Takes over a pool; whether that is news.
    fn set_pool(&mut self, name: &Arc<str>, edition: Edition, pool: Option<Pool>) -> bool {
        let editions = self.pools.entry(name.clone()).or_default();
        let before = editions.chosen().cloned();
        editions.set(edition, pool);
        let after = editions.chosen().cloned();
        if after.is_none() {
            self.pools.remove(name);
        }
        let label_of = |pool: &Option<Pool>| pool.as_ref().and_then(|pool| first(&pool.selector));
        let (old, new) = (label_of(&before), label_of(&after));
        if old == new {
            return before != after;
        }
        if let Some(label) = old
            && let Some(names) = self.pools_by_label.get_mut(&label)
        {
            names.remove(name);
            if names.is_empty() {
                self.pools_by_label.remove(&label);
            }
        }
        if let Some(label) = new {
            let names = self.pools_by_label.entry(label).or_default();
            names.insert(name.clone());
        }
        true
    }

    /// The endpoints of a pool: each target port of each pod is one.
    fn endpoints(&self, namespace: &str, pool: &Pool, engines: &mut Engines) -> Vec<Endpoint> {
        // The label that the fewest pods have; a selector without labels selects none.
        let labels = pool.selector.iter().map(|(label, value)| {
            let names = self.pods_by_label.get(&(label.clone(), value.clone()));
            names.map_or((0, None), |names| (names.len(), Some(names)))
        });
        let Some((_, Some(names))) = labels.min_by_key(|(count, _)| *count) else {
            return Vec::new();
        };
        let mut endpoints = Vec::new();
        for name in names {
            let Some(pod) = self.pods.get(name).filter(|pod| pod.has(&pool.selector)) else {
                continue;
            };
            let engine = engines.of(&pod.labels);
            for (rank, &port) in pool.ports.iter().enumerate() {
                let active = pod.active_ports.as_ref();
                if active.is_some_and(|active| !active.contains(&port)) {
                    continue;
                }
                let alone = pool.ports.len() == 1;
                let rank_name = if alone {
                    String::new()
                } else {
                    format!("-rank-{rank}")
                };
                endpoints.push(Endpoint {
                    identity: format!("{}/{rank}", pod.uid).into(),
                    name: format!("{namespace}/{name}{rank_name}").into(),
                    address: SocketAddr::new(pod.ip, port),
                    engine: engine.clone(),
                });
            }
        }
        endpoints
    }
}

impl<T> Editions<T> {
    /// The object of the current edition, or of the older one if that is all there is.
    fn chosen(&self) -> Option<&T> {
        self.current.as_ref().or(self.older.as_ref())
    }

    fn set(&mut self, edition: Edition, object: Option<T>) {
        match edition {
            Edition::Current => self.current = object,
            Edition::Older => self.older = object,
        }
    }
}

impl<T> Default for Editions<T> {
    fn default() -> Self {
        Self {
            current: None,
            older: None,
        }
    }
}

/// Takes over an object that comes in editions; what counted before and what counts now, unless that is the same.
fn set<T: Clone + PartialEq>(
    all: &mut BTreeMap<Arc<str>, Editions<T>>,
    name: &Arc<str>,
    edition: Edition,
    object: Option<T>,
) -> [Option<T>; 2] {
    let editions = all.entry(name.clone()).or_default();
    let before = editions.chosen().cloned();
    editions.set(edition, object);
    let after = editions.chosen().cloned();
    if after.is_none() {
        all.remove(name);
    }
    if before == after {
        [None, None]
    } else {
        [before, after]
    }
}

fn first(selector: &Labels) -> Option<(String, String)> {
    let (name, value) = selector.first_key_value()?;
    Some((name.clone(), value.clone()))
}

#[cfg(test)]
mod tests;
