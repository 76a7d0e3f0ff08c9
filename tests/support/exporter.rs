//! The program itself, started on a free port, and a plain HTTP client.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

/// A running exporter; it ends with this value.
pub struct Exporter {
    child: Child,
    pub address: SocketAddr,
    log: Arc<Mutex<String>>,
}

impl Exporter {
    /// Starts one with `flags` and waits for its address.
    pub fn start(flags: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_dovecot-capacity-exporter"))
            .arg("--web.listen-address=127.0.0.1:0")
            .args(flags)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program");
        let log = Arc::new(Mutex::new(String::new()));
        let (stderr, kept) = (child.stderr.take().expect("a pipe"), log.clone());
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                kept.lock().expect("whole").push_str(&(line + "\n"));
            }
        });
        let address = await_some("the address", || {
            let log = log.lock().expect("whole");
            log.split_once("message=listening address=")?.1.split_whitespace().next()?.parse().ok()
        });
        Self { child, address, log }
    }

    /// What it wrote to standard error so far.
    pub fn log(&self) -> String {
        self.log.lock().expect("whole").clone()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by name, and returns the exit code and how long that took.
    pub fn end(mut self, signal: &str) -> (Option<i32>, Duration) {
        let began = Instant::now();
        let pid = self.child.id().to_string();
        Command::new("kill").args(["-s", signal, &pid]).status().expect("kill");
        let status = self.child.wait().expect("it ends");
        (status.code(), began.elapsed())
    }

    /// The status line, the header and the body of `GET path`.
    pub fn get(&self, path: &str, headers: &str) -> (String, String, Vec<u8>) {
        request(self.address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n"))
    }

    /// The page of metrics in text 0.0.4.
    pub fn metrics(&self) -> String {
        String::from_utf8(self.get("/metrics", "").2).expect("text")
    }

    /// The value of the sample that stands before the space in its line.
    pub fn value(&self, sample: &str) -> Option<f64> {
        let page = self.metrics();
        page.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' ')?.parse().ok())
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends any bytes as a request and reads until the server closes the connection.
pub fn request(address: SocketAddr, request: &str) -> (String, String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a time");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a header");
    let header = String::from_utf8(answer[..end].to_vec()).expect("text");
    let (status, header) = header.split_once("\r\n").unwrap_or((&header, ""));
    (status.to_owned(), header.to_ascii_lowercase(), answer[end + 4..].to_vec())
}

/// Waits until `find` finds something.
pub fn await_some<T>(what: &str, mut find: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = find() {
            return found;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "no {what} within 20 s");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Writes an executable shell script and returns its path.
pub fn script(folder: &Path, name: &str, text: &str) -> String {
    use std::os::unix::fs::PermissionsExt;
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("a file");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("permissions");
    path.to_str().expect("text").to_owned()
}
