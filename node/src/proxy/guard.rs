//! The guard: how many connections may live, and their end when the agent drains.
//!
//! A full guard refuses. A permit is a connection's life: what is out is what lives. A drain waits
//! for work: connections of bytes, and requests that began before it. Requests that come
//! meanwhile are answered, each as the last of its connection; they hold up nothing.
//!
//! ```text
//! Serving -> Draining -> Closing -> Cut      listeners close at Closing, when the work is done
//! ```

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use skein_protocol::{limits, name::NodeKey, route::CloseReason};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::timeout,
};

use super::PeerIdentity;

/// Connections that are open.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Live {
    /// Of applications on this host.
    pub outbound: usize,
    /// Streams of peers.
    pub inbound: usize,
}

/// How draining went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Drained {
    /// Connections that were open when it began.
    pub open: usize,
    /// Connections that were cut at its end.
    pub cut: usize,
}

/// How far the agent is with its end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Phase {
    Serving,
    Draining,
    Closing,
    Cut,
}

/// A peer with a link to this agent, and the bound on its streams.
#[derive(Clone, Debug)]
pub struct Peer {
    pub(super) identity: Arc<PeerIdentity>,
    streams: Arc<Semaphore>,
}

impl Peer {
    pub(super) fn new(identity: PeerIdentity, streams: usize) -> Self {
        Self { identity: Arc::new(identity), streams: Arc::new(Semaphore::new(streams)) }
    }
}

/// A connection's right to live.
#[derive(Debug)]
pub(super) struct Permit {
    _total: OwnedSemaphorePermit,
    _peer: Option<OwnedSemaphorePermit>,
    _own: Option<Work>,
}

impl Permit {
    /// What one bound alone counts.
    pub(super) fn of(total: OwnedSemaphorePermit) -> Self {
        Self { _total: total, _peer: None, _own: None }
    }
}

/// Something that is being done, for as long as the value lives.
#[derive(Debug)]
pub(super) struct Work(Arc<AtomicUsize>);

impl Drop for Work {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

pub(super) struct Guard {
    outbound: Gate,
    inbound: Gate,
    /// Of `inbound`, the calls of this host to itself: a drain counts them at their begin.
    own: Arc<AtomicUsize>,
    /// What a drain waits for, of this host's own callers.
    work: Arc<AtomicUsize>,
    /// Requests that began while it waited.
    late: Arc<AtomicUsize>,
    phase: watch::Sender<Phase>,
    /// The streams left to each peer that has a link.
    peers: Mutex<BTreeMap<NodeKey, Weak<Semaphore>>>,
}

struct Gate {
    permits: Arc<Semaphore>,
    size: usize,
}

impl Guard {
    /// The peer, and the streams that it may have open on all its links.
    pub(super) fn peer(&self, identity: PeerIdentity) -> Peer {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(streams) = peers.get(&identity.key).and_then(Weak::upgrade) {
            return Peer { identity: Arc::new(identity), streams };
        }
        peers.retain(|_, streams| streams.strong_count() > 0);
        let peer = Peer::new(identity, limits::STREAMS_PER_PEER);
        peers.insert(peer.identity.key, Arc::downgrade(&peer.streams));
        peer
    }

    pub(super) fn new(outbound: usize, inbound: usize) -> Self {
        Self {
            outbound: Gate::new(outbound),
            inbound: Gate::new(inbound),
            own: Arc::default(),
            work: Arc::default(),
            late: Arc::default(),
            phase: watch::Sender::new(Phase::Serving),
            peers: Mutex::default(),
        }
    }

    pub(super) fn live(&self) -> Live {
        Live { outbound: self.outbound.live(), inbound: self.inbound.live() }
    }

    /// Room for a connection of an application; `None` when there is none.
    pub(super) fn outbound(&self) -> Option<Permit> {
        self.outbound.enter()
    }

    /// Room for a connection from outside of the mesh: not all that there is.
    pub(super) fn outside(&self) -> Option<Permit> {
        let room = self.outbound.live() < limits::CONNECTIONS_OUTSIDE;
        if room { self.outbound.enter() } else { None }
    }

    /// Room for a call from this host to this host.
    pub(super) fn inbound(&self) -> Option<Permit> {
        let mut permit = self.inbound.enter()?;
        self.own.fetch_add(1, Ordering::AcqRel);
        permit._own = Some(Work(Arc::clone(&self.own)));
        Some(permit)
    }

    /// What a drain waits for: streams of peers, and what this host's own callers have begun.
    fn at_work(&self) -> usize {
        let peers = self.inbound.live().saturating_sub(self.own.load(Ordering::Acquire));
        peers + self.work.load(Ordering::Acquire)
    }

    /// Room for a stream of that peer.
    pub(super) fn stream_of(&self, peer: &Peer) -> Option<Permit> {
        let of_peer = Arc::clone(&peer.streams).try_acquire_owned().ok()?;
        let mut permit = self.inbound.enter()?;
        permit._peer = Some(of_peer);
        Some(permit)
    }

    /// A connection of bytes begins.
    pub(super) fn carries(&self) -> Work {
        self.work.fetch_add(1, Ordering::AcqRel);
        Work(Arc::clone(&self.work))
    }

