//! What the command line needs of the rest of the agent, as one trait: the commands that work on
//! files and keys of this host, without a running agent.
//!
//! All methods block. They are called outside of any tokio runtime, so one that needs a runtime
//! makes its own. Errors are shown as they are: what, where, why, what to do next.

use std::{net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::api::dto::{
    AdmitRequest, Admitted, Documents, TokenCreated, TokenInfo, TokenRequest, ValidateReport,
};

/// `skein init`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct InitOptions {
    /// The agent's directory.
    pub dir: PathBuf,
    /// The mesh's name; the default is `mesh`.
    pub mesh: Option<String>,
    /// This host's `[region/]zone`.
    pub zone: Option<String>,
    /// This node's name; the default is the host's.
    pub name: Option<String>,
    /// How many hosts get an issuer by the printed token, this one among them.
    pub issuers: u8,
    /// What hosts that join by the printed token may serve; empty: all of namespace `default`.
    pub services: Vec<String>,
    /// The root key is meant to be taken away: the token's scope holds no issuer.
    pub offline_root: bool,
    /// A backup to start from.
    pub from: Option<PathBuf>,
    /// The root's key, where the backup does not hold it.
    pub root: Option<PathBuf>,
    /// Where the operator's key is written; the default is `~/.config/skein/operator.key`.
    pub operator_key: Option<PathBuf>,
}

/// What `skein init` made.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct InitReport {
    /// The id of the token, for `token revoke`.
    pub token_id: String,
    /// What hosts that join by it may serve.
    pub token_services: Vec<String>,
    /// Nothing was made: there is a mesh already.
    pub already: bool,
    /// The mesh's name.
    pub mesh: String,
    /// The mesh's id.
    pub mesh_id: String,
    /// This node's short id.
    pub node_id: String,
    /// This node's name.
    pub node_name: String,
    /// The next host's token: an hour, ten uses, all services. A secret. None when `already`.
    pub token: Option<String>,
    /// The token's end, RFC 3339.
    pub token_not_after: Option<String>,
    /// Where the operator's key is.
    pub operator_key: Option<PathBuf>,
    /// Where the root's key is.
    pub root_key: Option<PathBuf>,
    /// An address by which the next host reaches this one, `ip:port`.
    pub address: String,
    /// The agent's directory.
    pub dir: PathBuf,
}

impl std::fmt::Debug for InitReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "InitReport({}, {})", self.mesh, self.node_name)
    }
}

/// `skein join`.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct JoinOptions {
    /// The agent's directory.
    pub dir: PathBuf,
    /// An agent of the mesh, `host[:port]`; the port defaults to 7400.
    pub address: String,
    /// The token; none when the directory holds a chain already.
    pub token: Option<String>,
    /// This node's name; the default is the host's.
    pub name: Option<String>,
    /// What it will advertise, `ip:port`, if said.
    pub advertise: Option<String>,
    /// `[region/]zone`.
    pub zone: Option<String>,
}

impl std::fmt::Debug for JoinOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "JoinOptions({}, {:?})", self.address, self.name)
    }
}

/// What `skein join` got.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct JoinReport {
    /// The mesh's name.
    pub mesh: String,
    /// This node's short id.
    pub node_id: String,
    /// This node's name.
    pub node_name: String,
    /// The end of its certificate, RFC 3339.
    pub not_after: String,
    /// Services it may serve; empty: it may only call.
    pub services: Vec<String>,
    /// Whether it got an issuer too.
    pub issuer: bool,
    /// What it will advertise.
    pub advertises: String,
    /// Files written.
    pub files: Vec<PathBuf>,
    /// The agent's directory.
    pub dir: PathBuf,
    /// Nothing was asked: this host had left the mesh, and is in it again.
    pub returned: bool,
}

/// `skein key`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct KeyReport {
    /// The public key, 64 hexadecimal digits.
    pub key: String,
    /// Its short id.
    pub id: String,
    /// Where the private half is.
    pub file: PathBuf,
    /// It was made just now.
    pub created: bool,
}

