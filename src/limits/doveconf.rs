//! `doveconf` of 2.3 and 2.4, run and read.

mod dump;

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr},
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Command,
    time::timeout,
    try_join,
};

use super::{
    Limit, LimitSource, Limits, Listener, Settings, clamped,
    config::size,
    defaults::Generation,
    next::{Load, client_limits_required},
};
use crate::service::{Program, Service};
use dump::Dump;

/// It takes 10 ms where all is well.
const TIME: Duration = Duration::from_secs(10);
/// The output of a stock configuration has 40 KiB.
const MAX_OUTPUT: u64 = 4 << 20;

/// What is asked for. A dump of everything would leave out, in 2.4, the services that the configuration does not
/// name; the block `service` has all. An unknown setting, such as `service_client_limit` is to 2.3, is passed over
/// in silence.
const SETTINGS: [&str; 16] = [
    "base_dir",
    "instance_name",
    "listen",
    "log_path",
    "info_log_path",
    "protocols",
    "default_process_limit",
    "default_client_limit",
    "default_vsz_limit",
    "service_process_limit",
    "service_client_limit",
    "service_process_min_avail",
    "service_restart_request_count",
    "service_vsz_limit",
    "service_reuse_port",
    "service",
];

/// Why there are no limits, in a sentence for the administrator.
#[derive(Debug)]
pub enum Trouble {
    /// There is no `doveconf`.
    Absent(String),
    /// It failed.
    Failed(String),
}

/// What `doveconf` says of the configuration in `config`.
pub async fn read(doveconf: &Path, config: &Path) -> Result<Limits, Trouble> {
    // With -x variables are expanded as the master expands them, but files that values are taken from, the TLS
    // keys among them, must be readable; without it no more is needed than the configuration itself.
    let output = match run_twice(doveconf, &["-x"], config).await {
        Err(Failure::Exit(_)) => run_twice(doveconf, &[], config).await,
        output => output,
    };
    match output {
        Ok((all, explicit)) => parse(&all, &explicit).ok_or_else(|| {
            Trouble::Failed(format!(
                "{} printed no services for {}: give --dovecot.doveconf the doveconf of Dovecot",
                doveconf.display(),
                config.display()
            ))
        }),
        Err(failure) => {
            let words = in_words(doveconf, config, &failure);
            let absent = matches!(&failure, Failure::Start(error) if error.kind() == ErrorKind::NotFound);
            Err(if absent { Trouble::Absent(words) } else { Trouble::Failed(words) })
        }
    }
}

/// Which Dovecot it is, and the `dovecot_config_version` of 2.4; the error is a sentence.
pub async fn version(doveconf: &Path, config: &Path) -> Result<(String, Option<String>), String> {
    let dump = run(doveconf, &["-n"], config, &[]).await;
    let (dump, _) = dump.map_err(|failure| in_words(doveconf, config, &failure))?;
    // # 2.4.1-4 (7d8c0e5759): /etc/dovecot/dovecot.conf
    let version =
        dump.lines().find_map(|line| line.strip_prefix("# ")?.split_once(" (")?.0.split('-').next());
    let version = version.filter(|version| version.starts_with(|first: char| first.is_ascii_digit()));
    let configured = dump.lines().find_map(|line| line.strip_prefix("dovecot_config_version = "));
    match version {
        Some(version) => Ok((version.to_owned(), configured.map(ToOwned::to_owned))),
        None => Err(format!(
            "{} does not say which Dovecot it is of: give --dovecot.doveconf the doveconf of Dovecot",
            doveconf.display()
        )),
    }
}

/// All settings, and those that the configuration sets, be it to what they are anyway.
async fn run_twice(doveconf: &Path, options: &[&str], config: &Path) -> Result<(String, String), Failure> {
    let explicit = [options, &["-N"]].concat();
    let ((all, said), (explicitly, _)) =
        try_join!(run(doveconf, options, config, &SETTINGS), run(doveconf, &explicit, config, &SETTINGS))?;
    let mut errors = said.lines().filter(|line| line.contains(": Error: ")).peekable();
    if errors.peek().is_some() {
        // Asked for some settings, doveconf exits with 0 even if Dovecot would not start with them. Asked for all, it
        // tells (src/config/doveconf.c). What it then says no more, it failed at: 2.4.1 does where a group has a
        // listener, and leaves services out.
        let (_, again) = run(doveconf, &explicit, config, &[]).await?;
        if let Some(error) = errors.find(|error| !again.contains(error)) {
            return Err(Failure::Exit(error.to_owned()));
        }
    }
    Ok((all, explicitly))
}

/// Why a program of Dovecot has no answer.
#[derive(Debug)]
pub enum Failure {
    /// It cannot be run, or says too much.
    Start(io::Error),
    /// It failed, and said this last.
    Exit(String),
    /// It took too long.
    TooSlow,
}

