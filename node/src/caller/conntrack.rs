//! Connection tracking: where a connection came from before the kernel redirected it.
//!
//! Two connections from one port to two virtual addresses become, redirected, two from one port to
//! one address, so the kernel gives the second one another port. The caller's socket still has its
//! own; only the kernel's table tells which.

use std::net::{IpAddr, SocketAddr};

use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    conntrack::{ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Protocol, Tuple},
};
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::netlink::ask;

/// From where and to where the caller connected, of the connection that arrived from `seen` at
/// `own`. It takes CAP_NET_ADMIN, which an agent with a redirect has.
pub(super) fn original(
    own: SocketAddr,
    seen: SocketAddr,
) -> Result<(SocketAddr, SocketAddr), String> {
    let failed = |error: std::io::Error| {
        format!("conntrack does not answer ({error}): does this kernel have nf_conntrack_netlink?")
    };
    let question = NetfilterMessage::new(
        NetfilterHeader::new(NetfilterProtoFamily::IPv4, 0, 0),
        ConntrackMessage::Get(vec![ConntrackAttribute::CtaTupleReply(tuple(own, seen))]),
    );
    let answer = ask(NETLINK_NETFILTER, question).map_err(failed)?;
    let gone = || "its connection is not tracked any more".to_owned();
    match answer.ok_or_else(gone)?.inner {
        NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) => {
            let original = attributes.iter().find_map(|attribute| match attribute {
                ConntrackAttribute::CtaTupleOrig(tuple) => ends(tuple),
                _ => None,
            });
            original.ok_or_else(gone)
        }
        _ => Err(gone()),
    }
}

fn tuple(from: SocketAddr, to: SocketAddr) -> Vec<Tuple> {
    vec![
        Tuple::Ip(vec![IPTuple::SourceAddress(from.ip()), IPTuple::DestinationAddress(to.ip())]),
        Tuple::Proto(vec![
            ProtoTuple::Protocol(Protocol::Tcp),
            ProtoTuple::SourcePort(from.port()),
            ProtoTuple::DestinationPort(to.port()),
        ]),
    ]
}

fn ends(tuple: &[Tuple]) -> Option<(SocketAddr, SocketAddr)> {
    let (mut ips, mut ports) = ((None::<IpAddr>, None::<IpAddr>), (None, None));
    for part in tuple {
        match part {
            Tuple::Ip(all) => all.iter().for_each(|one| match one {
                IPTuple::SourceAddress(ip) => ips.0 = Some(*ip),
                IPTuple::DestinationAddress(ip) => ips.1 = Some(*ip),
                _ => {}
            }),
            Tuple::Proto(all) => all.iter().for_each(|one| match one {
                ProtoTuple::SourcePort(port) => ports.0 = Some(*port),
                ProtoTuple::DestinationPort(port) => ports.1 = Some(*port),
                _ => {}
            }),
            _ => {}
        }
    }
    Some((SocketAddr::new(ips.0?, ports.0?), SocketAddr::new(ips.1?, ports.1?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tuple_says_both_ends_and_half_of_one_says_nothing() {
        let from: SocketAddr = "127.0.0.1:50000".parse().unwrap();
        let to: SocketAddr = "127.139.0.7:80".parse().unwrap();
        let mut both = tuple(from, to);
        assert_eq!(ends(&both), Some((from, to)));
        both.pop();
        assert_eq!(ends(&both), None);
    }
}
