//! The agent's port: metrics, health, readiness and status.

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
use tokio::time::Instant;
use wharf_listen::{Limits, Listener};
use wharf_telemetry::metrics::{Metrics, node as table};

use crate::board::{Board, Part};
use crate::exporter::{About, Reading, render};
use crate::gpus::blocking;
use crate::kubelet::pod_resources::{self, Holders};

/// Scrapes that come together are answered together: GPUs are not asked more often than this.
const FRESH: Duration = Duration::from_millis(500);
const LIMITS: Limits =
    Limits { header_timeout: Duration::from_secs(10), max_header_bytes: 16 << 10, h2_streams: 32 };

type Answer = Response<Full<Bytes>>;

/// What the port shows.
#[derive(Clone)]
pub(crate) struct Port(Arc<Shown>);

struct Shown {
    board: Arc<Board>,
    last: Mutex<Option<(Instant, String)>>,
}

impl Port {
    pub(crate) fn new(board: Arc<Board>) -> Port {
        let build = [wharf_telemetry::build::VERSION, wharf_telemetry::build::COMMIT];
        board.metrics.set(&table::BUILD_INFO, &build, 1.0);
        Port(Arc::new(Shown { board, last: Mutex::new(None) }))
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
        let gpus = match &*last {
            Some((when, gpus)) if when.elapsed() < FRESH => gpus.clone(),
            _ => {
                let gpus = self.gpus().await;
                *last = Some((Instant::now(), gpus.clone()));
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

    /// What GPUs measure now.
    async fn gpus(&self) -> String {
        let board = &self.0.board;
        let seen = board.seen();
        let Some(library) = seen.library.clone() else { return String::new() };
        let xids = board.last_xids().clone();
        let looking = Arc::clone(&seen);
        let reading = blocking(move || {
            let read = |gpu: &crate::gpu::Gpu| {
                let last_xid = xids.get(&gpu.uuid).copied().unwrap_or(0);
                Some(Reading { gpu: gpu.clone(), sample: library.sample(gpu)?, last_xid })
            };
            looking.inventory.gpus.iter().filter_map(read).collect::<Vec<_>>()
        });
        let (readings, holders) = tokio::join!(reading, self.holders());
        let about = About {
            node: board.node.clone(),
            hostname_label: board.config.exporter.hostname_label.clone(),
            driver: seen.inventory.driver.clone(),
        };
        render(&readings, &holders, &about)
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

fn text(status: StatusCode, text: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(text)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}
