//! A peer with an admitted key that says what no agent says: nobody dies, stalls or believes it.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use skein_node::{
    clock::wall,
    gossip::virtual_address,
    identity::Files,
    keys::{Ed25519, Expect},
    link::{
        Dial, Endpoint, Link, Role,
        mux::{Mux, StreamPair},
    },
};
use skein_protocol::{
    name::{Hash, NodeKey},
    record::{
        Bundle, OwnChain, Verified,
        header::{SIGNATURE_BYTES, SIGNATURE_DOMAIN},
        node::{
            Addresses, Health, HeldIssuer, Host as RecordHost, Instance, InstanceId, Instances,
            NodeRecord, NodeState, Protocol, ServicePort, TokenUses,
        },
    },
    trust::{CloseCode, Signer, admit::Alpn, verify_chain},
    wire::{
        frame::{self, Frame, Hello, LinkRole, Speaks, Stand},
        kind::StreamKind,
        stream::{Source, StreamHead},
    },
};
use skein_tests::{
    host::Host,
    load::{Load, Plan},
    manifest::{discovery, registry},
    mesh::Mesh,
    server::{Conduct, Server},
    wait::until,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::Handle,
    time::timeout,
};

const HERE: u16 = 9080;
const PORT: u16 = 8080;
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// The last host's key in the hand of this test; its own agent has ended.
pub(crate) struct Rogue {
    endpoint: Endpoint,
    pub(crate) key: NodeKey,
    boot: u64,
}

/// A link to one victim, its Hello read.
pub(crate) struct Held {
    pub(crate) link: Link,
    pub(crate) stream: StreamPair,
    theirs: Hello,
}

impl Rogue {
    fn of(host: &Host) -> Self {
        let credentials = Files::new(&host.dir).credentials(wall()).expect("its credentials");
        let local = SocketAddr::new(host.ip, 0);
        let endpoint = Endpoint::dialler(local, &credentials, &Handle::current()).expect("a port");
        Self { endpoint, key: credentials.key(), boot: wall().0 + 1_000_000 }
    }

    pub(crate) async fn dial(&self, to: SocketAddr, role: Role) -> Link {
        let dial = Dial { addresses: vec![to], expect: Expect::Member, alpn: Alpn::Mesh, role };
        self.endpoint.dial(dial).await.expect("an admitted peer is let in")
    }

    pub(crate) fn hello(&self, role: LinkRole) -> Hello {
        let trust = self.endpoint.credentials().trust().expect("a mesh");
        let speaks = match role {
            LinkRole::Control => Speaks::Bundle(None),
            LinkRole::Data => Speaks::Head(None),
        };
        Hello {
            versions: vec![frame::VERSION],
            role,
            mesh: trust.roots.mesh,
            key: self.key,
            boot: self.boot,
            revocation_root: trust.revocations.root(),
            issuer_root: Hash::of(&[]),
            records_root: Hash::of(&[]),
            wall: wall(),
            speaks,
        }
    }

    /// A link on which both have said Hello.
    pub(crate) async fn meet(&mut self, to: SocketAddr, role: LinkRole) -> Held {
        self.boot += 1;
        let quic = match role {
            LinkRole::Control => Role::Control,
            LinkRole::Data => Role::Data,
        };
        let link = self.dial(to, quic).await;
        let mut stream = link.mux.open().await.expect("a stream");
        stream.0.write_all(&[StreamKind::Control.byte()]).await.expect("a byte");
        let hello = Frame::Hello(Box::new(self.hello(role))).encode().expect("a frame");
        write(&mut stream, &hello).await.expect("a Hello");
        let theirs = timeout(SOON, async {
            loop {
                let length = stream.1.read_u32_le().await.expect("a length");
                let mut bytes = vec![0; usize::try_from(length).unwrap()];
                stream.1.read_exact(&mut bytes).await.expect("a frame");
                if let Ok(Frame::Hello(hello)) = Frame::decode(&bytes) {
                    return *hello;
                }
            }
        });
        let theirs = theirs.await.expect("its Hello");
        Held { link, stream, theirs }
    }
}

