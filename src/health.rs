//! `healthcheck`: whether an exporter answers, for a container that has no other program to ask it with.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    process::ExitCode,
    time::Duration,
};

use crate::cli::{Config, ListenAddress};

/// For each of connecting, asking and answering.
const TIME: Duration = Duration::from_secs(2);

/// `healthcheck`, to its exit code.
pub fn check(config: &Config) -> ExitCode {
    let Some(address) = config.listen_addresses.first() else { return ExitCode::FAILURE };
    match address.loopback().and_then(ask) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(
                io::stderr(),
                "no exporter answers on {address} ({error}): give healthcheck the --web.listen-address of the exporter"
            );
            ExitCode::FAILURE
        }
    }
}

/// Any answer of HTTP will do: with users it is 401, and 400 where TLS is spoken.
fn ask(address: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, TIME)?;
    stream.set_write_timeout(Some(TIME))?;
    stream.set_read_timeout(Some(TIME))?;
    write!(stream, "GET /-/healthy HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = [0; 7];
    stream.read_exact(&mut answer)?;
    if answer == *b"HTTP/1." { Ok(()) } else { Err(io::Error::other("what answers does not speak HTTP")) }
}

impl ListenAddress {
    /// Where a process of the same host reaches it.
    fn loopback(self) -> io::Result<SocketAddr> {
        let address = match self {
            Self::Any(port) => SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            Self::One(address) if !address.ip().is_unspecified() => address,
            Self::One(address) if address.is_ipv4() => (Ipv4Addr::LOCALHOST, address.port()).into(),
            Self::One(address) => (Ipv6Addr::LOCALHOST, address.port()).into(),
        };
        if address.port() == 0 { Err(io::Error::other("port 0 is any free port")) } else { Ok(address) }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use clap::Parser;

    use super::*;

    /// The address of a server that reads a request and then says this.
    fn server(answer: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).expect("a whole request");
                request.push(byte[0]);
            }
            assert!(request.starts_with(b"GET /-/healthy HTTP/1.1\r\n"));
            stream.write_all(answer).expect("a client that reads");
        });
        address
    }

    #[test]
    fn any_answer_of_http_is_a_sign_of_life() {
        for answer in [
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 401 Unauthorized\r\n\r\n",
            "HTTP/1.0 400 Bad Request\r\n\r\n",
        ] {
            ask(server(answer.as_bytes())).expect(answer);
        }
        for answer in [&b""[..], b"HTTP", b"\x15\x03\x03\x00\x02\x02\x0a", b"220 mail.example.org ESMTP\r\n"]
        {
            ask(server(answer)).expect_err("no HTTP");
        }
        let nobody =
            TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port");
        ask(nobody).expect_err("nobody listens");
    }

    #[test]
    fn every_address_of_the_host_is_asked_on_loopback() {
        for (flag, address) in [
            (":9166", "127.0.0.1:9166"),
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "[::1]:80"),
            ("192.0.2.1:80", "192.0.2.1:80"),
            ("[2001:db8::1]:80", "[2001:db8::1]:80"),
        ] {
            for arguments in
                [["healthcheck", "--web.listen-address"], ["--web.listen-address", "healthcheck"]]
            {
                let flag = format!("--web.listen-address={flag}");
                let arguments =
                    arguments.map(|argument| if argument == "healthcheck" { argument } else { &flag });
                let config =
                    Config::try_parse_from(["exporter"].iter().chain(&arguments)).expect("good flags");
                let asked = config.listen_addresses[0].loopback().expect("an address");
                assert_eq!(asked.to_string(), address);
            }
        }
        ListenAddress::Any(0).loopback().expect_err("any port");
    }
}
