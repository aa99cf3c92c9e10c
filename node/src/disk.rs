//! Disk: what an agent must remember over a restart, in one redb file, on a thread of its own.
//!
//! In:    batches of [`Write`].     Out: which of them are on disk, or why not.
//! A torn, damaged or foreign file is put aside under another name, said plainly, and never made
//! empty in silence: records are learned again from peers, certificates stand in files of their
//! own. After an error of reading or writing the file is closed, and opened anew for the next
//! write: the store itself never writes again after one.

mod open;
mod writer;

use std::{
    collections::BTreeSet,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction,
};
use skein_protocol::{
    clock::Wall,
    engine::{PersistId, Write},
    limits,
    name::NodeKey,
    record::{
        Bundle,
        header::Header,
        node::{TokenUse, TokenUses},
    },
    wire::codec,
};

use crate::clock::wall;

use self::open::{Unopened, open, quietly};
pub use self::writer::{Writer, Written};

const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");
const PEERS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("peers");
const REVOCATIONS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("revocations");
const ADDRESSES: TableDefinition<'_, &str, u32> = TableDefinition::new("virtual_addresses");

const POLICIES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("policies");

const TOKENS: TableDefinition<'_, &[u8], (u32, bool, u64)> = TableDefinition::new("tokens");

/// When it was last, how often carried, how often refused.
const EDGES: TableDefinition<'_, &[u8], (u64, u64, u64)> = TableDefinition::new("edges");

const BOOT: &str = "boot";
const RESERVED: &str = "reserved";
const CALLS_KNOWN_SINCE: &str = "calls_known_since";
/// When it was tried last whether the disk can be written again.
const TRIED: &str = "tried";
/// 1 once this disk has held the mesh's policy.
const ANCHORED: &str = "anchored";

/// What was on disk at the start.
#[derive(Debug, Default)]
pub struct Remembered {
    /// This start: above every earlier one, and on disk.
    pub boot: u64,
    /// Sequences below this may have been used.
    pub reserved: u64,
    /// Records of peers and of this host.
    pub peers: Vec<Arc<Bundle>>,
    /// Statements about keys that have ended.
    pub revocations: Vec<Vec<u8>>,
    /// Versions of mesh-wide documents.
    pub policies: Vec<Vec<u8>>,
    /// Whether it has held the mesh's policy.
    pub anchored: bool,
    /// Who called what here.
    pub edges: Vec<KeptEdge>,
    /// Since when that is all of it; `None` where that was never said.
    pub calls_known_since: Option<Wall>,
    /// What was wrong with the file, if something was, and what was done about it.
    pub alarm: Option<String>,
}

impl Remembered {
    /// The nodes whose records stood there, this one among them.
    pub fn origins(&self) -> BTreeSet<NodeKey> {
        let origin = |bundle: &Arc<Bundle>| Some(Header::split(&bundle.record).ok()?.header.origin);
        self.peers.iter().filter_map(origin).collect()
    }
}

/// Who called what at this host, as it is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeptEdge {
    /// The call, as bytes.
    pub key: Vec<u8>,
    /// When it was last.
    pub last: Wall,
    /// How often it was carried.
    pub calls: u64,
    /// How often it was refused.
    pub denied: u64,
}

/// Why there is no state.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The file cannot be opened for a reason that a new file would not heal.
    #[error(
        "cannot open the agent's state {path}: {why}. Check that the folder exists, belongs to \
         the user that runs the agent and is writable, and that no other agent uses it"
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system or redb says.
        why: String,
    },
    /// It could be opened but not written.
    #[error("cannot write the agent's state {path}: {why}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system or redb says.
        why: String,
    },
}

/// Why something was not read or written.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct StateError(String);

/// The state file.
pub struct Disk {
    /// `None` after an error, until it opens again.
    database: Mutex<Option<Database>>,
    path: PathBuf,
    opener: Opener,
    health: Mutex<Health>,
}

/// Opens the file of a path.
type Opener = Box<dyn Fn(&Path) -> Result<Database, Unopened> + Send + Sync>;

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("path", &self.path).finish_non_exhaustive()
    }
}

/// How writing goes.
#[derive(Debug, Default)]
struct Health {
    /// Since when a write is under way.
    since: Option<Instant>,
    /// What the last write failed of.
    failed: Option<String>,
    /// What the engine says of its writes: those that it is owed are not on disk yet.
    owed: Option<String>,
}

