//! The command line: one file per group of verbs, all in the shape
//! arguments -> one question -> one printed value -> exit code.
//!
//! Exit codes: 0 done, 1 failed, 2 usage, 3 degraded or partly done, 4 would change, 5 has left.
//! What a verb needs of this host's keys and files is behind [`hooks::Local`].

mod agent;
mod backup;
mod client;
mod demo;
mod documents;
pub mod exit;
pub mod hooks;
mod identity;
mod issuer;
mod life;
pub mod local;
mod operator;
pub mod output;
mod policy;
mod revoke;
mod routes;
mod secret;
mod see;
mod shell;

#[cfg(test)]
mod tests;

use std::{
    ffi::OsString,
    io::{self, IsTerminal},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::{CommandFactory, Parser, Subcommand, error::ErrorKind};
use skein_protocol::name::{Label, ServiceName};

pub use client::{Caller, Client};
use exit::{CliError, Exit};
use hooks::Local;
use output::{Console, Format};

/// skein: a leaderless service mesh for VMs and bare metal.
#[derive(Parser, Debug)]
#[command(name = "skein", version, max_term_width = 100, after_help = AFTER_HELP)]
struct Cli {
    /// The agent's directory: its socket, keys and state
    #[arg(long, global = true, env = "SKEIN_DIR", default_value = "/var/lib/skein")]
    dir: PathBuf,
    /// How results are printed
    #[arg(short, long, global = true, value_enum, default_value_t)]
    output: Format,
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// A whole mesh on this machine, with live traffic, to look at
    Demo(demo::DemoArgs),
    /// A service of the demo
    #[command(hide = true)]
    DemoHttp(demo::service::ServiceArgs),
    /// A service of the demo
    #[command(hide = true)]
    DemoTcp(demo::service::ServiceArgs),
    /// Ends the demo's processes when the demo is gone
    #[command(hide = true)]
    DemoWatch,
    /// Make a mesh: its root, an issuer, an operator key, and this node
    Init(identity::InitArgs),
    /// Get this host's certificate from a running mesh
    Join(identity::JoinArgs),
    /// This host's public key, for `admit`
    Key,
    /// Certify a key without a token, where an issuer key is
    Admit(identity::AdmitArgs),
    /// Join tokens: create, list, revoke
    #[command(subcommand)]
    Token(identity::TokenCommand),
    /// Run the agent in the foreground
    Agent(agent::AgentArgs),
    /// Check documents, without an agent
    Validate(documents::FileArgs),
    /// Take documents, all or none
    Apply(documents::ApplyArgs),
    /// Sign mesh-wide documents for the files of hosts, without applying them
    Sign(documents::SignFileArgs),
    /// What applying would change; exits 4 if anything
    Diff(documents::FileArgs),
    /// Documents that the agent holds
    Get(documents::GetArgs),
    /// One document and what became of it
    Describe(documents::DescribeArgs),
    /// Delete documents, all or none
    Delete(documents::DeleteArgs),
    /// The JSON schema of documents
    Schema,
    /// Access policy: which nodes hold it, the default, who calls whom
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Where calls to a service go by the traffic rules, and which of them hold
    Routes(routes::RoutesArgs),
    /// How a call would go, step by step; exits 1 where it would not work
    Why(policy::WhyArgs),
    /// End a node's key: it is out, everywhere, within seconds
    Revoke(revoke::RevokeArgs),
    /// Write what the loss of every disk would take: roots, documents, revocations
    Backup(backup::BackupArgs),
    /// Issuers, who certify nodes: add, renew
    #[command(subcommand)]
    Issuer(issuer::IssuerCommand),
    /// The root, which certifies issuers and operators: rotate, drop
    #[command(subcommand)]
    Root(issuer::RootCommand),
    /// Operators, who sign policy: create, list, revoke
    #[command(subcommand)]
    Operator(revoke::OperatorCommand),
    /// How this agent and its mesh are; exits 3 while degraded
    Status,
    /// Agents of the mesh
    Members,
    /// Services of the mesh
    Services,
    /// One service and its endpoints
    Service(see::ServiceArgs),
    /// Connections to other agents
    Links,
    /// Certificates in use, and when they end
    Certs,
    /// Where this host listens
    Listeners,
    /// No new calls here; live ones finish
    Drain(life::DrainArgs),
    /// Set this host's instances aside, or take them back
    Maintenance(life::MaintenanceArgs),
    /// Drain, then out of the mesh
    Leave(life::LeaveArgs),
    /// Report the state of an instance that has a ttl check
    Check(life::CheckArgs),
    /// Show or set the log's filter of the running agent
    LogLevel(life::LogLevelArgs),
    /// A script that completes commands and options
    Completion(shell::CompletionArgs),
    /// The manual page
    Man(shell::ManArgs),
    /// The version
    Version,
}

const AFTER_HELP: &str = "\
Exit codes: 0 done, 1 failed, 2 usage, 3 degraded or partly done, 4 would change, 5 has left.
Secrets never stand in arguments: @FILE, -, or an environment variable.";

/// Runs the program with this process's arguments.
pub fn main(local: &dyn Local) -> ExitCode {
    let colour = io::stdout().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let mut console = Console {
        out: &mut io::stdout(),
        err: &mut io::stderr(),
        format: Format::default(),
        colour,
    };
    ExitCode::from(run(std::env::args_os(), local, &mut console).code())
}

/// Runs one command line, the program's name first.
pub fn run(
    arguments: impl IntoIterator<Item = OsString>,
    local: &dyn Local,
    console: &mut Console<'_>,
) -> Exit {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return not_parsed(&error, console),
    };
    console.format = cli.output;
    match dispatch(&cli, local, console) {
        Ok(exit) => exit,
        Err(error) => {
            console.say(&error.to_string());
            error.exit
        }
    }
}

