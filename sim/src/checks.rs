//! Checks: what must hold after every event, whatever was done to the world.
//!
//! In:    the world after an event, and what a node is about to send, write or tell
//! Out:   the first [`Violation`]
//! Never: changes the world; counts a node to the honest that is not
//!
//! S1 to S10 are those of the design but S5, which speaks of freshness that this engine has not.
//! S10 is looked at once a second, the others at each event of the node concerned.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use skein_protocol::{
    clock::Wall,
    engine::{Blame, Event, Write},
    limits,
    membership::Witness,
    name::{Hash, NodeKey},
    record::{
        Bundle, Signed,
        node::{Health, NodeState},
    },
    store::Head,
    view::{Endpoint, Liveness, Use},
    wire::frame::Frame,
};

use crate::{
    mesh::EPOCH,
    rulings::Rulings,
    world::{Node, World},
};

/// Which check.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Check {
    /// A node believes a record that does not verify, or that its honest origin never said.
    S1,
    /// A sequence fell, or an origin used one twice.
    S2,
    /// A document went back: what was in force is gone, and nothing in force was made after it.
    S3,
    /// A node deals with a key that it knows to have ended.
    S4,
    /// What decides calls at a node is not what it holds.
    S5,
    /// A node keeps something of a key that nobody certified.
    S6,
    /// A node holds more than its bounds allow.
    S7,
    /// A panic, or more steps than one event may cost.
    S8,
    /// An honest node blames an honest one.
    S9,
    /// A view lost a service whose endpoints live on its own side.
    S10,
    /// The core does not come to one view in time.
    L1,
    /// A service of the core cannot be called from the core.
    L2,
    /// A dead endpoint is still in use.
    L3,
    /// An honest node that lives is held for dead.
    L4,
    /// A revocation or a document does not reach the core.
    L5,
    /// The core's idle bytes grow beyond what its links cost.
    L6,
}

/// Something that does not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Which check.
    pub check: Check,
    /// When, in milliseconds of the world.
    pub at: u64,
    /// At which node.
    pub node: usize,
    /// What was seen.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {} ms, node {}: {}", self.check, self.at, self.node, self.what)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Checks {
    /// The first thing that did not hold.
    pub violation: Option<Violation>,
    /// How many checks were made.
    pub made: u64,
    /// Nodes that do not do what they should: adversaries, twins. Their word proves nothing.
    pub dishonest: BTreeSet<usize>,
    /// Nodes that have seen a disk of theirs go back: they may say a thing in two ways once.
    pub forgetful: BTreeSet<usize>,
    /// What each honest origin has said: sequence and hash.
    spoken: BTreeMap<NodeKey, BTreeMap<u64, Hash>>,
    /// What each node believed last of each origin: sequence and hash. Of two contents at one
    /// sequence the lower hash stays.
    floors: BTreeMap<(usize, NodeKey), (u64, Hash)>,
    /// Sequences that stood on a node's disk when it started.
    restored: BTreeMap<(usize, NodeKey), u64>,
    /// How many keys each node knew to have ended.
    knew_ended: BTreeMap<usize, usize>,
    /// Since when nothing is wrong with any path or process.
    calm_since: Option<u64>,
    /// What honest watchers said.
    witnessed: BTreeSet<Witness>,
    /// The first that each origin said: what a replayer digs out.
    first: BTreeMap<NodeKey, Arc<Bundle>>,
    touched: Vec<(NodeKey, Arc<Bundle>)>,
    /// Nodes whose keys have ended.
    pub revoked: BTreeSet<usize>,
    /// What mesh-wide documents each node held last.
    pub rulings: Rulings,
    /// Since when two nodes can reach each other.
    settled: BTreeMap<(usize, usize), u64>,
}

