//! Joining and renewing over real sockets, and every refusal with its words.

use std::{
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    sync::{Arc, Mutex},
    time::Duration,
};

use skein_protocol::{
    clock::Wall,
    limits,
    name::NodeName,
    record::node::TokenUses,
    trust::{
        Chain, ChainClass, Grant, Revocations, Signer,
        issue::{self, Authority, Validity},
        join::{JoinRequest, Refusal, RefusalCode, Reply},
        revocation::{By, Revocation, Subject},
        token::{Token, TokenBody},
        verify_chain,
    },
    wire::{ask::TokenUseAsk, kind::StreamKind},
};
use tempfile::TempDir;
use tokio::{io::AsyncReadExt, runtime::Handle, task::JoinSet};

use super::{
    desk::{self, Member, Situation, take_use},
    files::Files,
    init::{Init, InitError, InitOptions, init},
    issuer::{IssuerError, IssuingHost, TokenScope},
    *,
};
use crate::{
    keys::{
        Credentials, Ed25519, KeyPair, Trust, file,
        pair::random,
        testing::{DAY, now},
    },
    link::{
        Acceptor, Dial, Endpoint, Link, Role,
        mux::{BoxFuture, Mux},
    },
};

const LOCAL: &str = "127.0.0.1:0";

fn local() -> SocketAddr {
    LOCAL.parse().unwrap()
}

/// A made mesh in a directory of its own.
struct Host {
    directory: TempDir,
    files: Files,
    made: Init,
}

fn made() -> Host {
    made_with(|_| {})
}

fn made_with(change: impl Fn(&mut InitOptions)) -> Host {
    let directory = tempfile::tempdir().unwrap();
    let files = Files::new(directory.path().join("agent"));
    let mut options = InitOptions {
        mesh: "prod".to_owned(),
        node: "first".parse().unwrap(),
        zone: None,
        issuers: 3,
        offline_root: false,
        services: vec!["*/*".parse().unwrap()],
        operator: directory.path().join("operator"),
    };
    change(&mut options);
    let made = init(&files, &options, now()).unwrap();
    Host { directory, files, made }
}

/// A desk in memory.
struct TestDesk {
    issuer: Option<Arc<IssuingHost>>,
    trust: Arc<Trust>,
    members: Vec<Member>,
    uses: Mutex<TokenUses>,
    /// The mesh's issuer, as the records of members tell.
    certificate: Arc<Vec<u8>>,
    through: Option<Link>,
}

impl TestDesk {
    fn new(files: &Files) -> Self {
        let issuer = IssuingHost::open(files).unwrap().map(Arc::new);
        let trust = files.credentials(now()).unwrap().trust().unwrap();
        let chain = file::read_chain(&files.node_chain()).unwrap();
        let certificate = Arc::new(chain.issuer);
        let uses = Mutex::default();
        Self { issuer, trust, members: vec![], uses, certificate, through: None }
    }
}

impl Desk for TestDesk {
    fn issuer(&self) -> Option<Arc<IssuingHost>> {
        self.issuer.clone()
    }

    fn trust(&self) -> Arc<Trust> {
        self.trust.clone()
    }

    fn situation(&self) -> Situation {
        Situation {
            now: now(),
            trust: self.trust.clone(),
            members: self.members.clone(),
            policy: Some(vec![]),
            peers: vec![],
        }
    }

    fn issuers(&self) -> Vec<Arc<Vec<u8>>> {
        vec![self.certificate.clone()]
    }

    fn take_use<'a>(&'a self, token: &'a TokenBody) -> BoxFuture<'a, Result<u32, Refusal>> {
        let taken = take_use(&mut self.uses.lock().unwrap(), &[], &use_of(token), now());
        Box::pin(async { taken })
    }

    fn relay(&self) -> BoxFuture<'_, Result<Relay, Refusal>> {
        Box::pin(async {
            let refused = || Refusal::new(RefusalCode::NoIssuer, "none");
            let link = self.through.as_ref().ok_or_else(refused)?;
            let pair = link.mux.open().await.map_err(|_| refused())?;
            Ok(Relay { pair, _share: Box::new(()) })
        })
    }
}

