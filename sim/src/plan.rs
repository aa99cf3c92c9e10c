//! A plan: what one seed does to the world, as a list that can be printed, cut short and run
//! again.
//!
//! In:    a seed           Out: options, who is dishonest, and what happens when
//! Never: depends on what happens while it runs, so that a shorter plan is still the same one
//!
//! Swarm testing: each seed switches whole families of faults on or off, so that some plans hold
//! few of them, and those hard.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    adversary::Attack,
    crypto::Signatures,
    rulings,
    world::{Options, Weather},
};

/// A family of faults.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Family {
    /// Packets are lost.
    Loss,
    /// Frames come twice and out of turn.
    Disorder,
    /// Nodes live in five regions of three continents.
    Wan,
    /// The network falls apart: halves, ring, star, bridge, zones, flapping.
    Partitions,
    /// Paths that carry one way only.
    OneWay,
    /// Paths on which everything waits.
    Clogs,
    /// Lines of a few tens of kilobytes a second.
    Capacity,
    /// Processes end and come again.
    Crashes,
    /// Processes and machines stand still.
    Pauses,
    /// Clocks are off, drift and jump.
    Clocks,
    /// Disks fill up, forget, go back and are wiped.
    Disks,
    /// A machine is copied, key and all.
    Clones,
    /// Agents of a newer version speak frames that others do not know.
    Upgrade,
    /// Hosts join and leave.
    Churn,
    /// Admitted hosts attack.
    Adversaries,
    /// Admitted hosts keep back what others say.
    Silence,
    /// Keys end.
    Revocations,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::Loss,
        Self::Disorder,
        Self::Wan,
        Self::Partitions,
        Self::OneWay,
        Self::Clogs,
        Self::Capacity,
        Self::Crashes,
        Self::Pauses,
        Self::Clocks,
        Self::Disks,
        Self::Clones,
        Self::Upgrade,
        Self::Churn,
        Self::Adversaries,
        Self::Silence,
        Self::Revocations,
    ];
}

/// How the network falls apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Shape {
    /// Two parts.
    Halves,
    /// Each reaches the one before and the one after.
    Ring,
    /// All reach one, and nobody else.
    Star(usize),
    /// Two parts, and one that both reach.
    Bridge(usize),
    /// Three zones.
    Zones,
    /// One alone.
    Alone(usize),
}

impl Shape {
    /// Whether `a` cannot reach `b` among `count` nodes.
    pub fn apart(self, count: usize, a: usize, b: usize) -> bool {
        a != b
            && match self {
                Self::Halves => a % 2 != b % 2,
                Self::Ring => {
                    let gap = a.abs_diff(b);
                    gap > 1 && gap + 1 != count
                }
                Self::Star(hub) => a != hub && b != hub,
                Self::Bridge(over) => a != over && b != over && a % 2 != b % 2,
                Self::Zones => a % 3 != b % 3,
                Self::Alone(node) => (a == node) != (b == node),
            }
    }
}

/// One thing that is done to the world.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Part the network.
    Part(Shape),
    /// Mend the network.
    Mend,
    /// Cut one path, one way.
    Cut(usize, usize),
    /// Let everything on one path wait.
    Clog(usize, usize),
    /// Let it go.
    Unclog(usize, usize),
    /// Throttle a node to so many bytes a second, or no longer.
    Throttle(usize, Option<u64>),
    /// End a process.
    Crash(usize),
    /// Start it.
    Start(usize),
    /// Freeze a process, or with its clock a whole machine.
    Pause(usize, u64, bool),
    /// Set a clock ahead by so many milliseconds.
    Skew(usize, i64),
    /// Let a node's clocks run fast by so many millionths.
    Drift(usize, i64),
    /// Fill a disk, or free it.
    Full(usize, bool),
    /// Let a disk forget at the next crash what it writes from now on.
    LoseWrites(usize),
    /// Keep a copy of a disk.
    Snapshot(usize),
    /// Crash, and start from the copy.
    Restore(usize),
    /// Crash, and start from nothing.
    Wipe(usize),
    /// A second host with the key and disk of the first, in the place of another.
    Clone(usize, usize),
    /// Frames of kinds that nobody knows yet.
    Newer(usize),
    /// A further host.
    Join,
    /// A host leaves for good.
    Leave(usize),
    /// An attack.
    Attack(usize, Attack),
    /// The first node tells the mesh, at the second, that the key of the third has ended.
    Revoke(usize, usize),
    /// The operator edits a document at a node: which, and how.
    Edit(usize, u8, u32),
    /// Another weight.
    Weight(usize, u32),
    /// A check turns.
    Flap(usize),
    /// One more instance, of that service.
    Register(usize, usize),
    /// One instance less.
    Deregister(usize),
    /// A call to some service.
    Call(usize, usize),
}

