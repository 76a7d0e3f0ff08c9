//! `advise`: what is, and what to set.

use std::{
    fs,
    num::NonZero,
    path::{Path, PathBuf},
    thread::available_parallelism,
    time::Duration,
};

use super::{
    arithmetic::{Demand, Memory, Number},
    blocks::{self, Clients, Host, Remedy, Way},
    evidence::{self, Evidence},
    facts::{Mode, ServiceFacts, WAITED_FOR},
    footprint::{self, Process},
    history::days,
    shell,
    source::{Seen, Source},
    troubles::{self, Level},
    words,
};
use crate::{
    cli::{self, Advise, Config},
    limits::{self, config::places, doveconf},
    metrics,
    processes::{
        cgroup,
        memory::{self, Available},
    },
    service::Service,
};

/// What `advise` says.
#[derive(Debug)]
pub struct Advice {
    /// Whose it is.
    pub service: Service,
    /// Clients now, at the peak, and how many can be served.
    pub demand: Demand,
    /// Clients now, if that is known.
    pub in_use: Option<u32>,
    /// The mode now.
    pub mode: Option<Mode>,
    /// Limits in force.
    pub limits: (Option<f64>, Option<f64>),
    /// Where the peak is from, in words.
    pub seen: Vec<String>,
    /// From what growth is known, in words.
    pub growth: Option<String>,
    /// How sure this is, and why.
    pub confidence: (Confidence, String),
    /// Bytes of a process of the service, and of what clients are handed to.
    pub memory: Vec<Process>,
    /// Memory that is available.
    pub available: Option<Available>,
    /// What can be done; nothing if nothing need be.
    pub options: Vec<Choice>,
    /// The one to take, and why.
    pub recommended: (Option<Way>, String),
    /// Limits that are too low already.
    pub flaws: Vec<String>,
    /// The host.
    pub host: Host,
    /// The words that start `doveconf`, for a shell.
    pub doveconf: Vec<String>,
    /// The words that start `doveadm`.
    pub doveadm: Vec<String>,
    /// The file to append to.
    pub file: PathBuf,
    /// What of it is set now: the setting, and the place; the error is why that cannot be told.
    pub set_in: Result<Vec<(String, String)>, String>,
    /// Clients that may wait at each socket at least.
    pub queue: Option<u32>,
}

/// How sure it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Confidence {
    /// Less than a day, or more than could be served.
    Low,
    /// Less than a week.
    Medium,
    /// A week.
    High,
}

/// One remedy, or why it is none.
#[derive(Debug)]
pub struct Choice {
    /// How.
    pub way: Way,
    /// How many clients, and why.
    pub number: Number,
    /// What to do.
    pub remedy: Option<Remedy>,
    /// Bytes that all clients take beside those that are served now.
    pub bytes: Option<f64>,
    /// Bytes for each further client.
    pub each: Option<f64>,
    /// Clients that there is memory for.
    pub room: Option<u32>,
}

/// Looks, reckons, and says what to do; the error is a sentence.
pub async fn advise(config: &Config, options: &Advise, source: &Source) -> Result<Advice, String> {
    let seen = source.look().await?;
    let there = match &options.from {
        Some(url) => Some(Source::url(url).look().await?),
        None => None,
    };
    let name = match &options.service {
        Some(service) => service.clone(),
        None => worst(&seen)?,
    };
    if WAITED_FOR.contains(&name.as_str()) {
        return Err(format!(
            "{name} is given work by processes that wait for it, and turns nobody away: it needs no advice"
        ));
    }
    let facts = evidence::one(&seen, &name)?;
    if evidence::capacity(facts).is_none() {
        return Err(format!("How many clients {name} can take cannot be told: run this as root"));
    }
    let (version, config_version) = doveconf::version(&config.doveconf, &config.dovecot_config).await?;
    let limits = limits::read(&config.doveconf, &config.dovecot_config).await?;
    if !limits.services.contains_key(&name) {
        return Err(format!(
            "{} has no service {name}: Dovecot runs with another",
            config.dovecot_config.display()
        ));
    }
    let host = Host {
        version,
        config_version,
        limits,
        processors: processors(&config.procfs),
        open_files: seen.facts.value(&metrics::MASTER_OPEN_FILES_LIMIT),
        tasks: seen.facts.value(&metrics::CGROUP_TASKS).zip(seen.facts.value(&metrics::CGROUP_TASKS_LIMIT)),
        somaxconn: number_in(&config.procfs.join("sys/net/core/somaxconn")),
        unit: seen.master.and_then(|master| cgroup::unit(&config.procfs, master)),
    };
    let evidence = evidence::gather(config, options, &seen, there.as_ref(), &name).await?;
    Ok(reckon(config, &seen, facts, host, evidence))
}

