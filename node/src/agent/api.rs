//! The API of a running agent: what the command line and scripts ask of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream};
use skein_protocol::{
    clock::Wall,
    limits,
    manifest::{self, DocumentId, Kind},
    name::{Label, NodeKey, ServiceName},
    record::node::{Health, InstanceId, NodeState, SHOWN_BYTES, TokenUses},
    trust::{Grant, Signer},
    view::Liveness,
    wire::ask::{Answer, Ask},
};

use super::{VERSION, identity::holds_name, show::Agent};
use crate::{
    api::{
        AgentApi, ApiError, ApiErrorKind, Reply,
        dto::{
            AdmitRequest, Admitted, ApplyReport, ApplyResult, BackupReport, BindReport,
            Certificate, CheckStatus, CheckUpdate, DeleteRequest, DiffReport, Document,
            DocumentDetail, DocumentName, Documents, DrainReport, DrainRequest, EdgesReport, Fault,
            InstanceStatus, LeaveReport, LeaveRequest, Link, Listener, LogLevel, MaintenanceReport,
            MaintenanceRequest, Member, PolicyReport, PrepareRequest, Prepared, RevokePlan,
            RevokePlanRequest, RevokeReport, RevokeRequest, RootsReport, RootsRequest,
            RoutesReport, RoutesRequest, ServiceDetail, ServiceSummary, Status, TokenCreated,
            TokenInfo, TokenRequest, TokenRevoked, ValidateReport, Visible, WhyReport, WhyRequest,
        },
    },
    clock::{rfc3339, wall},
    identity::{IssuerError, TokenScope},
    keys::pem,
    proxy::Bind,
    workload::{self, ChangeError, Held, Hold, Outcome, Owned, Owner, TtlReport},
};

/// How often it is asked whether all agents show what was changed.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long a revocation of a token waits for the other issuers.
const ISSUERS_HEAR: Duration = Duration::from_secs(5);

/// How long a change is followed at least, so that what is said of it means something.
const VISIBLE: Duration = Duration::from_secs(1);

pub(super) fn invalid(text: impl std::fmt::Display) -> ApiError {
    ApiError::new(ApiErrorKind::Invalid, text.to_string())
}

impl Agent {
    fn mesh_name(&self) -> String {
        let roots = self.roots();
        let root = roots.order.first().and_then(|key| roots.roots.get(key));
        let named = root.and_then(|der| skein_protocol::trust::certificate::mesh_name(der).ok());
        named
            .or_else(|| self.settings.said_mesh.as_ref().map(ToString::to_string))
            .unwrap_or_default()
    }

    /// What to say when the document names another mesh than the root's certificate.
    pub(super) fn other_mesh_name(&self) -> Option<String> {
        let named = self.mesh_name();
        let said = self.settings.said_mesh.as_ref().filter(|said| said.as_str() != named)?;
        Some(format!(
            "meshConfig.serviceMesh is {said}, but this node's certificate is of the mesh {named}: \
             write the latter, or move the agent's directory away and join {said}"
        ))
    }

    fn service_name(&self, text: &str) -> Result<ServiceName, ApiError> {
        ServiceName::parse_in(text, &self.settings.namespace).map_err(invalid)
    }

    fn service_names(&self, text: Option<&str>) -> Result<Option<ServiceName>, ApiError> {
        text.map(|text| self.service_name(text)).transpose()
    }

    /// The services that this host serves, or the one that is meant.
    fn served(&self, only: Option<&ServiceName>) -> Result<Vec<String>, ApiError> {
        let snapshot = Arc::clone(&self.workload.snapshot.borrow());
        let mut all: Vec<&ServiceName> = snapshot
            .plan
            .registrations
            .iter()
            .map(|registration| &registration.service)
            .filter(|service| only.is_none_or(|only| only == *service))
            .collect();
        all.sort();
        all.dedup();
        match only {
            Some(only) if all.is_empty() => {
                Err(ApiError::not_found(format!("this host serves no {only}"))
                    .fix("`skein get ServiceRegistry` lists what it serves"))
            }
            _ => Ok(all.into_iter().map(ToString::to_string).collect()),
        }
    }

