//! sock_diag(7): what the kernel knows of one socket. One question, one answer, no waiting.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use netlink_packet_core::Nla as _;
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP},
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, nlas::Nla as InetNla},
    unix::{ShowFlags, StateFlags as UnixStates, UnixRequest},
};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use super::netlink::ask;

/// The socket at the caller's end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Found {
    /// The user that made it.
    pub(super) uid: u32,
    /// Its number in the kernel, as /proc shows it.
    pub(super) inode: u32,
    /// The number of the cgroup that it was made in; older kernels do not say it.
    pub(super) cgroup: Option<u64>,
}

/// The socket whose connection goes from `from` to `to`, both as its owner sees them.
///
/// A question for a connection that is not on this host may be answered with a listener on the
/// same port, so the answer must name the very addresses. Its state must be one that a caller can
/// be in whose connection this agent has just taken and not ended.
pub(super) fn caller(from: SocketAddr, to: SocketAddr) -> Result<Found, String> {
    let gone = || "no local socket is at its end: it is gone, or on another host".to_owned();
    let response = tcp(from, to)?.ok_or_else(gone)?;
    let header = &response.header;
    let live = StateFlags::ESTABLISHED | StateFlags::FIN_WAIT1 | StateFlags::FIN_WAIT2;
    let state = 1_u32.checked_shl(u32::from(header.state)).unwrap_or(0);
    if !live.contains(StateFlags::from_bits_truncate(state)) || header.inode == 0 {
        return Err("it has closed its socket already".to_owned());
    }
    Ok(Found { uid: header.uid, inode: header.inode, cgroup: cgroup(&response) })
}

/// The number of the socket to which the unix socket `inode` is connected.
pub(super) fn unix_peer(inode: u32) -> Result<u32, String> {
    let request = UnixRequest {
        state_flags: UnixStates::all(),
        inode,
        show_flags: ShowFlags::PEER,
        cookie: ANY_COOKIE,
    };
    match ask(NETLINK_SOCK_DIAG, SockDiagMessage::UnixRequest(request))
        .map_err(|error| failed(&error))?
    {
        Some(SockDiagMessage::UnixResponse(response)) => {
            response.peer().ok_or_else(|| "it has closed its socket already".to_owned())
        }
        _ => Err("the kernel does not know its socket".to_owned()),
    }
}

fn tcp(from: SocketAddr, to: SocketAddr) -> Result<Option<Box<InetResponse>>, String> {
    let (from, to) = (canonical(from), canonical(to));
    let id = SocketId {
        source_port: from.port(),
        destination_port: to.port(),
        source_address: from.ip(),
        destination_address: to.ip(),
        interface_id: 0,
        cookie: ANY_COOKIE,
    };
    let request = InetRequest {
        family: if from.is_ipv4() { AF_INET } else { AF_INET6 },
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::all(),
        socket_id: id,
    };
    let answer = ask(NETLINK_SOCK_DIAG, SockDiagMessage::InetRequest(request))
        .map_err(|error| failed(&error))?;
    Ok(match answer {
        Some(SockDiagMessage::InetResponse(response)) if is(&response, from, to) => Some(response),
        _ => None,
    })
}

/// A socket of IPv6 may carry IPv4, and then shows mapped addresses.
fn is(response: &InetResponse, from: SocketAddr, to: SocketAddr) -> bool {
    let id = &response.header.socket_id;
    let end = |ip: IpAddr, port| SocketAddr::new(ip.to_canonical(), port);
    end(id.source_address, id.source_port) == from
        && end(id.destination_address, id.destination_port) == to
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn cgroup(response: &InetResponse) -> Option<u64> {
    response.nlas.iter().find_map(|nla| match nla {
        InetNla::Other(other) if other.kind() == INET_DIAG_CGROUP_ID => {
            let mut bytes = [0; 8];
            (other.value_len() == bytes.len()).then(|| {
                other.emit_value(&mut bytes);
                u64::from_ne_bytes(bytes)
            })
        }
        _ => None,
    })
}

fn failed(error: &io::Error) -> String {
    format!("sock_diag does not answer ({error}): does this kernel have tcp_diag and unix_diag?")
}

/// The attribute's number (linux/inet_diag.h).
const INET_DIAG_CGROUP_ID: u16 = 21;
/// Any socket of these addresses (INET_DIAG_NOCOOKIE).
const ANY_COOKIE: [u8; 8] = [0xff; 8];

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_callers_socket_is_found_by_its_addresses() {
        for local in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(local).unwrap();
            let called = listener.local_addr().unwrap();
            let client = TcpStream::connect(called).unwrap();
            let (_served, from) = listener.accept().unwrap();
            let found = caller(from, called).unwrap();
            assert_eq!(found.uid, rustix::process::getuid().as_raw());
            assert!(found.inode > 0);
            drop(client);
            assert!(caller(from, called).is_err(), "{local}: it has closed its socket");
        }
    }

    #[test]
    fn a_caller_whose_socket_is_of_ipv6_is_found_by_ipv4() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let _client = TcpStream::connect(format!("[::ffff:127.0.0.1]:{port}")).unwrap();
        let (served, from) = listener.accept().unwrap();
        assert!(caller(from, served.local_addr().unwrap()).is_ok());
    }

    #[test]
    fn a_listener_on_the_callers_port_is_not_the_caller() {
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        // A caller from another host that chose this port: the kernel answers with the listener.
        let from = SocketAddr::new([192, 0, 2, 7].into(), listener.local_addr().unwrap().port());
        let error = caller(from, "127.0.0.1:9".parse().unwrap()).unwrap_err();
        assert!(error.contains("on another host"), "{error}");
    }

    #[test]
    fn the_peer_of_a_unix_socket_is_known_by_its_number() {
        use std::os::unix::net::UnixStream;
        let (one, other) = UnixStream::pair().unwrap();
        let inode = |of: &UnixStream| rustix::fs::fstat(of).unwrap().st_ino;
        let peer = unix_peer(u32::try_from(inode(&one)).unwrap()).unwrap();
        assert_eq!(u64::from(peer), inode(&other));
        assert!(unix_peer(u32::MAX).is_err());
    }
}
