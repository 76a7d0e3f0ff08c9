//! Flags to a checked [`Config`]; every default in one place.

#![expect(clippy::doc_markdown, reason = "--help prints these sentences as they stand")]

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

use clap::{
    Args, Parser, Subcommand, ValueEnum,
    builder::{OsStringValueParser, TypedValueParser},
};

use crate::service::Service;

/// Percent of its capacity from which on a service is near its limit, as for the alert `DovecotServiceNearLimit`.
pub const NEAR: u8 = 80;
/// And from which on it is full.
pub const FULL: u8 = 100;

/// Shows Dovecot's processes beside `process_limit` before clients are turned away.
#[derive(Clone, Debug, Parser)]
#[command(version, about, long_about = None, max_term_width = 100)]
pub struct Config {
    /// What to do instead of exporting.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Address to listen on; repeatable. `:9166` is every address, `127.0.0.1:0` any free port.
    #[arg(
        long = "web.listen-address",
        value_name = "ADDR",
        default_value = ":9166",
        global = true,
        help_heading = "Web"
    )]
    pub listen_addresses: Vec<ListenAddress>,
    /// Listen on the sockets that systemd hands over, instead of on an address.
    #[arg(long = "web.systemd-socket", conflicts_with = "listen_addresses", help_heading = "Web")]
    pub systemd_socket: bool,
    /// Path of the metrics.
    #[arg(long = "web.telemetry-path", value_name = "PATH", default_value = "/metrics", value_parser = telemetry_path, help_heading = "Web")]
    pub telemetry_path: String,
    /// TLS, passwords, headers and a rate limit, in the format of Prometheus' exporter-toolkit.
    #[arg(long = "web.config.file", value_name = "FILE", help_heading = "Web")]
    pub web_config: Option<PathBuf>,
    /// Dovecot's configuration, of the instance to watch.
    #[arg(
        long = "dovecot.config",
        value_name = "FILE",
        default_value = "/etc/dovecot/dovecot.conf",
        global = true,
        help_heading = "Dovecot"
    )]
    pub dovecot_config: PathBuf,
    /// Dovecot's program that reads it. If there is none, or this is empty, the exporter reads the files itself.
    #[arg(
        long = "dovecot.doveconf",
        value_name = "FILE",
        default_value = "doveconf",
        value_parser = OsStringValueParser::new().map(PathBuf::from),
        global = true, help_heading = "Dovecot"
    )]
    pub doveconf: PathBuf,
    /// Log to follow: a file, a pattern such as '/var/log/containers/dovecot-*.log', or - for standard input;
    /// repeatable. [default: Dovecot's log_path, else /var/log/mail.log, /var/log/maillog or /var/log/dovecot.log,
    /// else the journal]
    #[arg(long = "dovecot.log-file", value_name = "FILE|GLOB|-", global = true, help_heading = "Dovecot")]
    pub log_files: Vec<PathBuf>,
    /// Follow the systemd journal: entries of root under this identifier, which is Dovecot's instance_name.
    #[arg(
        long = "dovecot.log-journal",
        value_name = "IDENTIFIER",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "dovecot",
        value_parser = identifier,
        global = true, help_heading = "Dovecot"
    )]
    pub log_journal: Option<String>,
    /// Take warnings from what the master remembers, where there is no log to read: Dovecot 2.4, through the master's
    /// socket. Tells nothing of logins lost, of clients turned out and of users with too many connections.
    #[arg(long = "dovecot.log-master", global = true, help_heading = "Dovecot")]
    pub log_master: bool,
    /// The master's status socket, which root may open; empty: never ask the master. [default: master in Dovecot's
    /// base_dir]
    #[arg(long = "dovecot.master-socket", value_name = "FILE", value_parser = OsStringValueParser::new().map(PathBuf::from), global = true, help_heading = "Dovecot")]
    pub master_socket: Option<PathBuf>,
    /// A service's process_limit, if nothing else tells it truly; repeatable.
    #[arg(long = "dovecot.process-limit", value_name = "SERVICE=N", value_parser = process_limit, global = true, help_heading = "Dovecot")]
    pub process_limits: Vec<(Service, u32)>,
    /// Where the proc file system is mounted in which Dovecot's processes can be seen.
    #[arg(
        long = "path.procfs",
        value_name = "DIR",
        default_value = "/proc",
        global = true,
        help_heading = "Dovecot"
    )]
    pub procfs: PathBuf,
    /// Where counters and places in the logs are kept, so that a restart counts what was logged meanwhile.
    #[arg(long = "state.file", value_name = "FILE", global = true, help_heading = "State")]
    pub state_file: Option<PathBuf>,
    /// Least important messages to log.
    #[arg(
        long = "log.level",
        value_enum,
        value_name = "LEVEL",
        default_value = "info",
        help_heading = "The exporter's own log"
    )]
    pub log_level: LogLevel,
    /// Form of the messages, on standard error.
    #[arg(
        long = "log.format",
        value_enum,
        value_name = "FORMAT",
        default_value = "logfmt",
        help_heading = "The exporter's own log"
    )]
    pub log_format: LogFormat,
}

