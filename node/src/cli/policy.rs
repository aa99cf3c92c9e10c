//! `policy status|default|edges`, `why`: who may call whom, and why not.

use clap::{Args, Subcommand};
use skein_protocol::words;

use super::{
    Client, Console, Exit,
    documents::{self, SignArgs},
    exit::CliError,
    output::{Rows, Show, clean, millis},
    service_path,
};
use crate::api::dto::{EdgeInfo, EdgesReport, PolicyReport, SourceFile, WhyReport, WhyRequest};

/// `skein policy`.
#[derive(Subcommand, Debug)]
pub(super) enum PolicyCommand {
    /// Which nodes hold which policy, as each says now; exits 3 unless all agree
    Status,
    /// Say what holds for calls that no rule matches
    Default(DefaultArgs),
    /// Who calls whom, and what the rules say of it
    Edges(EdgesArgs),
}

/// `skein policy default`.
#[derive(Args, Debug)]
pub(super) struct DefaultArgs {
    /// allow or deny
    #[arg(value_parser = ["allow", "deny"])]
    effect: String,
    /// What about: a service, `NAMESPACE/*`, or `*/*`
    #[arg(default_value = "*/*")]
    destination: String,
    /// Decide nothing yet, only log and count what it would do
    #[arg(long)]
    audit: bool,
    #[command(flatten)]
    sign: SignArgs,
}

/// `skein policy edges`.
#[derive(Args, Debug)]
pub(super) struct EdgesArgs {
    /// Only edges that documents in audit mode would cut; with -o yaml: the allows that keep them
    #[arg(long)]
    would_deny: bool,
}

/// `skein why`.
#[derive(Args, Debug)]
pub(super) struct WhyArgs {
    /// The calling service; else this node
    #[arg(long, value_name = "SERVICE")]
    from: Option<String>,
    /// The service called, `name` or `namespace/name`, with `:PORT` where it is not the first
    service: String,
}

/// The verbs of policy.
pub(super) fn policy(
    client: &Client,
    command: &PolicyCommand,
    console: &mut Console<'_>,
) -> Result<Exit, CliError> {
    match command {
        PolicyCommand::Status => {
            let report: PolicyReport = client.get("/v1/policy")?;
            console.show(&report)?;
            let agree = report.agreeing == report.of && report.conflicts.is_empty();
            Ok(if agree { Exit::Done } else { Exit::Degraded })
        }
        PolicyCommand::Default(args) => default(client, args, console),
        PolicyCommand::Edges(args) => edges(client, args, console),
    }
}

fn default(
    client: &Client,
    args: &DefaultArgs,
    console: &mut Console<'_>,
) -> Result<Exit, CliError> {
    let (namespace, destination) = match args.destination.split_once('/') {
        Some(("*", "*")) => ("default", "*/*".to_owned()),
        Some((namespace, "*")) => (namespace, "*".to_owned()),
        Some((namespace, name)) => (namespace, name.to_owned()),
        None => {
            let text = format!("`{}`: write namespace/name, namespace/* or */*", args.destination);
            return Err(CliError::usage(text));
        }
    };
    let mode = if args.audit { "audit" } else { "enforce" };
    let effect = &args.effect;
    let name = match destination.as_str() {
        "*/*" => "mesh-default".to_owned(),
        "*" => "namespace-default".to_owned(),
        service => format!("{service}-default"),
    };
    let text = format!(
        "apiVersion: skein/v1\nkind: AccessPolicy\nmetadata: {{name: {name}, namespace: \
         {namespace}}}\nspec: {{destination: \"{destination}\", default: {effect}, mode: {mode}}}\n"
    );
    let file = SourceFile { name: format!("policy default {effect}"), text };
    documents::apply_files(client, vec![file], &args.sign, console)
}

fn edges(client: &Client, args: &EdgesArgs, console: &mut Console<'_>) -> Result<Exit, CliError> {
    let mut report: EdgesReport = client.get("/v1/edges")?;
    if args.would_deny {
        report.edges.retain(|edge| edge.allowed && !edge.would);
        if console.format == super::output::Format::Yaml {
            console.print(&allows(&report.edges))?;
            return Ok(silent(&report, console));
        }
    }
    console.show(&report)?;
    Ok(silent(&report, console))
}

/// Edges of hosts that did not answer are not there: a script must not take the rest for all.
fn silent(report: &EdgesReport, console: &mut Console<'_>) -> Exit {
    for who in &report.silent {
        console.say(&format!("skein: not asked: {}", clean(who)));
    }
    if report.silent.is_empty() { Exit::Done } else { Exit::Degraded }
}

