//! `status`, `members`, `services`, `service`, `links`, `certs`, `listeners`: what this agent
//! knows, each with its age.

use clap::Args;

use super::{
    Client, Console, Exit,
    exit::CliError,
    output::{Rows, Show, bytes, clean, millis, seconds},
    service_path,
};
use crate::api::dto::{
    BindReport, CaptureStatus, Certificate, EndpointInfo, Link, Listener, Member, PortInfo,
    ServiceDetail, ServiceSummary, Status,
};

/// `skein service`.
#[derive(Args, Debug)]
pub(super) struct ServiceArgs {
    /// The service: `namespace/name`, or a name in this host's namespace
    name: String,
    /// Bind its virtual address on this host, so that programs here can call it by name
    #[arg(long)]
    bind: bool,
}

/// Exits 3 while something is degraded.
pub(super) fn status(client: &Client, console: &mut Console<'_>) -> Result<Exit, CliError> {
    let status: Status = client.get("/v1/status")?;
    console.show(&status)?;
    Ok(match status.degraded() {
        true => Exit::Degraded,
        false => Exit::Done,
    })
}

/// Members of the mesh.
pub(super) fn members(client: &Client, console: &mut Console<'_>) -> Result<Exit, CliError> {
    console.show(&client.get::<Vec<Member>>("/v1/members")?)?;
    Ok(Exit::Done)
}

/// Services of the mesh.
pub(super) fn services(client: &Client, console: &mut Console<'_>) -> Result<Exit, CliError> {
    console.show(&client.get::<Vec<ServiceSummary>>("/v1/services")?)?;
    Ok(Exit::Done)
}

/// One service. With `--bind`, exits 3 when a port could not be bound.
pub(super) fn service(
    client: &Client,
    args: &ServiceArgs,
    console: &mut Console<'_>,
) -> Result<Exit, CliError> {
    let name = service_path(&args.name)?;
    if !args.bind {
        console.show(&client.get::<ServiceDetail>(&format!("/v1/services/{name}"))?)?;
        return Ok(Exit::Done);
    }
    let report: BindReport = client.post(&format!("/v1/bind/{name}"), &())?;
    console.show(&report)?;
    Ok(match report.listeners.iter().any(|l| l.state == "failed") {
        true => Exit::Degraded,
        false => Exit::Done,
    })
}

/// Links to other agents.
pub(super) fn links(client: &Client, console: &mut Console<'_>) -> Result<Exit, CliError> {
    console.show(&client.get::<Vec<Link>>("/v1/links")?)?;
    Ok(Exit::Done)
}

/// Certificates. Exits 3 when one of them has a problem.
pub(super) fn certs(client: &Client, console: &mut Console<'_>) -> Result<Exit, CliError> {
    let certificates: Vec<Certificate> = client.get("/v1/certs")?;
    console.show(&certificates)?;
    Ok(match certificates.iter().any(|c| c.problem.is_some()) {
        true => Exit::Degraded,
        false => Exit::Done,
    })
}

/// Where this host listens.
pub(super) fn listeners(client: &Client, console: &mut Console<'_>) -> Result<Exit, CliError> {
    console.show(&client.get::<Vec<Listener>>("/v1/listeners")?)?;
    Ok(Exit::Done)
}

/// How virtual addresses are bound, in a line.
fn capture(capture: &CaptureStatus) -> String {
    let CaptureStatus { mode, range, reason } = capture;
    match (mode.as_str(), reason.as_str()) {
        ("redirect", _) => format!("{range}, redirected"),
        ("off", _) => "off".to_owned(),
        (_, "") => format!("{range}, bound as asked for"),
        (_, why) => format!("{range}, bound as asked for; not redirected: {}", clean(why)),
    }
}

impl Show for Status {
    fn text(&self, _: bool) -> String {
        let (m, v, p) = (&self.members, &self.view, &self.policy);
        let mut text = format!(
            "mesh      {} (skein {})\n\
             node      {} {} at {}, {}, {}\n\
             members   {} alive, {} suspect, {} dead, {} left\n\
             view      {} services, {} endpoints, root {}, {} old\n\
             policy    {}/{} nodes at root {}\n\
             issuers   {}\n\
             virtual   {}\n",
            clean(&self.mesh),
            self.version,
            clean(&self.node.name),
            self.node.id,
            self.node.address,
            self.zone,
            self.node.state,
            m.alive,
            m.suspect,
            m.dead,
            m.left,
            v.services,
            v.endpoints,
            clean(&v.root),
            millis(v.age_ms),
            p.agreeing,
            p.of,
            clean(&p.root),
            self.issuers,
            capture(&self.capture),
        );
        if self.problems.is_empty() {
            text += "problems  none\n";
        }
        for problem in &self.problems {
            text += &format!("{}  {}: {}\n", problem.severity, problem.kind, clean(&problem.text));
            if !problem.fix.is_empty() {
                text += &format!("          next: {}\n", clean(&problem.fix));
            }
        }
        text
    }

