//! Data links: one connection to each peer whose services this host calls, opened by the first
//! call, shared by all, used in both directions.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, PoisonError, Weak},
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use skein_protocol::{
    clock::Tick,
    limits,
    name::{Hash, Label, MeshId, NodeKey},
    store::Head,
    trust::{CloseCode, VerifiedChain, admit::Alpn},
    view::{Liveness, View},
    wire::{
        frame::{self, Frame, Hello, LinkRole, Speaks},
        kind::{self, StreamKind},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    runtime::Handle,
    sync::{Mutex, watch},
    time::timeout,
};

use super::{identity, policy, show::Agent};
use crate::{
    clock::{Clock, wall},
    driver::{self, ControlLink},
    keys::Expect,
    link::{
        Dial, Endpoint, Link, Role,
        mux::{BoxFuture, Mux, StreamPair},
    },
    proxy::{DialError, Dialer, PeerIdentity},
    shares::Shares,
};

/// An open data link as people see it.
#[derive(Clone, Debug)]
pub(crate) struct DataLink {
    /// The connection.
    pub(crate) mux: Arc<dyn Mux>,
    /// What the peer proved.
    pub(crate) chain: Arc<VerifiedChain>,
    /// Where it is.
    pub(crate) remote: std::net::SocketAddr,
    /// Whether this agent dialled.
    pub(crate) dialled: bool,
    /// When it came up.
    pub(crate) opened: Tick,
    /// The peer's boot: a later one is another process, and this link leads nowhere.
    pub(crate) boot: u64,
}

/// The link to one peer, dialled by one for all who ask meanwhile: what it comes to, good or bad,
/// is the answer for all of them.
#[derive(Debug)]
struct Slot<T>(Mutex<Option<Result<T, Refusal>>>);

/// When a dial failed, and why.
type Refusal = (Instant, DialError);

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T: Clone> Slot<T> {
    async fn get(
        &self,
        lives: impl FnOnce(&T) -> bool,
        dial: impl Future<Output = Result<T, DialError>>,
    ) -> Result<T, DialError> {
        let asked = Instant::now();
        let mut last = self.0.lock().await;
        match &*last {
            Some(Ok(link)) if lives(link) => return Ok(link.clone()),
            Some(Err((when, error))) if *when > asked => return Err(error.clone()),
            _ => {}
        }
        let dialled = dial.await;
        *last = Some(dialled.clone().map_err(|error| (Instant::now(), error)));
        dialled
    }
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub(crate) struct DataLinks(Arc<Inner>);

struct Inner {
    endpoint: Endpoint,
    network: Label,
    mesh: MeshId,
    boot: u64,
    view: watch::Receiver<Arc<View>>,
    clock: Clock,
    runtime: Handle,
    /// A lock each, so that a dial holds up only who waits for the same peer.
    slots: std::sync::Mutex<BTreeMap<NodeKey, Arc<Slot<DataLink>>>>,
    open: watch::Sender<Arc<BTreeMap<u64, DataLink>>>,
    numbers: std::sync::atomic::AtomicU64,
    /// Streams of peers that have not said what they are.
    opening: Shares<NodeKey>,
    /// Questions that are being answered.
    asks: Shares<NodeKey>,
    agent: std::sync::OnceLock<Weak<Agent>>,
}

/// The Hello of a data connection must come within this.
const HELLO_TIMEOUT: Duration = Duration::from_secs(2);
/// A peer that lives acknowledges within this: many round trips of any path.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(800);
/// A stream says what it is within this.
const KIND_TIMEOUT: Duration = Duration::from_secs(5);

impl std::fmt::Debug for DataLinks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DataLinks")
    }
}

