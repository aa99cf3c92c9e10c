//! One run: a plan is done to a world, which is then mended and has to come to one view.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use anyhow::Result;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use skein_protocol::{
    limits,
    name::{Hash, ServiceName},
    record::node::{Health, NodeState},
    route::{Ask, Balancer, Outcome, Subset, Tried, Tuning},
    view::{Reason, Use, View},
    wire::frame::{self, Frame},
};

use crate::{
    adversary::{self, Attack},
    checks::{Check, Checks, Violation},
    mesh,
    plan::{Action, Plan, STAYS_DOWN},
    rulings,
    world::{Disk, Node, Weather, World},
};

/// What became of a run.
#[derive(Clone, Debug)]
pub struct Outcomes {
    /// The first thing that did not hold.
    pub violation: Option<Violation>,
    /// The hash over all frames.
    pub trace: Hash,
    /// Milliseconds of the world, times nodes that were up.
    pub node_ms: u64,
    /// Checks made.
    pub checks: u64,
    /// Faults done.
    pub faults: u64,
    /// Calls, and how many of them found nobody.
    pub calls: (u64, u64),
    /// Milliseconds from the last fault to one view; none when it did not get there.
    pub healed: Option<u64>,
    /// Frames and bytes.
    pub sent: (u64, u64),
}

/// A run under way.
pub struct Run {
    /// The world.
    pub world: World,
    /// What was done, for people.
    pub done: Vec<(u64, Action)>,
    /// Who left for good.
    gone: BTreeSet<usize>,
    snapshots: BTreeMap<usize, Disk>,
    balancers: Vec<Balancer>,
    rng: StdRng,
    faults: u64,
    calls: (u64, u64),
    node_ms: u64,
    swept: u64,
    /// What calls and attacks draw from: how often they do goes by what is seen, not by the plan.
    dice: StdRng,
}

/// A mesh must come to one view within this after its start, whatever the weather.
const START_LIMIT: u64 = 60_000;
/// How long the mended world is watched at rest.
const REST: u64 = 10_000;
/// Bytes a second that one control link may cost at rest: a probe and its answer, and a head
/// exchange now and then.
const LINK_BYTES: u64 = 60;

/// A change at rest is everywhere within this, on any continent.
const SPREAD_LIMIT: u64 = 1_200;
/// By how much hosts that do not do what they should may raise that.
const LIARS_COST: u64 = 30;

/// Does a plan. Without `checks` nothing is looked at but the end.
pub fn run(plan: &Plan) -> Result<Outcomes> {
    let mut run = Run::new(plan)?;
    run.act(plan)?;
    Ok(run.outcomes(plan))
}

impl Run {
    /// The plan's world, not yet started.
    pub fn new(plan: &Plan) -> Result<Self> {
        let mut world = World::new(plan.options.clone())?;
        let mut checks = Checks::default();
        checks.dishonest = plan.adversaries.union(&plan.silent).copied().collect();
        world.checks = Some(Box::new(checks));
        for silent in &plan.silent {
            if let Some(node) = world.nodes.get_mut(*silent) {
                node.silent = true;
            }
        }
        for shield in &plan.adversaries {
            if let Some(node) = world.nodes.get_mut(*shield) {
                node.shields = true;
            }
        }
        Ok(Self {
            world,
            done: Vec::new(),
            gone: BTreeSet::new(),
            snapshots: BTreeMap::new(),
            balancers: Vec::new(),
            rng: StdRng::seed_from_u64(plan.options.seed ^ 0x7275_6e21),
            faults: 0,
            calls: (0, 0),
            node_ms: 0,
            swept: 0,
            dice: StdRng::seed_from_u64(plan.options.seed ^ 0x6469_6365),
        })
    }

