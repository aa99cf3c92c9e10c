//! The manifest language: what is taken, what is refused, and with which words.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{
    kinds::{CheckKind, Listen, Process},
    value::{Secret, TargetAddress},
    *,
};
use crate::{
    name::{Locality, ServiceName},
    record::node::{Health, Protocol},
};

fn here() -> Inputs {
    Inputs {
        addresses: Some(BTreeSet::from(["10.0.0.5".parse().unwrap()])),
        may_run_commands: true,
        agent_version: Some("0.1.0".into()),
    }
}

fn good(text: &str) -> Vec<Document> {
    parse("t.yaml", text, &here()).unwrap_or_else(|faults| panic!("{faults}"))
}

/// The faults as `key: why; fix` lines.
fn bad(text: &str) -> Vec<String> {
    let faults = parse("t.yaml", text, &here()).unwrap_err();
    faults.0.iter().map(|fault| format!("{}: {}; {}", fault.key, fault.why, fault.fix)).collect()
}

/// Asserts that the one fault of `text` holds all of `parts`.
#[track_caller]
fn refused(text: &str, parts: &[&str]) {
    let faults = bad(text);
    assert_eq!(faults.len(), 1, "{faults:#?}");
    for part in parts {
        assert!(faults[0].contains(part), "`{part}` is not in `{}`", faults[0]);
    }
}

fn document(kind: &str, spec: &str) -> String {
    format!(
        "apiVersion: skein/v1\nkind: {kind}\nmetadata: {{name: checkout, namespace: shop}}\nspec: {spec}\n"
    )
}

fn registry(spec: &str) -> String {
    document("ServiceRegistry", spec)
}

fn discovery(spec: &str) -> String {
    document("ServiceDiscovery", spec)
}

fn mesh(config: &str) -> String {
    document("ServiceMesh", &format!("{{meshConfig: {config}}}"))
}

fn plan(text: &str) -> (Plan, Vec<Fault>) {
    let documents: Vec<Arc<Document>> = good(text).into_iter().map(Arc::new).collect();
    Plan::resolve(&documents)
}

fn join(documents: &[String]) -> String {
    documents.join("---\n")
}

const MISSION: &str = include_str!("../../../tests/golden/mission-manifests.yaml");

const REGISTRY_PAGE: &str = r#"
apiVersion: skein/v1
kind: ServiceRegistry
metadata: {name: checkout, namespace: shop}
spec:
  service: checkout
  image: checkout:2.3.1
  version: "2.3.1"
  ports:
  - {name: http, port: 80, targetPort: 8080, type: LoadBalancer, hosts: [shop.example.com]}
  endpoints:
  - {name: a, address: 127.0.0.1, port: 8080}
  - {name: b, address: "unix:/run/checkout-b.sock", version: "2.4.0", weight: 0, tags: [canary]}
  weight: 10
  tags: [blue]
  meta: {team: payments}
  workload: {unit: checkout.service}
  checks:
  - {type: http, path: /healthz, interval: 5s, timeout: 1s, failuresBeforeCritical: 2}
  run: {unit: checkout.service}
---
apiVersion: skein/v1
kind: ServiceRegistry
metadata: {name: orders-db, namespace: shop}
spec:
  external: true
  ports: [{name: mysql, port: 3306}]
  endpoints: [{name: rds, address: orders.db.example.com, port: 3306}]
  tls: {serverName: orders.db.example.com}
---
apiVersion: skein/v1
kind: ServiceDiscovery
metadata: {name: checkout, namespace: shop}
spec:
  service: shop/checkout
  image: checkout:2
  source: shop/web
  allow: {unit: web.service}
  ports: [{name: http, port: 9080, targetPort: 80}]
  endpoints: [{name: legacy, address: 10.9.9.9, port: 80}]
  subset: {version: "2", tags: [blue], zone: any}