/// Serves joins and renewals of one host until dropped.
fn serving(files: &Files, desk: TestDesk, tasks: &mut JoinSet<()>) -> SocketAddr {
    let credentials = files.credentials(now()).unwrap();
    let endpoint = Endpoint::bind(local(), &credentials, &Handle::current()).unwrap();
    let address = endpoint.address().unwrap();
    tasks.spawn(async move {
        let mut acceptor: Acceptor = endpoint.acceptor();
        while let Some(link) = acceptor.next().await {
            serve(link, &desk).await;
        }
    });
    address
}

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

fn mode(path: &std::path::Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

async fn joining(
    directory: &TempDir,
    sub: &str,
    address: SocketAddr,
    token: &Token,
) -> (Files, Result<Joined, JoinError>) {
    let files = Files::new(directory.path().join(sub));
    let joined = join(&files, local(), &[address], token, &name(sub), now()).await;
    (files, joined)
}

#[test]
fn init_makes_a_whole_mesh_once() {
    let host = made();
    let files = &host.files;
    for key in [files.node_key(), files.issuer_key(), host.made.root_key.clone()] {
        assert_eq!(mode(&key), 0o600, "{}", key.display());
    }
    assert_eq!(mode(host.made.operator_key.as_deref().unwrap()), 0o600);
    let own = files.credentials(now()).unwrap().own().unwrap();
    assert_eq!(own.verified.grant.name.as_str(), "first");
    let body = &host.made.token.terms;
    assert_eq!((body.issuers, body.uses), (2, 10));
    assert!(body.not_after.since(now()) <= Duration::from_secs(3600));
    let options = InitOptions {
        mesh: "again".to_owned(),
        node: name("x"),
        zone: None,
        issuers: 3,
        offline_root: false,
        services: vec!["*/*".parse().unwrap()],
        operator: host.directory.path().join("other"),
    };
    let error = init(files, &options, now()).unwrap_err();
    assert!(matches!(error, InitError::Already { .. }));
    assert_eq!(error.to_string(), "already a member of prod as first");
}

#[test]
fn an_offline_root_stays_with_the_operator_and_the_token_makes_no_issuers() {
    let host = made_with(|options| options.offline_root = true);
    assert!(!host.files.root_key().exists());
    assert!(host.made.root_key.starts_with(host.directory.path().join("operator")));
    assert_eq!(host.made.token.terms.issuers, 0);
    let issuer = IssuingHost::open(&host.files).unwrap().unwrap();
    assert!(!issuer.has_root());
    let scope = TokenScope {
        services: vec![],
        names: vec![],
        roles: vec![],
        zone: None,
        issuers: 1,
        life: Duration::from_secs(60),
        uses: 1,
    };
    assert!(matches!(issuer.create_token(scope, now()), Err(IssuerError::NoRoot)));
}

#[test]
fn a_directory_that_is_not_writable_is_told_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, b"").unwrap();
    let options = InitOptions {
        mesh: "prod".to_owned(),
        node: name("first"),
        zone: None,
        issuers: 1,
        offline_root: false,
        services: vec!["*/*".parse().unwrap()],
        operator: directory.path().join("operator"),
    };
    let error = init(&Files::new(file.join("agent")), &options, now()).unwrap_err();
    assert!(error.to_string().contains("--dir"), "{error}");
}

#[test]
fn admit_needs_no_secret() {
    let host = made();
    let issuer = IssuingHost::open(&host.files).unwrap().unwrap();
    let key = KeyPair::generate().unwrap().node_key();
    let grant = Grant::new(name("web"), vec!["shop/*".parse().unwrap()], vec![], None).unwrap();
    let chain = issuer.admit(&key, &grant, now()).unwrap();
    let verified = verify_chain(&chain, issuer.trusted(), now(), &Ed25519).unwrap();
    assert_eq!((verified.key, verified.grant), (key, grant));
    let late = now().after(limits::ISSUER_LIFE).after(DAY);
    let error = issuer.admit(&key, &verify_grant(), late).unwrap_err();
    assert!(matches!(error, IssuerError::Ended { .. }), "{error}");
}

fn verify_grant() -> Grant {
    Grant::new(name("web"), vec![], vec![], None).unwrap()
}

