//! The disk: what is being written, and what is owed to a disk that cannot be written.
//!
//! What failed is owed: it is written, together and in order, as soon as the disk takes it. What
//! only restricts does not wait for that: a key that has ended, what a document closes. It counts
//! as soon as its write has failed, or has not come back for a moment. What opens waits.

use std::{collections::BTreeMap, sync::Arc};

use super::{Engine, Event, LinkId, Output, PersistId, Write};
use crate::{
    clock::{Now, Tick},
    limits,
    name::{Hash, NodeKey},
    policy::{Policy, PolicyBundle, VerifiedVersion},
    trust::revocation::VerifiedStatement,
    wire::frame::Frame,
};

/// Writes that are out, and those that are owed.
#[derive(Debug, Default)]
pub(super) struct Writes {
    count: u64,
    /// When the engine was last handed something.
    now: Tick,
    out: BTreeMap<PersistId, Out>,
    /// What failed, by what it is about: only the newest of that counts.
    owed: BTreeMap<About, Write>,
    /// The try that is out while the disk fails, of what is owed.
    trying: Option<PersistId>,
    /// When it is tried again.
    again: Tick,
    /// Whether the last write failed.
    failing: bool,
    /// Whether a write is out for so long that people are told.
    hangs: bool,
    /// Whether something that restricts may be in the way of a write now.
    urged: bool,
}

/// A batch that is out.
#[derive(Debug)]
struct Out {
    since: Tick,
    writes: Vec<Write>,
    late: bool,
}

/// What a write is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum About {
    Anchored,
    Revocation(Hash),
    Policy(Hash),
    Peer(NodeKey),
}

/// `None` for what is asked for anew by itself.
fn about(write: &Write) -> Option<About> {
    match write {
        Write::Reserve(_) => None,
        Write::Peer(key, _) | Write::Forget(key) => Some(About::Peer(*key)),
        Write::Revocation(id, _) => Some(About::Revocation(*id)),
        Write::Policy(version, _) | Write::ForgetPolicy(version) => Some(About::Policy(*version)),
        Write::Anchored(_) => Some(About::Anchored),
    }
}

/// A version of a document that is being written.
#[derive(Debug)]
pub(super) struct Ruling {
    pub(super) version: Arc<VerifiedVersion>,
    source: Option<LinkId>,
    /// Whether what it closes is closed already.
    ahead: bool,
}

impl Writes {
    pub(super) fn handed(&mut self, now: Now) {
        self.now = now.tick;
    }

    /// Whether the disk cannot be written now.
    pub(super) fn in_trouble(&self) -> bool {
        self.failing || self.hangs
    }

    pub(super) fn owed(&self) -> usize {
        self.owed.len()
    }

    /// Whether a write of that waits for the disk for longer than it should.
    fn waits(&self, what: About) -> bool {
        let is = |write: &Write| about(write) == Some(what);
        self.owed.contains_key(&what)
            || self.out.values().any(|out| (out.late || self.failing) && out.writes.iter().any(is))
    }

    fn owe(&mut self, write: Write) {
        if let Some(what) = about(&write) {
            self.owed.insert(what, write);
        }
    }
}

impl Engine {
    /// Has something written. While the disk fails it is owed.
    pub(super) fn persist(&mut self, writes: Vec<Write>) -> PersistId {
        let own = About::Peer(self.me);
        let book = &mut self.disk;
        book.count = book.count.saturating_add(1);
        let id = PersistId(book.count);
        // What this host says itself is tried at once: it is little, and the first to be missed.
        let tried = |write| about(write).is_none_or(|what| what == own);
        if book.failing && !writes.iter().any(tried) {
            writes.into_iter().for_each(|write| book.owe(write));
            book.urged = true;
        } else {
            self.write_out(id, writes);
        }
        id
    }

    fn write_out(&mut self, id: PersistId, writes: Vec<Write>) {
        for what in writes.iter().filter_map(about) {
            self.disk.owed.remove(&what);
        }
        let out = Out { since: self.disk.now, writes: writes.clone(), late: false };
        self.disk.out.insert(id, out);
        self.outbox.push_back(Output::Persist(id, writes));
    }

    /// A batch is on disk: what waited for it happens.
    pub(super) fn batch_written(&mut self, now: Now, id: PersistId) {
        let Some(out) = self.disk.out.remove(&id) else { return };
        for write in &out.writes {
            match write {
                Write::Revocation(statement, _) => {
                    if let Some((statement, source)) = self.ending.remove(statement) {
                        self.end_key(now, statement, source);
                    }
                }
                Write::Policy(version, _) => {
                    if let Some(ruling) = self.ruling.remove(version) {
                        self.rule(now, ruling.version, ruling.source);
                    }
                }
                Write::Reserve(_)
                | Write::Peer(..)
                | Write::Forget(_)
                | Write::ForgetPolicy(_)
                | Write::Anchored(_) => {}
            }
        }
        if self.disk.trying == Some(id) {
            self.disk.trying = None;
        }
        if self.disk.failing && self.disk.trying.is_none() {
            self.pay(now);
        }
        self.look_whether_it_hangs(now);
    }

    /// A batch is not on disk.
    pub(super) fn batch_failed(&mut self, now: Now, id: PersistId, why: String) {
        let out = self.disk.out.remove(&id);
        for write in out.map(|out| out.writes).unwrap_or_default() {
            let Some(what) = about(&write) else { continue };
            let newer = |out: &Out| out.writes.iter().any(|write| about(write) == Some(what));
            if !self.disk.owed.contains_key(&what) && !self.disk.out.values().any(newer) {
                self.disk.owe(write);
            }
        }
        if self.disk.trying == Some(id) {
            self.disk.trying = None;
        }
        if !std::mem::replace(&mut self.disk.failing, true) {
            self.own_disk_changed(now);
        }
        self.disk.again = now.tick.after(limits::DISK_AGAIN);
        self.disk.urged = true;
        self.event(Event::DiskFailed(why));
    }

