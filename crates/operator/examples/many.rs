//! Measures `wharf operator` as a process: how long many services take from cold, what it writes when nothing changes, and what it costs
//! when it is idle. On the API server in memory with a gateway beside it, or on a real one (`KUBEBUILDER_ASSETS`), where no gateway can be
//! reached. `cargo xtask bench operator` runs it.

#![expect(clippy::print_stdout, reason = "this program's output is for people and scripts")]

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::time::sleep;
use wharf_fakes::actors::{self, Fate, JobFate};
use wharf_fakes::engine::{EngineConfig, FakeEngine};
use wharf_fakes::stage::Stage;

type Failure = Box<dyn Error + Send + Sync>;

/// Nothing here takes as long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(600);
/// Kinds whose objects are counted.
const KINDS: [&str; 11] = [
    "LLMService",
    "Deployment",
    "Pod",
    "Service",
    "ServiceAccount",
    "ConfigMap",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "EndpointSlice",
    "Event.events.k8s.io",
    "Role",
];

/// Who tells Wharf's Events.
const OURS: &str = "wharf.dev/operator";

/// A process that ends with us.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended already is no loss.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a process has cost so far.
#[derive(Clone, Copy)]
struct Cost {
    /// Seconds of processor time.
    cpu: f64,
    /// Bytes of resident memory, now and at most, and those among them that are no pages of files.
    resident: f64,
    anonymous: f64,
    peak: f64,
}

fn cost(process: &Process) -> Result<Cost, Failure> {
    let id = process.0.id();
    let stat = fs::read_to_string(format!("/proc/{id}/stat"))?;
    let after_name = stat.rsplit_once(')').ok_or("a process has a name")?.1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    // Of proc(5): utime and stime, 14 and 15 with the process id as 1, in hundredths of a second.
    let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
    let status = fs::read_to_string(format!("/proc/{id}/status"))?;
    let kib = |name: &str| -> Result<f64, Failure> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).ok_or("a process has memory")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    };
    Ok(Cost {
        cpu: ticks / 100.0,
        resident: kib("VmRSS:")? * 1024.0,
        anonymous: kib("RssAnon:")? * 1024.0,
        peak: kib("VmHWM:")? * 1024.0,
    })
}

struct Arguments {
    wharf: String,
    services: usize,
    idle_services: usize,
    idle_seconds: u64,
    /// Replicas that a service may have at most: from two on each has an autoscaler.
    most: u32,
}

impl Arguments {
    fn read() -> Result<Arguments, Failure> {
        let mut given: BTreeMap<String, String> = BTreeMap::new();
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            given.insert(name, arguments.next().ok_or("every option has a value")?);
        }
        let mut take = |name: &str, default: &str| given.remove(name).unwrap_or_else(|| default.to_owned());
        let read = Arguments {
            wharf: take("--wharf", "target/release/wharf"),
            services: take("--services", "500").parse()?,
            idle_services: take("--idle-services", "100").parse()?,
            idle_seconds: take("--idle-seconds", "60").parse()?,
            most: take("--max", "1").parse()?,
        };
        if let Some(unknown) = given.keys().next() {
            return Err(format!("there is no option {unknown}").into());
        }
        Ok(read)
    }
}

/// A cluster with everything that works in it but Wharf.
struct World {
    stage: Stage,
    kubeconfig: tempfile::TempPath,
    _actors: Vec<actors::Actor>,
    _engine: FakeEngine,
}

