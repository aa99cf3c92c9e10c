//! Adversaries: hosts with an admitted key that do not do what they should.
//!
//! Each is an engine like any other, so that it keeps its links, and forges, replays, floods or
//! keeps back on top of that. Where gossip runs, whoever sends garbage attacks it too.

use rand::{RngExt, rngs::StdRng};
use skein_protocol::{
    clock::Wall,
    limits,
    membership::Witness,
    name::NodeKey,
    record::{Bundle, OwnChain, Verified, node::NodeRecord},
    store::Head,
    trust::{Chain, issue},
    wire::frame::{Frame, HeadRange, ProbeFor},
};

use crate::{
    mesh::{self, EPOCH},
    world::World,
};

/// What an adversary does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Attack {
    /// A record in another's name, with a signature that does not hold.
    Forge,
    /// A record of its own that names services which its grant does not.
    Overreach,
    /// Another's record of long ago.
    Replay,
    /// Two contents at one sequence, to two halves of its neighbours.
    Equivocate,
    /// A sequence at the end of what there is.
    Poison,
    /// Records and heads of hundreds of hosts that nobody admitted.
    Sybil,
    /// Signed witness against everybody.
    FalseWitness,
    /// Witness in the name of others.
    ForgedWitness,
    /// Frames of random bytes.
    Garbage,
    /// Heads that claim everything of everybody, to be asked for what is not there.
    LyingHeads,
    /// The same valid record over and over.
    Flood,
    /// Requests for the records of everybody, of those whose keys have ended too.
    AskAll,
    /// Word that it hears of everybody, which nobody asked for.
    Shield,
    /// Heads of thousands of hosts that do not exist, to be asked for them and nothing else.
    Invent,
    /// Requests for one record, thousands of times.
    Greed,
}

impl Attack {
    /// All of them. Plans draw the first [`Self::FIRST`] from the dice of their seed, the others
    /// from dice of their own, so that a seed means what it meant.
    pub const ALL: [Self; 15] = [
        Self::Forge,
        Self::Overreach,
        Self::Replay,
        Self::Equivocate,
        Self::Poison,
        Self::Sybil,
        Self::FalseWitness,
        Self::ForgedWitness,
        Self::Garbage,
        Self::LyingHeads,
        Self::Flood,
        Self::AskAll,
        Self::Shield,
        Self::Invent,
        Self::Greed,
    ];
    /// How many a plan draws from its seed's own dice.
    pub const FIRST: usize = 12;
}

impl Attack {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Forge => "forged record",
            Self::Overreach => "record outside the grant",
            Self::Replay => "old record replayed",
            Self::Equivocate => "two contents at one sequence",
            Self::Poison => "sequence poisoned",
            Self::Sybil => "invented hosts",
            Self::FalseWitness => "false witness",
            Self::ForgedWitness => "forged witness",
            Self::Garbage => "random bytes",
            Self::LyingHeads => "heads of what is not there",
            Self::AskAll => "requests for everything",
            Self::Flood => "the same frame a hundred times",
            Self::Shield => "word of hosts that nobody asked about",
            Self::Invent => "heads of thousands that are not",
            Self::Greed => "one record asked for without end",
        }
    }
}

/// Whether a silent relay keeps a frame back: it passes on only what is its own.
pub fn keeps_back(me: &NodeKey, bytes: &[u8]) -> bool {
    match Frame::decode(bytes) {
        Ok(Frame::Record(bundle)) => origin(&bundle).is_some_and(|origin| origin != *me),
        Ok(Frame::Witness(signed)) => signed.witness.watcher != *me,
        Ok(Frame::Revocations(run)) => !run.statements.is_empty(),
        Ok(Frame::Heads(_) | Frame::Heard(_)) => true,
        _ => false,
    }
}

/// What an adversary says at once when it is asked whether it hears of a node: that it does.
pub fn shields(bytes: &[u8]) -> Option<Frame> {
    match Frame::decode(bytes) {
        Ok(Frame::ProbeFor(probe)) => Some(Frame::Heard(probe)),
        _ => None,
    }
}

fn origin(bundle: &Bundle) -> Option<NodeKey> {
    skein_protocol::record::header::Header::split(&bundle.record).ok().map(|p| p.header.origin)
}

