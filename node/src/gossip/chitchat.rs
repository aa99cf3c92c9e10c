//! chitchat: one running instance of it, its socket made of channels.
//!
//! In:    filtered bytes of peers, our own keys, whom to speak to
//! Out:   bytes for a virtual address, the set of ids it holds for live, its end
//! Never: waits for a peer: a full channel loses the newest message, and the next round repeats it
//!
//! Its task can panic (FAULTS.md 5.1: an assertion on a peer's numbers). The filter keeps such
//! messages away; should one come through, the channels close, [`Instance::ended`] says so, and
//! the task above starts another instance with a higher generation.

use std::{net::SocketAddr, pin::Pin, sync::Arc};

use ::chitchat::{
    ChitchatConfig, ChitchatHandle, ChitchatId, ChitchatMessage, Deserializable,
    FailureDetectorConfig, NodeState, Serializable, spawn_chitchat,
    transport::{Socket, Transport},
};
use anyhow::Context as _;
use async_trait::async_trait;
use skein_protocol::{limits, name::NodeKey};
use tokio::sync::{mpsc, watch};

use super::{FilteredBytes, Hints, address::virtual_address};

type LiveNodes = std::collections::BTreeMap<ChitchatId, NodeState>;

/// What makes an instance.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) me: NodeKey,
    pub(super) generation: u64,
    pub(super) cluster: String,
}

/// One id that chitchat holds for live.
#[derive(Clone, Debug)]
pub(super) struct LiveId {
    pub(super) short: String,
    pub(super) generation: u64,
    pub(super) hints: Hints,
}

/// One running chitchat. Its end, in order or not, ends its task.
pub(super) struct Instance {
    handle: ChitchatHandle,
    to_socket: mpsc::Sender<(SocketAddr, ChitchatMessage)>,
    from_socket: mpsc::Receiver<(SocketAddr, Vec<u8>)>,
    live: watch::Receiver<LiveNodes>,
    ended: Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>,
}

/// What an instance wants from the task above.
pub(super) enum Event {
    /// These bytes are for the node of this virtual address.
    Send(SocketAddr, Vec<u8>),
    /// The live ids or their keys have changed.
    Live,
    /// It has ended, for this reason.
    Ended(String),
}

impl Instance {
    /// Starts one. It answers at once; its tick is fixed for its life.
    pub(super) async fn start(identity: Identity, hints: &Hints) -> anyhow::Result<Self> {
        let address = SocketAddr::V4(virtual_address(&identity.me));
        let (to_socket, inbound) = mpsc::channel(limits::GOSSIP_QUEUE);
        let (outbound, from_socket) = mpsc::channel(limits::GOSSIP_QUEUE);
        let transport =
            Channels { once: tokio::sync::Mutex::new(Some(ChannelSocket { inbound, outbound })) };
        let short = identity.me.short();
        let config = ChitchatConfig {
            chitchat_id: ChitchatId {
                node_id: Arc::from(short.as_str()),
                generation_id: identity.generation,
                gossip_advertise_addr: address,
            },
            cluster_id: identity.cluster,
            gossip_interval: limits::GOSSIP_ROUND_MIN,
            listen_addr: address,
            // Skein dials seeds itself; an address here would be looked up and sent to.
            seed_nodes: Vec::new(),
            failure_detector_config: FailureDetectorConfig {
                phi_threshold: limits::GOSSIP_DEAD_INTERVALS as f64,
                // 100 samples at 8 bytes a peer; a thousand of them would be 7 kB a peer.
                sampling_window_size: 100,
                max_interval: limits::GOSSIP_ROUND_MAX.saturating_mul(10),
                initial_interval: limits::GOSSIP_ROUND_MIN,
                dead_node_grace_period: limits::GOSSIP_DEAD_GRACE,
            },
            marked_for_deletion_grace_period: limits::GOSSIP_DEAD_GRACE,
            catchup_callback: None,
            extra_liveness_predicate: None,
        };
        let handle = spawn_chitchat(config, hints.to_keys(), &transport).await?;
        let live = handle.with_chitchat(|c| c.live_nodes_watcher()).await;
        let ended = Box::pin(handle.termination_watcher());
        Ok(Self { handle, to_socket, from_socket, live, ended })
    }

