//! A version of a mesh-wide document: what an operator signs and every node stores.
//!
//! No clock and no chain orders versions: each names what it was made from ([`Lineage`]), so that
//! any node can tell alone which of two came later, or that neither knew of the other.
//!
//! In:    bytes from a peer, a disk or an operator.
//! Out:   [`VerifiedVersion`], the only form that enters [`super::Documents`].
//! Never: asks when something was signed; believes what a section says of the text beside it.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    Content,
    scope::{self, Beyond},
};
use crate::{
    clock::Wall,
    limits,
    manifest::{
        self, Body, Document, DocumentId, Faults, Kind,
        kinds::{AccessEffect, Destination},
    },
    name::{Hash, Label, MeshId, NodeKey},
    record::header::{HASH_DOMAIN, Header, HeaderError, RecordKind, SIGNATURE_DOMAIN},
    trust::{
        ChainError, Crypto, Revocations, Roots, Signature, Signer,
        operator::{Scope, VerifiedOperator, verify_operator},
        revocation::{Subject, work_of_root},
    },
    wire::{
        codec::{self, CodecError},
        section::{SectionError, Sections},
    },
};

/// A version as it travels: verifiable alone.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PolicyBundle {
    /// The operator's certificate, as DER.
    #[serde(with = "serde_bytes")]
    pub certificate: Vec<u8>,
    /// Header, payload, signature.
    #[serde(with = "serde_bytes")]
    pub record: Vec<u8>,
}

impl PolicyBundle {
    /// Its bytes, as they lie on disk.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        codec::encode::<{ limits::POLICY_BUNDLE_BYTES }, _>(self)
    }

    /// The bundle of these bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode::<{ limits::POLICY_BUNDLE_BYTES }, _>(bytes)
    }
}

/// What tells documents apart, also of a kind that only a newer agent knows.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct PolicyKey {
    /// 1 is TrafficManagement, 2 is AccessPolicy.
    kind: u16,
    namespace: Label,
    name: Label,
}

impl PolicyKey {
    /// The key of a document; `None` for the kinds that belong to one host.
    pub fn new(id: &DocumentId) -> Option<Self> {
        let kind = match id.kind {
            Kind::TrafficManagement => 1,
            Kind::AccessPolicy => 2,
            Kind::ServiceRegistry | Kind::ServiceDiscovery | Kind::ServiceMesh => return None,
        };
        Some(Self { kind, namespace: id.namespace.clone(), name: id.name.clone() })
    }

    /// The document's id, where this agent knows its kind.
    pub fn document(&self) -> Option<DocumentId> {
        let kind = match self.kind {
            1 => Kind::TrafficManagement,
            2 => Kind::AccessPolicy,
            _ => return None,
        };
        Some(DocumentId { kind, namespace: self.namespace.clone(), name: self.name.clone() })
    }

    /// What names it where its own name would be too long.
    pub fn hash(&self) -> Hash {
        let (namespace, name) = (self.namespace.as_str(), self.name.as_str());
        let words = [namespace.as_bytes(), b"\0", name.as_bytes()];
        let [namespace, end, name] = words;
        Hash::of(&[b"skein/document/v1\0", &self.kind.to_le_bytes(), namespace, end, name])
    }

    /// Its namespace.
    pub fn namespace(&self) -> &Label {
        &self.namespace
    }
}

impl fmt::Display for PolicyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, namespace, name } = self;
        match self.document() {
            Some(id) => id.fmt(f),
            None => write!(f, "document of kind {kind} {namespace}/{name}"),
        }
    }
}

/// What a version was made from.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lineage {
    /// 1 + the highest of its parents'.
    pub generation: u64,
    /// The heads that the editor saw, with their generations, sorted.
    pub parents: Vec<(u64, Hash)>,
    /// Every ancestor from this generation on is listed; all that is older is superseded unseen.
    pub complete_from: u64,
    /// Those, with their generations, sorted.
    pub ancestors: Vec<(u64, Hash)>,
}

/// Why nothing can be signed behind some heads.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "its history has more than {max} versions that did not know of each other within a few edits; \
     delete the document and write it under another name",
    max = limits::POLICY_ANCESTORS
)]
pub struct Tangled;

