//! The server over real sockets, as scripts and strangers meet it; and the exact JSON of the
//! contract.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{Arc, atomic::Ordering},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpListener, runtime::Runtime, sync::watch};

use super::{
    dto::{
        ApplyReport, ApplyResult, DiffReport, DrainReport, ErrorBody, ErrorEnvelope, Problem,
        Visible,
    },
    fake::{self, FakeAgent},
    guard::HttpToken,
    server::{ApiListener, serve},
};

struct Bench {
    agent: Arc<FakeAgent>,
    at: SocketAddr,
    token: String,
    stop: watch::Sender<bool>,
    server: tokio::task::JoinHandle<()>,
    runtime: Runtime,
    _dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let at = listener.local_addr().unwrap();
        let token = HttpToken::load_or_create(dir.path()).unwrap();
        let agent = FakeAgent::shared();
        let (stop, stopped) = watch::channel(false);
        let listener = ApiListener::Http(listener, token);
        let server = runtime.handle().spawn(serve(listener, agent.clone(), stopped));
        let token = std::fs::read_to_string(dir.path().join("http.token")).unwrap();
        Self { agent, at, token: token.trim().to_owned(), stop, server, runtime, _dir: dir }
    }

    /// Sends bytes, reads until the server hangs up, gives back status and body.
    fn raw(&self, request: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.at).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.get(9..12).and_then(|s| s.parse().ok()).unwrap_or(0);
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
        (status, body.unwrap_or_default())
    }

    fn ask(&self, line: &str, host: &str, more: &str, body: &str) -> (u16, String) {
        let length = body.len();
        self.raw(&format!(
            "{line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {length}\r\n\
             {more}\r\n{body}"
        ))
    }

    fn write(&self, path: &str, body: &str) -> (u16, String) {
        let token = &self.token;
        let head = format!("Authorization: Bearer {token}\r\nContent-Type: application/json\r\n");
        self.ask(&format!("POST {path}"), "localhost", &head, body)
    }
}

#[test]
fn loopback_reads_and_a_page_of_another_host_does_not() {
    let bench = Bench::new();
    let (status, body) = bench.ask("GET /v1/status", "localhost:7401", "", "");
    assert_eq!(status, 200);
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["mesh"], "prod");
    let (status, body) = bench.ask("GET /v1/status", "evil.example", "", "");
    assert_eq!(status, 403);
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["error"]["kind"], "denied");
    assert!(body["error"]["text"].as_str().unwrap().contains("evil.example"));
    assert_eq!(bench.ask("GET http://evil.example/v1/status", "localhost", "", "").0, 403);
    assert_eq!(bench.raw("GET /v1/status HTTP/1.0\r\n\r\n").0, 403);
}

#[test]
fn a_write_needs_the_token_and_changes_nothing_without() {
    let bench = Bench::new();
    let json = "Content-Type: application/json\r\n";
    for path in ["apply", "delete", "drain", "maintenance", "leave", "tokens", "admit", "bind/a/b"]
    {
        let line = format!("POST /v1/{path}");
        assert_eq!(bench.ask(&line, "localhost", json, "{}").0, 403, "{path}");
    }
    let wrong = format!("{json}Authorization: Bearer {}\r\n", "0".repeat(64));
    assert_eq!(bench.ask("POST /v1/drain", "localhost", &wrong, "{}").0, 403);
    assert_eq!(bench.agent.writes.load(Ordering::SeqCst), 0);
    let (status, body) = bench.write("/v1/drain", "{\"service\":\"shop/checkout\"}");
    assert_eq!(status, 200);
    assert_eq!(
        serde_json::from_str::<Value>(&body).unwrap(),
        json!({"services":["shop/checkout"],"connections":0,"undone":false,"visible":{"on":2,"of":2,"ms":80}})
    );
    assert_eq!(bench.agent.writes.load(Ordering::SeqCst), 1);
}

#[test]
fn what_is_not_json_not_there_or_too_long_is_refused_in_json() {
    let bench = Bench::new();
    let (status, body) = bench.write("/v1/drain", "{");
    assert_eq!(status, 400, "{body}");
    let error: ErrorEnvelope = serde_json::from_str(&body).unwrap();
    assert_eq!(error.error.kind, "invalid");
    let (status, body) = bench.ask("GET /v1/nope", "localhost", "", "");
    assert_eq!(status, 404);
    assert!(serde_json::from_str::<ErrorEnvelope>(&body).is_ok());
    assert_eq!(bench.ask("GET /v1/drain", "localhost", "", "").0, 405);
    let form = format!("Authorization: Bearer {}\r\nContent-Type: text/plain\r\n", bench.token);
    assert_eq!(bench.ask("POST /v1/drain", "localhost", &form, "{}").0, 415);
    let many = "X-A: b\r\n".repeat(200);
    assert_eq!(bench.ask("GET /v1/status", "localhost", &many, "").0, 431);
}