    /// Starts the mesh, and does all that is planned.
    pub fn act(&mut self, plan: &Plan) -> Result<()> {
        self.world.start_all();
        let limit = self.world.now + START_LIMIT;
        while self.world.now < limit && !self.world.full_and_equal() {
            self.pass(self.world.now + 100);
        }
        if !self.world.full_and_equal() && self.world.violation().is_none() {
            let what = "no common view after the start".to_owned();
            self.world.check(|checks, world| checks.fail(world, Check::L1, 0, what));
        }
        let start = self.world.now;
        for (at, action) in &plan.schedule {
            self.pass(start + at);
            if self.world.violation().is_some() {
                return Ok(());
            }
            self.faults += u64::from(action.is_fault());
            self.done.push((self.world.now, action.clone()));
            self.perform(action)?;
        }
        self.pass(start + plan.chaos);
        Ok(())
    }

    /// Mends what can be mended, and demands what then must hold. Milliseconds to one view.
    pub fn end(&mut self, plan: &Plan) -> Option<u64> {
        if self.world.violation().is_some() {
            return None;
        }
        self.mend(plan);
        let healed = self.heal();
        if healed.is_some() {
            self.rest();
            self.undoubted();
            self.spread();
            self.callable();
        }
        healed
    }

    fn outcomes(mut self, plan: &Plan) -> Outcomes {
        let healed = self.end(plan);
        let world = &self.world;
        Outcomes {
            violation: world.violation().cloned(),
            trace: world.trace_hash(),
            node_ms: self.node_ms,
            checks: world.checks.as_ref().map_or(0, |checks| checks.made),
            faults: self.faults,
            calls: self.calls,
            healed,
            sent: world.sent,
        }
    }

    /// Lets time pass, looking at every node once a second.
    pub fn pass(&mut self, until: u64) {
        while self.world.now < until && self.world.violation().is_none() {
            let next = (self.swept + 1000).min(until);
            let from = self.world.now;
            self.world.run_to(next);
            let up = self.world.up().count() as u64;
            self.node_ms += up * (self.world.now - from);
            if self.world.now >= self.swept + 1000 {
                self.swept = self.world.now;
                self.world.check(Checks::sweep);
            }
        }
    }

    fn perform(&mut self, action: &Action) -> Result<()> {
        let world = &mut self.world;
        let count = world.nodes.len();
        match action {
            Action::Part(shape) => {
                let shape = *shape;
                world.cut_where(|a, b| shape.apart(count, a, b));
            }
            Action::Mend => world.heal(),
            Action::Cut(a, b) => {
                world.network.cut(*a, *b, true);
                world.time_out_torn();
            }
            Action::Clog(a, b) => world.network.clog(*a, *b),
            Action::Unclog(a, b) => world.unclog(*a, *b),
            Action::Throttle(node, rate) => world.network.throttle(*node, *rate),
            Action::Crash(node) => world.crash(*node),
            Action::Start(node) => self.start(*node),
            Action::Pause(node, ms, stall) => world.pause(*node, *ms, *stall),
            Action::Skew(node, ms) => {
                let now = world.now;
                self.on(*node, |node| {
                    node.skew = *ms;
                    node.clock_set = now;
                });
            }
            Action::Drift(node, ppm) => self.drift(*node, *ppm),
            Action::Full(node, full) => self.on(*node, |node| node.disk.full = *full),
            Action::LoseWrites(node) => self.on(*node, |node| node.disk.lose_writes()),
            Action::Snapshot(node) => {
                if let Some(of) = world.nodes.get(*node) {
                    self.snapshots.insert(*node, of.disk.clone());
                }
            }
            Action::Restore(node) => {
                if let Some(disk) = self.snapshots.get(node).cloned() {
                    self.set_back(*node, disk);
                }
            }
            Action::Wipe(node) => self.set_back(*node, Disk::default()),
            Action::Clone(original, copy) => {
                world.crash(*copy);
                world.clone_identity(*original, *copy);
                self.distrust(&[*original, *copy]);
                self.start(*copy);
            }
            Action::Newer(node) => {
                let kind = self.rng.random_range(100..250);
                let frame = Frame::Unknown(kind);
                for to in 0..count {
                    self.world.inject(*node, to, &frame);
                }
            }
            Action::Join => {
                let node = world.add()?;
                world.start(node);
            }
            Action::Leave(node) => self.leave(*node),
            Action::Attack(who, attack) => {
                adversary::attack(world, *who, *attack, &mut self.dice);
                if *attack == Attack::Garbage {
                    world.attack_gossip(*who);
                }
            }
            Action::Revoke(by, of) => self.revoke(*by, *of)?,
            Action::Edit(at, document, how) => rulings::edit(world, *at, *document, *how)?,
            Action::Weight(node, weight) => {
                world.say(*node, |local| {
                    local.instances.0.iter_mut().for_each(|instance| instance.weight = *weight);
                });
            }
            Action::Flap(node) => world.say(*node, |local| {
                for instance in &mut local.instances.0 {
                    instance.health = match instance.health {
                        Health::Passing => Health::Critical,
                        _ => Health::Passing,
                    };
                }
            }),
            Action::Register(node, service) => self.register(*node, *service)?,
            Action::Deregister(node) => world.say(*node, |local| {
                local.instances.0.pop();
            }),
            Action::Call(node, service) => {
                self.call(*node, *service)?;
            }
        }
        Ok(())
    }

