//! Which CPUs and GPUs a replica gets, and whether there is room for it. Pure.

use std::collections::BTreeMap;

/// What there is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Machine {
    /// CPUs that may be used, by number.
    pub cpus: Vec<usize>,
    /// Memory that models may take, in bytes; none if it is not known.
    pub memory: Option<u64>,
    /// GPUs, in the order of their numbers.
    pub gpus: Vec<Gpu>,
}

/// A GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// Its number or UUID, as `CUDA_VISIBLE_DEVICES` takes it.
    pub id: String,
    /// What it is, as the driver says.
    pub product: String,
}

/// What a replica asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Ask {
    /// CPUs of its own; all that there are, shared, if 0.
    pub cpus: usize,
    /// Memory in bytes; 0 if it is not known.
    pub memory: u64,
    /// GPUs of its own.
    pub gpus: u32,
    /// Which, by a part of its name.
    pub product: Option<String>,
}

/// What a replica got.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Place {
    /// CPUs of its own; none if it shares all.
    pub cpus: Vec<usize>,
    /// GPUs of its own, by their ids.
    pub gpus: Vec<String>,
    /// Memory that is counted for it.
    pub memory: u64,
}

/// Places that are taken, by replica.
pub(crate) type Taken = BTreeMap<String, Place>;

/// A place for one more replica, or a sentence that says why there is none.
pub(crate) fn place(machine: &Machine, taken: &Taken, ask: &Ask) -> Result<Place, String> {
    let gpus = gpus(machine, taken, ask)?;
    let used: Vec<usize> = taken.values().flat_map(|place| place.cpus.iter().copied()).collect();
    let free: Vec<usize> = machine.cpus.iter().copied().filter(|cpu| !used.contains(cpu)).collect();
    if ask.cpus > free.len() {
        return Err(format!(
            "it asks for {} of its own and {} of this machine's {} are free; lower resources.requests.cpu, or leave it out to share them",
            counted(ask.cpus, "CPU"),
            free.len(),
            machine.cpus.len(),
        ));
    }
    let cpus = free.into_iter().take(ask.cpus).collect();
    // With a GPU the model is in the GPU's memory.
    let memory = if ask.gpus > 0 { 0 } else { ask.memory };
    let counted: u64 = taken.values().map(|place| place.memory).sum();
    if let Some(most) = machine.memory
        && counted.saturating_add(memory) > most
    {
        return Err(format!(
            "it needs {}, and of {} that models may take here {} are taken; `wharf plan` shows what would fit",
            gigabytes(memory),
            gigabytes(most),
            gigabytes(counted),
        ));
    }
    Ok(Place { cpus, gpus, memory })
}

fn gpus(machine: &Machine, taken: &Taken, ask: &Ask) -> Result<Vec<String>, String> {
    let fits = |gpu: &&Gpu| {
        let normal = |text: &str| text.to_ascii_lowercase().replace([' ', '_'], "-");
        ask.product.as_ref().is_none_or(|product| normal(&gpu.product).contains(&normal(product)))
    };
    let used: Vec<&String> = taken.values().flat_map(|place| &place.gpus).collect();
    let suitable: Vec<&Gpu> = machine.gpus.iter().filter(fits).collect();
    let free: Vec<String> =
        suitable.iter().map(|gpu| gpu.id.clone()).filter(|id| !used.contains(&id)).collect();
    let wanted = ask.gpus as usize;
    if wanted <= free.len() {
        return Ok(free.into_iter().take(wanted).collect());
    }
    let what = ask.product.as_deref().unwrap_or("GPU");
    Err(format!(
        "it asks for {} and {} of this machine's {} are free",
        counted(wanted, what),
        free.len(),
        suitable.len(),
    ))
}

fn counted(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

fn gigabytes(bytes: u64) -> String {
    format!("{:.1} GB", bytes as f64 / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        let gpu = |id: &str, product: &str| Gpu { id: id.to_owned(), product: product.to_owned() };
        Machine {
            cpus: vec![0, 1, 2, 3],
            memory: Some(10_000_000_000),
            gpus: vec![gpu("0", "NVIDIA L4"), gpu("1", "NVIDIA H200")],
        }
    }

    fn take(asks: &[Ask]) -> Result<Vec<Place>, String> {
        let mut taken = Taken::new();
        for (index, ask) in asks.iter().enumerate() {
            let place = place(&machine(), &taken, ask)?;
            taken.insert(index.to_string(), place);
        }
        Ok(taken.into_values().collect())
    }

    #[test]
    fn replicas_with_cpus_of_their_own_get_different_ones_and_others_share() {
        let ask = Ask { cpus: 2, ..Ask::default() };
        let places = take(&[ask.clone(), Ask::default(), ask.clone()]).unwrap();
        assert_eq!(
            places.iter().map(|p| p.cpus.clone()).collect::<Vec<_>>(),
            [vec![0, 1], vec![], vec![2, 3]]
        );
        let error = take(&[ask.clone(), ask, Ask { cpus: 1, ..Ask::default() }]).unwrap_err();
        assert!(error.contains("asks for 1 CPU of its own and 0 of this machine's 4"), "{error}");
    }

    #[test]
    fn memory_is_counted_until_it_is_full() {
        let ask = Ask { memory: 4_000_000_000, ..Ask::default() };
        assert!(take(&[ask.clone(), ask.clone()]).is_ok());
        let error = take(&[ask.clone(), ask.clone(), ask]).unwrap_err();
        assert!(error.contains("needs 4.0 GB, and of 10.0 GB that models may take here 8.0 GB"), "{error}");
    }

    #[test]
    fn a_gpu_is_given_once_and_by_its_name() {
        let ask = |product: &str| Ask { gpus: 1, product: Some(product.to_owned()), ..Ask::default() };
        assert_eq!(take(&[ask("NVIDIA-H200")]).unwrap()[0].gpus, ["1"]);
        let any = Ask { gpus: 1, ..Ask::default() };
        assert_eq!(take(&[any.clone(), any.clone()]).unwrap()[1].gpus, ["1"]);
        assert!(
            take(&[any.clone(), any.clone(), any]).unwrap_err().contains("1 GPU and 0 of this machine's 2")
        );
        assert!(take(&[ask("B300")]).unwrap_err().contains("1 B300 and 0 of this machine's 0"));
    }
}
