//! Dovecot's configuration, read without `doveconf`: where that is not installed beside the exporter. What cannot be
//! known this way is left out, and said.

mod include;
mod line;
pub mod places;
mod settings;
mod value;

use std::{collections::BTreeSet, io::ErrorKind, path::Path};

use super::{
    Limit, LimitSource, Limits, Settings, clamped,
    defaults::{BuiltIn, DEFAULTS, Generation, built_in},
};
use crate::service::{Program, Service};
use include::Lines;
use line::{Line, Piece, Value};
use settings::{Block, Config, Values};
use value::number;
pub use value::size;

/// Why there are no limits.
#[derive(Debug)]
pub enum Failure {
    /// The file is not there.
    Missing,
    /// A sentence for the administrator.
    Refused(String),
}

/// What the configuration in `path` says.
pub fn read(path: &Path) -> Result<Limits, Failure> {
    let mut lines = Lines::of(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Failure::Missing,
        _ => Failure::Refused(format!(
            "{} cannot be read ({error}): let the user of the exporter read it",
            path.display()
        )),
    })?;
    let config = parse(&mut lines).map_err(|reason| {
        Failure::Refused(format!(
            "{}: {reason}: mend the configuration, or give --dovecot.doveconf the doveconf of Dovecot",
            lines.place()
        ))
    })?;
    settle(&config).map_err(|reason| {
        Failure::Refused(format!("Dovecot does not take {} ({reason}): mend it", path.display()))
    })
}

fn parse(lines: &mut Lines) -> Result<Config, String> {
    let mut config: Option<Config> = None;
    let mut begun = String::new();
    while let Some(text) = lines.next() {
        let generation = config.as_ref().map_or(Generation::V24, |config| config.generation);
        match line::piece(&text, generation) {
            Piece::Nothing => begun.clear(),
            Piece::Begun("") => {}
            Piece::Begun(piece) => {
                begun.push_str(piece);
                begun.push(' ');
            }
            Piece::Ended(piece) => {
                begun.push_str(piece);
                let whole = std::mem::take(&mut begun);
                match &mut config {
                    Some(config) => {
                        let line = line::parse(&whole, config.generation)?;
                        if !is_version(&line, &config.version) {
                            config.apply(line, lines)?;
                        }
                    }
                    None => config = Some(first(&whole, lines)?),
                }
            }
        }
    }
    Ok(config.unwrap_or_else(|| Config::new(None)))
}

/// The first setting tells the generation: 2.4 demands its version there.
fn first(line: &str, lines: &mut Lines) -> Result<Config, String> {
    if let Ok(Line::Set(key, value)) = line::parse(line, Generation::V24)
        && key == "dovecot_config_version"
    {
        return match value {
            Value::Text(version) if version.starts_with("2.4.") => Ok(Config::new(Some(version))),
            _ => Err("the defaults of this dovecot_config_version are not known".to_owned()),
        };
    }
    let mut config = Config::new(None);
    config.apply(line::parse(line, config.generation)?, lines)?;
    Ok(config)
}

/// Whether it repeats the version, as files that are included elsewhere may.
fn is_version(line: &Line, version: &str) -> bool {
    let Line::Set(key, Value::Text(value)) = line else { return false };
    key == "dovecot_config_version" && value == version && !version.is_empty()
}

/// What is known of a value: it is not set, or set to this if that is known.
type Found = Option<Option<String>>;

impl Config {
    fn groups<'a>(&'a self, includes: &'a [(String, String)]) -> impl Iterator<Item = &'a Block> {
        includes.iter().filter_map(|group| self.groups.get(group))
    }

    fn found(&self, value: Option<&Option<String>>) -> Found {
        value.cloned().or(self.blind.then_some(None))
    }

    /// Outside of services. Groups only add what is not set.
    fn global(&self, key: &str) -> Found {
        let root = &self.root.own;
        let groups = self.groups(&root.includes).map(|group| &group.own.values);
        self.found(first_of(key, std::iter::once(&root.values).chain(groups)))
    }

