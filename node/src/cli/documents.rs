//! `validate`, `apply`, `diff`, `get`, `describe`, `delete`, `schema`: documents of MANIFESTS.

use std::{
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use skein_protocol::{limits, words};

use super::{
    Client, Console, Exit, duration,
    exit::CliError,
    hooks::Local,
    operator::Operator,
    output::{Rows, Show, clean, millis},
    query,
};
use crate::api::dto::{
    ApplyReport, DeleteRequest, DiffReport, Document, DocumentDetail, DocumentName, Documents,
    PrepareRequest, Prepared, PreparedDraft, SourceFile, ValidateReport, Visible,
};

/// Documents to read.
#[derive(Args, Debug)]
pub(super) struct FileArgs {
    /// A file, a directory of *.yaml and *.yml, or - for standard input; repeatable
    #[arg(short = 'f', long = "file", value_name = "FILE|DIR|-")]
    file: Vec<PathBuf>,
    /// The same without -f
    #[arg(value_name = "FILE|DIR|-")]
    files: Vec<PathBuf>,
}

/// How far a change is followed.
#[derive(Args, Debug)]
pub(super) struct ChangeArgs {
    /// Wait until the live members show it, at most so long
    #[arg(long, value_name = "DURATION", value_parser = duration, num_args = 0..=1, default_missing_value = "10s")]
    wait: Option<Duration>,
    /// Change nothing; exit 4 if something would change
    #[arg(long)]
    dry_run: bool,
}

impl ChangeArgs {
    fn wait_ms(&self) -> u64 {
        let wait = self.wait.unwrap_or_default().min(limits::API_WAIT_MAX);
        u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)
    }
}

/// `skein apply`.
#[derive(Args, Debug)]
pub(super) struct ApplyArgs {
    #[command(flatten)]
    files: FileArgs,
    #[command(flatten)]
    change: ChangeArgs,
    #[command(flatten)]
    sign: SignArgs,
}

/// With which key mesh-wide documents are signed, and when not.
#[derive(Args, Debug, Default)]
pub(super) struct SignArgs {
    /// The operator's key [default: $SKEIN_OPERATOR_KEY, else ~/.config/skein/operator.key]
    #[arg(long = "as", value_name = "FILE")]
    key: Option<PathBuf>,
    /// Only if this version is in force, as `skein get -o json` shows it
    #[arg(long, value_name = "HASH")]
    expect: Option<String>,
    /// Even if calls that were seen in the last 24 hours are cut by it
    #[arg(long)]
    cut: bool,
}

