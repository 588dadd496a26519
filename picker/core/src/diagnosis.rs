//! What is wrong with a fleet's objects: routes, pools and models that do not fit together, and what to write instead.
//!
//! Each finding names an object, a reason that scripts may rely on, and the fix as YAML. An object that is fine has
//! none.

mod attachment;
mod backend;
mod model;
mod overlap;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

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
    /// The Services there are; `None` if that is not known.
    pub services: Option<BTreeSet<ObjectKey>>,
    /// The InferenceObjectives there are.
    pub objectives: Vec<Objective>,
    /// The InferenceModelRewrites there are.
    pub rewrites: Vec<Rewrite>,
    /// The models and adapters that some server of a pool lists; no entry where no server was asked.
    pub served: BTreeMap<PoolKey, BTreeSet<Arc<str>>>,
}

/// An InferencePool, as far as others refer to it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Pool {
    /// Its name.
    pub metadata: Metadata,
    /// What it asks for.
    pub spec: PoolSpec,
}

/// What an InferencePool asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PoolSpec {
    /// The picker.
    pub endpoint_picker_ref: Option<PickerRef>,
}

/// The Service of a pool's picker.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PickerRef {
    /// The name, in the pool's namespace.
    pub name: Arc<str>,
    /// The port.
    #[serde(default)]
    pub port: Option<PickerPort>,
}

/// The port of a pool's picker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct PickerPort {
    /// Its number.
    pub number: u16,
}

/// Something that is wrong, or that is surely not what was meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// The object: kind, namespace and name.
    pub object: String,
    /// What is wrong, in one word.
    pub reason: Reason,
    /// What is wrong, in a sentence.
    pub text: String,
    /// What to apply or to change, as YAML.
    pub fix: String,
}

/// What is wrong, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// A route refers to nothing that it could attach to.
    ParentUnsupported,
    /// A route refers to a Gateway that does not exist.
    GatewayMissing,
    /// A route refers to a listener that its Gateway does not have.
    ListenerMissing,
    /// No listener takes routes of this namespace.
    NamespaceNotAllowed,
    /// No listener takes routes of this kind.
    KindNotAllowed,
    /// No listener has any host of the route.
    HostnameNotServed,
    /// A route is attached to a Service that does not exist.
    ServiceMissing,
    /// A hostname that no request can have.
    HostnameInvalid,
    /// A route attaches to nothing.
    NotAttached,
    /// A rule refers to a pool that does not exist.
    PoolMissing,
    /// A rule refers to an import that does not exist.
    ImportMissing,
    /// A rule refers to a pool of another namespace without leave.
    GrantMissing,
    /// A rule refers to a pool in a group that is none of InferencePool's.
    PoolGroupWrong,
    /// All weights of a rule are 0.
    WeightsZero,
    /// A rule has a redirect and backends.
    RedirectWithBackends,
    /// A match can never be met: its regular expression cannot be read.
    PatternInvalid,
    /// A match can never be met: its kind is not known.
    MatchKindUnknown,
    /// Two rules match the same requests; only one ever gets them.
    SameRequests,
    /// A regular expression and a prefix overlap, and gateways differ on which goes first.
    PrecedenceUnclear,
    /// An HTTPRoute and a GRPCRoute claim one host of one listener.
    KindsConflict,
    /// Two pools that requests can be for look the same to the picker.
    PoolsIndistinct,
    /// A pool names no picker.
    PickerMissing,
    /// A pool's picker refers to a Service that does not exist.
    PickerServiceMissing,
    /// An objective or rewrite refers to a pool that does not exist.
    ReferencedPoolMissing,
    /// A rewrite leads to a model that no server of the pool has.
    TargetNotServed,
    /// A route asks for a model that no server of its pools has.
    AdapterNotServed,
    /// Targets without weight beside targets with one get nothing.
    WeightsMixed,
    /// Two rewrites are for the same requests; only the first counts.
    RewriteShadowed,
    /// A rule of a rewrite has no targets.
    TargetsMissing,
    /// Two objectives are for the same model; only the older counts.
    ObjectiveShadowed,
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
        backend::find_pools(self, &mut findings);
        model::find(self, &mut findings);
        findings.sort();
        findings.dedup();
        findings
    }

    fn pool(&self, key: &PoolKey) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.key() == *key)
    }

    fn has_service(&self, key: &ObjectKey) -> bool {
        self.services
            .as_ref()
            .is_none_or(|services| services.contains(key))
    }
}

impl Pool {
    fn key(&self) -> PoolKey {
        PoolKey {
            namespace: self.metadata.namespace.clone(),
            name: self.metadata.name.clone(),
        }
    }

    /// The Service and port by which calls for the pool are known.
    fn picker(&self) -> Option<(ObjectKey, u16)> {
        let picker = self.spec.endpoint_picker_ref.as_ref()?;
        let service = ObjectKey {
            namespace: self.metadata.namespace.clone(),
            name: picker.name.clone(),
        };
        Some((service, picker.port.map_or(0, |port| port.number)))
    }
}

impl Finding {
    fn of_route(route: &Route, reason: Reason, text: String, fix: String) -> Self {
        Self {
            object: route.key().to_string(),
            reason,
            text,
            fix,
        }
    }

    fn of(kind: &str, metadata: &Metadata, reason: Reason, text: String, fix: String) -> Self {
        Self {
            object: format!("{kind} {}", metadata.key()),
            reason,
            text,
            fix,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = serde_json::to_value(self.reason).unwrap_or_default();
        let reason = reason.as_str().unwrap_or_default();
        writeln!(formatter, "{} ({reason}): {}", self.object, self.text)?;
        for line in self.fix.lines() {
            writeln!(formatter, "    {line}")?;
        }
        Ok(())
    }
}
