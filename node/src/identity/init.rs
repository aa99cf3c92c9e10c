//! Making a mesh: root, issuer, operator and this node, all at once.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use skein_protocol::{
    clock::Wall,
    limits,
    name::{Locality, MeshId, NodeKey, NodeName, ServicePattern},
    trust::{
        Grant, Role, RootChain, Signer,
        grant::GrantError,
        issue::{self, Authority, IssueError},
        operator::Scope,
        token::Token,
    },
};

use super::{
    files::{Files, IdentityError},
    issuer::{self, IssuerError, IssuingHost, TokenScope},
};
use crate::keys::{
    Ed25519, KeyPair,
    file::{self, FileError},
    pair::{PairError, random},
};

/// What a new mesh is to be.
#[derive(Clone, Debug)]
pub struct InitOptions {
    /// Its name, for people.
    pub mesh: String,
    /// This host's name in it.
    pub node: NodeName,
    /// Where this host must say it is; `None` is anywhere.
    pub zone: Option<Locality>,
    /// How many hosts shall hold an issuer in the end, this one among them.
    pub issuers: u32,
    /// Whether the root's key goes to the operator instead of staying on this host.
    pub offline_root: bool,
    /// Where the operator's key goes: a person's directory, not the agent's.
    pub operator: PathBuf,
    /// What hosts that join by the printed token may serve.
    pub services: Vec<ServicePattern>,
}

/// What was made.
#[derive(Debug)]
pub struct Init {
    /// The mesh.
    pub mesh: MeshId,
    /// This host.
    pub node: NodeKey,
    /// For the next hosts: one hour, ten uses.
    pub token: Token,
    /// Where the root's key lies.
    pub root_key: PathBuf,
    /// Where the operator's key lies; `None` where the operators of a backup go on.
    pub operator_key: Option<PathBuf>,
}

/// Why no mesh was made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// There is one here.
    #[error("already a member of {mesh} as {node}")]
    Already {
        /// Its name.
        mesh: String,
        /// This host's name in it.
        node: String,
    },
    /// An operator's key of another mesh would be lost.
    #[error("{} is there already: it may be the key of another mesh, move it away first", .0.display())]
    OperatorExists(PathBuf),
    /// The operator's key would lie where the agent can read it.
    #[error(
        "the operator's key would go to {}, which the agent's user can read: with it a stolen agent \
         signs policy and revokes nodes. Name a place of your own with --operator-key FILE, or run \
         this as root: what goes into {} becomes its owner's all the same", .at.display(), .dir.display()
    )]
    OperatorAtAgent {
        /// Where it would go.
        at: PathBuf,
        /// The agent's directory.
        dir: PathBuf,
    },
    /// A name.
    #[error("the name of the mesh is empty, longer than 64 bytes or has control characters")]
    Name,
    /// What is there does not read.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A certificate.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// The token.
    #[error(transparent)]
    Issuer(#[from] IssuerError),
    /// The grant.
    #[error(transparent)]
    Grant(#[from] GrantError),
    /// No entropy.
    #[error(transparent)]
    Pair(#[from] PairError),
}

/// How long the token that `init` prints is good for.
pub const FIRST_TOKEN_LIFE: Duration = Duration::from_secs(3600);
/// How many hosts may join with it.
pub const FIRST_TOKEN_USES: u32 = 10;

/// Makes a mesh in the directory of `files`. The node's certificate is written last: while it
/// is missing, running this again begins anew.
pub fn init(files: &Files, options: &InitOptions, now: Wall) -> Result<Init, InitError> {
    if files.is_member() {
        let (mesh, node) = files.membership(now)?;
        return Err(InitError::Already { mesh, node });
    }
    let name = &options.mesh;
    if name.is_empty() || name.len() > limits::NODE_NAME_BYTES || name.chars().any(char::is_control)
    {
        return Err(InitError::Name);
    }
    let operator_key = options.operator.join("operator.key");
    if operator_key.exists() {
        return Err(InitError::OperatorExists(operator_key));
    }
    let agents = OperatorPlace { directory: files.directory(), operator: &options.operator };
    if agents.is_the_agents() {
        let (at, dir) = (operator_key, files.directory().to_owned());
        return Err(InitError::OperatorAtAgent { at, dir });
    }
    file::make_agent_directory(files.directory())?;
    file::make_directory(&options.operator)?;

    let root = KeyPair::generate()?;
    let certificate = issue::root(&root, name, now, random()?)?;
    let roots = RootChain::new(certificate);
    let mesh = roots.verify(&Ed25519).map_err(IssueError::Signer)?.mesh;
    let by = Authority::new(&mesh, &roots.first, &root)?;
    let made = found(files, options, &roots, &root, now)?;
    write_operator(&options.operator, &by, now)?;
    Ok(Init { operator_key: Some(operator_key), ..made })
}

/// Where an operator's key goes, beside the directory of the agent.
struct OperatorPlace<'a> {
    directory: &'a Path,
    operator: &'a Path,
}

impl OperatorPlace<'_> {
    /// Whether it lies below the agent's directory, or belongs to a user that only the agent runs as.
    fn is_the_agents(&self) -> bool {
        let (directory, operator) = (resolved(self.directory), resolved(self.operator));
        let owner = |path: &Path| {
            let there = path.ancestors().find_map(|path| std::fs::metadata(path).ok());
            there.map(|met| met.uid())
        };
        let person = |user: &u32| *user != 0 && *user != rustix::process::geteuid().as_raw();
        let service = owner(&directory).filter(person);
        operator.starts_with(&directory) || service.is_some() && owner(&operator) == service
    }
}