/// The kind of frames that carry a record.
const RECORD: u8 = 4;
/// The kind of frames that carry a watcher's word.
const WITNESS: u8 = 7;
/// Outputs that one event may cause: a pull answered, a view, and a flood to every link.
const STEPS_MAX: usize = 8 * limits::CONTROL_PEERS_MAX + limits::NODES_MAX;
/// Frames, checks and timers under way at one time: a flood of every record over every link.
const UNDER_WAY_MAX: usize = 200_000;
/// What was refused while a clock was off is known this long after it is right.
const RELEARNED: u64 = 30_000;
/// A world without faults for so long is calm: what was doubted before is settled.
const CALM: u64 = 20_000;
/// Endpoints that were well for so long must not be missing from a view of their own side.
const SETTLED: u64 = 5_000;

impl Checks {
    /// Notes what does not hold. The first stays.
    pub fn fail(&mut self, world: &World, check: Check, node: usize, what: impl Into<String>) {
        let at = world.now;
        self.violation.get_or_insert_with(|| Violation { check, at, node, what: what.into() });
    }

    fn honest(&self, node: usize) -> bool {
        !self.dishonest.contains(&node)
    }

    /// The oldest record of a node that was ever sent.
    pub fn oldest(&self, world: &World, node: usize) -> Option<Arc<Bundle>> {
        self.first.get(&world.key(node)).map(Arc::clone)
    }

    /// A node's engine panicked.
    pub fn panicked(&mut self, world: &World, node: usize) {
        self.fail(world, Check::S8, node, "the engine panicked");
    }

    /// A node started from its disk.
    pub fn started(&mut self, world: &World, number: usize) {
        let Some(node) = world.nodes.get(number) else { return };
        let knew = self.knew_ended.get(&number).copied().unwrap_or_default();
        let knows = node.ended.as_ref().map_or(0, |ended| ended.len());
        let excused = node.forgot || self.forgetful.contains(&number) || !self.honest(number);
        if knows < knew && !excused {
            let what = format!("knew {knew} keys to have ended, and after a restart {knows}");
            self.fail(world, Check::S4, number, what);
        }
        self.floors.retain(|(at, _), _| *at != number);
        self.restored.retain(|(at, _), _| *at != number);
        for (key, bundle) in &node.disk.peers {
            if let Ok(signed) = Signed::parse(Arc::clone(bundle), world.mesh.id) {
                self.restored.insert((number, *key), signed.header().sequence);
            }
        }
    }

    /// A node is about to write.
    pub fn persisting(&mut self, world: &World, number: usize, writes: &[Write]) {
        let Some(me) = world.nodes.get(number).map(|node| node.key) else { return };
        for write in writes {
            let Write::Peer(key, bundle) = write else { continue };
            if *key == me && self.honest(number) {
                self.said(world, number, key, bundle);
            }
            self.touched.push((*key, Arc::clone(bundle)));
        }
    }

    /// An origin said something new.
    fn said(&mut self, world: &World, number: usize, key: &NodeKey, bundle: &Arc<Bundle>) {
        let Ok(signed) = Signed::parse(Arc::clone(bundle), world.mesh.id) else {
            return self.fail(world, Check::S1, number, "published what does not parse");
        };
        let (sequence, hash) = (signed.header().sequence, signed.hash());
        let forgot = world.nodes.get(number).is_some_and(|node| node.forgot);
        self.first.entry(*key).or_insert_with(|| Arc::clone(bundle));
        let before = self.spoken.entry(*key).or_default().insert(sequence, hash);
        let twice = before.is_some_and(|before| before != hash);
        if twice && !forgot && self.honest(number) && !self.forgetful.contains(&number) {
            self.fail(world, Check::S2, number, format!("used sequence {sequence} twice"));
        }
    }