/// What the program does when it is not to run as an exporter.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Shows each service beside its limits, and first what is wrong.
    Status(Status),
    /// Says what to set so that a service has room for its clients, and what to paste. Writes nothing.
    Advise(Advise),
    /// Exits with 0 if an exporter answers on the first --web.listen-address, else with 1: for containers.
    Healthcheck,
}

/// On what to advise, and from what.
#[derive(Args, Clone, Debug)]
pub struct Advise {
    /// On this service. [default: the login service that turns clients away, else the fullest]
    #[arg(value_name = "SERVICE", value_parser = service)]
    pub service: Option<Service>,
    /// Also ask a running exporter of this host for its peak, for instance localhost:9166.
    #[arg(long, value_name = "URL")]
    pub from: Option<String>,
    /// Take peak and growth from a Prometheus that has the rules of this project, for instance localhost:9090.
    #[arg(long, value_name = "URL")]
    pub prometheus: Option<String>,
    /// With --prometheus: look so far back, in hours, days or weeks.
    #[arg(long, value_name = "TIME", requires = "prometheus", default_value = "7d", value_parser = period)]
    pub period: Duration,
    /// With --prometheus: the label instance of this host, if it knows several.
    #[arg(long, value_name = "INSTANCE", requires = "prometheus")]
    pub instance: Option<String>,
    /// Print JSON, in one line.
    #[arg(long)]
    pub json: bool,
}

/// How to show it.
#[derive(Args, Clone, Debug)]
pub struct Status {
    /// Only this service.
    #[arg(value_name = "SERVICE", value_parser = service)]
    pub service: Option<Service>,
    /// Ask a running exporter instead of this host, for instance mail.example.org:9166.
    #[arg(long, value_name = "URL")]
    pub from: Option<String>,
    /// Print JSON, in one line.
    #[arg(long)]
    pub json: bool,
    /// Look again every so many seconds, until interrupted.
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "2",
        value_parser = clap::value_parser!(u64).range(1..=86400)
    )]
    pub watch: Option<u64>,
    /// Also the users and the addresses with most connections, so many of each.
    #[arg(long, value_name = "N", conflicts_with = "from", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub top: Option<u32>,
    /// Print one line and exit as plugins of Nagios, Icinga and Checkmk do: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN.
    #[arg(long, conflicts_with_all = ["json", "watch", "top"])]
    pub check: bool,
    /// With --check: WARNING from this part of a service's capacity on.
    #[arg(long, value_name = "PERCENT", requires = "check", default_value_t = NEAR, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub warning: u8,
    /// With --check: CRITICAL from this part of a service's capacity on.
    #[arg(long, value_name = "PERCENT", requires = "check", default_value_t = FULL, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub critical: u8,
    /// With --check: UNKNOWN if it takes longer than so many seconds.
    #[arg(long, value_name = "SECONDS", requires = "check", default_value = "10", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout: u64,
}

impl Config {
    /// Flags that do not go together; the error is a sentence.
    pub fn check(&self) -> Result<(), &'static str> {
        if let Some(Command::Status(status)) = &self.command
            && status.warning > status.critical
        {
            return Err("--warning is above --critical: give it no more than that");
        }
        if self.command.is_some() && self.log_files.iter().any(|file| file.as_os_str() == "-") {
            return Err("a look reads no standard input: give --dovecot.log-file a file");
        }
        if !self.log_master {
            return Ok(());
        }
        if !self.log_files.is_empty() || self.log_journal.is_some() {
            return Err(
                "--dovecot.log-master beside a log would count the same warnings twice: give only one of --dovecot.log-master, --dovecot.log-file and --dovecot.log-journal",
            );
        }
        if self.master_socket.as_ref().is_some_and(|socket| socket.as_os_str().is_empty()) {
            return Err(
                "--dovecot.log-master asks the master: give --dovecot.master-socket its socket, or leave that flag out",
            );
        }
        Ok(())
    }
}

/// Importance of a message.
#[derive(Clone, Copy, Debug, ValueEnum)]
#[expect(missing_docs, reason = "the names say it")]
pub enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
}

/// Form of a message.
#[derive(Clone, Copy, Debug, ValueEnum)]
#[expect(missing_docs, reason = "the names say it")]
pub enum LogFormat {
    Logfmt,
    Json,
}