/// `skein agent`.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct AgentOptions {
    /// The agent's directory.
    pub dir: PathBuf,
    /// Files and directories of documents, in the order given.
    pub files: Vec<PathBuf>,
    /// The address of all the agent's own listeners.
    pub bind: Option<IpAddr>,
    /// What to tell others, `ip:port`.
    pub advertise: Option<String>,
    /// Agents to join by, `host[:port]`.
    pub join: Vec<String>,
    /// The join token, used while there is no valid certificate.
    pub token: Option<String>,
    /// The log's filter, by flag or environment.
    pub log_level: Option<String>,
    /// Start also where this host has left its mesh.
    pub rejoin: bool,
}

impl std::fmt::Debug for AgentOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AgentOptions({}, {:?})", self.dir.display(), self.files)
    }
}

/// The commands that need no running agent.
pub trait Local {
    /// Makes a mesh. Again in the same directory: a report with `already`.
    fn init(&self, options: InitOptions) -> anyhow::Result<InitReport>;
    /// Gets this host's certificate from a running mesh and writes it.
    fn join(&self, options: JoinOptions) -> anyhow::Result<JoinReport>;
    /// This host's key, made if there is none.
    fn key(&self, dir: PathBuf) -> anyhow::Result<KeyReport>;
    /// Makes a token with the issuer key in `dir`, while no agent runs there.
    fn token_create(&self, dir: PathBuf, request: TokenRequest) -> anyhow::Result<TokenCreated>;
    /// Tokens that the issuer in `dir` made, while no agent runs there.
    fn token_list(&self, dir: PathBuf) -> anyhow::Result<Vec<TokenInfo>>;
    /// Ends a token that the issuer in `dir` made, while no agent runs there.
    fn token_revoke(&self, dir: PathBuf, id: String) -> anyhow::Result<()>;
    /// Certifies a key with the issuer key in `dir`, while no agent runs there.
    fn admit(&self, dir: PathBuf, request: AdmitRequest) -> anyhow::Result<Admitted>;
    /// Runs the agent in the foreground until it is told to stop.
    fn agent(&self, options: AgentOptions) -> anyhow::Result<()>;
    /// Checks documents without an agent: all that needs no host. File names are as given.
    fn validate(&self, documents: Documents) -> anyhow::Result<ValidateReport>;
    /// The JSON schema of the manifest kinds, if there is one.
    fn schema(&self) -> anyhow::Result<String>;
}

/// A [`Local`] in which every command says that it is not built in.
#[derive(Clone, Copy, Debug)]
pub struct Unwired;

impl Unwired {
    fn no<T>(what: &str) -> anyhow::Result<T> {
        Err(anyhow::anyhow!("`skein {what}` is not part of this build"))
    }
}

impl Local for Unwired {
    fn init(&self, _: InitOptions) -> anyhow::Result<InitReport> {
        Self::no("init")
    }
    fn join(&self, _: JoinOptions) -> anyhow::Result<JoinReport> {
        Self::no("join")
    }
    fn key(&self, _: PathBuf) -> anyhow::Result<KeyReport> {
        Self::no("key")
    }
    fn token_create(&self, _: PathBuf, _: TokenRequest) -> anyhow::Result<TokenCreated> {
        Self::no("token create")
    }
    fn token_list(&self, _: PathBuf) -> anyhow::Result<Vec<TokenInfo>> {
        Self::no("token list")
    }
    fn token_revoke(&self, _: PathBuf, _: String) -> anyhow::Result<()> {
        Self::no("token revoke")
    }
    fn admit(&self, _: PathBuf, _: AdmitRequest) -> anyhow::Result<Admitted> {
        Self::no("admit")
    }
    fn agent(&self, _: AgentOptions) -> anyhow::Result<()> {
        Self::no("agent")
    }
    fn validate(&self, _: Documents) -> anyhow::Result<ValidateReport> {
        Self::no("validate")
    }
    fn schema(&self) -> anyhow::Result<String> {
        Self::no("schema")
    }
}