    /// Waits until the engine was told of the documents and the phase of now.
    pub(super) async fn told(&self) {
        let number = self.workload.snapshot.borrow().number;
        let phase = self.phase.borrow().clone();
        let mut said = self.said.subscribe();
        let all = async { drop(said.wait_for(|(n, p)| *n >= number && *p == phase).await) };
        // A composer that is behind shows as a change that is not visible.
        let _ = tokio::time::timeout(Duration::from_secs(2), all).await;
    }

    /// Waits until every agent that lives now goes by this host's newest record, and says how many
    /// do. Who dies meanwhile is not waited for.
    pub(super) async fn visible(&self, wait: Duration) -> Visible {
        let start = self.clock.now().tick;
        let peers = self.peers(|node| node.liveness == Liveness::Alive);
        let mut on = 0u32;
        let followed = async {
            self.told().await;
            let sequence = self.settled().await;
            on = 1;
            let each = stream::iter(peers.clone())
                .map(|node| self.goes_by(node, sequence))
                .buffer_unordered(limits::ASK_AT_ONCE);
            let mut each = std::pin::pin!(each);
            while let Some(has) = each.next().await {
                on = on.saturating_add(u32::from(has));
            }
        };
        // Who did not answer by then counts as one that does not have it.
        let _ = tokio::time::timeout(wait.max(VISIBLE), followed).await;
        let alive = peers.iter().filter(|node| self.lives(node)).count();
        let of = u32::try_from(alive).unwrap_or(u32::MAX).saturating_add(1);
        let took = self.clock.now().tick.since(start).as_millis();
        Visible { on: on.min(of), of, ms: u64::try_from(took).unwrap_or(u64::MAX) }
    }

    /// Waits until every other issuer goes by this host's newest record: the names of the hosts
    /// that do not within a while.
    async fn issuers_unheard(&self, issuers: &[NodeKey]) -> Vec<String> {
        let mut unheard: BTreeSet<NodeKey> = issuers.iter().copied().collect();
        let followed = async {
            self.told().await;
            let sequence = self.settled().await;
            let each = stream::iter(issuers.to_vec())
                .map(|node| async move { (node, self.goes_by(node, sequence).await) })
                .buffer_unordered(limits::ASK_AT_ONCE);
            let mut each = std::pin::pin!(each);
            while let Some((node, has)) = each.next().await {
                if has {
                    unheard.remove(&node);
                }
            }
        };
        // Who did not answer by then has not heard.
        let _ = tokio::time::timeout(ISSUERS_HEAR, followed).await;
        unheard.iter().map(|node| self.name_of(node)).collect()
    }

