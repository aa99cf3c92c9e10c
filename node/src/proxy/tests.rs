//! Agents on a table: real sockets for applications, a mux in memory between agents.

use std::{collections::BTreeSet, future::pending, sync::Mutex};

use skein_protocol::{
    caller::Caller,
    clock::Wall,
    name::{Hash, Locality},
    policy::traffic::TrafficRules,
    record::node::{Health, Instance, Protocol, ServicePort},
    trust::Grant,
    view::{Endpoint, Liveness, NodeView, Reason, Use},
    wire::{
        kind::StreamKind,
        stream::{PREFIX_BYTES, Refusal, Reply},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::mpsc,
    time::{Instant, timeout},
};

use super::{
    copy::copy,
    testing::{MemMux, connection, stream},
    *,
};
use crate::link::mux::StreamPair;

mod traffic;

const SERVICE: &str = "shop/db";
const PORT: u16 = 3306;
const PATIENCE: Duration = Duration::from_secs(20);

/// What fails hangs: every wait of a test ends.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("nothing hangs")
}

fn key(number: u8) -> NodeKey {
    NodeKey([number; 32])
}

fn identity(number: u8, services: &[&str]) -> PeerIdentity {
    PeerIdentity {
        key: key(number),
        grant: Grant {
            name: format!("n{number}").parse().unwrap(),
            services: services.iter().map(|one| one.parse().unwrap()).collect(),
            roles: Vec::new(),
            zone: None,
        },
    }
}

fn instance_id() -> InstanceId {
    InstanceId { document: "db".parse().unwrap(), endpoint: "a".parse().unwrap() }
}

fn ports() -> Vec<ServicePort> {
    vec![ServicePort {
        name: "mysql".parse().unwrap(),
        port: PORT,
        protocol: Protocol::Tcp,
        exposed: false,
        hosts: Vec::new(),
    }]
}

fn endpoint(number: u8, usable: Use) -> Endpoint {
    let key = key(number);
    Endpoint {
        node: Arc::new(NodeView {
            key,
            short: key.short(),
            name: format!("n{number}").parse().unwrap(),
            grant: Arc::new(Grant::new("n".parse().unwrap(), vec![], vec![], None).unwrap()),
            locality: "z".parse().unwrap(),
            addresses: Vec::new(),
            liveness: Liveness::Alive,
            boot: 1,
            gossip_generation: 1,
            sequence: 1,
            hash: Hash([0; 32]),
            version: String::new(),
            issuer: false,
            held_issuer: None,
            tokens: Arc::default(),
            root: [0; 32],
            certified: true,
            unwritten: false,
            not_after: Wall(u64::MAX),
        }),
        instance: Arc::new(Instance {
            id: instance_id(),
            service: SERVICE.parse().unwrap(),
            ports: ports(),
            health: Health::Passing,
            weight: 10,
            version: None,
            image: None,
            tags: Vec::new(),
            meta: Vec::new(),
            target: String::new(),
            set_aside: None,
        }),
        usable,
    }
}

/// The view of node 1, with the service at these nodes.
fn view(endpoints: &[(u8, Use)]) -> Arc<View> {
    let zero = Hash([0; 32]);
    let locality: Locality = "z".parse().unwrap();
    let service = ServiceView {
        name: SERVICE.parse().unwrap(),
        ports: ports(),
        endpoints: endpoints.iter().map(|(n, usable)| endpoint(*n, *usable)).collect(),
    };
    let services = match endpoints {
        [] => BTreeMap::new(),
        _ => [(service.name.clone(), Arc::new(service))].into(),
    };
    Arc::new(View {
        number: 1,
        me: key(1),
        locality,
        records_root: zero,
        revocation_root: zero,
        policy_root: zero,
        policy: Arc::default(),
        nodes: BTreeMap::new(),
        services,
    })
}

#[derive(Clone)]
enum Link {
    Up(Arc<MemMux>),
    Down,
    Hangs,
}

#[derive(Default)]
struct Links(Mutex<BTreeMap<NodeKey, Link>>);

impl Dialer for Links {
    fn data(&self, node: NodeKey) -> BoxFuture<'_, Result<Arc<dyn Mux>, DialError>> {
        let link = self.0.lock().unwrap().get(&node).cloned();
        Box::pin(async move {
            match link {
                Some(Link::Up(mux)) => Ok(mux as Arc<dyn Mux>),
                Some(Link::Hangs) => pending().await,
                Some(Link::Down) | None => Err(DialError("no route to host".to_owned())),
            }
        })
    }
}

struct Lines(mpsc::Sender<Connection>);

impl Observer for Lines {
    fn finished(&self, connection: &Connection) {
        self.0.try_send(connection.clone()).unwrap();
    }
}

struct Rules(watch::Receiver<Arc<Traffic>>);

impl Behave for Rules {
    fn now(&self) -> Arc<Traffic> {
        Arc::clone(&self.0.borrow())
    }
}

/// Says of every caller what it was told to say, and counts how often it was asked.
struct Known(Mutex<(Result<Caller, String>, u32)>);

impl Identify for Known {
    fn identify(&self, _: Arrival, _: bool) -> BoxFuture<'_, Result<Caller, String>> {
        let mut known = self.0.lock().unwrap();
        known.1 += 1;
        let known = known.0.clone();
        Box::pin(async { known })
    }
}

