//! The desk: decides about requests to join and to renew. Plain data in, a reply out.
//!
//! Cheap to dear: shape, mesh, time, signatures, revocations, names; a use of the token is
//! taken after all of that and before anything is issued.

use std::sync::Arc;

use skein_protocol::{
    clock::Wall,
    limits,
    name::{NodeKey, NodeName},
    record::node::{TokenUse, TokenUses},
    trust::{
        Grant, VerifiedChain,
        join::{
            Admission, Exporter, JoinRequest, Nonce, PeerAddress, PolicyHead, Refusal, RefusalCode,
            Reply,
        },
        token::{self, TokenError},
    },
    wire::ask::TokenUseAsk,
    words,
};

use super::issuer::{IssuerError, IssuingHost};
use crate::{
    clock::rfc3339,
    keys::{Ed25519, Trust},
};

/// A member, as far as names matter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Its key.
    pub key: NodeKey,
    /// Its name.
    pub name: NodeName,
    /// Whether the name is its own: until its certificate is [`limits::EXPIRED_RENEWS`] over, or
    /// its key is revoked. A host that is away for a while does not lose its name to another.
    pub holds: bool,
}

/// What the desk knows when a request comes.
#[derive(Clone, Debug)]
pub struct Situation {
    /// The time.
    pub now: Wall,
    /// What is trusted.
    pub trust: Arc<Trust>,
    /// Every node known.
    pub members: Vec<Member>,
    /// What policy is in force here; none if that is too much for an answer.
    pub policy: Option<Vec<PolicyHead>>,
    /// Whom a new member may dial.
    pub peers: Vec<PeerAddress>,
}

/// Takes one use of a token, before it is honoured: one of those that all issuers together have
/// left, of which `others` are the sections but this host's. Gives how often it was used before.
/// The caller writes what changed to disk before it goes on.
pub fn take_use(
    uses: &mut TokenUses,
    others: &[Arc<TokenUses>],
    asked: &TokenUseAsk,
    now: Wall,
) -> Result<u32, Refusal> {
    let TokenUseAsk { id, at_most, until } = asked;
    if uses.is_revoked(id) || others.iter().any(|one| one.is_revoked(id)) {
        return Err(refused_use(RefusalCode::TokenRevoked, *at_most));
    }
    let elsewhere = others.iter().map(|one| one.uses_of(id));
    let before = elsewhere.fold(uses.uses_of(id), u32::saturating_add);
    if before >= *at_most {
        return Err(refused_use(RefusalCode::UsedUp, *at_most));
    }
    uses.forget(now);
    match uses.used.binary_search_by(|one| one.id.cmp(id)) {
        Ok(place) => {
            if let Some(one) = uses.used.get_mut(place) {
                one.uses = one.uses.saturating_add(1);
            }
        }
        Err(_) if uses.used.len() >= limits::TOKENS_COUNTED => {
            let text = "this issuer counts as many tokens as it can: use another one's";
            return Err(Refusal::new(RefusalCode::Trouble, text));
        }
        Err(place) => uses.used.insert(place, TokenUse { id: *id, uses: 1, until: *until }),
    }
    Ok(before)
}

/// Why a token may not be used, as an issuer says that counts its uses.
pub fn refused_use(code: RefusalCode, at_most: u32) -> Refusal {
    let text = match code {
        RefusalCode::TokenRevoked => {
            "the token was revoked: ask for a new one (`skein token create`)".to_owned()
        }
        RefusalCode::UsedUp => format!(
            "the token has been used {}, as often as it may be: make a new one with `skein token \
             create`",
            words::count(at_most, "time", "times")
        ),
        _ => "the host that made the token, and counts its uses, does not take this one: try again"
            .to_owned(),
    };
    Refusal::new(code, text)
}

/// Checks what a request to join proves by itself: the token, and that who asks has its secret.
pub fn check_proof(
    request: &JoinRequest,
    peer: &NodeKey,
    exporter: &Exporter,
    (trust, issuers, now): (&Trust, &[Arc<Vec<u8>>], Wall),
) -> Result<(), Refusal> {
    if request.node != *peer {
        let text = "the request is for another key than the connection's";
        return Err(Refusal::new(RefusalCode::Malformed, text));
    }
    let issuer = request
        .token
        .verify(issuers.iter().map(|one| one.as_slice()), &trust.roots, now, &Ed25519)
        .map_err(|error| refused_token(&error, now))?;
    if !request.holds(exporter, &Ed25519) {
        let text = "the request is not signed with the token's secret on this connection: make \
                    sure that all of the token was copied";
        return Err(Refusal::new(RefusalCode::WrongToken, text));
    }
    trust.revocations.may_issue(&issuer).map_err(|revoked| {
        let text = format!("the token's issuer: {revoked}; make a token on another host");
        Refusal::new(RefusalCode::Revoked, text)
    })
}