    /// The sequence of this host's record, once it has all that this host wants to say: before that
    /// nobody can have it.
    async fn settled(&self) -> u64 {
        loop {
            let agreeing = self.driver.agreeing().await;
            if agreeing.settled {
                return agreeing.sequence;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until a peer goes by that record of this host; in vain if it does not live to.
    async fn goes_by(&self, node: NodeKey, sequence: u64) -> bool {
        while self.lives(&node) {
            let answer = self.ask(node, Ask::Record(self.me)).await;
            if matches!(answer, Ok(Answer::Record(held)) if held >= sequence) {
                return true;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        false
    }

    fn lives(&self, node: &NodeKey) -> bool {
        let view = self.view();
        view.nodes.get(node).is_some_and(|node| node.liveness == Liveness::Alive)
            && !self.is_revoked(node)
    }

    fn document(owned: &Owned) -> Document {
        let id = &owned.document.id;
        Document {
            kind: id.kind.word().to_owned(),
            namespace: id.namespace.to_string(),
            name: id.name.to_string(),
            source: match &owned.owner {
                Owner::File(path) => format!("file:{}", path.display()),
                Owner::Applied => "applied".to_owned(),
            },
            state: if id.kind.is_mesh_wide() { "not applied" } else { "in force" }.to_owned(),
            reason: id.kind.is_mesh_wide().then(|| "not applied: needs an operator".to_owned()),
            hash: owned.document.hash().to_string(),
            yaml: owned.document.to_yaml(),
        }
    }
}

/// A fault of a document as the API shows it.
pub(crate) fn fault(fault: &manifest::Fault, severity: &str) -> Fault {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Fault {
        severity: severity.to_owned(),
        file: fault.place.file.to_string(),
        line: number(fault.place.line),
        column: number(fault.place.column),
        key: fault.key.clone(),
        text: format!("{}; {}", fault.why, fault.fix),
        rendered: fault.to_string(),
    }
}

pub(super) fn change_error(error: ChangeError) -> ApiError {
    let text = error.to_string();
    match error {
        ChangeError::Faults(faults) => {
            ApiError::faults(faults.0.iter().map(|found| fault(found, "error")).collect())
        }
        ChangeError::OwnedByFile { .. } => ApiError::new(ApiErrorKind::Conflict, text),
        ChangeError::Unknown(_) => ApiError::not_found(text),
        ChangeError::Empty => invalid(text),
        ChangeError::Disk { .. } | ChangeError::Stopped => ApiError::unavailable(text),
    }
}

pub(super) fn applied(outcome: &Outcome) -> ApplyResult {
    let document = &outcome.document;
    ApplyResult {
        kind: document.id.kind.word().to_owned(),
        namespace: document.id.namespace.to_string(),
        name: document.id.name.to_string(),
        result: outcome.change.word().to_owned(),
        hash: document.hash().to_string(),
        warnings: document.warnings.iter().map(manifest::Fault::line).collect(),
    }
}

pub(super) fn document_id(name: &DocumentName, namespace: &Label) -> Result<DocumentId, ApiError> {
    let kind = Kind::from_word(&name.kind).ok_or_else(|| {
        invalid(format!(
            "`{}` is no kind: ServiceRegistry, ServiceDiscovery, ServiceMesh, TrafficManagement, \
             AccessPolicy",
            name.kind
        ))
    })?;
    let namespace = if name.namespace.is_empty() {
        namespace.clone()
    } else {
        Label::new(&name.namespace).map_err(invalid)?
    };
    Ok(DocumentId { kind, namespace, name: Label::new(&name.name).map_err(invalid)? })
}

/// All documents of a request as one text: all of them are taken, or none.
pub(super) fn joined(documents: &Documents) -> (String, String) {
    match documents.files.as_slice() {
        [one] => (one.name.clone(), one.text.clone()),
        many => {
            let names: Vec<&str> = many.iter().map(|file| file.name.as_str()).collect();
            let texts: Vec<&str> = many.iter().map(|file| file.text.as_str()).collect();
            (names.join(", "), texts.join("\n---\n"))
        }
    }
}

/// Checks documents against this host, changes nothing.
pub(crate) fn validate(documents: &Documents) -> ValidateReport {
    let mut report = ValidateReport::default();
    for file in &documents.files {
        match workload::validate(&file.name, &file.text, VERSION) {
            Ok(found) => {
                for document in found {
                    report.faults.extend(document.warnings.iter().map(|w| fault(w, "warning")));
                    report.documents.push(DocumentName {
                        kind: document.id.kind.word().to_owned(),
                        namespace: document.id.namespace.to_string(),
                        name: document.id.name.to_string(),
                    });
                }
            }
            Err(faults) => report.faults.extend(faults.0.iter().map(|f| fault(f, "error"))),
        }
    }
    report
}

fn issuer_error(error: IssuerError) -> ApiError {
    ApiError::new(ApiErrorKind::Invalid, error.to_string())
}

/// The grant of a request: what `admit` certifies.
pub(crate) fn grant_of(request: &AdmitRequest, key: &NodeKey) -> Result<Grant, ApiError> {
    let scope = scope(&request.services, &request.roles, &request.zone)?;
    let name = if request.name.is_empty() {
        format!("node-{}", key.short())
    } else {
        request.name.clone()
    };
    let name = name.parse().map_err(invalid)?;
    Grant::new(name, scope.0, scope.1, scope.2).map_err(invalid)
}

type Scope = (
    Vec<skein_protocol::name::ServicePattern>,
    Vec<skein_protocol::trust::Role>,
    Option<skein_protocol::name::Locality>,
);

fn scope(services: &[String], roles: &[String], zone: &str) -> Result<Scope, ApiError> {
    let services = services.iter().map(|text| text.parse()).collect::<Result<_, _>>();
    let roles = roles.iter().map(|role| match role.as_str() {
        "gateway" => Ok(skein_protocol::trust::Role::Gateway),
        other => Err(invalid(format!("`{other}` is no role: gateway"))),
    });
    let zone = match zone {
        "" | "*" => None,
        text => Some(text.parse().map_err(invalid)?),
    };
    Ok((services.map_err(invalid)?, roles.collect::<Result<_, _>>()?, zone))
}

/// The scope of a token request.
pub(crate) fn token_scope(request: &TokenRequest) -> Result<TokenScope, ApiError> {
    let (services, roles, zone) = scope(&request.services, &request.roles, &request.zone)?;
    let names = request.names.iter().map(|text| text.parse()).collect::<Result<_, _>>();
    Ok(TokenScope {
        services,
        names: names.map_err(invalid)?,
        roles,
        zone,
        issuers: 0,
        life: Duration::from_secs(request.ttl_seconds),
        uses: request.uses,
    })
}

/// A token that was made, for people.
pub(crate) fn created(
    token: &skein_protocol::trust::token::Token,
) -> Result<TokenCreated, ApiError> {
    let terms = &token.terms;
    Ok(TokenCreated {
        id: token_id_of(token)?,
        token: token.to_text().unwrap_or_default(),
        not_after: rfc3339(terms.not_after),
        services: terms.services.iter().map(ToString::to_string).collect(),
        uses: terms.uses,
    })
}

/// A chain that was made, for people.
pub(crate) fn admitted(
    issuer: &crate::identity::IssuingHost,
    request: &AdmitRequest,
) -> Result<Admitted, ApiError> {
    let key: NodeKey = request.key.parse().map_err(invalid)?;
    let grant = grant_of(request, &key)?;
    let chain = issuer.admit(&key, &grant, wall()).map_err(issuer_error)?;
    let now = wall();
    let verified =
        skein_protocol::trust::verify_chain(&chain, issuer.trusted(), now, &crate::keys::Ed25519)
            .map_err(invalid)?;
    let certificate = |der: &[u8]| ("CERTIFICATE", der.to_vec());
    let blocks = [certificate(&chain.leaf), certificate(&chain.issuer)];
    let chain_pem = pem::encode(blocks.iter().map(|(label, der)| (*label, der.as_slice())));
    let roots = issuer.roots();
    let roots_pem = crate::keys::file::roots_text(roots);
    Ok(Admitted {
        id: key.short().to_string(),
        name: grant.name.to_string(),
        not_after: rfc3339(verified.not_after),
        chain_pem,
        roots_pem,
    })
}

/// A person's reason, as records carry it.
fn shown_reason(text: &str) -> Result<String, ApiError> {
    if text.len() > SHOWN_BYTES || text.chars().any(char::is_control) {
        return Err(invalid(format!(
            "a reason is one line of at most {SHOWN_BYTES} bytes: this one has {}",
            text.len()
        )));
    }
    Ok(text.to_owned())
}

/// The issuer here, while this host can write what it issues.
fn issuing(agent: &Agent) -> Result<Arc<crate::identity::IssuingHost>, ApiError> {
    let issuer = agent.issuer().ok_or_else(|| no_issuer(agent))?;
    match agent.disk.trouble() {
        None => Ok(issuer),
        Some(why) => Err(ApiError::unavailable(format!(
            "this host cannot write its disk, so it issues nothing: {why}"
        ))
        .fix("make room, or run it on another host with an issuer (`skein certs`)")),
    }
}

fn no_issuer(agent: &Agent) -> ApiError {
    let view = agent.view();
    let holders: Vec<String> = view
        .nodes
        .values()
        .filter(|node| node.issuer && node.liveness == Liveness::Alive)
        .map(|node| node.name.to_string())
        .collect();
    let fix = if holders.is_empty() {
        "no live host with one is known: `skein status` says more".to_owned()
    } else {
        format!("run it on a host that has one: {}", holders.join(", "))
    };
    ApiError::unavailable("no issuer key is on this host").fix(fix)
}

impl AgentApi for Agent {
    fn status(&self) -> Reply<'_, Status> {
        Box::pin(async {
            let agreeing = self.driver.agreeing().await;
            Ok(self.show_status(&self.mesh_name(), agreeing.policy))
        })
    }

    fn members(&self) -> Reply<'_, Vec<Member>> {
        Box::pin(async { Ok(self.show_members()) })
    }

    fn services(&self) -> Reply<'_, Vec<ServiceSummary>> {
        Box::pin(async { Ok(self.show_services()) })
    }

    fn service(&self, name: String) -> Reply<'_, ServiceDetail> {
        Box::pin(async move {
            let service = self.find_service(&name)?;
            Ok(self.show_service(&service).await)
        })
    }

    fn bind(&self, name: String) -> Reply<'_, BindReport> {
        Box::pin(async move {
            let service = self.find_service(&name)?;
            let address = self.bind_virtual(&service.name).await?;
            let name = service.name.to_string();
            let mut listeners: Vec<Listener> =
                self.show_listeners().into_iter().filter(|l| l.service == name).collect();
            for text in self.problems.all().remove("virtual address").unwrap_or_default() {
                if text.contains(&address.to_string()) {
                    listeners.push(Listener {
                        kind: "virtual".to_owned(),
                        service: name.clone(),
                        address: address.to_string(),
                        state: "failed".to_owned(),
                        reason: Some(text),
                        ..Listener::default()
                    });
                }
            }
            Ok(BindReport { service: name, virtual_address: address.to_string(), listeners })
        })
    }

