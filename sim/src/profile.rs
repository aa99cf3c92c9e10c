//! Profile: what one engine of a large mesh costs, at rest and with one change a second.

use std::fmt::Write as _;

use anyhow::{Result, bail};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    crypto::Signatures,
    world::{Meter, Options, World},
};

/// What is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Profile {
    /// Everything random comes from it.
    pub seed: u64,
    /// Nodes.
    pub nodes: usize,
    /// For how many seconds of the world.
    pub seconds: u64,
}

/// A mesh is one after this, or the profile is of no use.
const START_LIMIT: u64 = 120_000;
/// Links of the start that nobody needs are closed by then.
const SETTLE: u64 = 45_000;

impl Profile {
    /// Runs a world with real signatures, and tells what its engines spent. The caches of this
    /// machine are shared by all of them, so that an engine alone does no worse.
    pub fn run(&self) -> Result<String> {
        let signatures = Signatures::Ed25519;
        let options =
            Options { seed: self.seed, nodes: self.nodes, signatures, ..Options::default() };
        let mut world = World::new(options)?;
        world.start_all();
        if world.run_until(START_LIMIT, World::full_and_equal).is_none() {
            bail!("no common view within {START_LIMIT} ms");
        }
        world.run_to(world.now + SETTLE);
        let mut text = String::new();
        for (name, changes) in [("at rest", false), ("with one change a second", true)] {
            let meter = self.take(&mut world, changes);
            self.tell(&mut text, name, &meter);
        }
        Ok(text)
    }

    fn take(&self, world: &mut World, changes: bool) -> Meter {
        let mut rng = StdRng::seed_from_u64(self.seed);
        world.meter = Some(Meter::default());
        for _ in 0..self.seconds {
            if changes {
                let (node, weight) = (rng.random_range(0..self.nodes), rng.random_range(1..10_000));
                world.say(node, |local| {
                    local.instances.0.iter_mut().for_each(|instance| instance.weight = weight);
                });
            }
            world.run_to(world.now + 1000);
        }
        world.meter.take().unwrap_or_default()
    }

    fn tell(&self, text: &mut String, name: &str, meter: &Meter) {
        let per = (self.nodes as u64 * self.seconds).max(1) as f64;
        let _ = writeln!(text, "one of {} engines, {name}:", self.nodes);
        let _ = writeln!(text, "{:<32} {:>10} {:>10} {:>10}", "", "a second", "us each", "ms/s");
        let mut sum = 0.0;
        for (word, (count, took)) in &meter.spent {
            let ms = took.as_secs_f64() * 1e3;
            sum += ms / per;
            let each = ms * 1e3 / (*count).max(1) as f64;
            let _ = writeln!(
                text,
                "{word:<32} {:>10.2} {each:>10.2} {:>10.4}",
                *count as f64 / per,
                ms / per
            );
        }
        let _ = writeln!(text, "{:<32} {:>32.4}\n", "CPU ms a second", sum);
    }
}
