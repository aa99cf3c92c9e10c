//! What this agent shows to its peers and what it trusts, swapped while it runs.
//!
//! Renewal swaps the chain, a revocation or a new root swaps the trust; what is in a handshake
//! at that moment ends with what it began with.

use std::{collections::BTreeSet, sync::Arc};

use arc_swap::ArcSwapOption;
use rustls::{
    SignatureAlgorithm, SignatureScheme,
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms},
    sign::{CertifiedKey, Signer, SigningKey},
};
use rustls_pki_types::CertificateDer;
use skein_protocol::{
    clock::Wall,
    name::NodeKey,
    trust::{
        Chain, ChainError, Revocations, Revoked, Roots, Signer as _, VerifiedChain,
        issue::{self, IssueError},
        verify_chain,
    },
};

use super::{
    pair::{Ed25519, KeyPair, PairError, random},
    tls,
    verify::Refused,
};

/// What an agent believes about certificates: a snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trust {
    /// The roots that are trusted now.
    pub roots: Roots,
    /// What has ended.
    pub revocations: Revocations,
    /// Keys of which a record or chain was accepted before: they keep working while their
    /// issuer is suspended.
    pub known: BTreeSet<NodeKey>,
}

impl Trust {
    /// Nothing revoked and nobody known.
    pub fn new(roots: Roots) -> Self {
        Self { roots, revocations: Revocations::default(), known: BTreeSet::new() }
    }

    /// Whether a verified chain is refused all the same.
    pub fn judge(&self, chain: &VerifiedChain) -> Result<(), Revoked> {
        self.revocations.judge(chain, self.known.contains(&chain.key))
    }
}

/// Why credentials could not be made or swapped.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The chain does not verify.
    #[error("this host's own certificate: {0}")]
    Chain(#[from] ChainError),
    /// The chain is another key's.
    #[error(
        "this host's certificate is for another key than node.key: bring back the right file, or join again"
    )]
    OtherKey,
    /// The bare certificate cannot be made.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// No entropy.
    #[error(transparent)]
    Pair(#[from] PairError),
    /// rustls lacks what we need.
    #[error("the TLS library lacks Ed25519")]
    Tls,
}

/// This agent's key, its chain and its trust.
#[derive(Debug)]
pub struct Credentials {
    key: Arc<KeyPair>,
    own: ArcSwapOption<Own>,
    trust: ArcSwapOption<Trust>,
    bare: Arc<CertifiedKey>,
    provider: Arc<CryptoProvider>,
    refused: Refused,
}

/// What this agent shows.
#[derive(Debug)]
pub struct Own {
    /// What its chain proves.
    pub verified: VerifiedChain,
    /// The chain.
    pub chain: Chain,
    /// Leaf and issuer.
    pub(super) member: Arc<CertifiedKey>,
    /// Leaf, issuer and root, for joiners.
    pub(super) whole: Arc<CertifiedKey>,
}

impl Credentials {
    /// Credentials of a host that is in no mesh yet. `now` dates its bare certificate.
    pub fn bare(key: KeyPair, now: Wall) -> Result<Arc<Self>, CredentialsError> {
        let provider = tls::provider().ok_or(CredentialsError::Tls)?;
        let key = Arc::new(key);
        let certificate = issue::bare(&*key, now, random()?)?;
        let bare = certified(&key, vec![certificate]);
        Ok(Arc::new(Self {
            key,
            own: ArcSwapOption::empty(),
            trust: ArcSwapOption::empty(),
            bare,
            provider,
            refused: Refused::default(),
        }))
    }

    /// Credentials of a member.
    pub fn member(
        key: KeyPair,
        chain: Chain,
        trust: Trust,
        now: Wall,
    ) -> Result<Arc<Self>, CredentialsError> {
        let credentials = Self::bare(key, now)?;
        credentials.set_trust(trust);
        credentials.set_chain(chain, now)?;
        Ok(credentials)
    }

    /// Shows another chain from now on. It must verify against the trust, for this key; it may
    /// be expired (then it serves to renew).
    pub fn set_chain(&self, chain: Chain, now: Wall) -> Result<(), CredentialsError> {
        let trust = self.trust().ok_or(CredentialsError::Chain(ChainError::UnknownRoot))?;
        let verified = verify_chain(&chain, &trust.roots, now, &Ed25519)?;
        if verified.key != self.key() {
            return Err(CredentialsError::OtherKey);
        }
        let root = trust.roots.roots.get(&verified.root).cloned().unwrap_or_default();
        let member = vec![chain.leaf.clone(), chain.issuer.clone()];
        let whole = vec![chain.leaf.clone(), chain.issuer.clone(), root];
        let member = certified(&self.key, member);
        let whole = certified(&self.key, whole);
        self.own.store(Some(Arc::new(Own { verified, chain, member, whole })));
        Ok(())
    }

    /// Trusts this from now on. Connections that are up are the caller's to judge again.
    pub fn set_trust(&self, trust: Trust) {
        self.trust.store(Some(Arc::new(trust)));
    }

    /// This host's identity.
    pub fn key(&self) -> NodeKey {
        self.key.node_key()
    }

    /// The key that signs for this host.
    pub fn pair(&self) -> &Arc<KeyPair> {
        &self.key
    }

    /// The chain that is shown now; a host in no mesh has none.
    pub fn own(&self) -> Option<Arc<Own>> {
        self.own.load_full()
    }

    /// What is trusted now; a host in no mesh trusts nothing.
    pub fn trust(&self) -> Option<Arc<Trust>> {
        self.trust.load_full()
    }

    /// How often peers were refused, by reason.
    pub fn refused(&self) -> &Refused {
        &self.refused
    }

    pub(super) fn bare_certificate(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.bare)
    }

    pub(super) fn provider(&self) -> Arc<CryptoProvider> {
        Arc::clone(&self.provider)
    }

    pub(super) fn algorithms(&self) -> &WebPkiSupportedAlgorithms {
        &self.provider.signature_verification_algorithms
    }
}

pub(super) fn certified(key: &Arc<KeyPair>, ders: Vec<Vec<u8>>) -> Arc<CertifiedKey> {
    let chain = ders.into_iter().map(CertificateDer::from).collect();
    Arc::new(CertifiedKey::new(chain, Arc::new(TlsKey(Arc::clone(key)))))
}

/// Our key as rustls wants it: Ed25519 and nothing else.
#[derive(Clone, Debug)]
struct TlsKey(Arc<KeyPair>);

impl SigningKey for TlsKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let offered = offered.contains(&SignatureScheme::ED25519);
        offered.then(|| -> Box<dyn Signer> { Box::new(self.clone()) })
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ED25519
    }
}

impl Signer for TlsKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        Ok(self.0.sign(message).0.to_vec())
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}