struct Agent {
    proxy: Arc<Proxy>,
    me: PeerIdentity,
    view: watch::Sender<Arc<View>>,
    local: watch::Sender<Arc<LocalServices>>,
    links: Arc<Links>,
    known: Arc<Known>,
    traffic: watch::Sender<Arc<Traffic>>,
    lines: mpsc::Receiver<Connection>,
}

impl Agent {
    fn new(number: u8) -> Self {
        Self::with_grant(number, &["*/*"])
    }

    fn with_grant(number: u8, services: &[&str]) -> Self {
        let me = identity(number, services);
        let local = LocalServices {
            me: me.clone(),
            boot: 1,
            draining: false,
            probation: false,
            instances: BTreeMap::new(),
            workloads: Workloads::default(),
        };
        let (view, view_in) = watch::channel(view(&[]));
        let (local, local_in) = watch::channel(Arc::new(local));
        let (traffic, traffic_in) = watch::channel(Arc::default());
        let (lines_out, lines) = mpsc::channel(4096);
        let links = Arc::new(Links::default());
        let known = Arc::new(Known(Mutex::new((Err("it is gone".to_owned()), 0))));
        let proxy = Proxy::new(Parts {
            view: view_in,
            local: local_in,
            dialer: Arc::clone(&links) as Arc<dyn Dialer>,
            traffic: Arc::new(Rules(traffic_in)),
            authorise: Arc::new(AllowAll),
            identify: Arc::clone(&known) as Arc<dyn Identify>,
            certificates: watch::channel(None).1,
            inherited: Inherited::default(),
            observer: Arc::new(Lines(lines_out)),
            runtime: Handle::current(),
            seed: 7,
            timeouts: Timeouts {
                head: Duration::from_millis(60),
                reply: Duration::from_millis(200),
                ..Timeouts::default()
            },
        });
        Self { proxy, me, view, local, links, known, traffic, lines }
    }

    /// These traffic policies are in force.
    fn rules(&self, policies: &[&str]) {
        let named = policies.iter().enumerate();
        let list: Vec<String> =
            named.map(|(n, one)| format!("{{name: p{n}, trafficPolicy: {{{one}}}}}")).collect();
        let text = format!(
            "apiVersion: skein/v1\nkind: TrafficManagement\nmetadata: {{name: t, namespace: shop}}\n\
             spec: {{trafficPolicies: [{}]}}\n",
            list.join(", ")
        );
        let inputs = skein_protocol::manifest::Inputs::default();
        let document = skein_protocol::manifest::parse("t.yaml", &text, &inputs);
        let document = document.unwrap_or_else(|faults| panic!("{faults}")).remove(0);
        let skein_protocol::manifest::Body::Traffic(rules) = document.body else { panic!() };
        let content = skein_protocol::policy::Content::Traffic(Arc::new(rules));
        let head = skein_protocol::policy::Head { generation: 1, version: Hash([0; 32]), content };
        let heads = [(document.id, vec![head])].into();
        self.traffic.send_replace(Arc::new(Traffic::new(TrafficRules::new(&heads, None))));
    }

    /// This host's processes of uid 1001 are that service.
    fn is_workload(&self, service: &str) {
        let text = format!(
            "apiVersion: skein/v1\nkind: ServiceRegistry\nmetadata: {{name: w, namespace: x}}\n\
             spec: {{service: {service}, ports: [{{port: 9}}], workload: {{user: \"1001\"}}}}\n"
        );
        let inputs = skein_protocol::manifest::Inputs::default();
        let documents = skein_protocol::manifest::parse("w.yaml", &text, &inputs).unwrap();
        let documents: Vec<_> = documents.into_iter().map(Arc::new).collect();
        let (plan, faults) = skein_protocol::manifest::plan::Plan::resolve(&documents);
        assert!(faults.is_empty(), "{faults:?}");
        let workloads = Workloads::new(&plan, |_| None);
        self.local.send_modify(|local| Arc::make_mut(local).workloads = workloads.clone());
    }

    fn calls_as(&self, uid: u32) {
        self.known.0.lock().unwrap().0 = Ok(Caller { uid, unit: Ok(None) });
    }

    fn asked(&self) -> u32 {
        self.known.0.lock().unwrap().1
    }

    fn serve(&self, target: Target) {
        self.local.send_modify(|local| {
            let one = LocalInstance {
                id: instance_id(),
                takes: true,
                target,
                protocol: Protocol::Sniff,
                proxy_protocol: false,
            };
            let at = (SERVICE.parse().unwrap(), PORT);
            Arc::make_mut(local).instances.insert(at, vec![one]);
        });
    }

    fn see(&self, endpoints: &[(u8, Use)]) {
        self.view.send_replace(view(endpoints));
    }

    fn link(&self, number: u8, link: Link) {
        self.links.0.lock().unwrap().insert(key(number), link);
    }