/// Of the host that Dovecot runs on, which may not be all ours.
fn processors(procfs: &Path) -> u32 {
    let text = fs::read_to_string(procfs.join("cpuinfo")).unwrap_or_default();
    let listed = text.lines().filter(|line| line.starts_with("processor")).count();
    let number = if listed > 0 { listed } else { available_parallelism().map_or(1, NonZero::get) };
    number.try_into().unwrap_or(1)
}

fn number_in(file: &Path) -> Option<u32> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// The login service that turns clients away, or else the fullest.
fn worst(seen: &Seen) -> Result<Service, String> {
    let login = seen.facts.services.iter().filter(|facts| facts.is_login());
    let key = |facts: &&ServiceFacts| (evidence::turns_away(facts, seen), facts.share().unwrap_or_default());
    let worst = login.max_by(|one, other| {
        let (one, other) = (key(one), key(other));
        // The first of those that are as bad.
        one.0.cmp(&other.0).then(one.1.total_cmp(&other.1)).then(std::cmp::Ordering::Greater)
    });
    worst
        .map(|facts| facts.service.clone())
        .ok_or_else(|| "Dovecot has no login service: name the service to advise on".to_owned())
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
fn count(number: f64) -> u32 {
    number.round().clamp(0.0, f64::from(super::arithmetic::MOST)) as u32
}

fn reckon(config: &Config, seen: &Seen, facts: &ServiceFacts, host: Host, evidence: Evidence) -> Advice {
    let name = &facts.service;
    let capacity = evidence::capacity(facts).filter(|number| number.is_finite());
    let in_use = evidence::clients(facts).map(count);
    let demand = Demand {
        peak: count(evidence.peak).max(in_use.unwrap_or_default()),
        limit: capacity.map(count),
        turned_away: evidence.turned_away,
        growth: evidence.growth.as_ref().map(|(growth, _)| *growth),
    };
    let memory = footprint::processes(config, seen, facts, &host);
    let available = memory::available(&config.procfs, seen.master);
    let on_disk = waiting(&demand, facts, &host);
    let ways: &[Way] = match (demand.is_met() || on_disk.is_some(), facts.is_login()) {
        (true, _) => &[],
        // Whoever comes to a process with one client would be turned away, though others are free.
        (false, true) if host.limits.services.get(name).is_some_and(|settings| settings.reuse_port) => {
            &[Way::Shared]
        }
        (false, true) => &[Way::Processes, Way::Shared],
        (false, false) => &[Way::Processes],
    };
    let ground =
        Ground { facts, host: &host, demand, in_use, memory: &memory, available: available.as_ref() };
    let options: Vec<Choice> = ways.iter().map(|way| choice(&ground, *way)).collect();
    Advice {
        demand,
        in_use,
        mode: facts.mode(),
        limits: (facts.value(&metrics::SERVICE_PROCESS_LIMIT), facts.value(&metrics::SERVICE_CLIENT_LIMIT)),
        growth: evidence.growth.map(|(_, text)| text),
        confidence: confidence(&demand, evidence.span),
        recommended: recommend(&ground, &options, on_disk),
        memory,
        available,
        flaws: flaws(seen, name, &options),
        options,
        file: places::last_file(&config.dovecot_config).unwrap_or_else(|| config.dovecot_config.clone()),
        set_in: places::of_setting(&config.dovecot_config, name, &KEYS),
        doveconf: shell::doveconf(config),
        doveadm: shell::doveadm(config),
        queue: seen.queues.get(name).copied(),
        service: name.clone(),
        seen: evidence.words,
        host,
    }
}

/// What a choice stands on.
struct Ground<'a> {
    facts: &'a ServiceFacts,
    host: &'a Host,
    demand: Demand,
    in_use: Option<u32>,
    memory: &'a [Process],
    available: Option<&'a Available>,
}

fn choice(on: &Ground, way: Way) -> Choice {
    let each = footprint::each(on.facts, on.host, on.memory, way);
    let memory = each.zip(on.available).map(|(each, available)| Memory {
        // Those who are there have their memory. Where nobody knows how many, none has.
        in_use: on.in_use.unwrap_or_default(),
        ready: footprint::ready(on.facts, on.host, way),
        each,
        available: available.bytes,
    });
    let room = memory.map(Memory::clients);
    let number = on.demand.number(room);
    let remedy = match number {
        Number::Of(number, _) => {
            let clients = Clients { number, least: on.demand.least(), room };
            blocks::remedy(on.host, &on.facts.service, way, clients)
        }
        Number::NoMemory(..) => None,
    };
    let clients = match (&remedy, &number) {
        (Some(remedy), _) => remedy.clients,
        (None, Number::Of(number, _) | Number::NoMemory(_, number)) => *number,
    };
    Choice { way, number, remedy, bytes: memory.map(|memory| memory.of(clients)), each, room }
}

