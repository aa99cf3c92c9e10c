//! Liveness: who lives. A node is watched by its neighbours; two of them must agree that it does
//! not answer; any newer record of it, and any contact, refutes.
//!
//! Lifeguard (DSN 2018): an agent that is late itself accuses nobody.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use rand::RngExt;

use super::{Engine, Event, LinkId, Subject, Write, own::Pace};
use crate::{
    clock::{Now, Tick},
    limits,
    membership::{SignedWitness, Witness},
    name::NodeKey,
    planted::{Planted, planted},
    record::node::NodeState,
    view::Liveness,
    wire::frame::{Brief, Frame, ProbeFor, Stand},
};

/// What is known of a node's life.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) liveness: Liveness,
    /// When we last had word of the node itself.
    pub(super) heard: Tick,
    /// When the last probe of this silence was sent, and how many were.
    probed: Option<Tick>,
    probes: u32,
    /// Our own probes failed: the question that others were asked.
    asking: Option<Asking>,
    /// How often it refuted this agent's word since this agent heard it, and until when it is not
    /// doubted again.
    refuted: (u32, Tick),
    /// Who says that it does not answer, for its present sequence.
    witnesses: BTreeMap<NodeKey, SignedWitness>,
    /// Since when it is what it is.
    since: Tick,
    sequence: u64,
    boot: u64,
    /// Its records that may be taken at once.
    pub(super) pace: Pace,
    /// How often it started, and when last.
    starts: (u32, Tick),
}

/// A question to others whether they hear of a node. An answer counts only for it.
#[derive(Debug)]
struct Asking {
    id: u64,
    until: Tick,
    /// Who was asked and has not answered.
    open: BTreeSet<LinkId>,
}

impl Member {
    /// Whether it started so often of late that it may be gone again in a moment.
    pub(super) fn is_restarting(&self, now: Tick) -> bool {
        let (starts, last) = self.starts;
        starts >= limits::RESTARTS_MAX && now.since(last) < limits::RESTARTS_WITHIN
    }

    /// It lives, and this agent does not hear it: the next doubt waits, each time twice as long,
    /// or a host that few reach would keep the mesh busy with deaths and refutations.
    fn was_refuted(&mut self, now: Tick) {
        let times = self.refuted.0.saturating_add(1).min(DOUBT_DOUBLINGS);
        let pause = limits::PROBE_EVERY.saturating_mul(1 << times);
        self.refuted = (times, now.after(pause));
    }

    fn started(&mut self, now: Tick, boot: u64) {
        if boot > self.boot {
            let (starts, last) = self.starts;
            let again = now.since(last) < limits::RESTARTS_WITHIN;
            self.starts = (if again { starts.saturating_add(1) } else { 1 }, now);
        }
        self.boot = boot;
    }
}

/// Who asked us to probe a node.
#[derive(Debug)]
pub(super) struct Asked {
    link: LinkId,
    probe: ProbeFor,
    until: Tick,
}

/// Members are looked at for what is over, all of them, this often.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// After so many refutations in a row a doubt waits no longer than it does then: 16 s.
const DOUBT_DOUBLINGS: u32 = 4;
/// A single witness whom no second one joins is forgotten after this.
const LONE_WITNESS: Duration = Duration::from_secs(5);

impl Engine {
    /// A newer record of a node is believed: one that came, or one that stood on this disk.
    pub(super) fn member_spoke(
        &mut self,
        now: Now,
        node: NodeKey,
        sequence: u64,
        remembered: bool,
    ) {
        let Some(host) = self.body(&node).map(|record| record.host.clone()) else {
            // Of a newer agent, not read: who was known stays watched, by the newest sequence.
            if let Some(member) = self.members.get_mut(&node) {
                member.sequence = sequence;
                member.witnesses.retain(|_, witness| witness.witness.sequence >= sequence);
            }
            return;
        };
        let fresh = !self.members.contains_key(&node);
        let member = self.members.entry(node).or_insert_with(|| Member {
            liveness: Liveness::Alive,
            heard: now.tick,
            probed: None,
            probes: 0,
            asking: None,
            refuted: (0, Tick(0)),
            witnesses: BTreeMap::new(),
            since: now.tick,
            sequence,
            boot: host.boot,
            pace: Pace::default(),
            starts: (0, now.tick),
        });
        if sequence > member.sequence && member.witnesses.contains_key(&self.me) {
            member.was_refuted(now.tick);
        }
        member.sequence = sequence;
        member.started(now.tick, host.boot);
        member.witnesses.retain(|_, witness| witness.witness.sequence >= sequence);
        let before = member.liveness;
        if host.state == NodeState::Left {
            self.set_liveness(now, node, Liveness::Left);
            if remembered && self.known.insert(node) {
                // It may have come back while this agent was out, and know this one for left too:
                // of a mesh that was stopped in order each finds the others by this alone.
                self.rings_changed(now, node);
            }
            return;
        }
        if before != Liveness::Alive {
            // It signed something new: it lives, or lived a moment ago. Watch it afresh.
            member.heard = member.heard.max(now.tick);
            member.probes = 0;
            member.probed = None;
            member.asking = None;
        }
        if fresh {
            self.event(Event::Joined(node));
            self.live.insert(node);
            self.known.insert(node);
            self.rings_changed(now, node);
        } else {
            self.set_liveness(now, node, Liveness::Alive);
        }
    }

