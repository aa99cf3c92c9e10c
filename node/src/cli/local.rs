//! The commands that work on this host's keys and files, or run the agent itself.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::{Context, Result, anyhow, bail};
use skein_protocol::{
    engine::Write,
    name::{NodeName, ServicePattern},
    policy::SignedVersion,
    trust::token::{Token, name_of_key},
};

use super::hooks::{
    AgentOptions, InitOptions, InitReport, JoinOptions, JoinReport, KeyReport, Local,
};
use crate::{
    agent::{self, offline},
    api::dto::{
        AdmitRequest, Admitted, Documents, TokenCreated, TokenInfo, TokenRequest, ValidateReport,
    },
    clock::wall,
    disk::Disk,
    identity::{self, Files, IssuingHost},
    keys::file,
};

/// This host.
#[derive(Clone, Copy, Debug)]
pub struct ThisHost;

/// The host's name, cut to what a node may be called.
pub(crate) fn host_name() -> Result<String> {
    let name = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    let fit = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
    let name: String = name.chars().map(fit).collect();
    let name = name.trim_matches(['-', '.']).to_owned();
    if name.is_empty() {
        bail!("this host has no name: say one with --name");
    }
    Ok(name)
}

fn node_name(said: Option<&String>) -> Result<NodeName> {
    let name = said.map_or_else(host_name, |name| Ok(name.clone()))?;
    name.parse().with_context(|| "say a name with --name")
}

/// Where an operator's key goes unless said: never into the agent's directory.
pub(super) fn operator_directory(said: Option<&PathBuf>) -> Result<PathBuf> {
    if let Some(path) = said {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        return Ok(parent.map_or_else(|| PathBuf::from("."), PathBuf::from));
    }
    let config = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config"));
    let base = config.or(home).ok_or_else(|| {
        anyhow!("neither HOME nor XDG_CONFIG_HOME is set: say --operator-key FILE")
    })?;
    Ok(base.join("skein"))
}

fn issuer(dir: PathBuf) -> Result<IssuingHost> {
    IssuingHost::open(&Files::new(dir.clone()))?.ok_or_else(|| {
        anyhow!(
            "no issuer key is in {}: run this on a host that has one (`skein status` on any host \
             counts them, `skein token list` there works)",
            dir.display()
        )
    })
}

/// Puts the documents and revocations of a backup on this host's disk: they are in force when the
/// agent starts, before any peer is met.
fn restore(dir: &std::path::Path, backup: &identity::backup::Verified) -> Result<()> {
    let (disk, _) = Disk::open(dir, wall())?;
    // What the backup holds is the policy: whoever restores it says so.
    let mut writes = vec![Write::Anchored(true)];
    for statement in &backup.revocations {
        writes.push(Write::Revocation(statement.id(), statement.encode()?));
    }
    for bundle in &backup.documents {
        let signed = SignedVersion::parse(Arc::new(bundle.clone()), backup.roots.mesh)?;
        writes.push(Write::Policy(signed.version(), bundle.encode()?));
    }
    Ok(disk.restore(writes)?)
}

/// A host that had left its mesh is in it again, with what it had.
fn returned(files: &Files, dir: PathBuf) -> Result<JoinReport> {
    let (mesh, node_name) = files.membership(wall())?;
    let node_id = file::read_key(&files.node_key())?.node_key().short().to_string();
    Ok(JoinReport { mesh, node_id, node_name, returned: true, dir, ..JoinReport::default() })
}

impl Local for ThisHost {
    fn init(&self, options: InitOptions) -> Result<InitReport> {
        let files = Files::new(options.dir.clone());
        let now = wall();
        let mesh = options.mesh.clone().unwrap_or_else(|| "mesh".to_owned());
        let backup = options.from.as_deref().map(identity::Backup::read).transpose()?;
        let wanted = identity::InitOptions {
            mesh: mesh.clone(),
            node: node_name(options.name.as_ref())?,
            zone: options.zone.as_deref().map(str::parse).transpose()?,
            issuers: u32::from(options.issuers),
            services: token_services(&options.services)?,
            offline_root: options.offline_root,
            operator: operator_directory(options.operator_key.as_ref())?,
        };
        let made = match &backup {
            None => identity::init(&files, &wanted, now),
            Some((_, backup)) => {
                let said = options.root.as_deref().map(file::read_key).transpose()?;
                let root = said.as_ref().or(backup.root.as_ref()).ok_or_else(|| {
                    anyhow!("the backup does not hold the root's key: name it with --root FILE")
                })?;
                identity::init::restore(&files, &wanted, &backup.chain, root, now)
            }
        };
        if let (Some((_, backup)), Ok(_)) = (&backup, &made) {
            restore(&options.dir, backup)?;
        }
        let made = match made {
            Ok(made) => made,
            Err(identity::InitError::Already { mesh, node }) => {
                return Ok(InitReport {
                    already: true,
                    mesh,
                    node_name: node,
                    node_id: identity::init::node_key(&files)?.node_key().short().to_string(),
                    ..InitReport::default()
                });
            }
            Err(error) => return Err(error.into()),
        };
        Ok(InitReport {
            already: false,
            mesh,
            mesh_id: made.mesh.to_string(),
            node_id: made.node.short().to_string(),
            node_name: wanted.node.to_string(),
            token: made.token.to_text(),
            token_id: offline::token_id_of(&made.token)?,
            token_services: made.token.terms.services.iter().map(ToString::to_string).collect(),
            token_not_after: Some(offline::rfc3339(made.token.terms.not_after)),
            operator_key: made.operator_key,
            root_key: Some(made.root_key),
            address: offline::outward_address(),
            dir: options.dir,
        })
    }