/// `skein sign`.
#[derive(Args, Debug)]
pub(super) struct SignFileArgs {
    #[command(flatten)]
    files: FileArgs,
    /// The operator's key [default: $SKEIN_OPERATOR_KEY, else ~/.config/skein/operator.key]
    #[arg(long = "as", value_name = "FILE")]
    key: Option<PathBuf>,
    /// Where to write the signed documents [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// `skein get`.
#[derive(Args, Debug)]
pub(super) struct GetArgs {
    /// A kind: registry, discovery, mesh, traffic, access, or its full name
    kind: Option<String>,
    /// A name, or `namespace/name`
    name: Option<String>,
}

/// `skein describe`.
#[derive(Args, Debug)]
pub(super) struct DescribeArgs {
    /// A kind: registry, discovery, mesh, traffic, access, or its full name
    kind: String,
    /// A name, or `namespace/name`
    name: String,
}

/// `skein delete`.
#[derive(Args, Debug)]
pub(super) struct DeleteArgs {
    /// A kind: registry, discovery, mesh, traffic, access, or its full name
    #[arg(required_unless_present = "file", requires = "name")]
    kind: Option<String>,
    /// A name, or `namespace/name`
    name: Option<String>,
    /// The documents of a file instead; repeatable
    #[arg(short = 'f', long = "file", value_name = "FILE|DIR|-", conflicts_with = "kind")]
    file: Vec<PathBuf>,
    #[command(flatten)]
    change: ChangeArgs,
    #[command(flatten)]
    sign: SignArgs,
}

/// Exits 1 on any fault, with all of them.
pub(super) fn validate(
    local: &dyn Local,
    args: &FileArgs,
    console: &mut Console<'_>,
) -> Result<Exit, CliError> {
    let report = local.validate(args.read()?)?;
    console.show(&report)?;
    Ok(match report.valid() {
        true => Exit::Done,
        false => Exit::Failed,
    })
}

/// Exits 3 when not all live members showed it in time.
pub(super) fn apply(
    client: &Client,
    args: &ApplyArgs,
    console: &mut Console<'_>,
) -> Result<Exit, CliError> {
    let mut documents = args.files.read()?;
    let prepared = args.sign.prepare(client, documents.files.clone(), Vec::new())?;
    args.sign.check(&prepared, console)?;
    if args.change.dry_run {
        return compare(client, &documents, console);
    }
    documents.signed = args.sign.sign(&prepared, &documents.files)?;
    documents.wait_ms = args.change.wait_ms();
    let report: ApplyReport = client.post("/v1/apply", &documents)?;
    changed(&report, &args.change, console)
}

/// Signs the mesh-wide documents of files, for the files of hosts: whichever agent reads one puts it
/// in force. Each follows on the version that is in force now.
pub(super) fn sign(
    client: &Client,
    args: &SignFileArgs,
    console: &mut Console<'_>,
) -> Result<Exit, CliError> {
    let documents = args.files.read()?;
    let prepared = prepare(client, args.key.as_ref(), documents.files.clone(), Vec::new())?;
    if prepared.drafts.is_empty() {
        return Err(CliError::failed("there is nothing to sign: no document is mesh-wide")
            .fix("documents of one host need no signature: put the file on the host"));
    }
    let operator = Operator::load(args.key.as_ref())?;
    let mut signed = Vec::new();
    for draft in &prepared.drafts {
        let signature = operator.sign(&prepared.mesh, draft, &documents.files)?;
        let document = super::operator::document(&documents.files, &draft.document)?;
        signed.push(document.to_signed_yaml(&signature));
    }
    let text = signed.join("---\n");
    match &args.out {
        None => console.print(text.trim_end())?,
        Some(path) => {
            let wrong = |e: std::io::Error| CliError::failed(format!("{}: {e}", path.display()));
            std::fs::write(path, text).map_err(wrong)?;
            let count = words::count(signed.len(), "document", "documents");
            console.print(&format!("{count} signed: {}", path.display()))?;
        }
    }
    Ok(Exit::Done)
}

/// Applies text that the command line made itself.
pub(super) fn apply_files(
    client: &Client,
    files: Vec<SourceFile>,
    sign: &SignArgs,
    console: &mut Console<'_>,
) -> Result<Exit, CliError> {
    let prepared = sign.prepare(client, files.clone(), Vec::new())?;
    sign.check(&prepared, console)?;
    let signed = sign.sign(&prepared, &files)?;
    let documents = Documents { files, signed, ..Documents::default() };
    let report: ApplyReport = client.post("/v1/apply", &documents)?;
    console.show(&report)?;
    Ok(Exit::Done)
}

/// Asks the agent what is to be signed. It checks the scope of the operator whose key is at hand;
/// without one nothing may need a signature, and who signs later is told then.
fn prepare(
    client: &Client,
    key: Option<&PathBuf>,
    files: Vec<SourceFile>,
    delete: Vec<DocumentName>,
) -> Result<Prepared, CliError> {
    let certificate = |operator: Operator| data_encoding::HEXLOWER.encode(operator.certificate());
    let operator = Operator::load(key).map(certificate).unwrap_or_default();
    client.post("/v1/prepare", &PrepareRequest { files, delete, operator })
}

impl SignArgs {
    fn prepare(
        &self,
        client: &Client,
        files: Vec<SourceFile>,
        delete: Vec<DocumentName>,
    ) -> Result<Prepared, CliError> {
        prepare(client, self.key.as_ref(), files, delete)
    }

