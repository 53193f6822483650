//! A gateway on ports of its own, and short ways to ask it for things.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use wharf_fakes::engine::{EngineConfig, FakeEngine};
use wharf_gateway::{Addresses, Gateway, GatewayConfig, Handle, ServiceConfig};

/// Nothing in these tests takes as long unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A gateway that runs until the test ends.
pub(crate) struct Running {
    pub(crate) addresses: Addresses,
    pub(crate) handle: Handle,
    pub(crate) client: reqwest::Client,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

/// The configuration that tests begin with: ports that the system chooses, and little patience.
pub(crate) fn config(services: Vec<ServiceConfig>) -> GatewayConfig {
    let mut config = GatewayConfig {
        port: 0,
        https_port: 0,
        metrics_port: 0,
        threads: Some(2),
        services,
        ..GatewayConfig::default()
    };
    config.timeouts.connect = 0.5;
    config.timeouts.first_byte = 1.0;
    config.timeouts.answer = 1.0;
    config.timeouts.idle = 0.5;
    config.timeouts.drain = 5.0;
    config.hold.deadline = 5.0;
    config.polling.health = 0.05;
    config.polling.metrics = 0.05;
    config.polling.timeout = 0.5;
    config
}

/// Engines that serve `fake-model`.
pub(crate) async fn engines(count: usize) -> Vec<FakeEngine> {
    let mut engines = Vec::new();
    for number in 0..count {
        engines.push(FakeEngine::start(EngineConfig::named(format!("e{number}"))).await.unwrap());
    }
    engines
}

/// The service `demo/fake-model` of these engines.
pub(crate) fn service(engines: &[FakeEngine]) -> ServiceConfig {
    ServiceConfig::new("demo/fake-model", engines.iter().map(|engine| engine.address().to_string()))
}

impl Running {
    pub(crate) fn start(config: GatewayConfig) -> Running {
        Running::serve(Gateway::bind(config).unwrap())
    }

    pub(crate) fn serve(gateway: Gateway) -> Running {
        let (stop, stopped) = oneshot::channel::<()>();
        let (addresses, handle) = (gateway.addresses(), gateway.handle());
        let task = tokio::spawn(async move {
            let stopped = async { drop(stopped.await) };
            gateway.serve(stopped).await.unwrap();
        });
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        Running { addresses, handle, client, stop: Some(stop), task }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addresses.http)
    }

    pub(crate) fn side(&self, path: &str) -> String {
        format!("http://{}{path}", self.addresses.metrics)
    }

    /// Sends a chat request.
    pub(crate) async fn post(&self, body: &Value) -> reqwest::Response {
        self.client.post(self.url("/v1/chat/completions")).json(body).send().await.unwrap()
    }

    /// The status and the JSON of a chat request's answer.
    pub(crate) async fn ask(&self, body: &Value) -> (u16, Value) {
        let response = self.post(body).await;
        (response.status().as_u16(), response.json().await.unwrap_or_default())
    }

    /// The status and the whole text of a stream.
    pub(crate) async fn stream(&self, body: &Value) -> (u16, String) {
        let response = self.post(body).await;
        let status = response.status().as_u16();
        (status, response.text().await.unwrap_or_else(|error| format!("broken: {error}")))
    }

    /// Returns when nothing is in flight any more, at endpoints and in the queue.
    pub(crate) async fn idle(&self) {
        let idle = async {
            loop {
                let demand = self.handle.demand();
                let busy = demand.services.values().any(|s| s.in_flight + s.queued + s.tokens_in_flight > 0);
                if !busy {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, idle).await.expect("something stayed in flight");
    }

    /// Ends at once, as if killed: nothing is drained, and its ports are closed.
    pub(crate) async fn kill(self) {
        self.task.abort();
        let ended = timeout(PATIENCE, self.task).await.expect("the gateway ends");
        assert!(ended.is_err_and(|error| error.is_cancelled()));
    }

    /// Stops as on SIGTERM and waits for the end.
    pub(crate) async fn stop(mut self) {
        drop(self.stop.take());
        timeout(PATIENCE, &mut self.task).await.expect("the gateway stops").unwrap();
    }

    /// The value of a metric with these labels, 0 if it is not there.
    pub(crate) async fn metric(&self, line_start: &str) -> f64 {
        let text = self.client.get(self.side("/metrics")).send().await.unwrap().text().await.unwrap();
        let line = text.lines().find(|line| line.starts_with(line_start));
        line.and_then(|line| line.rsplit_once(' ')?.1.parse().ok()).unwrap_or(0.0)
    }
}

/// A chat request with this text.
pub(crate) fn chat(text: &str) -> Value {
    json!({"model": "fake-model", "messages": [{"role": "user", "content": text}]})
}

/// The same, streamed.
pub(crate) fn streamed(text: &str) -> Value {
    json!({"model": "fake-model", "messages": [{"role": "user", "content": text}], "stream": true})
}

/// Waits for a condition that becomes true by itself.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let met = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, met).await.unwrap_or_else(|_| panic!("{what} did not happen"));
}
