//! Compares policies: `cargo run -p wharf-routing --example simulate` on every kind of traffic, or `-- FILE` on the scenarios in a file of
//! JSON, one or a list; `-- FILE --json` writes the reports as JSON.

#![allow(clippy::print_stdout, reason = "printing is what it is for")]

use std::error::Error;

use wharf_routing::simulate::{Report, Scenario, Traffic, simulate};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let scenarios = match arguments.next() {
        Some(file) => scenarios(&std::fs::read_to_string(file)?)?,
        None => Traffic::named()
            .map(|(name, traffic)| Scenario { name: name.to_owned(), traffic, ..Scenario::default() })
            .into(),
    };
    let reports: Vec<Report> = scenarios.iter().map(simulate).collect();
    match arguments.next().as_deref() {
        Some("--json") => println!("{}", serde_json::to_string_pretty(&reports)?),
        _ => reports.iter().for_each(|report| println!("{}", report.table())),
    }
    Ok(())
}

fn scenarios(text: &str) -> Result<Vec<Scenario>, serde_json::Error> {
    match serde_json::from_str::<serde_json::Value>(text)? {
        list @ serde_json::Value::Array(_) => serde_json::from_value(list),
        one => Ok(vec![serde_json::from_value(one)?]),
    }
}