#[tokio::test]
async fn a_host_joins_and_becomes_an_issuer_by_the_first_token() {
    let host = made();
    let mut tasks = JoinSet::new();
    let address = serving(&host.files, TestDesk::new(&host.files), &mut tasks);
    let (files, joined) = joining(&host.directory, "second", address, &host.made.token).await;
    let joined = joined.unwrap();
    assert_eq!((joined.mesh.as_str(), joined.issuer), ("prod", true));
    assert_eq!(joined.peers[0].address, address);
    assert_eq!(files.read_peers(), joined.peers);
    for key in [files.node_key(), files.issuer_key()] {
        assert_eq!(mode(&key), 0o600);
    }
    let own = files.credentials(now()).unwrap().own().unwrap();
    assert_eq!((own.verified.key, own.verified.class), (joined.node, ChainClass::Live));

    // The new issuer admits too, and the first one's token is good there.
    let second = IssuingHost::open(&files).unwrap().unwrap();
    assert_eq!(second.verified().host, joined.node);
    let there = serving(&files, TestDesk::new(&files), &mut tasks);
    let (_, third) = joining(&host.directory, "third", there, &host.made.token).await;
    let third = third.unwrap();
    assert!(!third.issuer && third.issuer_missed, "the root is not on the second host");

    let error = joining(&host.directory, "second", address, &host.made.token).await.1;
    assert_eq!(error.unwrap_err().to_string(), "already a member of prod as second");
}

#[tokio::test]
async fn two_hosts_become_issuers_and_the_next_do_not() {
    let host = made();
    let mut tasks = JoinSet::new();
    let address = serving(&host.files, TestDesk::new(&host.files), &mut tasks);
    let mut issuers = Vec::new();
    for sub in ["a", "b", "c"] {
        let joined = joining(&host.directory, sub, address, &host.made.token).await.1;
        issuers.push(joined.unwrap().issuer);
    }
    assert_eq!(issuers, [true, true, false]);
}

#[tokio::test]
async fn a_host_joins_through_an_agent_that_is_no_issuer() {
    let host = made();
    let token = token(&host, |_| {});
    let mut tasks = JoinSet::new();
    let desk = TestDesk::new(&host.files);
    let first = serving(&host.files, desk, &mut tasks);
    let (middle, joined) = joining(&host.directory, "middle", first, &token).await;
    assert!(!joined.unwrap().issuer);

    // A member's link from the middle to the issuer, as the agents keep one.
    let issuing = host.files.credentials(now()).unwrap();
    let endpoint = Endpoint::bind(local(), &issuing, &Handle::current()).unwrap();
    let address = endpoint.address().unwrap();
    let credentials = middle.credentials(now()).unwrap();
    let dialler = Endpoint::bind(local(), &credentials, &Handle::current()).unwrap();
    let mut acceptor = endpoint.acceptor();
    let dial = Dial {
        addresses: vec![address],
        expect: crate::keys::Expect::Member,
        alpn: skein_protocol::trust::admit::Alpn::Mesh,
        role: Role::Control,
    };
    let (there, here) = tokio::join!(dialler.dial(dial), acceptor.next());
    let (there, here) = (there.unwrap(), here.unwrap());
    let desk = TestDesk::new(&host.files);
    tasks.spawn(async move {
        while let Ok((send, mut recv)) = here.mux.accept().await {
            assert_eq!(recv.read_u8().await.unwrap(), StreamKind::Relay.byte());
            serve_relayed((send, recv), &issuing, &desk).await.unwrap();
        }
    });
    let mut between = TestDesk::new(&middle);
    between.through = Some(there);
    let door = serving(&middle, between, &mut tasks);
    let (files, joined) = joining(&host.directory, "far", door, &token).await;
    let joined = joined.unwrap();
    assert_eq!(files.credentials(now()).unwrap().key(), joined.node);

    // Renewal goes the same way.
    let credentials = files.credentials(now()).unwrap();
    let endpoint = Endpoint::dialler(local(), &credentials, &Handle::current()).unwrap();
    let before = credentials.own().unwrap().verified.leaf_hash;
    renew(&files, &endpoint, &[door], now()).await.unwrap();
    assert_ne!(credentials.own().unwrap().verified.leaf_hash, before);
}

#[tokio::test]
async fn an_agent_that_reaches_no_issuer_says_so() {
    let host = made();
    let token = token(&host, |_| {});
    let mut tasks = JoinSet::new();
    let first = serving(&host.files, TestDesk::new(&host.files), &mut tasks);
    let (middle, joined) = joining(&host.directory, "middle", first, &token).await;
    joined.unwrap();
    let door = serving(&middle, TestDesk::new(&middle), &mut tasks);
    let error = joining(&host.directory, "far", door, &token).await.1.unwrap_err();
    assert!(error.to_string().contains("holds no issuer and reaches none"), "{error}");
}