    fn join(&self, options: JoinOptions) -> Result<JoinReport> {
        let files = Files::new(options.dir.clone());
        if files.is_member() && files.come_back()? {
            return returned(&files, options.dir);
        }
        let text = options.token.as_deref().ok_or_else(|| {
            anyhow!("no token: say --token @FILE, --token - or SKEIN_TOKEN, as `init` printed it")
        })?;
        let token: Token = text.trim().parse().with_context(
            || "the join token does not read: copy all of it, from `skein1.` to its end",
        )?;
        let name = name_for(&files, &token, options.name.as_ref())?;
        let seed = offline::seed(&options.address)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let joined = runtime.block_on(async {
            let addresses = offline::resolve(&seed).await.map_err(|why| {
                anyhow!("`{}` does not resolve: {why}: check the name and the DNS", options.address)
            })?;
            let any =
                if addresses.iter().all(SocketAddr::is_ipv6) { "[::]:0" } else { "0.0.0.0:0" };
            let from: SocketAddr = any.parse()?;
            let joined = identity::join(&files, from, &addresses, &token, &name, wall()).await?;
            anyhow::Ok(joined)
        })?;
        files.write_peers(&joined.peers)?;
        let advertises = options.advertise.clone().unwrap_or_else(offline::outward_address);
        Ok(JoinReport {
            mesh: joined.mesh,
            node_id: joined.node.short().to_string(),
            node_name: joined.grant.name.to_string(),
            not_after: offline::rfc3339(joined.not_after),
            services: joined.grant.services.iter().map(ToString::to_string).collect(),
            issuer: joined.issuer,
            returned: false,
            advertises,
            files: vec![files.roots(), files.node_key(), files.node_chain()],
            dir: options.dir,
        })
    }

    fn key(&self, dir: PathBuf) -> Result<KeyReport> {
        let files = Files::new(dir);
        let created = !files.node_key().exists();
        let key = identity::init::node_key(&files)?.node_key();
        Ok(KeyReport {
            key: key.to_string(),
            id: key.short().to_string(),
            file: files.node_key(),
            created,
        })
    }

    fn token_create(&self, dir: PathBuf, request: TokenRequest) -> Result<TokenCreated> {
        let scope = offline::token_scope(&request)?;
        let token = issuer(dir)?.create_token(scope, wall())?;
        Ok(offline::created(&token)?)
    }

    fn token_list(&self, dir: PathBuf) -> Result<Vec<TokenInfo>> {
        issuer(dir.clone())?;
        let (disk, _) = Disk::open(&dir, wall())?;
        let name = Files::new(dir).membership(wall()).map(|(_, node)| node).unwrap_or_default();
        Ok(offline::token_infos(&disk.token_uses()?, &name))
    }

    fn token_revoke(&self, dir: PathBuf, id: String) -> Result<()> {
        issuer(dir.clone())?;
        let (disk, _) = Disk::open(&dir, wall())?;
        let mut uses = disk.token_uses()?;
        offline::revoke_token(&mut uses, offline::token_id(&id)?, wall());
        disk.keep_token_uses(&uses)?;
        Ok(())
    }

    fn admit(&self, dir: PathBuf, request: AdmitRequest) -> Result<Admitted> {
        Ok(offline::admitted(&issuer(dir)?, &request)?)
    }

    fn agent(&self, options: AgentOptions) -> Result<()> {
        agent::run(options)
    }

    fn validate(&self, documents: Documents) -> Result<ValidateReport> {
        Ok(offline::validate(&documents))
    }

    fn schema(&self) -> Result<String> {
        bail!("`skein schema` is not part of this version; `configs/` has every field written out")
    }
}

/// What the first token lets hosts serve, where nothing is said: the namespace that a newcomer
/// writes in, and nothing else.
fn token_services(said: &[String]) -> Result<Vec<ServicePattern>> {
    if said.is_empty() {
        return Ok(vec!["default/*".parse()?]);
    }
    Ok(said.iter().map(|text| text.parse()).collect::<Result<_, _>>()?)
}

/// The name to join under: what is said, else this host's, else, where the token does not give
/// that one, the name that is made of its key.
fn name_for(files: &Files, token: &Token, said: Option<&String>) -> Result<NodeName> {
    let wanted = node_name(said)?;
    if said.is_some() {
        return Ok(wanted);
    }
    file::make_directory(files.directory())?;
    let key = identity::init::node_key(files)?.node_key();
    match token.terms.may_name(&key, &wanted) {
        true => Ok(wanted),
        false => Ok(name_of_key(&key).parse()?),
    }
}
