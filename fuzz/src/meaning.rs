//! What one line of log stands for, by the forms that are documented: regular expressions, and what those cannot say.

use std::sync::LazyLock;

use dovecot_capacity_exporter::{
    log::grammar::{Event, Failure},
    service::LimitKind,
};
use regex::bytes::{Captures, Regex};
use serde::Deserialize;

/// Of a line that is an event.
#[derive(Debug, Eq, PartialEq)]
pub struct Meaning {
    /// The instance of Dovecot, where a syslog daemon names it.
    pub ident: Option<String>,
    /// In words.
    pub event: String,
    /// How often.
    pub times: u32,
    /// Its text may be a client's, behind a line that Dovecot has split.
    pub of_client: bool,
    /// The forms by which it was reached.
    pub forms: Vec<&'static str>,
}

/// Every event and every form before it.
pub const FORMS: [&str; 25] = [
    "process_limit",
    "client_limit",
    "client_limit/service_count",
    "client_limit/restart_request_count",
    "reuse_port",
    "reload",
    "reload failed",
    "start",
    "fork_failed",
    "throttled",
    "startup_timeout",
    "out_of_memory",
    "out_of_memory of a user",
    "queue_full",
    "user_limit",
    "handover read",
    "handover connect",
    "Docker's json-file",
    "CRI",
    "kubectl",
    "compose",
    "RFC 3164",
    "RFC 5424",
    "two headers",
    "message repeated",
];

const TIME: &str = r"(?:(?:(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) (?: \d|\d\d) \d\d:\d\d:\d\d(?:[.,]\d{1,9})?)|(?:\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?:Z|[+-]\d\d:?\d\d)?))";
/// Of a host or an address, with no colon at its end.
const HOST: &str = r"[A-Za-z0-9._:%-]{0,254}[A-Za-z0-9._%-]";
const TAG: &str = r"[!-~&&[^:\[\]()<>]]{1,64}";

const LIMIT: &str = r"master: Warning: service\((?P<name>.*?)\): (?P<limit>process_limit|client_limit(?:/service_count|/restart_request_count)?) \((?P<number>\d+)\) reached, client connections are being dropped(?: \(pid=(?P<pid>\d+), reuse_port=yes\))?";
const RELOAD: &str = "master: Warning: SIGHUP received - reloading configuration";
const FAILED: &str =
    "master: Error: (?:Error reading configuration|Failed to read configuration|Config reload failed): .*";
const START: &str = r"master: (?:Info: )?Dovecot v[0-9A-Za-z.-]{1,32} \(.*\) starting up for .+";
const FAILURE: &str = r"master: Error: service\((?P<name>.*?)\): (?:(?P<fork>fork\(\) failed: .*)|(?P<throttled>command startup failed, throttling for [\d.]+ secs)|Initial status notification not received in [\d.]+ seconds, killing the process)";
const MEMORY: &str = r"[a-z0-9_-]{1,64}(?P<user>\([^()<>: ]{0,255}\)(?:<(?P<own>\d+)><[A-Za-z0-9+/=]*>)?)?: Fatal: master: service\((?P<name>.*?)\): child (?P<pid>\d+) returned error 83 \(Out of memory \(service (?P<again>.*?) \{ vsz_limit=(?P<size>\d+) MB \}, you may need to increase it\)(?: - set CORE_OUTOFMEM=1 environment to get core dump)?\)";
const LOGIN: &str = "[a-z0-9_-]{0,58}-login: ";
/// Behind the opening parenthesis: the rest of the reason, others behind it in 2.4, and what is told of the client.
const REASON: &str = r"[^()<>]{1,200}\)(?: \([^()<>]{1,200}\))*(?:: .*)?";
const HANDOVER: &str = r"Error: master\((?P<socket>.*?)\): (?:(?P<read>read\(\) failed: Remote closed connection \(destination service \{ process_limit \} reached\?\))|net_connect_unix\((?P<again>.*?)\) failed: Resource temporarily una(?P<rest>.*?)) \(client-pid=\d{1,10}, client-id=\d{1,10}, rip=[0-9a-fA-F.:]{0,45}, created \d{1,20} msecs ago, received \d{1,10}/\d{1,10} bytes\)";

struct Forms {
    docker: Regex,
    cri: Regex,
    pod: Regex,
    compose: Regex,
    line: Regex,
    limit: Regex,
    reload: Regex,
    failed: Regex,
    start: Regex,
    failure: Regex,
    memory: Regex,
    queue: Regex,
    user: Regex,
    handover: Regex,
}

