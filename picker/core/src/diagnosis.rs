//! What is wrong with a fleet's objects: routes, pools and models that do not fit together, and what to write instead.
//!
//! Each finding names an object, a reason that scripts may rely on, and the fix as YAML. An object that is fine has
//! none.

mod attachment;
mod backend;
mod command;
mod model;
mod overlap;
mod picker;
mod pool;
mod reason;

pub mod object;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

pub use self::reason::{Reason, Severity};

use self::object::{Pool, Service, Workload};
use crate::route::PoolKey;
use crate::route::object::{Metadata, ObjectKey, Route};
use crate::route::table::RouteTable;
use crate::view::objective::Objective;
use crate::view::rewrite::Rewrite;

/// Everything that is looked at together.
#[derive(Clone, Debug, Default)]
pub struct Fleet {
    /// Routes, Gateways, Namespaces and grants.
    pub table: RouteTable,
    /// The pools there are.
    pub pools: Vec<Pool>,
    /// The InferencePoolImports there are.
    pub imports: BTreeSet<ObjectKey>,
    /// The Services there are.
    pub services: BTreeMap<ObjectKey, Service>,
    /// The Services that have an EndpointSlice with a ready endpoint.
    pub backed: BTreeSet<ObjectKey>,
    /// The pods there are, or what makes them.
    pub workloads: Vec<Workload>,
    /// The InferenceObjectives there are.
    pub objectives: Vec<Objective>,
    /// The InferenceModelRewrites there are.
    pub rewrites: Vec<Rewrite>,
    /// The models and adapters that some server of a pool lists; no entry where no server was asked.
    pub served: BTreeMap<PoolKey, BTreeSet<Arc<str>>>,
    /// What of all this is complete.
    pub known: Known,
}

/// Of what it is known that there is no more of it than stands in the fleet; of the rest, what is missing may be there
/// all the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known(BTreeMap<Kind, Places>);

/// Kinds of objects that others refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// InferencePool.
    Pool,
    /// InferencePoolImport.
    Import,
    /// Gateway.
    Gateway,
    /// Namespace.
    Namespace,
    /// Service.
    Service,
    /// EndpointSlice.
    Slice,
    /// Pods and what makes them.
    Workload,
}

/// Namespaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Places {
    /// Every one.
    Every,
    /// These.
    These(BTreeSet<Arc<str>>),
}

/// Something that is wrong, or that is surely not what was meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// The object: kind, namespace and name.
    pub object: String,
    /// The field of the object.
    pub field: String,
    /// What is wrong, in one word.
    pub reason: Reason,
    /// What is wrong, in a sentence.
    pub text: String,
    /// What to apply or to change, as YAML.
    pub fix: String,
}

impl Fleet {
    /// All that is wrong, by object.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for route in self.table.routes() {
            attachment::find(self, route, &mut findings);
            backend::find(self, route, &mut findings);
        }
        overlap::find(self, &mut findings);
        pool::find(self, &mut findings);
        picker::find(self, &mut findings);
        model::find(self, &mut findings);
        findings.sort();
        findings.dedup();
        findings
    }

    fn pool(&self, key: &PoolKey) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.key() == *key)
    }

    /// Takes over, for each pool of which that is not known yet, the models that the command lines of its servers name.
    pub fn learn_served(&mut self) {
        let mut learnt = Vec::new();
        for pool in &self.pools {
            let models = command::served(self.pods_of(pool));
            learnt.extend(models.map(|models| (pool.key(), models)));
        }
        for (pool, models) in learnt {
            self.served.entry(pool).or_insert(models);
        }
    }

    /// The pods of a pool, or what makes them.
    pub fn pods_of<'f>(&'f self, pool: &'f Pool) -> impl Iterator<Item = &'f Workload> {
        self.workloads.iter().filter(|it| pool.selects(it))
    }

    fn lacks_service(&self, key: &ObjectKey) -> bool {
        !self.services.contains_key(key) && self.known.has(Kind::Service, &key.namespace)
    }
}

impl Known {
    /// That the fleet is all there is.
    #[must_use]
    pub fn everything() -> Self {
        let kinds = [
            Kind::Pool,
            Kind::Import,
            Kind::Gateway,
            Kind::Namespace,
            Kind::Service,
            Kind::Slice,
            Kind::Workload,
        ];
        Self(kinds.map(|kind| (kind, Places::Every)).into())
    }

    /// Notes that every object of a kind in these places is in the fleet.
    pub fn add(&mut self, kind: Kind, places: Places) {
        match (self.0.get_mut(&kind), places) {
            (Some(Places::These(old)), Places::These(new)) => old.extend(new),
            (_, places) => drop(self.0.insert(kind, places)),
        }
    }

    /// Whether an object of that kind and namespace that is not in the fleet does not exist.
    #[must_use]
    pub fn has(&self, kind: Kind, namespace: &str) -> bool {
        match self.0.get(&kind) {
            None => false,
            Some(Places::Every) => true,
            Some(Places::These(some)) => some.contains(namespace),
        }
    }
}

impl Finding {
    fn of_route(route: &Route, field: &str, reason: Reason, text: String, fix: String) -> Self {
        Self {
            object: route.key().to_string(),
            field: field.to_owned(),
            reason,
            text,
            fix,
        }
    }

    fn of_workload(
        workload: &Workload,
        field: &str,
        reason: Reason,
        text: String,
        fix: String,
    ) -> Self {
        let (kind, metadata) = (&workload.kind, &workload.metadata);
        Self::of(kind, metadata, field, reason, text, fix)
    }

    /// A finding about an object of that kind and name.
    #[must_use]
    pub fn of(
        kind: &str,
        metadata: &Metadata,
        field: &str,
        reason: Reason,
        text: String,
        fix: String,
    ) -> Self {
        Self {
            object: format!("{kind} {}", metadata.key()),
            field: field.to_owned(),
            reason,
            text,
            fix,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (object, field) = (&self.object, &self.field);
        writeln!(
            formatter,
            "{object} {field} ({}): {}",
            self.reason.word(),
            self.text
        )?;
        for line in self.fix.lines() {
            writeln!(formatter, "    {line}")?;
        }
        Ok(())
    }
}
