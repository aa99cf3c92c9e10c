//! Manifests as the tests write them.

use std::net::SocketAddr;

/// A host's instance of `name`, dialled at `port` through the mesh, its process at `process`.
/// Checked every 500 ms, so that no test waits for the default of 5 s.
pub fn registry(name: &str, port: u16, process: SocketAddr) -> String {
    let (address, target) = (process.ip(), process.port());
    format!(
        "apiVersion: skein/v1
kind: ServiceRegistry
metadata: {{name: {name}, namespace: shop}}
spec:
  ports: [{{name: tcp, port: {port}, targetPort: {target}}}]
  endpoints: [{{name: a, address: {address}, port: {target}}}]
  checks: [{{type: tcp, interval: 500ms, timeout: 300ms, failuresBeforeCritical: 2}}]
"
    )
}

/// A host's way to shop/`name`: what dials `here` on it is carried to `port` of the service.
pub fn discovery(name: &str, here: u16, port: u16) -> String {
    format!(
        "apiVersion: skein/v1
kind: ServiceDiscovery
metadata: {{name: {name}, namespace: shop}}
spec:
  service: shop/{name}
  ports: [{{name: tcp, port: {here}, targetPort: {port}}}]
"
    )
}

/// The agent's own document, with these lines of `meshConfig`.
pub fn agent(settings: &[&str]) -> String {
    let settings: String = settings.iter().map(|line| format!("    {line}\n")).collect();
    format!(
        "apiVersion: skein/v1
kind: ServiceMesh
metadata: {{name: agent, namespace: shop}}
spec:
  meshConfig:
    serviceMesh: test
{settings}"
    )
}
