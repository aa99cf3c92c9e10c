//! From the workload's plan to what the engine says and what the proxy does.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
};

use skein_protocol::{
    caller::{Processes, Workloads},
    engine::Local,
    manifest::{
        DocumentId, Kind,
        kinds::{Listen, Process, Transport},
        plan::{Plan, Usage},
        value::TargetAddress,
    },
    name::ServiceName,
    record::node::{
        Address, Addresses, Health, HeldIssuer, Host, InstanceId, Instances, NodeState, Protocol,
        TokenUses,
    },
    trust::{Grant, Role},
    view::View,
    wire::stream::Source,
};

use crate::{
    proxy::{
        Bind, ListenerSpec, Listeners, LocalInstance, LocalServices, PeerIdentity, Target, Terms,
    },
    workload::Snapshot,
};

/// What of this host does not change with its documents.
#[derive(Clone, Debug)]
pub struct Base {
    /// Who this host is. Its state and generation are put in.
    pub host: Host,
}

/// What changes besides the documents.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Phase {
    /// Up, draining or left.
    pub state: NodeState,
    /// Where it is reached.
    pub addresses: Vec<Address>,
    /// The generation of the chitchat id.
    pub gossip_generation: u64,
    /// Uses of tokens that this host's issuer made.
    pub tokens: TokenUses,
    /// The issuer that this host holds.
    pub issuer: HeldIssuer,
}

/// The numbers of the users that documents name, as far as this host knows them.
pub type Users = BTreeMap<String, u32>;

/// The users that documents name, but for those named by number.
pub fn users(plan: &Plan) -> BTreeSet<String> {
    let workloads = plan.registrations.iter().filter_map(|one| one.workload.as_ref());
    let allowed = plan.usages.iter().filter_map(|usage| usage.allow.as_ref());
    let named = |process: &Process| match process {
        Process::User(user) if user.parse::<u32>().is_err() => Some(user.clone()),
        Process::User(_) | Process::Unit(_) => None,
    };
    workloads.chain(allowed).filter_map(named).collect()
}

/// What this host says to the mesh.
pub fn say(base: &Base, phase: &Phase, snapshot: &Snapshot) -> Local {
    let mut host = base.host.clone();
    host.state = phase.state;
    host.gossip_generation = phase.gossip_generation;
    let left = phase.state == NodeState::Left;
    let mut instances = if left { Vec::new() } else { snapshot.instances() };
    let unserved = needs_tls(snapshot);
    instances.retain(|instance| !unserved.contains(&instance.id));
    Local {
        host,
        addresses: Addresses(phase.addresses.clone()),
        instances: Instances(instances),
        tokens: phase.tokens.clone(),
        issuer: phase.issuer.clone(),
    }
}

/// What the proxy serves to peers, and which local processes it knows for services.
pub fn serve(
    me: &PeerIdentity,
    boot: u64,
    (phase, probation): (&Phase, bool),
    (snapshot, users): (&Snapshot, &Users),
) -> LocalServices {
    let mut instances: BTreeMap<(ServiceName, u16), Vec<LocalInstance>> = BTreeMap::new();
    for (registration, planned) in snapshot.plan.instances() {
        if registration.tls.is_some() {
            // It is to be spoken TLS to, which this version cannot: never plaintext instead.
            continue;
        }
        let health = snapshot.health.get(&planned.id).map(|found| found.health);
        let aside = matches!(health, Some(Health::Maintenance | Health::Draining));
        for (port, target) in &planned.targets {
            let declared = registration.ports.iter().find(|one| one.port == *port);
            let instance = LocalInstance {
                id: planned.id.clone(),
                takes: !aside,
                target: target_of(target),
                protocol: declared.map_or(Protocol::Sniff, |one| one.protocol),
                proxy_protocol: registration.proxy_protocol.contains(port),
            };
            instances.entry((planned.service.clone(), *port)).or_default().push(instance);
        }
    }
    LocalServices {
        me: me.clone(),
        boot,
        draining: phase.state != NodeState::Up,
        probation,
        instances,
        workloads: Workloads::new(&snapshot.plan, |name| users.get(name).copied()),
    }
}

/// What a ServiceDiscovery says of the calls to its service; without one, what holds for all.
pub fn terms(usage: Option<&Usage>, users: &Users) -> Terms {
    let Some(usage) = usage else { return Terms::default() };
    let allow = usage.allow.as_ref();
    Terms {
        document: Some(usage.document.to_string()),
        subset: usage.subset.clone(),
        source: usage.source.clone().map_or(Source::Node, Source::Service),
        allow: allow.map(|allow| Processes::new(allow, |name| users.get(name).copied())),
        fallback: usage.fallback.iter().map(|f| target_of(&f.target)).collect(),
    }
}

