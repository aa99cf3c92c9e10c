//! What the agent knows, gathered for people: the reading side of the API.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use skein_protocol::{
    clock::{Tick, Wall, millis},
    limits,
    manifest::DocumentId,
    name::{Hash, Label, NodeKey, ServiceName},
    policy::Policy,
    record::node::{Health, NodeState, Protocol, ServicePort},
    trust::{Revocations, Roots, join::PolicyHead},
    view::{Endpoint, Liveness, NodeView, Reason, ServiceView, Use, View},
};
use tokio::sync::{mpsc, watch};

use super::{
    capture::{Capture, Mode},
    compose::NOT_DONE,
    data::DataLinks,
    events::Problems,
    gateway,
    identity::Tokens,
    local::Phase,
    policy::Edges,
    settings::Settings,
    strangers::Strangers,
};
use crate::{
    api::{
        ApiError,
        dto::{
            Certificate, EndpointCounts, EndpointInfo, Link, Listener, Member, MemberCounts,
            PolicyStatus, PortInfo, Problem, ServiceDetail, ServiceSummary, Status, StatusNode,
            ViewStatus,
        },
    },
    clock::{Clock, rfc3339, wall},
    disk::Disk,
    driver::{DriverHandle, LinkView},
    identity::{Files, IssuingHost},
    keys::Credentials,
    proxy::{Bind, Listening, Proxy, virtual_address::VirtualAddresses},
    telemetry::{log::LogHandle, metrics::Metrics},
    workload::{CheckState, Hold, Severity, Snapshot, WorkloadHandle},
};

/// All parts of a running agent that the API needs.
pub(crate) struct Agent {
    pub(crate) me: NodeKey,
    pub(crate) clock: Clock,
    pub(crate) settings: Settings,
    pub(crate) files: Files,
    pub(crate) roots: watch::Sender<Arc<Roots>>,
    pub(crate) issuer: watch::Sender<Option<Arc<IssuingHost>>>,
    pub(crate) tokens: Tokens,
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) workload: WorkloadHandle,
    pub(crate) view: watch::Receiver<Arc<View>>,
    pub(crate) links: watch::Receiver<Arc<BTreeMap<NodeKey, LinkView>>>,
    pub(crate) data: DataLinks,
    /// The mesh-wide documents in force.
    pub(crate) policy: watch::Receiver<Arc<Policy>>,
    /// Whether no call is taken here yet.
    pub(crate) probation: watch::Receiver<bool>,
    /// The keys that have ended.
    pub(crate) revocations: watch::Receiver<Arc<Revocations>>,
    /// Who called what here.
    pub(crate) edges: Arc<Edges>,
    /// What peers said last of the policy that they hold, and when.
    pub(crate) stands: Mutex<BTreeMap<NodeKey, (Hash, Tick)>>,
    pub(crate) proxy: Arc<Proxy>,
    pub(crate) listening: Listening,
    pub(crate) virtual_addresses: tokio::sync::Mutex<VirtualAddresses>,
    /// How they are bound.
    pub(crate) capture: Capture,
    /// The listeners that are wanted now.
    pub(crate) wanted: watch::Receiver<Arc<crate::proxy::Listeners>>,
    /// Services whose virtual address is bound.
    pub(crate) bound: watch::Sender<BTreeSet<ServiceName>>,
    pub(crate) phase: watch::Sender<Phase>,
    /// Up to which snapshot, and in which phase, the engine was told what this host says.
    pub(crate) said: watch::Sender<(u64, Phase)>,
    pub(crate) problems: Problems,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) log: LogHandle,
    pub(crate) driver: DriverHandle,
    pub(crate) disk: Arc<Disk>,
    pub(crate) leave: mpsc::Sender<()>,
    pub(crate) mesh_address: SocketAddr,
    /// What those may cost that have proved little.
    pub(crate) strangers: Strangers,
}

/// What is said of a host whose disk cannot be written.
pub(crate) const UNWRITTEN: &str = "its disk cannot be written";

/// Below this an issuer is to be renewed: 60 days.
pub(crate) const ISSUER_NEAR: Duration = Duration::from_secs(60 * 86_400);
/// Below this a certificate that does not renew is a problem.
const CERTIFICATE_NEAR: Duration = Duration::from_secs(3 * 86_400);