    /// Of one service, or of all of them, which 2.4 puts behind what is set for one and before what is built in.
    fn of_service(&self, service: &str, key: &str) -> Found {
        let section = self.root.services.get(service);
        let groups = self.groups(&self.root.own.includes).filter_map(|group| group.services.get(service));
        let all = format!("service_{key}");
        let own =
            section.map(|section| &section.values).into_iter().chain(groups.map(|section| &section.values));
        let included = section.into_iter().flat_map(|section| self.groups(&section.includes));
        let value = first_of(key, own).or_else(|| first_of(&all, included.map(|group| &group.own.values)));
        match value {
            Some(value) => Some(value.clone()),
            None if self.old() => self.found(None),
            None => self.global(&all),
        }
    }

    /// The setting `default_KEY`, unless it is in a group: whether that counts depends on the release.
    fn default(&self, key: &str) -> Found {
        let root = &self.root.own;
        if first_of(key, self.groups(&root.includes).map(|group| &group.own.values)).is_some() {
            return Some(None);
        }
        self.found(root.values.get(key))
    }

    fn limit(&self, service: &str, key: &str, built_in: u32, default: u32) -> Option<Limit> {
        let limit = match self.of_service(service, key) {
            Some(text) => number(&text?, self.generation)?,
            None => Limit::Of(built_in),
        };
        if limit != Limit::Of(0) || !self.old() && self.of_service(service, key).is_some() {
            return Some(limit);
        }
        match self.default(&format!("default_{key}")) {
            Some(text) => number(&text?, self.generation),
            None => Some(Limit::Of(default)),
        }
    }

    fn count(&self, service: &str, built_in: Option<Limit>) -> Option<Limit> {
        let key = if self.old() { "service_count" } else { "restart_request_count" };
        match self.of_service(service, key) {
            Some(text) => match number(&text?, self.generation)? {
                Limit::Of(0) if self.old() => Some(Limit::Unlimited),
                number => Some(number),
            },
            None if service == "lmtp" && !self.old() => {
                // Where a group says anything of lmtp, doveconf 2.4.1 forgets the older default.
                let mut groups = self.groups(&self.root.own.includes);
                let doubt = groups.any(|group| group.services.contains_key(service));
                if self.version == "2.4.0" {
                    (!doubt).then_some(Limit::Unlimited)
                } else {
                    Some(Limit::Of(1))
                }
            }
            None => built_in,
        }
    }

    fn vsz_limit(&self, service: &str) -> Option<Limit<u64>> {
        let own = match self.of_service(service, "vsz_limit") {
            Some(text) => Some(size(&text?, self.generation)?),
            None => None,
        };
        let limit = match own.filter(|limit| *limit != Limit::Of(u64::MAX)) {
            Some(limit) => limit,
            None => match self.default("default_vsz_limit") {
                Some(text) => size(&text?, self.generation)?,
                None => Limit::Of(DEFAULTS.2),
            },
        };
        Some(if self.old() && limit == Limit::Of(0) { Limit::Unlimited } else { limit })
    }

    /// What is in force for a service.
    fn settings(&self, service: &str, built_in: &BuiltIn) -> Settings {
        let (process_limit, client_limit, _) = DEFAULTS;
        let count = self.count(service, built_in.restart_request_count);
        let clients = self.limit(service, "client_limit", built_in.client_limit, client_limit);
        let min_avail = match self.of_service(service, "process_min_avail") {
            Some(text) => text.and_then(|text| number(&text, self.generation)),
            None => Some(Limit::Of(built_in.process_min_avail)),
        };
        let executable = self.of_service(service, "executable");
        Settings {
            program: executable
                .unwrap_or_else(|| Some(built_in.executable.to_owned()))
                .map(|executable| Program::of_executable(&executable)),
            process_limit: self.limit(service, "process_limit", built_in.process_limit, process_limit),
            client_limit: clamped(clients, count),
            process_min_avail: min_avail.and_then(|limit| match limit {
                Limit::Of(number) => Some(number),
                Limit::Unlimited => None,
            }),
            restart_request_count: count,
            vsz_limit: self.vsz_limit(service),
            reuse_port: false,
        }
    }
}

