//! Opening the state file: checked page by page before anything in it is used. What is damaged is
//! told from what a full, read-only or foreign file is, since only the first is healed by a new one.

use std::{
    cell::Cell,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Once,
};

use redb::{Database, DatabaseError, StorageError};

/// Why a file does not open.
#[derive(Debug)]
pub(super) enum Unopened {
    /// What stands in it is not what was written: another file heals it.
    Damaged(String),
    /// The system or another agent is in the way: the file may be well.
    Kept(String),
}

impl Unopened {
    pub(super) fn why(self) -> String {
        match self {
            Self::Damaged(why) | Self::Kept(why) => why,
        }
    }
}

/// Opens the file, or makes it, and reads every page of it.
pub(super) fn open(path: &Path) -> Result<Database, Unopened> {
    // The store makes no file of no length but a new one, and would take this for one.
    if std::fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() == 0) {
        return Err(Unopened::Damaged("it is empty".to_owned()));
    }
    let opened = quietly(|| {
        let mut builder = Database::builder();
        builder.set_check_integrity_on_open(true);
        builder.create(path)
    });
    match opened {
        Ok(Ok(database)) => {
            // Root may look into it while no agent runs.
            match crate::keys::file::keep_owner_of(path) {
                Ok(()) => Ok(database),
                Err(error) => Err(Unopened::Kept(error.to_string())),
            }
        }
        Ok(Err(error)) => Err(of_database(path, error)),
        Err(panic) => Err(Unopened::Damaged(panic)),
    }
}

fn of_database(path: &Path, error: DatabaseError) -> Unopened {
    let text = error.to_string();
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::TransactionInProgress => {
            Unopened::Kept(text)
        }
        DatabaseError::Storage(StorageError::Io(error)) => of_io(path, &error),
        _ if path.is_file() => Unopened::Damaged(text),
        _ => Unopened::Kept(text),
    }
}

/// An error of reading or writing. What the system refuses for want of room, rights or memory says
/// nothing about what stands in the file.
pub(super) fn of_io(path: &Path, error: &io::Error) -> Unopened {
    use rustix::io::Errno;
    let refused = [
        Errno::NOSPC,
        Errno::DQUOT,
        Errno::ROFS,
        Errno::FBIG,
        Errno::ACCESS,
        Errno::PERM,
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOMEM,
        Errno::NOENT,
        Errno::NOTDIR,
        Errno::STALE,
        Errno::TIMEDOUT,
        Errno::INTR,
    ];
    let refused = Errno::from_io_error(error).is_some_and(|errno| refused.contains(&errno));
    if refused || !path.is_file() {
        Unopened::Kept(error.to_string())
    } else {
        Unopened::Damaged(error.to_string())
    }
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Does what may meet a damaged page: a panic of the store over it is what it says, and neither
/// ends the agent nor is printed as a bug of it.
pub(super) fn quietly<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                before(panic);
            }
        }));
    });
    QUIET.set(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    QUIET.set(false);
    done.map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        format!("a page of it is damaged ({})", text.unwrap_or("the store cannot read it"))
    })
}
