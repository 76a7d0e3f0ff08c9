//! The accept loop, and handshakes. `axum::serve` waits for ever for a client's headers and accepts until no file descriptor is
//! left; here every connection has a deadline, and their number a bound.

use std::{
    io,
    net::{IpAddr, Ipv6Addr},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use axum::{Router, http::StatusCode};
use hyper::{
    Request,
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustix::net::sockopt::set_ipv6_v6only;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    select,
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::debug;

use super::guard::{Guard, Peer};
use crate::cli::ListenAddress;

/// Connections at a time, on all addresses. Below the 1024 file descriptors that a process may have by default.
pub const MAX_CONNECTIONS: usize = 512;
/// For a client to shake hands, where there is TLS, and to send its request's header.
const HEADER_TIME: Duration = Duration::from_secs(3);
/// For a whole connection: header, answer, and the client's reading of it.
const CONNECTION_TIME: Duration = Duration::from_secs(15);
/// Most bytes of a request's header.
const MAX_HEADER: usize = 16 * 1024;
/// Clients that wait in the kernel's queue, as with [`TcpListener::bind`].
const BACKLOG: u32 = 1024;
/// After a failed accept: it fails again at once while descriptors are short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The alert `internal_error` of TLS, fatal.
const TLS_INTERNAL_ERROR: [u8; 7] = [21, 3, 3, 0, 2, 2, 80];

/// Binds one address.
pub async fn bind(address: ListenAddress) -> io::Result<TcpListener> {
    match address {
        ListenAddress::One(address) => TcpListener::bind(address).await,
        // Unless the host has no IPv6 at all.
        ListenAddress::Any(port) => match bind_both(port) {
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                TcpListener::bind(("0.0.0.0", port)).await
            }
            bound => bound,
        },
    }
}

/// For IPv6 and IPv4, whatever `net.ipv6.bindv6only` of the host says.
fn bind_both(port: u16) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v6()?;
    set_ipv6_v6only(&socket, false)?;
    // As TcpListener::bind does.
    socket.set_reuseaddr(true)?;
    socket.bind((Ipv6Addr::UNSPECIFIED, port).into())?;
    socket.listen(BACKLOG)
}

/// Answers the connections to `listener` until `stop` changes, over TLS if the `guard` speaks it. `slots` are shared
/// by all listeners. Whoever holds the sender of `stop` sees by its `closed` when the last answer is out.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    guard: Option<Arc<Guard>>,
    slots: Arc<Semaphore>,
    mut stop: watch::Receiver<()>,
) {
    let guard = guard.filter(|guard| guard.speaks_tls());
    loop {
        // Taken before accept, so that who has to wait waits in the kernel's queue.
        let slot = slots.clone().acquire_owned().await.expect("nobody closes it");
        let accepted = select! {
            accepted = listener.accept() => accepted,
            _ = stop.changed() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let connection = Connection { router: router.clone(), peer: peer.ip(), stop: stop.clone() };
                tokio::spawn(connection.keep(stream, guard.clone(), slot));
            }
            Err(error) => {
                debug!(%error, "a connection was not accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// What a connection is answered by.
struct Connection {
    router: Router,
    peer: IpAddr,
    stop: watch::Receiver<()>,
}

impl Connection {
    /// Keeps it until it is answered or too slow.
    async fn keep(self, stream: TcpStream, guard: Option<Arc<Guard>>, slot: OwnedSemaphorePermit) {
        let header_end = Instant::now() + HEADER_TIME;
        let mut stop = self.stop.clone();
        let answered = timeout(CONNECTION_TIME, async {
            let Some(guard) = guard else { return self.answer(stream, header_end).await };
            let shaken = select! {
                shaken = timeout_at(header_end, shake_hands(stream, &guard)) => shaken,
                _ = stop.changed() => return,
            };
            match shaken {
                Ok(Ok(Spoken::Tls(stream))) => self.answer(*stream, header_end).await,
                Ok(Ok(Spoken::Plain(stream))) => self.wrong_door().answer(stream, header_end).await,
                Ok(Err(error)) => debug!(%error, "a handshake failed"),
                Err(_) => debug!("a handshake was too slow"),
            }
        });
        if answered.await.is_err() {
            debug!("a connection was too slow");
        }
        drop(slot);
    }

    /// To whoever speaks plain HTTP where TLS is spoken.
    fn wrong_door(self) -> Self {
        let answer =
            || async { (StatusCode::BAD_REQUEST, "Client sent an HTTP request to an HTTPS server.\n") };
        Self { router: Router::new().fallback(answer), ..self }
    }

    async fn answer(mut self, stream: impl AsyncRead + AsyncWrite + Unpin, header_end: Instant) {
        let (service, peer) = (TowerToHyperService::new(self.router), Peer(self.peer));
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            service.call(request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(header_end.duration_since(Instant::now()))
            .max_buf_size(MAX_HEADER)
            // One request per connection: an idle one holds no slot, and the deadline never cuts a later answer.
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        let finished = select! {
            done = connection.as_mut() => Some(done),
            _ = self.stop.changed() => None,
        };
        let answered = if let Some(done) = finished {
            done
        } else {
            connection.as_mut().graceful_shutdown();
            connection.await
        };
        if let Err(error) = answered {
            debug!(%error, "a connection failed");
        }
    }
}

/// What a client turned out to speak.
enum Spoken {
    Tls(Box<TlsStream<TcpStream>>),
    Plain(TcpStream),
}

async fn shake_hands(mut stream: TcpStream, guard: &Guard) -> io::Result<Spoken> {
    let mut first = [0];
    stream.peek(&mut first).await?;
    // A method of HTTP; TLS begins with the number of a handshake, 22.
    if first[0].is_ascii_uppercase() {
        return Ok(Spoken::Plain(stream));
    }
    let Some(config) = guard.tls().await else {
        // What has come is taken, or the client's kernel would throw away the alert.
        let _ = stream.try_read(&mut [0; MAX_HEADER]);
        stream.write_all(&TLS_INTERNAL_ERROR).await?;
        return Err(io::Error::other("there is no certificate to show"));
    };
    Ok(Spoken::Tls(Box::new(TlsAcceptor::from(config).accept(stream).await?)))
}
