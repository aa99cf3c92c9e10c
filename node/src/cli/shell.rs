//! `completion`, `man`, `version`: about the program itself.

use clap::{Args, Command};
use clap_complete::Shell;
use serde::Serialize;

use super::{Console, Exit, exit::CliError, output::Show};

/// `skein completion`.
#[derive(Args, Debug)]
pub(super) struct CompletionArgs {
    /// Which shell
    shell: Shell,
}

/// `skein man`.
#[derive(Args, Debug)]
pub(super) struct ManArgs {
    /// The page of one command
    command: Option<String>,
}

/// A script that completes commands and options.
pub(super) fn completion(
    args: &CompletionArgs,
    mut command: Command,
    console: &mut Console<'_>,
) -> Result<Exit, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "skein", &mut script);
    console.print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}

/// A manual page, as `man -l -` shows it.
pub(super) fn man(
    args: &ManArgs,
    command: &Command,
    console: &mut Console<'_>,
) -> Result<Exit, CliError> {
    let page = match &args.command {
        None => command.clone(),
        Some(name) => {
            let found = command.find_subcommand(name).cloned();
            let missing = || CliError::usage(format!("no command `{name}`")).fix("skein help");
            found.ok_or_else(missing)?.display_name(format!("skein-{name}"))
        }
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(page)
        .render(&mut text)
        .map_err(|e| CliError::failed(format!("cannot make the page: {e}")))?;
    console.print(&String::from_utf8_lossy(&text))?;
    Ok(Exit::Done)
}

#[derive(Serialize)]
struct Version {
    version: &'static str,
}

impl Show for Version {
    fn text(&self, _: bool) -> String {
        format!("skein {}", self.version)
    }
    fn names(&self) -> Vec<String> {
        vec![self.version.to_owned()]
    }
}

/// The program's version.
pub(super) fn version(console: &mut Console<'_>) -> Result<Exit, CliError> {
    let version = env!("CARGO_PKG_VERSION");
    console.show(&Version { version })?;
    Ok(Exit::Done)
}
