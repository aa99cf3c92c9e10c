//! Measuring: how long things take in a mesh of a given size, over several seeds.
//!
//! One run: a cold start with the seeds last, rest, updates, crashes, leaves, a partition of a
//! minute and its healing. Time is the world's; it is looked at every ten milliseconds.

use std::fmt::Write as _;

use anyhow::Result;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use skein_protocol::{engine::Event, record::node::NodeState, view::Liveness};

use crate::{
    report::quantile,
    world::{Options, Weather, World},
};

/// What is measured.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Measure {
    /// Nodes.
    pub nodes: usize,
    /// Share of packets lost.
    pub loss: f64,
    /// Whether the nodes live in five regions of three continents.
    pub wan: bool,
    /// Updates, crashes and leaves of one run.
    pub samples: usize,
    /// Seconds of rest with slow members, for false deaths.
    pub calm: u64,
}

/// What a run, or several, found. Milliseconds.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// From the start of the last seed to one view.
    pub one_view: Vec<u64>,
    /// The most handshakes within a second at one node.
    pub handshakes: Vec<u64>,
    /// Bytes of the engine's frames a second and node at rest.
    pub bytes: Vec<u64>,
    /// Frames a second and node at rest, in tenths.
    pub frames: Vec<u64>,
    /// Control links of a node, on average, in tenths.
    pub links: Vec<u64>,
    /// An update is everywhere.
    pub update: Vec<u64>,
    /// A crash is known everywhere.
    pub crash: Vec<u64>,
    /// A leave is known everywhere.
    pub leave: Vec<u64>,
    /// From healing to equal roots.
    pub heal: Vec<u64>,
    /// Deaths of nodes that lived, as told by one node of another.
    pub false_deaths: u64,
    /// Milliseconds of rest, times nodes.
    pub node_ms: u64,
    /// Things that did not happen within their time.
    pub missed: u64,
}

/// One figure: the values that seeds and samples gave it.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// What was measured, with its unit.
    pub what: &'static str,
    values: &'a [u64],
    /// How many of a value's units make one of those that are printed.
    scale: u32,
}

impl Row<'_> {
    /// The value below which `percent` of all lie, if there are any.
    pub fn at(&self, percent: usize) -> Option<f64> {
        let mut sorted = self.values.to_vec();
        sorted.sort_unstable();
        (!sorted.is_empty()).then(|| quantile(&sorted, percent) as f64 / f64::from(self.scale))
    }
}

/// Whatever takes longer did not happen.
const LIMIT: u64 = 60_000;
/// How long the network is parted.
const PARTED: u64 = 60_000;

impl Figures {
    /// Puts another run's figures in.
    pub fn add(&mut self, other: Self) {
        self.one_view.extend(other.one_view);
        self.handshakes.extend(other.handshakes);
        self.bytes.extend(other.bytes);
        self.frames.extend(other.frames);
        self.links.extend(other.links);
        self.update.extend(other.update);
        self.crash.extend(other.crash);
        self.leave.extend(other.leave);
        self.heal.extend(other.heal);
        self.false_deaths += other.false_deaths;
        self.node_ms += other.node_ms;
        self.missed += other.missed;
    }

    /// What took how long, for a plot.
    pub fn samples(&self) -> [(&str, &[u64]); 5] {
        [
            ("one view after a cold start", &self.one_view),
            ("update everywhere", &self.update),
            ("leave everywhere", &self.leave),
            ("crash everywhere", &self.crash),
            ("equal roots after 60 s apart", &self.heal),
        ]
    }

    /// All values, in one line.
    pub fn line(&self) -> String {
        let Self { one_view, handshakes, bytes, links, update, crash, leave, heal, .. } = self;
        format!(
            "view {one_view:?}, handshakes {handshakes:?}, bytes {bytes:?}, links x 10 {links:?}, \
             update {update:?}, crash {crash:?}, leave {leave:?}, heal {heal:?}, \
             {} false deaths, {} missed",
            self.false_deaths, self.missed
        )
    }