fn first_of<'a>(key: &str, mut values: impl Iterator<Item = &'a Values>) -> Option<&'a Option<String>> {
    values.find_map(|values| values.get(key))
}

/// The limits that the configuration makes; the error is why Dovecot refuses it.
fn settle(config: &Config) -> Result<Limits, String> {
    if !config.old() {
        if config.is_open() {
            return Err("a block is not closed".to_owned());
        }
        if config.global("dovecot_storage_version").is_none() {
            return Err("dovecot_storage_version is not set".to_owned());
        }
        let services = config.root.services.values().flat_map(|section| &section.includes);
        let missing =
            config.root.own.includes.iter().chain(services).find(|group| !config.groups.contains_key(group));
        if let Some((label, name)) = missing.filter(|_| !config.blind) {
            return Err(format!("there is no group @{label} {name}"));
        }
    }
    let built_in = built_in(config.generation);
    let known: BTreeSet<&str> = built_in.iter().map(|service| service.name).collect();
    let custom = config.declared.iter().filter(|name| !known.contains(name.as_str()));
    let none = BuiltIn::none();
    let everywhere = built_in
        .iter()
        .filter(|service| service.everywhere || config.declared.contains(service.name))
        .map(|service| (service.name, service));
    let mut services = Vec::new();
    let mut protocols = BTreeSet::new();
    for (name, built_in) in everywhere.chain(custom.map(|name| (name.as_str(), &none))) {
        let protocol =
            config.of_service(name, "protocol").unwrap_or_else(|| Some(built_in.protocol.to_owned()));
        let enabled = protocol.as_ref().is_none_or(|name| name.is_empty() || config.protocols.contains(name));
        if enabled || config.all_protocols != Some(true) {
            let settings = config.settings(name, built_in);
            // Dovecot does not look at services that it does not have.
            if enabled {
                check(config, name, built_in, &settings)?;
            }
            services.push((Service::parse(name), settings));
        }
        protocols.extend(protocol);
    }
    let missing = config.protocols.iter().find(|name| !protocols.contains(*name));
    if let Some(protocol) = missing.filter(|_| !config.blind) {
        return Err(format!("no service has the protocol {protocol}"));
    }
    let global = |name| config.global(name).flatten().filter(|value| !value.is_empty());
    Ok(Limits {
        services: services.into_iter().filter_map(|(name, settings)| Some((name?, settings))).collect(),
        listeners: vec![],
        client_limits_required: [].into(),
        loads: vec![],
        base_dir: global("base_dir").map(Into::into),
        instance_name: config.global("instance_name").unwrap_or_else(|| Some("dovecot".to_owned())),
        log_files: super::log_files(global("log_path"), global("info_log_path")),
        source: LimitSource::Config,
        unknown: config.unknown.as_ref().map(|(first, others)| match others {
            0 => first.clone(),
            others => format!("{first}; and {others} more"),
        }),
    })
}

/// What Dovecot demands of a service (`master_settings_verify`, src/master/master-settings.c).
fn check(config: &Config, name: &str, built_in: &BuiltIn, settings: &Settings) -> Result<(), String> {
    let process_limit = settings.process_limit;
    let refuse = |what| Err(format!("service {name}: {what}"));
    let zero = Some(Limit::Of(0));
    if process_limit.is_some_and(|limit| settings.process_min_avail.is_some_and(|min| limit < Limit::Of(min)))
    {
        return refuse("process_min_avail is higher than process_limit");
    }
    if built_in.alone && process_limit.is_some_and(|limit| limit > Limit::Of(1)) {
        return refuse("process_limit must be 1");
    }
    if !config.old() && [process_limit, settings.client_limit, settings.restart_request_count].contains(&zero)
    {
        return refuse("0 is no limit");
    }
    if settings.vsz_limit.is_some_and(|limit| limit < Limit::Of(1 << 20)) {
        return refuse("vsz_limit is too low");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
