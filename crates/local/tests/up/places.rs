//! What replicas get of a machine, what they are told of it, and what is said when it is not enough.

use serde_json::{Value, json};
use wharf_local::{Gpu, Machine, Order, Reply};

use crate::support::{Host, Running, group};

const GB: u64 = 1_000_000_000;

/// A machine with so many GPUs of 100 GB, for models that need so much of one.
fn host(gpus: u32, needs: u64) -> Host {
    let gpu = |number| Gpu {
        id: format!("GPU-{number}"),
        product: "NVIDIA H100".to_owned(),
        memory: Some(100 * GB),
    };
    let default = Host::default();
    Host {
        machine: Machine { gpus: (0..gpus).map(gpu).collect(), ..default.machine },
        needs: Some((0, needs)),
    }
}

/// What the replicas that are ready were told, in the order of their names.
async fn told(up: &Running) -> Vec<String> {
    let mut told = Vec::new();
    for replica in up.facts().replicas.iter().filter(|replica| replica.state == "ready") {
        let mut words = up.told(&replica.name).await;
        words.sort();
        told.push(words.join(" "));
    }
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_is_told_in_the_words_of_the_plan_wherever_somebody_looks() {
    let machine = Machine { memory: Some(10 * GB), ..Host::default().machine };
    let two = json!({"scaling": {"min": 2, "max": 2}});
    let up = Running::start_on(Host { machine, needs: Some((6 * GB, 0)) }, json!({}), two).await;
    let expected = "does not fit: it needs 6000000000 bytes (weights and the rest), and of 10.0 GB that models may take here \
         6.0 GB are taken and 4.0 GB are free; any one of these helps: a smaller one for Memory(4000000000); \
         fewer replicas: 1 fits (scaling.max: 1)";
    let waits = |facts: &wharf_api::console::ServiceFacts| {
        let waiting = facts.replicas.iter().find(|replica| replica.state == "waiting");
        waiting.is_some_and(|replica| replica.reason == expected) && facts.message.contains(expected)
    };
    let facts = up.until("the refusal", waits).await;
    assert!(facts.message.starts_with("a replica does not fit"), "{}", facts.message);
    let Reply::Overview(overview) = up.order(Order::Overview).await else { panic!("no overview") };
    let shown = overview.services[0].facts.as_ref().unwrap();
    assert!(shown.message.contains(expected), "{}", shown.message);
    let event = format!("ReplicaNotStarted: a replica {expected}");
    assert!(up.events.lock().unwrap().contains(&event), "{:#?}", up.events.lock().unwrap());
    // The one that fits answers.
    assert_eq!(up.chat().await.0, 200);
    up.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_without_room_beside_the_old_version_says_what_it_lacks() {
    let machine = Machine { memory: Some(10 * GB), ..Host::default().machine };
    let up = Running::start_on(Host { machine, needs: Some((6 * GB, 0)) }, json!({}), json!({})).await;
    up.until_phase("Promoted").await;
    let second = up.model("second", &json!({}));
    up.write(&second, json!({}));
    let lacks = |facts: &wharf_api::console::ServiceFacts| {
        let reason = facts.rollout.as_ref().map_or("", |rollout| rollout.reason.as_str());
        reason.contains("does not fit beside the old one: it needs 6000000000 bytes (weights and the rest)")
            && reason.contains("rollout.strategy: Recreate")
    };
    up.until("the refusal", lacks).await;
    assert_eq!(up.chat().await.0, 200);
    up.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_share_a_gpu_divide_its_memory_and_the_rest_computes_on_the_cpu() {
    let three = |strategy: &str| json!({"scaling": {"min": 3, "max": 3}, "rollout": {"strategy": strategy}});
    let on =
        |gpu: u32, part: &str| format!("CUDA_VISIBLE_DEVICES=GPU-{gpu} WHARF_GPU_MEMORY_FRACTION=0.{part}");
    let cpu = "WHARF_DEVICE=cpu".to_owned();
    let cases: [(Host, Value, [String; 3]); 3] = [
        (host(1, 20 * GB), three("Recreate"), [on(0, "300"), on(0, "300"), on(0, "300")]),
        (host(1, 40 * GB), three("Recreate"), [on(0, "400"), on(0, "400"), cpu]),
        // Two GPUs among six replicas: three of this version and three of the next.
        (host(2, 20 * GB), three("BlueGreen"), [on(0, "300"), on(1, "300"), on(0, "300")]),
    ];
    for (host, spec, expected) in cases {
        let up = Running::start_on(host, json!({}), spec.clone()).await;
        up.until_ready(3).await;
        assert_eq!(told(&up).await, expected, "{spec}");
        let on_cpu = expected.iter().filter(|words| *words == "WHARF_DEVICE=cpu").count();
        let warned =
            up.events.lock().unwrap().iter().filter(|event| event.starts_with("ReplicaOnCpu")).count();
        assert_eq!(warned, on_cpu, "{spec}");
        up.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_versions_of_a_release_have_a_part_of_the_gpu() {
    let up = Running::start_on(host(1, 0), json!({}), json!({"rollout": {"keepOldFor": "10m"}})).await;
    up.until_phase("Promoted").await;
    let second = up.model("second", &json!({}));
    up.write(&second, json!({"rollout": {"keepOldFor": "10m"}}));
    up.until_ready(2).await;
    let half = "CUDA_VISIBLE_DEVICES=GPU-0 WHARF_GPU_MEMORY_FRACTION=0.450";
    assert_eq!(told(&up).await, [half, half]);
    up.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_for_a_gpu_has_it_alone_and_may_not_compute_elsewhere() {
    let asks = json!({"resources": {"gpu": {"count": 1}}, "scaling": {"min": 2, "max": 2}});
    let up = Running::start_on(host(2, 0), json!({}), asks).await;
    let facts = up.until_ready(2).await;
    assert_eq!(told(&up).await, ["CUDA_VISIBLE_DEVICES=GPU-0", "CUDA_VISIBLE_DEVICES=GPU-1"]);
    for replica in facts.replicas {
        let config = up.root.path().join("state/run").join(&replica.name).join("server_config.yaml");
        let text = std::fs::read_to_string(config).unwrap();
        assert!(text.contains("device: cuda\n"), "{text}");
    }
    up.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_for_cpus_runs_on_those_alone_and_nobody_else_does() {
    let host = Host::default();
    let two: Vec<usize> = host.machine.cpus.iter().copied().take(2).collect();
    let replicas = two.len() as u32;
    let machine = Machine { cpus: two.clone(), ..host.machine };
    let one_each = json!({
        "resources": {"requests": {"cpu": 1}},
        "scaling": {"min": replicas, "max": replicas},
        "rollout": {"strategy": "Recreate"},
    });
    let up = Running::start_on(Host { machine, needs: None }, json!({}), one_each).await;
    let facts = up.until_ready(replicas).await;
    let mut allowed = Vec::new();
    for replica in facts.replicas {
        // What stands in between and the engine alike.
        let mut of_group: Vec<String> = group(replica.pid.unwrap()).into_iter().map(cpus_of).collect();
        of_group.dedup();
        assert_eq!(of_group.len(), 1, "{of_group:?}");
        allowed.append(&mut of_group);
    }
    let mut expected: Vec<String> = two.iter().map(usize::to_string).collect();
    expected.sort();
    allowed.sort();
    assert_eq!(allowed, expected);
    up.stop().await;
}

/// The CPUs that a process may use, as Linux lists them.
fn cpus_of(pid: u32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    line.unwrap().trim().to_owned()
}
