//! Why a replica gets no place, in words: what it asks for, what there is, and what would make it fit. Pure.

use wharf_spec::service::{Scaling, ScalingMode};

use crate::options::{Explanation, Needs, Room};
use crate::place::Gpu;

/// Why a replica gets no place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Too few CPUs are free.
    Cpus { asked: usize, free: usize, all: usize },
    /// Too little memory is free, in bytes.
    Memory {
        asked: u64,
        /// By its object; otherwise it is what the model needs.
        said: bool,
        most: u64,
        taken: u64,
    },
    /// Too few GPUs are free.
    Gpus { asked: usize, product: Option<String>, free: usize, all: usize },
    /// The largest GPU that it could have has too little memory.
    SmallGpu { needs: u64, gpu: Gpu },
}

impl Refusal {
    /// As the end of a sentence about a replica, with what would make it fit: what a forecast of the model says, and `others`.
    pub(crate) fn told(&self, needs: Option<&Needs>, others: &[String]) -> String {
        let explained = |room: Room| needs.map(|needs| (needs.explain)(&room));
        let (why, changes) = match self {
            Refusal::Cpus { asked, free, all } => {
                let what = counted(*asked, "CPU");
                let why =
                    format!("it asks for {what} of its own and {free} of this machine's {all} are free");
                (why, vec!["lower resources.requests.cpu, or leave it out to share them".to_owned()])
            }
            Refusal::Gpus { asked, product, free, all } => {
                let what = counted(*asked, product.as_deref().unwrap_or("GPU"));
                (format!("it asks for {what} and {free} of this machine's {all} are free"), Vec::new())
            }
            Refusal::Memory { asked, said, most, taken } => {
                let free = most.saturating_sub(*taken);
                let (needs, changes) = match (said, explained(Room::Memory(free))) {
                    (false, None) => (format!("it needs {}", gigabytes(*asked)), Vec::new()),
                    (false, Some(Explanation { needs, changes })) => {
                        (format!("it needs {needs}"), or_nothing(changes))
                    }
                    (true, explained) => of_request(*asked, free, needs, explained),
                };
                // Those of the service itself are among the others that help.
                let elsewhere = others.is_empty() && *taken > 0 && asked <= most;
                let changes = changes
                    .into_iter()
                    .chain(elsewhere.then(|| "fewer replicas of other services".to_owned()))
                    .collect();
                let (most, taken, free) = (gigabytes(*most), gigabytes(*taken), gigabytes(free));
                let why = format!(
                    "{needs}, and of {most} that models may take here {taken} are taken and {free} are free"
                );
                (why, changes)
            }
            Refusal::SmallGpu { needs, gpu } => {
                let (needs, changes) = match explained(Room::Gpu(gpu.clone())) {
                    None => (gigabytes(*needs), Vec::new()),
                    Some(Explanation { needs, changes }) => (needs, or_nothing(changes)),
                };
                let has = gpu.memory.map(gigabytes).unwrap_or_default();
                (format!("it needs {needs} on a GPU, and the {} has {has}", gpu.product), changes)
            }
        };
        let changes: Vec<&str> = changes.iter().chain(others).map(String::as_str).collect();
        match changes[..] {
            [] => why,
            [only] => format!("{why}; what helps: {only}"),
            [..] => format!("{why}; any one of these helps: {}", changes.join("; ")),
        }
    }
}

/// Of an object that says itself how much memory it is to have.
fn of_request(
    asked: u64,
    free: u64,
    needs: Option<&Needs>,
    explained: Option<Explanation>,
) -> (String, Vec<String>) {
    let what = format!("it asks for {} (resources.requests.memory)", gigabytes(asked));
    let lower = "lower resources.requests.memory".to_owned();
    match (needs, explained) {
        (Some(needs), Some(explained)) if needs.memory > free => {
            let changes = explained.changes.into_iter().map(|change| format!("{change}, and {lower}"));
            (format!("{what}, its model needs {}", explained.needs), or_nothing(changes.collect()))
        }
        (_, Some(explained)) => (format!("{what}, its model needs {}", explained.needs), vec![lower]),
        (_, None) => (what, vec![lower]),
    }
}

/// Where nothing helps that can be asked of the model, it is good to know.
fn or_nothing(changes: Vec<String>) -> Vec<String> {
    match changes.is_empty() {
        true => vec!["a smaller model: no quantisation and no shorter context is enough".to_owned()],
        false => changes,
    }
}

/// As many replicas as run already, where some do.
pub(crate) fn fewer(running: usize, scaling: &Scaling) -> Option<String> {
    let most = match scaling.mode {
        ScalingMode::None => "replicas",
        ScalingMode::Native | ScalingMode::Hpa | ScalingMode::Keda => "scaling.max",
    };
    let fit = if running == 1 { "fits" } else { "fit" };
    (running > 0).then(|| format!("fewer replicas: {running} {fit} ({most}: {running})"))
}

