//! A kubelet: registers plugins, dials back, follows their lists, and tells which pod has what.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::Status;
use wharf_listen::grpc::{self, Asked};
use wharf_node::kubelet::pod_resources::{LIST, ListPodResourcesRequest, ListPodResourcesResponse};
use wharf_node::kubelet::rpc;
use wharf_node::kubelet::{REGISTER, plugin, wire};

/// What is known of a resource.
#[derive(Clone, Debug, Default)]
pub(crate) struct Endpoint {
    /// Its plugin's socket.
    pub(crate) socket: String,
    /// What it wants.
    pub(crate) options: wire::DevicePluginOptions,
    /// How often it registered.
    pub(crate) registrations: usize,
    /// The devices and their health; none while the stream is broken.
    pub(crate) devices: Option<BTreeMap<String, String>>,
    /// NUMA nodes of the devices.
    pub(crate) numa: BTreeMap<String, Vec<i64>>,
}

impl Endpoint {
    /// Devices that pods may have.
    pub(crate) fn allocatable(&self) -> usize {
        self.devices.iter().flatten().filter(|(_, health)| *health == wire::HEALTHY).count()
    }
}

type Endpoints = BTreeMap<String, Endpoint>;

/// A kubelet on a folder.
pub(crate) struct FakeKubelet {
    folder: PathBuf,
    endpoints: Arc<watch::Sender<Endpoints>>,
    refusal: Arc<Mutex<Option<String>>>,
    serving: Option<JoinHandle<()>>,
}

impl FakeKubelet {
    /// Starts as kubelet does: the folder's sockets go, its own comes.
    pub(crate) fn start(folder: &Path) -> FakeKubelet {
        std::fs::create_dir_all(folder).unwrap();
        let endpoints = Arc::new(watch::Sender::new(Endpoints::new()));
        let mut kubelet =
            FakeKubelet { folder: folder.to_owned(), endpoints, refusal: Arc::default(), serving: None };
        kubelet.restart();
        kubelet
    }

    /// As after an update of the node.
    pub(crate) fn restart(&mut self) {
        self.stop();
        for entry in std::fs::read_dir(&self.folder).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
        self.endpoints.send_modify(|endpoints| {
            endpoints.values_mut().for_each(|endpoint| endpoint.devices = None);
        });
        let listener = rpc::listen(&self.folder.join("kubelet.sock")).unwrap();
        let (folder, endpoints, refusal) =
            (self.folder.clone(), Arc::clone(&self.endpoints), Arc::clone(&self.refusal));
        let answer = move |asked: Asked| {
            let (folder, endpoints, refusal) = (folder.clone(), Arc::clone(&endpoints), Arc::clone(&refusal));
            async move {
                if asked.uri().path() != REGISTER {
                    return grpc::unknown();
                }
                grpc::answer(asked, |request: wire::RegisterRequest| async move {
                    if let Some(why) = refusal.lock().unwrap().clone() {
                        return Err(Status::invalid_argument(why));
                    }
                    register(&folder, &endpoints, request);
                    Ok(wire::Empty {})
                })
                .await
            }
        };
        self.serving = Some(tokio::spawn(rpc::serve(listener, answer)));
    }

