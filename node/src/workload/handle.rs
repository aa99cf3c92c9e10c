//! The handle: the way of the rest of the agent to a running workload.

use std::{sync::Arc, time::Duration};

use skein_protocol::{
    manifest::DocumentId,
    name::{Label, ServiceName},
    record::node::{Health, InstanceId},
};
use tokio::sync::{mpsc, oneshot, watch};

use super::{ChangeError, Outcome, Snapshot};

/// A person's word that a service takes no new calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hold {
    /// Set aside until the hold is lifted.
    Maintenance,
    /// Finishing what it has.
    Draining,
}

/// The same as it is held, with the reason for people; empty where none was said.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Held {
    /// How.
    pub hold: Hold,
    /// Why.
    pub reason: String,
}

impl Hold {
    /// The word of the command line.
    pub fn word(self) -> &'static str {
        self.health().word()
    }

    pub(super) fn health(self) -> Health {
        match self {
            Self::Maintenance => Health::Maintenance,
            Self::Draining => Health::Draining,
        }
    }
}

/// What a service says for a ttl check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TtlReport {
    /// The instance.
    pub instance: InstanceId,
    /// The check's name; `None`: the instance's only ttl check.
    pub check: Option<Label>,
    /// Passing, warning or critical.
    pub health: Health,
    /// Why, for people.
    pub output: String,
}

/// What a handle asks of the task.
pub(super) enum Command {
    Apply {
        file: String,
        text: String,
        dry_run: bool,
        reply: oneshot::Sender<Result<Vec<Outcome>, ChangeError>>,
    },
    Delete {
        id: DocumentId,
        dry_run: bool,
        reply: oneshot::Sender<Result<Outcome, ChangeError>>,
    },
    Hold {
        service: Option<ServiceName>,
        held: Option<Held>,
        reply: oneshot::Sender<()>,
    },
    Reload(oneshot::Sender<()>),
    Ttl {
        report: TtlReport,
        reply: oneshot::Sender<Result<(), String>>,
    },
}

/// The way to a running workload. Cheap to clone.
#[derive(Clone, Debug)]
pub struct WorkloadHandle {
    /// What runs on this host: always the newest.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    pub(super) commands: mpsc::Sender<Command>,
}

impl WorkloadHandle {
    /// Applies all documents of `text`, or none. `file` is what faults call it; with `dry_run`
    /// nothing changes.
    ///
    /// # Errors
    /// Why nothing changed.
    pub async fn apply(
        &self,
        file: &str,
        text: &str,
        dry_run: bool,
    ) -> Result<Vec<Outcome>, ChangeError> {
        let (file, text) = (file.to_owned(), text.to_owned());
        let command = |reply| Command::Apply { file, text, dry_run, reply };
        self.ask(command).await.ok_or(ChangeError::Stopped)?
    }

    /// Deletes an applied document.
    ///
    /// # Errors
    /// Why nothing changed.
    pub async fn delete(&self, id: DocumentId, dry_run: bool) -> Result<Outcome, ChangeError> {
        let command = |reply| Command::Delete { id, dry_run, reply };
        self.ask(command).await.ok_or(ChangeError::Stopped)?
    }

    /// Holds calls off a service, or off all (`None`), until a hold of `None` lifts it, over a restart
    /// of the agent as well.
    pub async fn hold(&self, service: Option<ServiceName>, held: Option<Held>) {
        let command = |reply| Command::Hold { service, held, reply };
        self.ask(command).await;
    }

    /// Reads all files again; returns when the snapshot shows them.
    pub async fn reload(&self) {
        self.ask(Command::Reload).await;
    }

    /// Passes on what a service says for its ttl check.
    ///
    /// # Errors
    /// Why it was not taken, and what to do.
    pub async fn ttl_update(&self, report: TtlReport) -> Result<(), String> {
        let command = |reply| Command::Ttl { report, reply };
        let stopped = || "the agent is stopping; try again once it runs".to_owned();
        self.ask(command).await.ok_or_else(stopped)?
    }

    /// Waits until each check that the agent runs itself has run once, at most `patience`. What
    /// was healthy before a restart is then not told as critical for a moment after it.
    pub async fn settled(&self, patience: Duration) {
        let mut snapshot = self.snapshot.clone();
        let all = async { drop(snapshot.wait_for(|now| !now.awaits_checks()).await) };
        // Who is slower is told as it is.
        let _ = tokio::time::timeout(patience, all).await;
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.ok()?;
        answer.await.ok()
    }
}
