//! The state file over restarts, torn, and at each moment at which an agent may end.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering},
    mpsc,
};

use redb::StorageBackend;
use skein_protocol::{
    name::{Hash, NodeKey},
    trust::Chain,
};

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
    assert!(!first.anchored);
    let writes = vec![
        Write::Reserve(77),
        Write::Peer(NodeKey([1; 32]), bundle(1)),
        Write::Peer(NodeKey([2; 32]), bundle(2)),
        Write::Forget(NodeKey([2; 32])),
        Write::Anchored(true),
    ];
    write_all(disk, writes);
    // The clock went back: the boot rises all the same.
    let (_, again) = Disk::open(directory.path(), Wall(10)).unwrap();
    assert_eq!((again.boot, again.reserved, again.anchored), (1001, 77, true));
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

/// What the system is told to do with the file.
#[derive(Clone, Debug)]
enum Step {
    Write(u64, Vec<u8>),
    Length(u64),
    Sync,
}

/// A file that remembers every step that led to it.
#[derive(Clone, Debug, Default)]
struct Recorder(Arc<Mutex<(Vec<u8>, Vec<Step>)>>);

impl Recorder {
    fn steps(&self) -> Vec<Step> {
        self.0.lock().unwrap().1.clone()
    }

    fn step(&self, step: Step) {
        let mut held = self.0.lock().unwrap();
        take(&mut held.0, &step);
        held.1.push(step);
    }
}

fn take(file: &mut Vec<u8>, step: &Step) {
    match step {
        Step::Write(at, bytes) => {
            let at = usize::try_from(*at).unwrap();
            file.resize(file.len().max(at + bytes.len()), 0);
            file[at..at + bytes.len()].copy_from_slice(bytes);
        }
        Step::Length(length) => file.resize(usize::try_from(*length).unwrap(), 0),
        Step::Sync => {}
    }
}

impl StorageBackend for Recorder {
    fn len(&self) -> std::io::Result<u64> {
        Ok(self.0.lock().unwrap().0.len() as u64)
    }

    fn read(&self, at: u64, out: &mut [u8]) -> std::io::Result<()> {
        let at = usize::try_from(at).unwrap();
        out.copy_from_slice(&self.0.lock().unwrap().0[at..at + out.len()]);
        Ok(())
    }

    fn set_len(&self, length: u64) -> std::io::Result<()> {
        self.step(Step::Length(length));
        Ok(())
    }

    fn sync_data(&self) -> std::io::Result<()> {
        self.step(Step::Sync);
        Ok(())
    }

    fn write(&self, at: u64, bytes: &[u8]) -> std::io::Result<()> {
        self.step(Step::Write(at, bytes.to_vec()));
        Ok(())
    }
}

/// What must be on disk once a batch was called written.
#[derive(Clone, Default, Debug)]
struct Promised {
    reserved: u64,
    policies: Vec<Vec<u8>>,
    revocations: usize,
    anchored: bool,
}

/// The batches of a life, and what each promises: a document of which versions follow on each
/// other, sequences, a key that ends.
fn life() -> Vec<(Vec<Write>, Promised)> {
    let mut promised = Promised::default();
    let mut batches = Vec::new();
    let mut batch = |writes: Vec<Write>, change: &dyn Fn(&mut Promised)| {
        change(&mut promised);
        batches.push((writes, promised.clone()));
    };
    batch(vec![Write::Anchored(true)], &|p| p.anchored = true);
    for round in 1..=6u8 {
        let (version, before) = (Hash([round; 32]), Hash([round - 1; 32]));
        let upto = u64::from(round) * 64;
        batch(vec![Write::Reserve(upto)], &|p| p.reserved = upto);
        batch(vec![Write::Peer(NodeKey([round; 32]), bundle(round))], &|_| {});
        batch(vec![Write::Policy(version, vec![round; 900])], &|p| {
            p.policies = vec![vec![round; 900]];
        });
        batch(vec![Write::ForgetPolicy(before)], &|_| {});
        if round % 3 == 0 {
            let ended = Write::Revocation(Hash([round; 32]), vec![round; 300]);
            batch(vec![ended], &|p| p.revocations += 1);
        }
    }
    batches
}

