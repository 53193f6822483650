//! A supervisor with a file of its own, and short ways to ask it for things.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use wharf_api::console::{ServiceFacts, ServiceView};
use wharf_gateway::{Addresses, GatewayConfig, Handle};
use wharf_local::{
    Explanation, Folder, Machine, Needs, Objects, Options, Order, Planner, Reply, RolloutCommand, Room,
    Shown, Up, Written, order,
};
use wharf_spec::{Document, LLMService, Object, check};

/// Nothing in these tests takes as long unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// The program that stands in for `wharf`.
pub(crate) fn stand_in() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().unwrap().parent().unwrap().join("examples/stand_in");
    assert!(program.exists(), "cargo builds examples with tests; {} is missing", program.display());
    program
}

/// A supervisor that runs until the test ends.
pub(crate) struct Running {
    pub(crate) root: TempDir,
    pub(crate) addresses: Addresses,
    pub(crate) gateway: Handle,
    pub(crate) client: reqwest::Client,
    pub(crate) events: Arc<Mutex<Vec<String>>>,
    shown: Arc<Shown>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

/// What there is, and what is known of models.
pub(crate) struct Host {
    pub(crate) machine: Machine,
    /// Bytes that a model needs of memory and of a GPU, if that is known.
    pub(crate) needs: Option<(u64, u64)>,
}

impl Default for Host {
    /// This machine, whatever GPUs it has; nothing is known of models.
    fn default() -> Host {
        Host { machine: Machine { gpus: Vec::new(), ..Machine::detect(None) }, needs: None }
    }
}

struct Forecast(Option<(u64, u64)>);

impl Planner for Forecast {
    fn needs(&self, _: &LLMService, _: &Path) -> Option<Needs> {
        let (memory, gpu_memory) = self.0?;
        let explain = Arc::new(move |room: &Room| Explanation {
            needs: format!("{memory} bytes (weights and the rest)"),
            changes: vec![format!("a smaller one for {room:?}")],
        });
        Some(Needs { memory, gpu_memory, explain })
    }
}

/// A service `assistant` of a model file, with further fields of its spec as JSON.
pub(crate) fn service(model: &Path, spec: Value) -> String {
    let mut object = json!({
        "apiVersion": "wharf.dev/v1alpha1",
        "kind": "LLMService",
        "metadata": {"name": "assistant"},
        "spec": {
            "model": {"source": format!("file://{}", model.display())},
            "rollout": {"rollbackOn": {"minRequests": 5}, "keepOldFor": "2s", "warmup": {"prompts": 2}},
        },
    });
    merge(&mut object["spec"], spec);
    // JSON is YAML.
    object.to_string()
}

/// Puts what the second says into the first.
pub(crate) fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            from.into_iter().for_each(|(key, value)| merge(into.entry(key).or_insert(Value::Null), value));
        }
        (into, from) => *into = from,
    }
}

