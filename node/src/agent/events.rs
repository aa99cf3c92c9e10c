//! Events: what the engine, gossip and the proxy tell becomes log lines, metrics and problems.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use skein_protocol::{
    clock::Wall,
    engine::{Blame, Event, Input},
    limits,
    name::{NodeKey, ServiceName},
    trust::{CloseCode, Revocations, VerifiedChain},
    view::{Liveness, View},
};
use tokio::{
    sync::{mpsc, watch},
    time::MissedTickBehavior,
};

use super::{
    data::DataLinks,
    identity::keep_peers,
    kept::{Kept, Named},
    show::Agent,
    trust,
};
use crate::{
    clock::wall,
    driver::Command,
    gossip::{Gossip, GossipEvent},
    keys::Credentials,
    proxy::{Connection, Direction, Observer},
    telemetry::{
        access::{Access, AccessLog, Request, Side},
        metrics::Metrics,
    },
};

/// What is wrong now, by subject. `status` shows it and exits 3.
#[derive(Clone, Debug)]
pub(crate) struct Problems(Arc<watch::Sender<BTreeMap<String, Vec<String>>>>);

impl Default for Problems {
    fn default() -> Self {
        Self(Arc::new(watch::channel(BTreeMap::new()).0))
    }
}

impl Problems {
    /// Says or takes back the problem of a subject.
    pub(crate) fn set(&self, subject: &str, text: Option<String>) {
        self.set_all(subject, text.into_iter().collect());
    }

    /// Says the problems of a subject; none takes them back. A new one is logged.
    pub(crate) fn set_all(&self, subject: &str, texts: Vec<String>) {
        self.0.send_if_modified(|all| {
            let held = all.get(subject).cloned().unwrap_or_default();
            if held == texts {
                return false;
            }
            for text in texts.iter().filter(|text| !held.contains(text)) {
                tracing::warn!(subject, "{text}");
            }
            if texts.is_empty() {
                all.remove(subject);
            } else {
                all.insert(subject.to_owned(), texts);
            }
            true
        });
    }

    /// All of them.
    pub(crate) fn all(&self) -> BTreeMap<String, Vec<String>> {
        self.0.borrow().clone()
    }
}

/// Tells the access log and the metrics of connections.
pub(super) struct Observe {
    pub(super) access: AccessLog,
    pub(super) metrics: Arc<Metrics>,
}

fn side(direction: Direction) -> Side {
    match direction {
        Direction::Outbound => Side::Outbound,
        Direction::Inbound => Side::Inbound,
    }
}

impl Observer for Observe {
    fn opened(&self, way: Direction, service: &ServiceName) -> Option<Box<dyn Send + Sync>> {
        Some(Box::new(self.metrics.opened(side(way), &service.to_string())))
    }

    fn finished(&self, connection: &Connection) {
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let access = Access {
            at_ms: wall().0,
            side: side(connection.direction),
            service: connection.service.as_ref().map(ToString::to_string).unwrap_or_default(),
            port: connection.port,
            source: connection.source.to_string(),
            endpoint: connection.endpoint.clone().unwrap_or_default(),
            request: connection.request.as_ref().map(|one| Request {
                method: one.method.clone(),
                path: one.path.clone(),
                status: one.status,
            }),
            end: connection.reason,
            detail: connection.detail.clone(),
            bytes_in: connection.up,
            bytes_out: connection.down,
            connect_us: u64::try_from(connection.connected.as_micros()).unwrap_or(u64::MAX),
            took_ms: millis(connection.duration),
            tries: u8::try_from(connection.tries).unwrap_or(u8::MAX),
        };
        self.metrics.ended(&access);
        self.access.tell(access);
    }
}

/// Tells people what happens in the mesh.
pub(super) async fn mesh_events(agent: Arc<Agent>, mut events: mpsc::Receiver<Event>) {
    while let Some(event) = events.recv().await {
        tell(&agent, event);
    }
}

