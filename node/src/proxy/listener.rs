//! Listeners: the sockets at which this host's applications reach the mesh.
//!
//! One task holds the set and makes it what the snapshot says: binds what is new, closes what is
//! gone, hands a changed route to the listener that stays. What cannot be bound is a problem that
//! says why and what to do, and is tried again. Connections outlive their listener.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{SocketAddr, TcpListener as StdTcpListener},
    os::unix::net::UnixStream as StdUnixStream,
    path::{Path, PathBuf},
    sync::Arc,
};

use skein_protocol::limits;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep, sleep_until},
};

use super::{Bind, ListenerSpec, Listeners, Proxy, Socket};

/// A listener that could not be bound.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListenProblem {
    /// Where.
    pub bind: Bind,
    /// Who asked for it.
    pub listener: String,
    /// What happened and what to do.
    pub what: String,
}

/// The running listeners.
pub struct Listening {
    /// What could not be bound; empty when all is well.
    pub problems: watch::Receiver<Arc<Vec<ListenProblem>>>,
    /// Where each listener really is, by what was asked for.
    pub bound: watch::Receiver<Arc<BTreeMap<Bind, Bind>>>,
    task: AbortHandle,
}

impl Drop for Listening {
    /// Closes every listener. Connections go on.
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// Keeps the listeners as `wanted` says, until the value is dropped.
    pub fn listen(self: &Arc<Self>, wanted: watch::Receiver<Arc<Listeners>>) -> Listening {
        let (problems_out, problems) = watch::channel(Arc::default());
        let (bound_out, bound) = watch::channel(Arc::default());
        let set = ListenerSet {
            proxy: Arc::clone(self),
            open: BTreeMap::new(),
            problems: problems_out,
            bound: bound_out,
        };
        let task = self.parts.runtime.spawn(set.run(wanted)).abort_handle();
        Listening { problems, bound, task }
    }
}

struct ListenerSet {
    proxy: Arc<Proxy>,
    open: BTreeMap<Bind, Open>,
    problems: watch::Sender<Arc<Vec<ListenProblem>>>,
    bound: watch::Sender<Arc<BTreeMap<Bind, Bind>>>,
}

struct Open {
    spec: watch::Sender<Arc<ListenerSpec>>,
    at: Bind,
    /// One task; dropped, it ends.
    task: JoinSet<()>,
}

enum Accepting {
    Tcp(TcpListener),
    Unix {
        listener: UnixListener,
        /// Dropped after the listener: fields go in this order.
        _file: Unlink,
    },
}

impl ListenerSet {
    async fn run(mut self, mut wanted: watch::Receiver<Arc<Listeners>>) {
        loop {
            let now = Arc::clone(&wanted.borrow_and_update());
            let all_bound = self.reconcile(&now).await;
            let again = Instant::now() + limits::BIND_RETRY;
            tokio::select! {
                biased;
                () = change(&mut wanted) => {}
                () = sleep_until(again), if !all_bound => {}
            }
        }
    }

    /// Makes the open listeners those that are wanted. True when all are bound.
    async fn reconcile(&mut self, wanted: &Listeners) -> bool {
        let gone = |bind: &&Bind| !wanted.0.contains_key(bind);
        let gone: Vec<Bind> = self.open.keys().filter(gone).cloned().collect();
        for bind in gone {
            if let Some(mut open) = self.open.remove(&bind) {
                // Waits for its end, so that the port is free when this returns.
                open.task.shutdown().await;
            }
        }
        let mut problems = Vec::new();
        for (bind, spec) in &wanted.0 {
            if let Some(open) = self.open.get(bind) {
                open.spec.send_if_modified(|known| {
                    let changed = known != spec;
                    known.clone_from(spec);
                    changed
                });
                continue;
            }
            if let Err(what) = self.open(bind, spec).await {
                problems.push(ListenProblem {
                    bind: bind.clone(),
                    listener: spec.name.clone(),
                    what,
                });
            }
        }
        let all_bound = problems.is_empty();
        self.publish(problems);
        all_bound
    }

    async fn open(&mut self, bind: &Bind, spec: &Arc<ListenerSpec>) -> Result<(), String> {
        if self.open.len() >= limits::LISTENERS_MAX {
            let limit = limits::LISTENERS_MAX;
            return Err(format!("{limit} listeners are open, as many as may be"));
        }
        let inherited = &self.proxy.parts.inherited;
        let socket = bind_socket(bind, inherited).await.map_err(|e| why(bind, spec, &e))?;
        let at = match &socket {
            Accepting::Tcp(listener) => {
                listener.local_addr().map_or_else(|_| bind.clone(), Bind::Tcp)
            }
            Accepting::Unix { .. } => bind.clone(),
        };
        let (spec_out, spec_in) = watch::channel(Arc::clone(spec));
        let accept = accept(Arc::clone(&self.proxy), socket, spec_in);
        let mut task = JoinSet::new();
        task.spawn_on(accept, &self.proxy.parts.runtime);
        self.open.insert(bind.clone(), Open { spec: spec_out, at, task });
        Ok(())
    }

    fn publish(&self, problems: Vec<ListenProblem>) {
        self.problems.send_if_modified(|known| {
            let changed = **known != problems;
            *known = Arc::new(problems);
            changed
        });
        let bound: BTreeMap<Bind, Bind> =
            self.open.iter().map(|(bind, open)| (bind.clone(), open.at.clone())).collect();
        self.bound.send_if_modified(|known| {
            let changed = **known != bound;
            *known = Arc::new(bound);
            changed
        });
    }
}

