//! The snapshot: what runs on this host, as one immutable value.

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc};

use skein_protocol::{
    manifest::{Document, DocumentId, Kind, Plan, kinds::CheckKind},
    name::{Label, ServiceName},
    record::node::{Health, Instance, InstanceId},
};

use super::handle::Held;

/// All that the workload tells the rest of the agent. A new one for every change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Rises with every snapshot.
    pub number: u64,
    /// What this host does.
    pub plan: Arc<Plan>,
    /// What the checks found, by instance.
    pub health: BTreeMap<InstanceId, InstanceHealth>,
    /// Every document in force and who owns it.
    pub documents: Vec<Owned>,
    /// What is wrong, and what is only worth knowing.
    pub problems: Vec<Problem>,
    /// What a person set aside: services, or all of this host (`None`).
    pub holds: BTreeMap<Option<ServiceName>, Held>,
    /// The directory to which paths in the ServiceMesh document are relative.
    pub mesh_base: Option<PathBuf>,
}

impl Snapshot {
    /// The instances as the node record says them, sorted by id.
    pub fn instances(&self) -> Vec<Instance> {
        let mut instances: Vec<Instance> = self
            .plan
            .instances()
            .map(|(_, planned)| {
                let found = self.health.get(&planned.id);
                let health = found.map_or(Health::Critical, |found| found.health);
                let set_aside = found.and_then(|found| found.set_aside.clone());
                Instance { set_aside, ..planned.instance(health) }
            })
            .collect();
        instances.sort_by(|one, other| one.id.cmp(&other.id));
        instances
    }

    /// The document of that kind and name, and who owns it.
    pub fn document(&self, kind: Kind, namespace: &Label, name: &Label) -> Option<&Owned> {
        self.documents.iter().find(|owned| {
            let DocumentId { kind: its_kind, namespace: its_namespace, name: its_name } =
                &owned.document.id;
            (*its_kind, its_namespace, its_name) == (kind, namespace, name)
        })
    }

    /// Whether a check that this agent runs itself has not run yet.
    pub fn awaits_checks(&self) -> bool {
        self.plan.instances().any(|(_, planned)| {
            let found = self.health.get(&planned.id);
            planned.checks.iter().any(|check| {
                let own = !matches!(check.kind, CheckKind::Ttl(_));
                let state = found.and_then(|found| found.checks.get(&check.name));
                own && state.is_some_and(|state| *state == CheckState::unchecked())
            })
        })
    }

    /// Whether `status` must say degraded (exit 3).
    pub fn is_degraded(&self) -> bool {
        let mut severities = self.problems.iter().map(|problem| problem.severity);
        severities.any(|severity| severity == Severity::Degraded)
    }
}

/// An instance's health and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceHealth {
    /// The worst of its checks, unless a person set it aside.
    pub health: Health,
    /// Its checks, by name.
    pub checks: BTreeMap<Label, CheckState>,
    /// Why a person set it aside, if one did and said so.
    pub set_aside: Option<String>,
}

/// What a check found when its status last changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckState {
    /// Passing, warning or critical.
    pub health: Health,
    /// Why, for people.
    pub output: String,
}

impl CheckState {
    /// Nothing is passing before it was checked.
    pub fn unchecked() -> Self {
        Self { health: Health::Critical, output: "not checked yet".to_owned() }
    }
}

/// A document and who owns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    /// The document.
    pub document: Arc<Document>,
    /// Its owner.
    pub owner: Owner,
}

/// Who owns a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A file: only editing it changes the document.
    File(PathBuf),
    /// It came by `skein apply`.
    Applied,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Applied => f.write_str("applied"),
        }
    }
}

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing.
    Notice,
    /// `status` exits 3.
    Degraded,
}

/// Something that `status` shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// How bad.
    pub severity: Severity,
    /// A file, a document or a field.
    pub subject: String,
    /// What is wrong and what to do.
    pub text: String,
}

impl Problem {
    /// A problem that makes the agent degraded.
    pub(crate) fn new(subject: impl fmt::Display, text: String) -> Self {
        Self { severity: Severity::Degraded, subject: subject.to_string(), text }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.text)
    }
}