    fn links(&self) -> Reply<'_, Vec<Link>> {
        Box::pin(async { Ok(self.show_links()) })
    }

    fn certs(&self) -> Reply<'_, Vec<Certificate>> {
        Box::pin(async { Ok(self.show_certs()) })
    }

    fn listeners(&self) -> Reply<'_, Vec<Listener>> {
        Box::pin(async { Ok(self.show_listeners()) })
    }

    fn documents(&self, kind: Option<String>) -> Reply<'_, Vec<Document>> {
        Box::pin(async move {
            let kind = match kind {
                None => None,
                Some(word) => Some(Kind::from_word(&word).ok_or_else(|| {
                    invalid(format!("`{word}` is no kind; see `skein get` without one"))
                })?),
            };
            let snapshot = Arc::clone(&self.workload.snapshot.borrow());
            let mut all: Vec<Document> = snapshot.documents.iter().map(Self::document).collect();
            all.extend(self.policy_documents());
            all.retain(|document| kind.is_none_or(|kind| document.kind == kind.word()));
            let key = |document: &Document| {
                let Document { kind, namespace, name, .. } = document;
                (Kind::from_word(kind), namespace.clone(), name.clone())
            };
            all.sort_by_key(key);
            Ok(all)
        })
    }

    fn describe(&self, document: DocumentName) -> Reply<'_, DocumentDetail> {
        Box::pin(async move {
            let id = document_id(&document, &self.settings.namespace)?;
            if let Some(detail) = self.describe_policy(&id) {
                return Ok(detail);
            }
            let snapshot = Arc::clone(&self.workload.snapshot.borrow());
            let owned = snapshot
                .document(id.kind, &id.namespace, &id.name)
                .ok_or_else(|| ApiError::not_found(format!("no {id} is held here")))?;
            let instances = snapshot.plan.instances().filter(|(r, _)| r.document == id);
            let instances = instances.map(|(_, planned)| {
                let found = snapshot.health.get(&planned.id);
                let checks = found.map(|found| &found.checks).into_iter().flatten();
                InstanceStatus {
                    id: planned.id.to_string(),
                    status: found.map_or(Health::Critical, |f| f.health).word().to_owned(),
                    note: found.and_then(|f| f.set_aside.clone()).unwrap_or_default(),
                    checks: checks
                        .map(|(name, state)| CheckStatus {
                            kind: name.to_string(),
                            status: state.health.word().to_owned(),
                            output: state.output.clone(),
                        })
                        .collect(),
                }
            });
            let said = id.to_string();
            let listeners = Arc::clone(&self.wanted.borrow());
            let mine: Vec<String> = listeners
                .0
                .iter()
                .filter(|(_, spec)| spec.name.starts_with(&said))
                .map(|(bind, _)| match bind {
                    Bind::Tcp(socket) => socket.to_string(),
                    Bind::Unix(path) => format!("unix:{}", path.display()),
                })
                .collect();
            let shown = self.show_listeners().into_iter().filter(|l| {
                mine.contains(&format!("{}:{}", l.address, l.port)) || mine.contains(&l.address)
            });
            Ok(DocumentDetail {
                document: Self::document(owned),
                instances: instances.collect(),
                listeners: shown.collect(),
            })
        })
    }

    fn apply(&self, documents: Documents) -> Reply<'_, ApplyReport> {
        Box::pin(async move { self.change_documents(&documents).await })
    }

    fn delete(&self, request: DeleteRequest) -> Reply<'_, ApplyReport> {
        Box::pin(async move { self.delete_documents(&request).await })
    }

    fn validate(&self, documents: Documents) -> Reply<'_, ValidateReport> {
        Box::pin(async move { Ok(validate(&documents)) })
    }

    fn diff(&self, documents: Documents) -> Reply<'_, DiffReport> {
        Box::pin(async move { self.compare_documents(&documents).await })
    }

    fn prepare(&self, request: PrepareRequest) -> Reply<'_, Prepared> {
        Box::pin(async move { Self::prepare(self, &request).await })
    }

    fn policy(&self) -> Reply<'_, PolicyReport> {
        Box::pin(async move { Ok(self.policy_report().await) })
    }

    fn edges(&self) -> Reply<'_, EdgesReport> {
        Box::pin(async move { Ok(self.edges_report().await) })
    }

    fn backup(&self) -> Reply<'_, BackupReport> {
        Box::pin(async move { self.backup_report() })
    }

    fn roots(&self, request: RootsRequest) -> Reply<'_, RootsReport> {
        Box::pin(async move { self.follow_roots(&request).await })
    }

    fn reload_issuer(&self) -> Reply<'_, ()> {
        Box::pin(async move { self.open_issuer().map_err(|error| invalid(format!("{error:#}"))) })
    }

    fn revoke_plan(&self, asked: RevokePlanRequest) -> Reply<'_, RevokePlan> {
        Box::pin(async move { Self::revoke_plan(self, &asked) })
    }

    fn revoke(&self, request: RevokeRequest) -> Reply<'_, RevokeReport> {
        Box::pin(async move { self.revoke_by(&request).await })
    }

    fn routes(&self, asked: RoutesRequest) -> Reply<'_, RoutesReport> {
        Box::pin(async move { self.routes_of(&asked) })
    }

    fn why(&self, asked: WhyRequest) -> Reply<'_, WhyReport> {
        Box::pin(async move { Self::why(self, &asked).await })
    }

    fn check_update(&self, update: CheckUpdate) -> Reply<'_, ()> {
        Box::pin(async move {
            let health = match update.status.as_str() {
                "passing" => Health::Passing,
                "warning" => Health::Warning,
                "critical" => Health::Critical,
                other => {
                    return Err(invalid(format!(
                        "`{other}` is no state of a check: passing, warning, critical"
                    )));
                }
            };
            let report = TtlReport {
                instance: instance_id(&update.instance)?,
                check: None,
                health,
                output: update.output,
            };
            self.workload.ttl_update(report).await.map_err(invalid)
        })
    }

    fn drain(&self, request: DrainRequest) -> Reply<'_, DrainReport> {
        Box::pin(async move {
            let only = self.service_names(request.service.as_deref())?;
            let services = self.served(only.as_ref())?;
            let reason = shown_reason(&request.reason)?;
            let held = (!request.undo).then_some(Held { hold: Hold::Draining, reason });
            self.workload.hold(only.clone(), held).await;
            if only.is_none() {
                let state = if request.undo { NodeState::Up } else { NodeState::Draining };
                self.phase.send_modify(|phase| phase.state = state);
            }
            let wait = Duration::from_millis(request.wait_ms);
            let asked = tokio::time::Instant::now();
            let visible = self.visible(wait).await;
            let live = || self.proxy.live().inbound;
            // Of one service it is not known which connections are its own.
            while only.is_none() && !request.undo && live() > 0 && asked.elapsed() < wait {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            let connections = u64::try_from(live()).unwrap_or(u64::MAX);
            Ok(DrainReport { services, connections, visible, undone: request.undo })
        })
    }

    fn maintenance(&self, request: MaintenanceRequest) -> Reply<'_, MaintenanceReport> {
        Box::pin(async move {
            let only = self.service_names(request.service.as_deref())?;
            let services = self.served(only.as_ref())?;
            let reason = shown_reason(&request.reason)?;
            let held = request.on.then_some(Held { hold: Hold::Maintenance, reason });
            self.workload.hold(only, held).await;
            let visible = self.visible(Duration::ZERO).await;
            Ok(MaintenanceReport { services, visible, on: request.on, reason: request.reason })
        })
    }

    fn leave(&self, request: LeaveRequest) -> Reply<'_, LeaveReport> {
        Box::pin(async move {
            if request.purge {
                return Err(ApiError::unavailable(
                    "`--purge` is not part of this version: leave, then remove the directory",
                ));
            }
            let files = self.files.clone();
            let mark = tokio::task::spawn_blocking(move || files.leave());
            let marked = match tokio::time::timeout(Duration::from_secs(2), mark).await {
                Ok(Ok(Ok(()))) => Ok(()),
                Ok(Ok(Err(error))) => Err(error.to_string()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("the disk does not answer".to_owned()),
            };
            self.phase.send_modify(|phase| phase.state = NodeState::Left);
            let visible = self.visible(Duration::from_secs(2)).await;
            // The agent ends once this was answered.
            let _ = self.leave.try_send(());
            let warning = marked
                .err()
                .map(|why| format!("{why}: the next start of the agent brings this host back"));
            let warning = warning.unwrap_or_default();
            Ok(LeaveReport { visible, purged: Vec::new(), warning })
        })
    }

    fn token_create(&self, request: TokenRequest) -> Reply<'_, TokenCreated> {
        Box::pin(async move {
            let issuer = issuing(self)?;
            let scope = token_scope(&request)?;
            created(&issuer.create_token(scope, wall()).map_err(issuer_error)?)
        })
    }

    fn token_list(&self) -> Reply<'_, Vec<TokenInfo>> {
        Box::pin(async move {
            let own = self.settings.name(&self.credentials);
            let mut all = token_infos(&self.tokens.all(), &own);
            for (node, tokens) in self.issuers_tokens() {
                all.extend(token_infos(&tokens, &self.name_of(&node)));
            }
            Ok(all)
        })
    }

    fn token_revoke(&self, id: String) -> Reply<'_, TokenRevoked> {
        Box::pin(async move {
            self.issuer().ok_or_else(|| no_issuer(self))?;
            let token = token_id(&id)?;
            self.tokens
                .change(|uses| {
                    revoke_token(uses, token, wall());
                    Ok(())
                })
                .map_err(|refusal| ApiError::unavailable(refusal.to_string()))?;
            let tokens = self.tokens.all();
            self.phase.send_modify(|phase| phase.tokens = tokens);
            let issuers: Vec<NodeKey> =
                self.issuers_tokens().into_iter().map(|(node, _)| node).collect();
            let unheard = self.issuers_unheard(&issuers).await;
            let of = issuers.len() + 1;
            let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            Ok(TokenRevoked {
                id,
                on: number(of.saturating_sub(unheard.len())),
                of: number(of),
                unheard,
            })
        })
    }

    fn admit(&self, request: AdmitRequest) -> Reply<'_, Admitted> {
        Box::pin(async move {
            let issuer = issuing(self)?;
            let key: NodeKey = request.key.parse().map_err(invalid)?;
            let view = self.view();
            let taken = view.nodes.values().find(|node| {
                let lives = matches!(node.liveness, Liveness::Alive | Liveness::Suspect);
                node.name.as_str() == request.name
                    && node.key != key
                    && holds_name(node, wall())
                    && (lives || !request.replace)
            });
            if let Some(node) = taken {
                let text = format!("the name {} belongs to node {}", node.name, node.short);
                return Err(ApiError::new(ApiErrorKind::Conflict, text).fix(
                    "say another with --name; of a host that is gone --replace takes it, and \
                     `skein revoke` ends one that lives",
                ));
            }
            admitted(&issuer, &request)
        })
    }

    fn log_level(&self) -> Reply<'_, LogLevel> {
        Box::pin(async {
            let filter =
                self.log.get().map_err(|error| ApiError::unavailable(error.to_string()))?;
            Ok(LogLevel { filter })
        })
    }

    fn set_log_level(&self, level: LogLevel) -> Reply<'_, LogLevel> {
        Box::pin(async move {
            self.log.set(&level.filter).map_err(invalid)?;
            Ok(level)
        })
    }

    fn metrics(&self) -> Reply<'_, String> {
        Box::pin(async { Ok(self.metrics.text()) })
    }
}

