//! Disk: what an agent must remember over a restart, in one redb file, on a thread of its own.
//!
//! In:    batches of [`Write`].     Out: which of them are on disk, or why not.
//! All batches that wait go into one transaction, so that there is one fsync for all of them. A
//! torn or foreign file is put aside under another name, said plainly, and never made empty in
//! silence: records are learned again from peers, certificates stand in files of their own.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread::JoinHandle,
};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use skein_protocol::{
    clock::Wall,
    engine::{PersistId, Write},
    limits,
    record::{Bundle, node::TokenUses},
    wire::codec,
};

const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");
const PEERS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("peers");
const REVOCATIONS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("revocations");
const ADDRESSES: TableDefinition<'_, &str, u32> = TableDefinition::new("virtual_addresses");

const POLICIES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("policies");

const TOKENS: TableDefinition<'_, &[u8], (u32, bool)> = TableDefinition::new("token_uses");

const BOOT: &str = "boot";
const RESERVED: &str = "reserved";
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
    /// What was wrong with the file, if something was, and what was done about it.
    pub alarm: Option<String>,
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

/// The state file.
#[derive(Debug)]
pub struct Disk {
    database: Database,
    path: PathBuf,
}

/// What became of a write.
pub type Written = (PersistId, Result<(), String>);

/// Writes on a thread of its own.
#[derive(Debug)]
pub struct Writer {
    queue: mpsc::SyncSender<(PersistId, Vec<Write>)>,
    thread: Option<JoinHandle<()>>,
}

impl Disk {
    /// Opens the state, makes this start's boot number, and reads what is there. A file that is
    /// torn is put aside.
    pub fn open(directory: &Path, wall: Wall) -> Result<(Self, Remembered), DiskError> {
        let path = directory.join("state.redb");
        let (disk, alarm) = match Self::load(&path) {
            Ok(disk) => (disk, None),
            Err(why) if torn(&path, &why) => {
                let aside = aside(directory, wall);
                let moved = std::fs::rename(&path, &aside);
                moved.map_err(|error| DiskError::Open {
                    path: path.clone(),
                    why: format!("{why}; and it cannot be put aside: {error}"),
                })?;
                let disk =
                    Self::load(&path).map_err(|why| DiskError::Open { path: path.clone(), why })?;
                let alarm = format!(
                    "the state in {} could not be read ({why}) and was put aside as {}; records \
                     are learned again from peers, and this node's sequence from what they have \
                     seen of it",
                    path.display(),
                    aside.display()
                );
                (disk, Some(alarm))
            }
            Err(why) => return Err(DiskError::Open { path, why }),
        };
        let remembered = disk.remember(wall, alarm).map_err(|error| DiskError::Write {
            path: disk.path.clone(),
            why: error.to_string(),
        })?;
        Ok((disk, remembered))
    }

    fn load(path: &Path) -> Result<Self, String> {
        let database = Database::create(path).map_err(|error| error.to_string())?;
        Self::over(database, path)
    }

    fn over(database: Database, path: &Path) -> Result<Self, String> {
        let disk = Self { database, path: path.to_owned() };
        disk.make_tables().map_err(|error| error.to_string())?;
        Ok(disk)
    }