impl Agent {
    /// The policy in force here, in brief, if it is short enough for an answer to who joins.
    pub(crate) fn listed_policy(&self) -> Option<Vec<PolicyHead>> {
        self.policy.borrow().documents.listed(limits::JOIN_POLICY_HEADS)
    }

    /// A node's name, or its short id where no record of it is held.
    pub(crate) fn name_of(&self, node: &NodeKey) -> String {
        let view = self.view.borrow();
        view.nodes.get(node).map_or_else(|| node.short().to_string(), |node| node.name.to_string())
    }

    /// The newest view.
    pub(crate) fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.borrow())
    }

    /// For how long no peer has confirmed or changed what this agent believes. An agent that
    /// knows nobody else believes itself.
    pub(super) fn view_age(&self) -> Duration {
        let alone = self.view.borrow().nodes.len() < 2;
        let now = self.clock.now().tick;
        let newest = self.links.borrow().values().map(LinkView::heard).max();
        if alone { Duration::ZERO } else { now.since(newest.unwrap_or_default()) }
    }

    pub(super) fn show_status(&self, mesh_name: &str, agreeing: u32) -> Status {
        let view = self.view();
        let own = view.nodes.get(&self.me);
        let known = || view.nodes.values().filter(|node| !self.is_revoked(&node.key));
        let count = |state| count(known().filter(|node| node.liveness == state).count());
        let alive = count(Liveness::Alive);
        let endpoints = view.services.values().map(|service| service.endpoints.len()).sum();
        let issuers = self.live_issuers(&view);
        Status {
            mesh: mesh_name.to_owned(),
            zone: view.locality.to_string(),
            node: StatusNode {
                id: self.me.short().to_string(),
                name: self.settings.name(&self.credentials),
                address: own
                    .and_then(|node| address(node))
                    .unwrap_or_else(|| self.mesh_address.to_string()),
                state: state_word(self.phase.borrow().state).to_owned(),
            },
            members: MemberCounts {
                alive,
                suspect: count(Liveness::Suspect),
                dead: count(Liveness::Dead),
                left: count(Liveness::Left),
            },
            view: ViewStatus {
                age_ms: millis(self.view_age()),
                services: self::count(view.services.len()),
                endpoints: self::count(endpoints),
                root: view.records_root.to_string(),
            },
            policy: PolicyStatus {
                root: view.policy_root.to_string(),
                agreeing: agreeing.min(alive),
                of: alive,
            },
            issuers: self::count(issuers),
            capture: self.capture.show(),
            version: super::VERSION.to_owned(),
            problems: self.show_problems(issuers),
        }
    }

    fn live_issuers(&self, view: &View) -> usize {
        let known = view.nodes.values().filter(|node| !self.is_revoked(&node.key));
        known.filter(|node| node.issuer && usable(node)).count()
    }

    /// How many problems `status` shows.
    pub(super) fn count_problems(&self) -> usize {
        let view = self.view();
        self.show_problems(self.live_issuers(&view)).len()
    }

    fn show_problems(&self, issuers: usize) -> Vec<Problem> {
        let problem = |kind: &str, severity: &str, text: String| Problem {
            kind: kind.to_owned(),
            severity: severity.to_owned(),
            text,
            fix: String::new(),
        };
        let mut all = Vec::new();
        for (subject, texts) in self.problems.all() {
            let severity = if subject == NOT_DONE { "warning" } else { "error" };
            all.extend(texts.into_iter().map(|text| problem(&subject, severity, text)));
        }
        for found in &self.workload.snapshot.borrow().problems {
            let severity = match found.severity {
                Severity::Notice => "warning",
                Severity::Degraded => "error",
            };
            all.push(problem(&found.subject, severity, found.text.clone()));
        }
        for found in self.listening.problems.borrow().iter() {
            all.push(problem("listener", "error", format!("{}: {}", found.listener, found.what)));
        }
        all.extend(ill_instances(&self.workload.snapshot.borrow()));
        all.extend(set_aside(&self.workload.snapshot.borrow()));
        let policy = Arc::clone(&self.policy.borrow());
        for (key, heads) in policy.conflicts() {
            let text = format!(
                "{} versions of {key} did not know of each other: any of them denies, and an allow \
                 needs all",
                heads.len()
            );
            let fix = "skein policy status".to_owned();
            all.push(Problem { fix, ..problem("policy", "error", text) });
        }
        for (key, why) in policy.documents.iter().flat_map(|(key, heads)| {
            heads.iter().filter_map(move |head| Some((key, head.unread()?)))
        }) {
            let text =
                format!("{key} is for a newer agent, so this one closes what it covers: {why}");
            all.push(problem("policy", "error", text));
        }
        let wanted = |node: &&Arc<NodeView>| !self.is_revoked(&node.key);
        all.extend(self.view().nodes.values().filter(wanted).filter_map(|node| missed(node)));
        if issuers < 2 {
            all.push(Problem {
                fix:
                    "bring back a host that holds one, or run `skein issuer add` on a further host, \
                     with the root's key at hand"
                        .to_owned(),
                ..problem(
                    "issuers",
                    "error",
                    format!("{issuers} live issuer: if its host is lost nobody can join or renew"),
                )
            });
        }
        if let Some(own) = self.credentials.own() {
            let left = own.verified.not_after.since(wall());
            if left < CERTIFICATE_NEAR {
                let hours = left.as_secs() / 3600;
                let text = format!("this node's certificate ends in {hours} h and was not renewed");
                all.push(problem("certificate", "error", text));
            }
        }
        all
    }

    pub(super) fn show_members(&self) -> Vec<Member> {
        let now = self.clock.now().tick;
        let view = self.view();
        let links = Arc::clone(&self.links.borrow());
        let stands = self.stands.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut members: Vec<Member> = view
            .nodes
            .values()
            .map(|node| {
                let link = links.get(&node.key);
                Member {
                    id: node.short.to_string(),
                    name: node.name.to_string(),
                    address: address(node).unwrap_or_default(),
                    zone: node.locality.to_string(),
                    state: match self.is_revoked(&node.key) {
                        true => "revoked".to_owned(),
                        false => node.liveness.word().to_owned(),
                    },
                    note: match node.unwritten && usable(node) {
                        true => UNWRITTEN.to_owned(),
                        false => String::new(),
                    },
                    rtt_ms: link.map(|link| link.mux.stats().rtt.as_secs_f64() * 1000.0),
                    version: node.version.clone(),
                    policy_root: match (node.key == self.me, stands.get(&node.key)) {
                        (true, _) => view.policy_root.to_string(),
                        // What it said when it was last asked: `skein policy status` asks.
                        (false, Some((root, _))) => root.to_string(),
                        (false, None) => String::new(),
                    },
                    last_heard_ms: link.map(|link| millis(now.since(link.heard()))),
                    reach: reach(node, self.me, link.is_some()).to_owned(),
                }
            })
            .collect();
        members.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        members
    }

    /// The roots that are trusted.
    pub(crate) fn roots(&self) -> Arc<Roots> {
        Arc::clone(&self.roots.borrow())
    }

    /// The issuer that this host holds.
    pub(crate) fn issuer(&self) -> Option<Arc<IssuingHost>> {
        self.issuer.borrow().clone()
    }

    /// Whether a node is out of the mesh: its key was revoked, or what its certificate stands on.
    pub(super) fn is_revoked(&self, node: &NodeKey) -> bool {
        let certified = self.view.borrow().nodes.get(node).is_none_or(|node| node.certified);
        !certified || self.revocations.borrow().is_revoked(node)
    }

    pub(super) fn show_services(&self) -> Vec<ServiceSummary> {
        let view = self.view();
        view.services.values().map(|service| summary(service)).collect()
    }

    /// A service by `namespace/name`, or by a short name in this host's namespace.
    pub(super) fn find_service(&self, name: &str) -> Result<Arc<ServiceView>, ApiError> {
        let known = ServiceName::parse_in(name, &self.settings.namespace)
            .map_err(|error| ApiError::new(crate::api::ApiErrorKind::Invalid, error.to_string()))?;
        let view = self.view();
        view.services.get(&known).cloned().ok_or_else(|| {
            ApiError::not_found(format!("no service {known} is known here"))
                .fix("`skein services` lists those that are")
        })
    }

    pub(super) async fn show_service(&self, service: &ServiceView) -> ServiceDetail {
        let states = self.proxy.states(service);
        let endpoints = service.endpoints.iter().map(|endpoint| {
            let key = endpoint.key();
            let own = states.iter().find(|state| state.key == key).map(|state| state.usable);
            endpoint_info(endpoint, own)
        });
        let given = self.virtual_addresses.lock().await.of(&service.name);
        let given = given.filter(|_| self.capture.mode != Mode::Off);
        let name = service.name.to_string();
        let listeners = self.show_listeners().into_iter().filter(|l| l.service == name).collect();
        ServiceDetail {
            name: service.name.name().to_string(),
            namespace: service.name.namespace().to_string(),
            virtual_address: given.map(|address| address.to_string()),
            endpoints: endpoints.collect(),
            ports: service.ports.iter().map(port_info).collect(),
            listeners,
        }
    }

    pub(super) fn show_listeners(&self) -> Vec<Listener> {
        let wanted = Arc::clone(&self.wanted.borrow());
        let bound = Arc::clone(&self.listening.bound.borrow());
        let problems = Arc::clone(&self.listening.problems.borrow());
        let mut all = Vec::new();
        for (bind, spec) in &wanted.0 {
            let problem = problems.iter().find(|problem| problem.bind == *bind);
            let (address, port) = match bound.get(bind).unwrap_or(bind) {
                Bind::Tcp(socket) => (socket.ip().to_string(), socket.port()),
                Bind::Unix(path) => (format!("unix:{}", path.display()), 0),
            };
            let target_port = match &spec.port {
                skein_protocol::route::PortRef::Number(number) => *number,
                skein_protocol::route::PortRef::Name(_) => 0,
            };
            let virtual_one = spec.name.starts_with("virtual address");
            all.push(Listener {
                kind: match &spec.door {
                    Some(_) => "gateway",
                    None if virtual_one => "virtual",
                    None => "discovery",
                }
                .to_owned(),
                service: spec.service.to_string(),
                address,
                port,
                target_port,
                state: if problem.is_some() { "failed" } else { "bound" }.to_owned(),
                reason: problem.map(|problem| problem.what.clone()),
                fix: None,
            });
        }
        all.extend(self.capture.show_listeners());
        all
    }

    pub(super) fn show_links(&self) -> Vec<Link> {
        let stats = |peer: &NodeKey,
                     role: &str,
                     remote: SocketAddr,
                     dialled: bool,
                     opened: Tick,
                     mux: &dyn crate::link::mux::Mux| {
            let stats = mux.stats();
            let now = self.clock.now().tick;
            Link {
                id: peer.short().to_string(),
                name: self.name_of(peer),
                role: role.to_owned(),
                direction: if dialled { "out" } else { "in" }.to_owned(),
                transport: stats.transport.to_owned(),
                address: remote.to_string(),
                rtt_ms: Some(stats.rtt.as_secs_f64() * 1000.0),
                age_ms: millis(now.since(opened)),
                bytes_sent: stats.bytes_sent,
                bytes_received: stats.bytes_received,
                lost: stats.lost,
                mtu: stats.mtu,
            }
        };
        let control = Arc::clone(&self.links.borrow());
        let mut all: Vec<Link> = control
            .values()
            .map(|link| {
                stats(&link.peer, "control", link.remote, link.dialled, link.opened, &*link.mux)
            })
            .collect();
        all.extend(self.data.open().iter().map(|link| {
            stats(&link.chain.key, "data", link.remote, link.dialled, link.opened, &*link.mux)
        }));
        all.sort_by(|a, b| (&a.name, &a.role).cmp(&(&b.name, &b.role)));
        all
    }

    pub(super) fn show_certs(&self) -> Vec<Certificate> {
        let Some(own) = self.credentials.own() else { return Vec::new() };
        let verified = &own.verified;
        let services = verified.grant.services.iter().map(ToString::to_string).collect();
        let name = verified.grant.name.to_string();
        let node = certificate("node", &own.chain.leaf, &name, &self.settings.files.chain);
        let by = |root: &[u8; 32]| NodeKey(*root).short().to_string();
        let mut all = vec![Certificate { services, root: by(&verified.root), ..node }];
        if let Some(issuer) = self.issuer() {
            let path = self.files.issuer_certificate();
            let shown = certificate("issuer", issuer.certificate(), &name, &path);
            all.push(Certificate { root: by(&issuer.verified().root), ..shown });
        }
        let roots = self.credentials.trust().map(|trust| trust.roots.roots.clone());
        for der in roots.unwrap_or_default().values() {
            let mesh = skein_protocol::trust::certificate::mesh_name(der).unwrap_or_default();
            all.push(certificate("root", der, &mesh, &self.settings.files.roots));
        }
        let folder = self.gateway_folder();
        all.extend(folder.iter().flat_map(|folder| gateway::listed(folder)).map(of_gateway));
        all
    }
}