    /// A request begins.
    pub(super) fn answers(&self) -> Work {
        let counted = if self.is_draining() { &self.late } else { &self.work };
        counted.fetch_add(1, Ordering::AcqRel);
        Work(Arc::clone(counted))
    }

    /// Waits until nothing is accepted any more.
    pub(super) async fn closing(&self) {
        let _ = self.phase.subscribe().wait_for(|phase| *phase >= Phase::Closing).await;
    }

    pub(super) fn is_draining(&self) -> bool {
        *self.phase.borrow() >= Phase::Draining
    }

    /// Waits until nothing new is to be begun.
    pub(super) async fn draining(&self) {
        let _ = self.phase.subscribe().wait_for(|phase| *phase >= Phase::Draining).await;
    }

    /// Waits until what is open is cut, and gives the reason.
    pub(super) async fn cut(&self) -> (CloseReason, String) {
        // An error says that the proxy itself is gone: the same.
        let _ = self.phase.subscribe().wait_for(|phase| *phase == Phase::Cut).await;
        (CloseReason::DrainDeadline, String::new())
    }

    pub(super) async fn drain(&self, patience: Duration) -> Drained {
        self.phase.send_replace(Phase::Draining);
        let open = self.at_work();
        let done = || self.at_work() == 0;
        let in_time = timeout(patience, until(done)).await.is_ok();
        let left = self.at_work();
        self.phase.send_replace(Phase::Closing);
        if in_time {
            // Those that came last are short: one request each.
            let done = || self.late.load(Ordering::Acquire) == 0;
            let _ = timeout(limits::LAST_REQUESTS.min(patience), until(done)).await;
        }
        self.phase.send_replace(Phase::Cut);
        Drained { open, cut: if in_time { 0 } else { left } }
    }
}

impl Gate {
    fn new(size: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(size)), size }
    }

    fn live(&self) -> usize {
        self.size.saturating_sub(self.permits.available_permits())
    }

    fn enter(&self) -> Option<Permit> {
        let total = Arc::clone(&self.permits).try_acquire_owned().ok()?;
        Some(Permit::of(total))
    }
}

/// Waits until that is so. It looks, rather than taking all permits: a waiter for all of them would
/// hold back the new connections that may still come.
async fn until(done: impl Fn() -> bool) {
    let mut pause = Duration::from_millis(1);
    while !done() {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use skein_protocol::{name::NodeKey, trust::Grant};

    use super::*;

    fn peer(streams: usize) -> Peer {
        let grant = Grant {
            name: "n1".parse().unwrap(),
            services: Vec::new(),
            roles: Vec::new(),
            zone: None,
        };
        let key = NodeKey([1; 32]);
        Peer::new(PeerIdentity { key, grant }, streams)
    }

    #[test]
    fn a_peer_costs_at_most_its_own_bound_and_all_peers_the_total() {
        let guard = Guard::new(1, 3);
        let (one, other) = (peer(2), peer(2));
        let held = [guard.stream_of(&one), guard.stream_of(&one)];
        assert!(held.iter().all(Option::is_some) && guard.stream_of(&one).is_none());
        let third = guard.stream_of(&other);
        assert!(third.is_some() && guard.stream_of(&other).is_none());
        assert_eq!(guard.live().inbound, 3);
        drop(held);
        assert!(guard.stream_of(&one).is_some() && guard.stream_of(&other).is_some());
    }

    #[tokio::test]
    async fn draining_waits_for_what_lives_and_cuts_at_the_deadline() {
        let guard = Guard::new(2, 2);
        let held = guard.carries();
        let mut phase = guard.phase.subscribe();
        let drained = guard.drain(Duration::from_millis(20)).await;
        assert_eq!(drained, Drained { open: 1, cut: 1 });
        assert!(phase.wait_for(|phase| *phase == Phase::Cut).await.is_ok());
        drop(held);
        let drained = guard.drain(Duration::from_secs(30)).await;
        assert_eq!(drained, Drained { open: 0, cut: 0 });
    }

    /// A gateway that serves its own service answers until it ends: those calls are counted as the
    /// requests that they carry, which came late.
    #[tokio::test(start_paused = true)]
    async fn what_this_host_asks_of_itself_during_a_drain_does_not_hold_it_up() {
        let guard = Guard::new(2, 2);
        let held = guard.inbound();
        assert!(held.is_some());
        let drained = guard.drain(Duration::from_secs(30)).await;
        assert_eq!(drained, Drained { open: 0, cut: 0 });
    }

    #[tokio::test(start_paused = true)]
    async fn requests_that_come_during_a_drain_do_not_hold_it_up() {
        let guard = Guard::new(2, 2);
        let before = guard.answers();
        let drained = async {
            let drained = guard.drain(Duration::from_secs(30)).await;
            (drained, tokio::time::Instant::now())
        };
        let others = async {
            guard.draining().await;
            let late = guard.answers();
            tokio::time::sleep(Duration::from_secs(3)).await;
            assert!(*guard.phase.borrow() == Phase::Draining, "the first one still runs");
            drop(before);
            guard.closing().await;
            drop(late);
        };
        let started = tokio::time::Instant::now();
        let ((drained, ended), ()) = tokio::join!(drained, others);
        assert_eq!(drained, Drained { open: 1, cut: 0 });
        assert!(ended - started < Duration::from_secs(5));
    }
}
