//! What clients take of memory: as processes here show, or else as was measured.

use super::{
    blocks::{Host, Way},
    facts::{Mode, ServiceFacts},
    source::Seen,
};
use crate::{cli::Config, metrics, processes::memory, service::Service};

/// Proportional bytes of a login process, and of what its client is handed to, where none can be measured: those of
/// imap-login and imap with idle clients, on 2.3.19.1 and on 2.4.1 (docs/runbook.md).
const LOGIN_BYTES: [f64; 2] = [1.3e6, 2.0e6];
const BACKEND_BYTES: [f64; 2] = [0.7e6, 1.4e6];
/// The same for one client among others in a login process: more than the 0.07 and 0.09 MB of idle ones, since 1,041
/// of them took 97 and 114 MB of address space.
const SHARED_BYTES: f64 = 0.114e6;

/// Memory of one process.
#[derive(Clone, Debug)]
pub struct Process {
    /// Of which service.
    pub service: Service,
    /// Bytes.
    pub bytes: f64,
    /// How that is known.
    pub how: &'static str,
}

/// What processes of the service take, and of what clients are handed to.
pub fn processes(config: &Config, seen: &Seen, facts: &ServiceFacts, host: &Host) -> Vec<Process> {
    let bytes = if facts.is_login() { LOGIN_BYTES } else { BACKEND_BYTES };
    let assumed = (facts.is_login() || is_alone(facts)).then(|| measured(host, bytes));
    let own = process(config, seen, &facts.service, assumed);
    let behind = host.backend(&facts.service);
    let behind =
        behind.and_then(|service| process(config, seen, service, Some(measured(host, BACKEND_BYTES))));
    own.into_iter().chain(behind).collect()
}

/// What a process of the service takes: as here, or else so much.
fn process(config: &Config, seen: &Seen, service: &Service, otherwise: Option<f64>) -> Option<Process> {
    let facts = seen.facts.services.iter().find(|facts| facts.service == *service);
    let processes = facts.and_then(ServiceFacts::processes).filter(|number| *number > 0.0);
    let resident = facts.and_then(|facts| facts.value(&metrics::SERVICE_RESIDENT_MEMORY)).zip(processes);
    let proportional =
        seen.master.and_then(|master| memory::proportional(&config.procfs, master, service.as_str()));
    let resident = resident.map(|(bytes, processes)| bytes / processes).filter(|bytes| *bytes > 0.0);
    let (bytes, how) = match (proportional, resident, otherwise) {
        (Some(bytes), ..) => (bytes, "proportional"),
        (_, Some(bytes), _) => (bytes, "resident, which counts shared libraries for each"),
        (_, _, Some(bytes)) => (bytes, "assumed, since there is none to measure"),
        _ => return None,
    };
    Some(Process { service: service.clone(), bytes, how })
}

/// Whether each client has a process to itself.
fn is_alone(facts: &ServiceFacts) -> bool {
    facts.value(&metrics::SERVICE_CLIENT_LIMIT).is_some_and(|clients| clients <= 1.0)
}

/// Of 2.3, or of 2.4.
fn measured(host: &Host, bytes: [f64; 2]) -> f64 {
    if host.is_old() { bytes[0] } else { bytes[1] }
}

/// Bytes for each further client.
pub fn each(facts: &ServiceFacts, host: &Host, memory: &[Process], way: Way) -> Option<f64> {
    let of =
        |name: &Service| memory.iter().find(|process| process.service == *name).map(|process| process.bytes);
    if !facts.is_login() {
        return is_alone(facts).then(|| of(&facts.service)).flatten();
    }
    let behind = host.backend(&facts.service).and_then(of).unwrap_or_default();
    let login = match (way, facts.mode()) {
        (Way::Shared, _) => SHARED_BYTES,
        (Way::Processes, Some(Mode::HighSecurity)) => of(&facts.service)?,
        // One that is shared tells nothing.
        (Way::Processes, _) => measured(host, LOGIN_BYTES),
    };
    Some(login + behind)
}

/// Bytes for the processes that performance mode keeps ready, where it is new.
pub fn ready(facts: &ServiceFacts, host: &Host, way: Way) -> f64 {
    let new = way == Way::Shared && facts.mode() != Some(Mode::Performance);
    if new { f64::from(host.processors) * measured(host, LOGIN_BYTES) } else { 0.0 }
}
