//! What the conformance tests of the Inference Extension ask of a picker beside the protocol; only with `--conformance`.
//!
//! They see through the response which endpoint the proxy says served: the picker puts that into a header of the response, and
//! has the tests' own server put it there too, for proxies that show the picker no responses
//! (`kubernetes-sigs/gateway-api-inference-extension`, `pkg/lwepp/handlers`).

use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    BodyResponse, HeadersResponse, ProcessingResponse,
};

use super::attributes::{self, NAMESPACE};
use super::reply;

/// The response header that says which endpoint served.
const SERVED: &str = "x-conformance-test-served-endpoint";
/// The request header that has the tests' server set a header of its response, as `name:value`.
const ECHO: &str = "x-echo-set-header";

/// Has the server say which endpoint was picked.
pub(super) fn ask_for_echo(answer: &mut ProcessingResponse, endpoint: &str) {
    set(answer, ECHO, &format!("{SERVED}:{endpoint}"));
}

/// Says which endpoint served, or that the proxy does not tell.
pub(super) fn tell_served(answer: &mut ProcessingResponse, metadata: Option<&Metadata>) {
    let is_told = metadata.is_some_and(|all| all.filter_metadata.contains_key(NAMESPACE));
    let served = attributes::served(metadata).map(|address| address.to_string());
    let value = match (is_told, served) {
        (_, Some(served)) => served,
        (true, None) => "fail: missing destination endpoint served metadata".to_owned(),
        (false, None) => "fail: missing envoy lb metadata".to_owned(),
    };
    set(answer, SERVED, &value);
}

/// Sets a header beside what an answer to headers, or to a body that is held with them, does.
fn set(answer: &mut ProcessingResponse, name: &str, value: &str) {
    let common = match &mut answer.response {
        Some(
            Response::RequestHeaders(HeadersResponse { response })
            | Response::ResponseHeaders(HeadersResponse { response })
            | Response::RequestBody(BodyResponse { response }),
        ) => response.get_or_insert_default(),
        _ => return,
    };
    let mutation = common.header_mutation.get_or_insert_default();
    mutation.set_headers.push(reply::set(name, value));
}