/// See the module.
#[derive(Clone, PartialEq, Debug)]
pub struct Plan {
    /// The world.
    pub options: Options,
    /// What is switched on.
    pub families: BTreeSet<Family>,
    /// Who attacks.
    pub adversaries: BTreeSet<usize>,
    /// Who keeps back what others say.
    pub silent: BTreeSet<usize>,
    /// For how long things are done, in milliseconds.
    pub chaos: u64,
    /// What is done, when.
    pub schedule: Vec<(u64, Action)>,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let weather = &self.options.weather;
        writeln!(
            f,
            "seed {}: {} nodes, {} seeds, {:?}, {} s of {:?}",
            self.options.seed,
            self.options.nodes,
            self.options.seeds,
            self.options.signatures,
            self.chaos / 1000,
            self.families,
        )?;
        write!(
            f,
            "  delay {:?} ms, wan {}, loss {:.3}, twice {:.3}, out of turn {:.3}; adversaries \
             {:?}, silent {:?}; {} things done",
            weather.delay,
            weather.wan,
            weather.loss,
            weather.duplicate,
            weather.reorder,
            self.adversaries,
            self.silent,
            self.schedule.len()
        )
    }
}

/// Of hosts that are down when all is mended, every so many-th stays down.
pub const STAYS_DOWN: usize = 3;
/// The share of seeds in which a family is switched on.
const SWITCHED_ON: f64 = 0.35;
/// One seed in so many signs with Ed25519.
const REAL_SIGNATURES: u64 = 50;

impl Plan {
    /// The plan of a seed.
    pub fn of(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed ^ 0x706c_616e);
        let nodes =
            *[3, 5, 8, 8, 12, 12, 16, 20, 24, 32].get(rng.random_range(0..10)).unwrap_or(&8);
        let families: BTreeSet<Family> =
            Family::ALL.into_iter().filter(|_| rng.random_bool(SWITCHED_ON)).collect();
        let on = |family| families.contains(&family);
        let mut weather = Weather { delay: (1, rng.random_range(2..30)), ..Weather::default() };
        weather.wan = on(Family::Wan);
        if on(Family::Loss) {
            weather.loss = rng.random_range(0.005..0.12);
        }
        if on(Family::Disorder) {
            weather.duplicate = rng.random_range(0.01..0.3);
            weather.reorder = rng.random_range(0.01..0.3);
        }
        let real = seed.is_multiple_of(REAL_SIGNATURES);
        let signatures = if real { Signatures::Ed25519 } else { Signatures::KeyedHash };
        let options = Options { seed, nodes, seeds: 3.min(nodes), weather, signatures };
        let chaos = rng.random_range(20_000..60_000);
        let mut draft = Draft { rng, nodes, chaos, schedule: Vec::new(), bad: BTreeSet::new() };
        let adversaries = if on(Family::Adversaries) { draft.some_bad(8) } else { BTreeSet::new() };
        let silent = if on(Family::Silence) { draft.some_bad(4) } else { BTreeSet::new() };
        draft.work();
        for family in &families {
            draft.family(*family, &adversaries);
        }
        draft.edits(seed);
        draft.further_attacks(seed, &adversaries);
        if on(Family::Crashes) {
            draft.end_for_good();
        }
        let mut schedule = draft.schedule;
        schedule.sort_by_key(|(at, _)| *at);
        Self { options, families, adversaries, silent, chaos, schedule }
    }

    /// How often each family's things are done.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        let mut counts = BTreeMap::new();
        for (_, action) in &self.schedule {
            *counts.entry(action.kind()).or_default() += 1;
        }
        counts
    }
}

