//! What is kept of each object of the API server: as much as pools need, and no more.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crds::InferencePool;
use crds::inference_pool::v1alpha2;
use k8s_openapi::api::core::v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::DynamicObject;
use serde::de::DeserializeOwned;

/// The ports of a pod that serve, where not all target ports do; upstream's name and its older one.
const ACTIVE_PORTS: [&str; 2] = [
    "llm-d.ai/active-ports",
    "inference.networking.k8s.io/active-ports",
];

/// The label that stands for having been selected by the API server: no label of an object can be called that.
const SELECTED: &str = "";

/// Labels by name.
pub(super) type Labels = BTreeMap<String, String>;

/// Namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ObjectKey {
    pub(super) namespace: Arc<str>,
    pub(super) name: Arc<str>,
}

/// A pod that may serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pod {
    pub(super) uid: Arc<str>,
    pub(super) ip: IpAddr,
    pub(super) labels: Labels,
    /// The only ports that serve; all if there are none.
    pub(super) active_ports: Option<Vec<u16>>,
}

/// What a pool asks for, of either version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pool {
    pub(super) selector: Labels,
    pub(super) ports: Vec<u16>,
    /// The picker's Service and its port.
    pub(super) service: Option<(Arc<str>, Option<u16>)>,
}

/// Where the ports of a Service lead, as far as that is a number.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Service {
    pub(super) targets: BTreeMap<u16, u16>,
}

/// What is made of an object.
pub(super) enum Made<T> {
    /// It is of use.
    Kept(T),
    /// It is of none, as if it were not there.
    Ignored,
    /// It cannot be read, for that reason; what was known of it before stands.
    Unreadable(String),
}

impl ObjectKey {
    pub(super) fn of(metadata: &ObjectMeta) -> Self {
        let text = |field: &Option<String>| field.as_deref().unwrap_or_default().into();
        Self {
            namespace: text(&metadata.namespace),
            name: text(&metadata.name),
        }
    }
}

impl Pod {
    /// A pod that is Ready, not terminating, and has an address. The phase says less than the condition.
    pub(super) fn of(pod: &v1::Pod) -> Made<Self> {
        let status = pod.status.as_ref();
        let conditions = status.and_then(|status| status.conditions.as_deref());
        let is_ready = conditions
            .unwrap_or_default()
            .iter()
            .any(|one| one.type_ == "Ready" && one.status == "True");
        let ip = status.and_then(|status| status.pod_ip.as_deref()?.parse().ok());
        let (Some(ip), true) = (ip, is_ready && pod.metadata.deletion_timestamp.is_none()) else {
            return Made::Ignored;
        };
        let annotations = pod.metadata.annotations.as_ref();
        let active =
            annotations.and_then(|all| ACTIVE_PORTS.iter().find_map(|name| all.get(*name)));
        Made::Kept(Self {
            uid: pod.metadata.uid.as_deref().unwrap_or_default().into(),
            ip,
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            active_ports: active.map(|list| ports(list)),
        })
    }

    /// The same pod, which the API server has selected for the pool of [`Pool::of_selected`].
    pub(super) fn selected(mut self) -> Self {
        self.labels.insert(SELECTED.to_owned(), String::new());
        self
    }

    pub(super) fn has(&self, labels: &Labels) -> bool {
        labels
            .iter()
            .all(|(name, value)| self.labels.get(name) == Some(value))
    }
}

/// The ports of a list with commas; what is no port is left out.
fn ports(list: &str) -> Vec<u16> {
    list.split(',')
        .filter_map(|token| token.trim().parse().ok())
        .collect()
}

impl Pool {
    /// What stands for a pool where the API server selects its pods.
    pub(super) fn of_selected(ports: Vec<u16>) -> Self {
        Self {
            selector: Labels::from([(SELECTED.to_owned(), String::new())]),
            ports,
            service: None,
        }
    }

    pub(super) fn of_v1(object: &DynamicObject) -> Made<Self> {
        read(object, |pool: InferencePool| Self::of(&pool))
    }

    pub(super) fn of_v1alpha2(object: &DynamicObject) -> Made<Self> {
        read(object, |pool: v1alpha2::InferencePool| {
            Self::of(&pool.into())
        })
    }

