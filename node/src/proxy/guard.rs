//! The guard: how many connections may live, and their end when the agent drains.
//!
//! A full guard refuses. A permit is a connection's life: what is out is what lives.

use std::{sync::Arc, time::Duration};

use skein_protocol::route::CloseReason;
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
}

pub(super) struct Guard {
    outbound: Gate,
    inbound: Gate,
    phase: watch::Sender<Phase>,
}

struct Gate {
    permits: Arc<Semaphore>,
    size: usize,
}

impl Guard {
    pub(super) fn new(outbound: usize, inbound: usize) -> Self {
        Self {
            outbound: Gate::new(outbound),
            inbound: Gate::new(inbound),
            phase: watch::Sender::new(Phase::Serving),
        }
    }

    pub(super) fn live(&self) -> Live {
        Live { outbound: self.outbound.live(), inbound: self.inbound.live() }
    }

    /// Room for a connection of an application; `None` when there is none.
    pub(super) fn outbound(&self) -> Option<Permit> {
        self.outbound.enter()
    }

    /// Room for a call from this host to this host.
    pub(super) fn inbound(&self) -> Option<Permit> {
        self.inbound.enter()
    }

    /// Room for a stream of that peer.
    pub(super) fn stream_of(&self, peer: &Peer) -> Option<Permit> {
        let of_peer = Arc::clone(&peer.streams).try_acquire_owned().ok()?;
        let mut permit = self.inbound.enter()?;
        permit._peer = Some(of_peer);
        Some(permit)
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
        let open = self.live();
        let all = async {
            self.inbound.empty().await;
            self.outbound.empty().await;
        };
        let in_time = timeout(patience, all).await.is_ok();
        let left = self.live();
        self.phase.send_replace(Phase::Cut);
        Drained {
            open: open.inbound + open.outbound,
            cut: match in_time {
                true => 0,
                false => left.inbound + left.outbound,
            },
        }
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
        Some(Permit { _total: total, _peer: None })
    }

    /// Waits until nothing lives. It looks, rather than taking all permits: a waiter for all of
    /// them would hold back the new connections that may still come.
    async fn empty(&self) {
        let mut pause = Duration::from_millis(1);
        while self.live() > 0 {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
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
        let held = guard.outbound();
        let mut phase = guard.phase.subscribe();
        let drained = guard.drain(Duration::from_millis(20)).await;
        assert_eq!(drained, Drained { open: 1, cut: 1 });
        assert!(phase.wait_for(|phase| *phase == Phase::Cut).await.is_ok());
        drop(held);
        let drained = guard.drain(Duration::from_secs(30)).await;
        assert_eq!(drained, Drained { open: 0, cut: 0 });
    }
}
