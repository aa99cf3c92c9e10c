//! Links over real loopback sockets: who gets in, who does not and why, and what hurts nobody.

use std::{
    io::{Read, Write},
    net::{SocketAddr, UdpSocket},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use quinn::{ConnectionError, crypto::rustls::QuicClientConfig, crypto::rustls::QuicServerConfig};
use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose as Use,
    Issuer, KeyIdMethod, KeyUsagePurpose, PublicKeyData, SanType, SignatureAlgorithm, SigningKey,
};
use rustls::{HandshakeKind, client::Resumption};
use rustls_pki_types::ServerName;
use skein_protocol::{
    limits,
    trust::{
        Revocations, Signer,
        admit::{Alpn, CloseCode, PeerClass},
        grant::GRANT_OID,
        issue,
        revocation::{By, Revocation, Subject},
    },
};
use time::OffsetDateTime;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    runtime::Handle,
};

use super::{
    endpoint::{Dial, DialError, Endpoint, Runtimes},
    mux::{Mux, Reset},
    transport::{BindError, Role},
};
use crate::keys::{
    Credentials, Ed25519, Expect, KeyPair, Reject, Trust,
    testing::{DAY, TestMesh, now, rogue_client, rogue_server},
    tls,
};

const LOCAL: &str = "127.0.0.1:0";

fn bind(credentials: &Arc<Credentials>) -> (Endpoint, SocketAddr) {
    let endpoint = Endpoint::bind(LOCAL.parse().unwrap(), credentials, &Handle::current()).unwrap();
    let address = endpoint.address().unwrap();
    (endpoint, address)
}

fn dial(address: SocketAddr, expect: Expect) -> Dial {
    Dial { addresses: vec![address], expect, alpn: Alpn::Mesh, role: Role::Data }
}

/// How a peer that shows these certificates ends, and the one reason that was counted.
async fn refusal(
    server: &Arc<Credentials>,
    key: KeyPair,
    ders: Vec<Vec<u8>>,
    alpn: Alpn,
) -> (ConnectionError, &'static str) {
    let (endpoint, address) = bind(server);
    let mut acceptor = endpoint.acceptor();
    let tls = QuicClientConfig::try_from(rogue_client(key, ders, alpn)).unwrap();
    let client = quinn::Endpoint::client(LOCAL.parse().unwrap()).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(tls));
    let ended = async {
        match client.connect_with(config, address, "x.invalid").unwrap().await {
            Ok(connection) => connection.closed().await,
            Err(error) => error,
        }
    };
    let error = tokio::select! {
        biased;
        link = acceptor.next() => panic!("let in: {link:?}"),
        error = ended => error,
    };
    let counted: Vec<_> = server.refused().iter().filter(|(_, count)| *count > 0).collect();
    assert_eq!(counted.len(), 1, "{counted:?}");
    (error, counted[0].0)
}

fn code(error: &ConnectionError) -> Option<CloseCode> {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            CloseCode::from_number(close.error_code.into_inner())
        }
        _ => None,
    }
}

fn ders(chain: skein_protocol::trust::Chain) -> Vec<Vec<u8>> {
    vec![chain.leaf, chain.issuer]
}

struct Raw<'a>([u8; 32], &'a KeyPair);

impl PublicKeyData for Raw<'_> {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }
    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}

impl SigningKey for Raw<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(self.1.sign(message).0.to_vec())
    }
}

