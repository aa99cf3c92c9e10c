//! `issuer add|renew`, `root rotate|drop`: who certifies nodes, and who certifies those. Works on
//! this host's files with the root's key, and tells a running agent.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::{Client, Console, Exit, exit::CliError};
use crate::{
    api::dto::{RootsReport, RootsRequest},
    clock::{rfc3339, wall},
    identity::{Files, RootKey},
    keys::file,
};

/// `skein issuer`.
#[derive(Subcommand, Debug)]
pub(super) enum IssuerCommand {
    /// Make this host an issuer, so that no single host matters for joining and renewing
    Add(RootArgs),
    /// Renew this host's issuer certificate for a year; with the root online it renews itself
    Renew(RootArgs),
}

/// Where the root's key is.
#[derive(Args, Debug)]
pub(super) struct RootArgs {
    /// The root's key [default: root.key in the agent's directory]
    #[arg(long, value_name = "FILE")]
    root: Option<PathBuf>,
}

/// `skein root`.
#[derive(Subcommand, Debug)]
pub(super) enum RootCommand {
    /// Let another root follow on the newest: trusted by all first, used then
    Rotate(RotateArgs),
    /// End the oldest root, once another has followed on it and all are certified under that
    Drop(DropArgs),
}

/// `skein root drop`.
#[derive(Args, Debug)]
pub(super) struct DropArgs {
    /// The newest root's key [default: root.key in the agent's directory]
    #[arg(long, value_name = "FILE")]
    pub(super) root: Option<PathBuf>,
    /// The certificate of an operator that the old root certified and that stays; repeatable.
    /// Those with documents in force stay without a word
    #[arg(long, value_name = "FILE")]
    pub(super) keep: Vec<PathBuf>,
    /// Drop it though members still use it: they will have to join anew
    #[arg(long)]
    pub(super) force: bool,
    /// Only say what it would do; exits 4
    #[arg(long)]
    pub(super) dry_run: bool,
    /// How long to wait for members to hear of it
    #[arg(long, value_name = "DURATION", value_parser = super::duration, default_value = "5s")]
    pub(super) wait: std::time::Duration,
}

/// `skein root rotate`.
#[derive(Args, Debug)]
pub(super) struct RotateArgs {
    /// The newest root's key [default: root.key in the agent's directory]
    #[arg(long, value_name = "FILE")]
    root: Option<PathBuf>,
    /// Use the new root though members are away: they will have to join anew
    #[arg(long)]
    force: bool,
    /// How long to wait for members to trust it
    #[arg(long, value_name = "DURATION", value_parser = super::duration, default_value = "30s")]
    wait: std::time::Duration,
}

/// The verbs of roots.
pub(super) fn root(
    client: &Client,
    dir: &Path,
    command: &RootCommand,
    console: &mut Console<'_>,
) -> Result<Exit, CliError> {
    match command {
        RootCommand::Rotate(args) => rotate(client, dir, args, console),
        RootCommand::Drop(args) => super::revoke::drop_root(client, dir, args, console),
    }
}

