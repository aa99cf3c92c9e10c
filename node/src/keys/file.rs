//! Keys and certificates on disk: PEM, written whole or not at all, keys for their owner only.
//!
//! What root writes belongs to whom the directory belongs to, so that an agent of a user of its own
//! can read it. Every error says which file, what is wrong with it and what to do.

use std::{
    fs::{self, File, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use skein_protocol::trust::{Chain, RootChain, Signature, root::NextRoot};

use pkcs8::EncryptedPrivateKeyInfoRef;

use super::{
    pair::{KeyPair, PairError},
    pem::{self, Block},
};

/// Read and written by the owner only: what holds a secret.
pub const SECRET: u32 = 0o600;
/// Read by everybody.
pub const PUBLIC: u32 = 0o644;
/// The largest file that is read: eight roots with room.
const FILE_BYTES: u64 = 64 * 1024;

/// Why a file was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is not there.
    #[error("{} is not there: run `skein init` for a new mesh, or `skein join` for one that runs", .0.display())]
    Missing(PathBuf),
    /// Others can read it.
    #[error("{} can be read by others (mode {mode:o}): run `chmod 600 {}`", .path.display(), .path.display())]
    Loose {
        /// Which.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is encrypted, and stays closed.
    #[error("{} is encrypted: {why}", .path.display())]
    Encrypted {
        /// Which.
        path: PathBuf,
        /// Why, and what to do.
        why: String,
    },
    /// This user may not read it.
    #[error("{} belongs to {owner}, and {user} cannot read it: {}", .path.display(), chown(.path, .user))]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Whose it is.
        owner: String,
        /// Who would read it.
        user: String,
    },
    /// Everybody can put files into it.
    #[error("everybody can write in {} (mode {mode:o}): run `chmod o-w {}`", .path.display(), .path.display())]
    Shared {
        /// Which directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The directory cannot be written.
    #[error("{} cannot be written ({error}): make the directory writable for this user, or name another with --dir", .path.display())]
    Unwritable {
        /// Which file.
        path: PathBuf,
        /// What the operating system says.
        error: io::Error,
    },
    /// It does not hold what it should.
    #[error("{} does not hold {what}: bring it back from a backup, or remove it and join again", .path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// Something else of the operating system.
    #[error("{}: {error}", .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What it says.
        error: io::Error,
    },
    /// A key cannot be made or written.
    #[error(transparent)]
    Pair(#[from] PairError),
}

/// Writes a file whole: beside it first, to disk, then renamed over it, then the directory to
/// disk. A crash leaves the old or the new one.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let unwritable = |error| FileError::Unwritable { path: path.to_owned(), error };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or_else(|| Path::new("."));
    let mut file = tempfile::Builder::new()
        .prefix(".skein-")
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(directory)
        .map_err(unwritable)?;
    keep_owner(file.as_file(), directory).map_err(unwritable)?;
    file.write_all(bytes).map_err(unwritable)?;
    file.as_file().sync_all().map_err(unwritable)?;
    file.persist(path).map_err(|error| unwritable(error.error))?;
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(unwritable)
}

/// Gives what root has just made in a directory to whom the directory belongs to: there root works
/// for the agent's user, or for the person who called it. Not in one that others can write.
pub fn keep_owner(file: impl rustix::fd::AsFd, directory: &Path) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let above = fs::metadata(directory)?;
    let made = rustix::fs::fstat(&file)?;
    let (user, group) = (above.uid(), above.gid());
    if above.mode() & 0o002 != 0 || (made.st_uid, made.st_gid) == (user, group) {
        return Ok(());
    }
    let (user, group) = (rustix::fs::Uid::from_raw(user), rustix::fs::Gid::from_raw(group));
    Ok(rustix::fs::fchown(file, Some(user), Some(group))?)
}

/// The same for what stands at a path.
pub fn keep_owner_of(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    keep_owner(File::open(path)?, directory.unwrap_or_else(|| Path::new(".")))
}

/// Makes the agent's directory. One that is there already stays as it is, but may not be everybody's.
pub fn make_agent_directory(path: &Path) -> Result<(), FileError> {
    make_directory(path)?;
    let mode = fs::metadata(path).map_err(|error| reading(path, error))?.mode() & 0o7777;
    match mode & 0o002 {
        0 => Ok(()),
        _ => Err(FileError::Shared { path: path.to_owned(), mode }),
    }
}