impl Lineage {
    /// Its bytes, for who signs elsewhere.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        codec::encode::<BYTES, _>(self)
    }

    /// The lineage of these bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode::<BYTES, _>(bytes)
    }

    /// Of the first version of a document.
    pub fn first() -> Self {
        Self { generation: 1, parents: Vec::new(), complete_from: 1, ancestors: Vec::new() }
    }

    /// Of a version that is made from these heads.
    pub fn after(heads: &[Arc<VerifiedVersion>]) -> Result<Self, Tangled> {
        let parents = sorted(heads.iter().map(|head| (head.lineage.generation, head.version)));
        let generation = parents.iter().map(|(g, _)| *g).max().unwrap_or_default() + 1;
        let mut from = heads.iter().map(|head| head.lineage.complete_from).max().unwrap_or(1);
        let known = heads.iter().flat_map(|head| head.lineage.ancestors.iter().copied());
        let mut ancestors = sorted(known.chain(parents.iter().copied()));
        ancestors.retain(|(g, _)| *g >= from);
        while ancestors.len() > limits::POLICY_ANCESTORS {
            from += 1;
            ancestors.retain(|(g, _)| *g >= from);
        }
        if from > most_complete_from(generation) {
            return Err(Tangled);
        }
        Ok(Self { generation, parents, complete_from: from, ancestors })
    }

    fn check(&self) -> Result<(), &'static str> {
        let highest = self.parents.iter().map(|(g, _)| *g).max().unwrap_or_default();
        let within = |(g, _): &(u64, Hash)| *g >= self.complete_from && *g < self.generation;
        let listed = |parent: &&(u64, Hash)| {
            parent.0 < self.complete_from || self.ancestors.binary_search(parent).is_ok()
        };
        if self.generation >= limits::SEQUENCE_MAX
            || Some(self.generation) != highest.checked_add(1)
        {
            Err("its generation is not one above its parents'")
        } else if self.parents.len() > limits::POLICY_HEADS || !rises(&self.parents) {
            Err("its parents are too many or out of order")
        } else if self.complete_from == 0
            || self.complete_from > most_complete_from(self.generation)
        {
            Err("it claims to know less of its history than it must")
        } else if self.ancestors.len() > limits::POLICY_ANCESTORS
            || !rises(&self.ancestors)
            || !self.ancestors.iter().all(within)
        {
            Err("its ancestors are too many, out of order or not older than itself")
        } else if !self.parents.iter().all(|parent| listed(&parent)) {
            Err("a parent is not among its ancestors")
        } else {
            Ok(())
        }
    }
}

/// A version must list at least its last eight generations of ancestors.
fn most_complete_from(generation: u64) -> u64 {
    generation.saturating_sub(8).max(1)
}

fn sorted(all: impl Iterator<Item = (u64, Hash)>) -> Vec<(u64, Hash)> {
    let mut all: Vec<(u64, Hash)> = all.collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn rises(list: &[(u64, Hash)]) -> bool {
    list.is_sorted_by(|a, b| a < b)
}

/// Section 1, frozen for ever: what an agent of any age must know of a document.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct About {
    key: PolicyKey,
    /// Of an AccessPolicy: what it is about, what it does there, whether it decides.
    access: Option<(Destination, AccessEffect, bool)>,
    deleted: bool,
}

impl About {
    /// What it reaches beyond a scope: an agent that cannot read the rest goes by it alone.
    fn beyond(&self, scope: &Scope) -> Option<Beyond> {
        let namespace = self.key.namespace();
        let own = (!scope.covers(namespace)).then(|| format!("namespace {namespace}"));
        let destination = self.access.as_ref().map(|(destination, ..)| destination);
        own.or_else(|| destination.and_then(|one| scope::beyond_destination(scope, one)))
    }
}

const ABOUT: u16 = 1;
const LINEAGE: u16 = 2;
const TEXT: u16 = 3;
const KNOWN: [u16; 3] = [ABOUT, LINEAGE, TEXT];

/// What is signed: a document as YAML, or that it is no more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Draft {
    about: About,
    lineage: Lineage,
    text: String,
}

