//! What systemd is told, and the sockets it hands over.

use std::{env, future::pending};

use listenfd::ListenFd;
use sd_notify::NotifyState;
use tokio::{net::TcpListener, time::interval};
use tracing::warn;

/// The sockets that systemd handed over; an error is a sentence. To be called before there are threads: it takes what
/// tells of them out of the environment, so that no child believes they are its own.
pub fn sockets() -> Result<ListenFd, String> {
    let given = ListenFd::from_env();
    if given.len() == 0 {
        return Err("systemd handed over no socket: enable dovecot-capacity-exporter.socket, or leave --web.systemd-socket out".into());
    }
    Ok(given)
}

/// Listens on them; an error is a sentence. To be called in an event loop.
pub fn listeners(mut given: ListenFd) -> Result<Vec<TcpListener>, String> {
    let listeners = (0..given.len()).map(|number| {
        let listener = given.take_tcp_listener(number).and_then(|socket| {
            let socket = socket.expect("there are so many, and each is taken once");
            socket.set_nonblocking(true)?;
            TcpListener::from_std(socket)
        });
        listener.map_err(|error| {
            format!("socket {number} of systemd cannot be used ({error}): give its unit nothing but ListenStream= with a port or with address and port")
        })
    });
    listeners.collect()
}

/// Says that the start is done.
pub fn ready() {
    tell(NotifyState::Ready);
}

/// Says that the end has begun.
pub fn stopping() {
    tell(NotifyState::Stopping);
}

/// Feeds the watchdog, if the unit has one, for as long as it is polled and nothing `is_stuck`; never returns.
pub async fn feed_watchdog(is_stuck: impl Fn() -> bool) {
    let Some(time) = sd_notify::watchdog_enabled().filter(|time| !time.is_zero()) else {
        return pending().await;
    };
    let mut ticks = interval(time / 2);
    loop {
        ticks.tick().await;
        if is_stuck() {
            warn!("/proc has not been read for long: the watchdog of systemd is no longer fed");
        } else {
            tell(NotifyState::Watchdog);
        }
    }
}

fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        let socket = env::var("NOTIFY_SOCKET").unwrap_or_default();
        warn!(%error, socket, "systemd cannot be told: start the exporter with Type=notify, and with AF_UNIX among RestrictAddressFamilies");
    }
}