/// Makes a directory that only its owner enters, with those above it. One that is there already
/// stays as it is.
pub fn make_directory(path: &Path) -> Result<(), FileError> {
    let unwritable = |error| FileError::Unwritable { path: path.to_owned(), error };
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.exists()) {
        make_directory(parent)?;
    }
    fs::DirBuilder::new().mode(0o750).create(path).map_err(unwritable)?;
    fs::set_permissions(path, Permissions::from_mode(0o750)).map_err(unwritable)?;
    keep_owner_of(path).map_err(unwritable)
}

/// How a file becomes readable for the user of the agent.
fn chown(path: &Path, user: &str) -> String {
    format!("run `chown {user}: {}` as root", path.display())
}

/// Whether this user can read a file.
pub fn readable(path: &Path) -> Result<(), FileError> {
    File::open(path).map(drop).map_err(|error| reading(path, error))
}

/// A user as people know it.
pub fn user_name(id: u32) -> String {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let found = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(id)).then(|| name.to_owned())
    });
    found.unwrap_or_else(|| id.to_string())
}

fn read(path: &Path) -> Result<Vec<Block>, FileError> {
    let metadata = fs::metadata(path).map_err(|error| reading(path, error))?;
    if metadata.len() > FILE_BYTES {
        return Err(FileError::Content { path: path.to_owned(), what: "a few PEM blocks" });
    }
    let text = fs::read_to_string(path).map_err(|error| reading(path, error))?;
    pem::decode(&text)
        .ok_or_else(|| FileError::Content { path: path.to_owned(), what: "PEM as it should be" })
}

fn reading(path: &Path, error: io::Error) -> FileError {
    let path = path.to_owned();
    if error.kind() == io::ErrorKind::NotFound {
        FileError::Missing(path)
    } else if error.kind() == io::ErrorKind::PermissionDenied {
        // The file itself can be looked at, unless the directory is closed to this user too.
        let met = fs::metadata(&path).or_else(|_| fs::metadata(path.parent().unwrap_or(&path)));
        let owner = met.map_or_else(|_| "another user".to_owned(), |met| user_name(met.uid()));
        let user = user_name(rustix::process::geteuid().as_raw());
        FileError::Unreadable { path, owner, user }
    } else {
        FileError::Io { path, error }
    }
}

/// Writes a private key, for its owner only.
pub fn write_key(path: &Path, pair: &KeyPair) -> Result<(), FileError> {
    let der = pair.to_pkcs8()?;
    write(path, pem::encode([(pem::PRIVATE_KEY, der.as_slice())]).as_bytes(), SECRET)
}

/// Reads a private key. Refuses one that others can read.
pub fn read_key(path: &Path) -> Result<KeyPair, FileError> {
    read_key_with(path, || Err("only the agent reads such a key, by meshPassword".to_owned()))
}

/// Reads a private key that may be encrypted (PKCS#8, RFC 5958, with PBES2, RFC 8018): then
/// `passphrase` is asked.
pub fn read_key_with(
    path: &Path,
    passphrase: impl FnOnce() -> Result<String, String>,
) -> Result<KeyPair, FileError> {
    let metadata = fs::metadata(path).map_err(|error| reading(path, error))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(FileError::Loose { path: path.to_owned(), mode });
    }
    let content = || FileError::Content { path: path.to_owned(), what: "one Ed25519 key" };
    match read(path)?.as_slice() {
        [key] if key.label == pem::PRIVATE_KEY => {
            KeyPair::from_pkcs8(&key.bytes).map_err(|_| content())
        }
        [key] if key.label == pem::ENCRYPTED_KEY => {
            let closed = |why: String| FileError::Encrypted { path: path.to_owned(), why };
            let passphrase = passphrase().map_err(closed)?;
            let sealed = EncryptedPrivateKeyInfoRef::try_from(key.bytes.as_slice());
            let opened = sealed.map_err(|_| content())?.decrypt(passphrase).map_err(|_| {
                closed("the passphrase of meshPassword does not open it".to_owned())
            })?;
            KeyPair::from_pkcs8(opened.as_bytes()).map_err(|_| content())
        }
        _ => Err(content()),
    }
}

