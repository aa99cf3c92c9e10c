//! The documents in force: which content of each file holds, what was applied, what goes together.
//!
//! Each file stands for itself. One that is bad, or that does not go with those before it, keeps
//! its last good content. Files go before what was applied. Never: half a file.

use std::{path::PathBuf, sync::Arc};

use skein_protocol::manifest::{Document, DocumentId, Fault, Faults, Inputs, Kind, Plan, parse};

use super::{
    disk::Disk,
    files::FileText,
    status::{Owned, Owner, Problem, Severity},
};

/// A file with what can be taken from it, best first.
#[derive(Debug)]
struct Candidate {
    path: PathBuf,
    named: bool,
    fresh: Result<(String, Vec<Arc<Document>>), Refusal>,
    last_good: Option<Vec<Arc<Document>>>,
}

/// Why a file's content is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It cannot be read.
    Unreadable(String),
    /// Its faults.
    Faults(Faults),
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreadable(why) => f.write_str(why),
            Self::Faults(faults) => faults.fmt(f),
        }
    }
}

/// What holds now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Assembly {
    pub(crate) plan: Plan,
    pub(crate) documents: Vec<Owned>,
    pub(crate) problems: Vec<Problem>,
    /// Files that `-f` names and whose own content is refused.
    pub(crate) refused: Vec<(PathBuf, Refusal)>,
}

/// Reads the files, keeps their good contents, and puts them together with what was applied.
pub(crate) fn assemble(
    files: Vec<FileText>,
    applied: &[Arc<Document>],
    inputs: &Inputs,
    disk: &Disk,
) -> Assembly {
    let candidates: Vec<Candidate> =
        files.into_iter().map(|file| candidate(file, inputs, disk)).collect();
    let mut problems = Vec::new();
    // Applied settings hold for files too, where no file has settings.
    let mut applied = applied.to_vec();
    applied.sort_by_key(|document| document.id.kind != Kind::ServiceMesh);
    let settings: Vec<Arc<Document>> = applied
        .iter()
        .filter(|document| document.id.kind == Kind::ServiceMesh)
        .filter(|_| !candidates.iter().any(has_mesh))
        .cloned()
        .collect();
    let chosen = choose(&candidates, settings, &mut problems);
    let refused = keep_good(&candidates, &chosen, disk, &mut problems);
    let mut documents: Vec<Owned> = Vec::new();
    for (candidate, choice) in candidates.iter().zip(chosen) {
        let owner = Owner::File(candidate.path.clone());
        documents.extend(
            choice.documents.into_iter().map(|document| Owned { document, owner: owner.clone() }),
        );
    }
    let mut plan = resolve(&documents).0;
    for document in &applied {
        documents.push(Owned { document: Arc::clone(document), owner: Owner::Applied });
        let (with, faults) = resolve(&documents);
        if faults.is_empty() {
            plan = with;
            continue;
        }
        documents.pop();
        let lines: Vec<String> = faults.iter().map(Fault::line).collect();
        let text = format!("left out, applied earlier: {}", lines.join("; "));
        problems.push(Problem::new(&document.id, text));
    }
    problems.extend(notices(&plan, &documents));
    Assembly { plan, documents, problems, refused }
}

/// Keeps what was taken for a restart; returns the files named by `-f` that were not.
fn keep_good(
    candidates: &[Candidate],
    chosen: &[Choice],
    disk: &Disk,
    problems: &mut Vec<Problem>,
) -> Vec<(PathBuf, Refusal)> {
    let mut refused = Vec::new();
    for (candidate, choice) in candidates.iter().zip(chosen) {
        match (&choice.refusal, &candidate.fresh) {
            // Without a last good content there is nothing to go on with.
            (Some(refusal), _) if candidate.named && choice.documents.is_empty() => {
                refused.push((candidate.path.clone(), refusal.clone()));
            }
            (None, Ok((text, _))) => {
                if let Err(error) = disk.keep(&candidate.path, text) {
                    let why = format!(
                        "its content cannot be kept for a restart: {error}; check space and \
                         owner of the agent's directory"
                    );
                    problems.push(Problem::new(candidate.path.display(), why));
                }
            }
            _ => {}
        }
    }
    // What cannot be forgotten does no harm: it names the file that it is of.
    let _ = disk.forget_others(candidates.iter().map(|candidate| candidate.path.as_path()));
    refused
}

