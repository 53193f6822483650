//! The agent's port: metrics, health, readiness and status.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use wharf_listen::{Limits, Listener};
use wharf_telemetry::metrics::{Metrics, node as table};

use crate::board::{Board, Part};
use crate::exporter::{About, Reading, render};
use crate::gpu::{Gpu, Inventory};
use crate::kubelet::pod_resources::{self, Holders};
use crate::nvml::Library;
use crate::serving;

/// Scrapes that come together are answered together: GPUs are not asked more often than this.
const FRESH: Duration = Duration::from_millis(500);
/// A driver that takes longer is not waited for: a scraper would not either.
const PATIENCE: Duration = Duration::from_secs(5);
const LIMITS: Limits =
    Limits { header_timeout: Duration::from_secs(10), max_header_bytes: 16 << 10, h2_streams: 32 };

type Answer = Response<Full<Bytes>>;

/// What the port shows.
#[derive(Clone)]
pub(crate) struct Port(Arc<Shown>);

struct Shown {
    board: Arc<Board>,
    last: Mutex<Last>,
}

/// The last time that GPUs were asked.
#[derive(Default)]
struct Last {
    answered: Option<(Instant, String)>,
    /// Asking that has not ended yet. It cannot be cut short.
    asking: Option<JoinHandle<Vec<Reading>>>,
}

impl Port {
    pub(crate) fn new(board: Arc<Board>) -> Port {
        let build = [wharf_telemetry::build::VERSION, wharf_telemetry::build::COMMIT];
        board.metrics.set(&table::BUILD_INFO, &build, 1.0);
        Port(Arc::new(Shown { board, last: Mutex::default() }))
    }

    /// Serves until `stop`.
    pub(crate) async fn serve(self, socket: TcpListener, stop: watch::Receiver<bool>) {
        let service = service_fn(move |request: Request<Incoming>| {
            let port = self.clone();
            async move { Ok::<_, Infallible>(port.answer(&request).await) }
        });
        Listener { socket, tls: None, service, limits: LIMITS, connections: None }.run(stop).await;
    }

    async fn answer(&self, request: &Request<Incoming>) -> Answer {
        match (request.method().as_str(), request.uri().path()) {
            // Without a GPU or a driver nothing is wrong with the agent: the status says what is missing.
            ("GET", "/health") => text(StatusCode::OK, "ok\n".to_owned()),
            ("GET", "/ready") if self.0.board.seen().looked => text(StatusCode::OK, "ok\n".to_owned()),
            ("GET", "/ready") => {
                text(StatusCode::SERVICE_UNAVAILABLE, "GPUs have not been looked at yet\n".to_owned())
            }
            ("GET", "/metrics") => self.metrics().await,
            ("GET", "/status") => self.status(),
            ("GET", _) => {
                text(StatusCode::NOT_FOUND, "there are /metrics, /status, /health and /ready\n".to_owned())
            }
            _ => text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered\n".to_owned()),
        }
    }

    fn status(&self) -> Answer {
        let board = &self.0.board;
        let seen = board.seen();
        let resources: Vec<_> = seen
            .offers
            .iter()
            .map(|offer| {
                let healthy = offer.devices.iter().filter(|device| seen.is_healthy(&device.unit)).count();
                json!({"resource": offer.resource, "devices": offer.devices.len(), "healthy": healthy})
            })
            .collect();
        let status = json!({
            "node": board.node,
            "conditions": board.conditions(),
            "resources": resources,
            "troubles": seen.health.as_ref().map(|health| json!(health.troubles())),
            "gpus": seen.inventory,
        });
        let mut answer = text(StatusCode::OK, format!("{status:#}\n"));
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        answer
    }

    async fn metrics(&self) -> Answer {
        let mut last = self.0.last.lock().await;
        let gpus = match &last.answered {
            Some((when, gpus)) if when.elapsed() < FRESH => gpus.clone(),
            _ => {
                let gpus = self.gpus(&mut last.asking).await;
                last.answered = Some((Instant::now(), gpus.clone()));
                gpus
            }
        };
        drop(last);
        match self.0.board.metrics.encode() {
            Ok(own) => {
                let mut answer = text(StatusCode::OK, format!("{gpus}{own}"));
                answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(Metrics::CONTENT_TYPE));
                answer
            }
            Err(error) => {
                text(StatusCode::INTERNAL_SERVER_ERROR, format!("failed to write metrics: {error}\n"))
            }
        }
    }

    /// What GPUs measure now, and what was read last of the models that compute on them; nothing of GPUs while the driver does not answer.
    async fn gpus(&self, asking: &mut Option<JoinHandle<Vec<Reading>>>) -> String {
        let board = &self.0.board;
        let seen = board.seen();
        let about = About {
            node: board.node.clone(),
            hostname_label: board.config.exporter.hostname_label.clone(),
            driver: seen.inventory.driver.clone(),
        };
        let Some(library) = seen.library.clone() else {
            return serving::render(&board.served(), &seen.inventory, &Holders::new(), &about);
        };
        let reading = asking.get_or_insert_with(|| {
            let (xids, seen) = (board.last_xids().clone(), Arc::clone(&seen));
            tokio::task::spawn_blocking(move || read(&library, &seen.inventory, &xids))
        });
        let (read, holders) = tokio::join!(timeout(PATIENCE, reading), self.holders());
        let readings = match read {
            Ok(readings) => {
                *asking = None;
                readings.unwrap_or_default()
            }
            Err(_) => {
                tracing::warn!("the driver has not told what GPUs measure for {PATIENCE:?}");
                Vec::new()
            }
        };
        let models = serving::render(&board.served(), &seen.inventory, &holders, &about);
        render(&readings, &holders, &about) + &models
    }

    async fn holders(&self) -> Holders {
        let board = &self.0.board;
        if !board.config.exporter.pods {
            return Holders::new();
        }
        match pod_resources::ask(&board.config.paths.pod_resources).await {
            Ok(holders) => {
                board.say(Part::Pods, true, "Known", "kubelet tells which pod has which GPU");
                holders
            }
            Err(status) => {
                board.say(
                    Part::Pods,
                    false,
                    "KubeletSilent",
                    format!("metrics are without pods: {}", status.message()),
                );
                Holders::new()
            }
        }
    }
}

fn read(library: &Library, inventory: &Inventory, xids: &BTreeMap<String, u64>) -> Vec<Reading> {
    let read = |gpu: &Gpu| {
        let last_xid = xids.get(&gpu.uuid).copied().unwrap_or(0);
        Some(Reading { gpu: gpu.clone(), sample: library.sample(gpu)?, last_xid })
    };
    inventory.gpus.iter().filter_map(read).collect()
}

fn text(status: StatusCode, text: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(text)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}