    /// Its process is gone; its socket stays, as after a crash.
    pub(crate) fn stop(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
        }
    }

    /// Refuses registrations from now on, or no longer.
    pub(crate) fn refuse(&self, why: Option<&str>) {
        *self.refusal.lock().unwrap() = why.map(str::to_owned);
    }

    /// Waits until a resource is as wanted.
    pub(crate) async fn until(&self, resource: &str, wanted: impl Fn(&Endpoint) -> bool) -> Endpoint {
        let mut endpoints = self.endpoints.subscribe();
        let waiting = endpoints.wait_for(|endpoints| endpoints.get(resource).is_some_and(&wanted));
        match tokio::time::timeout(super::support::SOON, waiting).await {
            Ok(endpoints) => endpoints.unwrap()[resource].clone(),
            Err(_) => {
                panic!("{resource} did not become as wanted: {:?}", self.endpoints.borrow().get(resource))
            }
        }
    }

    /// What is known of a resource.
    pub(crate) fn endpoint(&self, resource: &str) -> Option<Endpoint> {
        self.endpoints.borrow().get(resource).cloned()
    }

    /// Asks a plugin for what a container needs.
    pub(crate) async fn allocate(
        &self,
        resource: &str,
        ids: &[&str],
    ) -> Result<wire::ContainerAllocateResponse, Status> {
        let request = wire::AllocateRequest {
            container_requests: vec![wire::ContainerAllocateRequest {
                devices_ids: ids.iter().map(|id| (*id).to_owned()).collect(),
            }],
        };
        let response: wire::AllocateResponse = self.ask(resource, plugin::ALLOCATE, request).await?;
        Ok(response.container_responses.into_iter().next().unwrap())
    }

    /// Asks a plugin anything.
    pub(crate) async fn ask<Q, A>(&self, resource: &str, path: &'static str, question: Q) -> Result<A, Status>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let socket = self.endpoint(resource).unwrap().socket;
        rpc::call(rpc::connect(&self.folder.join(socket)).await?, path, question).await
    }
}

impl Drop for FakeKubelet {
    fn drop(&mut self) {
        self.stop();
    }
}

fn register(folder: &Path, endpoints: &Arc<watch::Sender<Endpoints>>, request: wire::RegisterRequest) {
    assert_eq!(request.version, "v1beta1");
    let wire::RegisterRequest { endpoint: socket, resource_name: resource, options, .. } = request;
    endpoints.send_modify(|endpoints| {
        let endpoint = endpoints.entry(resource.clone()).or_default();
        endpoint.socket.clone_from(&socket);
        endpoint.options = options.unwrap();
        endpoint.registrations += 1;
    });
    let (path, endpoints) = (folder.join(socket), Arc::clone(endpoints));
    tokio::spawn(async move {
        let followed = follow(&path, &endpoints, &resource).await;
        // A stream that ends, however it does, makes every device unhealthy.
        endpoints.send_modify(|endpoints| endpoints.entry(resource).or_default().devices = None);
        followed
    });
}

async fn follow(path: &Path, endpoints: &watch::Sender<Endpoints>, resource: &str) -> Result<(), Status> {
    let channel = rpc::connect(path).await?;
    let _: wire::DevicePluginOptions = rpc::call(channel.clone(), plugin::OPTIONS, wire::Empty {}).await?;
    let mut lists =
        rpc::follow::<_, wire::ListAndWatchResponse>(channel, plugin::LIST_AND_WATCH, wire::Empty {}).await?;
    while let Some(list) = lists.message().await? {
        endpoints.send_modify(|endpoints| {
            let endpoint = endpoints.entry(resource.to_owned()).or_default();
            let numa = |device: &wire::Device| {
                device.topology.iter().flat_map(|topology| &topology.nodes).map(|node| node.id).collect()
            };
            endpoint.numa = list.devices.iter().map(|device| (device.id.clone(), numa(device))).collect();
            endpoint.devices =
                Some(list.devices.into_iter().map(|device| (device.id, device.health)).collect());
        });
    }
    Ok(())
}

/// Tells which pod has which device, from `response`, for as long as it is held.
pub(crate) fn pod_resources(socket: &Path, response: ListPodResourcesResponse) -> JoinHandle<()> {
    std::fs::create_dir_all(socket.parent().unwrap()).unwrap();
    let listener = rpc::listen(socket).unwrap();
    tokio::spawn(rpc::serve(listener, move |asked: Asked| {
        let response = response.clone();
        async move {
            if asked.uri().path() != LIST {
                return grpc::unknown();
            }
            grpc::answer(asked, |_: ListPodResourcesRequest| std::future::ready(Ok(response))).await
        }
    }))
}
