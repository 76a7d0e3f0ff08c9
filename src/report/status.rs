//! `status`, for people: what is wrong, each service beside its limits, and what cannot be seen.

use std::fmt::Write;

use super::{
    facts::{Mode, ServiceFacts},
    source::Seen,
    troubles::{Level, Trouble, since},
    words::{COLUMNS, bytes, count, tame, wrap},
};
use crate::metrics;

/// What the output may hold beside plain ASCII.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    /// Colours.
    pub colour: bool,
    /// Unicode's block elements.
    pub blocks: bool,
}

/// A bar shorter than this says nothing, and a longer one no more.
const BAR: (usize, usize) = (6, 20);
const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
const HEADINGS: [&str; 7] = ["service", "", "connections", "processes", "waiting", "warnings", "memory"];

/// The whole screen.
pub fn screen(seen: &Seen, troubles: &[Trouble], style: Style) -> String {
    let mut text = String::new();
    for trouble in troubles {
        let (mark, colour) = match trouble.level {
            Level::Critical => ("!!", 31),
            Level::Warning => ("! ", 33),
            Level::Flaw => ("* ", 33),
            Level::Past => ("- ", 0),
        };
        push_line(&mut text, &style.paint(colour, &wrap(&format!("{mark} {}", trouble.text), 3)));
    }
    if troubles.is_empty() {
        let all = if seen.facts.down.is_empty() { "" } else { ", as far as can be seen" };
        push_line(&mut text, &format!("Nothing is wrong{all}."));
    }
    text.push('\n');
    let mut active: Vec<&ServiceFacts> =
        seen.facts.services.iter().filter(|service| service.is_active()).collect();
    active.sort_by_key(|service| {
        let worst = level(service, troubles);
        // Of those that are as bad, the fullest.
        (std::cmp::Reverse(worst), std::cmp::Reverse(thousandths(service)))
    });
    table(&mut text, &active, troubles, style);
    let idle: Vec<&str> = seen
        .facts
        .services
        .iter()
        .filter(|service| !service.is_active())
        .map(|service| service.service.as_str())
        .collect();
    if !idle.is_empty() {
        let services = if idle.len() == 1 { "service that does" } else { "services that do" };
        let line = format!("And {} {services} nothing: {}", idle.len(), idle.join(", "));
        push_line(&mut text, &tame(&line, COLUMNS));
    }
    text.push('\n');
    for (mode, meaning) in [
        (Mode::HighSecurity, "High-security mode, a process for each client"),
        (Mode::Performance, "Performance mode, clients share processes"),
    ] {
        let of_mode = seen.facts.services.iter().filter(|service| service.mode() == Some(mode));
        let names: Vec<&str> = of_mode.map(|service| service.service.as_str()).collect();
        if !names.is_empty() {
            push_line(&mut text, &wrap(&format!("{meaning}: {}.", names.join(", ")), 2));
        }
    }
    if seen.facts.services.iter().any(|service| service.value(&metrics::SERVICE_DROP_WARNINGS).is_some()) {
        push_line(&mut text, &wrap(&counted_since(seen), 2));
    }
    for source in &seen.facts.down {
        let reason = seen.reasons.iter().find(|(name, _)| name == source);
        let reason = reason.map_or("the exporter's landing page says why", |(_, reason)| reason);
        push_line(&mut text, &wrap(&format!("Not seen: {}: {reason}.", what_it_tells(source)), 2));
    }
    text
}

impl Style {
    fn paint(self, colour: u8, text: &str) -> String {
        if self.colour && colour > 0 { format!("\u{1b}[{colour}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

fn counted_since(seen: &Seen) -> String {
    let since = since(&seen.since);
    match seen.since.time {
        Some(_) => format!("Warnings are counted since {since} ({}).", seen.since.what),
        None => format!("Warnings are counted since {since}."),
    }
}

/// What is not known without the source.
pub fn what_it_tells(source: &str) -> String {
    let told = match source {
        "procfs" => "processes",
        "log" | "journal" => "warnings",
        "limits" => "the configuration",
        "master" => "what the master counts",
        "state" => "earlier counts",
        _ => "something",
    };
    format!("{told} (source {source})")
}

/// The worst that is wrong with it.
fn level(service: &ServiceFacts, troubles: &[Trouble]) -> Option<Level> {
    troubles
        .iter()
        .find(|trouble| trouble.service.as_ref() == Some(&service.service))
        .map(|trouble| trouble.level)
}

#[expect(clippy::cast_possible_truncation, reason = "saturates")]
fn thousandths(service: &ServiceFacts) -> i64 {
    (service.share().unwrap_or_default() * 1000.0) as i64
}

fn push_line(text: &mut String, line: &str) {
    text.push_str(line.trim_end());
    text.push('\n');
}

fn cells(service: &ServiceFacts) -> [String; 7] {
    let of = |number: Option<f64>, limit: Option<f64>| format!("{}/{}", count(number), count(limit));
    [
        service.service.to_string(),
        String::new(),
        of(service.in_use(), service.value(&metrics::SERVICE_CONNECTION_CAPACITY)),
        of(service.processes(), service.value(&metrics::SERVICE_PROCESS_LIMIT)),
        service
            .value(&metrics::LISTENER_QUEUE_CONNECTIONS)
            .map_or_else(|| "-".to_owned(), |number| count(Some(number))),
        count(service.value(&metrics::SERVICE_DROP_WARNINGS)),
        bytes(service.value(&metrics::SERVICE_RESIDENT_MEMORY)),
    ]
}

fn table(text: &mut String, services: &[&ServiceFacts], troubles: &[Trouble], style: Style) {
    let rows: Vec<[String; 7]> = services.iter().map(|service| cells(service)).collect();
    let mut widths = HEADINGS.map(str::len);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.len());
        }
    }
    let others: usize = widths[2..].iter().sum::<usize>() + HEADINGS.len() - 1;
    widths[0] = widths[0].min(COLUMNS - others - BAR.0);
    widths[1] = (COLUMNS - others - widths[0]).min(BAR.1);
    let mut line = |cells: &[String; 7], bar: &str, colour: u8| {
        let name = format!("{:<width$}", tame(&cells[0], widths[0]), width = widths[0]);
        let mut line = format!("{} {}", style.paint(colour, &name), style.paint(colour, bar));
        for (cell, width) in cells.iter().zip(widths).skip(2) {
            write!(line, " {cell:>width$}").expect("a String takes everything");
        }
        push_line(text, &line);
    };
    line(&HEADINGS.map(ToOwned::to_owned), &" ".repeat(widths[1]), 0);
    for (service, row) in services.iter().zip(&rows) {
        let colour = match level(service, troubles) {
            Some(Level::Critical) => 31,
            Some(Level::Warning) => 33,
            _ => 0,
        };
        line(row, &bar(service.share(), widths[1], style), colour);
    }
}

/// How full it is; full only if it is.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "0 to 160"
)]
fn bar(share: Option<f64>, width: usize, style: Style) -> String {
    let Some(share) = share.filter(|share| share.is_finite()) else { return " ".repeat(width) };
    let parts = |most: usize| (share.clamp(0.0, 1.0) * most as f64) as usize;
    if style.blocks {
        let eighths = parts(8 * width);
        let bar = "█".repeat(eighths / 8) + EIGHTHS[eighths % 8];
        let rest = width - bar.chars().count();
        bar + &"░".repeat(rest)
    } else {
        let filled = parts(width - 2);
        format!("[{}{}]", "#".repeat(filled), ".".repeat(width - 2 - filled))
    }
}
