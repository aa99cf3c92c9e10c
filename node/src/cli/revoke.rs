//! `revoke`, `operator create|list|revoke`: the end of keys, and who may end them.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Subcommand};
use skein_protocol::{
    name::{Hash, Label, MeshId, NodeKey},
    trust::{
        Signer,
        operator::Scope,
        revocation::{By, Revocation, Subject, work_of_root},
    },
};

use super::{
    Client, Console, Exit, duration,
    exit::CliError,
    issuer::DropArgs,
    operator::Operator,
    output::{Rows, Show, clean},
};
use crate::{
    api::dto::{Document, RevokePlan, RevokePlanRequest, RevokeReport, RevokeRequest},
    clock::wall,
    identity::{Files, RootKey},
    keys::file,
};

/// `skein revoke`.
#[derive(Args, Debug)]
pub(super) struct RevokeArgs {
    /// The node: its name, short id or key
    node: String,
    /// Why, for people
    #[arg(long)]
    reason: String,
    /// Only say what it would do; exits 4
    #[arg(long)]
    dry_run: bool,
    /// The operator's key [default: $SKEIN_OPERATOR_KEY, else ~/.config/skein/operator.key]
    #[arg(long = "as", value_name = "FILE")]
    key: Option<PathBuf>,
    /// How long to wait for members to hear of it
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "5s")]
    wait: Duration,
}

/// `skein operator`.
#[derive(Subcommand, Debug)]
pub(super) enum OperatorCommand {
    /// Certify a new operator with the root's key
    Create(CreateArgs),
    /// Operators whose documents are in force
    List,
    /// End an operator's key with the root's key
    Revoke(OperatorRevokeArgs),
}

/// `skein operator create`.
#[derive(Args, Debug)]
pub(super) struct CreateArgs {
    /// Its name, for people
    name: String,
    /// A namespace that it may write; repeatable. Without any: all of them
    #[arg(long = "namespace", value_name = "NAMESPACE")]
    namespaces: Vec<Label>,
    /// Where to write its key; the certificate goes beside it, as .pem
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The root's key [default: root.key in the agent's directory]
    #[arg(long, value_name = "FILE")]
    root: Option<PathBuf>,
}

/// `skein operator revoke`.
#[derive(Args, Debug)]
pub(super) struct OperatorRevokeArgs {
    /// Its certificate's file, or its key in 64 hexadecimal digits
    operator: String,
    /// Why, for people
    #[arg(long)]
    reason: String,
    /// A node whose revocation by this operator is undone, or `all`; repeatable
    #[arg(long, value_name = "NODE|all")]
    undo: Vec<String>,
    /// A document of this operator that ends with its key, `namespace/name`, or `all`; repeatable
    #[arg(long, value_name = "NAMESPACE/NAME|all")]
    drop: Vec<String>,
    /// Only say what it would do; exits 4
    #[arg(long)]
    dry_run: bool,
    /// The root's key [default: root.key in the agent's directory]
    #[arg(long, value_name = "FILE")]
    root: Option<PathBuf>,
    /// How long to wait for members to hear of it
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "5s")]
    wait: Duration,
}

/// Ends a node's key.
pub(super) fn revoke(
    client: &Client,
    args: &RevokeArgs,
    console: &mut Console<'_>,
) -> Result<Exit, CliError> {
    let asked = RevokePlanRequest { kind: "node".to_owned(), target: args.node.clone() };
    let plan: RevokePlan = client.post("/v1/revoke/plan", &asked)?;
    if args.dry_run {
        console.show(&plan)?;
        return Ok(if plan.already { Exit::Done } else { Exit::WouldChange });
    }
    let operator = Operator::load(args.key.as_ref())?;
    console.say(&plan.text(false));
    let by = By::Operator(operator.certificate().to_vec());
    let key = key_of(&plan)?;
    let revocation = Revocation {
        mesh: mesh_of(&plan)?,
        subject: Subject::Node,
        key,
        by,
        reason: args.reason.clone(),
        works: Vec::new(),
    };
    submit(client, revocation, operator.signer(), args.wait, console)
}

