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
const HEADERS: [&str; 19] = [
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
        let line = format!("{header}master: Warning: SIGHUP received - reloading configuration");
        assert_eq!(parse(line.as_bytes()), Some(Event::Reload), "{line}");
    }
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

/// Lines that hold the text, or nearly, and are none of the master's warnings.
#[test]
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