fn tell(agent: &Agent, event: Event) {
    let name = |node: &NodeKey| agent.name_of(node);
    match event {
        Event::Joined(node) => tracing::info!(node = name(&node), "joined"),
        Event::Alive(node) => tracing::info!(node = name(&node), "alive again"),
        Event::Suspect(node) => tracing::info!(node = name(&node), "suspect: it does not answer"),
        Event::Dead(node) => tracing::warn!(node = name(&node), "dead: its watchers agree"),
        Event::Left(node) => tracing::info!(node = name(&node), "left"),
        Event::Blamed(node, blame) => {
            agent.metrics.blamed(blame.word());
            tracing::warn!(node = name(&node), kind = blame.word(), "peer blamed: it {blame}");
        }
        Event::CutOff(node) => tracing::error!(
            node = name(&node),
            "peer cut off for {} s after too much blame",
            limits::BLAME_BAN.as_secs()
        ),
        Event::RolledBack { had, seen } => agent.problems.set(
            "rollback",
            Some(format!(
                "this host's state went back (it had sequence {had}, peers have seen {seen}): it \
                 goes on above; was a snapshot restored?"
            )),
        ),
        Event::Cloned { address } => agent.problems.set(
            "cloned identity",
            Some(format!(
                "another host uses this node's key{}: this one serves nothing until only one is \
                 left; remove node.key and node.pem on the copy, join it again, and restart both",
                address.map(|at| format!(", at {at}")).unwrap_or_default()
            )),
        ),
        Event::Outdated(_) => agent.metrics.ignored("older"),
        Event::Forked(node) => {
            tracing::error!(node = name(&node), "signed two records with one sequence: not used");
        }
        Event::SetAside(peer) => {
            let from = peer.as_ref().map_or_else(|| "disk".to_owned(), name);
            tracing::error!(
                from,
                "a check of this agent broke: what it was about is set aside; this is a bug of \
                 skein, please report it with the panic above"
            );
        }
        Event::Unread(node, newer) => {
            let name = name(&node);
            agent.problems.set(
                &format!("record of {name}"),
                newer.then(|| {
                    format!(
                        "{name} runs a newer skein, and its record needs one to be read: it is \
                         passed on, and none of its services is used here; upgrade this agent"
                    )
                }),
            );
        }
        Event::Revoked(node, reason) => {
            tracing::warn!(node = name(&node), reason, "revoked: its connections are cut");
        }
        Event::RevocationRefused(why) => tracing::warn!(why, "a revocation was not taken"),
        Event::Policy(document, operator) => {
            tracing::info!(document, operator, "a document of the mesh is in force");
        }
        Event::Anchored { surely } => {
            if surely {
                tracing::info!("this host holds the policy of the mesh: it takes calls");
            }
            let text = "policy-unanchored: no agent was reached that could say what the policy \
                        of the mesh is; this host goes on with what it holds (`skein policy \
                        status` compares it, `skein policy adopt` puts a backup's in force)";
            agent.problems.set("policy-unanchored", (!surely).then(|| text.to_owned()));
        }
        Event::PolicyRefused(why) => tracing::warn!(why, "a document was not taken"),
        Event::NotPublished(why) => agent.problems.set("registration", Some(why)),
        Event::Published => agent.problems.set("registration", None),
        Event::DiskFailed(why) => {
            agent.disk.owes(Some(why));
            look_at_disk(agent);
        }
        Event::DiskWell => {
            agent.disk.owes(None);
            look_at_disk(agent);
        }
        Event::Late(by) => {
            tracing::warn!(late_ms = by.as_millis(), "this agent was not run for a while");
        }
        Event::ClockSkew(node, apart) => {
            let text = |by: Duration| {
                format!(
                    "the clocks of this host and {} are {} s apart: set them right (NTP)",
                    name(&node),
                    by.as_secs()
                )
            };
            agent.problems.set(&format!("clock of {}", name(&node)), apart.map(text));
        }
    }
}