    /// Links this agent to `other`, which serves what comes.
    fn dial(&self, other: &Self) {
        let (mine, theirs) = connection();
        self.link(other.me.key.0[0], Link::Up(mine));
        let peer = other.proxy.peer(self.me.clone());
        let proxy = Arc::clone(&other.proxy);
        Handle::current().spawn(async move {
            while let Ok((send, mut recv)) = theirs.accept().await {
                let (proxy, peer) = (Arc::clone(&proxy), peer.clone());
                Handle::current().spawn(async move {
                    let kind = recv.read_u8().await.unwrap();
                    assert_eq!(StreamKind::from_byte(kind), Some(StreamKind::Tcp));
                    proxy.serve_stream(&peer, StreamKind::Tcp, (send, recv)).await;
                });
            }
        });
    }

    /// Links this agent to a made-up one, whose streams the test gets.
    fn fake(&self, number: u8) -> mpsc::Receiver<(StreamHead, StreamPair)> {
        let (mine, theirs) = connection();
        self.link(number, Link::Up(mine));
        let (out, streams) = mpsc::channel(64);
        Handle::current().spawn(async move {
            while let Ok((send, mut recv)) = theirs.accept().await {
                let head = head_of(&mut *recv).await;
                let _ = out.send((head, (send, recv))).await;
            }
        });
        streams
    }

    /// Links this agent to a made-up one that answers every call so.
    fn answering(&self, number: u8, reply: Reply) {
        let mut streams = self.fake(number);
        Handle::current().spawn(async move {
            while let Some((_, (mut send, _recv))) = streams.recv().await {
                send.write_all(&reply.encode()).await.unwrap();
                send.shutdown().await.unwrap();
            }
        });
    }

    async fn listen(
        &self,
        spec: ListenerSpec,
    ) -> (Listening, SocketAddr, watch::Sender<Arc<Listeners>>) {
        let asked = Bind::Tcp("127.0.0.1:0".parse().unwrap());
        let wanted = Listeners([(asked.clone(), Arc::new(spec))].into());
        let (wanted_out, wanted) = watch::channel(Arc::new(wanted));
        let mut listening = self.proxy.listen(wanted);
        let bound = soon(listening.bound.wait_for(|bound| !bound.is_empty())).await;
        let Bind::Tcp(at) = bound.unwrap()[&asked].clone() else {
            panic!("a TCP listener");
        };
        (listening, at, wanted_out)
    }

    /// A connection of an application through this agent to the service.
    async fn call(&self) -> TcpStream {
        self.call_as(spec()).await
    }

    async fn call_as(&self, spec: ListenerSpec) -> TcpStream {
        let (app, at) = sockets().await;
        let (proxy, spec) = (Arc::clone(&self.proxy), Arc::new(spec));
        Handle::current()
            .spawn(async move { proxy.carry(Socket::Tcp(app), None, &spec, pending()).await });
        at
    }

    async fn line(&mut self) -> Connection {
        soon(self.lines.recv()).await.unwrap()
    }
}

async fn head_of(recv: &mut dyn crate::link::mux::RecvHalf) -> StreamHead {
    assert_eq!(recv.read_u8().await.unwrap(), StreamKind::Tcp.byte());
    let mut prefix = [0; PREFIX_BYTES];
    recv.read_exact(&mut prefix).await.unwrap();
    let mut body = vec![0; StreamHead::body_length(prefix).unwrap()];
    recv.read_exact(&mut body).await.unwrap();
    StreamHead::decode(&body).unwrap()
}

fn spec() -> ListenerSpec {
    ListenerSpec {
        name: "ServiceDiscovery shop/db".to_owned(),
        service: SERVICE.parse().unwrap(),
        port: PortRef::Name("mysql".parse().unwrap()),
        terms: Terms::default(),
        outside: false,
        door: None,
    }
}

fn counting_as(name: &str) -> ListenerSpec {
    let source = Source::Service(name.parse().unwrap());
    ListenerSpec { terms: Terms { source, ..Terms::default() }, ..spec() }
}

fn falling_back(fallback: Vec<Target>) -> ListenerSpec {
    ListenerSpec { terms: Terms { fallback, ..Terms::default() }, ..spec() }
}

/// Two ends of a TCP connection.
async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap());
    let (client, server) = tokio::join!(client, listener.accept());
    (server.unwrap().0, client.unwrap())
}

/// An application that listens; the test accepts.
async fn application() -> (TcpListener, Target) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = Target::Tcp(listener.local_addr().unwrap());
    (listener, target)
}

/// An application that says its name to each caller, and ends.
async fn greeter(name: &'static str) -> Target {
    let (listener, target) = application().await;
    Handle::current().spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(name.as_bytes()).await;
        }
    });
    target
}

async fn all_of(mut stream: TcpStream) -> std::io::Result<String> {
    let mut text = String::new();
    soon(stream.read_to_string(&mut text)).await?;
    Ok(text)
}

fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