    fn on(&mut self, node: usize, change: impl FnOnce(&mut Node)) {
        if let Some(node) = self.world.nodes.get_mut(node) {
            change(node);
        }
    }

    fn start(&mut self, node: usize) {
        if !self.gone.contains(&node) {
            self.world.start(node);
        }
    }

    /// The clocks go on from where they are, faster or slower.
    fn drift(&mut self, node: usize, ppm: i64) {
        let now = self.world.now;
        self.on(node, |node| {
            let before = node.clock(now);
            node.drift = ppm;
            let after = node.clock(now);
            // Neither clock jumps.
            let apart = i64::try_from(before.wall.0).unwrap_or(i64::MAX)
                - i64::try_from(after.wall.0).unwrap_or(i64::MAX);
            node.skew += apart;
            node.stalled = node.stalled.saturating_add_signed(
                i64::try_from(after.tick.0).unwrap_or(i64::MAX)
                    - i64::try_from(before.tick.0).unwrap_or(i64::MAX),
            );
        });
    }

    fn set_back(&mut self, node: usize, disk: Disk) {
        if self.gone.contains(&node) || !self.world.is_up(node) {
            return;
        }
        if let Some(checks) = &mut self.world.checks {
            checks.forgetful.insert(node);
        }
        self.world.crash(node);
        self.on(node, |node| node.disk = disk);
        self.start(node);
    }

    fn distrust(&mut self, nodes: &[usize]) {
        if let Some(checks) = &mut self.world.checks {
            checks.dishonest.extend(nodes);
        }
    }

    fn leave(&mut self, node: usize) {
        if !self.world.is_up(node) {
            return;
        }
        self.gone.insert(node);
        self.world.say(node, |local| local.host.state = NodeState::Left);
        // The goodbye is given a moment, as the agent gives it.
        self.pass(self.world.now + 500);
        self.world.crash(node);
    }

    fn revoke(&mut self, by: usize, of: usize) -> Result<()> {
        let known = self.world.checks.as_ref().is_some_and(|c| c.dishonest.contains(&by));
        if known || !self.world.is_up(by) || self.gone.contains(&by) {
            return Ok(());
        }
        if self.world.checks.as_ref().is_some_and(|checks| checks.revoked.contains(&by)) {
            return Ok(());
        }
        let statement = self.world.mesh.revocation(of)?;
        if let Some(checks) = &mut self.world.checks {
            checks.revoked.insert(of);
        }
        self.world.revoke(by, statement);
        Ok(())
    }