/// A leaf of node 5 by the right issuer, but for these uses.
fn with_uses(mesh: &TestMesh, uses: Vec<Use>) -> Vec<Vec<u8>> {
    let named = |name: String| {
        let mut names = DistinguishedName::new();
        names.push(DnType::CommonName, name);
        names
    };
    let (key, issuer) = (mesh.node(5), mesh.issuer_key());
    let mut params = CertificateParams::default();
    params.distinguished_name = named("node-5".to_owned());
    params.serial_number = Some(vec![7; 16].into());
    let seconds = i64::try_from(now().seconds()).unwrap();
    params.not_before = OffsetDateTime::from_unix_timestamp(seconds - 60).unwrap();
    params.not_after = OffsetDateTime::from_unix_timestamp(seconds + 86_400).unwrap();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = uses;
    let uri = mesh.mesh.node_uri(&key.node_key());
    params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().unwrap())];
    let chain =
        skein_protocol::trust::verify_chain(&mesh.chain(5, now()), &mesh.roots, now(), &Ed25519);
    let grant = chain.unwrap().grant.encode().unwrap();
    params.custom_extensions = vec![CustomExtension::from_oid_content(&GRANT_OID, grant)];
    let mut by = CertificateParams::default();
    by.distinguished_name = named(format!("issuer at {}", mesh.node(0).node_key().short()));
    by.key_identifier_method = KeyIdMethod::PreSpecified(vec![1; 20]);
    let by = Issuer::new(by, Raw(issuer.public_key(), &issuer));
    let leaf = params.signed_by(&Raw(key.public_key(), &key), &by).unwrap();
    vec![leaf.der().to_vec(), mesh.issuer.clone()]
}

#[tokio::test]
async fn members_meet_and_know_each_other() {
    let mesh = TestMesh::new(1);
    let (server, address) = bind(&mesh.credentials(0));
    let (client, _) = bind(&mesh.credentials(5));
    let expect = Expect::Node(mesh.node(0).node_key());
    let mut acceptor = server.acceptor();
    let (there, here) = tokio::join!(client.dial(dial(address, expect)), acceptor.next());
    let (there, here) = (there.unwrap(), here.unwrap());
    assert_eq!(there.identity.key, mesh.node(0).node_key());
    assert_eq!(here.identity.key, mesh.node(5).node_key());
    assert_eq!((there.identity.class, here.identity.class), (PeerClass::Live, PeerClass::Live));
    assert_eq!(here.identity.chain.as_ref().unwrap().1, *mesh_chain(&client));
    assert_eq!((there.dialled, here.dialled), (true, false));
    assert_eq!(there.mux.exporter().unwrap(), here.mux.exporter().unwrap());
    assert!(here.ends().unwrap() > now());
}

fn mesh_chain(endpoint: &Endpoint) -> Arc<skein_protocol::trust::Chain> {
    Arc::new(endpoint.credentials().own().unwrap().chain.clone())
}

#[tokio::test]
async fn a_self_signed_peer_is_no_member() {
    let mesh = TestMesh::new(1);
    let bare = issue::bare(&mesh.node(5), now(), [1; 16]).unwrap();
    let refused = refusal(&mesh.credentials(0), mesh.node(5), vec![bare], Alpn::Mesh).await;
    assert_eq!((code(&refused.0), refused.1), (Some(CloseCode::NotAdmitted), "not_admitted"));
}

#[tokio::test]
async fn a_bare_peer_may_not_renew_and_an_expired_one_may_not_join() {
    let mesh = TestMesh::new(1);
    let bare = issue::bare(&mesh.node(5), now(), [1; 16]).unwrap();
    let refused = refusal(&mesh.credentials(0), mesh.node(5), vec![bare], Alpn::Renew).await;
    assert_eq!(code(&refused.0), Some(CloseCode::NotAdmitted));
    let old = ders(mesh.chain(5, now().before(40 * DAY)));
    let refused = refusal(&mesh.credentials(0), mesh.node(5), old, Alpn::Join).await;
    assert_eq!(code(&refused.0), Some(CloseCode::Expired));
}

#[tokio::test]
async fn a_peer_of_another_mesh_is_refused() {
    let (mesh, other) = (TestMesh::new(1), TestMesh::new(2));
    let chain = ders(other.chain(5, now()));
    let refused = refusal(&mesh.credentials(0), other.node(5), chain, Alpn::Mesh).await;
    assert_eq!((code(&refused.0), refused.1), (None, "unknown_root"));
}