fn is_reset<T: std::fmt::Debug>(result: std::io::Result<T>) {
    assert_eq!(result.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

/// Node 1, which calls, and node 2, which serves through the mux.
async fn pair() -> (Agent, Agent, TcpListener) {
    let (one, two) = (Agent::new(1), Agent::new(2));
    let (listener, target) = application().await;
    two.serve(target);
    one.see(&[(2, Use::Yes)]);
    one.dial(&two);
    (one, two, listener)
}

#[tokio::test]
async fn each_direction_ends_alone_and_both_sides_log_the_bytes() {
    let (mut one, mut two, app) = pair().await;
    let mut client = one.call().await;
    let (mut served, _) = soon(app.accept()).await.unwrap();
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let mut asked = String::new();
    soon(served.read_to_string(&mut asked)).await.unwrap();
    assert_eq!(asked, "question");
    served.write_all(b"and a longer answer").await.unwrap();
    drop(served);
    assert_eq!(all_of(client).await.unwrap(), "and a longer answer");
    let (out, inn) = (one.line().await, two.line().await);
    assert_eq!((out.reason, out.up, out.down, out.tries), (CloseReason::Done, 8, 19, 1));
    assert_eq!(out.endpoint.as_deref(), Some("n2/db/a"));
    assert_eq!((inn.reason, inn.up, inn.down), (CloseReason::Done, 8, 19));
    assert_eq!((inn.direction, inn.peer), (Direction::Inbound, Some(key(1))));
    assert_eq!((one.proxy.live(), two.proxy.live()), Default::default());
}

#[tokio::test]
async fn a_reset_of_the_caller_reaches_the_application_as_a_reset() {
    let (mut one, mut two, app) = pair().await;
    let client = one.call().await;
    let (mut served, _) = soon(app.accept()).await.unwrap();
    reset(client);
    is_reset(soon(served.read(&mut [0; 8])).await);
    assert_eq!(one.line().await.reason, CloseReason::ClientReset);
    assert_eq!(two.line().await.reason, CloseReason::ClientReset);
}

#[tokio::test]
async fn a_reset_of_the_application_reaches_the_caller_as_a_reset() {
    let (mut one, mut two, app) = pair().await;
    let mut client = one.call().await;
    let (mut served, _) = soon(app.accept()).await.unwrap();
    served.write_all(b"half of it").await.unwrap();
    soon(client.read_exact(&mut [0; 10])).await.unwrap();
    reset(served);
    is_reset(soon(client.read(&mut [0; 8])).await);
    assert_eq!(one.line().await.reason, CloseReason::EndpointReset);
    assert_eq!(two.line().await.reason, CloseReason::EndpointReset);
}

#[tokio::test]
async fn a_slow_reader_gets_every_byte() {
    const BYTES: usize = 12 * 1024 * 1024;
    let (mut one, _two, app) = pair().await;
    let mut client = one.call().await;
    let (mut served, _) = soon(app.accept()).await.unwrap();
    let byte = |place: usize| (place.wrapping_mul(2_654_435_761) >> 13) as u8;
    let sender = Handle::current().spawn(async move {
        let bytes: Vec<u8> = (0..BYTES).map(byte).collect();
        client.write_all(&bytes).await.unwrap();
        client.shutdown().await.unwrap();
        client
    });
    let mut place = 0;
    let mut buffer = vec![0; 8191];
    loop {
        let count = soon(served.read(&mut buffer)).await.unwrap();
        if count == 0 {
            break;
        }
        let right = buffer[..count].iter().zip(place..).all(|(got, at)| *got == byte(at));
        assert!(right, "wrong byte after {place}");
        place += count;
        tokio::task::yield_now().await;
    }
    assert_eq!(place, BYTES);
    drop(served);
    drop(sender.await.unwrap());
    assert_eq!(one.line().await.up, BYTES as u64);
}

/// With nobody reading, the copy takes in two windows of the streams and one buffer, whatever is
/// sent.
#[tokio::test]
async fn memory_is_flat_when_nobody_reads() {
    let ((mut client, _keep_client), caller) = stream();
    let (service, (_keep_service, mut app)) = stream();
    let idle = limits::IDLE_TIMEOUT;
    let copied = Handle::current().spawn(copy(caller, service, pending(), idle));
    // Enough to have grown to the largest buffer.
    let grown = 12 * 1024 * 1024;
    let (chunk, mut sink) = (vec![1; 32 * 1024], vec![0; 32 * 1024]);
    for _ in 0..grown / chunk.len() {
        soon(client.write_all(&chunk)).await.unwrap();
        soon(app.read_exact(&mut sink)).await.unwrap();
    }
    let mut taken = 0;
    let stall = Duration::from_millis(100);
    while let Ok(written) = timeout(stall, client.write(&chunk)).await {
        taken += written.unwrap();
    }
    let most = 2 * 64 * 1024 + limits::BUFFER_LARGE;
    assert!(taken <= most, "{taken} of at most {most}");
    let mut left = vec![0; taken];
    soon(app.read_exact(&mut left)).await.unwrap();
    client.reset(0);
    let copied = soon(copied).await.unwrap();
    assert_eq!(copied.up, (grown + taken) as u64);
}

#[tokio::test]
async fn a_call_goes_on_to_another_endpoint_until_one_says_ok() {
    let refusals = Refusal::ALL.into_iter().filter(|code| code.elsewhere());
    let ways = refusals.map(Some).chain([None]);
    for refusal in ways {
        let mut one = Agent::new(1);
        let three = Agent::new(3);
        three.serve(greeter("three").await);
        one.see(&[(2, Use::Yes), (3, Use::LastChoice(Reason::Suspect))]);
        one.dial(&three);
        let mut silent = None;
        match refusal {
            Some(code) => one.answering(2, Reply::refused(code, "not now")),
            None => silent = Some(one.fake(2)),
        }
        let started = Instant::now();
        assert_eq!(all_of(one.call().await).await.unwrap(), "three", "{refusal:?}");
        let line = one.line().await;
        assert_eq!((line.reason, line.tries), (CloseReason::Done, 2), "{refusal:?}");
        assert!(started.elapsed() < Duration::from_secs(2));
        drop(silent);
    }
}

#[tokio::test]
async fn an_agent_that_cannot_be_dialled_blocks_nobody() {
    for link in [Link::Down, Link::Hangs] {
        let mut one = Agent::new(1);
        let three = Agent::new(3);
        three.serve(greeter("three").await);
        one.see(&[(2, Use::Yes), (3, Use::LastChoice(Reason::Suspect))]);
        one.dial(&three);
        one.link(2, link);
        assert_eq!(all_of(one.call().await).await.unwrap(), "three");
        assert_eq!(one.line().await.tries, 2);
    }
}

#[tokio::test]
async fn after_ok_no_other_endpoint_is_tried() {
    let mut one = Agent::new(1);
    let three = Agent::new(3);
    three.serve(greeter("three").await);
    one.see(&[(2, Use::Yes), (3, Use::LastChoice(Reason::Suspect))]);
    one.dial(&three);
    let mut streams = one.fake(2);
    let mut client = one.call().await;
    let (_, (mut send, _recv)) = soon(streams.recv()).await.unwrap();
    send.write_all(&Reply::Ok.encode()).await.unwrap();
    send.write_all(b"h").await.unwrap();
    soon(client.read_u8()).await.unwrap();
    send.reset(9);
    is_reset(all_of(client).await);
    let line = one.line().await;
    assert_eq!((line.reason, line.tries), (CloseReason::EndpointReset, 1));
    assert_eq!(line.peer, Some(key(2)));
}

#[tokio::test]
async fn not_one_byte_of_the_caller_goes_before_ok() {
    let one = Agent::new(1);
    one.see(&[(2, Use::Yes)]);
    let mut streams = one.fake(2);
    let mut client = one.call().await;
    client.write_all(b"secret").await.unwrap();
    let (head, (mut send, mut recv)) = soon(streams.recv()).await.unwrap();
    assert_eq!((head.port, head.boot), (PORT, Some(1)));
    let mut buffer = [0; 6];
    let early = timeout(Duration::from_millis(50), recv.read(&mut buffer)).await;
    assert!(early.is_err(), "{early:?}");
    send.write_all(&Reply::Ok.encode()).await.unwrap();
    soon(recv.read_exact(&mut buffer)).await.unwrap();
    assert_eq!(&buffer, b"secret");
}

#[tokio::test]
async fn a_source_that_the_grant_does_not_cover_is_denied_and_not_tried_elsewhere() {
    let (mut one, mut two) = (Agent::with_grant(1, &["shop/web"]), Agent::new(2));
    let three = Agent::new(3);
    two.serve(greeter("two").await);
    three.serve(greeter("three").await);
    one.see(&[(2, Use::Yes), (3, Use::LastChoice(Reason::Suspect))]);
    one.dial(&two);
    one.dial(&three);
    let web = one.call_as(counting_as("shop/web")).await;
    assert_eq!(all_of(web).await.unwrap(), "two");
    one.line().await;
    two.line().await;
    is_reset(all_of(one.call_as(counting_as("ops/root")).await).await);
    let line = one.line().await;
    assert_eq!((line.reason, line.tries), (CloseReason::Denied, 1));
    assert!(line.detail.contains("grant of n1 does not cover `ops/root`"), "{}", line.detail);
    assert_eq!(two.line().await.reason, CloseReason::Denied);
}

#[tokio::test]
async fn a_call_to_this_host_skips_the_wire_and_not_the_checks() {
    let mut one = Agent::with_grant(1, &["shop/*"]);
    one.serve(greeter("here").await);
    one.see(&[(1, Use::Yes)]);
    assert_eq!(all_of(one.call().await).await.unwrap(), "here");
    let line = one.line().await;
    assert_eq!((line.reason, line.peer), (CloseReason::Done, None));
    is_reset(all_of(one.call_as(counting_as("ops/root")).await).await);
    assert_eq!(one.line().await.reason, CloseReason::Denied);
}

#[tokio::test]
async fn a_caller_counts_as_the_service_that_its_process_is_proven_to_be() {
    let (mut one, mut two) = (Agent::with_grant(1, &["shop/web"]), Agent::new(2));
    two.serve(greeter("two").await);
    one.see(&[(2, Use::Yes)]);
    one.dial(&two);
    assert_eq!(all_of(one.call().await).await.unwrap(), "two");
    assert_eq!((one.asked(), one.line().await.detail.as_str()), (0, ""), "nobody says who is who");
    two.line().await;

    one.is_workload("shop/web");
    one.calls_as(1001);
    assert_eq!(all_of(one.call().await).await.unwrap(), "two");
    let web = Source::Service("shop/web".parse().unwrap());
    assert_eq!((one.line().await.source, two.line().await.source), (web.clone(), web));

    one.calls_as(1002);
    assert_eq!(all_of(one.call().await).await.unwrap(), "two");
    let line = one.line().await;
    assert_eq!((line.reason, &line.source), (CloseReason::Done, &Source::Node));
    let detail = line.detail;
    assert!(detail.contains("only node n1") && detail.contains("uid 1002"), "{detail}");
    assert_eq!(two.line().await.source, Source::Node);
    assert_eq!(one.asked(), 2);

    // What a document says outright needs no proof.
    let call = one.call_as(counting_as("shop/web")).await;
    assert_eq!(all_of(call).await.unwrap(), "two");
    assert_eq!(one.asked(), 2);
}

#[tokio::test]
async fn who_is_not_known_is_its_node_and_is_not_refused() {
    let (mut one, mut two) = (Agent::with_grant(1, &["shop/web"]), Agent::new(2));
    two.serve(greeter("two").await);
    one.see(&[(2, Use::Yes)]);
    one.dial(&two);
    one.is_workload("shop/web");
    assert_eq!(all_of(one.call().await).await.unwrap(), "two");
    let line = one.line().await;
    assert!(line.detail.ends_with("only node n1: it is gone"), "{}", line.detail);
    assert_eq!(two.line().await.source, Source::Node);
    // A service that the certificate does not name is not claimed.
    one.is_workload("ops/root");
    one.calls_as(1001);
    assert_eq!(all_of(one.call().await).await.unwrap(), "two");
    assert!(one.line().await.detail.contains("does not name"));
    assert_eq!(two.line().await.source, Source::Node);
}

#[tokio::test]
async fn a_process_that_is_not_allowed_is_reset_and_told_who_is() {
    let (mut one, two) = (Agent::new(1), Agent::new(2));
    two.serve(greeter("two").await);
    one.see(&[(2, Use::Yes)]);
    one.dial(&two);
    let allow = Some(Processes::User { said: "web".to_owned(), uid: Some(1001) });
    let terms = Terms { allow, ..counting_as("shop/web").terms };
    let spec = ListenerSpec { terms, ..spec() };
    one.calls_as(1001);
    assert_eq!(all_of(one.call_as(spec.clone()).await).await.unwrap(), "two");
    assert_eq!(one.line().await.reason, CloseReason::Done);
    for uid in [None, Some(1002)] {
        one.known.0.lock().unwrap().0 = Err("it is gone".to_owned());
        if let Some(uid) = uid {
            one.calls_as(uid);
        }
        is_reset(all_of(one.call_as(spec.clone()).await).await);
        let line = one.line().await;
        assert_eq!((line.reason, line.tries), (CloseReason::NotAllowed, 0));
        assert!(line.detail.contains("{user: web}") && line.detail.contains(&line.listener));
    }
}

#[tokio::test]
async fn another_boot_another_instance_and_a_loop_are_refused() {
    let two = Agent::new(2);
    two.serve(greeter("two").await);
    let good = StreamHead {
        boot: Some(1),
        ..StreamHead::new(SERVICE.parse().unwrap(), PORT, Source::Node)
    };
    let other = InstanceId { document: "db".parse().unwrap(), endpoint: "z".parse().unwrap() };
    let cases = [
        (StreamHead { boot: Some(2), ..good.clone() }, Refusal::NoService),
        (StreamHead { instance: Some(other), ..good.clone() }, Refusal::NoService),
        (StreamHead { port: 1, ..good.clone() }, Refusal::NoService),
        (StreamHead { hops: limits::HOPS_MAX, ..good.clone() }, Refusal::Denied),
    ];
    let caller = identity(1, &[]);
    for (head, code) in cases {
        let refused = two.proxy.admit_and_connect(&caller, &head).await.unwrap_err();
        assert_eq!(refused.code, code, "{}", refused.why);
    }
    assert!(two.proxy.admit_and_connect(&caller, &good).await.is_ok());
}

#[tokio::test]
async fn an_application_that_is_down_is_connect_failed_and_says_where() {
    let (mut one, mut two, app) = pair().await;
    let at = app.local_addr().unwrap().to_string();
    drop(app);
    is_reset(all_of(one.call().await).await);
    let line = one.line().await;
    assert_eq!(line.reason, CloseReason::ConnectFailed);
    assert!(line.detail.contains(&at) && line.detail.contains("n2"), "{}", line.detail);
    assert_eq!(two.line().await.reason, CloseReason::ConnectFailed);
}

#[tokio::test]
async fn five_failures_eject_an_endpoint_and_it_shows() {
    let one = Agent::new(1);
    let three = Agent::new(3);
    three.serve(greeter("three").await);
    one.see(&[(2, Use::Yes), (3, Use::Yes)]);
    one.dial(&three);
    one.link(2, Link::Down);
    let service = Arc::clone(&one.view.borrow().services[&SERVICE.parse().unwrap()]);
    let ejected = || one.proxy.states(&service)[0].usable == Use::LastChoice(Reason::Ejected);
    // In turn: by peak-EWMA one failure alone keeps the calls away.
    one.rules(&["destination: db, type: Balance, algorithm: round-robin"]);
    for _ in 0..20 {
        let call = one.call().await;
        assert_eq!(all_of(call).await.unwrap(), "three");
        if ejected() {
            return;
        }
    }
    panic!("never ejected: {:?}", one.proxy.states(&service));
}

#[tokio::test]
async fn a_drain_lets_live_calls_finish_and_refuses_new_ones() {
    let (mut one, two, app) = pair().await;
    let mut client = one.call().await;
    let (mut served, _) = soon(app.accept()).await.unwrap();
    let draining = {
        let proxy = Arc::clone(&two.proxy);
        Handle::current().spawn(async move { proxy.drain(PATIENCE).await })
    };
    while !two.proxy.guard.is_draining() {
        tokio::task::yield_now().await;
    }
    is_reset(all_of(one.call().await).await);
    assert_eq!(one.line().await.reason, CloseReason::PeerDraining);
    client.write_all(b"still here").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut served).await, "still here");
    drop(served);
    assert_eq!(all_of(client).await.unwrap(), "");
    assert_eq!(one.line().await.reason, CloseReason::Done);
    assert_eq!(soon(draining).await.unwrap(), Drained { open: 1, cut: 0 });
}

