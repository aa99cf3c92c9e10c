//! HTTP through whole agents: requests are read where a rule is about them, each type of rule has
//! its effect with its document and none without, and nothing that could be read in two ways
//! reaches a service.

use std::{net::SocketAddr, time::Duration};

use skein_tests::{
    host::Said,
    manifest::{agent, discovery},
    mesh::Mesh,
    wait::until,
    web::{Answer, Client, Got, Web, get, raw, request},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
};

const HERE: u16 = 9080;
const PORT: u16 = 8080;
const SOON: Duration = Duration::from_secs(10);

/// A version of shop/echo on a host. Without checks: the servers remember what they are asked.
fn version(version: &str, port: &str, process: SocketAddr) -> String {
    let (address, target) = (process.ip(), process.port());
    format!(
        "apiVersion: skein/v1
kind: ServiceRegistry
metadata: {{name: echo, namespace: shop}}
spec:
  version: \"{version}\"
  ports: [{{name: {port}, port: {PORT}, targetPort: {target}}}]
  endpoints: [{{name: a, address: {address}, port: {target}}}]
  checks: []
"
    )
}

/// A document of policies about shop/echo, each `{...}` of its trafficPolicy.
pub(crate) fn policies(all: &[&str]) -> String {
    let named: String = all
        .iter()
        .enumerate()
        .map(|(n, does)| {
            format!("  - name: p{n}\n    trafficPolicy: {{destination: echo, {does}}}\n")
        })
        .collect();
    format!(
        "apiVersion: skein/v1
kind: TrafficManagement
metadata: {{name: echo, namespace: shop}}
spec:
  trafficPolicies:
{named}"
    )
}

/// The first host calls and has the operator's key; the others serve versions 1, 2, ...
pub(crate) struct Stand {
    pub(crate) mesh: Mesh,
    pub(crate) here: SocketAddr,
    pub(crate) webs: Vec<Web>,
}

impl Stand {
    pub(crate) async fn new(versions: usize, port: &str) -> Self {
        let mut mesh = Mesh::of_hosts(versions + 1);
        mesh.form().await;
        Self::with(mesh, port).await
    }

    /// Each host in the zone of that name, the calling one first.
    async fn in_zones(zones: &[&str]) -> Self {
        let mut mesh = Mesh::of_hosts(zones.len());
        for (host, zone) in mesh.hosts.iter().zip(zones) {
            host.manifest("agent.yaml", &agent(&[&format!("serviceCluster: {zone}")]));
        }
        mesh.form().await;
        Self::with(mesh, "http").await
    }

    async fn with(mesh: Mesh, port: &str) -> Self {
        let versions = mesh.hosts.len() - 1;
        mesh[0].manifest("use.yaml", &discovery("echo", HERE, PORT));
        let mut webs = Vec::new();
        for (number, host) in mesh.hosts[1..].iter().enumerate() {
            let name = (number + 1).to_string();
            let web = Web::start(host.ip, &name).await;
            host.manifest("echo.yaml", &version(&name, port, web.address));
            webs.push(web);
        }
        let stand = Self { here: SocketAddr::new(mesh[0].ip, HERE), mesh, webs };
        until(SOON, "all versions serve", async || {
            let detail = stand.mesh[0].try_json(&["service", "shop/echo"]).await?;
            let none = Vec::new();
            let passing = detail["endpoints"].as_array().unwrap_or(&none).iter();
            let passing = passing.filter(|one| one["status"] == "passing").count();
            (passing == versions).then_some(()).ok_or_else(|| detail.to_string())
        })
        .await;
        until(SOON, "a request is answered", async || {
            let got = stand.get("/").await?;
            (got.status == 200).then_some(()).ok_or_else(|| format!("{got:?}"))
        })
        .await;
        stand.forget();
        stand
    }

    pub(crate) fn forget(&self) {
        self.webs.iter().for_each(Web::forget);
    }

    pub(crate) fn counts(&self) -> Vec<usize> {
        self.webs.iter().map(Web::count).collect()
    }

