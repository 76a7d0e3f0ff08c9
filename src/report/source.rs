//! Where a page comes from: this host, or a running exporter.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufRead, BufReader, Read},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{sync::oneshot, task::spawn_blocking, time::timeout};
use ureq::{
    Agent,
    tls::{RootCerts, TlsConfig},
};

use super::{
    facts::Facts,
    holders::{self, Holders},
};
use crate::{
    cli::Config,
    exporter::{
        Exporter,
        threads::{END_TIME, LimitsThread, follow_log, keep_limits},
    },
    log::{lines::MAX_LINE, stamp},
    metrics::{self, Page},
    service::Service,
};

/// For a page of a running exporter.
const PAGE_TIME: Duration = Duration::from_secs(5);
/// Of a page; that of 64 services and 10,000 logs has 7 MB.
const MAX_PAGE: u64 = 16 << 20;
/// For `doveconf`, and then for the log: 100 GB take less where the disk keeps up.
const LOOK_TIME: Duration = Duration::from_secs(60);
/// How far back the journal is read (log/journal.rs).
const BACK: Duration = Duration::from_secs(60 * 60);

/// One look.
#[derive(Debug)]
pub struct Seen {
    /// What the page tells.
    pub facts: Facts,
    /// When it was made, by the clock of this host.
    pub at: SystemTime,
    /// Since when drop warnings are counted.
    pub since: Since,
    /// Why sources are down, where that is known: of this host.
    pub reasons: Vec<(String, String)>,
    /// The master's process id, on this host.
    pub master: Option<i32>,
    /// When the master last read its configuration, on this host.
    pub configured: Option<SystemTime>,
    /// Clients that may wait at each socket of a service at least, on this host.
    pub queues: BTreeMap<Service, u32>,
}

/// Since when drop warnings are counted.
#[derive(Debug)]
pub struct Since {
    /// Nothing if nobody tells.
    pub time: Option<SystemTime>,
    /// What began then: a log, an exporter, or a state.
    pub what: String,
}

/// Where looks are taken.
#[derive(Debug)]
pub enum Source {
    /// A running exporter.
    Url(String),
    /// This host.
    Here(Box<Here>),
}

/// An exporter that serves nobody.
#[derive(Debug)]
pub struct Here {
    exporter: Arc<Exporter>,
    config: Config,
    limits: LimitsThread,
    log: oneshot::Receiver<()>,
}

impl Source {
    /// A running exporter, by its address or the URL of its metrics.
    pub fn url(from: &str) -> Self {
        let url = if from.contains("://") { from.to_owned() } else { format!("http://{from}") };
        let path =
            url.split_once("://").map_or("", |(_, rest)| rest).split_once('/').map_or("", |(_, path)| path);
        let url = if path.is_empty() { format!("{}/metrics", url.trim_end_matches('/')) } else { url };
        Self::Url(url)
    }

    /// This host. Reads its limits and its logs; the error is a sentence.
    pub async fn here(config: Config) -> Result<Self, String> {
        let exporter = Exporter::new(config.clone());
        let exporter =
            Arc::new(exporter.map_err(|error| format!("the system has no descriptor left: {error}"))?);
        let limits = keep_limits(&exporter, LOOK_TIME).await?;
        let log = follow_log(&exporter, LOOK_TIME).await?;
        Ok(Self::Here(Box::new(Here { exporter, config, limits, log })))
    }

    /// Takes a look; the error is a sentence that says why nothing can be told.
    pub async fn look(&self) -> Result<Seen, String> {
        let (mut seen, place) = match self {
            Self::Url(url) => {
                let url = url.clone();
                let place = format!("on the host of {}", shown(&url));
                (spawn_blocking(move || fetch(&url)).await.expect("a panic ends the process")?, place)
            }
            Self::Here(here) => (here.look().await, format!("with {}", here.config.dovecot_config.display())),
        };
        match seen.facts.value(&metrics::MASTER_UP) {
            Some(up) if up > 0.0 => {}
            Some(_) => return Err(format!("no Dovecot runs {place}: start it, or look elsewhere")),
            None => {
                let reason = seen.reasons.iter_mut().find(|(source, _)| source == "procfs");
                return Err(reason.map_or_else(
                    || format!("Dovecot's processes cannot be seen {place}: the landing page there says why"),
                    |(_, reason)| std::mem::take(reason),
                ));
            }
        }
        Ok(seen)
    }

    /// Who has most connections, so many of each, if anybody asks; this host tells only.
    pub async fn top(&self, seen: &Seen, most: Option<u32>) -> Option<Result<Holders, String>> {
        let (Self::Here(here), Some(most)) = (self, most) else { return None };
        Some(holders::read(&here.config, seen.master, most as usize).await)
    }

