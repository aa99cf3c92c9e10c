//! Seeds: the agents to join by, dialled until each has answered once in this run, and again
//! whenever no link is left. Who met one seed only could be on an island with it.
//!
//! The agents that `join` wrote down are dialled too, while there is no link: they are how a
//! host that has just joined finds its mesh without a word about seeds.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use rand::RngExt;
use skein_protocol::{manifest::value::TargetAddress, name::NodeKey};
use tokio::sync::{mpsc, watch};

use super::show::Agent;
use crate::driver::Command;

/// Between two rounds over seeds that have not answered, at first; it doubles up to the last.
const FIRST: Duration = Duration::from_secs(1);
const LAST: Duration = Duration::from_secs(30);
/// A lookup of a seed's name lasts at most this.
const LOOKUP: Duration = Duration::from_secs(5);

/// Dials seeds until the agent ends.
pub(super) async fn run(
    agent: Arc<Agent>,
    mut met: mpsc::Receiver<(SocketAddr, Result<NodeKey, String>)>,
    mut stopped: watch::Receiver<bool>,
) {
    let seeds = agent.settings.seeds.clone();
    let joined: Vec<_> = agent.files.read_peers().into_iter().map(|peer| peer.address).collect();
    if seeds.is_empty() && joined.is_empty() {
        return;
    }
    let mut answered: BTreeSet<SocketAddr> = BTreeSet::new();
    let mut failed: BTreeMap<SocketAddr, String> = BTreeMap::new();
    let mut pause = FIRST;
    loop {
        let mut unmet = 0;
        for address in due(&agent, &seeds, &joined).await {
            if address == agent.mesh_address || answered.contains(&address) {
                continue;
            }
            unmet += 1;
            agent.driver.tell(Command::Seed(address)).await;
        }
        pause = if unmet == 0 { LAST } else { pause };
        let jitter = Duration::from_millis(rand::rng().random_range(0..500));
        let next = tokio::time::sleep(pause + jitter);
        tokio::pin!(next);
        loop {
            tokio::select! {
                biased;
                () = crate::stop::stopped(&mut stopped) => return,
                Some((address, result)) = met.recv() => match result {
                    Ok(node) => {
                        tracing::info!(%address, node = %node.short(), "seed answered");
                        answered.insert(address);
                        failed.remove(&address);
                        pause = FIRST;
                    }
                    Err(why) => {
                        if failed.insert(address, why.clone()).as_ref() != Some(&why) {
                            tracing::warn!(%address, %why, "seed not reached; it is tried again");
                        }
                    }
                },
                () = &mut next => break,
            }
        }
        if agent.links.borrow().is_empty() {
            answered.clear();
            pause = pause.min(FIRST * 4);
        }
        pause = (pause * 2).min(LAST);
        let alone = agent.links.borrow().is_empty().then(|| failed.values().next().cloned());
        agent.problems.set("seeds", alone.flatten().map(|why| format!("no seed answers: {why}")));
    }
}

/// Whom to dial in this round.
async fn due(
    agent: &Agent,
    seeds: &[TargetAddress],
    joined: &[SocketAddr],
) -> BTreeSet<SocketAddr> {
    let mut due = BTreeSet::new();
    for seed in seeds {
        due.extend(resolve(seed).await);
    }
    if agent.links.borrow().is_empty() {
        due.extend(joined);
    }
    due
}

pub(crate) async fn resolve(seed: &TargetAddress) -> Vec<SocketAddr> {
    match seed {
        TargetAddress::Ip(address) => vec![*address],
        TargetAddress::Unix(_) => Vec::new(),
        TargetAddress::Name(host, port) => {
            let found =
                tokio::time::timeout(LOOKUP, tokio::net::lookup_host((host.as_str(), *port)));
            match found.await {
                Ok(Ok(addresses)) => addresses.take(4).collect(),
                _ => Vec::new(),
            }
        }
    }
}
