//! A campaign: many seeds, each with its plan, until one breaks or all have passed.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{
    checks::{Check, Violation},
    plan::{Family, Plan},
    run::{self, Outcomes},
};

/// What is run.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// The first seed.
    pub first: u64,
    /// How many.
    pub seeds: u64,
    /// Threads.
    pub threads: usize,
    /// No seed is begun after this.
    pub limit: Option<Duration>,
    /// Every so many seeds one is run twice, and traces compared.
    pub twice: u64,
    /// Every so many seeds one is run with chitchat too, where that is built.
    pub agree_every: u64,
}

/// Runs a seed with chitchat too: what did not hold or differed, in words.
pub type Agree = dyn Fn(u64) -> Result<Option<String>> + Sync;

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Seeds run.
    pub seeds: u64,
    /// Seeds run twice with one trace.
    pub repeated: u64,
    /// Milliseconds of the world, times nodes.
    pub node_ms: u64,
    /// Checks made.
    pub checks: u64,
    /// What was done, by kind.
    pub done: BTreeMap<&'static str, u64>,
    /// Seeds in which each family was on.
    pub families: BTreeMap<Family, u64>,
    /// Calls, and those that found nobody while faults were done.
    pub calls: (u64, u64),
    /// Milliseconds from the last fault to one view.
    pub healed: Vec<u64>,
    /// Seeds that broke something.
    pub broken: Vec<(u64, Violation)>,
    /// Seeds of which two runs differed.
    pub differed: Vec<u64>,
    /// Whether seeds were run with chitchat too.
    pub with_chitchat: bool,
    /// Seeds that held with chitchat too, and ended in the same.
    pub agreed: u64,
    /// Seeds that did not, and what was said of them.
    pub disagreed: Vec<(u64, String)>,
}

impl Tally {
    fn add(&mut self, plan: &Plan, outcomes: &Outcomes) {
        self.seeds += 1;
        self.node_ms += outcomes.node_ms;
        self.checks += outcomes.checks;
        for (kind, count) in plan.counts() {
            *self.done.entry(kind).or_default() += count;
        }
        for family in &plan.families {
            *self.families.entry(*family).or_default() += 1;
        }
        self.calls.0 += outcomes.calls.0;
        self.calls.1 += outcomes.calls.1;
        self.healed.extend(outcomes.healed);
        if let Some(violation) = &outcomes.violation {
            self.broken.push((plan.options.seed, violation.clone()));
        }
    }

    /// Whether nothing broke.
    pub fn holds(&self) -> bool {
        self.broken.is_empty() && self.differed.is_empty() && self.disagreed.is_empty()
    }

    /// How often each check broke.
    pub fn by_check(&self) -> BTreeMap<Check, u64> {
        let mut by = BTreeMap::new();
        for (_, violation) in &self.broken {
            *by.entry(violation.check).or_default() += 1;
        }
        by
    }
}

/// Does `work` for each of `seeds` seeds from `first` on, on so many threads. None is begun after
/// `limit`.
pub fn each_seed(
    first: u64,
    seeds: u64,
    threads: usize,
    limit: Option<Duration>,
    work: impl Fn(u64) -> Result<()> + Sync,
) -> Result<()> {
    let next = AtomicU64::new(first);
    let start = Instant::now();
    let end = first.saturating_add(seeds);
    let run = || -> Result<()> {
        loop {
            let over = limit.is_some_and(|limit| start.elapsed() > limit);
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if over || seed >= end {
                return Ok(());
            }
            work(seed)?;
        }
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(run)).collect();
        for thread in running {
            thread.join().ok().context("a thread panicked")??;
        }
        Ok(())
    })
}

impl Campaign {
    /// Runs it. `progress` is called after each seed.
    pub fn run(&self, agree: Option<&Agree>, progress: impl Fn(&Tally) + Sync) -> Result<Tally> {
        let tally = Mutex::new(Tally::default());
        each_seed(self.first, self.seeds, self.threads, self.limit, |seed| {
            let agree = agree.filter(|_| seed.is_multiple_of(self.agree_every.max(1)));
            self.one(seed, agree, &tally, &progress)
        })?;
        let mut tally = tally.into_inner().ok().context("a thread of the campaign panicked")?;
        tally.with_chitchat = agree.is_some();
        tally.broken.sort_by_key(|(seed, _)| *seed);
        tally.disagreed.sort();
        tally.healed.sort_unstable();
        Ok(tally)
    }

    fn one(
        &self,
        seed: u64,
        agree: Option<&Agree>,
        tally: &Mutex<Tally>,
        progress: &impl Fn(&Tally),
    ) -> Result<()> {
        let plan = Plan::of(seed);
        let outcomes = run::run(&plan)?;
        let again = seed.is_multiple_of(self.twice.max(1));
        let differs = again && run::run(&plan)?.trace != outcomes.trace;
        let disagreed = agree.map(|agree| agree(seed).unwrap_or_else(|e| Some(format!("{e:#}"))));
        if let Ok(mut tally) = tally.lock() {
            match disagreed {
                Some(Some(what)) => tally.disagreed.push((seed, what)),
                Some(None) => tally.agreed += 1,
                None => {}
            }
            tally.add(&plan, &outcomes);
            tally.repeated += u64::from(again && !differs);
            if differs {
                tally.differed.push(seed);
            }
            progress(&tally);
        }
        Ok(())
    }
}
