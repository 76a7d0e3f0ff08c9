//! `advise`, for people: what is, the remedies with what to paste, and one recommendation.

use std::fmt::Write;

use super::{
    advise::{Advice, Choice, Confidence},
    arithmetic::Number,
    blocks::{Remedy, Way},
    shell::quoted,
    words::{COLUMNS, bytes, count, wrap},
};

impl Confidence {
    /// In a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

/// All of it.
pub fn lines(advice: &Advice) -> String {
    let mut text = String::new();
    let mut line = |name: &str, words: &str| {
        push(&mut text, &format!("{:<12} {words}", format!("{name}:")), 13);
    };
    line("Service", &service(advice));
    let cut_off = if advice.demand.is_cut_off() { ", and a limit was met" } else { "" };
    let now = advice.in_use.map_or("not known".to_owned(), |now| now.to_string());
    let peak = format!("{} clients{cut_off}; {now} now", advice.demand.peak);
    let seen = if advice.seen.is_empty() { "no drop warnings".to_owned() } else { advice.seen.join("; ") };
    line("Peak", &format!("{peak} ({seen})."));
    line("Growth", &growth(advice));
    line("Memory", &memory(advice));
    let (confidence, why) = &advice.confidence;
    line("Confidence", &format!("{}: {why}.", confidence.as_str()));
    line("Recommended", &format!("{}.", advice.recommended.1));
    for flaw in &advice.flaws {
        line("Beside it", flaw);
    }
    for choice in &advice.options {
        text.push('\n');
        option(&mut text, advice, choice);
    }
    text
}

fn push(text: &mut String, words: &str, indent: usize) {
    text.push_str(wrap(words, indent).trim_end());
    text.push('\n');
}

fn service(advice: &Advice) -> String {
    let (processes, clients) = advice.limits;
    let mode = advice.mode.map(|mode| format!(", {} mode", mode.as_str())).unwrap_or_default();
    let configured = advice.host.config_version.as_ref();
    let configured =
        configured.map(|version| format!(" (dovecot_config_version {version})")).unwrap_or_default();
    format!(
        "{} of Dovecot {}{configured} takes {} clients: process_limit {}, client_limit {}{mode}.",
        advice.service,
        advice.host.version,
        count(advice.demand.limit.map(f64::from).or(Some(f64::INFINITY))),
        count(processes),
        count(clients)
    )
}

fn growth(advice: &Advice) -> String {
    match (advice.demand.growth, &advice.growth) {
        (Some(growth), Some(from)) => format!("{growth:+.1} clients a week at the peak ({from})."),
        _ => "not known: it takes a Prometheus and five days.".to_owned(),
    }
}

fn memory(advice: &Advice) -> String {
    let mut parts: Vec<String> = advice
        .memory
        .iter()
        .map(|process| {
            format!("{} for a process of {} ({})", fine(process.bytes), process.service, process.how)
        })
        .collect();
    if advice.memory.is_empty() {
        parts.push(format!("no process of {} to measure", advice.service));
    }
    parts.push(match &advice.available {
        Some(available) => format!(
            "{} of {} available ({})",
            bytes(Some(available.bytes)),
            bytes(Some(available.total)),
            available.from.display()
        ),
        None => "what is available is not known".to_owned(),
    });
    parts.join(", ") + "."
}

/// With a digit behind the point where that says something.
fn fine(number: f64) -> String {
    let mebibytes = number / 1_048_576.0;
    if mebibytes < 10.0 { format!("{mebibytes:.1}M") } else { bytes(Some(number)) }
}

fn option(text: &mut String, advice: &Advice, choice: &Choice) {
    let login = advice.options.len() > 1;
    let title = match (choice.way, login) {
        (Way::Processes, true) => "Option 1: a process for each client (high-security mode)",
        (Way::Shared, true) => "Option 2: processes that clients share (performance mode)",
        (_, false) => "What to set",
    };
    push(text, title, 0);
    match (&choice.number, &choice.remedy) {
        (Number::NoMemory(affordable, least), _) => {
            let words = format!(
                "  Memory forbids it: {least} clients at least are to be served, and there is memory for {affordable}."
            );
            push(text, &words, 2);
        }
        (Number::Of(_, arithmetic), Some(remedy)) => {
            push(text, &format!("  Clients: {arithmetic}."), 11);
            push(text, &format!("  Costs:   {}", costs(advice, choice, remedy)), 11);
            for other in &remedy.others {
                push(text, &format!("  Rises:   {other}."), 11);
            }
            steps(text, advice, remedy);
        }
        (Number::Of(..), None) => push(text, "  The configuration on disk has no such service.", 2),
    }
}

fn costs(advice: &Advice, choice: &Choice, remedy: &Remedy) -> String {
    let mut words = match (choice.bytes, choice.each) {
        (Some(more), Some(each)) => {
            let (more, each) = (bytes(Some(more)), fine(each));
            format!("{more} more memory when all of them are there, {each} for each.")
        }
        _ => "memory that cannot be told now.".to_owned(),
    };
    if let Some(room) = choice.room.filter(|room| f64::from(*room) < remedy.capacity) {
        let capacity = count(Some(remedy.capacity));
        write!(words, " It lets {capacity} in, and there is memory for {room}.")
            .expect("a String takes everything");
    }
    match choice.way {
        Way::Shared => write!(
            words,
            " Up to {} clients share a process: whoever breaks into it has their passwords and traffic, and when it crashes they are cut off.",
            count(Some(remedy.capacity / f64::from(remedy.processes.max(1))))
        )
        .expect("a String takes everything"),
        Way::Processes if advice.service.as_str().ends_with("-login") => words.push_str(" No client shares a process."),
        Way::Processes => {}
    }
    words
}

/// Where the block belongs: a sentence, and the path on a line of its own where it fits no sentence and must not be cut.
fn paste(advice: &Advice, remedy: &Remedy) -> (String, String) {
    let own = remedy.block.split('}').next().unwrap_or_default();
    let now = match &advice.set_in {
        Err(reason) => format!("; what it overrides cannot be told, since {reason}"),
        Ok(set_in) => {
            let mut places: Vec<&str> = Vec::new();
            for (key, place) in set_in {
                // A file may be read twice.
                if own.contains(&format!("  {key} = ")) && !places.contains(&place.as_str()) {
                    places.push(place);
                }
            }
            if places.is_empty() {
                String::new()
            } else {
                format!(" and which thereby overrides {}", places.join(", "))
            }
        }
    };
    let file = advice.file.display().to_string();
    if file.chars().count() > COLUMNS - 20 {
        (format!("Append to this file, which Dovecot reads last{now}:"), format!("       {file}\n"))
    } else {
        (format!("Append to {file}, which Dovecot reads last{now}:"), String::new())
    }
}

fn steps(text: &mut String, advice: &Advice, remedy: &Remedy) {
    let mut number = 0;
    let mut step = |text: &mut String, words: &str| {
        number += 1;
        push(text, &format!("  {number}. {words}"), 5);
    };
    let (words, whole) = paste(advice, remedy);
    step(text, &words);
    write!(text, "{whole}\n{}\n", remedy.block).expect("a String takes everything");
    if !remedy.unit.is_empty() {
        let why: Vec<&str> = remedy.unit.iter().map(|(_, why)| why.as_str()).collect();
        let why = why.join("; ");
        let words = match &advice.host.unit {
            Some(unit) => format!("Put this into the unit, with systemctl edit {}: {why}.", short(unit)),
            None => format!(
                "Systemd did not start Dovecot here: {why}. Let what starts it grant so many; a unit of systemd would have"
            ),
        };
        step(text, &words);
        let lines: Vec<&str> = remedy.unit.iter().map(|(line, _)| line.as_str()).collect();
        write!(text, "\n[Service]\n{}\n\n", lines.join("\n")).expect("a String takes everything");
    }
    if let Some(somaxconn) = remedy.somaxconn {
        step(text, "Let as many wait as may be served, now and after the next boot:");
        let set = format!("sysctl -w net.core.somaxconn={somaxconn} > /etc/sysctl.d/dovecot-queue.conf");
        command(text, &typed(&[], &set));
    }
    let (how, why) = match (&advice.host.unit, remedy.restart) {
        (Some(unit), true) => {
            (typed(&[], &format!("&& systemctl restart {}", short(unit))), restart_reason(remedy))
        }
        (None, true) => (vec![], format!("Then restart Dovecot. {}", restart_reason(remedy))),
        (_, false) => ([typed(&[], "&&"), typed(&advice.doveadm, "reload")].concat(), queue(advice, remedy)),
    };
    step(text, "Bring it into force, if Dovecot takes it:");
    command(text, &[typed(&advice.doveconf, "-n > /dev/null"), how].concat());
    push(text, &format!("     {why}"), 5);
    step(text, "Verify:");
    command(text, &typed(&advice.doveadm, &format!("service status {}", advice.service)));
    let shown = match remedy.processes {
        1 => "the new client_limit".to_owned(),
        processes => format!("process_limit: {processes}"),
    };
    let words =
        format!("     {shown}, listen_pending: n, and last_drop_warning stays 0 over the next busy hour.");
    push(text, &words, 5);
}

/// As one types it.
fn short(unit: &str) -> String {
    quoted(unit.strip_suffix(".service").unwrap_or(unit))
}

/// Those of a command: in `start` are some with a space.
fn typed(start: &[String], rest: &str) -> Vec<String> {
    start.iter().cloned().chain(rest.split(' ').map(ToOwned::to_owned)).collect()
}

/// A line to paste: where it is too long for the screen the shell reads it as one.
fn command(text: &mut String, words: &[String]) {
    let mut column = 0;
    for word in words {
        let length = word.chars().count();
        if column > 0 && column + length + 3 > COLUMNS {
            text.push_str(" \\\n");
            column = 0;
        }
        let indent = if column == 0 { "       " } else { " " };
        text.push_str(indent);
        text.push_str(word);
        column += indent.len() + length;
    }
    text.push('\n');
}

fn restart_reason(remedy: &Remedy) -> String {
    let mut why = Vec::new();
    if remedy.block.contains("service anvil {") {
        why.push("anvil takes a new client_limit only so");
    }
    if !remedy.unit.is_empty() {
        why.push("the unit's limits are those of the start");
    }
    format!(
        "A restart, which disconnects everybody: {}. It enlarges the queue for waiting clients, too.",
        why.join(", and ")
    )
}

/// A reload does not make it longer.
fn queue(advice: &Advice, remedy: &Remedy) -> String {
    let now = "A reload disconnects everybody once, after some seconds (not with shutdown_clients = no).";
    match advice.queue.filter(|queue| f64::from(*queue) < remedy.capacity) {
        Some(queue) => {
            format!(
                "{now} The queue for waiting clients stays at {queue} for each address and port until a restart."
            )
        }
        None => format!("{now} A longer queue for waiting clients takes a restart."),
    }
}
