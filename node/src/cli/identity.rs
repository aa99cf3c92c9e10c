//! `init`, `join`, `key`, `admit`, `token`: keys and certificates.
//!
//! A running agent does what needs an issuer, since it holds the count of uses; without one the
//! directory's key does.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Subcommand};

use super::{
    Client, Console, Exit, duration,
    exit::CliError,
    hooks::{InitOptions, InitReport, JoinOptions, JoinReport, KeyReport, Local},
    output::{Rows, Show, clean},
    query,
    secret::{self, SecretSource},
};
use skein_protocol::trust::{
    Signer,
    token::{Token, TokenError, token_id},
};

use crate::{
    api::dto::{AdmitRequest, Admitted, TokenCreated, TokenInfo, TokenRequest, TokenRevoked},
    keys::KeyPair,
};

/// `skein init`.
#[derive(Args, Debug)]
pub(super) struct InitArgs {
    /// The mesh's name
    #[arg(long)]
    mesh: Option<String>,
    /// This host's `[region/]zone`
    #[arg(long)]
    zone: Option<String>,
    /// This node's name; the host's without it
    #[arg(long)]
    name: Option<String>,
    /// How many hosts get an issuer by the printed token, this one among them
    #[arg(long, default_value_t = 3)]
    issuers: u8,
    /// A service that hosts which join by the printed token may serve: `namespace/name`,
    /// `namespace/*` or `*/*`; repeatable [default: default/*]
    #[arg(long = "service", value_name = "PATTERN")]
    services: Vec<String>,
    /// The root key will be taken off this host: the token makes no issuers
    #[arg(long)]
    offline_root: bool,
    /// Bring a mesh of which every host was lost up again from its backup
    #[arg(long, value_name = "BACKUP")]
    from: Option<PathBuf>,
    /// The root's key, where the backup does not hold it
    #[arg(long, value_name = "FILE", requires = "from")]
    root: Option<PathBuf>,
    /// Where to write the operator's key [default: ~/.config/skein/operator.key]
    #[arg(long, value_name = "FILE", env = "SKEIN_OPERATOR_KEY")]
    operator_key: Option<PathBuf>,
}

/// `skein join`.
#[derive(Args, Debug)]
pub(super) struct JoinArgs {
    /// Any agent of the mesh: `host[:port]`
    address: String,
    /// The join token: @FILE, or - for standard input; else SKEIN_TOKEN
    #[arg(long, value_name = "@FILE|-")]
    token: Option<SecretSource>,
    /// This node's name; the host's without it
    #[arg(long)]
    name: Option<String>,
    /// What to tell others to dial: `ip:port`
    #[arg(long, value_name = "IP:PORT")]
    advertise: Option<String>,
    /// This host's `[region/]zone`
    #[arg(long)]
    zone: Option<String>,
}

/// `skein admit`.
#[derive(Args, Debug)]
pub(super) struct AdmitArgs {
    /// The public key, as `skein key` prints it on the host to admit
    key: String,
    /// The node's name
    #[arg(long)]
    name: Option<String>,
    /// Take the name from a host that is away
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    grant: GrantArgs,
}

/// What a node may do.
#[derive(Args, Debug)]
pub(super) struct GrantArgs {
    /// A service that the node may serve: `namespace/name`, `namespace/*` or `*/*`; repeatable.
    /// Without any it may only call
    #[arg(long = "service", value_name = "PATTERN")]
    services: Vec<String>,
    /// A role: gateway; repeatable
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
    /// The `[region/]zone` it must be in
    #[arg(long, default_value = "*")]
    zone: String,
}

/// `skein token`.
#[derive(Subcommand, Debug)]
pub(super) enum TokenCommand {
    /// Make a join token and print it
    Create(TokenCreateArgs),
    /// Tokens, and how often each was used
    List,
    /// End a token
    Revoke {
        /// Its id, as `list` shows it, or @FILE with the token in it
        id: String,
    },
}

/// `skein token create`.
#[derive(Args, Debug)]
pub(super) struct TokenCreateArgs {
    /// A name that it may give, `*` for any characters: `web-*`; repeatable. Without any a host
    /// that joins is called node-ID
    #[arg(long = "name", value_name = "PATTERN")]
    names: Vec<String>,
    #[command(flatten)]
    grant: GrantArgs,
    /// How long it lives
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "1h")]
    ttl: Duration,
    /// How often it may be used
    #[arg(long, default_value_t = 1)]
    uses: u32,
}

