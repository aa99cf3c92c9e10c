//! Gossip: who is a member, and hints about each, spread by chitchat over control links.
//!
//! In:    bytes from peers, the directory of verified members, which links are up, our own hints
//! Out:   bytes for peers, and [`GossipEvent`]s
//! Never: is believed. Every word of it is a hint: what must be true travels as signed records.
//!
//! ```text
//! link -> inbound -> filter -> chitchat -> filter (plain, addressed) -> outbox -> outbound -> link
//!                      |           |
//!                 Blame, Unknown   Hint, LiveSet
//! ```
//! On the link itself it stands in shorthand ([`link_ends`]), written and read by the link's task.
//! This is the one folder that names chitchat (=0.11.2).

mod address;
mod chitchat;
mod filter;
mod hints;
mod outbox;
mod shorthand;
mod task;
#[cfg(test)]
mod tests;
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use skein_protocol::name::{NodeKey, ShortId};
use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
    task::{JoinError, JoinHandle},
};

pub use self::{
    address::{Directory, Member, virtual_address},
    filter::{Filter, FilteredBytes, Passed},
    hints::{Head, Hints},
    shorthand::{Incoming, Outgoing, link_ends},
};

/// Who we are in gossip.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GossipConfig {
    /// Our key.
    pub me: NodeKey,
    /// The generation that our node record names: at first the boot.
    pub generation: u64,
    /// Our gossip cluster: printable ASCII, at most
    /// [`skein_protocol::limits::GOSSIP_CLUSTER_BYTES`].
    pub cluster_id: String,
    /// Whether chitchat is started again when it ends before its time.
    pub restart: bool,
}

/// What gossip is connected to.
#[derive(Debug)]
pub struct GossipPorts {
    /// The members by their verified records. Ours belongs in it: a restart waits to see it.
    pub directory: watch::Receiver<Arc<Directory>>,
    /// The peers whose control link is up.
    pub links: watch::Receiver<Arc<BTreeSet<NodeKey>>>,
    /// Messages for a peer's control link. When it is full the newest four of each peer wait.
    pub outbound: mpsc::Sender<(NodeKey, Bytes)>,
    /// Messages from peers' control links, each with the key that the link has proved.
    pub inbound: mpsc::Receiver<(NodeKey, Bytes)>,
    /// What we say of ourselves; told at most once a second.
    pub own: watch::Receiver<Hints>,
    /// What gossip tells. When it is full, hints wait for the next round, the rest is lost.
    pub events: mpsc::Sender<GossipEvent>,
    /// True, or the end of its sender: stop.
    pub shutdown: watch::Receiver<bool>,
}

/// What gossip tells the agent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GossipEvent {
    /// What a live member says of itself has changed.
    Hint {
        /// The member.
        node: NodeKey,
        /// What it says.
        hints: Hints,
    },
    /// A peer speaks of a member that we have no record of, or only an older one.
    Unknown {
        /// The member.
        node: ShortId,
        /// Who spoke of it, and so may have its bundle.
        from: NodeKey,
    },
    /// A peer sent what no honest agent sends. The message was refused whole.
    Blame {
        /// The peer.
        peer: NodeKey,
        /// What it did.
        reason: Blame,
    },
    /// A peer's word about a member, or a whole message, was left out. Nobody is to blame.
    Dropped {
        /// The peer.
        peer: NodeKey,
        /// Why.
        reason: Dropped,
    },
    /// The members that chitchat holds for live, without ourselves. Worth a probe, no more.
    LiveSet(BTreeSet<NodeKey>),
    /// chitchat ended, and is not to be started again.
    StaysDown {
        /// Why it ended.
        reason: String,
    },
    /// chitchat ended and will be started with this generation: publish a record that names it.
    Restarting {
        /// The new generation.
        generation: u64,
        /// Why it ended.
        reason: String,
    },
}

/// What a peer did that no honest agent does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, thiserror::Error)]
pub enum Blame {
    /// Not a message of chitchat 0.11.2, cut short, or with bytes after its end.
    #[error("malformed gossip message")]
    Malformed,
    /// Shorthand that builds on what was not said before on this link.
    #[error("gossip out of step with its link")]
    OutOfStep,
    /// A message over the limit.
    #[error("gossip message over its limit")]
    Oversize,
    /// A compressed block: it could unpack to anything.
    #[error("compressed gossip block")]
    Compressed,
    /// Of another gossip cluster.
    #[error("gossip of another cluster")]
    WrongCluster,
    /// An id that cannot be: its spelling, or its address is not the one of its key.
    #[error("impossible gossip id")]
    BadId,
    /// One thing told twice in one message.
    #[error("gossip that repeats itself")]
    Duplicate,
    /// News about ourselves.
    #[error("gossip about ourselves")]
    AboutUs,
    /// A maximum version set by hand: it can lower what a key has raised.
    #[error("gossip that sets a maximum version")]
    SetMaxVersion,
    /// A deleted key, or versions collected as garbage: our agents delete none.
    #[error("gossip of a deleted key")]
    Tombstone,
    /// A key that is empty, too long or not of ASCII letters.
    #[error("gossip key that is not short ASCII")]
    BadKey,
    /// More keys than a node has.
    #[error("more than four gossip keys")]
    TooManyKeys,
    /// A value over its limit.
    #[error("gossip value over its limit")]
    OversizeValue,
    /// A value that is not printable ASCII.
    #[error("gossip value that is not ASCII")]
    BadValue,
    /// Versions that do not rise.
    #[error("gossip versions out of order")]
    VersionOrder,
    /// A heartbeat beyond any rate, or beyond the rate in the subject's own words.
    #[error("gossip heartbeat beyond its rate")]
    HeartbeatJump,
    /// A version beyond any rate, or beyond the rate in the subject's own words.
    #[error("gossip version beyond its rate")]
    VersionJump,
}

/// Why something was left out that an honest agent may have sent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, thiserror::Error)]
pub enum Dropped {
    /// A third node's heartbeat rose faster than its rate.
    #[error("heartbeat of a third node beyond its rate")]
    HeartbeatJump,
    /// A third node's version rose faster than its rate.
    #[error("version of a third node beyond its rate")]
    VersionJump,
    /// A node with more generations than are kept: it starts again and again.
    #[error("node in a restart loop")]
    Restarts,
    /// More ids than chitchat can carry.
    #[error("too many gossip ids")]
    Full,
    /// The peer has spent its budget of messages.
    #[error("peer over its gossip budget")]
    OverBudget,
}

/// Gossip, running.
#[derive(Debug)]
pub struct Gossip {
    task: JoinHandle<()>,
}

impl Gossip {
    /// Starts it on `runtime`. It runs until `ports.shutdown` says so.
    pub fn start(config: GossipConfig, ports: GossipPorts, runtime: &Handle) -> Self {
        // Made where it runs: by that runtime's clock, which a test may have paused.
        let run = async move { task::Task::new(config, ports).run().await };
        Self { task: runtime.spawn(run) }
    }

    /// Waits for its end. An error is a fault of ours, worth an alarm: routing goes on without.
    pub async fn ended(self) -> Result<(), JoinError> {
        self.task.await
    }
}

/// Hints of many nodes.
type HintsByNode = BTreeMap<NodeKey, Hints>;