static THE: LazyLock<Forms> = LazyLock::new(|| {
    let regex = |text: &str| Regex::new(&format!("(?-u)^(?:{text})")).expect("a pattern");
    let whole = |text: &str| regex(&format!("(?:{text})$"));
    let queue =
        format!(r"{LOGIN}(?:Info: )?(?:Disconnected|Login aborted): Connection queue full \({REASON}");
    let user = format!(
        r"{LOGIN}(?:Info: )?(?:(?:Disconnected|Login aborted): )?Maximum number of connections from user\+IP exceeded \(mail_max_userip_connections={REASON}"
    );
    let handover = format!("{LOGIN}{HANDOVER}");
    let all = [LIMIT, RELOAD, FAILED, START, FAILURE, MEMORY, &queue, &user, &handover].join("|");
    // The same, twice in one pattern.
    let names = Regex::new(r"\?P<[a-z]+>").expect("a pattern");
    let all = String::from_utf8(names.replace_all(all.as_bytes(), &b"?:"[..]).into_owned()).expect("text");
    let header = format!(r"{TIME} (?:{HOST} (?:(?P<tag>{TAG})(?:\[\d{{1,10}}\])?: )?)?");
    let second = format!("(?P<second>{})?", header.replace("?P<tag>", "?P<tag2>"));
    let rfc5424 = format!(
        r"1 {TIME} {HOST} (?P<app>[!-~]{{1,48}}) [!-~]{{1,128}} [!-~]{{1,128}} - (?: |\xEF\xBB\xBF)?"
    );
    let body = format!(r"(?:message repeated (?P<times>\d+) times: \[ (?P<many>{all})\]|(?P<one>{all}))");
    Forms {
        docker: regex(r#"\{"log":"(?:[^"\\]|\\.)*?\\n","#),
        cri: regex(&format!("{TIME} (?:stdout|stderr) (?P<tag>[FP]) ")),
        pod: regex(r"\[pod/[A-Za-z0-9./_-]{1,512}\] "),
        compose: regex(r"[A-Za-z0-9._-]{1,128} {1,128}\| "),
        line: whole(&format!(r"(?:<\d{{1,3}}>)?(?:{header}|{rfc5424})?{second}{body}(?:\r|#015)?")),
        limit: whole(LIMIT),
        reload: whole(RELOAD),
        failed: whole(FAILED),
        start: whole(START),
        failure: whole(FAILURE),
        memory: whole(MEMORY),
        queue: whole(&queue),
        user: whole(&user),
        handover: whole(&handover),
    }
});

#[derive(Deserialize)]
struct DockerLine {
    log: String,
}

/// What `line` stands for, if anything.
pub fn of(line: &[u8]) -> Option<Meaning> {
    std::str::from_utf8(line).ok()?;
    if is_docker(line) {
        let log = serde_json::from_slice::<DockerLine>(line).ok()?.log;
        return behind_runtime(log.strip_suffix('\n')?.as_bytes(), "Docker's json-file");
    }
    if let Some(head) = THE.cri.captures(line) {
        return (&head["tag"] == b"F").then(|| behind_runtime(&line[head[0].len()..], "CRI"))?;
    }
    for (pattern, form) in [(&THE.pod, "kubectl"), (&THE.compose, "compose")] {
        if let Some(head) = pattern.find(line) {
            return behind_runtime(&line[head.end()..], form);
        }
    }
    behind_runtime(line, "")
}

/// Whether a container runtime goes on with `line` in the next one.
pub fn is_piece(line: &[u8]) -> bool {
    if is_docker(line) {
        return !THE.docker.is_match(line);
    }
    THE.cri.captures(line).is_some_and(|head| &head["tag"] == b"P")
}

fn is_docker(line: &[u8]) -> bool {
    line.starts_with(br#"{"log":""#)
}

fn behind_runtime(line: &[u8], runtime: &'static str) -> Option<Meaning> {
    // Of two lines it is none.
    let found = THE.line.captures(line).filter(|_| !line.contains(&b'\n'))?;
    let group = |name: &str| found.name(name).map(|group| text(group.as_bytes()));
    let times = match group("times") {
        Some(times) => times.parse().ok().filter(|times| *times < 1_000_000)?,
        None => 1,
    };
    let body = found.name("many").or_else(|| found.name("one"))?.as_bytes();
    let (event, form) = event(body)?;
    let ident = if group("second").is_some() { group("tag2") } else { group("tag").or_else(|| group("app")) };
    let of_client = !body.starts_with(b"master: ");
    let mut forms = vec![form];
    let holds = |name: &str, form| group(name).map(|_| form);
    forms.extend(holds("tag", "RFC 3164").into_iter().chain(holds("app", "RFC 5424")));
    forms.extend(holds("second", "two headers").into_iter().chain(holds("times", "message repeated")));
    forms.extend(Some(runtime).filter(|runtime| !runtime.is_empty()));
    Some(Meaning { ident, event, times, of_client, forms })
}

fn event(body: &[u8]) -> Option<(String, &'static str)> {
    if let Some(found) = THE.limit.captures(body) {
        let name = name(&found, "name", "): ")?;
        let limit = if &found["limit"] == b"process_limit" { "process_limit" } else { "client_limit" };
        let number: Option<u32> = text(&found["number"]).parse().ok();
        let reuse_port = match found.name("pid") {
            Some(pid) => number_of(pid.as_bytes()).is_some().then_some(true)?,
            None => false,
        };
        let forms = ["process_limit", "client_limit", "client_limit/service_count"];
        let form = forms.into_iter().find(|form| form.as_bytes() == &found["limit"]);
        let form =
            if reuse_port { "reuse_port" } else { form.unwrap_or("client_limit/restart_request_count") };
        return Some((format!("{limit} of {name} is {number:?}, reuse_port {reuse_port}"), form));
    }
    if THE.reload.is_match(body) {
        return Some(("reload".into(), "reload"));
    }
    if THE.failed.is_match(body) {
        return Some(("reload failed".into(), "reload failed"));
    }
    if THE.start.is_match(body) {
        return Some(("start".into(), "start"));
    }
    if let Some(found) = THE.failure.captures(body) {
        let name = name(&found, "name", "): ")?;
        let form = if found.name("fork").is_some() {
            "fork_failed"
        } else if found.name("throttled").is_some() {
            "throttled"
        } else {
            "startup_timeout"
        };
        return Some((format!("{form} of {name}"), form));
    }
    if let Some(found) = THE.memory.captures(body) {
        let name = name(&found, "name", "): child ")?;
        let own = found.name("own").is_none_or(|own| own.as_bytes() == &found["pid"]);
        let plain = number_of(&found["pid"]).and(number_of(&found["size"])).is_some();
        let form = if found.name("user").is_some() { "out_of_memory of a user" } else { "out_of_memory" };
        return (found["name"] == found["again"] && own && plain)
            .then(|| (format!("out_of_memory of {name}"), form));
    }
    if THE.queue.is_match(body) {
        let login = text(body.split(|byte| *byte == b':').next()?);
        return Some((format!("queue_full of {login}"), "queue_full"));
    }
    if THE.user.is_match(body) {
        return Some(("user_limit".into(), "user_limit"));
    }
    let found = THE.handover.captures(body)?;
    let service = match name(&found, "socket", "): ")? {
        sieve if sieve == "sieve" => "managesieve".into(),
        name => name,
    };
    let form = if found.name("read").is_some() { "handover read" } else { "handover connect" };
    let same = found.name("again").is_none_or(|again| again.as_bytes() == &found["socket"]);
    let rest = found.name("rest").map(|rest| text(rest.as_bytes())).unwrap_or_default();
    (same && !rest.contains(" (client-pid=")).then(|| (format!("handover to {service}"), form))
}

/// A service's name as a label: `other` if it is none that can be; nothing if the text that ends it comes sooner.
fn name(found: &Captures, group: &str, end: &str) -> Option<String> {
    let name = text(&found[group]);
    let plain = name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'));
    let label = plain && (1..=64).contains(&name.len());
    (!name.contains(end)).then(|| if label { name } else { "other".into() })
}

fn number_of(digits: &[u8]) -> Option<u32> {
    text(digits).parse().ok()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The program's event in the same words.
pub fn in_words(event: &Event) -> String {
    match event {
        Event::DropWarning(warning) => {
            let limit = match warning.limit {
                LimitKind::Process => "process_limit",
                LimitKind::Client => "client_limit",
            };
            format!(
                "{limit} of {} is {:?}, reuse_port {}",
                warning.service, warning.number, warning.reuse_port
            )
        }
        Event::Reload => "reload".into(),
        Event::ReloadFailed => "reload failed".into(),
        Event::Start => "start".into(),
        Event::QueueFullKill(login) => format!("queue_full of {login}"),
        Event::UserConnectionLimit => "user_limit".into(),
        Event::HandoverFailure(service) => format!("handover to {service}"),
        Event::Failure(service, failure) => {
            let failure = match failure {
                Failure::ForkFailed => "fork_failed",
                Failure::Throttled => "throttled",
                Failure::StartupTimeout => "startup_timeout",
                Failure::OutOfMemory => "out_of_memory",
            };
            format!("{failure} of {service}")
        }
    }
}