fn instance_id(text: &str) -> Result<InstanceId, ApiError> {
    let mut parts = text.rsplit('/');
    match (parts.next(), parts.next()) {
        (Some(endpoint), Some(document)) => Ok(InstanceId {
            document: Label::new(document).map_err(invalid)?,
            endpoint: Label::new(endpoint).map_err(invalid)?,
        }),
        _ => {
            Err(invalid(format!("`{text}`: write DOCUMENT/ENDPOINT, as `skein describe` shows it")))
        }
    }
}

/// The id of a token, as `token list` shows it.
pub(crate) fn token_id(text: &str) -> Result<[u8; 16], ApiError> {
    let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.trim().as_bytes()).ok();
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| invalid(format!("`{text}` is no token id: 32 hexadecimal digits")))
}

/// The id of a token, for people.
pub(crate) fn token_id_of(token: &skein_protocol::trust::token::Token) -> Result<String, ApiError> {
    let seed = crate::keys::KeyPair::from_seed(&token.seed).map_err(invalid)?;
    let id = skein_protocol::trust::token::token_id(&Signer::public_key(&seed));
    Ok(data_encoding::HEXLOWER.encode(&id))
}

/// Ends a token. It stays known until it would be over anyway.
pub(crate) fn revoke_token(uses: &mut TokenUses, id: [u8; 16], now: Wall) {
    uses.forget(now);
    if let Err(place) = uses.revoked.binary_search_by(|(known, _)| known.cmp(&id)) {
        let known = uses.used.iter().find(|one| one.id == id).map(|one| one.until);
        let until = known.unwrap_or_else(|| now.after(limits::TOKEN_LIFE_MAX));
        uses.revoked.insert(place, (id, until));
    }
}

/// Tokens of an issuer, as far as their uses tell.
pub(crate) fn token_infos(uses: &TokenUses, issuer: &str) -> Vec<TokenInfo> {
    let mut all: BTreeMap<[u8; 16], Wall> =
        uses.revoked.iter().map(|(id, until)| (*id, *until)).collect();
    all.extend(uses.used.iter().map(|one| (one.id, one.until)));
    let info = |(id, until): ([u8; 16], Wall)| TokenInfo {
        id: data_encoding::HEXLOWER.encode(&id),
        used: uses.uses_of(&id),
        not_after: rfc3339(until),
        state: if uses.is_revoked(&id) { "revoked" } else { "used" }.to_owned(),
        issuer: issuer.to_owned(),
        ..TokenInfo::default()
    };
    all.into_iter().map(info).collect()
}

/// Lines that went and came, each with its sign.
pub(super) fn difference(before: &str, after: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let gone = old.iter().filter(|line| !new.contains(line)).map(|line| format!("-{line}\n"));
    let came = new.iter().filter(|line| !old.contains(line)).map(|line| format!("+{line}\n"));
    gone.chain(came).collect()
}
