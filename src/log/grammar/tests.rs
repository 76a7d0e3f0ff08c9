use super::*;
use std::path::Path;

fn warning(service: &str, limit: LimitKind, number: u32) -> Option<Event> {
    let service = Service::parse(service)?;
    Some(Event::DropWarning(DropWarning { service, limit, number: Some(number), reuse_port: false }))
}

fn parse(line: &[u8]) -> Option<Event> {
    times(line).map(|(event, _)| event)
}

fn times(line: &[u8]) -> Option<(Event, u32)> {
    let mut event = None;
    super::parse(line, &mut |found| {
        event = Some((found.event.clone(), found.times));
        true
    });
    event
}

#[test]
fn the_ident_tells_the_instance() {
    let ident = |header: &str| {
        let line = format!("{header}master: Warning: SIGHUP received - reloading configuration");
        let mut ident = None;
        super::parse(line.as_bytes(), &mut |found| {
            ident = Some(found.ident.map(ToOwned::to_owned));
            true
        });
        ident
    };
    let some = |name: &str| Some(Some(name.to_owned()));
    assert_eq!(ident("Nov 23 15:54:28 "), Some(None));
    assert_eq!(ident("Nov 23 16:37:33 vm lab2: "), some("lab2"));
    assert_eq!(ident("Nov 23 16:39:24 vm dovecot-eu[21617]: "), some("dovecot-eu"));
    assert_eq!(ident("<20>1 2026-11-23T16:37:33Z vm dovecot - - -  "), some("dovecot"));
}

/// Every header in which Dovecot, rsyslog or journald was seen to write a line of the master.
const HEADERS: [&str; 34] = [
    "",
    "Nov 23 15:54:28 ",
    "Nov 03 15:54:28 ",
    "Nov 23 15:54:28.123456 ",
    "2026-11-23 16:39:14 ",
    "2026-11-23T16:13:35.600008 ",
    "2026-11-23T16:13:35,600+01:00 ",
    "<20>Nov 23 16:20:46 dovecot: ",
    "Nov 23 16:37:33 vm dovecot: ",
    "Nov  3 16:37:33 vm dovecot: ",
    "<172>Nov 23 16:22:08 vm lab2: ",
    "Nov 23 16:39:24 vm dovecot[21617]: ",
    "2026-11-23T16:37:33.731760+00:00 vm dovecot: ",
    "2026-11-23T16:37:33Z mail.example.org dovecot-eu: ",
    "2026-11-23T16:39:24+0000 2001:db8::1 dovecot[21617]: ",
    "2026-11-23T16:39:24-0330 fe80::1%eth0 dovecot: ",
    "<20>1 2026-11-23T16:37:33.731760+00:00 vm dovecot - - -  ",
    "<20>1 2026-11-23T16:37:33.731760+00:00 vm dovecot 21617 - - ",
    "1 2026-11-23T16:37:33Z vm dovecot - - - \u{feff}",
    // The tag is missing: a relay took "master" for it.
    "Nov 23 16:37:33 vm ",
    // Docker's syslog driver, with and without a syslog daemon in the container; Dovecot's standard error under systemd.
    "Nov 23 16:37:33 vm mailserver[1234]: Nov 23 16:37:33 ",
    "<30>Nov 23 16:37:33 vm docker/0a1b2c3d4e5f[1234]: Nov 23 16:37:33 box dovecot: ",
    "<30>1 2026-11-23T16:37:33Z vm mailserver 1234 mailserver - Nov 23 16:37:33 ",
    "2026-11-23T16:39:24+0000 vm dovecot[21617]: Nov 23 16:37:33 ",
    // `docker logs -t`, `kubectl logs --timestamps --prefix`, `docker compose logs`.
    "2026-11-23T16:37:33.123456789Z Nov 23 16:37:33 ",
    "[pod/dovecot-0/dovecot] Nov 23 16:37:33 ",
    "[pod/dovecot-0/dovecot] 2026-11-23T16:37:33.123456789Z Nov 23 16:37:33 ",
    "mailserver-dovecot-1  | Nov 23 16:37:33 ",
    "mailserver-dovecot-1  | ",
    // containerd, CRI-O, podman.
    "2026-11-23T16:37:33.123456789Z stderr F Nov 23 16:37:33 ",
    "2026-11-23T16:37:33.123456789+01:00 stdout F Nov 23 16:37:33 ",
    "2026-11-23T16:37:33.123456789Z stderr F ",
    "2026-11-23T16:37:33.123456789Z stdout F 2026-11-23T16:37:33.731760+00:00 box dovecot: ",
    "2026-11-23T16:37:33.123456789Z stdout F <20>1 2026-11-23T16:37:33Z vm dovecot - - -  ",
];

