//! Development only: writes what every role's `/metrics` looks like with one sample of each metric, as files `ROLE.txt` in the folder that is its
//! argument. `cargo xtask verify-monitoring` gives them to promtool.

use std::error::Error;
use std::path::PathBuf;

use wharf_telemetry::metrics::{
    Kind, Metric, Metrics, dcgm, gateway, metrics_api, node, operator, server, serving,
};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(std::env::args_os().nth(1).ok_or("give a folder")?);
    let roles: [(&str, &[&[&'static Metric]]); 5] = [
        ("server", &[server::ALL]),
        ("gateway", &[gateway::ALL]),
        ("operator", &[operator::ALL]),
        ("metrics-api", &[metrics_api::ALL]),
        ("node", &[node::ALL, dcgm::ALL, serving::ALL]),
    ];
    for (role, tables) in roles {
        let table: Vec<&'static Metric> = tables.iter().flat_map(|table| table.iter().copied()).collect();
        let metrics = Metrics::new(&table);
        for metric in &table {
            let labels = vec!["x"; metric.labels.len()];
            match metric.kind {
                Kind::Counter => metrics.add(metric, &labels, 1.0),
                Kind::Gauge => metrics.set(metric, &labels, 0.5),
                Kind::Histogram(_) => metrics.observe(metric, &labels, 0.5),
            }
        }
        std::fs::write(folder.join(format!("{role}.txt")), metrics.encode()?)?;
    }
    Ok(())
}
