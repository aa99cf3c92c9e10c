//! Filter: decides which parts of a peer's gossip our chitchat may see, and whose fault the rest is.
//!
//! In:    raw bytes of a peer, the directory of verified members, the tick
//! Out:   [`Passed`]: bytes that chitchat can take without harm, or [`Blame`]
//! Never: reads a clock, lets an id through that is not (short id, generation, virtual address)
//!        of a verified record, lets a peer speak about ourselves
//!
//! Two kinds of refusal. [`Blame`] is for what no honest agent ever sends, since it runs this
//! same filter before it believes and again before it sends: the whole message goes. [`Dropped`]
//! is for what an honest agent may relay unknowingly (a member that we do not know yet, a counter
//! that a liar pushed at a moment when the relay could not tell): that entry goes, and nobody is
//! blamed, unless the subject itself speaks.

use std::collections::{BTreeMap, BTreeSet};

use skein_protocol::{
    clock::Tick,
    limits,
    name::{NodeKey, ShortId},
};

use super::{
    Blame, Dropped,
    address::{Directory, Member, virtual_address},
    wire::{Entry, Id, Message, NodeDelta, Source},
};

/// Bytes that went through a [`Filter`]: all that chitchat is ever given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FilteredBytes(Vec<u8>);

impl FilteredBytes {
    /// The bytes, in chitchat 0.11.2's format, in plain blocks.
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }
}

/// What a message came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Passed {
    /// What chitchat gets.
    pub bytes: FilteredBytes,
    /// Ids whose bundle is worth asking for, at most [`limits::GOSSIP_UNKNOWN_PER_MESSAGE`].
    pub unknown: Vec<ShortId>,
    /// Entries of members that were left out, and why.
    pub dropped: Vec<(NodeKey, Dropped)>,
}

/// What we know of the counters of one id.
#[derive(Clone, Debug, Default)]
struct Seen {
    heartbeat: Option<(u64, Tick)>,
    version: Option<(u64, Tick)>,
    admitted: Tick,
}

/// What one peer may still send.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    left: u64,
    at: Tick,
}

/// The filter of one agent, with the memory that rates need. Its size is bounded by
/// [`limits::GOSSIP_IDS_MAX`] and [`limits::CONTROL_PEERS_MAX`].
#[derive(Debug)]
pub struct Filter {
    me: NodeKey,
    short: String,
    cluster: String,
    generation: u64,
    seen: BTreeMap<(NodeKey, u64), Seen>,
    budgets: BTreeMap<NodeKey, Budget>,
}

/// One message on its way through.
struct Pass<'a> {
    now: Tick,
    sender: NodeKey,
    directory: &'a Directory,
    unknown: BTreeSet<ShortId>,
    dropped: Vec<(NodeKey, Dropped)>,
}

impl Filter {
    /// A filter for the agent of this key, in this gossip cluster.
    pub fn new(me: NodeKey, cluster: impl Into<String>, generation: u64) -> Self {
        Self {
            me,
            short: me.short().as_str().to_owned(),
            cluster: cluster.into(),
            generation,
            seen: BTreeMap::new(),
            budgets: BTreeMap::new(),
        }
    }

    /// Follows our own id to a new generation.
    pub fn set_generation(&mut self, generation: u64) {
        self.generation = generation;
    }

    /// Takes one message out of `sender`'s budget. False: it has none left, drop the message.
    pub fn within_budget(&mut self, now: Tick, sender: NodeKey) -> bool {
        if self.budgets.len() >= limits::CONTROL_PEERS_MAX && !self.budgets.contains_key(&sender) {
            // A peer whose budget is full again need not be remembered.
            self.budgets.retain(|_, budget| budget.refilled(now) < limits::GOSSIP_PEER_BURST);
            if self.budgets.len() >= limits::CONTROL_PEERS_MAX {
                return false;
            }
        }
        self.budgets.entry(sender).or_insert_with(|| Budget::full(now)).take(now)
    }

    /// What of `bytes`, sent by `sender` over its own link, chitchat may see.
    pub fn inbound(
        &mut self,
        now: Tick,
        sender: NodeKey,
        bytes: &[u8],
        directory: &Directory,
    ) -> Result<Passed, Blame> {
        let message = Message::parse(bytes, Source::Peer)?;
        self.forget(now);
        let mut pass =
            Pass { now, sender, directory, unknown: BTreeSet::new(), dropped: Vec::new() };
        let message = self.pass(&mut pass, message)?;
        Ok(Passed {
            bytes: FilteredBytes(message.encode()),
            unknown: pass.unknown.into_iter().collect(),
            dropped: pass.dropped,
        })
    }

