use super::*;

/// 2.4.1; the socket of a service that is full.
const SERVICES: &str = "\
anvil\t1\t1\t1\t1000\t0\t0\t0\t0\tn\tn\tn\t1
log\t1\t1\t1\t1000\t0\t0\t0\t0\tn\tn\tn\t2
stats\t1\t1\t1\t4294967295\t0\t0\t0\t0\tn\tn\tn\t1
imap-login\t3\t0\t2\t4\t0\t0\t0\t1795509402\ty\ty\tn\t18446744073709551615
Odd Name\t0\t0\t4294967295\t1\t2\t1795509541\t1\t0\tn\ty\tn\t0

";
const PROCESSES: &str = "\
anvil\t12459\t998\t2\t0\t1795509419\t0
log\t12460\t1000\t0\t1795509401\t1795509401\t0
stats\t12466\t4294967288\t0\t1795509401\t1795509401\t0
imap-login\t12490\t0\t4\t0\t1795509402\t0
imap-login\t12482\t3\t4\t0\t1795509402\t0
imap-login\t12483\t4294967295\t4\t0\t1795509402\t0

";

/// Hands out so many bytes at a time.
struct Pieces<'a>(&'a [u8], usize);

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.0.len().min(self.1).min(buffer.len());
        let (piece, rest) = self.0.split_at(length);
        buffer[..length].copy_from_slice(piece);
        self.0 = rest;
        Ok(length)
    }
}

fn answer(text: &str, piece: usize) -> Answer<Pieces<'_>> {
    Answer::of(Pieces(text.as_bytes(), piece))
}

fn read(text: &str) -> Result<Status, Failure> {
    read_status(&mut answer(text, 8192))
}

/// Each line without what follows its column `count`.
fn columns(services: &str, count: usize) -> String {
    let cut = |line: &str| line.split('\t').take(count).collect::<Vec<_>>().join("\t") + "\n";
    services.lines().map(cut).collect()
}

fn service(name: &str) -> Service {
    Service::parse(name).expect("a name")
}

#[test]
fn every_column_has_its_place() {
    let status = read(&[SERVICES, PROCESSES].concat()).expect("an answer");
    assert_eq!(status.generation, Generation { log: 12460, anvil: 12459, ..Generation::default() });
    let of_login = ServiceStatus {
        processes: 3,
        available: 0,
        process_limit: 2,
        client_limit: 4,
        listen_paused: true,
        starts: Some(u64::MAX),
        // All of one process, one of the next, and nobody knows of one that has retired.
        connections: 5,
    };
    assert_eq!(status.services[&service("imap-login")], of_login);
    let of_log = &status.services[&service("log")];
    assert_eq!((of_log.available, of_log.starts, of_log.connections), (1, Some(2), 0));
    assert!(!of_log.listen_paused);
    // Unlimited less seven.
    assert_eq!(status.services[&service("stats")].connections, 7);
    assert_eq!(status.services.len(), 4);
}

#[test]
fn older_and_newer_masters_have_fewer_and_more_columns() {
    let starts = |services: &str| {
        let status = read(&[services, PROCESSES].concat()).expect("an answer");
        status.services[&service("log")].starts
    };
    for (count, expected) in [(11, None), (12, None), (13, Some(2))] {
        assert_eq!(starts(&columns(SERVICES, count)), expected, "{count} columns");
    }
    assert_eq!(starts(&SERVICES.replace('\n', "\tnew\n").replace("\n\tnew\n", "\n\n")), Some(2));
}

#[test]
fn an_answer_may_come_in_pieces() {
    let whole = ["VERSION\tmaster-server\t1\t0\n", SERVICES, PROCESSES].concat();
    let expected = read(&[SERVICES, PROCESSES].concat()).expect("an answer");
    for piece in [1, 2, 3, 7, 64, 1000] {
        let mut answer = answer(&whole, piece);
        answer.handshake().expect("the version");
        assert_eq!(read_status(&mut answer).expect("an answer"), expected, "pieces of {piece}");
    }
}

#[test]
fn half_an_answer_is_none() {
    let whole = [SERVICES, PROCESSES].concat();
    for length in 0..whole.len() {
        let failure = read(&whole[..length]).expect_err("cut short");
        assert!(matches!(failure, Failure::Closed), "{length}: {failure:?}");
    }
}

