//! The operator's key: it lives with a person or a pipeline, and only here is anything signed
//! with it.

use std::path::PathBuf;

use skein_protocol::{
    manifest::{self, Document, DocumentId, Inputs, Kind},
    name::{Label, MeshId},
    policy::{Draft, Lineage, PolicyKey},
    trust::Signer,
};

use super::exit::CliError;
use crate::{
    api::dto::{DocumentName, PreparedDraft, SourceFile},
    keys::{KeyPair, file},
};

/// The environment variable that names the key's file.
const VARIABLE: &str = "SKEIN_OPERATOR_KEY";

/// An operator's key and what certifies it.
pub(super) struct Operator {
    pair: KeyPair,
    certificate: Vec<u8>,
}

impl std::fmt::Debug for Operator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Operator")
    }
}

impl Operator {
    /// The key of that file, else of the environment's, else the one that `init` writes.
    pub(super) fn load(said: Option<&PathBuf>) -> Result<Self, CliError> {
        let path = match said.cloned().or_else(|| std::env::var_os(VARIABLE).map(PathBuf::from)) {
            Some(path) => path,
            None => super::local::operator_directory(None)?.join("operator.key"),
        };
        let lacks = |error: &dyn std::fmt::Display| {
            CliError::failed(format!("this needs an operator's key: {error}")).fix(format!(
                "name it with --as FILE or {VARIABLE}; `skein init` wrote the first one to \
                 ~/.config/skein/operator.key of who ran it"
            ))
        };
        let pair = file::read_key(&path).map_err(|error| lacks(&error))?;
        let beside = path.with_extension("pem");
        let certificates = file::read_certificates(&beside).map_err(|error| lacks(&error))?;
        let certificate = certificates.into_iter().next().unwrap_or_default();
        Ok(Self { pair, certificate })
    }

    /// Its key.
    pub(super) fn signer(&self) -> &dyn Signer {
        &self.pair
    }

    /// What certifies it.
    pub(super) fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// Signs what was prepared: of a document the very text of these files, never another.
    pub(super) fn sign(
        &self,
        mesh: &str,
        draft: &PreparedDraft,
        files: &[SourceFile],
    ) -> Result<String, CliError> {
        let wrong = |error: &dyn std::fmt::Display| {
            CliError::failed(format!("the agent prepared something that cannot be signed: {error}"))
        };
        let mesh = MeshId(mesh.parse().map_err(|error| wrong(&error))?);
        let lineage = data_encoding::HEXLOWER.decode(draft.lineage.as_bytes());
        let lineage = lineage.map_err(|error| wrong(&error))?;
        let lineage = Lineage::decode(&lineage).map_err(|error| wrong(&error))?;
        let id = document_id(&draft.document)?;
        let unsigned = match draft.result.as_str() {
            "deleted" => {
                let key = PolicyKey::new(&id).ok_or_else(|| wrong(&"a kind of one host"))?;
                Draft::deletion(key, lineage)
            }
            _ => Draft::of(&find(files, &id)?, lineage).map_err(|error| wrong(&error))?,
        };
        let bundle = unsigned.sign(mesh, &self.certificate, &self.pair);
        let bundle = bundle.map_err(|error| wrong(&error))?;
        let bytes = bundle.encode().map_err(|error| wrong(&error))?;
        Ok(data_encoding::HEXLOWER.encode(&bytes))
    }
}

/// The document of that name in these files.
pub(super) fn document(files: &[SourceFile], name: &DocumentName) -> Result<Document, CliError> {
    find(files, &document_id(name)?)
}

fn document_id(name: &DocumentName) -> Result<DocumentId, CliError> {
    let wrong = |error: String| CliError::failed(error);
    Ok(DocumentId {
        kind: Kind::from_word(&name.kind).ok_or_else(|| wrong(format!("no kind {}", name.kind)))?,
        namespace: Label::new(&name.namespace).map_err(|error| wrong(error.to_string()))?,
        name: Label::new(&name.name).map_err(|error| wrong(error.to_string()))?,
    })
}

fn find(files: &[SourceFile], id: &DocumentId) -> Result<Document, CliError> {
    for file in files {
        let documents = manifest::parse(&file.name, &file.text, &Inputs::default());
        // The agent has told the faults of files already.
        let found = documents.into_iter().flatten().find(|document| document.id == *id);
        if let Some(document) = found {
            return Ok(document);
        }
    }
    Err(CliError::failed(format!("{id} does not stand in the files that were read")))
}