/// Says whether the disk can be written, and what that means.
fn look_at_disk(agent: &Agent) {
    let text = agent.disk.trouble().map(|why| {
        format!(
            "the state in {} cannot be written: {why}; what restricts holds in memory, what opens \
             or admits waits, and all of it is written by itself as soon as the disk takes it",
            agent.files.directory().display()
        )
    });
    agent.problems.set("disk", text);
}

/// Hands gossip's hints to the engine. None of them is believed.
pub(super) async fn gossip_events(agent: Arc<Agent>, mut events: mpsc::Receiver<GossipEvent>) {
    while let Some(event) = events.recv().await {
        match event {
            GossipEvent::Hint { node, hints } => {
                if let Some(head) = hints.head {
                    let hint = Input::Hint { node, sequence: head.sequence };
                    agent.driver.input(hint).await;
                }
            }
            GossipEvent::Blame { peer, reason } => {
                tracing::warn!(peer = agent.name_of(&peer), %reason, "gossip refused");
                agent.driver.tell(Command::Blame(peer, Blame::Other("gossip"))).await;
            }
            GossipEvent::LiveSet(live) => {
                agent.driver.input(Input::GossipLive(live)).await;
            }
            GossipEvent::Restarting { generation, reason } => {
                tracing::error!(generation, reason, "gossip ended and is started again");
                agent.phase.send_modify(|phase| phase.gossip_generation = generation);
            }
            GossipEvent::StaysDown { reason } => agent.problems.set(
                "gossip",
                Some(format!(
                    "gossip has ended ({reason}) and stays down, as meshConfig.disableAutoRestart \
                     asks: routing goes on with records, which do not need it; restart the agent \
                     to have it back"
                )),
            ),
            GossipEvent::Unknown { node, from } => {
                tracing::debug!(%node, from = agent.name_of(&from), "gossip of an unknown node");
            }
            GossipEvent::Dropped { peer, reason } => {
                tracing::debug!(peer = agent.name_of(&peer), %reason, "gossip left out");
            }
        }
    }
}

pub(super) async fn watch_gossip(gossip: Gossip, problems: Problems) {
    if let Err(error) = gossip.ended().await {
        problems.set(
            "gossip",
            Some(format!("gossip has ended ({error}): routing goes on with records; restart soon")),
        );
    }
}

/// Keys that have ended: every handshake is judged by them, and open data links are cut. So are
/// those that lead to a process or a node that is no more.
pub(super) async fn revoked(
    (credentials, on_disk): (Arc<Credentials>, BTreeSet<NodeKey>),
    mut revocations: watch::Receiver<Arc<Revocations>>,
    data: DataLinks,
    mut view: watch::Receiver<Arc<View>>,
) {
    loop {
        let ended = Arc::clone(&revocations.borrow_and_update());
        // Whom this agent has believed: now, or by what stood on its disk when it started.
        let mut known = on_disk.clone();
        known.extend(view.borrow_and_update().nodes.keys());
        if let Some(held) = credentials.trust() {
            credentials.set_trust(trust(&held.roots, &ended, known.into_iter()));
        }
        let now = Arc::clone(&view.borrow());
        data.cut_revoked();
        data.forget_earlier_boots(&now);
        data.leave_dead(&now);
        tokio::select! {
            changed = revocations.changed() => if changed.is_err() { return },
            changed = view.changed() => if changed.is_err() { return },
        }
    }
}

/// Says when peers hold this node's key for revoked.
pub(super) async fn put_out(agent: Arc<Agent>, mut by: watch::Receiver<Option<NodeKey>>) {
    while by.changed().await.is_ok() {
        let peer = by.borrow_and_update().map(|peer| agent.name_of(&peer));
        let text = peer.map(|peer| {
            format!(
                "{peer} says that this node's key was revoked: nobody in the mesh talks to it any \
                 more; to come back, move {} away and join again, with a new key",
                agent.files.directory().display()
            )
        });
        agent.problems.set("revoked", text);
    }
}