fn objects(text: &str) -> Result<Objects, String> {
    let mut objects = Objects::default();
    for document in Document::read("llm.yaml", text).map_err(|error| error.to_string())? {
        match check(&document) {
            (Some(Object::Service(object)), problems) if problems.is_empty() => {
                objects.services.push(Written { object: *object, yaml: text.to_owned() });
            }
            (_, problems) => {
                return Err(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
            }
        }
    }
    Ok(objects)
}

impl Running {
    /// Runs a service of a model, given what the model file says.
    pub(crate) async fn start(model: Value, spec: Value) -> Running {
        Running::start_on(Host::default(), model, spec).await
    }

    /// The same on another machine.
    pub(crate) async fn start_on(host: Host, model: Value, spec: Value) -> Running {
        let root = tempfile::tempdir().unwrap();
        let model = write_model(root.path(), "first", &model);
        std::fs::write(root.path().join("llm.yaml"), service(&model, spec)).unwrap();
        Running::run(root, GatewayConfig::default(), host).await
    }

    /// Runs what is in a folder, as it was left.
    pub(crate) async fn resume(root: TempDir, gateway: GatewayConfig) -> Running {
        Running::run(root, gateway, Host::default()).await
    }

    async fn run(root: TempDir, gateway: GatewayConfig, Host { machine, needs }: Host) -> Running {
        let path = root.path().join("llm.yaml");
        let mut last = None;
        let reader = Box::new(move || {
            let text = std::fs::read_to_string(&path).unwrap();
            if last.as_ref() == Some(&text) {
                return None;
            }
            let objects = objects(&text);
            last = Some(text);
            Some(objects)
        });
        let events: Arc<Mutex<Vec<String>>> = Arc::default();
        let heard = Arc::clone(&events);
        let models = root.path().join("models");
        std::fs::create_dir_all(&models).unwrap();
        let mut gateway = GatewayConfig { port: 0, metrics_port: 0, threads: Some(1), ..gateway };
        gateway.timeouts.drain = 20.0;
        let options = Options {
            wharf: stand_in(),
            models,
            cache: root.path().join("cache"),
            fetch_args: Vec::new(),
            gateway,
            reader,
            listener: Arc::new(move |_, event| {
                heard.lock().unwrap().push(format!("{}: {}", event.reason, event.message));
            }),
            planner: Arc::new(Forecast(needs)),
            machine,
        };
        let folder = Folder::take(&root.path().join("state")).unwrap();
        let up = Up::prepare(folder, options).unwrap();
        let (addresses, gateway, shown) = (up.addresses(), up.gateway(), up.shown());
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            up.run(async { drop(stopped.await) }).await.unwrap();
        });
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        Running { root, addresses, gateway, client, events, shown, stop: Some(stop), task }
    }

    /// Another version of the file.
    pub(crate) fn write(&self, model: &Path, spec: Value) {
        let partial = self.root.path().join("llm.part");
        std::fs::write(&partial, service(model, spec)).unwrap();
        std::fs::rename(partial, self.root.path().join("llm.yaml")).unwrap();
    }

    /// Another model.
    pub(crate) fn model(&self, name: &str, model: &Value) -> PathBuf {
        write_model(self.root.path(), name, model)
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addresses.http)
    }

    pub(crate) fn view(&self) -> ServiceView {
        self.shown.overview(&self.gateway).services.into_iter().next().unwrap_or_default()
    }

    pub(crate) fn facts(&self) -> ServiceFacts {
        self.view().facts.unwrap_or_default()
    }

    /// Returns when what is known fits, and fails the test when it never does.
    pub(crate) async fn until(&self, what: &str, fits: impl Fn(&ServiceFacts) -> bool) -> ServiceFacts {
        let began = Instant::now();
        loop {
            let facts = self.facts();
            if fits(&facts) {
                return facts;
            }
            assert!(
                began.elapsed() < PATIENCE,
                "{what} never came\n{facts:#?}\n{:#?}",
                self.events.lock().unwrap()
            );
            sleep(LOOK).await;
        }
    }

    /// Returns when the release is in this phase.
    pub(crate) async fn until_phase(&self, phase: &str) -> ServiceFacts {
        self.until(phase, |facts| facts.rollout.as_ref().is_some_and(|rollout| rollout.phase == phase)).await
    }

    pub(crate) async fn until_ready(&self, replicas: u32) -> ServiceFacts {
        let enough = |facts: &ServiceFacts| {
            let ready = facts.replicas.iter().filter(|replica| replica.state == "ready").count();
            ready == replicas as usize && facts.replicas.len() == ready
        };
        self.until(&format!("{replicas} ready"), enough).await
    }

    /// Asks for a chat, and gives status, answering replica and body.
    pub(crate) async fn chat(&self) -> (u16, String, String) {
        let body = json!({"model": "assistant", "messages": [{"role": "user", "content": "hello"}]});
        let answer = self.client.post(self.url("/v1/chat/completions")).json(&body).send().await.unwrap();
        let status = answer.status().as_u16();
        let replica = answer.headers().get("x-fake-engine").map(|v| v.to_str().unwrap().to_owned());
        (status, replica.unwrap_or_default(), answer.text().await.unwrap())
    }

    /// Chats one after the other until told otherwise; gives the statuses.
    pub(crate) fn load(&self, streams: usize) -> Load {
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let tasks = (0..streams).map(|_| {
            let (client, url, stop) =
                (self.client.clone(), self.url("/v1/chat/completions"), Arc::clone(&stop));
            tokio::spawn(async move {
                let body = json!({"model": "assistant", "messages": [{"role": "user", "content": "hello"}]});
                let mut statuses = Vec::new();
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let status = match client.post(&url).json(&body).send().await {
                        Ok(answer) => {
                            let status = answer.status().as_u16();
                            // A body that breaks off is a failure too.
                            answer.text().await.map_or(0, |_| status)
                        }
                        Err(_) => 0,
                    };
                    statuses.push(status);
                    sleep(Duration::from_millis(5)).await;
                }
                statuses
            })
        });
        Load { tasks: tasks.collect(), stop }
    }

    pub(crate) async fn order(&self, what: Order) -> Reply {
        order(&self.root.path().join("state"), &what).await.unwrap()
    }

    /// What a replica that is ready said before it listened.
    pub(crate) async fn said(&self, replica: &str) -> String {
        let Reply::Log(path) = self.order(Order::Log { replica: replica.to_owned() }).await else {
            panic!("{replica} has no log")
        };
        let began = Instant::now();
        loop {
            let text = std::fs::read_to_string(&path).unwrap();
            if text.contains("listening on") {
                return text;
            }
            assert!(began.elapsed() < PATIENCE, "{replica} says no more than {text:?}");
            sleep(LOOK).await;
        }
    }

    /// The variables that a replica that is ready was told.
    pub(crate) async fn told(&self, replica: &str) -> Vec<String> {
        let said = self.said(replica).await;
        said.lines().filter_map(|line| line.strip_prefix("told ")).map(str::to_owned).collect()
    }

    pub(crate) async fn steer(&self, command: RolloutCommand) -> Reply {
        self.order(Order::Rollout { service: "assistant".to_owned(), command }).await
    }

    /// Ends it in order; gives the folder back.
    pub(crate) async fn stop(mut self) -> TempDir {
        drop(self.stop.take());
        timeout(PATIENCE, &mut self.task).await.unwrap().unwrap();
        self.root
    }
}