/// The services whose `workload` names a user that this host does not have.
pub fn nobody(workloads: &Workloads) -> Vec<String> {
    let all = workloads.nobody().map(|(service, processes)| {
        format!(
            "`workload` of {service} is {processes}: its calls count as this node's; make the              user, or name another"
        )
    });
    all.collect()
}

/// The TrafficManagement document that meshConfig names.
pub fn traffic_policy(plan: &Plan) -> Option<DocumentId> {
    plan.mesh.traffic_policy.as_ref().map(|name| DocumentId {
        kind: Kind::TrafficManagement,
        namespace: plan.mesh.namespace.clone(),
        name: name.clone(),
    })
}

/// The listeners of all ServiceDiscovery documents. One that names no known service by its image
/// waits for one: until then it is said in `status`.
pub fn listeners(
    (snapshot, users): (&Snapshot, &Users),
    view: &View,
    bind: Option<IpAddr>,
    grant: &Grant,
) -> (Listeners, Vec<String>) {
    let mut wanted = BTreeMap::new();
    let mut waiting = Vec::new();
    for listener in &snapshot.plan.listeners {
        let usage = &listener.usage;
        let services = usage.target.resolve(&view.services);
        let name = format!("{} {}", usage.document, listener.name);
        let Some(service) = services.first() else {
            waiting.push(format!(
                "{name}: no service of {} runs the image it names yet",
                usage.target.own.namespace()
            ));
            continue;
        };
        if services.len() > 1 {
            waiting.push(format!(
                "{name}: several services run that image, {service} is used; say `service:`"
            ));
        }
        if let Some(source) = usage.source.as_ref().filter(|source| !grant.covers(source)) {
            waiting.push(format!(
                "{name}: calls count as {source}, which this node's certificate does not name: \
                 they will be denied"
            ));
        }
        let terms = terms(Some(usage), users);
        if let Some(nobody @ Processes::User { uid: None, .. }) = &terms.allow {
            waiting.push(format!("{name}: `allow` is {nobody}: nobody may connect"));
        }
        // Only a gateway is believed about who comes from outside: without the role nobody does.
        let outside = listener.exposed && grant.roles.contains(&Role::Gateway);
        let listen = match (listener.exposed && !outside, &listener.listen) {
            (false, listen) => listen.clone(),
            (true, closed) => {
                waiting.push(format!(
                    "{name}: it is not opened to the outside, as the grant of this host has not the \
                     role gateway: join with a token of `skein token create --role gateway`; programs \
                     on this host have it at 127.0.0.1"
                ));
                match closed {
                    Listen::All(port) => Listen::Loopback(*port),
                    Listen::Address(ip, port) if ip.is_loopback() => Listen::Address(*ip, *port),
                    Listen::Address(..) => continue,
                    other => other.clone(),
                }
            }
        };
        let spec = ListenerSpec {
            name,
            service: service.clone(),
            port: listener.port.clone(),
            terms,
            outside,
            door: None,
        };
        let place = match &listen {
            Listen::Unix(path) => Bind::Unix(PathBuf::from(path)),
            other => match other.socket(bind) {
                Some(socket) => Bind::Tcp(socket),
                None => continue,
            },
        };
        wanted.insert(place, Arc::new(spec));
    }
    (Listeners(wanted), waiting)
}

/// The instances that are to be spoken TLS to, which this version cannot.
fn needs_tls(snapshot: &Snapshot) -> BTreeSet<InstanceId> {
    let all = snapshot.plan.instances();
    let tls = all.filter(|(registration, _)| registration.tls.is_some());
    tls.map(|(_, planned)| planned.id.clone()).collect()
}

/// What the documents ask for and this version does not do. Nothing of it is passed over in
/// silence.
pub fn not_done(snapshot: &Snapshot) -> Vec<String> {
    let mesh = &snapshot.plan.mesh;
    let mut all = Vec::new();
    let effect = |what: &str| format!("{what} is not part of this version and has no effect");
    let mut say = |asked: bool, what: &str| all.extend(asked.then(|| effect(what)));
    say(!mesh.dns_forward.is_empty(), "meshConfig.dnsForward");
    say(mesh.transport == Transport::Tcp, "meshConfig.transport: tcp");
    for registration in &snapshot.plan.registrations {
        let name = &registration.document;
        if registration.tls.is_some() {
            all.push(format!(
                "{name} is not served: `tls` to an external endpoint is not part of this version, \
                 and plaintext is not sent in its place"
            ));
        }
    }
    all
}

fn target_of(target: &TargetAddress) -> Target {
    match target {
        TargetAddress::Ip(socket) => Target::Tcp(*socket),
        TargetAddress::Unix(path) => Target::Unix(PathBuf::from(path)),
        TargetAddress::Name(host, port) => Target::Host { host: host.clone(), port: *port },
    }
}