/// Writes certificates one after the other.
pub fn write_certificates(path: &Path, certificates: &[&[u8]]) -> Result<(), FileError> {
    let blocks = certificates.iter().map(|der| (pem::CERTIFICATE, *der));
    write(path, pem::encode(blocks).as_bytes(), PUBLIC)
}

/// Reads certificates.
pub fn read_certificates(path: &Path) -> Result<Vec<Vec<u8>>, FileError> {
    let blocks = read(path)?;
    if blocks.is_empty() || blocks.iter().any(|block| block.label != pem::CERTIFICATE) {
        return Err(FileError::Content { path: path.to_owned(), what: "certificates only" });
    }
    Ok(blocks.into_iter().map(|block| block.bytes).collect())
}

/// Writes a node's chain: leaf, then issuer.
pub fn write_chain(path: &Path, chain: &Chain) -> Result<(), FileError> {
    write_certificates(path, &[&chain.leaf, &chain.issuer])
}

/// Reads a node's chain.
pub fn read_chain(path: &Path) -> Result<Chain, FileError> {
    match <[Vec<u8>; 2]>::try_from(read_certificates(path)?) {
        Ok([leaf, issuer]) => Ok(Chain { leaf, issuer }),
        Err(_) => {
            let what = "two certificates, the node's and its issuer's";
            Err(FileError::Content { path: path.to_owned(), what })
        }
    }
}

/// Writes the roots: the first, then each that followed with the signature before it.
pub fn write_roots(path: &Path, roots: &RootChain) -> Result<(), FileError> {
    write(path, roots_text(roots).as_bytes(), PUBLIC)
}

/// The text of a roots file.
pub fn roots_text(roots: &RootChain) -> String {
    let mut blocks = vec![(pem::CERTIFICATE, roots.first.as_slice())];
    for next in &roots.next {
        blocks.push((pem::CERTIFICATE, next.certificate.as_slice()));
        blocks.push((pem::ROOT_SIGNATURE, next.signature.0.as_slice()));
    }
    pem::encode(blocks)
}

/// Reads the roots.
pub fn read_roots(path: &Path) -> Result<RootChain, FileError> {
    let what = "root certificates, each after the first with its signature";
    let content = || FileError::Content { path: path.to_owned(), what };
    roots_in(&read(path)?).ok_or_else(content)
}

/// The roots of a text as [`roots_text`] writes it.
pub fn roots_of(text: &str) -> Option<RootChain> {
    roots_in(&pem::decode(text)?)
}

/// The key of a text.
pub fn key_of(text: &str) -> Option<KeyPair> {
    match pem::decode(text)?.as_slice() {
        [key] if key.label == pem::PRIVATE_KEY => KeyPair::from_pkcs8(&key.bytes).ok(),
        _ => None,
    }
}