impl Action {
    /// The word for what it is.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Part(_) => "partition",
            Self::Mend => "mend",
            Self::Cut(..) => "one-way cut",
            Self::Clog(..) => "clogged path",
            Self::Unclog(..) => "path freed",
            Self::Throttle(_, Some(_)) => "narrow line",
            Self::Throttle(_, None) => "line freed",
            Self::Crash(_) => "crash",
            Self::Start(_) => "start",
            Self::Pause(_, _, false) => "process frozen",
            Self::Pause(_, _, true) => "machine frozen",
            Self::Skew(..) => "clock set",
            Self::Drift(..) => "clock drifts",
            Self::Full(_, true) => "disk full",
            Self::Full(_, false) => "disk freed",
            Self::LoseWrites(_) => "writes lost",
            Self::Snapshot(_) => "disk copied",
            Self::Restore(_) => "disk set back",
            Self::Wipe(_) => "disk wiped",
            Self::Clone(..) => "host cloned",
            Self::Newer(_) => "unknown frames",
            Self::Join => "join",
            Self::Leave(_) => "leave",
            Self::Attack(_, attack) => attack.word(),
            Self::Revoke(..) => "revocation",
            Self::Edit(..) => "document edited",
            Self::Weight(..) => "weight changed",
            Self::Flap(_) => "check turned",
            Self::Register(..) => "instance added",
            Self::Deregister(_) => "instance removed",
            Self::Call(..) => "call",
        }
    }

    /// Whether it harms, for the count of faults.
    pub fn is_fault(&self) -> bool {
        !matches!(
            self,
            Self::Mend
                | Self::Unclog(..)
                | Self::Throttle(_, None)
                | Self::Start(_)
                | Self::Full(_, false)
                | Self::Snapshot(_)
                | Self::Join
                | Self::Leave(_)
                | Self::Edit(..)
                | Self::Weight(..)
                | Self::Flap(_)
                | Self::Register(..)
                | Self::Deregister(_)
                | Self::Call(..)
        )
    }
}

/// A plan in the making.
struct Draft {
    rng: StdRng,
    nodes: usize,
    chaos: u64,
    schedule: Vec<(u64, Action)>,
    /// Who is dishonest: nothing else is done to them.
    bad: BTreeSet<usize>,
}

impl Draft {
    /// Some nodes that are dishonest from now on: at most one in `share`, none of the seeds.
    fn some_bad(&mut self, share: usize) -> BTreeSet<usize> {
        let most = (self.nodes / share).max(usize::from(self.nodes > 4));
        let mut some = BTreeSet::new();
        for _ in 0..most {
            let node = self.rng.random_range(0..self.nodes);
            if node >= 3 && self.bad.insert(node) {
                some.insert(node);
            }
        }
        some
    }

    /// An honest node.
    fn node(&mut self) -> usize {
        loop {
            let node = self.rng.random_range(0..self.nodes);
            if !self.bad.contains(&node) {
                return node;
            }
        }
    }