/// A certificate that a gateway shows to those outside of the mesh.
fn of_gateway((file, end): (std::path::PathBuf, Result<gateway::End, String>)) -> Certificate {
    let path = file.display().to_string();
    let shown = Certificate { kind: "gateway".to_owned(), path, ..Certificate::default() };
    match end {
        Err(error) => Certificate { problem: Some(error), ..shown },
        Ok(end) => Certificate {
            name: end.names.join(","),
            serial: end.serial.clone(),
            not_before: rfc3339(end.begins),
            not_after: rfc3339(end.ends),
            seconds_left: seconds_left(end.ends, wall()),
            problem: gateway::near(&end, wall()),
            ..shown
        },
    }
}

/// A certificate as people see it: what stands in its DER.
fn certificate(kind: &str, der: &[u8], name: &str, path: &std::path::Path) -> Certificate {
    let mut shown = Certificate {
        kind: kind.to_owned(),
        name: name.to_owned(),
        path: path.display().to_string(),
        ..Certificate::default()
    };
    match skein_protocol::trust::certificate::summary(der) {
        Ok(summary) => {
            shown.id = NodeKey(summary.key).short().to_string();
            shown.serial = data_encoding::HEXLOWER.encode(&summary.serial);
            shown.not_before = rfc3339(summary.not_before);
            shown.not_after = rfc3339(summary.not_after);
            shown.seconds_left = seconds_left(summary.not_after, wall());
            shown.problem = near_its_end(kind, summary.not_after.since(wall()));
        }
        Err(error) => shown.problem = Some(error.to_string()),
    }
    shown
}