    fn names(&self) -> Vec<String> {
        vec![self.node.name.clone()]
    }
}

fn rtt(ms: Option<f64>) -> String {
    ms.map_or_else(String::new, |ms| format!("{ms:.1} ms"))
}

impl Show for Vec<Member> {
    fn text(&self, wide: bool) -> String {
        let heard = |m: &Member| m.last_heard_ms.map_or_else(String::new, millis);
        let state = |m: &Member| match m.note.as_str() {
            "" => m.state.clone(),
            note => format!("{}, {note}", m.state),
        };
        let empty = "no members known";
        if wide {
            let heading = [
                "NAME", "ID", "ADDRESS", "ZONE", "STATE", "RTT", "HEARD", "REACH", "VERSION",
                "POLICY",
            ];
            let mut rows = Rows::new(&heading, empty);
            for m in self {
                let (name, id, address) = (m.name.clone(), m.id.clone(), m.address.clone());
                let (zone, state, reach) = (m.zone.clone(), state(m), m.reach.clone());
                let (version, policy) = (m.version.clone(), m.policy_root.clone());
                let (rtt, heard) = (rtt(m.rtt_ms), heard(m));
                rows.row([name, id, address, zone, state, rtt, heard, reach, version, policy]);
            }
            return rows.text();
        }
        let mut rows = Rows::new(&["NAME", "ADDRESS", "ZONE", "STATE", "RTT", "HEARD"], empty);
        for m in self {
            let (name, address, zone) = (m.name.clone(), m.address.clone(), m.zone.clone());
            rows.row([name, address, zone, state(m), rtt(m.rtt_ms), heard(m)]);
        }
        rows.text()
    }

    fn names(&self) -> Vec<String> {
        self.iter().map(|m| m.name.clone()).collect()
    }
}

fn ports(ports: &[PortInfo]) -> String {
    let port = |p: &PortInfo| format!("{}:{}/{}", p.name, p.port, p.protocol);
    ports.iter().map(port).collect::<Vec<_>>().join(",")
}

impl Show for Vec<ServiceSummary> {
    fn text(&self, wide: bool) -> String {
        let mut heading = vec!["SERVICE", "PORTS", "PASSING", "WARNING", "CRITICAL", "SOURCE"];
        heading.extend(wide.then_some("TAGS"));
        let mut rows = Rows::new(&heading, "no services known");
        for s in self {
            let name = format!("{}/{}", s.namespace, s.name);
            let e = s.endpoints;
            let (passing, warning) = (e.passing.to_string(), e.warning.to_string());
            let (critical, source) = (e.critical.to_string(), s.source.clone());
            let ports = ports(&s.ports);
            match wide {
                true => {
                    let tags = s.tags.join(",");
                    rows.row([name, ports, passing, warning, critical, source, tags]);
                }
                false => rows.row([name, ports, passing, warning, critical, source]),
            }
        }
        rows.text()
    }

    fn names(&self) -> Vec<String> {
        self.iter().map(|s| format!("{}/{}", s.namespace, s.name)).collect()
    }
}

fn endpoint_address(e: &EndpointInfo) -> String {
    match e.port {
        0 => e.address.clone(),
        port => format!("{}:{port}", e.address),
    }
}

impl Show for ServiceDetail {
    fn text(&self, wide: bool) -> String {
        let mut text = format!(
            "service   {}/{}\nports     {}\nvirtual   {}\n\n",
            self.namespace,
            self.name,
            clean(&ports(&self.ports)),
            self.virtual_address
                .as_deref()
                .unwrap_or("- (not bound; `skein service NAME --bind` binds it)"),
        );
        let mut heading = vec!["ENDPOINT", "ZONE", "STATUS", "WEIGHT", "REASON"];
        if wide {
            heading.extend(["ADDRESS", "VERSION", "TAGS"]);
        }
        let mut rows = Rows::new(&heading, "no endpoints known");
        for e in &self.endpoints {
            let (id, zone, status) = (e.id.clone(), e.zone.clone(), e.status.clone());
            let reason = e.reason.clone().unwrap_or_default();
            let reason = match (reason.as_str(), e.note.as_str()) {
                (_, "") => reason,
                ("", note) => note.to_owned(),
                (reason, note) => format!("{reason}: {note}"),
            };
            let weight = e.weight.to_string();
            let version = e.version.clone().unwrap_or_default();
            match wide {
                true => {
                    let (address, tags) = (endpoint_address(e), e.tags.join(","));
                    rows.row([id, zone, status, weight, reason, address, version, tags]);
                }
                false => rows.row([id, zone, status, weight, reason]),
            }
        }
        text += &rows.text();
        if !self.listeners.is_empty() {
            text += &format!("\n{}", self.listeners.text(wide));
        }
        text
    }

