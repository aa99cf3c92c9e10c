//! Keys that have ended: heard first on every link, written before they are acted on by a disk that
//! can be written.

use std::sync::Arc;

use super::{Blame, Engine, Event, LinkId, Output, Subject};
use crate::{
    clock::Now,
    limits,
    name::{Hash, NodeKey},
    planted::{Planted, planted},
    record::Verified,
    trust::{
        ChainError, CloseCode, Revocations, RootChain, Roots, VerifiedChain,
        revocation::{self, RevocationError, Statement, VerifiedStatement},
    },
    wire::frame::{Frame, RevocationRun, Stand},
};

impl Engine {
    /// What both ends of a link must agree on before they believe each other's records: the keys
    /// that have ended, and the roots that followed on the first.
    pub(super) fn ended_root(&self) -> Hash {
        let root = self.revocations.root();
        if self.chain.next.is_empty() {
            return root;
        }
        let keys: Vec<&[u8]> = self.roots.order.iter().map(<[u8; 32]>::as_slice).collect();
        Hash::of(&[b"skein/ended/v1\0", &root.0, &keys.concat()])
    }

    /// A peer tells the roots that it knows.
    pub(super) fn roots_came(&mut self, now: Now, link: LinkId, chain: RootChain) {
        if chain.extends(&self.chain) && self.has_room(Some(link)) {
            self.verify(now, Some(link), None, Subject::Roots(Box::new(chain)));
        }
    }

    pub(super) fn roots_checked(
        &mut self,
        now: Now,
        source: Option<LinkId>,
        chain: RootChain,
        found: Result<Roots, ChainError>,
    ) {
        match found {
            Ok(roots) if roots.mesh == self.mesh => {
                // Written first: who forgot a root over a crash could meet nobody that uses it.
                self.outbox.push_back(Output::Roots(Arc::new(chain)));
            }
            Ok(_) | Err(_) => {
                if let Some(peer) = source.and_then(|link| self.links.peer(link)) {
                    let why = "roots that do not follow on those of this mesh".to_owned();
                    self.blame(now, peer, Blame::BadRevocation(why));
                }
            }
        }
    }

    /// Further roots are on disk: now they are trusted, and told on.
    pub(super) fn trust_roots(&mut self, now: Now, chain: RootChain, roots: Arc<Roots>) {
        if roots.mesh != self.mesh || !chain.extends(&self.chain) {
            return;
        }
        self.chain = chain;
        self.roots = roots;
        let frame = Frame::Roots(Box::new(self.chain.clone()));
        self.flood(&frame, None);
        self.show_view(now);
    }

    /// Tells a peer all statements that are held, and the roots.
    pub(super) fn tell_revocations(&mut self, link: LinkId) {
        if !self.chain.next.is_empty() {
            let frame = Frame::Roots(Box::new(self.chain.clone()));
            self.send(link, &frame);
        }
        let all: Vec<Statement> = self.revocations.iter().map(|(_, s)| s.clone()).collect();
        let count = all.len().div_ceil(limits::HELLO_REVOCATIONS);
        for (number, chunk) in all.chunks(limits::HELLO_REVOCATIONS).enumerate() {
            let whole = number.saturating_add(1) == count;
            let run = RevocationRun { statements: chunk.to_vec(), whole };
            self.send(link, &Frame::Revocations(run));
        }
        if count == 0 {
            let run = RevocationRun { statements: Vec::new(), whole: true };
            self.send(link, &Frame::Revocations(run));
        }
    }

    pub(super) fn revocations_came(
        &mut self,
        now: Now,
        link: LinkId,
        peer: NodeKey,
        run: RevocationRun,
    ) {
        let new: Vec<Statement> = run
            .statements
            .into_iter()
            .filter(|statement| !self.revocations.contains(&statement.id()))
            .collect();
        if let Some(Some(awaits)) = self.links.awaits(link) {
            awaits.whole |= run.whole;
            awaits.open = awaits.open.saturating_add(new.len());
        }
        for statement in new {
            self.verify_statement(now, Some(link), statement);
        }
        self.agreed_if_done(now, link, peer);
    }

    pub(super) fn verify_statement(
        &mut self,
        now: Now,
        source: Option<LinkId>,
        statement: Statement,
    ) {
        // None may be put off, so they have no budget of a link: what there is no room for is not
        // verified at all, and what a peer tells beyond that comes with the next exchange.
        let Some((signer, operator)) = statement.claimed_signer() else {
            return self.reconciled_one(now, source);
        };
        let most = limits::VERIFY_IN_FLIGHT.saturating_add(limits::REVOCATIONS_MAX);
        if let Err(error) = self.revocations.room(&signer, operator, 0) {
            if source.is_none() {
                self.event(Event::RevocationRefused(error.to_string()));
            }
            return self.reconciled_one(now, source);
        }
        if self.spread.jobs() >= most {
            return self.reconciled_one(now, source);
        }
        self.verify(now, source, None, Subject::Revocation(Box::new(statement)));
    }

    pub(super) fn statement_checked(
        &mut self,
        now: Now,
        source: Option<LinkId>,
        found: Result<VerifiedStatement, RevocationError>,
    ) {
        let statement = match found {
            Ok(statement) => statement,
            Err(error) => {
                let peer = source.and_then(|link| self.links.peer(link));
                match peer {
                    Some(peer) => self.blame(now, peer, Blame::BadRevocation(error.to_string())),
                    None => self.event(Event::RevocationRefused(error.to_string())),
                }
                return self.reconciled_one(now, source);
            }
        };
        let id = statement.statement().id();
        let Ok(bytes) = statement.statement().encode() else {
            return self.reconciled_one(now, source);
        };
        if self.revocations.contains(&id) {
            return self.reconciled_one(now, source);
        }
        // Before it is written: what is refused leaves nothing on disk.
        if let Err(error) = self.room_for(&statement) {
            self.event(Event::RevocationRefused(error.to_string()));
            return self.reconciled_one(now, source);
        }
        if planted(Planted::RevokeUnwritten) {
            return self.end_key(now, statement, source);
        }
        self.await_ending(id, bytes, (statement, source));
    }