/// Where to listen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ListenAddress {
    /// On this port of every address of the host.
    Any(u16),
    /// On this address only.
    One(SocketAddr),
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any(port) => write!(formatter, ":{port}"),
            Self::One(address) => address.fmt(formatter),
        }
    }
}

impl std::str::FromStr for ListenAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let port = text.strip_prefix(':').and_then(|port| port.parse().ok());
        port.map(Self::Any)
            .or_else(|| text.parse().ok().map(Self::One))
            .ok_or("write IP:PORT or :PORT, for example :9166, 127.0.0.1:9166 or [::1]:9166")
    }
}

fn process_limit(text: &str) -> Result<(Service, u32), &'static str> {
    let parse = |(service, number): (&str, &str)| {
        Some((Service::parse(service)?, number.parse().ok().filter(|number| *number > 0)?))
    };
    text.split_once('=').and_then(parse).ok_or("write SERVICE=N with N above 0, for example imap-login=500")
}

fn service(text: &str) -> Result<Service, &'static str> {
    Service::parse(text).ok_or("write the name of a service, for example imap-login")
}

fn period(text: &str) -> Result<Duration, &'static str> {
    let hours = |unit| match unit {
        'h' => Some(1),
        'd' => Some(24),
        'w' => Some(7 * 24),
        _ => None,
    };
    let parse = || {
        let number: u64 = text.get(..text.len().checked_sub(1)?)?.parse().ok()?;
        number.checked_mul(hours(text.chars().last()?)?).filter(|hours| (1..=365 * 24).contains(hours))
    };
    let hours = parse().ok_or("write hours, days or weeks up to 365d, for example 36h, 7d or 4w")?;
    Ok(Duration::from_secs(hours * 3600))
}

fn identifier(text: &str) -> Result<String, &'static str> {
    let valid = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    valid.then(|| text.to_owned()).ok_or("write the identifier as journalctl shows it, for example dovecot")
}

fn telemetry_path(text: &str) -> Result<String, &'static str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    let valid =
        text.len() > 1 && text.starts_with('/') && !text.starts_with("/-/") && text.bytes().all(plain);
    valid.then(|| text.to_owned()).ok_or("write a path such as /metrics, of letters, digits and /._-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(flags: &[&str]) -> Result<Config, String> {
        let flags = std::iter::once(&"exporter").chain(flags);
        let config = Config::try_parse_from(flags).map_err(|error| error.to_string())?;
        config.check().map(|()| config).map_err(ToOwned::to_owned)
    }

    #[test]
    fn warnings_come_from_one_place() {
        parse(&["--dovecot.log-master", "--dovecot.master-socket=/run/dovecot/master"]).expect("one source");
        let empty = parse(&["--dovecot.master-socket="]).expect("an empty one means never");
        assert_eq!(empty.master_socket, Some(PathBuf::new()));
        for (other, hint) in [
            ("--dovecot.log-file=/var/log/mail.log", "twice"),
            ("--dovecot.log-journal", "twice"),
            ("--dovecot.master-socket=", "asks the master"),
        ] {
            let error = parse(&["--dovecot.log-master", other]).expect_err(other);
            assert!(error.contains(hint), "{other}: {error}");
        }
    }

    #[test]
    fn defaults() {
        Config::command().debug_assert();
        let config = parse(&[]).expect("no flag is needed");
        assert_eq!(config.listen_addresses, [ListenAddress::Any(9166)]);
        assert_eq!(config.telemetry_path, "/metrics");
        assert!(config.log_files.is_empty());
    }

    #[test]
    fn values_are_checked() {
        for good in [
            "--web.listen-address=[::1]:0",
            "--dovecot.process-limit=imap-login=500",
            "--web.telemetry-path=/m",
            "--dovecot.doveconf=",
        ] {
            parse(&[good]).expect(good);
        }
        for (bad, hint) in [
            ("--web.listen-address=localhost", "IP:PORT"),
            ("--web.listen-address=:99999", "IP:PORT"),
            ("--dovecot.process-limit=imap-login", "SERVICE=N"),
            ("--dovecot.process-limit=imap-login=0", "SERVICE=N"),
            ("--dovecot.process-limit=imap login=5", "SERVICE=N"),
            ("--web.telemetry-path=metrics", "/metrics"),
            ("--web.telemetry-path=/-/ready", "/metrics"),
            ("--web.telemetry-path=/{x}", "/metrics"),
            ("--dovecot.log-journal=", "identifier"),
            ("--log.level=loud", "info"),
            ("--nonsense", "nonsense"),
        ] {
            let error = parse(&[bad]).expect_err(bad);
            assert!(error.contains(hint), "{bad}: {error}");
        }
    }
}
