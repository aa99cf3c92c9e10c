//! Ending keys: what it would do is told first; who has heard of it after.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use skein_protocol::{
    engine::Input,
    name::{Hash, NodeKey, ServiceName},
    policy::Content,
    trust::{
        PublicKey,
        revocation::{By, Revocation, Statement, Subject, VerifiedStatement, work_of_root},
    },
    view::{Liveness, NodeView, Use},
};

use super::super::{
    api::{LOOK_EVERY, invalid},
    show::Agent,
};
use crate::{
    api::{
        ApiError, ApiErrorKind,
        dto::{RevokePlan, RevokePlanRequest, RevokeReport, RevokeRequest, Visible, WorkInfo},
    },
    keys::Ed25519,
};

/// What an operator for some namespaces is told.
const FOR_ALL: &str = "sign it as an operator for all: --as FILE, or with the root's key";
/// How long writing a revocation may take.
const TAKEN: Duration = Duration::from_secs(5);

impl Agent {
    /// The one node that is meant by a name, a short id or a key.
    fn resolve(&self, text: &str) -> Result<(NodeKey, Option<Arc<NodeView>>), ApiError> {
        let view = self.view();
        let meant = |node: &&Arc<NodeView>| {
            node.name.as_str() == text
                || node.short.as_str() == text
                || node.key.to_string() == text
        };
        let found: Vec<&Arc<NodeView>> = view.nodes.values().filter(meant).collect();
        match found.as_slice() {
            [one] => Ok((one.key, Some(Arc::clone(one)))),
            [] => match text.parse::<NodeKey>() {
                Ok(key) => Ok((key, None)),
                Err(_) => Err(ApiError::not_found(format!("no node is called {text}"))
                    .fix("`skein members` lists them; a key has 64 hexadecimal digits")),
            },
            several => {
                let keys: Vec<String> = several.iter().map(|one| one.key.to_string()).collect();
                Err(invalid(format!("{} nodes are called {text}", several.len()))
                    .fix(format!("name one by its key: {}", keys.join(", "))))
            }
        }
    }

    /// What the end of a key would do.
    pub(crate) fn revoke_plan(&self, asked: &RevokePlanRequest) -> Result<RevokePlan, ApiError> {
        let mesh = self.roots().mesh.0.to_string();
        if asked.kind == "root" {
            return self.root_plan(mesh);
        }
        if asked.kind == "operator" {
            let key: NodeKey = asked.target.parse().map_err(invalid)?;
            return Ok(RevokePlan {
                mesh,
                kind: "operator".to_owned(),
                key: key.to_string(),
                already: self.revocations.borrow().ended(Subject::Operator, &key.0),
                works: self.works(&key),
                ..RevokePlan::default()
            });
        }
        let (key, node) = self.resolve(&asked.target)?;
        let view = self.view();
        let serves = |on: bool| {
            let usable = view.services.iter().flat_map(move |(name, service)| {
                let used = service.endpoints.iter().filter(move |one| {
                    (one.node.key == key) == on && !matches!(one.usable, Use::No(_))
                });
                used.map(move |_| name)
            });
            usable.collect::<BTreeSet<&ServiceName>>()
        };
        let others = serves(false);
        let sole = serves(true).into_iter().filter(|name| !others.contains(name));
        let tokens = match key == self.me {
            true => u32::try_from(self.tokens.all().used.len()).unwrap_or(u32::MAX),
            false => 0,
        };
        Ok(RevokePlan {
            mesh,
            kind: "node".to_owned(),
            key: key.to_string(),
            name: node.as_ref().map(|node| node.name.to_string()).unwrap_or_default(),
            already: self.revocations.borrow().is_revoked(&key),
            sole: sole.map(ToString::to_string).collect(),
            issuer: node.is_some_and(|node| node.issuer),
            tokens,
            ..RevokePlan::default()
        })
    }

