//! The demo's stage: agents on loopback addresses, their generated files, their services.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use axum::http::Method;
use serde::de::DeserializeOwned;

use super::process::{Child, Starter};
use crate::cli::Caller;

/// Ports of every agent's address: mesh, http and dns of the agent, then the demo's own.
const AGENT_PORTS: [u16; 3] = [7400, 7401, 7402];
/// What callers dial at the calling agent.
pub(super) const WEB_HERE: u16 = 9080;
/// The same of the echo.
pub(super) const ECHO_HERE: u16 = 9081;
/// Where the processes listen.
const WEB_PROCESS: u16 = 18080;
const ECHO_PROCESS: u16 = 18081;

/// One agent and the processes beside it.
#[derive(Debug)]
pub(super) struct Node {
    /// `demo-1` and so on.
    pub(super) name: String,
    /// Its loopback address.
    pub(super) ip: Ipv4Addr,
    /// Its files, to look at.
    pub(super) dir: PathBuf,
    /// The agent, while it runs.
    pub(super) agent: Option<Child>,
    /// The HTTP instance, while it runs.
    pub(super) web: Option<Child>,
    echo: Option<Child>,
}

impl Node {
    fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// The agent's `--dir`.
    pub(super) fn state_text(&self) -> String {
        self.state().display().to_string()
    }

    /// Asks this agent.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let caller = Caller::new(&self.state(), super::ANSWER);
        Ok(caller.ask(Method::GET, path, &()).await?)
    }

    /// The last lines of the agent's log.
    pub(super) fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(self.dir.join("agent.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(LOG_LINES).collect();
        lines.into_iter().rev().map(|l| format!("  {}: {l}\n", self.name)).collect()
    }
}

/// All of it. Dropped: processes first, then the watchdog.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) nodes: Vec<Node>,
    pub(super) starter: Starter,
    pub(super) dir: PathBuf,
}

impl Stage {
    /// Chooses addresses and writes the files. Starts nothing yet but the watchdog.
    pub(super) fn new(agents: u8, program: PathBuf, dir: &Path) -> Result<Self> {
        let addresses = free_addresses(usize::from(agents))?;
        let starter = Starter::new(program, dir)?;
        let mut nodes = Vec::new();
        for (number, ip) in addresses.into_iter().enumerate() {
            let name = format!("demo-{}", number + 1);
            let node = Node { dir: dir.join(&name), name, ip, agent: None, web: None, echo: None };
            write_files(&node, number + 1 == usize::from(agents))?;
            nodes.push(node);
        }
        Ok(Self { nodes, starter, dir: dir.to_owned() })
    }

    /// The agents that serve: all but the last.
    pub(super) fn serving(&self) -> std::ops::Range<usize> {
        0..self.nodes.len().saturating_sub(1)
    }

    /// The agent that calls, and serves nothing: its calls all go through the mesh.
    pub(super) fn calling(&self) -> Result<&Node> {
        self.nodes.last().context("a demo without agents")
    }

    /// The agent of that number, from 0.
    pub(super) fn node(&self, number: usize) -> Result<&Node> {
        self.nodes.get(number).context("a demo with too few agents")
    }

    /// Where calls of a service go in.
    pub(super) fn entry(&self, port: u16) -> Result<SocketAddr> {
        Ok(SocketAddr::from((self.calling()?.ip, port)))
    }

    /// Starts an agent; `seed` is whom it joins by.
    pub(super) fn start_agent(&mut self, number: usize, seed: Option<Ipv4Addr>) -> Result<()> {
        let node = self.nodes.get_mut(number).context("no such agent")?;
        let mut arguments = vec![
            "agent".to_owned(),
            "--dir".to_owned(),
            node.state_text(),
            "-f".to_owned(),
            node.dir.join("mesh.yaml").display().to_string(),
            "-f".to_owned(),
            node.dir.join("services.d").display().to_string(),
            "--bind".to_owned(),
            node.ip.to_string(),
        ];
        if let Some(seed) = seed {
            arguments.extend(["--join".to_owned(), mesh_address(seed)]);
        }
        let log = node.dir.join("agent.log");
        node.agent = Some(self.starter.start(&arguments, &log)?);
        Ok(())
    }

    /// Starts the two services beside an agent, those that do not run.
    pub(super) fn start_services(&mut self, number: usize) -> Result<()> {
        let node = self.nodes.get_mut(number).context("no such agent")?;
        let (name, ip, log) = (node.name.clone(), node.ip, node.dir.join("services.log"));
        let arguments = |verb: &str, port: u16| {
            let at = format!("{ip}:{port}");
            ["--listen", &at, "--name", &name].into_iter().fold(
                vec![verb.to_owned()],
                |mut all, word| {
                    all.push(word.to_owned());
                    all
                },
            )
        };
        if node.web.is_none() {
            node.web = Some(self.starter.start(&arguments("demo-http", WEB_PROCESS), &log)?);
        }
        if node.echo.is_none() {
            node.echo = Some(self.starter.start(&arguments("demo-tcp", ECHO_PROCESS), &log)?);
        }
        Ok(())
    }

    /// Kills the HTTP instance beside an agent.
    pub(super) fn kill_web(&mut self, number: usize) -> Result<()> {
        let node = self.nodes.get_mut(number).context("no such agent")?;
        let child = node.web.take().context("the instance does not run")?;
        self.starter.kill(child);
        Ok(())
    }

    /// Kills an agent, and nothing else on its host.
    pub(super) fn kill_agent(&mut self, number: usize) -> Result<()> {
        let node = self.nodes.get_mut(number).context("no such agent")?;
        let child = node.agent.take().context("the agent does not run")?;
        self.starter.kill(child);
        Ok(())
    }

