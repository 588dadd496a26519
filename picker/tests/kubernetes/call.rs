//! One call to the picker as a proxy makes it, with what proxies say in different ways.

use std::collections::HashMap;
use std::net::SocketAddr;

use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue, Metadata};
use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_client::ExternalProcessorClient;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request as Part;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response as Answer;
use envoy_types::pb::envoy::service::ext_proc::v3::{HttpHeaders, ProcessingRequest};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use futures::stream;
use tonic::transport::{Channel, Endpoint};

/// What the call says of the pool it is for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Call {
    /// The authority of the call.
    pub(crate) authority: Option<String>,
    /// The metadata `x-pointsman-pool`.
    pub(crate) pool: Option<String>,
    /// The attribute `xds.cluster_name`.
    pub(crate) cluster: Option<String>,
    /// The subset hint.
    pub(crate) subset: Option<String>,
}

impl Call {
    /// A connection to a picker on which calls have this one's authority.
    pub(crate) async fn connect(&self, picker: SocketAddr) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{picker}")).expect("an address");
        let authority = self.authority.as_deref().unwrap_or("127.0.0.1");
        let origin = format!("http://{authority}").parse().expect("an authority");
        let channel = endpoint.origin(origin).connect().await;
        channel.expect("the picker listens")
    }

    /// Asks where a request without body goes: the address, or the body of the refusal.
    pub(crate) async fn ask(&self, channel: &Channel) -> Result<SocketAddr, String> {
        let mut call = tonic::Request::new(stream::iter([self.request()]));
        if let Some(pool) = &self.pool {
            let pool = pool.parse().expect("a value");
            call.metadata_mut().insert("x-pointsman-pool", pool);
        }
        let mut client = ExternalProcessorClient::new(channel.clone());
        let mut answers = client.process(call).await.expect("a stream").into_inner();
        let answer = answers.message().await.expect("an answer").expect("one");
        match answer.response {
            Some(Answer::RequestHeaders(headers)) => {
                let mutation = headers.response.and_then(|one| one.header_mutation);
                let header = mutation.expect("a mutation").set_headers[0].header.clone();
                let value = String::from_utf8(header.expect("a header").raw_value);
                Ok(value.expect("text").parse().expect("an address"))
            }
            Some(Answer::ImmediateResponse(answer)) => {
                Err(String::from_utf8_lossy(&answer.body).into_owned())
            }
            other => panic!("{other:?}"),
        }
    }

    fn request(&self) -> ProcessingRequest {
        let path = HeaderValue {
            key: ":path".into(),
            raw_value: b"/v1/completions".into(),
            ..HeaderValue::default()
        };
        let headers = HttpHeaders {
            headers: Some(HeaderMap {
                headers: vec![path],
            }),
            end_of_stream: true,
            ..HttpHeaders::default()
        };
        let attributes = self.cluster.as_deref();
        let attributes = attributes.map(|cluster| one_field("xds.cluster_name", cluster));
        let filter = "envoy.filters.http.ext_proc".to_owned();
        let subset = self.subset.as_deref();
        let subset =
            subset.map(|subset| one_field("x-gateway-destination-endpoint-subset", subset));
        let namespace = "envoy.lb.subset_hint".to_owned();
        ProcessingRequest {
            request: Some(Part::RequestHeaders(headers)),
            attributes: attributes.map(|one| (filter, one)).into_iter().collect(),
            metadata_context: subset.map(|one| Metadata {
                filter_metadata: HashMap::from([(namespace, one)]),
                ..Metadata::default()
            }),
            ..ProcessingRequest::default()
        }
    }
}

fn one_field(name: &str, value: &str) -> Struct {
    let value = Value {
        kind: Some(Kind::StringValue(value.to_owned())),
    };
    Struct {
        fields: HashMap::from([(name.to_owned(), value)]),
    }
}