    fn names(&self) -> Vec<String> {
        self.endpoints.iter().map(|e| e.id.clone()).collect()
    }
}

fn listener_address(l: &Listener) -> String {
    match l.port {
        0 => l.address.clone(),
        port => format!("{}:{port}", l.address),
    }
}

impl Show for Vec<Listener> {
    fn text(&self, _: bool) -> String {
        let heading = ["LISTENER", "ADDRESS", "SERVICE", "PORT", "STATE", "REASON"];
        let mut rows = Rows::new(&heading, "no listeners");
        let mut fixes = String::new();
        for l in self {
            let target = match l.target_port {
                0 => String::new(),
                port => port.to_string(),
            };
            let (kind, service, state) = (l.kind.clone(), l.service.clone(), l.state.clone());
            let reason = l.reason.clone().unwrap_or_default();
            rows.row([kind, listener_address(l), service, target, state, reason]);
            if let Some(fix) = &l.fix {
                fixes += &format!("next: {}\n", clean(fix));
            }
        }
        rows.text() + &fixes
    }

    fn names(&self) -> Vec<String> {
        self.iter().map(listener_address).collect()
    }
}

impl Show for BindReport {
    fn text(&self, wide: bool) -> String {
        format!("{} is at {}\n{}", self.service, self.virtual_address, self.listeners.text(wide))
    }

    fn names(&self) -> Vec<String> {
        vec![self.virtual_address.clone()]
    }
}

impl Show for Vec<Link> {
    fn text(&self, wide: bool) -> String {
        let mut heading = vec!["PEER", "ROLE", "DIR", "VIA", "ADDRESS", "RTT", "AGE"];
        if wide {
            heading.extend(["SENT", "RECEIVED", "LOST", "MTU"]);
        }
        let mut rows = Rows::new(&heading, "no links to other agents");
        for l in self {
            let (name, role, dir) = (l.name.clone(), l.role.clone(), l.direction.clone());
            let (via, address, rtt) = (l.transport.clone(), l.address.clone(), rtt(l.rtt_ms));
            let age = millis(l.age_ms);
            match wide {
                true => {
                    let (sent, received) = (bytes(l.bytes_sent), bytes(l.bytes_received));
                    let (lost, mtu) = (l.lost.to_string(), l.mtu.to_string());
                    rows.row([name, role, dir, via, address, rtt, age, sent, received, lost, mtu]);
                }
                false => rows.row([name, role, dir, via, address, rtt, age]),
            }
        }
        rows.text()
    }

    fn names(&self) -> Vec<String> {
        self.iter().map(|l| format!("{}/{}", l.name, l.role)).collect()
    }
}

impl Show for Vec<Certificate> {
    fn text(&self, wide: bool) -> String {
        let mut heading = vec!["KIND", "NAME", "ID", "ENDS", "LEFT", "SERVICES", "PROBLEM"];
        if wide {
            heading.extend(["SERIAL", "FILE"]);
        }
        let mut rows = Rows::new(&heading, "no certificates");
        for c in self {
            let left = match u64::try_from(c.seconds_left) {
                Ok(left) => seconds(left),
                Err(_) => format!("past by {}", seconds(c.seconds_left.unsigned_abs())),
            };
            let (kind, name, id) = (c.kind.clone(), c.name.clone(), c.id.clone());
            let (ends, services) = (c.not_after.clone(), c.services.join(","));
            let problem = c.problem.clone().unwrap_or_default();
            match wide {
                true => {
                    let (serial, path) = (c.serial.clone(), c.path.clone());
                    rows.row([kind, name, id, ends, left, services, problem, serial, path]);
                }
                false => rows.row([kind, name, id, ends, left, services, problem]),
            }
        }
        rows.text()
    }

    fn names(&self) -> Vec<String> {
        self.iter().map(|c| format!("{}/{}", c.kind, c.id)).collect()
    }
}