/// What is wrong with the time that a certificate has left, and who must act.
fn near_its_end(kind: &str, left: Duration) -> Option<String> {
    let days = left.as_secs() / 86_400;
    match kind {
        _ if left.is_zero() => Some("it has ended".to_owned()),
        "node" if left < CERTIFICATE_NEAR => {
            Some(format!("{days} days left: it renews itself once an issuer is reached"))
        }
        "issuer" if left < ISSUER_NEAR => {
            Some(format!("{days} days left: skein issuer renew, with the root's key at hand"))
        }
        _ => None,
    }
}

fn seconds_left(end: Wall, now: Wall) -> i64 {
    let seconds = |d: Duration| i64::try_from(d.as_secs()).unwrap_or(i64::MAX);
    if end >= now { seconds(end.since(now)) } else { -seconds(now.since(end)) }
}

/// The instances of this host that their checks hold for critical. One that a person set aside
/// is as it should be.
fn ill_instances(snapshot: &Snapshot) -> Vec<Problem> {
    let failed = |(_, state): &(&Label, &CheckState)| {
        state.health == Health::Critical && **state != CheckState::unchecked()
    };
    let ill = snapshot.plan.instances().filter_map(|(registration, planned)| {
        let found = snapshot.health.get(&planned.id)?;
        let (check, state) = found.checks.iter().find(failed)?;
        let DocumentId { kind, namespace, name } = &registration.document;
        let text = format!("{} is critical by its check {check}: {}", planned.id, state.output);
        Some(Problem {
            kind: "check".to_owned(),
            severity: "error".to_owned(),
            text,
            fix: format!("`skein describe {kind} {namespace}/{name}` shows all its checks"),
        })
        .filter(|_| found.health == Health::Critical)
    });
    ill.collect()
}