    /// Writes the next part of what is owed; with the last of it the disk is well.
    fn pay(&mut self, now: Now) {
        let next: Vec<About> = self.disk.owed.keys().take(OWED_AT_ONCE).copied().collect();
        if next.is_empty() {
            self.disk.failing = false;
            self.own_disk_changed(now);
            return self.event(Event::DiskWell);
        }
        let writes = next.iter().filter_map(|what| self.disk.owed.remove(what)).collect();
        self.try_to_write(writes);
    }

    fn try_to_write(&mut self, writes: Vec<Write>) {
        self.disk.count = self.disk.count.saturating_add(1);
        let id = PersistId(self.disk.count);
        self.disk.trying = Some(id);
        self.write_out(id, writes);
    }

    /// With each beat: tries a disk that failed, and looks for writes that do not come back.
    pub(super) fn look_at_disk(&mut self, now: Now) {
        if self.disk.failing && self.disk.trying.is_none() && now.tick >= self.disk.again {
            let next: Vec<About> = self.disk.owed.keys().take(OWED_AT_ONCE).copied().collect();
            let mut writes: Vec<Write> =
                next.iter().filter_map(|what| self.disk.owed.remove(what)).collect();
            if writes.is_empty() {
                // Says nothing new, and whether the disk takes it.
                writes.push(Write::Reserve(self.own.limit()));
            }
            self.try_to_write(writes);
        }
        for out in self.disk.out.values_mut() {
            if !out.late && now.tick.since(out.since) >= limits::DISK_AT_ONCE {
                out.late = true;
                self.disk.urged = true;
            }
        }
        self.look_whether_it_hangs(now);
    }

    fn look_whether_it_hangs(&mut self, now: Now) {
        let oldest = self.disk.out.values().next();
        let hangs = oldest.is_some_and(|out| now.tick.since(out.since) >= limits::DISK_PATIENCE);
        if std::mem::replace(&mut self.disk.hangs, hangs) == hangs {
            return;
        }
        self.own_disk_changed(now);
        if hangs {
            let text =
                format!("a write is under way for more than {} s", limits::DISK_PATIENCE.as_secs());
            self.event(Event::DiskFailed(text));
        } else if !self.disk.failing {
            self.event(Event::DiskWell);
        }
    }

    /// What restricts and waits for a disk that does not write it counts now.
    pub(super) fn act_ahead_of_disk(&mut self, now: Now) {
        if !std::mem::take(&mut self.disk.urged) {
            return;
        }
        let ending: Vec<Hash> = self.ending.keys().copied().collect();
        for id in ending {
            if self.disk.waits(About::Revocation(id))
                && let Some((statement, source)) = self.ending.remove(&id)
            {
                self.end_key(now, statement, source);
            }
        }
        let waits = |version: &&Hash| self.disk.waits(About::Policy(**version));
        let waits: Vec<Hash> = self.ruling.keys().filter(waits).copied().collect();
        let mut frames = Vec::new();
        for version in waits {
            if let Some(ruling) = self.ruling.get_mut(&version).filter(|ruling| !ruling.ahead) {
                ruling.ahead = true;
                let bundle = PolicyBundle::clone(ruling.version.bundle());
                frames.push((Frame::Policy(Box::new(bundle)), ruling.source));
            }
        }
        if !frames.is_empty() {
            self.close_ahead(now);
        }
        // Others may have a disk.
        for (frame, source) in frames {
            self.flood(&frame, source);
        }
    }

    /// Other versions wait for the disk than did.
    fn close_ahead(&mut self, now: Now) {
        self.policy = Arc::new(self.policy_with(self.policy.documents.clone()));
        self.outbox.push_back(Output::Policy(Arc::clone(&self.policy)));
        self.show_view(now);
    }

    /// Versions that waited for the disk do so no longer, and did not come in force.
    pub(super) fn waits_no_longer(&mut self, now: Now) {
        let revocations = Arc::clone(&self.revocations);
        let held = &self.policy.waiting;
        let waits = |version: &Hash| {
            self.ruling.get(version).is_some_and(|ruling| ruling.version.stands(&revocations))
        };
        if !held.iter().all(waits) {
            self.close_ahead(now);
        }
    }

    /// What these documents decide, and no call that versions which wait for the disk close.
    pub(super) fn policy_with(&self, documents: crate::policy::Documents) -> Policy {
        let ahead = self.ruling.values().filter(|ruling| ruling.ahead);
        let ahead = ahead.filter(|ruling| ruling.version.stands(&self.revocations));
        Policy::closed_by(documents, ahead.map(|ruling| Arc::clone(&ruling.version)))
    }

    /// Waits until a statement is on disk.
    pub(super) fn await_ending(
        &mut self,
        id: Hash,
        bytes: Vec<u8>,
        waiting: (VerifiedStatement, Option<LinkId>),
    ) {
        self.ending.insert(id, waiting);
        self.persist(vec![Write::Revocation(id, bytes)]);
    }

    /// Waits until a version is on disk.
    pub(super) fn await_ruling(
        &mut self,
        version: Arc<VerifiedVersion>,
        bytes: Vec<u8>,
        source: Option<LinkId>,
    ) {
        let id = version.version();
        self.ruling.insert(id, Ruling { version, source, ahead: false });
        self.persist(vec![Write::Policy(id, bytes)]);
    }
}

/// Writes of what is owed that go into one batch: a few megabytes at most, so that a disk with a
/// little room takes some of it.
const OWED_AT_ONCE: usize = 256;
