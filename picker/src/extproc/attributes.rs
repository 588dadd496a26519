//! What the proxy says beside the body: headers, the subset hint, the endpoint that served.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue, Metadata};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use picker_core::endpoint::Subset;
use picker_core::refusal::Dialect;
use picker_core::request::MODEL_HEADER;
use picker_core::route;
use picker_core::view::objective::{FAIRNESS, OBJECTIVE};
use picker_core::view::rewrite::REWRITE;

/// The header, and the key of dynamic metadata, that says where a request goes.
pub(super) const DESTINATION: &str = "x-gateway-destination-endpoint";
/// The namespace of dynamic metadata that proxies read the destination from.
pub(super) const NAMESPACE: &str = "envoy.lb";
const SERVED: &str = "x-gateway-destination-endpoint-served";
const SUBSET_NAMESPACE: &str = "envoy.lb.subset_hint";
const SUBSET: &str = "x-gateway-destination-endpoint-subset";
/// Envoy's attributes of the cluster and the route that it has chosen.
const CLUSTER_NAME: &str = "xds.cluster_name";
const ROUTE_NAME: &str = "xds.route_name";
/// Where the tests of the Inference Extension want a request to go.
const TEST_SELECTION: &str = "test-epp-endpoint-selection";

/// Request headers by which a client could steer pickers, gateways and the sidecars of model servers. They are for the proxy
/// to set; none goes on to a model server. Names of the Inference Extension and of llm-d's router, old and new.
/// ([`DESTINATION`] is not among them: every pick overwrites it.)
const CONTROL: [&str; 19] = [
    "test-epp-endpoint-selection",
    "x-data-parallel-host-port",
    "x-encoder-hosts-ports",
    "x-gateway-destination-endpoint-fallback",
    "x-gateway-destination-endpoint-served",
    "x-gateway-destination-endpoint-subset",
    "x-gateway-inference-fairness-id",
    "x-gateway-inference-objective",
    "x-gateway-model-name-rewrite",
    "x-kv-cache-source-host-port",
    "x-llm-d-inference-fairness-id",
    "x-llm-d-inference-objective",
    "x-llm-d-model-name-rewrite",
    "x-llm-d-slo-tpot-ms",
    "x-llm-d-slo-ttft-ms",
    "x-prefiller-host-port",
    "x-session-token",
    "x-slo-tpot-ms",
    "x-slo-ttft-ms",
];

/// The namespace of dynamic metadata in which a proxy says what control headers would, under their names.
const TOLD_NAMESPACE: &str = "pointsman";

/// The longest request id that is kept: it stands in memory once for each receipt.
const REQUEST_ID_MAX_BYTES: usize = 256;

/// Which headers of clients are believed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// Control headers count where the proxy's metadata says nothing.
    pub headers: bool,
    /// The header by which conformance tests name the endpoint counts.
    pub test_selection: bool,
}

/// What the headers of a request say.
#[derive(Clone, Debug)]
pub(super) struct Head {
    pub(super) path: String,
    /// Whether it is `GET`.
    pub(super) gets: bool,
    pub(super) request_id: Arc<str>,
    /// Whether the id is ours, and to be set.
    pub(super) new_id: bool,
    /// The model, where a filter before us has put it into a header.
    pub(super) model: Option<String>,
    /// The errors that the client understands.
    pub(super) dialect: Dialect,
    /// The length of the body, where the client says it.
    pub(super) content_length: Option<u64>,
    /// Control headers that stand there, and are to be removed.
    pub(super) control: Vec<&'static str>,
    /// The endpoint that a test selects.
    pub(super) selected: Option<Subset>,
    /// The endpoints to which a believed header limits the choice.
    pub(super) subset: Option<Subset>,
    /// Every header, as it came.
    raw: HeaderMap,
    /// What the proxy's metadata says in the place of control headers.
    told: Vec<(&'static str, String)>,
    /// Whether control headers count.
    trusted: bool,
}

impl Head {
    pub(super) fn of(
        headers: Option<HeaderMap>,
        metadata: Option<&Metadata>,
        trust: Trust,
    ) -> Self {
        let raw = headers.unwrap_or_default();
        let header = |name| header(Some(&raw), name);
        let id =
            header("x-request-id").filter(|id| !id.is_empty() && id.len() <= REQUEST_ID_MAX_BYTES);
        let listed = |name| header(name).map(|list| Subset::parse([list]));
        Self {
            path: header(":path").unwrap_or_default().to_owned(),
            gets: header(":method") == Some("GET"),
            new_id: id.is_none(),
            dialect: Dialect::of(
                header(":path").unwrap_or_default(),
                header("content-type").unwrap_or_default(),
            ),
            model: header(MODEL_HEADER).map(str::to_owned),
            content_length: header("content-length").and_then(|length| length.parse().ok()),
            request_id: id.map_or_else(new_request_id, Arc::from),
            control: control(&raw),
            selected: listed(TEST_SELECTION).filter(|_| trust.test_selection),
            subset: listed(SUBSET).filter(|_| trust.headers),
            told: told(metadata),
            trusted: trust.headers,
            raw,
        }
    }

