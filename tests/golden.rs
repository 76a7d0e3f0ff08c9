//! Whole pages, and what `status` shows, from made-up `/proc` trees, compared with files in `tests/golden`.
//! `UPDATE_GOLDEN=1` writes them anew; read the difference before you commit it.

use std::{fs, io::Write, path::Path, process::Command};

mod support;
use support::{
    exporter::{Exporter, await_some, script},
    master,
    proc::Proc,
};

const LOG: &str = "\
Nov 23 15:54:28 master: Warning: service(imap-login): process_limit (5) reached, client connections are being dropped
Nov 23 15:54:29 master: Warning: service(imap-login): process_limit (5) reached, client connections are being dropped
Nov 23 15:54:29 auth: Debug: master: Warning: service(imap-login): process_limit (5) reached, client connections are being dropped
Nov 23 15:54:30 master: Warning: service(auth): client_limit (1000) reached, client connections are being dropped
Nov 23 15:54:31 master: Warning: service(Odd Name): process_limit (7) reached, client connections are being dropped
";

/// Warnings that are never recent, whatever the day.
const OLD_LOG: &str = "\
2020-01-02T03:04:05Z master: Warning: service(imap-login): process_limit (5) reached, client connections are being dropped
2020-01-03T03:04:05Z master: Warning: service(imap-login): process_limit (5) reached, client connections are being dropped
2020-01-03T03:04:06Z imap-login: Error: master(imap): read() failed: Remote closed connection (destination service { process_limit } reached?) (client-pid=41464, client-id=1, rip=127.0.0.1, created 9996 msecs ago, received 0/4 bytes)
";

/// Two services of this configuration run one executable, `imap-login`.
const DOVECONF_23: &str = "case $* in *-N*) ;; *) cat tests/fixtures/doveconf/2.3 ;; esac";
const DOVECONF_24: &str =
    "case $* in *-N*) ;; *) sed '/^service imap-login-ext /,/^}/d' tests/fixtures/doveconf/2.4 ;; esac";
/// The same with a process for each client.
const HIGH_SECURITY: &str = "case $* in *-N*) ;; *) sed '/^service imap-login-ext /,/^}/d; /^service imap-login {/,/^}/{
    s/client_limit = 20/client_limit = 1/; s/process_limit = 100/process_limit = 7/
    s/process_min_avail = 2/process_min_avail = 0/; s/restart_request_count = unlimited/restart_request_count = 1/}' \
    tests/fixtures/doveconf/2.4 ;; esac";

/// What the exporter is shown.
#[derive(Clone, Copy)]
struct Scenario<'a> {
    name: &'a str,
    proc: &'a Proc,
    /// A shell command in place of `doveconf`.
    doveconf: &'a str,
    log: &'a str,
    /// What the master answers; nothing if there is no socket.
    master: Option<&'static str>,
    flags: &'a [&'a str],
}