pub(crate) async fn write(stream: &mut StreamPair, bytes: &[u8]) -> std::io::Result<()> {
    stream.0.write_all(&u32::try_from(bytes.len()).unwrap().to_le_bytes()).await?;
    stream.0.write_all(bytes).await?;
    stream.0.flush().await
}

/// What chitchat's wire says, written by hand.
#[derive(Clone, Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn message(kind: u8) -> Self {
        let mut bytes = Self::default();
        bytes.number(45_139, 2);
        bytes.0.extend([0, kind]);
        bytes
    }
    fn number(&mut self, number: u64, width: usize) {
        self.0.extend(&number.to_le_bytes()[..width]);
    }
    fn text(&mut self, text: &[u8]) {
        self.number(u64::try_from(text.len()).unwrap(), 2);
        self.0.extend(text);
    }
    fn id(&mut self, short: &str, generation: u64, address: std::net::SocketAddrV4) {
        self.text(short.as_bytes());
        self.number(generation, 8);
        self.0.push(4);
        self.0.extend(address.ip().octets());
        self.number(address.port().into(), 2);
    }
    fn of(&mut self, node: &Hello) {
        self.id(node.key.short().as_str(), node.boot, virtual_address(&node.key));
    }
    /// A digest of one node.
    fn digest(&mut self, node: &Hello, heartbeat: u64, version: u64) {
        self.number(1, 2);
        self.of(node);
        self.number(heartbeat, 8);
        self.number(0, 8);
        self.number(version, 8);
    }
    fn node(&mut self, node: &Hello) {
        self.0.push(0);
        self.of(node);
        self.number(0, 8);
        self.number(0, 8);
    }
    fn key(&mut self, key: &[u8], value: &[u8], version: u64) {
        self.0.push(1);
        self.text(key);
        self.text(value);
        self.number(version, 8);
        self.0.push(0);
    }
    fn set_max(&mut self, version: u64) {
        self.0.push(2);
        self.number(version, 8);
    }
    /// A delta of these operations in one plain block.
    fn delta(&mut self, operations: &Self) {
        self.0.push(2);
        self.text(&operations.0);
        self.0.push(0);
    }
    fn ack(operations: &Self) -> Self {
        let mut message = Self::message(2);
        message.delta(operations);
        message
    }
}

/// What stands on a link: gossip's shorthand, begun anew with each frame.
#[derive(Default)]
struct Short(Vec<u8>);

impl Short {
    const ANEW: u8 = 0x40;

    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(u8::try_from(number & 0x7f).unwrap() | 0x80);
            number >>= 7;
        }
        self.0.push(u8::try_from(number).unwrap());
    }
    fn text(&mut self, text: &[u8]) {
        self.number(u64::try_from(text.len()).unwrap());
        self.0.extend(text);
    }
    /// A SYN of these ids, all of them new.
    fn syn(ids: &[(String, u64)], heartbeat: u64) -> Vec<u8> {
        let mut frame = Self(vec![Self::ANEW | 0x20]);
        frame.text(b"main");
        frame.number(0);
        frame.number(u64::try_from(ids.len()).unwrap());
        let mut said = Vec::new();
        for (short, generation) in ids {
            frame.0.extend(short.as_bytes());
            said.extend(short.as_bytes());
            for number in [*generation, heartbeat, 1] {
                frame.number(number);
                said.extend(number.to_le_bytes());
            }
        }
        frame.0.extend(&Hash::of(&[b"skein gossip digest", &said]).0[..2]);
        frame.0
    }
    /// An ACK of one node with one key that is none of the four.
    fn ack(node: &Hello, key: &[u8], value: &[u8], version: u64) -> Vec<u8> {
        let mut frame = Self(vec![Self::ANEW | 2, 1, 0]);
        frame.0.extend(node.key.short().as_str().as_bytes());
        frame.number(node.boot);
        frame.0.extend([0, 1]);
        frame.number(u64::try_from(key.len()).unwrap() + 4);
        frame.0.extend(key);
        frame.text(value);
        frame.number(version);
        frame.0
    }
}

type Attack = (&'static str, &'static str, Vec<u8>);

