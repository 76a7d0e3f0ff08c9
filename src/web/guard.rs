//! The guard at the door: what `--web.config.file` says, as it is now. It is read again for each handshake and each
//! request, so that a new certificate and a user who is gone take force at once.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use tokio::{
    sync::{Mutex as AsyncMutex, oneshot},
    time::{sleep, timeout},
};
use tracing::{error, info};

use super::{
    auth::{Auth, Verdict},
    config::{self, Rate, Texts, WebConfig},
    tls::Tls,
};

/// For the files to be read; a file system may hang.
const READ_TIME: Duration = Duration::from_secs(2);
/// For whoever replaces files that belong together, one after the other.
const CHANGE_TIME: Duration = Duration::from_secs(1);
/// Between two looks at files that are being replaced.
const CHANGE_PAUSE: Duration = Duration::from_millis(20);

/// From where a request comes.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

/// Lets in whom the file lets in.
#[derive(Debug)]
pub struct Guard {
    live: Arc<AsyncMutex<Live>>,
    auth: Auth,
    limiter: Option<Mutex<Bucket>>,
    speaks_tls: bool,
}

/// The file as it was when somebody last looked.
#[derive(Debug)]
struct Live {
    file: PathBuf,
    /// Of the reading that `config` is from.
    texts: Texts,
    config: Arc<WebConfig>,
    /// When that look began; whoever asked before needs no other.
    looked: Instant,
    trouble: Option<Trouble>,
}

/// What is wrong with the file.
#[derive(Debug)]
struct Trouble {
    reason: String,
    since: Instant,
    logged: bool,
}

impl Guard {
    /// Reads the file for the first time; the error is a sentence.
    pub fn new(file: &Path) -> Result<Self, String> {
        let looked = Instant::now();
        let mut texts = Texts::new();
        let config = config::read(file, &mut texts)?;
        let (tls, users) = (config.tls.is_some(), config.users.len());
        info!(file = %file.display(), tls, users, "the web configuration was read");
        let limiter = config.rate.map(|rate| Mutex::new(Bucket::new(rate, looked)));
        let config = Arc::new(config);
        let live = Live { file: file.to_owned(), texts, config, looked, trouble: None };
        let live = Arc::new(AsyncMutex::new(live));
        Ok(Self { live, auth: Auth::new()?, limiter, speaks_tls: tls })
    }

    /// Whether handshakes are made. As in the exporter-toolkit only a restart changes that.
    pub fn speaks_tls(&self) -> bool {
        self.speaks_tls
    }

    /// What handshakes are made by now; nothing if the file cannot be used.
    pub async fn tls(&self) -> Option<Tls> {
        self.config().await.and_then(|config| config.tls.clone())
    }

    /// What the file says now; nothing if it cannot be used, and not for a moment only.
    async fn config(&self) -> Option<Arc<WebConfig>> {
        loop {
            match timeout(READ_TIME, look(self.live.clone())).await {
                Ok(Some(Ok(config))) => return Some(config),
                Ok(Some(Err(since))) if since.elapsed() < CHANGE_TIME => sleep(CHANGE_PAUSE).await,
                Ok(_) => return None,
                Err(_) => {
                    error!("the web configuration cannot be read: its file system does not answer");
                    return None;
                }
            }
        }
    }

    async fn admit(&self, request: Request, next: Next) -> Response {
        let Some(config) = self.config().await else {
            return refuse(StatusCode::INTERNAL_SERVER_ERROR);
        };
        let take =
            |bucket: &Mutex<Bucket>| bucket.lock().expect("a panic ends the process").take(Instant::now());
        if self.limiter.as_ref().is_some_and(|bucket| !take(bucket)) {
            return refuse(StatusCode::TOO_MANY_REQUESTS);
        }
        let mut answer = self.answer(&config, request, next).await;
        for (name, value) in &config.headers {
            answer.headers_mut().insert(name, value.clone());
        }
        answer
    }

    async fn answer(&self, config: &WebConfig, request: Request, next: Next) -> Response {
        if config.users.is_empty() {
            return next.run(request).await;
        }
        let given = request.headers().get(header::AUTHORIZATION).map(|value| value.as_bytes().to_vec());
        let Peer(from) = *request.extensions().get().expect("serve tells it");
        match self.auth.check(&config.users, given.as_deref(), from).await {
            Verdict::Right => next.run(request).await,
            Verdict::Wrong => {
                ([(header::WWW_AUTHENTICATE, "Basic")], refuse(StatusCode::UNAUTHORIZED)).into_response()
            }
            Verdict::Busy => {
                ([(header::RETRY_AFTER, "1")], refuse(StatusCode::SERVICE_UNAVAILABLE)).into_response()
            }
        }
    }
}

/// Puts the guard before `router`: first the rate limit, then headers, then passwords, whatever is asked for.
pub fn protect(router: Router, guard: Arc<Guard>) -> Router {
    router.layer(middleware::from_fn_with_state(guard, admit))
}

async fn admit(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    guard.admit(request, next).await
}

fn refuse(status: StatusCode) -> Response {
    (status, format!("{}\n", status.canonical_reason().unwrap_or_default())).into_response()
}