/// Runs the exporter on it and compares both formats with the golden files.
fn check(scenario: &Scenario) {
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("dovecot.log");
    fs::write(&log, "").expect("a file");
    let doveconf = script(folder.path(), "doveconf", scenario.doveconf);
    let socket = folder.path().join("master");
    if let Some(answer) = scenario.master {
        master::serve(&socket, answer);
    }
    let flags = [
        format!("--dovecot.master-socket={}", socket.display()),
        format!("--path.procfs={}", scenario.proc.path().display()),
        format!("--dovecot.log-file={}", log.display()),
        format!("--dovecot.doveconf={doveconf}"),
        "--dovecot.config=/nonexistent/dovecot.conf".to_owned(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).chain(scenario.flags.iter().copied()).collect();
    let exporter = Exporter::start(&flags);
    fs::File::options()
        .append(true)
        .open(&log)
        .expect("the log")
        .write_all(scenario.log.as_bytes())
        .expect("written");
    let lines = format!("dovecot_exporter_log_lines_total{{log=\"{}\"}}", log.display());
    let written = scenario.log.lines().count().to_string();
    await_some("lines", || (exporter.value(&lines)?.to_string() == written).then_some(()));
    for (accept, end) in [("text/plain", "prom"), ("application/openmetrics-text", "om")] {
        let (status, _, body) = exporter.get("/metrics", &format!("Accept: {accept}\r\n"));
        assert_eq!(status, "HTTP/1.1 200 OK");
        let page =
            String::from_utf8(body).expect("text").replace(folder.path().to_str().expect("text"), "/srv");
        compare(&format!("{}.{end}", scenario.name), &steady(&page));
    }
}

/// Runs `status` on it and compares what it shows: to a pipe, to a terminal, and as a plugin.
fn check_status(scenario: &Scenario, code: i32) {
    let folder = tempfile::tempdir().expect("a folder");
    // By a name without a folder, whose length would differ from place to place.
    fs::write(folder.path().join("dovecot.log"), scenario.log).expect("a file");
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    script(
        folder.path(),
        "doveconf",
        &scenario.doveconf.replace("tests/fixtures", fixtures.to_str().expect("text")),
    );
    if let Some(answer) = scenario.master {
        master::serve(&folder.path().join("master"), answer);
    }
    let flags = [
        "--dovecot.master-socket=master".to_owned(),
        format!("--path.procfs={}", scenario.proc.path().display()),
        "--dovecot.log-file=dovecot.log".to_owned(),
        "--dovecot.doveconf=./doveconf".to_owned(),
        "--dovecot.config=/nonexistent/dovecot.conf".to_owned(),
    ];
    let program = env!("CARGO_BIN_EXE_dovecot-capacity-exporter");
    let run = |command: &mut Command| {
        let command = command.current_dir(folder.path()).env_clear().envs([
            ("LC_ALL", "C.UTF-8"),
            ("PATH", "/usr/bin:/bin"),
            ("TERM", "xterm"),
            ("TZ", "UTC"),
        ]);
        let output = command.output().expect("it runs");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        let text = String::from_utf8(output.stdout).expect("text").replace('\r', "");
        (output.status.code(), text.replace(folder.path().to_str().expect("text"), "/srv"))
    };
    let more = scenario.flags;
    let (_, plain) = run(Command::new(program).arg("status").args(&flags).args(more));
    let line = format!("{program} status {} {}", flags.join(" "), more.join(" "));
    let (_, shown) =
        run(Command::new("script").args(["--quiet", "--return", "--command", &line, "/dev/null"]));
    let (found, plugin) = run(Command::new(program).args(["status", "--check"]).args(&flags).args(more));
    for text in [&plain, &shown] {
        let columns = |line: &str| {
            let bare = line.split("\u{1b}[").map(|part| part.split_once('m').map_or(part, |(_, text)| text));
            line.split("\u{1b}[").next().map_or(0, |first| first.chars().count())
                + bare.skip(1).map(|text| text.chars().count()).sum::<usize>()
        };
        text.lines().for_each(|line| assert!(columns(line) <= 80, "{line}"));
    }
    compare(&format!("{}.status", scenario.name), &plain);
    compare(&format!("{}.terminal", scenario.name), &shown);
    compare(&format!("{}.check", scenario.name), &plugin);
    assert_eq!(found, Some(code));
}

/// Runs `advise` on it and compares what it prints.
fn check_advice(name: &str, proc: &Proc, doveconf: &str, kib_available: u32) {
    // By names without a folder, whose length would differ from place to place.
    let folder = proc.path().parent().expect("a folder");
    let write = |path: &Path, text: &str| {
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    };
    write(&folder.join("dovecot.log"), "");
    let config = "!include conf.d/*.conf\n# The last one.\n!include_try local.conf\n";
    write(&folder.join("dovecot.conf"), config);
    let set = "service imap-login {\n  inet_listener imap {\n    port = 143\n  }\n  process_limit = 7\n}\n";
    write(&folder.join("conf.d/10-master.conf"), set);
    let memory = format!("MemTotal: 4000000 kB\nMemAvailable: {kib_available} kB\n");
    write(&proc.path().join("meminfo"), &memory);
    write(&proc.path().join("cpuinfo"), "processor\t: 0\n\nprocessor\t: 1\n");
    write(&proc.path().join("sys/net/core/somaxconn"), "8\n");
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let doveconf = doveconf.replace("tests/fixtures", fixtures.to_str().expect("text"));
    script(folder, "doveconf", &doveconf);
    let output = Command::new(env!("CARGO_BIN_EXE_dovecot-capacity-exporter"))
        .args(["advise", "imap-login", "--dovecot.master-socket=", "--dovecot.log-file=dovecot.log"])
        .args(["--path.procfs=proc", "--dovecot.config=dovecot.conf", "--dovecot.doveconf=./doveconf"])
        .current_dir(folder)
        .env_clear()
        .envs([("PATH", "/usr/bin:/bin"), ("TZ", "UTC")])
        .output()
        .expect("it runs");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().for_each(|line| assert!(line.chars().count() <= 80, "{line}"));
    compare(&format!("{name}.advice"), &text);
}

/// A user's name may hold anything, and a terminal obeys nothing of it.
#[test]
fn names_of_others() {
    let proc = Proc::new();
    proc.master(100, "dovecot-lab");
    let title = b"dovecot-lab/imap [bob\x1b]0;x\x07\xc2\x9b31m\xff 10.0.0.1 IDLE]\0";
    proc.process(200, 100, "S", "imap", title);
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("dovecot.log"), "").expect("a file");
    let run = |more: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_dovecot-capacity-exporter"))
            .args(["status", "--top=1", "--dovecot.master-socket=", "--dovecot.log-file=dovecot.log"])
            .args(["--dovecot.doveconf=/nonexistent/doveconf", "--dovecot.config=dovecot.conf"])
            .arg(format!("--path.procfs={}", proc.path().display()))
            .args(more)
            .current_dir(folder.path())
            .output()
            .expect("it runs");
        assert_eq!(output.status.code(), Some(0));
        let text = String::from_utf8(output.stdout).expect("text");
        assert!(!text.trim_end().contains(|it: char| it.is_control() && it != '\n'), "{text:?}");
        text
    };
    let text = run(&[]);
    assert!(text.contains("          1     1  bob?]0;x??31m?\n"), "{text}");
    let json = run(&["--json"]);
    assert!(json.contains("\"user\":\"bob\\u001b]0;x\\u0007\\u009b31m\\ufffd\""), "{json}");
}