fn in_words(doveconf: &Path, config: &Path, failure: &Failure) -> String {
    let (doveconf, config) = (doveconf.display(), config.display());
    match failure {
        Failure::Start(error) => format!(
            "{doveconf} cannot be run ({error}): install Dovecot beside the exporter, or give --dovecot.doveconf its place, or state each limit with --dovecot.process-limit"
        ),
        Failure::Exit(said) => format!(
            "{doveconf} cannot read {config} ({said}): mend the configuration, or let the user of the exporter read all of it"
        ),
        Failure::TooSlow => {
            format!(
                "{doveconf} did not finish reading {config} within {} s and was killed: run it by hand to see why",
                TIME.as_secs()
            )
        }
    }
}

/// A process group that is killed with this value: the program, and what a wrapper script started in its place.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        // Who has ended needs no signal. The child is reaped only after this, so its number is not another's yet.
        let _ = self.0.map(|group| kill_process_group(group, Signal::KILL));
    }
}

/// Runs `doveconf`, which returns its output and what it says of errors.
async fn run(
    doveconf: &Path,
    options: &[&str],
    config: &Path,
    settings: &[&str],
) -> Result<(String, String), Failure> {
    run_any(doveconf, options, config, settings, MAX_OUTPUT).await
}

/// Runs a program of Dovecot with a pipe for its output, which is returned with what it says of errors, both shorter than
/// `most` bytes: `doveconf` of 2.4 can fail when the output is a file.
pub async fn run_any(
    program: &Path,
    options: &[&str],
    config: &Path,
    rest: &[&str],
    most: u64,
) -> Result<(String, String), Failure> {
    let mut child = Command::new(program)
        .args(options)
        .arg("-c")
        .arg(config)
        .args(rest)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(Failure::Start)?;
    let mut group = Group(child.id().and_then(|pid| Pid::from_raw(pid.try_into().ok()?)));
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let all = async {
        let (stdout, stderr) = try_join!(read_all(stdout, most), read_all(stderr, most))?;
        let status = child.wait().await?;
        group.0 = None;
        Ok((stdout, stderr, status))
    };
    let done: Result<io::Result<(String, String, ExitStatus)>, _> = timeout(TIME, all).await;
    match done {
        Ok(Ok((stdout, stderr, status))) if status.success() => Ok((stdout, stderr)),
        Ok(Ok((_, stderr, status))) => {
            // Warnings come first, the reason comes last.
            let reason = stderr.lines().rev().find(|line| !line.trim().is_empty());
            Err(Failure::Exit(reason.map_or_else(|| status.to_string(), |line| line.trim().to_owned())))
        }
        Ok(Err(error)) => Err(Failure::Start(error)),
        Err(_) => Err(Failure::TooSlow),
    }
}

async fn read_all(stream: Option<impl AsyncRead + Unpin>, most: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        stream.take(most).read_to_end(&mut bytes).await?;
    }
    if bytes.len() as u64 == most {
        return Err(io::Error::new(
            ErrorKind::FileTooLarge,
            format!("it prints more than {} MiB", most >> 20),
        ));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// All settings, beside those that the configuration sets.
struct Settled<'a> {
    all: Dump<'a>,
    explicit: Dump<'a>,
}