    fn register(&mut self, node: usize, service: usize) -> Result<()> {
        let mut instance = mesh::instance(&format!("svc-{service}"), 10)?;
        instance.id.endpoint = format!("n{}", self.rng.random_range(0..1000)).parse()?;
        self.world.say(node, |local| {
            let taken = local.instances.0.iter().any(|known| known.id == instance.id);
            if !taken && local.instances.0.len() < 8 {
                local.instances.0.push(instance);
            }
        });
        Ok(())
    }

    /// A call: the router picks, the world answers. Whether it got through.
    fn call(&mut self, from: usize, service: usize) -> Result<bool> {
        let name = ServiceName::new("shop".parse()?, format!("svc-{service}").parse()?);
        let Some(view) = self.world.view(from).map(Arc::clone) else {
            return Ok(true);
        };
        let Some(service) = view.services.get(&name) else {
            return Ok(true);
        };
        while self.balancers.len() <= from {
            self.balancers.push(Balancer::default());
        }
        let now = self.world.clock(from);
        let (tuning, subset) = (Tuning::default(), Subset::default());
        let mut tried = Tried::default();
        let Some(balancer) = self.balancers.get_mut(from) else {
            return Ok(true);
        };
        self.calls.0 += 1;
        for _ in 0..limits::TRIES_MAX {
            let ask = Ask {
                service,
                port: 80,
                subset: &subset,
                me: view.me,
                here: &view.locality,
                tried: &tried,
                tuning: &tuning,
                affinity: 0,
            };
            let Ok(choice) = balancer.choose(now, &ask, &mut self.dice) else { break };
            let key = choice.endpoint.key();
            let answered = answers(&self.world, from, &choice.endpoint);
            let outcome = match answered {
                true => Outcome::Connected(Duration::from_millis(2)),
                false => Outcome::NoReply,
            };
            balancer.report(now, service, &key, outcome, &tuning.eject, &mut self.dice);
            balancer.release(&name, &key);
            if answered {
                return Ok(true);
            }
            tried.nodes.insert(key.node);
            tried.endpoints.insert(key);
        }
        self.calls.1 += 1;
        Ok(false)
    }

    fn mend(&mut self, plan: &Plan) {
        let count = self.world.nodes.len();
        self.world.heal();
        self.world.network.weather =
            Weather { loss: 0.0, duplicate: 0.0, reorder: 0.0, ..plan.options.weather };
        for number in 0..count {
            self.world.network.throttle(number, None);
            if number >= 3 && number.is_multiple_of(STAYS_DOWN) && !self.world.is_up(number) {
                // Some of those that are down stay down: their endpoints must not be in use.
                self.gone.insert(number);
            }
            self.on(number, |node| {
                node.disk.full = false;
                node.skew = 0;
            });
            self.start(number);
        }
        let asleep = self.world.nodes.iter().map(|node| node.paused_until).max();
        self.pass(asleep.unwrap_or_default().max(self.world.now));
    }

    /// Those that must agree in the end.
    pub fn core(&self) -> Vec<usize> {
        let Some(checks) = &self.world.checks else { return Vec::new() };
        let stays = |n: &usize| self.world.is_up(*n) && !checks.revoked.contains(n);
        self.honest().into_iter().filter(stays).collect()
    }

    /// Those whose word is what they mean to say, up or not.
    pub fn honest(&self) -> Vec<usize> {
        let Some(checks) = &self.world.checks else { return Vec::new() };
        (0..self.world.nodes.len()).filter(|n| !checks.dishonest.contains(n)).collect()
    }

    /// Waits for one view of the core: 8 rounds and 4 for each doubling, of one second.
    fn heal(&mut self) -> Option<u64> {
        let start = self.world.now;
        let core = self.core();
        let rounds = 8 + 4 * u64::from(core.len().next_power_of_two().trailing_zeros());
        let limit = start + rounds * 1000;
        while self.world.now < limit && self.world.violation().is_none() {
            if self.agreed(&core) {
                return Some(self.world.now - start);
            }
            self.pass(self.world.now + 100);
        }
        if self.world.violation().is_none() {
            let what = self.disagreement(&core);
            self.world.check(|checks, world| checks.fail(world, Check::L1, 0, what));
        }
        None
    }

