//! `agent`: runs the agent in the foreground.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use clap::Args;

use super::{
    Exit,
    exit::CliError,
    hooks::{AgentOptions, Local},
    secret::{self, SecretSource},
};
use crate::agent::HasLeft;

/// `skein agent`.
#[derive(Args, Debug)]
pub(super) struct AgentArgs {
    /// A file or a directory of documents; repeatable
    #[arg(short = 'f', long = "file", value_name = "FILE|DIR")]
    files: Vec<PathBuf>,
    /// The address of all the agent's own listeners
    #[arg(long, value_name = "IP")]
    bind: Option<IpAddr>,
    /// What to tell others to dial: `ip:port`
    #[arg(long, value_name = "IP:PORT")]
    advertise: Option<String>,
    /// An agent to join by, `host[:port]`; repeatable
    #[arg(long, value_name = "ADDR")]
    join: Vec<String>,
    /// The join token, used while there is no valid certificate: @FILE, or - for standard input;
    /// else SKEIN_TOKEN
    #[arg(long, value_name = "@FILE|-")]
    token: Option<SecretSource>,
    /// Start also where this host has left its mesh
    #[arg(long)]
    rejoin: bool,
    /// The log's filter: `info`, `debug`, `info,skein_node::proxy=debug`
    #[arg(long, value_name = "FILTER", env = "SKEIN_LOG")]
    log_level: Option<String>,
}

/// Runs until it is told to stop.
pub(super) fn agent(local: &dyn Local, dir: &Path, args: &AgentArgs) -> Result<Exit, CliError> {
    let ended = local.agent(AgentOptions {
        dir: dir.to_owned(),
        files: args.files.clone(),
        bind: args.bind,
        advertise: args.advertise.clone(),
        join: args.join.clone(),
        token: secret::token(args.token.as_ref())?,
        log_level: args.log_level.clone(),
        rejoin: args.rejoin,
    });
    ended.map_err(|error| match error.downcast_ref::<HasLeft>() {
        Some(_) => CliError { exit: Exit::Left, ..CliError::failed(error.to_string()) },
        None => error.into(),
    })?;
    Ok(Exit::Done)
}
