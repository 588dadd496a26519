//! HTTP/2 on the ports of ext_proc: many streams, cancelled calls, headers that are too large.

use futures::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::metadata::MetadataValue;
use tonic::transport::Endpoint;
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::process::{ANY, PATIENCE, Pointsman, eventually};

const FILE: &str = "endpoints: [{name: a, address: 127.0.0.1, port: 7001}]";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const END_HEADERS: u8 = 4;

/// A frame (RFC 9113, 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short frame");
    let mut bytes = length.to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The headers of a call, without compression (RFC 7541, 6).
fn call_headers(path: &str) -> Vec<u8> {
    // `:method: POST` and `:scheme: http` stand in the static table.
    let mut bytes = vec![0x83, 0x86];
    let mut literal = |name: &[u8], value: &str| {
        bytes.extend(name);
        bytes.push(u8::try_from(value.len()).expect("a short value"));
        bytes.extend(value.as_bytes());
    };
    literal(&[0x04], path);
    literal(&[0x01], "picker");
    literal(b"\0\x0ccontent-type", "application/grpc");
    literal(b"\0\x02te", "trailers");
    bytes
}

/// A proxy that writes its own frames.
struct Proxy(TcpStream);

impl Proxy {
    async fn connect(picker: &Pointsman) -> Self {
        let connection = TcpStream::connect(picker.ext_proc[0]).await;
        let mut proxy = Self(connection.expect("a connection"));
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        proxy
            .send([preface, frame(SETTINGS, 0, 0, &[])].concat())
            .await;
        proxy
    }

    async fn send(&mut self, frames: Vec<u8>) {
        self.0.write_all(&frames).await.expect("sent");
    }

    /// Reads frames until so many are of this kind. None may end the connection.
    async fn read(&mut self, count: u32, kind: u8) {
        let mut left = count;
        while left > 0 {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await.expect("a frame");
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; usize::try_from(length).expect("a length")];
            self.0.read_exact(&mut payload).await.expect("its payload");
            let text = payload.escape_ascii();
            assert_ne!(head[3], GOAWAY, "the connection is ended: {text}");
            left -= u32::from(head[3] == kind);
        }
    }

    /// Reads until all that was sent was read.
    async fn settle(&mut self) {
        self.send(frame(PING, 0, 0, b"are you?")).await;
        self.read(1, PING).await;
    }
}

#[tokio::test]
async fn three_thousand_streams_on_one_connection_are_served_side_by_side() {
    const STREAMS: usize = 3000;
    let picker = Pointsman::start(&[("ai/chat", FILE)]);
    let endpoint = format!("http://{}", picker.ext_proc[0]);
    let channel = Endpoint::from_shared(endpoint).expect("an address");
    let channel = channel.connect().await.expect("the picker listens");
    let ask = |_| async { ANY.ask_over(channel.clone()).await.1 };
    let all = timeout(PATIENCE, join_all((0..STREAMS).map(ask))).await;
    let open = all.expect("each is answered while all are open");
    let in_flight = async |count: usize| {
        let line = format!("pointsman_in_flight{{pool=\"ai/chat\"}} {count}\n");
        let (_, page) = picker.get("/metrics").await.expect("metrics");
        page.contains(&line)
    };
    assert!(in_flight(STREAMS).await);
    drop(open);
    eventually("none is in flight", async || in_flight(0).await).await;
}

#[tokio::test]
async fn calls_that_are_cancelled_before_they_are_seen_end_no_other() {
    let picker = Pointsman::start(&[("ai/chat", FILE)]);
    let mut proxy = Proxy::connect(&picker).await;
    let headers = call_headers("/envoy.service.ext_proc.v3.ExternalProcessor/Process");
    let cancel = 8_u32.to_be_bytes();
    let call = |stream| {
        let begin = frame(HEADERS, END_HEADERS, stream, &headers);
        [begin, frame(RST_STREAM, 0, stream, &cancel)].concat()
    };
    let calls = (0..1000).flat_map(|index| call(2 * index + 1));
    proxy.send(calls.collect()).await;
    proxy.settle().await;
}

#[tokio::test]
async fn frames_of_calls_that_have_ended_end_no_other_however_many() {
    // More than h2 forgives by default in the life of a connection.
    const CALLS: u32 = 1100;
    let picker = Pointsman::start(&[("ai/chat", FILE)]);
    let mut proxy = Proxy::connect(&picker).await;
    // A call that is answered at once, whatever follows.
    let headers = call_headers("/unknown.Service/Call");
    let call = |index| frame(HEADERS, END_HEADERS, 2 * index + 1, &headers);
    let late = |index| frame(DATA, 0, 2 * index + 1, b"late");
    proxy.send((0..CALLS).flat_map(call).collect()).await;
    proxy.read(CALLS, RST_STREAM).await;
    proxy.send((0..CALLS).flat_map(late).collect()).await;
    proxy.settle().await;
}

#[tokio::test]
async fn headers_that_are_too_large_fail_their_own_call() {
    let picker = Pointsman::start(&[("ai/chat", FILE)]);
    let endpoint = format!("http://{}", picker.ext_proc[0]);
    let channel = Endpoint::from_shared(endpoint).expect("an address");
    let channel = channel.connect().await.expect("the picker listens");
    let (_, open) = ANY.ask_over(channel.clone()).await;
    let check = async |bytes: usize| {
        let mut request = Request::new(HealthCheckRequest::default());
        let value = MetadataValue::try_from("x".repeat(bytes)).expect("a value");
        request.metadata_mut().insert("x-copied", value);
        let answer = HealthClient::new(channel.clone()).check(request).await;
        answer.map_or_else(|status| status.code(), |_| Code::Ok)
    };
    assert_eq!(check(60 << 10).await, Code::Ok, "as much as Envoy takes");
    for bytes in [257 << 10, 300 << 10] {
        assert_ne!(check(bytes).await, Code::Ok, "{bytes}");
    }
    assert_eq!(check(1).await, Code::Ok);
    assert!(!open.is_closed(), "a stream beside them goes on");
}