    /// Somebody who was asked says that it hears of a node. It is only said, so it moves nothing:
    /// of the doubts about that node this round's is not signed. The next round asks others.
    pub(super) fn heard_by(&mut self, link: LinkId, probe: ProbeFor) {
        let Some(member) = self.members.get_mut(&probe.subject) else { return };
        let Some(asking) = member.asking.as_ref().filter(|asking| asking.id == probe.id) else {
            return;
        };
        if asking.open.contains(&link) {
            member.asking = None;
        }
    }

    /// Word of a node itself.
    pub(super) fn contact(&mut self, now: Now, node: NodeKey) {
        let Some(member) = self.members.get_mut(&node) else {
            return;
        };
        member.heard = now.tick;
        member.probed = None;
        member.probes = 0;
        member.asking = None;
        member.refuted = (0, Tick(0));
        // The word of others stays until a newer record of it makes it void: whoever comes to
        // speak to it tells it, and it signs again.
        member.witnesses.remove(&self.me);
        if matches!(member.liveness, Liveness::Suspect | Liveness::Dead) {
            let doubts: Vec<SignedWitness> = member.witnesses.values().copied().collect();
            if let Some(link) = self.links.of(&node) {
                for witness in doubts.into_iter().take(2) {
                    self.send(link, &Frame::Witness(witness));
                }
            }
            self.set_liveness(now, node, Liveness::Alive);
        }
        self.answer_askers(now, node);
    }

    fn answer_askers(&mut self, now: Now, node: NodeKey) {
        let mut answers = Vec::new();
        self.spread.asked.retain(|asked| {
            let meant = asked.probe.subject == node;
            if meant && asked.until >= now.tick {
                answers.push((asked.link, asked.probe));
            }
            !meant && asked.until >= now.tick
        });
        for (link, probe) in answers {
            self.send(link, &Frame::Heard(probe));
        }
    }

    fn set_liveness(&mut self, now: Now, node: NodeKey, liveness: Liveness) {
        let Some(member) = self.members.get_mut(&node) else {
            return;
        };
        if member.liveness == liveness {
            return;
        }
        member.liveness = liveness;
        member.since = now.tick;
        let (lives, known, event) = match liveness {
            Liveness::Alive => (true, true, Event::Alive(node)),
            Liveness::Suspect => (true, true, Event::Suspect(node)),
            Liveness::Dead => (false, true, Event::Dead(node)),
            Liveness::Left => (false, false, Event::Left(node)),
        };
        let moved = if lives { self.live.insert(node) } else { self.live.remove(&node) };
        let known = if known { self.known.insert(node) } else { self.known.remove(&node) };
        if liveness == Liveness::Dead {
            self.deaths.push_back((now.tick, node));
        } else {
            self.deaths.retain(|(_, dead)| *dead != node);
        }
        self.event(event);
        self.touched(now, node);
        if moved || known {
            self.rings_changed(now, node);
        }
    }

    /// A member has moved into the rings or out of them.
    pub(super) fn rings_changed(&mut self, now: Now, moved: NodeKey) {
        let watched = self.live.neighbours(&self.me);
        for node in watched.difference(&self.watched) {
            // Who was not watched until now gets the time of a dial before it is doubted.
            if let Some(member) = self.members.get_mut(node) {
                member.heard = member.heard.max(now.tick);
            }
        }
        self.watched = watched;
        self.wanted = self.known.neighbours(&self.me);
        self.wanted.extend(self.watched.iter().copied());
        // Whose watchers are others now: at once those beside it, the rest with the next tick.
        let beside = self.live.neighbours(&moved);
        self.to_weigh.extend(beside.intersection(&self.accused));
        self.weigh_all = true;
    }