fn rotate(
    client: &Client,
    dir: &Path,
    args: &RotateArgs,
    console: &mut Console<'_>,
) -> Result<Exit, CliError> {
    let failed = |error: &dyn std::fmt::Display| CliError::failed(error.to_string());
    let files = Files::new(dir);
    let path = args.root.clone().unwrap_or_else(|| files.root_key());
    let beside = |word: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(word);
        PathBuf::from(name)
    };
    let held = RootKey::open(&files, Some(&path)).map_err(|error| {
        CliError::failed(format!("this needs the newest root's key: {error}"))
            .fix("run it on a member where that key is, or name it with --root FILE")
    })?;
    let chain = held.follow(&beside(".next"), wall()).map_err(|error| failed(&error))?;
    let request = RootsRequest {
        roots: file::roots_text(&chain),
        wait_ms: u64::try_from(args.wait.as_millis()).unwrap_or(u64::MAX),
    };
    let report: RootsReport = client.post("/v1/roots", &request)?;
    let (on, of) = (report.visible.on, report.visible.of);
    let known = format!("the new root is trusted on {on}/{of} nodes");
    if !report.unheard.is_empty() && !args.force {
        let who = report.unheard.join(", ");
        console.print(&format!("{known}, not on {who}; nothing uses it yet"))?;
        console.say(
            "  next: run this again when they are back, or say --force: who is away then has to \
             join anew",
        );
        return Ok(Exit::Degraded);
    }
    let old = beside(&format!(".old-{}", report.roots - 1));
    let moved = std::fs::rename(&path, &old).and_then(|()| std::fs::rename(beside(".next"), &path));
    moved.map_err(|error| failed(&format!("{}: {error}", path.display())))?;
    let _: serde_json::Value = client.post("/v1/issuer", &())?;
    console.print(&format!(
        "{known}; its key is {}, the old one {}. This host's issuer is renewed under it now; on each \
         other issuer's host run `skein issuer renew --root FILE` with the new key, and nodes follow \
         by themselves. The old root stays trusted until `skein root drop`",
        path.display(),
        old.display()
    ))?;
    Ok(Exit::Done)
}

/// Files as they were, for when the agent cannot use those that took their place.
struct Before<const N: usize>([(PathBuf, Option<Vec<u8>>); N]);

impl<const N: usize> Before<N> {
    fn of(paths: [PathBuf; N]) -> Self {
        Self(paths.map(|path| {
            let bytes = std::fs::read(&path).ok();
            (path, bytes)
        }))
    }

    /// As well as it goes: what failed before is what people are told.
    fn put_back(self) {
        for (path, bytes) in self.0 {
            let secret = path.extension().is_some_and(|extension| extension == "key");
            let mode = if secret { file::SECRET } else { file::PUBLIC };
            let _ = match bytes {
                Some(bytes) => file::write(&path, &bytes, mode).is_ok(),
                None => std::fs::remove_file(&path).is_ok(),
            };
        }
    }
}

/// The verbs of issuers.
pub(super) fn issuer(
    client: &Client,
    dir: &Path,
    command: &IssuerCommand,
    console: &mut Console<'_>,
) -> Result<Exit, CliError> {
    let (args, renews) = match command {
        IssuerCommand::Add(args) => (args, false),
        IssuerCommand::Renew(args) => (args, true),
    };
    let files = Files::new(dir);
    if !files.is_member() {
        return Err(CliError::failed(format!("{} is in no mesh", dir.display()))
            .fix("skein join ADDR --token @FILE"));
    }
    match (files.issuer_certificate().exists(), renews) {
        (true, false) => {
            let text = "this host holds an issuer already";
            return Err(CliError::failed(text).fix("skein issuer renew"));
        }
        (false, true) => {
            let text = "this host holds no issuer";
            return Err(CliError::failed(text).fix("skein issuer add"));
        }
        _ => {}
    }
    let root = RootKey::open(&files, args.root.as_deref()).map_err(|error| {
        CliError::failed(format!("this needs the root's key: {error}")).fix(
            "bring root.key here for this one command, name it with --root FILE, and take it away \
             again; `skein init` left it in the agent's directory of the first host",
        )
    })?;
    let before = Before::of([files.issuer_key(), files.issuer_certificate()]);
    let until = root.write_issuer(&files, wall());
    let until = until.map_err(|error| CliError::failed(error.to_string()))?;
    let runs = client.runs();
    if runs {
        let taken: Result<serde_json::Value, CliError> = client.post("/v1/issuer", &());
        if let Err(error) = taken {
            before.put_back();
            return Err(error);
        }
    }
    let then = match runs {
        true => "the running agent uses it",
        false => "the agent will use it when it starts",
    };
    console.print(&format!("issuer of this host until {}: {then}", rfc3339(until)))?;
    Ok(Exit::Done)
}
