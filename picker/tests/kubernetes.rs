//! The picker in a cluster: a real API server with its etcd, a real Envoy, and simulated servers where pods would be.

mod kubernetes {
    pub(crate) mod api_server;
    pub(crate) mod call;
    pub(crate) mod echo;
    pub(crate) mod gateway_api;
    pub(crate) mod object;
    pub(crate) mod scene;

    mod check;
    mod conformance;
    mod gateways;
    mod intent;
    mod isolation;
    mod life;
    mod migrate;
    mod outage;
    mod publish;
    mod reach;
    mod rights;
    mod routes;
}
