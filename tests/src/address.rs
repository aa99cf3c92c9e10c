//! Addresses: a loopback address for each host of each test that runs on this machine.
//!
//! An agent bound to 127.x.y.N takes ports 7400 to 7402 of it and the virtual addresses
//! 127.(128 + N mod 128).0.0/16, so what must differ between all agents of the machine is
//! N mod 128. A number is held by a lock on a file in the temporary folder, which the kernel
//! releases with the process, however it ends.

use std::{
    fs::{File, OpenOptions},
    net::{Ipv4Addr, TcpListener, UdpSocket},
    time::{Duration, Instant},
};

/// The ports an agent takes (CLI.md): mesh, http, dns.
pub const PORTS: [u16; 3] = [7400, 7401, 7402];

/// 127.0.77.1 to 127.0.77.127. Below 128 every number has its own virtual addresses.
const NET: [u8; 3] = [127, 0, 77];
const LAST: u8 = 127;
/// Tests of one machine wait for each other this long: the largest takes 50 addresses.
const PATIENCE: Duration = Duration::from_secs(120);

/// One address, ours while this lives.
#[derive(Debug)]
pub struct Address {
    /// The address.
    pub ip: Ipv4Addr,
    /// Held for its lock.
    _lock: File,
}

impl Address {
    /// Takes one, waiting for other tests when all are taken.
    pub fn take() -> Self {
        let start = Instant::now();
        loop {
            if let Some(address) = (1..=LAST).find_map(Self::try_take) {
                return address;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "all {LAST} addresses of 127.0.77.0/24 are taken: another run of these tests, or \
                 agents left over on them (`ss -ltnp | grep 127.0.77`)"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn try_take(number: u8) -> Option<Self> {
        let folder = std::env::temp_dir().join("skein-tests");
        std::fs::create_dir_all(&folder).expect("a temporary folder");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(folder.join(format!("address-{number}")))
            .expect("a lock file");
        lock.try_lock().ok()?;
        let ip = Ipv4Addr::new(NET[0], NET[1], NET[2], number);
        let free = |port: &u16| {
            TcpListener::bind((ip, *port)).is_ok() && UdpSocket::bind((ip, *port)).is_ok()
        };
        PORTS.iter().all(free).then_some(Self { ip, _lock: lock })
    }
}
