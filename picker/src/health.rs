//! gRPC health checks: liveness always, everything else as readiness is at the moment of asking.

use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::shutdown::Readiness;

/// Answers health checks.
#[derive(Debug)]
pub struct HealthService {
    readiness: Readiness,
}

impl HealthService {
    /// The gRPC service.
    #[must_use]
    pub fn server(readiness: Readiness) -> HealthServer<Self> {
        HealthServer::new(Self { readiness })
    }

    /// The status of a service by the names that upstream's charts and gateways ask for.
    fn status(&self, service: &str) -> Result<ServingStatus, Status> {
        match service {
            "liveness" => Ok(ServingStatus::Serving),
            "" | "readiness" | "inference-extension" | EXT_PROC => {
                Ok(if self.readiness.is_ready() {
                    ServingStatus::Serving
                } else {
                    ServingStatus::NotServing
                })
            }
            other => Err(Status::not_found(format!(
                "no service `{other}`; ask for liveness, readiness or {EXT_PROC}"
            ))),
        }
    }
}

/// The ext_proc service, by which proxies ask.
const EXT_PROC: &str = "envoy.service.ext_proc.v3.ExternalProcessor";

#[tonic::async_trait]
impl Health for HealthService {
    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let status = self.status(&request.get_ref().service)?;
        Ok(Response::new(HealthCheckResponse {
            status: status.into(),
        }))
    }

    /// Says the status once, as upstream's picker says none: proxies and kubelets ask again by themselves.
    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let status = self.status(&request.get_ref().service)?;
        let once = async move {
            Ok(HealthCheckResponse {
                status: status.into(),
            })
        };
        Ok(Response::new(
            stream::once(once.boxed()).chain(stream::pending()).boxed(),
        ))
    }
}
