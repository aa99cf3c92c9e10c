//! `backup`, `policy adopt`: what outlives the loss of every disk.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{Client, Console, Exit, exit::CliError};
use crate::{
    api::dto::{ApplyReport, BackupReport, Documents, RevokeReport, RevokeRequest},
    clock::{rfc3339, wall},
    identity::{Backup, Files},
};

/// `skein backup`.
#[derive(Args, Debug)]
pub(super) struct BackupArgs {
    /// Where to write it: a new file, for its owner only
    file: PathBuf,
    /// Leave the root's key out, also where it is on this host
    #[arg(long)]
    without_root: bool,
}

/// `skein policy adopt`.
#[derive(Args, Debug)]
pub(super) struct AdoptArgs {
    /// A backup of this mesh
    file: PathBuf,
}

/// Writes a backup.
pub(super) fn backup(
    client: &Client,
    dir: &Path,
    args: &BackupArgs,
    console: &mut Console<'_>,
) -> Result<Exit, CliError> {
    if args.file.exists() {
        let text = format!("{} is there already", args.file.display());
        return Err(CliError::failed(text).fix("name a new file"));
    }
    let held: BackupReport = client.get("/v1/backup")?;
    let files = Files::new(dir);
    let read = |path: PathBuf| {
        std::fs::read_to_string(&path)
            .map_err(|error| CliError::failed(format!("{}: {error}", path.display())))
    };
    let with_root = !args.without_root && files.root_key().exists();
    let root_key = if with_root { read(files.root_key())? } else { String::new() };
    let counts = (held.documents.len(), held.revocations.len());
    let backup = Backup {
        taken: rfc3339(wall()),
        roots: read(files.roots())?,
        root_key,
        documents: held.documents,
        revocations: held.revocations,
        ..Backup::default()
    };
    backup.write(&args.file).map_err(|error| CliError::failed(error.to_string()))?;
    let root = match with_root {
        true => "and the root's key: whoever has it is the mesh, so keep it as you keep that",
        false => "without the root's key: `init --from` will want it with --root FILE",
    };
    console.print(&format!(
        "{}: {} documents, {} revocations, {root}",
        args.file.display(),
        counts.0,
        counts.1
    ))?;
    Ok(Exit::Done)
}

/// Puts the documents and revocations of a backup into force again: their operators signed them.
pub(super) fn adopt(
    client: &Client,
    args: &AdoptArgs,
    console: &mut Console<'_>,
) -> Result<Exit, CliError> {
    let read = Backup::read(&args.file).map_err(|error| CliError::failed(error.to_string()));
    let (backup, _) = read?;
    for statement in &backup.revocations {
        let request = RevokeRequest { statement: statement.clone(), wait_ms: 0 };
        let _: RevokeReport = client.post("/v1/revoke", &request)?;
    }
    let documents = Documents { signed: backup.documents, wait_ms: 10_000, ..Documents::default() };
    let report: ApplyReport = client.post("/v1/apply", &documents)?;
    console.show(&report)?;
    let everywhere = report.visible.on >= report.visible.of;
    Ok(if everywhere { Exit::Done } else { Exit::Degraded })
}
