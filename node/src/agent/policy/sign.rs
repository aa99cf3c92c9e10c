//! From an operator's files to documents in force: what is to be signed is prepared here, signed
//! where the operator's key is, and taken here.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use skein_protocol::{
    manifest::{Body, Document, DocumentId, kinds::Destination, traffic::TrafficPolicy},
    policy::{
        AccessRules, Content, Head, Heads, Lineage, PolicyBundle, PolicyKey, SignedVersion,
        VerifiedVersion, access::What, scope,
    },
    record::node::{Protocol, ServicePort},
    trust::operator::{Scope, VerifiedOperator, verify_operator},
    wire::ask::{Answer, Ask, Edge},
};

use super::{
    super::{
        VERSION,
        api::{difference, document_id, fault, invalid},
        show::Agent,
    },
    LIVE, named,
};
use crate::{
    api::{
        ApiError, ApiErrorKind,
        dto::{
            DocumentName, EdgeInfo, PrepareRequest, Prepared, PreparedDraft, SourceFile, Visible,
        },
    },
    keys::Ed25519,
    workload,
};

/// A version that was taken, with what became of its document.
pub(crate) struct Signed {
    pub(crate) version: Arc<VerifiedVersion>,
    pub(crate) result: &'static str,
}

/// Where the mesh's own documents are kept.
const DEFAULT_NAMESPACE: &str = "default";
/// How long writing a document may take.
const TAKEN: Duration = Duration::from_secs(5);

impl Agent {
    /// What an operator would sign to make these documents hold, and what that would cut.
    pub(crate) async fn prepare(&self, request: &PrepareRequest) -> Result<Prepared, ApiError> {
        let (documents, local) = mesh_wide(&request.files)?;
        let operator = self.operator_of(&request.operator)?;
        let mut next = self.policy.borrow().documents.in_force();
        let mut drafts = Vec::new();
        for document in &documents {
            within_scope(operator.as_ref(), document)?;
            drafts.push(self.draft(document)?);
            replace(&mut next, &document.id, content_of(document));
        }
        for name in &request.delete {
            let id = document_id(name, &self.settings.namespace)?;
            let Some(key) = PolicyKey::new(&id) else { continue };
            may_write(operator.as_ref(), &id, &Content::Deleted)?;
            drafts.push(self.deletion(&id, &key)?);
            replace(&mut next, &id, Some(Content::Deleted));
        }
        let mesh = self.roots().mesh.0.to_string();
        let (cuts, silent) = match drafts.iter().any(|draft| draft.result != "unchanged") {
            true => self.cuts(&AccessRules::compile(&next)).await,
            false => (Vec::new(), Vec::new()),
        };
        let unknown = match drafts.iter().any(|draft| draft.result != "unchanged") {
            true => self.unknown_calls(&AccessRules::compile(&next)).await,
            false => Vec::new(),
        };
        Ok(Prepared { mesh, drafts, cuts, local, silent, unknown })
    }

    /// The operator of that certificate, if one is given.
    fn operator_of(&self, certificate: &str) -> Result<Option<VerifiedOperator>, ApiError> {
        if certificate.is_empty() {
            return Ok(None);
        }
        let bytes = data_encoding::HEXLOWER.decode(certificate.as_bytes()).map_err(invalid)?;
        verify_operator(&bytes, &self.roots(), &Ed25519).map(Some).map_err(|error| {
            let text = format!("the operator's certificate is not taken: {error}");
            ApiError::new(ApiErrorKind::Denied, text)
                .fix("name a key that an operator of this mesh holds: --as FILE")
        })
    }

    fn heads(&self, key: &PolicyKey) -> Vec<Arc<VerifiedVersion>> {
        self.policy.borrow().documents.of(key).to_vec()
    }