impl Disk {
    /// Opens the state, makes this start's boot number, and reads what is there. A file that is
    /// damaged is put aside.
    pub fn open(directory: &Path, wall: Wall) -> Result<(Self, Remembered), DiskError> {
        let path = directory.join("state.redb");
        match Self::load(&path, Box::new(open), wall) {
            Ok(loaded) => Ok(loaded),
            Err(Unopened::Damaged(why)) => {
                let aside = aside(directory, wall);
                let moved = std::fs::rename(&path, &aside);
                moved.map_err(|error| DiskError::Open {
                    path: path.clone(),
                    why: format!("{why}; and it cannot be put aside: {error}"),
                })?;
                let (disk, mut remembered) = Self::load(&path, Box::new(open), wall)
                    .map_err(|why| DiskError::Open { path: path.clone(), why: why.why() })?;
                remembered.alarm = Some(format!(
                    "the state in {} could not be read ({why}) and was put aside as {}; records \
                     are learned again from peers, and this node's sequence from what they have \
                     seen of it",
                    path.display(),
                    aside.display()
                ));
                Ok((disk, remembered))
            }
            Err(Unopened::Kept(why)) => Err(DiskError::Open { path, why }),
        }
    }

    /// Nothing of a file is used that was not read whole.
    fn load(path: &Path, opener: Opener, wall: Wall) -> Result<(Self, Remembered), Unopened> {
        let database = opener(path)?;
        let read = || {
            let disk = Self::over(database, path, opener)?;
            let remembered = disk.remember(wall)?;
            Ok((disk, remembered))
        };
        match quietly(read) {
            Ok(Ok(loaded)) => Ok(loaded),
            Ok(Err(redb::Error::Io(error))) => Err(open::of_io(path, &error)),
            Ok(Err(error)) => Err(Unopened::Damaged(error.to_string())),
            Err(why) => Err(Unopened::Damaged(why)),
        }
    }

    fn over(database: Database, path: &Path, opener: Opener) -> Result<Self, redb::Error> {
        make_tables(&database)?;
        let database = Mutex::new(Some(database));
        Ok(Self { database, path: path.to_owned(), opener, health: Mutex::default() })
    }

    fn database(&self) -> MutexGuard<'_, Option<Database>> {
        // Who panicked over it has left it closed.
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why nothing can be written now, if so: the last write failed, or one does not come back.
    pub fn trouble(&self) -> Option<String> {
        let health = self.health();
        match health.since {
            Some(since) if since.elapsed() >= limits::DISK_PATIENCE => Some(format!(
                "the disk does not answer: a write is under way for more than {} s",
                limits::DISK_PATIENCE.as_secs()
            )),
            _ => health.failed.clone().or_else(|| health.owed.clone()),
        }
    }

    /// The engine says whether writes are owed to it, and why.
    pub fn owes(&self, why: Option<String>) {
        self.health().owed = why;
    }

    /// Writes something small if the last write failed: whether the disk is well again.
    fn try_again(&self) {
        if self.health().failed.is_some() {
            let _ = self.change(|write| {
                write.open_table(NUMBERS)?.insert(TRIED, wall().0)?;
                Ok(())
            });
        }
    }

