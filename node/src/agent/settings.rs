//! Settings: flags before environment before document before default, as values.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use skein_protocol::{
    manifest::{
        kinds::{Capture, MeshPort},
        value::{Secret, TargetAddress},
    },
    name::{Label, Locality, MeshId},
    record::node::{Address, Host, NodeState},
    trust::Grant,
};

use super::VERSION;
use crate::{
    cli::hooks::AgentOptions, keys::Credentials, proxy::virtual_address::VirtualRange,
    workload::Snapshot,
};

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The agent's directory.
    pub(crate) dir: PathBuf,
    /// The namespace that short names mean.
    pub(crate) namespace: Label,
    /// Where the mesh port is bound.
    pub(crate) mesh: SocketAddr,
    /// Where the HTTP port is bound.
    pub(crate) http: SocketAddr,
    /// `--bind`.
    pub(crate) bind: Option<IpAddr>,
    /// Seeds by address.
    pub(crate) seeds: Vec<TargetAddress>,
    /// The network whose addresses are dialled first.
    pub(crate) network: Label,
    /// The mesh's name as the document says it.
    pub(crate) said_mesh: Option<Label>,
    /// How long draining lasts at most.
    pub(crate) drain: Duration,
    /// How virtual addresses are to be bound.
    pub(crate) capture: Capture,
    /// Roots, chain and key.
    pub(crate) files: Files,
    advertise: Vec<Address>,
    cluster: Label,
    said_locality: Option<Locality>,
    virtual_said: String,
    password: Option<Secret>,
    /// What paths in the document are relative to.
    base: PathBuf,
}

/// The files of this host's identity.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    /// Trusted roots.
    pub(crate) roots: PathBuf,
    /// This node's chain.
    pub(crate) chain: PathBuf,
    /// This node's key.
    pub(crate) key: PathBuf,
}

impl Settings {
    /// The settings of flags and documents.
    pub(crate) fn new(options: &AgentOptions, snapshot: &Snapshot) -> Result<Self> {
        let mesh = &snapshot.plan.mesh;
        let base = snapshot.mesh_base.clone().unwrap_or_else(|| options.dir.clone());
        let file = |said: &Option<String>, name: &str| {
            said.as_ref().map_or_else(|| options.dir.join(name), |path| base.join(path))
        };
        let mut seeds: Vec<TargetAddress> =
            mesh.seeds.iter().map(|seed| seed.target.clone()).collect();
        for text in &options.join {
            seeds.push(seed(text)?);
        }
        let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Ok(Self {
            dir: options.dir.clone(),
            namespace: mesh.namespace.clone(),
            mesh: bound(&mesh.mesh_port, options.bind, any),
            http: bound(&mesh.http_port, options.bind, loopback),
            bind: options.bind,
            seeds,
            network: mesh.network.clone(),
            said_mesh: mesh.service_mesh.clone(),
            drain: mesh.drain,
            capture: mesh.capture,
            files: Files {
                roots: file(&mesh.ca, "ca.pem"),
                chain: file(&mesh.certificate, "node.pem"),
                key: file(&mesh.key, "node.key"),
            },
            advertise: advertise(options, &mesh.mesh_port, &mesh.network)?,
            cluster: mesh.gossip_cluster.clone(),
            said_locality: mesh.service_cluster.clone(),
            virtual_said: mesh.virtual_addresses.to_string(),
            password: mesh.password.clone(),
            base,
        })
    }

    /// Whether the document has a meshPassword.
    pub(crate) fn has_secret(&self) -> bool {
        self.password.is_some()
    }

    /// What meshPassword holds: the passphrase of an encrypted key, else the join token.
    pub(crate) fn secret(&self) -> Result<String, String> {
        let Some(secret) = &self.password else {
            return Err("say its passphrase with meshConfig.meshPassword".to_owned());
        };
        let file = |path: &str| {
            let path = self.base.join(path);
            std::fs::read_to_string(&path).map_err(|error| {
                format!("meshPassword names {}, which cannot be read: {error}", path.display())
            })
        };
        secret.read(file, |name| std::env::var(name).ok())
    }