impl DataLinks {
    /// No links yet. `runtime` is where connections are served.
    pub(crate) fn new(
        endpoint: Endpoint,
        network: Label,
        (mesh, boot): (MeshId, u64),
        view: watch::Receiver<Arc<View>>,
        (clock, runtime): (Clock, Handle),
    ) -> Self {
        Self(Arc::new(Inner {
            endpoint,
            network,
            mesh,
            boot,
            view,
            clock,
            runtime,
            slots: std::sync::Mutex::default(),
            open: watch::channel(Arc::default()).0,
            numbers: std::sync::atomic::AtomicU64::new(0),
            opening: Shares::new(limits::STREAMS_OPENING, limits::STREAMS_OPENING_MAX),
            asks: Shares::new(limits::ASKS_PER_PEER, limits::ASKS_MAX),
            agent: std::sync::OnceLock::new(),
        }))
    }

    /// The agent that serves what peers open. Told once, since each needs the other.
    pub(super) fn serve_with(&self, agent: &Arc<Agent>) {
        let _ = self.0.agent.set(Arc::downgrade(agent));
    }

    /// The open links.
    pub(crate) fn open(&self) -> Vec<DataLink> {
        self.0.open.borrow().values().cloned().collect()
    }

    /// Closes the links whose peer's chain is one of those.
    pub(crate) fn cut(&self, code: CloseCode, of: impl Fn(&VerifiedChain) -> bool) {
        for link in self.open().into_iter().filter(|link| of(&link.chain)) {
            link.mux.close(code.number(), code.text());
        }
    }

    /// Closes the links to processes that are no more: their node has started again. QUIC alone
    /// would find out only when its idle timeout has passed.
    pub(crate) fn forget_earlier_boots(&self, view: &View) {
        for link in self.open() {
            let now = view.nodes.get(&link.chain.key).map_or(0, |node| node.boot);
            if link.boot < now {
                link.mux.close(CloseCode::Duplicate.number(), "its node has started again");
            }
        }
    }

    /// Closes the links to nodes that the view holds for dead, unless they answer all the same:
    /// what hangs on them ends within [`ANSWER_TIMEOUT`] of the verdict.
    pub(crate) fn leave_dead(&self, view: &View) {
        let dead = |link: &DataLink| {
            let node = view.nodes.get(&link.chain.key);
            node.is_some_and(|node| node.liveness == Liveness::Dead && node.boot <= link.boot)
        };
        for link in self.open().into_iter().filter(dead) {
            self.0.runtime.spawn(async move {
                if !answers(&*link.mux).await {
                    let code = CloseCode::Timeout.number();
                    link.mux.close(code, "its node is dead and it does not answer");
                }
            });
        }
    }

    /// A data connection that a peer dialled, its Hello read.
    pub(crate) async fn accepted(&self, link: Link, mut control: ControlLink, hello: Hello) {
        link.mux.set_role(Role::Data);
        if let Err(error) = self.check(&hello, link.identity.key) {
            tracing::debug!(%error, "data connection refused");
            return link.mux.close_with(CloseCode::WrongProtocol);
        }
        if control.write(&self.hello()).await.is_ok() {
            self.make_room(link.identity.key);
            self.register(link, control, hello.boot).await;
        }
    }

    /// A peer that dials again and again keeps its newest links.
    fn make_room(&self, peer: NodeKey) {
        let of_peer = |link: &DataLink| link.chain.key == peer && !link.dialled;
        // In the order in which they came.
        let held: Vec<DataLink> = self.open().into_iter().filter(of_peer).collect();
        let over = (held.len() + 1).saturating_sub(limits::DATA_LINKS_PER_PEER);
        for link in held.into_iter().take(over) {
            link.mux.close(CloseCode::Duplicate.number(), CloseCode::Duplicate.text());
        }
    }

    /// Whether what a peer has proved still stands: by the chain of the connection, or by a newer
    /// one that it has shown.
    fn stands(&self, chain: &VerifiedChain) -> bool {
        let trust = self.0.endpoint.credentials().trust();
        trust.is_some_and(|trust| trust.judge(chain).is_ok())
            || self.0.view.borrow().nodes.get(&chain.key).is_some_and(|node| node.certified)
    }

    /// Closes the links whose peer was revoked, or what it stands on.
    pub(crate) fn cut_revoked(&self) {
        self.cut(CloseCode::Revoked, |chain| !self.stands(chain));
    }

