//! The objects of the Gateway API that routing depends on, as plain values of the shape they have in YAML.
//!
//! Only the fields that decide where a request goes are here; others are ignored when an object is read. What
//! upstream fills in when a field is absent, these types fill in too (`sigs.k8s.io/gateway-api/apis/v1`).

mod gateway;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use self::gateway::{
    AllowedRoutes, FromNamespaces, Gateway, GatewaySpec, Grant, GrantFrom, GrantSpec, GrantTo,
    GroupKind, LabelExpression, LabelSelector, Listener, Namespace, RouteNamespaces,
};

/// The API group of Gateway, HTTPRoute, GRPCRoute and ReferenceGrant.
pub const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
/// The API group of InferencePool.
pub const POOL_GROUP: &str = "inference.networking.k8s.io";
/// The API group of InferencePoolImport, and of InferencePool before v1.
pub const POOL_GROUP_EXPERIMENTAL: &str = "inference.networking.x-k8s.io";

/// What an object is called, and what precedence depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// The name in the namespace.
    pub name: Arc<str>,
    /// The namespace; `default` where none is written.
    #[serde(default = "default_namespace")]
    pub namespace: Arc<str>,
    /// When it was created: RFC 3339 in UTC to the second, as the API server writes it, so that text order is time order.
    #[serde(default)]
    pub creation_timestamp: Option<Arc<str>>,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// Its annotations.
    #[serde(default)]
    pub annotations: BTreeMap<Arc<str>, Arc<str>>,
}

fn default_namespace() -> Arc<str> {
    "default".into()
}

/// A namespace and a name in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ObjectKey {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name in the namespace.
    pub name: Arc<str>,
}

/// Which of the two route kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum RouteKind {
    /// HTTPRoute.
    #[serde(rename = "HTTPRoute")]
    Http,
    /// GRPCRoute.
    #[serde(rename = "GRPCRoute")]
    Grpc,
}

/// The name of a route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteKey {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name in the namespace.
    pub name: Arc<str>,
    /// The kind.
    pub kind: RouteKind,
}

/// A route of either kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// An HTTPRoute.
    Http(HttpRoute),
    /// A GRPCRoute.
    Grpc(GrpcRoute),
}

/// An HTTPRoute.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct HttpRoute {
    /// Its name.
    pub metadata: Metadata,
    /// What it asks for.
    pub spec: HttpRouteSpec,
}

/// What an HTTPRoute asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRouteSpec {
    /// What it attaches to.
    pub parent_refs: Vec<ParentRef>,
    /// The hosts it is for; any, if there is none.
    pub hostnames: Vec<Arc<str>>,
    /// Its rules.
    pub rules: Vec<HttpRule>,
}

/// One rule of an HTTPRoute.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRule {
    /// The requests it is for; all, if there is none.
    pub matches: Vec<HttpMatch>,
    /// What is done to the request on its way.
    pub filters: Vec<Filter>,
    /// Where it goes.
    pub backend_refs: Vec<BackendRef>,
}

/// Conditions that a request has to meet all of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpMatch {
    /// The path; any, if absent.
    pub path: Option<PathMatch>,
    /// Headers.
    pub headers: Vec<NameMatch>,
    /// Query parameters.
    pub query_params: Vec<NameMatch>,
    /// The method; any, if absent.
    pub method: Option<Arc<str>>,
}

/// A condition on the path.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PathMatch {
    /// How the value is compared.
    #[serde(rename = "type")]
    pub kind: PathMatchKind,
    /// What the path is compared with.
    pub value: Arc<str>,
}

impl Default for PathMatch {
    fn default() -> Self {
        Self {
            kind: PathMatchKind::PathPrefix,
            value: "/".into(),
        }
    }
}

/// How a path is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum PathMatchKind {
    /// The whole path, byte by byte.
    Exact,
    /// The first elements of the path.
    PathPrefix,
    /// The whole path against a regular expression.
    RegularExpression,
    /// A kind that this program does not know: it matches nothing.
    #[serde(other)]
    Unknown,
}

