//! The agent's socket: `<dir>/agent.sock`, 0660, owner and group `skein` where that group exists.
//!
//! It appears under its name only when its permissions are set, and takes the place of one that
//! a crashed agent left; a living agent's is left alone.

use std::{
    io,
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use tokio::net::UnixListener;

/// The group whose members may use the socket.
pub const GROUP: &str = "skein";

/// Where the socket of an agent with this directory is.
pub fn path(dir: &Path) -> PathBuf {
    dir.join("agent.sock")
}

/// Binds the socket. Must run within a tokio runtime.
///
/// Fails when another agent answers on it, when the directory is not writable, and when the path
/// is longer than the 107 bytes that a socket's name may have.
pub fn bind(dir: &Path) -> io::Result<UnixListener> {
    let path = path(dir);
    if UnixStream::connect(&path).is_ok() {
        let text = format!(
            "{}: another agent is running here; stop it first, or use another --dir",
            path.display()
        );
        return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
    }
    let hidden = tempfile::Builder::new()
        .prefix(".s")
        .rand_bytes(4)
        .permissions(std::fs::Permissions::from_mode(0o700))
        .tempdir_in(dir)
        .map_err(|e| explain(&e, dir))?;
    let temporary = hidden.path().join("s");
    check_length(&path)?;
    check_length(&temporary)?;
    let listener = UnixListener::bind(&temporary).map_err(|e| explain(&e, &path))?;
    keep_owner(&temporary, dir).map_err(|e| explain(&e, &path))?;
    give_to_group(&temporary);
    std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o660))?;
    std::fs::rename(&temporary, &path).map_err(|e| explain(&e, &path))?;
    Ok(listener)
}

/// A socket has no descriptor of its own that could be given away.
fn keep_owner(socket: &Path, dir: &Path) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let above = std::fs::metadata(dir)?;
    std::os::unix::fs::chown(socket, Some(above.uid()), Some(above.gid()))
}

fn check_length(path: &Path) -> io::Result<()> {
    if path.as_os_str().len() <= SOCKET_PATH_BYTES {
        return Ok(());
    }
    let text = format!(
        "{}: longer than the {SOCKET_PATH_BYTES} bytes of a socket's path; use a shorter --dir",
        path.display()
    );
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}

fn explain(error: &io::Error, path: &Path) -> io::Error {
    io::Error::new(
        error.kind(),
        format!("{}: cannot make the agent's socket: {error}", path.display()),
    )
}

/// Gives a file to the group `skein`, if there is one and this process may. Without it only the
/// owner can use the file, which is safe, so failure is only told.
pub fn give_to_group(path: &Path) {
    let Some(group) = group_id() else { return };
    if let Err(error) = std::os::unix::fs::chown(path, None, Some(group)) {
        tracing::warn!(path = %path.display(), %error, "not given to group {GROUP}");
    }
}

/// The id of the group, from /etc/group: the one source that needs no library calls.
pub fn group_id() -> Option<u32> {
    find_group(&std::fs::read_to_string("/etc/group").ok()?)
}

fn find_group(text: &str) -> Option<u32> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let id = fields.nth(1)?;
        (name == GROUP).then(|| id.parse().ok()).flatten()
    })
}

/// `sockaddr_un.sun_path` on Linux, less the closing zero.
const SOCKET_PATH_BYTES: usize = 107;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_is_for_owner_and_group_and_replaces_a_dead_one() {
        let dir = tempfile::tempdir().unwrap();
        drop(bind(dir.path()).unwrap());
        let listener = bind(dir.path()).unwrap();
        let mode = std::fs::metadata(path(dir.path())).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        let refused = bind(dir.path()).unwrap_err();
        assert!(refused.to_string().contains("another agent is running"));
        drop(listener);
        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[tokio::test]
    async fn a_path_that_no_socket_can_have_is_said_to_be_too_long() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("x".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        assert!(bind(&deep).unwrap_err().to_string().contains("shorter --dir"));
    }

    #[test]
    fn the_group_is_found_by_its_whole_name() {
        let text = "root:x:0:\nskeins:x:5:\nskein:x:77:ann,bob\n";
        assert_eq!(find_group(text), Some(77));
        assert_eq!(find_group("skein\nskein:x\nskein:x:y:\n"), None);
    }
}
