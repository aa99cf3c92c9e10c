//! `issuer add|renew`: who certifies nodes. Works on this host's files with the root's key, and
//! tells a running agent.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::{Client, Console, Exit, exit::CliError};
use crate::{
    clock::{rfc3339, wall},
    identity::{Files, RootKey},
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
    let until = root.write_issuer(&files, wall());
    let until = until.map_err(|error| CliError::failed(error.to_string()))?;
    let runs = client.runs();
    if runs {
        let _: serde_json::Value = client.post("/v1/issuer", &())?;
    }
    let then = match runs {
        true => "the running agent uses it",
        false => "the agent will use it when it starts",
    };
    console.print(&format!("issuer of this host until {}: {then}", rfc3339(until)))?;
    Ok(Exit::Done)
}
