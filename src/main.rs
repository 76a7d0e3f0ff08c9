//! Flags, then wiring, then an exit code.

use std::{
    env,
    io::{self, Write},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::Parser;
use dovecot_capacity_exporter::{
    cli::{Command, Config, ListenAddress, LogFormat, LogLevel},
    exporter::{
        Exporter,
        threads::{END_TIME, follow_log, keep_limits, runtime},
    },
    health, report, systemd,
    web::{
        guard::{self, Guard},
        routes,
        serve::{self, MAX_CONNECTIONS},
    },
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    net::TcpListener,
    select,
    signal::unix::{Signal, SignalKind, signal},
    sync::{Semaphore, watch},
    time::timeout,
};
use tracing::{Level, error, info};
use tracing_subscriber::{Layer, filter::LevelFilter, layer::SubscriberExt, util::SubscriberInitExt};

/// A first scrape should find every series, but a `doveconf` or a file system that hangs must not keep us from
/// starting.
const FIRST_TIME: Duration = Duration::from_secs(1);
/// For answers under way when the process is told to stop.
const SHUTDOWN_TIME: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let config = match Config::try_parse() {
        Ok(config) => config,
        // --help and --version.
        Err(answer) if !answer.use_stderr() => {
            let _ = answer.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => return refuse(&error.to_string()),
    };
    if matches!(config.command, Some(Command::Healthcheck)) {
        return health::check(&config);
    }
    if let Err(reason) = config.check() {
        return refuse(reason);
    }
    match config.command.clone() {
        Some(Command::Status(options)) => return report::run::status(config, &options),
        Some(Command::Advise(options)) => return report::run::advise(&config, &options),
        Some(Command::Healthcheck) | None => {}
    }
    start_log(config.log_level, config.log_format);
    raise_descriptors();
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            error!(reason = reason.as_str(), "cannot start");
            ExitCode::from(2)
        }
    }
}

/// Takes as many descriptors as the system lets us have: each log takes one, and without any nobody gets an answer.
fn raise_descriptors() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    // If it fails, there are those that there were.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// Says on standard error why there is no start, in one line: the log has no form yet. A monitoring plugin says it on
/// standard output, where 2 would mean that Dovecot is in trouble.
fn refuse(error: &str) -> ExitCode {
    let reason: Vec<&str> = error.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
    let reason = format!("{}; --help tells what can be given", reason.join(" "));
    if env::args_os().any(|argument| argument == "--check") {
        return report::run::unknown(&reason);
    }
    let _ = writeln!(io::stderr(), "{reason}");
    ExitCode::from(2)
}

fn start_log(level: LogLevel, format: LogFormat) {
    let level = LevelFilter::from_level(match level {
        LogLevel::Debug => Level::DEBUG,
        LogLevel::Info => Level::INFO,
        LogLevel::Warn => Level::WARN,
        LogLevel::Error => Level::ERROR,
    });
    let layer = match format {
        LogFormat::Logfmt => {
            tracing_logfmt::builder().with_target(false).layer().with_writer(io::stderr).boxed()
        }
        LogFormat::Json => {
            tracing_subscriber::fmt::layer().json().with_target(false).with_writer(io::stderr).boxed()
        }
    };
    tracing_subscriber::registry().with(layer.with_filter(level)).init();
}

/// Runs until a signal says to stop; an error is a sentence that says why it cannot start.
fn run(config: Config) -> Result<(), String> {
    let given = config.systemd_socket.then(systemd::sockets).transpose()?;
    let addresses = config.listen_addresses.clone();
    let telemetry_path = config.telemetry_path.clone();
    let guard = config.web_config.as_deref().map(Guard::new).transpose()?.map(Arc::new);
    let exporter =
        Exporter::new(config).map_err(|error| format!("the system has no descriptor left: {error}"))?;
    let exporter = Arc::new(exporter);
    let runtime = runtime().map_err(|error| format!("the system lets no event loop start: {error}"))?;
    let done = runtime.block_on(async {
        let mut signals = Signals::new().map_err(|error| format!("signals cannot be received: {error}"))?;
        let listeners = match given {
            Some(sockets) => systemd::listeners(sockets)?,
            None => bind(addresses).await?,
        };
        let limits = keep_limits(&exporter, FIRST_TIME).await?;
        let log = follow_log(&exporter, FIRST_TIME).await?;
        let sampling = tokio::spawn(exporter.clone().keep_sampling());
        let router = routes::router(exporter.clone(), &telemetry_path);
        let router = match &guard {
            Some(guard) => guard::protect(router, guard.clone()),
            None => router,
        };
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let (stop, stopped) = watch::channel(());
        for listener in listeners {
            let address =
                listener.local_addr().map_err(|error| format!("a socket has no address: {error}"))?;
            tokio::spawn(serve::serve(
                listener,
                router.clone(),
                guard.clone(),
                slots.clone(),
                stopped.clone(),
            ));
            info!(%address, "listening");
        }
        drop(stopped);
        systemd::ready();
        select! {
            () = signals.wait(&exporter) => {}
            () = systemd::feed_watchdog(|| exporter.is_stuck()) => {}
        }
        info!("stopping");
        systemd::stopping();
        sampling.abort();
        stop.send_replace(());
        // Answers under way get to their end; whoever is slower than this is cut off.
        let _ = timeout(SHUTDOWN_TIME, stop.closed()).await;
        exporter.end();
        let _ = timeout(END_TIME, log).await;
        limits.end().await;
        Ok(())
    });
    runtime.shutdown_background();
    done
}

async fn bind(addresses: Vec<ListenAddress>) -> Result<Vec<TcpListener>, String> {
    let mut listeners = Vec::new();
    for address in addresses {
        let bound = serve::bind(address).await;
        listeners.push(bound.map_err(|error| {
            format!("cannot listen on {address} ({error}): give --web.listen-address an address and a port that are free")
        })?);
    }
    Ok(listeners)
}

/// What the process is told from outside. Handlers are needed even to be stopped: as process 1 of a container the
/// kernel ignores what has none.
struct Signals {
    hangup: Signal,
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Returns when the process is to stop.
    async fn wait(&mut self, exporter: &Exporter) {
        loop {
            select! {
                _ = self.interrupt.recv() => return,
                _ = self.terminate.recv() => return,
                _ = self.hangup.recv() => exporter.reread_limits(),
            }
        }
    }
}
