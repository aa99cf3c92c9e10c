//! Cgroups: from the number that the kernel knows one by to the unit that it lies in.
//!
//! A number is never given twice, so what was once read holds for ever. A number that is not
//! known yet makes the tree be read again, once for all who ask.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{DirEntryExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use skein_protocol::{caller::is_unit, limits};
use tokio::sync::Mutex;

/// The units of cgroups, by their number; `None` for those that lie in no unit.
type Known = BTreeMap<u64, Option<Arc<str>>>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Units {
    known: ArcSwap<Known>,
    /// Held while the tree is read.
    reading: Mutex<()>,
}

impl Units {
    /// The unit of cgroup `id`. `None`: this host has no unified hierarchy to look it up in.
    pub(super) async fn of(&self, id: u64) -> Result<Option<Option<String>>, String> {
        if let Some(unit) = self.held(id) {
            return Ok(Some(unit));
        }
        let _reading = self.reading.lock().await;
        if let Some(unit) = self.held(id) {
            return Ok(Some(unit));
        }
        let before = self.known.load_full();
        let read = tokio::task::spawn_blocking(move || read(&before, id)).await;
        let failed = |why: &dyn std::fmt::Display| format!("the cgroups cannot be read: {why}");
        match read.map_err(|error| failed(&error))?.map_err(|error| failed(&error))? {
            None => Ok(None),
            Some(known) => {
                self.known.store(Arc::new(known));
                Ok(Some(self.held(id).flatten()))
            }
        }
    }

    fn held(&self, id: u64) -> Option<Option<String>> {
        self.known.load().get(&id).map(|unit| unit.as_deref().map(str::to_owned))
    }
}

/// All cgroups of this host, and `id` as of no unit if it is not among them: a cgroup that is no
/// more when it is asked for is no more for ever.
fn read(before: &Known, id: u64) -> io::Result<Option<Known>> {
    let Some(root) = mounted(&fs::read_to_string("/proc/self/mounts")?) else {
        return Ok(None);
    };
    let mut known = tree(&root)?;
    // Sockets of cgroups that are gone are remembered too, so that they are not looked for again.
    let gone = before.iter().filter(|(_, unit)| unit.is_none()).map(|(id, _)| *id).chain([id]);
    for id in gone.take(limits::CGROUPS_MAX) {
        known.entry(id).or_insert(None);
    }
    Ok(Some(known))
}

/// Where the unified hierarchy is mounted, by the text of /proc/self/mounts.
fn mounted(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (path, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(path))
    })
}

/// The numbers of all cgroups below `root`, each with the outermost unit that it lies in.
fn tree(root: &Path) -> io::Result<Known> {
    let mut known: Known = [(fs::metadata(root)?.ino(), None)].into();
    let mut open: Vec<(PathBuf, Option<Arc<str>>)> = vec![(root.to_owned(), None)];
    while let Some((path, unit)) = open.pop() {
        // It may have gone since it was listed.
        let Ok(entries) = fs::read_dir(&path) else { continue };
        for entry in entries {
            let Ok(entry) = entry else { break };
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if known.len() >= limits::CGROUPS_MAX {
                let most = limits::CGROUPS_MAX;
                return Err(io::Error::other(format!("there are more than {most}")));
            }
            let name = entry.file_name();
            let own = || name.to_str().filter(|name| is_unit(name)).map(Arc::from);
            let unit = unit.clone().or_else(own);
            known.insert(entry.ino(), unit.clone());
            open.push((entry.path(), unit));
        }
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unified_hierarchy_is_found_among_the_mounts() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs ro 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n\
                      cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n";
        assert_eq!(mounted(mounts), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(mounted("x\n \ntmpfs /x tmpfs\n"), None);
    }

    #[test]
    fn what_lies_below_a_unit_is_of_that_unit_whatever_its_name() {
        let root = tempfile::tempdir().unwrap();
        let number = |path: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(&path).unwrap();
            fs::metadata(path).unwrap().ino()
        };
        let web = number("system.slice/web.service");
        let worker = number("system.slice/web.service/worker");
        let forged = number("user.slice/user@1000.service/app.slice/web.service");
        let slice = number("system.slice");
        fs::write(root.path().join("cgroup.procs"), "").unwrap();
        let known = tree(root.path()).unwrap();
        let unit = |id| known.get(&id).unwrap().as_deref();
        assert_eq!(unit(web), Some("web.service"));
        assert_eq!(unit(worker), Some("web.service"));
        assert_eq!(unit(forged), Some("user@1000.service"));
        assert_eq!(unit(slice), None);
    }
}
