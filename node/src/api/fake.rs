//! An agent that answers from a table: for tests of the server and of the command line.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::{AgentApi, ApiError, Reply, dto::*};

/// Answers as an agent of a small mesh would. Writes are counted.
#[derive(Default)]
pub(crate) struct FakeAgent {
    /// Calls of methods that change something.
    pub(crate) writes: AtomicU64,
    /// Problems that `status` shows.
    pub(crate) problems: Vec<Problem>,
    /// Never answers `status`.
    pub(crate) hangs: bool,
}

impl FakeAgent {
    pub(crate) fn shared() -> Arc<Self> {
        Arc::new(Self::default())
    }

    fn wrote<T: Send + 'static>(&self, value: T) -> Reply<'_, T> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        ok(value)
    }
}

fn ok<'a, T: Send + 'static>(value: T) -> Reply<'a, T> {
    Box::pin(async move { Ok(value) })
}

fn fail<'a, T: Send + 'static>(error: ApiError) -> Reply<'a, T> {
    Box::pin(async move { Err(error) })
}

pub(crate) fn status(problems: Vec<Problem>) -> Status {
    Status {
        mesh: "prod".into(),
        zone: "eu-1/eu-1a".into(),
        node: StatusNode {
            id: "abcdefghij".into(),
            name: "web-1".into(),
            address: "127.0.0.11:7400".into(),
            state: "up".into(),
        },
        members: MemberCounts { alive: 2, suspect: 0, dead: 1, left: 0 },
        view: ViewStatus { age_ms: 40, services: 1, endpoints: 2, root: "00ff00ff".into() },
        policy: PolicyStatus { root: "1234abcd".into(), agreeing: 2, of: 2 },
        issuers: 2,
        capture: CaptureStatus {
            mode: "listen".into(),
            range: "127.128.0.0/9".into(),
            reason: String::new(),
        },
        version: "0.1.0".into(),
        problems,
    }
}

pub(crate) fn members() -> Vec<Member> {
    vec![
        Member {
            id: "abcdefghij".into(),
            name: "web-1".into(),
            address: "127.0.0.11:7400".into(),
            zone: "eu-1/eu-1a".into(),
            state: "alive".into(),
            note: String::new(),
            rtt_ms: None,
            version: "0.1.0".into(),
            policy_root: "1234abcd".into(),
            last_heard_ms: None,
            reach: "self".into(),
        },
        Member {
            id: "klmnopqrst".into(),
            name: "web-2".into(),
            address: "127.0.0.12:7400".into(),
            zone: "eu-1/eu-1b".into(),
            state: "dead".into(),
            note: String::new(),
            rtt_ms: Some(1.25),
            version: "0.1.0".into(),
            policy_root: String::new(),
            last_heard_ms: Some(5200),
            reach: "direct".into(),
        },
    ]
}

fn ports() -> Vec<PortInfo> {
    vec![PortInfo { name: "http".into(), port: 80, protocol: "http".into() }]
}

pub(crate) fn services() -> Vec<ServiceSummary> {
    vec![ServiceSummary {
        name: "checkout".into(),
        namespace: "shop".into(),
        ports: ports(),
        endpoints: EndpointCounts { passing: 1, warning: 0, critical: 1 },
        tags: vec!["blue".into()],
        source: "both".into(),
    }]
}

pub(crate) fn service() -> ServiceDetail {
    let endpoint = EndpointInfo {
        id: "web-1/checkout/a".into(),
        node: "web-1".into(),
        zone: "eu-1/eu-1a".into(),
        address: "127.0.0.1".into(),
        port: 8080,
        status: "passing".into(),
        weight: 10,
        tags: vec!["blue".into()],
        version: Some("2.3.1".into()),
        reason: None,
        note: String::new(),
    };
    ServiceDetail {
        name: "checkout".into(),
        namespace: "shop".into(),
        virtual_address: Some("127.139.0.7".into()),
        endpoints: vec![
            endpoint.clone(),
            EndpointInfo {
                id: "web-2/checkout/a".into(),
                node: "web-2".into(),
                status: "critical".into(),
                reason: Some("dead".into()),
                ..endpoint
            },
        ],
        ports: ports(),
        listeners: vec![],
    }
}

