//! Serving joins and renewals: the bytes around the desk.
//!
//! On a connection of `skein-join/1` or `skein-renew/1` the peer opens one stream at a time. Its
//! first byte is a kind: `Control` for a request to this agent, `Relay` for one that this agent
//! copies to an issuer. What is copied is TLS 1.3 end to end, so the agent between sees nothing
//! and changes nothing; the issuer's agent meets it as a `Relay` stream on a member's link.
//!
//! Never: more than `limits::RELAY_BYTES` each way, longer than `limits::JOIN_TIMEOUT`.

use std::{io, sync::Arc};

use rustls_pki_types::UnixTime;
use skein_protocol::{
    limits,
    name::{NodeKey, NodeName},
    trust::{
        admit::{Alpn, CloseCode, admit},
        join::{
            EXPORTER_LABEL, Exporter, JoinRequest, Message, Refusal, RefusalCode, RenewRequest,
            Reply,
        },
        token::{TokenBody, TokenId},
    },
    wire::kind::{StreamKind, UNKNOWN_KIND},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use super::{
    desk::{self, Situation},
    issuer::IssuingHost,
};
use crate::{
    keys::{
        Credentials, Identity, Trust, tls,
        verify::{classify, wall},
    },
    link::{
        Link,
        mux::{BoxFuture, Mux, StreamPair},
    },
};

/// What the agent gives to those who serve joins.
pub trait Desk: Send + Sync {
    /// The issuer on this host, if there is one.
    fn issuer(&self) -> Option<Arc<IssuingHost>>;
    /// What is trusted now: enough to tell a proof from noise, and cheap.
    fn trust(&self) -> Arc<Trust>;
    /// What is known now, with all members.
    fn situation(&self) -> Situation;
    /// Takes a use of a token and writes it to disk, before it answers. Gives how often the
    /// token was used before ([`desk::take_use`]).
    fn take_use<'a>(&'a self, token: &'a TokenBody) -> BoxFuture<'a, Result<u32, Refusal>>;
    /// The certificates of all issuers of the mesh that are known, this host's among them.
    fn issuers(&self) -> Vec<Arc<Vec<u8>>>;
    /// Tells people what became of a request.
    fn told(&self, _what: &Told<'_>) {}
    /// A stream to the agent of an issuer, its kind byte not written yet. Refuses when too many
    /// are open, or none is reached.
    fn relay(&self) -> BoxFuture<'_, Result<Relay, Refusal>>;
}

/// What became of a request to join or to renew, for the log.
#[derive(Debug)]
pub struct Told<'a> {
    /// Who asked.
    pub node: NodeKey,
    /// Under which name.
    pub name: &'a NodeName,
    /// By which token; none for a renewal.
    pub token: Option<TokenId>,
    /// Whether it was let in, or why not.
    pub result: Result<(), &'a Refusal>,
}

/// A stream to the agent of an issuer.
pub struct Relay {
    /// Its halves.
    pub pair: StreamPair,
    /// What bounds the number of them, given back with the stream.
    pub _share: Box<dyn Send>,
}

/// Serves a connection of `skein-join/1` or `skein-renew/1` to its end, at most
/// `limits::JOIN_TIMEOUT` long.
pub async fn serve(link: Link, desk: &dyn Desk) {
    let served = timeout(limits::JOIN_TIMEOUT, async {
        for _ in 0..limits::JOIN_STREAMS {
            let Ok(pair) = link.mux.accept().await else {
                return;
            };
            if serve_stream(&link, pair, desk).await.is_err() {
                return;
            }
        }
    });
    let code = if served.await.is_ok() { CloseCode::Done } else { CloseCode::Timeout };
    link.mux.close_with(code);
}

async fn serve_stream(link: &Link, pair: StreamPair, desk: &dyn Desk) -> io::Result<()> {
    let (mut send, mut recv) = pair;
    match StreamKind::from_byte(recv.read_u8().await?) {
        Some(StreamKind::Control) => {
            let exporter = link.mux.exporter().ok_or(io::ErrorKind::NotConnected)?;
            let bytes = read_frame(&mut recv).await?;
            let reply = decide(link.alpn, &link.identity, &bytes, &exporter, desk).await;
            write_frame(&mut send, &reply).await?;
            send.shutdown().await
        }
        Some(StreamKind::Relay) => copy_to_issuer((send, recv), desk).await,
        Some(StreamKind::Ping | StreamKind::Tcp | StreamKind::Http | StreamKind::Ask) | None => {
            send.reset(UNKNOWN_KIND);
            recv.stop(UNKNOWN_KIND);
            Ok(())
        }
    }
}

/// Copies between a joiner and an issuer. When there is none, the refusal is the reset of the
/// stream with [`NO_ISSUER`].
async fn copy_to_issuer(from: StreamPair, desk: &dyn Desk) -> io::Result<()> {
    let (mut send, mut recv) = from;
    let Ok(Relay { pair: (mut to_issuer, mut from_issuer), _share }) = desk.relay().await else {
        send.reset(NO_ISSUER);
        recv.stop(NO_ISSUER);
        return Ok(());
    };
    to_issuer.write_u8(StreamKind::Relay.byte()).await?;
    let there = async {
        let copied = copy(&mut recv, &mut to_issuer).await;
        copied.and(to_issuer.shutdown().await)
    };
    let back = async {
        let copied = copy(&mut from_issuer, &mut send).await;
        copied.and(send.shutdown().await)
    };
    // The way there may stay open when the answer has come: it ends with the stream.
    tokio::select! {
        biased;
        done = back => done,
        Err(error) = there => Err(error),
    }
}

async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let copied = tokio::io::copy(&mut from.take(limits::RELAY_BYTES), to).await?;
    if copied >= limits::RELAY_BYTES {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(())
}

/// Serves a `Relay` stream that came over a member's link, its kind byte read already: TLS with
/// whoever is at the other end of the copying.
pub async fn serve_relayed(
    pair: StreamPair,
    credentials: &Arc<Credentials>,
    desk: &dyn Desk,
) -> io::Result<()> {
    let served = timeout(limits::JOIN_TIMEOUT, relayed(pair, credentials, desk));
    served.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn relayed(
    (send, recv): StreamPair,
    credentials: &Arc<Credentials>,
    desk: &dyn Desk,
) -> io::Result<()> {
    let config = tls::server(credentials).map_err(io::Error::other)?;
    let stream = tokio::io::join(recv, send);
    let mut stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await?;
    let (_, session) = stream.get_ref();
    let alpn = session.alpn_protocol().and_then(Alpn::from_name);
    let alpn = alpn.ok_or(io::ErrorKind::InvalidData)?;
    let trust = credentials.trust();
    let roots = trust.as_ref().map(|trust| &trust.roots);
    let certificates = session.peer_certificates().unwrap_or_default();
    let identity =
        classify(certificates, roots, wall(UnixTime::now())).map_err(io::Error::other)?;
    let exporter = session
        .export_keying_material([0; 32], EXPORTER_LABEL, Some(b""))
        .map_err(io::Error::other)?;
    if let Err(code) = admit(alpn, identity.class) {
        credentials.refused().count(code.word());
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let bytes = read_frame(&mut stream).await?;
    let reply = decide(alpn, &identity, &bytes, &exporter, desk).await;
    write_frame(&mut stream, &reply).await?;
    stream.shutdown().await
}

async fn decide(
    alpn: Alpn,
    peer: &Identity,
    bytes: &[u8],
    exporter: &Exporter,
    desk: &dyn Desk,
) -> Reply {
    let decided = match alpn {
        Alpn::Join => join(peer, bytes, exporter, desk).await,
        Alpn::Renew => renew(peer, bytes, desk),
        Alpn::Mesh => Err(malformed()),
    };
    decided.unwrap_or_else(Reply::Refused)
}

async fn join(
    peer: &Identity,
    bytes: &[u8],
    exporter: &Exporter,
    desk: &dyn Desk,
) -> Result<Reply, Refusal> {
    let issuer = desk.issuer().ok_or_else(no_issuer)?;
    let request = JoinRequest::decode(bytes).map_err(|_| malformed())?;
    // Who holds no token costs no more than a few signature checks.
    let known = desk.issuers();
    let proof = (&*desk.trust(), known.as_slice(), crate::clock::wall());
    let decided = async {
        desk::check_proof(&request, &peer.key, exporter, proof)?;
        let situation = desk.situation();
        let grant = desk::check_grant(&request, &situation)?;
        let used = desk.take_use(&request.token.body).await?;
        Ok(desk::grant_join(&issuer, &request, &grant, used, &situation))
    };
    let decided = decided.await;
    let token = Some(request.token.body.id());
    tell(desk, (peer.key, &request.name, token), &decided);
    decided
}

fn tell(
    desk: &dyn Desk,
    (node, name, token): (NodeKey, &NodeName, Option<TokenId>),
    decided: &Result<Reply, Refusal>,
) {
    let result = match decided {
        Ok(Reply::Admitted(_)) => Ok(()),
        Ok(Reply::Refused(refusal)) | Err(refusal) => Err(refusal),
    };
    desk.told(&Told { node, name, token, result });
}

fn renew(peer: &Identity, bytes: &[u8], desk: &dyn Desk) -> Result<Reply, Refusal> {
    let issuer = desk.issuer().ok_or_else(no_issuer)?;
    let request = RenewRequest::decode(bytes).map_err(|_| malformed())?;
    let (verified, _) = peer.chain.as_ref().ok_or_else(malformed)?;
    let decided = Ok(desk::renew(&issuer, verified, request.nonce, &desk.situation()));
    tell(desk, (verified.key, &verified.grant.name, None), &decided);
    decided
}

fn no_issuer() -> Refusal {
    Refusal::new(RefusalCode::NoIssuer, "this host holds no issuer")
}

fn malformed() -> Refusal {
    let text = "the request does not read: compare the versions of skein on both hosts";
    Refusal::new(RefusalCode::Malformed, text)
}

/// The code with which a stream to an issuer is reset when none is reached.
pub const NO_ISSUER: u32 = 3;

/// Reads one message: its length, four bytes little endian, and its bytes.
pub(super) async fn read_frame(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let length = usize::try_from(from.read_u32_le().await?).unwrap_or(usize::MAX);
    if length > limits::JOIN_BYTES {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// Writes one message.
pub(super) async fn write_frame(
    to: &mut (impl AsyncWrite + Unpin),
    message: &impl Message,
) -> io::Result<()> {
    let bytes = message.encode().map_err(io::Error::other)?;
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    to.write_u32_le(length).await?;
    to.write_all(&bytes).await?;
    to.flush().await
}
