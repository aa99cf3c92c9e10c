//! The asking side: how a host joins, and how a member renews.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use rustls_pki_types::ServerName;
use skein_protocol::{
    clock::Wall,
    limits,
    name::{NodeKey, NodeName},
    trust::{
        Chain, ChainError, Grant, Revoked, Roots, Signer, VerifiedChain,
        admit::{Alpn, CloseCode},
        certificate::mesh_name,
        join::{
            AdmissionError, EXPORTER_LABEL, Exporter, JoinRequest, Message, Nonce, PeerAddress,
            Refusal, RefusalCode, RenewRequest, Reply, SignedAdmission,
        },
        token::Token,
        verify_chain, verify_issuer,
    },
    wire::{codec::CodecError, kind::StreamKind},
    words,
};
use tokio::{io::AsyncWriteExt, time::timeout};
use tokio_rustls::TlsConnector;

use super::{
    files::{Files, IdentityError},
    init,
    serve::{read_frame, write_frame},
};
use crate::{
    keys::{
        Credentials, Ed25519, Expect, KeyPair, Trust,
        credentials::CredentialsError,
        file::{self, FileError},
        pair::{PairError, random},
        tls,
    },
    link::{
        Dial, DialError, Endpoint, Link, Role,
        mux::{Mux, MuxError},
        transport::BindError,
    },
};