fn roots_in(blocks: &[Block]) -> Option<RootChain> {
    let (first, rest) = blocks.split_first()?;
    let mut roots = RootChain::new(first.bytes.clone());
    for pair in rest.chunks(2) {
        let [certificate, signature] = pair else { return None };
        let bytes = <[u8; 64]>::try_from(signature.bytes.as_slice()).ok()?;
        if certificate.label != pem::CERTIFICATE || signature.label != pem::ROOT_SIGNATURE {
            return None;
        }
        let certificate = certificate.bytes.clone();
        roots.next.push(NextRoot { certificate, signature: Signature(bytes) });
    }
    (first.label == pem::CERTIFICATE).then_some(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_for_its_owner_only_and_a_loose_one_is_refused_with_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node.key");
        let pair = KeyPair::generate().unwrap();
        write_key(&path, &pair).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        assert_eq!(read_key(&path).unwrap().node_key(), pair.node_key());
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let error = read_key(&path).unwrap_err().to_string();
        assert!(error.contains("chmod 600") && error.contains("644"), "{error}");
    }

    #[test]
    fn a_file_that_this_user_cannot_read_says_whose_it_is() {
        let path = PathBuf::from("/var/lib/skein/issuer.key");
        let (owner, user) = (user_name(0), "skein".to_owned());
        let text = FileError::Unreadable { path, owner, user }.to_string();
        assert_eq!(
            text,
            "/var/lib/skein/issuer.key belongs to root, and skein cannot read it: run `chown \
             skein: /var/lib/skein/issuer.key` as root"
        );
    }

    #[test]
    fn a_directory_that_everybody_can_write_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b");
        make_directory(&path).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o750, 0o750));
        fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
        assert!(make_agent_directory(&path).unwrap_err().to_string().contains("chmod o-w"));
    }

    /// What root makes for an agent of a user of its own, that user can read.
    #[test]
    #[ignore = "changes owners: needs root"]
    fn root_writes_into_the_directory_of_a_user_and_the_file_is_the_users() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(directory.path(), Some(1234), Some(1235)).unwrap();
        let owner = |path: &Path| {
            let met = fs::metadata(path).unwrap();
            (met.uid(), met.gid())
        };
        let key = directory.path().join("issuer.key");
        write_key(&key, &KeyPair::generate().unwrap()).unwrap();
        assert_eq!(owner(&key), (1234, 1235));
        // One that root has written there before is mended.
        std::os::unix::fs::chown(&key, Some(0), Some(0)).unwrap();
        write_key(&key, &KeyPair::generate().unwrap()).unwrap();
        assert_eq!(owner(&key), (1234, 1235));
        let below = directory.path().join("a/b");
        make_directory(&below).unwrap();
        assert_eq!(
            (owner(&below), owner(&directory.path().join("a"))),
            ((1234, 1235), (1234, 1235))
        );
        // In a place that is everybody's nothing is given away.
        fs::set_permissions(directory.path(), Permissions::from_mode(0o1777)).unwrap();
        let other = directory.path().join("other.key");
        write_key(&other, &KeyPair::generate().unwrap()).unwrap();
        assert_eq!(owner(&other), (0, 0));
    }

    #[test]
    fn a_missing_or_damaged_file_is_told_with_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node.key");
        let error = read_key(&path).unwrap_err().to_string();
        assert!(error.contains("skein init") && error.contains("node.key"), "{error}");
        write(&path, b"nonsense", SECRET).unwrap();
        let error = read_key(&path).unwrap_err().to_string();
        assert!(error.contains("backup"), "{error}");
        let error = write(&directory.path().join("no/such"), b"", SECRET).unwrap_err();
        assert!(error.to_string().contains("--dir"), "{error}");
    }

    #[test]
    fn roots_read_as_they_were_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        let mut roots = RootChain::new(vec![1, 2, 3]);
        write_roots(&path, &roots).unwrap();
        assert_eq!(read_roots(&path).unwrap(), roots);
        roots.next.push(NextRoot { certificate: vec![4], signature: Signature([5; 64]) });
        write_roots(&path, &roots).unwrap();
        assert_eq!(read_roots(&path).unwrap(), roots);
        write_certificates(&path, &[&[1], &[2]]).unwrap();
        assert!(read_roots(&path).is_err(), "a second root without a signature");
    }

    /// `openssl genpkey -algorithm ed25519 | openssl pkcs8 -topk8`, passphrase `correct-horse`.
    const SEALED: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----
MIGbMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAhuSbE5Ocj8CQICCAAw
DAYIKoZIhvcNAgkFADAdBglghkgBZQMEASoEEMpssD4H23KX00gU4WBA6FkEQP5x
okmhd/ZD1XsP06zIY4mNiG5GQbO+Vv/MMrfA3/rsg3a80MmiLENo8IMxYXWjpis6
oAgOgEnhaYdVwKKb0O8=
-----END ENCRYPTED PRIVATE KEY-----
";

    #[test]
    fn an_encrypted_key_opens_with_its_passphrase_and_with_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node.key");
        write(&path, SEALED.as_bytes(), SECRET).unwrap();
        let opened = read_key_with(&path, || Ok("correct-horse".to_owned())).unwrap();
        let public = "05cf045c6e0d10dceb1fe26b3cefe853574b96e3958ba6064e4bb477d55214b8";
        assert_eq!(opened.node_key().to_string(), public);
        let wrong = read_key_with(&path, || Ok("battery-staple".to_owned())).unwrap_err();
        assert!(wrong.to_string().contains("does not open it"), "{wrong}");
        let unsaid = read_key(&path).unwrap_err().to_string();
        assert!(unsaid.contains("meshPassword"), "{unsaid}");
    }
}