    /// What must hold before anything is signed. Warnings are told.
    fn check(&self, prepared: &Prepared, console: &mut Console<'_>) -> Result<(), CliError> {
        for draft in &prepared.drafts {
            let DocumentName { kind, namespace, name } = &draft.document;
            for warning in &draft.warnings {
                console.say(&format!("warning: {kind} {namespace}/{name}: {}", clean(warning)));
            }
            if let Some(expect) = &self.expect
                && !draft.hash.starts_with(expect.as_str())
            {
                let now = if draft.hash.is_empty() { "none" } else { &draft.hash };
                let text = format!("{kind} {namespace}/{name}: version {now} is in force");
                return Err(CliError::failed(text).fix("look at it, then say --expect anew"));
            }
        }
        if self.cut || prepared.cuts.is_empty() && prepared.unknown.is_empty() {
            return Ok(());
        }
        if prepared.cuts.is_empty() {
            let who: Vec<String> = prepared.unknown.iter().map(|line| clean(line)).collect();
            let text = format!("{}: this may cut calls that are not known here", who.join("; "));
            return Err(CliError::failed(format!("{text}; nothing was changed"))
                .fix("wait until they are known (a day), or say --cut"));
        }
        console.say(&prepared.cuts.text(true));
        let count = words::count(prepared.cuts.len(), "edge", "edges");
        let text = format!("this would cut {count} that carried calls in the last 24 hours");
        Err(CliError::failed(format!("{text}; nothing was changed"))
            .fix("allow them first (`skein policy edges` lists all), or say --cut"))
    }