#[test]
fn a_body_above_the_limit_is_refused_before_it_is_read() {
    let bench = Bench::new();
    let length = skein_protocol::limits::API_BODY_BYTES + 1;
    let (status, _) = bench.raw(&format!(
        "POST /v1/apply HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n",
        bench.token
    ));
    assert_eq!(status, 413);
}

#[test]
fn health_and_metrics_answer_and_the_server_ends_when_told() {
    let bench = Bench::new();
    assert_eq!(bench.ask("GET /healthz", "127.0.0.1", "", ""), (200, "up\n".into()));
    let (status, body) = bench.ask("GET /metrics", "127.0.0.1", "", "");
    assert_eq!((status, body.as_str()), (200, "# EOF\n"));
    let idle = TcpStream::connect(bench.at).unwrap();
    bench.stop.send(true).unwrap();
    // The port may be another test's a moment later: that the task has ended says that it is free.
    bench.runtime.block_on(bench.server).unwrap();
    drop(idle);
}

fn json_of(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).unwrap()
}

#[test]
fn the_json_of_status_is_the_contract() {
    let problem = Problem {
        kind: "one-issuer".into(),
        severity: "degraded".into(),
        text: "t".into(),
        fix: "f".into(),
    };
    assert_eq!(
        json_of(&fake::status(vec![problem])),
        json!({
            "mesh": "prod", "zone": "eu-1/eu-1a",
            "node": {"id": "abcdefghij", "name": "web-1", "address": "127.0.0.11:7400", "state": "up"},
            "members": {"alive": 2, "suspect": 0, "dead": 1, "left": 0},
            "view": {"age_ms": 40, "services": 1, "endpoints": 2, "root": "00ff00ff"},
            "policy": {"root": "1234abcd", "agreeing": 2, "of": 2},
            "issuers": 2, "version": "0.1.0",
            "capture": {"mode": "listen", "range": "127.128.0.0/9", "reason": ""},
            "problems": [{"kind": "one-issuer", "severity": "degraded", "text": "t", "fix": "f"}],
        })
    );
}

#[test]
fn the_json_of_members_and_services_is_the_contract() {
    assert_eq!(
        json_of(&fake::members())[1],
        json!({
            "id": "klmnopqrst", "name": "web-2", "note": "", "address": "127.0.0.12:7400",
            "zone": "eu-1/eu-1b", "state": "dead", "rtt_ms": 1.25, "version": "0.1.0",
            "policy_root": "", "last_heard_ms": 5200, "reach": "direct",
        })
    );
    assert_eq!(
        json_of(&fake::services()),
        json!([{
            "name": "checkout", "namespace": "shop",
            "ports": [{"name": "http", "port": 80, "protocol": "http"}],
            "endpoints": {"passing": 1, "warning": 0, "critical": 1},
            "tags": ["blue"], "source": "both",
        }])
    );
    let service = json_of(&fake::service());
    assert_eq!(service["virtual_address"], "127.139.0.7");
    assert_eq!(
        service["endpoints"][1],
        json!({
            "id": "web-2/checkout/a", "node": "web-2", "note": "", "zone": "eu-1/eu-1a",
            "address": "127.0.0.1", "port": 8080, "status": "critical", "weight": 10,
            "tags": ["blue"], "version": "2.3.1", "reason": "dead",
        })
    );
}

#[test]
fn the_json_of_changes_is_the_contract() {
    let visible = Visible { on: 1, of: 2, ms: 3 };
    let report = ApplyReport {
        results: vec![ApplyResult {
            kind: "ServiceRegistry".into(),
            namespace: "shop".into(),
            name: "checkout".into(),
            result: "created".into(),
            hash: "cafe".into(),
            warnings: vec![],
        }],
        visible,
    };
    assert_eq!(
        json_of(&report),
        json!({
            "results": [{
                "kind": "ServiceRegistry", "namespace": "shop", "name": "checkout",
                "result": "created", "hash": "cafe", "warnings": [],
            }],
            "visible": {"on": 1, "of": 2, "ms": 3},
        })
    );
    assert_eq!(json_of(&DiffReport::default()), json!({"results": []}));
    assert_eq!(json_of(&DrainReport::default())["connections"], 0);
    assert_eq!(
        json_of(&ErrorEnvelope { error: ErrorBody::default() }),
        json!({"error": {"kind": "", "text": "", "fix": "", "faults": []}})
    );
}