/// Makes a mesh.
pub(super) fn init(
    local: &dyn Local,
    dir: &Path,
    args: &InitArgs,
    console: &mut Console<'_>,
) -> Result<Exit, CliError> {
    let report = local.init(InitOptions {
        dir: dir.to_owned(),
        mesh: args.mesh.clone(),
        zone: args.zone.clone(),
        name: args.name.clone(),
        issuers: args.issuers,
        services: args.services.clone(),
        offline_root: args.offline_root,
        from: args.from.clone(),
        root: args.root.clone(),
        operator_key: args.operator_key.clone(),
    })?;
    console.show(&report)?;
    Ok(Exit::Done)
}

/// Gets this host's certificate from a running mesh.
pub(super) fn join(
    local: &dyn Local,
    dir: &Path,
    args: &JoinArgs,
    console: &mut Console<'_>,
) -> Result<Exit, CliError> {
    let report = local.join(JoinOptions {
        dir: dir.to_owned(),
        address: args.address.clone(),
        token: secret::token(args.token.as_ref())?,
        name: args.name.clone(),
        advertise: args.advertise.clone(),
        zone: args.zone.clone(),
    })?;
    console.show(&report)?;
    Ok(Exit::Done)
}

/// This host's public key.
pub(super) fn key(
    local: &dyn Local,
    dir: &Path,
    console: &mut Console<'_>,
) -> Result<Exit, CliError> {
    console.show(&local.key(dir.to_owned())?)?;
    Ok(Exit::Done)
}

/// Certifies a key without a token.
pub(super) fn admit(
    client: &Client,
    local: &dyn Local,
    dir: &Path,
    args: &AdmitArgs,
    console: &mut Console<'_>,
) -> Result<Exit, CliError> {
    let request = AdmitRequest {
        key: args.key.clone(),
        name: args.name.clone().unwrap_or_default(),
        replace: args.replace,
        services: args.grant.services.clone(),
        roles: args.grant.roles.clone(),
        zone: args.grant.zone.clone(),
    };
    let admitted: Admitted = match client.runs() {
        true => client.post("/v1/admit", &request)?,
        false => local.admit(dir.to_owned(), request)?,
    };
    console.show(&admitted)?;
    Ok(Exit::Done)
}

/// Join tokens.
pub(super) fn token(
    client: &Client,
    local: &dyn Local,
    dir: &Path,
    command: &TokenCommand,
    console: &mut Console<'_>,
) -> Result<Exit, CliError> {
    match command {
        TokenCommand::Create(args) => {
            let request = args.request();
            let created: TokenCreated = match client.runs() {
                true => client.post("/v1/tokens", &request)?,
                false => local.token_create(dir.to_owned(), request)?,
            };
            console.show(&created)?;
        }
        TokenCommand::List => {
            let tokens: Vec<TokenInfo> = match client.runs() {
                true => client.get("/v1/tokens")?,
                false => local.token_list(dir.to_owned())?,
            };
            console.show(&tokens)?;
        }
        TokenCommand::Revoke { id } => {
            let id = token_named(id)?;
            if !client.runs() {
                local.token_revoke(dir.to_owned(), id.clone())?;
                console.say(&format!(
                    "token {id} is revoked on this host: the others hear of it when its agent runs"
                ));
                return Ok(Exit::Done);
            }
            let revoked: TokenRevoked = client.delete(&format!("/v1/tokens/{}", query(&id)))?;
            console.show(&revoked)?;
            return Ok(if revoked.unheard.is_empty() { Exit::Done } else { Exit::Degraded });
        }
    }
    Ok(Exit::Done)
}

/// The id of a token that is named by it, or by a file that holds the token. What is said is never
/// printed: it may be the secret.
fn token_named(said: &str) -> Result<String, CliError> {
    let text = match said.strip_prefix('@') {
        None if said.starts_with("skein1") => {
            return Err(CliError::failed("a token is a secret: it does not stand in arguments")
                .fix("name it by its id (`skein token list`), or by a file: @FILE"));
        }
        None => return Ok(said.to_owned()),
        Some(path) => std::fs::read_to_string(path)
            .map_err(|error| CliError::failed(format!("{path}: {error}")))?,
    };
    let token: Token = text.trim().parse().map_err(|error: TokenError| {
        CliError::failed(format!("the file holds no join token: {error}"))
    })?;
    let seed = KeyPair::from_seed(&token.seed)
        .map_err(|error| CliError::failed(format!("the token's seed: {error}")))?;
    Ok(data_encoding::HEXLOWER.encode(&token_id(&seed.public_key())))
}

impl TokenCreateArgs {
    fn request(&self) -> TokenRequest {
        TokenRequest {
            services: self.grant.services.clone(),
            names: self.names.clone(),
            roles: self.grant.roles.clone(),
            zone: self.grant.zone.clone(),
            ttl_seconds: self.ttl.as_secs(),
            uses: self.uses,
        }
    }
}