    fn draft(&self, document: &Document) -> Result<PreparedDraft, ApiError> {
        let id = &document.id;
        let key = PolicyKey::new(id).ok_or_else(|| invalid(format!("{id} is not signed")))?;
        let heads = self.heads(&key);
        self.check_protocols(document)?;
        let before = in_force(&heads).map(|held| held.to_yaml()).unwrap_or_default();
        let mut warnings: Vec<String> = document.warnings.iter().map(|w| w.line()).collect();
        warnings.extend(self.unknown_service(document));
        warnings.extend(kept_by_others(document));
        Ok(PreparedDraft {
            document: name_of(id),
            result: result_of(&heads, document).to_owned(),
            hash: heads.last().map(|head| head.version().to_string()).unwrap_or_default(),
            lineage: lineage(&heads)?,
            diff: difference(&before, &document.to_yaml()),
            warnings,
        })
    }

    fn deletion(&self, id: &DocumentId, key: &PolicyKey) -> Result<PreparedDraft, ApiError> {
        let heads = self.heads(key);
        if heads.iter().all(|head| *head.content() == Content::Deleted) {
            let kind = id.kind;
            return Err(ApiError::not_found(format!("no {id} is in force"))
                .fix(format!("`skein get {kind}` lists those that are")));
        }
        let before = in_force(&heads).map(|held| held.to_yaml()).unwrap_or_default();
        Ok(PreparedDraft {
            document: name_of(id),
            result: "deleted".to_owned(),
            hash: heads.last().map(|head| head.version().to_string()).unwrap_or_default(),
            lineage: lineage(&heads)?,
            diff: difference(&before, ""),
            warnings: Vec::new(),
        })
    }

    /// Rules about requests on a port that is carried as bytes would never be asked.
    fn check_protocols(&self, document: &Document) -> Result<(), ApiError> {
        let access = match &document.body {
            Body::Access(access) => access,
            Body::Traffic(traffic) => {
                return traffic
                    .policies
                    .iter()
                    .try_for_each(|one| self.check_traffic(document, one));
            }
            Body::Registry(_) | Body::Discovery(_) | Body::Mesh(_) => return Ok(()),
        };
        let Destination::Service(name) = &access.destination else { return Ok(()) };
        let view = self.view();
        let Some(service) = view.services.get(name) else { return Ok(()) };
        for called in access.to.iter().flatten().filter(|called| called.needs_http()) {
            let about = |port: &u16| called.port.is_none_or(|only| only == *port);
            let bytes = service
                .ports
                .iter()
                .find(|port| about(&port.port) && matches!(port.protocol, Protocol::Tcp));
            if let Some(port) = bytes {
                return Err(invalid(format!(
                    "{}: {} says methods or paths, and port {} of {name} is carried as bytes, so \
                     no request is ever read there",
                    document.place, document.id, port.port
                ))
                .fix("leave methods and paths out, or register the port with a name like `http`"));
            }
        }
        Ok(())
    }

    fn check_traffic(&self, document: &Document, policy: &TrafficPolicy) -> Result<(), ApiError> {
        let Destination::Service(name) = &policy.destination else { return Ok(()) };
        let view = self.view();
        let Some(service) = view.services.get(name).filter(|_| policy.needs_http()) else {
            return Ok(());
        };
        let meant = |port: &&ServicePort| policy.port.is_none_or(|only| only == port.port);
        let mut ports = service.ports.iter().filter(meant).peekable();
        if ports.peek().is_none() || ports.any(|port| port.protocol != Protocol::Tcp) {
            return Ok(());
        }
        Err(invalid(format!(
            "{}: {} policy {} is about requests, and {name} is carried as bytes: no request is \
             ever read there",
            document.place, document.id, policy.name
        ))
        .fix("leave out what needs requests, or register the port with a name like `http`"))
    }

    fn unknown_service(&self, document: &Document) -> Option<String> {
        let view = self.view();
        let named = |destination: &Destination| match destination {
            Destination::Service(name) if !view.services.contains_key(name) => Some(name.clone()),
            _ => None,
        };
        let unknown = match &document.body {
            Body::Access(access) => named(&access.destination),
            Body::Traffic(traffic) => {
                traffic.policies.iter().find_map(|policy| named(&policy.destination))
            }
            Body::Registry(_) | Body::Discovery(_) | Body::Mesh(_) => None,
        };
        unknown
            .map(|name| format!("no service {name} is known now: it holds as soon as there is one"))
    }