/// The messages of FAULTS.md 5.1, told to `victim` about itself and `other`: as chitchat writes
/// them, and those of them that shorthand can say.
fn attacks(victim: &Hello, other: &Hello) -> Vec<Attack> {
    let about = |node: &Hello, build: &dyn Fn(&mut Bytes)| {
        let mut operations = Bytes::default();
        operations.node(node);
        build(&mut operations);
        operations
    };
    let mut c2 = Bytes::message(1);
    c2.digest(other, 1, 1);
    c2.delta(&about(other, &|o| {
        o.key(b"state", b"up", 100);
        o.set_max(1);
    }));
    let c3 = Bytes::ack(&about(victim, &|o| o.key(b"state", b"dead", u64::MAX)));
    let mut c4 = Bytes::message(0);
    c4.digest(other, u64::MAX, 1);
    c4.text(b"main");
    let invented: Vec<(String, u64)> = (0..800_u32)
        .map(|n| format!("{n:010}").bytes().map(|digit| char::from(digit + 49)).collect())
        .map(|short| (short, 1))
        .collect();
    let mut c5 = Bytes::message(0);
    c5.number(800, 2);
    for (short, generation) in &invented {
        c5.id(short, *generation, virtual_address(&NodeKey([1; 32])));
        (0..3).for_each(|_| c5.number(0, 8));
    }
    c5.text(b"main");
    let mut c6 = Bytes::message(2);
    // Nineteen bytes that unpack to 64 KiB, as often as fits: what it is packed in matters not.
    for _ in 0..3000 {
        c6.0.push(1);
        c6.text(&[
            0x28, 0xb5, 0x2f, 0xfd, 0x60, 0xff, 0xfe, 0x55, 0, 0, 8, 0, 0, 1, 0, 0xfb, 0xff, 0x39,
            0xc0,
        ]);
    }
    c6.0.push(0);
    let plain = [("C2", c2), ("C3", c3), ("C4", c4), ("C5", c5), ("C6", c6)];
    let plain = plain.map(|(name, bytes)| (name, "malformed gossip message", bytes.0));
    let own = (other.key.short().as_str().to_owned(), other.boot);
    let key_reason = "gossip key that is not short ASCII";
    let short = [
        ("C3", "gossip about ourselves", Short::ack(victim, b"colour", b"dead", u64::MAX)),
        ("C4", "gossip of another cluster", Short::syn(&[own], u64::MAX)),
        ("C5", "gossip of another cluster", Short::syn(&invented, 1)),
        ("C5 again", "gossip of another cluster", Short::syn(&invented, 2)),
        ("a key that is not ASCII", key_reason, Short::ack(other, "clé".as_bytes(), b"1", 5)),
        (
            "a value over its limit",
            "gossip value over its limit",
            Short::ack(other, b"colour", &[b'9'; 9000], 5),
        ),
        (
            "a place that was never told",
            "gossip out of step with its link",
            vec![Short::ANEW | 2, 1, 9, 0, 0],
        ),
    ];
    plain.into_iter().chain(short).collect()
}