    /// Names and values of the headers, as often as they were sent; values that are no text are left out.
    pub(super) fn fields(&self) -> Vec<(&str, &str)> {
        let fields = self.raw.headers.iter();
        fields
            .filter_map(|header| Some((&*header.key, text(header)?)))
            .collect()
    }

    /// The head as routes look at it, with its `fields`.
    pub(super) fn for_routes<'a>(
        &'a self,
        fields: &'a [(&'a str, &'a str)],
    ) -> route::head::Head<'a> {
        let field = |name| header(Some(&self.raw), name);
        route::head::Head {
            authority: field(":authority")
                .or_else(|| field("host"))
                .unwrap_or_default(),
            method: field(":method").unwrap_or_default(),
            path: &self.path,
            headers: fields,
        }
    }

    /// What is said of the request beside its body, by name, of one name the last counts: its headers, but for control headers that
    /// are not believed, and then what the proxy's metadata says in their place.
    pub(super) fn pairs(&self) -> Vec<(&str, &str)> {
        let headers = self.raw.headers.iter();
        let believed = headers.filter(|header| {
            let is_control = || CONTROL.contains(&header.key.as_str());
            self.trusted || self.control.is_empty() || !is_control()
        });
        let said = believed.filter_map(|header| Some((header.key.as_str(), text(header)?)));
        let told = self
            .told
            .iter()
            .map(|(name, value)| (*name, value.as_str()));
        said.chain(told).collect()
    }
}

/// What a proxy's metadata says in the place of the headers that name objective, fairness key and model.
fn told(metadata: Option<&Metadata>) -> Vec<(&'static str, String)> {
    let names = [OBJECTIVE, FAIRNESS, REWRITE].into_iter().flatten();
    let told =
        names.filter_map(
            |name| match value(metadata, TOLD_NAMESPACE, name)?.kind.as_ref()? {
                Kind::StringValue(text) => Some((*name, text.clone())),
                _ => None,
            },
        );
    told.collect()
}

/// The value of a header, of several the last; names come in lower case, values in `raw_value` or, from older proxies, in
/// `value`.
pub(super) fn header<'a>(headers: Option<&'a HeaderMap>, name: &str) -> Option<&'a str> {
    let found = headers?
        .headers
        .iter()
        .rev()
        .find(|header| header.key.eq_ignore_ascii_case(name))?;
    text(found)
}

fn text(header: &HeaderValue) -> Option<&str> {
    if header.raw_value.is_empty() {
        Some(&header.value)
    } else {
        std::str::from_utf8(&header.raw_value).ok()
    }
}

/// The control headers among `headers`, each once.
fn control(headers: &HeaderMap) -> Vec<&'static str> {
    let mut found = Vec::new();
    for header in &headers.headers {
        let name = CONTROL
            .iter()
            .find(|name| header.key.eq_ignore_ascii_case(name));
        if let Some(name) = name
            && !found.contains(name)
        {
            found.push(*name);
        }
    }
    found
}

/// The endpoints to which the proxy limits the choice; `None` if it gives no hint.
///
/// A list, or a string with commas; anything else is an empty hint, which leaves no endpoint.
pub(super) fn subset(metadata: Option<&Metadata>) -> Option<Subset> {
    let value = value(metadata, SUBSET_NAMESPACE, SUBSET)?;
    Some(match value.kind.as_ref() {
        Some(Kind::StringValue(list)) => Subset::parse([list.as_str()]),
        Some(Kind::ListValue(list)) => {
            Subset::parse(
                list.values
                    .iter()
                    .filter_map(|value| match value.kind.as_ref() {
                        Some(Kind::StringValue(token)) => Some(token.as_str()),
                        _ => None,
                    }),
            )
        }
        _ => Subset::default(),
    })
}

/// How the proxy calls the cluster and the route of the request, where it says so.
pub(super) fn names(attributes: &HashMap<String, Struct>) -> Vec<String> {
    let of = |name| {
        let values = attributes
            .values()
            .filter_map(move |one| one.fields.get(name));
        values.filter_map(|value: &Value| match value.kind.as_ref() {
            Some(Kind::StringValue(text)) => Some(text.clone()),
            _ => None,
        })
    };
    of(CLUSTER_NAME).chain(of(ROUTE_NAME)).collect()
}

/// The endpoint that the proxy says served the request.
pub(super) fn served(metadata: Option<&Metadata>) -> Option<SocketAddr> {
    match value(metadata, NAMESPACE, SERVED)?.kind.as_ref()? {
        Kind::StringValue(address) => address.trim().parse().ok(),
        _ => None,
    }
}

fn value<'a>(metadata: Option<&'a Metadata>, namespace: &str, key: &str) -> Option<&'a Value> {
    metadata?.filter_metadata.get(namespace)?.fields.get(key)
}

/// An id for a request that came without: unlike those of other replicas and of earlier lives of this one.
fn new_request_id() -> Arc<str> {
    static LIFE: LazyLock<u128> = LazyLock::new(|| {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        since_1970.unwrap_or_default().as_nanos() ^ u128::from(std::process::id()).rotate_left(64)
    });
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!(
        "pointsman-{:x}-{}",
        *LIFE,
        COUNT.fetch_add(1, Ordering::Relaxed)
    )
    .into()
}