/// The verbs of operators.
pub(super) fn operator(
    client: impl FnOnce() -> Result<Client, CliError>,
    dir: &Path,
    command: &OperatorCommand,
    console: &mut Console<'_>,
) -> Result<Exit, CliError> {
    match command {
        OperatorCommand::Create(args) => create(dir, args, console),
        OperatorCommand::List => list(&client()?, console),
        OperatorCommand::Revoke(args) => end_operator(&client()?, dir, args, console),
    }
}

fn create(dir: &Path, args: &CreateArgs, console: &mut Console<'_>) -> Result<Exit, CliError> {
    let mut namespaces = args.namespaces.clone();
    namespaces.sort();
    namespaces.dedup();
    let scope = match namespaces.is_empty() {
        true => Scope::All,
        false => Scope::Namespaces(namespaces),
    };
    let root = open_root(dir, args.root.as_deref())?;
    let made = root.create_operator(&args.name, &scope, &args.out, wall());
    made.map_err(|error| CliError::failed(error.to_string()))?;
    let certificate = args.out.with_extension("pem");
    console.print(&format!(
        "operator {}: {} and {}; give both to whoever signs with --as, and keep the first secret",
        args.name,
        args.out.display(),
        certificate.display()
    ))?;
    Ok(Exit::Done)
}

fn open_root(dir: &Path, said: Option<&Path>) -> Result<RootKey, CliError> {
    RootKey::open(&Files::new(dir), said).map_err(|error| {
        CliError::failed(format!("this needs the root's key: {error}"))
            .fix("run it on the host of `skein init`, or name the key with --root FILE")
    })
}

fn list(client: &Client, console: &mut Console<'_>) -> Result<Exit, CliError> {
    let documents: Vec<Document> = client.get("/v1/documents")?;
    let mut rows = Rows::new(&["OPERATOR", "DOCUMENT"], "no operator has signed a document");
    for document in documents {
        if let Some(operator) = document.source.strip_prefix("operator:") {
            let name = format!("{} {}/{}", document.kind, document.namespace, document.name);
            rows.row([operator.to_owned(), name]);
        }
    }
    console.print(&rows.text())?;
    Ok(Exit::Done)
}

fn end_operator(
    client: &Client,
    dir: &Path,
    args: &OperatorRevokeArgs,
    console: &mut Console<'_>,
) -> Result<Exit, CliError> {
    let target = match args.operator.parse::<NodeKey>() {
        Ok(key) => key.to_string(),
        Err(_) => certified(Path::new(&args.operator))?,
    };
    let asked = RevokePlanRequest { kind: "operator".to_owned(), target };
    let plan: RevokePlan = client.post("/v1/revoke/plan", &asked)?;
    let ends = |kind: &str, about: &str| {
        let named = if kind == "document" { &args.drop } else { &args.undo };
        named.iter().any(|name| name == "all" || about.split([' ', ',']).any(|part| part == name))
    };
    let mut works = Vec::new();
    for work in &plan.works {
        let stays = !ends(&work.kind, &work.about);
        let word = if stays { "stays valid" } else { "ends" };
        console.say(&format!("{} {}: {word}", work.kind, clean(&work.about)));
        works.extend(work.id.parse::<Hash>().ok().filter(|_| stays));
    }
    if args.dry_run {
        return Ok(Exit::WouldChange);
    }
    let root = open_root(dir, args.root.as_deref())?;
    let revocation = Revocation {
        mesh: mesh_of(&plan)?,
        subject: Subject::Operator,
        key: key_of(&plan)?,
        by: By::Root(root.pair.public_key()),
        reason: args.reason.clone(),
        works,
    };
    submit(client, revocation, &root.pair, args.wait, console)
}

