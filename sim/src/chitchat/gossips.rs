//! Gossips: one of each node of a world, all on one runtime whose clock is paused.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use bytes::Bytes;
use skein_node::gossip::{
    Directory, Gossip, GossipConfig, GossipEvent, GossipPorts, Hints, Incoming, Outgoing, link_ends,
};
use skein_protocol::{
    clock::{Tick, millis},
    engine::LinkId,
    limits,
    name::NodeKey,
    record::node::NodeState,
    view::View,
    wire::frame,
};
use tokio::{
    runtime::{Builder, Runtime},
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use super::attack;
use crate::{
    mesh::Mesh,
    world::{Beside, Word},
};

/// Words of all gossips that wait to be heard.
const SAID_WAITING: usize = 1024;

/// A word, whose it is, and of which run.
type Said = (usize, u64, Word);

/// See the module.
pub struct Gossips {
    runtime: Runtime,
    start: Instant,
    cluster: String,
    up: BTreeMap<usize, Up>,
    ends: BTreeMap<(usize, LinkId), (Outgoing, Incoming)>,
    ear: mpsc::Sender<Said>,
    said: mpsc::Receiver<Said>,
}

/// The gossip of a node that runs.
struct Up {
    run: u64,
    inbound: mpsc::Sender<(NodeKey, Bytes)>,
    live: BTreeSet<NodeKey>,
    shown: Option<Arc<View>>,
    directory: watch::Sender<Arc<Directory>>,
    links: watch::Sender<Arc<BTreeSet<NodeKey>>>,
    hints: watch::Sender<Hints>,
    _shutdown: watch::Sender<bool>,
}

impl Gossips {
    /// None runs yet.
    pub fn new(mesh: &Mesh) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.context("a runtime")?;
        let (ear, said) = mpsc::channel(SAID_WAITING);
        Ok(Self {
            start: runtime.block_on(async { Instant::now() }),
            runtime,
            cluster: format!("skein/{}/main", mesh.id.trust_domain()),
            up: BTreeMap::new(),
            ends: BTreeMap::new(),
            ear,
            said,
        })
    }

    /// Hands on what comes out of a channel of a gossip.
    fn carry<T: Send + 'static>(
        &self,
        mut from: mpsc::Receiver<T>,
        (number, run): (usize, u64),
        wrap: fn(T) -> Option<Word>,
    ) {
        let ear = self.ear.clone();
        self.runtime.spawn(async move {
            while let Some(item) = from.recv().await {
                if let Some(word) = wrap(item)
                    && ear.send((number, run, word)).await.is_err()
                {
                    return;
                }
            }
        });
    }

    fn ends(&mut self, at: (usize, LinkId)) -> &mut (Outgoing, Incoming) {
        self.ends.entry(at).or_insert_with(link_ends)
    }
}

fn word(event: GossipEvent) -> Option<Word> {
    Some(match event {
        GossipEvent::Hint { node, hints } => Word::Hint(node, hints.head?.sequence),
        GossipEvent::Blame { peer, .. } => Word::Blame(peer),
        GossipEvent::LiveSet(live) => Word::Live(live),
        GossipEvent::Restarting { generation, reason } => Word::Again(generation, reason),
        GossipEvent::StaysDown { reason } => Word::Ended(reason),
        GossipEvent::Unknown { .. } | GossipEvent::Dropped { .. } => return None,
    })
}