/// What a person set aside here and may have forgotten.
fn set_aside(snapshot: &Snapshot) -> Vec<Problem> {
    let aside = snapshot.holds.iter().map(|(service, held)| {
        let what = service.as_ref().map_or_else(|| "this host".to_owned(), ToString::to_string);
        let (word, why) = match held.hold {
            Hold::Maintenance => ("is in maintenance", "skein maintenance off"),
            Hold::Draining => ("takes no new calls: it was drained", "skein drain --undo"),
        };
        let reason = match held.reason.as_str() {
            "" => String::new(),
            reason => format!(" ({reason})"),
        };
        let only = service.as_ref().map(|one| format!(" {one}")).unwrap_or_default();
        Problem {
            kind: "set aside".to_owned(),
            severity: "warning".to_owned(),
            text: format!("{what} {word}{reason}"),
            fix: format!("`{why}{only}` ends it"),
        }
    });
    aside.collect()
}

/// A member that should be there and is not. One that left is not missed.
fn missed(node: &NodeView) -> Option<Problem> {
    let name = &node.name;
    let (text, fix) = match node.liveness {
        Liveness::Alive | Liveness::Left => return None,
        Liveness::Suspect => (format!("{name} does not answer"), String::new()),
        Liveness::Dead => (
            format!("{name} is dead: its watchers agree that it does not answer"),
            "start its agent again; one that is gone for good is forgotten a day later".to_owned(),
        ),
    };
    Some(Problem { kind: "member".to_owned(), severity: "error".to_owned(), text, fix })
}

