//! Bytes of a call that are no message, as the library reads them for the stream.

use axum::body::Body;
use bytes::BufMut;
use envoy_types::pb::envoy::service::ext_proc::v3::ProcessingRequest;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request as Part;
use futures::StreamExt;
use prost::Message;
use tokio_util::sync::CancellationToken;
use tonic::codec::{DecodeBuf, Decoder};
use tonic::{Status, Streaming};

use super::message::{headers, message};
use super::scene::{SETTINGS, Scene};
use crate::extproc::exchange::Caller;
use crate::extproc::stream::{ExchangeStream, Talk};

/// Reads messages as the service's own decoder does.
#[derive(Debug)]
struct Messages;

impl Decoder for Messages {
    type Item = ProcessingRequest;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<ProcessingRequest>, Status> {
        let message = ProcessingRequest::decode(from);
        message
            .map(Some)
            .map_err(|error| Status::internal(error.to_string()))
    }
}

/// A message of gRPC: not compressed, its length, its bytes.
fn framed(bytes: &[u8]) -> Vec<u8> {
    let mut frame = vec![0];
    frame.put_u32(u32::try_from(bytes.len()).expect("a short message"));
    frame.put_slice(bytes);
    frame
}

#[tokio::test]
async fn after_a_message_that_cannot_be_read_the_rest_is_no_message_however_often_it_is_asked_for()
{
    let scene = Scene::of(&["10.0.0.1:8000"], SETTINGS);
    let whole = message(Part::RequestHeaders(headers([(":path", "/")], true)));
    let whole = framed(&whole.encode_to_vec());
    // What the library would go on with is in the middle of a message that cannot be read.
    let unreadable = framed(&[vec![0xff; 10], whole.clone()].concat());
    let bytes = [unreadable, whole].concat();
    let messages = Streaming::new_request(Messages, Body::from(bytes), None, None);
    let talk = Talk::Pick(Box::new(scene.exchange(Caller::default())));
    let mut answers = ExchangeStream::new(
        messages,
        talk,
        scene.edge.clone(),
        None,
        CancellationToken::new(),
    );

    let broken = answers.next().await;
    assert!(matches!(broken, Some(Err(_))), "{broken:?}");
    for _ in 0..3 {
        let more = answers.next().await;
        assert!(more.is_none(), "{more:?}");
    }
    let page = scene.metrics();
    assert!(
        page.contains("pointsman_streams_broken_total 1\n"),
        "{page}"
    );
    assert_eq!(scene.pool().in_flight(), 0);
}
