//! A host that holds an issuer: it admits nodes, makes join tokens, and renews its own
//! certificate. With the root's key at hand it makes further issuers too.

use std::time::Duration;

use skein_protocol::{
    clock::Wall,
    limits,
    name::{Locality, NamePattern, NodeKey, ServicePattern},
    trust::{
        Chain, ChainError, Grant, PublicKey, Role, RootChain, Roots, Signer, VerifiedIssuer,
        issue::{self, Authority, IssueError, Validity},
        token::{self, Token, TokenBody, TokenProof, TokenTerms},
        verify_issuer,
    },
    wire::codec::CodecError,
    words,
};

use super::files::Files;
use crate::keys::{
    Ed25519, KeyPair,
    file::{self, FileError},
    pair::{PairError, random},
};

/// Why an issuer did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// There is none here.
    #[error("this host holds no issuer: run this on a host that does")]
    None,
    /// Its certificate has ended.
    #[error("the issuer's certificate on this host ended {} ago: run this on another host that holds an issuer, or `skein issuer renew` here", words::span(*.by))]
    Ended {
        /// How long ago.
        by: Duration,
    },
    /// Its certificate does not verify.
    #[error("issuer.pem: {0}")]
    Certificate(#[from] ChainError),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// rcgen or a bound.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// No entropy.
    #[error(transparent)]
    Pair(#[from] PairError),
    /// Too large to encode.
    #[error("too large: {0}; name fewer services")]
    Codec(#[from] CodecError),
    /// The root is not here.
    #[error(
        "the root's key is not on this host: bring root.key back for this, or run this where it is"
    )]
    NoRoot,
    /// A scope out of bounds.
    #[error("{0}")]
    Scope(&'static str),
}

/// What a join token is to allow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TokenScope {
    /// What nodes may speak for; none is calling only.
    pub services: Vec<ServicePattern>,
    /// Which names they may have; none is one made of the key.
    pub names: Vec<NamePattern>,
    /// Their further parts.
    pub roles: Vec<Role>,
    /// Where they must be.
    pub zone: Option<Locality>,
    /// How many of them become issuers.
    pub issuers: u32,
    /// For how long it is good.
    pub life: Duration,
    /// How many may join.
    pub uses: u32,
}

/// An issuer with its key.
#[derive(Debug)]
pub struct IssuingHost {
    roots: RootChain,
    trusted: Roots,
    key: KeyPair,
    certificate: Vec<u8>,
    verified: VerifiedIssuer,
    root: Option<KeyPair>,
}

impl IssuingHost {
    /// The issuer of a directory; `None` where there is none.
    pub fn open(files: &Files) -> Result<Option<Self>, IssuerError> {
        if !files.issuer_certificate().exists() {
            return Ok(None);
        }
        let roots = file::read_roots(&files.roots())?;
        let trusted = roots.verify(&Ed25519)?;
        let key = file::read_key(&files.issuer_key())?;
        let certificates = file::read_certificates(&files.issuer_certificate())?;
        let certificate = certificates.into_iter().next().ok_or(IssuerError::None)?;
        let verified = verify_issuer(&certificate, &trusted, &Ed25519)?;
        if verified.key != key.public_key() {
            return Err(IssueError::OtherKey.into());
        }
        let root = if files.root_key().exists() {
            let root = file::read_key(&files.root_key())?;
            trusted.roots.contains_key(&root.public_key()).then_some(root)
        } else {
            None
        };
        Ok(Some(Self { roots, trusted, key, certificate, verified, root }))
    }

    /// The issuer, as its certificate shows it.
    pub fn verified(&self) -> &VerifiedIssuer {
        &self.verified
    }

    /// Its certificate, as DER: for the node record of its host.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// Its key.
    pub fn signer(&self) -> &dyn Signer {
        &self.key
    }

    /// The roots that it answers with.
    pub fn roots(&self) -> &RootChain {
        &self.roots
    }

    /// The same, verified.
    pub fn trusted(&self) -> &Roots {
        &self.trusted
    }

    /// Whether it can make further issuers.
    pub fn has_root(&self) -> bool {
        self.root.is_some()
    }

    fn authority(&self, now: Wall) -> Result<Authority<'_>, IssuerError> {
        let late = now.since(self.verified.not_after);
        if !late.is_zero() {
            return Err(IssuerError::Ended { by: late });
        }
        Ok(Authority::new(&self.trusted.mesh, &self.certificate, &self.key)?)
    }

    /// A node's certificate.
    pub fn admit(&self, key: &NodeKey, grant: &Grant, now: Wall) -> Result<Chain, IssuerError> {
        let by = self.authority(now)?;
        let validity = Validity::new(now, limits::LEAF_LIFE, self.verified.not_after);
        let leaf = issue::node(&by, key, grant, validity, random()?)?;
        Ok(Chain { leaf, issuer: self.certificate.clone() })
    }

    /// A join token. It holds a secret: it goes to a person, not to a log.
    pub fn create_token(&self, scope: TokenScope, now: Wall) -> Result<Token, IssuerError> {
        self.authority(now)?;
        if scope.life > limits::TOKEN_LIFE_MAX {
            return Err(IssuerError::Scope("a token is good for at most 30 days"));
        }
        if scope.uses == 0 || scope.uses > limits::TOKEN_USES_MAX {
            return Err(IssuerError::Scope("a token has 1 to 10000 uses"));
        }
        if scope.issuers > 0 && !self.has_root() {
            return Err(IssuerError::NoRoot);
        }
        let seed = random()?;
        let terms = TokenTerms {
            mesh: self.trusted.mesh,
            issuer: token::hint(&self.verified.key),
            services: scope.services,
            names: scope.names,
            roles: scope.roles,
            zone: scope.zone,
            issuers: scope.issuers.min(limits::TOKEN_ISSUERS_MAX),
            not_after: now.after(scope.life),
            uses: scope.uses,
        };
        let body = TokenBody { seed_key: KeyPair::from_seed(&seed)?.public_key(), terms };
        let TokenProof { body, signature } = body.sign(&self.key)?;
        let root = Roots::hash_of(&self.verified.root);
        let token = Token { root, seed, terms: body.terms, signature };
        let fits = token.to_text().is_some();
        fits.then_some(token).ok_or(IssuerError::Scope("a token says no more than 2,048 bytes"))
    }

    /// A certificate for an issuer on another host. Needs the root.
    pub fn certify_issuer(
        &self,
        key: &PublicKey,
        host: &NodeKey,
        now: Wall,
    ) -> Result<Vec<u8>, IssuerError> {
        let root = self.root.as_ref().ok_or(IssuerError::NoRoot)?;
        let certificate = self.trusted.roots.get(&root.public_key()).ok_or(IssuerError::NoRoot)?;
        let by = Authority::new(&self.trusted.mesh, certificate, root)?;
        Ok(certify(&by, key, host, now)?.0)
    }
}

/// A certificate of a year for the issuer of that key on that host, and its end.
pub(super) fn certify(
    by: &Authority<'_>,
    key: &PublicKey,
    host: &NodeKey,
    now: Wall,
) -> Result<(Vec<u8>, Wall), IssuerError> {
    let validity = Validity::new(now, limits::ISSUER_LIFE, issue::NEVER_ENDS);
    let until = validity.not_after;
    Ok((issue::issuer(by, key, host, validity, random()?)?, until))
}