#[test]
fn garbage_is_no_answer() {
    let whole = [SERVICES, PROCESSES].concat();
    let many = "imap-login\t1\t0\t0\t0\t0\t0\n".repeat(MAX_BYTES / 20);
    for (bad, why) in [
        ("\n".to_owned(), "no services"),
        (format!("\n{whole}"), "no services"),
        (whole.replace("\t2\t4\t", "\t2\t-4\t"), "of no service"),
        (whole.replace("\t2\t4\t", "\t2\t4294967296\t"), "of no service"),
        (whole.replace("\t2\t4\t", "\t2\t\t"), "of no service"),
        (whole.replace("\ty\ty\t", "\tyes\ty\t"), "of no service"),
        (whole.replace("\ty\ty\t", "\ty\t1\t"), "of no service"),
        (whole.replace("\tn\t2\n", "\tn\t2x\n"), "of no service"),
        (whole.replace("\tn\t2\n", "\n"), "do not fit"),
        (whole.replace("stats\t1\t", "log\t1\t"), "do not fit"),
        (whole.replace("stats\t12466", "stat\t12466"), "a process is of no service"),
        (whole.replace("log\t12460", "log\tx"), "of no process"),
        (whole.replace("12482\t3\t4\t0", "12482\t3"), "of no process"),
        (whole.replace("12482\t3", "12482\t-3"), "of no process"),
        (whole.replace("Odd Name", &"x".repeat(9000)), "too long"),
        (format!("{SERVICES}{many}"), "does not end"),
        ("HTTP/1.1 400 Bad Request\r\n\r\n".to_owned(), "of no service"),
    ] {
        let failure = read(&bad).expect_err(why);
        assert!(matches!(failure, Failure::Odd(what) if what.contains(why)), "{why}: {failure:?}");
    }
    let mut answer = Answer::of(&b"\xff\xfe\n"[..]);
    assert!(matches!(answer.line(), Err(Failure::Odd("a line is no text"))));
}

#[test]
fn the_other_side_must_be_a_master() {
    for (bad, why) in [
        ("VERSION\tmaster-server\t2\t0\n", "version"),
        ("VERSION\tanvil-server\t1\t0\n", "version"),
        ("VERSION\tmaster-server\t1\t\n", "version"),
        ("\n", "version"),
    ] {
        let failure = answer(bad, 100).handshake().expect_err(bad);
        assert!(matches!(failure, Failure::Odd(what) if what.contains(why)), "{bad:?}: {failure:?}");
    }
    answer("VERSION\tmaster-server\t1\t7\n", 100).handshake().expect("a minor version adds something");
}

/// 2.4.1
const ERRORS: &str = "\
warning\t1795509402.146098\t\tservice(imap-login): process_limit (2) reached, client connections are being dropped
error\t1795509541.946114\timap: \ttext of another
warning\t1795509419.728828\t\tSIGHUP received - reloading configuration
error\t1795509419.728828\t\ta\u{1}tb\u{1}nc\u{1}1d\u{1}re\u{1}0f

";

#[test]
fn errors_are_lines_of_log() {
    let errors = read_errors(&mut answer(ERRORS, 8192)).expect("an answer");
    let lines: Vec<Option<String>> = errors.iter().map(|entry| line_of_log(entry)).collect();
    let line = |text: &str| Some(format!("master: {text}"));
    assert_eq!(
        lines,
        [
            line(
                "Warning: service(imap-login): process_limit (2) reached, client connections are being dropped"
            ),
            None,
            line("Warning: SIGHUP received - reloading configuration"),
            line("Error: a\tb\nc\u{1}d\re\0f"),
        ]
    );
    assert_eq!(read_errors(&mut answer("\n", 1)).expect("an answer"), [""; 0]);
    assert!(matches!(read_errors(&mut answer("", 1)), Err(Failure::Refused)));
    assert!(matches!(read_errors(&mut answer(&ERRORS[..50], 1)), Err(Failure::Closed)));
}

#[test]
fn what_is_no_error_is_no_answer() {
    for bad in [
        ERRORS.replacen("warning", "notice", 1),
        ERRORS.replacen(".146098", "", 1),
        ERRORS.replacen(".146098", ".14609", 1),
        ERRORS.replacen("\t\t", "\t", 1),
        ERRORS.replacen("SIGHUP", "SIG\tHUP", 1),
        "warning\t1.000000\t\tx\n".repeat(MAX_ERRORS + 1),
    ] {
        let failure = read_errors(&mut answer(&bad, 8192)).expect_err("it is odd");
        assert!(matches!(failure, Failure::Odd("a line is no error")), "{bad}: {failure:?}");
    }
}

#[test]
fn a_master_that_takes_no_connection_is_slow() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("master");
    let listener = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    rustix::net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let _waits = UnixStream::connect(&path).unwrap();
    let failed = Answer::to(STATUS, &path, Duration::from_millis(50)).expect_err("it waits for its turn");
    assert!(matches!(failed, Failure::Slow), "{failed:?}");
}
