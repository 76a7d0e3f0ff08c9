//! `status --check`: one line and an exit code, as the Monitoring Plugins Development Guidelines have them.
//!
//! What cannot be seen is never OK.

use std::fmt::Write;

use super::{
    facts::ServiceFacts,
    source::Seen,
    status::what_it_tells,
    troubles::{self, Level, Thresholds, Trouble, load},
    words::{percent, tame},
};
use crate::{metrics, service::Service};

/// More troubles than this are counted only.
const TOLD: usize = 3;
/// Plugins are cut off at 8 KiB (Nagios) or less.
const MAX_TEXT: usize = 1500;

/// What a plugin says of what it watches.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum State {
    Ok,
    Warning,
    Critical,
    Unknown,
}

impl State {
    /// The exit code.
    pub fn code(self) -> u8 {
        self as u8
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// The line without performance data, and its end.
pub fn line(state: State, text: &str) -> String {
    // What follows a bar is performance data.
    let text: Vec<&str> = text.split_whitespace().collect();
    format!("DOVECOT {} - {}", state.as_str(), tame(&text.join(" "), MAX_TEXT).replace('|', "/"))
}

/// The verdict on what was seen, of one service or of all.
pub fn verdict(seen: &Seen, thresholds: Thresholds, only: Option<&Service>) -> (State, String) {
    let troubles = troubles::find(seen, thresholds);
    let of = |level: Level| troubles.iter().filter(move |trouble| trouble.level == level);
    let text = |trouble: &Trouble| trouble.text.clone();
    let unseen = unseen(seen, only);
    let (state, told) = if of(Level::Critical).next().is_some() {
        (State::Critical, of(Level::Critical).chain(of(Level::Warning)).map(text).collect())
    } else if of(Level::Warning).next().is_some() {
        (State::Warning, of(Level::Warning).map(text).collect())
    } else if unseen.is_empty() {
        (State::Ok, vec![fullest(seen)])
    } else {
        (State::Unknown, unseen)
    };
    let mut text = told[..told.len().min(TOLD)].join(" ");
    if told.len() > TOLD {
        write!(text, " And {} more.", told.len() - TOLD).expect("a String takes everything");
    }
    let data: Vec<String> =
        seen.facts.services.iter().flat_map(|service| data(service, thresholds)).collect();
    let data = if data.is_empty() { String::new() } else { format!(" | {}", data.join(" ")) };
    (state, line(state, &text) + &data)
}

/// Why it cannot be said that all is well.
fn unseen(seen: &Seen, only: Option<&Service>) -> Vec<String> {
    let reason = |source: &str| {
        let reason = seen.reasons.iter().find(|(name, _)| name == source);
        reason.map_or("the exporter's landing page says why", |(_, reason)| reason)
    };
    let logs = seen.facts.down.iter().filter(|source| ["log", "journal"].contains(&source.as_str()));
    let mut unseen: Vec<String> =
        logs.map(|log| format!("{} cannot be seen: {}.", what_it_tells(log), reason(log))).collect();
    for service in &seen.facts.services {
        let name = &service.service;
        let wanted = only.is_some() || service.is_login() && service.is_active();
        if wanted && service.share().is_none() {
            let master = seen.facts.down.contains("master").then(|| format!(": {}", reason("master")));
            unseen.push(format!("How full {name} is cannot be told{}.", master.unwrap_or_default()));
        }
        if service.value(&metrics::SERVICE_DROP_WARNINGS).is_none() {
            unseen.push(format!("Drop warnings of {name} are not counted yet."));
        } else if service.warnings() > 0.0 && troubles::last_warning(service).is_none() {
            unseen.push(format!("The log has drop warnings of {name}, and no time stamps that say when."));
        }
    }
    unseen
}

fn fullest(seen: &Seen) -> String {
    let shares = seen.facts.services.iter().filter_map(|service| Some((service.share()?, service)));
    let fullest = shares.max_by(|(one, _), (other, _)| one.total_cmp(other));
    fullest.map_or_else(
        || "no service turns clients away.".to_owned(),
        |(share, service)| {
            format!("{} is the fullest: {} ({}).", service.service, load(service), percent(share))
        },
    )
}

/// `'label'=value[UOM];[warn];[crit];[min];[max]`
fn data(service: &ServiceFacts, thresholds: Thresholds) -> Vec<String> {
    let (Some(in_use), Some(capacity)) = (service.in_use(), service.capacity()) else { return vec![] };
    let name = &service.service;
    let thousandth = |number: f64| ((1000.0 * number).round() / 1000.0).to_string();
    let part = |share: f64| if capacity.is_finite() { thousandth(share * capacity) } else { String::new() };
    let (warning, critical, most) = (part(thresholds.warning), part(thresholds.critical), part(1.0));
    let mut data = vec![format!("'{name}'={in_use};{warning};{critical};0;{most}")];
    let warnings = service.value(&metrics::SERVICE_DROP_WARNINGS);
    data.extend(warnings.map(|warnings| format!("'{name}_drop_warnings'={warnings}c;;;0;")));
    data
}