impl World {
    async fn start() -> Result<World, Failure> {
        let stage = Stage::start().await;
        for crd in wharf_spec::crd::crds() {
            stage.seed(crd).await;
        }
        for name in ["demo", "wharf-system"] {
            stage.seed(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})).await;
        }
        stage.seed(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": actors::NODE}})).await;
        let engine = FakeEngine::start(EngineConfig::default()).await?;
        let mut address = engine.address();
        address.set_ip("10.1.2.3".parse()?);
        let client = stage.client();
        let own = stage.start_controllers();
        let mut actors = vec![
            actors::kubelet(&client, move |_| Fate::runs(address)),
            actors::jobs(&client, |_| JobFate::completes()),
        ];
        if !own {
            actors.extend([actors::deployments(&client), actors::endpoints(&client)]);
        }
        let file = tempfile::NamedTempFile::new()?;
        fs::write(file.path(), stage.kubeconfig())?;
        Ok(World { stage, kubeconfig: file.into_temp_path(), _actors: actors, _engine: engine })
    }

    fn operator(&self, wharf: &str) -> Result<Process, Failure> {
        let mut command = Command::new(wharf);
        command.args([
            "operator",
            "--no-lease",
            "--host",
            "127.0.0.1",
            "--metrics-port",
            "0",
            "--log-level",
            "warn",
        ]);
        command.env("KUBECONFIG", &self.kubeconfig).stdout(Stdio::null());
        Ok(Process(command.spawn()?))
    }

    async fn seed(&self, services: std::ops::Range<usize>, most: u32) {
        for number in services {
            let spec = json!({
                "model": {"source": "pvc://models/one", "name": "fake-model"}, "rollout": {"warmup": {"prompts": 0}},
                "scaling": {"max": most},
            });
            let metadata = json!({"name": format!("service-{number}"), "namespace": "demo"});
            self.stage
                .seed(json!({"apiVersion": "wharf.dev/v1alpha1", "kind": "LLMService", "metadata": metadata, "spec": spec}))
                .await;
        }
    }

    /// Waits until all services are ready and nothing is written any more.
    async fn settled(&self, services: usize) -> Result<Duration, Failure> {
        let began = Instant::now();
        let is_ready = |service: &Value| {
            let conditions = service["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let is = |kind: &str, status: &str| {
                conditions.iter().any(|c| c["type"] == kind && c["status"] == status)
            };
            is("Ready", "True") && is("Progressing", "False")
        };
        loop {
            let ready = self.stage.list("LLMService").iter().filter(|service| is_ready(service)).count();
            if ready >= services {
                break;
            }
            if began.elapsed() > PATIENCE {
                return Err(format!("{ready} of {services} services became ready").into());
            }
            sleep(Duration::from_millis(500)).await;
        }
        let took = began.elapsed();
        if !self.stage.settle(Duration::from_secs(2), PATIENCE).await {
            return Err("writes do not end".into());
        }
        Ok(took)
    }

    /// Versions of everything that the operator writes.
    fn versions(&self) -> BTreeMap<String, String> {
        // A cluster's own controllers tell of other things.
        let theirs = |object: &Value| object["kind"] == "Event" && object["reportingController"] != OURS;
        let objects = KINDS.iter().flat_map(|kind| self.stage.list(kind)).filter(|object| !theirs(object));
        let version = |object: Value| {
            (object["metadata"]["uid"].to_string(), object["metadata"]["resourceVersion"].to_string())
        };
        objects.map(version).collect()
    }
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let Arguments { wharf, services, idle_services, idle_seconds, most } = Arguments::read()?;
    let world = World::start().await?;

    // Idle, with fewer services than the other figure has: they are there first.
    world.seed(0..idle_services, most).await;
    let operator = world.operator(&wharf)?;
    world.settled(idle_services).await?;
    let before = (cost(&operator)?, world.versions());
    sleep(Duration::from_secs(idle_seconds)).await;
    let after = (cost(&operator)?, world.versions());
    let written = after.1.iter().filter(|(uid, version)| before.1.get(*uid) != Some(version)).count();
    let idle = json!({
        "services": idle_services, "seconds": idle_seconds, "max_replicas": most,
        "millicores": 1000.0 * (after.0.cpu - before.0.cpu) / idle_seconds as f64,
        "resident_bytes": after.0.resident, "anonymous_bytes": after.0.anonymous, "peak_bytes": after.0.peak, "objects_written": written,
    });
    drop(operator);

    // From cold: all services are there before an operator is.
    world.seed(idle_services..services, most).await;
    let operator = world.operator(&wharf)?;
    let took = world.settled(services).await?;
    let at_work = cost(&operator)?;
    drop(operator);
    // A new one finds everything as it should be.
    let before = world.versions();
    let operator = world.operator(&wharf)?;
    sleep(Duration::from_secs(20)).await;
    let looked = cost(&operator)?;
    let after = world.versions();
    let written = after.iter().filter(|(uid, version)| before.get(*uid) != Some(version)).count();
    let cold = json!({
        "services": services, "seconds_until_ready": took.as_secs_f64(), "cpu_seconds": at_work.cpu, "peak_bytes": at_work.peak,
        "objects": after.len(), "objects_written_by_a_new_operator": written, "new_operator_cpu_seconds": looked.cpu,
        "new_operator_resident_bytes": looked.resident,
    });
    let server = if world.stage.is_real() { "real" } else { "in memory" };
    println!("{}", serde_json::to_string_pretty(&json!({"api_server": server, "idle": idle, "cold": cold}))?);
    Ok(())
}