#[test]
fn every_header() {
    for header in HEADERS {
        // A datagram as syslog(3) sends it has no host.
        let header = header.replace(":46 dovecot", ":46 vm dovecot");
        let line = format!(
            "{header}master: Warning: service(imap-login): process_limit (5) reached, client connections are being dropped"
        );
        assert_eq!(parse(line.as_bytes()), warning("imap-login", LimitKind::Process, 5), "{line}");
        for end in ["", "\r", "#015"] {
            let line = format!("{header}master: Warning: SIGHUP received - reloading configuration{end}");
            assert_eq!(parse(line.as_bytes()), Some(Event::Reload), "{line}");
        }
        let line = format!(
            "{header}imap-login: Info: Disconnected: Connection queue full (no auth attempts in 4 secs): user=<>, rip=::1"
        );
        assert_eq!(parse(line.as_bytes()), Some(Event::QueueFullKill(service("imap-login"))), "{line}");
    }
}

#[test]
fn a_reload_may_fail() {
    for text in [
        "Error reading configuration: Error in configuration file /etc/dovecot/dovecot.conf line 33: Invalid number many",
        "Failed to read configuration: Failed to read config: open(/nonexistent) failed: No such file or directory",
        "Config reload failed: service(imap-login) User doesn't exist: nonesuch (See service imap-login { user } setting)",
    ] {
        let line = |name: &str, kind: &str| format!("Nov 23 16:37:33 {name}: {kind}: {text}");
        assert_eq!(parse(line("master", "Error").as_bytes()), Some(Event::ReloadFailed), "{text}");
        assert_eq!(parse(line("master", "Warning").as_bytes()), None, "{text}");
        assert_eq!(parse(line("imap-login", "Error").as_bytes()), None, "{text}");
    }
}

