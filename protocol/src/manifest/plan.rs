//! The plan: what this host does by all of its documents together.
//!
//! In:    every valid document, in the order in which they hold (earlier ones win).
//! Out:   registrations, listeners, the agent's settings, and the faults between documents.
//! Never: half a document. One that does not go with an earlier one is left out whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    Body, Document, Fault,
    instances::{endpoints_of, planned, ports_of},
    kinds::{Check, Discovery, DocumentId, Fallback, Listen, Mesh, Process, Registry},
    twice,
    value::{Image, TargetAddress},
};
use crate::{
    limits,
    name::{Label, ServiceName, Tag, VersionText},
    record::node::{Health, Instance, InstanceId, Protocol, ServicePort},
    route::{ImagePattern, PortRef, Subset},
    view::ServiceView,
};

/// What this host does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// What it serves, one per ServiceRegistry.
    pub registrations: Vec<Registration>,
    /// Where it listens for local callers.
    pub listeners: Vec<Listener>,
    /// How this host uses services, one per ServiceDiscovery.
    pub usages: Vec<Arc<Usage>>,
    /// What holds for services without a document of their own (meshConfig.serviceDiscovery).
    pub defaults: Option<Arc<Usage>>,
    /// The agent's settings.
    pub mesh: Mesh,
    /// Mesh-wide documents that nobody signed: not applied.
    pub unsigned: Vec<DocumentId>,
    /// Mesh-wide documents with an operator's signature, not verified yet.
    pub signed: Vec<Arc<Document>>,
}

/// What a ServiceRegistry makes this host serve.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Registration {
    /// The document.
    pub document: DocumentId,
    /// The service.
    pub service: ServiceName,
    /// Its ports, sorted by number.
    pub ports: Vec<ServicePort>,
    /// Its instances, sorted by id.
    pub instances: Vec<PlannedInstance>,
    /// The local processes that are this service.
    pub workload: Option<Process>,
    /// Whether it runs elsewhere.
    pub external: bool,
    /// The name in the certificate behind, if the agent speaks TLS to it.
    pub tls: Option<String>,
    /// Ports whose process is told the client by the PROXY protocol.
    pub proxy_protocol: BTreeSet<u16>,
}

/// An instance: all that is known of it but its health.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlannedInstance {
    /// `document/endpoint`.
    pub id: InstanceId,
    /// The service.
    pub service: ServiceName,
    /// The service's ports, sorted by number.
    pub ports: Vec<ServicePort>,
    /// Where the process is, by the service's port number.
    pub targets: BTreeMap<u16, TargetAddress>,
    /// Its checks; none: always passing.
    pub checks: Vec<Check>,
    /// Relative share of calls.
    pub weight: u32,
    /// Its version.
    pub version: Option<VersionText>,
    /// Its image.
    pub image: Option<String>,
    /// Its tags, sorted.
    pub tags: Vec<Tag>,
    /// Free text.
    pub meta: BTreeMap<String, String>,
}

impl PlannedInstance {
    /// What the node record says of it.
    pub fn instance(&self, health: Health) -> Instance {
        let target = self.first_target();
        Instance {
            id: self.id.clone(),
            service: self.service.clone(),
            ports: self.ports.clone(),
            health,
            weight: self.weight,
            version: self.version.clone(),
            image: self.image.clone(),
            tags: self.tags.clone(),
            meta: self.meta.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
            target: target.map(ToString::to_string).unwrap_or_default(),
            set_aside: None,
        }
    }

    /// Where the process of that port of the service is.
    pub fn target(&self, port: u16) -> Option<&TargetAddress> {
        self.targets.get(&port)
    }

    /// Where the process of the lowest port is.
    pub fn first_target(&self) -> Option<&TargetAddress> {
        self.targets.values().next()
    }

    /// Whom a check of this instance asks.
    pub fn check_target(&self, check: &Check) -> Option<&TargetAddress> {
        match &check.port {
            None => self.first_target(),
            Some(PortRef::Number(number)) => self.target(*number),
            Some(PortRef::Name(name)) => {
                let port = self.ports.iter().find(|port| port.name == *name)?;
                self.target(port.port)
            }
        }
    }
}

/// How this host uses a service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Usage {
    /// The document.
    pub document: DocumentId,
    /// Which service.
    pub target: ServiceTarget,
    /// As which service local callers count.
    pub source: Option<ServiceName>,
    /// Who may connect.
    pub allow: Option<Process>,
    /// Only these instances.
    pub subset: Subset,
    /// What to dial while no live instance is known.
    pub fallback: Vec<Fallback>,
}

/// Which service a ServiceDiscovery means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceTarget {
    /// Said outright.
    pub said: Option<ServiceName>,
    /// The service of the document's own name.
    pub own: ServiceName,
    /// Else those of the namespace that run this image.
    pub image: Option<ImagePattern>,
}