    /// Ends what was started for it.
    pub async fn end(self) {
        if let Self::Here(here) = self {
            here.exporter.end();
            let _ = timeout(END_TIME, here.log).await;
            here.limits.end().await;
        }
    }
}

impl Here {
    async fn look(&self) -> Seen {
        let reading = self.exporter.read().await;
        let reasons = reading.sources().into_iter();
        let mut reasons: Vec<(String, String)> =
            reasons.filter_map(|(source, why)| Some((source.to_owned(), why?.to_owned()))).collect();
        let (mut facts, at) = (Facts::of(&reading.page()), SystemTime::now());
        // These take time.
        facts.forget(&metrics::SERVICE_PROCESSES_PEAK);
        facts.forget(&metrics::SERVICE_AT_PROCESS_LIMIT_SECONDS);
        if reading.tally.is_none() && facts.down.insert("log".to_owned()) {
            reasons.push(("log".to_owned(), format!("it was not read within {} s", LOOK_TIME.as_secs())));
        }
        let since = if let Some(file) = &self.config.state_file {
            Since { time: None, what: format!("the state in {}", file.display()) }
        } else {
            let logs = facts.logs.clone();
            // A file system that hangs must not keep us from ending in time.
            spawn_blocking(move || since_logs(&logs, at)).await.expect("a panic ends the process")
        };
        let master = reading.census.as_ref().ok().and_then(|census| Some(census.master.as_ref()?.pid));
        let configured = reading.census.as_ref().ok().and_then(|census| {
            census.generation?;
            at.checked_sub(census.generation_age)
        });
        let queues = reading.next.shortest_queues.clone();
        Seen { facts, at, since, reasons, master, configured, queues }
    }
}

/// Where logs begin that were read from their start.
fn since_logs(logs: &[String], now: SystemTime) -> Since {
    let start = |log: &String| {
        if log.starts_with("journal:") {
            return now.checked_sub(BACK);
        }
        let mut line = String::new();
        // A pipe would keep us waiting.
        let log = fs::metadata(log).ok()?.is_file().then(|| File::open(log))?.ok()?.take(MAX_LINE as u64);
        BufReader::new(log).read_line(&mut line).ok()?;
        stamp::of_line(line.trim_end(), now)
    };
    Since { time: logs.iter().filter_map(start).min(), what: logs.join(", ") }
}

/// What is at `url`, if it comes in time; the error is why it cannot be read.
pub fn get(url: &str, accept: &str, query: &[(&str, &str)], time: Duration) -> Result<Vec<u8>, ureq::Error> {
    let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
    let config = Agent::config_builder().timeout_global(Some(time)).tls_config(tls).proxy(None);
    let agent: Agent = config.build().into();
    let request = agent.get(url).header("Accept", accept).query_pairs(query.iter().copied());
    request.call().and_then(|mut answer| answer.body_mut().with_config().limit(MAX_PAGE).read_to_vec())
}

/// A URL without the password that may be in it: many read what a plugin says.
pub fn shown(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    format!("{scheme}://{}{path}", host.rsplit('@').next().unwrap_or(host))
}

fn fetch(url: &str) -> Result<Seen, String> {
    let answer = get(url, "application/openmetrics-text; version=1.0.0", &[], PAGE_TIME);
    let at = SystemTime::now();
    let shown = shown(url);
    let text = answer.map_err(|error| match error {
        ureq::Error::StatusCode(401) => {
            format!("{shown} asks for a password: give --from with it, as https://USER:PASSWORD@HOST:PORT")
        }
        ureq::Error::StatusCode(_) | ureq::Error::BodyExceedsLimit(_) => {
            format!("{shown} is no page of this exporter ({error}): give --from the URL of its metrics")
        }
        _ => format!("{shown} cannot be read ({error}): give --from the URL of a running exporter"),
    })?;
    let facts = Page::parse(&String::from_utf8_lossy(&text)).map(|page| Facts::of(&page)).and_then(|facts| {
        if facts.version.is_some() { Ok(facts) } else { Err("it is of another program".to_owned()) }
    });
    let facts = facts.map_err(|wrong| {
        format!("{shown} is no page of this exporter ({wrong}): give --from the URL of its metrics")
    })?;
    let started = facts.value(&metrics::PROCESS_START_TIME).filter(|_| !facts.has_state);
    let time = started.and_then(|time| Duration::try_from_secs_f64(time).ok());
    let time = time.and_then(|time| SystemTime::UNIX_EPOCH.checked_add(time));
    let what = if facts.has_state { "the exporter's state" } else { "the exporter's start" };
    let since = Since { time, what: what.to_owned() };
    Ok(Seen { facts, at, since, reasons: vec![], master: None, configured: None, queues: BTreeMap::new() })
}
