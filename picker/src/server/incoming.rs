//! Connections as they come in: each begins on a task of its own, so that none waits for the handshake of another.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt, stream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tonic::transport::server::TcpIncoming;

use crate::tls::{Acceptor, Connection, Refusal, Tally};

/// The longest beginning of a connection, from its acceptance to the end of its handshake. Proxies give up earlier: Envoy
/// after its `connect_timeout`, 5 s by default.
const BEGIN_MAX: Duration = Duration::from_secs(10);

/// Connections that are beginning at once. Each holds a socket and some ten kilobytes; a proxy opens one for each of its
/// worker threads, so this is a whole fleet of proxies that starts at one instant.
const BEGINNING_MAX: usize = 512;

/// Connections that are open at once. An idle one takes some ten kilobytes; and they must not use up the files that readings
/// of endpoints need. A proxy of 64 threads has 64, so this is 64 such proxies.
const OPEN_MAX: usize = 4096;

/// The wait after a failure to accept that is not of one connection. It is mostly that too many files are open, and lasts.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The connections of a listener that have begun, for as long as somebody asks for the next.
pub(super) fn begun(
    listener: TcpListener,
    acceptor: Acceptor,
    tally: Arc<Tally>,
) -> impl Stream<Item = io::Result<Connection>> {
    let gate = Gate::new(listener, acceptor, tally, OPEN_MAX);
    stream::unfold(gate, async |mut gate| {
        let next = gate.next().await?;
        Some((Ok(next), gate))
    })
}

/// Connections whose small messages leave at once. Held back until the peer acknowledges the one before (Nagle), a token
/// would be late by up to 40 ms, the time for which the peer puts that off.
pub(super) fn at_once(listener: TcpListener) -> TcpIncoming {
    TcpIncoming::from(listener).with_nodelay(Some(true))
}

struct Gate {
    listener: TcpIncoming,
    acceptor: Acceptor,
    tally: Arc<Tally>,
    beginning: JoinSet<Option<Connection>>,
    /// Of those that are beginning, and some that no longer are, the oldest first.
    by_age: VecDeque<AbortHandle>,
    places: Arc<Semaphore>,
}

impl Gate {
    fn new(listener: TcpListener, acceptor: Acceptor, tally: Arc<Tally>, open_max: usize) -> Self {
        Self {
            listener: at_once(listener),
            acceptor,
            tally,
            beginning: JoinSet::new(),
            by_age: VecDeque::new(),
            places: Arc::new(Semaphore::new(open_max)),
        }
    }

    async fn next(&mut self) -> Option<Connection> {
        loop {
            tokio::select! {
                accepted = self.listener.next() => match accepted? {
                    Ok(tcp) => self.begin(tcp),
                    Err(error) if is_of_one_connection(&error) => {}
                    Err(error) => {
                        self.tally.refused(Instant::now(), None, &Refusal::NotAccepted(error));
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(begun) = self.beginning.join_next() => {
                    if let Ok(Some(connection)) = begun {
                        return Some(connection);
                    }
                }
            }
        }
    }

    fn begin(&mut self, tcp: TcpStream) {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            let refusal = Refusal::Full(OPEN_MAX);
            let peer = tcp.peer_addr().ok();
            return self.tally.refused(Instant::now(), peer, &refusal);
        };
        self.make_room();
        let (acceptor, tally) = (self.acceptor.clone(), self.tally.clone());
        let begin = async move {
            let peer = tcp.peer_addr().ok();
            match acceptor.accept(tcp, BEGIN_MAX).await {
                Ok(connection) => {
                    let connection = connection?.in_place(place);
                    tally.begun(&connection);
                    Some(connection)
                }
                Err(refusal) => {
                    tally.refused(Instant::now(), peer, &refusal);
                    None
                }
            }
        };
        self.by_age.push_back(self.beginning.spawn(begin));
    }

    /// Lets go of the oldest when there are too many: it has had the longest time to begin, and those who open connections
    /// and say nothing must not keep out those who speak.
    fn make_room(&mut self) {
        if self.by_age.len() < BEGINNING_MAX {
            return;
        }
        self.by_age.retain(|one| !one.is_finished());
        if self.by_age.len() >= BEGINNING_MAX
            && let Some(oldest) = self.by_age.pop_front()
        {
            oldest.abort();
            let refusal = Refusal::Crowded(BEGINNING_MAX);
            self.tally.refused(Instant::now(), None, &refusal);
        }
    }
}

/// Whether a failure to accept is over with the connection that it is of.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionAborted | Kind::ConnectionReset | Kind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn small_messages_to_a_proxy_are_not_held_back() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let _proxy = TcpStream::connect(address).await.expect("a connection");
        let accepted = at_once(listener)
            .next()
            .await
            .expect("one")
            .expect("accepted");
        assert!(accepted.nodelay().expect("a socket"));
    }

    #[tokio::test]
    async fn a_connection_over_the_limit_is_closed_until_another_has_ended() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut gate = Gate::new(listener, Acceptor::plaintext_only(), Arc::default(), 1);
        let connect = async || {
            let mut proxy = TcpStream::connect(address).await.expect("a connection");
            let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
            proxy.write_all(preface).await.expect("sent");
            proxy
        };
        let _first = connect().await;
        let first = gate.next().await.expect("one");

        let mut second = connect().await;
        let mut byte = [0];
        let closed = tokio::select! {
            _ = gate.next() => false,
            read = second.read(&mut byte) => !matches!(read, Ok(1)),
        };
        assert!(closed);

        drop(first);
        let _third = connect().await;
        assert!(gate.next().await.is_some());
    }
}
