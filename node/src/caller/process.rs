//! Processes under /proc: the unit of the one that holds a socket.
//!
//! A process is held by its folder, opened once: when it ends, nothing more can be read there,
//! also if another one gets its number.

use std::{
    fs::File,
    io::Read,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt,
    },
};

use rustix::{
    fs::{CWD, Dir, Mode, OFlags, openat, readlinkat},
    io::Result as IoResult,
};
use skein_protocol::{caller::unit_in, limits};

/// The unit of a process of user `uid` that holds socket `inode`.
pub(super) fn unit_of_holder(inode: u32, uid: u32) -> Result<Option<String>, String> {
    let none = || format!("no process of uid {uid} shows its socket: may this agent look?");
    let all = std::fs::read_dir("/proc").map_err(|error| format!("/proc: {error}"))?;
    let of_user = all.filter_map(Result::ok).filter(|entry| {
        let number = entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok());
        number && entry.metadata().is_ok_and(|found| found.uid() == uid)
    });
    let mut budget = limits::DESCRIPTORS_MAX;
    for entry in of_user.take(limits::PROCESSES_MAX) {
        let Ok(process) = open(CWD, &entry.path()) else { continue };
        if holds(&process, inode, &mut budget) {
            return unit(&process);
        }
        if budget == 0 {
            return Err(format!("the processes of uid {uid} have too many open files to search"));
        }
    }
    Err(none())
}

/// The unit of process `pid`, if it is the one that holds socket `inode`.
pub(super) fn unit_of_peer(pid: i32, inode: u32) -> Result<Option<String>, String> {
    let path = format!("/proc/{pid}");
    let gone = |_| "its process has ended".to_owned();
    let process = open(CWD, path.as_ref()).map_err(gone)?;
    let mut budget = limits::DESCRIPTORS_MAX;
    if !holds(&process, inode, &mut budget) {
        return Err(format!("process {pid} does not show its socket: may this agent look?"));
    }
    unit(&process)
}

fn open(at: impl AsFd, path: &std::path::Path) -> IoResult<OwnedFd> {
    openat(at, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Whether one of the process's descriptors is that socket. What cannot be read is not held.
fn holds(process: &OwnedFd, inode: u32, budget: &mut usize) -> bool {
    let wanted = format!("socket:[{inode}]");
    let Ok(folder) = open(process, "fd".as_ref()) else { return false };
    let Ok(entries) = Dir::read_from(&folder) else { return false };
    for entry in entries {
        let Ok(entry) = entry else { return false };
        let Some(left) = budget.checked_sub(1) else { return false };
        *budget = left;
        let target = readlinkat(&folder, entry.file_name(), Vec::new());
        if target.is_ok_and(|target| target.as_bytes() == wanted.as_bytes()) {
            return true;
        }
    }
    false
}

fn unit(process: &OwnedFd) -> Result<Option<String>, String> {
    let failed = |error: &dyn std::fmt::Display| format!("its cgroup cannot be read: {error}");
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = openat(process, "cgroup", flags, Mode::empty()).map_err(|e| failed(&e))?;
    let mut text = String::new();
    let mut file = File::from(file).take(limits::CGROUP_TEXT_BYTES);
    file.read_to_string(&mut text).map_err(|e| failed(&e))?;
    Ok(unit_in(&text).map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn inode(of: impl AsFd) -> u32 {
        u32::try_from(rustix::fs::fstat(of).unwrap().st_ino).unwrap()
    }

    #[test]
    fn the_holder_of_a_socket_is_found_among_its_users_processes() {
        let (one, _other) = UnixStream::pair().unwrap();
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = unit_in(&own).map(str::to_owned);
        let uid = rustix::process::getuid().as_raw();
        assert_eq!(unit_of_holder(inode(&one), uid), Ok(own.clone()));
        assert!(unit_of_holder(u32::MAX, uid).is_err());
        let pid = i32::try_from(std::process::id()).unwrap();
        assert_eq!(unit_of_peer(pid, inode(&one)), Ok(own));
        assert!(unit_of_peer(pid, u32::MAX).is_err(), "it does not hold that one");
        assert!(unit_of_peer(i32::MAX, inode(&one)).is_err());
    }

    #[test]
    fn a_search_ends_when_its_budget_does() {
        let (one, _other) = UnixStream::pair().unwrap();
        let process = open(CWD, "/proc/self".as_ref()).unwrap();
        let (mut none, mut all) = (0, limits::DESCRIPTORS_MAX);
        assert!(!holds(&process, inode(&one), &mut none));
        assert!(holds(&process, inode(&one), &mut all));
    }
}
