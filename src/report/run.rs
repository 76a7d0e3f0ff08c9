//! Looks, and says what is seen: once, or again and again.

use std::{
    env,
    ffi::OsString,
    future::pending,
    io::{self, IsTerminal, Write},
    process::ExitCode,
    time::Duration,
};

use rustix::termios::tcgetwinsize;
use tokio::{
    select,
    signal::unix::{Signal, SignalKind, signal},
    time::sleep,
};

use super::{
    advice, advise,
    check::{self, State},
    holders::{self, Holders},
    json,
    source::{Seen, Source},
    status::{self, Style},
    troubles::{self, Thresholds},
    words::{COLUMNS, one_line, wrap},
};
use crate::{
    cli::{Advise, Config, Status},
    exporter::threads::{END_TIME, runtime},
};

/// The part of the time that a check may take until it gives up; the rest is to end in, and to be heard.
const IN_TIME: f64 = 0.9;

/// `status`, to its exit code.
pub fn status(config: Config, options: &Status) -> ExitCode {
    in_event_loop(options.check, answer(config, options))
}

/// `advise`, to its exit code.
pub fn advise(config: &Config, options: &Advise) -> ExitCode {
    in_event_loop(false, async { advised(config, options).await.unwrap_or_else(|reason| refuse(&reason)) })
}

/// What this returns, without waiting for threads that hang.
fn in_event_loop(check: bool, answer: impl Future<Output = ExitCode>) -> ExitCode {
    match runtime() {
        Ok(runtime) => {
            let code = runtime.block_on(answer);
            runtime.shutdown_background();
            code
        }
        Err(error) => no_answer(check, &format!("the system lets no event loop start: {error}")),
    }
}

/// Looks and says what to do, unless somebody stops it.
async fn advised(config: &Config, options: &Advise) -> Result<ExitCode, String> {
    let receive = |kind| signal(kind).map_err(|_| "the system lets no signal be received".to_owned());
    let mut signals = (receive(SignalKind::interrupt())?, receive(SignalKind::terminate())?);
    let source = select! {
        source = Source::here(config.clone()) => source?,
        code = told_to_stop(&mut signals) => {
            // For the thread that now ends doveconf.
            sleep(END_TIME).await;
            return Ok(code);
        }
    };
    let advice = select! {
        advice = advise::advise(config, options, &source) => advice.map(Ok),
        code = told_to_stop(&mut signals) => Ok(Err(code)),
    };
    source.end().await;
    Ok(match advice? {
        Ok(advice) if options.json => printed(print(&json::advice(&advice))),
        Ok(advice) => printed(print(&advice::lines(&advice))),
        Err(code) => code,
    })
}

fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// The exit code behind what was printed.
fn printed(done: io::Result<()>) -> ExitCode {
    match done {
        // Whoever was to read it may have gone.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            refuse(&format!("standard output takes no more ({error}): make room where it goes"))
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Says in one sentence why nothing can be told.
fn refuse(reason: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "{}", one_line(reason));
    ExitCode::FAILURE
}

/// Says why nothing can be told, as whoever asks is to be told.
fn no_answer(check: bool, reason: &str) -> ExitCode {
    if check { unknown(reason) } else { refuse(reason) }
}

async fn answer(config: Config, options: &Status) -> ExitCode {
    let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    let (Ok(interrupt), Ok(terminate)) = signals else {
        return no_answer(options.check, "the system lets no signal be received");
    };
    let late = late(options);
    tokio::pin!(late);
    let mut signals = (interrupt, terminate);
    let opening = async {
        match &options.from {
            Some(url) => Ok(Source::url(url)),
            None => Source::here(config).await,
        }
    };
    let source = select! {
        source = opening => source.map_err(|reason| no_answer(options.check, &reason)),
        code = told_to_stop(&mut signals) => Err(code),
        code = &mut late => Err(code),
    };
    let source = match source {
        Ok(source) => source,
        Err(code) => {
            // For the thread that now ends doveconf.
            sleep(END_TIME).await;
            return code;
        }
    };
    let answer =
        async { if options.check { check(&source, options).await } else { show(&source, options).await } };
    let code = select! {
        code = answer => code,
        code = told_to_stop(&mut signals) => code,
        code = &mut late => code,
    };
    source.end().await;
    code
}

/// Returns when a check takes too long, and has said so. Whoever runs it has a clock of their own: it is told before.
async fn late(options: &Status) -> ExitCode {
    if !options.check {
        return pending().await;
    }
    sleep(Duration::from_secs(options.timeout).mul_f64(IN_TIME)).await;
    let text = format!(
        "nothing can be told within {} s: see whether the log, its file system or doveconf hangs, or give --timeout more",
        options.timeout
    );
    unknown(&text)
}

/// Returns when somebody interrupts or terminates this, with the exit code that a shell has for it.
async fn told_to_stop((interrupt, terminate): &mut (Signal, Signal)) -> ExitCode {
    select! {
        _ = interrupt.recv() => ExitCode::from(130),
        _ = terminate.recv() => ExitCode::from(143),
    }
}

/// Says so in the way of plugins.
pub fn unknown(reason: &str) -> ExitCode {
    verdict(State::Unknown, &check::line(State::Unknown, reason))
}

fn verdict(state: State, line: &str) -> ExitCode {
    let done = print(&format!("{line}\n"));
    // Nobody is told that all is well who cannot read it.
    let state = if done.is_ok() { state } else { State::Unknown };
    printed(done);
    ExitCode::from(state.code())
}

async fn check(source: &Source, options: &Status) -> ExitCode {
    match look(source, options).await {
        Ok(seen) => {
            let (state, line) = check::verdict(&seen, thresholds(options), options.service.as_ref());
            verdict(state, &line)
        }
        Err(reason) => unknown(&reason),
    }
}

async fn show(source: &Source, options: &Status) -> ExitCode {
    let style = style();
    let again = options.watch.map(Duration::from_secs);
    loop {
        let seen = look(source, options).await;
        let text = match seen {
            Ok(seen) => Ok(describe(&seen, source.top(&seen, options.top).await, options, style)),
            Err(reason) => Err(reason),
        };
        let done = match (&text, again) {
            (Err(reason), None) => return refuse(reason),
            (Ok(text), None) => print(text),
            (text, Some(_)) => redraw(text.as_deref()),
        };
        let Some(again) = again.filter(|_| done.is_ok()) else { return printed(done) };
        sleep(again).await;
    }
}

async fn look(source: &Source, options: &Status) -> Result<Seen, String> {
    let mut seen = source.look().await?;
    seen.facts.forget_defaults();
    if let Some(service) = &options.service {
        seen.facts.only(service)?;
    }
    Ok(seen)
}

fn thresholds(options: &Status) -> Thresholds {
    Thresholds::of(options.warning, options.critical)
}

fn describe(seen: &Seen, top: Option<Result<Holders, String>>, options: &Status, style: Style) -> String {
    let troubles = troubles::find(seen, thresholds(options));
    if options.json {
        return json::line(seen, &troubles, top);
    }
    let top = top
        .map(|top| top.map_or_else(|reason| format!("\n{}\n", wrap(&reason, 2)), |top| holders::lines(&top)));
    status::screen(seen, &troubles, style) + &top.unwrap_or_default()
}

fn set(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

/// Whether standard output is a terminal that does what it is told.
fn is_terminal() -> bool {
    io::stdout().is_terminal() && set("TERM").is_some_and(|term| term != "dumb")
}

/// Colours and blocks for a terminal that shows them.
fn style() -> Style {
    let terminal = is_terminal();
    // The first that is set holds (locale(7)).
    let locale = set("LC_ALL").or_else(|| set("LC_CTYPE")).or_else(|| set("LANG")).unwrap_or_default();
    let locale = locale.to_string_lossy().to_ascii_lowercase().replace('-', "");
    Style { colour: terminal && set("NO_COLOR").is_none(), blocks: terminal && locale.ends_with("utf8") }
}

/// As much of the line as has room, with all its colours.
fn cut(line: &str, columns: usize) -> String {
    let (mut column, mut escape) = (0, false);
    let shown = |character: &char| {
        let part_of_escape = escape || *character == '\u{1b}';
        escape = part_of_escape && *character != 'm';
        column += usize::from(!part_of_escape);
        part_of_escape || column <= columns
    };
    line.chars().filter(shown).collect()
}

/// Puts the text, or the reason why there is none, in the place of the one before; behind it where that is no terminal.
fn redraw(text: Result<&str, &String>) -> io::Result<()> {
    if !is_terminal() {
        return match text {
            Ok(text) => print(text),
            Err(reason) => writeln!(io::stderr(), "{}", one_line(reason)),
        };
    }
    // Of a serial line nobody knows its size.
    let size = tcgetwinsize(io::stdout()).ok().filter(|size| size.ws_row > 1 && size.ws_col > 0);
    let (rows, columns) = size.map_or((24, COLUMNS), |size| (size.ws_row.into(), size.ws_col.into()));
    let reason = text.err().map(|reason| wrap(reason, 2));
    let text = text.ok().or(reason.as_deref()).unwrap_or_default();
    // The worst is at the top, and must not scroll away: no more lines than there are, and none on two.
    let lines: Vec<String> = text.lines().take(rows - 1).map(|line| cut(line, columns)).collect();
    print(&format!("\u{1b}[H\u{1b}[K{}\n\u{1b}[J", lines.join("\n\u{1b}[K")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_take_no_room() {
        let line = "\u{1b}[31mabc\u{1b}[0m \u{1b}[33m██\u{1b}[0m";
        assert_eq!(cut(line, 6), line);
        assert_eq!(cut(line, 5), "\u{1b}[31mabc\u{1b}[0m \u{1b}[33m█\u{1b}[0m");
        assert_eq!(cut(line, 2), "\u{1b}[31mab\u{1b}[0m\u{1b}[33m\u{1b}[0m");
    }
}