impl Draft {
    /// A version that says what `document` says.
    pub fn of(document: &Document, lineage: Lineage) -> Result<Self, VersionError> {
        let key = PolicyKey::new(&document.id).ok_or(VersionError::LocalKind(document.id.kind))?;
        let access = match &document.body {
            Body::Access(access) => {
                Some((access.destination.clone(), access.effect, access.enforced))
            }
            Body::Traffic(_) | Body::Registry(_) | Body::Discovery(_) | Body::Mesh(_) => None,
        };
        let text = document.to_yaml();
        if text.len() > limits::POLICY_TEXT_BYTES {
            return Err(VersionError::Long(text.len()));
        }
        Ok(Self { about: About { key, access, deleted: false }, lineage, text })
    }

    /// A version that says that the document is no more.
    pub fn deletion(key: PolicyKey, lineage: Lineage) -> Self {
        let about = About { key, access: None, deleted: true };
        Self { about, lineage, text: String::new() }
    }

    /// Signs it. `certificate` is the operator's.
    pub fn sign(
        &self,
        mesh: MeshId,
        certificate: &[u8],
        signer: &dyn Signer,
    ) -> Result<PolicyBundle, VersionError> {
        self.sign_with(mesh, certificate, signer, None)
    }

    /// The same with a section that a newer agent would write.
    pub(super) fn sign_with(
        &self,
        mesh: MeshId,
        certificate: &[u8],
        signer: &dyn Signer,
        further: Option<(u16, Vec<u8>)>,
    ) -> Result<PolicyBundle, VersionError> {
        let mut sections = Sections::default();
        let content = |error| VersionError::Section(ABOUT, error);
        sections.put(ABOUT, codec::encode::<BYTES, _>(&self.about).map_err(content)?);
        sections.put(LINEAGE, codec::encode::<BYTES, _>(&self.lineage).map_err(content)?);
        sections.put(TEXT, self.text.clone().into_bytes());
        if let Some((tag, bytes)) = further {
            sections.put(tag, bytes);
        }
        let header = Header {
            kind: RecordKind::POLICY,
            mesh,
            origin: NodeKey(signer.public_key()),
            sequence: self.lineage.generation,
            not_after: NEVER,
        };
        let mut record = header.with_payload(&sections.encode());
        let signature = signer.sign(&[SIGNATURE_DOMAIN, &record].concat());
        record.extend_from_slice(&signature.0);
        Ok(PolicyBundle { certificate: certificate.to_vec(), record })
    }
}

/// No policy ends by date.
const NEVER: Wall = Wall(u64::MAX);
/// One section.
const BYTES: usize = limits::RECORD_BYTES;