    /// Each figure with its values.
    pub fn rows(&self) -> [Row<'_>; 9] {
        let row = |what, values, scale| Row { what, values, scale };
        [
            row("cold start, seeds last: one view (ms)", &*self.one_view, 1),
            row("handshakes a second at one node, most", &self.handshakes, 1),
            row("idle: bytes of frames a second and node", &self.bytes, 1),
            row("idle: frames a second and node", &self.frames, 10),
            row("control links of a node", &self.links, 10),
            row("an update is everywhere (ms)", &self.update, 1),
            row("a crash is known everywhere (ms)", &self.crash, 1),
            row("a leave is known everywhere (ms)", &self.leave, 1),
            row("healed after 60 s: equal roots (ms)", &self.heal, 1),
        ]
    }

    /// Nodes wrongly held for dead in an hour of one node, if that was looked at.
    pub fn false_death_rate(&self) -> Option<f64> {
        (self.node_ms > 0).then(|| self.false_deaths as f64 * 3.6e6 / self.node_ms as f64)
    }

    /// A table.
    pub fn table(&self) -> String {
        let mut text =
            format!("{:<42} {:>5} {:>8} {:>8} {:>8}\n", "", "n", "median", "p99", "worst");
        for row in self.rows() {
            let _ = write!(text, "{:<42} {:>5}", row.what, row.values.len());
            let digits = usize::from(row.scale > 1);
            for percent in [50, 99, 100] {
                let _ = match row.at(percent) {
                    Some(value) => write!(text, " {value:>8.digits$}"),
                    None => write!(text, " {:>8}", "-"),
                };
            }
            text.push('\n');
        }
        let months = self.node_ms as f64 / (30.0 * 24.0 * 3.6e6);
        let _ = writeln!(
            text,
            "false deaths: {} nodes in {months:.2} node-months at rest; missed: {}",
            self.false_deaths, self.missed
        );
        text
    }
}

struct Taking {
    world: World,
    figures: Figures,
    rng: StdRng,
}

impl Measure {
    /// Takes the figures of one seed.
    pub fn run(&self, seed: u64) -> Result<Figures> {
        let weather =
            Weather { delay: (1, 20), loss: self.loss, wan: self.wan, ..Weather::default() };
        let options = Options { seed, nodes: self.nodes, weather, ..Options::default() };
        let mut world = World::new(options)?;
        world.count_handshakes();
        world.deaths_only = true;
        let mut taking =
            Taking { world, figures: Figures::default(), rng: StdRng::seed_from_u64(!seed) };
        // A large mesh takes minutes: who waits is told how far it is, and what was found.
        let begun = std::time::Instant::now();
        let tell = |taking: &Taking, what: &str| {
            let (world, took) = (taking.world.now / 1000, begun.elapsed().as_secs());
            let found = taking.figures.line();
            eprintln!("seed {seed}: {what} at {world} s of the world, after {took} s: {found}");
        };
        taking.start();
        tell(&taking, "started");
        taking.rest();
        tell(&taking, "rested");
        for _ in 0..self.samples {
            taking.update();
            taking.crash();
            taking.leave();
        }
        tell(&taking, "changed");
        taking.part();
        tell(&taking, "parted and healed");
        if self.calm > 0 {
            taking.calm(self.calm);
            tell(&taking, "calm");
        }
        Ok(taking.figures)
    }
}

impl Taking {
    fn until(&mut self, holds: impl Fn(&World) -> bool) -> Option<u64> {
        let took = self.world.run_until(LIMIT, holds);
        self.figures.missed += u64::from(took.is_none());
        took
    }

    /// Everybody tries the seeds before they are there.
    fn start(&mut self) {
        for node in 3..self.world.nodes.len() {
            self.world.start(node);
        }
        self.world.run_to(5_000);
        for seed in 0..3 {
            self.world.start(seed);
        }
        let took = self.until(World::full_and_equal);
        self.figures.one_view.extend(took);
        self.figures.handshakes.push(self.world.most_handshakes());
    }

