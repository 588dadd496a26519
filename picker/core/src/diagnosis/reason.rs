//! What can be wrong, in one word each, and how bad that is.

use serde::Serialize;

/// What is wrong, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// An object of the cluster cannot be read.
    Unreadable,
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
    /// A rule refers to a Service whose pods are those of a pool.
    PoolBypassed,
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
    /// A pool's selector has no labels.
    SelectorEmpty,
    /// A pool's selector matches no pods.
    PodsMissing,
    /// A pool's pods are there, and none is ready.
    PodsNotReady,
    /// What makes a pool's pods makes none.
    ReplicasZero,
    /// Two pools have a pod and a port of it in common.
    PodsShared,
    /// A pool's port is not one that its pods listen on.
    PortNotServed,
    /// A pod narrows its ports to none of the pool's.
    ActivePortsNone,
    /// A server is started without metrics.
    MetricsOff,
    /// A server's engine is not named by a label, so that its metrics are read as vLLM's.
    EngineUnlabelled,
    /// A pod was asked for its metrics and gave none.
    MetricsMissing,
    /// A pool names no picker.
    PickerMissing,
    /// A pool's picker is of a kind that gateways do not know.
    PickerKindUnsupported,
    /// A pool's picker is a Service without a port.
    PickerPortMissing,
    /// A pool's picker refers to a Service that does not exist.
    PickerServiceMissing,
    /// A pool's picker is a Service of type ExternalName.
    PickerServiceExternal,
    /// A pool's picker refers to a port that the Service does not have.
    PickerServicePortMissing,
    /// The Service of a pool's picker leads to no pods.
    PickerServiceEmpty,
    /// The Service of a pool's picker leads to the pool's own pods.
    PickerServiceLeadsToServers,
    /// The Service of a pool's picker leads to a port on which the picker does not listen.
    PickerPortNotServed,
    /// The Service of a pool's picker does not say that the port speaks HTTP/2.
    PickerProtocolUnset,
    /// The picker that a pool names does not serve the pool.
    PickerServesOthers,
    /// The picker that a pool names has no ready pod.
    PickerNotReady,
    /// A pool refuses all requests while its only picker restarts.
    PickerAlone,
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

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Requests fail or go elsewhere than is written.
    Error,
    /// It works, and is hardly what was meant.
    Warning,
}

impl Severity {
    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

impl Reason {
    /// How bad that is.
    #[must_use]
    pub fn severity(self) -> Severity {
        match self {
            Self::PoolBypassed
            | Self::RedirectWithBackends
            | Self::PrecedenceUnclear
            | Self::ReplicasZero
            | Self::PodsShared
            | Self::MetricsOff
            | Self::MetricsMissing
            | Self::EngineUnlabelled
            | Self::PickerMissing
            | Self::PickerKindUnsupported
            | Self::PickerProtocolUnset
            | Self::PickerAlone
            | Self::WeightsMixed
            | Self::RewriteShadowed
            | Self::TargetsMissing
            | Self::ObjectiveShadowed => Severity::Warning,
            _ => Severity::Error,
        }
    }

    /// The word that scripts may rely on.
    #[must_use]
    pub fn word(self) -> String {
        let value = serde_json::to_value(self).unwrap_or_default();
        value.as_str().unwrap_or_default().to_owned()
    }
}