/// Clients that the configuration on disk has room for, if that is enough and a reload is all that is missing.
fn waiting(demand: &Demand, facts: &ServiceFacts, host: &Host) -> Option<f64> {
    let on_disk = host.limits.services.get(&facts.service)?.connection_capacity()?;
    let more = demand.limit.is_some_and(|limit| on_disk > limit.into()) && on_disk >= demand.least().into();
    (more && !demand.is_met() && !facts.limit_is_flag).then_some(on_disk)
}

/// What is wrong with limits, but for what a block mends.
fn flaws(seen: &Seen, name: &Service, options: &[Choice]) -> Vec<String> {
    let mended = |name: &Service| {
        let mut remedies = options.iter().filter_map(|choice| choice.remedy.as_ref());
        remedies.any(|remedy| remedy.block.contains(&format!("service {name} {{")))
    };
    troubles::find(seen, troubles::Thresholds::of(cli::NEAR, cli::FULL))
        .into_iter()
        .filter(|trouble| trouble.level == Level::Flaw)
        .filter(|trouble| trouble.service.as_ref().is_none_or(|of| of == name || !mended(of)))
        .map(|trouble| trouble.text)
        .collect()
}

/// The settings that a block may have of the service itself.
const KEYS: [&str; 6] = [
    "process_limit",
    "client_limit",
    "service_count",
    "restart_request_count",
    "process_min_avail",
    "vsz_limit",
];

fn confidence(demand: &Demand, span: Option<Duration>) -> (Confidence, String) {
    let day = Duration::from_secs(24 * 3600);
    let seen = match span {
        None => (
            Confidence::Low,
            "this is one look, and the busiest hour may be another: give --prometheus".to_owned(),
        ),
        Some(span) if span < day => (
            Confidence::Low,
            format!("{} may not have the busiest hour of the day: ask again tomorrow", days(span)),
        ),
        Some(span) if span < 7 * day => {
            (Confidence::Medium, format!("{} may not have the busiest day of the week", days(span)))
        }
        Some(span) => (Confidence::High, format!("{} have every day of the week", days(span))),
    };
    if demand.is_cut_off() {
        let text =
            "clients met a limit, and how many more would have come is not known: look again a day after";
        return (Confidence::Low, format!("{text}; {}", seen.1));
    }
    seen
}

fn recommend(on: &Ground, options: &[Choice], on_disk: Option<f64>) -> (Option<Way>, String) {
    let number = |way| options.iter().find(|choice| choice.way == way)?.remedy.as_ref().map(|it| it.clients);
    let (processes, shared) = (number(Way::Processes), number(Way::Shared));
    let (least, login) = (on.demand.least(), on.facts.is_login());
    if let Some(clients) = on_disk {
        let clients = words::count(Some(clients));
        let text = format!(
            "reload Dovecot. The limits on disk are for {clients} clients already, and Dovecot has not read them"
        );
        (None, text)
    } else if options.is_empty() {
        let growth = growth(&on.demand);
        let text =
            format!("leave it as it is. {least} would do for the peak with a fifth of room above it{growth}");
        (None, text)
    } else if let [Choice { way, remedy: Some(_), .. }] = options {
        let why = match way {
            Way::Shared => {
                ": with reuse_port = yes a process for each client would turn away whoever comes to a busy one"
            }
            Way::Processes => "",
        };
        (Some(*way), format!("it is the only way{why}"))
    } else if on.facts.mode() == Some(Mode::Performance) && shared.is_some() {
        (Some(Way::Shared), "option 2, since it is in performance mode already".to_owned())
    } else if let Some(number) = processes {
        let memory = match on.available {
            None => "Whether there is memory for it cannot be told",
            Some(_) if number < on.demand.wanted().0 && shared > processes => {
                "There is memory for no more of them: take option 2 if more clients come"
            }
            Some(_) => "There is memory for it",
        };
        let text = "option 1: a login process has one client's password and traffic and no other's";
        (Some(Way::Processes), format!("{text}. {memory}"))
    } else if shared.is_some() {
        let text = "option 2 (performance mode): for a process for each client there is no memory";
        (Some(Way::Shared), text.to_owned())
    } else {
        let tight = on.available.is_some_and(|available| !available.from.ends_with("meminfo"));
        let whom = if tight { "control group" } else { "host" };
        let what = if login { "neither" } else { "nothing" };
        (None, format!("{what}: there is not enough memory for so many clients. Give the {whom} more"))
    }
}

fn growth(demand: &Demand) -> &'static str {
    if demand.growth.is_some() { ", and for 12 weeks of growth" } else { "" }
}
