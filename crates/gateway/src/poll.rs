//! Looking after endpoints: their health, and what their metrics say.
//!
//! Each endpoint has a task of its own, so that one that hangs delays no other. What a task finds goes into the service's table; an endpoint that
//! is gone takes its task with it.

mod scrape;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::config::seconds;
use crate::service::ServiceState;
use crate::shared::Shared;

/// How often tasks are compared with endpoints.
const COMPARE: Duration = Duration::from_millis(200);

/// Polls every endpoint of every service, for as long as the gateway runs.
pub(crate) async fn run(shared: Arc<Shared>) {
    let client = match reqwest::Client::builder()
        .timeout(seconds(shared.config.polling.timeout))
        .pool_max_idle_per_host(1)
        .no_proxy()
        .build()
    {
        Ok(client) => client,
        Err(error) => {
            return tracing::error!(%error, "failed to set up polling; endpoints are not looked after");
        }
    };
    let mut tasks = JoinSet::new();
    let mut running: HashMap<(Arc<str>, String), AbortHandle> = HashMap::new();
    let mut compare = interval(COMPARE);
    loop {
        compare.tick().await;
        let table = shared.table();
        let wanted: HashMap<(Arc<str>, String), &Arc<ServiceState>> = table
            .services
            .values()
            .flat_map(|service| {
                let addresses = service.endpoints().into_iter().map(|state| state.address);
                addresses.map(move |address| ((Arc::clone(&service.name), address), service))
            })
            .collect();
        running.retain(|name, task| {
            let stays = wanted.contains_key(name) && !task.is_finished();
            if !stays {
                task.abort();
            }
            stays
        });
        for (name, service) in wanted {
            let address = name.1.clone();
            running.entry(name).or_insert_with(|| {
                tasks.spawn(look_after(Arc::clone(&shared), Arc::clone(service), address, client.clone()))
            });
        }
        while tasks.try_join_next().is_some() {}
    }
}

async fn look_after(
    shared: Arc<Shared>,
    service: Arc<ServiceState>,
    address: String,
    client: reqwest::Client,
) {
    let polling = &shared.config.polling;
    let health_url = format!("http://{address}{}", polling.health_path);
    let metrics_url = format!("http://{address}/metrics");
    let mut health = ticks(polling.health);
    let mut metrics = ticks(polling.metrics);
    let mut failures = 0;
    loop {
        tokio::select! {
            _ = health.tick() => {
                let good = client.get(&health_url).send().await.is_ok_and(|response| {
                    // A server without this path is healthy enough to say so.
                    response.status().is_success() || response.status().as_u16() == 404
                });
                failures = if good { 0 } else { failures + 1 };
                if good || failures >= polling.unhealthy_after {
                    service.checked(&address, good);
                }
            }
            _ = metrics.tick() => {
                match scrape::read(&client, &metrics_url).await {
                    Ok(Some(load)) => service.reported(&address, load),
                    Ok(None) => {}
                    Err(error) => tracing::debug!(address, error = %wharf_telemetry::log::chain(&error), "failed to read metrics"),
                }
            }
        }
    }
}

/// Ticks that begin at once and never pile up.
fn ticks(every: f64) -> tokio::time::Interval {
    let every = seconds(every).max(Duration::from_millis(10));
    let mut ticks = tokio::time::interval_at(Instant::now(), every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
