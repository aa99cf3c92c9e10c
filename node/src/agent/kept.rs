//! Files that the next start needs: that one of them is gone, damaged or cannot be read is said now,
//! while the agent that runs has what stood in it, and not by a host that comes up in no mesh.

use std::{
    collections::BTreeMap,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::{
    identity::Files,
    keys::{
        KeyPair,
        file::{self, FileError},
    },
};

/// What tells that a file was not touched: its place on the disk, time, length, owner and mode.
type Stamp = Option<(u64, i64, i64, u64, u32, u32)>;

/// The files, and what was found when each was last read.
#[derive(Debug)]
pub(super) struct Kept {
    files: Vec<(PathBuf, Read)>,
    found: BTreeMap<PathBuf, (Stamp, Option<String>)>,
}

/// How a file is read at a start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Read {
    Key,
    /// It may be encrypted, and is not opened here.
    SealedKey,
    Chain,
    Roots,
    Certificates,
    State,
}

/// The paths of the node's own files, as settings may name them.
pub(super) struct Named<'a> {
    pub(super) key: &'a Path,
    pub(super) chain: &'a Path,
    pub(super) roots: &'a Path,
    pub(super) sealed: bool,
}

impl Kept {
    /// What the agent of that directory needs.
    pub(super) fn new(files: &Files, named: &Named<'_>, issues: bool) -> Self {
        let key = if named.sealed { Read::SealedKey } else { Read::Key };
        let mut all = vec![
            (named.key.to_owned(), key),
            (named.chain.to_owned(), Read::Chain),
            (named.roots.to_owned(), Read::Roots),
            (files.roots(), Read::Roots),
            (files.directory().join("state.redb"), Read::State),
        ];
        if issues {
            all.push((files.issuer_key(), Read::Key));
            all.push((files.issuer_certificate(), Read::Certificates));
        }
        Self { files: all, found: BTreeMap::new() }
    }

    /// What is wrong with them, a line each. Only what was touched is read again.
    pub(super) fn look(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        for (path, read) in &self.files {
            let stamp = stamp(path);
            let held = self.found.get(path).filter(|(before, _)| *before == stamp);
            let wrong = match held {
                Some((_, wrong)) => wrong.clone(),
                None => {
                    let wrong = wrong(path, *read);
                    self.found.insert(path.clone(), (stamp, wrong.clone()));
                    wrong
                }
            };
            lines.extend(wrong);
        }
        lines.dedup();
        lines
    }
}

fn stamp(path: &Path) -> Stamp {
    let met = std::fs::metadata(path).ok()?;
    Some((met.ino(), met.mtime(), met.mtime_nsec(), met.len(), met.uid(), met.mode()))
}

fn wrong(path: &Path, read: Read) -> Option<String> {
    let then = "the agent runs on with what it has, and its next start needs it";
    let found = match read {
        Read::Key => file::read_key(path).map(|_: KeyPair| ()),
        Read::SealedKey | Read::State => file::readable(path),
        Read::Chain => file::read_chain(path).map(drop),
        Read::Roots => file::read_roots(path).map(drop),
        Read::Certificates => file::read_certificates(path).map(drop),
    };
    match found {
        Ok(()) => foreign(path).map(|owner| {
            format!(
                "{} belongs to {owner}, not to the user of this agent: {then}; run `chown` on it",
                path.display()
            )
        }),
        Err(FileError::Missing(path)) => Some(format!(
            "{} is gone: {then}; bring it back from a backup, or join this host again before then",
            path.display()
        )),
        Err(error) => Some(format!("{error}: {then}")),
    }
}

/// Whose a file is, if it is neither this user's nor root's nor of the directory's owner.
fn foreign(path: &Path) -> Option<String> {
    let met = std::fs::metadata(path).ok()?;
    let above = std::fs::metadata(path.parent()?).ok()?;
    let ours = [0, rustix::process::geteuid().as_raw(), above.uid()];
    (!ours.contains(&met.uid())).then(|| file::user_name(met.uid()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::keys::testing::now;

    #[test]
    fn a_file_that_the_next_start_needs_and_that_is_gone_damaged_or_loose_is_told_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::new(directory.path().join("agent"));
        let options = crate::identity::InitOptions {
            mesh: "prod".to_owned(),
            node: "first".parse().unwrap(),
            zone: None,
            issuers: 1,
            offline_root: false,
            services: Vec::new(),
            operator: directory.path().join("operator"),
        };
        crate::identity::init(&files, &options, now()).unwrap();
        drop(crate::disk::Disk::open(files.directory(), now()).unwrap());
        let (key, chain, roots) = (files.node_key(), files.node_chain(), files.roots());
        let named = Named { key: &key, chain: &chain, roots: &roots, sealed: false };
        let mut kept = Kept::new(&files, &named, true);
        assert_eq!(kept.look(), Vec::<String>::new());
        let whole = std::fs::read(&chain).unwrap();
        std::fs::remove_file(&chain).unwrap();
        let told = kept.look();
        assert!(told.len() == 1 && told[0].contains("node.pem is gone"), "{told:?}");
        std::fs::write(&chain, &whole[..200]).unwrap();
        assert!(kept.look()[0].contains("does not hold"), "{:?}", kept.look());
        std::fs::write(&chain, &whole).unwrap();
        assert_eq!(kept.look(), Vec::<String>::new());
        std::fs::set_permissions(files.issuer_key(), PermissionsExt::from_mode(0o644)).unwrap();
        assert!(kept.look()[0].contains("chmod 600"), "{:?}", kept.look());
        std::fs::remove_file(files.issuer_key()).unwrap();
        std::fs::remove_file(files.directory().join("state.redb")).unwrap();
        assert_eq!(kept.look().len(), 2, "{:?}", kept.look());
    }
}