/// A condition on a header or query parameter.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct NameMatch {
    /// How the value is compared.
    #[serde(rename = "type", default)]
    pub kind: ValueMatchKind,
    /// The header or parameter.
    pub name: Arc<str>,
    /// What its value is compared with.
    pub value: Arc<str>,
}

/// How a value is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum ValueMatchKind {
    /// Byte by byte.
    #[default]
    Exact,
    /// The whole value against a regular expression.
    RegularExpression,
    /// A kind that this program does not know: it matches nothing.
    #[serde(other)]
    Unknown,
}

/// A GRPCRoute.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct GrpcRoute {
    /// Its name.
    pub metadata: Metadata,
    /// What it asks for.
    pub spec: GrpcRouteSpec,
}

/// What a GRPCRoute asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GrpcRouteSpec {
    /// What it attaches to.
    pub parent_refs: Vec<ParentRef>,
    /// The hosts it is for; any, if there is none.
    pub hostnames: Vec<Arc<str>>,
    /// Its rules.
    pub rules: Vec<GrpcRule>,
}

/// One rule of a GRPCRoute.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GrpcRule {
    /// The calls it is for; all, if there is none.
    pub matches: Vec<GrpcMatch>,
    /// What is done to the call on its way.
    pub filters: Vec<Filter>,
    /// Where it goes.
    pub backend_refs: Vec<BackendRef>,
}

/// Conditions that a call has to meet all of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct GrpcMatch {
    /// The service and method; any, if absent.
    pub method: Option<GrpcMethodMatch>,
    /// Headers.
    pub headers: Vec<NameMatch>,
}

/// A condition on the service and method of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct GrpcMethodMatch {
    /// How both are compared.
    #[serde(rename = "type")]
    pub kind: ValueMatchKind,
    /// The service; any, if absent or empty.
    pub service: Option<Arc<str>>,
    /// The method; any, if absent or empty.
    pub method: Option<Arc<str>>,
}

/// What a route attaches to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentRef {
    /// The API group; empty for a Service.
    #[serde(default = "gateway_group")]
    pub group: Arc<str>,
    /// The kind: Gateway or Service.
    #[serde(default = "gateway_kind")]
    pub kind: Arc<str>,
    /// The namespace; the route's own, if absent.
    #[serde(default)]
    pub namespace: Option<Arc<str>>,
    /// The name.
    pub name: Arc<str>,
    /// The only listener, or port of a Service, that is meant.
    #[serde(default)]
    pub section_name: Option<Arc<str>>,
    /// The only port that is meant.
    #[serde(default)]
    pub port: Option<u16>,
}

fn gateway_group() -> Arc<str> {
    GATEWAY_GROUP.into()
}

fn gateway_kind() -> Arc<str> {
    "Gateway".into()
}

/// Where a rule sends requests.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct BackendRef {
    /// The API group; empty for a Service.
    #[serde(default)]
    pub group: Arc<str>,
    /// The kind.
    #[serde(default = "service_kind")]
    pub kind: Arc<str>,
    /// The namespace; the route's own, if absent.
    #[serde(default)]
    pub namespace: Option<Arc<str>>,
    /// The name.
    pub name: Arc<str>,
    /// Its part of the rule's requests, against the sum of the rule's weights; 0 is none.
    #[serde(default = "one")]
    pub weight: u32,
    /// What is done to the request on its way to this backend alone.
    #[serde(default)]
    pub filters: Vec<Filter>,
}

fn service_kind() -> Arc<str> {
    "Service".into()
}

fn one() -> u32 {
    1
}

/// Something done to a request on its way; at most one of the fields is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Filter {
    /// The kind of filter, as upstream names it.
    #[serde(rename = "type")]
    pub kind: Arc<str>,
    /// Headers that are set, added or removed.
    pub request_header_modifier: Option<HeaderModifier>,
    /// Another host or path.
    pub url_rewrite: Option<UrlRewrite>,
}

/// Headers that are set, added or removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct HeaderModifier {
    /// Headers that get this value and no other.
    pub set: Vec<HeaderValue>,
    /// Headers that get this value beside those they have.
    pub add: Vec<HeaderValue>,
    /// Names of headers that go.
    pub remove: Vec<Arc<str>>,
}

