//! From a plan to Envoy's configuration: the sample of `deploy/envoy` with other addresses, ports and routes.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::{EnvoyError, Plan};

/// The sample that people use.
const SAMPLE: &str = include_str!("../../../deploy/envoy/pointsman.yaml");

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

/// The configuration of `plan`.
pub(super) fn of(plan: &Plan) -> Result<Value, EnvoyError> {
    let mut config: Value = serde_saphyr::from_str(SAMPLE).map_err(|error| broken(&error))?;
    at(&mut config, "/admin/address/socket_address")?["port_value"] = json!(0);
    let listener = "/static_resources/listeners/0";
    *at(&mut config, &format!("{listener}/address"))? = address(([127, 0, 0, 1], 0).into());
    let hosts = "filter_chains/0/filters/0/typed_config/route_config/virtual_hosts";
    let routes = at(&mut config, &format!("{listener}/{hosts}/0/routes"))?;
    let sample = routes[0].clone();
    *routes = plan.routes.iter().map(|one| route(&sample, one)).collect();

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
    let own = match (route.to, &route.pool) {
        (Upstream::RoundRobin | Upstream::LeastRequest, _) => json!({"disabled": true}),
        (_, Some(pool)) => json!({
            "overrides": {"grpc_initial_metadata": [{"key": "x-pointsman-pool", "value": pool}]}
        }),
        (_, None) => return value,
    };
    let mut own = own;
    own["@type"] =
        json!("type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute");
    value["typed_per_filter_config"] = json!({"envoy.filters.http.ext_proc": own});
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
