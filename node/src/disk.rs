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
        let (boot, reserved) = {
            let mut numbers = transaction.open_table(NUMBERS)?;
            let last = numbers.get(BOOT)?.map_or(0, |value| value.value());
            let boot = last.saturating_add(1).max(wall.0);
            numbers.insert(BOOT, boot)?;
            (boot, numbers.get(RESERVED)?.map_or(0, |value| value.value()))
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
        Ok(Remembered { boot, reserved, peers, revocations, policies, alarm })
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
mod tests {
    use skein_protocol::{name::NodeKey, trust::Chain};

    use super::*;

    fn bundle(byte: u8) -> Arc<Bundle> {
        let chain = Chain { leaf: vec![byte; 8], issuer: vec![byte; 8] };
        Arc::new(Bundle { chain, record: vec![byte; 100] })
    }

    fn write_all(disk: Disk, writes: Vec<Write>) {
        let (done, was_done) = mpsc::channel();
        let writer = Writer::start(Arc::new(disk), move |written| {
            let _ = done.send(written);
        })
        .unwrap();
        writer.write(PersistId(1), writes).unwrap();
        assert_eq!(was_done.recv().unwrap(), (PersistId(1), Ok(())));
    }

    #[test]
    fn what_was_written_is_there_after_a_restart_and_the_boot_has_risen() {
        let directory = tempfile::tempdir().unwrap();
        let (disk, first) = Disk::open(directory.path(), Wall(1000)).unwrap();
        assert_eq!((first.boot, first.reserved, first.peers.len()), (1000, 0, 0));
        let writes = vec![
            Write::Reserve(77),
            Write::Peer(NodeKey([1; 32]), bundle(1)),
            Write::Peer(NodeKey([2; 32]), bundle(2)),
            Write::Forget(NodeKey([2; 32])),
        ];
        write_all(disk, writes);
        // The clock went back: the boot rises all the same.
        let (_, again) = Disk::open(directory.path(), Wall(10)).unwrap();
        assert_eq!((again.boot, again.reserved), (1001, 77));
        assert_eq!(again.peers, vec![bundle(1)]);
        assert_eq!(again.alarm, None);
    }

    #[test]
    fn a_torn_file_is_put_aside_and_told() {
        let directory = tempfile::tempdir().unwrap();
        drop(Disk::open(directory.path(), Wall(1000)).unwrap());
        let path = directory.path().join("state.redb");
        let mut bytes = std::fs::read(&path).unwrap();
        for byte in bytes.iter_mut().take(4096) {
            *byte ^= 0x5a;
        }
        std::fs::write(&path, &bytes).unwrap();
        let (_, remembered) = Disk::open(directory.path(), Wall(2000)).unwrap();
        assert!(remembered.alarm.unwrap().contains("state.redb.unreadable-2"));
        assert!(directory.path().join("state.redb.unreadable-2").exists());
    }

    #[test]
    fn a_folder_that_is_not_there_says_what_to_check() {
        let directory = tempfile::tempdir().unwrap();
        let error = Disk::open(&directory.path().join("none"), Wall(1)).unwrap_err();
        assert!(error.to_string().contains("Check that the folder exists"), "{error}");
    }
}