    /// Documents are edited on half of the seeds. Drawn apart, so that what else a seed does does
    /// not depend on it.
    fn edits(&mut self, seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed ^ 0x6564_6974);
        if rng.random_bool(0.5) {
            return;
        }
        for _ in 0..rng.random_range(2..30) {
            let (at, node) = (rng.random_range(0..self.chaos), rng.random_range(0..self.nodes));
            let (document, how) = (rng.random_range(0..rulings::DOCUMENTS), rng.random());
            if !self.bad.contains(&node) {
                self.put(at, Action::Edit(node, document, how));
            }
        }
    }

    fn at(&mut self) -> u64 {
        self.rng.random_range(0..self.chaos)
    }

    /// Attacks that came later, from dice of their own.
    fn further_attacks(&mut self, seed: u64, adversaries: &BTreeSet<usize>) {
        let mut rng = StdRng::seed_from_u64(seed ^ 0x6c61_7465);
        for who in adversaries {
            for _ in 0..rng.random_range(2..8) {
                let at = rng.random_range(0..self.chaos);
                let later = Attack::ALL.get(Attack::FIRST..).unwrap_or_default();
                let attack = later.get(rng.random_range(0..later.len().max(1)));
                self.put(at, Action::Attack(*who, attack.copied().unwrap_or(Attack::Shield)));
            }
        }
    }

    fn put(&mut self, at: u64, action: Action) {
        self.schedule.push((at, action));
    }

    /// What a mesh does on any day.
    fn work(&mut self) {
        for _ in 0..self.chaos / 1000 {
            let (at, node) = (self.at(), self.node());
            let action = match self.rng.random_range(0..8) {
                0 => Action::Weight(node, self.rng.random_range(1..100)),
                1 => Action::Flap(node),
                2 => Action::Register(node, self.rng.random_range(0..10)),
                3 => Action::Deregister(node),
                _ => Action::Call(node, self.rng.random_range(0..10)),
            };
            self.put(at, action);
        }
    }

    fn family(&mut self, family: Family, adversaries: &BTreeSet<usize>) {
        match family {
            Family::Loss | Family::Disorder | Family::Wan | Family::Silence => {}
            Family::Partitions => self.partitions(),
            Family::OneWay => {
                for _ in 0..self.rng.random_range(1..4) {
                    let (at, a, b) = (self.at(), self.node(), self.node());
                    let lasts = self.rng.random_range(500..15_000);
                    self.put(at, Action::Cut(a, b));
                    self.put(at + lasts, Action::Mend);
                }
            }
            Family::Clogs => self.clogs(),
            Family::Capacity => {
                let (at, node) = (self.at(), self.node());
                let rate = self.rng.random_range(20_000..100_000);
                let lasts = self.rng.random_range(5_000..20_000);
                self.put(at, Action::Throttle(node, Some(rate)));
                self.put(at + lasts, Action::Throttle(node, None));
            }
            Family::Crashes => self.crashes(),
            Family::Pauses => {
                for _ in 0..self.rng.random_range(1..6) {
                    let (at, node) = (self.at(), self.node());
                    let ms = *[200, 1_000, 3_000, 5_000, 12_000, 30_000]
                        .get(self.rng.random_range(0..6))
                        .unwrap_or(&1_000);
                    let stall = self.rng.random_bool(0.5);
                    self.put(at, Action::Pause(node, ms, stall));
                }
            }
            Family::Clocks => self.clocks(),
            Family::Disks => self.disks(),
            Family::Clones => {
                if self.nodes > 5 {
                    let (at, original, copy) = (self.at(), self.node(), self.nodes - 1);
                    if original != copy && original >= 3 && self.bad.insert(copy) {
                        self.put(at, Action::Clone(original, copy));
                    }
                }
            }
            Family::Upgrade => {
                for _ in 0..20 {
                    let (at, node) = (self.at(), self.node());
                    self.put(at, Action::Newer(node));
                }
            }
            Family::Churn => self.churn(),
            Family::Adversaries => {
                for who in adversaries {
                    for _ in 0..self.rng.random_range(3..25) {
                        let at = self.at();
                        let pick = self.rng.random_range(0..Attack::FIRST);
                        let attack = Attack::ALL.get(pick).copied().unwrap_or(Attack::Forge);
                        self.put(at, Action::Attack(*who, attack));
                    }
                }
            }
            Family::Revocations => {
                for _ in 0..self.rng.random_range(1..3) {
                    let (at, by) = (self.at(), self.node());
                    let of = self.rng.random_range(0..self.nodes);
                    if of >= 3 && of != by && self.nodes > 5 {
                        self.put(at, Action::Revoke(by, of));
                    }
                }
            }
        }
    }

    fn partitions(&mut self) {
        let one = self.node();
        let shapes = [
            Shape::Halves,
            Shape::Ring,
            Shape::Star(one),
            Shape::Bridge(one),
            Shape::Zones,
            Shape::Alone(one),
        ];
        for _ in 0..self.rng.random_range(1..4) {
            let at = self.at();
            let shape = *shapes.get(self.rng.random_range(0..6)).unwrap_or(&Shape::Halves);
            let lasts = self.rng.random_range(300..30_000);
            // Flapping: the same cut, on and off.
            for turn in 0..if self.rng.random_bool(0.25) { 6 } else { 1 } {
                let from = at + turn * 2 * (lasts / 4);
                let until = from + if turn == 0 { lasts } else { lasts / 4 };
                self.put(from, Action::Part(shape));
                self.put(until, Action::Mend);
            }
        }
    }

    fn clogs(&mut self) {
        // Swizzle-clog: one path after another stops, and they start again in another order.
        let (start, one) = (self.at(), self.node());
        let mut at = start;
        for other in 0..self.nodes {
            if other != one && self.rng.random_bool(0.6) {
                at += self.rng.random_range(0..500);
                let back = at + self.rng.random_range(1_000..9_000);
                self.put(at, Action::Clog(one, other));
                self.put(back, Action::Unclog(one, other));
            }
        }
    }

    fn crashes(&mut self) {
        if self.rng.random_bool(0.2) {
            let (mut at, node) = (self.at(), self.node());
            for _ in 0..8 {
                self.put(at, Action::Crash(node));
                self.put(at + 1_000, Action::Start(node));
                at += 5_000;
            }
        }
        for _ in 0..self.rng.random_range(1..self.nodes.max(2)) {
            let (at, node) = (self.at(), self.node());
            let down = self.rng.random_range(50..20_000);
            self.put(at, Action::Crash(node));
            self.put(at + down, Action::Start(node));
        }
        if self.rng.random_bool(0.1) {
            let at = self.at();
            for node in 0..self.nodes {
                self.put(at, Action::Crash(node));
                let back = at + self.rng.random_range(500..5_000);
                self.put(back, Action::Start(node));
            }
        }
    }

    /// Some hosts end and never come again: their endpoints must be out of use in the end. Drawn
    /// after everything else, so that the rest of each plan is what it was.
    fn end_for_good(&mut self) {
        for node in (3..self.nodes).step_by(STAYS_DOWN) {
            if !self.bad.contains(&node) && self.rng.random_bool(0.3) {
                self.put(self.chaos, Action::Crash(node));
            }
        }
    }

    fn clocks(&mut self) {
        for _ in 0..self.rng.random_range(1..4) {
            let (at, node) = (self.at(), self.node());
            match self.rng.random_range(0..3) {
                0 => {
                    let ms = self.rng.random_range(-600_000..600_000);
                    self.put(at, Action::Skew(node, ms));
                }
                1 => {
                    let ppm = self.rng.random_range(-20_000..20_000);
                    self.put(at, Action::Drift(node, ppm));
                }
                _ => {
                    let year = 365 * 24 * 3_600_000;
                    let back = at + self.rng.random_range(1_000..10_000);
                    self.put(at, Action::Skew(node, year));
                    self.put(back, Action::Skew(node, 0));
                }
            }
        }
    }

    fn disks(&mut self) {
        for _ in 0..self.rng.random_range(1..4) {
            let (at, node) = (self.at(), self.node());
            let later = at + self.rng.random_range(1_000..15_000);
            match self.rng.random_range(0..4) {
                0 => {
                    self.put(at, Action::Full(node, true));
                    self.put(later, Action::Full(node, false));
                }
                1 => {
                    self.put(at, Action::LoseWrites(node));
                    self.put(later, Action::Crash(node));
                    self.put(later + 300, Action::Start(node));
                }
                2 => {
                    self.put(at, Action::Snapshot(node));
                    self.put(later, Action::Restore(node));
                }
                _ => self.put(at, Action::Wipe(node)),
            }
        }
    }

    fn churn(&mut self) {
        for _ in 0..self.rng.random_range(1..6) {
            let at = self.at();
            self.put(at, Action::Join);
        }
        for _ in 0..self.rng.random_range(0..(self.nodes / 4).max(1)) {
            let (at, node) = (self.at(), self.node());
            if node >= 3 {
                self.put(at, Action::Leave(node));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_has_one_plan_and_another_seed_another() {
        assert_eq!(Plan::of(5), Plan::of(5));
        assert_ne!(Plan::of(5).schedule, Plan::of(6).schedule);
    }

    #[test]
    fn a_hundred_seeds_hold_every_family_and_every_attack() {
        let plans: Vec<Plan> = (0..100).map(Plan::of).collect();
        for family in Family::ALL {
            let on = plans.iter().filter(|plan| plan.families.contains(&family)).count();
            assert!((10..70).contains(&on), "{family:?} in {on}");
        }
        for attack in Attack::ALL {
            let word = Action::Attack(0, attack).kind();
            assert!(plans.iter().any(|plan| plan.counts().contains_key(word)), "{word}");
        }
    }

    #[test]
    fn shapes_are_what_they_say() {
        let reach = |shape: Shape, a| (0..6).filter(|b| !shape.apart(6, a, *b)).count();
        assert_eq!(reach(Shape::Ring, 0), 3);
        assert_eq!(reach(Shape::Star(2), 2), 6);
        assert_eq!(reach(Shape::Star(2), 1), 2);
        assert_eq!(reach(Shape::Bridge(0), 0), 6);
        assert_eq!(reach(Shape::Bridge(0), 1), 4);
        assert_eq!(reach(Shape::Alone(4), 4), 1);
    }
}