fn candidate(file: FileText, inputs: &Inputs, disk: &Disk) -> Candidate {
    let name = file.path.display().to_string();
    // It was judged when it was kept. An address that has gone since does not make it worse.
    let kept = Inputs { addresses: None, may_run_commands: true, ..inputs.clone() };
    let last_good =
        disk.last_good(&file.path).and_then(|text| parse(&name, &text, &kept).ok()).map(shared);
    let fresh = match file.read {
        Err(why) => Err(Refusal::Unreadable(why)),
        // A crash or a writer in the middle leaves files empty; that ends no service.
        Ok((text, _)) if text.trim().is_empty() => Err(Refusal::Unreadable(format!(
            "{name} is empty; write its documents, or remove the file"
        ))),
        Ok((text, trusted)) => {
            let inputs = Inputs { may_run_commands: trusted, ..inputs.clone() };
            match parse(&name, &text, &inputs) {
                Ok(documents) => Ok((text, shared(documents))),
                Err(faults) => Err(Refusal::Faults(faults)),
            }
        }
    };
    Candidate { path: file.path, named: file.named, fresh, last_good }
}

fn shared(documents: Vec<Document>) -> Vec<Arc<Document>> {
    documents.into_iter().map(Arc::new).collect()
}

/// What is taken of a file, and why it is not its own content, if so.
struct Choice {
    documents: Vec<Arc<Document>>,
    refusal: Option<Refusal>,
}

fn choose(
    candidates: &[Candidate],
    settings: Vec<Arc<Document>>,
    problems: &mut Vec<Problem>,
) -> Vec<Choice> {
    // Settings first: they fill in what registries leave out.
    let mut order: Vec<(usize, &Candidate)> = candidates.iter().enumerate().collect();
    order.sort_by_key(|(index, candidate)| (!has_mesh(candidate), *index));
    let mut choices: Vec<(usize, Choice)> = Vec::new();
    let mut so_far = settings;
    for (index, candidate) in order {
        let choice = choose_one(candidate, &so_far);
        if let Some(refusal) = &choice.refusal {
            problems.push(refused(candidate, &choice, refusal));
        }
        so_far.extend(choice.documents.iter().cloned());
        choices.push((index, choice));
    }
    choices.sort_by_key(|(index, _)| *index);
    choices.into_iter().map(|(_, choice)| choice).collect()
}

fn has_mesh(candidate: &Candidate) -> bool {
    let documents = match &candidate.fresh {
        Ok((_, documents)) => Some(documents),
        Err(_) => candidate.last_good.as_ref(),
    };
    documents.is_some_and(|documents| {
        let mut kinds = documents.iter().map(|document| document.id.kind);
        kinds.any(|kind| kind == Kind::ServiceMesh)
    })
}

fn choose_one(candidate: &Candidate, so_far: &[Arc<Document>]) -> Choice {
    let fits = |documents: &[Arc<Document>]| {
        let all: Vec<Arc<Document>> = so_far.iter().chain(documents).cloned().collect();
        Plan::resolve(&all).1
    };
    let refusal = match &candidate.fresh {
        Ok((_, documents)) => {
            let faults = fits(documents);
            if faults.is_empty() {
                return Choice { documents: documents.clone(), refusal: None };
            }
            Refusal::Faults(Faults(faults))
        }
        Err(refusal) => refusal.clone(),
    };
    let last_good = candidate.last_good.as_ref();
    let kept = last_good.filter(|documents| fits(documents).is_empty());
    Choice { documents: kept.cloned().unwrap_or_default(), refusal: Some(refusal) }
}

fn refused(candidate: &Candidate, choice: &Choice, refusal: &Refusal) -> Problem {
    let kept = if choice.documents.is_empty() {
        "nothing of it holds"
    } else {
        "its last good content holds, also over a restart"
    };
    let why = match refusal {
        Refusal::Unreadable(why) => why.clone(),
        Refusal::Faults(faults) => {
            let lines: Vec<String> = faults.0.iter().take(5).map(Fault::line).collect();
            lines.join("\n")
        }
    };
    Problem::new(candidate.path.display(), format!("{kept}: {why}"))
}

fn resolve(documents: &[Owned]) -> (Plan, Vec<Fault>) {
    let all: Vec<Arc<Document>> =
        documents.iter().map(|owned| Arc::clone(&owned.document)).collect();
    Plan::resolve(&all)
}

fn notices(plan: &Plan, documents: &[Owned]) -> Vec<Problem> {
    let mut notices: Vec<Problem> = plan
        .unsigned
        .iter()
        .map(|id| Problem {
            severity: Severity::Notice,
            subject: id.to_string(),
            text: "not applied: needs an operator".to_owned(),
        })
        .collect();
    for owned in documents {
        let warnings = owned.document.warnings.iter().map(|warning| Problem {
            severity: Severity::Notice,
            subject: owned.document.id.to_string(),
            text: warning.line(),
        });
        notices.extend(warnings);
    }
    if let (Some(name), None) = (&plan.mesh.service_discovery, &plan.defaults) {
        notices.push(Problem {
            severity: Severity::Notice,
            subject: "meshConfig.serviceDiscovery".to_owned(),
            text: format!(
                "it names {}/{name}, and this host has no such ServiceDiscovery; write one, or \
                 leave the field out",
                plan.mesh.namespace
            ),
        });
    }
    notices
}