#[test]
fn docker_writes_json() {
    let text = "Nov 23 16:37:33 master: Warning: SIGHUP received - reloading configuration";
    for (line, expected) in [
        (format!(r#"{{"log":"{text}\n","stream":"stderr","time":"2026-11-23T16:37:33.123456789Z"}}"#), true),
        (
            format!(
                r#"{{"log":"{text}\r\n","stream":"stderr","attrs":{{"tag":"x"}},"time":"2026-11-23T16:37:33Z"}}"#
            ),
            true,
        ),
        (format!(r#"{{"log":"\u004e{}\n","stream":"stdout","time":"x"}}"#, &text[1..]), true),
        // A piece.
        (format!(r#"{{"log":"{text}","stream":"stderr","time":"2026-11-23T16:37:33Z"}}"#), false),
        (format!(r#"{{"log":"x\n{text}\n","stream":"stderr","time":"2026-11-23T16:37:33Z"}}"#), false),
        (format!(r#"{{"log":"user=<\"log\":\"{text}\n","stream":"stderr"}}"#), false),
        (format!(r#"{{"log":"{text}\n""#), false),
    ] {
        assert_eq!(parse(line.as_bytes()), expected.then_some(Event::Reload), "{line}");
    }
}

#[test]
fn a_daemon_may_write_one_line_for_many() {
    let text = "master: Warning: SIGHUP received - reloading configuration";
    for (line, expected) in [
        (format!("Nov 23 16:37:33 vm dovecot: message repeated 3 times: [ {text}]"), Some(3)),
        (
            format!("2026-11-23T16:37:33.731760+00:00 vm dovecot: message repeated 999999 times: [ {text}]"),
            Some(999_999),
        ),
        (format!("Nov 23 16:37:33 vm dovecot: message repeated 1000000 times: [ {text}]"), None),
        (format!("Nov 23 16:37:33 vm dovecot: message repeated x times: [ {text}]"), None),
        (format!("Nov 23 16:37:33 vm dovecot: message repeated 3 times: [ {text}"), None),
        (format!("Nov 23 16:37:33 vm dovecot: imap-login: message repeated 3 times: [ {text}]"), None),
        (
            format!(
                "Nov 23 16:37:33 vm dovecot: message repeated 3 times: [ message repeated 3 times: [ {text}]]"
            ),
            None,
        ),
    ] {
        assert_eq!(times(line.as_bytes()), expected.map(|times| (Event::Reload, times)), "{line}");
    }
}

fn service(name: &str) -> Service {
    Service::parse(name).expect("a name")
}

/// As Dovecot 2.3 and 2.4 log them to a file, and through syslog.
#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn what_else_is_counted() {
    let kill = |name| Event::QueueFullKill(service(name));
    let lost = |name| Event::HandoverFailure(service(name));
    let failed = |name, failure| Event::Failure(service(name), failure);
    let client = "(client-pid=20225, client-id=1, rip=127.0.0.1, created 9988 msecs ago, received 0/4 bytes)";
    let closed = "read() failed: Remote closed connection (destination service { process_limit } reached?)";
    let core = " - set CORE_OUTOFMEM=1 environment to get core dump)";
    let memory = "(Out of memory (service imap { vsz_limit=200 MB }, you may need to increase it)";
    for (text, expected) in [
        (
            "imap-login: Info: Disconnected: Connection queue full (no auth attempts in 1 secs): user=<>, rip=127.0.0.1",
            kill("imap-login"),
        ),
        (
            "imap-login: Disconnected: Connection queue full (auth failed, 1 attempts in 6 secs): user=<u1>, method=PLAIN",
            kill("imap-login"),
        ),
        (
            "pop3-login: Info: Disconnected: Connection queue full (client didn't finish SASL auth, waited 4 secs): user=<>",
            kill("pop3-login"),
        ),
        (
            "managesieve-login: Info: Login aborted: Connection queue full (client_limit and process_limit was hit and this login session was killed.) (process_full): user=<>, rip=::1",
            kill("managesieve-login"),
        ),
        (
            "submission-login: Info: Login aborted: Connection queue full (no auth attempts in 0 secs) (no_auth_attempts): user=<>",
            kill("submission-login"),
        ),
        (&format!("imap-login: Error: master(imap): {closed} {client}"), lost("imap")),
        (&format!("managesieve-login: Error: master(sieve): {closed} {client}"), lost("managesieve")),
        (
            &format!(
                "imap-login: Error: master(imap): net_connect_unix(imap) failed: Resource temporarily unavailable - http://wiki2.dovecot.org/SocketUnavailable {client}"
            ),
            lost("imap"),
        ),
        (
            &format!(
                "submission-login: Error: master(submission): net_connect_unix(submission) failed: Resource temporarily unava {client}"
            ),
            lost("submission"),
        ),
        (
            "imap-login: Info: Disconnected: Maximum number of connections from user+IP exceeded (mail_max_userip_connections=10): user=<u1>, method=PLAIN",
            Event::UserConnectionLimit,
        ),
        (
            "imap-login: Info: Login aborted: Maximum number of connections from user+IP exceeded (mail_max_userip_connections=1) (connection limit reached, 1/1 successful auths in 0 secs) (connection_limit): user=<u1>",
            Event::UserConnectionLimit,
        ),
        (
            "master: Error: service(pop3): command startup failed, throttling for 2.000 secs",
            failed("pop3", Failure::Throttled),
        ),
        (
            "master: Error: service(pop3): command startup failed, throttling for 60 secs",
            failed("pop3", Failure::Throttled),
        ),
        (
            "master: Error: service(imap): Initial status notification not received in 30 seconds, killing the process",
            failed("imap", Failure::StartupTimeout),
        ),
        (
            "master: Error: service(imap-login): fork() failed: Resource temporarily unavailable (ulimit -u 96365 reached?)",
            failed("imap-login", Failure::ForkFailed),
        ),
        (
            &format!(
                "imap(u1)<21111><GveMPPxg699/AAAC>: Fatal: master: service(imap): child 21111 returned error 83 {memory}{core}"
            ),
            failed("imap", Failure::OutOfMemory),
        ),
        (
            "imap-login: Maximum number of connections from user+IP exceeded (mail_max_userip_connections=10): user=<u1>, method=PLAIN, rip=192.0.2.1, lip=192.0.2.2, TLS",
            Event::UserConnectionLimit,
        ),
        (
            "imap-login: Disconnected: Connection queue full (no auth attempts): rip=192.0.2.1, lip=192.0.2.2",
            kill("imap-login"),
        ),
        // What a client calls itself changes nothing of what happened to it.
        (
            "imap-login: Info: Disconnected: Connection queue full (no auth attempts in 4 secs): user=<: Fatal: master: service(>",
            kill("imap-login"),
        ),
        (
            "pop3-login: Info: Disconnected: Maximum number of connections from user+IP exceeded (mail_max_userip_connections=1): user=<x: Fatal: master: service(imap): child 1>",
            Event::UserConnectionLimit,
        ),
        (
            &format!("imap(u1): Fatal: master: service(imap): child 21111 returned error 83 {memory})"),
            failed("imap", Failure::OutOfMemory),
        ),
        (
            &format!("imap: Fatal: master: service(imap): child 21111 returned error 83 {memory}{core}"),
            failed("imap", Failure::OutOfMemory),
        ),
        (
            "master: Info: Dovecot v2.3.19.1 (9b53102964) starting up for imap, pop3, submission, sieve (core dumps disabled)",
            Event::Start,
        ),
        ("master: Dovecot v2.4.1-4 (7d8c0e5759) starting up for imap", Event::Start),
    ] {
        for header in ["Nov 24 02:08:57 ", "2026-11-24T02:08:57.123456+00:00 vm dovecot: "] {
            let line = format!("{header}{text}");
            assert_eq!(parse(line.as_bytes()), Some(expected.clone()), "{line}");
        }
    }
}

#[test]
fn what_a_client_may_have_begun() {
    let mut found = 0;
    let mut take = |line: &str, before| {
        let forged = super::take(line.as_bytes(), before, &mut |_| {
            found += 1;
            true
        });
        (forged, std::mem::take(&mut found))
    };
    let kill = "Nov 24 02:18:08 imap-login: Info: Disconnected: Connection queue full (no auth attempts in 4 secs): user=<>";
    let reload = "Nov 24 02:18:08 master: Warning: SIGHUP received - reloading configuration";
    assert_eq!(take(kill, Before::Lines), (false, 1));
    assert_eq!(take(kill, Before::LongLine), (true, 0));
    assert_eq!(take(kill, Before::Piece), (true, 0));
    // In syslog what is of type Info has no type: a client's text stands right behind the name of the process.
    for text in [
        "imap-login: Error: master(imap): read() failed: Remote closed connection (destination service { process_limit } reached?) (client-pid=1, client-id=1, rip=::1, created 1 msecs ago, received 0/4 bytes)",
        "imap-login: Disconnected: Maximum number of connections from user+IP exceeded (mail_max_userip_connections=1)",
        "imap-login: Fatal: master: service(imap): child 7 returned error 83 (Out of memory (service imap { vsz_limit=2 MB }, you may need to increase it))",
    ] {
        let line = format!("Nov 24 02:18:08 vm dovecot: {text}");
        assert_eq!(take(&line, Before::Lines), (false, 1), "{line}");
        assert_eq!(take(&line, Before::LongLine), (true, 0), "{line}");
    }
    let failed = "Nov 24 02:18:08 vm dovecot: master: Error: service(pop3): command startup failed, throttling for 2.000 secs";
    assert_eq!(take(failed, Before::LongLine), (false, 1));
    // No client makes a process say that it is the master.
    assert_eq!(take(reload, Before::LongLine), (false, 1));
    assert_eq!(take(reload, Before::Piece), (true, 0));
    assert_eq!(take("Nov 24 02:18:08 imap-login: Info: Login: user=<master>", Before::Piece), (false, 0));
}

#[test]
fn every_limit() {
    let line = |text: &str| {
        parse(
            format!("Nov 23 15:54:28 master: Warning: service({text}, client connections are being dropped")
                .as_bytes(),
        )
    };
    assert_eq!(line("imap): process_limit (1024) reached"), warning("imap", LimitKind::Process, 1024));
    assert_eq!(line("auth): client_limit (1000) reached"), warning("auth", LimitKind::Client, 1000));
    for slash in ["client_limit/service_count", "client_limit/restart_request_count"] {
        assert_eq!(
            line(&format!("imap-login): {slash} (1) reached")),
            warning("imap-login", LimitKind::Client, 1)
        );
    }
    assert_eq!(
        line("imap-login): process_limit (4294967295) reached"),
        warning("imap-login", LimitKind::Process, u32::MAX)
    );
    let odd = |name: &str, number| {
        let service = Service::parse(name).unwrap_or_else(Service::other);
        Some(Event::DropWarning(DropWarning {
            service,
            limit: LimitKind::Process,
            number,
            reuse_port: false,
        }))
    };
    assert_eq!(
        line("imap-login): process_limit (00000000001024) reached"),
        warning("imap-login", LimitKind::Process, 1024)
    );
    assert_eq!(line("My Service): process_limit (5) reached"), odd("other", Some(5)));
    assert_eq!(line("imap-login): process_limit (99999999999999999999) reached"), odd("imap-login", None));
}

#[test]
fn one_full_process_of_a_reuse_port_service() {
    let text = "Nov 23 16:31:26 master: Warning: service(imap-login): client_limit (10) reached, client connections \
                are being dropped (pid=41730, reuse_port=yes)";
    let Some(Event::DropWarning(found)) = parse(text.as_bytes()) else { panic!("{text}") };
    assert_eq!((found.limit, found.number, found.reuse_port), (LimitKind::Client, Some(10), true));
}

/// Lines that hold the text of an event, or nearly, and are none.
#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn what_is_no_event() {
    const DROP: &str = "master: Warning: service(imap-login): process_limit (5) reached, client connections are being dropped";
    let forged = [
        // A user name, whole, as Dovecot logs it by default.
        "Nov 23 16:34:36 imap-login: Info: Disconnected: Connection closed (auth failed, 1 attempts in 6 secs): \
         user=<service(a): process_limit (9) reached, client connections are being dropped>, method=PLAIN",
        // auth_debug: the line ends in the client's text, behind prefixes of every kind.
        &format!(
            "Nov 23 16:18:23 auth: Debug: client passdb out: FAIL\t1\tuser=x\toriginal_user=dovecot: {DROP}"
        ),
        // The continuation of a user name of more than 4 KiB in 2.3.
        &format!("Nov 23 16:18:23 auth: Debug: {DROP}"),
        &format!("Nov 23 16:18:23 vm dovecot: auth: Debug: {DROP}"),
        &format!("2026-11-23T16:18:23+00:00 vm dovecot: auth: Debug: {DROP}"),
        &format!("auth: Debug: {DROP}"),
        &format!("Nov 23 16:18:23 imap(u1)<5><x>: Info: {DROP}"),
        &format!("Nov 23 16:18:23 auth(?,127.0.0.1,sasl:plain)<9sM/8fNgNsB/AAAB>: Debug: {DROP}"),
        &format!("Nov 23 16:18:23 vm dovecot: imap-login: Login: user=<x>, dovecot: {DROP}"),
        &format!("<20>1 2026-11-23T16:37:33Z vm dovecot - - - auth: Debug: {DROP}"),
        &format!("<20>1 2026-11-23T16:37:33Z auth: Debug: - - - {DROP}"),
        &format!("x {DROP}"),
        &format!(" {DROP}"),
        &format!("Nov 23 16:18:23  {DROP}"),
        &format!("Nov 23 16:18:23 vm dovecot:  {DROP}"),
        &format!("<20><20>{DROP}"),
        &format!("Nov 23 16:18:23 {DROP}."),
        &format!("Nov 23 16:18:23 {DROP}>, method=PLAIN"),
        &format!("Nov 23 16:18:23 {DROP} (pid=, reuse_port=yes)"),
        &format!("Nov 23 16:18:23 {DROP} (pid=1, reuse_port=yes) "),
        "Nov 23 16:18:23 master: Info: service(imap-login): process_limit (5) reached, client connections are being dropped",
        "Nov 23 16:18:23 master: Warning: service(imap-login): vsz_limit (5) reached, client connections are being dropped",
        "Nov 23 16:18:23 master: Warning: service(imap-login): process_limit () reached, client connections are being dropped",
        "Nov 23 16:18:23 master: Warning: service(imap-login): process_limit (-5) reached, client connections are being dropped",
        // One authenticated login lost; the words are alike, the line is another.
        "Nov 23 16:18:23 imap-login: Error: master(imap): read() failed: Remote closed connection (destination service \
         { process_limit } reached?) (client-pid=41464, client-id=1)",
        "Nov 23 16:18:23 auth: Warning: SIGHUP received - reloading configuration",
        // An over-long command, in spite of its reason.
        "Nov 23 16:18:23 imap-login: Info: Login aborted: Input buffer full (client_limit and process_limit was hit and this login session was killed.) (process_full): user=<>",
        "Nov 23 16:18:23 imap-login: Info: Disconnected: Connection queue full: user=<>",
        "Nov 23 16:18:23 imap-login: Info: Disconnected: Connection queue full (x<y): user=<>",
        "Nov 23 16:18:23 imap-login: Info: Disconnected: Connection queue full (no auth attempts in 4 secs) x",
        "Nov 23 16:18:23 imap-login: Info: Login: user=<Disconnected: Connection queue full (no auth attempts in 4 secs): >",
        "Nov 23 16:18:23 imap-login: Debug: Disconnected: Connection queue full (no auth attempts in 4 secs): user=<>",
        "Nov 23 16:18:23 imap(u1)<5><x>: Info: Disconnected: Connection queue full (no auth attempts in 4 secs): user=<>",
        "Nov 23 16:18:23 imap: Info: Disconnected: Connection queue full (no auth attempts in 4 secs): user=<>",
        "Nov 23 16:18:23 imap-login: Info: Disconnected: Maximum number of connections from user+IP exceeded (mail_max_user: user=<>",
        "Nov 23 16:18:23 imap-login: Error: master(imap): read() failed: Remote closed connection (destination service { process_limit } reached?) (client-pid=1, client-id=1, rip=x, created 1 msecs ago, received 0/4 bytes): user=<>",
        "Nov 23 16:18:23 imap-login: Error: master(imap): net_connect_unix(pop3) failed: Resource temporarily unavailable (client-pid=1, client-id=1, rip=::1, created 1 msecs ago, received 0/4 bytes)",
        "Nov 23 16:18:23 master: Error: service(imap): command startup failed, throttling for x secs",
        "Nov 23 16:18:23 imap-login: Info: master: Error: service(imap): command startup failed, throttling for 2 secs",
        // The name of a user may hold anything.
        "Nov 23 16:18:23 imap(u: v)<7><x>: Fatal: master: service(imap): child 7 returned error 83 (Out of memory (service imap { vsz_limit=2 MB }, you may need to increase it))",
        "Nov 23 16:18:23 imap(u1)<8><x>: Fatal: master: service(imap): child 7 returned error 83 (Out of memory (service imap { vsz_limit=2 MB }, you may need to increase it))",
        "Nov 23 16:18:23 imap(u1)<7><x>: Fatal: master: service(imap): child 7 returned error 83 (Out of memory (service pop3 { vsz_limit=2 MB }, you may need to increase it))",
        "Nov 23 16:18:23 imap(u1)<7><x>: Info: Fatal: master: service(imap): child 7 returned error 83 (Out of memory (service imap { vsz_limit=2 MB }, you may need to increase it))",
        "Nov 23 16:18:23 imap(u1)<7><x>: Fatal: master: service(imap): child 7 returned error 83 (Out of memory)",
        "Nov 23 16:18:23 imap(u1)<7><x>: Fatal: master: service(imap): child 7 killed with signal 9",
        "Nov 23 16:18:23 master: Info: Dovecot v2.3.19.1 (x) starting up",
        // A second header only behind the first.
        &format!("2026-11-23T16:37:33Z stderr P {DROP}"),
        &format!("Nov 23 16:18:23 Nov 23 16:18:23 Nov 23 16:18:23 {DROP}"),
        &format!("[pod/x y] {DROP}"),
        &format!("imap-login: Info  | {DROP}"),
        "Nov 23 16:18:23 master: Warning: SIGHUP received - reloading configuration again",
        "",
    ];
    for line in forged {
        assert_eq!(parse(line.as_bytes()), None, "{line}");
    }
    assert_eq!(parse(&[b"\xff", DROP.as_bytes()].concat()), None);
}

/// Dovecot's own logs from runs at the limit: as many events as an unanchored search for the master's words finds,
/// because nobody forged anything in these runs.
#[test]
fn logs_of_real_runs() {
    let logs = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/logs");
    let mut files = 0;
    for entry in logs.read_dir().expect("the folder") {
        let path = entry.expect("a file").path();
        let log = std::fs::read_to_string(&path).expect("text");
        let expected = log
            .lines()
            .filter(|line| line.contains(" master: Warning: service(") && line.contains("dropped"));
        let found = log.lines().filter(|line| matches!(parse(line.as_bytes()), Some(Event::DropWarning(_))));
        let found: Vec<&str> = found.collect();
        assert_eq!(found, expected.collect::<Vec<_>>(), "{}", path.display());
        assert!(!found.is_empty(), "{}", path.display());
        files += 1;
    }
    assert_eq!(files, 8);
}