#[test]
fn advice() {
    let proc = Proc::new();
    proc.master(100, "dovecot-lab").limits(100).group(100, "dovecot.service", "20\n", "25\n");
    for pid in 200..206 {
        proc.process(pid, 100, "S", "imap-login", b"dovecot-lab/imap-login\0");
    }
    let each = |kib: u32| {
        for pid in 200..206 {
            let text = format!("Rss: 9000 kB\nPss: {kib} kB\n");
            fs::write(proc.path().join(format!("{pid}/smaps_rollup")), text).expect("a file");
        }
    };
    each(2100);
    proc.process(300, 100, "S", "imap", b"dovecot-lab/imap\0");
    let of = |version: &str| {
        format!(
            "case $* in '-n '*) printf '# {version} (7d8c0e5759): /etc/dovecot/dovecot.conf\\n';; *) {HIGH_SECURITY};; esac"
        )
    };
    check_advice("room", &proc, &of("2.4.1-4"), 2_000_000);
    // Enough for processes that clients share, and for no more.
    each(6100);
    check_advice("scarce", &proc, &of("2.4.1-4"), 14_000);
    // The host has memory, and the group of its unit has not.
    let group = proc.path().parent().expect("a folder").join("sys/fs/cgroup/dovecot.service");
    fs::write(group.join("memory.max"), "32000000\n").expect("a file");
    fs::write(group.join("memory.current"), "31000000\n").expect("a file");
    check_advice("no-memory", &proc, &of("2.4.1-4"), 2_000_000);
}

/// The page without the numbers that differ from run to run.
fn steady(page: &str) -> String {
    let differs = |line: &str| {
        ["process_", "dovecot_exporter_scrape_duration_seconds "].iter().any(|name| line.starts_with(name))
            || line.starts_with("dovecot_exporter_scan_errors_total{")
            || line.starts_with("dovecot_service_at_process_limit_seconds_total{")
            || line.split('{').next().is_some_and(|name| name.ends_with("_timestamp_seconds"))
    };
    let line = |line: &str| match line.rsplit_once(' ') {
        Some((sample, _)) if differs(line) => format!("{sample} ...\n"),
        _ => format!("{line}\n"),
    };
    page.lines().map(line).collect()
}

fn compare(name: &str, page: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, page).expect("written");
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    for (number, (found, expected)) in page.lines().zip(golden.lines()).enumerate() {
        assert_eq!(found, expected, "{name}, line {}", number + 1);
    }
    assert_eq!(page.lines().count(), golden.lines().count(), "{name}");
}

#[test]
fn no_dovecot() {
    check(&Scenario {
        name: "no-dovecot",
        proc: &Proc::new(),
        doveconf: "exit 1",
        log: "",
        master: None,
        flags: &[],
    });
}

