//! `wharf ps`: what runs, as a table.

use anyhow::{Context, anyhow};
use wharf_api::console::{Overview, ReplicaView, ServiceView};
use wharf_local::{Order, Reply};

use super::ask;
use super::state::StateArg;
use crate::Env;
use crate::args::Output;
use crate::exit::{self, Failure};

/// Show what `wharf up` runs
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  wharf ps
  wharf ps --output json
  wharf ps --state /var/lib/wharf")]
pub(crate) struct Args {
    #[command(flatten)]
    state: StateArg,
    /// A table, or one JSON document
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

/// Runs the command to its end.
pub(crate) fn run(args: &Args, env: &Env) -> Result<(), Failure> {
    let Reply::Overview(overview) = ask::ask(&args.state.folder(env)?, &Order::Overview)? else {
        return Err(Failure::Failed(anyhow!("the supervisor gave the answer to another question")));
    };
    let text = match args.output {
        Output::Text => table(&overview),
        Output::Json => {
            serde_json::to_string_pretty(&overview).context("failed to write the overview as JSON")? + "\n"
        }
    };
    Ok(exit::print(&text)?)
}

fn table(overview: &Overview) -> String {
    let mut services =
        vec![["SERVICE", "PHASE", "READY", "REQ/S", "TOK/S", "TTFT P95", "QUEUED", "WHY"].map(str::to_owned)];
    let mut replicas = vec![
        ["REPLICA", "COLOUR", "STATE", "ADDRESS", "PID", "RUNNING", "RESTARTS", "WHY"].map(str::to_owned),
    ];
    for service in &overview.services {
        services.push(service_row(service));
        let facts = service.facts.clone().unwrap_or_default();
        replicas.extend(facts.replicas.iter().map(|replica| replica_row(service, replica)));
    }
    let mut text = aligned(&services);
    if replicas.len() > 1 {
        text.push('\n');
        text.push_str(&aligned(&replicas));
    }
    text
}

fn service_row(service: &ServiceView) -> [String; 8] {
    let facts = service.facts.clone().unwrap_or_default();
    let ready = facts.replicas.iter().filter(|replica| replica.state == "ready").count();
    let rates = &service.rates;
    [
        service.name.clone(),
        facts.phase,
        format!("{ready}/{}", facts.wanted),
        format!("{:.1}", rates.requests_per_second),
        format!("{:.1}", rates.tokens_per_second),
        rates.first_token_p95_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.0} ms")),
        service.demand.queued.to_string(),
        facts.message,
    ]
}

fn replica_row(service: &ServiceView, replica: &ReplicaView) -> [String; 8] {
    let endpoint = service.endpoints.iter().find(|endpoint| endpoint.address == replica.address);
    [
        replica.name.clone(),
        replica.colour.clone(),
        replica.state.clone(),
        if replica.address.is_empty() { "-".to_owned() } else { replica.address.clone() },
        replica.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
        endpoint.map_or(0, |endpoint| endpoint.in_flight).to_string(),
        replica.restarts.to_string(),
        replica.reason.clone(),
    ]
}

/// Columns as wide as their widest cell.
fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use wharf_api::console::ServiceFacts;

    use super::*;

    #[test]
    fn services_come_first_and_then_their_replicas() {
        let replica = ReplicaView {
            name: "a-blue-1".into(),
            state: "ready".into(),
            pid: Some(7),
            ..ReplicaView::default()
        };
        let facts = ServiceFacts {
            phase: "Ready".into(),
            wanted: 2,
            replicas: vec![replica],
            ..ServiceFacts::default()
        };
        let service = ServiceView { name: "a".into(), facts: Some(facts), ..ServiceView::default() };
        let text = table(&Overview { services: vec![service], ..Overview::default() });
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1][..3], ["a", "Ready", "1/2"]);
        assert_eq!(lines[4][..3], ["a-blue-1", "ready", "-"]);
    }
}