/// Ends the oldest root. What it certified and is still wanted is listed, and stays.
pub(super) fn drop_root(
    client: &Client,
    dir: &Path,
    args: &DropArgs,
    console: &mut Console<'_>,
) -> Result<Exit, CliError> {
    let asked = RevokePlanRequest { kind: "root".to_owned(), target: String::new() };
    let plan: RevokePlan = client.post("/v1/revoke/plan", &asked)?;
    let mut works: Vec<Hash> = Vec::new();
    for work in &plan.works {
        console.say(&format!("{} {}: stays valid", work.kind, clean(&work.about)));
        works.extend(work.id.parse::<Hash>().ok());
    }
    for path in &args.keep {
        let key: NodeKey = certified(path)?.parse().map_err(|_| CliError::failed("no key"))?;
        works.push(work_of_root(&key.0));
    }
    works.sort();
    works.dedup();
    if !plan.users.is_empty() {
        console.say(&format!(
            "certified under it, and out of the mesh without it: {}",
            clean(&plan.users.join(", "))
        ));
    }
    if args.dry_run {
        return Ok(Exit::WouldChange);
    }
    if !plan.users.is_empty() && !args.force {
        return Err(CliError::failed("nothing was done: members still use the old root").fix(
            "run `skein issuer renew --root FILE` with the new root's key on the hosts that issue, \
             wait until the others have renewed (`skein certs`), and run this again; or say \
             --force: who is named above has to join anew",
        ));
    }
    let root = open_root(dir, args.root.as_deref())?;
    let revocation = Revocation {
        mesh: mesh_of(&plan)?,
        subject: Subject::Root,
        key: key_of(&plan)?,
        by: By::Root(root.pair.public_key()),
        reason: "another root has followed on it".to_owned(),
        works,
    };
    submit(client, revocation, &root.pair, args.wait, console)
}

fn certified(path: &Path) -> Result<String, CliError> {
    let wrong = |error: &dyn std::fmt::Display| {
        CliError::failed(format!("{}: {error}", path.display()))
            .fix("name the operator's certificate, or its key in 64 hexadecimal digits")
    };
    let certificates = file::read_certificates(path).map_err(|error| wrong(&error))?;
    let first = certificates.first().map(Vec::as_slice).unwrap_or_default();
    let summary = skein_protocol::trust::certificate::summary(first);
    Ok(NodeKey(summary.map_err(|error| wrong(&error))?.key).to_string())
}

fn submit(
    client: &Client,
    revocation: Revocation,
    signer: &dyn Signer,
    wait: Duration,
    console: &mut Console<'_>,
) -> Result<Exit, CliError> {
    let statement = revocation.sign(signer).and_then(|statement| statement.encode());
    let statement = statement.map_err(|error| CliError::failed(error.to_string()))?;
    let request = RevokeRequest {
        statement: data_encoding::HEXLOWER.encode(&statement),
        wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
    };
    let report: RevokeReport = client.post("/v1/revoke", &request)?;
    console.show(&report)?;
    Ok(if report.unheard.is_empty() { Exit::Done } else { Exit::Degraded })
}

fn mesh_of(plan: &RevokePlan) -> Result<MeshId, CliError> {
    let wrong = || CliError::failed("the agent did not say which mesh it is of");
    plan.mesh.parse().map(MeshId).map_err(|_| wrong())
}

fn key_of(plan: &RevokePlan) -> Result<[u8; 32], CliError> {
    let key = plan.key.parse::<NodeKey>();
    key.map(|key| key.0).map_err(|error| CliError::failed(error.to_string()))
}

impl Show for RevokePlan {
    fn text(&self, _: bool) -> String {
        let name = if self.name.is_empty() { "a node that is not known here" } else { &self.name };
        let mut text = format!("{name} ({}): ", self.key.get(..16).unwrap_or(&self.key));
        text += match self.already {
            true => "revoked already\n",
            false => "all its links are cut, and it cannot come back with this key\n",
        };
        if !self.sole.is_empty() {
            text += &format!("only it serves {}: these calls will fail\n", self.sole.join(", "));
        }
        if self.issuer {
            text +=
                "its host holds an issuer: it admits nobody new until a root decides about it\n";
        }
        if self.tokens > 0 {
            text += &format!("{} join tokens of its issuer end\n", self.tokens);
        }
        text
    }

    fn names(&self) -> Vec<String> {
        vec![self.key.clone()]
    }
}

impl Show for RevokeReport {
    fn text(&self, _: bool) -> String {
        let v = &self.visible;
        let ms = super::output::millis(v.ms);
        let mut text = format!("revoked: in force on {}/{} nodes after {ms}\n", v.on, v.of);
        for node in &self.unheard {
            text += &format!("not heard yet: {}\n", clean(node));
        }
        if !self.warning.is_empty() {
            text += &format!("warning: {}\n", clean(&self.warning));
        }
        text
    }

    fn names(&self) -> Vec<String> {
        vec![self.key.clone()]
    }
}
