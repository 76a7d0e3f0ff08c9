//! `status --json` and `advise --json`: one object, in one line. What is not known is not in it.

use std::fmt::Write;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{
    advise::{Advice, Choice},
    arithmetic::Number,
    blocks::{Remedy, Way},
    facts::{Facts, Mode, ServiceFacts},
    footprint::Process,
    holders::{Holder, Holders},
    source::Seen,
    troubles::Trouble,
    words::is_harmless,
};

/// All of it.
pub fn line(seen: &Seen, troubles: &[Trouble], top: Option<Result<Holders, String>>) -> String {
    let time = |time| Timestamp::try_from(time).ok().map(|time| time.to_string());
    let trouble = |trouble: &Trouble| {
        known([
            ("level", Some(trouble.level.as_str().into())),
            ("service", trouble.service.as_ref().map(|service| service.as_str().into())),
            ("text", Some(trouble.text.as_str().into())),
        ])
    };
    let since = known([
        ("time", seen.since.time.and_then(time).map(Value::from)),
        ("what", Some(seen.since.what.as_str().into())),
    ]);
    let down = |source: &String| {
        let reason = seen.reasons.iter().find(|(name, _)| name == source);
        (source.clone(), reason.map(|(_, reason)| reason.as_str()).into())
    };
    let answer = known([
        ("at", time(seen.at).map(Value::from)),
        ("master_pid", seen.master.map(Value::from)),
        ("warnings_counted_since", Some(since)),
        ("troubles", Some(troubles.iter().map(trouble).collect())),
        ("services", Some(seen.facts.services.iter().map(service).collect())),
        ("host", Some(host(&seen.facts))),
        ("top", top.map(|top| top.map_or_else(|reason| json!({ "unknown": reason }), |top| holders(&top)))),
        ("sources_down", Some(Value::Object(seen.facts.down.iter().map(down).collect()))),
    ]);
    printed(&answer)
}

/// `advise --json`: one object, in one line.
pub fn advice(advice: &Advice) -> String {
    let process = |process: &Process| json!({ "service": process.service.as_str(), "bytes": number(process.bytes.round()), "how": process.how });
    let place = |(key, place): &(String, String)| json!({ "setting": key, "place": place });
    let answer = known([
        ("service", Some(advice.service.as_str().into())),
        ("dovecot_version", Some(advice.host.version.as_str().into())),
        ("dovecot_config_version", advice.host.config_version.as_deref().map(Value::from)),
        ("mode", advice.mode.map(Mode::as_str).map(Value::from)),
        ("in_use", advice.in_use.map(Value::from)),
        ("capacity", Some(advice.demand.limit.map_or("unlimited".into(), Value::from))),
        ("peak", Some(advice.demand.peak.into())),
        ("peak_cut_off", Some(advice.demand.is_cut_off().into())),
        ("seen", Some(advice.seen.iter().map(|seen| Value::from(seen.as_str())).collect())),
        ("growth_per_week", advice.demand.growth.map(Value::from)),
        ("confidence", Some(advice.confidence.0.as_str().into())),
        ("confidence_reason", Some(advice.confidence.1.as_str().into())),
        ("memory", Some(advice.memory.iter().map(process).collect())),
        (
            "memory_available_bytes",
            advice.available.as_ref().map(|available| number(available.bytes.floor())),
        ),
        ("memory_available_from", advice.available.as_ref().map(|it| it.from.display().to_string().into())),
        ("options", Some(advice.options.iter().map(choice).collect())),
        ("recommended", advice.recommended.0.map(way).map(Value::from)),
        ("recommended_reason", Some(advice.recommended.1.as_str().into())),
        ("flaws", Some(advice.flaws.iter().map(|flaw| Value::from(flaw.as_str())).collect())),
        ("file", Some(advice.file.display().to_string().into())),
        ("set_in", advice.set_in.as_ref().ok().map(|places| places.iter().map(place).collect())),
        ("unit", advice.host.unit.as_deref().map(Value::from)),
    ]);
    printed(&answer)
}

/// JSON may hold characters as they are that a terminal would obey, and other people choose their names.
fn printed(answer: &Value) -> String {
    let mut text = String::new();
    for character in answer.to_string().chars() {
        if is_harmless(character) {
            text.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                write!(text, "\\u{unit:04x}").expect("a String takes everything");
            }
        }
    }
    text + "\n"
}