/// Why a host did not get in.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// It is in already.
    #[error("already a member of {mesh} as {node}")]
    Already {
        /// The mesh.
        mesh: String,
        /// The name there.
        node: String,
    },
    /// The agent was not reached, or is not of the token's mesh.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The clocks are too far apart.
    #[error("this host's clock is {} {} the mesh's: set it (`timedatectl set-ntp true`) and join again", words::span(*.by), if *.ahead { "ahead of" } else { "behind" })]
    Clock {
        /// How far.
        by: Duration,
        /// In which direction.
        ahead: bool,
    },
    /// The mesh said no.
    #[error("not let in: {0}")]
    Refused(#[from] Refusal),
    /// The connection ended before the answer.
    #[error("the connection ended before the answer came: {0}")]
    Ended(String),
    /// The answer is not what was asked for.
    #[error(transparent)]
    Answer(#[from] AdmissionError),
    /// Its certificate.
    #[error("the certificate that came: {0}")]
    Certificate(#[from] ChainError),
    /// Its issuer, or what that one stands on, has ended as far as is known here.
    #[error("the certificate that came: {0}")]
    Unfit(#[from] Revoked),
    /// A file of this host.
    #[error(transparent)]
    File(#[from] FileError),
    /// What is on this host does not read.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The credentials of this host.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// No entropy.
    #[error(transparent)]
    Pair(#[from] PairError),
    /// No socket.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Too large to encode.
    #[error("the request: {0}")]
    Codec(#[from] CodecError),
}

/// Why a certificate was not renewed.
pub type RenewError = JoinError;

/// What a host that joined knows.
#[derive(Clone, Debug)]
pub struct Joined {
    /// The mesh's name, for people.
    pub mesh: String,
    /// This host.
    pub node: NodeKey,
    /// What it may do.
    pub grant: Grant,
    /// Until when, without renewal.
    pub not_after: Wall,
    /// Whether it holds an issuer now.
    pub issuer: bool,
    /// Whether the token asked for an issuer here and none came.
    pub issuer_missed: bool,
    /// Whom to dial; the first is the agent that answered.
    pub peers: Vec<PeerAddress>,
}

/// Joins through the agent at one of `addresses`, from a socket at `from`, and writes this
/// host's files, `node.pem` last.
pub async fn join(
    files: &Files,
    from: SocketAddr,
    addresses: &[SocketAddr],
    token: &Token,
    name: &NodeName,
    now: Wall,
) -> Result<Joined, JoinError> {
    if files.is_member() {
        let (mesh, node) = files.membership(now)?;
        return Err(JoinError::Already { mesh, node });
    }
    file::make_agent_directory(files.directory())?;
    let key = init::node_key(files)?;
    let node = key.node_key();
    let issuer = if token.terms.issuers > 0 { Some(KeyPair::generate()?) } else { None };
    let credentials = Credentials::bare(key, now)?;
    let handle = tokio::runtime::Handle::current();
    let endpoint = Endpoint::dialler(from, &credentials, &handle)?;
    let expect = Expect::Token { root: token.root, mesh: token.terms.mesh };
    let link = dial(&endpoint, addresses, Alpn::Join, expect.clone()).await;
    let link = link.map_err(clock_of)?;
    let asked = Asked { token, name, issuer: issuer.as_ref(), node, nonce: random()? };
    let reply = ask(&link, &credentials, Alpn::Join, &expect, |exporter| asked.request(exporter));
    let signed = admitted(reply.await?)?;
    link.mux.close_with(CloseCode::Done);
    endpoint.wait_idle().await;
    let joined = take(files, &asked, &signed, &link, now)?;
    Ok(joined)
}

/// What a joiner asks for.
struct Asked<'a> {
    token: &'a Token,
    name: &'a NodeName,
    issuer: Option<&'a KeyPair>,
    node: NodeKey,
    nonce: Nonce,
}

impl Asked<'_> {
    fn request(&self, exporter: &Exporter) -> Result<JoinRequest, JoinError> {
        let seed = KeyPair::from_seed(&self.token.seed)?;
        Ok(JoinRequest::sign(
            self.node,
            self.issuer.map(Signer::public_key),
            self.name.clone(),
            self.token.proof(seed.public_key()),
            self.nonce,
            exporter,
            &seed,
        )?)
    }
}

/// Checks what came and writes it.
fn take(
    files: &Files,
    asked: &Asked<'_>,
    signed: &SignedAdmission,
    link: &Link,
    now: Wall,
) -> Result<Joined, JoinError> {
    let meant = |roots: &Roots| {
        let pinned = roots.roots.keys().any(|key| Roots::hash_of(key) == asked.token.root);
        roots.mesh == asked.token.terms.mesh && pinned
    };
    let (roots, _) = signed.verify(&asked.node, &asked.nonce, meant, &Ed25519)?;
    let admission = &signed.admission;
    let (chain, verified) = own_chain(signed, &roots, now)?;
    if verified.grant.name != *asked.name {
        return Err(AdmissionError::OtherRequest.into());
    }
    if let (Some(key), Some(certificate)) = (asked.issuer, &admission.own_issuer) {
        let issuer = verify_issuer(certificate, &roots, &Ed25519)?;
        if issuer.key != key.public_key() || issuer.host != asked.node {
            return Err(AdmissionError::OtherRequest.into());
        }
        file::write_key(&files.issuer_key(), key)?;
        file::write_certificates(&files.issuer_certificate(), &[certificate])?;
    }
    let answered = PeerAddress { node: link.identity.key, address: link.remote };
    let mut peers = vec![answered.clone()];
    peers.extend(admission.peers.iter().filter(|peer| **peer != answered).cloned());
    file::write_roots(&files.roots(), &admission.roots)?;
    files.write_peers(&peers)?;
    match &admission.policy {
        Some(heads) => files.write_policy(heads)?,
        None => files.forget_policy(),
    }
    file::write_chain(&files.node_chain(), &chain)?;
    let issuer = asked.issuer.is_some() && admission.own_issuer.is_some();
    Ok(Joined {
        mesh: mesh_name(&admission.roots.first)?,
        node: asked.node,
        grant: verified.grant,
        not_after: verified.not_after,
        issuer,
        issuer_missed: asked.issuer.is_some() && !issuer,
        peers,
    })
}

/// The chain that came, verified, and by its dates the two clocks compared: the issuer dates
/// back by a fixed time from its own now.
fn own_chain(
    signed: &SignedAdmission,
    roots: &Roots,
    now: Wall,
) -> Result<(Chain, VerifiedChain), JoinError> {
    let admission = &signed.admission;
    let chain = Chain { leaf: admission.leaf.clone(), issuer: admission.issuer.clone() };
    // At a moment within its validity: that it is not live here and now is the clock's fault.
    let issued = |verified: &VerifiedChain| verified.not_before.after(limits::BACK_DATE);
    let verified = match verify_chain(&chain, roots, now, &Ed25519) {
        Err(ChainError::NotYetValid { by }) => {
            let by = by.saturating_add(limits::BACK_DATE);
            return Err(JoinError::Clock { by, ahead: false });
        }
        Err(ChainError::Expired { by }) => {
            return Err(JoinError::Clock { by, ahead: true });
        }
        other => other?,
    };
    if verified.key != admission.node {
        return Err(AdmissionError::OtherRequest.into());
    }
    let (ahead, behind) = (now.since(issued(&verified)), issued(&verified).since(now));
    let by = ahead.max(behind);
    if by > limits::CLOCK_SKEW.saturating_add(limits::JOIN_TIMEOUT) {
        return Err(JoinError::Clock { by, ahead: behind.is_zero() });
    }
    Ok((chain, verified))
}

/// When a certificate is renewed: from a third of its life on.
pub fn renew_at(not_before: Wall, not_after: Wall) -> Wall {
    not_before.after(not_after.since(not_before) / 3)
}

/// Renews this member's certificate through one of `addresses`, writes it, and shows it from
/// the next handshake on.
pub async fn renew(
    files: &Files,
    endpoint: &Endpoint,
    addresses: &[SocketAddr],
    now: Wall,
) -> Result<VerifiedChain, RenewError> {
    let mut rest = addresses.to_vec();
    loop {
        let link = dial(endpoint, &rest, Alpn::Renew, Expect::Member).await;
        let link = link.map_err(clock_of)?;
        let address = link.remote;
        match renew_at_peer(files, endpoint, link, now).await {
            // Another may hold an issuer that this one lacks, or know what this one does not.
            Err(error) if rest.len() > 1 && rest.contains(&address) => {
                tracing::info!(%address, %error, "not renewed here: asking the next");
                rest.retain(|other| *other != address);
            }
            done => return done,
        }
    }
}

async fn renew_at_peer(
    files: &Files,
    endpoint: &Endpoint,
    link: Link,
    now: Wall,
) -> Result<VerifiedChain, RenewError> {
    let credentials = endpoint.credentials();
    let trust = credentials.trust().ok_or(ChainError::UnknownRoot)?;
    let nonce = random()?;
    let request = |_: &Exporter| Ok(RenewRequest { nonce });
    let reply = ask(&link, credentials, Alpn::Renew, &Expect::Member, request).await?;
    let signed = admitted(reply)?;
    link.mux.close_with(CloseCode::Done);
    let meant = |roots: &Roots| roots.mesh == trust.roots.mesh;
    let (roots, _) = signed.verify(&credentials.key(), &nonce, meant, &Ed25519)?;
    let (chain, verified) = own_chain(&signed, &roots, now)?;
    // The one that works stays rather than one that others refuse.
    trust.revocations.judge(&verified, false)?;
    install(files, credentials, chain, &signed, roots, now)?;
    Ok(verified)
}

/// The renewal of a host's own certificate by the issuer on it.
pub fn renew_own(
    files: &Files,
    credentials: &Arc<Credentials>,
    issuer: &super::IssuingHost,
    now: Wall,
) -> Result<(), super::IssuerError> {
    let own = credentials.own().ok_or(super::IssuerError::None)?;
    let chain = issuer.admit(&own.verified.key, &own.verified.grant, now)?;
    file::write_chain(&files.node_chain(), &chain)?;
    credentials.set_chain(chain, now).map_err(|error| match error {
        CredentialsError::Chain(error) => error.into(),
        _ => super::IssuerError::None,
    })
}

fn install(
    files: &Files,
    credentials: &Credentials,
    chain: Chain,
    signed: &SignedAdmission,
    roots: Roots,
    now: Wall,
) -> Result<(), RenewError> {
    // More roots than were trusted: a root followed. Fewer never replace more.
    if let Some(trust) = credentials.trust()
        && roots.order.len() > trust.roots.order.len()
    {
        file::write_roots(&files.roots(), &signed.admission.roots)?;
        credentials.set_trust(Trust { roots, ..(*trust).clone() });
    }
    file::write_chain(&files.node_chain(), &chain)?;
    Ok(credentials.set_chain(chain, now)?)
}

async fn dial(
    endpoint: &Endpoint,
    addresses: &[SocketAddr],
    alpn: Alpn,
    expect: Expect,
) -> Result<Link, DialError> {
    let mut failed = None;
    // All addresses of a name in turn: the last may be the one that lives.
    for some in addresses.chunks(limits::DIAL_ADDRESSES) {
        let dial =
            Dial { addresses: some.to_vec(), expect: expect.clone(), alpn, role: Role::Control };
        match endpoint.dial(dial).await {
            Ok(link) => return Ok(link),
            Err(error) => drop(failed.get_or_insert(error)),
        }
    }
    Err(failed.unwrap_or(DialError::NoAddress))
}

/// A certificate of the mesh that is not valid now is most often this host's clock.
fn clock_of(error: DialError) -> JoinError {
    let DialError::Refused { reject: crate::keys::Reject::Chain(chain), .. } = &error else {
        return error.into();
    };
    match chain {
        ChainError::NotYetValid { by } => JoinError::Clock { by: *by, ahead: false },
        ChainError::Expired { by } => JoinError::Clock { by: *by, ahead: true },
        _ => error.into(),
    }
}

/// Asks the agent itself, and if it holds no issuer, through it an issuer.
async fn ask<M: Message>(
    link: &Link,
    credentials: &Arc<Credentials>,
    alpn: Alpn,
    expect: &Expect,
    request: impl Fn(&Exporter) -> Result<M, JoinError>,
) -> Result<Reply, JoinError> {
    let asked = timeout(limits::JOIN_TIMEOUT, async {
        match direct(link, &request).await? {
            Reply::Refused(refusal) if refusal.code == RefusalCode::NoIssuer => {
                through(link, credentials, alpn, expect, &request).await
            }
            reply => Ok(reply),
        }
    });
    let late = Duration::as_secs(&limits::JOIN_TIMEOUT);
    asked.await.unwrap_or_else(|_| Err(JoinError::Ended(format!("nothing within {late} s"))))
}

async fn direct<M: Message>(
    link: &Link,
    request: impl Fn(&Exporter) -> Result<M, JoinError>,
) -> Result<Reply, JoinError> {
    let ended = |error: io::Error| ended(link, &error);
    let exporter = link.mux.exporter().ok_or_else(|| JoinError::Ended("no exporter".into()))?;
    let (mut send, mut recv) = link.mux.open().await.map_err(|error| closed(link, &error))?;
    send.write_u8(StreamKind::Control.byte()).await.map_err(ended)?;
    write_frame(&mut send, &request(&exporter)?).await.map_err(ended)?;
    let reply = read_frame(&mut recv).await.map_err(ended)?;
    // The reply is whole; that our half ends matters to nobody any more.
    let _ = send.shutdown().await;
    Ok(Reply::decode(&reply)?)
}

/// TLS 1.3 with the issuer, over one stream that the agent between copies.
async fn through<M: Message>(
    link: &Link,
    credentials: &Arc<Credentials>,
    alpn: Alpn,
    expect: &Expect,
    request: impl Fn(&Exporter) -> Result<M, JoinError>,
) -> Result<Reply, JoinError> {
    let why = Arc::new(OnceLock::new());
    let unreached = |error: io::Error| {
        if let Some(reject) = why.get() {
            return JoinError::Dial(DialError::Refused {
                address: link.remote,
                reject: crate::keys::Reject::clone(reject),
            });
        }
        if error.kind() == io::ErrorKind::ConnectionReset {
            let text = "the agent holds no issuer and reaches none: join through a host that does \
                        (`skein certs` names them)";
            return JoinError::Refused(Refusal::new(RefusalCode::NoIssuer, text));
        }
        ended(link, &error)
    };
    let (mut send, recv) = link.mux.open().await.map_err(|error| closed(link, &error))?;
    send.write_u8(StreamKind::Relay.byte()).await.map_err(unreached)?;
    let config = tls::client(credentials, alpn, expect.clone(), &why);
    let config = config.map_err(|error| JoinError::Ended(error.to_string()))?;
    let name = ServerName::try_from("skein.invalid");
    let name = name.map_err(|error| JoinError::Ended(error.to_string()))?;
    let connector = TlsConnector::from(Arc::new(config));
    let stream = connector.connect(name, tokio::io::join(recv, send)).await;
    let mut stream = stream.map_err(unreached)?;
    let (_, session) = stream.get_ref();
    let exporter: Exporter = session
        .export_keying_material([0; 32], EXPORTER_LABEL, Some(b""))
        .map_err(|error| JoinError::Ended(error.to_string()))?;
    write_frame(&mut stream, &request(&exporter)?).await.map_err(unreached)?;
    let reply = read_frame(&mut stream).await.map_err(unreached)?;
    // The reply is whole; a farewell that does not arrive changes nothing.
    let _ = stream.shutdown().await;
    Ok(Reply::decode(&reply)?)
}

fn admitted(reply: Reply) -> Result<SignedAdmission, JoinError> {
    match reply {
        Reply::Admitted(signed) => Ok(*signed),
        Reply::Refused(refusal) => Err(Refusal::new(refusal.code, refusal.shown()).into()),
    }
}

/// Why the connection ended, in the peer's words where it gave a code.
fn ended(link: &Link, error: &io::Error) -> JoinError {
    JoinError::Ended(match link.mux.closed_by_peer() {
        Some(code) => code.text().to_owned(),
        None => error.to_string(),
    })
}

fn closed(link: &Link, error: &MuxError) -> JoinError {
    JoinError::Ended(match link.mux.closed_by_peer() {
        Some(code) => code.text().to_owned(),
        None => error.to_string(),
    })
}
