//! Join tokens: what lets a host into the mesh without a person at the other end.
//!
//! The text is `skein1.<root hash>.<32-byte seed>.<body, signature, issuer certificate>`, each
//! part in base64url. The seed is the secret: the joiner signs with the key made of it, and the
//! issuer knows only the public half, so no secret travels. Any issuer verifies the rest alone.

use std::{fmt, str::FromStr};

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};

use super::{
    certificate::{ChainError, Roots, VerifiedIssuer, verify_issuer},
    crypto::{Crypto, PublicKey, Signature, Signer},
    grant::{Grant, GrantError, Role},
    signed,
};
use crate::{
    clock::Wall,
    limits,
    name::{Hash, Locality, MeshId, NodeName, ServicePattern},
    wire::codec::{self, CodecError},
    words,
};

const DOMAIN: &str = "skein/token/v1";
const HEAD: &str = "skein1";

/// What a token allows: the part that its issuer signed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TokenBody {
    /// Of which mesh.
    pub mesh: MeshId,
    /// The key of the issuer that made it.
    pub issuer: PublicKey,
    /// The public half of the seed.
    pub seed_key: PublicKey,
    /// What a node admitted by it may speak for, sorted.
    pub services: Vec<ServicePattern>,
    /// Its further parts, sorted.
    pub roles: Vec<Role>,
    /// Where it must be; `None` is anywhere.
    pub zone: Option<Locality>,
    /// How many of the hosts that join with it become issuers too.
    pub issuers: u32,
    /// Until when it is good.
    pub not_after: Wall,
    /// How many hosts may join with it.
    pub uses: u32,
    /// What its uses are counted under.
    pub id: [u8; 16],
}

impl TokenBody {
    /// The grant of a node of that name that joins with it.
    pub fn grant(&self, name: NodeName) -> Result<Grant, GrantError> {
        Grant::new(name, self.services.clone(), self.roles.clone(), self.zone.clone())
    }

    /// Signs it. The lists are sorted first.
    pub fn sign(
        mut self,
        issuer_certificate: Vec<u8>,
        issuer: &dyn Signer,
    ) -> Result<TokenProof, CodecError> {
        self.services.sort();
        self.services.dedup();
        self.roles.sort();
        self.roles.dedup();
        let signature = signed::sign::<{ limits::TOKEN_BODY_BYTES }, _>(DOMAIN, &self, issuer)?;
        Ok(TokenProof { body: self, signature, issuer_certificate })
    }
}

/// The part of a token that is shown to issuers: all but the seed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TokenProof {
    /// What it allows.
    pub body: TokenBody,
    /// By the issuer, over the body.
    pub signature: Signature,
    /// The certificate of the issuer, as DER.
    pub issuer_certificate: Vec<u8>,
}

/// Why a token is not taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TokenError {
    /// Not the text of a token.
    #[error(
        "this is no join token ({0}): it begins with `skein1.`, make sure that all of it was copied"
    )]
    Text(&'static str),
    /// Of another mesh.
    #[error("the token is of another mesh: make one with `skein token create` in this mesh")]
    OtherMesh,
    /// Its end has come.
    #[error("the token ended {} ago: make a new one with `skein token create`", words::span(*.by))]
    Expired {
        /// How long ago.
        by: std::time::Duration,
    },
    /// Its signature or its issuer.
    #[error("the token's signature does not hold: make sure that all of it was copied")]
    BadSignature,
    /// Its issuer's certificate.
    #[error("the token's issuer: {0}")]
    Issuer(#[from] ChainError),
    /// Its scope is out of bounds.
    #[error("the token's scope is out of bounds: {0}")]
    Scope(&'static str),
}

impl TokenProof {
    /// Verifies it against the mesh at `now`, and gives the issuer that made it. Its uses, its
    /// own revocation and the issuer's are the caller's to check.
    pub fn verify(
        &self,
        roots: &Roots,
        now: Wall,
        crypto: &dyn Crypto,
    ) -> Result<VerifiedIssuer, TokenError> {
        let body = &self.body;
        if body.mesh != roots.mesh {
            return Err(TokenError::OtherMesh);
        }
        let issuer = verify_issuer(&self.issuer_certificate, roots, crypto)?;
        let holds = signed::holds::<{ limits::TOKEN_BODY_BYTES }, _>(
            DOMAIN,
            body,
            &issuer.key,
            &self.signature,
            crypto,
        );
        if body.issuer != issuer.key || !holds {
            return Err(TokenError::BadSignature);
        }
        if now > body.not_after {
            return Err(TokenError::Expired { by: now.since(body.not_after) });
        }
        self.check_scope(now)?;
        Ok(issuer)
    }

    fn check_scope(&self, now: Wall) -> Result<(), TokenError> {
        let body = &self.body;
        let life = limits::TOKEN_LIFE_MAX + limits::CLOCK_SKEW;
        if body.uses == 0 || body.uses > limits::TOKEN_USES_MAX {
            return Err(TokenError::Scope("uses"));
        }
        if body.issuers > limits::TOKEN_ISSUERS_MAX {
            return Err(TokenError::Scope("issuers"));
        }
        if body.not_after > now.after(life) {
            return Err(TokenError::Scope("it would be good for more than 30 days"));
        }
        Ok(())
    }

    /// Its bytes.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        codec::encode::<{ limits::TOKEN_BYTES }, _>(self)
    }

    /// The proof of these bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode::<{ limits::TOKEN_BYTES }, _>(bytes)
    }
}

/// A join token with its secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// The hash of the root's public key info ([`Roots::hash_of`]) by which the joiner knows the
    /// mesh before it has anything else.
    pub root: Hash,
    /// The secret.
    pub seed: [u8; 32],
    /// What it allows.
    pub proof: TokenProof,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({})", data_encoding::HEXLOWER.encode(&self.proof.body.id))
    }
}

impl Token {
    /// The text that people copy. It holds the secret.
    pub fn to_text(&self) -> Result<String, CodecError> {
        let part = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
        let proof = self.proof.encode()?;
        Ok(format!("{HEAD}.{}.{}.{}", part(&self.root.0), part(&self.seed), part(&proof)))
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if text.len() > 2 * limits::TOKEN_BYTES {
            return Err(TokenError::Text("too long"));
        }
        let parts: Vec<&str> = text.split('.').collect();
        let [HEAD, root, seed, proof] = parts.as_slice() else {
            return Err(TokenError::Text("not four parts after one another"));
        };
        let bytes = |part: &str| {
            let bytes = BASE64URL_NOPAD.decode(part.as_bytes());
            bytes.map_err(|_| TokenError::Text("a part is not base64url"))
        };
        let fixed = |part: &str| {
            let bytes = <[u8; 32]>::try_from(bytes(part)?);
            bytes.map_err(|_| TokenError::Text("a part has the wrong length"))
        };
        let proof = TokenProof::decode(&bytes(proof)?)
            .map_err(|_| TokenError::Text("its last part does not read"))?;
        Ok(Self { root: Hash(fixed(root)?), seed: fixed(seed)?, proof })
    }
}