    async fn link(&self, node: NodeKey) -> Result<Arc<dyn Mux>, DialError> {
        let lives = |link: &DataLink| {
            let boot = self.0.view.borrow().nodes.get(&node).map_or(0, |node| node.boot);
            link.boot >= boot && link.mux.closed().now_or_never().is_none()
        };
        let slot = self.slot(node);
        Ok(slot.get(lives, self.dial(node)).await?.mux)
    }

    fn slot(&self, node: NodeKey) -> Arc<Slot<DataLink>> {
        let mut slots = self.0.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get(&node) {
            return Arc::clone(slot);
        }
        let view = Arc::clone(&self.0.view.borrow());
        slots.retain(|key, _| view.nodes.contains_key(key));
        Arc::clone(slots.entry(node).or_default())
    }

    async fn dial(&self, node: NodeKey) -> Result<DataLink, DialError> {
        let view = Arc::clone(&self.0.view.borrow());
        let Some(peer) = view.nodes.get(&node) else {
            return Err(DialError(format!("node {} is not known", node.short())));
        };
        let dial = Dial {
            addresses: driver::order(&peer.addresses, &self.0.network),
            expect: Expect::Node(node),
            alpn: Alpn::Mesh,
            role: Role::Data,
        };
        let link =
            self.0.endpoint.dial(dial).await.map_err(|error| DialError(error.to_string()))?;
        let greeted = timeout(HELLO_TIMEOUT, self.greet(&link)).await;
        match greeted.unwrap_or_else(|_| Err(io::Error::other("no Hello in time"))) {
            Ok((control, boot)) => self
                .register(link, control, boot)
                .await
                .ok_or_else(|| DialError("the peer proved nothing".to_owned())),
            Err(error) => {
                link.mux.close_with(CloseCode::Timeout);
                Err(DialError(format!("{}: {error}", peer.name)))
            }
        }
    }

    async fn greet(&self, link: &Link) -> io::Result<(ControlLink, u64)> {
        let mut control = ControlLink::open(&*link.mux).await?;
        control.write(&self.hello()).await?;
        let hello = control.hello().await?;
        self.check(&hello, link.identity.key)?;
        Ok((control, hello.boot))
    }

    fn hello(&self) -> Frame {
        let view = self.0.view.borrow();
        let own = view.nodes.get(&view.me);
        let head = own.map(|node| Head { sequence: node.sequence, hash: node.hash });
        Frame::Hello(Box::new(Hello {
            versions: vec![frame::VERSION],
            role: LinkRole::Data,
            mesh: self.0.mesh,
            key: view.me,
            boot: self.0.boot,
            revocation_root: view.revocation_root,
            issuer_root: Hash::of(&[]),
            records_root: view.records_root,
            wall: wall(),
            speaks: Speaks::Head(head),
        }))
    }

    fn check(&self, hello: &Hello, peer: NodeKey) -> io::Result<()> {
        let right = hello.versions.contains(&frame::VERSION)
            && hello.role == LinkRole::Data
            && hello.mesh == self.0.mesh
            && hello.key == peer;
        right.then_some(()).ok_or_else(|| io::Error::other("its Hello is not one for data"))
    }

    /// Serves what the peer opens on a link, until it ends.
    async fn register(&self, link: Link, control: ControlLink, boot: u64) -> Option<DataLink> {
        let (verified, _) = link.identity.chain.as_ref()?;
        let data = DataLink {
            mux: link.mux.clone(),
            chain: Arc::new(verified.clone()),
            remote: link.remote,
            dialled: link.dialled,
            opened: self.0.clock.now().tick,
            boot,
        };
        let number = self.0.numbers.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let entry = data.clone();
        self.0.open.send_modify(|open| {
            Arc::make_mut(open).insert(number, entry);
        });
        // Only now: what was revoked before this is seen here, and what is revoked after it is cut
        // among the open ones.
        if !self.stands(&data.chain) {
            self.0.open.send_modify(|open| {
                Arc::make_mut(open).remove(&number);
            });
            data.mux.close(CloseCode::Revoked.number(), CloseCode::Revoked.text());
            return None;
        }
        let (links, served) = (self.clone(), data.clone());
        self.0.runtime.spawn(async move {
            links.serve(&served).await;
            // The Hello's stream stays open as long as the connection.
            drop(control);
            links.0.open.send_modify(|open| {
                Arc::make_mut(open).remove(&number);
            });
        });
        Some(data)
    }