/// Figures of an agent: the sum of a metric's lines that hold all of `words`.
async fn metric(host: &Host, words: &[&str]) -> f64 {
    let mut stream = TcpStream::connect((host.ip, 7401)).await.expect("the agent's http port");
    let ask =
        format!("GET /metrics HTTP/1.1\r\nhost: {}:7401\r\nconnection: close\r\n\r\n", host.ip);
    stream.write_all(ask.as_bytes()).await.expect("a request");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("an answer");
    let found = text.lines().filter(|line| words.iter().all(|word| line.contains(word)));
    found.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// Resident memory of an agent.
pub(crate) fn resident_kib(host: &mut Host) -> u64 {
    let id = host.agent().id().expect("it runs");
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// A mesh of which the last host's agent has ended; the first calls a service on the second.
pub(crate) struct Scene {
    pub(crate) mesh: Mesh,
    pub(crate) here: SocketAddr,
    pub(crate) rogue: Rogue,
    _server: Server,
}

impl Scene {
    pub(crate) async fn new(count: usize) -> Self {
        let mut mesh = Mesh::start(count).await;
        let server = Server::start(mesh[1].ip, Conduct::Echo).await;
        mesh[1].manifest("echo.yaml", &registry("echo", PORT, server.address));
        mesh[0].manifest("use.yaml", &discovery("echo", HERE, PORT));
        let here = SocketAddr::new(mesh[0].ip, HERE);
        until(SOON, "the service passes", async || {
            let detail = mesh[0].try_json(&["service", "shop/echo"]).await?;
            let passing = detail["endpoints"][0]["status"] == "passing";
            passing.then_some(()).ok_or_else(|| detail.to_string())
        })
        .await;
        mesh[count - 1].kill().await;
        let rogue = Rogue::of(&mesh[count - 1]);
        Self { mesh, here, rogue, _server: server }
    }

    pub(crate) fn victims(&self) -> usize {
        self.mesh.hosts.len() - 1
    }

    pub(crate) fn address(&self, n: usize) -> SocketAddr {
        self.mesh.mesh_address(n).parse().unwrap()
    }

    /// All others live, know each other, and hold the service for passing.
    pub(crate) async fn nobody_is_hurt(&mut self) {
        let victims = self.victims();
        for host in &mut self.mesh.hosts[..victims] {
            assert!(host.agent().ended().is_none(), "{} died", host.name);
            let log = host.log();
            assert!(!log.contains("panicked"), "{} panicked", host.name);
            assert!(!log.contains("gossip ended"), "the gossip of {} died", host.name);
        }
        for host in &self.mesh.hosts[..victims] {
            until(SOON, "the view is right", async || {
                let members = host.try_json(&["members"]).await?;
                let all = members.as_array().cloned().unwrap_or_default();
                let names: Vec<String> =
                    self.mesh.hosts.iter().map(|host| host.name.clone()).collect();
                let known = all.iter().all(|m| names.iter().any(|name| m["name"] == name.as_str()));
                let others = &names[..victims];
                let alive = others.iter().all(|name| {
                    all.iter().any(|m| m["name"] == name.as_str() && m["state"] == "alive")
                });
                let detail = host.try_json(&["service", "shop/echo"]).await?;
                let one = detail["endpoints"].as_array().map_or(0, Vec::len) == 1;
                let passing = one && detail["endpoints"][0]["status"] == "passing";
                (known && alive && passing).then_some(()).ok_or_else(|| members.to_string())
            })
            .await;
        }
    }
}

#[tokio::test]
async fn chitchat_messages_of_a_hostile_member_hurt_nobody_and_are_blamed() {
    let mut stand = Scene::new(8).await;
    let load = Load::start(Plan::new(stand.here));
    let mut held = Vec::new();
    for n in 0..stand.victims() {
        let to = stand.address(n);
        held.push(stand.rogue.meet(to, LinkRole::Control).await);
    }
    let hellos: Vec<Hello> = held.iter().map(|held| held.theirs.clone()).collect();
    let mut before = BTreeMap::new();
    for n in 0..held.len() {
        before.insert(n, resident_kib(&mut stand.mesh[n]));
    }
    for (n, held) in held.iter_mut().enumerate() {
        for (name, _, message) in attacks(&hellos[n], &hellos[(n + 1) % hellos.len()]) {
            let mut bytes = vec![frame::GOSSIP];
            bytes.extend(&message);
            write(&mut held.stream, &bytes).await.unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }
    for n in 0..held.len() {
        let expected: Vec<_> = attacks(&hellos[n], &hellos[0]).iter().map(|a| a.1).collect();
        let host = &stand.mesh[n];
        until(SOON, "each is blamed in the log and the metrics", async || {
            let log = host.log();
            let lacks = expected.iter().find(|reason| !log.contains(**reason));
            lacks.map_or(Ok(()), |reason| Err(format!("{}: no `{reason}`", host.name)))?;
            let blamed = metric(host, &["blame", "gossip"]).await;
            let least = f64::from(u32::try_from(expected.len()).unwrap());
            (blamed >= least).then_some(()).ok_or_else(|| format!("{blamed} in the metrics"))
        })
        .await;
        let after = resident_kib(&mut stand.mesh[n]);
        assert!(after < before[&n] + 30 * 1024, "memory went from {} to {after} KiB", before[&n]);
    }
    stand.nobody_is_hurt().await;
    let report = load.stop().await;
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    println!("{} calls held meanwhile, worst {:?}", report.took.len(), report.percentile(1.0));
}

/// What the last host says of itself: one instance of `service`, of that weight.
fn record(scene: &Scene, service: &str, weight: u32) -> NodeRecord {
    let instance = Instance {
        id: InstanceId { document: "echo".parse().unwrap(), endpoint: "z".parse().unwrap() },
        service: service.parse().unwrap(),
        ports: vec![ServicePort {
            name: "tcp".parse().unwrap(),
            port: PORT,
            protocol: Protocol::Tcp,
            exposed: false,
            hosts: Vec::new(),
        }],
        health: Health::Passing,
        weight,
        version: None,
        image: None,
        tags: Vec::new(),
        meta: Vec::new(),
        target: "127.0.0.1:1".to_owned(),
        set_aside: None,
    };
    let host = RecordHost {
        boot: scene.rogue.boot + 100,
        gossip_generation: scene.rogue.boot + 100,
        name: "d".parse().unwrap(),
        locality: "default".parse().unwrap(),
        state: NodeState::Up,
        version: "0.1.0".parse().unwrap(),
        unwritten: false,
    };
    NodeRecord {
        host,
        addresses: Addresses(Vec::new()),
        instances: Instances(vec![instance]),
        tokens: TokenUses::default(),
        issuer: HeldIssuer::default(),
    }
}

/// The same record with other bytes in it, signed anew by the rogue.
fn bent(scene: &Scene, bundle: &Bundle, change: impl FnOnce(&mut Vec<u8>)) -> Bundle {
    let mut record = bundle.record.clone();
    record.truncate(record.len() - SIGNATURE_BYTES);
    change(&mut record);
    let credentials = scene.rogue.endpoint.credentials();
    let signature = credentials.pair().sign(&[SIGNATURE_DOMAIN, &record].concat());
    record.extend_from_slice(&signature.0);
    Bundle { chain: bundle.chain.clone(), record }
}

fn replace(bytes: &mut [u8], old: &[u8], new: &[u8]) {
    let at = bytes.windows(old.len()).position(|window| window == old).expect("it is there");
    bytes[at..at + new.len()].copy_from_slice(new);
}

#[tokio::test]
async fn what_an_admitted_member_forges_changes_no_view_and_is_counted_with_its_reason() {
    let mut scene = Scene::new(4).await;
    let (to, other) = (scene.address(0), scene.address(1));
    // The rogue's certificate names shop/echo only.
    let key = scene.rogue.key.to_string();
    let admit = ["admit", &key, "--name", "d", "--service", "shop/echo"];
    let admitted = scene.mesh[0].json(&admit).await;
    let file = scene.mesh[3].dir.join("narrow.pem");
    std::fs::write(&file, admitted["chain_pem"].as_str().expect("a chain")).unwrap();
    let chain = skein_node::keys::file::read_chain(&file).unwrap();
    let credentials = std::sync::Arc::clone(scene.rogue.endpoint.credentials());
    let trust = credentials.trust().unwrap();
    let verified = verify_chain(&chain, &trust.roots, wall(), &Ed25519).unwrap();
    let own = OwnChain { chain, verified };
    let mesh = trust.roots.mesh;
    let sign = |content: NodeRecord, sequence: u64| {
        let until = wall().after(Duration::from_secs(3600));
        let signer: &dyn Signer = &**credentials.pair();
        let signed = Verified::sign(content, mesh, sequence, until, &own, signer);
        Bundle::clone(signed.expect("a record").bundle())
    };
    let met = scene.rogue.meet(other, LinkRole::Control).await;
    let Speaks::Bundle(Some(old)) = met.theirs.speaks.clone() else { panic!("no record") };
    let address = scene._server.address;
    scene.mesh[1].manifest("more.yaml", &registry("more", PORT + 1, address));
    until(SOON, "b has said more since", async || {
        let services = scene.mesh[0].try_json(&["services"]).await?;
        let found = services.as_array().is_some_and(|all| all.len() == 2);
        found.then_some(()).ok_or_else(|| services.to_string())
    })
    .await;

    let good = sign(record(&scene, "shop/echo", 1), 1 << 30);
    let outside = bent(&scene, &good, |bytes| replace(bytes, b"shop/echo", b"shop/more"));
    let theirs = NodeKey(met.theirs.key.0);
    let mut foreign = bent(&scene, &good, |bytes| bytes[35..67].copy_from_slice(&theirs.0));
    foreign.chain = old.chain.clone();
    let mut held = scene.rogue.meet(to, LinkRole::Control).await;
    for bundle in [outside, foreign, old] {
        let frame = Frame::Record(Box::new(bundle)).encode().unwrap();
        write(&mut held.stream, &frame).await.unwrap();
    }
    let host = &scene.mesh[0];
    until(SOON, "the forged ones are blamed, the old one is counted", async || {
        let bad = metric(host, &["skein_blame", "bad_record"]).await;
        let older = metric(host, &["skein_records_ignored", "older"]).await;
        let log = host.log();
        let told = log.contains("its grant does not name shop/more")
            && log.contains("its signature does not hold");
        (bad >= 2.0 && older >= 1.0 && told)
            .then_some(())
            .ok_or_else(|| format!("{bad} bad, {older} older: {log}"))
    })
    .await;
    let more = host.json(&["service", "shop/more"]).await;
    assert_eq!(more["endpoints"].as_array().map(Vec::len), Some(1), "{more}");
    assert_eq!(more["endpoints"][0]["node"], "b", "{more}");

    // Two contents at one sequence: both are kept as proof, and none of it is used.
    for weight in [2, 3] {
        let bundle = sign(record(&scene, "shop/echo", weight), 1 << 31);
        let frame = Frame::Record(Box::new(bundle)).encode().unwrap();
        write(&mut held.stream, &frame).await.unwrap();
    }
    for host in &scene.mesh.hosts[..3] {
        until(SOON, "the fork is told, and not used", async || {
            let log = host.log();
            let detail = host.try_json(&["service", "shop/echo"]).await?;
            let all = detail["endpoints"].as_array().cloned().unwrap_or_default();
            let unused = all.iter().all(|e| e["node"] != "d" || e["reason"] == "cloned");
            let told = log.contains("signed two records with one sequence");
            (told && unused).then_some(()).ok_or_else(|| format!("{detail} {log}"))
        })
        .await;
    }
    assert!(metric(&scene.mesh[0], &["skein_blame", "fork"]).await >= 1.0);
}

#[tokio::test]
async fn a_frame_of_impossible_length_or_with_a_tail_ends_or_blames() {
    let mut stand = Scene::new(3).await;
    for length in [u32::MAX, 128 * 1024 + 1, 0] {
        let to = stand.address(0);
        let mut held = stand.rogue.meet(to, LinkRole::Control).await;
        held.stream.0.write_all(&length.to_le_bytes()).await.unwrap();
        held.stream.0.flush().await.unwrap();
        let closed = timeout(SOON, held.link.mux.closed()).await;
        closed.unwrap_or_else(|_| panic!("a frame of {length} bytes leaves the link open"));
    }
    let stand_now = Stand {
        records: Hash::of(&[]),
        revocations: Hash::of(&[]),
        policy: Hash::of(&[]),
        probation: false,
    };
    let mut probe = Frame::Probe(stand_now.brief(7)).encode().unwrap();
    probe.push(0);
    let to = stand.address(1);
    let mut held = stand.rogue.meet(to, LinkRole::Control).await;
    write(&mut held.stream, &probe).await.unwrap();
    let host = &stand.mesh[1];
    until(SOON, "a byte too many is blamed", async || {
        let blamed = metric(host, &["blame", "malformed"]).await;
        (blamed >= 1.0).then_some(()).ok_or_else(|| host.log())
    })
    .await;
    stand.nobody_is_hurt().await;
}

#[tokio::test]
async fn random_frames_over_a_real_link_kill_nobody() {
    let mut stand = Scene::new(3).await;
    let mut rng = StdRng::seed_from_u64(47);
    let good = Frame::Hello(Box::new(stand.rogue.hello(LinkRole::Control))).encode().unwrap();
    let mut sent = 0;
    for n in 0..stand.victims() {
        let to = stand.address(n);
        let mut held = stand.rogue.meet(to, LinkRole::Control).await;
        for _ in 0..300 {
            let mut bytes = match rng.random_range(0..3) {
                0 => (0..rng.random_range(1..200)).map(|_| rng.random()).collect(),
                _ => good.clone(),
            };
            let place = rng.random_range(0..bytes.len());
            bytes[place] ^= 1 << rng.random_range(0..8);
            if rng.random_range(0..4) == 0 {
                bytes[0] = rng.random_range(0..70);
            }
            // It is cut off after so much blame: that is what should be.
            if write(&mut held.stream, &bytes).await.is_err() {
                break;
            }
            sent += 1;
        }
        let host = &stand.mesh[n];
        until(SOON, "the peer is cut off", async || {
            host.log().contains("cut off").then_some(()).ok_or_else(|| host.log())
        })
        .await;
    }
    stand.nobody_is_hurt().await;
    println!("{sent} frames");
}

async fn open_tcp(held: &Held) -> Option<StreamPair> {
    let mut stream = timeout(Duration::from_secs(1), held.link.mux.open()).await.ok()?.ok()?;
    let head = StreamHead::new("shop/echo".parse().unwrap(), PORT, Source::Node).encode().unwrap();
    stream.0.write_all(&[StreamKind::Tcp.byte()]).await.ok()?;
    stream.0.write_all(&head).await.ok()?;
    Some(stream)
}

#[tokio::test]
async fn a_peer_that_opens_all_streams_and_reads_none_costs_its_own_budget_only() {
    let mut stand = Scene::new(3).await;
    let before = resident_kib(&mut stand.mesh[1]);
    let to = stand.address(1);
    let held = stand.rogue.meet(to, LinkRole::Data).await;
    let mut streams = Vec::new();
    let body = vec![7; 256 * 1024];
    for _ in 0..1100 {
        let Some(mut stream) = open_tcp(&held).await else { break };
        // As much as is taken at once; nothing that comes back is read.
        let _ = timeout(Duration::from_millis(2), stream.0.write_all(&body)).await;
        streams.push(stream);
    }
    let load = Load::start(Plan::new(stand.here));
    until(SOON, "the load runs", async || {
        let begun = load.begun();
        (begun >= 100).then_some(()).ok_or_else(|| begun.to_string())
    })
    .await;
    let report = load.stop().await;
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    let after = resident_kib(&mut stand.mesh[1]);
    println!(
        "{} streams; memory {before} to {after} KiB; calls {:?}",
        streams.len(),
        report.percentile(1.0)
    );
    // The connection's 16 MiB each way, a socket's buffers for each stream, and room.
    assert!(after < before + 200 * 1024, "memory went from {before} to {after} KiB");
    stand.nobody_is_hurt().await;
}

#[tokio::test]
async fn a_stream_without_a_head_is_ended_by_the_deadline() {
    let mut stand = Scene::new(3).await;
    let to = stand.address(1);
    let held = stand.rogue.meet(to, LinkRole::Data).await;
    let mut stream = held.link.mux.open().await.unwrap();
    stream.0.write_all(&[StreamKind::Tcp.byte()]).await.unwrap();
    let start = std::time::Instant::now();
    let mut byte = [0; 1];
    let ended = timeout(Duration::from_secs(25), stream.1.read(&mut byte)).await;
    assert!(ended.is_ok(), "a silent stream stays");
    println!("ended after {:?}: {:?}", start.elapsed(), ended.unwrap());
    stand.nobody_is_hurt().await;
}

#[tokio::test]
async fn a_connection_that_is_driven_as_control_carries_no_data() {
    let mut stand = Scene::new(3).await;
    let link = stand.rogue.dial(stand.address(1), Role::Control).await;
    let mut stream = link.mux.open().await.expect("a stream");
    stream.0.write_all(&[StreamKind::Control.byte()]).await.expect("a byte");
    let hello = Frame::Hello(Box::new(stand.rogue.hello(LinkRole::Data))).encode().unwrap();
    write(&mut stream, &hello).await.expect("a Hello");
    let ended = timeout(SOON, link.mux.closed()).await;
    assert!(ended.is_ok(), "it stays");
    assert_eq!(link.mux.closed_by_peer(), Some(CloseCode::WrongProtocol));
    stand.nobody_is_hurt().await;
}