    /// Weighs again those whose watchers have changed. Here and not where they did: of many that
    /// die together each death changes the watchers of the next.
    pub(super) fn weigh_due(&mut self, now: Now) {
        while let Some(node) = self.to_weigh.pop_first() {
            self.weigh(now, node);
        }
    }

    /// Weighs everybody again who is accused, after any watcher has changed.
    fn weigh_accused(&mut self) {
        if !std::mem::take(&mut self.weigh_all) {
            return;
        }
        let members = &self.members;
        let accused = |node: &NodeKey| members.get(node).is_some_and(|m| !m.witnesses.is_empty());
        self.accused.retain(accused);
        self.to_weigh.extend(&self.accused);
    }

    /// This agent was not run for a while: what it did not hear proves nothing.
    pub(super) fn was_late(&mut self, now: Now, late: Duration) {
        self.quiet_until = now.tick.after(limits::LATE_QUARANTINE);
        for node in &self.wanted {
            if let Some(member) = self.members.get_mut(node) {
                member.heard = now.tick;
                member.probes = 0;
                member.probed = None;
                member.asking = None;
            }
        }
        self.event(Event::Late(late));
    }

    /// Looks at each node that is ours to watch, the dead in our reach among them.
    pub(super) fn watch(&mut self, now: Now) {
        let watched: Vec<NodeKey> = self.wanted.iter().copied().collect();
        for node in watched {
            self.watch_one(now, node);
        }
        self.weigh_accused();
        self.forget_lone_witnesses(now);
    }

    fn watch_one(&mut self, now: Now, node: NodeKey) {
        let link = self.links.of(&node);
        let patience = self.links.patience(link);
        let Some(member) = self.members.get_mut(&node) else {
            return;
        };
        if member.liveness == Liveness::Left {
            // It is dialled, not missed.
            return;
        }
        let quiet = now.tick.since(member.heard);
        if quiet < limits::PROBE_EVERY {
            return;
        }
        let retry = member.probed.is_none_or(|at| now.tick.since(at) >= patience);
        if retry {
            let failed = member.probes >= limits::PROBES_MISSED;
            member.probes = member.probes.saturating_add(1);
            member.probed = Some(now.tick);
            if let Some(link) = link {
                self.probe(now, link);
            }
            if failed {
                self.not_answering(now, node);
            }
        }
        self.accuse_if_due(now, node);
    }

    pub(super) fn probe(&mut self, now: Now, link: LinkId) {
        let id = self.rng.random();
        if let Some(trips) = self.links.trips(link) {
            trips.sent(now.tick, id);
        }
        let brief = self.stand().brief(id);
        self.send(link, &Frame::Probe(brief));
    }

    pub(super) fn stand(&mut self) -> Stand {
        let policy = self.policy.documents.root();
        let revocations = self.ended_root();
        let probation = self.on_probation();
        Stand { records: self.store.root(), revocations, policy, probation }
    }

    pub(super) fn probed(&mut self, now: Now, link: LinkId, theirs: Brief) {
        let ours = self.stand();
        let brief = ours.brief(theirs.id);
        self.send(link, &Frame::Answer(brief));
        self.compare_brief(now, link, ours, brief == theirs);
    }

    pub(super) fn answered(&mut self, now: Now, link: LinkId, theirs: Brief) {
        if let Some(trips) = self.links.trips(link) {
            trips.answered(now.tick, theirs.id);
        }
        let ours = self.stand();
        self.compare_brief(now, link, ours, ours.brief(theirs.id) == theirs);
    }

    /// A peer said in brief where it stands. One that stands elsewhere is told where we do.
    fn compare_brief(&mut self, now: Now, link: LinkId, ours: Stand, equal: bool) {
        if equal {
            self.compare_stand(now, link, ours);
        } else {
            self.send(link, &Frame::Stand(ours));
        }
    }

