//! The authorities of a simulated mesh, and what each of its nodes starts with.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use anyhow::{Context, Result};
use skein_protocol::{
    clock::Wall,
    engine::Local,
    limits,
    name::{Hash, Label, MeshId, NodeKey, ServiceName},
    policy::{Draft, PolicyBundle},
    record::{
        OwnChain,
        node::{
            Address, Addresses, Health, HeldIssuer, Host, Instance, InstanceId, Instances,
            NodeState, Protocol, ServicePort, TokenUses,
        },
    },
    trust::{
        Chain, Grant, RootChain, Roots, Signer,
        issue::{self, Authority, Validity},
        operator::Scope,
        revocation::{By, Revocation, Statement, Subject},
        verify_chain,
    },
};

use crate::crypto::Signatures;

/// When simulated time starts: some moment of 2026.
pub const EPOCH: Wall = Wall(1_790_000_000_000);

/// Root and issuer of a simulated mesh.
#[derive(Debug)]
pub struct Mesh {
    /// The trusted root.
    pub roots: Arc<Roots>,
    /// The same as it travels.
    pub chain: RootChain,
    /// Its name.
    pub id: MeshId,
    /// What it signs with.
    pub signatures: Signatures,
    operator: Vec<u8>,
    issuer: Vec<u8>,
    base: u64,
}

impl Mesh {
    /// A mesh of its own for each `number`.
    pub fn new(number: u64, signatures: Signatures) -> Result<Self> {
        let base = number.saturating_mul(1_000_000);
        let (root_key, issuer_key) = (signatures.key(base)?, signatures.key(base + 1)?);
        let root = issue::root(&*root_key, "sim", EPOCH, [1; 16])?;
        let roots = Roots::first(&root, signatures.crypto())?;
        let by = Authority::new(&roots.mesh, &root, &*root_key)?;
        let operator = signatures.key(base + 2)?.public_key();
        let operator = issue::operator(&by, &operator, "ann", &Scope::All, EPOCH, [4; 16])?;
        let host = NodeKey(signatures.key(base + 10)?.public_key());
        let validity = Validity::new(EPOCH, limits::ISSUER_LIFE, issue::NEVER_ENDS);
        let issuer = issue::issuer(&by, &issuer_key.public_key(), &host, validity, [2; 16])?;
        let id = roots.mesh;
        let chain = RootChain::new(root);
        Ok(Self { roots: Arc::new(roots), chain, id, signatures, operator, issuer, base })
    }

    /// The operator's statement that a node's key has ended.
    pub fn revocation(&self, node: usize) -> Result<Statement> {
        let revocation = Revocation {
            mesh: self.id,
            subject: Subject::Node,
            key: self.key(node)?.0,
            by: By::Operator(self.operator.clone()),
            reason: "stolen".to_owned(),
            works: Vec::new(),
        };
        Ok(revocation.sign(&*self.signatures.key(self.base + 2)?)?)
    }

    /// The root's statement that the operator's key has ended, but for these of its works.
    pub fn end_of_operator(&self, works: Vec<Hash>) -> Result<Statement> {
        let root = self.signatures.key(self.base)?;
        let revocation = Revocation {
            mesh: self.id,
            subject: Subject::Operator,
            key: self.signatures.key(self.base + 2)?.public_key(),
            by: By::Root(root.public_key()),
            reason: "stolen".to_owned(),
            works,
        };
        Ok(revocation.sign(&*root)?)
    }

    /// The operator signs a version of a document.
    pub fn ruling(&self, draft: &Draft) -> Result<PolicyBundle> {
        let key = self.signatures.key(self.base + 2)?;
        Ok(draft.sign(self.id, &self.operator, &*key)?)
    }

    /// The key of a node.
    pub fn signer(&self, node: usize) -> Result<Arc<dyn Signer>> {
        self.signatures.key(self.base + 10 + node as u64)
    }

    /// The identity of a node.
    pub fn key(&self, node: usize) -> Result<NodeKey> {
        Ok(NodeKey(self.signer(node)?.public_key()))
    }

    /// The chain of a node whose grant names `services`.
    pub fn chain(&self, node: usize, services: &str) -> Result<OwnChain> {
        self.chain_from(node, services, EPOCH)
    }

    /// As [`Self::chain`], issued at `now`.
    pub fn chain_from(&self, node: usize, services: &str, now: Wall) -> Result<OwnChain> {
        let name = format!("node-{node}").parse()?;
        let grant = Grant::new(name, vec![services.parse()?], vec![], None)?;
        let issuer_key = self.signatures.key(self.base + 1)?;
        let by = Authority::new(&self.id, &self.issuer, &*issuer_key)?;
        let validity = Validity::new(now, limits::LEAF_LIFE, issue::NEVER_ENDS);
        let leaf = issue::node(&by, &self.key(node)?, &grant, validity, [3; 16])?;
        let chain = Chain { leaf, issuer: self.issuer.clone() };
        let verified = verify_chain(&chain, &self.roots, now, self.signatures.crypto())?;
        Ok(OwnChain { chain, verified })
    }
}

/// The first address of the simulated network.
const NETWORK: u32 = 0x0a00_0000;

/// Which node lives at an address.
pub fn number_at(address: &Address) -> Option<usize> {
    let IpAddr::V4(ip) = address.ip else { return None };
    u32::from(ip).checked_sub(NETWORK).and_then(|number| usize::try_from(number).ok())
}

/// What node `number` says at first: one instance of `shop/svc-<number % 10>`.
pub fn local(number: usize) -> Result<Local> {
    let host = Host {
        boot: 0,
        gossip_generation: 1,
        name: format!("node-{number}").parse()?,
        locality: format!("region-{}/zone-{}", number % 2, number % 4).parse()?,
        state: NodeState::Up,
        version: "0.1.0".parse()?,
        unwritten: false,
    };
    let network: Label = "default".parse()?;
    let index = u32::try_from(number).context("too many nodes")?;
    let ip = Ipv4Addr::from(NETWORK + index).into();
    Ok(Local {
        host,
        addresses: Addresses(vec![Address { network, ip, port: 7400 }]),
        instances: Instances(vec![instance(&format!("svc-{}", number % 10), 10)?]),
        tokens: TokenUses::default(),
        issuer: HeldIssuer::default(),
    })
}

/// An instance of `shop/<service>`.
pub fn instance(service: &str, weight: u32) -> Result<Instance> {
    let port = ServicePort {
        name: "http".parse()?,
        port: 80,
        protocol: Protocol::Http,
        exposed: false,
        hosts: Vec::new(),
    };
    Ok(Instance {
        id: InstanceId { document: service.parse()?, endpoint: "a".parse()? },
        service: ServiceName::new("shop".parse()?, service.parse()?),
        ports: vec![port],
        health: Health::Passing,
        weight,
        version: None,
        image: None,
        tags: Vec::new(),
        meta: Vec::new(),
        target: "127.0.0.1:8080".to_owned(),
        set_aside: None,
    })
}