/// Why a version is not believed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum VersionError {
    /// Longer than a record may be.
    #[error("{0} bytes, more than a document may have")]
    Long(usize),
    /// Not a record.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// A record of another kind.
    #[error("a record of kind {0} is no policy document")]
    NotPolicy(u16),
    /// Of a kind that belongs to one host.
    #[error("{0} belongs to one host and is not signed")]
    LocalKind(Kind),
    /// Of another mesh.
    #[error("signed for another mesh")]
    OtherMesh,
    /// Its operator's certificate.
    #[error("the operator's certificate: {0}")]
    Operator(#[from] ChainError),
    /// Signed by another key than the certificate's.
    #[error("signed by another key than its operator's certificate")]
    NotItsOperator,
    /// Its signature.
    #[error("its signature does not hold")]
    BadSignature,
    /// It reaches what its operator may not write.
    #[error("operator {operator} may write for {scope} only, and this reaches {beyond}")]
    Scope {
        /// The operator's name.
        operator: String,
        /// What it may write.
        scope: Scope,
        /// The first part of the document outside of that.
        beyond: Beyond,
    },
    /// Its payload is not made of sections.
    #[error("its payload: {0}")]
    Sections(#[from] SectionError),
    /// A section is missing or not what it should be.
    #[error("section {0}: {1}")]
    Section(u16, CodecError),
    /// What it says of its history cannot be.
    #[error("its history: {0}")]
    Lineage(&'static str),
    /// The text says another thing than the section beside it.
    #[error("its text is of another document than it claims: {0}")]
    OtherText(&'static str),
    /// Its operator's key has ended, and this is not among what stays valid.
    #[error("operator {0} was revoked, and this version is not among what stays valid")]
    Revoked(String),
}

/// A version that was verified.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifiedVersion {
    bundle: Arc<PolicyBundle>,
    key: PolicyKey,
    version: Hash,
    lineage: Lineage,
    operator: VerifiedOperator,
    content: Content,
    document: Option<Arc<Document>>,
    unread: Option<String>,
}

/// A version as it came: which it is, and nothing of what it says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignedVersion {
    bundle: Arc<PolicyBundle>,
    header: Header,
    version: Hash,
}

impl SignedVersion {
    /// Takes a bundle apart and does the cheap checks: size, kind, mesh.
    pub fn parse(bundle: Arc<PolicyBundle>, mesh: MeshId) -> Result<Self, VersionError> {
        if bundle.record.len() > limits::RECORD_BYTES
            || bundle.certificate.len() > limits::CERTIFICATE_BYTES
        {
            return Err(VersionError::Long(bundle.record.len().max(bundle.certificate.len())));
        }
        let parts = Header::split(&bundle.record)?;
        if parts.header.kind != RecordKind::POLICY {
            return Err(VersionError::NotPolicy(parts.header.kind.0));
        }
        if parts.header.mesh != mesh {
            return Err(VersionError::OtherMesh);
        }
        let (header, version) = (parts.header, Hash::of(&[HASH_DOMAIN, parts.signed]));
        Ok(Self { bundle, header, version })
    }

    /// What names it: the hash of header and payload.
    pub fn version(&self) -> Hash {
        self.version
    }

    /// Who claims to have signed it, and at which generation.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Verifies it alone. Whether its operator's key has ended depends on what else is known:
    /// [`VerifiedVersion::stands`].
    pub fn verify(
        &self,
        roots: &Roots,
        crypto: &dyn Crypto,
    ) -> Result<VerifiedVersion, VersionError> {
        let operator = verify_operator(&self.bundle.certificate, roots, crypto)?;
        if operator.key != self.header.origin.0 {
            return Err(VersionError::NotItsOperator);
        }
        let parts = Header::split(&self.bundle.record)?;
        let message = [SIGNATURE_DOMAIN, parts.signed].concat();
        if !crypto.verify(&operator.key, &message, &Signature(parts.signature)) {
            return Err(VersionError::BadSignature);
        }
        let sections = Sections::decode(parts.payload)?;
        let about: About = section(&sections, ABOUT)?;
        let lineage: Lineage = section(&sections, LINEAGE)?;
        lineage.check().map_err(VersionError::Lineage)?;
        if lineage.generation != self.header.sequence {
            return Err(VersionError::Lineage("its generation is not its header's"));
        }
        within(&operator, about.beyond(&operator.scope))?;
        let text = sections.find(TEXT).unwrap_or_default();
        let read = match sections.has_unknown(&KNOWN) {
            true => Read::unread(&about, "it has a part that this agent is too old to read"),
            false => read(&about, text)?,
        };
        let Read { content, document, unread } = read;
        within(&operator, scope::beyond(&operator.scope, about.key.namespace(), &content))?;
        Ok(VerifiedVersion {
            bundle: Arc::clone(&self.bundle),
            key: about.key,
            version: self.version,
            lineage,
            operator,
            content,
            document,
            unread,
        })
    }
}

fn within(operator: &VerifiedOperator, beyond: Option<Beyond>) -> Result<(), VersionError> {
    let VerifiedOperator { name, scope, .. } = operator;
    let refused =
        |beyond| VersionError::Scope { operator: name.clone(), scope: scope.clone(), beyond };
    beyond.map_or(Ok(()), |beyond| Err(refused(beyond)))
}

fn section<T: Serialize + serde::de::DeserializeOwned>(
    sections: &Sections,
    tag: u16,
) -> Result<T, VersionError> {
    codec::decode::<BYTES, T>(sections.find(tag).unwrap_or_default())
        .map_err(|error| VersionError::Section(tag, error))
}

struct Read {
    content: Content,
    document: Option<Arc<Document>>,
    unread: Option<String>,
}

impl Read {
    /// What an agent makes of a document that it cannot read: an AccessPolicy closes what it is
    /// about, other kinds do nothing.
    fn unread(about: &About, why: impl Into<String>) -> Self {
        let (destination, effect, enforced) = match &about.access {
            Some((destination, effect, enforced)) => {
                (destination.clone(), Some(*effect), *enforced)
            }
            None => (Destination::Namespace(about.key.namespace.clone()), None, false),
        };
        let content = Content::Unread { destination, effect, enforced };
        Self { content, document: None, unread: Some(why.into()) }
    }
}

fn read(about: &About, text: &[u8]) -> Result<Read, VersionError> {
    if about.deleted {
        return Ok(Read { content: Content::Deleted, document: None, unread: None });
    }
    let Some(id) = about.key.document() else {
        return Ok(Read::unread(about, "a kind of document that this agent does not know"));
    };
    if text.len() > limits::POLICY_TEXT_BYTES {
        return Err(VersionError::Long(text.len()));
    }
    let Ok(text) = std::str::from_utf8(text) else {
        return Err(VersionError::OtherText("it is no text"));
    };
    let mut documents = match manifest::parse(&id.to_string(), text, &manifest::Inputs::default()) {
        Ok(documents) => documents,
        // A newer agent's grammar: what stands in the frozen section is known all the same.
        Err(Faults(faults)) => {
            let why = faults.first().map(manifest::Fault::line).unwrap_or_default();
            return Ok(Read::unread(about, why));
        }
    };
    let (Some(document), true) = (documents.pop(), documents.is_empty()) else {
        return Err(VersionError::OtherText("it holds not one document"));
    };
    if document.id != id {
        return Err(VersionError::OtherText("kind, namespace or name"));
    }
    let content = match &document.body {
        Body::Access(access) => {
            let said = (access.destination.clone(), access.effect, access.enforced);
            if about.access.as_ref() != Some(&said) {
                return Err(VersionError::OtherText("destination, action or mode"));
            }
            Content::Access(Arc::new(access.clone()))
        }
        Body::Traffic(traffic) => Content::Traffic(Arc::new(traffic.clone())),
        Body::Registry(_) | Body::Discovery(_) | Body::Mesh(_) => {
            return Err(VersionError::OtherText("kind"));
        }
    };
    Ok(Read { content, document: Some(Arc::new(document)), unread: None })
}

impl VerifiedVersion {
    /// Which document it is of.
    pub fn key(&self) -> &PolicyKey {
        &self.key
    }

    /// What names it.
    pub fn version(&self) -> Hash {
        self.version
    }

    /// What it was made from.
    pub fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    /// Who signed it.
    pub fn operator(&self) -> &VerifiedOperator {
        &self.operator
    }

    /// What it says.
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// The document, where it is one that this agent can read.
    pub fn document(&self) -> Option<&Arc<Document>> {
        self.document.as_ref()
    }

    /// Why this agent cannot read it, if so.
    pub fn unread(&self) -> Option<&str> {
        self.unread.as_deref()
    }

    /// As it travels.
    pub fn bundle(&self) -> &Arc<PolicyBundle> {
        &self.bundle
    }

    /// Whether its operator's key has not ended, or it is among what stays valid of it.
    pub fn stands(&self, revocations: &Revocations) -> bool {
        let operator = &self.operator;
        let root = work_of_root(&operator.key);
        revocations.stands(Subject::Operator, &operator.key, &self.version)
            && revocations.stands(Subject::Root, &operator.root, &root)
    }

    /// Whether it was made in the knowledge of `other`, or `other` is older than all that it
    /// lists.
    pub fn supersedes(&self, other: &Self) -> bool {
        self.covers(other.lineage.generation, other.version)
    }

    /// The same of a version of which only that is known.
    pub fn covers(&self, generation: u64, version: Hash) -> bool {
        generation < self.lineage.complete_from
            || self.lineage.ancestors.binary_search(&(generation, version)).is_ok()
    }
}
