//! From verified records to the view: what each endpoint is worth, and why.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{Engine, Output};
use crate::{
    clock::{Now, Tick},
    limits,
    name::{NodeKey, ServiceName},
    planted::{Planted, planted},
    record::{
        Verified,
        node::{Health, Instance, NodeRecord, NodeState, ServicePort},
    },
    view::{Endpoint, Liveness, NodeView, Reason, ServiceView, Use, View},
};

/// What the last view showed, kept so that the next one costs what has changed and not the mesh.
#[derive(Default)]
pub(super) struct Picture {
    shown: BTreeMap<NodeKey, Shown>,
    /// The nodes of the view: what it holds of `shown`.
    nodes: BTreeMap<NodeKey, Arc<NodeView>>,
    services: BTreeMap<ServiceName, Arc<ServiceView>>,
    /// Who serves each service.
    serving: BTreeMap<ServiceName, BTreeSet<NodeKey>>,
    /// Nodes that may have to be shown otherwise.
    touched: BTreeSet<NodeKey>,
    /// When all nodes are looked at next, since time alone changes some of them.
    all_due: Tick,
    /// Whether many were lost together.
    mass: bool,
}

/// What a view shows of one node.
#[derive(Clone)]
struct Shown {
    node: Arc<NodeView>,
    record: Verified,
    verdict: Use,
}

/// What only time changes (a record grows stale, a restart is long ago) is looked at this often.
const LOOK_AT_ALL: Duration = Duration::from_secs(5);

impl Picture {
    pub(super) fn touch(&mut self, node: NodeKey) {
        self.touched.insert(node);
    }

    /// Looks at every node for the next view.
    pub(super) fn touch_all(&mut self) {
        self.all_due = Tick(0);
    }

    /// Puts in what is shown of a node from now on. The services that change by it go to `into`.
    fn put(&mut self, key: NodeKey, next: Option<Shown>, into: &mut BTreeSet<ServiceName>) {
        if let Some(before) = self.shown.get(&key) {
            for instance in before.record.instances() {
                into.insert(instance.service.clone());
                if let Some(nodes) = self.serving.get_mut(&instance.service) {
                    nodes.remove(&key);
                }
            }
        }
        let Some(next) = next else {
            self.shown.remove(&key);
            self.nodes.remove(&key);
            return;
        };
        for instance in next.record.instances() {
            into.insert(instance.service.clone());
            self.serving.entry(instance.service.clone()).or_default().insert(key);
        }
        self.nodes.insert(key, Arc::clone(&next.node));
        self.shown.insert(key, next);
    }

    fn draw_service(&mut self, name: ServiceName) {
        let nodes = self.serving.get(&name).into_iter().flatten();
        let mut endpoints = Vec::new();
        for shown in nodes.filter_map(|node| self.shown.get(node)) {
            let instances = shown.record.instances().iter();
            for instance in instances.filter(|instance| instance.service == name) {
                endpoints.push(Endpoint {
                    node: Arc::clone(&shown.node),
                    instance: Arc::clone(instance),
                    usable: instance_use(shown.verdict, instance),
                });
            }
        }
        if endpoints.is_empty() {
            self.services.remove(&name);
            self.serving.remove(&name);
        } else {
            self.services.insert(name.clone(), service(name, endpoints));
        }
    }
}

impl Engine {
    pub(super) fn show_view(&mut self, now: Now) {
        self.view_due = None;
        self.view_shown = now.tick;
        self.view_number = self.view_number.saturating_add(1);
        let view = self.project(now);
        self.outbox.push_back(Output::View(Arc::new(view)));
    }

    pub(super) fn project(&mut self, now: Now) -> View {
        let mass = self.lost_together(now);
        let all = mass != self.picture.mass || self.picture.all_due <= now.tick;
        self.picture.mass = mass;
        let touched = std::mem::take(&mut self.picture.touched);
        let touched = if all { self.all_nodes(now) } else { touched };
        let mut services = BTreeSet::new();
        for key in touched {
            if let Some(next) = self.next_shown(now, &key) {
                self.picture.put(key, next, &mut services);
            }
        }
        for name in services {
            self.picture.draw_service(name);
        }
        View {
            number: self.view_number,
            me: self.me,
            locality: self.own.local.host.locality.clone(),
            records_root: self.store.root(),
            revocation_root: self.ended_root(),
            policy_root: self.policy.documents.root(),
            policy: Arc::clone(&self.policy),
            nodes: self.picture.nodes.clone(),
            services: self.picture.services.clone(),
        }
    }

    /// Shows a view when time alone has changed what it would hold.
    pub(super) fn look_at_all(&mut self, now: Now) {
        if now.tick < self.picture.all_due {
            return;
        }
        let all = self.all_nodes(now);
        let other = all.into_iter().filter(|key| self.next_shown(now, key).is_some());
        let other: Vec<NodeKey> = other.collect();
        for node in other {
            self.touched(now, node);
        }
    }

    fn all_nodes(&mut self, now: Now) -> BTreeSet<NodeKey> {
        self.picture.all_due = now.tick.after(LOOK_AT_ALL);
        let held = self.store.bodies().map(|(key, _)| *key);
        held.chain(self.picture.shown.keys().copied()).collect()
    }