async fn read_all(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    soon(stream.read_to_string(&mut text)).await.unwrap();
    text
}

#[tokio::test]
async fn what_lives_past_the_drain_deadline_is_cut_as_a_reset() {
    let (mut one, mut two, app) = pair().await;
    let client = one.call().await;
    let (mut served, _) = soon(app.accept()).await.unwrap();
    let drained = two.proxy.drain(Duration::from_millis(20)).await;
    assert_eq!(drained, Drained { open: 1, cut: 1 });
    is_reset(soon(served.read(&mut [0; 1])).await);
    is_reset(all_of(client).await);
    assert_eq!(two.line().await.reason, CloseReason::DrainDeadline);
    assert_eq!(one.line().await.reason, CloseReason::EndpointReset);
}

#[tokio::test]
async fn a_peer_over_its_bound_is_told_overload_and_others_are_served() {
    let mut two = Agent::new(2);
    two.serve(greeter("two").await);
    let (busy, calm) = (Peer::new(identity(1, &[]), 1), Peer::new(identity(3, &[]), 1));
    let held = two.proxy.guard.stream_of(&busy);
    assert!(held.is_some());
    for (peer, first) in [(&busy, 3u8), (&calm, 0)] {
        let ((mut send, mut recv), theirs) = stream();
        let head = StreamHead::new(SERVICE.parse().unwrap(), PORT, Source::Node);
        send.write_all(&head.encode().unwrap()[1..]).await.unwrap();
        send.shutdown().await.unwrap();
        let asked = async {
            let reply = recv.read_u8().await.unwrap();
            recv.read_to_end(&mut Vec::new()).await.unwrap();
            reply
        };
        let (reply, ()) = soon(async {
            tokio::join!(asked, two.proxy.serve_stream(peer, StreamKind::Tcp, theirs))
        })
        .await;
        assert_eq!(reply, first);
    }
    assert_eq!(two.line().await.reason, CloseReason::Overload);
    assert_eq!(two.line().await.reason, CloseReason::Done);
}