    fn rest(&mut self) {
        // Links of the start that nobody needs are closed after half a minute.
        self.world.run_to(self.world.now + 45_000);
        let (frames, bytes) = self.world.sent;
        self.world.run_to(self.world.now + 20_000);
        let nodes = self.world.nodes.len() as u64;
        self.figures.bytes.push((self.world.sent.1 - bytes) / nodes / 20);
        self.figures.frames.push((self.world.sent.0 - frames) * 10 / nodes / 20);
        let links: usize = (0..self.world.nodes.len()).map(|node| self.world.links(node)).sum();
        self.figures.links.push(links as u64 * 10 / nodes);
    }

    fn pick(&mut self) -> usize {
        loop {
            let node = self.rng.random_range(3..self.world.nodes.len());
            if self.world.is_up(node) {
                return node;
            }
        }
    }

    fn update(&mut self) {
        let node = self.pick();
        let weight = self.rng.random_range(1..10_000);
        let before = self.world.said(node);
        self.world.say(node, |local| {
            local.instances.0.iter_mut().for_each(|instance| instance.weight = weight);
        });
        let took = self.until(|world| world.told_everywhere(node, before));
        self.figures.update.extend(took);
        self.world.run_to(self.world.now + 500);
    }

    fn crash(&mut self) {
        let node = self.pick();
        self.world.crash(node);
        let took = self.until(|world| world.held_everywhere(node, Liveness::Dead));
        self.figures.crash.extend(took);
        self.world.run_to(self.world.now + 1_000);
        self.world.start(node);
        self.until(World::full_and_equal);
        self.world.run_to(self.world.now + 1_000);
    }

    fn leave(&mut self) {
        let node = self.pick();
        self.world.say(node, |local| local.host.state = NodeState::Left);
        let took = self.until(|world| world.held_everywhere(node, Liveness::Left));
        self.figures.leave.extend(took);
        self.world.crash(node);
        self.world.run_to(self.world.now + 1_000);
        self.world.say(node, |local| local.host.state = NodeState::Up);
        self.world.start(node);
        self.until(World::full_and_equal);
        self.world.run_to(self.world.now + 1_000);
    }

    fn part(&mut self) {
        self.world.partition(|node| node % 2);
        self.world.run_to(self.world.now + PARTED / 2);
        // Both sides go on with their work.
        for node in [3, 4] {
            self.world.say(node, |local| {
                local.instances.0.iter_mut().for_each(|instance| instance.weight = 5);
            });
        }
        self.world.run_to(self.world.now + PARTED / 2);
        self.world.heal();
        let took = self.until(World::full_and_equal);
        self.figures.heal.extend(took);
    }

    /// A tenth of the nodes stand still for up to a second, again and again (Lifeguard's slow
    /// members); nobody dies, and nobody should be held for dead.
    fn calm(&mut self, seconds: u64) {
        self.world.run_to(self.world.now + 30_000);
        let (seen, start) = (self.world.events.len(), self.world.now);
        let slow = self.world.nodes.len() / 10;
        while self.world.now < start + seconds * 1000 {
            for node in 3..3 + slow {
                if self.rng.random_bool(0.1) {
                    let ms = self.rng.random_range(100..1_000);
                    self.world.pause(node, ms, false);
                }
            }
            self.world.run_to(self.world.now + 1_000);
        }
        let deaths = self.world.events.iter().skip(seen);
        let mut dead: Vec<(u64, &Event)> = deaths
            .filter(|(_, _, event)| matches!(event, Event::Dead(_)))
            .map(|(at, _, event)| (at / 10_000, event))
            .collect();
        // One node held for dead by many within ten seconds is one death.
        dead.dedup_by(|a, b| a.0 == b.0 && a.1 == b.1);
        self.figures.false_deaths += dead.len() as u64;
        self.figures.node_ms += (self.world.now - start) * self.world.nodes.len() as u64;
    }
}