    /// A node sends a frame.
    pub fn sending(&mut self, world: &World, number: usize, bytes: &[u8]) {
        let Some(node) = world.nodes.get(number).filter(|_| self.honest(number)) else {
            return;
        };
        let ended = node.ended.as_ref().filter(|ended| !ended.is_empty());
        let looked_at = match bytes.first() {
            Some(&RECORD) => ended.is_some() && !self.revoked.contains(&number),
            Some(&WITNESS) => true,
            _ => false,
        };
        if !looked_at {
            return;
        }
        self.made += 1;
        match Frame::decode(bytes) {
            Ok(Frame::Record(bundle)) => {
                let signed = Signed::parse(Arc::new(*bundle), world.mesh.id);
                let origin = signed.ok().map(|signed| signed.header().origin);
                let ended = |key: &NodeKey| ended.is_some_and(|ended| ended.is_revoked(key));
                if let Some(key) = origin.filter(ended) {
                    let of = world.number(&key);
                    let what = format!("passes on a record of {of:?}, revoked");
                    self.fail(world, Check::S4, number, what);
                }
            }
            Ok(Frame::Witness(signed)) => self.witness(world, number, node, signed.witness),
            _ => {}
        }
    }

    /// A watcher's word: its own, or passed on. An honest watcher's stands where it said it.
    fn witness(&mut self, world: &World, number: usize, node: &Node, witness: Witness) {
        if witness.watcher == node.key {
            self.witnessed.insert(witness);
        } else if world.number(&witness.watcher).is_some_and(|watcher| self.honest(watcher))
            && !self.witnessed.contains(&witness)
        {
            let of = world.number(&witness.watcher);
            let what = format!("passes on the word of {of:?}, which never said it");
            self.fail(world, Check::S1, number, what);
        }
    }

    /// A node tells people something.
    pub fn told(&mut self, world: &World, number: usize, event: &Event) {
        if let Event::Dead(of) = event
            && let Some(of) = world.number(of)
        {
            self.death(world, number, of);
        }
        let Event::Blamed(peer, blame) = event else { return };
        let Some(peer) = world.number(peer) else { return };
        let excused = matches!(blame, Blame::Fork)
            && (self.forgetful.contains(&peer) || world.nodes.get(peer).is_some_and(|n| n.forgot));
        self.made += 1;
        if self.honest(number) && self.honest(peer) && !excused {
            self.fail(world, Check::S9, number, format!("blames {peer}, which is honest: {blame}"));
        }
    }

    /// A node holds another for dead. In a calm world only the dead are.
    fn death(&mut self, world: &World, at: usize, of: usize) {
        let now = world.now;
        let excused = !self.honest(at)
            || !self.honest(of)
            || self.dishonest.len() > 1
            || [at, of].iter().any(|n| self.revoked.contains(n))
            || !world.is_up(of)
            || self.calm_since.is_none_or(|since| now.saturating_sub(since) <= CALM);
        self.made += 1;
        if !excused {
            self.fail(
                world,
                Check::L4,
                at,
                format!("holds {of} for dead, which is there and well"),
            );
        }
    }

    /// Notes since when nothing is wrong with any path or process.
    fn note_calm(&mut self, world: &World) {
        let weather = &world.network.weather;
        let awake = world.up().all(|(_, node)| {
            node.paused_until <= world.now && world.now.saturating_sub(node.up_since) > CALM / 2
        });
        let calm = weather.loss == 0.0 && awake && world.network.is_whole();
        self.calm_since = calm.then_some(self.calm_since.unwrap_or(world.now));
    }

    /// A node has dealt with an event in so many steps.
    pub fn after(&mut self, world: &World, number: usize, steps: usize) {
        if world.under_way() > UNDER_WAY_MAX {
            let what = format!("{} things under way", world.under_way());
            self.fail(world, Check::S7, number, what);
        }
        let touched = std::mem::take(&mut self.touched);
        if !self.honest(number) {
            return;
        }
        self.made += 1;
        if steps > STEPS_MAX {
            self.fail(world, Check::S8, number, format!("{steps} steps for one event"));
        }
        let Some(node) = world.nodes.get(number) else { return };
        for (key, bundle) in touched {
            self.believed(world, number, node, &key, &bundle);
        }
        self.ended(world, number, node);
        self.ruled(world, number, node);
    }

