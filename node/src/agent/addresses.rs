//! Where other hosts reach this one: found, and watched, since hosts start before their network
//! and leases change.

use std::{net::IpAddr, sync::Arc, time::Duration};

use skein_protocol::{record::node::Address, trust::CloseCode};
use tokio::{sync::watch, time::MissedTickBehavior};

use super::show::Agent;
use crate::workload::host;

/// How often the kernel is asked: three system calls.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Says another address as soon as this host has one, where none was told to it.
pub(super) async fn follow(agent: Arc<Agent>, mut stopped: watch::Receiver<bool>) {
    let follows = agent.settings.finds_address();
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut view = agent.view.clone();
    loop {
        tokio::select! {
            biased;
            () = crate::stop::stopped(&mut stopped) => return,
            Ok(()) = view.changed() => {}
            _ = tick.tick(), if follows => {}
        }
        if follows {
            // In the record within a beat: peers dial by it, links and calls follow.
            let now = agent.settings.addresses(agent.mesh_address);
            let before = agent.phase.borrow().addresses.clone();
            if before != now {
                agent.phase.send_modify(|phase| phase.addresses.clone_from(&now));
                tracing::info!(address = %shown(&now), "this host's address changed");
                leave_lost(&agent, &before);
            }
        }
        let said = agent.phase.borrow().addresses.clone();
        let others = view.borrow_and_update().nodes.values().any(|node| {
            node.key != agent.me && node.addresses.iter().any(|one| !one.ip.is_loopback())
        });
        agent.problems.set("address", unreachable(&said, follows || others));
    }
}

/// Connections from an address that this host no longer has lead nowhere: they are dialled anew at
/// once rather than when they have been silent for long enough.
fn leave_lost(agent: &Agent, before: &[Address]) {
    let held = host::addresses().unwrap_or_default();
    if before.iter().any(|one| held.contains(&one.ip)) {
        return;
    }
    let (code, why) = (CloseCode::Done.number(), "this host has another address");
    for link in agent.links.borrow().values() {
        link.mux.close(code, why);
    }
    for link in agent.data.open() {
        link.mux.close(code, why);
    }
}

fn shown(addresses: &[Address]) -> String {
    let all: Vec<String> = addresses.iter().map(|one| one.socket().to_string()).collect();
    all.join(", ")
}

/// What is wrong with an address that no other host can dial.
fn unreachable(said: &[Address], wider: bool) -> Option<String> {
    let loopback = !said.is_empty() && said.iter().all(|one| one.ip.is_loopback());
    (loopback && wider).then(|| {
        format!(
            "this host advertises {}, which no other host can reach: it has no address of a network \
             yet (`ip -4 addr`, `ip route`); it takes one as soon as there is one, or say --advertise \
             IP:PORT",
            shown(said)
        )
    })
}

/// The address by which this host most likely is reached: the source of its default route, else
/// one of an interface that is no bridge of containers or virtual machines.
pub(crate) fn outward() -> IpAddr {
    host::default_source().unwrap_or_else(|| host::pick(&host::interfaces()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(ip: &str) -> Address {
        Address { network: "default".parse().unwrap(), ip: ip.parse().unwrap(), port: 7400 }
    }

    #[test]
    fn loopback_is_a_problem_only_where_others_are_elsewhere() {
        assert!(unreachable(&[address("127.0.0.1")], true).is_some());
        assert!(unreachable(&[address("127.0.0.11")], false).is_none(), "agents of one machine");
        assert!(unreachable(&[address("127.0.0.1"), address("10.0.0.5")], true).is_none());
    }
}