    pub(crate) async fn send(
        &self,
        request: hyper::Request<http_body_util::Full<hyper::body::Bytes>>,
    ) -> Result<Got, String> {
        Client::to(self.here).await?.send(request).await
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Got, String> {
        self.send(get(path, &[])).await
    }

    pub(crate) async fn good(&self, path: &str) -> Got {
        let got = self.get(path).await.expect("an answer");
        assert_eq!(got.status, 200, "{got:?}");
        got
    }

    pub(crate) async fn apply_text(&self, text: &str) -> Said {
        let file = self.mesh.folder().join("policy.yaml");
        std::fs::write(&file, text).expect("a document");
        // From another host than the one that calls: it has to travel.
        let key = self.mesh[0].dir.join("person/skein/operator.key").display().to_string();
        let file = file.display().to_string();
        let said = self.mesh[1].cli(&["apply", "--wait", "--cut", "--as", &key, "-f", &file]).await;
        assert!(said.status.success(), "{said:?}");
        said
    }

    pub(crate) async fn apply(&self, all: &[&str]) {
        self.apply_text(&policies(all)).await;
        self.forget();
    }

    pub(crate) async fn delete(&self) {
        let key = self.mesh[0].dir.join("person/skein/operator.key").display().to_string();
        let document = ["delete", "TrafficManagement", "shop/echo", "--wait", "--as", &key];
        self.mesh[1].cli(&document).await;
        self.forget();
    }

    /// The lines of the first host's log for requests that ended so.
    pub(crate) async fn logged(&self, word: &str, count: usize) {
        until(SOON, &format!("{count} requests have ended with {word}"), async || {
            let log = self.mesh[0].log();
            let found = log.matches(&format!("\"end\":\"{word}\"")).count();
            (found >= count).then_some(()).ok_or_else(|| found.to_string())
        })
        .await;
    }
}

#[tokio::test]
async fn a_request_goes_through_with_its_headers_made_honest_and_one_connection_goes_to_many() {
    let stand = Stand::new(2, "http").await;
    // In turn: by latency one slow answer would keep requests away for a while.
    stand.apply(&["type: Balance, algorithm: round-robin"]).await;
    let mut client = Client::to(stand.here).await.expect("a connection");
    for _ in 0..30 {
        let asked = get(
            "/%61/b?c=d",
            &[("x-skein-source", "shop/admin"), ("connection", "x-drop"), ("x-drop", "1")],
        );
        let got = client.send(asked).await.expect("an answer");
        assert_eq!(got.status, 200, "{got:?}");
    }
    let counts = stand.counts();
    assert_eq!(counts, [15, 15]);
    let seen = stand.webs[0].seen();
    let one = &seen[0];
    assert_eq!((&*one.method, &*one.path), ("GET", "/a/b?c=d"));
    assert_eq!(one.header("x-skein-source"), format!("node {}", stand.mesh[0].name));
    assert_eq!((one.header("host"), one.header("x-drop")), ("echo.shop", ""));
    assert_eq!((one.header("x-request-id").len(), one.header("traceparent").len()), (32, 55));
    assert!(stand.webs[0].connections() <= 2, "the connection to the service is kept");
    stand.logged("done", 30).await;
    assert!(stand.mesh[0].log().contains("\"method\":\"GET\",\"path\":\"/a/b\",\"status\":200"));
}

/// Route: by path, header and method; with what is written anew, and a redirect.
#[tokio::test]
async fn routes_lead_by_path_and_header_and_write_anew() {
    let stand = Stand::new(2, "http").await;
    stand
        .apply(&[
            "type: Route, match: {prefix: /v2}, target: {subset: \"2\"}, rewrite: {prefix: /}, \
             headers: {request: {set: {x-set: a}, remove: [x-gone]}, response: {add: {x-back: b}}}",
            "type: Route, match: {path: /beta, headers: {x-beta: \"1\"}}, target: {subset: \"2\"}",
            "type: Route, match: {path: /old}, redirect: {path: /new, status: 308}",
            "type: Route, target: {subset: \"1\"}",
        ])
        .await;
    for _ in 0..5 {
        let got = stand.send(get("/v2/x?y=1", &[("x-gone", "1")])).await.expect("an answer");
        assert_eq!((got.status, &*got.body, got.header("x-back")), (200, "2", "b"), "{got:?}");
        assert_eq!(stand.good("/v20").await.body, "1");
        assert_eq!(stand.good("/beta").await.body, "1");
        let got = stand.send(get("/beta", &[("x-beta", "1")])).await.expect("an answer");
        assert_eq!((got.status, &*got.body), (200, "2"));
    }
    let seen = stand.webs[1].seen();
    let written = seen.iter().find(|one| one.path == "/x?y=1").expect("the prefix is replaced");
    assert_eq!((written.header("x-set"), written.header("x-gone")), ("a", ""));
    let got = stand.get("/old?a=b").await.expect("an answer");
    assert_eq!((got.status, got.header("location")), (308, "http://echo.shop/new?a=b"));
    stand.delete().await;
    // Without the document the port is not parsed, and requests go anywhere.
    until(SOON, "the other version gets some too", async || {
        let body = stand.get("/v2/x").await?.body;
        (body == "1").then_some(()).ok_or(body)
    })
    .await;
    assert_eq!(stand.webs[0].seen()[0].header("x-request-id"), "", "it was parsed");
}

/// Split: each request is drawn, and what sticks to a header stays while the share grows.
#[tokio::test]
async fn a_canary_grows_from_nothing_to_all_and_nobody_moves_back() {
    let stand = Stand::new(2, "http").await;
    let split = |new: u32| {
        format!(
            "type: Split, sticky: {{header: x-user}}, target: [{{subset: \"1\", weight: {}}}, \
             {{subset: \"2\", weight: {new}}}]",
            100 - new
        )
    };
    let mut client = Client::to(stand.here).await.expect("a connection");
    let mut new_since: Vec<Option<u32>> = vec![None; 40];
    for share in [0, 10, 50, 100] {
        stand.apply(&[&split(share)]).await;
        // The first connection was there before the first document: it is bytes.
        if share == 0 {
            client = Client::to(stand.here).await.expect("a connection");
        }
        for (user, since) in new_since.iter_mut().enumerate() {
            let got = client.send(get("/", &[("x-user", &user.to_string())])).await;
            let got = got.expect("an answer");
            match (&*got.body, &since) {
                ("2", None) => *since = Some(share),
                ("2", Some(_)) | ("1", None) => {}
                other => panic!("user {user} at {share} %: {other:?}"),
            }
        }
    }
    let at = |share: u32| new_since.iter().filter(|since| **since == Some(share)).count();
    assert!(at(0) == 0 && at(10) <= 14 && at(10) + at(50) >= 6, "{new_since:?}");
    assert!(new_since.iter().all(Option::is_some), "{new_since:?}");
}

/// Retry: on what was asked for, never the same endpoint, not twice over two hops, bodies too.
#[tokio::test]
async fn what_failed_is_tried_elsewhere_as_the_rule_says() {
    let stand = Stand::new(3, "http").await;
    stand.webs[0].answers(Answer::Status(503));
    let ok =
        async |request: &dyn Fn() -> hyper::Request<http_body_util::Full<hyper::body::Bytes>>,
               count: usize| {
            let mut ok = 0;
            for _ in 0..count {
                let got = stand.send(request()).await.expect("an answer");
                ok += usize::from(got.status == 200);
            }
            ok
        };
    // Any rule makes requests be read; the default retries then hold for what may be repeated.
    // Without ejection and in turn, so that the one that fails keeps its share.
    let sick = "type: Eject, consecutive: 1000, successRate: 0";
    let turns = "type: Balance, algorithm: round-robin";
    stand.apply(&[sick, turns]).await;
    assert_eq!(ok(&|| get("/", &[]), 20).await, 20, "GET is tried elsewhere by default");
    let posted = ok(&|| request("POST", "/", &[], "a"), 60).await;
    assert!(posted < 60, "POST must not be repeated by default");
    let carried = ok(&|| get("/", &[("x-skein-attempt", "1")]), 60).await;
    assert!(carried < 60, "what is a retry already is not tried again");

    stand.apply(&["type: Retry, attempts: 2, on: [gateway]", sick, turns]).await;
    assert_eq!(ok(&|| request("POST", "/", &[], "a body"), 60).await, 60);
    let again = stand.webs[1].seen();
    let again = again.iter().find(|one| one.header("x-skein-attempt") == "1");
    assert!(again.is_some(), "a second try says so");
    let long = "x".repeat(200 * 1024);
    let long = ok(&|| request("POST", "/", &[], &long), 60).await;
    assert!(long < 60, "what is too long to be kept is not sent again");

    stand.webs[1].answers(Answer::Status(503));
    stand.webs[2].answers(Answer::Status(503));
    stand.forget();
    let got = stand.get("/").await.expect("an answer");
    assert_eq!((got.status, got.reason()), (503, ""), "the last answer is the service's");
    assert_eq!(stand.counts(), [1, 1, 1], "each endpoint once");

    let later = vec![("retry-after", "60".to_owned())];
    stand.webs.iter().for_each(|web| web.answers(Answer::With(503, later.clone())));
    stand.forget();
    stand.get("/").await.expect("an answer");
    assert_eq!(stand.counts().iter().sum::<usize>(), 1, "who wants to be left alone is");
}

/// Timeout and perTryTimeout, with the word and the status.
#[tokio::test]
async fn what_takes_too_long_ends_with_504_or_elsewhere() {
    let stand = Stand::new(2, "http").await;
    stand.webs[0].answers(Answer::Never);
    stand.webs[1].answers(Answer::Never);
    stand.apply(&["type: Timeout, request: 300ms"]).await;
    let got = stand.get("/").await.expect("an answer");
    assert_eq!((got.status, got.reason()), (504, "timeout"), "{got:?}");
    stand.logged("timeout", 1).await;

    stand.webs[1].answers(Answer::Name);
    stand.apply(&["type: Retry, attempts: 1, on: [timeout], perTryTimeout: 200ms"]).await;
    for _ in 0..10 {
        assert_eq!(stand.good("/").await.body, "2");
    }
    stand.webs[0].answers(Answer::Name);
    stand.delete().await;
    stand.webs[1].answers(Answer::After(Duration::from_millis(600)));
    assert!(stand.send(get("/", &[])).await.is_ok(), "nothing ends without the document");
}

/// CircuitBreak, RateLimit by header, Fault with a status.
#[tokio::test]
async fn breakers_rates_and_faults_answer_with_their_words() {
    let stand = Stand::new(2, "http").await;
    // A connection from before any rule is bytes; where requests are counted, a new one never is.
    let mut before = Client::to(stand.here).await.expect("a connection");
    assert_eq!(before.send(get("/", &[])).await.expect("an answer").status, 200);
    stand.apply(&["type: CircuitBreak, maxRequests: 1"]).await;
    stand.webs.iter().for_each(|web| web.answers(Answer::Never));
    let here = stand.here;
    let mut held = JoinSet::new();
    held.spawn(async move { Client::to(here).await?.send(get("/held", &[])).await });
    until(SOON, "one is in flight", async || {
        (stand.counts().iter().sum::<usize>() == 1).then_some(()).ok_or_else(|| "none".to_owned())
    })
    .await;
    let got = stand.get("/").await.expect("an answer");
    assert_eq!((got.status, got.reason()), (503, "circuit_open"), "{got:?}");
    held.abort_all();
    stand.webs.iter().for_each(|web| web.answers(Answer::Name));
    until(SOON, "there is room again", async || {
        let got = stand.get("/").await?;
        (got.status == 200).then_some(()).ok_or_else(|| format!("{got:?}"))
    })
    .await;

    // Who has an endpoint and waits for its answer does not wait for an endpoint.
    stand.apply(&["type: CircuitBreak, maxPending: 2"]).await;
    stand.webs.iter().for_each(|web| web.answers(Answer::After(Duration::from_millis(300))));
    stand.forget();
    let mut all = JoinSet::new();
    for number in 1..=5 {
        all.spawn(async move { Client::to(here).await?.send(get("/slow", &[])).await });
        until(SOON, "an endpoint has it", async || {
            let begun = stand.counts().iter().sum::<usize>();
            (begun >= number).then_some(()).ok_or_else(|| format!("{begun} of {number}"))
        })
        .await;
    }
    for got in all.join_all().await {
        assert_eq!(got.expect("an answer").status, 200);
    }
    stand.webs.iter().for_each(|web| web.answers(Answer::Name));

    stand.apply(&["type: RateLimit, rate: 1/h, burst: 2, per: {header: x-user}"]).await;
    let of = async |user: &str| {
        let mut limited = 0;
        for _ in 0..10 {
            let got = stand.send(get("/", &[("x-user", user)])).await.expect("an answer");
            if got.status == 429 {
                assert!(got.reason() == "rate_limited" && !got.header("retry-after").is_empty());
                limited += 1;
            }
        }
        limited
    };
    // Two at each of two instances.
    let (anna, bert) = (of("anna").await, of("bert").await);
    assert!((6..=8).contains(&anna) && (6..=8).contains(&bert), "{anna} {bert}");

    stand.apply(&["type: Fault, abort: 418, percent: 100, match: {path: /tea}"]).await;
    let got = stand.get("/tea").await.expect("an answer");
    assert_eq!((got.status, got.reason()), (418, "fault"), "{got:?}");
    assert_eq!(stand.good("/coffee").await.reason(), "");
    stand.delete().await;
    assert_eq!(stand.good("/tea").await.status, 200);
}

/// Mirror: the copy reaches the other version, its answer and its slowness nobody.
#[tokio::test]
async fn a_mirror_gets_a_copy_and_harms_nobody() {
    let stand = Stand::new(2, "http").await;
    stand
        .apply(&[
            "type: Route, target: {subset: \"1\"}",
            "type: Mirror, target: {subset: \"2\"}, percent: 100",
        ])
        .await;
    stand.webs[1].answers(Answer::Never);
    for _ in 0..10 {
        let got = stand.send(request("POST", "/m", &[], "body")).await.expect("an answer");
        assert_eq!((got.status, &*got.body), (200, "1"));
    }
    until(SOON, "ten copies", async || {
        let counts = stand.counts();
        (counts == [10, 10]).then_some(()).ok_or_else(|| format!("{counts:?}"))
    })
    .await;
    stand.webs[1].answers(Answer::Name);
    stand.delete().await;
    for _ in 0..10 {
        let got = stand.send(request("POST", "/m", &[], "body")).await.expect("an answer");
        assert_eq!(got.status, 200);
    }
    assert_eq!(stand.counts().iter().sum::<usize>(), 10, "without the document there is no copy");
}

/// Hedge: a slow endpoint is overtaken, within the budget.
#[tokio::test]
async fn a_hedge_overtakes_a_slow_endpoint() {
    let stand = Stand::new(2, "http").await;
    stand.webs[0].answers(Answer::After(Duration::from_millis(900)));
    stand
        .apply(&["type: Hedge, after: 50ms, budget: 100%", "type: Balance, algorithm: round-robin"])
        .await;
    let started = std::time::Instant::now();
    for _ in 0..10 {
        assert_eq!(stand.good("/").await.body, "2", "the faster one's answer");
    }
    // Half of them began at the slow one.
    let counts = stand.counts();
    assert!(counts[0] >= 3, "{counts:?} in {:?}", started.elapsed());
    let got = stand.send(request("POST", "/", &[], "once")).await.expect("an answer");
    assert_eq!(got.status, 200);
    let posts = stand.webs.iter().flat_map(|web| web.seen()).filter(|one| one.method == "POST");
    assert_eq!(posts.count(), 1, "what must not be repeated is not");
    stand.webs[0].answers(Answer::Name);
    stand.delete().await;
    stand.webs.iter().for_each(|web| web.answers(Answer::After(Duration::from_millis(300))));
    for _ in 0..5 {
        stand.good("/").await;
    }
    assert_eq!(stand.counts().iter().sum::<usize>(), 5, "without the document none is sent twice");
}

/// AccessPolicy by method and path, on the path in its canonical form.
#[tokio::test]
async fn access_is_decided_by_method_and_path() {
    let stand = Stand::new(2, "http").await;
    let text = "apiVersion: skein/v1
kind: AccessPolicy
metadata: {name: readers, namespace: shop}
spec:
  destination: echo
  action: allow
  to: [{methods: [GET], paths: [\"/v1/*\"]}]
";
    stand.apply_text(text).await;
    stand.forget();
    assert_eq!(stand.good("/v1/a").await.status, 200);
    assert_eq!(stand.good("/%761/a").await.status, 200);
    for denied in [get("/admin", &[]), request("POST", "/v1/a", &[], ""), get("/%61dmin", &[])] {
        let got = stand.send(denied).await.expect("an answer");
        assert_eq!((got.status, got.reason()), (403, "denied"), "{got:?}");
        assert!(got.body.contains("readers"), "{got:?}");
    }
    for refused in ["/v1/../admin", "/v1/%2e%2e/admin", "/v1//admin", "/v1/a%2fb", "/v1/a%00"] {
        let line = format!("GET {refused} HTTP/1.1\r\nhost: a\r\n\r\n");
        let answer = raw(stand.here, line.as_bytes()).await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 400"), "{refused}: {answer}");
    }
    assert_eq!(stand.counts().iter().sum::<usize>(), 2, "only what was allowed got there");
}

/// Locality, Balance by a header and Eject on answers.
#[tokio::test]
async fn sick_endpoints_are_ejected_by_their_answers_and_come_back() {
    let stand = Stand::new(3, "http").await;
    stand
        .apply(&[
            "type: Eject, consecutive: 3, baseTime: 1s, maxPercent: 50",
            "type: Balance, algorithm: round-robin",
            "type: Retry, attempts: 0",
        ])
        .await;
    stand.webs[0].answers(Answer::Status(500));
    let mut client = Client::to(stand.here).await.expect("a connection");
    let mut failed = 0;
    for _ in 0..60 {
        failed += u32::from(client.send(get("/", &[])).await.expect("an answer").status == 500);
    }
    // Three in a row put it out; one probe a second may fail besides.
    assert!((3..=6).contains(&failed), "{failed}");
    stand.webs[0].answers(Answer::Name);
    stand.forget();
    until(SOON, "it is back", async || {
        let got = client.send(get("/", &[])).await?;
        (got.body == "1").then_some(()).ok_or(got.body)
    })
    .await;
    stand.apply(&["type: Balance, algorithm: ring-hash, key: {header: x-user}"]).await;
    for user in 0..10 {
        let mut bodies = std::collections::BTreeSet::new();
        for _ in 0..4 {
            let got = client.send(get("/", &[("x-user", &user.to_string())])).await;
            bodies.insert(got.expect("an answer").body);
        }
        assert_eq!(bodies.len(), 1, "user {user} stays where it is: {bodies:?}");
    }
    let counts = stand.counts();
    assert!(counts.iter().filter(|one| **one > 0).count() > 1, "{counts:?}");
    // Without a document nothing is parsed: no status puts anybody out, and no user stays.
    stand.delete().await;
    stand.webs.iter().for_each(|web| web.answers(Answer::Status(500)));
    for _ in 0..20 {
        let got = stand.send(get("/", &[("x-user", "1")])).await.expect("an answer");
        assert_eq!((got.status, got.reason()), (500, ""));
    }
    assert_eq!(stand.counts().iter().sum::<usize>(), 20);
}

/// A service that answers what the path says, word for word, and then ends the connection unless
/// the answer is good.
async fn talker(listener: TcpListener) {
    let mut connections = JoinSet::new();
    while let Ok((mut stream, _)) = listener.accept().await {
        connections.spawn(async move {
            let mut read = Vec::new();
            let mut piece = [0; 4096];
            loop {
                match stream.read(&mut piece).await {
                    Ok(0) | Err(_) => return,
                    Ok(count) => read.extend_from_slice(&piece[..count]),
                }
                let text = String::from_utf8_lossy(&read).into_owned();
                if !text.contains("\r\n\r\n") {
                    continue;
                }
                read.clear();
                let path = text.split(' ').nth(1).unwrap_or_default().to_owned();
                let (answer, stays) = match path.as_str() {
                    "/garbage" => ("hello there\r\n\r\n", false),
                    "/half" => ("HTTP/1.1 200 OK\r\ncontent-le", false),
                    "/nothing" => ("", false),
                    "/short" => ("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc", false),
                    "/chunks" => {
                        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nabc", false)
                    }
                    "/both" => (
                        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n\
                         1\r\na\r\n0\r\n\r\n",
                        false,
                    ),
                    "/lengths" => (
                        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
                        false,
                    ),
                    "/switch" => ("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n", false),
                    "/extra" => (
                        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n",
                        true,
                    ),
                    _ => ("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngood", true),
                };
                if stream.write_all(answer.as_bytes()).await.is_err() || !stays {
                    return;
                }
            }
        });
    }
}

/// A service that answers garbage, half an answer or none: the right status and reason, a clean
/// pool, and no one else's answer for anybody.
#[tokio::test]
async fn a_service_that_answers_badly_harms_only_its_own_requests() {
    let mut stand = Stand::new(1, "http").await;
    let listener = TcpListener::bind((stand.mesh[1].ip, 0)).await.expect("a port");
    let at = listener.local_addr().expect("a bound socket");
    let mut running = JoinSet::new();
    running.spawn(talker(listener));
    stand.mesh[1].manifest("echo.yaml", &version("1", "http", at));
    stand.webs.clear();
    let quiet = "type: Eject, consecutive: 1000, successRate: 0";
    stand.apply(&[quiet, "type: Retry, attempts: 0", "type: Timeout, request: 3s"]).await;
    until(SOON, "it answers", async || {
        let got = stand.get("/good").await?;
        (got.body == "good").then_some(()).ok_or_else(|| format!("{got:?}"))
    })
    .await;
    for (path, reason) in [
        ("/garbage", "bad_answer"),
        ("/half", "endpoint_reset"),
        ("/nothing", "endpoint_reset"),
        ("/both", "bad_answer"),
        ("/lengths", "bad_answer"),
        ("/switch", "bad_answer"),
    ] {
        for _ in 0..3 {
            let got = stand.get(path).await.expect("an answer");
            assert_eq!((got.status, got.reason()), (502, reason), "{path}: {got:?}");
            assert_eq!(stand.good("/good").await.body, "good", "after {path}");
        }
    }
    for path in ["/short", "/chunks"] {
        // It depends on what came first here, the head of the answer or its end.
        match stand.get(path).await {
            Err(_) => {}
            Ok(got) => {
                assert_eq!((got.status, got.reason()), (502, "endpoint_reset"), "{path}: {got:?}");
            }
        }
        assert_eq!(stand.good("/good").await.body, "good", "after {path}");
    }
    // What a service sends behind its answer is nobody's answer.
    for _ in 0..5 {
        assert_eq!(stand.good("/extra").await.body, "ok");
        assert_eq!(stand.good("/good").await.body, "good");
    }
    stand.logged("bad_answer", 12).await;
    stand.logged("endpoint_reset", 6).await;
}

/// Locality: what is near first, by zone; the rest when nothing near is left.
#[tokio::test]
async fn locality_keeps_requests_in_the_zone_while_it_can() {
    let stand = Stand::in_zones(&["north", "north", "south"]).await;
    // Without a rule the nearest tier has all of them already: the rule turns that around.
    for _ in 0..10 {
        assert_eq!(stand.good("/").await.body, "1");
    }
    let turns = "type: Balance, algorithm: round-robin";
    stand.apply(&["type: Locality, prefer: [any], spill: proportional", turns]).await;
    let mut client = Client::to(stand.here).await.expect("a connection");
    let mut bodies = std::collections::BTreeSet::new();
    for _ in 0..60 {
        bodies.insert(client.send(get("/", &[])).await.expect("an answer").body);
    }
    assert_eq!(bodies.len(), 2, "{bodies:?}");
    stand.apply(&["type: Locality, prefer: [zone], spill: never"]).await;
    stand.webs[0].kill();
    until(SOON, "nothing near is left, and the rule keeps to it", async || {
        let got = stand.get("/").await?;
        (got.status == 503).then_some(()).ok_or_else(|| format!("{got:?}"))
    })
    .await;
    assert_eq!(stand.counts()[1], 0);
    stand.delete().await;
    until(SOON, "what is far takes over without the rule", async || {
        let got = stand.get("/").await?;
        (got.body == "2").then_some(()).ok_or_else(|| format!("{got:?}"))
    })
    .await;
}

/// A service that answers before it has the whole body, with a status that is worth another try:
/// the answer goes to the client, who is still sending.
#[tokio::test]
async fn an_answer_that_comes_before_the_body_is_whole_goes_through() {
    let mut stand = Stand::new(1, "http").await;
    let listener = TcpListener::bind((stand.mesh[1].ip, 0)).await.expect("a port");
    let at = listener.local_addr().expect("a bound socket");
    let mut running = JoinSet::new();
    running.spawn(async move {
        // Reads the head only, answers, and keeps the connection.
        let mut held = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 4096];
            let read = stream.read(&mut head).await.unwrap_or_default();
            let early = String::from_utf8_lossy(&head[..read]).contains("/early");
            let status = if early { "503 Busy" } else { "200 OK" };
            let close = if early { "" } else { "connection: close\r\n" };
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n{close}\r\nno");
            let _ = stream.write_all(answer.as_bytes()).await;
            held.push(stream);
        }
    });
    stand.mesh[1].manifest("echo.yaml", &version("1", "http", at));
    stand.webs.clear();
    stand.apply(&["type: Retry, attempts: 2, on: [gateway]"]).await;
    until(SOON, "it answers", async || {
        let got = stand.get("/ready").await?;
        (got.body == "no").then_some(()).ok_or_else(|| format!("{got:?}"))
    })
    .await;
    let mut client = tokio::net::TcpStream::connect(stand.here).await.expect("a connection");
    let head = "POST /early HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\nfirst bytes";
    client.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = [0; 12];
    let read = tokio::time::timeout(SOON, client.read_exact(&mut answer)).await;
    read.expect("an answer in time").expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 503");
}