/// How the agent of a directory is started.
fn start_line(dir: &Path) -> String {
    match dir.to_str() {
        None | Some("" | "/var/lib/skein") => "skein agent".to_owned(),
        Some(dir) => format!("skein agent --dir {}", clean(dir)),
    }
}

impl Show for InitReport {
    fn text(&self, _: bool) -> String {
        if self.already {
            return format!("already a member of {}\n", clean(&self.mesh));
        }
        let mut text = format!(
            "made mesh {} and its first node {} ({})\n\n\
             start the agent here:\n  {}\n",
            clean(&self.mesh),
            clean(&self.node_name),
            self.node_id,
            start_line(&self.dir)
        );
        if let Some(token) = &self.token {
            text += &format!(
                "\non the next host (this token, id {}, lasts an hour, ten uses; it lets a host \
                 call, and serve {}; keep it secret):\n  \
                 SKEIN_TOKEN={token} skein join {} && skein agent\n",
                self.token_id,
                self.token_services.join(", "),
                self.address
            );
        }
        text += "\nport to open between the hosts: 7400/udp\n";
        if let Some(operator) = &self.operator_key {
            let at = operator.display();
            text += &format!("\nyour operator key, which signs policy, is {at}: keep a copy\n");
        }
        if let Some(root) = &self.root_key {
            let at = root.display();
            text += &format!(
                "\nnext, once two issuers live (skein status): take the root key off this host, \
                 which needs it for no other hour:\n  mv {at} SOMEWHERE-OFFLINE\n"
            );
        }
        text
    }

    fn names(&self) -> Vec<String> {
        vec![self.mesh.clone()]
    }
}

impl Show for JoinReport {
    fn text(&self, _: bool) -> String {
        if self.returned {
            return format!(
                "{} ({}) had left {} and is back, with the key that it had\n\n\
                 start the agent here:\n  {}\n",
                clean(&self.node_name),
                self.node_id,
                clean(&self.mesh),
                start_line(&self.dir)
            );
        }
        let serves = match self.services.is_empty() {
            true => "it may call, not serve".to_owned(),
            false => format!("it may serve {}", self.services.join(", ")),
        };
        let issuer = match self.issuer {
            true => "; it holds an issuer too",
            false => "",
        };
        format!(
            "{} ({}) is a member of {} until {}; {serves}{issuer}\nit will advertise {}\n\n\
             start the agent here:\n  {}\n",
            clean(&self.node_name),
            self.node_id,
            clean(&self.mesh),
            self.not_after,
            clean(&self.advertises),
            start_line(&self.dir)
        )
    }

    fn names(&self) -> Vec<String> {
        vec![self.node_name.clone()]
    }
}

impl Show for KeyReport {
    fn text(&self, _: bool) -> String {
        self.key.clone()
    }

    fn names(&self) -> Vec<String> {
        vec![self.key.clone()]
    }
}

impl Show for Admitted {
    fn text(&self, _: bool) -> String {
        let (name, id) = (clean(&self.name), &self.id);
        format!(
            "# {name} ({id}) is admitted until {}. On that host write this as node.pem:\n{}\n\
             # and this as ca.pem:\n{}",
            self.not_after, self.chain_pem, self.roots_pem
        )
    }

    fn names(&self) -> Vec<String> {
        vec![self.id.clone()]
    }
}

impl Show for TokenRevoked {
    fn text(&self, _: bool) -> String {
        let mut text = format!("token {} is revoked on {}/{} issuers\n", self.id, self.on, self.of);
        for host in &self.unheard {
            text += &format!("not heard yet: {}\n", clean(host));
        }
        text
    }

    fn names(&self) -> Vec<String> {
        vec![self.id.clone()]
    }
}

impl Show for TokenCreated {
    /// The token alone, so that it can be piped into a file.
    fn text(&self, _: bool) -> String {
        self.token.clone()
    }

    fn names(&self) -> Vec<String> {
        vec![self.id.clone()]
    }
}

impl Show for Vec<TokenInfo> {
    fn text(&self, _: bool) -> String {
        let heading = ["ID", "STATE", "USED", "ENDS", "SERVICES", "ISSUER"];
        let mut rows = Rows::new(&heading, "no token of this host was used or revoked yet");
        for t in self {
            let used =
                if t.uses > 0 { format!("{}/{}", t.used, t.uses) } else { t.used.to_string() };
            let (id, state, ends) = (t.id.clone(), t.state.clone(), t.not_after.clone());
            rows.row([id, state, used, ends, t.services.join(","), t.issuer.clone()]);
        }
        rows.text()
    }

    fn names(&self) -> Vec<String> {
        self.iter().map(|t| t.id.clone()).collect()
    }
}
