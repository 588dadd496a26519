//! What routes attach to and who may refer to what: Gateway, Namespace and ReferenceGrant, as plain values.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;

use super::{Metadata, gateway_group};

/// A Gateway.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Gateway {
    /// Its name.
    pub metadata: Metadata,
    /// What it asks for.
    pub spec: GatewaySpec,
}

/// What a Gateway asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct GatewaySpec {
    /// Where requests come in.
    pub listeners: Vec<Listener>,
}

/// Where requests come in.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// The name in the Gateway.
    pub name: Arc<str>,
    /// The host it is for; any, if absent.
    #[serde(default)]
    pub hostname: Option<Arc<str>>,
    /// The port.
    pub port: u16,
    /// HTTP or HTTPS; routes of other protocols do not lead to pools.
    pub protocol: Arc<str>,
    /// Which routes may attach.
    #[serde(default)]
    pub allowed_routes: AllowedRoutes,
}

/// Which routes may attach to a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct AllowedRoutes {
    /// From which namespaces.
    pub namespaces: RouteNamespaces,
    /// Of which kinds; what the protocol carries, if there is none.
    pub kinds: Vec<GroupKind>,
}

/// A group and kind.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct GroupKind {
    /// The API group.
    #[serde(default = "gateway_group")]
    pub group: Arc<str>,
    /// The kind.
    pub kind: Arc<str>,
}

/// From which namespaces routes may attach.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct RouteNamespaces {
    /// How namespaces are chosen.
    pub from: FromNamespaces,
    /// The labels of those that may, where they are chosen by labels.
    pub selector: Option<LabelSelector>,
}

/// How namespaces are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum FromNamespaces {
    /// Every namespace.
    All,
    /// The Gateway's own.
    #[default]
    Same,
    /// Those that a selector matches.
    Selector,
    /// No namespace, or a way that this program does not know.
    #[serde(other)]
    None,
}

/// Labels that a namespace has to have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelSelector {
    /// Labels by value.
    pub match_labels: BTreeMap<Arc<str>, Arc<str>>,
    /// Labels by expression.
    pub match_expressions: Vec<LabelExpression>,
}

/// One expression of a selector.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct LabelExpression {
    /// The label.
    pub key: Arc<str>,
    /// In, NotIn, Exists or DoesNotExist; another matches nothing.
    pub operator: Arc<str>,
    /// The values of In and NotIn.
    #[serde(default)]
    pub values: Vec<Arc<str>>,
}

/// A Namespace.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Namespace {
    /// Its name and labels.
    pub metadata: Metadata,
}

/// A ReferenceGrant.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Grant {
    /// Its name; its namespace is the one that grants.
    pub metadata: Metadata,
    /// What it grants.
    pub spec: GrantSpec,
}

/// What a ReferenceGrant grants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct GrantSpec {
    /// Who may refer.
    pub from: Vec<GrantFrom>,
    /// To what.
    pub to: Vec<GrantTo>,
}

/// Who may refer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct GrantFrom {
    /// The API group.
    #[serde(default)]
    pub group: Arc<str>,
    /// The kind.
    pub kind: Arc<str>,
    /// The namespace.
    pub namespace: Arc<str>,
}

/// What may be referred to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct GrantTo {
    /// The API group.
    #[serde(default)]
    pub group: Arc<str>,
    /// The kind.
    pub kind: Arc<str>,
    /// The only object; every one of the kind, if absent.
    #[serde(default)]
    pub name: Option<Arc<str>>,
}