/// Requests that go on until they are told to stop.
pub(crate) struct Load {
    tasks: Vec<JoinHandle<Vec<u16>>>,
    stop: Arc<std::sync::atomic::AtomicBool>,
}

impl Load {
    /// The statuses of all.
    pub(crate) async fn end(self) -> Vec<u16> {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let mut all = Vec::new();
        for task in self.tasks {
            all.extend(timeout(PATIENCE, task).await.unwrap().unwrap());
        }
        all
    }
}

fn write_model(root: &Path, name: &str, model: &Value) -> PathBuf {
    let path = root.join(format!("{name}.json"));
    std::fs::write(&path, model.to_string()).unwrap();
    path
}

/// Whether a process with this id runs.
pub(crate) fn lives(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // A process that has ended and was not waited for is none.
    !status.is_empty() && !status.contains(") Z ")
}

/// Processes in the group of this id.
pub(crate) fn group(pid: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").unwrap();
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let in_group = |process: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        // After the name in parentheses: state, parent, group.
        let fields: Vec<&str> = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ').collect();
        fields.get(2).and_then(|group| group.parse().ok()) == Some(pid) && fields.first() != Some(&"Z")
    };
    pids.filter(in_group).collect()
}

/// Another text in place of the file.
pub(crate) fn write_over(up: &Running, text: &str) {
    let partial = up.root.path().join("llm.part");
    std::fs::write(&partial, text).unwrap();
    std::fs::rename(partial, up.root.path().join("llm.yaml")).unwrap();
}
