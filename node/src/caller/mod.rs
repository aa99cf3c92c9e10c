//! Callers: asks the kernel which local process is at the other end of a connection.
//!
//! ```text
//! TCP:  both addresses -> sock_diag (uid, cgroup) -> unit by the cgroup's number
//! unix: SO_PEERCRED (uid, pid)                    -> unit in /proc/PID/cgroup
//! ```
//! What was redirected has its addresses from the kernel's table of connections.
//!
//! In:    a connection that was accepted.
//! Out:   the user and the unit of the process that made its other end, or why they are not known.
//! Never: takes a socket that only resembles the caller's: a listening one, one whose port is the
//!        one that a redirect mapped another to, a process that got the number of one that ended.
//!
//! Every figure is what the kernel kept when the socket was made, so a process that hands its
//! socket on, or moves to another cgroup later, stays who it was. sock_diag needs no rights.

mod cgroup;
mod conntrack;
mod diag;
mod netlink;
mod process;
mod user;

use skein_protocol::{caller::Caller, limits};
use tokio::{sync::Semaphore, time::timeout};

pub use user::uid;

use crate::{
    link::mux::BoxFuture,
    proxy::{Arrival, Identify},
};
use cgroup::Units;
use diag::Found;

/// The kernel, and what is remembered of its cgroups.
#[derive(Debug)]
pub struct Kernel {
    units: Units,
    searches: Semaphore,
}

impl Default for Kernel {
    fn default() -> Self {
        Self { units: Units::default(), searches: Semaphore::new(limits::SEARCHES_MAX) }
    }
}

impl Identify for Kernel {
    fn identify(&self, arrival: Arrival, unit: bool) -> BoxFuture<'_, Result<Caller, String>> {
        Box::pin(self.ask(arrival, unit))
    }
}

impl Kernel {
    async fn ask(&self, arrival: Arrival, unit: bool) -> Result<Caller, String> {
        match arrival {
            Arrival::Tcp { caller, called } => {
                Ok(self.known(&diag::caller(caller, called)?, unit).await)
            }
            Arrival::Redirected { seen, own } => {
                let (caller, called) = conntrack::original(own, seen)?;
                Ok(self.known(&diag::caller(caller, called)?, unit).await)
            }
            Arrival::Unix { uid, process, socket } => {
                let unit = if unit { self.unit_of_peer(process, socket).await } else { Ok(None) };
                Ok(Caller { uid, unit })
            }
        }
    }

    async fn known(&self, found: &Found, unit: bool) -> Caller {
        let unit = if unit { in_time(self.unit(found)).await } else { Ok(None) };
        Caller { uid: found.uid, unit }
    }

    /// By the cgroup that the socket was made in; a kernel before 5.8 does not say it, and a host
    /// without the unified hierarchy has none: there it is the process that holds the socket.
    async fn unit(&self, found: &Found) -> Result<Option<String>, String> {
        if let Some(cgroup) = found.cgroup
            && let Some(unit) = self.units.of(cgroup).await?
        {
            return Ok(unit);
        }
        let (inode, uid) = (found.inode, found.uid);
        self.search(move || process::unit_of_holder(inode, uid)).await
    }

    async fn unit_of_peer(
        &self,
        process: Option<i32>,
        socket: u64,
    ) -> Result<Option<String>, String> {
        let process = process.ok_or_else(|| "its process is of another namespace".to_owned())?;
        let inode = u32::try_from(socket).map_err(|_| "its socket has no number".to_owned())?;
        let peer = diag::unix_peer(inode)?;
        self.search(move || process::unit_of_peer(process, peer)).await
    }

    /// Reads /proc on a thread of its own, a few at a time.
    async fn search(
        &self,
        look: impl FnOnce() -> Result<Option<String>, String> + Send + 'static,
    ) -> Result<Option<String>, String> {
        let stopping = |_| "the agent stops".to_owned();
        let _permit = self.searches.acquire().await.map_err(stopping)?;
        let found = tokio::task::spawn_blocking(look).await;
        found.unwrap_or_else(|_| Err("the search for its process failed".to_owned()))
    }
}

/// A unit that is found soon enough for a caller who waits.
async fn in_time(
    found: impl Future<Output = Result<Option<String>, String>>,
) -> Result<Option<String>, String> {
    let most = limits::IDENTIFY_TIMEOUT.as_millis();
    let late = || format!("not found within {most} ms");
    timeout(limits::IDENTIFY_TIMEOUT, found).await.unwrap_or_else(|_| Err(late()))
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream},
        time::Instant,
    };

    use skein_protocol::caller::unit_in;

    use super::*;

    fn own_uid() -> u32 {
        rustix::process::getuid().as_raw()
    }

    fn own_unit() -> Option<String> {
        let text = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        unit_in(&text).map(str::to_owned)
    }

    #[tokio::test]
    async fn a_caller_is_known_by_tcp_with_and_without_its_unit() {
        let kernel = Kernel::default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let called = listener.local_addr().unwrap();
        let _client = TcpStream::connect(called).unwrap();
        let (_served, caller) = listener.accept().unwrap();
        let arrival = Arrival::Tcp { caller, called };
        for unit in [false, true] {
            let begun = Instant::now();
            for _ in 0..100 {
                let known = kernel.identify(arrival, unit).await.unwrap();
                assert_eq!(known.uid, own_uid());
                assert_eq!(known.unit, Ok(own_unit().filter(|_| unit)));
            }
            println!("known in {:?} each, with its unit: {unit}", begun.elapsed() / 100);
        }
    }

    #[tokio::test]
    async fn a_caller_is_known_by_a_unix_socket() {
        let kernel = Kernel::default();
        let (_one, other) = tokio::net::UnixStream::pair().unwrap();
        let peer = other.peer_cred().unwrap();
        let socket = rustix::fs::fstat(&other).unwrap().st_ino;
        let arrival = Arrival::Unix { uid: peer.uid(), process: peer.pid(), socket };
        let known = kernel.identify(arrival, true).await.unwrap();
        assert_eq!((known.uid, known.unit), (own_uid(), Ok(own_unit())));
    }

    #[tokio::test]
    async fn what_is_not_redirected_is_nobodys_behind_a_redirect() {
        let kernel = Kernel::default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = listener.local_addr().unwrap();
        let _client = TcpStream::connect(own).unwrap();
        let (_served, seen) = listener.accept().unwrap();
        // Not tracked, or tracked as what it is; without the capability there is no answer.
        let known = kernel.identify(Arrival::Redirected { seen, own }, false).await;
        assert!(known.is_err() || known.is_ok_and(|caller| caller.uid == own_uid()));
    }
}