/// Help and version are results; everything else is a usage error.
fn not_parsed(error: &clap::Error, console: &mut Console<'_>) -> Exit {
    let text = match console.colour {
        true => error.render().ansi().to_string(),
        false => error.render().to_string(),
    };
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = console.print(&text);
            Exit::Done
        }
        _ => {
            console.say(&text);
            Exit::Usage
        }
    }
}

fn dispatch(cli: &Cli, local: &dyn Local, console: &mut Console<'_>) -> Result<Exit, CliError> {
    let dir = cli.dir.as_path();
    let client = || Client::new(dir);
    match &cli.command {
        Verb::Demo(args) => demo::demo(args, console),
        Verb::DemoHttp(args) => demo::service::http(args),
        Verb::DemoTcp(args) => demo::service::tcp(args),
        Verb::DemoWatch => demo::process::watch(),
        Verb::Init(args) => identity::init(local, dir, args, console),
        Verb::Join(args) => identity::join(local, dir, args, console),
        Verb::Key => identity::key(local, dir, console),
        Verb::Admit(args) => identity::admit(&client()?, local, dir, args, console),
        Verb::Token(command) => identity::token(&client()?, local, dir, command, console),
        Verb::Agent(args) => agent::agent(local, dir, args),
        Verb::Validate(args) => documents::validate(local, args, console),
        Verb::Apply(args) => documents::apply(&client()?, args, console),
        Verb::Sign(args) => documents::sign(&client()?, args, console),
        Verb::Diff(args) => documents::diff(&client()?, args, console),
        Verb::Policy(command) => policy::policy(&client()?, command, console),
        Verb::Revoke(args) => revoke::revoke(&client()?, args, console),
        Verb::Backup(args) => backup::backup(&client()?, dir, args, console),
        Verb::Issuer(command) => issuer::issuer(&client()?, dir, command, console),
        Verb::Root(command) => issuer::root(&client()?, dir, command, console),
        Verb::Operator(command) => revoke::operator(client, dir, command, console),
        Verb::Why(args) => policy::why(&client()?, args, console),
        Verb::Routes(args) => routes::routes(&client()?, args, console),
        Verb::Get(args) => documents::get(&client()?, args, console),
        Verb::Describe(args) => documents::describe(&client()?, args, console),
        Verb::Delete(args) => documents::delete(&client()?, local, args, console),
        Verb::Schema => documents::schema(local, console),
        Verb::Status => see::status(&client()?, console),
        Verb::Members => see::members(&client()?, console),
        Verb::Services => see::services(&client()?, console),
        Verb::Service(args) => see::service(&client()?, args, console),
        Verb::Links => see::links(&client()?, console),
        Verb::Certs => see::certs(&client()?, console),
        Verb::Listeners => see::listeners(&client()?, console),
        Verb::Drain(args) => life::drain(&client()?, args, console),
        Verb::Maintenance(args) => life::maintenance(&client()?, args, console),
        Verb::Leave(args) => life::leave(&client()?, args, console),
        Verb::Check(args) => life::check(&client()?, args),
        Verb::LogLevel(args) => life::log_level(&client()?, args, console),
        Verb::Completion(args) => shell::completion(args, Cli::command(), console),
        Verb::Man(args) => shell::man(args, &Cli::command(), console),
        Verb::Version => shell::version(console),
    }
}

/// A service's name as it stands in a path: `name` or `namespace/name`, else a usage error.
fn service_path(text: &str) -> Result<String, CliError> {
    let valid = match text.contains('/') {
        true => text.parse::<ServiceName>().map(|_| ()),
        false => Label::new(text).map(|_| ()),
    };
    match valid {
        Ok(()) => Ok(text.to_owned()),
        Err(error) => Err(CliError::usage(error.to_string())),
    }
}

/// Text as it stands in a query: what RFC 3986 2.3 does not call unreserved is escaped.
fn query(text: &str) -> String {
    let byte = |b: u8| match b {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            char::from(b).to_string()
        }
        _ => format!("%{b:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// A duration with its unit: `250ms`, `5s`, `10m`, `1h`, `7d`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text.get(digits.len()..).unwrap_or_default();
    let bad = || format!("`{text}` is no duration: write 250ms, 5s, 10m, 1h or 7d");
    let number: u64 = digits.parse().map_err(|_| bad())?;
    let ms = match unit {
        "ms" => Some(number),
        "s" => number.checked_mul(1000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        "d" => number.checked_mul(86_400_000),
        _ => None,
    };
    ms.map(Duration::from_millis).ok_or_else(bad)
}
