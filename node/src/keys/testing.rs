//! For tests: a mesh with real keys, and peers that show whatever certificates they like.

use std::sync::Arc;

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, ServerConfig, SignatureScheme,
    client::{
        ResolvesClientCert, Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use skein_protocol::{
    clock::Wall,
    limits,
    name::{MeshId, NodeKey},
    trust::{
        Chain, Grant, Roots, Signer,
        admit::Alpn,
        issue::{self, Authority, Validity},
    },
};

use super::{Credentials, Ed25519, KeyPair, Trust, credentials::certified, tls, verify::wall};

pub(crate) fn now() -> Wall {
    wall(UnixTime::now())
}

pub(crate) const DAY: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

/// A mesh that is 300 days old.
pub(crate) struct TestMesh {
    pub(crate) mesh: MeshId,
    pub(crate) roots: Roots,
    pub(crate) issuer: Vec<u8>,
    pub(crate) seed: u8,
}

impl TestMesh {
    pub(crate) fn new(seed: u8) -> Self {
        let begin = now().before(300 * DAY);
        let key = pair(seed, 0);
        let root = issue::root(&key, "test", begin, [1; 16]).unwrap();
        let roots = Roots::first(&root, &Ed25519).unwrap();
        let mesh = roots.mesh;
        let by = Authority::new(&mesh, &root, &key).unwrap();
        let validity = Validity::new(begin, limits::ISSUER_LIFE, issue::NEVER_ENDS);
        let issuer_key = pair(seed, 1).public_key();
        let host = pair(seed, 10).node_key();
        let issuer = issue::issuer(&by, &issuer_key, &host, validity, [2; 16]).unwrap();
        Self { mesh, roots, issuer, seed }
    }

    pub(crate) fn root_key(&self) -> KeyPair {
        pair(self.seed, 0)
    }

    pub(crate) fn issuer_key(&self) -> KeyPair {
        pair(self.seed, 1)
    }

    /// The key of node `n`; node 0 holds the issuer.
    pub(crate) fn node(&self, n: u8) -> KeyPair {
        pair(self.seed, 10 + n)
    }

    pub(crate) fn chain(&self, n: u8, at: Wall) -> Chain {
        self.chain_for(&self.node(n).node_key(), n, at)
    }

    pub(crate) fn chain_for(&self, key: &NodeKey, n: u8, at: Wall) -> Chain {
        let issuer = self.issuer_key();
        let by = Authority::new(&self.mesh, &self.issuer, &issuer).unwrap();
        let services = vec!["*/*".parse().unwrap()];
        let grant =
            Grant::new(format!("node-{n}").parse().unwrap(), services, vec![], None).unwrap();
        let validity = Validity::new(at, limits::LEAF_LIFE, issue::NEVER_ENDS);
        let leaf = issue::node(&by, key, &grant, validity, [3; 16]).unwrap();
        Chain { leaf, issuer: self.issuer.clone() }
    }

    pub(crate) fn credentials(&self, n: u8) -> Arc<Credentials> {
        let trust = Trust::new(self.roots.clone());
        Credentials::member(self.node(n), self.chain(n, now()), trust, now()).unwrap()
    }
}

pub(crate) fn pair(seed: u8, n: u8) -> KeyPair {
    let mut bytes = [seed; 32];
    bytes[0] = n;
    KeyPair::from_seed(&bytes).unwrap()
}

/// Shows these certificates with that key, and takes every server. Resumes when it can.
pub(crate) fn rogue_client(key: KeyPair, ders: Vec<Vec<u8>>, alpn: Alpn) -> ClientConfig {
    let mut config = ClientConfig::builder_with_provider(tls::provider().unwrap())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_client_cert_resolver(Arc::new(Fixed(certified(&Arc::new(key), ders))));
    config.alpn_protocols = vec![alpn.name().to_vec()];
    config.resumption = Resumption::in_memory_sessions(8);
    config
}

/// Shows these certificates with that key, asks nobody for theirs, sends tickets.
pub(crate) fn rogue_server(key: KeyPair, ders: Vec<Vec<u8>>) -> ServerConfig {
    let mut config = ServerConfig::builder_with_provider(tls::provider().unwrap())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Fixed(certified(&Arc::new(key), ders))));
    config.alpn_protocols = Alpn::ALL.map(|alpn| alpn.name().to_vec()).into();
    config
}

#[derive(Debug)]
struct Fixed(Arc<CertifiedKey>);

impl ResolvesClientCert for Fixed {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesServerCert for Fixed {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}