/// Does it once, on every link of the adversary.
pub fn attack(world: &mut World, who: usize, attack: Attack, rng: &mut StdRng) {
    let peers = peers(world, who);
    let victim = rng.random_range(0..world.nodes.len());
    match attack {
        Attack::Forge => {
            if let Some(mut bundle) = said(world, who, victim) {
                raise(&mut bundle, 3);
                everywhere(world, who, &peers, &record(bundle));
            }
        }
        Attack::Overreach => {
            let wide = world.mesh.chain(who, "*/*");
            let Some(narrow) = world.nodes.get(who).map(|node| node.own().clone()) else { return };
            let vault = mesh::instance("vault", 10).map(|mut instance| {
                instance.service = "bank/vault".parse().unwrap_or(instance.service);
                instance
            });
            let (Ok(wide), Ok(vault)) = (wide, vault) else { return };
            let forged = forge(world, who, &wide, 1 << 30, |content| {
                content.instances.0 = vec![vault];
            });
            if let Some(mut bundle) = forged {
                bundle.chain = narrow.chain;
                everywhere(world, who, &peers, &record(bundle));
            }
        }
        Attack::Replay => {
            let old = world.checks.as_ref().and_then(|checks| checks.oldest(world, victim));
            if let Some(bundle) = old {
                everywhere(world, who, &peers, &record(Bundle::clone(&bundle)));
            }
        }
        Attack::Equivocate => equivocate(world, who, &peers),
        Attack::Poison => {
            let Some(own) = world.nodes.get(who).map(|node| node.own().clone()) else { return };
            for sequence in [u64::MAX, limits::SEQUENCE_MAX, limits::SEQUENCE_MAX - 1] {
                if let Some(bundle) = forge(world, who, &own, sequence, |_| ()) {
                    everywhere(world, who, &peers, &record(bundle));
                }
            }
        }
        Attack::Sybil => sybil(world, who, &peers, rng),
        Attack::FalseWitness => witnesses(world, who, &peers, who),
        Attack::ForgedWitness => {
            for watcher in 0..world.nodes.len() {
                witnesses(world, who, &peers, watcher);
            }
        }
        Attack::AskAll => {
            let all = (0..world.nodes.len()).map(|n| world.key(n)).collect();
            everywhere(world, who, &peers, &Frame::Pull(all));
        }
        Attack::Garbage => {
            for to in &peers {
                for _ in 0..8 {
                    let length = rng.random_range(0..400);
                    let bytes = (0..length).map(|_| rng.random()).collect();
                    world.inject_bytes(who, *to, bytes);
                }
            }
        }
        Attack::LyingHeads => {
            let heads = (0..world.nodes.len()).map(|n| {
                let hash = skein_protocol::name::Hash([rng.random(); 32]);
                (world.key(n), Head { sequence: 1 << 40, hash })
            });
            let mut heads: Vec<(NodeKey, Head)> = heads.collect();
            heads.sort_by_key(|(key, _)| *key);
            heads.dedup_by_key(|(key, _)| *key);
            let range = HeadRange { from: NodeKey([0; 32]), to: NodeKey([0xff; 32]), heads };
            everywhere(world, who, &peers, &Frame::Heads(range));
        }
        Attack::Shield => {
            for subject in 0..world.nodes.len() {
                let probe = ProbeFor { id: rng.random(), subject: world.key(subject) };
                everywhere(world, who, &peers, &Frame::Heard(probe));
            }
        }
        Attack::Invent => {
            for _ in 0..4 {
                let heads = (0..limits::HEADS_PER_FRAME).map(|_| {
                    let key = NodeKey(rng.random());
                    (key, Head { sequence: 1, hash: skein_protocol::name::Hash(key.0) })
                });
                let mut heads: Vec<(NodeKey, Head)> = heads.collect();
                heads.sort_by_key(|(key, _)| *key);
                let range = HeadRange { from: NodeKey([0; 32]), to: NodeKey([0xff; 32]), heads };
                everywhere(world, who, &peers, &Frame::Heads(range));
            }
        }
        Attack::Greed => {
            let frame = Frame::Pull(vec![world.key(victim); limits::PULLS_PER_FRAME]);
            for _ in 0..20 {
                everywhere(world, who, &peers, &frame);
            }
        }
        Attack::Flood => {
            if let Some(bundle) = said(world, who, victim) {
                let frame = record(bundle);
                for _ in 0..100 {
                    everywhere(world, who, &peers, &frame);
                }
            }
        }
    }
}

/// Whom it has a link to.
pub fn peers(world: &World, who: usize) -> Vec<usize> {
    (0..world.nodes.len()).filter(|to| world.link_between(who, *to).is_some()).collect()
}

fn record(bundle: Bundle) -> Frame {
    Frame::Record(Box::new(bundle))
}