    /// The documents that change, signed. No key is asked for where nothing does.
    fn sign(&self, prepared: &Prepared, files: &[SourceFile]) -> Result<Vec<String>, CliError> {
        let changed = prepared.drafts.iter().filter(|draft| draft.result != "unchanged");
        let changed: Vec<&PreparedDraft> = changed.collect();
        if changed.is_empty() {
            return Ok(Vec::new());
        }
        let operator = Operator::load(self.key.as_ref())?;
        changed.into_iter().map(|draft| operator.sign(&prepared.mesh, draft, files)).collect()
    }
}

/// Exits 4 when applying would change something.
pub(super) fn diff(
    client: &Client,
    args: &FileArgs,
    console: &mut Console<'_>,
) -> Result<Exit, CliError> {
    compare(client, &args.read()?, console)
}

fn compare(
    client: &Client,
    documents: &Documents,
    console: &mut Console<'_>,
) -> Result<Exit, CliError> {
    let report: DiffReport = client.post("/v1/diff", documents)?;
    console.show(&report)?;
    Ok(match report.changes() {
        true => Exit::WouldChange,
        false => Exit::Done,
    })
}

fn changed(
    report: &ApplyReport,
    change: &ChangeArgs,
    console: &mut Console<'_>,
) -> Result<Exit, CliError> {
    console.show(report)?;
    if change.dry_run {
        return Ok(Exit::WouldChange);
    }
    let everywhere = change.wait.is_none() || report.visible.on >= report.visible.of;
    Ok(if everywhere { Exit::Done } else { Exit::Degraded })
}

/// Documents held, all, of a kind, or one.
pub(super) fn get(
    client: &Client,
    args: &GetArgs,
    console: &mut Console<'_>,
) -> Result<Exit, CliError> {
    let path = match &args.kind {
        Some(kind) => format!("/v1/documents?kind={}", query(kind_name(kind)?)),
        None => "/v1/documents".to_owned(),
    };
    let mut documents: Vec<Document> = client.get(&path)?;
    if let Some(name) = &args.name {
        documents.retain(|d| d.name == *name || format!("{}/{}", d.namespace, d.name) == *name);
        if documents.is_empty() {
            let kind = args.kind.as_deref().unwrap_or("document");
            let text = format!("no {kind} `{name}` is held by this agent");
            return Err(CliError::failed(text).fix("skein get"));
        }
    }
    console.show(&documents)?;
    Ok(Exit::Done)
}

/// One document and what became of it.
pub(super) fn describe(
    client: &Client,
    args: &DescribeArgs,
    console: &mut Console<'_>,
) -> Result<Exit, CliError> {
    let name = document_name(&args.kind, &args.name)?;
    let path = format!(
        "/v1/describe?kind={}&namespace={}&name={}",
        query(&name.kind),
        query(&name.namespace),
        query(&name.name)
    );
    console.show(&client.get::<DocumentDetail>(&path)?)?;
    Ok(Exit::Done)
}

/// By name, or all that a file names.
pub(super) fn delete(
    client: &Client,
    local: &dyn Local,
    args: &DeleteArgs,
    console: &mut Console<'_>,
) -> Result<Exit, CliError> {
    let documents = match (&args.kind, &args.name) {
        (Some(kind), Some(name)) => vec![document_name(kind, name)?],
        _ => local.validate(read_all(&args.file)?)?.documents,
    };
    let prepared = args.sign.prepare(client, Vec::new(), documents.clone())?;
    args.sign.check(&prepared, console)?;
    let dry_run = args.change.dry_run;
    let signed = if dry_run { Vec::new() } else { args.sign.sign(&prepared, &[])? };
    let request = DeleteRequest { documents, wait_ms: args.change.wait_ms(), dry_run, signed };
    let report: ApplyReport = client.post("/v1/delete", &request)?;
    changed(&report, &args.change, console)
}

/// The JSON schema of the kinds.
pub(super) fn schema(local: &dyn Local, console: &mut Console<'_>) -> Result<Exit, CliError> {
    console.print(&local.schema()?)?;
    Ok(Exit::Done)
}

impl FileArgs {
    fn read(&self) -> Result<Documents, CliError> {
        let all: Vec<PathBuf> = self.file.iter().chain(&self.files).cloned().collect();
        read_all(&all)
    }
}

fn read_all(paths: &[PathBuf]) -> Result<Documents, CliError> {
    if paths.is_empty() {
        let text = "which documents? name a file, a directory, or - for standard input";
        return Err(CliError::usage(text).fix("skein validate FILE"));
    }
    let mut files = Vec::new();
    for path in paths {
        match path.is_dir() {
            true => {
                for file in files_of(path)? {
                    files.push(read_file(&file)?);
                }
            }
            false => files.push(read_file(path)?),
        }
    }
    Ok(Documents { files, ..Documents::default() })
}

/// `*.yaml` and `*.yml` of a directory by name, no dot files: as the agent reads it.
fn files_of(dir: &Path) -> Result<Vec<PathBuf>, CliError> {
    let unreadable = |e| CliError::failed(format!("{}: {e}", dir.display()));
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let yaml = name.ends_with(".yaml") || name.ends_with(".yml");
        if yaml && !name.starts_with('.') {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read_file(path: &Path) -> Result<SourceFile, CliError> {
    let name = path.display().to_string();
    let mut text = String::new();
    let bound = limits::MANIFEST_BYTES as u64 + 1;
    let read = match name.as_str() {
        "-" => std::io::stdin().take(bound).read_to_string(&mut text),
        _ => std::fs::File::open(path).and_then(|f| f.take(bound).read_to_string(&mut text)),
    };
    read.map_err(|e| CliError::failed(format!("{name}: {e}")))?;
    if text.len() > limits::MANIFEST_BYTES {
        let text = format!("{name}: longer than {} bytes", limits::MANIFEST_BYTES);
        return Err(CliError::failed(text).fix("split it into several files"));
    }
    Ok(SourceFile { name, text })
}

fn document_name(kind: &str, name: &str) -> Result<DocumentName, CliError> {
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    Ok(DocumentName {
        kind: kind_name(kind)?.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    })
}

/// A kind by its short or full name, of any case, also in plural.
fn kind_name(text: &str) -> Result<&'static str, CliError> {
    let lower = text.to_ascii_lowercase();
    let found = KINDS.iter().find(|(full, short)| {
        let full = full.to_ascii_lowercase();
        lower == full || lower == *short || lower.strip_suffix('s') == Some(&full)
    });
    match found {
        Some((full, _)) => Ok(full),
        None => Err(CliError::usage(format!(
            "`{text}` is no kind; kinds are registry, discovery, mesh, traffic, access"
        ))),
    }
}

const KINDS: [(&str, &str); 5] = [
    ("ServiceRegistry", "registry"),
    ("ServiceDiscovery", "discovery"),
    ("ServiceMesh", "mesh"),
    ("TrafficManagement", "traffic"),
    ("AccessPolicy", "access"),
];

/// `visible on 41/41 nodes after 0.8 s`.
pub(super) fn visible(v: &Visible) -> String {
    format!("visible on {}/{} nodes after {}\n", v.on, v.of, millis(v.ms))
}

fn full_name(kind: &str, namespace: &str, name: &str) -> String {
    format!("{kind}/{namespace}/{name}")
}

impl Show for ValidateReport {
    fn text(&self, _: bool) -> String {
        let mut text = String::new();
        for fault in &self.faults {
            text += fault.rendered.trim_end();
            text += "\n";
        }
        let errors = self.faults.iter().filter(|f| f.severity != "warning").count();
        let count = self.documents.len();
        match (errors, count) {
            (0, 1) => text + "the document is valid\n",
            (0, _) => text + &format!("{count} documents are valid\n"),
            _ => {
                let errors = words::count(errors, "fault", "faults");
                text + &format!("{errors} in {}\n", words::count(count, "document", "documents"))
            }
        }
    }

    fn names(&self) -> Vec<String> {
        let name = |d: &DocumentName| full_name(&d.kind, &d.namespace, &d.name);
        self.documents.iter().map(name).collect()
    }
}

impl Show for ApplyReport {
    fn text(&self, _: bool) -> String {
        let mut text = String::new();
        for r in &self.results {
            text += &format!("{} {}/{} {}\n", r.kind, r.namespace, r.name, r.result);
            for warning in &r.warnings {
                text += &format!("  warning: {}\n", clean(warning));
            }
        }
        text + &visible(&self.visible)
    }

    fn names(&self) -> Vec<String> {
        let name = |r: &_| -> String {
            let r: &crate::api::dto::ApplyResult = r;
            full_name(&r.kind, &r.namespace, &r.name)
        };
        self.results.iter().map(name).collect()
    }
}

impl Show for DiffReport {
    fn text(&self, _: bool) -> String {
        let mut text = String::new();
        for r in &self.results {
            text += &format!("{} {}/{} {}\n", r.kind, r.namespace, r.name, r.result);
            text += &r.diff;
        }
        text
    }

    fn names(&self) -> Vec<String> {
        let changed = self.results.iter().filter(|r| r.result != "unchanged");
        changed.map(|r| full_name(&r.kind, &r.namespace, &r.name)).collect()
    }
}

impl Show for Vec<Document> {
    fn text(&self, wide: bool) -> String {
        let mut heading = vec!["KIND", "NAME", "STATE", "SOURCE"];
        if wide {
            heading.extend(["HASH", "REASON"]);
        }
        let mut rows = Rows::new(&heading, "no documents");
        for d in self {
            let (kind, name) = (d.kind.clone(), format!("{}/{}", d.namespace, d.name));
            let (state, source) = (d.state.clone(), d.source.clone());
            let reason = d.reason.clone().unwrap_or_default();
            match wide {
                true => rows.row([kind, name, state, source, d.hash.clone(), reason]),
                false => rows.row([kind, name, state, source]),
            }
        }
        rows.text()
    }

    fn names(&self) -> Vec<String> {
        self.iter().map(|d| full_name(&d.kind, &d.namespace, &d.name)).collect()
    }
}

impl Show for DocumentDetail {
    fn text(&self, wide: bool) -> String {
        let d = &self.document;
        let mut text = format!(
            "{} {}/{}\nsource  {}\nstate   {}\nhash    {}\n",
            d.kind,
            d.namespace,
            d.name,
            clean(&d.source),
            clean(&d.state),
            clean(&d.hash)
        );
        if let Some(reason) = &d.reason {
            text += &format!("reason  {}\n", clean(reason));
        }
        for instance in &self.instances {
            let note = match instance.note.as_str() {
                "" => String::new(),
                note => format!(": {}", clean(note)),
            };
            text += &format!("\ninstance {} {}{note}\n", instance.id, instance.status);
            for c in &instance.checks {
                text += &format!("  {} {}: {}\n", c.kind, c.status, clean(&c.output));
            }
        }
        if !self.listeners.is_empty() {
            text += &format!("\n{}", self.listeners.text(wide));
        }
        text + "\n" + &d.yaml
    }

    fn names(&self) -> Vec<String> {
        let d = &self.document;
        vec![full_name(&d.kind, &d.namespace, &d.name)]
    }
}
