//! From bytes to belief: `Signed` becomes `Verified` only through [`Signed::verify`].
//!
//! Only `Verified` has a content that can be read, and only that enters the store. Cheap checks
//! come first; the signature is checked by a job that the shell runs on a pool.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    header::{HASH_DOMAIN, Header, HeaderError, RecordKind, SIGNATURE_DOMAIN},
    node::{Addresses, HeldIssuer, Host, Instance, Instances, NodeRecord, TokenUses, Unfit},
};
use crate::{
    clock::Wall,
    limits,
    name::{Hash, MeshId, NodeKey, ServiceName},
    planted::{Planted, planted},
    trust::{Chain, ChainError, Crypto, Roots, Signature, Signer, VerifiedChain, verify_chain},
    wire::{
        codec::{self, CodecError},
        section::{SectionError, Sections},
    },
};

/// A record and the chain that proves its origin: verifiable alone.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Bundle {
    /// The origin's certificate and its issuer's.
    pub chain: Chain,
    /// Header, payload, signature.
    #[serde(with = "serde_bytes")]
    pub record: Vec<u8>,
}

impl Bundle {
    /// About how much memory it takes, and how much of a line.
    pub fn bytes(&self) -> usize {
        let chain = self.chain.leaf.len().saturating_add(self.chain.issuer.len());
        chain.saturating_add(self.record.len())
    }
}

