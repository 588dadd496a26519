//! What a request holds of the heap at its peak, gRPC's own copy of a message included.

use allocation_counter::measure;
use bytes::Bytes;
use envoy_types::pb::envoy::service::ext_proc::v3::ProcessingRequest;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request as Part;
use picker_core::time::Instant;
use prost::Message;

use super::message::{body, headers, message};
use super::scene::{SETTINGS, Scene};
use crate::driver::PoolSpec;
use crate::extproc::EdgeSettings;
use crate::extproc::exchange::{Caller, Exchange};

/// The frames of a JSON body of `size` bytes, `frame` bytes each, as they stand on the wire.
fn wire(size: usize, frame: usize) -> Vec<Vec<u8>> {
    let mut json = b"{\"model\":\"base\",\"prompt\":\"".to_vec();
    json.resize(size - 2, b'x');
    json.extend_from_slice(b"\"}");
    let count = json.len().div_ceil(frame);
    let frames = json.chunks(frame).enumerate();
    frames
        .map(|(index, piece)| {
            let ends = index + 1 == count;
            message(Part::RequestBody(body(piece, ends))).encode_to_vec()
        })
        .collect()
}

/// Takes a message in as tonic does, which keeps what it has received, and sends out what is answered.
fn pass(exchange: &mut Exchange, wire: &[u8], sent: &mut Vec<u8>) -> usize {
    let received = Bytes::from(wire.to_vec());
    let message = ProcessingRequest::decode(received.clone()).expect("a message");
    exchange.on_message(Instant::from_millis(1), message);
    let mut bytes = 0;
    while let Some(answer) = exchange.poll_answer() {
        sent.clear();
        answer.encode(sent).expect("room");
        bytes += sent.len();
    }
    drop(received);
    bytes
}

/// A pool whose requests get a model with a longer name.
fn rewriting() -> PoolSpec {
    let rewrite = serde_json::json!({
        "metadata": {"name": "canary", "namespace": "ai"},
        "spec": {"poolRef": {"name": "chat"}, "rules": [{"targets": [{"modelRewrite": "a-longer-name"}]}]},
    });
    PoolSpec {
        rewrites: vec![serde_json::from_value(rewrite).expect("a rewrite")],
        ..PoolSpec::default()
    }
}

#[test]
fn a_request_holds_less_than_three_times_its_body() {
    let settings = EdgeSettings {
        body_limit: 10 << 20,
        bodies_limit: 1 << 30,
        ..SETTINGS
    };
    for size in [1 << 20, 5 << 20, (10 << 20) - 1, 12 << 20] {
        for frame in [16 << 10, 62_000, 1 << 20, 64 << 20] {
            let scene = Scene::with(&["10.0.0.1:8000"], settings, rewriting());
            let frames = wire(size, frame);
            let pairs = [(":path", "/v1/completions")];
            let first = message(Part::RequestHeaders(headers(pairs, false))).encode_to_vec();
            let mut sent = 0;
            let peak = measure(|| {
                let mut exchange = scene.exchange(Caller::default());
                let mut buffer = Vec::new();
                for message in std::iter::once(&first).chain(&frames) {
                    sent += pass(&mut exchange, message, &mut buffer);
                }
            })
            .bytes_max;
            assert!(sent > size, "{size} in {frame}: the body has gone on");
            let share = peak as f64 / size as f64;
            assert!(
                share < 3.0,
                "{size} bytes in frames of {frame}: {share:.2} times its body"
            );
        }
    }
}
