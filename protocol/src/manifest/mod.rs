//! Manifests: from files that people write to what this host says and does.
//!
//! In:    text, and [`Inputs`] that the shell read.
//! Out:   [`Document`]s, or all [`Faults`] at once; then one [`Plan`] for the host.
//! Never: reads a file, the environment or a clock; shows a secret.

mod check;
mod discovery;
mod fault;
mod instances;
pub mod kinds;
mod mesh;
pub mod plan;
mod policy;
mod reader;
mod registry;
mod settings;
pub mod traffic;
mod tree;
pub mod value;

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

pub use self::{
    fault::{Fault, Faults, Place},
    kinds::{Access, Discovery, DocumentId, Kind, Mesh, Registry},
    plan::Plan,
    reader::Inputs,
    traffic::Traffic,
};
use self::{
    fault::{SECRET_KEYS, Source},
    reader::{Item, Sink},
    tree::{Key, Node, Value},
};
use crate::name::{Hash, Label};

/// One valid document.
///
/// It serialises as it was written, without comments and with `***` for a secret. Two are equal
/// when they say the same, whatever file they are from.
#[derive(Clone, Debug)]
pub struct Document {
    /// What tells it apart from others.
    pub id: DocumentId,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// What it says.
    pub body: Body,
    /// Where it stands, for faults between documents.
    pub place: Place,
    /// What is allowed but looks wrong.
    pub warnings: Vec<Fault>,
    /// The version that an operator signed of it, as `skein sign` writes it under `signature:`, not
    /// verified. Not part of what the document says.
    pub signature: Option<String>,
    tree: Node,
}

/// What a document says, by kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// This host serves this.
    Registry(Registry),
    /// This host uses that.
    Discovery(Discovery),
    /// The agent and its mesh.
    Mesh(Box<Mesh>),
    /// Traffic policies; not applied without an operator.
    Traffic(Traffic),
    /// An access policy; not applied without an operator.
    Access(Access),
}

impl PartialEq for Document {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.body == other.body && self.tree == other.tree
    }
}

impl Eq for Document {}

impl Serialize for Document {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.tree.serialize(serializer)
    }
}

impl Document {
    /// A hash of what it says: of no comment, order of keys or file, and of no secret's content.
    pub fn hash(&self) -> Hash {
        Hash::of(&[b"skein manifest 1", &self.tree.hash().0])
    }

    /// The document as YAML, with that signature.
    pub fn to_signed_yaml(&self, signature: &str) -> String {
        format!("{}\nsignature: {signature}\n", self.to_yaml().trim_end())
    }

    /// The document as YAML, secrets as `***`.
    pub fn to_yaml(&self) -> String {
        yaml(&self.tree)
    }

    /// The document as YAML with its secrets: for the agent's own disk (0600) only.
    pub fn to_yaml_with_secrets(&self) -> String {
        yaml(&self.tree.revealed())
    }
}

fn yaml(tree: &Node) -> String {
    // A tree of texts, lists and maps always serialises.
    serde_saphyr::to_string(tree).unwrap_or_default()
}

/// Reads the documents of one text. `file` is what its faults call it.
///
/// # Errors
/// All faults of the text, in its order. Two documents of one kind, namespace and name are one.
pub fn parse(file: &str, text: &str, inputs: &Inputs) -> Result<Vec<Document>, Faults> {
    let source = Source::new(file, text);
    let trees = tree::documents(&source, text)?;
    let mut documents: Vec<Document> = Vec::new();
    let mut faults = Vec::new();
    for mut tree in trees {
        tree.hide(&SECRET_KEYS);
        let mut sink = Sink::new(&source, inputs);
        if let Some(document) = document(tree, &mut sink) {
            if let Some(first) = documents.iter().find(|other| other.id == document.id) {
                sink.faults.push(twice(first, &document));
            }
            documents.push(document);
        }
        faults.append(&mut sink.faults);
    }
    faults.sort_by_key(|fault| (fault.place.line, fault.place.column));
    if faults.is_empty() { Ok(documents) } else { Err(Faults(faults)) }
}

pub(crate) fn twice(first: &Document, second: &Document) -> Fault {
    Fault {
        place: second.place.clone(),
        key: "metadata.name".to_owned(),
        why: format!("{} stands at {} already", second.id, first.place),
        fix: "rename one of the two, or remove it".to_owned(),
    }
}