/// What its uses are taken by.
fn use_of(token: &TokenBody) -> TokenUseAsk {
    let terms = &token.terms;
    TokenUseAsk { id: token.id(), at_most: terms.uses, until: terms.not_after }
}

fn body_of(token: &Token) -> TokenBody {
    let seed = KeyPair::from_seed(&token.seed).unwrap();
    token.proof(seed.public_key()).body
}

fn token(host: &Host, change: impl Fn(&mut TokenScope)) -> Token {
    let mut scope = TokenScope {
        services: vec!["shop/*".parse().unwrap()],
        names: vec!["*".parse().unwrap()],
        roles: vec![],
        zone: None,
        issuers: 0,
        life: Duration::from_secs(60),
        uses: 5,
    };
    change(&mut scope);
    let issuer = IssuingHost::open(&host.files).unwrap().unwrap();
    issuer.create_token(scope, now()).unwrap()
}

/// The code of the refusal that comes over the wire.
async fn refused(host: &Host, desk: TestDesk, token: &Token) -> (RefusalCode, String) {
    let mut tasks = JoinSet::new();
    let address = serving(&host.files, desk, &mut tasks);
    let directory = tempfile::tempdir().unwrap();
    match joining(&directory, "web", address, token).await.1.unwrap_err() {
        JoinError::Refused(refusal) => (refusal.code, refusal.text),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_token_is_refused_by_number_and_words() {
    let host = made();
    let desk = || TestDesk::new(&host.files);
    let mut wrong = token(&host, |_| {});
    wrong.seed = random().unwrap();
    assert_eq!(refused(&host, desk(), &wrong).await.0, RefusalCode::WrongToken);

    let mut wide = token(&host, |_| {});
    wide.terms.services = vec!["*/*".parse().unwrap()];
    assert_eq!(refused(&host, desk(), &wide).await.0, RefusalCode::WrongToken);

    let issuer = IssuingHost::open(&host.files).unwrap().unwrap();
    let scope = TokenScope {
        services: vec![],
        names: vec![],
        roles: vec![],
        zone: None,
        issuers: 0,
        life: Duration::from_secs(60),
        uses: 1,
    };
    let old = issuer.create_token(scope, now().before(DAY)).unwrap();
    let (code, text) = refused(&host, desk(), &old).await;
    assert_eq!(code, RefusalCode::Expired);
    assert!(text.contains("skein token create"), "{text}");

    let once = token(&host, |scope| scope.uses = 1);
    let used = desk();
    let asked = use_of(&body_of(&once));
    take_use(&mut used.uses.lock().unwrap(), &[], &asked, now()).unwrap();
    let (code, text) = refused(&host, used, &once).await;
    assert_eq!(code, RefusalCode::UsedUp);
    assert!(text.contains("used 1 time,"), "{text}");

    let revoked = desk();
    revoked.uses.lock().unwrap().revoked.push((asked.id, asked.until));
    assert_eq!(refused(&host, revoked, &once).await.0, RefusalCode::TokenRevoked);
}

#[tokio::test]
async fn a_token_of_another_mesh_is_told_before_anything_is_sent() {
    let (host, other) = (made(), made());
    let mut tasks = JoinSet::new();
    let address = serving(&host.files, TestDesk::new(&host.files), &mut tasks);
    let directory = tempfile::tempdir().unwrap();
    let error = joining(&directory, "web", address, &other.made.token).await.1.unwrap_err();
    assert!(error.to_string().contains("another mesh than the token"), "{error}");
    // A token that names our root but another mesh in its body fails at the issuer.
    let mut mixed = other.made.token.clone();
    mixed.root = host.made.token.root;
    let error = joining(&directory, "web", address, &mixed).await.1.unwrap_err();
    assert!(matches!(error, JoinError::Dial(_)), "{error}");
}

#[tokio::test]
async fn a_name_is_its_keys_until_that_gives_it_up() {
    let host = made();
    let token = token(&host, |_| {});
    let member =
        |holds| Member { key: KeyPair::generate().unwrap().node_key(), name: name("web"), holds };
    let mut taken = TestDesk::new(&host.files);
    taken.members = vec![member(true)];
    let (code, text) = refused(&host, taken, &token).await;
    assert_eq!(code, RefusalCode::NameTaken);
    assert!(text.contains("--name"), "{text}");
    let mut free = TestDesk::new(&host.files);
    free.members = vec![member(false)];
    let mut tasks = JoinSet::new();
    let address = serving(&host.files, free, &mut tasks);
    joining(&host.directory, "web", address, &token).await.1.unwrap();
}

#[tokio::test]
async fn a_host_whose_clock_is_years_off_is_told_so() {
    let host = made();
    let token = token(&host, |_| {});
    let mut tasks = JoinSet::new();
    let address = serving(&host.files, TestDesk::new(&host.files), &mut tasks);
    for (sub, clock, words) in [
        ("behind", now().before(700 * DAY), "behind"),
        ("ahead", now().after(3 * DAY), "ahead of"),
        ("far-ahead", now().after(700 * DAY), "ahead of"),
    ] {
        let files = Files::new(host.directory.path().join(sub));
        let joined = join(&files, local(), &[address], &token, &name(sub), clock).await;
        let error = joined.unwrap_err();
        assert!(matches!(error, JoinError::Clock { .. }), "{error}");
        assert!(error.to_string().contains(words), "{error}");
        assert!(!files.is_member(), "nothing was taken");
    }
}

#[test]
fn uses_are_counted_to_their_bound_and_no_further() {
    let mut uses = TokenUses::default();
    let ids = [[3; 16], [1; 16], [2; 16]];
    let until = now().after(DAY);
    for id in ids {
        let asked = TokenUseAsk { id, at_most: 2, until };
        let mut take = || take_use(&mut uses, &[], &asked, now());
        assert_eq!(take().unwrap(), 0);
        assert_eq!(take().unwrap(), 1);
        assert_eq!(take().unwrap_err().code, RefusalCode::UsedUp);
    }
    assert!(uses.used.is_sorted());
    assert_eq!(uses.used.iter().map(|one| one.uses).sum::<u32>(), 6);
}

#[test]
fn what_other_issuers_say_of_a_token_counts_and_what_is_over_is_forgotten() {
    let asked = TokenUseAsk { id: [1; 16], at_most: 3, until: now().after(DAY) };
    let mut other = TokenUses::default();
    assert_eq!(take_use(&mut other, &[], &asked, now()), Ok(0));
    assert_eq!(take_use(&mut other, &[], &asked, now()), Ok(1));
    let others = [Arc::new(other)];
    let mut own = TokenUses::default();
    assert_eq!(take_use(&mut own, &others, &asked, now()), Ok(2), "two were used elsewhere");
    let refusal = take_use(&mut own, &others, &asked, now()).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::UsedUp);
    let revoked = [Arc::new(TokenUses { used: vec![], revoked: vec![([2; 16], asked.until)] })];
    let second = TokenUseAsk { id: [2; 16], ..asked };
    let refusal = take_use(&mut own, &revoked, &second, now()).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::TokenRevoked);
    // A machine a token, for years: what is over makes room.
    for n in 0..3 * u64::try_from(limits::TOKENS_COUNTED).unwrap() {
        let mut id = [9; 16];
        id[..8].copy_from_slice(&n.to_le_bytes());
        let at = now().after(DAY * u32::try_from(n / 1000).unwrap());
        let asked = TokenUseAsk { id, at_most: 1, until: at.after(DAY / 2) };
        assert_eq!(take_use(&mut own, &[], &asked, at), Ok(0), "{n}");
    }
}