    /// Also over a crash and a start, at whatever point: unless the disk lost what it had.
    fn ruled(&mut self, world: &World, number: usize, node: &Node) {
        let Some(policy) = &node.policy else { return };
        self.made += 1;
        if node.forgot || self.forgetful.contains(&number) {
            return self.rulings.forget(number);
        }
        let held = node.engine.as_ref().map(|engine| engine.policy().documents.root());
        if held.is_some_and(|held| held != policy.documents.root()) {
            let what = "calls are decided by other documents than it holds".to_owned();
            self.fail(world, Check::S5, number, what);
        }
        if let Err(version) = self.rulings.look(number, policy) {
            let what = format!("version {} is gone, and nothing superseded it", version.short());
            self.fail(world, Check::S3, number, what);
        }
    }

    fn believed(
        &mut self,
        world: &World,
        number: usize,
        node: &Node,
        key: &NodeKey,
        bundle: &Arc<Bundle>,
    ) {
        self.made += 4;
        let Some(origin) = world.number(key) else {
            return self.fail(world, Check::S6, number, format!("keeps a record of {key}"));
        };
        let signed = Signed::parse(Arc::clone(bundle), world.mesh.id);
        // By the true time: a node whose clock is off believes no less than others do.
        let wall = Wall(EPOCH.0.saturating_add(world.now));
        let roots = &world.mesh.roots;
        let verified = signed.and_then(|s| s.verify(roots, wall, world.mesh.signatures.crypto()));
        let verified = match verified {
            Ok(verified) => verified,
            Err(error) => {
                let what = format!("believes a record of {origin} that does not hold: {error}");
                return self.fail(world, Check::S1, number, what);
            }
        };
        let sequence = verified.header().sequence;
        let spoken = self.spoken.get(key).and_then(|all| all.get(&sequence)).copied();
        let forgot = world.nodes.get(origin).is_some_and(|node| node.forgot)
            || self.forgetful.contains(&origin);
        if self.honest(origin) && spoken != Some(verified.hash()) && !forgot {
            let what = format!("believes sequence {sequence} of {origin}, which never said it");
            self.fail(world, Check::S1, number, what);
        }
        let grant = &verified.chain().grant;
        let instances = verified.content().map(|content| content.instances.0.as_slice());
        let mut instances = instances.unwrap_or_default().iter();
        let stranger = instances.find(|i| !grant.covers(&i.service));
        if let Some(stranger) = stranger {
            let what = format!("believes that {origin} serves {}", stranger.service);
            self.fail(world, Check::S1, number, what);
        }
        let head = node.engine.as_ref().and_then(|engine| engine.store().head(key));
        if let Some(head) = head {
            self.risen(world, number, key, head);
        } else if self.floors.contains_key(&(number, *key)) {
            self.fail(world, Check::S2, number, format!("holds nothing of {origin}, and did"));
        }
    }

    /// What a node holds of an origin never falls: not its sequence, nor to the higher hash of two.
    fn risen(&mut self, world: &World, number: usize, key: &NodeKey, head: Head) {
        let of = world.number(key);
        if let Some((sequence, hash)) =
            self.floors.insert((number, *key), (head.sequence, head.hash))
        {
            if head.sequence < sequence {
                let what =
                    format!("holds sequence {} of {of:?}, and held {sequence}", head.sequence);
                self.fail(world, Check::S2, number, what);
            } else if head.sequence == sequence && head.hash > hash {
                let what = format!("took the higher of two contents at {sequence} of {of:?}");
                self.fail(world, Check::S2, number, what);
            }
        }
    }