    /// What the end of the oldest root in force would do.
    fn root_plan(&self, mesh: String) -> Result<RevokePlan, ApiError> {
        let (roots, revocations) = (self.roots(), self.revocations.borrow().clone());
        let in_force = |key: &&PublicKey| !revocations.ended(Subject::Root, key);
        let mut open = roots.order.iter().filter(in_force);
        let (Some(old), Some(_)) = (open.next(), open.next()) else {
            let text = "only one root is in force: there is none to drop";
            return Err(invalid(text).fix("let another follow on it first: skein root rotate"));
        };
        let view = self.view();
        let uses = |node: &&Arc<NodeView>| node.root == *old && node.liveness != Liveness::Left;
        let mut works = self.works(&NodeKey(*old));
        for key in roots.order.iter().filter(|key| *key != old) {
            works.push(WorkInfo {
                id: work_of_root(key).to_string(),
                kind: "root".to_owned(),
                about: NodeKey(*key).to_string(),
            });
        }
        let policy = Arc::clone(&self.policy.borrow());
        let signed = policy.documents.iter().flat_map(|(_, heads)| heads);
        let operators: BTreeMap<PublicKey, &str> = signed
            .map(|head| head.operator())
            .filter(|operator| operator.root == *old)
            .map(|operator| (operator.key, operator.name.as_str()))
            .collect();
        works.extend(operators.into_iter().map(|(key, name)| WorkInfo {
            id: work_of_root(&key).to_string(),
            kind: "operator".to_owned(),
            about: name.to_owned(),
        }));
        Ok(RevokePlan {
            mesh,
            kind: "root".to_owned(),
            key: NodeKey(*old).to_string(),
            users: view.nodes.values().filter(uses).map(|node| node.name.to_string()).collect(),
            works,
            ..RevokePlan::default()
        })
    }

    /// What an operator or a root signed and is held here: documents and revocations.
    fn works(&self, key: &NodeKey) -> Vec<WorkInfo> {
        let policy = Arc::clone(&self.policy.borrow());
        let mut works = Vec::new();
        for (document, heads) in policy.documents.iter() {
            let own = heads.iter().filter(|head| head.operator().key == key.0);
            works.extend(own.map(|head| WorkInfo {
                id: head.version().to_string(),
                kind: "document".to_owned(),
                about: match head.content() {
                    Content::Deleted => format!("{document}, deleted"),
                    _ => document.to_string(),
                },
            }));
        }
        for (id, statement) in self.revocations.borrow().iter() {
            let (signed, about) = match statement {
                Statement::Revocation(revocation, _) => {
                    (self.signed_by(revocation, key), self.name_of(&NodeKey(revocation.key)))
                }
                Statement::Void(void, _) => (void.by == key.0, void.revocation.short()),
            };
            if signed {
                let (id, kind) = (id.to_string(), "revocation".to_owned());
                works.push(WorkInfo { id, kind, about });
            }
        }
        works
    }

    fn signed_by(&self, revocation: &Revocation, key: &NodeKey) -> bool {
        match &revocation.by {
            By::Root(root) => root == &key.0,
            By::Operator(certificate) => skein_protocol::trust::operator::verify_operator(
                certificate,
                &self.roots(),
                &Ed25519,
            )
            .is_ok_and(|operator| operator.key == key.0),
        }
    }