    /// Live edges that are carried now and would not be by those rules.
    async fn cuts(&self, next: &AccessRules) -> (Vec<EdgeInfo>, Vec<String>) {
        let (edges, silent) = self.edges_everywhere().await;
        let now = Arc::clone(&self.policy.borrow());
        let live = |edge: &&(String, Edge)| Duration::from_secs(edge.1.age_s.into()) < LIVE;
        let cuts = edges.iter().filter(live).filter_map(|(at, edge)| {
            let before = decide(&now.access, edge);
            let after = decide(next, edge);
            (before.allowed && !after.allowed).then(|| EdgeInfo {
                allowed: true,
                would: false,
                rule: after.because.to_string(),
                ..info(at, edge)
            })
        });
        (cuts.collect(), silent)
    }

    /// Every edge that live nodes have seen, with the node that saw it; and who did not answer.
    pub(super) async fn edges_everywhere(&self) -> (Vec<(String, Edge)>, Vec<String>) {
        let own = self.settings.name(&self.credentials);
        let mut edges: Vec<(String, Edge)> =
            self.edges.all().into_iter().map(|edge| (own.clone(), edge)).collect();
        let mut silent = Vec::new();
        for (node, answer) in self.ask_all(Ask::Edges).await {
            let name = self.name_of(&node);
            match answer {
                Ok(Answer::Edges(all)) => {
                    edges.extend(all.into_iter().map(|edge| (name.clone(), edge)));
                }
                Ok(_) => silent.push(format!("{name}: another answer")),
                Err(why) => silent.push(format!("{name}: {why}")),
            }
        }
        (edges, silent)
    }

    /// Verifies what an operator signed, before anything is changed.
    pub(crate) fn signed(&self, bundles: &[String]) -> Result<Vec<Signed>, ApiError> {
        bundles.iter().map(|text| self.verified(text)).collect()
    }