    /// What is to be shown of a node; none where that is what is shown already.
    fn next_shown(&self, now: Now, key: &NodeKey) -> Option<Option<Shown>> {
        let before = self.picture.shown.get(key);
        let Some((record, content)) =
            self.store.body(key).and_then(|record| Some((record, record.content()?)))
        else {
            // Nothing is held of it, or a newer agent made it: it is carried, not read.
            return before.map(|_| None);
        };
        let liveness = self.members.get(key).map_or(Liveness::Alive, |member| member.liveness);
        let verdict = self.node_use(now, key, liveness, record, content.host.state);
        let certified = self.revocations.judge(record.chain(), true).is_ok();
        let same = before.filter(|shown| shown.node.hash == record.hash());
        let node = match same {
            Some(shown) if shown.node.liveness == liveness && shown.node.certified == certified => {
                if shown.verdict == verdict {
                    return None;
                }
                Arc::clone(&shown.node)
            }
            Some(shown) => {
                Arc::new(NodeView { liveness, certified, ..NodeView::clone(&shown.node) })
            }
            None => Arc::new(NodeView { certified, ..node_view(key, record, content, liveness) }),
        };
        Some(Some(Shown { node, record: record.clone(), verdict }))
    }

    /// What a node's state makes of all its endpoints.
    fn node_use(
        &self,
        now: Now,
        key: &NodeKey,
        liveness: Liveness,
        record: &Verified,
        state: NodeState,
    ) -> Use {
        let expired = record.header().not_after.after(limits::CLOCK_SKEW) < now.wall;
        if self.revocations.judge(record.chain(), true).is_err() {
            return Use::No(Reason::Revoked);
        }
        if self.store.fork(key).is_some() {
            return Use::No(Reason::Cloned);
        }
        match (liveness, state) {
            (Liveness::Left, _) | (_, NodeState::Left) if planted(Planted::LeftUsable) => Use::Yes,
            (Liveness::Dead, _) if planted(Planted::DeadUsable) => Use::Yes,
            (Liveness::Suspect, _) if planted(Planted::SuspectUnusable) => Use::No(Reason::Suspect),
            (Liveness::Left, _) | (_, NodeState::Left) => Use::No(Reason::Left),
            (_, NodeState::Fenced) => Use::No(Reason::Cloned),
            (Liveness::Dead, _) if self.picture.mass => Use::LastChoice(Reason::MassLoss),
            (Liveness::Dead, _) => Use::No(Reason::Dead),
            (_, NodeState::Draining) => Use::No(Reason::Draining),
            (Liveness::Suspect, _) => Use::LastChoice(Reason::Suspect),
            (Liveness::Alive, NodeState::Up)
                if self.members.get(key).is_some_and(|m| m.is_restarting(now.tick)) =>
            {
                Use::LastChoice(Reason::Restarting)
            }
            // It lives, and a call authenticates it: an expired record is no reason to lose it.
            (Liveness::Alive, NodeState::Up) if expired => Use::LastChoice(Reason::Stale),
            (Liveness::Alive, NodeState::Up) => Use::Yes,
        }
    }
}

fn node_view(
    key: &NodeKey,
    record: &Verified,
    content: &NodeRecord,
    liveness: Liveness,
) -> NodeView {
    NodeView {
        key: *key,
        short: key.short(),
        name: content.host.name.clone(),
        grant: Arc::new(record.chain().grant.clone()),
        locality: content.host.locality.clone(),
        addresses: content.addresses.0.clone(),
        liveness,
        boot: content.host.boot,
        gossip_generation: content.host.gossip_generation,
        sequence: record.header().sequence,
        hash: record.hash(),
        version: content.host.version.to_string(),
        issuer: content.issuer.0.is_some(),
        held_issuer: content.issuer.0.clone().map(Arc::new),
        tokens: Arc::new(content.tokens.clone()),
        root: record.chain().root,
        certified: true,
        unwritten: content.host.unwritten,
        not_after: record.chain().not_after,
    }
}

fn instance_use(node: Use, instance: &Instance) -> Use {
    let own = match instance.health {
        Health::Critical => Some(Reason::Critical),
        Health::Maintenance => Some(Reason::Maintenance),
        Health::Draining => Some(Reason::Draining),
        Health::Passing | Health::Warning => (instance.weight == 0).then_some(Reason::NoWeight),
    };
    match (node, own) {
        (Use::No(reason), _) => Use::No(reason),
        (_, Some(reason)) => Use::No(reason),
        (node, None) => node,
    }
}

/// Endpoints whose ports differ from those of the most do not count: two hosts that disagree on
/// what a port means must not share its calls.
fn service(name: ServiceName, mut endpoints: Vec<Endpoint>) -> Arc<ServiceView> {
    let mut votes: BTreeMap<&[ServicePort], usize> = BTreeMap::new();
    for endpoint in &endpoints {
        let vote = votes.entry(&endpoint.instance.ports).or_default();
        *vote = vote.saturating_add(1);
    }
    let most = votes.values().copied().max().unwrap_or_default();
    let winner = votes.iter().find(|(_, count)| **count == most);
    let ports: Vec<ServicePort> = winner.map(|(ports, _)| ports.to_vec()).unwrap_or_default();
    for endpoint in &mut endpoints {
        if endpoint.instance.ports != ports && !matches!(endpoint.usable, Use::No(_)) {
            endpoint.usable = Use::No(Reason::PortsDiffer);
        }
    }
    Arc::new(ServiceView { name, ports, endpoints })
}