    /// What a node does with keys that it knows to have ended.
    fn ended(&mut self, world: &World, number: usize, node: &Node) {
        let (Some(ended), Some(engine)) = (&node.ended, &node.engine) else { return };
        if ended.is_empty() {
            return;
        }
        // What a failing disk does not take counts at once, and is learned again after a crash.
        self.knew_ended.insert(number, ended.len().min(node.disk.revocations.len()));
        self.made += 1;
        if let Some((_, key)) = engine.ready_links().find(|(_, key)| ended.is_revoked(key)) {
            let of = world.number(&key);
            self.fail(world, Check::S4, number, format!("has a link to {of:?}, revoked"));
        }
    }

    /// Looks at every node whole: once a second.
    pub fn sweep(&mut self, world: &World) {
        self.note_reach(world);
        self.note_calm(world);
        for (number, node) in world.up() {
            if !self.honest(number) {
                continue;
            }
            self.held(world, number, node);
            self.in_use(world, number, node);
            let settled = world.now.saturating_sub(node.up_since) > 2 * SETTLED;
            // Who is a year ahead holds every certificate for expired, and learns nothing new; what
            // it missed it asks for again when the same pair of roots may be exchanged again.
            let in_time = node.skew.unsigned_abs() < 1000 * limits::CLOCK_SKEW.as_secs() * 12
                && (node.clock_set == 0 || world.now.saturating_sub(node.clock_set) > RELEARNED);
            if settled && in_time && !self.revoked.contains(&number) {
                self.own_side(world, number, node);
            }
        }
    }

    fn held(&mut self, world: &World, number: usize, node: &Node) {
        let Some(engine) = &node.engine else { return };
        self.made += 3;
        let held = engine.held();
        if let Some(over) = held.over() {
            self.fail(world, Check::S7, number, format!("{over} is over its bound: {held:?}"));
        }
        if engine.store().len() > world.nodes.len() {
            self.fail(world, Check::S6, number, format!("{} origins", engine.store().len()));
        }
        let settled = world.now.saturating_sub(node.up_since) > SETTLED;
        for (origin, head) in engine.store().heads_from(NodeKey([0; 32]), usize::MAX) {
            let disk = self.restored.get(&(number, origin)).copied().unwrap_or_default();
            let floor = if settled { disk } else { 0 };
            let of = world.number(&origin);
            if of.is_none() {
                self.fail(world, Check::S6, number, format!("holds a head of {origin}"));
            }
            if head.sequence < floor {
                let what = format!("holds {} of {of:?}, and held {floor}", head.sequence);
                self.fail(world, Check::S2, number, what);
            }
            self.risen(world, number, &origin, head);
        }
    }

    /// No endpoint of a key that has ended is in use.
    fn in_use(&mut self, world: &World, number: usize, node: &Node) {
        let (Some(ended), Some(view)) = (&node.ended, &node.view) else { return };
        if ended.is_empty() || self.revoked.contains(&number) {
            return;
        }
        self.made += 1;
        let mut all = view.services.values().flat_map(|service| &service.endpoints);
        let used = all.find(|e| ended.is_revoked(&e.node.key) && !matches!(e.usable, Use::No(_)));
        if let Some(endpoint) = used {
            let of = world.number(&endpoint.node.key);
            self.fail(world, Check::S4, number, format!("routes to {of:?}, revoked"));
        }
    }

    /// Since when each pair of nodes can reach each other.
    fn note_reach(&mut self, world: &World) {
        let awake = |n: usize| {
            world.is_up(n) && world.nodes.get(n).is_some_and(|node| node.paused_until <= world.now)
        };
        for a in 0..world.nodes.len() {
            for b in 0..world.nodes.len() {
                let clear = !world.network.is_cut(a, b) && !world.network.is_clogged(a, b);
                if awake(a) && awake(b) && clear {
                    self.settled.entry((a, b)).or_insert(world.now);
                } else {
                    self.settled.remove(&(a, b));
                }
            }
        }
    }