/// What the file says, by a look that began after this call; or since when it has been wrong.
async fn look(live: Arc<AsyncMutex<Live>>) -> Option<Result<Arc<WebConfig>, Instant>> {
    let asked = Instant::now();
    let mut live = live.lock_owned().await;
    let look = move || {
        if live.looked < asked {
            live.look();
        }
        match &live.trouble {
            None => Ok(live.config.clone()),
            Some(trouble) => Err(trouble.since),
        }
    };
    // The lock goes along: there is never more than one look.
    aside("web", look).await
}

impl Live {
    fn look(&mut self) {
        self.looked = Instant::now();
        let same = config::unchanged(&self.texts);
        let read = if same { Ok(None) } else { self.read().map(Some) };
        match read {
            Ok(changed) => {
                if let Some((config, texts)) = changed {
                    (self.config, self.texts) = (Arc::new(config), texts);
                    info!(file = %self.file.display(), "the web configuration was read again");
                } else if self.trouble.as_ref().is_some_and(|trouble| trouble.logged) {
                    info!(file = %self.file.display(), "the web configuration is what it was before");
                }
                self.trouble = None;
            }
            Err(reason) => {
                let before = self.trouble.take();
                let since = before.as_ref().map_or(self.looked, |trouble| trouble.since);
                let mut logged = before.is_some_and(|trouble| trouble.logged && trouble.reason == reason);
                // Not what is over in a moment.
                if !logged && since.elapsed() >= CHANGE_TIME {
                    error!(reason, "nobody is let in");
                    logged = true;
                }
                self.trouble = Some(Trouble { reason, since, logged });
            }
        }
    }

    fn read(&self) -> Result<(WebConfig, Texts), String> {
        let mut texts = Texts::new();
        let config = config::read(&self.file, &mut texts)?;
        let file = self.file.display();
        // It may be half of a file, which would let everybody in.
        let still = |field: &str| config.gates.iter().any(|(now, _)| *now == field);
        if let Some((field, _)) = self.config.gates.iter().find(|(field, shut)| *shut && !still(field)) {
            return Err(format!(
                "{file} has no {field} any more: write it again, or restart the exporter to run without"
            ));
        }
        if config.tls.is_some() != self.config.tls.is_some() {
            return Err(format!("{file} switches TLS on or off: restart the exporter for that"));
        }
        Ok((config, texts))
    }
}

/// A rate limit's requests that may still come.
#[derive(Debug)]
struct Bucket {
    rate: Rate,
    left: f64,
    at: Instant,
}

impl Bucket {
    fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, left: f64::from(rate.burst), at: now }
    }

    fn take(&mut self, now: Instant) -> bool {
        let new = now.duration_since(self.at).div_duration_f64(self.rate.interval);
        (self.left, self.at) = ((self.left + new).min(f64::from(self.rate.burst)), now);
        let taken = self.left >= 1.0;
        if taken {
            self.left -= 1.0;
        }
        taken
    }
}

/// Runs `work` on a thread of its own, beside that which answers and that which reads `/proc`. Nothing if the system
/// lets no thread start.
pub async fn aside<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, result) = oneshot::channel();
    let work = move || {
        // Nobody may be waiting any more.
        let _ = done.send(work());
    };
    if let Err(error) = thread::Builder::new().name(name.to_owned()).spawn(work) {
        error!(%error, "the system lets no thread start");
    }
    result.await.ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Half of a file, as a reader may see it while it is written.
    #[test]
    fn a_file_that_lost_its_end_lets_nobody_in() {
        const USERS: &str =
            "basic_auth_users:\n  a: $2y$10$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG\n";
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("web.yml");
        let write = |text: &str| fs::write(&file, text).expect("a file");
        let whole = format!("http_server_config:\n  http2: false\n{USERS}");
        write(&whole);
        let guard = Guard::new(&file).expect("it is good");
        let read = || guard.live.try_lock().expect("nobody else").read();
        for cut in (0..whole.len()).filter(|cut| whole.is_char_boundary(*cut)) {
            write(&whole[..cut]);
            let users = read().map_or(1, |(config, _)| config.users.len());
            assert_eq!(users, 1, "{:?} lets everybody in", &whole[..cut]);
        }
        write("http_server_config:\n");
        let error = read().expect_err("everybody would get in");
        assert!(error.contains("has no basic_auth_users any more"), "{error}");
        // Whoever wants that says so, and nothing is missed later.
        write("basic_auth_users: {}");
        guard.live.try_lock().expect("nobody else").look();
        write("");
        read().expect("nobody was kept out");
    }

    #[test]
    fn a_bucket_fills_with_time() {
        let start = Instant::now();
        let mut bucket = Bucket::new(Rate { interval: Duration::from_secs(2), burst: 3 }, start);
        let at = |millis| start + Duration::from_millis(millis);
        let taken: Vec<bool> = [0, 0, 0, 0, 1999, 2000, 2001, 60_000, 60_000, 60_000, 60_000]
            .into_iter()
            .map(|millis| bucket.take(at(millis)))
            .collect();
        let expected = [true, true, true, false, false, true, false, true, true, true, false];
        assert_eq!(taken, expected);
    }
}