    fn of(pool: &InferencePool) -> Self {
        let picker = pool.spec.endpoint_picker_ref.as_ref();
        let service = picker.filter(|picker| picker.kind == "Service" && picker.group.is_empty());
        Self {
            selector: pool.spec.selector.match_labels.clone(),
            ports: pool
                .spec
                .target_ports
                .iter()
                .map(|port| port.number)
                .collect(),
            service: service.map(|service| {
                let port = service.port.map(|port| port.number);
                (service.name.as_str().into(), port)
            }),
        }
    }
}

impl Service {
    pub(super) fn of(service: &v1::Service) -> Made<Self> {
        let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref());
        let target = |port: &v1::ServicePort| {
            let from = u16::try_from(port.port).ok()?;
            match &port.target_port {
                None => Some((from, from)),
                Some(IntOrString::Int(to)) => Some((from, u16::try_from(*to).ok()?)),
                Some(IntOrString::String(_)) => None,
            }
        };
        Made::Kept(Self {
            targets: ports
                .unwrap_or_default()
                .iter()
                .filter_map(target)
                .collect(),
        })
    }
}

/// An object as the core keeps it: its metadata count, too.
pub(super) fn whole<T: DeserializeOwned>(object: &DynamicObject) -> Made<T> {
    if object.metadata.deletion_timestamp.is_some() {
        return Made::Ignored;
    }
    let whole = serde_json::json!({"metadata": object.metadata, "spec": object.data.get("spec")});
    match serde_json::from_value(whole) {
        Ok(read) => Made::Kept(read),
        Err(error) => Made::Unreadable(error.to_string()),
    }
}

/// Reads an object by itself, so that one that is wrong does not hide the others; one that is being deleted is gone.
fn read<T: DeserializeOwned, R>(object: &DynamicObject, keep: impl FnOnce(T) -> R) -> Made<R> {
    if object.metadata.deletion_timestamp.is_some() {
        return Made::Ignored;
    }
    let whole = serde_json::json!({"metadata": {}, "spec": object.data.get("spec")});
    match serde_json::from_value(whole) {
        Ok(read) => Made::Kept(keep(read)),
        Err(error) => Made::Unreadable(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(status: &str, ip: Option<&str>, deleted: bool) -> v1::Pod {
        let deleted = deleted.then_some("2026-11-21T12:00:00Z");
        serde_json::from_value(json!({
            "metadata": {"name": "a", "uid": "u", "deletionTimestamp": deleted},
            "status": {"podIP": ip, "conditions": [{"type": "Ready", "status": status}]},
        }))
        .expect("a pod")
    }

    #[test]
    fn a_pod_serves_that_is_ready_has_an_address_and_stays() {
        let serves = |pod| matches!(Pod::of(&pod), Made::Kept(_));
        assert!(serves(pod("True", Some("10.0.0.1"), false)));
        assert!(!serves(pod("False", Some("10.0.0.1"), false)));
        assert!(!serves(pod("True", None, false)));
        assert!(!serves(pod("True", Some(""), false)));
        assert!(!serves(pod("True", Some("10.0.0.1"), true)));
        assert!(!serves(v1::Pod::default()));
    }

    #[test]
    fn a_pool_that_cannot_be_read_says_why() {
        let object = |spec| DynamicObject {
            types: None,
            metadata: ObjectMeta::default(),
            data: json!({"spec": spec}),
        };
        let wrong = object(json!({"selector": {"matchLabels": {"a": "b"}}, "targetPorts": "8000"}));
        assert!(matches!(Pool::of_v1(&wrong), Made::Unreadable(why) if why.contains("8000")));
        let right =
            json!({"selector": {"matchLabels": {"a": "b"}}, "targetPorts": [{"number": 8000}]});
        let Made::Kept(pool) = Pool::of_v1(&object(right)) else {
            panic!("this is a pool");
        };
        assert_eq!((pool.ports, pool.service), (vec![8000], None));
    }

    #[test]
    fn a_service_leads_to_the_ports_that_it_numbers() {
        let service = serde_json::from_value(json!({"spec": {"ports": [
            {"port": 80},
            {"port": 9012, "targetPort": 9022},
            {"port": 9013, "targetPort": "named"},
        ]}}));
        let Made::Kept(service) = Service::of(&service.expect("a Service")) else {
            panic!("every Service is kept");
        };
        assert_eq!(service.targets, BTreeMap::from([(80, 80), (9012, 9022)]));
    }
}