fn counted(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

fn gigabytes(bytes: u64) -> String {
    format!("{:.1} GB", bytes as f64 / 1e9)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const GB: u64 = 1_000_000_000;

    /// Of a model that needs 6 GB and is told by what there is.
    fn needs(changes: &'static [&'static str]) -> Needs {
        Needs {
            memory: 6 * GB,
            gpu_memory: 7 * GB,
            explain: Arc::new(move |room| {
                let (bytes, what) = match room {
                    Room::Memory(bytes) => (*bytes, "memory"),
                    Room::Gpu(gpu) => (gpu.memory.unwrap(), "GPU"),
                };
                Explanation {
                    needs: format!("6.0 GB (weights 5.0 GB) of {what}"),
                    changes: changes.iter().map(|change| format!("{change} in {bytes}")).collect(),
                }
            }),
        }
    }

    fn memory(said: bool, asked: u64, most: u64) -> Refusal {
        Refusal::Memory { asked, said, most, taken: 3 * GB }
    }

    #[test]
    fn a_refusal_says_what_is_needed_what_is_free_and_what_to_change() {
        let changes = &["q4", "shorter"];
        let gpu = Gpu { id: "0".into(), product: "NVIDIA L4".into(), memory: Some(4 * GB) };
        let small = Refusal::SmallGpu { needs: 7 * GB, gpu };
        let cases = [
            (
                memory(false, 6 * GB, 8 * GB),
                Some(needs(changes)),
                "it needs 6.0 GB (weights 5.0 GB) of memory, and of 8.0 GB that models may take here 3.0 GB are taken and 5.0 GB are free; \
                 any one of these helps: q4 in 5000000000; shorter in 5000000000; fewer replicas of other services",
            ),
            (
                memory(false, 6 * GB, 8 * GB),
                Some(needs(&[])),
                "it needs 6.0 GB (weights 5.0 GB) of memory, and of 8.0 GB that models may take here 3.0 GB are taken and 5.0 GB are free; \
                 any one of these helps: a smaller model: no quantisation and no shorter context is enough; fewer replicas of other services",
            ),
            (
                memory(true, 12 * GB, 10 * GB),
                Some(needs(changes)),
                "it asks for 12.0 GB (resources.requests.memory), its model needs 6.0 GB (weights 5.0 GB) of memory, \
                 and of 10.0 GB that models may take here 3.0 GB are taken and 7.0 GB are free; what helps: lower resources.requests.memory",
            ),
            (
                memory(true, 12 * GB, 8 * GB),
                Some(needs(&["q4"])),
                "it asks for 12.0 GB (resources.requests.memory), its model needs 6.0 GB (weights 5.0 GB) of memory, \
                 and of 8.0 GB that models may take here 3.0 GB are taken and 5.0 GB are free; \
                 what helps: q4 in 5000000000, and lower resources.requests.memory",
            ),
            (
                memory(true, 12 * GB, 8 * GB),
                None,
                "it asks for 12.0 GB (resources.requests.memory), and of 8.0 GB that models may take here 3.0 GB are taken and 5.0 GB are free; \
                 what helps: lower resources.requests.memory",
            ),
            (
                small.clone(),
                Some(needs(&["q4"])),
                "it needs 6.0 GB (weights 5.0 GB) of GPU on a GPU, and the NVIDIA L4 has 4.0 GB; what helps: q4 in 4000000000",
            ),
            (small, None, "it needs 7.0 GB on a GPU, and the NVIDIA L4 has 4.0 GB"),
            (
                Refusal::Gpus { asked: 2, product: Some("B300".into()), free: 1, all: 4 },
                Some(needs(changes)),
                "it asks for 2 B300s and 1 of this machine's 4 are free",
            ),
            (
                Refusal::Cpus { asked: 1, free: 0, all: 2 },
                None,
                "it asks for 1 CPU of its own and 0 of this machine's 2 are free; \
                 what helps: lower resources.requests.cpu, or leave it out to share them",
            ),
        ];
        for (refusal, needs, expected) in cases {
            assert_eq!(refusal.told(needs.as_ref(), &[]), expected);
        }
    }

    #[test]
    fn fewer_replicas_help_where_some_run() {
        let scaling = Scaling::default();
        assert_eq!(fewer(0, &scaling), None);
        let one = fewer(1, &scaling).unwrap();
        assert_eq!(one, "fewer replicas: 1 fits (scaling.max: 1)");
        let by_hand = Scaling { mode: ScalingMode::None, ..scaling };
        assert_eq!(fewer(2, &by_hand).unwrap(), "fewer replicas: 2 fit (replicas: 2)");
        let refusal = Refusal::Gpus { asked: 1, product: None, free: 0, all: 1 };
        assert_eq!(
            refusal.told(None, &[one]),
            "it asks for 1 GPU and 0 of this machine's 1 are free; what helps: fewer replicas: 1 fits (scaling.max: 1)"
        );
    }
}
