//! Messages as bytes: fields and kinds that are not known, and what is no message at all.

use bytes::{Buf, BufMut, Bytes};
use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue};
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request as Part;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response as Answer;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    HttpHeaders, ProcessingRequest, ProcessingResponse,
};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};

use crate::process::{ANY, Pointsman, eventually};

const FILE: &str = "endpoints: [{name: a, address: 127.0.0.1, port: 7001}]";

/// Sends bytes as they are.
#[derive(Clone, Copy, Debug, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = ProcessingResponse;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = ProcessingResponse;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<ProcessingResponse>, Status> {
        let bytes = from.copy_to_bytes(from.remaining());
        let message = ProcessingResponse::decode(bytes);
        message
            .map(Some)
            .map_err(|error| Status::internal(error.to_string()))
    }
}

async fn channel(picker: &Pointsman) -> Channel {
    let endpoint = format!("http://{}", picker.ext_proc[0]);
    let endpoint = Endpoint::from_shared(endpoint).expect("an address");
    endpoint.connect().await.expect("the picker listens")
}

/// A stream on which bytes are sent; its other end keeps it open.
async fn stream(channel: Channel) -> (mpsc::Sender<Bytes>, Streaming<ProcessingResponse>) {
    let (sender, receiver) = mpsc::channel(8);
    let mut client = Grpc::new(channel).max_encoding_message_size(usize::MAX);
    client.ready().await.expect("a connection");
    let path = "/envoy.service.ext_proc.v3.ExternalProcessor/Process";
    let path = PathAndQuery::from_static(path);
    let request = Request::new(ReceiverStream::new(receiver));
    let answers = client.streaming(request, path, Raw).await;
    (sender, answers.expect("a stream").into_inner())
}

/// A field of protobuf that holds bytes.
fn field(number: u32, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encoding::encode_key(
        number,
        prost::encoding::WireType::LengthDelimited,
        &mut bytes,
    );
    prost::encoding::encode_varint(content.len() as u64, &mut bytes);
    bytes.extend_from_slice(content);
    bytes
}

fn headers() -> Vec<u8> {
    let path = HeaderValue {
        key: ":path".into(),
        raw_value: b"/".into(),
        ..HeaderValue::default()
    };
    let headers = HttpHeaders {
        headers: Some(HeaderMap {
            headers: vec![path],
        }),
        end_of_stream: true,
        ..HttpHeaders::default()
    };
    let message = ProcessingRequest {
        request: Some(Part::RequestHeaders(headers)),
        ..ProcessingRequest::default()
    };
    message.encode_to_vec()
}

#[tokio::test]
async fn fields_and_kinds_of_messages_that_are_not_known_are_ignored() {
    let picker = Pointsman::start(&[("ai/chat", FILE)]);
    let (sender, mut answers) = stream(channel(&picker).await).await;
    let send = async |bytes: Vec<u8>| sender.send(bytes.into()).await.expect("it is open");
    send(field(4242, b"a kind of a later version")).await;
    send([headers(), field(4243, b"a field of a later version")].concat()).await;
    let answer = answers.message().await.expect("no error").expect("one");
    assert!(answer.dynamic_metadata.is_some(), "{answer:?}");
    let (_, page) = picker.get("/metrics").await.expect("metrics");
    let counted = "pointsman_messages_ignored_total{reason=\"unknown\"} 1\n";
    assert!(page.contains(counted), "{page}");
}

#[tokio::test]
async fn a_message_that_is_too_large_or_unreadable_ends_its_stream_alone() {
    let picker = Pointsman::start(&[("ai/chat", FILE)]);
    let channel = channel(&picker).await;
    let (_, open) = ANY.ask_over(channel.clone()).await;
    let unreadable = vec![0xff; 40];
    let too_large = field(4242, &vec![0; (64 << 20) + 1]);
    let too_long = field(2, b"\x0a\xff\xff\xff\xff\x0f");
    for (count, bytes) in [unreadable, too_large, too_long].into_iter().enumerate() {
        let (sender, mut answers) = stream(channel.clone()).await;
        sender.send(bytes.into()).await.expect("it is open");
        let status = answers.message().await.expect_err("the stream ends");
        assert_ne!(status.code(), Code::Unavailable, "{count}: {status}");
        let counted = format!("pointsman_streams_broken_total {}\n", count + 1);
        eventually("it is counted", async || {
            let page = picker.get("/metrics").await;
            page.is_some_and(|(_, page)| page.contains(&counted))
        })
        .await;
    }
    assert!(!open.is_closed(), "a stream beside them goes on");
    let (answer, _) = ANY.ask_over(channel).await;
    assert!(matches!(answer, Answer::RequestHeaders(_)), "{answer:?}");
}