    /// Where this host is: what the document says, and the grant allows.
    pub(crate) fn locality(&self, grant: &Grant) -> Result<Locality> {
        match (&self.said_locality, &grant.zone) {
            (Some(said), Some(granted)) if said != granted => bail!(
                "serviceCluster is {said}, but this node's certificate is for {granted}: write \
                 the latter, or admit the node again with `--zone {said}`"
            ),
            (_, Some(granted)) => Ok(granted.clone()),
            (Some(said), None) => Ok(said.clone()),
            (None, None) => Ok("default".parse()?),
        }
    }

    /// This host as its record says it.
    pub(crate) fn host(&self, grant: &Grant, locality: Locality, boot: u64) -> Result<Host> {
        Ok(Host {
            boot,
            gossip_generation: boot,
            name: grant.name.clone(),
            locality,
            state: NodeState::Up,
            version: VERSION.parse()?,
            unwritten: false,
        })
    }

    /// Whether this host's address is found, and followed, rather than told.
    pub(crate) fn finds_address(&self) -> bool {
        self.advertise.is_empty() && self.mesh.ip().is_unspecified()
    }

    /// Where others dial this host.
    pub(crate) fn addresses(&self, bound: SocketAddr) -> Vec<Address> {
        if !self.advertise.is_empty() {
            return self.advertise.clone();
        }
        let ip = if bound.ip().is_unspecified() { super::addresses::outward() } else { bound.ip() };
        vec![Address { network: self.network.clone(), ip, port: bound.port() }]
    }

    /// The gossip cluster's id: no other mesh has it.
    pub(crate) fn cluster(&self, mesh: &MeshId) -> String {
        format!("skein/{}/{}", mesh.trust_domain(), self.cluster)
    }

    /// The range of virtual addresses.
    pub(crate) fn virtual_range(&self) -> Result<VirtualRange> {
        match self.bind {
            Some(IpAddr::V4(bind)) if bind.is_loopback() => Ok(VirtualRange::for_bind(Some(bind))),
            _ => Ok(self.virtual_said.parse()?),
        }
    }

    /// This node's name, for people.
    pub(crate) fn name(&self, credentials: &Credentials) -> String {
        credentials.own().map_or_else(String::new, |own| own.verified.grant.name.to_string())
    }
}

fn bound(port: &MeshPort, bind: Option<IpAddr>, otherwise: IpAddr) -> SocketAddr {
    let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let fallback = if port.exposed { any } else { otherwise };
    SocketAddr::new(port.address.or(bind).unwrap_or(fallback), port.target)
}

fn advertise(options: &AgentOptions, port: &MeshPort, network: &Label) -> Result<Vec<Address>> {
    if let Some(text) = &options.advertise {
        let socket: SocketAddr = text.parse().with_context(|| {
            format!("--advertise `{text}`: write IP:PORT, for example 203.0.113.7:7400")
        })?;
        return Ok(vec![Address {
            network: network.clone(),
            ip: socket.ip(),
            port: socket.port(),
        }]);
    }
    let said = port.advertise.iter().map(|said| Address {
        network: said.network.clone().unwrap_or_else(|| network.clone()),
        ip: said.ip,
        port: said.port.unwrap_or(port.port),
    });
    Ok(said.collect())
}

/// Reads `host[:port]`; the port is 7400 where it is not said.
pub(crate) fn seed(text: &str) -> Result<TargetAddress> {
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return Ok(TargetAddress::Ip(socket));
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(TargetAddress::Ip(SocketAddr::new(ip, MESH_PORT)));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => {
            let port = port.parse().with_context(|| format!("`{text}`: write HOST:PORT"))?;
            (host, port)
        }
        None => (text, MESH_PORT),
    };
    if host.is_empty() {
        bail!("`{text}`: write HOST or HOST:PORT, the address of any agent of the mesh");
    }
    Ok(TargetAddress::Name(host.to_owned(), port))
}

/// The mesh port where none is said.
pub(crate) const MESH_PORT: u16 = 7400;