#[tokio::test]
async fn all_links_of_a_peer_share_its_bound() {
    let two = Agent::new(2);
    let links = [1, 1, 3].map(|number| two.proxy.peer(identity(number, &[])));
    let streams = |link: &Peer| two.proxy.guard.stream_of(link);
    let held: Vec<_> = (0..limits::STREAMS_PER_PEER).map(|n| streams(&links[n % 2])).collect();
    assert!(held.iter().all(Option::is_some));
    assert!(links[..2].iter().all(|link| streams(link).is_none()));
    assert!(streams(&links[2]).is_some(), "another peer has its own");
    drop((held, links));
    assert!(streams(&two.proxy.peer(identity(1, &[]))).is_some());
}

#[tokio::test]
async fn a_silent_or_malformed_head_gives_its_slot_back() {
    let mut two = Agent::new(2);
    let peer = two.proxy.peer(identity(1, &[]));
    for bytes in [&b""[..], &[1], &[1, 0xff, 0xff], &[1, 2, 0, 9, 9]] {
        let ((mut send, mut recv), theirs) = stream();
        send.write_all(bytes).await.unwrap();
        soon(two.proxy.serve_stream(&peer, StreamKind::Tcp, theirs)).await;
        is_reset(soon(recv.read_u8()).await);
        assert_eq!(two.line().await.reason, CloseReason::BadHead);
        assert_eq!(two.proxy.live(), Live::default());
    }
    let ((mut send, mut recv), theirs) = stream();
    send.write_all(&[9, 0, 0]).await.unwrap();
    soon(two.proxy.serve_stream(&peer, StreamKind::Tcp, theirs)).await;
    assert_eq!(soon(recv.read_u8()).await.unwrap(), 2, "another version is told so");
}

