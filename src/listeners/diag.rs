//! How long the queues of the sockets that listen may get: the kernel tells that by netlink only, to everybody, but of
//! the reader's own network name space.

use std::{collections::BTreeMap, io, time::Duration};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType,
    netlink::{self, SocketAddrNetlink},
    recv, sendto, socket_with,
    sockopt::{Timeout, set_socket_timeout},
};

/// The kernel answers at once.
const TIME: Duration = Duration::from_millis(100);
/// Of a message: `struct nlmsghdr`, and `struct inet_diag_msg` behind it (`linux/inet_diag.h`).
const HEAD: usize = 16;
const BODY: usize = 72;
/// `SOCK_DIAG_BY_FAMILY`
const BY_FAMILY: u16 = 20;
/// `NLMSG_DONE`
const DONE: u16 = 3;

/// The lengths by the socket's inode and port.
pub fn limits() -> io::Result<BTreeMap<(u64, u16), u32>> {
    let family = Some(netlink::SOCK_DIAG);
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, family)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(TIME))?;
    let mut limits = BTreeMap::new();
    for family in [AddressFamily::INET, AddressFamily::INET6] {
        let kernel = SocketAddrNetlink::new(0, 0);
        sendto(&socket, &request(family), SendFlags::empty(), &kernel)?;
        let mut buffer = vec![0; 32 * 1024];
        while {
            let (length, _) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
            take(&buffer[..length], &mut limits)?
        } {}
    }
    Ok(limits)
}

/// Asks for all TCP sockets of a family that listen: `struct nlmsghdr` and `struct inet_diag_req_v2`.
fn request(family: AddressFamily) -> Vec<u8> {
    const TCP: u8 = 6;
    const LISTEN: u32 = 1 << 10;
    // NLM_F_REQUEST | NLM_F_DUMP
    const FLAGS: u16 = 0x301;
    let family = u8::try_from(family.as_raw()).unwrap_or_default();
    let mut request = 72_u32.to_ne_bytes().to_vec();
    request.extend([BY_FAMILY.to_ne_bytes(), FLAGS.to_ne_bytes()].concat());
    request.extend([0; 8]);
    request.extend([family, TCP, 0, 0]);
    request.extend(LISTEN.to_ne_bytes());
    request.resize(72, 0);
    request
}

/// Takes the messages of a datagram; returns whether more are to come.
fn take(mut datagram: &[u8], limits: &mut BTreeMap<(u64, u16), u32>) -> io::Result<bool> {
    let odd = || io::Error::other("netlink gave no answer about sockets");
    while !datagram.is_empty() {
        let length = number(datagram, 0).and_then(|length| usize::try_from(length).ok()).ok_or_else(odd)?;
        let message = datagram.get(..length).filter(|message| message.len() >= HEAD).ok_or_else(odd)?;
        match u16::from_ne_bytes([message[4], message[5]]) {
            DONE => return Ok(false),
            BY_FAMILY if length >= HEAD + BODY => {
                let body = &message[HEAD..];
                let port = u16::from_be_bytes([body[4], body[5]]);
                // For a socket that listens, idiag_wqueue is the longest that its queue may get.
                let limit = number(body, 60).ok_or_else(odd)?;
                limits.insert((number(body, 68).ok_or_else(odd)?.into(), port), limit);
            }
            _ => return Err(odd()),
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(true)
}

fn number(bytes: &[u8], place: usize) -> Option<u32> {
    bytes.get(place..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_socket_of_our_own() {
        // The standard library asks for 128.
        let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = socket.local_addr().expect("an address").port();
        let found = limits().expect("an answer");
        let ours: Vec<u32> =
            found.iter().filter(|((_, of), _)| *of == port).map(|(_, limit)| *limit).collect();
        assert_eq!(ours, [128]);
    }

    #[test]
    fn odd_datagrams() {
        let mut limits = BTreeMap::new();
        for odd in [&[1, 2, 3][..], &[255; 16], &[0; 16], &[16, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]]
        {
            assert!(take(odd, &mut limits).is_err(), "{odd:?}");
        }
        assert!(take(&[], &mut limits).expect("nothing") && limits.is_empty());
    }
}