/// Why a record is not believed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecordError {
    /// Larger than a record may be.
    #[error("{0} bytes, more than a record may have")]
    Oversize(usize),
    /// Not a record.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// Of a kind that is not expected here.
    #[error("kind {0} is not expected here")]
    Kind(u16),
    /// Of another mesh.
    #[error("belongs to another mesh")]
    WrongMesh,
    /// A sequence that nobody reaches.
    #[error("sequence {0} is beyond the limit")]
    Sequence(u64),
    /// Its chain does not hold.
    #[error("its certificate: {0}")]
    Chain(#[from] ChainError),
    /// Signed by a key that its chain does not name.
    #[error("its certificate is another node's")]
    NotItsChain,
    /// The signature does not hold.
    #[error("its signature does not hold")]
    BadSignature,
    /// Its payload is not made of sections.
    #[error("its payload: {0}")]
    Section(#[from] SectionError),
    /// A section is missing or not what it should be.
    #[error("section {0}: {1}")]
    Content(u16, CodecError),
    /// A section that must be there is not.
    #[error("section {0} is missing")]
    Missing(u16),
    /// Its content breaks a bound.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// It names a service that its grant does not.
    #[error("its grant does not name {0}")]
    NotNamed(ServiceName),
    /// It says another name or zone than its grant.
    #[error("its {0} is not the one of its grant")]
    NotGranted(&'static str),
}

const HOST: u16 = 1;
const ADDRESSES: u16 = 2;
const INSTANCES: u16 = 3;
const TOKENS: u16 = 4;
const ISSUER: u16 = 5;
const KNOWN: [u16; 5] = [HOST, ADDRESSES, INSTANCES, TOKENS, ISSUER];

/// A node record as it came: only its header can be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Signed {
    bundle: Arc<Bundle>,
    header: Header,
    hash: Hash,
}

/// A node record that was verified: what may be believed.
///
/// One of a newer agent may have a section that this one would have to understand and does not:
/// it is kept, told on and answered with like any other, and nothing of it is read.
///
/// One allocation, so that whoever passes it on or remembers it shares it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verified(Arc<Believed>);

#[derive(PartialEq, Eq, Debug)]
struct Believed {
    bundle: Arc<Bundle>,
    header: Header,
    hash: Hash,
    chain: VerifiedChain,
    content: Option<Arc<NodeRecord>>,
    /// The instances of `content`, each on its own: views share them. They are made here, where
    /// the signature is checked, and not where the engine waits.
    instances: Vec<Arc<Instance>>,
}

impl Signed {
    /// Takes a bundle apart and does the cheap checks: size, kind, mesh, sequence.
    pub fn parse(bundle: Arc<Bundle>, mesh: MeshId) -> Result<Self, RecordError> {
        if bundle.record.len() > limits::RECORD_BYTES {
            return Err(RecordError::Oversize(bundle.record.len()));
        }
        let parts = Header::split(&bundle.record)?;
        let header = parts.header;
        if header.kind != RecordKind::NODE {
            return Err(RecordError::Kind(header.kind.0));
        }
        if header.mesh != mesh {
            return Err(RecordError::WrongMesh);
        }
        if header.sequence >= limits::SEQUENCE_MAX {
            return Err(RecordError::Sequence(header.sequence));
        }
        let hash = Hash::of(&[HASH_DOMAIN, parts.signed]);
        Ok(Self { bundle, header, hash })
    }

    /// As it came.
    pub fn bundle(&self) -> &Arc<Bundle> {
        &self.bundle
    }

    /// Who claims to say what, in which order.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// What names it.
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// Checks chain, signature and content against the grant. Costs two or three signature
    /// checks: run it on a pool.
    pub fn verify(
        &self,
        roots: &Roots,
        now: Wall,
        crypto: &dyn Crypto,
    ) -> Result<Verified, RecordError> {
        self.verify_beside(None, roots, now, crypto)
    }

    /// As [`Self::verify`], beside a record that was verified `before`, by the same roots: a chain
    /// that is the same byte for byte is held against the time only, and so is the whole record.
    /// A host's next record costs one signature check instead of three.
    pub fn verify_beside(
        &self,
        before: Option<&Verified>,
        roots: &Roots,
        now: Wall,
        crypto: &dyn Crypto,
    ) -> Result<Verified, RecordError> {
        let before = before.filter(|before| before.bundle().chain == self.bundle.chain);
        let chain = match before {
            Some(before) => before.chain().at(now)?,
            None => verify_chain(&self.bundle.chain, roots, now, crypto)?,
        };
        if let Some(before) = before
            && before.bundle().record == self.bundle.record
            && before.chain().class == chain.class
        {
            return Ok(before.clone());
        }
        if chain.key != self.header.origin {
            return Err(RecordError::NotItsChain);
        }
        let parts = Header::split(&self.bundle.record)?;
        let message = [SIGNATURE_DOMAIN, parts.signed].concat();
        let holds = crypto.verify(&chain.key.0, &message, &Signature(parts.signature));
        if !holds && !planted(Planted::SkipSignature) {
            return Err(RecordError::BadSignature);
        }
        let content = read(parts.payload)?;
        content.as_ref().map_or(Ok(()), |content| check_grant(content, &chain))?;
        Ok(Verified::new(Arc::clone(&self.bundle), self.header, self.hash, chain, content))
    }
}

impl Verified {
    fn new(
        bundle: Arc<Bundle>,
        header: Header,
        hash: Hash,
        chain: VerifiedChain,
        content: Option<NodeRecord>,
    ) -> Self {
        let instances = content.iter().flat_map(|content| &content.instances.0);
        let instances = instances.cloned().map(Arc::new).collect();
        let content = content.map(Arc::new);
        Self(Arc::new(Believed { bundle, header, hash, chain, content, instances }))
    }

    /// Makes the record of this host.
    pub fn sign(
        content: NodeRecord,
        mesh: MeshId,
        sequence: u64,
        not_after: Wall,
        own: &OwnChain,
        signer: &dyn Signer,
    ) -> Result<Self, RecordError> {
        content.check()?;
        check_grant(&content, &own.verified)?;
        let payload = write(&content)?;
        let origin = NodeKey(signer.public_key());
        let header = Header { kind: RecordKind::NODE, mesh, origin, sequence, not_after };
        let mut record = header.with_payload(&payload);
        let hash = Hash::of(&[HASH_DOMAIN, &record]);
        let signature = signer.sign(&[SIGNATURE_DOMAIN, &record].concat());
        record.extend_from_slice(&signature.0);
        if record.len() > limits::RECORD_BYTES {
            return Err(RecordError::Oversize(record.len()));
        }
        let bundle = Arc::new(Bundle { chain: own.chain.clone(), record });
        Ok(Self::new(bundle, header, hash, own.verified.clone(), Some(content)))
    }

    /// Who says it, in which order.
    pub fn header(&self) -> &Header {
        &self.0.header
    }

    /// What names it.
    pub fn hash(&self) -> Hash {
        self.0.hash
    }

    /// What proves its origin.
    pub fn chain(&self) -> &VerifiedChain {
        &self.0.chain
    }

    /// What it says; `None` where a newer agent made it and it is carried, not read.
    pub fn content(&self) -> Option<&Arc<NodeRecord>> {
        self.0.content.as_ref()
    }

    /// The instances that it names, each to be shared; none where it is not read.
    pub fn instances(&self) -> &[Arc<Instance>] {
        &self.0.instances
    }

    /// As it travels.
    pub fn bundle(&self) -> &Arc<Bundle> {
        &self.0.bundle
    }
}

/// This host's own chain, in both forms.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OwnChain {
    /// As it travels.
    pub chain: Chain,
    /// What it proves.
    pub verified: VerifiedChain,
}

