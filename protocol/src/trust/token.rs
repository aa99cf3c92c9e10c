//! Join tokens: what lets a host into the mesh without a person at the other end.
//!
//! The text is `skein1.` and one part in base64url: the root's hash, the seed, what the token
//! allows, and its issuer's signature. The seed is the secret: the joiner signs with the key made
//! of it, and the issuer knows only the public half, so no secret travels. The issuer's certificate
//! is not in it: whoever decides about a join has it from the records of the mesh.

use std::{fmt, str::FromStr};

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};

use super::{
    certificate::{ChainError, Roots, VerifiedIssuer, verify_issuer},
    crypto::{Crypto, PublicKey, Signature, Signer},
    grant::{Grant, GrantError, Role},
    signed,
    x509::Parsed,
};
use crate::{
    clock::Wall,
    limits,
    name::{Hash, Locality, MeshId, NamePattern, NodeKey, NodeName, ServicePattern},
    wire::codec::CodecError,
    words,
};

const DOMAIN: &str = "skein/token/v2";
const HEAD: &str = "skein1.";

/// The head of an issuer's key: enough to find its certificate, which then verifies the rest.
pub type IssuerHint = [u8; 8];

/// The head of that key.
pub fn hint(issuer: &PublicKey) -> IssuerHint {
    let mut hint = IssuerHint::default();
    hint.iter_mut().zip(issuer).for_each(|(to, from)| *to = *from);
    hint
}

/// What a token allows.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TokenTerms {
    /// Of which mesh.
    pub mesh: MeshId,
    /// The issuer that made it, which counts its uses.
    pub issuer: IssuerHint,
    /// What a node admitted by it may speak for, sorted.
    pub services: Vec<ServicePattern>,
    /// Which names it may give, sorted. Without any a node is called by its key.
    pub names: Vec<NamePattern>,
    /// Its further parts, sorted.
    pub roles: Vec<Role>,
    /// Where it must be; `None` is anywhere.
    pub zone: Option<Locality>,
    /// How many of the hosts that join with it become issuers too.
    pub issuers: u32,
    /// Until when it is good, in whole seconds.
    pub not_after: Wall,
    /// How many hosts may join with it.
    pub uses: u32,
}

impl TokenTerms {
    /// The grant of a node of that name that joins with it.
    pub fn grant(&self, name: NodeName) -> Result<Grant, GrantError> {
        Grant::new(name, self.services.clone(), self.roles.clone(), self.zone.clone())
    }

    /// Whether it may give that name to that key.
    pub fn may_name(&self, node: &NodeKey, name: &NodeName) -> bool {
        self.names.iter().any(|pattern| pattern.covers(name)) || name.as_str() == name_of_key(node)
    }

    fn sorted(mut self) -> Self {
        self.services.sort();
        self.services.dedup();
        self.names.sort();
        self.names.dedup();
        self.roles.sort();
        self.roles.dedup();
        self.not_after = Wall(self.not_after.0 / 1000 * 1000);
        self
    }
}

/// What a node is called that no token or person names.
pub fn name_of_key(node: &NodeKey) -> String {
    format!("node-{}", node.short())
}

/// What its issuer signed: the terms, for who holds the seed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TokenBody {
    /// The public half of the seed.
    pub seed_key: PublicKey,
    /// What it allows.
    pub terms: TokenTerms,
}

/// What a token's uses are counted under.
pub type TokenId = [u8; 16];

/// The id of the token with that public half of the seed.
pub fn token_id(seed_key: &PublicKey) -> TokenId {
    let hash = Hash::of(&[b"skein/token-id/v1\0", seed_key]);
    let mut id = TokenId::default();
    id.iter_mut().zip(hash.0).for_each(|(to, from)| *to = from);
    id
}

impl TokenBody {
    /// What its uses are counted under.
    pub fn id(&self) -> TokenId {
        token_id(&self.seed_key)
    }

    /// Signs it. The lists are sorted first, and the end is cut to a second.
    pub fn sign(mut self, issuer: &dyn Signer) -> Result<TokenProof, CodecError> {
        self.terms = self.terms.sorted();
        let signature = signed::sign::<{ limits::TOKEN_BODY_BYTES }, _>(DOMAIN, &self, issuer)?;
        Ok(TokenProof { body: self, signature })
    }
}

/// The part of a token that is shown to issuers: all but the seed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TokenProof {
    /// What it allows.
    pub body: TokenBody,
    /// By the issuer, over the body.
    pub signature: Signature,
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
    /// Nobody here knows who made it.
    #[error(
        "the issuer that made the token is not known here: its host is gone, or came just now; \
         make a new token with `skein token create`"
    )]
    UnknownIssuer,
    /// Its scope is out of bounds.
    #[error("the token's scope is out of bounds: {0}")]
    Scope(&'static str),
}

impl TokenProof {
    /// Verifies it against the mesh at `now`, and gives the issuer that made it, which is one of
    /// those `certificates` (DER). Its uses, its own revocation and the issuer's are the caller's
    /// to check.
    pub fn verify<'a>(
        &self,
        certificates: impl IntoIterator<Item = &'a [u8]>,
        roots: &Roots,
        now: Wall,
        crypto: &dyn Crypto,
    ) -> Result<VerifiedIssuer, TokenError> {
        let terms = &self.body.terms;
        if terms.mesh != roots.mesh {
            return Err(TokenError::OtherMesh);
        }
        let mut wrong = TokenError::UnknownIssuer;
        let mut made_by = None;
        // No signature is checked of certificates that cannot be meant: members say what they like.
        let meant = |der: &&[u8]| Parsed::new(der).is_ok_and(|one| hint(&one.key) == terms.issuer);
        for certificate in certificates.into_iter().filter(meant) {
            match verify_issuer(certificate, roots, crypto) {
                Ok(issuer) if self.holds(&issuer, crypto) => {
                    made_by = Some(issuer);
                    break;
                }
                Ok(_) => wrong = TokenError::BadSignature,
                Err(_) => {}
            }
        }
        let issuer = made_by.ok_or(wrong)?;
        if now > terms.not_after {
            return Err(TokenError::Expired { by: now.since(terms.not_after) });
        }
        terms.check_scope(now)?;
        Ok(issuer)
    }

    fn holds(&self, issuer: &VerifiedIssuer, crypto: &dyn Crypto) -> bool {
        signed::holds::<{ limits::TOKEN_BODY_BYTES }, _>(
            DOMAIN,
            &self.body,
            &issuer.key,
            &self.signature,
            crypto,
        )
    }
}

