//! The workload: what runs on this host, from watched files, applied documents and checks.
//!
//! In:    `-f` files and directories, documents by the API, reports for ttl checks, holds.
//! Out:   one [`Snapshot`] in a watch channel: plan, health, owners, problems.
//! Never: gossips, routes or proxies; runs a command that came by the API; drops what held
//!        because a file went bad.

mod checks;
mod disk;
mod documents;
mod files;
mod handle;
pub(crate) mod host;
mod probe;
mod status;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use skein_protocol::{
    manifest::{Document, DocumentId, Fault, Faults, Inputs, Kind, Plan, parse},
    name::ServiceName,
};
use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{MissedTickBehavior, interval, timeout},
};

use self::{
    checks::{Checks, Event},
    disk::Disk,
    documents::{Assembly, applied_text, applying, assemble, deleting},
    files::{Watch, scan},
    handle::Command,
};
pub use self::{
    documents::{Change, ChangeError, Outcome},
    handle::{Held, Hold, TtlReport, WorkloadHandle},
    host::addresses,
    status::{CheckState, InstanceHealth, Owned, Owner, Problem, Severity, Snapshot},
};

/// Commands that wait for the workload's task; a caller that finds no place waits.
const COMMANDS: usize = 16;
/// How long after a change files are read: an editor's several steps are one change.
const SETTLE: Duration = Duration::from_millis(20);
/// How often files are read though nothing woke us: file systems without notices, new addresses.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// How long the word of a person waits for its write.
const HOLDS_PATIENCE: Duration = Duration::from_secs(1);

/// What the workload needs to start.
#[derive(Clone, Debug)]
pub struct WorkloadConfig {
    /// The `-f` arguments, in their order.
    pub files: Vec<PathBuf>,
    /// The agent's directory: applied documents and last good contents live under it.
    pub dir: PathBuf,
    /// The agent's version.
    pub version: String,
}

/// Why the workload does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Files that `-f` names are bad, with all their faults, or a directory cannot be listed.
    #[error("{0}")]
    File(String),
    /// The agent's directory refuses.
    #[error(
        "{} cannot be used: {error}; make it writable for the agent's user, or choose another \
         with --dir", path.display()
    )]
    Disk {
        /// Which path.
        path: PathBuf,
        /// Why.
        error: String,
    },
}

/// The workload's task and all it holds.
pub struct Workload {
    config: WorkloadConfig,
    disk: Disk,
    applied: Vec<Arc<Document>>,
    assembly: Assembly,
    /// What disturbs the workload itself: watching, reading, its disk.
    troubles: Vec<Problem>,
    holds: BTreeMap<Option<ServiceName>, Held>,
    /// Whether the disk has them.
    holds_kept: bool,
    checks: Checks,
    snapshot: watch::Sender<Arc<Snapshot>>,
}

impl Workload {
    /// Reads everything once and starts the task on `runtime`; it ends when `shutdown` is true.
    ///
    /// # Errors
    /// A file that `-f` names itself is bad, or the agent's directory refuses.
    pub fn start(
        config: WorkloadConfig,
        runtime: &Handle,
        shutdown: watch::Receiver<bool>,
    ) -> Result<(WorkloadHandle, JoinHandle<()>), StartError> {
        let disk = Disk::open(&config.dir).map_err(|error| StartError::Disk {
            path: config.dir.clone(),
            error: error.to_string(),
        })?;
        // Watching starts before reading, so that no change falls between the two.
        let watch = Watch::start(&config.files);
        let mut troubles: Vec<Problem> = Vec::new();
        troubles.extend(watch.trouble.clone().map(|why| Problem {
            severity: Severity::Notice,
            subject: "files".to_owned(),
            text: why,
        }));
        let inputs = inputs(&config);
        let applied = stored(&disk, &inputs, &mut troubles)?;
        let holds = held(&disk, &mut troubles);
        let files = scan(&config.files).map_err(StartError::File)?;
        let assembly = assemble(files, &applied, &inputs, &disk);
        if !assembly.refused.is_empty() {
            let all = assembly.refused.iter();
            let texts: Vec<String> = all.map(|(_, refusal)| refusal.to_string()).collect();
            return Err(StartError::File(texts.join("\n\n")));
        }
        let mut checks = Checks::new();
        // The tasks of checks start on `runtime` from whatever thread starts the agent.
        let entered = runtime.enter();
        checks.update(&assembly.plan);
        drop(entered);
        let (snapshot, receiver) = watch::channel(Arc::new(Snapshot {
            number: 0,
            plan: Arc::new(assembly.plan.clone()),
            health: BTreeMap::new(),
            documents: Vec::new(),
            problems: Vec::new(),
            holds: holds.clone(),
            mesh_base: None,
        }));
        let mut workload = Self {
            config,
            disk,
            applied,
            assembly,
            troubles,
            holds,
            holds_kept: true,
            checks,
            snapshot,
        };
        workload.publish();
        let (commands, heard) = mpsc::channel(COMMANDS);
        let handle = WorkloadHandle { snapshot: receiver, commands };
        let task = runtime.spawn(workload.run(watch, heard, shutdown));
        Ok((handle, task))
    }

