//! The admin port: metrics, liveness, readiness, and what the picker thinks, for those on this machine.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::{ConnectInfo, Path, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use picker_core::picker::EndpointState;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use serde::Serialize;

use crate::driver::{Filter, Pools};
use crate::shutdown::Readiness;

/// How many receipts an answer lists where nobody says.
const LIST_DEFAULT: usize = 20;
/// The most receipts that one answer lists.
const LIST_MAX: usize = 1000;

/// What the admin port shows.
#[derive(Clone, Debug)]
pub struct Admin {
    /// The pools.
    pub pools: Arc<Pools>,
    /// Whether new work is welcome.
    pub readiness: Readiness,
    /// All metrics. The lock keeps the gauges of one scrape from being mixed with those of another.
    pub registry: Arc<Mutex<Registry>>,
}

impl Admin {
    /// The routes; to be served with the peer's address.
    pub fn router(self) -> Router {
        let debug = Router::new()
            .route("/debug/state", get(state))
            .route("/debug/decisions", get(decisions))
            .route("/debug/decisions/{id}", get(decision))
            .layer(middleware::from_fn(loopback_only));
        Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(readyz))
            .merge(debug)
            .with_state(self)
    }
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let pools = admin.pools.all();
    let states: Vec<_> = pools
        .iter()
        .map(|handle| (handle.label(), handle.in_flight(), handle.endpoints()))
        .collect();
    let registry = admin
        .registry
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    admin.pools.metrics().observe(&states);
    let mut page = String::new();
    if encode(&mut page, &registry).is_err() {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], page).into_response()
}

async fn readyz(State(admin): State<Admin>) -> Response {
    let guards = admin.readiness.guards();
    let ready = guards.iter().all(|guard| guard.missing.is_none());
    let mut page = String::new();
    for guard in guards {
        page += &match guard.missing {
            None => format!("[+] {}\n", guard.name),
            Some(missing) => format!("[-] {}: {missing}\n", guard.name),
        };
    }
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, page).into_response()
}

/// One pool in `/debug/state`.
#[derive(Serialize)]
struct PoolState {
    pool: String,
    in_flight: usize,
    objectives: BTreeMap<Arc<str>, i32>,
    endpoints: Vec<EndpointState>,
}

async fn state(State(admin): State<Admin>) -> Response {
    let pools = admin.pools.all();
    let state = pools.iter().map(|handle| PoolState {
        pool: handle.pool().to_string(),
        in_flight: handle.in_flight(),
        objectives: handle.view().priorities().clone(),
        endpoints: handle.endpoints(),
    });
    Json(serde_json::json!({ "pools": state.collect::<Vec<_>>() })).into_response()
}

async fn decisions(State(admin): State<Admin>, Query(filter): Query<Filter>) -> Response {
    let most = filter.limit.unwrap_or(LIST_DEFAULT).min(LIST_MAX);
    let receipts = admin.pools.receipts();
    let found = receipts.list(admin.pools.now(), &filter, most);
    Json(serde_json::json!({ "decisions": found })).into_response()
}

async fn decision(State(admin): State<Admin>, Path(id): Path<String>) -> Response {
    match admin.pools.receipts().get(&id) {
        Some(stored) => Json(stored).into_response(),
        None => {
            let text = format!(
                "no decision about request {id} is kept: it was made by another replica, is too old \
                 (--receipts-mib), or the id is not the x-request-id that the picker saw\n"
            );
            (StatusCode::NOT_FOUND, text).into_response()
        }
    }
}

/// Receipts tell of models and addresses, so they are for this machine until there is authentication.
async fn loopback_only(
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    if is_this_machine(peer) {
        return next.run(request).await;
    }
    let text = "/debug answers on the loopback address only; use kubectl port-forward or a shell on this machine\n";
    (StatusCode::FORBIDDEN, text).into_response()
}

fn is_this_machine(peer: SocketAddr) -> bool {
    peer.ip().to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_loopback_peer_is_this_machine() {
        for (peer, expected) in [
            ("127.0.0.1:1", true),
            ("127.9.9.9:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("10.0.0.1:1", false),
            ("[::ffff:10.0.0.1]:1", false),
            ("[fe80::1]:1", false),
        ] {
            assert_eq!(
                is_this_machine(peer.parse().expect("an address")),
                expected,
                "{peer}"
            );
        }
    }
}