    fn room_for(&self, statement: &VerifiedStatement) -> Result<(), RevocationError> {
        let (signer, operator) = statement.signer();
        let waits = self.ending.values().filter(|(one, _)| one.signer() == (signer, operator));
        self.revocations.room(&signer, operator, waits.count())
    }

    /// The statement is on disk, or the disk cannot be written: now it counts.
    pub(super) fn end_key(
        &mut self,
        now: Now,
        statement: VerifiedStatement,
        source: Option<LinkId>,
    ) {
        let told = statement.statement().clone();
        let mut revocations = Revocations::clone(&self.revocations);
        match revocations.insert(statement, &self.roots) {
            Ok(true) => {
                self.revocations = Arc::new(revocations);
                self.outbox.push_back(Output::Revoked(Arc::clone(&self.revocations)));
                let run = RevocationRun { statements: vec![told.clone()], whole: false };
                self.flood(&Frame::Revocations(run), source);
                self.judge_again(now, &told);
            }
            Ok(false) => {}
            Err(error) => self.event(Event::RevocationRefused(error.to_string())),
        }
        self.reconciled_one(now, source);
    }

    /// A statement counts: whom it may have ended is judged anew. The key of a node that nobody
    /// here knows ends nothing here, so ten thousand of them cost little.
    fn judge_again(&mut self, now: Now, told: &Statement) {
        if let Statement::Revocation(revocation, _) = told
            && revocation.subject == revocation::Subject::Node
        {
            let node = NodeKey(revocation.key);
            if self.revocations.names(&node) {
                self.event(Event::Revoked(node, revocation.reason.clone()));
            }
            let linked = self.links.whose(|chain| chain.key == node);
            if self.store.head(&node).is_none() && linked.is_empty() {
                return;
            }
        }
        self.cut_revoked(now);
        self.judge_policy(now);
        // Not even for a moment more is anything routed to it.
        self.picture.touch_all();
        self.show_view(now);
    }

    fn cut_revoked(&mut self, now: Now) {
        // An issuer's end may end many nodes: judge everybody again.
        let judge = Arc::clone(&self.revocations);
        self.store.end(|record| judge.judge(record.chain(), true).is_err());
        let ended: Vec<NodeKey> = self
            .store
            .bodies()
            .filter(|(_, record)| self.revocations.judge(record.chain(), true).is_err())
            .map(|(key, _)| *key)
            .collect();
        for node in &ended {
            self.live.remove(node);
            self.known.remove(node);
        }
        if planted(Planted::KeepLinks) {
            return;
        }
        let revocations = Arc::clone(&self.revocations);
        // By the newest certificate that the peer has shown: it may have another than it began with.
        let newer = |key: &NodeKey| self.store.body(key).map(Verified::chain);
        let ends = |chain: &VerifiedChain| {
            let stands = |chain: &VerifiedChain| revocations.judge(chain, true).is_ok();
            !stands(chain) && !newer(&chain.key).is_some_and(stands)
        };
        for link in self.links.whose(ends) {
            self.close(now, link, CloseCode::Revoked);
        }
        for node in ended {
            self.rings_changed(now, node);
        }
    }

    /// One statement of a link's run has been dealt with.
    pub(super) fn reconciled_one(&mut self, now: Now, source: Option<LinkId>) {
        let Some(link) = source else { return };
        let Some(peer) = self.links.peer(link) else { return };
        if let Some(Some(awaits)) = self.links.awaits(link) {
            awaits.open = awaits.open.saturating_sub(1);
        }
        self.agreed_if_done(now, link, peer);
    }

    fn agreed_if_done(&mut self, now: Now, link: LinkId, peer: NodeKey) {
        let Some(awaits) = self.links.awaits(link) else { return };
        if !awaits.as_ref().is_some_and(|awaits| awaits.whole && awaits.open == 0) {
            return;
        }
        let Some(done) = awaits.take() else { return };
        for frame in done.early {
            match frame {
                Frame::Hello(hello) => self.welcome(now, link, peer, *hello),
                frame => self.spoken(now, link, frame),
            }
        }
    }

    /// A frame on a link that is not ready: kept while revocations are reconciled, else blamed.
    pub(super) fn early(&mut self, now: Now, link: LinkId, peer: NodeKey, frame: Frame) {
        match self.links.awaits(link) {
            Some(Some(awaits)) if awaits.early.len() < limits::EARLY_FRAMES => {
                awaits.early.push(frame)
            }
            _ => self.blame(now, peer, Blame::OutOfTurn),
        }
    }

    pub(super) fn compare_stand(&mut self, now: Now, link: LinkId, stand: Stand) {
        self.links.told(link, stand);
        if stand.revocations == self.ended_root() {
            if let Some(exchange) = self.links.exchange(link) {
                exchange.revocations = None;
            }
        } else {
            let due = self.links.exchange(link).is_some_and(|exchange| {
                let at = exchange.revocations.get_or_insert(now.tick);
                let due = now.tick.since(*at) >= limits::ROOT_PATIENCE;
                if due {
                    *at = now.tick.after(limits::EXCHANGE_TIMEOUT);
                }
                due
            });
            if due {
                self.tell_revocations(link);
            }
        }
        self.compare(now, link, stand.records);
        self.compare_policy(now, link, stand.policy);
    }
}
