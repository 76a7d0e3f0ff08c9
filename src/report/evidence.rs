//! What is known of a service's past, and from whom.

use std::time::{Duration, SystemTime};

use tokio::task::spawn_blocking;

use super::{
    facts::{Mode, ServiceFacts},
    history::{self, days},
    source::Seen,
    troubles::{last_warning, plural, since},
    words::clock,
};
use crate::{
    cli::{Advise, Config},
    metrics,
    service::Service,
};

/// The service of this name; the error says which there are.
pub fn one<'a>(seen: &'a Seen, name: &Service) -> Result<&'a ServiceFacts, String> {
    let found = seen.facts.services.iter().find(|facts| facts.service == *name);
    found.ok_or_else(|| seen.facts.clone().only(name).err().unwrap_or_default())
}

/// Clients of the service now.
pub fn clients(facts: &ServiceFacts) -> Option<f64> {
    facts.in_use().or_else(|| is_unused(facts).then_some(0.0))
}

/// Clients that it can take.
pub fn capacity(facts: &ServiceFacts) -> Option<f64> {
    facts.value(&metrics::SERVICE_CONNECTION_CAPACITY).or_else(|| {
        let limits =
            (facts.value(&metrics::SERVICE_PROCESS_LIMIT)?, facts.value(&metrics::SERVICE_CLIENT_LIMIT)?);
        is_unused(facts).then_some(limits.0 * limits.1)
    })
}

/// Of a service that nobody has used a page has its limits and little else.
fn is_unused(facts: &ServiceFacts) -> bool {
    facts.value(&metrics::SERVICE_CONNECTION_CAPACITY).is_none()
        && facts.value(&metrics::SERVICE_PROCESSES).unwrap_or_default() == 0.0
}

/// Whether a drop warning of that time is of the configuration that is in force: one from before Dovecot last read it
/// may be of a limit that has been raised since.
fn is_current(last: SystemTime, seen: &Seen) -> bool {
    // The log has whole seconds.
    seen.configured.is_none_or(|configured| last + Duration::from_secs(1) >= configured)
}

/// Whether clients were turned away, by limits that are in force.
pub fn turns_away(facts: &ServiceFacts, seen: &Seen) -> bool {
    facts.warnings() > 0.0 && last_warning(facts).is_none_or(|last| is_current(last, seen))
}

/// What is known of the past.
#[derive(Debug, Default)]
pub struct Evidence {
    /// Most clients at a time.
    pub peak: f64,
    /// How long a time that is of; nothing for one look.
    pub span: Option<Duration>,
    /// What a week adds to it, and from what that is known.
    pub growth: Option<(f64, String)>,
    /// Whether clients were turned away since Dovecot last read its configuration.
    pub turned_away: bool,
    /// All of it in words.
    pub words: Vec<String>,
}

/// Asks everybody who may know; the error is a sentence.
pub async fn gather(
    config: &Config,
    options: &Advise,
    seen: &Seen,
    there: Option<&Seen>,
    name: &Service,
) -> Result<Evidence, String> {
    let mut found = Evidence::default();
    for (seen, of) in
        [Some((seen, "on this host")), there.map(|there| (there, "by the exporter"))].into_iter().flatten()
    {
        let facts = one(seen, name)?;
        found.peak = found.peak.max(clients(facts).unwrap_or_default());
        found.warned(facts, seen, of);
    }
    if let Some(facts) = there.map(|there| one(there, name)).transpose()? {
        let kept = facts.value(&metrics::SERVICE_PROCESS_MIN_AVAIL).unwrap_or_default();
        let peak = facts.value(&metrics::SERVICE_PROCESSES_PEAK).map(|peak| (peak - kept).max(0.0));
        let peak = peak.filter(|_| facts.mode() == Some(Mode::HighSecurity));
        let now = clients(facts);
        if let Some(most) = peak.into_iter().chain(now).reduce(f64::max) {
            found.peak = found.peak.max(most);
            let when =
                if peak.is_some() { "at most in the exporter's last minute" } else { "by the exporter now" };
            found.words.push(format!("{} clients {when}", most.round()));
        }
    }
    if let Some(url) = &options.prometheus {
        let (url, instance, service) = (url.clone(), options.instance.clone(), name.clone());
        let (period, now) = (options.period, seen.at);
        let read = move || history::read(&url, instance.as_deref(), &service, period, now);
        let history = spawn_blocking(read).await.expect("a panic ends the process")?;
        found.peak = found.peak.max(history.peak);
        found.words.push(format!(
            "{} clients at most in {} of Prometheus",
            history.peak.round(),
            days(history.span)
        ));
        if let Some(last) = history.last_warning {
            found.words.push("drop warnings there".to_owned());
            found.warning(last, seen);
        }
        (found.span, found.growth) = (Some(history.span), history.growth);
    }
    if found.span.is_none() && clients(one(seen, name)?).is_none() {
        let how = match &config.master_socket {
            None => "run this as root".to_owned(),
            Some(socket) if socket.as_os_str().is_empty() => {
                "give --dovecot.master-socket its socket".to_owned()
            }
            Some(socket) => socket.display().to_string(),
        };
        return Err(format!(
            "How many clients {name} has cannot be told: let the master be asked ({how}), or give --prometheus"
        ));
    }
    Ok(found)
}

impl Evidence {
    fn warned(&mut self, facts: &ServiceFacts, seen: &Seen, of: &str) {
        let warnings = facts.value(&metrics::SERVICE_DROP_WARNINGS);
        match (warnings, last_warning(facts)) {
            (None, _) => self.words.push(format!("drop warnings cannot be seen {of}")),
            (Some(number), Some(last)) if number > 0.0 => {
                let warnings = plural(number, "drop warning", "drop warnings");
                self.words.push(format!("{warnings} {of} since {}", since(&seen.since)));
                self.warning(last, seen);
            }
            (Some(number), None) if number > 0.0 => {
                let warnings = plural(number, "drop warning", "drop warnings");
                self.words.push(format!("{warnings} {of}, at times that the log does not tell"));
                self.turned_away = true;
            }
            _ => {}
        }
    }

    fn warning(&mut self, last: SystemTime, seen: &Seen) {
        let current = is_current(last, seen);
        self.turned_away |= current;
        let rest = if current { "" } else { ", before Dovecot last read its configuration" };
        self.words.push(format!("the last at {}{rest}", clock(last)));
    }
}
