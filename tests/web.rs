//! The doors over HTTP, knocked at in every way.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

mod support;
use support::{
    exporter::{Exporter, await_some, request, script},
    proc::Proc,
};

/// One that sees a made-up Dovecot, and the values that live as long as it.
struct Site {
    exporter: Exporter,
    _proc: Proc,
    _folder: tempfile::TempDir,
}

const DOVECONF: &str = "case $* in *-N*) exit ;; esac; sed 's/lab/dovecot/; /^service imap-login-ext /,/^}/d' tests/fixtures/doveconf/2.4";

fn site() -> Site {
    site_with(DOVECONF, 1)
}

/// One with so many `imap-login`, and this shell command in place of `doveconf`.
fn site_with(doveconf: &str, logins: u32) -> Site {
    let proc = Proc::new();
    proc.master(100, "dovecot");
    for pid in 102..102 + logins {
        proc.process(pid, 100, "S", "imap-login", b"dovecot/imap-login\0");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let doveconf = script(folder.path(), "doveconf", doveconf);
    let log = folder.path().join("<&\".log");
    fs::write(&log, "").expect("a file");
    let flags = [
        format!("--path.procfs={}", proc.path().display()),
        format!("--dovecot.doveconf={doveconf}"),
        format!("--dovecot.log-file={}", log.display()),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    Site { exporter: Exporter::start(&flags), _proc: proc, _folder: folder }
}

#[test]
fn routes() {
    let site = site();
    let (status, header, body) = site.exporter.get("/", "");
    let body = String::from_utf8(body).expect("text");
    assert_eq!(status, "HTTP/1.1 200 OK");
    assert!(header.contains("content-type: text/html; charset=utf-8"), "{header}");
    for part in ["imap-login", "master process is 100", "href=\"/metrics\"", "procfs", "&lt;&amp;&quot;.log"]
    {
        assert!(body.contains(part), "{part} in {body}");
    }
    assert!(!body.contains("<&\"") && !body.contains("dict-async"), "{body}");
    let all = String::from_utf8(site.exporter.get("/?all", "").2).expect("text");
    assert!(all.contains("dict-async") && all.contains("imap-login"), "{all}");
    for path in ["/-/healthy", "/-/ready"] {
        assert_eq!(site.exporter.get(path, "").0, "HTTP/1.1 200 OK", "{path}");
    }
    for path in ["/metrics/", "/nothing", "//metrics", "/%2e%2e/etc/passwd"] {
        assert_eq!(site.exporter.get(path, "").0, "HTTP/1.1 404 Not Found", "{path}");
    }
    let post =
        request(site.exporter.address, "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(post.0, "HTTP/1.1 405 Method Not Allowed");
    let head = request(site.exporter.address, "HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!((head.0.as_str(), head.2.len()), ("HTTP/1.1 200 OK", 0));
}

#[test]
fn how_full_a_service_is() {
    let page = |settings: &str, logins| {
        let site =
            site_with(&format!("{DOVECONF} | sed '/^service imap-login {{/,/^}}/{{{settings}}}'"), logins);
        String::from_utf8(site.exporter.get("/", "").2).expect("text")
    };
    let high_security = "s/client_limit = 20/client_limit = 1/; s/process_limit = 100/process_limit = 7/
        s/restart_request_count = unlimited/restart_request_count = 1/";
    // Two of the processes are those that are kept ready.
    let some = page(high_security, 3);
    assert!(some.contains("<meter value=\"0.143\"></meter> 1 / 7<td"), "{some}");
    let high_security = format!("{high_security}; s/process_min_avail = 2/process_min_avail = 0/");
    let full = page(&high_security, 7);
    assert!(full.contains("<meter class=\"full\" value=\"1.000\"></meter> 7 / 7<td"), "{full}");
    // Where clients share processes, these tell nothing.
    let shared = page("", 3);
    assert!(shared.contains("imap-login<td>– / 2000<td class=\"number\">3 / 100<td"), "{shared}");
}

#[test]
fn another_telemetry_path() {
    let exporter = Exporter::start(&["--web.telemetry-path=/m/x"]);
    assert_eq!(exporter.get("/m/x", "").0, "HTTP/1.1 200 OK");
    assert_eq!(exporter.get("/metrics", "").0, "HTTP/1.1 404 Not Found");
    assert!(String::from_utf8(exporter.get("/", "").2).expect("text").contains("href=\"/m/x\""));
}

#[test]
fn formats_and_compression() {
    let site = site();
    let (_, header, body) =
        site.exporter.get("/metrics", "Accept: application/openmetrics-text;version=1.0.0\r\n");
    assert!(
        header.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"),
        "{header}"
    );
    assert!(body.ends_with(b"# EOF\n"));
    let (_, header, plain) = site.exporter.get("/metrics", "Accept: text/plain\r\n");
    assert!(header.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{header}");
    assert!(!String::from_utf8(plain.clone()).expect("text").contains("# EOF"));

    let (_, header, packed) = site.exporter.get("/metrics", "Accept-Encoding: gzip\r\n");
    assert!(header.contains("content-encoding: gzip"), "{header}");
    let body = if header.contains("transfer-encoding: chunked") { unchunked(&packed) } else { packed };
    let mut gunzip =
        Command::new("gzip").arg("-dc").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("gzip");
    gunzip.stdin.take().expect("a pipe").write_all(&body).expect("written");
    let unpacked = gunzip.wait_with_output().expect("ended").stdout;
    assert!(body.len() * 4 < unpacked.len(), "{} bytes of {}", body.len(), unpacked.len());
    let names = |page: &[u8]| -> Vec<String> {
        let text = String::from_utf8(page.to_vec()).expect("text");
        text.lines().filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect()
    };
    assert_eq!(names(&unpacked), names(&plain));
}

fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(end) = body.windows(2).position(|bytes| bytes == b"\r\n") {
        let length =
            usize::from_str_radix(std::str::from_utf8(&body[..end]).expect("text"), 16).expect("a length");
        whole.extend_from_slice(&body[end + 2..][..length]);
        body = &body[end + 2 + length + 2..];
    }
    whole
}

#[test]
fn requests_that_make_no_sense() {
    let site = site();
    let long = format!("GET /metrics HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    let many = format!("GET /metrics HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: y\r\n".repeat(200));
    for (text, wanted) in [("\x16\x03\x01\x02\x00\r\n\r\n", "400"), (&long, "431"), (&many, "431")] {
        let mut stream = TcpStream::connect(site.exporter.address).expect("a connection");
        // The server may answer and close before all is written.
        let _ = stream.write_all(text.as_bytes());
        let mut answer = [0; 12];
        if stream.read_exact(&mut answer).is_ok() {
            assert!(answer.ends_with(wanted.as_bytes()), "{}", String::from_utf8_lossy(&answer));
        }
        assert_eq!(site.exporter.get("/-/healthy", "").0, "HTTP/1.1 200 OK");
    }
}

#[test]
fn many_scrapes_at_once_get_whole_pages() {
    let site = site();
    thread::scope(|scope| {
        for _ in 0..100 {
            scope.spawn(|| {
                let page = site.exporter.metrics();
                assert!(page.contains("dovecot_service_processes{service=\"log\"} 1\n"), "{page}");
                assert!(
                    page.lines().last().is_some_and(|line| line.starts_with("process_start_time_seconds "))
                );
            });
        }
    });
}

/// Connections whose clients stop in the middle of the request's header, or never read the answer.
fn stuck(exporter: &Exporter) -> Vec<TcpStream> {
    let connect = |text: &str| {
        let mut stream = TcpStream::connect(exporter.address).expect("a connection");
        stream.write_all(text.as_bytes()).expect("written");
        stream
    };
    let half = (0..200).map(|_| connect("GET /metrics HTTP/1.1\r\nHost: "));
    let unread = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(20);
    half.collect::<Vec<_>>().into_iter().chain((0..200).map(|_| connect(&unread))).collect()
}

#[test]
fn stuck_clients_hold_up_nobody() {
    let site = site();
    let mut stuck = stuck(&site.exporter);
    let began = Instant::now();
    assert!(site.exporter.metrics().contains("dovecot_master_up 1\n"));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let memory = site.exporter.value("process_resident_memory_bytes").expect("memory");
    assert!(memory < 40e6, "{memory} bytes");
    // Each is ended by the server: what reads to the end returns.
    let mut half = stuck.swap_remove(0);
    half.set_read_timeout(Some(Duration::from_secs(20))).expect("a time");
    half.read_to_end(&mut Vec::new()).expect("the server closes it");
    await_some("free descriptors", || (site.exporter.value("process_open_fds")? < 60.0).then_some(()));
}

#[test]
fn a_signal_ends_it_within_a_second() {
    for signal in ["TERM", "INT"] {
        let site = site();
        let _stuck = stuck(&site.exporter);
        let (code, time) = site.exporter.end(signal);
        assert_eq!(code, Some(0), "{signal}");
        assert!(time < Duration::from_secs(1), "{signal}: {time:?}");
    }
}

#[test]
fn several_addresses() {
    let exporter = Exporter::start(&["--web.listen-address=[::1]:0"]);
    let second: SocketAddr = await_some("the second address", || {
        let log = exporter.log();
        log.split("message=listening address=").nth(2)?.split_whitespace().next()?.parse().ok()
    });
    assert!(second.is_ipv6(), "{second}");
    assert_eq!(request(second, "GET /-/ready HTTP/1.0\r\n\r\n").0, "HTTP/1.0 200 OK");
}