impl TokenTerms {
    fn check_scope(&self, now: Wall) -> Result<(), TokenError> {
        let life = limits::TOKEN_LIFE_MAX + limits::CLOCK_SKEW;
        if self.uses == 0 || self.uses > limits::TOKEN_USES_MAX {
            return Err(TokenError::Scope("uses"));
        }
        if self.issuers > limits::TOKEN_ISSUERS_MAX {
            return Err(TokenError::Scope("issuers"));
        }
        if self.not_after > now.after(life) {
            return Err(TokenError::Scope("it would be good for more than 30 days"));
        }
        Ok(())
    }

    /// Its bytes as they stand in a token's text; nothing if something is over what fits there.
    fn short(&self) -> Option<Vec<u8>> {
        let byte = |number: usize| u8::try_from(number).ok();
        let text = |to: &mut Vec<u8>, text: &str| {
            to.push(byte(text.len())?);
            to.extend(text.as_bytes());
            Some(())
        };
        let mut to = [&self.mesh.0.0[..], &self.issuer].concat();
        to.extend(u32::try_from(self.not_after.0 / 1000).ok()?.to_le_bytes());
        to.extend(u16::try_from(self.uses).ok()?.to_le_bytes());
        to.push(u8::try_from(self.issuers).ok()?);
        to.push(byte(self.roles.len())?);
        to.extend(self.roles.iter().map(|role| role.number()));
        text(&mut to, &self.zone.as_ref().map(ToString::to_string).unwrap_or_default())?;
        to.push(byte(self.services.len())?);
        self.services.iter().try_for_each(|one| text(&mut to, &one.to_string()))?;
        to.push(byte(self.names.len())?);
        self.names.iter().try_for_each(|one| text(&mut to, one.as_str()))?;
        Some(to)
    }

    /// What stands at the head of these bytes, which is taken off.
    fn take(rest: &mut &[u8]) -> Option<Self> {
        let mesh = MeshId(Hash(take(rest)?));
        let issuer = take(rest)?;
        let not_after = Wall(u64::from(u32::from_le_bytes(take(rest)?)).checked_mul(1000)?);
        let uses = u32::from(u16::from_le_bytes(take(rest)?));
        let [issuers, roles] = take(rest)?;
        let roles =
            (0..roles).map(|_| take::<1>(rest).and_then(|[number]| Role::of_number(number)));
        let roles = roles.collect::<Option<Vec<Role>>>()?;
        let zone = match take_text(rest)? {
            "" => None,
            text => Some(text.parse().ok()?),
        };
        let services = take_list(rest)?;
        let names = take_list(rest)?;
        let issuers = u32::from(issuers);
        Some(Self { mesh, issuer, services, names, roles, zone, issuers, not_after, uses })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

fn take_text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let [length] = take(rest)?;
    let (head, tail) = rest.split_at_checked(usize::from(length))?;
    *rest = tail;
    std::str::from_utf8(head).ok()
}

fn take_list<T: FromStr>(rest: &mut &[u8]) -> Option<Vec<T>> {
    let [count] = take(rest)?;
    (0..count).map(|_| take_text(rest)?.parse().ok()).collect()
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
    pub terms: TokenTerms,
    /// By its issuer, over the terms and the public half of the seed.
    pub signature: Signature,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({:?})", self.terms)
    }
}

impl Token {
    /// What is shown to issuers; `seed_key` is the public half of its seed.
    pub fn proof(&self, seed_key: PublicKey) -> TokenProof {
        let body = TokenBody { seed_key, terms: self.terms.clone() };
        TokenProof { body, signature: self.signature }
    }

    /// The text that people copy. It holds the secret. `None` where it allows more than fits.
    pub fn to_text(&self) -> Option<String> {
        let terms = self.terms.short()?;
        let bytes = [&self.root.0[..], &self.seed, &terms, &self.signature.0].concat();
        (bytes.len() <= limits::TOKEN_BYTES)
            .then(|| format!("{HEAD}{}", BASE64URL_NOPAD.encode(&bytes)))
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if text.len() > 2 * limits::TOKEN_BYTES {
            return Err(TokenError::Text("too long"));
        }
        let Some(part) = text.strip_prefix(HEAD) else {
            return Err(TokenError::Text("another beginning"));
        };
        let bytes = BASE64URL_NOPAD.decode(part.as_bytes());
        let bytes = bytes.map_err(|_| TokenError::Text("not base64url"))?;
        let mut rest = bytes.as_slice();
        let token = read(&mut rest).filter(|_| rest.is_empty());
        // One meaning has one form.
        let token = token.filter(|token| token.to_text().is_some_and(|same| same == text));
        token.ok_or(TokenError::Text("a part of it is missing or was changed"))
    }
}

fn read(rest: &mut &[u8]) -> Option<Token> {
    let (root, seed) = (Hash(take(rest)?), take(rest)?);
    let terms = TokenTerms::take(rest)?;
    Some(Token { root, seed, terms, signature: Signature(take(rest)?) })
}