/// A path without links, as far as it is there.
fn resolved(path: &Path) -> PathBuf {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let there = whole.ancestors().find_map(|path| Some((path, path.canonicalize().ok()?)));
    match there {
        Some((path, real)) => {
            whole.strip_prefix(path).map_or_else(|_| real.clone(), |rest| real.join(rest))
        }
        None => whole,
    }
}

/// Makes this the first host of a mesh that is there already: its roots and the newest root's
/// key come from a backup. Its operators go on with their keys.
pub fn restore(
    files: &Files,
    options: &InitOptions,
    roots: &RootChain,
    root: &KeyPair,
    now: Wall,
) -> Result<Init, InitError> {
    if files.is_member() {
        let (mesh, node) = files.membership(now)?;
        return Err(InitError::Already { mesh, node });
    }
    file::make_agent_directory(files.directory())?;
    found(files, options, roots, root, now)
}

/// Root, issuer and this node; its certificate is written last.
fn found(
    files: &Files,
    options: &InitOptions,
    chain: &RootChain,
    root: &KeyPair,
    now: Wall,
) -> Result<Init, InitError> {
    let node = node_key(files)?;
    let roots = chain.verify(&Ed25519).map_err(IssueError::Signer)?;
    let mesh = roots.mesh;
    let certificate = roots.roots.get(&root.public_key()).ok_or(IssueError::OtherKey)?;
    let by = Authority::new(&mesh, certificate, root)?;
    let root_key =
        if options.offline_root { options.operator.join("root.key") } else { files.root_key() };
    file::write_key(&root_key, root)?;
    file::write_roots(&files.roots(), chain)?;
    write_issuer(files, &by, &node.node_key(), now)?;
    let issuer = IssuingHost::open(files)?.ok_or(IssuerError::None)?;
    let grant = Grant::new(
        options.node.clone(),
        vec![ServicePattern::All],
        vec![Role::Gateway],
        options.zone.clone(),
    )?;
    let chain = issuer.admit(&node.node_key(), &grant, now)?;
    let token = issuer.create_token(first_token(options), now)?;
    // The first host knows all the policy that there is.
    files.write_policy(&[])?;
    file::write_chain(&files.node_chain(), &chain)?;
    Ok(Init { mesh, node: node.node_key(), token, root_key, operator_key: None })
}

/// This host's key: the one that is there, or a new one.
pub fn node_key(files: &Files) -> Result<KeyPair, FileError> {
    let path = files.node_key();
    if path.exists() {
        return file::read_key(&path);
    }
    file::make_agent_directory(files.directory())?;
    let key = KeyPair::generate()?;
    file::write_key(&path, &key)?;
    Ok(key)
}

fn write_issuer(
    files: &Files,
    by: &Authority<'_>,
    host: &NodeKey,
    now: Wall,
) -> Result<(), InitError> {
    let key = KeyPair::generate()?;
    let (certificate, _) = issuer::certify(by, &key.public_key(), host, now)?;
    file::write_key(&files.issuer_key(), &key)?;
    Ok(file::write_certificates(&files.issuer_certificate(), &[&certificate])?)
}

fn write_operator(directory: &Path, by: &Authority<'_>, now: Wall) -> Result<(), InitError> {
    let key = KeyPair::generate()?;
    let scope = Scope::All;
    let certificate = issue::operator(by, &key.public_key(), "operator", &scope, now, random()?)?;
    file::write_certificates(&directory.join("operator.pem"), &[&certificate])?;
    Ok(file::write_key(&directory.join("operator.key"), &key)?)
}

fn first_token(options: &InitOptions) -> TokenScope {
    TokenScope {
        services: options.services.clone(),
        // For its hour: whoever made the mesh lets in the first hosts by it, under their names.
        names: "*".parse().into_iter().collect(),
        roles: vec![],
        zone: None,
        issuers: if options.offline_root { 0 } else { options.issuers.saturating_sub(1) },
        life: FIRST_TOKEN_LIFE,
        uses: FIRST_TOKEN_USES,
    }
}