    async fn run(
        mut self,
        mut watch: Watch,
        mut commands: mpsc::Receiver<Command>,
        mut shutdown: watch::Receiver<bool>,
    ) {
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        look.reset();
        loop {
            tokio::select! {
                biased;
                // The value's guard must not live across the other arms' awaits.
                () = async { drop(shutdown.wait_for(|stop| *stop).await) } => return,
                event = self.checks.next() => self.hear(event),
                command = commands.recv() => match command {
                    Some(command) => self.obey(command).await,
                    // Every handle is gone: nobody reads snapshots any more.
                    None => return,
                },
                Some(()) = watch.changed.recv() => {
                    settle(&mut watch).await;
                    self.reread().await;
                }
                _ = look.tick() => {
                    self.keep_holds().await;
                    self.reread().await;
                }
            }
        }
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Report(report) => {
                if self.checks.record(report) {
                    self.publish();
                }
            }
            Event::Ended(Err(error)) if error.is_panic() => {
                self.checks.update(&self.assembly.plan);
            }
            Event::Ended(_) => {}
        }
    }

    async fn obey(&mut self, command: Command) {
        // An asker that went away does not need its answer.
        match command {
            Command::Apply { file, text, dry_run, reply } => {
                drop(reply.send(self.apply(&file, &text, dry_run).await))
            }
            Command::Delete { id, dry_run, reply } => {
                drop(reply.send(self.delete(&id, dry_run).await));
            }
            Command::Hold { service, held, reply } => {
                match held {
                    Some(held) => drop(self.holds.insert(service, held)),
                    None => drop(self.holds.remove(&service)),
                }
                self.holds_kept = false;
                // It holds whether or not it can be kept.
                self.publish();
                self.keep_holds().await;
                let _ = reply.send(());
            }
            Command::Reload(reply) => {
                self.reread().await;
                let _ = reply.send(());
            }
            Command::Ttl { report, reply } => {
                let state = CheckState { health: report.health, output: report.output };
                let told = self.checks.tell(&report.instance, report.check.as_ref(), state);
                drop(reply.send(told));
            }
        }
    }

    /// Writes what a person set aside, if the disk does not have it.
    async fn keep_holds(&mut self) {
        if self.holds_kept {
            return;
        }
        let (disk, holds) = (self.disk.clone(), self.holds.clone().into_iter().collect::<Vec<_>>());
        let written = tokio::task::spawn_blocking(move || disk.write_holds(&holds));
        let failed = match timeout(HOLDS_PATIENCE, written).await {
            Ok(Ok(Ok(()))) => None,
            Ok(Ok(Err(error))) => Some(error.to_string()),
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("the disk does not answer".to_owned()),
        };
        self.holds_kept = failed.is_none();
        let file = self.disk.holds_path().display().to_string();
        self.troubles.retain(|problem| problem.subject != file);
        self.troubles.extend(failed.map(|why| {
            let text = format!(
                "what is set aside here holds, but a restart would not know of it: {why}; it is \
                 written as soon as it can be"
            );
            Problem::new(&file, text)
        }));
        self.publish();
    }

    async fn apply(
        &mut self,
        file: &str,
        text: &str,
        dry_run: bool,
    ) -> Result<Vec<Outcome>, ChangeError> {
        let inputs = inputs(&self.config);
        let now = (self.assembly.documents.as_slice(), self.applied.as_slice());
        let (applied, outcomes) = applying((file, text), now, &inputs)?;
        let changes = outcomes.iter().any(|outcome| outcome.change != Change::Unchanged);
        if changes && !dry_run {
            self.replace_applied(applied).await?;
        }
        Ok(outcomes)
    }

    async fn delete(&mut self, id: &DocumentId, dry_run: bool) -> Result<Outcome, ChangeError> {
        let (applied, outcome) = deleting(id, &self.assembly.documents, &self.applied)?;
        if !dry_run {
            self.replace_applied(applied).await?;
        }
        Ok(outcome)
    }

    /// On disk first, then in force.
    async fn replace_applied(&mut self, applied: Vec<Arc<Document>>) -> Result<(), ChangeError> {
        let disk = self.disk.clone();
        let text = applied_text(&applied);
        let written = tokio::task::spawn_blocking(move || disk.write_applied(&text)).await;
        let failed = match written {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(error) = failed {
            let file = self.disk.applied_path().display().to_string();
            return Err(ChangeError::Disk { file, error });
        }
        self.applied = applied;
        self.reread().await;
        Ok(())
    }

    /// Reads the files again and puts everything together anew.
    async fn reread(&mut self) {
        let (roots, applied, disk) =
            (self.config.files.clone(), self.applied.clone(), self.disk.clone());
        let inputs = inputs(&self.config);
        let read = tokio::task::spawn_blocking(move || {
            scan(&roots).map(|files| assemble(files, &applied, &inputs, &disk))
        });
        let subject = "files";
        self.troubles
            .retain(|problem| problem.subject != subject || problem.severity == Severity::Notice);
        match read.await {
            Ok(Ok(assembly)) => {
                if assembly == self.assembly {
                    return self.publish();
                }
                self.assembly = assembly;
                self.checks.update(&self.assembly.plan);
            }
            Ok(Err(why)) => self.troubles.push(Problem::new(subject, why)),
            Err(error) => {
                let why = format!("reading failed: {error}; what held before still holds");
                self.troubles.push(Problem::new(subject, why));
            }
        }
        self.publish();
    }

    /// Publishes a snapshot if it differs from the last one in more than its number.
    fn publish(&mut self) {
        let plan = &self.assembly.plan;
        let mut health = self.checks.health(plan);
        for (registration, instance) in plan.instances() {
            let own = self.holds.get(&Some(registration.service.clone()));
            let hold = own.or_else(|| self.holds.get(&None));
            if let (Some(hold), Some(found)) = (hold, health.get_mut(&instance.id)) {
                found.health = hold.hold.health();
                found.set_aside = Some(hold.reason.clone()).filter(|reason| !reason.is_empty());
            }
        }
        let mut problems = self.troubles.clone();
        problems.extend(self.assembly.problems.iter().cloned());
        self.snapshot.send_if_modified(|last| {
            let same = *last.plan == *plan
                && last.health == health
                && last.problems == problems
                && last.holds == self.holds
                && last.documents == self.assembly.documents;
            if !same {
                *last = Arc::new(Snapshot {
                    number: last.number + 1,
                    plan: Arc::new(plan.clone()),
                    health,
                    documents: self.assembly.documents.clone(),
                    problems,
                    holds: self.holds.clone(),
                    mesh_base: mesh_base(&self.assembly.documents, &self.config.dir),
                });
            }
            !same
        });
    }
}