    /// What `bytes` of our own chitchat become on the wire to `to`: plain blocks, only ids that
    /// stand in the directory, and nothing about the addressee that it would have to refuse. None:
    /// it is an ACK without news, which nobody waits for.
    pub fn outbound(
        &self,
        to: &NodeKey,
        bytes: &[u8],
        directory: &Directory,
    ) -> Result<Option<Vec<u8>>, Blame> {
        let current = |id: &Id| {
            (id.short == self.short && id.generation == self.generation)
                || directory
                    .find(&id.short)
                    .is_some_and(|member| member.generation == id.generation)
        };
        let addressee = to.short();
        let news = |node: &NodeDelta| current(&node.id) && node.id.short != addressee.as_str();
        let mut message = Message::parse(bytes, Source::Own)?;
        match &mut message {
            Message::Syn { digest, .. } => digest.retain(|entry| current(&entry.id)),
            Message::SynAck { digest, delta } => {
                digest.retain(|entry| current(&entry.id));
                delta.retain(news);
            }
            Message::Ack { delta } => delta.retain(news),
            Message::BadCluster => {}
        }
        let empty = matches!(&message, Message::Ack { delta } if delta.is_empty());
        Ok((!empty).then(|| message.encode()))
    }

    fn pass(&mut self, pass: &mut Pass<'_>, message: Message) -> Result<Message, Blame> {
        match message {
            Message::Syn { digest, cluster } => {
                if cluster != self.cluster {
                    return Err(Blame::WrongCluster);
                }
                let digest = self.digest(pass, digest)?;
                Ok(Message::Syn { digest, cluster })
            }
            Message::SynAck { digest, delta } => Ok(Message::SynAck {
                digest: self.digest(pass, digest)?,
                delta: self.delta(pass, delta)?,
            }),
            Message::Ack { delta } => Ok(Message::Ack { delta: self.delta(pass, delta)? }),
            // Our agents refuse a foreign SYN in silence, so none of them sends this.
            Message::BadCluster => Err(Blame::WrongCluster),
        }
    }

    fn digest(&mut self, pass: &mut Pass<'_>, entries: Vec<Entry>) -> Result<Vec<Entry>, Blame> {
        let mut kept = Vec::new();
        for entry in entries {
            if self.keeps_entry(pass, &entry)? {
                kept.push(entry);
            }
        }
        Ok(kept)
    }

    fn keeps_entry(&mut self, pass: &mut Pass<'_>, entry: &Entry) -> Result<bool, Blame> {
        if entry.heartbeat >= limits::GOSSIP_HEARTBEAT_MAX {
            return Err(Blame::HeartbeatJump);
        }
        if entry.max_version >= limits::GOSSIP_VERSION_MAX {
            return Err(Blame::VersionJump);
        }
        if entry.id.short == self.short {
            // What the peer has of us: chitchat only reads from it what to send.
            let address = virtual_address(&self.me);
            return Ok(entry.id.generation == self.generation && entry.id.address == address);
        }
        let Some(member) = pass.member(&entry.id)? else {
            return Ok(false);
        };
        let Some(seen) = self.place(pass, member) else {
            return Ok(false);
        };
        let (rate, burst) = (limits::GOSSIP_HEARTBEAT_RATE, limits::GOSSIP_HEARTBEAT_BURST);
        if !risen(&mut seen.heartbeat, entry.heartbeat, pass.now, (rate, burst)) {
            if pass.sender == member.key {
                return Err(Blame::HeartbeatJump);
            }
            pass.dropped.push((member.key, Dropped::HeartbeatJump));
            return Ok(false);
        }
        seen.admitted = pass.now;
        Ok(true)
    }

    fn delta(
        &mut self,
        pass: &mut Pass<'_>,
        nodes: Vec<NodeDelta>,
    ) -> Result<Vec<NodeDelta>, Blame> {
        let mut told = BTreeSet::new();
        let mut kept = Vec::new();
        for mut node in nodes {
            if !told.insert(node.id.clone()) {
                return Err(Blame::Duplicate);
            }
            if self.keeps_delta(pass, &mut node)? {
                kept.push(node);
            }
        }
        Ok(kept)
    }