/// A member whose certificate was made at `at`, by an issuer that is a year old by then.
fn member_since(host: &Host, at: Wall) -> (Files, Arc<Credentials>) {
    let files = Files::new(host.directory.path().join("old"));
    std::fs::create_dir_all(files.directory()).unwrap();
    let key = KeyPair::generate().unwrap();
    let roots = file::read_roots(&host.files.roots()).unwrap();
    let trusted = roots.verify(&Ed25519).unwrap();
    let root = file::read_key(&host.files.root_key()).unwrap();
    let by = Authority::new(&trusted.mesh, &roots.first, &root).unwrap();
    let issuer = KeyPair::generate().unwrap();
    let begin = at.before(DAY);
    let validity = Validity { not_before: begin, not_after: begin.after(limits::ISSUER_LIFE) };
    let host_key = host.made.node;
    let issuer_der =
        issue::issuer(&by, &issuer.public_key(), &host_key, validity, [1; 16]).unwrap();
    let by = Authority::new(&trusted.mesh, &issuer_der, &issuer).unwrap();
    let validity = Validity::new(at, limits::LEAF_LIFE, issue::NEVER_ENDS);
    let leaf = issue::node(&by, &key.node_key(), &verify_grant(), validity, [2; 16]).unwrap();
    file::write_key(&files.node_key(), &key).unwrap();
    file::write_roots(&files.roots(), &roots).unwrap();
    file::write_chain(&files.node_chain(), &Chain { leaf, issuer: issuer_der }).unwrap();
    let credentials = files.credentials(now()).unwrap();
    (files, credentials)
}