/// A process that is killed leaves all that it wrote; a machine that ends may leave of that only
/// what came before the last sync. At every single step of the file, nothing that was promised by
/// then is gone, and the file reads.
#[test]
fn wherever_it_is_killed_nothing_that_was_called_written_is_gone() {
    let recorder = Recorder::default();
    let database = Database::builder().create_with_backend(recorder.clone()).unwrap();
    let disk = Disk::over(database, Path::new("state.redb"), Box::new(open)).unwrap();
    let begun = recorder.steps().len();
    let mut promises = vec![(begun, Promised::default())];
    for (number, (writes, promised)) in life().into_iter().enumerate() {
        disk.write(&[(PersistId(number as u64), writes)]).unwrap();
        promises.push((recorder.steps().len(), promised));
    }
    let steps = recorder.steps();
    // At its end a process that is killed does nothing more.
    std::mem::forget(disk);
    assert!(steps.len() > 100, "{}", steps.len());
    let (mut written, mut synced) = (Vec::new(), Vec::new());
    for (number, step) in steps.iter().enumerate() {
        take(&mut written, step);
        if let Step::Sync = step {
            synced.clone_from(&written);
        }
        let at = number + 1;
        if at < begun {
            // Before the first start is over nothing was promised.
            continue;
        }
        let (_, promised) = promises.iter().rev().find(|(by, _)| *by <= at).unwrap();
        for file in [&written, &synced] {
            holds(file, promised, at);
        }
    }
}

fn holds(file: &[u8], promised: &Promised, step: usize) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("state.redb"), file).unwrap();
    let (_, found) = Disk::open(directory.path(), Wall(5)).unwrap();
    assert_eq!(found.alarm, None, "step {step}");
    assert!(found.reserved >= promised.reserved, "step {step}: {} reserved", found.reserved);
    assert!(found.revocations.len() >= promised.revocations, "step {step}");
    assert!(found.anchored || !promised.anchored, "step {step}");
    // The version promised, or one that came after it: its first byte counts up.
    let floor = promised.policies.iter().map(|bytes| bytes[0]).max().unwrap_or_default();
    let newest = found.policies.iter().map(|bytes| bytes[0]).max().unwrap_or_default();
    assert!(newest >= floor, "step {step}: version {newest}, {floor} was promised");
}

/// A file on a disk that takes nothing while it is full.
#[derive(Clone, Debug, Default)]
struct Filled(Arc<Mutex<Vec<u8>>>, Arc<AtomicBool>);

impl Filled {
    fn full(&self) -> std::io::Result<()> {
        match self.1.load(Ordering::Relaxed) {
            true => Err(rustix::io::Errno::NOSPC.into()),
            false => Ok(()),
        }
    }

    fn opener(&self) -> Opener {
        let file = self.clone();
        Box::new(move |path| {
            let made = Database::builder().create_with_backend(file.clone());
            made.map_err(|error| match error {
                redb::DatabaseError::Storage(redb::StorageError::Io(error)) => {
                    open::of_io(path, &error)
                }
                error => Unopened::Damaged(error.to_string()),
            })
        })
    }
}

impl StorageBackend for Filled {
    fn len(&self) -> std::io::Result<u64> {
        Ok(self.0.lock().unwrap().len() as u64)
    }

    fn read(&self, at: u64, out: &mut [u8]) -> std::io::Result<()> {
        let at = usize::try_from(at).unwrap();
        out.copy_from_slice(&self.0.lock().unwrap()[at..at + out.len()]);
        Ok(())
    }

    fn set_len(&self, length: u64) -> std::io::Result<()> {
        self.full()?;
        take(&mut self.0.lock().unwrap(), &Step::Length(length));
        Ok(())
    }

    fn sync_data(&self) -> std::io::Result<()> {
        self.full()
    }

    fn write(&self, at: u64, bytes: &[u8]) -> std::io::Result<()> {
        self.full()?;
        take(&mut self.0.lock().unwrap(), &Step::Write(at, bytes.to_vec()));
        Ok(())
    }
}

#[test]
fn a_disk_that_was_full_is_written_again_as_soon_as_there_is_room() {
    let file = Filled::default();
    let path = Path::new("state.redb");
    let (disk, _) = Disk::load(path, file.opener(), Wall(1)).unwrap();
    let disk = Arc::new(disk);
    let (done, was_done) = mpsc::channel();
    let writer = Writer::start(Arc::clone(&disk), move |written| {
        let _ = done.send(written);
    })
    .unwrap();
    file.1.store(true, Ordering::Relaxed);
    for number in 1..4 {
        writer.write(PersistId(number), vec![Write::Reserve(number * 10)]).unwrap();
        let (id, result) = was_done.recv().unwrap();
        assert_eq!(id, PersistId(number));
        let why = result.unwrap_err();
        assert!(why.contains("No space left"), "{number}: {why}");
        assert!(disk.trouble().unwrap().contains("No space left"));
        assert!(disk.keep_token_uses(&TokenUses::default()).is_err());
    }
    file.1.store(false, Ordering::Relaxed);
    // The next write goes, and one that nobody asks for says so before.
    writer
        .write(PersistId(9), vec![Write::Reserve(90), Write::Peer(NodeKey([1; 32]), bundle(1))])
        .unwrap();
    assert_eq!(was_done.recv().unwrap(), (PersistId(9), Ok(())));
    assert_eq!(disk.trouble(), None);
    drop(writer);
    drop(disk);
    let (_, again) = Disk::load(path, file.opener(), Wall(1)).unwrap();
    assert_eq!((again.reserved, again.peers), (90, vec![bundle(1)]));
}

