//! Redirect: one listener to which the kernel sends whatever is dialled at a virtual address.
//!
//! In:    the listener, and what stands at each virtual address.
//! Out:   connections, each carried to what the caller had dialled.
//! Never: guesses. What was dialled is the kernel's word (SO_ORIGINAL_DST); who dials the listener
//!        itself, or an address that no service has, is turned away with a reason.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, SocketAddrV4},
    sync::Arc,
};

use skein_protocol::{limits, route::CloseReason};
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::AbortHandle,
    time::sleep,
};

use super::{ListenerSpec, Proxy, Socket};

/// What stands at each virtual address and port.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Captured(pub BTreeMap<SocketAddrV4, Arc<ListenerSpec>>);

/// The running listener.
#[derive(Debug)]
pub struct Capturing(AbortHandle);

impl Drop for Capturing {
    /// Closes it. Connections go on.
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Proxy {
    /// Takes what the kernel redirects to `listener`, until the value is dropped.
    pub fn capture(
        self: &Arc<Self>,
        listener: TcpListener,
        captured: watch::Receiver<Arc<Captured>>,
    ) -> Capturing {
        let accept = accept(Arc::clone(self), listener, captured);
        Capturing(self.parts.runtime.spawn(accept).abort_handle())
    }

    async fn carry_captured(
        self: &Arc<Self>,
        stream: TcpStream,
        client: SocketAddr,
        all: &Captured,
    ) {
        let dialled = dialled(&stream);
        let socket = Socket::Tcp(stream);
        match dialled.and_then(|dialled| all.0.get(&dialled)) {
            Some(spec) => self.carry_redirected(socket, client, spec).await,
            None => {
                let why = match dialled {
                    Some(dialled) => format!(
                        "no service of the mesh is at {dialled}: `skein service NAME` shows its \
                         address and ports"
                    ),
                    None => "what was dialled is not known: dial a virtual address, not this \
                             listener"
                        .to_owned(),
                };
                self.turn_away(socket, Some(client), (CloseReason::NoSuchService, why));
            }
        }
    }
}

async fn accept(
    proxy: Arc<Proxy>,
    listener: TcpListener,
    captured: watch::Receiver<Arc<Captured>>,
) {
    loop {
        match listener.accept().await {
            Ok((stream, client)) => {
                let all = Arc::clone(&captured.borrow());
                let carrier = Arc::clone(&proxy);
                let carry = async move { carrier.carry_captured(stream, client, &all).await };
                proxy.parts.runtime.spawn(carry);
            }
            // As in the other listeners: out of descriptors, or the caller is gone.
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                sleep(limits::ACCEPT_PAUSE).await;
            }
        }
    }
}

/// What the caller had dialled before the kernel sent it here.
fn dialled(stream: &TcpStream) -> Option<SocketAddrV4> {
    let original = SockRef::from(stream).original_dst_v4().ok()?;
    original.as_socket_ipv4()
}