#[tokio::test]
async fn a_member_renews_even_weeks_after_its_end() {
    let host = made_long_ago();
    for ago in [5 * DAY, 60 * DAY] {
        let (files, credentials) = member_since(&host, now().before(ago));
        let mut tasks = JoinSet::new();
        let address = serving(&host.files, TestDesk::new(&host.files), &mut tasks);
        let endpoint = Endpoint::dialler(local(), &credentials, &Handle::current()).unwrap();
        let before = credentials.own().unwrap().verified.clone();
        let after = renew(&files, &endpoint, &[address], now()).await.unwrap();
        assert_eq!((after.class, &after.grant), (ChainClass::Live, &before.grant));
        assert_eq!(after.key, before.key);
        let shown = credentials.own().unwrap();
        assert_eq!(shown.verified.leaf_hash, after.leaf_hash, "hot-swapped");
        assert_eq!(file::read_chain(&files.node_chain()).unwrap(), shown.chain);
    }
}

/// Certificates of issuers dated before the root's own would be cut to it: a root's dates begin
/// with its making, so tests that look back need an old one.
fn made_long_ago() -> Host {
    let directory = tempfile::tempdir().unwrap();
    let files = Files::new(directory.path().join("agent"));
    let options = InitOptions {
        mesh: "prod".to_owned(),
        node: name("first"),
        zone: None,
        issuers: 3,
        offline_root: false,
        services: vec!["*/*".parse().unwrap()],
        operator: directory.path().join("operator"),
    };
    let made = init(&files, &options, now().before(100 * DAY)).unwrap();
    let issuer = IssuingHost::open(&files).unwrap().unwrap();
    let grant = Grant::new(name("first"), vec![], vec![], None).unwrap();
    let chain = issuer.admit(&made.node, &grant, now()).unwrap();
    file::write_chain(&files.node_chain(), &chain).unwrap();
    Host { directory, files, made }
}

#[test]
fn the_host_of_an_issuer_renews_its_own_certificate() {
    let host = made_long_ago();
    let issuer = IssuingHost::open(&host.files).unwrap().unwrap();
    let credentials = host.files.credentials(now()).unwrap();
    let before = credentials.own().unwrap();
    renew_own(&host.files, &credentials, &issuer, now()).unwrap();
    let after = credentials.own().unwrap();
    assert_ne!(after.verified.leaf_hash, before.verified.leaf_hash);
    assert_eq!(after.verified.grant, before.verified.grant);
    assert_eq!(file::read_chain(&host.files.node_chain()).unwrap(), after.chain);
}

#[tokio::test]
async fn a_revoked_member_does_not_renew() {
    let host = made_long_ago();
    let (files, credentials) = member_since(&host, now().before(5 * DAY));
    let root = file::read_key(&host.files.root_key()).unwrap();
    let mut desk = TestDesk::new(&host.files);
    let revocation = Revocation {
        mesh: desk.trust.roots.mesh,
        subject: Subject::Node,
        key: credentials.key().0,
        by: By::Root(root.public_key()),
        reason: String::new(),
        works: vec![],
    };
    let roots = desk.trust.roots.clone();
    let statement = revocation.sign(&root).unwrap().verify(&roots, &Ed25519).unwrap();
    let mut revocations = Revocations::default();
    revocations.insert(statement, &roots).unwrap();
    desk.trust = Arc::new(Trust { revocations, ..Trust::new(roots) });
    let mut tasks = JoinSet::new();
    let address = serving(&host.files, desk, &mut tasks);
    let endpoint = Endpoint::dialler(local(), &credentials, &Handle::current()).unwrap();
    let error = renew(&files, &endpoint, &[address], now()).await.unwrap_err();
    assert!(error.to_string().contains("revoked"), "{error}");
}