    /// A service with an endpoint that lives, passes and is reachable for long has one in use.
    fn own_side(&mut self, world: &World, number: usize, node: &Node) {
        let Some(view) = &node.view else { return };
        for (name, service) in &view.services {
            self.made += 1;
            let used = service.endpoints.iter().any(|e| !matches!(e.usable, Use::No(_)));
            if used {
                continue;
            }
            let alive = service.endpoints.iter().find(|endpoint| {
                let of = world.number(&endpoint.node.key);
                of.is_some_and(|of| self.is_well(world, number, of, endpoint))
            });
            if let Some(endpoint) = alive {
                let of = world.number(&endpoint.node.key);
                let what = format!(
                    "has no endpoint of {name} in use ({:?}), though {of:?} is there and well",
                    endpoint.usable
                );
                self.fail(world, Check::S10, number, what);
            }
        }
    }

    /// Whether two who can be heard of at `of`'s place cannot reach it themselves: then their word
    /// that it is dead is honest, and a path of our own does not change it.
    fn is_doubted(&self, world: &World, of: usize) -> bool {
        let clear = |a, b| self.settled.contains_key(&(a, b)) && self.settled.contains_key(&(b, a));
        let mut near = BTreeSet::from([of]);
        let mut edge = vec![of];
        while let Some(at) = edge.pop() {
            for next in 0..world.nodes.len() {
                if clear(at, next) && near.insert(next) {
                    edge.push(next);
                }
            }
        }
        let long = |n: usize| {
            let since = self.settled.get(&(of, n)).copied();
            since.is_some_and(|since| world.now.saturating_sub(since) > 3 * SETTLED)
        };
        near.iter().filter(|n| **n != of && !long(**n)).count() >= 2
    }

    fn is_well(&self, world: &World, at: usize, of: usize, endpoint: &Endpoint) -> bool {
        let Some(node) = world.nodes.get(of) else { return false };
        let since = self.settled.get(&(at, of)).copied();
        // By what it could publish: a full disk keeps it from saying anything new.
        let own = node.engine.as_ref().and_then(|engine| engine.store().body(&node.key));
        let Some(said) = own.and_then(|record| record.content()) else { return false };
        let serves = said.instances.0.iter().any(|instance| {
            instance.id == endpoint.instance.id
                && instance.health == Health::Passing
                && instance.weight > 0
        });
        // Who has no neighbour left on its own side meets others there only once it holds the old
        // ones for dead, four at a time: until then it may not know what was said since.
        let told_within = if world.network.is_whole() { SETTLED } else { CALM };
        let revoked = self.revoked.contains(&of);
        serves
            && !revoked
            && world.now.saturating_sub(node.changed) > told_within
            && self.honest(of)
            && !self.forgetful.contains(&of)
            && !self.is_doubted(world, of)
            && said.host.state == NodeState::Up
            && since.is_some_and(|since| world.now.saturating_sub(since) > 3 * SETTLED)
    }

    /// Honest nodes that run and that an honest node doubts.
    pub fn wrongly_doubted(&self, world: &World) -> Vec<(usize, usize)> {
        self.wrongly(world, |seen| seen != Liveness::Alive)
    }

    /// Honest nodes that run and that an honest node holds for dead.
    pub fn wrongly_dead(&self, world: &World) -> Vec<(usize, usize)> {
        self.wrongly(world, |seen| seen == Liveness::Dead)
    }

    fn wrongly(&self, world: &World, wrong_if: impl Fn(Liveness) -> bool) -> Vec<(usize, usize)> {
        let mut wrong = Vec::new();
        for (at, node) in world.up().filter(|(at, _)| self.honest(*at)) {
            let Some(view) = &node.view else { continue };
            for (of, other) in world.up().filter(|(of, _)| self.honest(*of)) {
                let seen = view.nodes.get(&other.key).map(|seen| seen.liveness);
                if at != of && seen.is_some_and(&wrong_if) {
                    wrong.push((at, of));
                }
            }
        }
        wrong
    }
}
