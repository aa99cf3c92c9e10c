//! Instances: from a ServiceRegistry and meshConfig to what the plan holds.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Document, Fault,
    kinds::{Mesh, Registry, RegistryEndpoint, RegistryPort},
    plan::{PlannedInstance, between},
    value::{HostAddress, word},
};
use crate::{
    limits,
    record::node::{InstanceId, Protocol, ServicePort},
};

/// The service's ports and what lies behind each, meshConfig filled in, sorted by number.
pub(super) fn ports_of(
    document: &Document,
    registry: &Registry,
    mesh: &Mesh,
    faults: &mut Vec<Fault>,
) -> Option<Vec<(ServicePort, u16)>> {
    let only;
    let said: &[RegistryPort] = if registry.ports.is_empty() {
        only = [RegistryPort {
            name: word("default"),
            port: None,
            target: None,
            protocol: Protocol::Sniff,
            exposed: false,
            hosts: Vec::new(),
            proxy_protocol: false,
        }];
        &only
    } else {
        &registry.ports
    };
    let mut ports = Vec::new();
    for port in said {
        let Some(number) = port.port.or(mesh.service_port) else {
            let why = format!(
                "the port `{}` of {} has no number, and meshConfig has no servicePort",
                port.name, registry.service
            );
            let fix = "write `port:` (what callers dial) and `targetPort:` (the process's port)";
            faults.push(between(document, "spec.ports", why, fix));
            return None;
        };
        let filled = match port.port {
            Some(_) => None,
            None => mesh.service_target_port,
        };
        let target = port.target.or(filled).unwrap_or(number);
        let shown = ServicePort {
            name: port.name.clone(),
            port: number,
            protocol: port.protocol,
            exposed: port.exposed,
            hosts: port.hosts.clone(),
        };
        ports.push((shown, target));
    }
    ports.sort_by_key(|(port, _)| port.port);
    let numbers: BTreeSet<u16> = ports.iter().map(|(port, _)| port.port).collect();
    if numbers.len() < ports.len() {
        let why = "two ports have one number once meshConfig.servicePort is filled in".to_owned();
        faults.push(between(document, "spec.ports", why, "write `port:` for each"));
        return None;
    }
    Some(ports)
}

/// The endpoints, with the default one where the document has none.
pub(super) fn endpoints_of(registry: &Registry) -> Vec<RegistryEndpoint> {
    if !registry.endpoints.is_empty() {
        return registry.endpoints.clone();
    }
    let default = RegistryEndpoint {
        name: word("default"),
        address: HostAddress::Ip([127, 0, 0, 1].into()),
        port: None,
        ports: BTreeMap::new(),
        version: None,
        weight: None,
        tags: Vec::new(),
    };
    vec![default]
}

pub(super) fn planned(
    document: &Document,
    registry: &Registry,
    ports: &[(ServicePort, u16)],
    endpoint: &RegistryEndpoint,
    faults: &mut Vec<Fault>,
) -> Option<PlannedInstance> {
    // `port:` is of the first port as written, not of the lowest.
    let first = registry.ports.first().map(|port| &port.name);
    let number = |port: &ServicePort, target: u16| {
        let named = endpoint.ports.get(&port.name).copied();
        let is_first = first.is_none_or(|first| *first == port.name);
        named.or_else(|| endpoint.port.filter(|_| is_first)).unwrap_or(target)
    };
    let targets = ports
        .iter()
        .map(|(port, target)| (port.port, endpoint.address.with_port(number(port, *target))))
        .collect();
    let mut tags = [registry.tags.clone(), endpoint.tags.clone()].concat();
    tags.sort_unstable();
    tags.dedup();
    if tags.len() > limits::PORTS_MAX {
        let most = limits::PORTS_MAX;
        let why = format!("the endpoint `{}` has {} tags", endpoint.name, tags.len());
        let fix = format!("leave it at {most}, those of the document counted");
        faults.push(between(document, "spec.tags", why, &fix));
        return None;
    }
    let image_tag = registry.image.as_ref().and_then(|image| image.tag.clone());
    let version = endpoint.version.as_ref().or(registry.version.as_ref());
    Some(PlannedInstance {
        id: InstanceId { document: document.id.name.clone(), endpoint: endpoint.name.clone() },
        service: registry.service.clone(),
        ports: ports.iter().map(|(port, _)| port.clone()).collect(),
        targets,
        checks: registry.checks.clone(),
        weight: endpoint.weight.unwrap_or(registry.weight),
        version: version.cloned().or(image_tag),
        image: registry.image.as_ref().map(|image| image.text.clone()),
        tags,
        meta: registry.meta.clone(),
    })
}