#[tokio::test]
async fn an_expired_peer_is_told_so_and_one_too_old_is_refused() {
    let mesh = TestMesh::new(1);
    let chain = ders(mesh.chain(5, now().before(40 * DAY)));
    let refused = refusal(&mesh.credentials(0), mesh.node(5), chain, Alpn::Mesh).await;
    assert_eq!((code(&refused.0), refused.1), (Some(CloseCode::Expired), "expired"));
    let chain = ders(mesh.chain(5, now().before(110 * DAY)));
    let refused = refusal(&mesh.credentials(0), mesh.node(5), chain, Alpn::Mesh).await;
    assert_eq!(refused.1, "too_old");
}

#[tokio::test]
async fn a_peer_from_the_future_is_refused() {
    let mesh = TestMesh::new(1);
    let chain = ders(mesh.chain(5, now().after(DAY)));
    let refused = refusal(&mesh.credentials(0), mesh.node(5), chain, Alpn::Mesh).await;
    assert_eq!((code(&refused.0), refused.1), (None, "not_yet_valid"));
}

#[tokio::test]
async fn a_revoked_peer_is_told_so() {
    let mesh = TestMesh::new(1);
    let server = mesh.credentials(0);
    let revocation = Revocation {
        mesh: mesh.mesh,
        subject: Subject::Node,
        key: mesh.node(5).public_key(),
        by: By::Root(mesh.root_key().public_key()),
        reason: "test".to_owned(),
        works: vec![],
    };
    let statement = revocation.sign(&mesh.root_key()).unwrap();
    let mut revocations = Revocations::default();
    let statement = statement.verify(&mesh.roots, &Ed25519).unwrap();
    revocations.insert(statement, &mesh.roots).unwrap();
    server.set_trust(Trust { revocations, ..Trust::new(mesh.roots.clone()) });
    let chain = ders(mesh.chain(5, now()));
    let refused = refusal(&server, mesh.node(5), chain, Alpn::Mesh).await;
    assert_eq!((code(&refused.0), refused.1), (Some(CloseCode::Revoked), "revoked"));
}

#[tokio::test]
async fn a_certificate_for_other_uses_is_refused() {
    let mesh = TestMesh::new(1);
    let chain = with_uses(&mesh, vec![Use::CodeSigning]);
    let refused = refusal(&mesh.credentials(0), mesh.node(5), chain, Alpn::Mesh).await;
    assert_eq!(refused.1, "wrong_use");
}

#[tokio::test]
async fn a_certificate_for_clients_only_serves_nobody() {
    let mesh = TestMesh::new(1);
    let chain = with_uses(&mesh, vec![Use::ClientAuth]);
    let refused = refusal(&mesh.credentials(0), mesh.node(5), chain.clone(), Alpn::Mesh).await;
    assert_eq!(refused.1, "one_sided");
    let (reject, credentials) = refused_server(&mesh, mesh.node(5), chain, Expect::Member).await;
    assert!(matches!(reject, Reject::Chain(_)), "{reject}");
    assert_eq!(credentials.refused().of("one_sided"), 1);
}

#[tokio::test]
async fn a_certificate_without_its_key_is_refused() {
    let mesh = TestMesh::new(1);
    let chain = ders(mesh.chain(5, now()));
    let refused = refusal(&mesh.credentials(0), mesh.node(6), chain.clone(), Alpn::Mesh).await;
    assert_eq!(refused.1, "wrong_key");
    let (reject, _) = refused_server(&mesh, mesh.node(6), chain, Expect::Member).await;
    assert_eq!(reject, Reject::WrongKey);
}