#[test]
fn a_busy_dovecot() {
    let proc = Proc::new();
    proc.master(100, "dovecot-lab");
    for pid in 200..206 {
        proc.process(pid, 100, "S", "imap-login", b"dovecot-lab/imap-login [127.0.0.1 TLS proxy]\0");
        proc.process(pid + 100, 100, "S", "imap", b"dovecot-lab/imap [u1 127.0.0.1 IDLE]\0");
    }
    proc.process(400, 100, "S", "auth", b"dovecot-lab/auth [0 wait, 0 passdb, 0 userdb]\0");
    proc.process(401, 100, "S", "auth", b"dovecot-lab/auth worker: idling\0");
    proc.process(402, 100, "S", "doveadm-server", b"dovecot-lab/doveadm-server\0");
    proc.process(403, 100, "S", "submission-login", b"dovecot-lab/submission-login\0");
    proc.process(404, 100, "Z", "imap-login", b"").vanished(405);
    proc.process(406, 100, "R", "dovecot", b"/usr/sbin/dovecot\0-F\0");
    proc.raw(407, "407 (cut o", b"dovecot-lab/imap-login\0");
    proc.group(100, "system.slice/dovecot.service", "21\n", "4915\n");
    proc.limits(100);
    fs::create_dir(proc.path().join("100/net")).expect("a folder");
    let queue = "0: 00000000:008F 00000000:0000 0A 00000000:0000000D 00:00000000 00000000 0 0 81264 2 0";
    fs::write(proc.path().join("100/net/tcp"), format!("  sl  local_address\n{queue}\n")).expect("a file");
    // Another instance beside it, whose processes are not ours.
    proc.master(500, "dovecot").process(502, 500, "S", "imap-login", b"dovecot/imap-login\0");
    let flags = ["--dovecot.process-limit=lmtp=33"];
    let scenario =
        Scenario { name: "busy", proc: &proc, doveconf: DOVECONF_24, log: LOG, master: None, flags: &flags };
    check(&scenario);
    check_status(&Scenario { log: OLD_LOG, doveconf: HIGH_SECURITY, ..scenario }, 1);
}

/// Dovecot's defaults, which the page has then, are not what this Dovecot has.
#[test]
fn a_configuration_that_cannot_be_read() {
    let proc = Proc::new();
    proc.master(100, "dovecot-lab");
    for pid in 200..250 {
        proc.process(pid, 100, "S", "imap-login", b"dovecot-lab/imap-login\0");
        proc.process(pid + 50, 100, "S", "imap", b"dovecot-lab/imap\0");
    }
    let doveconf = "echo 'doveconf: Fatal: it is not for you' >&2; exit 89";
    let scenario = Scenario { name: "no-limits", proc: &proc, doveconf, log: "", master: None, flags: &[] };
    check_status(&scenario, 3);
    // One that somebody tells.
    let flags = ["--dovecot.process-limit=imap-login=50"];
    check_status(&Scenario { name: "no-limits-but-one", flags: &flags, ..scenario }, 2);
}

#[test]
fn a_master_that_may_be_asked() {
    let proc = Proc::new();
    proc.master(100, "dovecot-lab");
    let master = Some(include_str!("fixtures/master/2.4"));
    let flags = ["--dovecot.process-limit=lmtp=33"];
    let scenario =
        Scenario { name: "master", proc: &proc, doveconf: DOVECONF_24, log: LOG, master, flags: &flags };
    check(&scenario);
    check_status(&Scenario { log: OLD_LOG, ..scenario }, 2);
}

#[test]
fn an_older_dovecot_in_performance_mode() {
    let proc = Proc::new();
    proc.master(100, "dovecot-lab");
    proc.process(200, 100, "S", "imap-login", b"dovecot-lab/imap-login\0");
    proc.process(201, 100, "S", "imap-login", b"dovecot-lab/imap-login [1 pre-login + 7 TLS proxies]\0");
    let log = "Nov 23 15:54:28 master: Warning: SIGHUP received - reloading configuration\n";
    check(&Scenario {
        name: "performance",
        proc: &proc,
        doveconf: DOVECONF_23,
        log,
        master: None,
        flags: &[],
    });
}

#[test]
fn two_instances_and_no_way_to_tell() {
    let proc = Proc::new();
    proc.master(100, "dovecot").master(200, "dovecot");
    check(&Scenario {
        name: "two-instances",
        proc: &proc,
        doveconf: "exit 1",
        log: LOG,
        master: None,
        flags: &[],
    });
}

#[test]
fn hidden_processes() {
    let proc = Proc::new();
    proc.master(100, "dovecot");
    fs::remove_dir_all(proc.path().join("1")).expect("removed");
    check(&Scenario {
        name: "hidden",
        proc: &proc,
        doveconf: DOVECONF_24,
        log: "",
        master: None,
        flags: &[],
    });
}