    fn make_tables(&self) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        transaction.open_table(NUMBERS)?;
        transaction.open_table(PEERS)?;
        transaction.open_table(REVOCATIONS)?;
        transaction.open_table(POLICIES)?;
        transaction.open_table(ADDRESSES)?;
        transaction.open_table(TOKENS)?;
        transaction.commit()?;
        Ok(())
    }

    fn remember(&self, wall: Wall, mut alarm: Option<String>) -> Result<Remembered, redb::Error> {
        let transaction = self.database.begin_write()?;
        let (boot, reserved, anchored) = {
            let mut numbers = transaction.open_table(NUMBERS)?;
            let last = numbers.get(BOOT)?.map_or(0, |value| value.value());
            let boot = last.saturating_add(1).max(wall.0);
            numbers.insert(BOOT, boot)?;
            let reserved = numbers.get(RESERVED)?.map_or(0, |value| value.value());
            (boot, reserved, numbers.get(ANCHORED)?.is_some_and(|value| value.value() == 1))
        };
        transaction.commit()?;
        let read = self.database.begin_read()?;
        let mut peers = Vec::new();
        let mut unread = 0usize;
        for entry in read.open_table(PEERS)?.iter()? {
            match codec::decode::<{ limits::BUNDLE_BYTES }, Bundle>(entry?.1.value()) {
                Ok(bundle) => peers.push(Arc::new(bundle)),
                Err(_) => unread = unread.saturating_add(1),
            }
        }
        if unread > 0 && alarm.is_none() {
            alarm = Some(format!("{unread} records on disk could not be read; peers have them"));
        }
        let mut revocations = Vec::new();
        for entry in read.open_table(REVOCATIONS)?.iter()? {
            revocations.push(entry?.1.value().to_vec());
        }
        let mut policies = Vec::new();
        for entry in read.open_table(POLICIES)?.iter()? {
            policies.push(entry?.1.value().to_vec());
        }
        Ok(Remembered { boot, reserved, peers, revocations, policies, anchored, alarm })
    }

    /// The virtual addresses that this host has given, by service.
    pub fn virtual_addresses(&self) -> Result<Vec<(String, u32)>, redb::Error> {
        let read = self.database.begin_read()?;
        let table = read.open_table(ADDRESSES)?;
        table
            .iter()?
            .map(|entry| Ok(entry.map(|(k, v)| (k.value().to_owned(), v.value()))?))
            .collect()
    }

    /// Keeps the virtual addresses of services, all or none.
    pub fn keep_virtual_addresses<'s>(
        &self,
        given: impl IntoIterator<Item = (&'s str, u32)>,
    ) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        {
            let mut table = transaction.open_table(ADDRESSES)?;
            for (service, address) in given {
                table.insert(service, address)?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// Keeps the virtual addresses of these services no longer.
    pub fn forget_virtual_addresses<'s>(
        &self,
        services: impl IntoIterator<Item = &'s str>,
    ) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        {
            let mut table = transaction.open_table(ADDRESSES)?;
            for service in services {
                table.remove(service)?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// How often each join token was used at this issuer, and which are revoked.
    pub fn token_uses(&self) -> Result<TokenUses, redb::Error> {
        let read = self.database.begin_read()?;
        let mut uses = TokenUses::default();
        for entry in read.open_table(TOKENS)?.iter()? {
            let (id, value) = entry?;
            let Ok(id) = <[u8; 16]>::try_from(id.value()) else { continue };
            let (used, revoked) = value.value();
            uses.used.push((id, used));
            if revoked {
                uses.revoked.push(id);
            }
        }
        Ok(uses)
    }

    /// Keeps the uses of tokens.
    pub fn keep_token_uses(&self, uses: &TokenUses) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        {
            let mut table = transaction.open_table(TOKENS)?;
            for (id, used) in &uses.used {
                table.insert(id.as_slice(), (*used, uses.revoked.contains(id)))?;
            }
            for id in uses.revoked.iter().filter(|id| !uses.used.iter().any(|(u, _)| u == *id)) {
                table.insert(id.as_slice(), (0, true))?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// Puts what a backup holds on the disk of a new host.
    pub fn restore(&self, writes: Vec<Write>) -> Result<(), redb::Error> {
        self.write(&[(PersistId(0), writes)])
    }

    /// Writes all of several batches, or nothing.
    fn write(&self, batches: &[(PersistId, Vec<Write>)]) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        {
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
        }
        transaction.commit()?;
        Ok(())
    }
}

/// Whether a file that cannot be loaded is there and is not a database that others hold.
fn torn(path: &Path, why: &str) -> bool {
    let held = why.contains("already open") || why.contains("Permission denied");
    !held && path.is_file() && std::fs::File::open(path).is_ok()
}

fn aside(directory: &Path, wall: Wall) -> PathBuf {
    directory.join(format!("state.redb.unreadable-{}", wall.seconds()))
}

impl Writer {
    /// Starts the thread. `written` is called on it, once for each batch, in order.
    pub fn start(
        disk: Arc<Disk>,
        written: impl Fn(Written) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (queue, batches) =
            mpsc::sync_channel::<(PersistId, Vec<Write>)>(limits::PERSIST_WAITING);
        let thread =
            std::thread::Builder::new().name("skein-disk".to_owned()).spawn(move || {
                while let Ok(first) = batches.recv() {
                    let mut all = vec![first];
                    all.extend(batches.try_iter().take(limits::PERSIST_WAITING));
                    let result = disk.write(&all).map_err(|error| error.to_string());
                    for (id, _) in all {
                        written((id, result.clone()));
                    }
                }
            })?;
        Ok(Self { queue, thread: Some(thread) })
    }

    /// Queues a batch. A full queue refuses: the disk is far behind.
    pub fn write(&self, id: PersistId, writes: Vec<Write>) -> Result<(), String> {
        self.queue
            .try_send((id, writes))
            .map_err(|_| "the disk is too slow: too many writes wait for it".to_owned())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // What was queued is written before the thread ends: closing the queue ends its loop.
        let (closed, _) = mpsc::sync_channel(1);
        self.queue = closed;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