#[tokio::test]
async fn a_connection_on_which_nothing_moves_is_reset() {
    let (_keep_client, caller) = stream();
    let (service, (_keep_service, mut app)) = stream();
    let copied = soon(copy(caller, service, pending(), Duration::from_millis(20))).await;
    assert_eq!(copied.reason, CloseReason::IdleTimeout);
    is_reset(soon(app.read_u8()).await);
}

#[tokio::test]
async fn static_endpoints_are_used_while_no_instance_is_known() {
    let mut one = Agent::new(1);
    let (closed, nobody) = application().await;
    drop(closed);
    let with_fallback = falling_back(vec![nobody, greeter("static").await]);
    let call = one.call_as(with_fallback.clone()).await;
    assert_eq!(all_of(call).await.unwrap(), "static");
    assert_eq!(one.line().await.tries, 2);
    one.see(&[(2, Use::No(Reason::Dead))]);
    assert_eq!(all_of(one.call_as(with_fallback).await).await.unwrap(), "static");
    one.line().await;
    is_reset(all_of(one.call().await).await);
    let line = one.line().await;
    assert_eq!(line.reason, CloseReason::NoEndpoints);
    assert!(line.detail.contains("0 of 1 endpoints usable (1 dead)"), "{}", line.detail);
}

#[tokio::test]
async fn unix_sockets_serve_and_listen() {
    let directory = tempfile::tempdir().unwrap();
    let (app, door) = (directory.path().join("app"), directory.path().join("door"));
    let served = UnixListener::bind(&app).unwrap();
    // What a killed agent leaves behind is no obstacle.
    drop(std::os::unix::net::UnixListener::bind(&door).unwrap());
    let mut one = Agent::new(1);
    one.serve(Target::Unix(app));
    one.see(&[(1, Use::Yes)]);
    let asked = Bind::Unix(door.clone());
    let wanted = Listeners([(asked.clone(), Arc::new(spec()))].into());
    let (wanted_out, wanted) = watch::channel(Arc::new(wanted));
    let mut listening = one.proxy.listen(wanted);
    soon(listening.bound.wait_for(|bound| bound.contains_key(&asked))).await.unwrap();
    let mut client = UnixStream::connect(&door).await.unwrap();
    let (mut app, _) = soon(served.accept()).await.unwrap();
    client.write_all(b"ping").await.unwrap();
    client.shutdown().await.unwrap();
    let mut text = String::new();
    soon(app.read_to_string(&mut text)).await.unwrap();
    assert_eq!(text, "ping");
    drop(app);
    soon(client.read_to_string(&mut text)).await.unwrap();
    assert_eq!(one.line().await.reason, CloseReason::Done);
    wanted_out.send_replace(Arc::default());
    soon(listening.bound.wait_for(|bound| bound.is_empty())).await.unwrap();
    assert!(!door.exists());
}