fn document(tree: Node, sink: &mut Sink<'_>) -> Option<Document> {
    let root = Item::new(&tree, "");
    let mut fields = root.fields(sink)?;
    let versions = [("skein/v1", ()), ("apps/v1", ())];
    let version = fields.need("apiVersion", "write `apiVersion: skein/v1`", sink);
    version.and_then(|item| item.one_of(&versions, sink));
    let kinds = Kind::ALL.map(|kind| (kind.word(), kind));
    let all = kinds.map(|(word, _)| word).join(", ");
    let kind = fields.need("kind", &format!("write one of: {all}"), sink);
    let kind = kind.and_then(|item| item.one_of(&kinds, sink));
    let metadata = fields.need("metadata", "write `metadata: {name: ...}`", sink);
    let metadata = metadata.and_then(|item| metadata_of(&item, sink));
    let spec = fields.take("spec");
    let signature = fields.take("signature");
    fields.finish(sink);
    let (kind, metadata) = (kind?, metadata?);
    let signature = match signature {
        Some(item) => Some(signature_of(&item, kind, sink)?),
        None => None,
    };
    let empty = Node { value: Value::Map(Vec::new()), at: tree.at };
    let spec = spec.unwrap_or_else(|| Item::new(&empty, "spec"));
    let body = body(kind, &spec, &metadata, sink)?;
    let id = DocumentId { kind, namespace: metadata.namespace, name: metadata.name };
    Some(Document {
        labels: metadata.labels,
        body,
        place: metadata.place,
        warnings: std::mem::take(&mut sink.warnings),
        signature,
        tree: normal(&tree, &id),
        id,
    })
}

fn signature_of(item: &Item<'_>, kind: Kind, sink: &mut Sink<'_>) -> Option<String> {
    if !kind.is_mesh_wide() {
        let why = format!("a {kind} belongs to one host and is not signed");
        item.fault(sink, why, "remove this line");
        return None;
    }
    item.text(sink).map(str::to_owned)
}

fn body(
    kind: Kind,
    spec: &Item<'_>,
    Metadata { namespace, name, .. }: &Metadata,
    sink: &mut Sink<'_>,
) -> Option<Body> {
    match kind {
        Kind::ServiceRegistry => {
            registry::registry(spec, namespace, name, sink).map(Body::Registry)
        }
        Kind::ServiceDiscovery => discovery::discovery(spec, namespace, sink).map(Body::Discovery),
        Kind::ServiceMesh => mesh::mesh(spec, namespace, sink).map(|mesh| Body::Mesh(mesh.into())),
        Kind::TrafficManagement => traffic::traffic(spec, namespace, sink).map(Body::Traffic),
        Kind::AccessPolicy => policy::access(spec, namespace, sink).map(Body::Access),
    }
}

struct Metadata {
    namespace: Label,
    name: Label,
    labels: BTreeMap<String, String>,
    place: Place,
}

fn metadata_of(item: &Item<'_>, sink: &mut Sink<'_>) -> Option<Metadata> {
    let mut fields = item.fields(sink)?;
    let name = fields.need("name", "name the document", sink);
    let place = name.as_ref().unwrap_or(item).place(sink);
    let name = name.and_then(|item| item.parsed(sink));
    let namespace = match fields.take("namespace") {
        Some(item) => item.parsed(sink),
        None => Some(value::word("default")),
    };
    let labels = fields.take("labels").map(|item| item.texts(sink));
    fields.finish(sink);
    Some(Metadata { namespace: namespace?, name: name?, labels: labels.unwrap_or_default(), place })
}

/// The tree with its defaults of identity filled in, so that the old spelling of the version and
/// a namespace left out make no difference to the hash.
fn normal(tree: &Node, id: &DocumentId) -> Node {
    let at = tree.at;
    let text = |text: &str| Node { value: Value::Text(text.to_owned()), at };
    let entry = |name: &str, node: Node| {
        let key = Key { text: name.to_owned(), at };
        (key, node)
    };
    let mut metadata = vec![
        entry("name", text(id.name.as_str())),
        entry("namespace", text(id.namespace.as_str())),
    ];
    let labels = tree.field("metadata").and_then(|found| found.field("labels"));
    metadata.extend(labels.map(|labels| entry("labels", labels.clone())));
    let mut entries = vec![
        entry("apiVersion", text("skein/v1")),
        entry("kind", text(id.kind.word())),
        entry("metadata", Node { value: Value::Map(metadata), at }),
    ];
    entries.extend(tree.field("spec").map(|spec| entry("spec", spec.clone())));
    Node { value: Value::Map(entries), at }
}

#[cfg(test)]
mod tests;
