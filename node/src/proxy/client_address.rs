//! The client's address in the PROXY protocol, version 2: read of a balancer before this gateway,
//! written to a process that asks for it.

use std::net::SocketAddr;

use ppp::v2::{Addresses, Builder, Command, Header, Protocol, Version};
use skein_protocol::limits;
use tokio::{io::AsyncReadExt, time::timeout};

use super::{Socket, Target};

/// Bytes before the addresses: a signature, two bytes of what it is, two of length.
const FIXED: usize = 16;

/// Reads a balancer's header, which must come first. `None`: the balancer speaks for itself.
pub(super) async fn read(socket: &mut Socket) -> Result<Option<SocketAddr>, String> {
    let header = async {
        let mut bytes = vec![0; FIXED];
        socket.read_exact(&mut bytes).await.map_err(|error| error.to_string())?;
        let length = match bytes.get(14..FIXED) {
            Some([high, low]) => usize::from(u16::from_be_bytes([*high, *low])),
            _ => 0,
        };
        // Before anything that the length says is believed.
        if !bytes.starts_with(ppp::v2::PROTOCOL_PREFIX) || length > limits::PROXY_HEADER_BYTES {
            return Err("it is not one".to_owned());
        }
        bytes.resize(FIXED + length, 0);
        let rest = bytes.get_mut(FIXED..).unwrap_or_default();
        socket.read_exact(rest).await.map_err(|error| error.to_string())?;
        client(&bytes)
    };
    let header = timeout(limits::HTTP_HEAD_TIMEOUT, header).await;
    header
        .unwrap_or_else(|_| Err("it took too long".to_owned()))
        .map_err(|why| format!("the PROXY header of a balancer: {why}"))
}

fn client(bytes: &[u8]) -> Result<Option<SocketAddr>, String> {
    let header = Header::try_from(bytes).map_err(|error| error.to_string())?;
    if header.command == Command::Local {
        return Ok(None);
    }
    Ok(match header.addresses {
        Addresses::IPv4(found) => Some((found.source_address, found.source_port).into()),
        Addresses::IPv6(found) => Some((found.source_address, found.source_port).into()),
        Addresses::Unspecified | Addresses::Unix(_) => None,
    })
}

/// The header for a process: who its client is, where that is known.
pub(super) fn header(client: Option<SocketAddr>, target: &Target) -> Vec<u8> {
    let built = match (client, target) {
        (Some(client), Target::Tcp(target)) if client.is_ipv4() == target.is_ipv4() => {
            let command = Version::Two | Command::Proxy;
            Builder::with_addresses(command, Protocol::Stream, (client, *target)).build()
        }
        _ => Builder::with_addresses(
            Version::Two | Command::Local,
            Protocol::Unspecified,
            Addresses::Unspecified,
        )
        .build(),
    };
    // A header of two addresses is short, and so never refused.
    built.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let target = Target::Tcp("127.0.0.1:80".parse().unwrap());
        let at = "192.0.2.7:1234".parse().unwrap();
        assert_eq!(client(&header(Some(at), &target)), Ok(Some(at)));
        assert_eq!(client(&header(None, &target)), Ok(None));
        let unix = Target::Unix("/run/x".into());
        assert_eq!(client(&header(Some(at), &unix)), Ok(None));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = client(&bytes);
        }

        #[test]
        fn a_damaged_header_never_panics(at in 0usize..28, byte: u8) {
            let target = Target::Tcp("127.0.0.1:80".parse().unwrap());
            let mut bytes = header(Some("192.0.2.7:1234".parse().unwrap()), &target);
            bytes[at] = byte;
            let _ = client(&bytes);
        }
    }
}