    /// Our own probes of a node failed: suspect it, and ask others.
    fn not_answering(&mut self, now: Now, node: NodeKey) {
        let quiet = now.tick < self.quiet_until;
        let patience = self.links.patience(self.links.of(&node)).max(limits::INDIRECT_TIMEOUT);
        let Some(member) = self.members.get_mut(&node) else {
            return;
        };
        let quiet = quiet || now.tick < member.refuted.1;
        if quiet || member.asking.is_some() || member.witnesses.contains_key(&self.me) {
            return;
        }
        if member.liveness == Liveness::Alive {
            self.set_liveness(now, node, Liveness::Suspect);
        }
        // Others each time: one that lies about a node is asked now and then, not whenever.
        let mut helpers: Vec<LinkId> =
            self.links.ready().filter(|(_, peer)| *peer != node).map(|(link, _)| link).collect();
        let mut open = BTreeSet::new();
        while open.len() < limits::INDIRECT_PROBES && !helpers.is_empty() {
            open.insert(helpers.swap_remove(self.rng.random_range(0..helpers.len())));
        }
        let id = self.rng.random();
        let frame = Frame::ProbeFor(ProbeFor { id, subject: node });
        for link in &open {
            self.send(*link, &frame);
        }
        let until = now.tick.after(patience);
        if let Some(member) = self.members.get_mut(&node) {
            member.asking = Some(Asking { id, until, open });
        }
    }

    pub(super) fn asked_to_probe(&mut self, now: Now, link: LinkId, probe: ProbeFor) {
        let Some(member) = self.members.get(&probe.subject) else {
            return;
        };
        if now.tick.since(member.heard) < limits::PROBE_EVERY / 2 {
            self.send(link, &Frame::Heard(probe));
            return;
        }
        let of_link = self.spread.asked.iter().filter(|asked| asked.link == link).count();
        if self.spread.asked.len() >= limits::PROBES_ASKED
            || of_link >= limits::PROBES_ASKED.saturating_sub(self.spread.asked.len())
        {
            return;
        }
        self.spread.asked.push(Asked { link, probe, until: now.tick.after(limits::DIAL_TIMEOUT) });
        match self.links.of(&probe.subject) {
            Some(direct) => self.probe(now, direct),
            None => self.dial_if_due(now, probe.subject),
        }
    }

    fn accuse_if_due(&mut self, now: Now, node: NodeKey) {
        let Some(member) = self.members.get_mut(&node) else {
            return;
        };
        if member.asking.as_ref().is_none_or(|asking| now.tick < asking.until) {
            return;
        }
        member.asking = None;
        let witness = Witness {
            mesh: self.mesh,
            subject: node,
            sequence: member.sequence,
            boot: member.boot,
            watcher: self.me,
        };
        let signed = witness.sign(&*self.signer);
        member.witnesses.insert(self.me, signed);
        self.accused.insert(node);
        self.flood(&Frame::Witness(signed), None);
        self.weigh(now, node);
    }

    pub(super) fn witness_came(&mut self, now: Now, link: LinkId, signed: SignedWitness) {
        let witness = signed.witness;
        let known = self.members.contains_key(&witness.watcher);
        let about_me = witness.subject == self.me && self.own.published == Some(witness.sequence);
        let about_other = self.members.get(&witness.subject).is_some_and(|member| {
            let settled = member.liveness == Liveness::Dead
                && member.witnesses.len() >= limits::WITNESSES_ENOUGH;
            member.sequence == witness.sequence
                && !settled
                && !member.witnesses.contains_key(&witness.watcher)
        });
        let worth = witness.mesh == self.mesh && known && (about_me || about_other);
        if worth && self.may_verify(link) {
            self.verify(now, Some(link), None, Subject::Witness(signed));
        }
    }

    pub(super) fn heard_witness(
        &mut self,
        now: Now,
        source: Option<LinkId>,
        signed: SignedWitness,
    ) {
        let witness = signed.witness;
        if witness.subject == self.me {
            if self.own.published == Some(witness.sequence) {
                self.doubted_by(now, witness.watcher);
            }
            return;
        }
        let Some(member) = self.members.get_mut(&witness.subject) else {
            return;
        };
        let known = member.witnesses.contains_key(&witness.watcher);
        let full = member.witnesses.len() >= limits::WITNESSES_PER_SUBJECT;
        if member.sequence != witness.sequence || known || full {
            return;
        }
        member.witnesses.insert(witness.watcher, signed);
        self.accused.insert(witness.subject);
        self.flood(&Frame::Witness(signed), source);
        self.weigh(now, witness.subject);
    }

    /// Of how many watchers it takes to hold a node for dead.
    pub(super) fn words_that_count(&self, node: &NodeKey) -> usize {
        let lives = |watcher: &NodeKey| {
            *watcher == self.me
                || self.members.get(watcher).is_some_and(|m| m.liveness == Liveness::Alive)
        };
        let watchers = self.live.neighbours(node).into_iter().filter(lives).count();
        if watchers < 2 { 1 } else { 2 }
    }

