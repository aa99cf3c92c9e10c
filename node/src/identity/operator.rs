//! Operators, certified where a root's key is: on the first host, or wherever it was taken.

use std::path::{Path, PathBuf};

use skein_protocol::{
    clock::Wall,
    name::NodeKey,
    trust::{
        RootChain, Roots, Signer,
        certificate::{mesh_name, summary},
        issue::{self, Authority, IssueError},
        operator::Scope,
    },
    wire::codec::CodecError,
};

use super::{
    files::{Files, IdentityError},
    issuer::{self, IssuerError},
};
use crate::keys::{
    Ed25519, KeyPair,
    file::{self, FileError},
    pair::{PairError, random},
};

/// Why no root could sign.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// What is in the agent's directory.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A certificate.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// The certificate of an issuer.
    #[error(transparent)]
    Issuer(#[from] IssuerError),
    /// No entropy.
    #[error(transparent)]
    Pair(#[from] PairError),
    /// The roots of the directory.
    #[error("the roots in {} do not verify: {why}", .path.display())]
    Roots {
        /// Which file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A key that is no root of this mesh.
    #[error("{} is not the key of a root of this mesh", .0.display())]
    OtherRoot(PathBuf),
    /// Too large to encode.
    #[error("the new root: {0}")]
    Codec(CodecError),
    /// Another root has followed on it.
    #[error("this is not the newest root of the mesh: name the key of the newest with --root")]
    NotNewest,
    /// A key would be lost.
    #[error("{} is there already: move it away, or say another file", .0.display())]
    Exists(PathBuf),
}

/// A root's key, with the certificate that it is of.
pub struct RootKey {
    /// The mesh's roots.
    pub roots: Roots,
    /// The same as they travel.
    pub chain: RootChain,
    /// The key.
    pub pair: KeyPair,
    certificate: Vec<u8>,
}

impl std::fmt::Debug for RootKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RootKey")
    }
}

impl RootKey {
    /// The key of that file, else the one in the agent's directory.
    pub fn open(files: &Files, said: Option<&Path>) -> Result<Self, OperatorError> {
        let path = said.map_or_else(|| files.root_key(), Path::to_owned);
        let chain = file::read_roots(&files.roots())?;
        let roots = chain.verify(&Ed25519).map_err(|error| OperatorError::Roots {
            path: files.roots(),
            why: error.to_string(),
        })?;
        let pair = file::read_key(&path)?;
        let certificate = roots.roots.get(&pair.public_key()).cloned();
        let certificate = certificate.ok_or(OperatorError::OtherRoot(path))?;
        Ok(Self { roots, chain, pair, certificate })
    }

    /// Makes the root that follows on this one and keeps its key in a file. Gives the roots with
    /// it. Again, with the same file: the same roots.
    pub fn follow(&self, next: &Path, now: Wall) -> Result<RootChain, OperatorError> {
        if next.exists() {
            let key = file::read_key(next)?.public_key();
            if self.roots.newest() == Some(key) {
                return Ok(self.chain.clone());
            }
        }
        if self.roots.newest() != Some(self.pair.public_key()) {
            return Err(OperatorError::NotNewest);
        }
        let key = match next.exists() {
            true => file::read_key(next)?,
            false => KeyPair::generate()?,
        };
        // On disk before anybody trusts it: a root whose key is lost can never be followed on.
        file::write_key(next, &key)?;
        let name = mesh_name(&self.certificate).unwrap_or_default();
        let certificate = issue::root(&key, &name, now, random()?)?;
        let mut chain = self.chain.clone();
        chain.extend(self.roots.mesh, certificate, &self.pair).map_err(OperatorError::Codec)?;
        Ok(chain)
    }

    /// Certifies this host's issuer for a year, with a key that is made if there is none, and
    /// says until when. What fails leaves the files as they were.
    pub fn write_issuer(&self, files: &Files, now: Wall) -> Result<Wall, OperatorError> {
        let path = files.issuer_key();
        let key = match path.exists() {
            true => file::read_key(&path)?,
            false => KeyPair::generate()?,
        };
        // By its certificate: the key itself may be sealed, or elsewhere.
        let leaf = file::read_chain(&files.node_chain())?.leaf;
        let host = NodeKey(summary(&leaf).map_err(IssuerError::Certificate)?.key);
        let by = Authority::new(&self.roots.mesh, &self.certificate, &self.pair)?;
        let (certificate, until) = issuer::certify(&by, &key.public_key(), &host, now)?;
        let is_new = !path.exists();
        // Written again too where it is there: by root it becomes the agent's.
        file::write_key(&path, &key)?;
        file::write_certificates(&files.issuer_certificate(), &[&certificate]).inspect_err(
            |_| {
                if is_new {
                    let _ = std::fs::remove_file(&path);
                }
            },
        )?;
        Ok(until)
    }

    /// Certifies a new operator and writes its key and certificate: `out` and, beside it, `.pem`.
    pub fn create_operator(
        &self,
        name: &str,
        scope: &Scope,
        out: &Path,
        now: Wall,
    ) -> Result<(), OperatorError> {
        if out.exists() {
            return Err(OperatorError::Exists(out.to_owned()));
        }
        let key = KeyPair::generate()?;
        let by = Authority::new(&self.roots.mesh, &self.certificate, &self.pair)?;
        let certificate = issue::operator(&by, &key.public_key(), name, scope, now, random()?)?;
        if let Some(parent) = out.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            file::make_directory(parent)?;
        }
        file::write_certificates(&out.with_extension("pem"), &[&certificate])?;
        Ok(file::write_key(out, &key)?)
    }
}
