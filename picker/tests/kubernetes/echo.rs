//! Servers that answer every request with who they are, as those of upstream's conformance tests do.

use std::net::{IpAddr, SocketAddr};

use axum::Router;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use reqwest::StatusCode;
use tokio::net::TcpListener;

use super::scene::address;

/// The header of a response that says where it was made.
const AT: &str = "x-echo-at";
/// The header of a request that has one set in the response, as `name:value`.
const SET: &str = "x-echo-set-header";
const SERVED: &str = "x-conformance-test-served-endpoint";

/// An address at which servers listen on these ports.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) ip: IpAddr,
    pub(crate) ports: Vec<u16>,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// Which server answered; none if something in its place did.
    pub(crate) at: Option<SocketAddr>,
    /// The endpoint that the response says has served.
    pub(crate) served: Option<String>,
}

impl Pod {
    pub(crate) fn addresses(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.ports
            .iter()
            .map(|port| SocketAddr::new(self.ip, *port))
    }
}

impl Answer {
    pub(crate) async fn of(response: reqwest::Response) -> Self {
        let header = |name| response.headers().get(name)?.to_str().ok();
        Self {
            status: response.status(),
            at: header(AT).and_then(|at| at.parse().ok()),
            served: header(SERVED).map(str::to_owned),
        }
    }

    /// Whether a server of this pod answered, and well.
    pub(crate) fn is_from(&self, pod: &Pod) -> bool {
        self.status.is_success() && self.at.is_some_and(|at| at.ip() == pod.ip)
    }
}

/// Pods with as many ports, the same at each.
pub(crate) async fn pods(count: usize, ports: usize) -> Vec<Pod> {
    for _ in 0..100 {
        if let Some(pods) = try_pods(count, ports).await {
            return pods;
        }
    }
    panic!("no {ports} ports are free at {count} addresses");
}

/// `None` if another process has one of the ports at one of the addresses.
async fn try_pods(count: usize, ports: usize) -> Option<Vec<Pod>> {
    let mut numbers = vec![0; ports];
    let mut listeners = Vec::new();
    let mut pods = Vec::new();
    for _ in 0..count {
        let ip = address(0).ip();
        for number in &mut numbers {
            let listener = TcpListener::bind((ip, *number)).await.ok()?;
            *number = listener.local_addr().ok()?.port();
            listeners.push(listener);
        }
        let ports = numbers.clone();
        pods.push(Pod { ip, ports });
    }
    for listener in listeners {
        let at = listener.local_addr().ok()?;
        let router =
            Router::new().fallback(move |headers: HeaderMap| async move { echo(at, &headers) });
        tokio::spawn(async move { axum::serve(listener, router).await });
    }
    Some(pods)
}

fn echo(at: SocketAddr, headers: &HeaderMap) -> HeaderMap {
    let mut answer = HeaderMap::new();
    let at = HeaderValue::from_str(&at.to_string()).expect("an address is a value");
    answer.insert(AT, at);
    let wanted = headers
        .get(SET)
        .and_then(|wanted| wanted.to_str().ok()?.split_once(':'));
    if let Some((name, value)) = wanted {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        answer.insert(name, value.parse().expect("a value"));
    }
    answer
}