/// Why a change was refused. Nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// The text, or how its documents go with the others.
    #[error("{0}")]
    Faults(Faults),
    /// A file owns the document.
    #[error("{id} is owned by the file {}; edit or remove that file instead", file.display())]
    OwnedByFile {
        /// The document.
        id: DocumentId,
        /// The file.
        file: PathBuf,
    },
    /// Nobody applied it.
    #[error("{0} is not among the applied documents; see `skein get {kind}`", kind = .0.kind)]
    Unknown(DocumentId),
    /// The disk refused.
    #[error("{file} cannot be written: {error}; check space and owner of the agent's directory")]
    Disk {
        /// Which file.
        file: String,
        /// Why.
        error: String,
    },
    /// Nothing was there.
    #[error("the text holds no document; write at least one with apiVersion, kind and metadata")]
    Empty,
    /// The agent stops.
    #[error("the agent is stopping; try again once it runs")]
    Stopped,
}

/// What became of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was not there.
    Created,
    /// It said something else.
    Changed,
    /// It said the same.
    Unchanged,
    /// It is gone.
    Deleted,
}

impl Change {
    /// The word of the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Changed => "changed",
            Self::Unchanged => "unchanged",
            Self::Deleted => "deleted",
        }
    }
}

/// A document and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The document, as it is now; as it was, when deleted.
    pub document: Arc<Document>,
    /// What became of it.
    pub change: Change,
}

/// What the applied documents would be with those of `text`, and what that changes.
pub(crate) fn applying(
    (file, text): (&str, &str),
    (documents, applied): (&[Owned], &[Arc<Document>]),
    inputs: &Inputs,
) -> Result<(Vec<Arc<Document>>, Vec<Outcome>), ChangeError> {
    let inputs = Inputs { may_run_commands: false, ..inputs.clone() };
    let mut new = shared(parse(file, text, &inputs).map_err(ChangeError::Faults)?);
    // Those of the mesh go to everybody, by another way.
    new.retain(|document| !document.id.kind.is_mesh_wide());
    if new.is_empty() {
        return Err(ChangeError::Empty);
    }
    let mut outcomes = Vec::new();
    for document in &new {
        let old = find(documents, &document.id);
        if let Some((id, file)) = old.and_then(file_of) {
            return Err(ChangeError::OwnedByFile { id, file });
        }
        let change = match old {
            None => Change::Created,
            Some(old) if old.document == *document => Change::Unchanged,
            Some(_) => Change::Changed,
        };
        outcomes.push(Outcome { document: Arc::clone(document), change });
    }
    let replaced = |old: &Document| new.iter().any(|document| document.id == old.id);
    let mut applied = applied.to_vec();
    applied.retain(|document| !replaced(document));
    applied.extend(new.iter().cloned());
    let mut all = documents.to_vec();
    all.retain(|owned| !replaced(&owned.document));
    all.extend(new.into_iter().map(|document| Owned { document, owner: Owner::Applied }));
    // Files go first, so that a fault lies with what is applied.
    all.sort_by_key(|owned| owned.owner == Owner::Applied);
    let (_, faults) = resolve(&all);
    if faults.is_empty() {
        Ok((applied, outcomes))
    } else {
        Err(ChangeError::Faults(Faults(faults)))
    }
}

/// What the applied documents would be without `id`.
pub(crate) fn deleting(
    id: &DocumentId,
    documents: &[Owned],
    applied: &[Arc<Document>],
) -> Result<(Vec<Arc<Document>>, Outcome), ChangeError> {
    if let Some((id, file)) = find(documents, id).and_then(file_of) {
        return Err(ChangeError::OwnedByFile { id, file });
    }
    let old = applied.iter().find(|document| document.id == *id);
    let old = old.ok_or_else(|| ChangeError::Unknown(id.clone()))?;
    let mut rest = documents.to_vec();
    rest.retain(|owned| owned.document.id != *id);
    // Other documents may need what it says: a ServiceMesh fills in their ports.
    let (_, faults) = resolve(&rest);
    if !faults.is_empty() {
        return Err(ChangeError::Faults(Faults(faults)));
    }
    let outcome = Outcome { document: Arc::clone(old), change: Change::Deleted };
    let kept = applied.iter().filter(|document| document.id != *id);
    Ok((kept.cloned().collect(), outcome))
}

fn find<'d>(documents: &'d [Owned], id: &DocumentId) -> Option<&'d Owned> {
    documents.iter().find(|owned| owned.document.id == *id)
}

fn file_of(owned: &Owned) -> Option<(DocumentId, PathBuf)> {
    match &owned.owner {
        Owner::File(file) => Some((owned.document.id.clone(), file.clone())),
        Owner::Applied => None,
    }
}

/// The applied documents as one text, secrets and all.
pub(crate) fn applied_text(documents: &[Arc<Document>]) -> String {
    let texts: Vec<String> =
        documents.iter().map(|document| document.to_yaml_with_secrets()).collect();
    texts.join("---\n")
}