#[tokio::test]
async fn a_listener_stays_through_a_change_of_its_route() {
    let one = Agent::new(1);
    one.serve(greeter("here").await);
    one.see(&[(1, Use::Yes)]);
    let (listening, at, wanted) = one.listen(spec()).await;
    let call = async || all_of(TcpStream::connect(at).await.unwrap()).await;
    assert_eq!(call().await.unwrap(), "here");
    let elsewhere = ListenerSpec {
        service: "shop/other".parse().unwrap(),
        ..falling_back(vec![greeter("elsewhere").await])
    };
    wanted.send_modify(|wanted| {
        for route in Arc::make_mut(wanted).0.values_mut() {
            *route = Arc::new(elsewhere.clone());
        }
    });
    // The port never refuses a connection meanwhile: `call` would fail.
    while call().await.unwrap() != "elsewhere" {}
    drop(listening);
    // One that was queued when the listener went is reset; then there is none to queue at.
    let refused = soon(async {
        loop {
            match TcpStream::connect(at).await {
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => return,
                Ok(_) | Err(_) => tokio::task::yield_now().await,
            }
        }
    });
    refused.await;
}

#[tokio::test]
async fn a_port_in_use_is_told_with_what_to_do_and_bound_once_it_is_free() {
    let one = Agent::new(1);
    let (holder, target) = application().await;
    let Target::Tcp(at) = target else { panic!() };
    let asked = Bind::Tcp(at);
    let wanted = Listeners([(asked.clone(), Arc::new(spec()))].into());
    let (wanted_out, wanted_in) = watch::channel(Arc::new(wanted.clone()));
    let mut listening = one.proxy.listen(wanted_in);
    let problems = soon(listening.problems.wait_for(|all| !all.is_empty())).await;
    let problem = problems.unwrap()[0].clone();
    assert_eq!((&problem.bind, problem.listener.as_str()), (&asked, "ServiceDiscovery shop/db"));
    for part in ["in use", "ss -ltnp", "change `port`"] {
        assert!(problem.what.contains(part), "{}", problem.what);
    }
    drop(holder);
    wanted_out.send_replace(Arc::new(wanted));
    soon(listening.bound.wait_for(|bound| bound.contains_key(&asked))).await.unwrap();
    assert!(soon(listening.problems.wait_for(|all| all.is_empty())).await.is_ok());
}

#[tokio::test]
async fn many_calls_at_once_all_arrive_and_leave_nothing_behind() {
    let (mut one, mut two) = (Agent::new(1), Agent::new(2));
    two.serve(greeter("two").await);
    one.see(&[(2, Use::Yes)]);
    one.dial(&two);
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let client = one.call().await;
        calls.spawn(all_of(client));
    }
    let answers = soon(calls.join_all()).await;
    assert!(answers.iter().all(|answer| answer.as_deref().is_ok_and(|text| text == "two")));
    let mut reasons = BTreeSet::new();
    for _ in 0..200 {
        reasons.insert(one.line().await.reason);
        reasons.insert(two.line().await.reason);
    }
    assert_eq!(reasons, [CloseReason::Done].into());
    let service = Arc::clone(&one.view.borrow().services[&SERVICE.parse().unwrap()]);
    assert_eq!(one.proxy.states(&service)[0].in_flight, 0);
}
