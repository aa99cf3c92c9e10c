//! Policy documents: spread like records, written before they open anything, judged with every key
//! that ends.

use std::sync::Arc;

use super::{Blame, Engine, Event, LinkId, Output, Subject, Write};
use crate::{
    clock::Now,
    limits,
    name::{Hash, NodeKey},
    planted::{Planted, planted},
    policy::{Documents, PolicyBundle, SignedVersion, Taken, VerifiedVersion, VersionError},
    store::Head,
    wire::frame::{Frame, PolicyRange},
};

/// Bytes of documents that one exchange pushes; the rest follows by the next.
const PUSH_BYTES: usize = 1024 * 1024;

impl Engine {
    /// A version of a document, from a peer or from this host. Cheap checks first; then a job.
    pub(super) fn policy_came(
        &mut self,
        now: Now,
        source: Option<LinkId>,
        bundle: Arc<PolicyBundle>,
    ) {
        let signed = match SignedVersion::parse(bundle, self.mesh) {
            Ok(signed) => signed,
            Err(error) => return self.policy_refused(now, source, &error),
        };
        let header = *signed.header();
        let head = Head { sequence: header.sequence, hash: signed.version() };
        // What is known or above the budget costs no blame: the next exchange mends it.
        if self.policy.documents.holds(&signed.version())
            || self.ruling.contains_key(&signed.version())
            || self.ruling.len() >= limits::PERSIST_WAITING
            || self.under_way(&header.origin, head)
            || !self.has_room(source)
        {
            return;
        }
        let subject = Subject::Policy(Box::new(signed));
        self.verify(now, source, Some((header.origin, head)), subject);
    }

    pub(super) fn policy_checked(
        &mut self,
        now: Now,
        source: Option<LinkId>,
        found: Result<VerifiedVersion, VersionError>,
    ) {
        let version = match found {
            Ok(version) if version.stands(&self.revocations) => version,
            // A peer that has not heard yet is not to blame.
            Ok(version) => {
                let why = VersionError::Revoked(version.operator().name.clone());
                return match source {
                    Some(_) => {}
                    None => self.policy_refused(now, None, &why),
                };
            }
            Err(error) => return self.policy_refused(now, source, &error),
        };
        if planted(Planted::RuleUnwritten) {
            return self.rule(now, Arc::new(version), source);
        }
        // Looked at again when it is on disk: others may have come by then.
        if self.policy.documents.wants(&version)
            && let Ok(bytes) = version.bundle().encode()
        {
            self.await_ruling(Arc::new(version), bytes, source);
        }
    }

    fn policy_refused(&mut self, now: Now, source: Option<LinkId>, error: &VersionError) {
        match source.and_then(|link| self.links.peer(link)) {
            Some(peer) => self.blame(now, peer, Blame::BadPolicy(error.to_string())),
            None => self.event(Event::PolicyRefused(error.to_string())),
        }
    }

    /// The version is on disk: now it counts.
    pub(super) fn rule(&mut self, now: Now, version: Arc<VerifiedVersion>, source: Option<LinkId>) {
        if !version.stands(&self.revocations) {
            self.persist(vec![Write::ForgetPolicy(version.version())]);
            return self.waits_no_longer(now);
        }
        let mut documents = self.policy.documents.clone();
        match documents.insert(Arc::clone(&version)) {
            Taken::New { gone } => {
                let name = version.key().to_string();
                self.event(Event::Policy(name, version.operator().name.clone()));
                self.ruled(now, documents, gone);
                let bundle = PolicyBundle::clone(version.bundle());
                self.flood(&Frame::Policy(Box::new(bundle)), source);
            }
            Taken::Known => {}
            Taken::Superseded => {
                self.persist(vec![Write::ForgetPolicy(version.version())]);
                self.waits_no_longer(now);
            }
            Taken::Full => {
                self.persist(vec![Write::ForgetPolicy(version.version())]);
                let why = format!("more than {} documents are held", limits::POLICY_DOCUMENTS);
                self.event(Event::PolicyRefused(why));
                self.waits_no_longer(now);
            }
        }
    }

    fn ruled(&mut self, now: Now, documents: Documents, gone: Vec<Hash>) {
        if !gone.is_empty() {
            self.persist(gone.into_iter().map(Write::ForgetPolicy).collect());
        }
        self.policy = Arc::new(self.policy_with(documents));
        if !planted(Planted::RuleUnshown) {
            self.outbox.push_back(Output::Policy(Arc::clone(&self.policy)));
        }
        self.look_at_probation(now);
        // Not even for a moment more does the old one decide.
        self.show_view(now);
    }

    /// Keys have ended: what their operators signed is judged again.
    pub(super) fn judge_policy(&mut self, now: Now) {
        let mut documents = self.policy.documents.clone();
        let revocations = Arc::clone(&self.revocations);
        let gone = documents.end(|version| !version.stands(&revocations));
        if !gone.is_empty() {
            return self.ruled(now, documents, gone);
        }
        self.waits_no_longer(now);
    }

    /// Tells a peer all versions that are held, in ranges that together hold every one.
    pub(super) fn tell_policy(&mut self, link: LinkId) {
        let mut from = Hash([0; 32]);
        loop {
            let versions = self.policy.documents.versions_from(from, limits::POLICIES_PER_FRAME);
            let whole = versions.len() < limits::POLICIES_PER_FRAME;
            let last = versions.last().copied().filter(|_| !whole);
            let to = last.unwrap_or(Hash([0xff; 32]));
            self.send(link, &Frame::Policies(PolicyRange { from, to, versions }));
            match super::exchange::next_key(NodeKey(to.0)).filter(|_| !whole) {
                Some(next) => from = Hash(next.0),
                None => return,
            }
        }
    }

    /// A peer told what it holds within a range: it is sent what it lacks. It does the same.
    pub(super) fn policies_came(&mut self, now: Now, link: LinkId, range: &PolicyRange) {
        let lacks = |version: &&Arc<VerifiedVersion>| {
            range.versions.binary_search(&version.version()).is_err()
        };
        let mut bytes = 0usize;
        let mut frames = Vec::new();
        let policy = Arc::clone(&self.policy);
        for version in policy.documents.between(range.from, range.to).filter(lacks) {
            let length = version.bundle().record.len();
            bytes = bytes.saturating_add(length);
            if bytes > PUSH_BYTES || !self.may_answer(now, link, length) {
                break;
            }
            frames.push(Frame::Policy(Box::new(PolicyBundle::clone(version.bundle()))));
        }
        for frame in frames {
            self.send(link, &frame);
        }
    }

    /// A peer said which policy it holds.
    pub(super) fn compare_policy(&mut self, now: Now, link: LinkId, theirs: Hash) {
        let ours = self.policy.documents.root();
        let Some(exchange) = self.links.exchange(link) else { return };
        if ours == theirs {
            exchange.policy = None;
            return;
        }
        let at = exchange.policy.get_or_insert(now.tick);
        if now.tick.since(*at) >= limits::ROOT_PATIENCE {
            *at = now.tick.after(limits::EXCHANGE_TIMEOUT);
            self.tell_policy(link);
        }
    }
}