/// Checks what a request to join would be granted against what is known of the mesh. Gives the
/// grant to certify. The token's uses are not looked at.
pub fn check_grant(request: &JoinRequest, situation: &Situation) -> Result<Grant, Refusal> {
    let terms = &request.token.body.terms;
    if !terms.may_name(&request.node, &request.name) {
        let text = format!(
            "the token gives no host the name {}: make one with `skein token create --name {}`, or \
             join as {}",
            request.name,
            request.name,
            token::name_of_key(&request.node)
        );
        return Err(Refusal::new(RefusalCode::NameNotGiven, text));
    }
    check_name(&request.node, &request.name, situation)?;
    let grant = terms.grant(request.name.clone());
    let grant = grant.map_err(|error| Refusal::new(RefusalCode::Malformed, error.to_string()))?;
    if situation.trust.revocations.ends(&request.node, &grant) {
        let text = "this key was revoked: remove node.key and join with a new one";
        return Err(Refusal::new(RefusalCode::Revoked, text));
    }
    Ok(grant)
}

fn refused_token(error: &TokenError, now: Wall) -> Refusal {
    let code = match error {
        TokenError::OtherMesh => RefusalCode::OtherMesh,
        TokenError::Expired { .. } => RefusalCode::Expired,
        TokenError::Text(_)
        | TokenError::BadSignature
        | TokenError::Issuer(_)
        | TokenError::UnknownIssuer
        | TokenError::Scope(_) => RefusalCode::WrongToken,
    };
    let clock = match error {
        TokenError::Expired { .. } | TokenError::Scope(_) => {
            format!(" (the issuer's clock says {})", rfc3339(now))
        }
        _ => String::new(),
    };
    Refusal::new(code, format!("{error}{clock}"))
}

fn check_name(key: &NodeKey, name: &NodeName, situation: &Situation) -> Result<(), Refusal> {
    let others = || situation.members.iter().filter(|member| member.key != *key);
    if let Some(other) = others().find(|member| member.holds && member.name == *name) {
        let text = format!(
            "the name {name} is held by the node {id}: choose another with --name, or, if that \
             node will not come back, end it with `skein revoke {id}` and join again",
            id = other.key.short()
        );
        return Err(Refusal::new(RefusalCode::NameTaken, text));
    }
    if others().any(|member| member.key.short() == key.short()) {
        let text = "another key has the same short id: remove node.key and join again";
        return Err(Refusal::new(RefusalCode::ShortIdTaken, text));
    }
    Ok(())
}

/// Issues what a checked request asks for. `used` is how often its token was used before: the
/// first of them become issuers, where the token says so and the root is here.
pub fn grant_join(
    issuer: &IssuingHost,
    request: &JoinRequest,
    grant: &Grant,
    used: u32,
    situation: &Situation,
) -> Reply {
    let own_issuer = match request.issuer {
        Some(key) if used < request.token.body.terms.issuers && issuer.has_root() => {
            let made = issuer.certify_issuer(&key, &request.node, situation.now);
            match made {
                Ok(certificate) => Some(certificate),
                Err(error) => return trouble(&error),
            }
        }
        _ => None,
    };
    answer(issuer, &request.node, request.nonce, grant, own_issuer, situation)
}

/// Decides about a renewal by a peer whose chain is live or expired: the same grant anew.
pub fn renew(
    issuer: &IssuingHost,
    peer: &VerifiedChain,
    nonce: Nonce,
    situation: &Situation,
) -> Reply {
    if let Err(revoked) = situation.trust.judge(peer) {
        let text = format!("{revoked}: join with a new key");
        return Reply::Refused(Refusal::new(RefusalCode::Revoked, text));
    }
    // Its name was checked when it was given. A second holder, let in on the other side of a
    // partition, must not make this one fall out.
    answer(issuer, &peer.key, nonce, &peer.grant, None, situation)
}

fn answer(
    issuer: &IssuingHost,
    node: &NodeKey,
    nonce: Nonce,
    grant: &Grant,
    own_issuer: Option<Vec<u8>>,
    situation: &Situation,
) -> Reply {
    if let Err(revoked) = situation.trust.revocations.may_issue(issuer.verified()) {
        let text = format!("the issuer that answers: {revoked}; join through another host");
        return Reply::Refused(Refusal::new(RefusalCode::Revoked, text));
    }
    let chain = match issuer.admit(node, grant, situation.now) {
        Ok(chain) => chain,
        Err(error) => return trouble(&error),
    };
    let admission = Admission {
        node: *node,
        nonce,
        leaf: chain.leaf,
        issuer: chain.issuer,
        own_issuer,
        roots: issuer.roots().clone(),
        policy: situation.policy.clone(),
        peers: situation.peers.iter().take(limits::JOIN_PEERS).cloned().collect(),
    };
    match admission.sign(issuer.signer()) {
        Ok(signed) => Reply::Admitted(Box::new(signed)),
        Err(error) => trouble(&IssuerError::Codec(error)),
    }
}

fn trouble(error: &IssuerError) -> Reply {
    let code = match error {
        IssuerError::None | IssuerError::Ended { .. } => RefusalCode::NoIssuer,
        _ => RefusalCode::Trouble,
    };
    Reply::Refused(Refusal::new(code, format!("the issuing host: {error}")))
}
