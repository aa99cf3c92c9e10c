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
use skein_protocol::{
    limits, manifest::value::TargetAddress, name::NodeKey, record::node::Address,
};
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
        let (due, unresolved) = due(&agent, &seeds, &joined).await;
        unmet += unresolved.len();
        let own: Vec<SocketAddr> =
            agent.phase.borrow().addresses.iter().map(Address::socket).collect();
        for address in due {
            let is_own = address == agent.mesh_address || own.contains(&address);
            if is_own || answered.contains(&address) {
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
        let named: Vec<String> = unresolved
            .iter()
            .map(|(seed, why)| format!("seed {seed} does not resolve: {why}"))
            .collect();
        let named = (!named.is_empty()).then(|| named.join("; "));
        let alone = agent.links.borrow().is_empty().then(|| failed.values().next().cloned());
        let silent = alone.flatten().map(|why| format!("no seed answers: {why}"));
        agent.problems.set("seeds", named.or(silent));
    }
}

/// Whom to dial in this round, and which seeds have no address now, with the reason.
async fn due(
    agent: &Agent,
    seeds: &[TargetAddress],
    joined: &[SocketAddr],
) -> (BTreeSet<SocketAddr>, BTreeMap<String, String>) {
    let (mut due, mut unresolved) = (BTreeSet::new(), BTreeMap::new());
    for seed in seeds {
        match resolve(seed).await {
            Ok(addresses) => due.extend(addresses),
            Err(why) => drop(unresolved.insert(seed.to_string(), why)),
        }
    }
    if agent.links.borrow().is_empty() {
        due.extend(joined);
    }
    (due, unresolved)
}

/// All addresses of a seed, or why there is none.
pub(crate) async fn resolve(seed: &TargetAddress) -> Result<Vec<SocketAddr>, String> {
    match seed {
        TargetAddress::Ip(address) => Ok(vec![*address]),
        TargetAddress::Unix(_) => Err("a unix socket is no agent of another host".to_owned()),
        TargetAddress::Name(host, port) => {
            let lookup = tokio::net::lookup_host((host.as_str(), *port));
            let found = match tokio::time::timeout(LOOKUP, lookup).await {
                Ok(found) => found.map_err(|error| error.to_string())?,
                Err(_) => return Err(format!("no answer within {} s", LOOKUP.as_secs())),
            };
            let all: Vec<SocketAddr> = found.take(limits::SEED_ADDRESSES).collect();
            if all.is_empty() { Err("it has no address".to_owned()) } else { Ok(all) }
        }
    }
}
