//! A socket that answers as Dovecot's master does.

use std::{
    io::{Read, Write},
    os::unix::net::UnixListener,
    path::Path,
    thread,
};

/// Answers every question for the status with `answer`, as long as the test runs.
pub fn serve(socket: &Path, answer: &'static str) {
    const QUESTION: &[u8] = b"VERSION\tmaster-client\t1\t0\nSERVICE-STATUS\nPROCESS-STATUS\n";
    let listener = UnixListener::bind(socket).expect("a socket");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut asked = vec![0; QUESTION.len()];
            stream.read_exact(&mut asked).expect("a question");
            assert_eq!(asked, QUESTION);
            // Who asked may not wait for it.
            let _ = stream.write_all(answer.as_bytes());
        }
    });
}