fn usable(node: &NodeView) -> bool {
    matches!(node.liveness, Liveness::Alive | Liveness::Suspect)
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn address(node: &NodeView) -> Option<String> {
    node.addresses.first().map(|address| address.socket().to_string())
}

fn reach(node: &NodeView, me: NodeKey, linked: bool) -> &'static str {
    match (node.key == me, linked) {
        (true, _) => "self",
        (false, true) => "link",
        (false, false) => "gossip",
    }
}

fn state_word(state: NodeState) -> &'static str {
    match state {
        NodeState::Up => "up",
        NodeState::Draining => "draining",
        NodeState::Left => "left",
        NodeState::Fenced => "fenced",
    }
}

fn port_info(port: &ServicePort) -> PortInfo {
    let protocol = match port.protocol {
        Protocol::Sniff => "sniff",
        Protocol::Tcp => "tcp",
        Protocol::Http => "http",
        Protocol::Http2 => "http2",
        Protocol::Grpc => "grpc",
    };
    PortInfo { name: port.name.to_string(), port: port.port, protocol: protocol.to_owned() }
}

fn summary(service: &ServiceView) -> ServiceSummary {
    let mut counts = EndpointCounts::default();
    let mut tags = BTreeSet::new();
    for endpoint in &service.endpoints {
        let gone = matches!(
            endpoint.usable,
            Use::No(Reason::Dead | Reason::Left | Reason::Revoked | Reason::Cloned | Reason::Stale)
        );
        match endpoint.instance.health {
            _ if gone => counts.critical += 1,
            Health::Passing => counts.passing += 1,
            Health::Warning => counts.warning += 1,
            Health::Critical | Health::Maintenance | Health::Draining => counts.critical += 1,
        }
        tags.extend(endpoint.instance.tags.iter().map(ToString::to_string));
    }
    ServiceSummary {
        name: service.name.name().to_string(),
        namespace: service.name.namespace().to_string(),
        ports: service.ports.iter().map(port_info).collect(),
        endpoints: counts,
        tags: tags.into_iter().collect(),
        source: "mesh".to_owned(),
    }
}

fn endpoint_info(endpoint: &Endpoint, own: Option<Use>) -> EndpointInfo {
    let instance = &endpoint.instance;
    let reason = own.and_then(Use::reason).or_else(|| endpoint.usable.reason());
    EndpointInfo {
        id: endpoint.id(),
        node: endpoint.node.name.to_string(),
        zone: endpoint.node.locality.to_string(),
        address: instance.target.clone(),
        port: instance.ports.first().map_or(0, |port| port.port),
        status: instance.health.word().to_owned(),
        weight: instance.weight,
        tags: instance.tags.iter().map(ToString::to_string).collect(),
        version: instance.version.as_ref().map(ToString::to_string),
        reason: reason.map(|reason| reason.word().to_owned()),
        note: instance.set_aside.clone().unwrap_or_default(),
    }
}