fn check_grant(content: &NodeRecord, chain: &VerifiedChain) -> Result<(), RecordError> {
    let grant = &chain.grant;
    if content.host.name != grant.name {
        return Err(RecordError::NotGranted("name"));
    }
    if grant.zone.as_ref().is_some_and(|zone| *zone != content.host.locality) {
        return Err(RecordError::NotGranted("zone"));
    }
    let stranger = content.instances.0.iter().find(|i| !grant.covers(&i.service));
    let stranger = stranger.filter(|_| !planted(Planted::SkipGrant));
    stranger.map_or(Ok(()), |i| Err(RecordError::NotNamed(i.service.clone())))
}

fn write(content: &NodeRecord) -> Result<Vec<u8>, RecordError> {
    fn section<T: Serialize>(
        sections: &mut Sections,
        tag: u16,
        value: &T,
    ) -> Result<(), RecordError> {
        let bytes = codec::encode::<{ limits::RECORD_BYTES }, _>(value);
        sections.put(tag, bytes.map_err(|error| RecordError::Content(tag, error))?);
        Ok(())
    }
    let mut sections = Sections::default();
    section(&mut sections, HOST, &content.host)?;
    section(&mut sections, ADDRESSES, &content.addresses)?;
    section(&mut sections, INSTANCES, &content.instances)?;
    section(&mut sections, TOKENS, &content.tokens)?;
    section(&mut sections, ISSUER, &content.issuer)?;
    Ok(sections.encode())
}

/// What a payload says; `None` where it has a section that must be understood and is not.
fn read(payload: &[u8]) -> Result<Option<NodeRecord>, RecordError> {
    fn section<T: Serialize + serde::de::DeserializeOwned>(
        sections: &Sections,
        tag: u16,
    ) -> Result<T, RecordError> {
        let bytes = sections.find(tag).ok_or(RecordError::Missing(tag))?;
        codec::decode::<{ limits::RECORD_BYTES }, T>(bytes)
            .map_err(|error| RecordError::Content(tag, error))
    }
    let sections = Sections::decode(payload)?;
    if sections.has_unknown(&KNOWN) {
        return Ok(None);
    }
    let content = NodeRecord {
        host: section::<Host>(&sections, HOST)?,
        addresses: section::<Addresses>(&sections, ADDRESSES)?,
        instances: section::<Instances>(&sections, INSTANCES)?,
        tokens: section::<TokenUses>(&sections, TOKENS)?,
        issuer: section::<HeldIssuer>(&sections, ISSUER)?,
    };
    content.check()?;
    Ok(Some(content))
}