    /// Waits for what it wants next. Can be cancelled.
    pub(super) async fn next(&mut self) -> Event {
        tokio::select! {
            biased;
            end = &mut self.ended => Event::Ended(match end {
                Ok(()) => "it stopped".to_owned(),
                Err(error) => error.to_string(),
            }),
            sent = self.from_socket.recv() => match sent {
                Some((to, bytes)) => Event::Send(to, bytes),
                None => Event::Ended("its socket was closed".to_owned()),
            },
            Ok(()) = self.live.changed() => Event::Live,
        }
    }

    /// Hands over what the filter passed. False: chitchat is behind, or its decoder refuses what
    /// the filter passed, which a test shows not to happen; the message is lost.
    pub(super) fn deliver(&self, from: &NodeKey, bytes: &FilteredBytes) -> bool {
        self.deliver_raw(from, bytes.as_slice())
    }

    pub(super) fn deliver_raw(&self, from: &NodeKey, mut bytes: &[u8]) -> bool {
        let from = SocketAddr::V4(virtual_address(from));
        match ChitchatMessage::deserialize(&mut bytes) {
            Ok(message) => self.to_socket.try_send((from, message)).is_ok(),
            Err(_) => false,
        }
    }

    /// Has it speak to `peer` now.
    pub(super) fn gossip(&self, peer: &NodeKey) {
        // An error means that it has ended, which `next` tells.
        let _ = self.handle.gossip(SocketAddr::V4(virtual_address(peer)));
    }

    /// Sets our own keys. Those that did not change cost nothing.
    pub(super) async fn set(&mut self, hints: &Hints) -> anyhow::Result<()> {
        let keys = hints.to_keys();
        self.handle
            .with_chitchat(|chitchat| {
                // chitchat asserts on its own version here; a panic must not be ours.
                let set = std::panic::AssertUnwindSafe(|| {
                    let own = chitchat.self_node_state();
                    for (key, value) in &keys {
                        own.set(key, value);
                    }
                });
                std::panic::catch_unwind(set).is_ok()
            })
            .await
            .then_some(())
            .context("chitchat panicked over our own keys")
    }

    /// The ids it holds for live, ourselves among them.
    pub(super) fn live(&mut self) -> Vec<LiveId> {
        let live = self.live.borrow_and_update();
        live.iter()
            .map(|(id, state)| LiveId {
                short: id.node_id.to_string(),
                generation: id.generation_id,
                hints: Hints::from_keys(state.key_values()),
            })
            .collect()
    }
}

#[cfg(test)]
impl Instance {
    /// Ends its task as a panic would: hands it the message that the filter is there to refuse.
    pub(super) fn killer(&self) -> impl Fn(&NodeKey) + use<> {
        let to_socket = self.to_socket.clone();
        move |peer| {
            let address = SocketAddr::V4(virtual_address(peer));
            let killer = super::tests::killer();
            let message = ChitchatMessage::deserialize(&mut killer.as_slice()).unwrap();
            to_socket.try_send((address, message)).unwrap();
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

/// A transport that is opened once, by the one instance it was made for.
struct Channels {
    once: tokio::sync::Mutex<Option<ChannelSocket>>,
}

#[async_trait]
impl Transport for Channels {
    async fn open(&self, _: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let socket = self.once.lock().await.take();
        Ok(Box::new(socket.context("this transport was opened before")?))
    }
}

struct ChannelSocket {
    inbound: mpsc::Receiver<(SocketAddr, ChitchatMessage)>,
    outbound: mpsc::Sender<(SocketAddr, Vec<u8>)>,
}

#[async_trait]
impl Socket for ChannelSocket {
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> anyhow::Result<()> {
        // Awaited inside chitchat's loop: to wait here would stop all gossip.
        let _ = self.outbound.try_send((to, message.serialize_to_vec()));
        Ok(())
    }

    async fn recv(&mut self) -> anyhow::Result<(SocketAddr, ChitchatMessage)> {
        self.inbound.recv().await.context("the agent has let go")
    }
}