    /// Takes a signed statement: on disk and in force here when it returns.
    pub(crate) async fn revoke_by(
        &self,
        request: &RevokeRequest,
    ) -> Result<RevokeReport, ApiError> {
        let bytes = data_encoding::HEXLOWER.decode(request.statement.as_bytes());
        let statement = Statement::decode(&bytes.map_err(invalid)?).map_err(invalid)?;
        let key = match &statement {
            Statement::Revocation(revocation, _) => NodeKey(revocation.key).to_string(),
            Statement::Void(void, _) => void.revocation.to_string(),
        };
        let id = statement.id();
        let denied = |why: &dyn std::fmt::Display| {
            ApiError::new(ApiErrorKind::Denied, format!("the revocation is not taken: {why}"))
        };
        let verified =
            statement.clone().verify(&self.roots(), &Ed25519).map_err(|error| denied(&error))?;
        self.within_scope(&verified).map_err(|why| denied(&why).fix(FOR_ALL))?;
        let (signer, operator) = verified.signer();
        if !self.revocations.borrow().contains(&id) {
            let room = self.revocations.borrow().room(&signer, operator, 0);
            room.map_err(|error| denied(&error))?;
        }
        let before = self.view().revocation_root;
        let known = self.revocations.borrow().contains(&id);
        self.driver.input(Input::Revoke(Box::new(statement))).await;
        let mut revocations = self.revocations.clone();
        let taken = revocations.wait_for(|held| held.contains(&id));
        if !matches!(tokio::time::timeout(TAKEN, taken).await, Ok(Ok(_))) {
            return Err(ApiError::unavailable("the revocation could not be written to disk")
                .fix("`skein status` says what is wrong with it"));
        }
        if !known {
            self.view_beyond(before).await;
        }
        let wait = Duration::from_millis(request.wait_ms).max(Duration::from_secs(1));
        let (visible, unheard) = self.heard(wait).await;
        let warning = self.disk.trouble().map(|why| {
            format!(
                "it holds here, but this host's disk cannot be written ({why}): if its agent is \
                 restarted now it hears of it from the others only"
            )
        });
        Ok(RevokeReport { key, visible, unheard, warning: warning.unwrap_or_default() })
    }

    /// An operator for some namespaces ends no certificate that allows anything beyond them: every
    /// agent would hold the statement, and let the node go on.
    fn within_scope(&self, statement: &VerifiedStatement) -> Result<(), String> {
        let Statement::Revocation(revocation, _) = statement.statement() else { return Ok(()) };
        let view = self.view();
        let Some(node) = view.nodes.get(&NodeKey(revocation.key)) else { return Ok(()) };
        let scope = statement.scope();
        if revocation.subject != Subject::Node || scope.covers_grant(&node.grant) {
            return Ok(());
        }
        let services: Vec<String> = node.grant.services.iter().map(ToString::to_string).collect();
        let allowed = match services.as_slice() {
            [] => "calls from the whole mesh's side".to_owned(),
            some => some.join(", "),
        };
        Err(format!(
            "its operator may revoke for {scope} only, and the certificate of {} allows {allowed}",
            node.name
        ))
    }

    /// Waits until the view has another root of what has ended than that.
    pub(super) async fn view_beyond(&self, before: Hash) {
        let mut view = self.view.clone();
        let other = view.wait_for(|view| view.revocation_root != before);
        // What is not seen by then is told as not heard.
        let _ = tokio::time::timeout(TAKEN, other).await;
    }

    /// Waits until every live member has heard of all keys that have ended here and of all roots:
    /// on how many it is in force, and who has not heard.
    pub(super) async fn heard(&self, wait: Duration) -> (Visible, Vec<String>) {
        let start = self.clock.now().tick;
        loop {
            let root = self.view().revocation_root;
            let stands = self.policy_roots().await;
            let view = self.view();
            let mut unheard = Vec::new();
            let mut on = 1u32;
            for (node, stand) in &stands {
                match stand {
                    Ok(stand) if stand.revocations == root => on = on.saturating_add(1),
                    _ => unheard.push(self.name_of(node)),
                }
            }
            let away = view
                .nodes
                .values()
                .filter(|node| node.liveness == Liveness::Dead && !self.is_revoked(&node.key));
            let took = self.clock.now().tick.since(start);
            let of = on.saturating_add(u32::try_from(unheard.len()).unwrap_or(u32::MAX));
            if unheard.is_empty() || took >= wait {
                unheard.extend(away.map(|node| format!("{} (dead)", node.name)));
                let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
                return (Visible { on, of, ms }, unheard);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}