    /// The version of those bytes, verified, of an operator whose key has not ended.
    fn version_of(&self, text: &str) -> Result<Arc<VerifiedVersion>, ApiError> {
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).map_err(invalid)?;
        let bundle = PolicyBundle::decode(&bytes).map_err(invalid)?;
        let denied = |why: &dyn std::fmt::Display| {
            ApiError::new(ApiErrorKind::Denied, format!("the signed document is not taken: {why}"))
                .fix("sign it with an operator key of this mesh that covers its namespace: --as")
        };
        let signed = SignedVersion::parse(Arc::new(bundle), self.roots().mesh);
        let signed = signed.map_err(|error| denied(&error))?;
        let version = signed.verify(&self.roots(), &Ed25519).map_err(|error| denied(&error))?;
        let trust = self.credentials.trust();
        if trust.is_some_and(|trust| !version.stands(&trust.revocations)) {
            let name = version.operator().name.clone();
            return Err(denied(&format!("operator {name} was revoked")));
        }
        Ok(Arc::new(version))
    }

    fn verified(&self, text: &str) -> Result<Signed, ApiError> {
        let version = self.version_of(text)?;
        let heads = self.heads(version.key());
        if heads.iter().any(|head| head.supersedes(&version)) {
            let text = format!("{} was changed meanwhile; nothing was changed", version.key());
            return Err(ApiError::new(ApiErrorKind::Conflict, text).fix("run the command again"));
        }
        let result = match (version.document(), version.content()) {
            (_, Content::Deleted) => "deleted",
            (Some(document), _) => result_of(&heads, document),
            (None, _) => "changed",
        };
        Ok(Signed { version, result })
    }

    /// Takes signed versions: on disk and in force here when it returns.
    pub(crate) async fn take(&self, signed: &[Signed]) -> Result<(), ApiError> {
        for Signed { version, .. } in signed {
            let bundle = Box::new(PolicyBundle::clone(version.bundle()));
            self.driver.input(skein_protocol::engine::Input::Policy(bundle)).await;
        }
        let mut policy = self.policy.clone();
        let all = |policy: &Arc<skein_protocol::policy::Policy>| {
            signed.iter().all(|one| {
                !policy.documents.wants(&one.version)
                    || policy.waiting.contains(&one.version.version())
            })
        };
        let taken = tokio::time::timeout(TAKEN, policy.wait_for(all)).await;
        let taken = taken.map(|taken| taken.map(|policy| policy.waiting.clone()));
        match taken {
            Ok(Ok(waiting)) => {
                let waits = signed.iter().find(|one| waiting.contains(&one.version.version()));
                waits.map_or(Ok(()), |one| Err(self.waits_for_disk(&one.version.key().to_string())))
            }
            _ => Err(ApiError::unavailable("the documents could not be written to disk")
                .fix("`skein status` says what is wrong with it")),
        }
    }

    fn waits_for_disk(&self, document: &str) -> ApiError {
        let why = self.disk.trouble().unwrap_or_else(|| "it is slow".to_owned());
        ApiError::unavailable(format!(
            "{document} could not be written to this host's disk ({why}): what it closes is closed, \
             what it opens waits, and the other hosts have it"
        ))
        .fix("make room: what waits is then written by itself, and `skein status` says so")
    }

    /// Takes what this host's files hold with an operator's signature. What is wrong with them, for
    /// people. A version that another has replaced since is passed over: files are older than that.
    pub(crate) async fn take_files(&self, documents: &[Arc<Document>]) -> Vec<String> {
        let mut problems = Vec::new();
        for document in documents {
            let text = document.signature.as_deref().unwrap_or_default();
            let taken = match self.version_of(text) {
                Err(error) => Err(error.to_string()),
                Ok(version) if version.document() != Some(document) => {
                    Err("it was edited after it was signed: sign it again (`skein sign`)"
                        .to_owned())
                }
                Ok(version) if !self.policy.borrow().documents.wants(&version) => Ok(()),
                Ok(version) => {
                    let taken = self.take(&[Signed { version, result: "changed" }]).await;
                    taken.map_err(|error| error.to_string())
                }
            };
            problems
                .extend(taken.err().map(|why| format!("{} is not applied: {why}", document.id)));
        }
        problems
    }

    /// Waits until every live node holds the documents that are in force here.
    pub(crate) async fn agreed(&self, wait: Duration) -> Visible {
        let start = self.clock.now().tick;
        let wait = wait.max(Duration::from_secs(1));
        loop {
            let root = self.policy.borrow().documents.root();
            let stands = self.policy_roots().await;
            let same = |stand: &&Result<_, String>| matches!(stand, Ok(skein_protocol::wire::frame::Stand { policy, .. }) if *policy == root);
            let on = 1 + stands.values().filter(same).count();
            let of = 1 + stands.len();
            let took = self.clock.now().tick.since(start);
            if on >= of || took >= wait {
                let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
                let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
                return Visible { on: number(on), of: number(of), ms };
            }
            tokio::time::sleep(super::super::api::LOOK_EVERY).await;
        }
    }
}

/// The mesh-wide documents of files, and how many others stand in them.
pub(crate) fn mesh_wide(files: &[SourceFile]) -> Result<(Vec<Document>, u32), ApiError> {
    let (mut documents, mut faults, mut local) = (Vec::new(), Vec::new(), 0u32);
    for file in files {
        match workload::validate(&file.name, &file.text, VERSION) {
            Ok(found) => {
                for document in found {
                    match document.id.kind.is_mesh_wide() {
                        true => documents.push(document),
                        false => local += 1,
                    }
                }
            }
            Err(found) => faults.extend(found.0.iter().map(|one| fault(one, "error"))),
        }
    }
    if faults.is_empty() { Ok((documents, local)) } else { Err(ApiError::faults(faults)) }
}

fn within_scope(operator: Option<&VerifiedOperator>, document: &Document) -> Result<(), ApiError> {
    content_of(document).map_or(Ok(()), |content| may_write(operator, &document.id, &content))
}

/// Refuses what an operator would sign in vain: no agent takes it.
fn may_write(
    operator: Option<&VerifiedOperator>,
    id: &DocumentId,
    content: &Content,
) -> Result<(), ApiError> {
    let beyond = operator.and_then(|operator| {
        let beyond = scope::beyond(&operator.scope, &id.namespace, content)?;
        Some((operator, beyond))
    });
    let Some((VerifiedOperator { name, scope, .. }, beyond)) = beyond else { return Ok(()) };
    let text = format!(
        "{id} is not signed: operator {name} may write for {scope} only, and this reaches {beyond}"
    );
    Err(ApiError::new(ApiErrorKind::Denied, text).fix("sign it as an operator for all: --as FILE"))
}