    fn keeps_delta(&mut self, pass: &mut Pass<'_>, node: &mut NodeDelta) -> Result<bool, Blame> {
        if node.id.short == self.short {
            return Err(Blame::AboutUs);
        }
        // A key of a newer agent: not for us, and not worth blame.
        let newest = node.keys.last().map_or(node.from_version, |last| last.version);
        node.keys.retain(|pair| KEYS.contains(&pair.key.as_str()));
        if newest >= limits::GOSSIP_VERSION_MAX {
            return Err(Blame::VersionJump);
        }
        let Some(member) = pass.member(&node.id)? else {
            return Ok(false);
        };
        let Some(last) = node.keys.last() else {
            return Ok(false);
        };
        let Some(seen) = self.place(pass, member) else {
            return Ok(false);
        };
        let (rate, burst) = (limits::GOSSIP_VERSION_RATE, limits::GOSSIP_VERSION_BURST);
        if !risen(&mut seen.version, last.version, pass.now, (rate, burst)) {
            if pass.sender == member.key {
                return Err(Blame::VersionJump);
            }
            pass.dropped.push((member.key, Dropped::VersionJump));
            return Ok(false);
        }
        seen.admitted = pass.now;
        Ok(true)
    }

    /// The memory of a member's counters, if there is room for one more id: so chitchat never
    /// holds more ids than members, each with its last two generations.
    fn place(&mut self, pass: &mut Pass<'_>, member: Member) -> Option<&mut Seen> {
        let id = (member.key, member.generation);
        if !self.seen.contains_key(&id) {
            let generations = (member.key, 0)..=(member.key, u64::MAX);
            let held = self.seen.range(generations).count();
            let reason = if held >= limits::GOSSIP_GENERATIONS {
                Some(Dropped::Restarts)
            } else if self.seen.len() >= limits::GOSSIP_IDS_MAX {
                Some(Dropped::Full)
            } else {
                None
            };
            if let Some(reason) = reason {
                pass.dropped.push((member.key, reason));
                return None;
            }
        }
        let fresh = Seen { admitted: pass.now, ..Seen::default() };
        Some(self.seen.entry(id).or_insert(fresh))
    }

    fn forget(&mut self, now: Tick) {
        self.seen.retain(|_, seen| now.since(seen.admitted) < limits::GOSSIP_SEEN_KEEP);
    }
}

/// The keys that our agents read.
pub(super) const KEYS: [&str; limits::GOSSIP_KEYS] = ["head", "policy", "state", "load"];

impl Pass<'_> {
    /// The member that `id` is, if it is one as its record says. A newer generation than the
    /// record's, and a stranger, are reported; an older one is simply over.
    fn member(&mut self, id: &Id) -> Result<Option<Member>, Blame> {
        let Some(member) = self.directory.find(&id.short) else {
            self.report(&id.short)?;
            return Ok(None);
        };
        if member.address != id.address {
            return Err(Blame::BadId);
        }
        if id.generation > member.generation {
            self.report(&id.short)?;
        }
        Ok((id.generation == member.generation).then_some(*member))
    }

    fn report(&mut self, short: &str) -> Result<(), Blame> {
        let short = short.parse::<ShortId>().map_err(|_| Blame::BadId)?;
        if self.unknown.len() < limits::GOSSIP_UNKNOWN_PER_MESSAGE {
            self.unknown.insert(short);
        }
        Ok(())
    }
}

impl Budget {
    pub(super) fn full(now: Tick) -> Self {
        Self { left: limits::GOSSIP_PEER_BURST, at: now }
    }

    fn refilled(&self, now: Tick) -> u64 {
        let since = skein_protocol::clock::millis(now.since(self.at));
        let more = since.saturating_mul(limits::GOSSIP_PEER_RATE) / 1000;
        self.left.saturating_add(more).min(limits::GOSSIP_PEER_BURST)
    }

    pub(super) fn take(&mut self, now: Tick) -> bool {
        let left = self.refilled(now);
        if left > self.left {
            self.at = now;
        }
        self.left = left.saturating_sub(1);
        left > 0
    }
}

/// Whether `value` may follow what was seen: a first one, one that is not newer, or one within
/// the burst and the rate. What is newer is remembered.
fn risen(seen: &mut Option<(u64, Tick)>, value: u64, now: Tick, (rate, burst): (u64, u64)) -> bool {
    if let Some((last, at)) = *seen {
        if value <= last {
            return true;
        }
        let earned = now.since(at).as_secs().saturating_mul(rate);
        if value - last > burst.saturating_add(earned) {
            return false;
        }
    }
    *seen = Some((value, now));
    true
}