    fn roots(&self, core: &[usize]) -> BTreeSet<(Hash, Hash, Hash)> {
        let views = core.iter().filter_map(|number| self.world.view(*number));
        let roots = |view: &View| (view.records_root, view.revocation_root, view.policy_root);
        views.map(|view| roots(view)).collect()
    }

    fn agreed(&self, core: &[usize]) -> bool {
        let checks = self.world.checks.as_ref();
        let wrong = checks.map(|checks| checks.wrongly_dead(&self.world)).unwrap_or_default();
        self.roots(core).len() == 1
            && wrong.iter().all(|(at, of)| !core.contains(at) || !core.contains(of))
            && core.iter().all(|at| {
                self.world.view(*at).is_some_and(|view| {
                    core.iter().all(|of| view.nodes.contains_key(&self.world.key(*of)))
                })
            })
    }

    fn disagreement(&self, core: &[usize]) -> String {
        let checks = self.world.checks.as_ref();
        let wrong = checks.map(|checks| checks.wrongly_dead(&self.world)).unwrap_or_default();
        let mut lacking = Vec::new();
        for at in core {
            for of in core {
                let key = self.world.key(*of);
                if self.world.view(*at).is_some_and(|view| !view.nodes.contains_key(&key)) {
                    lacking.push((*at, *of));
                }
            }
        }
        format!(
            "the core of {} holds {} roots; held for dead {wrong:?}; unknown {lacking:?}",
            core.len(),
            self.roots(core).len()
        )
    }

    /// At rest nothing grows: a link costs its probes and no more.
    fn rest(&mut self) {
        self.pass(self.world.now + 2 * REST);
        let core = self.core();
        let (before, from) = (self.sent_by(&core), self.world.now);
        self.pass(self.world.now + REST);
        let links: usize = core.iter().map(|n| self.world.links(*n)).sum();
        let seconds = (self.world.now - from) / 1000;
        let mut by = self.sent_by(&core);
        by.iter_mut().for_each(|(kind, sum)| {
            *sum -= before.get(kind).copied().unwrap_or_default();
        });
        by.retain(|_, sum| *sum > 0);
        let bytes: u64 = by.values().sum();
        let liars = self.world.checks.as_ref().is_some_and(|checks| !checks.dishonest.is_empty());
        let allowed = if liars { LIARS_COST } else { 1 };
        let bound = links as u64 * LINK_BYTES * seconds.max(1) * allowed;
        if bytes > bound {
            let what = format!(
                "{bytes} bytes in {seconds} s at rest over {links} ends of links, by kind {by:?}"
            );
            self.world.check(|checks, world| checks.fail(world, Check::L6, 0, what));
        }
    }

    /// At rest nobody of the core doubts another.
    fn undoubted(&mut self) {
        let core = self.core();
        let Some(checks) = self.world.checks.as_ref().filter(|c| c.dishonest.is_empty()) else {
            return;
        };
        let mut doubts = checks.wrongly_doubted(&self.world);
        doubts.retain(|(at, of)| core.contains(at) && core.contains(of));
        if let Some((at, of)) = doubts.first().copied() {
            let what = format!("doubts {of}, and nobody has a reason to");
            self.world.check(|checks, world| checks.fail(world, Check::L4, at, what));
        }
    }

