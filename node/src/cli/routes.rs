//! `routes`: where calls to a service go by the traffic rules, and which of them hold.

use clap::Args;
use skein_protocol::manifest::traffic::percent;

use super::{
    Client, Console, Exit,
    exit::CliError,
    output::{Rows, Show, clean},
    service_path,
};
use crate::api::dto::{ExplainedRequest, RoutesReport, RoutesRequest};

/// `skein routes`.
#[derive(Args, Debug)]
pub(super) struct RoutesArgs {
    /// The service, `name` or `namespace/name`, with `:PORT` where it is not the first
    service: String,
    /// Explain a request, in place of a connection of bytes
    #[arg(long, num_args = 2, value_names = ["METHOD", "PATH"])]
    explain: Vec<String>,
    /// A header of that request; repeatable
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", requires = "explain")]
    headers: Vec<String>,
}

/// Exits 1 where a service or port is not known.
pub(super) fn routes(
    client: &Client,
    args: &RoutesArgs,
    console: &mut Console<'_>,
) -> Result<Exit, CliError> {
    let (service, port) = args.service.rsplit_once(':').unwrap_or((&args.service, ""));
    let headers = args.headers.iter().map(|text| match text.split_once(':') {
        Some((name, value)) => Ok((name.trim().to_ascii_lowercase(), value.trim().to_owned())),
        None => Err(CliError::usage(format!("`{text}`: write `name: value`"))),
    });
    let headers = headers.collect::<Result<_, _>>()?;
    let request = match args.explain.as_slice() {
        [method, path] => {
            Some(ExplainedRequest { method: method.clone(), path: path.clone(), headers })
        }
        _ => None,
    };
    let asked = RoutesRequest { service: service_path(service)?, port: port.to_owned(), request };
    let report: RoutesReport = client.post("/v1/routes", &asked)?;
    console.show(&report)?;
    Ok(Exit::Done)
}

impl Show for RoutesReport {
    fn text(&self, _: bool) -> String {
        let head = ["HOLDS", "TYPE", "RULE", "LEVEL", "MATCH", "DOES"];
        let mut rules = Rows::new(&head, "no rule is about this port");
        for rule in &self.rules {
            rules.row([
                if rule.holds { "yes" } else { "-" }.to_owned(),
                rule.kind.clone(),
                clean(&rule.name),
                rule.level.clone(),
                clean(&rule.matches),
                clean(&rule.does),
            ]);
        }
        let mut legs = Rows::new(&["SHARE", "TO", "PORT", "INSTANCES", "USABLE", "BY"], "");
        for leg in &self.legs {
            let all = || "all".to_owned();
            legs.row([
                percent(leg.share),
                clean(&leg.service),
                leg.port.clone(),
                if leg.subset.is_empty() { all() } else { clean(&leg.subset) },
                format!("{}/{}", leg.usable, leg.of),
                clean(&leg.by),
            ]);
        }
        let (service, port, carried) = (clean(&self.service), self.port, clean(&self.carried));
        format!(
            "{service} port {port}, carried as {carried}\n{}\n\n{}",
            rules.text().trim_end(),
            legs.text()
        )
    }

    fn names(&self) -> Vec<String> {
        let held = self.rules.iter().filter(|rule| rule.holds);
        held.map(|rule| rule.name.clone()).collect()
    }
}
