//! Answers kubelet's calls for one resource.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use wharf_listen::grpc::{self, Answered, Asked};
use wharf_telemetry::metrics::node as table;

use crate::allocate::{Refusal, Stock, allocate};
use crate::board::Board;
use crate::kubelet::{plugin, wire};
use crate::prefer::{Taste, prefer};

/// What every plugin wants.
pub(crate) const OPTIONS: wire::DevicePluginOptions =
    wire::DevicePluginOptions { pre_start_required: false, get_preferred_allocation_available: true };

/// One resource.
#[derive(Clone)]
pub(crate) struct Plugin {
    pub(crate) board: Arc<Board>,
    pub(crate) resource: Arc<str>,
}

impl Plugin {
    /// Answers a call.
    pub(crate) async fn answer(self, asked: Asked) -> Answered {
        let path = asked.uri().path().to_owned();
        match path.as_str() {
            plugin::OPTIONS => grpc::answer(asked, |_: wire::Empty| ready(Ok(OPTIONS))).await,
            plugin::LIST_AND_WATCH => grpc::stream(asked, |_: wire::Empty| self.list()).await,
            plugin::PREFER => grpc::answer(asked, |request| ready(Ok(self.prefer(&request)))).await,
            plugin::ALLOCATE => grpc::answer(asked, |request| ready(self.allocate(&request))).await,
            plugin::PRE_START => {
                let none = wire::PreStartContainerResponse {};
                grpc::answer(asked, |_: wire::PreStartContainerRequest| ready(Ok(none))).await
            }
            _ => grpc::unknown(),
        }
    }

    /// The devices now, and whenever they have changed.
    fn list(&self) -> ReceiverStream<Result<wire::ListAndWatchResponse, Status>> {
        let (sender, receiver) = mpsc::channel(1);
        let mut seen = self.board.follow();
        let resource = Arc::clone(&self.resource);
        tokio::spawn(async move {
            let mut told = None;
            loop {
                let list = seen.borrow_and_update().list(&resource);
                if told.as_ref() != Some(&list) {
                    told = Some(list.clone());
                    if sender.send(Ok(list)).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    () = sender.closed() => return,
                    changed = seen.changed() => if changed.is_err() { return },
                }
            }
        });
        ReceiverStream::new(receiver)
    }

    /// What makes no sense has no preference: an error would keep the pod from starting.
    fn prefer(&self, request: &wire::PreferredAllocationRequest) -> wire::PreferredAllocationResponse {
        let seen = self.board.seen();
        let taste = Taste { nearness: &seen.nearness, preference: self.board.config.plugin.preference };
        let of = |container: &wire::ContainerPreferredAllocationRequest| {
            let Some(offer) = seen.offer(&self.resource) else { return Vec::new() };
            let size = usize::try_from(container.allocation_size).unwrap_or(0);
            prefer(offer, &container.available, &container.must_include, size, &taste).unwrap_or_else(
                |nonsense| {
                    tracing::warn!(resource = &*self.resource, why = %nonsense, "prefers nothing");
                    Vec::new()
                },
            )
        };
        let responses = request.container_requests.iter().map(of);
        let container_responses =
            responses.map(|ids| wire::ContainerPreferredAllocationResponse { ids }).collect();
        wire::PreferredAllocationResponse { container_responses }
    }

    fn allocate(&self, request: &wire::AllocateRequest) -> Result<wire::AllocateResponse, Status> {
        let seen = self.board.seen();
        let offer = seen.offer(&self.resource).ok_or_else(|| self.gone())?;
        let config = &self.board.config;
        let stock = Stock {
            inventory: &seen.inventory,
            offer,
            config: &config.plugin,
            minors: &seen.minors,
            dev: &config.paths.dev,
        };
        let of = |container: &wire::ContainerAllocateRequest| allocate(&stock, &container.devices_ids);
        let allocated: Result<Vec<_>, Refusal> = request.container_requests.iter().map(of).collect();
        let result = if allocated.is_ok() { "ok" } else { "refused" };
        self.board.metrics.add(&table::ALLOCATIONS, &[&self.resource, result], 1.0);
        match allocated {
            Ok(container_responses) => Ok(wire::AllocateResponse { container_responses }),
            Err(refusal) => {
                tracing::warn!(resource = &*self.resource, why = %refusal, "refused to allocate");
                // Kubelet shows this to whoever asks why the pod does not start.
                Err(Status::failed_precondition(refusal.to_string()))
            }
        }
    }

    fn gone(&self) -> Status {
        Status::unavailable(format!("{} is no longer offered", self.resource))
    }
}

fn ready<T>(value: T) -> impl Future<Output = T> {
    std::future::ready(value)
}
