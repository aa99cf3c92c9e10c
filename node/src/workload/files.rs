//! Files: which files `-f` means, and waking up when they change.
//!
//! A directory means its `*.yaml` and `*.yml`, no dot files, no subdirectories. Never: decides
//! what a file's content is worth.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode},
};
use tokio::sync::mpsc;

use super::disk;

/// A file as it was read.
#[derive(Debug)]
pub(crate) struct FileText {
    /// Its path, as `-f` led to it.
    pub(crate) path: PathBuf,
    /// Whether `-f` named the file itself.
    pub(crate) named: bool,
    /// Its text and whether commands in it may be run; or why it cannot be read.
    pub(crate) read: Result<(String, bool), String>,
}

/// Most files that `-f` may mean together: a host has at most 256 instances, and one
/// ServiceDiscovery for each of a thousand services.
const FILES_MAX: usize = 2048;

/// Reads what `-f` means, in the order of `-f` and then by name.
///
/// # Errors
/// A directory that cannot be listed, with what to do.
pub(crate) fn scan(roots: &[PathBuf]) -> Result<Vec<FileText>, String> {
    let mut files = Vec::new();
    for root in roots {
        if !root.is_dir() {
            files.push((root.clone(), true));
            continue;
        }
        let mut found = list(root).map_err(|error| {
            format!(
                "the directory {} cannot be listed: {error}; make it readable for the agent's user",
                root.display()
            )
        })?;
        found.sort();
        files.extend(found.into_iter().map(|path| (path, false)));
    }
    if files.len() > FILES_MAX {
        let count = files.len();
        return Err(format!(
            "-f means {count} files, at most {FILES_MAX} are read; put several documents into one \
             file, with `---` between"
        ));
    }
    // A file that `-f` names within a directory that it names too is read once, as named.
    let named: BTreeSet<PathBuf> =
        files.iter().filter(|(_, named)| *named).map(|(path, _)| path.clone()).collect();
    let mut seen = BTreeSet::new();
    files.retain(|(path, _)| seen.insert(path.clone()));
    let read = |(path, _): (PathBuf, bool)| FileText {
        read: disk::read(&path).map_err(|error| {
            format!("{} cannot be read: {error}; check its path, owner and mode", path.display())
        }),
        named: named.contains(&path),
        path,
    };
    Ok(files.into_iter().map(read).collect())
}

fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if is_manifest(&path) && !path.is_dir() {
            found.push(path);
        }
    }
    Ok(found)
}

fn is_manifest(path: &Path) -> bool {
    let dot = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    let extension = path.extension().and_then(OsStr::to_str);
    !dot && matches!(extension, Some("yaml" | "yml"))
}

/// Watches what `-f` means until dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    _watcher: Option<RecommendedWatcher>,
    /// Where there is no watcher this keeps the channel silent instead of closed.
    _open: mpsc::Sender<()>,
    /// Gets an item when something changed. One place: more changes before it is read are one.
    pub(crate) changed: mpsc::Receiver<()>,
    /// Why nothing is watched, if so; then only the slow look from time to time finds changes.
    pub(crate) trouble: Option<String>,
}

impl Watch {
    /// Starts watching. A file that `-f` names is watched by its directory, since editors
    /// replace files rather than write into them.
    pub(crate) fn start(roots: &[PathBuf]) -> Self {
        let (sender, changed) = mpsc::channel(1);
        let open = sender.clone();
        let wake = move |event: notify::Result<Event>| {
            if event.is_err() || event.is_ok_and(|event| changes(&event.kind)) {
                // Full means that a look is due already.
                let _ = sender.try_send(());
            }
        };
        let watcher = notify::recommended_watcher(wake).and_then(|mut watcher| {
            for root in roots {
                let dir = match root.parent() {
                    Some(parent) if !root.is_dir() => parent,
                    _ => root,
                };
                let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
                watcher.watch(dir, RecursiveMode::NonRecursive)?;
            }
            Ok(watcher)
        });
        let trouble = watcher.as_ref().err().map(|error| {
            format!(
                "changes of files are found only every 10 s: {error}; raise \
                 fs.inotify.max_user_watches and max_user_instances, then restart the agent"
            )
        });
        Self { _watcher: watcher.ok(), _open: open, changed, trouble }
    }
}

/// Whether something may have changed: our own reading is an event too, and is not.
fn changes(kind: &EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        EventKind::Any
        | EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_)
        | EventKind::Other => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_means_its_yaml_files_but_no_dot_files() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.yml", "a.yaml", ".c.yaml", "d.json", "e.yaml~", "yaml"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        fs::create_dir(dir.path().join("f.yaml")).unwrap();
        let files = scan(&[dir.path().to_owned()]).unwrap();
        let names: Vec<_> =
            files.iter().map(|file| file.path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["a.yaml", "b.yml"]);
        assert!(files.iter().all(|file| !file.named));
    }

    #[test]
    fn a_file_named_within_a_named_directory_is_read_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.yaml");
        fs::write(&file, "").unwrap();
        let files = scan(&[dir.path().to_owned(), file]).unwrap();
        assert_eq!(files.len(), 1);
        assert!(files[0].named);
    }

    #[test]
    fn a_file_that_is_not_there_says_so() {
        let files = scan(&[PathBuf::from("/nowhere/a.yaml")]).unwrap();
        let error = files[0].read.as_ref().unwrap_err();
        assert!(files[0].named);
        assert!(error.contains("/nowhere/a.yaml cannot be read"), "{error}");
    }

    #[tokio::test]
    async fn a_change_wakes_and_reading_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let mut watch = Watch::start(&[dir.path().to_owned()]);
        assert_eq!(watch.trouble, None);
        fs::write(dir.path().join("a.yaml"), "x").unwrap();
        watch.changed.recv().await.unwrap();
        assert!(!changes(&EventKind::Access(AccessKind::Open(AccessMode::Any))));
        assert!(!changes(&EventKind::Access(AccessKind::Read)));
    }
}