    async fn serve(&self, link: &DataLink) {
        let Some(agent) = self.0.agent.get().and_then(Weak::upgrade) else { return };
        let key = link.chain.key;
        let identity = PeerIdentity { key, grant: link.chain.grant.clone() };
        let peer = agent.proxy.peer(identity);
        while let Ok((mut send, mut receive)) = link.mux.accept().await {
            // Before anything is read: a stream that says nothing costs a share as well.
            let Some(opening) = self.0.opening.take(key) else {
                send.reset(kind::TOO_MANY);
                receive.stop(kind::TOO_MANY);
                continue;
            };
            let (agent, peer, asks) = (Arc::clone(&agent), peer.clone(), self.0.asks.clone());
            self.0.runtime.spawn(async move {
                let byte = timeout(KIND_TIMEOUT, receive.read_u8()).await;
                drop(opening);
                match byte.ok().and_then(Result::ok).and_then(StreamKind::from_byte) {
                    Some(kind @ (StreamKind::Tcp | StreamKind::Http)) => {
                        let pair: StreamPair = (send, receive);
                        agent.proxy.serve_stream(&peer, kind, pair).await;
                    }
                    Some(StreamKind::Relay) => {
                        identity::serve_relayed(&agent, key, (send, receive)).await;
                    }
                    Some(StreamKind::Ask) => match asks.take(key) {
                        Some(_share) => policy::ask::serve(&agent, key, (send, receive)).await,
                        None => {
                            send.reset(kind::TOO_MANY);
                            receive.stop(kind::TOO_MANY);
                        }
                    },
                    Some(StreamKind::Ping) => {
                        let _ = send.shutdown().await;
                    }
                    _ => {
                        send.reset(kind::UNKNOWN_KIND);
                        receive.stop(kind::UNKNOWN_KIND);
                    }
                }
            });
        }
    }
}

/// Whether anything comes from the peer when it is asked: an acknowledgement is enough.
async fn answers(mux: &dyn Mux) -> bool {
    let before = mux.stats().bytes_received;
    let Ok(Ok((mut send, _receive))) = timeout(ANSWER_TIMEOUT, mux.open()).await else {
        return false;
    };
    if send.write_all(&[StreamKind::Ping.byte()]).await.is_err() {
        return false;
    }
    let _ = send.shutdown().await;
    tokio::time::sleep(ANSWER_TIMEOUT).await;
    mux.stats().bytes_received > before
}

impl Dialer for DataLinks {
    fn data(&self, node: NodeKey) -> BoxFuture<'_, Result<Arc<dyn Mux>, DialError>> {
        let links = self.clone();
        // A task of its own: the dial goes on when its caller gives up.
        let task = self.0.runtime.spawn(async move { links.link(node).await });
        Box::pin(async move {
            task.await.unwrap_or_else(|error| Err(DialError(format!("the dial failed: {error}"))))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_dial_is_the_answer_for_all_who_wait_for_it() {
        let (slot, dials) = (Slot::<usize>::default(), AtomicUsize::new(0));
        let dial = async |works: bool| {
            let number = dials.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_secs(2)).await;
            if works { Ok(number) } else { Err(DialError(number.to_string())) }
        };
        let get = |works| slot.get(|_| true, dial(works));
        let refused = |number: &str| Err(DialError(number.to_owned()));
        let all = tokio::join!(get(false), get(false), get(false));
        assert_eq!(all, (refused("0"), refused("0"), refused("0")));
        assert_eq!(get(false).await, refused("1"), "who asks later has it dialled again");
        assert_eq!(tokio::join!(get(true), get(true)), (Ok(2), Ok(2)));
        assert_eq!(
            slot.get(|_| false, dial(true)).await,
            Ok(3),
            "a link that ended is dialled anew"
        );
    }
}
