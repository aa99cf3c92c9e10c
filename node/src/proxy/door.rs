//! Doors: the ports of a gateway, at which those outside of the mesh come in.
//!
//! One port may lead to several services, told apart by the host that a client names: in its TLS
//! handshake, or in each request. TLS ends here where there are certificates and the port declares
//! HTTP; else it is carried as it is.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use skein_protocol::{limits, manifest::kinds::Proxies, record::node::Protocol};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::{ListenerSpec, Proxy, Socket, client_address};

/// To which services a port leads.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Door {
    /// By host: a name, or `*.` and what all its names end in; in lower case.
    pub by_host: BTreeMap<String, Arc<ListenerSpec>>,
    /// Whatever the host.
    pub other: Option<Arc<ListenerSpec>>,
    /// What clients speak at this port.
    pub protocol: Option<Protocol>,
    /// Balancers, whose PROXY header says who the client is.
    pub proxies: Vec<Proxies>,
}

impl Door {
    /// Whether that is a balancer, whose word about the client is taken.
    pub(super) fn trusts(&self, from: SocketAddr) -> bool {
        self.proxies.iter().any(|one| one.contains(from.ip()))
    }

    /// Where a client is led that names this host, with or without a port.
    pub fn at(&self, host: &str) -> Option<&Arc<ListenerSpec>> {
        let host = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let wide = host.split_once('.').map(|(_, rest)| format!("*.{rest}"));
        let named = self.by_host.get(&host);
        named.or_else(|| self.by_host.get(&wide?)).or(self.other.as_ref())
    }
}

/// A connection that came in at a door.
pub(super) struct Entered {
    pub(super) socket: Socket,
    /// The service for the host that the TLS handshake named, where it did.
    pub(super) spec: Option<Arc<ListenerSpec>>,
    /// Whether it came by TLS, which ends here.
    pub(super) secure: bool,
    /// The client, where a balancer told another one than the connection shows.
    pub(super) client: Option<SocketAddr>,
}

impl Proxy {
    /// Ends a client's TLS, if it speaks that. The error is for the log.
    pub(super) async fn enter(
        &self,
        mut socket: Socket,
        from: Option<SocketAddr>,
        door: &Door,
    ) -> Result<Entered, String> {
        let trusted = from.is_some_and(|from| door.trusts(from));
        let client = match trusted {
            true => client_address::read(&mut socket).await?,
            false => None,
        };
        let tls = self.parts.certificates.borrow().clone();
        let plain = |socket| Ok(Entered { socket, spec: None, secure: false, client });
        let (Some(tls), Some(patience)) = (tls, patience(door.protocol)) else {
            return plain(socket);
        };
        let mut first = [0];
        let peeked = timeout(patience, socket.peek(&mut first, 0)).await;
        let stream = match (peeked, socket) {
            (Ok(Ok(1)), Socket::Tcp(stream)) if first == [HANDSHAKE] => stream,
            (_, socket) => return plain(socket),
        };
        let handshake = TlsAcceptor::from(tls).accept(stream);
        let stream = match timeout(limits::HANDSHAKE_TIMEOUT, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(format!("its TLS handshake failed: {error}")),
            Err(_) => return Err("its TLS handshake took too long".to_owned()),
        };
        let named = stream.get_ref().1.server_name().map(str::to_owned);
        let spec = named.and_then(|host| door.at(&host).cloned());
        Ok(Entered { socket: Socket::Tls(Box::new(stream)), spec, secure: true, client })
    }
}

/// How long a client may take to send its first byte before it counts as one without TLS; `None`
/// where TLS never ends here.
fn patience(protocol: Option<Protocol>) -> Option<Duration> {
    match protocol? {
        // What a port does not say to be HTTP goes through as it is, TLS too.
        Protocol::Tcp | Protocol::Sniff => None,
        Protocol::Http | Protocol::Http2 | Protocol::Grpc => Some(limits::HTTP_HEAD_TIMEOUT),
    }
}

/// The first byte of a TLS handshake (RFC 8446 5.1).
const HANDSHAKE: u8 = 22;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::Terms;

    #[test]
    fn a_host_is_found_by_its_name_then_by_its_domain_then_by_nothing() {
        let spec = |name: &str| {
            Arc::new(ListenerSpec {
                name: name.to_owned(),
                service: "shop/a".parse().unwrap(),
                port: skein_protocol::route::PortRef::Number(80),
                terms: Terms::default(),
                outside: true,
                door: None,
            })
        };
        let hosts = [("a.example.com", "exact"), ("*.example.com", "wide")];
        let by_host = hosts.map(|(host, name)| (host.to_owned(), spec(name))).into();
        let mut door = Door { by_host, ..Door::default() };
        let at = |door: &Door, host: &str| door.at(host).map(|spec| spec.name.clone());
        for (host, name) in [
            ("a.example.com", Some("exact")),
            ("A.Example.com:8080", Some("exact")),
            ("a.example.com.", Some("exact")),
            ("b.example.com", Some("wide")),
            ("x.b.example.com", None),
            ("example.com", None),
            ("", None),
        ] {
            assert_eq!(at(&door, host).as_deref(), name, "{host}");
        }
        door.other = Some(spec("other"));
        assert_eq!(at(&door, "example.com").as_deref(), Some("other"));
    }
}