impl<'a> Settled<'a> {
    /// A service's setting. In 2.4 all services can be set at once, by `service_client_limit` and the like: that
    /// overrides what Dovecot has built in for a service, which doveconf prints all the same, but not what the
    /// configuration sets for it (measured on 2.4.1).
    fn setting(&self, service: &str, key: &str) -> Option<&'a str> {
        let global = format!("service_{key}");
        let of_all = self.explicit.globals.get(global.as_str());
        let dump = if of_all.is_some() { &self.explicit } else { &self.all };
        let own = dump.services.get(service).and_then(|settings| settings.get(key));
        own.or(of_all).or_else(|| self.all.globals.get(global.as_str())).copied()
    }

    /// A limit for which 0, in 2.3, and nothing, in 2.4, mean the setting `default_KEY`.
    fn limit(&self, service: &str, key: &str) -> Option<Limit> {
        match self.setting(service, key) {
            None | Some("" | "0") => {
                self.all.globals.get(format!("default_{key}").as_str()).copied().and_then(limit)
            }
            Some(value) => self.variable(value).and_then(limit),
        }
    }

    /// Follows 2.4's `$SET:NAME`, which is printed as it stands where doveconf may not expand it.
    fn variable(&self, value: &'a str) -> Option<&'a str> {
        value.strip_prefix("$SET:").map_or(Some(value), |name| self.all.globals.get(name).copied())
    }

    fn settings(&self, service: &str) -> Settings {
        // Before 2.4 the setting was called service_count, and 0 meant unlimited.
        let count = match self.setting(service, "service_count") {
            Some("0") => Some(Limit::Unlimited),
            Some(count) => limit(count),
            None => self.setting(service, "restart_request_count").and_then(limit),
        };
        let client_limit = self.limit(service, "client_limit");
        let min_avail = self.setting(service, "process_min_avail");
        Settings {
            program: self.setting(service, "executable").map(Program::of_executable),
            process_limit: self.limit(service, "process_limit"),
            client_limit: clamped(client_limit, count),
            process_min_avail: min_avail.and_then(|number| number.parse().ok()),
            restart_request_count: count,
            vsz_limit: self.vsz_limit(service),
            reuse_port: self.setting(service, "reuse_port") == Some("yes"),
        }
    }

    /// In 2.3, 0 means unlimited and 2^64 - 1 the default.
    fn vsz_limit(&self, service: &str) -> Option<Limit<u64>> {
        let bytes = |value| size(value, Generation::V24);
        let own = self.setting(service, "vsz_limit").filter(|value| *value != "18446744073709551615 B");
        let value = own.or_else(|| self.all.globals.get("default_vsz_limit").copied())?;
        let limit = bytes(self.variable(value)?)?;
        Some(if limit == Limit::Of(0) { Limit::Unlimited } else { limit })
    }
}

impl Settled<'_> {
    /// The TCP ports of the services that the master has.
    fn listeners(&self) -> Vec<Listener> {
        let listen = self.all.globals.get("listen").copied();
        let listener = |(service, settings): &(&str, BTreeMap<&str, &str>)| {
            let port = settings.get("port")?.parse().ok().filter(|port| *port > 0)?;
            // Called address before 2.4. Without one the general setting holds.
            let own = settings.get("listen").or_else(|| settings.get("address"));
            let own = own.copied().filter(|own| !own.is_empty()).or(listen);
            let addresses = own.and_then(addresses).unwrap_or_default();
            self.all.enabled(self.all.services.get(service)?).then_some(())?;
            Some(Listener { service: Service::parse(service)?, port, addresses })
        };
        self.all.listeners.iter().filter_map(listener).collect()
    }

    /// What counts for the limits of others.
    fn loads(&self) -> Vec<Load> {
        let enabled = self.all.services.iter().filter(|(_, settings)| self.all.enabled(settings));
        let load = |(name, settings): (&&str, &BTreeMap<&str, &str>)| {
            let processes = match self.limit(name, "process_limit") {
                Some(Limit::Of(processes)) => Some(processes),
                _ => None,
            };
            Some(Load {
                service: Service::parse(name)?,
                processes,
                once: self.settings(name).restart_request_count == Some(Limit::Of(1)),
                login: settings.get("type").copied() == Some("login"),
                protocol: settings.get("protocol").is_some_and(|protocol| !protocol.is_empty()),
            })
        };
        enabled.filter_map(load).collect()
    }
}

/// The addresses of a setting such as `*, ::`; nothing if one of them is the name of a host.
fn addresses(setting: &str) -> Option<Vec<IpAddr>> {
    let words = setting.split([',', ' ']).filter(|word| !word.is_empty());
    let address = |word: &str| match word {
        "*" => Some(Ipv4Addr::UNSPECIFIED.into()),
        word => word.trim_start_matches('[').trim_end_matches(']').parse().ok(),
    };
    words.map(address).collect()
}

fn limit(value: &str) -> Option<Limit> {
    if value == "unlimited" { Some(Limit::Unlimited) } else { value.parse().ok().map(Limit::Of) }
}

/// Reads what `doveconf` printed; nothing if that has no services.
fn parse(all: &str, explicit: &str) -> Option<Limits> {
    let settled = Settled { all: Dump::of(all), explicit: Dump::of(explicit) };
    let global = |name| settled.all.globals.get(name).copied().filter(|value| !value.is_empty());
    let services = settled.all.services.iter().filter(|(_, settings)| settled.all.enabled(settings));
    let services: BTreeMap<Service, Settings> =
        services.filter_map(|(name, _)| Some((Service::parse(name)?, settled.settings(name)))).collect();
    let loads = settled.loads();
    (!services.is_empty()).then(|| Limits {
        services,
        listeners: settled.listeners(),
        client_limits_required: client_limits_required(&loads),
        loads,
        base_dir: global("base_dir").map(Into::into),
        instance_name: global("instance_name").map(Into::into),
        log_files: super::log_files(global("log_path"), global("info_log_path")),
        source: LimitSource::Doveconf,
        unknown: None,
    })
}

#[cfg(test)]
mod tests;