fn everywhere(world: &mut World, who: usize, peers: &[usize], frame: &Frame) {
    for to in peers {
        world.inject(who, *to, frame);
    }
}

/// What `who` holds of `of`.
pub fn said(world: &World, who: usize, of: usize) -> Option<Bundle> {
    let engine = world.nodes.get(who)?.engine.as_ref()?;
    Some(Bundle::clone(engine.store().body(&world.key(of))?.bundle()))
}

/// Raises the sequence that stands in a record's header. The signature no longer holds.
fn raise(bundle: &mut Bundle, by: u8) {
    // Version, kind, mesh, origin; then the sequence, little-endian.
    let at = 1 + 2 + 32 + 32;
    if let Some(byte) = bundle.record.get_mut(at) {
        *byte = byte.wrapping_add(by);
    }
}

/// A record signed with the adversary's own key, shown with `own`.
pub fn forge(
    world: &World,
    who: usize,
    own: &OwnChain,
    sequence: u64,
    change: impl FnOnce(&mut NodeRecord),
) -> Option<Bundle> {
    let node = world.nodes.get(who)?;
    let engine = node.engine.as_ref()?;
    let mut content = NodeRecord::clone(engine.store().body(&node.key)?.content()?);
    change(&mut content);
    let not_after = Wall(EPOCH.0 + world.now).after(limits::RECORD_LIFE);
    let signed = Verified::sign(content, world.mesh.id, sequence, not_after, own, node.signer());
    Some(Bundle::clone(signed.ok()?.bundle()))
}

fn equivocate(world: &mut World, who: usize, peers: &[usize]) {
    let Some(own) = world.nodes.get(who).map(|node| node.own().clone()) else { return };
    let next = world.said(who) + 5;
    for (n, to) in peers.iter().enumerate() {
        let weight = if n % 2 == 0 { 1 } else { 2 };
        let forged = forge(world, who, &own, next, |content| {
            content.instances.0.iter_mut().for_each(|instance| instance.weight = weight);
        });
        if let Some(bundle) = forged {
            world.inject(who, *to, &record(bundle));
        }
    }
}

fn witnesses(world: &mut World, who: usize, peers: &[usize], as_whom: usize) {
    for subject in 0..world.nodes.len() {
        let key = world.key(subject);
        let engine = world.nodes.get(who).and_then(|node| node.engine.as_ref());
        let Some(head) = engine.and_then(|engine| engine.store().head(&key)) else { continue };
        let watcher = world.key(as_whom);
        let (mesh, sequence) = (world.mesh.id, head.sequence);
        let witness = Witness { mesh, subject: key, sequence, boot: 0, watcher };
        let Some(node) = world.nodes.get(who) else { return };
        let frame = Frame::Witness(witness.sign(node.signer()));
        everywhere(world, who, peers, &frame);
    }
}

/// Hosts that the adversary certifies itself: with a chain of its own making.
fn sybil(world: &mut World, who: usize, peers: &[usize], rng: &mut StdRng) {
    let Some(node) = world.nodes.get(who) else { return };
    let Some(engine) = node.engine.as_ref() else { return };
    let Some(body) = engine.store().body(&node.key) else { return };
    let Some(content) = body.content() else { return };
    let content = NodeRecord::clone(content);
    let own = node.own().clone();
    let mut heads = Vec::new();
    let mut frames = Vec::new();
    for _ in 0..200 {
        let number: u64 = rng.random();
        let Ok(key) = world.mesh.signatures.key(number | 1 << 63) else { continue };
        let public = NodeKey(key.public_key());
        heads.push((public, Head { sequence: 1, hash: skein_protocol::name::Hash(public.0) }));
        if frames.len() < 20
            && let Ok(leaf) = issue::bare(&*key, EPOCH, [7; 16])
        {
            let mut fake = own.clone();
            fake.chain = Chain { leaf, issuer: own.chain.issuer.clone() };
            let not_after = Wall(EPOCH.0 + world.now).after(limits::RECORD_LIFE);
            let mesh = world.mesh.id;
            let signed = Verified::sign(content.clone(), mesh, 1, not_after, &fake, &*key);
            frames.extend(signed.ok().map(|signed| record(Bundle::clone(signed.bundle()))));
        }
    }
    heads.sort_by_key(|(key, _)| *key);
    let range = HeadRange { from: NodeKey([0; 32]), to: NodeKey([0xff; 32]), heads };
    frames.push(Frame::Heads(range));
    for frame in frames {
        everywhere(world, who, peers, &frame);
    }
}