/// A header and its value.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct HeaderValue {
    /// The name.
    pub name: Arc<str>,
    /// The value.
    pub value: Arc<str>,
}

/// Another host or path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct UrlRewrite {
    /// The host that the request gets.
    pub hostname: Option<Arc<str>>,
    /// The path that the request gets.
    pub path: Option<PathModifier>,
}

/// The path that a request gets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PathModifier {
    /// The whole path.
    pub replace_full_path: Option<Arc<str>>,
    /// What stands in the place of the matched prefix.
    pub replace_prefix_match: Option<Arc<str>>,
}

// === impl Route ===

impl Route {
    /// Its name, creation and labels.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        match self {
            Self::Http(route) => &route.metadata,
            Self::Grpc(route) => &route.metadata,
        }
    }

    /// Its kind, namespace and name.
    #[must_use]
    pub fn key(&self) -> RouteKey {
        let metadata = self.metadata();
        RouteKey {
            namespace: metadata.namespace.clone(),
            name: metadata.name.clone(),
            kind: self.kind(),
        }
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> RouteKind {
        match self {
            Self::Http(_) => RouteKind::Http,
            Self::Grpc(_) => RouteKind::Grpc,
        }
    }

    /// What it attaches to.
    #[must_use]
    pub fn parent_refs(&self) -> &[ParentRef] {
        match self {
            Self::Http(route) => &route.spec.parent_refs,
            Self::Grpc(route) => &route.spec.parent_refs,
        }
    }

    /// The hosts it is for; any, if there is none.
    #[must_use]
    pub fn hostnames(&self) -> &[Arc<str>] {
        match self {
            Self::Http(route) => &route.spec.hostnames,
            Self::Grpc(route) => &route.spec.hostnames,
        }
    }

    /// The backends of each rule, in order.
    pub fn backend_refs(&self) -> impl Iterator<Item = &[BackendRef]> {
        let (http, grpc) = match self {
            Self::Http(route) => (&*route.spec.rules, &[][..]),
            Self::Grpc(route) => (&[][..], &*route.spec.rules),
        };
        let http = http.iter().map(|rule: &HttpRule| &*rule.backend_refs);
        http.chain(grpc.iter().map(|rule: &GrpcRule| &*rule.backend_refs))
    }
}

// === impl ParentRef ===

impl ParentRef {
    /// Whether it names a Gateway.
    #[must_use]
    pub fn is_gateway(&self) -> bool {
        &*self.group == GATEWAY_GROUP && &*self.kind == "Gateway"
    }

    /// Whether it names a Service, for traffic inside a mesh.
    #[must_use]
    pub fn is_service(&self) -> bool {
        self.group.is_empty() && &*self.kind == "Service"
    }

    /// What it names, seen from a route in `namespace`.
    #[must_use]
    pub fn target(&self, namespace: &Arc<str>) -> ObjectKey {
        ObjectKey {
            namespace: self.namespace.as_ref().unwrap_or(namespace).clone(),
            name: self.name.clone(),
        }
    }
}

// === impl BackendRef ===

impl BackendRef {
    /// Whether it names an InferencePool.
    #[must_use]
    pub fn is_pool(&self) -> bool {
        &*self.group == POOL_GROUP && &*self.kind == "InferencePool"
    }

    /// Whether it names an InferencePoolImport, which another cluster's picker serves.
    #[must_use]
    pub fn is_import(&self) -> bool {
        &*self.group == POOL_GROUP_EXPERIMENTAL && &*self.kind == "InferencePoolImport"
    }

    /// What it names, seen from a route in `namespace`.
    #[must_use]
    pub fn target(&self, namespace: &Arc<str>) -> ObjectKey {
        ObjectKey {
            namespace: self.namespace.as_ref().unwrap_or(namespace).clone(),
            name: self.name.clone(),
        }
    }
}

// === impl ObjectKey, RouteKind, RouteKey ===

impl Metadata {
    /// Its namespace and name.
    #[must_use]
    pub fn key(&self) -> ObjectKey {
        ObjectKey {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Display for RouteKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Http => "HTTPRoute",
            Self::Grpc => "GRPCRoute",
        })
    }
}

impl fmt::Display for RouteKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}