    /// The first agent that should run and has ended.
    pub(super) fn fallen(&mut self) -> Option<String> {
        self.nodes.iter_mut().find_map(|node| {
            let how = node.agent.as_mut()?.ended()?;
            Some(format!("the agent of {} ended by itself: {how}", node.name))
        })
    }

    /// What the agents said last.
    pub(super) fn log_tails(&self) -> String {
        self.nodes.iter().map(Node::log_tail).collect()
    }
}

/// Where an agent is joined.
pub(super) fn mesh_address(ip: Ipv4Addr) -> String {
    format!("{ip}:7400")
}

/// Addresses 127.0.0.N, from 11 on, on which every port of the demo is free.
fn free_addresses(count: usize) -> Result<Vec<Ipv4Addr>> {
    let free: Vec<Ipv4Addr> =
        (11..=120).map(|last| Ipv4Addr::new(127, 0, 0, last)).filter(is_free).take(count).collect();
    if free.len() < count {
        bail!(
            "only {} of {count} loopback addresses from 127.0.0.11 to 127.0.0.120 have the ports \
             7400 to 7402, {WEB_HERE}, {ECHO_HERE}, {WEB_PROCESS} and {ECHO_PROCESS} free; see \
             `ss -lntu` for what holds them",
            free.len()
        );
    }
    Ok(free)
}

fn is_free(ip: &Ipv4Addr) -> bool {
    let own = [WEB_HERE, ECHO_HERE, WEB_PROCESS, ECHO_PROCESS];
    let mut ports = AGENT_PORTS.into_iter().chain(own);
    ports.all(|port| TcpListener::bind((*ip, port)).is_ok())
        && AGENT_PORTS.iter().all(|port| UdpSocket::bind((*ip, *port)).is_ok())
}

fn write_files(node: &Node, calls: bool) -> Result<()> {
    let services = node.dir.join("services.d");
    std::fs::create_dir_all(&services)
        .with_context(|| format!("cannot make {}", services.display()))?;
    std::fs::write(node.dir.join("mesh.yaml"), MESH)?;
    for service in SERVICES {
        let text = match calls {
            true => service.discovery(),
            false => service.registry(node.ip),
        };
        std::fs::write(services.join(format!("{}.yaml", service.name)), text)?;
    }
    Ok(())
}

struct Service {
    name: &'static str,
    protocol: &'static str,
    check: &'static str,
    port: u16,
    here: u16,
    process: u16,
}

impl Service {
    fn registry(&self, ip: Ipv4Addr) -> String {
        let Self { name, protocol, check, port, process, .. } = self;
        format!(
            "# This host serves demo/{name}: a process at {ip}:{process}.\n\
             apiVersion: skein/v1\n\
             kind: ServiceRegistry\n\
             metadata: {{name: {name}, namespace: demo}}\n\
             spec:\n\
             \x20 version: \"1.0.0\"\n\
             \x20 ports:\n\
             \x20 - {{name: {protocol}, port: {port}, targetPort: {process}}}\n\
             \x20 endpoints:\n\
             \x20 - {{name: a, address: {ip}, port: {process}}}\n\
             \x20 checks:\n\
             \x20 - {check}\n"
        )
    }

    fn discovery(&self) -> String {
        let Self { name, protocol, port, here, .. } = self;
        format!(
            "# This host uses demo/{name}: what dials port {here} here is carried to an instance.\n\
             apiVersion: skein/v1\n\
             kind: ServiceDiscovery\n\
             metadata: {{name: {name}, namespace: demo}}\n\
             spec:\n\
             \x20 service: demo/{name}\n\
             \x20 ports:\n\
             \x20 - {{name: {protocol}, port: {here}, targetPort: {port}}}\n"
        )
    }
}

const SERVICES: [Service; 2] = [
    Service {
        name: "web",
        protocol: "http",
        check: "{type: http, path: /, interval: 1s, timeout: 500ms, failuresBeforeCritical: 2}",
        port: 8080,
        here: WEB_HERE,
        process: WEB_PROCESS,
    },
    Service {
        name: "echo",
        protocol: "tcp",
        check: "{type: tcp, interval: 1s, timeout: 500ms, failuresBeforeCritical: 2}",
        port: 8081,
        here: ECHO_HERE,
        process: ECHO_PROCESS,
    },
];

const MESH: &str = "\
# The agent's own document. Its address comes from --bind, its keys from its directory.
apiVersion: skein/v1
kind: ServiceMesh
metadata: {name: agent, namespace: demo}
spec:
  meshConfig:
    serviceMesh: demo
    enableLogs: true
    drain: 5s
";

const LOG_LINES: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_with_a_port_in_use_is_passed_over() {
        let ip = Ipv4Addr::new(127, 0, 0, 119);
        let Ok(held) = TcpListener::bind((ip, ECHO_HERE)) else {
            return; // Something else holds it: then it is not free either.
        };
        assert!(!is_free(&ip));
        drop(held);
    }

    #[test]
    fn the_files_are_yaml_and_name_the_host() {
        let text = SERVICES[0].registry(Ipv4Addr::new(127, 0, 0, 11));
        let value: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(value["spec"]["endpoints"][0]["address"], "127.0.0.11");
        assert_eq!(value["spec"]["checks"][0]["type"], "http");
        let value: serde_json::Value = serde_saphyr::from_str(&SERVICES[1].discovery()).unwrap();
        assert_eq!(value["spec"]["ports"][0]["targetPort"], 8081);
        let value: serde_json::Value = serde_saphyr::from_str(MESH).unwrap();
        assert_eq!(value["spec"]["meshConfig"]["serviceMesh"], "demo");
    }
}
