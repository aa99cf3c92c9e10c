//! What people ask of policy: who holds it, who calls whom, and why a call would not work.

use std::sync::Arc;

use skein_protocol::{
    manifest::DocumentId,
    name::{NodeName, ServiceName},
    policy::{Content, PolicyKey, VerifiedVersion, access::What},
    route::PortRef,
    view::{Endpoint, Liveness, ServiceView, Use, View},
    wire::ask::Ask,
    words,
};

use super::{
    super::{
        api::invalid,
        show::{Agent, UNWRITTEN},
    },
    named,
    sign::{decide, info},
};
use crate::api::{
    ApiError,
    dto::{
        BackupReport, ConflictInfo, Document, DocumentDetail, EdgeInfo, EdgesReport, NodePolicy,
        PolicyReport, RoutesRequest, WhyReport, WhyRequest, WhyStep,
    },
};

impl Agent {
    /// Which nodes hold which policy, as each says now.
    pub(crate) async fn policy_report(&self) -> PolicyReport {
        let start = self.clock.now().tick;
        let stands = self.policy_roots().await;
        let view = self.view();
        let policy = Arc::clone(&self.policy.borrow());
        let root = policy.documents.root();
        let now = self.clock.now().tick;
        let held = self.stands.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let mut nodes = Vec::new();
        let known = view
            .nodes
            .values()
            .filter(|node| node.liveness != Liveness::Left && !self.is_revoked(&node.key));
        for node in known {
            let (state, said, age, reason) = match stands.get(&node.key) {
                _ if node.key == self.me => ("agrees", Some(root), 0, String::new()),
                Some(Ok(stand)) if stand.policy == root => {
                    ("agrees", Some(stand.policy), 0, String::new())
                }
                Some(Ok(stand)) => ("lags", Some(stand.policy), 0, String::new()),
                silent => {
                    let why = match silent {
                        Some(Err(why)) => why.clone(),
                        _ => format!("{} for this agent", node.liveness.word()),
                    };
                    let last = held.get(&node.key);
                    let age = last.map_or(0, |(_, at)| now.since(*at).as_millis());
                    let age = u64::try_from(age).unwrap_or(u64::MAX);
                    ("silent", last.map(|(root, _)| *root), age, why)
                }
            };
            let reason = match node.unwritten {
                true if reason.is_empty() => format!("{UNWRITTEN}: it may forget what is new"),
                _ => reason,
            };
            nodes.push(NodePolicy {
                node: node.name.to_string(),
                state: state.to_owned(),
                root: said.map(|root| root.to_string()).unwrap_or_default(),
                age_ms: age,
                reason,
            });
        }
        nodes.sort_by(|a, b| a.node.cmp(&b.node));
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let lives = |heads: &[Arc<VerifiedVersion>]| {
            heads.iter().any(|head| *head.content() != Content::Deleted)
        };
        PolicyReport {
            root: root.to_string(),
            agreeing: number(nodes.iter().filter(|node| node.state == "agrees").count()),
            of: number(nodes.len()),
            documents: number(policy.documents.iter().filter(|(_, heads)| lives(heads)).count()),
            conflicts: policy.conflicts().filter_map(|(_, heads)| conflict(heads)).collect(),
            nodes,
            ms: u64::try_from(now.since(start).as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Who calls whom, and what the documents say of it.
    pub(crate) async fn edges_report(&self) -> EdgesReport {
        let (edges, silent) = self.edges_everywhere().await;
        let rules = Arc::clone(&self.policy.borrow());
        let shown = |(at, edge): &(String, _)| {
            let decision = decide(&rules.access, edge);
            let would = decision.allowed != decision.audit.is_some();
            EdgeInfo {
                allowed: decision.allowed,
                would,
                rule: decision.audit.unwrap_or(decision.because).to_string(),
                ..info(at, edge)
            }
        };
        let mut edges: Vec<EdgeInfo> = edges.iter().map(shown).collect();
        edges.sort_by(|a, b| {
            let key = |e: &EdgeInfo| {
                (e.destination.clone(), e.port, e.source.clone(), e.node.clone(), e.at.clone())
            };
            key(a).cmp(&key(b))
        });
        EdgesReport { edges, silent }
    }

    /// How a call would go from here, or from a service elsewhere.
    pub(crate) async fn why(&self, asked: &WhyRequest) -> Result<WhyReport, ApiError> {
        let name = ServiceName::parse_in(&asked.service, &self.settings.namespace);
        let name = name.map_err(invalid)?;
        let from = match asked.from.as_str() {
            "" => None,
            text => {
                let from = ServiceName::parse_in(text, &self.settings.namespace);
                Some(from.map_err(invalid)?)
            }
        };
        let view = self.view();
        let mut report = WhyReport::default();
        let Some(service) = view.services.get(&name) else {
            let fix = "skein services; register it on the host that runs it";
            report.fails("name", format!("no host registers {name}"), fix);
            return Ok(report);
        };
        let Some(port) = port_of(service, &asked.port)? else {
            let text = format!("{name} has no port {}", asked.port);
            report.fails("name", text, format!("skein service {name}"));
            return Ok(report);
        };
        report.holds("name", format!("{name} port {port}, {} endpoints", service.endpoints.len()));
        if from.is_none() && !self.why_listener(&mut report, &name) {
            return Ok(report);
        }
        let Some(endpoint) = self.why_route(&mut report, service, port) else {
            return Ok(report);
        };
        if self.why_policy(&mut report, &view, (&name, port), from.as_ref()) {
            self.why_link(&mut report, &endpoint).await;
        }
        Ok(report)
    }

    /// The endpoints, and in a few words what traffic rules make of a call.
    fn why_route(
        &self,
        report: &mut WhyReport,
        service: &ServiceView,
        port: u16,
    ) -> Option<Endpoint> {
        let asked = RoutesRequest {
            service: service.name.to_string(),
            port: port.to_string(),
            request: None,
        };
        let rules = self.routes_of(&asked).ok().filter(|routes| !routes.rules.is_empty());
        let words = rules.map(|routes| {
            let count = words::count(routes.rules.len(), "traffic rule", "traffic rules");
            let name = &service.name;
            format!(", carried as {}, {count} (skein routes {name}:{port})", routes.carried)
        });
        why_route(report, service, &words.unwrap_or_default())
    }

    fn why_listener(&self, report: &mut WhyReport, name: &ServiceName) -> bool {
        let text = name.to_string();
        let all = self.show_listeners();
        let mut mine = all.iter().filter(|listener| listener.service == text).peekable();
        if mine.peek().is_none() {
            let fix = format!("skein service {name} --bind, or write a ServiceDiscovery");
            report.fails("listener", "nothing listens for it on this host".to_owned(), fix);
            return false;
        }
        let open = mine.clone().find(|listener| listener.state != "failed");
        match open {
            Some(listener) => {
                report.holds("listener", format!("{}:{}", listener.address, listener.port));
                true
            }
            None => {
                let why = mine.find_map(|listener| listener.reason.clone()).unwrap_or_default();
                report.fails("listener", why, "skein listeners");
                false
            }
        }
    }

    fn why_policy(
        &self,
        report: &mut WhyReport,
        view: &View,
        (name, port): (&ServiceName, u16),
        from: Option<&ServiceName>,
    ) -> bool {
        let own = view.nodes.get(&view.me).map(|node| node.name.clone());
        let serves = |service: &ServiceName| {
            let found = view.services.get(service);
            found.and_then(|one| one.endpoints.first()).map(|one| one.node.name.clone())
        };
        let node: Option<NodeName> = match from {
            Some(service) => serves(service),
            None => own,
        };
        let who = named(from, node.as_ref(), false);
        let what = What { service: name, port, request: None };
        let policy = Arc::clone(&self.policy.borrow());
        let decision = policy.access.decide(&who, &what);
        if let Some(audit) = &decision.audit {
            let would = if decision.allowed { "denied" } else { "allowed" };
            report.holds("audit", format!("would be {would}: {audit}"));
        }
        if decision.allowed {
            report.holds("policy", format!("{who} may: {}", decision.because));
            return true;
        }
        let detail = super::denial(&who, name, &decision);
        let fix = match decision.because.document() {
            Some(id) => format!(
                "skein describe {} {}/{}; an AccessPolicy with `action: allow` and `from: \
                 [{{service: {}}}]` would let it",
                id.kind,
                id.namespace,
                id.name,
                from.map_or_else(|| "NAMESPACE/NAME".to_owned(), ToString::to_string)
            ),
            None => String::new(),
        };
        report.fails("policy", detail, fix);
        false
    }

    async fn why_link(&self, report: &mut WhyReport, endpoint: &Endpoint) {
        let node = &endpoint.node;
        if node.key == self.me {
            report.holds("link", "the endpoint is on this host".to_owned());
        } else {
            match self.ask(node.key, Ask::Stand).await {
                Ok(_) => report.holds("link", format!("{} answers", node.name)),
                Err(why) => {
                    let fix = "skein links; is its UDP port open?";
                    return report.fails("link", format!("{}: {why}", node.name), fix);
                }
            }
        }
        report
            .holds("endpoint", format!("{} is {}", endpoint.id(), endpoint.instance.health.word()));
        report.works = true;
    }

    /// What a backup holds of the mesh.
    pub(crate) fn backup_report(&self) -> Result<BackupReport, ApiError> {
        let hex = |bytes: Vec<u8>| data_encoding::HEXLOWER.encode(&bytes);
        let mut report = BackupReport::default();
        for (_, heads) in self.policy.borrow().documents.iter() {
            for head in heads {
                report.documents.push(hex(head.bundle().encode().map_err(invalid)?));
            }
        }
        for (_, statement) in self.revocations.borrow().iter() {
            report.revocations.push(hex(statement.encode().map_err(invalid)?));
        }
        Ok(report)
    }

    /// A mesh-wide document as `describe` shows it, with all its versions.
    pub(crate) fn describe_policy(&self, id: &DocumentId) -> Option<DocumentDetail> {
        let key = PolicyKey::new(id)?;
        let policy = Arc::clone(&self.policy.borrow());
        let heads = policy.documents.of(&key);
        let mut document = document(heads.last()?, heads)?;
        if let [_, _, ..] = heads {
            let text = heads.iter().map(|head| {
                let yaml = head.document().map(|document| document.to_yaml()).unwrap_or_default();
                let (version, operator) = (head.version().short(), &head.operator().name);
                format!("# version {version} by {operator}\n{yaml}")
            });
            document.yaml = text.collect::<Vec<_>>().join("---\n");
        }
        (*heads.last()?.content() != Content::Deleted || heads.len() > 1)
            .then(|| DocumentDetail { document, ..DocumentDetail::default() })
    }

    /// Mesh-wide documents as `get` shows them.
    pub(crate) fn policy_documents(&self) -> Vec<Document> {
        let policy = Arc::clone(&self.policy.borrow());
        let mut all = Vec::new();
        for (_, heads) in policy.documents.iter() {
            let shown = heads.iter().filter(|head| *head.content() != Content::Deleted);
            all.extend(shown.filter_map(|head| document(head, heads)));
        }
        all
    }
}

/// The endpoint that would be called first; `rules` says what becomes of calls on their way.
fn why_route(report: &mut WhyReport, service: &ServiceView, rules: &str) -> Option<Endpoint> {
    let usable = |endpoint: &&Endpoint| !matches!(endpoint.usable, Use::No(_));
    let found = service.endpoints.iter().filter(usable).min_by_key(|one| one.usable);
    match found {
        Some(endpoint) => {
            let count = service.endpoints.iter().filter(usable).count();
            report.holds("route", format!("{count} endpoints may be called{rules}"));
            Some(endpoint.clone())
        }
        None => {
            let reasons = service.endpoints.iter().map(|endpoint| {
                let why = endpoint.usable.reason().map(|r| r.word()).unwrap_or_default();
                format!("{}: {why}", endpoint.id())
            });
            let reasons: Vec<String> = reasons.collect();
            let text = format!("no endpoint may be called: {}", reasons.join(", "));
            report.fails("route", text, format!("skein service {}", service.name));
            None
        }
    }
}

/// The port of a service that a number or a name means, the first if nothing is said.
pub(super) fn port_of(service: &ServiceView, text: &str) -> Result<Option<u16>, ApiError> {
    let found = match (text, text.parse::<u16>()) {
        ("", _) => service.ports.first(),
        (_, Ok(number)) => PortRef::Number(number).find(service).ok(),
        (_, Err(_)) => {
            let name = skein_protocol::name::Label::new(text).map_err(invalid)?;
            PortRef::Name(name).find(service).ok()
        }
    };
    Ok(found.map(|port| port.port))
}

/// A version as `get` shows it.
pub(crate) fn document(head: &VerifiedVersion, heads: &[Arc<VerifiedVersion>]) -> Option<Document> {
    let id = head.key().document()?;
    let (state, reason) = match (head.unread(), heads.len()) {
        (Some(why), _) => ("not read", Some(format!("{why}; upgrade this agent"))),
        (None, 1) => ("in force", None),
        (None, count) => {
            let text = format!("one of {count} versions that did not know of each other");
            ("conflict", Some(text))
        }
    };
    Some(Document {
        kind: id.kind.word().to_owned(),
        namespace: id.namespace.to_string(),
        name: id.name.to_string(),
        source: format!("operator:{}", head.operator().name),
        state: state.to_owned(),
        reason,
        hash: head.version().to_string(),
        yaml: head.document().map(|document| document.to_yaml()).unwrap_or_default(),
    })
}

fn conflict(heads: &[Arc<VerifiedVersion>]) -> Option<ConflictInfo> {
    let id = heads.first()?.key().document()?;
    let version = |head: &Arc<VerifiedVersion>| {
        let what = match head.content() {
            Content::Deleted => ", deletes it",
            Content::Unread { .. } => ", not read by this agent",
            Content::Access(_) | Content::Traffic(_) => "",
        };
        let generation = head.lineage().generation;
        let name = &head.operator().name;
        format!("{} by {name} (generation {generation}{what})", head.version().short())
    };
    Some(ConflictInfo {
        kind: id.kind.word().to_owned(),
        namespace: id.namespace.to_string(),
        name: id.name.to_string(),
        versions: heads.iter().map(version).collect(),
        fix: format!(
            "skein describe {} {}/{} shows all; apply the one that is meant, or delete it",
            id.kind, id.namespace, id.name
        ),
    })
}

impl WhyReport {
    fn holds(&mut self, step: &str, detail: String) {
        let step = WhyStep { step: step.to_owned(), ok: true, detail, ..WhyStep::default() };
        self.steps.push(step);
    }

    fn fails(&mut self, step: &str, detail: String, fix: impl Into<String>) {
        let step = WhyStep { step: step.to_owned(), ok: false, detail, fix: fix.into() };
        self.steps.push(step);
    }
}