#[test]
fn a_disk_that_is_well_again_is_found_so_when_nothing_is_to_be_written() {
    let file = Filled::default();
    let (disk, _) = Disk::load(Path::new("state.redb"), file.opener(), Wall(1)).unwrap();
    file.1.store(true, Ordering::Relaxed);
    assert!(disk.keep_virtual_addresses([("shop/api", 7)]).is_err());
    disk.try_again();
    assert!(disk.trouble().is_some());
    file.1.store(false, Ordering::Relaxed);
    disk.try_again();
    assert_eq!(disk.trouble(), None);
    disk.keep_virtual_addresses([("shop/api", 7)]).unwrap();
    assert_eq!(disk.virtual_addresses().unwrap(), [("shop/api".to_owned(), 7)]);
}

/// A write that hangs in the system, as on a frozen file system, is told without it.
#[test]
fn a_write_that_does_not_come_back_is_told() {
    let file = Filled::default();
    let (disk, _) = Disk::load(Path::new("state.redb"), file.opener(), Wall(1)).unwrap();
    assert_eq!(disk.trouble(), None);
    let begun = Instant::now().checked_sub(limits::DISK_PATIENCE).unwrap();
    disk.health().since = Some(begun);
    assert!(disk.trouble().unwrap().contains("does not answer"));
}

/// What a file holds that is worth damaging: several pages of each table.
fn filled(directory: &Path) -> Remembered {
    let (disk, _) = Disk::open(directory, Wall(1000)).unwrap();
    let mut writes = vec![Write::Reserve(1024), Write::Anchored(true)];
    for number in 0..120u8 {
        writes.push(Write::Peer(NodeKey([number; 32]), bundle(number)));
        writes.push(Write::Policy(Hash([number; 32]), vec![number; 700]));
        writes.push(Write::Revocation(Hash([number; 32]), vec![number; 300]));
    }
    disk.restore(writes).unwrap();
    disk.keep_virtual_addresses([("shop/api", 7), ("shop/web", 8)]).unwrap();
    drop(disk);
    let (_, remembered) = Disk::open(directory, Wall(1000)).unwrap();
    remembered
}

/// Bits, pages of zeroes or noise, cuts. What is damaged is put aside and told, or the damage was
/// in a place that nothing stands in: never is it half read, never read as it was not written,
/// and never does it end the agent.
#[test]
fn two_hundred_damages_of_the_state_file_are_told_and_recovered_from() {
    use rand::{RngExt, SeedableRng};
    let whole = tempfile::tempdir().unwrap();
    let before = filled(whole.path());
    let file = std::fs::read(whole.path().join("state.redb")).unwrap();
    let (mut told, mut harmless) = (0, 0);
    for seed in 0..200u64 {
        let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
        let mut bytes = file.clone();
        // Most of a young file is room to grow: half of the damages meet what is in use.
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        let at = rng.random_range(0..if seed % 2 == 0 { used } else { bytes.len() });
        let at = if seed == 3 { 0 } else { at };
        let page = at / 4096 * 4096;
        match seed % 4 {
            0 => (0..rng.random_range(1..4)).for_each(|_| {
                let at = rng.random_range(0..used);
                bytes[at] ^= 1 << rng.random_range(0..8);
            }),
            1 => bytes[page..page + 4096].fill(0),
            2 => rng.fill(&mut bytes[page..page + 4096]),
            _ => bytes.truncate(at),
        }
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("state.redb"), &bytes).unwrap();
        let (disk, found) = Disk::open(directory.path(), Wall(2000)).unwrap();
        match &found.alarm {
            Some(alarm) => {
                told += 1;
                assert!(alarm.contains("put aside"), "seed {seed}: {alarm}");
                assert!(!found.anchored && found.peers.is_empty(), "seed {seed}");
                let aside = directory.path().join("state.redb.unreadable-2");
                assert_eq!(std::fs::read(aside).unwrap().len(), bytes.len(), "seed {seed}");
            }
            None => {
                harmless += 1;
                assert_eq!(found.peers, before.peers, "seed {seed}");
                assert_eq!(found.policies, before.policies, "seed {seed}");
                assert_eq!(found.revocations, before.revocations, "seed {seed}");
                assert_eq!((found.anchored, found.reserved), (true, 1024), "seed {seed}");
            }
        }
        // It takes what comes.
        disk.restore(vec![Write::Reserve(4096)]).unwrap();
        assert_eq!(disk.trouble(), None);
    }
    assert!(told > 90 && harmless > 0, "{told} told, {harmless} harmless");
}