/// Figures, and connections whose peer's certificate has ended.
pub(super) async fn every_second(agent: Arc<Agent>, mut stopped: watch::Receiver<bool>) {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            biased;
            () = crate::stop::stopped(&mut stopped) => return,
            _ = tick.tick() => {}
        }
        figures(&agent);
        look_at_disk(&agent);
        let (now, view) = (wall(), agent.view());
        agent.data.cut_revoked();
        agent.data.cut(CloseCode::Expired, |chain| is_over(chain, &view, now));
        for link in agent.links.borrow().values().filter(|link| is_over(&link.chain, &view, now)) {
            link.mux.close(CloseCode::Expired.number(), CloseCode::Expired.text());
        }
    }
}

/// Edges that are new are on disk a second later, how often and when each was called a minute later.
pub(super) async fn keep_edges(agent: Arc<Agent>, mut stopped: watch::Receiver<bool>) {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for second in 1u64.. {
        tokio::select! {
            biased;
            () = crate::stop::stopped(&mut stopped) => return,
            _ = tick.tick() => {}
        }
        let minute = second.is_multiple_of(60);
        keep_edges_now(&agent, minute).await;
        if minute {
            keep_peers(&agent);
        }
    }
}

/// Says what of the files that the next start needs is not as it should be.
pub(super) async fn watch_files(agent: Arc<Agent>, mut stopped: watch::Receiver<bool>) {
    let named = |agent: &Agent| {
        let files = &agent.settings.files;
        let named = Named {
            key: &files.key,
            chain: &files.chain,
            roots: &files.roots,
            sealed: agent.settings.has_secret(),
        };
        Kept::new(&agent.files, &named, agent.issuer().is_some())
    };
    let mut kept = named(&agent);
    let mut issuer = agent.issuer.subscribe();
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = crate::stop::stopped(&mut stopped) => return,
            Ok(()) = issuer.changed() => kept = named(&agent),
            _ = tick.tick() => {}
        }
        // Reading may wait for a disk that does not answer; nothing else waits for this.
        let looked = tokio::task::spawn_blocking(move || {
            let lines = kept.look();
            (kept, lines)
        });
        let Ok((back, lines)) = looked.await else { return };
        kept = back;
        agent.problems.set_all("files", lines);
    }
}

/// Has edges written. A disk that cannot be written gets them when it can.
pub(super) async fn keep_edges_now(agent: &Arc<Agent>, all: bool) {
    if agent.disk.trouble().is_some() {
        return;
    }
    let agent = Arc::clone(agent);
    // What failed is written the next time, and said by the disk itself.
    let _ = tokio::task::spawn_blocking(move || agent.edges.keep(&agent.disk, all)).await;
}

/// Whether a connection whose peer proved itself by `chain` has lost its ground: by the newest
/// certificate that the peer has shown, since who renews shows it in its record, not on connections
/// that are open.
fn is_over(chain: &VerifiedChain, view: &View, now: Wall) -> bool {
    let renewed = view.nodes.get(&chain.key).map(|node| node.not_after);
    let ends = renewed.map_or(chain.not_after, |renewed| renewed.max(chain.not_after));
    ends.after(limits::CLOCK_SKEW) < now
}

fn figures(agent: &Agent) {
    let view = Arc::clone(&agent.view.borrow());
    for state in [Liveness::Alive, Liveness::Suspect, Liveness::Dead, Liveness::Left] {
        let count = view.nodes.values().filter(|node| node.liveness == state).count();
        agent.metrics.set_members(state.word(), count);
    }
    agent.metrics.set_links("control", agent.links.borrow().len());
    agent.metrics.set_links("data", agent.data.open().len());
    agent.metrics.set_problems(agent.count_problems());
    if let Some(own) = agent.credentials.own() {
        let left = own.verified.not_after.since(wall());
        agent.metrics.set_certificate_left(left.as_secs_f64());
    }
}
