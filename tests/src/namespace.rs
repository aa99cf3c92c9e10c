//! Network namespaces: hosts with interfaces of their own on one bridge, and walls between them.
//!
//! Needs root, iproute2 and nftables, so every test that uses it is `#[ignore]` and named
//! `root_...`; `.ci/test` runs them. All names carry the test's process number: tests in parallel
//! and leftovers do not meet. Addresses are 10.77.0.0/24 inside of the namespaces only.

use std::{
    net::{IpAddr, Ipv4Addr},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

/// One namespace with its address on the bridge.
#[derive(Debug)]
pub struct Room {
    /// For `ip netns exec`.
    pub name: String,
    /// Its address, seen from all other rooms.
    pub ip: IpAddr,
}

/// Namespaces on one bridge, which has a namespace too: nothing touches the machine's own
/// network. Dropped, all of it is removed.
#[derive(Debug)]
pub struct Lab {
    /// One for each host.
    pub rooms: Vec<Room>,
    hub: String,
}

/// Fails with the reason when this run may not or cannot use network namespaces.
pub fn require() {
    let allowed = std::env::var("SKEIN_TEST_ROOT").is_ok_and(|value| value == "1");
    assert!(
        allowed,
        "this test makes network namespaces: run it as root with SKEIN_TEST_ROOT=1, as .ci/test does"
    );
    for (program, package) in [("ip", "iproute2"), ("nft", "nftables")] {
        let found = Command::new(program).arg("-V").output();
        assert!(found.is_ok(), "no `{program}`: apt-get install {package}");
    }
}

impl Lab {
    /// `count` rooms, 250 at most, all on one bridge.
    pub fn new(count: u8) -> Self {
        require();
        static LABS: AtomicU32 = AtomicU32::new(0);
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let tag = format!("{}-{number}", std::process::id());
        let hub = format!("sk{tag}-hub");
        let mut lab = Self { rooms: Vec::new(), hub };
        lab.add_namespace(&lab.hub);
        let hub = lab.hub.clone();
        ip(&["-n", &hub, "link", "add", "bridge", "type", "bridge"]);
        ip(&["-n", &hub, "link", "set", "bridge", "up"]);
        for n in 1..=count {
            lab.add_room(n, format!("sk{tag}-{n}"));
        }
        lab
    }

    fn add_namespace(&self, name: &str) {
        ip(&["netns", "add", name]);
        ip(&["-n", name, "link", "set", "lo", "up"]);
    }

    fn add_room(&mut self, n: u8, name: String) {
        self.add_namespace(&name);
        let address = Ipv4Addr::new(10, 77, 0, n);
        // Pushed before the rest, so that a failure below still removes it.
        self.rooms.push(Room { name: name.clone(), ip: IpAddr::V4(address) });
        let port = format!("to-{n}");
        let hub = &self.hub;
        ip(&[
            "-n", hub, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &name,
        ]);
        ip(&["-n", hub, "link", "set", &port, "master", "bridge", "up"]);
        ip(&["-n", &name, "addr", "add", &format!("{address}/24"), "dev", "eth0"]);
        ip(&["-n", &name, "link", "set", "eth0", "up"]);
    }

    /// Parts the rooms: those of `side` (by place, from 0) and all others cannot reach each other.
    pub fn part(&self, side: &[usize]) {
        let address = |n: &usize| self.rooms[*n].ip.to_string();
        let others: Vec<usize> = (0..self.rooms.len()).filter(|n| !side.contains(n)).collect();
        let theirs = others.iter().map(address).collect::<Vec<_>>().join(", ");
        for n in side {
            self.wall(*n, &theirs);
        }
    }

    /// Room `n` gets nothing more from `from` (by place), but may still send: a path of one way.
    pub fn deafen(&self, n: usize, from: usize) {
        let from = self.rooms[from].ip;
        self.nft(
            n,
            &format!(
                "table inet wall {{
                   chain in {{ type filter hook input priority -10; ip saddr {from} drop; }}
                 }}"
            ),
        );
    }

    fn wall(&self, n: usize, others: &str) {
        self.nft(
            n,
            &format!(
                "table inet wall {{
                   chain in {{ type filter hook input priority -10; ip saddr {{ {others} }} drop; }}
                   chain out {{ type filter hook output priority -10; ip daddr {{ {others} }} drop; }}
                 }}"
            ),
        );
    }

    /// All rules of room `n`, as `nft` shows them, comments and counters as they are.
    pub fn rules(&self, n: usize) -> String {
        let output = Command::new("ip")
            .args(["netns", "exec", &self.rooms[n].name, "nft", "list", "ruleset"])
            .output()
            .expect("nft");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Changes the rules of room `n`.
    pub fn nft(&self, n: usize, rules: &str) {
        run("ip", &["netns", "exec", &self.rooms[n].name, "nft", rules]);
    }

    /// Runs `ip` in room `n`.
    pub fn ip(&self, n: usize, arguments: &[&str]) {
        ip(&[&["-n", self.rooms[n].name.as_str()], arguments].concat());
    }

    /// Takes all walls down.
    pub fn heal(&self) {
        for n in 0..self.rooms.len() {
            // To add before deleting makes it right also where there is none.
            self.nft(n, "add table inet wall; delete table inet wall");
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let names = self.rooms.iter().map(|room| &room.name).chain([&self.hub]);
        for name in names {
            // Taken down with all that is in them, also after a failure half-way.
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}

fn ip(arguments: &[&str]) {
    run("ip", arguments);
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(
        output.status.success(),
        "`{program} {}`: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
}