impl ServiceTarget {
    /// The services meant, as far as `known` goes: mostly one.
    pub fn resolve(&self, known: &BTreeMap<ServiceName, Arc<ServiceView>>) -> Vec<ServiceName> {
        if let Some(said) = &self.said {
            return vec![said.clone()];
        }
        let Some(image) = &self.image else {
            return vec![self.own.clone()];
        };
        if known.contains_key(&self.own) {
            return vec![self.own.clone()];
        }
        let runs = |service: &ServiceView| {
            service.endpoints.iter().any(|endpoint| {
                let instance = &endpoint.instance;
                let runs = instance.image.as_deref();
                runs.is_some_and(|runs| image.covers(runs, instance.version.as_ref()))
            })
        };
        known
            .values()
            .filter(|service| service.name.namespace() == self.own.namespace() && runs(service))
            .map(|service| service.name.clone())
            .collect()
    }
}

/// Where this host listens for local callers of a service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listener {
    /// The port's name in its document.
    pub name: Label,
    /// Where it is bound.
    pub listen: Listen,
    /// Which port of the service.
    pub port: PortRef,
    /// Whether its callers count as outside.
    pub exposed: bool,
    /// What callers speak, if said.
    pub protocol: Protocol,
    /// Whose calls, to whom.
    pub usage: Arc<Usage>,
}

impl Plan {
    /// The plan of these documents, and what does not go together.
    pub fn resolve(documents: &[Arc<Document>]) -> (Self, Vec<Fault>) {
        let mut faults = Vec::new();
        let documents = distinct(documents, &mut faults);
        let mesh = mesh_of(&documents, &mut faults);
        let mut plan = Self {
            registrations: Vec::new(),
            listeners: Vec::new(),
            usages: Vec::new(),
            defaults: None,
            mesh,
            unsigned: Vec::new(),
            signed: Vec::new(),
        };
        for document in documents {
            match &document.body {
                Body::Registry(registry) => plan.register(document, registry, &mut faults),
                Body::Discovery(discovery) => plan.discover(document, discovery, &mut faults),
                Body::Mesh(_) => {}
                Body::Traffic(_) | Body::Access(_) if document.signature.is_some() => {
                    plan.signed.push(Arc::new(document.clone()));
                }
                Body::Traffic(_) | Body::Access(_) => plan.unsigned.push(document.id.clone()),
            }
        }
        let named = plan.mesh.service_discovery.as_ref();
        plan.defaults = named.and_then(|name| {
            let namespace = &plan.mesh.namespace;
            let same = |usage: &&Arc<Usage>| {
                usage.document.name == *name && usage.document.namespace == *namespace
            };
            plan.usages.iter().find(same).cloned()
        });
        (plan, faults)
    }

    /// Every planned instance, with its registration.
    pub fn instances(&self) -> impl Iterator<Item = (&Registration, &PlannedInstance)> {
        self.registrations.iter().flat_map(|registration| {
            let instances = registration.instances.iter();
            instances.map(move |instance| (registration, instance))
        })
    }

    /// How this host uses `service`: by a document that names it, else by the defaults.
    pub fn usage_of(&self, service: &ServiceName) -> Option<&Arc<Usage>> {
        let meant = |usage: &&Arc<Usage>| {
            let target = &usage.target;
            target.said.as_ref().unwrap_or(&target.own) == service
        };
        let own = self.usages.iter().find(meant);
        own.or(self.defaults.as_ref())
    }

    fn register(&mut self, document: &Document, registry: &Registry, faults: &mut Vec<Fault>) {
        let Some(ports) = ports_of(document, registry, &self.mesh, faults) else {
            return;
        };
        let shown: Vec<ServicePort> = ports.iter().map(|(port, _)| port.clone()).collect();
        let same_service = |other: &&Registration| other.service == registry.service;
        if let Some(first) = self.registrations.iter().find(same_service)
            && first.ports != shown
        {
            let why = format!(
                "{} and {} register {} with different ports: {} and {}",
                document.id,
                first.document,
                registry.service,
                port_list(&shown),
                port_list(&first.ports)
            );
            let fix = "give both the same ports (name, port, protocol, type, hosts), or give \
                           one of them another `service`";
            faults.push(between(document, "spec.ports", why, fix));
            return;
        }
        let instances: Option<Vec<PlannedInstance>> = endpoints_of(registry)
            .iter()
            .map(|endpoint| planned(document, registry, &ports, endpoint, faults))
            .collect();
        let Some(mut instances) = instances else {
            return;
        };
        instances.sort_by(|one, other| one.id.cmp(&other.id));
        if self.clash(document, &instances, faults) {
            return;
        }
        self.registrations.push(Registration {
            document: document.id.clone(),
            service: registry.service.clone(),
            ports: shown,
            instances,
            workload: registry.workload.clone(),
            external: registry.external,
            tls: registry.tls.clone(),
            proxy_protocol: registry
                .ports
                .iter()
                .filter(|said| said.proxy_protocol)
                .filter_map(|said| ports.iter().find(|(port, _)| port.name == said.name))
                .map(|(port, _)| port.port)
                .collect(),
        });
    }

