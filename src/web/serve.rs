//! The accept loop. `axum::serve` waits for ever for a client's headers and accepts until no file descriptor is
//! left; here every connection has a deadline, and their number a bound.

use std::{io, pin::pin, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    select,
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{sleep, timeout},
};
use tracing::debug;

use crate::cli::ListenAddress;

/// Connections at a time, on all addresses. Below the 1024 file descriptors that a process may have by default.
pub const MAX_CONNECTIONS: usize = 512;
/// For a client to send its request's header.
const HEADER_TIME: Duration = Duration::from_secs(3);
/// For a whole connection: header, answer, and the client's reading of it.
const CONNECTION_TIME: Duration = Duration::from_secs(15);
/// Most bytes of a request's header.
const MAX_HEADER: usize = 16 * 1024;
/// After a failed accept: it fails again at once while descriptors are short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Binds one address.
pub async fn bind(address: ListenAddress) -> io::Result<TcpListener> {
    match address {
        ListenAddress::One(address) => TcpListener::bind(address).await,
        // Takes IPv4 connections as well, unless the host has no IPv6 at all.
        ListenAddress::Any(port) => match TcpListener::bind(("::", port)).await {
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                TcpListener::bind(("0.0.0.0", port)).await
            }
            bound => bound,
        },
    }
}

/// Answers the connections to `listener` until `stop` changes. `slots` are shared by all listeners. Whoever holds
/// the sender of `stop` sees by its `closed` when the last answer is out.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    slots: Arc<Semaphore>,
    mut stop: watch::Receiver<()>,
) {
    loop {
        // Taken before accept, so that who has to wait waits in the kernel's queue.
        let slot = slots.clone().acquire_owned().await.expect("nobody closes it");
        let accepted = select! {
            accepted = listener.accept() => accepted,
            _ = stop.changed() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                tokio::spawn(answer(stream, router.clone(), slot, stop.clone()));
            }
            Err(error) => {
                debug!(%error, "a connection was not accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn answer(
    stream: TcpStream,
    router: Router,
    slot: OwnedSemaphorePermit,
    mut stop: watch::Receiver<()>,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_buf_size(MAX_HEADER)
        // One request per connection: an idle one holds no slot, and the deadline never cuts a later answer.
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    let answered = timeout(CONNECTION_TIME, async {
        select! {
            done = connection.as_mut() => return done,
            _ = stop.changed() => connection.as_mut().graceful_shutdown(),
        }
        connection.await
    });
    match answered.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "a connection failed"),
        Err(_) => debug!("a connection was too slow"),
    }
    drop(slot);
}
