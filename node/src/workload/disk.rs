//! The workload's part of the agent's directory: applied documents and last good contents.
//!
//! Everything here may hold secrets, so files are 0600 and directories 0700. A write is complete
//! or does not happen: temporary file, fsync, rename, fsync of the directory.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use skein_protocol::{
    limits,
    name::{Hash, ServiceName},
};

use super::handle::Held;
use crate::keys::file;

/// The places under the agent's directory.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    dir: PathBuf,
}

impl Disk {
    /// Makes the places.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        let disk = Self { dir: dir.to_owned() };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(disk.last_good_dir())?;
        file::keep_owner_of(&disk.last_good_dir())?;
        Ok(disk)
    }

    /// The file of applied documents.
    pub(crate) fn applied_path(&self) -> PathBuf {
        self.dir.join("applied.yaml")
    }

    /// The file of what a person set aside.
    pub(crate) fn holds_path(&self) -> PathBuf {
        self.dir.join("set-aside.json")
    }

    /// What a person set aside, by service; empty where nothing ever was.
    pub(crate) fn holds(&self) -> io::Result<Vec<(Option<ServiceName>, Held)>> {
        match fs::read_to_string(self.holds_path()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
            Ok(text) => serde_json::from_str(&text).map_err(io::Error::other),
        }
    }

    /// Writes what a person set aside.
    pub(crate) fn write_holds(&self, holds: &[(Option<ServiceName>, Held)]) -> io::Result<()> {
        let text = serde_json::to_string(holds).map_err(io::Error::other)?;
        write(&self.holds_path(), &text)
    }

    fn last_good_dir(&self) -> PathBuf {
        self.dir.join("last-good")
    }

    /// Where the last good content of `file` is kept.
    fn last_good_path(&self, file: &Path) -> PathBuf {
        let hash = Hash::of(&[file.as_os_str().as_encoded_bytes()]);
        self.last_good_dir().join(format!("{}.yaml", hash.short()))
    }

    /// The last good content of `file`, if one is kept. The first line names the file.
    pub(crate) fn last_good(&self, file: &Path) -> Option<String> {
        let kept = fs::read_to_string(self.last_good_path(file)).ok()?;
        let (first, text) = kept.split_once('\n')?;
        (first == heading(file)).then(|| text.to_owned())
    }

    /// Keeps `text` as the last good content of `file`, if it is not kept already.
    pub(crate) fn keep(&self, file: &Path, text: &str) -> io::Result<()> {
        if self.last_good(file).as_deref() == Some(text) {
            return Ok(());
        }
        let content = format!("{}\n{text}", heading(file));
        write(&self.last_good_path(file), &content)
    }

    /// Forgets the last good contents of all files but these.
    pub(crate) fn forget_others<'p>(
        &self,
        files: impl Iterator<Item = &'p Path>,
    ) -> io::Result<()> {
        let kept: Vec<PathBuf> = files.map(|file| self.last_good_path(file)).collect();
        for entry in fs::read_dir(self.last_good_dir())? {
            let path = entry?.path();
            if !kept.contains(&path) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// The applied documents' text; empty where none were ever applied.
    pub(crate) fn applied(&self) -> io::Result<String> {
        match fs::read_to_string(self.applied_path()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            other => other,
        }
    }

    /// Writes the applied documents.
    pub(crate) fn write_applied(&self, text: &str) -> io::Result<()> {
        write(&self.applied_path(), text)
    }
}

fn heading(file: &Path) -> String {
    format!("# last good content of {}", file.display()).replace('\n', " ")
}

fn write(path: &Path, content: &str) -> io::Result<()> {
    let dir = path.parent().unwrap_or_else(|| Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.as_file().set_permissions(fs::Permissions::from_mode(0o600))?;
    file::keep_owner(file.as_file(), dir)?;
    file.write_all(content.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    fs::File::open(dir)?.sync_all()
}

/// A file's text and whether nobody but root or this user could have written it, nor put another
/// in its place. Opened once: what is looked at is what is read.
pub(crate) fn read(path: &Path) -> io::Result<(String, bool)> {
    let file = fs::File::options().read(true).custom_flags(NO_WAIT).open(path)?;
    let meta = file.metadata()?;
    let most = u64::try_from(limits::MANIFEST_BYTES).unwrap_or(u64::MAX);
    if !meta.is_file() || meta.len() > most {
        let why = if meta.is_file() {
            format!("it has {} bytes, at most {most} are read", meta.len())
        } else {
            "it is not a plain file".to_owned()
        };
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let mut text = String::new();
    file.take(most.saturating_add(1)).read_to_string(&mut text)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = fs::metadata(directory.unwrap_or_else(|| Path::new(".")))?;
    Ok((text, is_ours(&meta) && is_ours(&directory)))
}

/// Somebody's named pipe among the files must not hold the agent up.
const NO_WAIT: i32 = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();

fn is_ours(meta: &fs::Metadata) -> bool {
    let owner = meta.uid() == 0 || meta.uid() == rustix::process::geteuid().as_raw();
    owner && meta.mode() & 0o022 == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_private_and_of_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open(dir.path()).unwrap();
        let (a, b) = (Path::new("/x/a.yaml"), Path::new("/x/b.yaml"));
        disk.keep(a, "a: 1\n").unwrap();
        assert_eq!(disk.last_good(a).as_deref(), Some("a: 1\n"));
        assert_eq!(disk.last_good(b), None);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&disk.last_good_path(a)), 0o600);
        assert_eq!(mode(&disk.last_good_dir()), 0o700);
        disk.keep(b, "b: 1\n").unwrap();
        disk.forget_others([b].into_iter()).unwrap();
        assert_eq!(disk.last_good(a), None);
        assert!(disk.last_good(b).is_some());
    }

    #[test]
    fn a_file_that_others_can_write_is_not_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.yaml");
        fs::write(&path, "a: 1").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(read(&path).unwrap(), ("a: 1".to_owned(), true));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o664)).unwrap();
        assert!(!read(&path).unwrap().1);
        // Who can write the directory can put another file in its place.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(!read(&path).unwrap().1);
        assert!(read(dir.path()).is_err());
    }
}