    /// A change at rest is everywhere at once.
    fn spread(&mut self) {
        let core = self.core();
        let Some(teller) = core.first().copied() else { return };
        let key = self.world.key(teller);
        let (before, start) = (self.world.said(teller), self.world.now);
        self.world.say(teller, |local| {
            local.instances.0.iter_mut().for_each(|instance| instance.weight = 101);
            if local.instances.0.is_empty() {
                local.host.state = NodeState::Draining;
            }
        });
        let told = |run: &Self| {
            core.iter().all(|at| {
                let engine = run.world.nodes.get(*at).and_then(|node| node.engine.as_ref());
                let head = engine.and_then(|engine| engine.store().head(&key));
                head.is_some_and(|head| head.sequence > before)
            })
        };
        while self.world.now < start + SPREAD_LIMIT && self.world.violation().is_none() {
            if told(self) {
                return;
            }
            self.pass(self.world.now + 20);
        }
        let what = format!("a change at rest is not everywhere after {SPREAD_LIMIT} ms");
        self.world.check(|checks, world| checks.fail(world, Check::L1, teller, what));
    }

    /// Bytes that those nodes' engines have sent, by kind of frame.
    fn sent_by(&self, core: &[usize]) -> BTreeMap<u8, u64> {
        let mut by = BTreeMap::new();
        let nodes = core.iter().filter_map(|number| self.world.nodes.get(*number));
        let sent = nodes.flat_map(|node| &node.sent).filter(|(kind, _)| **kind != frame::GOSSIP);
        for (kind, sum) in sent {
            *by.entry(*kind).or_default() += sum;
        }
        by
    }

    /// Every service of the core can be called from all of it, and nobody calls the dead.
    fn callable(&mut self) {
        let core = self.core();
        for at in &core {
            self.dead_unused(*at);
            for service in 0..10 {
                let name = format!("svc-{service}");
                let served = core.iter().any(|of| {
                    let node = self.world.nodes.get(*of);
                    node.is_some_and(|node| {
                        node.local.host.state == NodeState::Up
                            && node.local.instances.0.iter().any(|instance| {
                                instance.service.name().as_str() == name
                                    && instance.health == Health::Passing
                                    && instance.weight > 0
                            })
                    })
                });
                if served && !self.call(*at, service).unwrap_or(false) {
                    let what = format!("cannot call {name}, which the core serves");
                    self.world.check(|checks, world| checks.fail(world, Check::L2, *at, what));
                }
            }
        }
    }

    fn dead_unused(&mut self, at: usize) {
        let Some(view) = self.world.view(at).map(Arc::clone) else { return };
        for endpoint in view.services.values().flat_map(|service| &service.endpoints) {
            let revoked = self.core().iter().any(|one| {
                let node = self.world.nodes.get(*one);
                let ended = node.and_then(|node| node.ended.as_ref());
                ended.is_some_and(|ended| ended.is_revoked(&endpoint.node.key))
            });
            let kept = endpoint.usable == Use::LastChoice(Reason::MassLoss);
            // Of two hosts with one key the other may be there still.
            let lives = |(n, node): (usize, &Node)| {
                node.key == endpoint.node.key && !self.gone.contains(&n)
            };
            let dead = !self.world.up().any(lives);
            if !matches!(endpoint.usable, Use::No(_)) && (dead && !kept || revoked) {
                let check = if dead { Check::L3 } else { Check::L5 };
                let what = format!("would call {} ({:?})", endpoint.id(), endpoint.usable);
                return self.world.check(|checks, world| checks.fail(world, check, at, what));
            }
        }
    }
}

/// Whether a call to that endpoint gets through.
fn answers(world: &World, from: usize, endpoint: &skein_protocol::view::Endpoint) -> bool {
    let Some(to) = world.number(&endpoint.node.key) else { return false };
    let Some(node) = world.nodes.get(to).filter(|node| node.engine.is_some()) else {
        return false;
    };
    let open =
        from == to || !(world.network.is_cut(from, to) || world.network.is_clogged(from, to));
    let serves =
        node.local.instances.0.iter().any(|instance| {
            instance.id == endpoint.instance.id && instance.health == Health::Passing
        });
    open && serves && !node.probation && node.paused_until <= world.now
}