/// The AccessPolicy documents that allow these edges, one per destination.
fn allows(edges: &[EdgeInfo]) -> String {
    let mut destinations: Vec<&str> = edges.iter().map(|e| e.destination.as_str()).collect();
    destinations.sort_unstable();
    destinations.dedup();
    let document = |destination: &str| {
        let (namespace, name) = destination.split_once('/').unwrap_or(("default", destination));
        let mut from: Vec<String> = edges
            .iter()
            .filter(|edge| edge.destination == destination)
            .map(|edge| match &edge.source {
                Some(source) => format!("  - {{service: {source}}}\n"),
                None => format!("  - {{node: {}}}   # it proved no service\n", edge.node),
            })
            .collect();
        from.sort_unstable();
        from.dedup();
        format!(
            "apiVersion: skein/v1\nkind: AccessPolicy\nmetadata: {{name: {name}-callers, namespace: \
             {namespace}}}\nspec:\n  destination: {name}\n  action: allow\n  from:\n{}",
            from.concat()
        )
    };
    destinations.into_iter().map(document).collect::<Vec<_>>().join("---\n")
}

/// Exits 1 when the call would not work.
pub(super) fn why(
    client: &Client,
    args: &WhyArgs,
    console: &mut Console<'_>,
) -> Result<Exit, CliError> {
    let (service, port) = args.service.rsplit_once(':').unwrap_or((&args.service, ""));
    let asked = WhyRequest {
        service: service_path(service)?,
        port: port.to_owned(),
        from: args.from.as_deref().map(service_path).transpose()?.unwrap_or_default(),
    };
    let report: WhyReport = client.post("/v1/why", &asked)?;
    console.show(&report)?;
    Ok(if report.works { Exit::Done } else { Exit::Failed })
}

impl Show for PolicyReport {
    fn text(&self, wide: bool) -> String {
        let root = |root: &str| root.get(..16).unwrap_or(root).to_owned();
        let mut text = format!(
            "{}/{} nodes at root {}, asked within {}; {} in force\n",
            self.agreeing,
            self.of,
            root(&self.root),
            millis(self.ms),
            words::count(usize::try_from(self.documents).unwrap_or(0), "document", "documents")
        );
        for conflict in &self.conflicts {
            let name = format!("{} {}/{}", conflict.kind, conflict.namespace, conflict.name);
            text += &format!("conflict in {name}: {}\n", clean(&conflict.versions.join("; ")));
            text += &format!("  next: {}\n", clean(&conflict.fix));
        }
        let mut rows = Rows::new(&["NODE", "STATE", "ROOT", "SAID", "REASON"], "");
        for node in self.nodes.iter().filter(|node| wide || node.state != "agrees") {
            let said = match node.root.is_empty() {
                true => "never".to_owned(),
                false => format!("{} ago", millis(node.age_ms)),
            };
            let (name, state) = (node.node.clone(), node.state.clone());
            rows.row([name, state, root(&node.root), said, node.reason.clone()]);
        }
        text + &rows.text()
    }

    fn names(&self) -> Vec<String> {
        let agree = self.nodes.iter().filter(|node| node.state == "agrees");
        agree.map(|node| node.node.clone()).collect()
    }
}

fn caller(edge: &EdgeInfo) -> String {
    let outside = if edge.outside { " from outside" } else { "" };
    match &edge.source {
        Some(source) => format!("{source} on {}{outside}", edge.node),
        None => format!("node {}{outside}", edge.node),
    }
}

impl Show for Vec<EdgeInfo> {
    fn text(&self, wide: bool) -> String {
        let mut heading = vec!["FROM", "TO", "AT", "CALLS", "DENIED", "LAST", "NOW", "WOULD"];
        if wide {
            heading.push("RULE");
        }
        let mut rows = Rows::new(&heading, "no calls were seen since the agents started");
        let word = |yes| if yes { "allow" } else { "deny" }.to_owned();
        for e in self {
            let last = match e.age_s {
                0 => "now".to_owned(),
                age => format!("{age} s ago"),
            };
            let cells = [
                caller(e),
                format!("{}:{}", e.destination, e.port),
                e.at.clone(),
                e.calls.to_string(),
                e.denied.to_string(),
                last,
                word(e.allowed),
                word(e.would),
            ];
            match wide {
                false => rows.row(cells),
                true => {
                    let [a, b, c, d, e0, f, g, h] = cells;
                    rows.row([a, b, c, d, e0, f, g, h, e.rule.clone()]);
                }
            }
        }
        rows.text()
    }

    fn names(&self) -> Vec<String> {
        self.iter().map(|e| format!("{} -> {}:{}", caller(e), e.destination, e.port)).collect()
    }
}

impl Show for EdgesReport {
    fn text(&self, wide: bool) -> String {
        self.edges.text(wide)
    }

    fn names(&self) -> Vec<String> {
        self.edges.names()
    }
}

impl Show for WhyReport {
    fn text(&self, _: bool) -> String {
        let mut text = String::new();
        for step in &self.steps {
            let mark = if step.ok { "ok  " } else { "FAIL" };
            text += &format!("{mark} {:<9} {}\n", step.step, clean(&step.detail));
            if !step.fix.is_empty() {
                text += &format!("     next: {}\n", clean(&step.fix));
            }
        }
        text
    }

    fn names(&self) -> Vec<String> {
        self.steps.iter().filter(|step| !step.ok).map(|step| step.step.clone()).collect()
    }
}