    /// Whether `instances` cannot stand beside those there are.
    fn clash(
        &self,
        document: &Document,
        instances: &[PlannedInstance],
        faults: &mut Vec<Fault>,
    ) -> bool {
        let same_name = |other: &&Registration| other.document.name == document.id.name;
        if let Some(first) = self.registrations.iter().find(same_name) {
            let why = format!(
                "{} and {} have one name, and an instance's id is document/endpoint",
                document.id, first.document
            );
            faults.push(between(document, "metadata.name", why, "rename one of the two"));
            return true;
        }
        let count = self.instances().count() + instances.len();
        if count > limits::INSTANCES_MAX {
            let most = limits::INSTANCES_MAX;
            let why = format!("with this document the host has {count} instances, at most {most}");
            let fix = "register some on another host";
            faults.push(between(document, "spec.endpoints", why, fix));
            return true;
        }
        false
    }

    fn discover(&mut self, document: &Document, discovery: &Discovery, faults: &mut Vec<Fault>) {
        let usage = Arc::new(Usage {
            document: document.id.clone(),
            target: ServiceTarget {
                said: discovery.service.clone(),
                own: ServiceName::new(document.id.namespace.clone(), document.id.name.clone()),
                image: discovery.image.as_ref().map(Image::pattern),
            },
            source: discovery.source.clone(),
            allow: discovery.allow.clone(),
            subset: Subset {
                image: discovery.image.as_ref().map(Image::pattern),
                ..discovery.subset.clone()
            },
            fallback: discovery.fallback.clone(),
        });
        for port in &discovery.ports {
            let taken = |other: &&Listener| collide(&other.listen, &port.listen);
            if let Some(first) = self.listeners.iter().find(taken) {
                let why = format!("{} listens on {} already", first.usage.document, first.listen);
                let fix = "give one of them another `port`";
                faults.push(between(document, "spec.ports", why, fix));
                return;
            }
        }
        let listeners = discovery.ports.iter().map(|port| Listener {
            name: port.name.clone(),
            listen: port.listen.clone(),
            port: port.target.clone(),
            exposed: port.exposed,
            protocol: port.protocol,
            usage: Arc::clone(&usage),
        });
        self.listeners.extend(listeners);
        self.usages.push(usage);
    }
}

fn distinct<'d>(documents: &'d [Arc<Document>], faults: &mut Vec<Fault>) -> Vec<&'d Document> {
    let mut seen: BTreeMap<&DocumentId, &Document> = BTreeMap::new();
    let mut kept = Vec::new();
    for document in documents {
        match seen.get(&document.id) {
            Some(first) => faults.push(twice(first, document)),
            None => {
                seen.insert(&document.id, document);
                kept.push(document.as_ref());
            }
        }
    }
    kept
}

fn mesh_of(documents: &[&Document], faults: &mut Vec<Fault>) -> Mesh {
    let mut found: Option<(&Document, &Mesh)> = None;
    for document in documents {
        let Body::Mesh(mesh) = &document.body else {
            continue;
        };
        match found {
            None => found = Some((document, mesh)),
            Some((first, _)) => {
                let why = format!("{} at {} is this agent's already", first.id, first.place);
                let fix = "an agent has one ServiceMesh document: merge the two";
                faults.push(between(document, "kind", why, fix));
            }
        }
    }
    found.map_or_else(Mesh::default, |(_, mesh)| mesh.clone())
}

/// A fault of one document against another.
pub(super) fn between(document: &Document, key: &str, why: String, fix: &str) -> Fault {
    Fault { place: document.place.clone(), key: key.to_owned(), why, fix: fix.to_owned() }
}

fn port_list(ports: &[ServicePort]) -> String {
    let shown: Vec<String> =
        ports.iter().map(|port| format!("{} {}", port.name, port.port)).collect();
    format!("[{}]", shown.join(", "))
}

/// Whether two listeners cannot be bound side by side.
fn collide(one: &Listen, other: &Listen) -> bool {
    match (one.socket(None), other.socket(None)) {
        (Some(one), Some(other)) => {
            let any = one.ip().is_unspecified() || other.ip().is_unspecified();
            one.port() == other.port() && (any || one.ip() == other.ip())
        }
        _ => one == other,
    }
}