/// Waits until files have been still for a moment, or for ten moments.
async fn settle(watch: &mut Watch) {
    for _ in 0..10 {
        if timeout(SETTLE, watch.changed.recv()).await.is_err() {
            return;
        }
    }
}

/// What a person set aside before the agent stopped.
fn held(disk: &Disk, troubles: &mut Vec<Problem>) -> BTreeMap<Option<ServiceName>, Held> {
    let holds = disk.holds().unwrap_or_else(|error| {
        let file = disk.holds_path();
        let text = format!(
            "what was set aside here before is not known: {error}; set it aside again, which writes \
             it anew"
        );
        troubles.push(Problem::new(file.display(), text));
        Vec::new()
    });
    holds.into_iter().collect()
}

fn inputs(config: &WorkloadConfig) -> Inputs {
    Inputs {
        addresses: addresses(),
        may_run_commands: false,
        agent_version: Some(config.version.clone()),
    }
}

/// The documents applied before the agent stopped.
fn stored(
    disk: &Disk,
    inputs: &Inputs,
    troubles: &mut Vec<Problem>,
) -> Result<Vec<Arc<Document>>, StartError> {
    let path = disk.applied_path();
    let text = disk
        .applied()
        .map_err(|error| StartError::Disk { path: path.clone(), error: error.to_string() })?;
    // They were judged when they were applied: an address that has gone since does not end them.
    let inputs = Inputs { addresses: None, ..inputs.clone() };
    match parse(&path.display().to_string(), &text, &inputs) {
        Ok(documents) => Ok(documents.into_iter().map(Arc::new).collect()),
        Err(faults) => {
            let lines: Vec<String> = faults.0.iter().map(Fault::line).collect();
            troubles.push(Problem::new(
                path.display(),
                format!(
                    "the applied documents cannot be read, and none of them holds: {}; mend the \
                     file and restart, or apply them again",
                    lines.join("; ")
                ),
            ));
            Ok(Vec::new())
        }
    }
}

fn mesh_base(documents: &[Owned], dir: &Path) -> Option<PathBuf> {
    let mesh = documents.iter().find(|owned| owned.document.id.kind == Kind::ServiceMesh)?;
    Some(match &mesh.owner {
        Owner::File(path) => path.parent().unwrap_or_else(|| Path::new(".")).to_owned(),
        Owner::Applied => dir.to_owned(),
    })
}

/// Reads `text` and says what is wrong with it, against nothing but this host.
///
/// # Errors
/// All faults, those between its documents too.
pub fn validate(file: &str, text: &str, version: &str) -> Result<Vec<Document>, Faults> {
    let inputs = Inputs {
        addresses: addresses(),
        may_run_commands: true,
        agent_version: Some(version.to_owned()),
    };
    let documents = parse(file, text, &inputs)?;
    let shared: Vec<Arc<Document>> = documents.iter().cloned().map(Arc::new).collect();
    let (_, faults) = Plan::resolve(&shared);
    if faults.is_empty() { Ok(documents) } else { Err(Faults(faults)) }
}

#[cfg(test)]
mod tests;
