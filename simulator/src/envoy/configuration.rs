//! From a plan to Envoy's configuration: the sample of `deploy/envoy` with other addresses, ports and routes.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::{Differences, EnvoyError, Plan};
use crate::load::ext_proc::Follow;

/// The samples that people use.
const WATCHED: &str = include_str!("../../../deploy/envoy/pointsman.yaml");
const FULL: &str = include_str!("../../../deploy/envoy/full.yaml");
const RELEASED: &str = include_str!("../../../deploy/envoy/released.yaml");

/// The filter that asks the picker, and the one that shows it responses.
const PICK: &str = "envoy.filters.http.ext_proc";
const WATCH: &str = "watch";

/// Where requests go whose path begins with `prefix`, which is cut off.
#[derive(Clone, Debug)]
pub struct Route {
    /// The beginning of the path, with `/` at both ends.
    pub prefix: String,
    /// How the server is chosen.
    pub to: Upstream,
    /// The pool that the picker is told, as `namespace/name`.
    pub pool: Option<String>,
}

/// How the server of a request is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// By the picker, told by dynamic metadata to a cluster that knows the servers.
    OverrideHost,
    /// By the picker, told by the header to a cluster that knows none.
    OriginalDst,
    /// By Envoy, one after the other.
    RoundRobin,
    /// By Envoy, the one of two random servers with fewer active requests (its default of `choice_count`).
    LeastRequest,
}

/// Where the HTTP connection manager of a listener is.
const MANAGER: &str = "filter_chains/0/filters/0/typed_config";

/// The sample in which the picker follows responses in this way.
fn sample(follow: Follow) -> &'static str {
    match follow {
        Follow::Watched => WATCHED,
        Follow::Full => FULL,
        Follow::Released => RELEASED,
    }
}

/// The configuration of `plan`.
pub(super) fn of(plan: &Plan) -> Result<Value, EnvoyError> {
    let mut config: Value =
        serde_saphyr::from_str(sample(plan.follow)).map_err(|error| broken(&error))?;
    at(&mut config, "/admin/address/socket_address")?["port_value"] = json!(0);
    let listener = "/static_resources/listeners/0";
    *at(&mut config, &format!("{listener}/address"))? = address(([127, 0, 0, 1], 0).into());
    let routes = format!("{listener}/{MANAGER}/route_config/virtual_hosts/0/routes");
    let routes = at(&mut config, &routes)?;
    let sample = routes[0].clone();
    *routes = plan.routes.iter().map(|one| route(&sample, one)).collect();

    if plan.differences.trailers {
        let manager = at(&mut config, &format!("{listener}/{MANAGER}"))?;
        manager["http_protocol_options"] = json!({"enable_trailers": true});
    }
    let filters = at(&mut config, &format!("{listener}/{MANAGER}/http_filters"))?;
    let filters = filters
        .as_array_mut()
        .ok_or_else(|| broken(&"http_filters is no list"))?;
    for pick in filters.iter_mut().filter(|filter| filter["name"] == PICK) {
        ask_differently(&mut pick["typed_config"], &plan.differences);
    }
    filters.splice(..0, plan.differences.first_filters.clone());

    let clusters = at(&mut config, "/static_resources/clusters")?;
    let model_servers = clusters[1].clone();
    clusters[1] = with_servers(model_servers.clone(), "model_servers", &plan.servers);
    clusters[2] = with_servers(clusters[2].clone(), "picker", &[plan.picker]);
    if let Some(security) = &plan.picker_security {
        clusters[2]["transport_socket"] = security.clone();
    }
    let list = clusters
        .as_array_mut()
        .ok_or_else(|| broken(&"clusters are no list"))?;
    for (name, policy) in [
        ("round_robin", "ROUND_ROBIN"),
        ("least_request", "LEAST_REQUEST"),
    ] {
        let mut cluster = with_servers(model_servers.clone(), name, &plan.servers);
        if let Some(fields) = cluster.as_object_mut() {
            fields.remove("load_balancing_policy");
        }
        cluster["lb_policy"] = json!(policy);
        list.push(cluster);
    }
    Ok(config)
}

/// Changes the filter that asks the picker as the plan wants it.
fn ask_differently(filter: &mut Value, wanted: &Differences) {
    if let Some(mode) = &wanted.processing_mode {
        filter["processing_mode"] = mode.clone();
    }
    if !wanted.call_metadata.is_empty() {
        let pairs = wanted.call_metadata.iter();
        let metadata = pairs.map(|(key, value)| json!({"key": key, "value": value}));
        filter["grpc_service"]["initial_metadata"] = metadata.collect();
    }
}

/// The sample's route for one of the plan's.
fn route(sample: &Value, route: &Route) -> Value {
    let mut value = sample.clone();
    value["match"] = json!({"prefix": route.prefix});
    value["route"]["prefix_rewrite"] = json!("/");
    value["route"]["cluster"] = json!(match route.to {
        Upstream::OverrideHost => "model_servers",
        Upstream::OriginalDst => "original_dst",
        Upstream::RoundRobin => "round_robin",
        Upstream::LeastRequest => "least_request",
    });
    if route.to == Upstream::OverrideHost {
        value["route"]["retry_policy"] =
            json!({"retry_on": "connect-failure,refused-stream", "num_retries": 2});
    }
    let own = |mut own: Value| {
        own["@type"] =
            json!("type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute");
        own
    };
    match (route.to, &route.pool) {
        (Upstream::RoundRobin | Upstream::LeastRequest, _) => {
            let off = own(json!({"disabled": true}));
            value["typed_per_filter_config"] = json!({PICK: off, WATCH: off});
        }
        (_, Some(pool)) => {
            let metadata = json!([{"key": "x-pointsman-pool", "value": pool}]);
            let told = own(json!({"overrides": {"grpc_initial_metadata": metadata}}));
            value["typed_per_filter_config"] = json!({PICK: told});
        }
        (_, None) => {}
    }
    value
}

/// A cluster of another name, with these servers.
fn with_servers(mut cluster: Value, name: &str, servers: &[SocketAddr]) -> Value {
    let endpoint = |&server| json!({"endpoint": {"address": address(server)}});
    let endpoints: Vec<Value> = servers.iter().map(endpoint).collect();
    cluster["name"] = json!(name);
    cluster["load_assignment"] =
        json!({"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]});
    cluster
}

fn address(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

fn at<'a>(config: &'a mut Value, place: &str) -> Result<&'a mut Value, EnvoyError> {
    config
        .pointer_mut(place)
        .ok_or_else(|| broken(&format!("there is no {place}")))
}

fn broken(reason: &dyn std::fmt::Display) -> EnvoyError {
    EnvoyError::Configuration(reason.to_string())
}