/// A document is kept by the operators of its own namespace, wherever it takes effect: they may
/// replace and delete it.
fn kept_by_others(document: &Document) -> Option<String> {
    let namespace = &document.id.namespace;
    let own = Scope::Namespaces(vec![namespace.clone()]);
    let beyond = scope::beyond(&own, namespace, &content_of(document)?)?;
    (namespace.as_str() != DEFAULT_NAMESPACE).then(|| {
        format!(
            "it reaches {beyond}, and every operator for namespace {namespace} may replace or \
             delete it: keep it in a namespace that only operators for all may write"
        )
    })
}

fn replace(heads: &mut Heads, id: &DocumentId, content: Option<Content>) {
    let Some(content) = content else { return };
    let generation = u64::MAX;
    let head = Head { generation, version: skein_protocol::name::Hash([0; 32]), content };
    heads.insert(id.clone(), vec![head]);
}

fn content_of(document: &Document) -> Option<Content> {
    match &document.body {
        Body::Access(access) => Some(Content::Access(Arc::new(access.clone()))),
        Body::Traffic(traffic) => Some(Content::Traffic(Arc::new(traffic.clone()))),
        Body::Registry(_) | Body::Discovery(_) | Body::Mesh(_) => None,
    }
}

fn name_of(id: &DocumentId) -> DocumentName {
    DocumentName {
        kind: id.kind.word().to_owned(),
        namespace: id.namespace.to_string(),
        name: id.name.to_string(),
    }
}

fn lineage(heads: &[Arc<VerifiedVersion>]) -> Result<String, ApiError> {
    let lineage = match heads {
        [] => Lineage::first(),
        heads => Lineage::after(heads).map_err(invalid)?,
    };
    Ok(data_encoding::HEXLOWER.encode(&lineage.encode().map_err(invalid)?))
}

/// The document that the newest head says.
fn in_force(heads: &[Arc<VerifiedVersion>]) -> Option<&Arc<Document>> {
    heads.last().and_then(|head| head.document())
}

pub(crate) fn result_of(heads: &[Arc<VerifiedVersion>], document: &Document) -> &'static str {
    match heads {
        [] => "created",
        [head] if *head.content() == Content::Deleted => "created",
        [head] => match head.document() {
            Some(held) if held.hash() == document.hash() => "unchanged",
            _ => "changed",
        },
        _ => "resolved",
    }
}

/// What rules say of an edge.
pub(super) fn decide(rules: &AccessRules, edge: &Edge) -> skein_protocol::policy::access::Decision {
    let who = named(edge.source.as_ref(), Some(&edge.node), edge.outside);
    let what = What { service: &edge.destination, port: edge.port, request: None };
    rules.decide(&who, &what)
}

/// An edge for people.
pub(super) fn info(at: &str, edge: &Edge) -> EdgeInfo {
    EdgeInfo {
        source: edge.source.as_ref().map(ToString::to_string),
        node: edge.node.to_string(),
        outside: edge.outside,
        destination: edge.destination.to_string(),
        port: edge.port,
        at: at.to_owned(),
        age_s: edge.age_s,
        calls: edge.calls,
        denied: edge.denied,
        ..EdgeInfo::default()
    }
}

/// The documents of a request that must be signed, and are not.
pub(crate) fn unsigned(
    documents: &[Document],
    signed: &[Signed],
    heads: impl Fn(&PolicyKey) -> Vec<Arc<VerifiedVersion>>,
) -> Option<DocumentId> {
    let known: BTreeMap<&PolicyKey, &Signed> =
        signed.iter().map(|one| (one.version.key(), one)).collect();
    let lacks = |document: &&Document| {
        PolicyKey::new(&document.id).is_some_and(|key| {
            let same = known.get(&key).is_some_and(|one| {
                one.version.document().is_some_and(|said| said.hash() == document.hash())
            });
            !same && result_of(&heads(&key), document) != "unchanged"
        })
    };
    documents.iter().find(lacks).map(|document| document.id.clone())
}