/// Why our dial refuses a server that shows these certificates.
async fn refused_server(
    mesh: &TestMesh,
    key: KeyPair,
    ders: Vec<Vec<u8>>,
    expect: Expect,
) -> (Reject, Arc<Credentials>) {
    let tls = QuicServerConfig::try_from(rogue_server(key, ders)).unwrap();
    let config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    let server = quinn::Endpoint::server(config, LOCAL.parse().unwrap()).unwrap();
    let address = server.local_addr().unwrap();
    let credentials = mesh.credentials(0);
    let (client, _) = bind(&credentials);
    let serve = async {
        while let Some(incoming) = server.accept().await {
            let _ = incoming.await;
        }
    };
    let error = tokio::select! {
        biased;
        result = client.dial(dial(address, expect)) => result.unwrap_err(),
        () = serve => unreachable!("the server takes connections for ever"),
    };
    match error {
        DialError::Refused { reject, .. } => (reject, credentials),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_dial_refuses_servers_that_are_not_whom_it_expects() {
    let (mesh, other) = (TestMesh::new(1), TestMesh::new(2));
    let expected = mesh.node(7).node_key();
    let chain = ders(mesh.chain(5, now()));
    let (reject, _) = refused_server(&mesh, mesh.node(5), chain, Expect::Node(expected)).await;
    assert_eq!(reject, Reject::WrongPeer { found: mesh.node(5).node_key(), expected });
    let chain = ders(other.chain(5, now()));
    let (reject, _) = refused_server(&mesh, other.node(5), chain, Expect::Member).await;
    assert_eq!(reject.word(), "unknown_root");
    let old = ders(mesh.chain(5, now().before(40 * DAY)));
    let (reject, _) = refused_server(&mesh, mesh.node(5), old, Expect::Member).await;
    assert_eq!(reject, Reject::NotLive("expired"));
    let bare = issue::bare(&mesh.node(5), now(), [1; 16]).unwrap();
    let (reject, _) = refused_server(&mesh, mesh.node(5), vec![bare], Expect::Member).await;
    assert_eq!(reject, Reject::NotLive("not_admitted"));
}

#[tokio::test]
async fn a_joiner_knows_the_mesh_by_the_hash_of_its_root() {
    let (mesh, other) = (TestMesh::new(1), TestMesh::new(2));
    let (server, address) = bind(&mesh.credentials(0));
    let joiner = Credentials::bare(mesh.node(9), now()).unwrap();
    let (client, _) = bind(&joiner);
    let expect = |of: &TestMesh| Expect::Token { root: of.mesh.0, mesh: of.mesh };
    let join = |expect| Dial { alpn: Alpn::Join, ..dial(address, expect) };
    let mut acceptor = server.acceptor();
    let (there, here) = tokio::join!(client.dial(join(expect(&mesh))), acceptor.next());
    assert_eq!(there.unwrap().identity.key, mesh.node(0).node_key());
    let here = here.unwrap();
    assert_eq!((here.identity.class, here.alpn), (PeerClass::Bare, Alpn::Join));
    let error = tokio::select! {
        biased;
        result = client.dial(join(expect(&other))) => result.unwrap_err(),
        _ = acceptor.next() => panic!("it joined another mesh"),
    };
    assert!(matches!(error, DialError::Refused { reject: Reject::OtherRoot, .. }), "{error}");
}

#[tokio::test]
async fn a_renewed_chain_is_shown_from_the_next_handshake_on() {
    let mesh = TestMesh::new(1);
    let credentials = mesh.credentials(5);
    let (server, address) = bind(&mesh.credentials(0));
    let (client, _) = bind(&credentials);
    let newer = mesh.chain(5, now().before(DAY));
    let mut acceptor = server.acceptor();
    let (_there, here) = tokio::join!(client.dial(dial(address, Expect::Member)), acceptor.next());
    assert_ne!(here.unwrap().identity.chain.unwrap().1, newer);
    credentials.set_chain(newer.clone(), now()).unwrap();
    let (_there, here) = tokio::join!(client.dial(dial(address, Expect::Member)), acceptor.next());
    assert_eq!(here.unwrap().identity.chain.unwrap().1, newer);
    let others = mesh.chain(6, now());
    assert!(credentials.set_chain(others, now()).is_err(), "of another key");
}

/// Both sides of a handshake in memory, to its end and a round of what comes after.
fn shake(client: Arc<rustls::ClientConfig>, server: Arc<rustls::ServerConfig>) -> HandshakeKind {
    let name = ServerName::try_from("x.invalid").unwrap();
    let mut client = rustls::ClientConnection::new(client, name).unwrap();
    let mut server = rustls::ServerConnection::new(server).unwrap();
    for _ in 0..6 {
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        server.read_tls(&mut bytes.as_slice()).unwrap();
        server.process_new_packets().unwrap();
        let _ = server.writer().write(b"x");
        let mut bytes = Vec::new();
        server.write_tls(&mut bytes).unwrap();
        client.read_tls(&mut bytes.as_slice()).unwrap();
        client.process_new_packets().unwrap();
        let _ = client.reader().read(&mut [0; 16]);
    }
    client.handshake_kind().unwrap()
}

#[test]
fn neither_side_resumes_even_when_the_other_would() {
    let mesh = TestMesh::new(1);
    let chain = ders(mesh.chain(5, now()));
    let eager = Arc::new(rogue_client(mesh.node(5), chain.clone(), Alpn::Mesh));
    let tickets = Arc::new(rogue_server(mesh.node(5), chain));
    let resumed = [(); 2].map(|()| shake(eager.clone(), tickets.clone()));
    assert_eq!(resumed[1], HandshakeKind::Resumed, "two that both want to do resume");

    let server = Arc::new(tls::server(&mesh.credentials(0)).unwrap());
    let kinds = [(); 2].map(|()| shake(eager.clone(), server.clone()));
    assert_eq!(kinds, [HandshakeKind::Full; 2], "our server");
    let why = Arc::new(OnceLock::new());
    let credentials = mesh.credentials(0);
    let client = tls::client(&credentials, Alpn::Mesh, Expect::Member, &why).unwrap();
    let client = Arc::new(client);
    let kinds = [(); 2].map(|()| shake(client.clone(), tickets.clone()));
    assert_eq!(kinds, [HandshakeKind::Full; 2], "our client");
    let mut eager = (*client).clone();
    eager.resumption = Resumption::in_memory_sessions(8);
    let eager = Arc::new(eager);
    let kinds = [(); 2].map(|()| shake(eager.clone(), server.clone()));
    assert_eq!(kinds, [HandshakeKind::Full; 2], "no ticket ever came from our server");
}

#[tokio::test]
async fn garbage_and_one_byte_datagrams_hurt_nobody() {
    let mesh = TestMesh::new(1);
    let (server, address) = bind(&mesh.credentials(0));
    let mut acceptor = server.acceptor();
    let socket = UdpSocket::bind(LOCAL).unwrap();
    for length in 0..300usize {
        let byte = u8::try_from(length % 256).unwrap();
        socket.send_to(&vec![byte; length % 40], address).unwrap();
        let long: Vec<u8> =
            (0..1200).map(|at| byte.wrapping_mul(31).wrapping_add(at as u8)).collect();
        socket.send_to(&long, address).unwrap();
        // A long header of version 1 with nonsense behind it.
        let mut initial = vec![0xc3, 0, 0, 0, 1, 8];
        initial.resize(1200, byte);
        socket.send_to(&initial, address).unwrap();
    }
    let (client, _) = bind(&mesh.credentials(5));
    let (there, here) = tokio::join!(client.dial(dial(address, Expect::Member)), acceptor.next());
    there.unwrap();
    assert_eq!(here.unwrap().identity.key, mesh.node(5).node_key());
}

#[tokio::test]
async fn a_hundred_peers_at_once_all_get_in() {
    let mesh = TestMesh::new(1);
    let (server, address) = bind(&mesh.credentials(0));
    let (client, _) = bind(&mesh.credentials(5));
    let mut acceptor = server.acceptor();
    let dials = (0..100).map(|_| client.dial(dial(address, Expect::Member)));
    let dials = futures_util::future::join_all(dials);
    let accept = async {
        let mut links = Vec::new();
        while links.len() < 100 {
            links.push(acceptor.next().await.unwrap());
        }
        links
    };
    let (dialled, links) = tokio::join!(dials, accept);
    assert!(dialled.iter().all(Result::is_ok));
    assert_eq!(links.len(), 100);
}

#[tokio::test]
async fn a_dial_takes_the_address_that_answers_and_does_not_wait_for_the_others() {
    let mesh = TestMesh::new(1);
    let (server, address) = bind(&mesh.credentials(0));
    let (client, _) = bind(&mesh.credentials(5));
    let mute = UdpSocket::bind(LOCAL).unwrap();
    let mut racing = dial(address, Expect::Member);
    racing.addresses.insert(0, mute.local_addr().unwrap());
    let mut acceptor = server.acceptor();
    let begin = Instant::now();
    let (link, _) = tokio::join!(client.dial(racing), acceptor.next());
    assert_eq!(link.unwrap().remote, address);
    assert!(begin.elapsed() < limits::DIAL_TIMEOUT);
}

#[tokio::test]
async fn a_dial_of_nobody_ends_in_time_and_says_what_to_look_for() {
    let mesh = TestMesh::new(1);
    let (client, itself) = bind(&mesh.credentials(5));
    let mute = UdpSocket::bind(LOCAL).unwrap();
    let begin = Instant::now();
    let error = client.dial(dial(mute.local_addr().unwrap(), Expect::Member)).await.unwrap_err();
    assert!(begin.elapsed() < limits::DIAL_TIMEOUT + Duration::from_secs(1));
    assert!(error.to_string().contains("firewall"), "{error}");
    // One that says no tells more than another that says nothing.
    let (server, address) = bind(&mesh.credentials(0));
    let mut both = dial(address, Expect::Node(mesh.credentials(1).key()));
    both.addresses.push(mute.local_addr().unwrap());
    let mut acceptor = server.acceptor();
    let refused = tokio::select! {
        biased;
        error = client.dial(both) => error.unwrap_err(),
        _ = acceptor.next() => panic!("it let one in that does not want it"),
    };
    assert!(matches!(refused, DialError::Refused { .. }), "{refused}");
    let nobody = Dial { addresses: vec![], ..dial(itself, Expect::Member) };
    assert_eq!(client.dial(nobody).await.unwrap_err(), DialError::NoAddress);
    let mut acceptor = client.acceptor();
    let error = tokio::select! {
        biased;
        result = client.dial(dial(itself, Expect::Member)) => result.unwrap_err(),
        _ = acceptor.next() => panic!("it let itself in"),
    };
    assert!(matches!(error, DialError::Myself(_)), "{error}");
}

#[tokio::test]
async fn a_port_in_use_is_told_with_what_to_do() {
    let mesh = TestMesh::new(1);
    let credentials = mesh.credentials(0);
    let (_first, address) = bind(&credentials);
    let error = Endpoint::bind(address, &credentials, &Handle::current()).unwrap_err();
    assert!(matches!(error, BindError::InUse(_)));
    assert!(error.to_string().contains("ss -ulpn"), "{error}");
    let elsewhere = "192.0.2.1:0".parse().unwrap();
    let error = Endpoint::bind(elsewhere, &credentials, &Handle::current()).unwrap_err();
    assert!(matches!(error, BindError::NotHere(_)), "{error}");
}

#[tokio::test]
async fn streams_carry_bytes_both_ways_and_a_dropped_one_is_reset() {
    let mesh = TestMesh::new(1);
    let (server, address) = bind(&mesh.credentials(0));
    let (client, _) = bind(&mesh.credentials(5));
    let mut acceptor = server.acceptor();
    let (there, here) = tokio::join!(client.dial(dial(address, Expect::Member)), acceptor.next());
    let (there, here) = (there.unwrap(), here.unwrap());
    here.mux.set_role(Role::Data);
    let payload = vec![7; 4 * 1024 * 1024];
    let echo = async {
        let (mut send, mut recv) = here.mux.accept().await.unwrap();
        tokio::io::copy(&mut recv, &mut send).await.unwrap();
        send.shutdown().await.unwrap();
    };
    let call = async {
        let (mut send, mut recv) = there.mux.open().await.unwrap();
        let write = async {
            send.write_all(&payload).await.unwrap();
            send.shutdown().await.unwrap();
        };
        let mut back = Vec::new();
        let (_, read) = tokio::join!(write, recv.read_to_end(&mut back));
        read.unwrap();
        back
    };
    let ((), back) = tokio::join!(echo, call);
    assert_eq!(back, payload);
    assert!(there.mux.stats().bytes_sent > 4 * 1024 * 1024);

    let (mut send, _recv) = there.mux.open().await.unwrap();
    send.write_all(b"half").await.unwrap();
    let (_back, mut recv) = here.mux.accept().await.unwrap();
    drop(send);
    let error = recv.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);

    // Who writes learns why nobody reads on, as who reads learns of a reset.
    let (mut send, _recv) = there.mux.open().await.unwrap();
    send.write_all(b"half").await.unwrap();
    let (_back, mut recv) = here.mux.accept().await.unwrap();
    recv.stop(7);
    let error = loop {
        if let Err(error) = send.write_all(&payload).await {
            break error;
        }
    };
    let said = error.get_ref().and_then(|inner| inner.downcast_ref::<Reset>());
    assert!(matches!(said, Some(Reset(7))), "{error:?}");

    there.mux.close_with(CloseCode::Duplicate);
    here.mux.closed().await;
    assert_eq!(here.mux.closed_by_peer(), Some(CloseCode::Duplicate));
}

/// A runtime whose threads are all held, until the guard is dropped.
fn held() -> (tokio::runtime::Runtime, Vec<std::sync::mpsc::Sender<()>>) {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
    let (ready, all_ready) = std::sync::mpsc::channel();
    let held = (0..2).map(|_| {
        let (release, released) = std::sync::mpsc::channel::<()>();
        let ready = ready.clone();
        runtime.spawn(async move {
            ready.send(()).unwrap();
            let _ = released.recv();
        });
        release
    });
    let held: Vec<_> = held.collect();
    for _ in &held {
        all_ready.recv().unwrap();
    }
    (runtime, held)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_connection_is_driven_though_every_thread_of_the_data_plane_is_held() {
    let mesh = TestMesh::new(1);
    let (server, client) = (mesh.credentials(1), mesh.credentials(2));
    let (data, held) = held();
    let here = Handle::current();
    let runtimes = Runtimes { socket: here.clone(), control: here, data: data.handle().clone() };
    let endpoint = Endpoint::bind(LOCAL.parse().unwrap(), &server, runtimes).unwrap();
    let address = endpoint.address().unwrap();
    let mut acceptor = endpoint.acceptor();
    let (dialler, _) = bind(&client);
    let expect = || Expect::Node(server.key());

    // As data it is not answered: nobody is there to.
    let waits = dialler.dial(dial(address, expect()));
    let refused = tokio::select! {
        biased;
        link = acceptor.next() => panic!("accepted: {link:?}"),
        refused = waits => refused.unwrap_err(),
    };
    assert!(matches!(refused, DialError::Silent { .. }), "{refused}");

    let control = Dial { role: Role::Control, ..dial(address, expect()) };
    let (dialled, accepted) = tokio::join!(dialler.dial(control), acceptor.next());
    let (dialled, accepted) = (dialled.unwrap(), accepted.unwrap());
    let echo = async {
        let (mut send, mut recv) = accepted.mux.accept().await.unwrap();
        let byte = recv.read_u8().await.unwrap();
        send.write_u8(byte).await.unwrap();
        send.shutdown().await.unwrap();
        (send, recv)
    };
    let ask = async {
        let (mut send, mut recv) = dialled.mux.open().await.unwrap();
        send.write_u8(7).await.unwrap();
        (recv.read_u8().await.unwrap(), send, recv)
    };
    let (_answered, (byte, ..)) = tokio::join!(echo, ask);
    assert_eq!(byte, 7);
    drop(held);
    data.shutdown_background();
}
