//! Task: one loop around one chitchat, which it feeds, empties, and starts again when it ends.
//!
//! In:    [`GossipPorts`]                          Out: bytes for links, [`GossipEvent`]s
//! Never: waits for a peer, a full channel or chitchat's own task; loses the last view when
//!        chitchat ends

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use rand::seq::IndexedRandom;
use skein_protocol::{
    clock::{Tick, millis},
    limits,
    name::{NodeKey, ShortId},
};
use tokio::{
    sync::mpsc,
    time::{Instant, Interval, MissedTickBehavior, interval, sleep_until},
};

use super::{
    Dropped, Filter, GossipConfig, GossipEvent, GossipPorts, HintsByNode,
    address::virtual_address,
    chitchat::{Event, Identity, Instance},
    outbox::Outbox,
};

/// The loop and all that it knows.
pub(super) struct Task {
    config: GossipConfig,
    ports: GossipPorts,
    filter: Filter,
    pub(super) instance: Option<Instance>,
    outbox: Outbox,
    links: BTreeMap<SocketAddr, NodeKey>,
    live: BTreeSet<NodeKey>,
    told_live: Option<BTreeSet<NodeKey>>,
    /// Whether the running chitchat knows no live peer.
    alone: bool,
    /// Until then what the chitchat before this one knew still counts.
    keep_until: Instant,
    hints: HintsByNode,
    told_hints: HintsByNode,
    asked: BTreeMap<ShortId, Instant>,
    /// Where chitchat was told to speak to, so that it may.
    poked: BTreeSet<SocketAddr>,
    rounds: Rounds,
    start: Instant,
    restart: Restart,
    own_dirty: bool,
    own_at: Instant,
}

/// When chitchat may speak of its own accord. Its tick is fixed when it starts, when nobody knows
/// how many members there are; so it ticks fast, and most ticks are kept to ourselves.
struct Rounds {
    next: Instant,
    open_until: Instant,
}

/// When chitchat is started again, and how patiently.
struct Restart {
    at: Instant,
    pause: Duration,
    give_up_waiting: Instant,
}

/// What the loop does next.
enum Step {
    Stop,
    Restart,
    TellOwn,
    OwnChanged,
    Links,
    Round,
    Sent,
    Chitchat(Event),
    Receive(NodeKey, Bytes),
}

impl Task {
    pub(super) fn new(config: GossipConfig, ports: GossipPorts) -> Self {
        let now = Instant::now();
        Self {
            filter: Filter::new(config.me, config.cluster_id.clone(), config.generation),
            config,
            ports,
            instance: None,
            outbox: Outbox::default(),
            links: BTreeMap::new(),
            live: BTreeSet::new(),
            told_live: None,
            alone: true,
            keep_until: now,
            hints: HintsByNode::new(),
            told_hints: HintsByNode::new(),
            asked: BTreeMap::new(),
            poked: BTreeSet::new(),
            rounds: Rounds { next: now, open_until: now },
            start: now,
            restart: Restart { at: now, pause: limits::GOSSIP_RESTART_MIN, give_up_waiting: now },
            own_dirty: false,
            own_at: now,
        }
    }

    /// Runs until shutdown.
    pub(super) async fn run(mut self) {
        let mut round = interval(limits::GOSSIP_ROUND_MIN);
        round.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.follow_links();
        if self.instance.is_none() {
            self.start_instance().await;
        }
        loop {
            match self.next(&mut round).await {
                Step::Stop => return,
                Step::Restart => self.start_again().await,
                Step::TellOwn => self.tell_own().await,
                Step::OwnChanged => self.own_dirty = true,
                Step::Links => self.follow_links(),
                Step::Round => self.speak_up(),
                Step::Sent => {}
                Step::Chitchat(event) => self.heed(event),
                Step::Receive(peer, bytes) => self.receive(peer, &bytes),
            }
        }
    }

