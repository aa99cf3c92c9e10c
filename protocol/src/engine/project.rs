//! From verified records to the view: what each endpoint is worth, and why.

use std::{collections::BTreeMap, sync::Arc};

use super::{Engine, Output};
use crate::{
    clock::Now,
    limits,
    name::{NodeKey, ServiceName},
    planted::{Planted, planted},
    record::{
        Verified,
        node::{Health, Instance, NodeRecord, NodeState, ServicePort},
    },
    view::{Endpoint, Liveness, NodeView, Reason, ServiceView, Use, View},
};

/// What a view shows of one node, kept for the next view.
#[derive(Clone)]
pub(super) struct Shown {
    node: Arc<NodeView>,
    instances: Vec<Arc<Instance>>,
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
        let records_root = self.store.root();
        let mass = self.lost_together(now);
        let mut nodes = BTreeMap::new();
        let mut next = BTreeMap::new();
        let mut services: BTreeMap<ServiceName, Vec<Endpoint>> = BTreeMap::new();
        for (key, record) in self.store.bodies() {
            let Some(content) = record.content() else {
                // Of a newer agent: carried, not read.
                continue;
            };
            let shown = self.shown(key, record, content);
            let node = &shown.node;
            let verdict = self.node_use(now, node, record, content.host.state, mass);
            for instance in &shown.instances {
                let usable = instance_use(verdict, instance);
                let endpoint =
                    Endpoint { node: Arc::clone(node), instance: Arc::clone(instance), usable };
                services.entry(instance.service.clone()).or_default().push(endpoint);
            }
            nodes.insert(*key, Arc::clone(node));
            next.insert(*key, shown);
        }
        self.shown = next;
        let services =
            services.into_iter().map(|(name, all)| (name.clone(), service(name, all))).collect();
        View {
            number: self.view_number,
            me: self.me,
            locality: self.own.local.host.locality.clone(),
            records_root,
            revocation_root: self.revocations.root(),
            policy_root: self.policy.documents.root(),
            policy: Arc::clone(&self.policy),
            nodes,
            services,
        }
    }

    /// What was shown of a node before, if its record and its life are the same.
    fn shown(&self, key: &NodeKey, record: &Verified, content: &NodeRecord) -> Shown {
        let liveness = self.members.get(key).map_or(Liveness::Alive, |member| member.liveness);
        let before = self.shown.get(key).filter(|shown| shown.node.hash == record.hash());
        if let Some(before) = before {
            if before.node.liveness == liveness {
                return before.clone();
            }
            let node = NodeView { liveness, ..NodeView::clone(&before.node) };
            return Shown { node: Arc::new(node), instances: before.instances.clone() };
        }
        Shown {
            node: Arc::new(node_view(key, record, content, liveness)),
            instances: content.instances.0.iter().cloned().map(Arc::new).collect(),
        }
    }

    /// What a node's state makes of all its endpoints.
    fn node_use(
        &self,
        now: Now,
        node: &NodeView,
        record: &Verified,
        state: NodeState,
        mass: bool,
    ) -> Use {
        let expired = record.header().not_after.after(limits::CLOCK_SKEW) < now.wall;
        if self.revocations.judge(record.chain(), true).is_err() {
            return Use::No(Reason::Revoked);
        }
        if self.store.fork(&node.key).is_some() {
            return Use::No(Reason::Cloned);
        }
        match (node.liveness, state) {
            (Liveness::Left, _) | (_, NodeState::Left) if planted(Planted::LeftUsable) => Use::Yes,
            (Liveness::Dead, _) if planted(Planted::DeadUsable) => Use::Yes,
            (Liveness::Suspect, _) if planted(Planted::SuspectUnusable) => Use::No(Reason::Suspect),
            (Liveness::Left, _) | (_, NodeState::Left) => Use::No(Reason::Left),
            (_, NodeState::Fenced) => Use::No(Reason::Cloned),
            (Liveness::Dead, _) if mass => Use::LastChoice(Reason::MassLoss),
            (Liveness::Dead, _) => Use::No(Reason::Dead),
            (_, NodeState::Draining) => Use::No(Reason::Draining),
            (Liveness::Suspect, _) => Use::LastChoice(Reason::Suspect),
            (Liveness::Alive, NodeState::Up)
                if self.members.get(&node.key).is_some_and(|m| m.is_restarting(now.tick)) =>
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
        locality: content.host.locality.clone(),
        addresses: content.addresses.0.clone(),
        liveness,
        boot: content.host.boot,
        gossip_generation: content.host.gossip_generation,
        sequence: record.header().sequence,
        hash: record.hash(),
        version: content.host.version.to_string(),
        issuer: content.issuer.0.is_some(),
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