#[test]
fn an_operators_key_does_not_go_where_the_agent_reads_it() {
    let directory = tempfile::tempdir().unwrap();
    let agent = directory.path().join("agent");
    std::fs::create_dir(&agent).unwrap();
    // By another name it is the same place.
    std::os::unix::fs::symlink(&agent, directory.path().join("link")).unwrap();
    for operator in ["agent", "agent/.config/skein", "link/operator", "agent/../agent/x"] {
        let files = Files::new(agent.clone());
        let options = InitOptions {
            mesh: "prod".to_owned(),
            node: "first".parse().unwrap(),
            zone: None,
            issuers: 3,
            offline_root: false,
            services: vec!["*/*".parse().unwrap()],
            operator: directory.path().join(operator),
        };
        let error = init(&files, &options, now()).unwrap_err();
        assert!(matches!(error, InitError::OperatorAtAgent { .. }), "{operator}: {error}");
        assert!(error.to_string().contains("--operator-key"), "{error}");
        assert!(!files.is_member() && std::fs::read_dir(&agent).unwrap().next().is_none());
    }
}

/// `sudo skein init`, `issuer renew` and the rest work for an agent of a user of its own.
#[test]
#[ignore = "changes owners: needs root"]
fn root_makes_a_mesh_for_the_agents_user_and_keeps_the_operators_key() {
    use std::os::unix::fs::MetadataExt;
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let agent = directory.path().join("agent");
    std::fs::create_dir(&agent).unwrap();
    std::os::unix::fs::chown(&agent, Some(1234), Some(1235)).unwrap();
    let options = |operator: &str| InitOptions {
        mesh: "prod".to_owned(),
        node: "first".parse().unwrap(),
        zone: None,
        issuers: 3,
        offline_root: false,
        services: vec!["*/*".parse().unwrap()],
        operator: directory.path().join(operator),
    };
    let theirs = directory.path().join("theirs");
    std::fs::create_dir(&theirs).unwrap();
    std::os::unix::fs::chown(&theirs, Some(1234), Some(1235)).unwrap();
    let files = Files::new(agent.clone());
    let error = init(&files, &options("theirs"), now()).unwrap_err();
    assert!(matches!(error, InitError::OperatorAtAgent { .. }), "{error}");
    init(&files, &options("mine"), now()).unwrap();
    RootKey::open(&files, None).unwrap().write_issuer(&files, now()).unwrap();
    drop(crate::disk::Disk::open(&agent, now()).unwrap());
    let whose = |path: std::path::PathBuf| std::fs::metadata(path).unwrap().uid();
    for entry in std::fs::read_dir(&agent).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(whose(path.clone()), 1234, "{}", path.display());
    }
    assert_eq!(whose(directory.path().join("mine/operator.key")), 0);
}

#[test]
fn renewal_begins_at_a_third_of_the_life() {
    let (begin, end) = (Wall(0), Wall(3000));
    assert_eq!(renew_at(begin, end), Wall(1000));
}

#[test]
fn a_request_for_another_key_than_the_connections_is_refused() {
    let host = made();
    let desk = TestDesk::new(&host.files);
    let token = token(&host, |_| {});
    let seed = KeyPair::from_seed(&token.seed).unwrap();
    let key = KeyPair::generate().unwrap().node_key();
    let request = JoinRequest::sign(
        key,
        None,
        name("web"),
        token.proof(seed.public_key()),
        [1; 32],
        &[2; 32],
        &seed,
    )
    .unwrap();
    let situation = desk.situation();
    let other = KeyPair::generate().unwrap().node_key();
    let known = desk.issuers();
    let trust = (&*situation.trust, known.as_slice(), situation.now);
    let refusal = desk::check_proof(&request, &other, &[2; 32], trust).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Malformed);
    let refusal = desk::check_proof(&request, &key, &[3; 32], trust).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::WrongToken, "copied from another connection");
    desk::check_proof(&request, &key, &[2; 32], trust).unwrap();
    let grant = desk::check_grant(&request, &situation).unwrap();
    assert_eq!(grant.services, token.terms.services);
    let issuer = desk.issuer.as_ref().unwrap();
    let reply = desk::grant_join(issuer, &request, &grant, 0, &situation);
    assert!(matches!(reply, Reply::Admitted(_)));
}