    /// Waits for the next thing to do. What links want comes before what they bring.
    async fn next(&mut self, round: &mut Interval) -> Step {
        let idle = self.instance.is_none();
        let ports = &mut self.ports;
        tokio::select! {
            biased;
            _ = ports.shutdown.wait_for(|stop| *stop) => Step::Stop,
            () = sleep_until(self.restart.at), if idle && self.config.restart => Step::Restart,
            () = sleep_until(self.own_at), if self.own_dirty => Step::TellOwn,
            Ok(()) = ports.own.changed() => Step::OwnChanged,
            Ok(()) = ports.links.changed() => Step::Links,
            _ = round.tick() => Step::Round,
            () = send_next(&ports.outbound, &mut self.outbox), if !self.outbox.is_empty() => {
                Step::Sent
            }
            event = next_of(&mut self.instance) => Step::Chitchat(event),
            Some((peer, bytes)) = ports.inbound.recv() => Step::Receive(peer, bytes),
        }
    }

    /// The round, by the members of this moment.
    fn round(&self) -> Duration {
        round_of(self.ports.directory.borrow().len())
    }

    fn tick(&self) -> Tick {
        Tick(millis(self.start.elapsed()))
    }

    async fn start_instance(&mut self) {
        let identity = Identity {
            me: self.config.me,
            generation: self.config.generation,
            cluster: self.config.cluster_id.clone(),
        };
        let hints = self.ports.own.borrow_and_update().clone();
        match Instance::start(identity, &hints).await {
            Ok(instance) => {
                self.instance = Some(instance);
                self.own_dirty = false;
                self.speak_up();
            }
            Err(error) => self.fallen(format!("it did not start: {error:#}")),
        }
    }

    /// chitchat has ended: a higher generation is announced, then it is started again. What the
    /// view has of its hints stays until then.
    fn fallen(&mut self, reason: String) {
        self.instance = None;
        self.alone = true;
        if !self.config.restart {
            return self.tell(GossipEvent::StaysDown { reason });
        }
        self.config.generation = self.config.generation.saturating_add(1);
        self.filter.set_generation(self.config.generation);
        let now = Instant::now();
        let stable = now.duration_since(self.restart.at) > limits::GOSSIP_RESTART_MAX * 2;
        self.restart.pause = if stable {
            limits::GOSSIP_RESTART_MIN
        } else {
            (self.restart.pause * 2).min(limits::GOSSIP_RESTART_MAX)
        };
        self.restart.at = now + self.restart.pause;
        self.restart.give_up_waiting = self.restart.at + limits::GOSSIP_ANNOUNCE_WAIT;
        tracing::warn!(
            generation = self.config.generation,
            pause_ms = millis(self.restart.pause),
            reason,
            "gossip ended; routing goes on with the last view, gossip is started again"
        );
        self.tell(GossipEvent::Restarting { generation: self.config.generation, reason });
    }

    /// Starts chitchat again once our record names its new generation: under an id that no
    /// record names, every peer would drop it.
    async fn start_again(&mut self) {
        let announced = self
            .ports
            .directory
            .borrow()
            .find(self.config.me.short().as_str())
            .is_some_and(|own| own.generation >= self.config.generation);
        let now = Instant::now();
        if announced || now >= self.restart.give_up_waiting {
            self.restart.at = now;
            self.keep_until = now + self.round() * limits::GOSSIP_KEEP_ROUNDS;
            self.start_instance().await;
        } else {
            self.restart.at = now + Duration::from_millis(100);
        }
    }

    async fn tell_own(&mut self) {
        self.own_dirty = false;
        self.own_at = Instant::now() + limits::GOSSIP_OWN_EVERY;
        let hints = self.ports.own.borrow_and_update().clone();
        let Some(instance) = &mut self.instance else {
            return;
        };
        if let Err(error) = instance.set(&hints).await {
            self.fallen(error.to_string());
        }
    }