    /// Does all of something in one transaction, or nothing. The file is opened anew first if an
    /// error has closed it.
    fn change(
        &self,
        change: impl Fn(&WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), StateError> {
        let mut database = self.database();
        #[allow(clippy::disallowed_methods)]
        self.health().since.replace(Instant::now());
        let done = self.changed(&mut database, change);
        let mut health = self.health();
        health.since = None;
        health.failed = done.as_ref().err().map(ToString::to_string);
        done
    }

    fn changed(
        &self,
        held: &mut Option<Database>,
        change: impl Fn(&WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), StateError> {
        if held.is_none() {
            let again = (self.opener)(&self.path).map_err(|why| match why {
                Unopened::Kept(why) => StateError(why),
                Unopened::Damaged(why) => StateError(format!(
                    "{} is damaged ({why}): restart this agent, which puts it aside and learns \
                     again what stood in it",
                    self.path.display()
                )),
            })?;
            *held = Some(again);
        }
        let Some(database) = held.as_ref() else { return Ok(()) };
        let done = quietly(|| {
            let transaction = database.begin_write()?;
            change(&transaction)?;
            transaction.commit()?;
            Ok::<_, redb::Error>(())
        });
        let done = match done {
            Ok(done) => done.map_err(|error| StateError(error.to_string())),
            Err(why) => Err(StateError(why)),
        };
        if done.is_err() {
            // It would refuse every later write, room or not.
            let closed = held.take();
            let _ = quietly(|| drop(closed));
        }
        done
    }

    fn read<T>(
        &self,
        read: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StateError> {
        let held = self.database();
        let Some(database) = held.as_ref() else {
            return Err(StateError(format!("{} is not open", self.path.display())));
        };
        match quietly(|| read(&database.begin_read()?)) {
            Ok(read) => read.map_err(|error| StateError(error.to_string())),
            Err(why) => Err(StateError(why)),
        }
    }

    fn remember(&self, wall: Wall) -> Result<Remembered, redb::Error> {
        let held = self.database();
        let Some(database) = held.as_ref() else { return Ok(Remembered::default()) };
        let transaction = database.begin_write()?;
        let (boot, reserved, anchored, since) = {
            let mut numbers = transaction.open_table(NUMBERS)?;
            let last = numbers.get(BOOT)?.map_or(0, |value| value.value());
            let boot = last.saturating_add(1).max(wall.0);
            numbers.insert(BOOT, boot)?;
            let reserved = numbers.get(RESERVED)?.map_or(0, |value| value.value());
            let anchored = numbers.get(ANCHORED)?.is_some_and(|value| value.value() == 1);
            let since = numbers.get(CALLS_KNOWN_SINCE)?.map(|value| Wall(value.value()));
            (boot, reserved, anchored, since)
        };
        transaction.commit()?;
        let read = database.begin_read()?;
        let mut peers = Vec::new();
        let mut unread = 0usize;
        for entry in read.open_table(PEERS)?.iter()? {
            match codec::decode::<{ limits::BUNDLE_BYTES }, Bundle>(entry?.1.value()) {
                Ok(bundle) => peers.push(Arc::new(bundle)),
                Err(_) => unread = unread.saturating_add(1),
            }
        }
        let alarm = (unread > 0)
            .then(|| format!("{unread} records on disk could not be read; peers have them"));
        let mut revocations = Vec::new();
        for entry in read.open_table(REVOCATIONS)?.iter()? {
            revocations.push(entry?.1.value().to_vec());
        }
        let mut policies = Vec::new();
        for entry in read.open_table(POLICIES)?.iter()? {
            policies.push(entry?.1.value().to_vec());
        }
        Ok(Remembered {
            boot,
            reserved,
            peers,
            revocations,
            policies,
            anchored,
            edges: edges_of(&read)?,
            calls_known_since: since,
            alarm,
        })
    }

    /// The virtual addresses that this host has given, by service.
    pub fn virtual_addresses(&self) -> Result<Vec<(String, u32)>, StateError> {
        self.read(|read| {
            let table = read.open_table(ADDRESSES)?;
            let entries = table.iter()?;
            entries
                .map(|entry| Ok(entry.map(|(k, v)| (k.value().to_owned(), v.value()))?))
                .collect()
        })
    }

    /// Keeps the virtual addresses of services, all or none.
    pub fn keep_virtual_addresses<'s>(
        &self,
        given: impl IntoIterator<Item = (&'s str, u32), IntoIter: Clone>,
    ) -> Result<(), StateError> {
        let given = given.into_iter();
        self.change(|write| {
            let mut table = write.open_table(ADDRESSES)?;
            for (service, address) in given.clone() {
                table.insert(service, address)?;
            }
            Ok(())
        })
    }

    /// Keeps the virtual addresses of these services no longer.
    pub fn forget_virtual_addresses<'s>(
        &self,
        services: impl IntoIterator<Item = &'s str, IntoIter: Clone>,
    ) -> Result<(), StateError> {
        let services = services.into_iter();
        self.change(|write| {
            let mut table = write.open_table(ADDRESSES)?;
            for service in services.clone() {
                table.remove(service)?;
            }
            Ok(())
        })
    }

    /// Who called what here.
    pub fn edges(&self) -> Result<Vec<KeptEdge>, StateError> {
        self.read(edges_of)
    }

    /// Keeps who called what here, and some of it no longer.
    pub fn keep_edges(&self, kept: &[KeptEdge], forgotten: &[Vec<u8>]) -> Result<(), StateError> {
        self.change(|write| {
            let mut table = write.open_table(EDGES)?;
            for key in forgotten {
                table.remove(key.as_slice())?;
            }
            for edge in kept {
                table.insert(edge.key.as_slice(), (edge.last.0, edge.calls, edge.denied))?;
            }
            Ok(())
        })
    }

    /// From then on every call here is kept.
    pub fn know_calls_since(&self, since: Wall) -> Result<(), StateError> {
        self.change(|write| {
            write.open_table(NUMBERS)?.insert(CALLS_KNOWN_SINCE, since.0)?;
            Ok(())
        })
    }

    /// How often each join token was used at this issuer, and which are revoked.
    pub fn token_uses(&self) -> Result<TokenUses, StateError> {
        self.read(|read| {
            let mut uses = TokenUses::default();
            for entry in read.open_table(TOKENS)?.iter()? {
                let (id, value) = entry?;
                let Ok(id) = <[u8; 16]>::try_from(id.value()) else { continue };
                let (times, revoked, until) = value.value();
                let until = Wall(until);
                if times > 0 {
                    uses.used.push(TokenUse { id, uses: times, until });
                }
                if revoked {
                    uses.revoked.push((id, until));
                }
            }
            Ok(uses)
        })
    }

    /// Keeps the uses of tokens.
    pub fn keep_token_uses(&self, uses: &TokenUses) -> Result<(), StateError> {
        self.change(|write| {
            let mut table = write.open_table(TOKENS)?;
            // What is over is forgotten there too.
            table.retain(|_, _| false)?;
            for (id, until) in &uses.revoked {
                table.insert(id.as_slice(), (0, true, until.0))?;
            }
            for TokenUse { id, uses: times, until } in &uses.used {
                table.insert(id.as_slice(), (*times, uses.is_revoked(id), until.0))?;
            }
            Ok(())
        })
    }

    /// Puts what a backup holds on the disk of a new host.
    pub fn restore(&self, writes: Vec<Write>) -> Result<(), StateError> {
        self.write(&[(PersistId(0), writes)])
    }

    /// Writes all of several batches, or nothing.
    fn write(&self, batches: &[(PersistId, Vec<Write>)]) -> Result<(), StateError> {
        self.change(|transaction| {
            let mut numbers = transaction.open_table(NUMBERS)?;
            let mut peers = transaction.open_table(PEERS)?;
            let mut revocations = transaction.open_table(REVOCATIONS)?;
            let mut policies = transaction.open_table(POLICIES)?;
            for write in batches.iter().flat_map(|(_, writes)| writes) {
                match write {
                    Write::Reserve(upto) => {
                        let had = numbers.get(RESERVED)?.map_or(0, |value| value.value());
                        numbers.insert(RESERVED, had.max(*upto))?;
                    }
                    Write::Peer(key, bundle) => {
                        // A bundle came in under the same limit.
                        let bytes = codec::encode::<{ limits::BUNDLE_BYTES }, _>(&**bundle);
                        if let Ok(bytes) = bytes {
                            peers.insert(key.0.as_slice(), bytes.as_slice())?;
                        }
                    }
                    Write::Forget(key) => {
                        peers.remove(key.0.as_slice())?;
                    }
                    Write::Revocation(id, bytes) => {
                        revocations.insert(id.0.as_slice(), bytes.as_slice())?;
                    }
                    Write::Policy(version, bytes) => {
                        policies.insert(version.0.as_slice(), bytes.as_slice())?;
                    }
                    Write::ForgetPolicy(version) => {
                        policies.remove(version.0.as_slice())?;
                    }
                    Write::Anchored(held) => {
                        numbers.insert(ANCHORED, u64::from(*held))?;
                    }
                }
            }
            Ok(())
        })
    }
}

fn edges_of(read: &ReadTransaction) -> Result<Vec<KeptEdge>, redb::Error> {
    let mut edges = Vec::new();
    for entry in read.open_table(EDGES)?.iter()? {
        let (key, value) = entry?;
        let (last, calls, denied) = value.value();
        edges.push(KeptEdge { key: key.value().to_vec(), last: Wall(last), calls, denied });
    }
    Ok(edges)
}

fn make_tables(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    transaction.open_table(NUMBERS)?;
    transaction.open_table(PEERS)?;
    transaction.open_table(REVOCATIONS)?;
    transaction.open_table(POLICIES)?;
    transaction.open_table(ADDRESSES)?;
    transaction.open_table(TOKENS)?;
    transaction.open_table(EDGES)?;
    transaction.commit()?;
    Ok(())
}

fn aside(directory: &Path, wall: Wall) -> PathBuf {
    directory.join(format!("state.redb.unreadable-{}", wall.seconds()))
}

#[cfg(test)]
mod tests;
