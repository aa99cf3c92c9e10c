//! A UDP relay that loses, delays and reorders by a seed: for paths that this kernel cannot
//! worsen (it has no netem).
//!
//! Each client has a socket of its own towards the target, as behind a NAT.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{net::UdpSocket, sync::watch, task::JoinSet};

/// What the path does to each datagram, both ways.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Path {
    /// Share that is lost, 0 to 1; 1 cuts the path.
    pub loss: f64,
    /// Share that comes twice.
    pub twice: f64,
    /// Least delay.
    pub delay: Duration,
    /// Further delay, at most this, by chance: more than the gap of two datagrams reorders them.
    pub jitter: Duration,
}

/// Clients that a relay serves at most; datagrams of further ones are lost.
const CLIENTS: usize = 64;
const DATAGRAM: usize = 65_535;

/// A relay, running until it is dropped.
#[derive(Debug)]
pub struct Relay {
    /// Where clients send to.
    pub address: SocketAddr,
    path: watch::Sender<Path>,
    counts: Arc<Counts>,
    _tasks: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Counts {
    carried: AtomicU64,
    lost: AtomicU64,
}

impl Relay {
    /// Relays between clients of `listen` and `target`.
    pub async fn start(listen: SocketAddr, target: SocketAddr, path: Path, seed: u64) -> Self {
        let socket = UdpSocket::bind(listen).await.expect("the relay's address");
        let address = socket.local_addr().expect("a bound socket");
        let (path, watched) = watch::channel(path);
        let counts = Arc::<Counts>::default();
        let mut tasks = JoinSet::new();
        let lane =
            Lane { path: watched, counts: Arc::clone(&counts), rng: StdRng::seed_from_u64(seed) };
        tasks.spawn(run(Arc::new(socket), target, lane));
        Self { address, path, counts, _tasks: tasks }
    }

    /// Changes the path from the next datagram on.
    pub fn set(&self, path: Path) {
        self.path.send_replace(path);
    }

    /// Datagrams carried and lost so far.
    pub fn counts(&self) -> (u64, u64) {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (load(&self.counts.carried), load(&self.counts.lost))
    }
}

/// One direction of one client's path.
struct Lane {
    path: watch::Receiver<Path>,
    counts: Arc<Counts>,
    rng: StdRng,
}

impl Lane {
    fn branch(&mut self) -> Self {
        Self {
            path: self.path.clone(),
            counts: Arc::clone(&self.counts),
            rng: StdRng::seed_from_u64(self.rng.random()),
        }
    }

    /// The delays after which a datagram arrives: none, one or two.
    fn fate(&mut self) -> Vec<Duration> {
        let path = *self.path.borrow();
        if self.rng.random::<f64>() < path.loss {
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
            return Vec::new();
        }
        self.counts.carried.fetch_add(1, Ordering::Relaxed);
        let copies = if self.rng.random::<f64>() < path.twice { 2 } else { 1 };
        (0..copies).map(|_| path.delay + path.jitter.mul_f64(self.rng.random::<f64>())).collect()
    }
}

async fn run(socket: Arc<UdpSocket>, target: SocketAddr, mut lane: Lane) {
    let mut clients: BTreeMap<SocketAddr, Arc<UdpSocket>> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    let mut buffer = vec![0; DATAGRAM];
    loop {
        // What is on its way is bounded by the sender's own window.
        while tasks.try_join_next().is_some() {}
        let Ok((count, client)) = socket.recv_from(&mut buffer).await else {
            continue; // An ICMP error of a client that is gone.
        };
        if !clients.contains_key(&client) {
            if clients.len() >= CLIENTS {
                continue;
            }
            let any = SocketAddr::new(target.ip(), 0);
            let any = if target.ip().is_loopback() { any } else { ([0, 0, 0, 0], 0).into() };
            let upstream = Arc::new(UdpSocket::bind(any).await.expect("a free port"));
            upstream.connect(target).await.expect("a UDP socket");
            let back = answers(Arc::clone(&upstream), Arc::clone(&socket), client, lane.branch());
            tasks.spawn(back);
            clients.insert(client, upstream);
        }
        for delay in lane.fate() {
            let (upstream, datagram) = (Arc::clone(&clients[&client]), buffer[..count].to_vec());
            tasks.spawn(async move {
                tokio::time::sleep(delay).await;
                let _ = upstream.send(&datagram).await;
            });
        }
    }
}

async fn answers(from: Arc<UdpSocket>, to: Arc<UdpSocket>, client: SocketAddr, mut lane: Lane) {
    let mut tasks = JoinSet::new();
    let mut buffer = vec![0; DATAGRAM];
    loop {
        while tasks.try_join_next().is_some() {}
        let Ok(count) = from.recv(&mut buffer).await else {
            // The target is not there (yet): the client's next datagram asks again.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        for delay in lane.fate() {
            let (to, datagram) = (Arc::clone(&to), buffer[..count].to_vec());
            tasks.spawn(async move {
                tokio::time::sleep(delay).await;
                let _ = to.send_to(&datagram, client).await;
            });
        }
    }
}