    /// A link that came up is spoken over at once: chitchat has no seeds, so two fresh agents
    /// would never speak. One that went down takes its queue along.
    fn follow_links(&mut self) {
        let up = Arc::clone(&self.ports.links.borrow_and_update());
        let before = std::mem::take(&mut self.links);
        self.links = up
            .iter()
            .take(limits::CONTROL_PEERS_MAX)
            .map(|peer| (SocketAddr::V4(virtual_address(peer)), *peer))
            .collect();
        self.outbox.retain(|peer| up.contains(peer));
        self.poked.retain(|address| self.links.contains_key(address));
        let fresh = self.links.iter().filter(|(address, _)| !before.contains_key(address));
        for peer in fresh.map(|(_, peer)| *peer).collect::<Vec<_>>() {
            self.poke(peer);
        }
    }

    /// Has chitchat speak to a neighbour now.
    fn poke(&mut self, peer: NodeKey) {
        if let Some(instance) = &self.instance {
            self.poked.insert(SocketAddr::V4(virtual_address(&peer)));
            instance.gossip(&peer);
        }
    }

    /// Once a tick: while no live peer is known, speak to some neighbours; tell what the events'
    /// channel had no room for.
    fn speak_up(&mut self) {
        if self.alone {
            let neighbours: Vec<NodeKey> = self.links.values().copied().collect();
            let count = neighbours.len().min(limits::GOSSIP_POKES);
            for peer in neighbours.sample(&mut rand::rng(), count) {
                self.poke(*peer);
            }
        }
        self.look();
    }

    fn heed(&mut self, event: Event) {
        match event {
            Event::Send(to, bytes) => self.send(to, &bytes),
            Event::Live => self.look(),
            Event::Ended(reason) => self.fallen(reason),
        }
    }

    /// Sends what chitchat has for `to`. A SYN names no addressee, so one for a peer without a
    /// link goes to a neighbour at random; an answer without a link is lost.
    fn send(&mut self, to: SocketAddr, bytes: &[u8]) {
        if is_syn(bytes) && !self.poked.remove(&to) && !self.in_round() {
            return;
        }
        let direct = self.links.get(&to).copied();
        let neighbour = || {
            let neighbours: Vec<&NodeKey> = self.links.values().collect();
            neighbours.choose(&mut rand::rng()).map(|peer| **peer)
        };
        let peer = match direct {
            Some(peer) => Some(peer),
            None if is_syn(bytes) => neighbour(),
            None => None,
        };
        let Some(peer) = peer else {
            return;
        };
        let directory = Arc::clone(&self.ports.directory.borrow());
        match self.filter.outbound(&peer, bytes, &directory) {
            Ok(Some(plain)) => self.outbox.push(peer, Bytes::from(plain)),
            Ok(None) => {}
            // Not a peer's fault: our own chitchat says what this filter does not expect of it.
            Err(reason) => tracing::error!(%reason, "own gossip message refused"),
        }
    }

    /// Whether chitchat may ask of its own accord now: for one of its ticks in each round. Ticks
    /// jitter, so the next round begins half a tick before its time.
    fn in_round(&mut self) -> bool {
        let now = Instant::now();
        if now >= self.rounds.next {
            self.rounds.next = now + self.round().saturating_sub(limits::GOSSIP_ROUND_MIN / 2);
            self.rounds.open_until = now + limits::GOSSIP_ROUND_OPEN;
        }
        now < self.rounds.open_until
    }

    fn receive(&mut self, peer: NodeKey, bytes: &[u8]) {
        let tick = self.tick();
        if !self.filter.within_budget(tick, peer) {
            self.tell(GossipEvent::Dropped { peer, reason: Dropped::OverBudget });
            return;
        }
        let directory = Arc::clone(&self.ports.directory.borrow());
        let passed = match self.filter.inbound(tick, peer, bytes, &directory) {
            Ok(passed) => passed,
            Err(reason) => {
                self.tell(GossipEvent::Blame { peer, reason });
                return;
            }
        };
        for (_, reason) in passed.dropped {
            self.tell(GossipEvent::Dropped { peer, reason });
        }
        self.report_unknown(peer, passed.unknown);
        if let Some(instance) = &self.instance {
            instance.deliver(&peer, &passed.bytes);
        }
    }

