//! What lies where in an agent's directory.

use std::path::{Path, PathBuf};

use skein_protocol::{
    clock::Wall,
    engine::Anchor,
    trust::{
        join::{PeerAddress, PolicyHead},
        verify_chain,
    },
};

use crate::keys::{
    Credentials, Ed25519, Trust,
    credentials::CredentialsError,
    file::{self, FileError},
};

/// The files of an agent's directory.
#[derive(Clone, Debug)]
pub struct Files {
    directory: PathBuf,
}

/// Why this host's identity could not be read.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// What the files hold does not go together.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The roots.
    #[error("{}: {error}", .path.display())]
    Roots {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        error: skein_protocol::trust::ChainError,
    },
}

impl Files {
    /// The files in `directory`.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The host's private key.
    pub fn node_key(&self) -> PathBuf {
        self.directory.join("node.key")
    }

    /// The host's certificate and its issuer's.
    pub fn node_chain(&self) -> PathBuf {
        self.directory.join("node.pem")
    }

    /// The roots of the mesh.
    pub fn roots(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// The private key of the issuer on this host.
    pub fn issuer_key(&self) -> PathBuf {
        self.directory.join("issuer.key")
    }

    /// The certificate of the issuer on this host.
    pub fn issuer_certificate(&self) -> PathBuf {
        self.directory.join("issuer.pem")
    }

    /// The private key of the root, where it is online.
    pub fn root_key(&self) -> PathBuf {
        self.directory.join("root.key")
    }

    /// Agents that were named when this host joined: whom to dial at the first start.
    pub fn peers(&self) -> PathBuf {
        self.directory.join("peers")
    }

    /// What the policy was when this host was let in. It is there until the agent has held that.
    pub fn policy(&self) -> PathBuf {
        self.directory.join("policy-at-join")
    }

    /// That this host has left its mesh, and comes back only when a person says so.
    pub fn left(&self) -> PathBuf {
        self.directory.join("left")
    }

    /// Whether this host has left its mesh.
    pub fn has_left(&self) -> bool {
        self.left().exists()
    }

    /// This host leaves its mesh: also over restarts of its agent.
    pub fn leave(&self) -> Result<(), FileError> {
        file::write(&self.left(), b"this host has left its mesh: skein join\n", file::PUBLIC)
    }

    /// This host is back. Whether it had left.
    pub fn come_back(&self) -> Result<bool, FileError> {
        let path = self.left();
        match std::fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(FileError::Unwritable { path, error }),
        }
    }

    /// Whether this host has a certificate.
    pub fn is_member(&self) -> bool {
        self.node_chain().exists()
    }

    /// This host's credentials. An expired certificate is read too: it serves to renew.
    pub fn credentials(&self, now: Wall) -> Result<std::sync::Arc<Credentials>, IdentityError> {
        let key = file::read_key(&self.node_key())?;
        let roots = file::read_roots(&self.roots())?.verify(&Ed25519);
        let roots = roots.map_err(|error| IdentityError::Roots { path: self.roots(), error })?;
        let chain = file::read_chain(&self.node_chain())?;
        Ok(Credentials::member(key, chain, Trust::new(roots), now)?)
    }

    /// The name of the mesh and this host's name in it, for "already a member of".
    pub fn membership(&self, now: Wall) -> Result<(String, String), IdentityError> {
        let roots = file::read_roots(&self.roots())?;
        let wrong = |error| IdentityError::Roots { path: self.roots(), error };
        let mesh = skein_protocol::trust::certificate::mesh_name(&roots.first).map_err(wrong)?;
        let roots = roots.verify(&Ed25519).map_err(wrong)?;
        let chain = file::read_chain(&self.node_chain())?;
        let verified = verify_chain(&chain, &roots, now, &Ed25519);
        let verified = verified.map_err(CredentialsError::Chain)?;
        Ok((mesh, verified.grant.name.to_string()))
    }

    /// Writes whom to dial at the first start: a node key and an address a line.
    pub fn write_peers(&self, peers: &[PeerAddress]) -> Result<(), FileError> {
        let lines = peers.iter().map(|peer| format!("{} {}\n", peer.node, peer.address));
        file::write(&self.peers(), lines.collect::<String>().as_bytes(), file::PUBLIC)
    }

    /// Writes what the policy was when this host was let in: document, generation and version a
    /// line.
    pub fn write_policy(&self, heads: &[PolicyHead]) -> Result<(), FileError> {
        let line =
            |head: &PolicyHead| format!("{} {} {}\n", head.document, head.generation, head.version);
        let lines: String = heads.iter().map(line).collect();
        file::write(&self.policy(), lines.as_bytes(), file::PUBLIC)
    }

    /// What shows, on a disk that never held the mesh's policy, what that is.
    pub fn read_policy(&self) -> Anchor {
        let parse = |line: &str| {
            let mut words = line.split(' ');
            Some(PolicyHead {
                document: words.next()?.parse().ok()?,
                generation: words.next()?.parse().ok()?,
                version: words.next()?.parse().ok()?,
            })
        };
        let text = std::fs::read_to_string(self.policy()).ok();
        let heads = text.and_then(|text| text.lines().map(parse).collect());
        heads.map_or(Anchor::Lacks, Anchor::Listed)
    }

    /// It has been held: from now on the disk itself shows it.
    pub fn forget_policy(&self) {
        // What stays is only read where the disk shows nothing, and asks for less than it might.
        let _ = std::fs::remove_file(self.policy());
    }

    /// Whom to dial at the first start; lines that do not read are passed over.
    pub fn read_peers(&self) -> Vec<PeerAddress> {
        let text = std::fs::read_to_string(self.peers()).unwrap_or_default();
        let parse = |line: &str| {
            let (node, address) = line.split_once(' ')?;
            Some(PeerAddress { node: node.parse().ok()?, address: address.parse().ok()? })
        };
        text.lines().filter_map(parse).collect()
    }
}