fn result(what: &str) -> ApplyReport {
    ApplyReport {
        results: vec![ApplyResult {
            kind: "ServiceRegistry".into(),
            namespace: "shop".into(),
            name: "checkout".into(),
            result: what.into(),
            hash: "cafe".into(),
            warnings: vec![],
        }],
        visible: visible(),
    }
}

fn visible() -> Visible {
    Visible { on: 2, of: 2, ms: 80 }
}

fn fault() -> Fault {
    Fault {
        severity: "error".into(),
        file: "bad.yaml".into(),
        line: 3,
        column: 5,
        key: "spec.prots".into(),
        text: "unknown field `prots`, did you mean `ports`?".into(),
        rendered: "bad.yaml:3:5: unknown field `prots`, did you mean `ports`?\n".into(),
    }
}

fn bad(documents: &Documents) -> bool {
    documents.files.iter().any(|f| f.text.contains("prots"))
}

impl AgentApi for FakeAgent {
    fn status(&self) -> Reply<'_, Status> {
        if self.hangs {
            return Box::pin(std::future::pending());
        }
        ok(status(self.problems.clone()))
    }
    fn members(&self) -> Reply<'_, Vec<Member>> {
        ok(members())
    }
    fn services(&self) -> Reply<'_, Vec<ServiceSummary>> {
        ok(services())
    }
    fn service(&self, name: String) -> Reply<'_, ServiceDetail> {
        match name.as_str() {
            "shop/checkout" | "checkout" => ok(service()),
            other => fail(
                ApiError::not_found(format!("no service `{other}` in the view of web-1"))
                    .fix("skein services"),
            ),
        }
    }
    fn bind(&self, name: String) -> Reply<'_, BindReport> {
        self.wrote(BindReport {
            service: name,
            virtual_address: "127.139.0.7".into(),
            listeners: vec![Listener {
                kind: "virtual".into(),
                service: "shop/checkout".into(),
                address: "127.139.0.7".into(),
                port: 80,
                target_port: 80,
                state: "failed".into(),
                reason: Some("permission denied".into()),
                fix: Some("ports: [{port: 9080, targetPort: 80}]".into()),
            }],
        })
    }
    fn links(&self) -> Reply<'_, Vec<Link>> {
        ok(vec![Link {
            id: "klmnopqrst".into(),
            name: "web-2".into(),
            role: "control".into(),
            direction: "out".into(),
            transport: "quic".into(),
            address: "127.0.0.12:7400".into(),
            rtt_ms: Some(0.5),
            age_ms: 61_000,
            bytes_sent: 2048,
            ..Link::default()
        }])
    }
    fn certs(&self) -> Reply<'_, Vec<Certificate>> {
        ok(vec![Certificate {
            kind: "node".into(),
            name: "web-1".into(),
            id: "abcdefghij".into(),
            not_after: "2026-12-01T00:00:00Z".into(),
            seconds_left: 1_000_000,
            services: vec!["shop/*".into()],
            ..Certificate::default()
        }])
    }
    fn listeners(&self) -> Reply<'_, Vec<Listener>> {
        ok(vec![])
    }
    fn documents(&self, kind: Option<String>) -> Reply<'_, Vec<Document>> {
        let document = Document {
            kind: "ServiceRegistry".into(),
            namespace: "shop".into(),
            name: "checkout".into(),
            source: "file:/etc/skein/checkout.yaml".into(),
            state: "applied".into(),
            hash: "cafe".into(),
            yaml: "kind: ServiceRegistry\n".into(),
            ..Document::default()
        };
        let wanted = kind.is_none_or(|kind| kind == document.kind);
        ok(wanted.then_some(document).into_iter().collect())
    }
    fn describe(&self, document: DocumentName) -> Reply<'_, DocumentDetail> {
        ok(DocumentDetail {
            document: Document {
                kind: document.kind,
                namespace: document.namespace,
                name: document.name,
                ..Document::default()
            },
            ..DocumentDetail::default()
        })
    }
    fn apply(&self, documents: Documents) -> Reply<'_, ApplyReport> {
        if bad(&documents) {
            return fail(ApiError::faults(vec![fault()]));
        }
        self.wrote(result("created"))
    }
    fn delete(&self, _: DeleteRequest) -> Reply<'_, ApplyReport> {
        self.wrote(result("deleted"))
    }
    fn validate(&self, documents: Documents) -> Reply<'_, ValidateReport> {
        ok(ValidateReport {
            documents: vec![],
            faults: bad(&documents).then(fault).into_iter().collect(),
        })
    }
    fn diff(&self, documents: Documents) -> Reply<'_, DiffReport> {
        let same = documents.files.iter().all(|f| f.text.contains("same"));
        ok(DiffReport {
            results: vec![DiffResult {
                kind: "ServiceRegistry".into(),
                namespace: "shop".into(),
                name: "checkout".into(),
                result: if same { "unchanged" } else { "changed" }.into(),
                diff: if same { "" } else { "-a\n+b\n" }.into(),
            }],
        })
    }
    fn prepare(&self, _: PrepareRequest) -> Reply<'_, Prepared> {
        ok(Prepared::default())
    }
    fn policy(&self) -> Reply<'_, PolicyReport> {
        ok(PolicyReport::default())
    }
    fn edges(&self) -> Reply<'_, EdgesReport> {
        ok(EdgesReport::default())
    }
    fn backup(&self) -> Reply<'_, BackupReport> {
        ok(BackupReport::default())
    }
    fn roots(&self, _: RootsRequest) -> Reply<'_, RootsReport> {
        self.wrote(RootsReport::default())
    }
    fn reload_issuer(&self) -> Reply<'_, ()> {
        self.wrote(())
    }
    fn revoke_plan(&self, _: RevokePlanRequest) -> Reply<'_, RevokePlan> {
        ok(RevokePlan::default())
    }
    fn revoke(&self, _: RevokeRequest) -> Reply<'_, RevokeReport> {
        self.wrote(RevokeReport::default())
    }
    fn why(&self, _: WhyRequest) -> Reply<'_, WhyReport> {
        ok(WhyReport::default())
    }
    fn routes(&self, _: RoutesRequest) -> Reply<'_, RoutesReport> {
        ok(RoutesReport::default())
    }
    fn check_update(&self, _: CheckUpdate) -> Reply<'_, ()> {
        self.wrote(())
    }
    fn drain(&self, request: DrainRequest) -> Reply<'_, DrainReport> {
        self.wrote(DrainReport {
            services: request.service.into_iter().collect(),
            connections: 0,
            visible: visible(),
            undone: request.undo,
        })
    }
    fn maintenance(&self, request: MaintenanceRequest) -> Reply<'_, MaintenanceReport> {
        self.wrote(MaintenanceReport {
            services: request.service.into_iter().collect(),
            visible: visible(),
            on: request.on,
            reason: request.reason,
        })
    }
    fn leave(&self, _: LeaveRequest) -> Reply<'_, LeaveReport> {
        self.wrote(LeaveReport { visible: visible(), ..LeaveReport::default() })
    }
    fn token_create(&self, request: TokenRequest) -> Reply<'_, TokenCreated> {
        self.wrote(TokenCreated {
            id: "t1".into(),
            token: "skein1.secret".into(),
            not_after: "2026-12-01T00:00:00Z".into(),
            services: request.services,
            uses: request.uses,
        })
    }
    fn token_list(&self) -> Reply<'_, Vec<TokenInfo>> {
        ok(vec![])
    }
    fn token_revoke(&self, id: String) -> Reply<'_, TokenRevoked> {
        match id.as_str() {
            "t1" => self.wrote(TokenRevoked { id, on: 1, of: 1, unheard: Vec::new() }),
            other => fail(ApiError::not_found(format!("no token `{other}`"))),
        }
    }
    fn admit(&self, request: AdmitRequest) -> Reply<'_, Admitted> {
        self.wrote(Admitted { name: request.name, ..Admitted::default() })
    }
    fn log_level(&self) -> Reply<'_, LogLevel> {
        ok(LogLevel { filter: "info".into() })
    }
    fn set_log_level(&self, level: LogLevel) -> Reply<'_, LogLevel> {
        self.wrote(level)
    }
    fn metrics(&self) -> Reply<'_, String> {
        ok("# EOF\n".into())
    }
}
