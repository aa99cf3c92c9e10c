//! `drain`, `maintenance`, `leave`, `check`, `log-level`: the life of this host in the mesh.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{
    Client, Console, Exit,
    documents::visible,
    duration,
    exit::CliError,
    output::{Show, clean},
    service_path,
};
use crate::api::dto::{
    CheckUpdate, DrainReport, DrainRequest, LeaveReport, LeaveRequest, LogLevel, MaintenanceReport,
    MaintenanceRequest,
};

/// `skein drain`.
#[derive(Args, Debug)]
pub(super) struct DrainArgs {
    /// Only this service; all of this host without it
    service: Option<String>,
    /// Wait until live connections have ended, at most so long; 0s for not at all
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "30s")]
    wait: Duration,
    /// Take calls again
    #[arg(long)]
    undo: bool,
    /// Why, for those who see it
    #[arg(long, default_value = "")]
    reason: String,
}

/// On or off.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum Switch {
    /// Critical until off.
    On,
    /// As the checks say.
    Off,
}

/// `skein maintenance`.
#[derive(Args, Debug)]
pub(super) struct MaintenanceArgs {
    /// On: critical until off
    switch: Switch,
    /// Only this service; all of this host without it
    service: Option<String>,
    /// Why, for those who see it
    #[arg(long, default_value = "")]
    reason: String,
}

/// `skein leave`.
#[derive(Args, Debug)]
pub(super) struct LeaveArgs {
    /// Also delete this host's keys and state
    #[arg(long)]
    purge: bool,
}

/// `skein check`.
#[derive(Args, Debug)]
pub(super) struct CheckArgs {
    /// The instance on this host: `document/endpoint`
    instance: String,
    /// What it is now
    status: CheckWord,
    /// What it says
    #[arg(long, default_value = "")]
    note: String,
}

/// A status that a process may report of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum CheckWord {
    /// All well.
    Passing,
    /// Works, with a complaint.
    Warning,
    /// Must not get calls.
    Critical,
}

/// `skein log-level`.
#[derive(Args, Debug)]
pub(super) struct LogLevelArgs {
    /// The new filter, `debug` or `info,skein_node::proxy=debug`; shows the present one without
    filter: Option<String>,
}

/// Exits 3 when connections were still live at the deadline.
pub(super) fn drain(
    client: &Client,
    args: &DrainArgs,
    console: &mut Console<'_>,
) -> Result<Exit, CliError> {
    let request = DrainRequest {
        service: args.service.as_deref().map(service_path).transpose()?,
        wait_ms: u64::try_from(args.wait.as_millis()).unwrap_or(u64::MAX),
        undo: args.undo,
        reason: args.reason.clone(),
    };
    let report: DrainReport = client.post("/v1/drain", &request)?;
    console.show(&report)?;
    let waited = !args.wait.is_zero() && !args.undo;
    Ok(match waited && report.connections > 0 {
        true => Exit::Degraded,
        false => Exit::Done,
    })
}

/// Sets instances aside, or takes them back.
pub(super) fn maintenance(
    client: &Client,
    args: &MaintenanceArgs,
    console: &mut Console<'_>,
) -> Result<Exit, CliError> {
    let request = MaintenanceRequest {
        on: args.switch == Switch::On,
        service: args.service.as_deref().map(service_path).transpose()?,
        reason: args.reason.clone(),
    };
    let report: MaintenanceReport = client.post("/v1/maintenance", &request)?;
    console.show(&report)?;
    Ok(Exit::Done)
}

/// Drains, tells the others, and ends the agent.
pub(super) fn leave(
    client: &Client,
    args: &LeaveArgs,
    console: &mut Console<'_>,
) -> Result<Exit, CliError> {
    let report: LeaveReport = client.post("/v1/leave", &LeaveRequest { purge: args.purge })?;
    console.show(&report)?;
    Ok(Exit::Done)
}

/// Reports the state of an instance that has a ttl check.
pub(super) fn check(client: &Client, args: &CheckArgs) -> Result<Exit, CliError> {
    let status = match args.status {
        CheckWord::Passing => "passing",
        CheckWord::Warning => "warning",
        CheckWord::Critical => "critical",
    };
    let update = CheckUpdate {
        instance: args.instance.clone(),
        status: status.to_owned(),
        output: args.note.clone(),
    };
    client.put::<()>("/v1/checks", &update)?;
    Ok(Exit::Done)
}

/// Shows or sets the log's filter.
pub(super) fn log_level(
    client: &Client,
    args: &LogLevelArgs,
    console: &mut Console<'_>,
) -> Result<Exit, CliError> {
    let level: LogLevel = match &args.filter {
        None => client.get("/v1/log-level")?,
        Some(filter) => {
            let filter = filter.clone();
            client.put("/v1/log-level", &LogLevel { filter })?
        }
    };
    console.show(&level)?;
    Ok(Exit::Done)
}

impl Show for LogLevel {
    fn text(&self, _: bool) -> String {
        self.filter.clone()
    }
    fn names(&self) -> Vec<String> {
        vec![self.filter.clone()]
    }
}

impl Show for DrainReport {
    fn text(&self, _: bool) -> String {
        let services = clean(&self.services.join(", "));
        let live = self.connections;
        if self.undone {
            return format!("takes calls again: {services}\n{}", visible(&self.visible));
        }
        format!("draining {services}; {live} connections live\n{}", visible(&self.visible))
    }
    fn names(&self) -> Vec<String> {
        self.services.clone()
    }
}

impl Show for MaintenanceReport {
    fn text(&self, _: bool) -> String {
        let services = clean(&self.services.join(", "));
        let what = match (self.on, self.reason.as_str()) {
            (false, _) => "in use again here, as checks say",
            (true, "") => "set aside here",
            (true, reason) => {
                let why = clean(reason);
                return format!("set aside here ({why}): {services}\n{}", visible(&self.visible));
            }
        };
        format!("{what}: {services}\n{}", visible(&self.visible))
    }
    fn names(&self) -> Vec<String> {
        self.services.clone()
    }
}

impl Show for LeaveReport {
    fn text(&self, _: bool) -> String {
        let deleted: String = self.purged.iter().map(|f| format!("deleted {f}\n")).collect();
        let warning = match self.warning.as_str() {
            "" => String::new(),
            why => format!("warning: {}\n", clean(why)),
        };
        format!("left the mesh; {}{deleted}{warning}", visible(&self.visible))
    }
    fn names(&self) -> Vec<String> {
        self.purged.clone()
    }
}