/// Waits for another set. When nobody can send one any more, the last one stays.
async fn change(wanted: &mut watch::Receiver<Arc<Listeners>>) {
    if wanted.changed().await.is_err() {
        std::future::pending().await
    }
}

/// Listening sockets that were there before this agent, and outlive it: of systemd.
#[derive(Debug, Default)]
pub struct Inherited(Vec<StdTcpListener>);

impl Inherited {
    /// Those that the environment tells of (sd_listen_fds(3)). To be asked once.
    pub fn from_env() -> Self {
        let mut all = listenfd::ListenFd::from_env();
        let sockets = (0..all.len()).filter_map(|n| all.take_tcp_listener(n).ok().flatten());
        Self(sockets.collect())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn at(&self, address: &SocketAddr) -> Option<io::Result<TcpListener>> {
        let is = |one: &&StdTcpListener| one.local_addr().is_ok_and(|at| at == *address);
        let found = self.0.iter().find(is)?;
        Some(found.try_clone().and_then(|socket| {
            socket.set_nonblocking(true)?;
            TcpListener::from_std(socket)
        }))
    }
}

async fn bind_socket(bind: &Bind, inherited: &Inherited) -> io::Result<Accepting> {
    match bind {
        Bind::Tcp(address) => match inherited.at(address) {
            Some(socket) => socket.map(Accepting::Tcp),
            None => TcpListener::bind(address).await.map(Accepting::Tcp),
        },
        Bind::Unix(path) => {
            remove_stale(path)?;
            let listener = UnixListener::bind(path)?;
            Ok(Accepting::Unix { listener, _file: Unlink(path.clone()) })
        }
    }
}

/// Removes a socket that nobody listens at any more, as a killed agent leaves it. Anything else
/// at that path stays.
fn remove_stale(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => match StdUnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
            Ok(_) | Err(_) => Err(io::ErrorKind::AddrInUse.into()),
        },
        Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
        Err(_) => Ok(()),
    }
}

/// Removes the socket's file when its listener goes.
struct Unlink(PathBuf);

impl Drop for Unlink {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn why(bind: &Bind, spec: &ListenerSpec, error: &io::Error) -> String {
    let (at, holder) = match bind {
        Bind::Tcp(address) => {
            (address.to_string(), format!("`ss -ltnp 'sport = :{}'` shows who", address.port()))
        }
        Bind::Unix(path) => (
            format!("unix:{}", path.display()),
            format!("`ss -lxp src {}` shows who", path.display()),
        ),
    };
    let name = &spec.name;
    match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "{at} for {name} is in use ({holder}): stop that, or change `port` in {name}; \
             it is tried again every {} s",
            limits::BIND_RETRY.as_secs()
        ),
        io::ErrorKind::PermissionDenied => format!(
            "{at} for {name} may not be bound by this user: give the agent CAP_NET_BIND_SERVICE \
             for ports below 1024, or the right to write the directory, or change {name}"
        ),
        io::ErrorKind::AddrNotAvailable => {
            format!("{at} for {name} is not an address of this host: change `address` in {name}")
        }
        io::ErrorKind::AlreadyExists => {
            format!("{at} for {name} exists and is no socket: remove it, or change {name}")
        }
        _ => format!("{at} for {name} cannot be bound: {error}"),
    }
}

async fn accept(proxy: Arc<Proxy>, listener: Accepting, spec: watch::Receiver<Arc<ListenerSpec>>) {
    loop {
        let accepted = tokio::select! {
            biased;
            // What comes from now on waits for the next agent, where somebody keeps the socket.
            () = proxy.guard.closing() => return,
            accepted = next(&listener) => accepted,
        };
        match accepted {
            Ok((socket, client)) => {
                let (carrier, follow) = (Arc::clone(&proxy), spec.clone());
                let spec = Arc::clone(&spec.borrow());
                let until = tightened(Arc::clone(&spec), follow);
                let carry = async move { carrier.carry(socket, client, &spec, until).await };
                proxy.parts.runtime.spawn(carry);
            }
            // Out of descriptors, or the caller was gone before it was accepted. The first does
            // not get better by asking again at once.
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                sleep(limits::ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Waits until a connection may no longer be what it was when it came in.
async fn tightened(known: Arc<ListenerSpec>, mut follow: watch::Receiver<Arc<ListenerSpec>>) {
    let other = follow.wait_for(|now| is_other(&known, now)).await.is_ok();
    // Without its listener a caller on this host may finish; one from outside has lost its door.
    if !other && !known.outside {
        std::future::pending::<()>().await;
    }
}

/// Whether who may come in, as whom, or where it leads, is another now.
fn is_other(known: &ListenerSpec, now: &ListenerSpec) -> bool {
    known.terms.allow != now.terms.allow
        || known.terms.source != now.terms.source
        || known.outside != now.outside
        || known.door != now.door
        || (known.outside && known.service != now.service)
}

async fn next(listener: &Accepting) -> io::Result<(Socket, Option<SocketAddr>)> {
    match listener {
        Accepting::Tcp(listener) => {
            let (stream, client) = listener.accept().await?;
            Ok((Socket::Tcp(stream), Some(client)))
        }
        Accepting::Unix { listener, .. } => {
            let (stream, _) = listener.accept().await?;
            Ok((Socket::Unix(stream), None))
        }
    }
}