    fn report_unknown(&mut self, from: NodeKey, unknown: Vec<ShortId>) {
        let now = Instant::now();
        self.asked.retain(|_, at| now.duration_since(*at) < limits::GOSSIP_UNKNOWN_EVERY);
        for node in unknown {
            if self.asked.len() >= limits::GOSSIP_UNKNOWN_KEPT {
                return;
            }
            if !self.asked.contains_key(&node) {
                self.asked.insert(node.clone(), now);
                self.tell(GossipEvent::Unknown { node, from });
            }
        }
    }

    /// Reads chitchat's live set. Only ids that are current by the directory count: of a node
    /// that was started again chitchat keeps both for a while. A chitchat that was just started
    /// knows nobody yet: until it does, the view of the one before it stands.
    fn look(&mut self) {
        let directory = Arc::clone(&self.ports.directory.borrow());
        let me = self.config.me;
        if let Some(instance) = &mut self.instance {
            let found = instance.live().into_iter().filter_map(|id| {
                let member = directory.find(&id.short)?;
                let current = member.generation == id.generation && member.key != me;
                current.then_some((member.key, id.hints))
            });
            let found: HintsByNode = found.collect();
            self.alone = found.is_empty();
            if Instant::now() < self.keep_until {
                self.hints.extend(found);
            } else {
                self.hints = found;
            }
        }
        self.hints.retain(|node, _| directory.find(node.short().as_str()).is_some());
        self.live = self.hints.keys().copied().collect();
        self.tell_view();
    }

    /// Tells what changed. What finds no room is told in the next round.
    fn tell_view(&mut self) {
        if self.told_live.as_ref() != Some(&self.live) {
            let event = GossipEvent::LiveSet(self.live.clone());
            if !offer(&self.ports.events, event) {
                return;
            }
            self.told_live = Some(self.live.clone());
        }
        for (node, hints) in &self.hints {
            if self.told_hints.get(node) == Some(hints) {
                continue;
            }
            let event = GossipEvent::Hint { node: *node, hints: hints.clone() };
            if !offer(&self.ports.events, event) {
                return;
            }
            self.told_hints.insert(*node, hints.clone());
        }
        self.told_hints.retain(|node, _| self.hints.contains_key(node));
    }

    fn tell(&self, event: GossipEvent) {
        offer(&self.ports.events, event);
    }
}

fn offer(events: &mpsc::Sender<GossipEvent>, event: GossipEvent) -> bool {
    events.try_send(event).is_ok()
}

/// Sends one message once the links' channel has room. Can be cancelled before that.
async fn send_next(outbound: &mpsc::Sender<(NodeKey, Bytes)>, outbox: &mut Outbox) {
    match outbound.reserve().await {
        Ok(permit) => {
            if let Some(message) = outbox.pop() {
                permit.send(message);
            }
        }
        // Nobody takes them any more: the agent is going down.
        Err(_) => outbox.retain(|_| false),
    }
}

async fn next_of(instance: &mut Option<Instance>) -> Event {
    match instance {
        Some(instance) => instance.next().await,
        None => std::future::pending().await,
    }
}

/// A round for this many members.
pub(super) fn round_of(members: usize) -> Duration {
    let members = u32::try_from(members).unwrap_or(u32::MAX);
    limits::GOSSIP_ROUND_PER_NODE
        .saturating_mul(members)
        .clamp(limits::GOSSIP_ROUND_MIN, limits::GOSSIP_ROUND_MAX)
}

/// By the kind byte of a message that our own chitchat wrote.
fn is_syn(bytes: &[u8]) -> bool {
    bytes.get(3) == Some(&0)
}