---
apiVersion: skein/v1
kind: ServiceMesh
metadata: {name: agent, namespace: shop}
spec:
  image: skein:1
  ports:
  - {name: mesh, port: 7400, advertise: 203.0.113.7}
  - {name: http, port: 7401}
  - {name: dns, port: 7402}
  endpoints: [{name: seed, address: seed.example.net, port: 7400}]
  meshConfig:
    serviceMesh: prod
    serviceCluster: eu-west-1/eu-west-1a
    network: default
    gossipCluster: main
    meshCA: ca.pem
    meshCertificate: node.pem
    meshKey: node.key
    meshPassword: {file: token}
    servicePort: 80
    serviceTargetPort: 8080
    serviceDiscovery: defaults
    trafficPolicy: defaults
    enableLogs: true
    debug: false
    disableAutoRestart: false
    gateway: {ports: [80, 443], services: [shop/*], hosts: {shop.example.com: shop, 443: shop/api}, certificates: tls.d}
    transport: auto
    capture: auto
    virtualAddresses: 127.128.0.0/9
    drain: 30s
    dnsForward: {consul: "127.0.0.1:8600"}
---
apiVersion: skein/v1
kind: AccessPolicy
metadata: {name: checkout-callers, namespace: shop}
spec:
  destination: checkout
  action: allow
  mode: enforce
  from: [{service: shop/web}, {service: "ops/*"}, {node: "bastion-*"}, {outside: true}]
  to: [{port: 80, methods: [GET, POST], paths: ["/v1/*"]}]
"#;

#[test]
fn the_missions_documents_are_accepted_as_they_stand() {
    let documents = good(MISSION);
    let kinds: Vec<Kind> = documents.iter().map(|document| document.id.kind).collect();
    assert_eq!(kinds, Kind::ALL[..4]);
    assert!(documents.iter().all(|document| document.warnings.is_empty()));
    let (plan, faults) = plan(MISSION);
    assert_eq!(faults, []);
    assert_eq!(plan.unsigned.len(), 1);
}

#[test]
fn every_field_of_the_missions_documents_has_its_effect() {
    let (plan, _) = plan(MISSION);
    let [registration] = plan.registrations.as_slice() else { panic!("{plan:#?}") };
    assert_eq!(registration.service.to_string(), "shop/service-registry");
    let shown: Vec<_> = registration
        .ports
        .iter()
        .map(|port| (port.name.as_str(), port.port, port.protocol, port.exposed))
        .collect();
    assert_eq!(shown, [("http", 80, Protocol::Http, true), ("grpc", 8081, Protocol::Grpc, true)]);
    let instance = &registration.instances[0];
    assert_eq!(instance.id.to_string(), "service-registry/catalog-a");
    assert_eq!(instance.version.as_ref().unwrap().as_str(), "1.4.2");
    assert_eq!(instance.target(80).unwrap().to_string(), "127.0.0.1:8080");
    assert_eq!(instance.target(8081).unwrap().to_string(), "127.0.0.1:8081");
    let record = instance.instance(Health::Passing);
    assert_eq!(record.target, "127.0.0.1:8080");
    assert_eq!(record.image.as_deref(), Some("registry.example/catalog:1.4.2"));
    let listen: Vec<_> = plan
        .listeners
        .iter()
        .map(|listener| (listener.listen.to_string(), listener.port.to_string()))
        .collect();
    let pair = |one: &str, other: &str| (one.to_owned(), other.to_owned());
    assert_eq!(listen, [pair("0.0.0.0:9080", "80"), pair("0.0.0.0:9081", "8081")]);
    assert!(plan.listeners[0].exposed);
    let usage = &plan.listeners[0].usage;
    let zone: Locality = "eu-1a".parse().unwrap();
    assert!(usage.subset.covers(&record, &zone));
    assert_eq!(usage.fallback[0].target.to_string(), "127.0.0.1:8080");
    assert_eq!(plan.defaults.as_ref(), Some(usage));
    let mesh = &plan.mesh;
    assert!(mesh.debug && mesh.disable_auto_restart && mesh.enable_logs);
    assert!(mesh.mesh_port.exposed && mesh.http_port.exposed);
    assert_eq!(mesh.password, Some(Secret::Env("SKEIN_TOKEN".into())));
    assert_eq!(mesh.service_cluster.as_ref().unwrap().to_string(), "eu-west-1a");
    assert_eq!(mesh.seeds[0].target.to_string(), "127.0.0.1:7400");
    assert_eq!((mesh.service_port, mesh.service_target_port), (Some(80), Some(8080)));
    assert_eq!(mesh.traffic_policy.as_ref().unwrap().as_str(), "traffic-management");
}

#[test]
fn the_documents_of_the_manual_are_accepted() {
    let documents = good(REGISTRY_PAGE);
    let Body::Registry(checkout) = &documents[0].body else { panic!() };
    assert_eq!(checkout.workload, Some(Process::Unit("checkout.service".into())));
    assert_eq!(checkout.checks[0].kind, CheckKind::Http { path: "/healthz".into(), host: None });
    // `run` is read and said not to be carried out.
    assert_eq!(documents[0].warnings.len(), 1);
}

#[test]
fn an_instance_takes_what_its_endpoint_says_and_else_the_documents() {
    let two_ports = REGISTRY_PAGE.split("---").next().unwrap();
    let (plan, faults) = plan(two_ports);
    assert_eq!(faults, []);
    let [a, b] = plan.registrations[0].instances.as_slice() else { panic!() };
    assert_eq!((a.weight, b.weight), (10, 0));
    assert_eq!(b.version.as_ref().unwrap().as_str(), "2.4.0");
    assert_eq!(b.tags.len(), 2);
    assert_eq!(b.target(80), Some(&TargetAddress::Unix("/run/checkout-b.sock".into())));
}

#[test]
fn all_faults_come_at_once_each_with_its_place() {
    let text = "apiVersion: skein/v1\nkind: ServiceRegistry\nmetadata: {name: A}\nspec:\n  prots: []\n  weight: x\n  version: 2.10\n";
    let faults = parse("t.yaml", text, &here()).unwrap_err();
    let places: Vec<_> = faults
        .0
        .iter()
        .map(|fault| (fault.place.line, fault.place.column, fault.key.as_str()))
        .collect();
    assert_eq!(places[0], (3, 18, "metadata.name"), "{faults}");
    let text = text.replace("name: A", "name: a");
    let faults = parse("t.yaml", &text, &here()).unwrap_err();
    let places: Vec<_> = faults
        .0
        .iter()
        .map(|fault| (fault.place.line, fault.place.column, fault.key.as_str()))
        .collect();
    assert_eq!(
        places,
        [(5, 3, "spec.prots"), (6, 11, "spec.weight"), (7, 12, "spec.version")],
        "{faults}"
    );
    let shown = faults.to_string();
    assert!(shown.contains("did you mean `ports`?"), "{shown}");
    assert!(shown.contains("5 |   prots: []\n  |   ^^^^^\n"), "{shown}");
    assert!(shown.contains("quote it: \"2.10\""), "{shown}");
}

#[test]
fn what_a_document_must_have_is_said() {
    let faults = bad("metadata: {name: a}\nspec: {}\n");
    assert!(faults[0].contains("apiVersion: it is missing; write `apiVersion: skein/v1`"));
    assert!(faults[1].contains("kind: it is missing"));
    refused(
        "apiVersion: v1\nkind: ServiceMesh\nmetadata: {name: a}\n",
        &["`v1` is not known here", "skein/v1, apps/v1"],
    );
    refused(
        "apiVersion: apps/v1\nkind: ServiceRegisty\nmetadata: {name: a}\n",
        &["did you mean `ServiceRegistry`?"],
    );
    refused("- a\n", &["a map belongs here, this is a list"]);
}

#[test]
fn values_need_their_units_and_quotes() {
    refused(
        &registry("{ports: [{port: 80}], checks: [{type: tcp, interval: 5}]}"),
        &["spec.checks[0].interval", "has no unit", "`5s`"],
    );
    refused(&registry("{ports: [{port: 80}], version: 2}"), &["quote it: \"2\""]);
    refused(&registry("{ports: [{port: 80}], version: true}"), &["quote it: \"true\""]);
    refused(&registry("{ports: [{port: 70000}]}"), &["1 to 65535"]);
    refused(&registry("{ports: [{port: 80}], weight: -1}"), &["0 to 65535"]);
    refused(&discovery("{subset: 2}"), &["spec.subset", "quote it: \"2\""]);
}

#[test]
fn udp_is_refused_with_what_is_there_instead() {
    for port in ["{port: 53, protocol: UDP}", "{name: udp-dns, port: 53}"] {
        refused(
            &registry(&format!("{{ports: [{port}]}}")),
            &["UDP is not carried; discovery only"],
        );
    }
}

#[test]
fn a_ports_name_declares_its_protocol_and_protocol_says_it_outright() {
    let text = registry(
        "{ports: [{name: http-admin, port: 1}, {name: web, port: 2}, {name: grpc, port: 3, protocol: tcp}, {name: mysql, port: 4}]}",
    );
    let (plan, _) = plan(&text);
    let protocols: Vec<_> = plan.registrations[0].ports.iter().map(|port| port.protocol).collect();
    assert_eq!(protocols, [Protocol::Http, Protocol::Sniff, Protocol::Tcp, Protocol::Tcp]);
}

#[test]
fn ports_left_out_come_from_mesh_config() {
    let with = |config: &str, spec: &str| {
        let (plan, faults) = plan(&join(&[mesh(config), registry(spec)]));
        let found = plan.registrations.first().map(|registration| {
            let (port, target) = registration.instances[0].targets.first_key_value().unwrap();
            (*port, target.to_string())
        });
        (found, faults)
    };
    let both = "{servicePort: 80, serviceTargetPort: 8080}";
    let (found, _) = with(both, "{}");
    assert_eq!(found, Some((80, "127.0.0.1:8080".into())));
    let (found, _) = with(both, "{ports: [{port: 81}]}");
    assert_eq!(found, Some((81, "127.0.0.1:81".into())));
    let (found, _) = with(both, "{ports: [{targetPort: 9}]}");
    assert_eq!(found, Some((80, "127.0.0.1:9".into())));
    let (found, faults) = with("{}", "{}");
    assert_eq!(found, None);
    assert!(faults[0].why.contains("meshConfig has no servicePort"), "{faults:?}");
}

#[test]
fn an_address_that_is_not_here_needs_external() {
    let at = |address: &str, more: &str| {
        registry(&format!(
            "{{ports: [{{port: 80}}], endpoints: [{{name: a, address: \"{address}\"}}]{more}}}"
        ))
    };
    for here in ["10.0.0.5", "127.0.0.7", "::1", "unix:/run/a.sock", "localhost"] {
        good(&at(here, ""));
    }
    for elsewhere in ["10.0.0.6", "db.example.com"] {
        refused(&at(elsewhere, ""), &["is not an address of this host", "`external: true`"]);
        good(&at(elsewhere, ", external: true"));
    }
    let unknown = Inputs::default();
    assert!(parse("t.yaml", &at("10.0.0.6", ""), &unknown).is_ok());
    for evil in ["169.254.169.254", "fe80::1", "metadata.google.internal"] {
        refused(&at(evil, ", external: true"), &["cannot be an endpoint"]);
    }
    refused(&registry("{ports: [{port: 80}], external: true}"), &["spec.endpoints: it is missing"]);
}

#[test]
fn a_unix_socket_is_one_port() {
    refused(
        &registry(
            "{ports: [{name: a, port: 1}, {name: b, port: 2}], endpoints: [{name: x, address: \"unix:/a\"}]}",
        ),
        &["a unix socket is one port"],
    );
}

#[test]
fn endpoints_name_ports_that_exist() {
    let text = |port: &str| {
        registry(&format!(
            "{{ports: [{{name: http, port: 80}}, {{name: admin, port: 81}}], endpoints: [{{name: x, address: 127.0.0.1, ports: {{{port}: 8181}}}}]}}"
        ))
    };
    refused(&text("admni"), &["no port of the name `admni`", "http, admin"]);
    let (plan, _) = plan(&text("admin"));
    let instance = &plan.registrations[0].instances[0];
    assert_eq!(instance.target(80).unwrap().to_string(), "127.0.0.1:80");
    assert_eq!(instance.target(81).unwrap().to_string(), "127.0.0.1:8181");
}

#[test]
fn names_stand_once() {
    refused(
        &registry("{ports: [{name: a, port: 1}, {name: a, port: 2}]}"),
        &["two ports have the name a"],
    );
    refused(
        &registry("{ports: [{name: a, port: 1}, {name: b, port: 1}]}"),
        &["two ports of the service have the number 1"],
    );
    let twin = "{name: x, address: 127.0.0.1}";
    refused(
        &registry(&format!("{{ports: [{{port: 1}}], endpoints: [{twin}, {twin}]}}")),
        &["two endpoints have the name x"],
    );
    let one = registry("{ports: [{port: 1}]}");
    refused(&join(&[one.clone(), one]), &["stands at t.yaml:3"]);
}

#[test]
fn a_document_without_checks_gets_one_tcp_check_every_five_seconds() {
    let (one, _) = plan(&registry("{ports: [{port: 80}]}"));
    let check = &one.registrations[0].instances[0].checks[0];
    assert_eq!((&check.kind, check.interval), (&CheckKind::Tcp, Duration::from_secs(5)));
    let (none, _) = plan(&registry("{ports: [{port: 80}], checks: []}"));
    assert!(none.registrations[0].instances[0].checks.is_empty());
}

#[test]
fn checks_say_what_they_cannot_do() {
    let check = |check: &str| registry(&format!("{{ports: [{{port: 80}}], checks: [{check}]}}"));
    refused(&check("{type: grpc}"), &["not supported in this version", "type: tcp"]);
    refused(&check("{type: htp}"), &["did you mean `http`?"]);
    refused(&check("{type: ttl}"), &["spec.checks[0].ttl", "`ttl: 30s`"]);
    refused(&check("{type: http, path: healthz}"), &["does not begin with `/`"]);
    refused(&check("{type: tcp, port: admin}"), &["no port of the name `admin`"]);
    refused(&check("{type: tcp, interval: 1s, timeout: 2s}"), &["longer than the interval"]);
    refused(&check("{type: tcp, interval: 1ms}"), &["at most ten times a second"]);
    refused(&check("{type: exec, command: [check]}"), &["absolute path"]);
    let two = good(&check("{type: tcp}, {type: tcp}"));
    let Body::Registry(registry) = &two[0].body else { panic!() };
    assert_eq!(registry.checks[1].name.as_str(), "tcp-2");
}

#[test]
fn checks_do_not_speak_tls_and_say_so() {
    let text = REGISTRY_PAGE.replace("  tls: {", "  checks: [{type: http}]\n  tls: {");
    refused(&text, &["does not speak TLS", "`type: tcp`"]);
    refused(
        &registry("{ports: [{port: 1}], tls: {serverName: a.b}}"),
        &["TLS is spoken to external services only"],
    );
}

#[test]
fn commands_come_only_from_files_that_nobody_else_can_write() {
    let text = registry("{ports: [{port: 80}], checks: [{type: exec, command: [/bin/true]}]}");
    good(&text);
    let mut inputs = here();
    inputs.may_run_commands = false;
    let faults = parse("t.yaml", &text, &inputs).unwrap_err();
    assert!(faults.0[0].why.contains("never from what came by the API"), "{faults}");
}

#[test]
fn two_documents_of_one_service_with_other_ports_name_each_other() {
    let one = registry("{ports: [{name: http, port: 80}]}");
    let other = |port: u16| {
        one.replace("name: checkout", "name: checkout-b")
            .replace("spec: {", "spec: {service: checkout, ")
            .replace("port: 80", &format!("port: {port}, targetPort: 9000"))
    };
    let (agreeing, faults) = plan(&join(&[one.clone(), other(80)]));
    assert_eq!((agreeing.registrations.len(), faults.len()), (2, 0));
    let (differing, faults) = plan(&join(&[one.clone(), other(81)]));
    assert_eq!(differing.registrations.len(), 1);
    let [fault] = faults.as_slice() else { panic!("{faults:?}") };
    for part in ["shop/checkout-b", "ServiceRegistry shop/checkout ", "[http 81] and [http 80]"] {
        assert!(fault.why.contains(part), "{}", fault.why);
    }
    assert_eq!(fault.place.line, 8);
}

#[test]
fn instance_ids_are_unique_on_a_host() {
    let one = registry("{ports: [{port: 80}]}");
    let other = one.replace("namespace: shop", "namespace: ops");
    let (plan, faults) = plan(&join(&[one, other]));
    assert_eq!(plan.registrations.len(), 1);
    assert!(faults[0].why.contains("an instance's id is document/endpoint"));
}

#[test]
fn a_listener_binds_loopback_unless_the_document_says_otherwise() {
    let listen = |port: &str| {
        let (plan, faults) = plan(&discovery(&format!("{{ports: [{port}]}}")));
        assert_eq!(faults, []);
        plan.listeners[0].listen.clone()
    };
    assert_eq!(listen("{port: 9080}"), Listen::Loopback(9080));
    assert_eq!(listen("{port: 9080, type: LoadBalancer}"), Listen::All(9080));
    let unix = listen("{address: \"unix:/run/x.sock\", targetPort: 80}");
    assert_eq!(unix, Listen::Unix("/run/x.sock".into()));
    let own = Some("127.0.0.11".parse().unwrap());
    for port in ["{port: 9080}", "{port: 9080, type: LoadBalancer}"] {
        assert_eq!(listen(port).socket(own).unwrap().to_string(), "127.0.0.11:9080");
    }
    let outer = Some("10.0.0.5".parse().unwrap());
    assert_eq!(listen("{port: 9080}").socket(outer).unwrap().to_string(), "127.0.0.1:9080");
    refused(
        &discovery("{ports: [{port: 1, address: 10.0.0.5}]}"),
        &["can be dialled from other hosts", "LoadBalancer"],
    );
    refused(&discovery("{ports: [{targetPort: 80}]}"), &["spec.ports[0].port", "9080"]);
}

#[test]
fn two_listeners_of_one_port_name_the_first() {
    let one = discovery("{ports: [{port: 9080}]}");
    let other = one.replace("name: checkout", "name: web");
    let (plan, faults) = plan(&join(&[one, other]));
    assert_eq!(plan.listeners.len(), 1);
    assert!(faults[0].why.contains("ServiceDiscovery shop/checkout listens on 127.0.0.1:9080"));
}

#[test]
fn a_discovery_means_its_own_name_or_what_runs_its_image() {
    use std::collections::BTreeMap;

    use crate::view::ServiceView;
    let (plan, _) = plan(&discovery("{ports: [{port: 9080}], image: checkout:2}"));
    let target = &plan.listeners[0].usage.target;
    let service = |name: &str| {
        let name: ServiceName = name.parse().unwrap();
        let view = ServiceView { name: name.clone(), ports: Vec::new(), endpoints: Vec::new() };
        (name, Arc::new(view))
    };
    assert_eq!(target.resolve(&BTreeMap::new()), []);
    let known = BTreeMap::from([service("shop/checkout"), service("shop/web")]);
    assert_eq!(target.resolve(&known), ["shop/checkout".parse().unwrap()]);
}

#[test]
fn a_subset_is_a_map_or_a_version() {
    let (plan, _) = plan(&discovery("{subset: \"2\"}"));
    let version = plan.usages[0].subset.version.clone().unwrap();
    assert_eq!(version.as_str(), "2");
    good(&discovery("{subset: {version: \"2\", tags: [blue], zone: eu-1/eu-1a}}"));
    refused(&discovery("{subset: {zon: any}}"), &["did you mean `zone`?"]);
}

#[test]
fn services_without_a_document_of_their_own_are_used_by_the_defaults() {
    let defaults = discovery("{source: shop/web}").replace("name: checkout", "name: defaults");
    let (plan, _) = plan(&join(&[mesh("{serviceDiscovery: defaults}"), defaults]));
    let other: ServiceName = "ops/mail".parse().unwrap();
    let usage = plan.usage_of(&other).unwrap();
    assert_eq!(usage.source.as_ref().unwrap().to_string(), "shop/web");
}

#[test]
fn a_mesh_document_fills_in_every_default() {
    let (plan, _) = plan(&mesh("{}"));
    let expected = Mesh { namespace: plan.mesh.namespace.clone(), ..Mesh::default() };
    assert_eq!(plan.mesh, expected);
    assert_eq!(expected.virtual_addresses.to_string(), "127.128.0.0/9");
    assert_eq!(expected.drain, Duration::from_secs(30));
}

#[test]
fn mesh_settings_are_checked() {
    refused(&mesh("{transport: udp}"), &["auto, quic, tcp"]);
    refused(&mesh("{drain: 30}"), &["has no unit"]);
    refused(&mesh("{virtualAddresses: 10.0.0.0/8}"), &["not within 127.0.0.0/8"]);
    refused(&mesh("{virtualAddresses: 127.0.0.0/8}"), &["holds 127.0.0.1"]);
    let faults = bad(&mesh("{meshPassword: {fiel: x}}"));
    assert!(faults[0].contains("does not say where the secret is"));
    assert!(faults[1].contains("did you mean `file`?"));
    refused(&mesh("{serviceCluster: EU_West}"), &["is not a locality"]);
    refused(&mesh("{dnsForward: {consul: nowhere}}"), &["is not a zone and its resolver"]);
    refused(&mesh("{meshCa: x}"), &["did you mean `meshCA`?"]);
    let ports = |ports: &str| document("ServiceMesh", &format!("{{ports: [{ports}]}}"));
    refused(&ports("{name: http, port: 7400}"), &["two of the agent's ports have one number"]);
    refused(&ports("{name: mesh}, {name: grpc}"), &["the port mesh stands twice"]);
    refused(&ports("{name: mesh, advertise: 169.254.1.1}"), &["cannot be advertised"]);
    let (plan, _) = plan(&ports(
        "{name: mesh, port: 7500, targetPort: 7600, advertise: [{network: lan, address: 10.0.0.5}]}",
    ));
    assert_eq!((plan.mesh.mesh_port.port, plan.mesh.mesh_port.target), (7500, 7600));
    assert_eq!(plan.mesh.mesh_port.advertise.len(), 1);
}

#[test]
fn another_agent_version_warns() {
    let at = |tag: &str| document("ServiceMesh", &format!("{{image: \"skein:{tag}\"}}"));
    assert!(good(&at("1"))[0].warnings.is_empty());
    assert!(good(&at("0.1"))[0].warnings.is_empty());
    let warned = good(&at("2"));
    assert!(warned[0].warnings[0].why.contains("this agent is 0.1.0"));
}

#[test]
fn an_agent_has_one_mesh_document() {
    let one = mesh("{debug: true}");
    let other = mesh("{}").replace("name: checkout", "name: other");
    let (plan, faults) = plan(&join(&[one, other]));
    assert!(plan.mesh.debug);
    assert!(faults[0].fix.contains("one ServiceMesh document"));
}

#[test]
fn a_secret_stands_in_no_output() {
    let text =
        document("ServiceMesh", "\n  meshConfig:\n    meshPassword: hunter2\n    debug: true");
    let document = good(&text).remove(0);
    let outputs = [
        format!("{document:?}"),
        document.to_yaml(),
        serde_json::to_string(&document).unwrap(),
        format!("{:?}", Plan::resolve(&[Arc::new(document.clone())])),
        parse("t", &text.replace("debug", "debgu"), &here()).unwrap_err().to_string(),
        parse("t", &text.replace(" hunter2", " hunter2: x"), &here()).unwrap_err().to_string(),
    ];
    for output in &outputs {
        assert!(!output.contains("hunter2"), "{output}");
    }
    let stored = document.to_yaml_with_secrets();
    assert_eq!(parse("t", &stored, &here()).unwrap()[0], document);
    let other = good(&text.replace("hunter2", "other")).remove(0);
    assert_eq!(document.hash(), other.hash());
    assert_ne!(document, other);
}

#[test]
fn what_is_written_again_reads_the_same() {
    for text in [MISSION, REGISTRY_PAGE] {
        for document in good(text) {
            let again = good(&document.to_yaml());
            assert_eq!(again[0], document);
            assert_eq!(again[0].hash(), document.hash());
            let json = serde_json::to_string(&document).unwrap();
            assert_eq!(good(&json), [document]);
        }
    }
}

#[test]
fn a_hash_is_of_meaning() {
    let old =
        "apiVersion: apps/v1\nkind: ServiceRegistry\nmetadata: {name: a}\nspec: {weight: 1}\n";
    let new = "# so\nkind: ServiceRegistry\napiVersion: skein/v1\nspec:\n  weight: 1\nmetadata:\n  namespace: default\n  name: a\n";
    assert_eq!(good(old)[0].hash(), good(new)[0].hash());
    assert_ne!(good(old)[0].hash(), good(&old.replace("1}", "2}"))[0].hash());
}

#[test]
fn traffic_policies_are_checked_and_not_applied() {
    let policy = |policy: &str| {
        document(
            "TrafficManagement",
            &format!("{{trafficPolicies: [{{name: p, trafficPolicy: {policy}}}]}}"),
        )
    };
    refused(&policy("{destination: web, type: Splitt}"), &["did you mean `Split`?"]);
    refused(
        &policy("{destination: web, type: Split, target: [{service: web, weight: 0}]}"),
        &["all weights are 0"],
    );
    refused(&policy("{destination: web, type: Retry, attempt: 2}"), &["`attempts`"]);
    refused(&policy("{destination: web, type: Retry, target: web}"), &["Retry has no target"]);
    refused(
        &policy("{destination: web, type: Mirror, percent: 101, target: web}"),
        &["percentage"],
    );
    refused(&policy("{destination: web, type: RateLimit, rate: 100}"), &["quote"]);
    let small = good(&policy("{destination: web, type: Mirror, percent: 0.05, target: web}"));
    assert!(small[0].warnings[0].why.contains("less than one percent"));
    let (plan, _) = plan(&policy("{destination: web, type: Balance, algorithm: random}"));
    assert_eq!(plan.unsigned.len(), 1);
    let twice = "{name: p, trafficPolicy: {destination: web, type: Timeout, request: 1s}}";
    refused(
        &document("TrafficManagement", &format!("{{trafficPolicies: [{twice}, {twice}]}}")),
        &["same destination, port, type and match"],
    );
}

#[test]
fn access_policies_are_checked_and_not_applied() {
    let policy = |spec: &str| document("AccessPolicy", spec);
    refused(&policy("{destination: \"*\", action: deny}"), &["write `default: deny`"]);
    refused(&policy("{destination: web, action: allow, default: deny}"), &["stands instead of"]);
    refused(&policy("{destination: web}"), &["spec.action: it is missing"]);
    good(&policy("{destination: \"*/*\", default: deny}"));
    good(&policy("{destination: \"*\", action: deny, from: [{outside: true}]}"));
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in "(?s).{0,200}") {
        let _ = parse("t", &text, &here());
    }

    #[test]
    fn no_mangled_document_panics(at in 0usize..4000, with in "[\\-{}\\[\\]:&*!|>\"'#%@` \\n0-9a-z]{1,3}") {
        let mut text: Vec<char> = REGISTRY_PAGE.chars().collect();
        let at = at.min(text.len());
        text.splice(at..at, with.chars());
        let text: String = text.into_iter().collect();
        if let Ok(documents) = parse("t", &text, &here()) {
            let documents: Vec<_> = documents.into_iter().map(Arc::new).collect();
            let _ = Plan::resolve(&documents);
        }
    }
}