    /// Decides from the witnesses that count.
    fn weigh(&mut self, now: Now, node: NodeKey) {
        let Some(member) = self.members.get(&node) else {
            return;
        };
        if member.liveness == Liveness::Left {
            return;
        }
        let near = self.live.neighbours(&node);
        let counted = member
            .witnesses
            .keys()
            .filter(|watcher| near.contains(watcher) || **watcher == self.me)
            .count();
        let enough = if planted(Planted::OneWitness) { 1 } else { self.words_that_count(&node) };
        let link = self.links.of(&node);
        let silence = limits::PROBE_EVERY.saturating_add(self.links.patience(link));
        let talks = link.is_some() && now.tick.since(member.heard) < silence;
        if counted >= enough && !talks {
            self.set_liveness(now, node, Liveness::Dead);
        } else if counted >= 1 && !talks && member.liveness == Liveness::Alive {
            self.set_liveness(now, node, Liveness::Suspect);
        }
    }

    fn forget_lone_witnesses(&mut self, now: Now) {
        if now.tick.since(self.swept) < SWEEP_EVERY || planted(Planted::SuspectForever) {
            return;
        }
        let lone: Vec<NodeKey> = self
            .members
            .iter()
            .filter(|(node, member)| {
                member.liveness == Liveness::Suspect
                    && !self.watched.contains(node)
                    && now.tick.since(member.since) > LONE_WITNESS
            })
            .map(|(node, _)| *node)
            .collect();
        for node in lone {
            if let Some(member) = self.members.get_mut(&node) {
                member.witnesses.clear();
            }
            self.set_liveness(now, node, Liveness::Alive);
        }
    }

    /// Whom gossip holds for live: peers that live and that it lacks are probed at once. Nobody is
    /// dialled for it. Whose word on a host counts dials it anyway; a dial by everybody else would
    /// change nothing, and be a storm at each host that gossip does not know yet.
    pub(super) fn gossip_holds_live(&mut self, now: Now, live: &BTreeSet<NodeKey>) {
        let alive =
            |peer: &NodeKey| self.members.get(peer).is_some_and(|m| m.liveness == Liveness::Alive);
        let lacks = self.links.ready().filter(|(_, peer)| !live.contains(peer) && alive(peer));
        for (link, _) in lacks.collect::<Vec<_>>() {
            self.probe(now, link);
        }
    }

    /// Tells a peer, on a new link, whom this agent holds for suspect or dead, and on whose word.
    pub(super) fn tell_doubts(&mut self, link: LinkId) {
        let doubts: Vec<SignedWitness> = self
            .accused
            .iter()
            .filter_map(|node| self.members.get(node))
            .flat_map(|member| member.witnesses.values().copied())
            .take(limits::HEADS_PER_FRAME)
            .collect();
        for witness in doubts {
            self.send(link, &Frame::Witness(witness));
        }
    }

    /// Forgets who has been dead for long. The floor stays.
    pub(super) fn forget(&mut self, now: Now) {
        if now.tick.since(self.swept) < SWEEP_EVERY {
            return;
        }
        self.swept = now.tick;
        // Who was still heard when the witnesses came is judged again once it is not.
        self.weigh_all = true;
        self.look_at_all(now);
        let gone: Vec<NodeKey> = self
            .members
            .iter()
            .filter(|(_, member)| {
                matches!(member.liveness, Liveness::Dead | Liveness::Left)
                    && now.tick.since(member.since) > limits::DEAD_KEEP
            })
            .map(|(node, _)| *node)
            .collect();
        for node in gone {
            self.members.remove(&node);
            self.known.remove(&node);
            self.store.drop_body(&node);
            self.persist(vec![Write::Forget(node)]);
            self.rings_changed(now, node);
            self.touched(now, node);
        }
        while self.deaths.front().is_some_and(|(at, _)| now.tick.since(*at) > limits::MASS_KEEP) {
            self.deaths.pop_front();
            self.changed(now);
        }
    }

    /// The nodes that vanished together with so many others that this agent may itself be the
    /// one that is cut off: their endpoints stay as last choice.
    pub(super) fn lost_together(&self, now: Now) -> bool {
        let recent = |at: &Tick| now.tick.since(*at) <= limits::MASS_KEEP;
        let lost = self.deaths.iter().filter(|(at, _)| recent(at)).count();
        let before = self.live.len().saturating_add(lost);
        lost >= limits::MASS_NODES
            && lost.saturating_mul(100) > before.saturating_mul(limits::MASS_PERCENT)
    }
}