impl Beside for Gossips {
    fn start(&mut self, number: usize, run: u64, key: NodeKey, boot: u64) {
        let (directory, directory_out) = watch::channel(Arc::default());
        let (links, links_out) = watch::channel(Arc::default());
        let (hints, hints_out) = watch::channel(Hints::default());
        let (inbound, inbound_out) = mpsc::channel(limits::GOSSIP_WAITING);
        let (outbound, messages) = mpsc::channel(limits::GOSSIP_WAITING);
        let (events, told) = mpsc::channel(limits::GOSSIP_WAITING);
        let (shutdown, stopped) = watch::channel(false);
        let ports = GossipPorts {
            directory: directory_out,
            links: links_out,
            outbound,
            inbound: inbound_out,
            own: hints_out,
            events,
            shutdown: stopped,
        };
        let cluster_id = self.cluster.clone();
        let config = GossipConfig { me: key, generation: boot, cluster_id, restart: true };
        let gossip = Gossip::start(config, ports, self.runtime.handle());
        let whose = (number, run);
        self.carry(messages, whose, |(to, bytes)| Some(Word::Message(to, bytes)));
        self.carry(told, whose, word);
        let ear = self.ear.clone();
        self.runtime.spawn(async move {
            // Whose node has ended ends in order.
            if let Err(error) = gossip.ended().await {
                // Nobody listens any more when the world is gone.
                let _ = ear.send((number, run, Word::Ended(error.to_string()))).await;
            }
        });
        let up = Up {
            run,
            inbound,
            live: BTreeSet::new(),
            shown: None,
            directory,
            links,
            hints,
            _shutdown: shutdown,
        };
        self.up.insert(number, up);
    }

    fn end(&mut self, number: usize) {
        self.up.remove(&number);
        self.ends.retain(|(of, _), _| *of != number);
    }

    fn show(&mut self, number: usize, view: &Arc<View>, peers: BTreeSet<NodeKey>) {
        let Some(up) = self.up.get_mut(&number) else { return };
        up.links.send_if_modified(|held| {
            let changed = **held != peers;
            if changed {
                *held = Arc::new(peers);
            }
            changed
        });
        if up.shown.as_ref().is_some_and(|shown| Arc::ptr_eq(shown, view)) {
            return;
        }
        up.directory.send_replace(Arc::new(Directory::of(view)));
        let hints = Hints::of(view, NodeState::Up);
        up.hints.send_if_modified(|held| {
            let changed = *held != hints;
            *held = hints;
            changed
        });
        up.shown = Some(Arc::clone(view));
    }

    fn came(&mut self, now: Tick, at: (usize, LinkId), peer: NodeKey, frame: &[u8]) -> bool {
        match self.ends(at).1.decode(now, frame) {
            Ok(message) => {
                if let Some(message) = message {
                    self.deliver(at.0, peer, message);
                }
                true
            }
            Err(_) => false,
        }
    }

    fn deliver(&mut self, number: usize, peer: NodeKey, message: Bytes) {
        if let Some(up) = self.up.get(&number) {
            // Hints: a full queue loses them.
            let _ = up.inbound.try_send((peer, message));
        }
    }

    fn frame(&mut self, at: (usize, LinkId), message: &[u8]) -> Option<Vec<u8>> {
        let mut frame = self.ends(at).0.encode(message).ok()?;
        frame.insert(0, frame::GOSSIP);
        Some(frame)
    }

    fn closed(&mut self, at: (usize, LinkId)) {
        self.ends.remove(&at);
    }

    fn next(&mut self, until: u64) -> Option<(u64, usize, u64, Word)> {
        let wake = self.start + Duration::from_millis(until);
        let Self { runtime, said, .. } = self;
        let (at, (number, run, word)) = runtime.block_on(async {
            tokio::select! {
                biased;
                said = said.recv() => Some((Instant::now(), said?)),
                () = sleep_until(wake) => None,
            }
        })?;
        if let (Word::Live(live), Some(up)) = (&word, self.up.get_mut(&number))
            && up.run == run
        {
            up.live = live.clone();
        }
        Some((millis(at.duration_since(self.start)), number, run, word))
    }

    fn lies(&self, victim: (NodeKey, u64), other: (NodeKey, u64)) -> Vec<Vec<u8>> {
        attack::messages(&victim, &other, &self.cluster)
    }

    fn live(&self, number: usize) -> Option<&BTreeSet<NodeKey>> {
        self.up.get(&number).map(|up| &up.live)
    }
}