fn way(way: Way) -> &'static str {
    match way {
        Way::Processes => "processes",
        Way::Shared => "shared",
    }
}

fn choice(choice: &Choice) -> Value {
    let remedy = choice.remedy.as_ref();
    let lines = |remedy: &Remedy| remedy.unit.iter().map(|(line, _)| Value::from(line.as_str())).collect();
    let arithmetic = match &choice.number {
        Number::Of(_, arithmetic) => Some(arithmetic.as_str()),
        Number::NoMemory(..) => None,
    };
    known([
        ("way", Some(way(choice.way).into())),
        ("clients", remedy.map(|remedy| remedy.clients.into())),
        ("arithmetic", arithmetic.map(Value::from)),
        ("memory_for_clients", choice.room.map(Value::from)),
        ("memory_for_each_bytes", choice.each.map(|bytes| number(bytes.round()))),
        ("more_memory_bytes", choice.bytes.map(|bytes| number(bytes.round()))),
        ("capacity", remedy.map(|remedy| number(remedy.capacity))),
        ("block", remedy.map(|remedy| remedy.block.as_str().into())),
        (
            "others",
            remedy.map(|remedy| remedy.others.iter().map(|other| Value::from(other.as_str())).collect()),
        ),
        ("unit", remedy.map(lines)),
        ("somaxconn", remedy.and_then(|remedy| remedy.somaxconn).map(Value::from)),
        ("restart", remedy.map(|remedy| remedy.restart.into())),
    ])
}

fn known<const N: usize>(fields: [(&str, Option<Value>); N]) -> Value {
    fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

/// A whole number without a fraction; no limit is `"unlimited"`, as Dovecot has it.
fn number(number: f64) -> Value {
    #[expect(clippy::cast_possible_truncation, reason = "only used where it is exact")]
    let whole = number as i64;
    if number.is_infinite() {
        "unlimited".into()
    } else if number.fract() == 0.0 && number.abs() < 1e15 {
        whole.into()
    } else {
        json!(number)
    }
}

/// Every metric of the service, by its name without what all have in common.
fn service(facts: &ServiceFacts) -> Value {
    let mut fields = Map::new();
    fields.insert("service".to_owned(), facts.service.as_str().into());
    let mode = facts.mode().map(Mode::as_str).map(Value::from);
    let share = facts.share().filter(|share| share.is_finite()).map(Value::from);
    for (name, value) in [
        ("mode", mode),
        ("in_use", facts.in_use().map(number)),
        ("capacity", facts.capacity().map(number)),
        ("share", share),
    ] {
        fields.extend(value.map(|value| (name.to_owned(), value)));
    }
    fields.extend(facts.values().map(|(name, value)| (short(name), number(value))));
    Value::Object(fields)
}

fn host(facts: &Facts) -> Value {
    let wanted = |name: &str| name.starts_with("dovecot_") && !name.starts_with("dovecot_exporter_");
    facts
        .values()
        .filter(|(name, _)| wanted(name))
        .map(|(name, value)| (short(name), number(value)))
        .collect()
}

fn holders(top: &Holders) -> Value {
    let all = |holders: &[Holder], what| -> Value {
        let one = |holder: &Holder| {
            known([
                (what, Some(holder.name.as_str().into())),
                ("connections", Some(holder.connections.into())),
                ("idle", holder.idle.map(Value::from)),
            ])
        };
        holders.iter().map(one).collect()
    };
    json!({ "source": top.source, "users": all(&top.users, "user"), "addresses": all(&top.addresses, "address") })
}

fn short(name: &str) -> String {
    let name = name.strip_prefix("dovecot_").unwrap_or(name);
    let name = name.strip_prefix("service_").unwrap_or(name);
    name.strip_suffix("_total").unwrap_or(name).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_it_is_obeyed_by_a_terminal() {
        let name = "é\u{1b}[31m\u{9b}31m\u{7f}\u{202e}\u{e0001}\"\n";
        let text = printed(&json!({ "user": name }));
        assert_eq!(text, r#"{"user":"é\u001b[31m\u009b31m\u007f\u202e\udb40\udc01\"\n"}"#.to_owned() + "\n");
        let read: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(read["user"], name);
    }
}
