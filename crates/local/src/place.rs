//! Which CPUs and GPUs a replica gets, and whether there is room for it. Pure.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::division::Division;
use crate::refusal::Refusal;

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

/// A GPU, or a part of one that MIG made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// Its number or UUID, as `CUDA_VISIBLE_DEVICES` takes it.
    pub id: String,
    /// What it is, as the driver says.
    pub product: String,
    /// Its memory in bytes; none if it is not known.
    pub memory: Option<u64>,
}

impl Gpu {
    /// Whether it is what is asked for, by a part of its name.
    pub(crate) fn is(&self, product: Option<&str>) -> bool {
        let normal = |text: &str| text.to_ascii_lowercase().replace([' ', '_'], "-");
        product.is_none_or(|product| normal(&self.product).contains(&normal(product)))
    }
}

/// What a replica asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Ask {
    /// CPUs of its own; all that there are, shared, if 0.
    pub(crate) cpus: usize,
    /// Memory in bytes; 0 if it is not known, or is its GPUs'.
    pub(crate) memory: u64,
    /// The object says so much memory, whatever the model needs.
    pub(crate) says_memory: bool,
    /// GPUs of its own.
    pub(crate) gpus: u32,
    /// Which, by a part of its name.
    pub(crate) product: Option<String>,
    /// Memory that it needs of a GPU, in bytes; 0 if it is not known.
    pub(crate) gpu_memory: u64,
    /// It asks for no GPU, and computes on one if it gets a part of it.
    pub(crate) shares: bool,
}

/// What a replica got.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Place {
    /// CPUs of its own; none if it shares all.
    pub(crate) cpus: Vec<usize>,
    /// What it computes on.
    pub(crate) device: Device,
    /// Memory that is counted for it.
    pub(crate) memory: u64,
}

/// What a replica computes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Device {
    /// What its engine takes by itself.
    #[default]
    Any,
    /// The CPU: no GPU has room for it.
    Cpu,
    /// GPUs of its own, by their ids.
    Own(Vec<String>),
    /// A part of a GPU's memory.
    Part(Part),
}

/// A part of a GPU's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// Id of the GPU.
    pub(crate) gpu: String,
    /// Thousandths of its memory.
    pub(crate) thousandths: u64,
}

impl Device {
    /// Variables that say it to the process.
    pub(crate) fn variables(&self) -> Vec<(&'static str, String)> {
        match self {
            Device::Any => Vec::new(),
            Device::Cpu => vec![("WHARF_DEVICE", "cpu".to_owned())],
            Device::Own(gpus) => vec![("CUDA_VISIBLE_DEVICES", gpus.join(","))],
            Device::Part(Part { gpu, thousandths }) => vec![
                ("CUDA_VISIBLE_DEVICES", gpu.clone()),
                ("WHARF_GPU_MEMORY_FRACTION", format!("0.{thousandths:03}")),
            ],
        }
    }
}

/// Places that are taken, by replica.
pub(crate) type Taken = BTreeMap<String, Place>;

/// Thousandths of a GPU's memory that replicas take of it together: as much as a server takes that has it alone
/// (`gpu_memory_fraction`).
const WHOLE: u64 = 900;

/// A place for one more replica, or why there is none.
pub(crate) fn place(
    machine: &Machine,
    division: &Division,
    taken: &Taken,
    ask: &Ask,
) -> Result<Place, Refusal> {
    let device = match ask {
        Ask { gpus: 1.., .. } => Device::Own(own(machine, taken, ask)?),
        Ask { shares: true, .. } if !machine.gpus.is_empty() => {
            part(machine, division, taken, ask).map_or(Device::Cpu, Device::Part)
        }
        Ask { .. } => Device::Any,
    };
    let used: Vec<usize> = taken.values().flat_map(|place| place.cpus.iter().copied()).collect();
    let free: Vec<usize> = machine.cpus.iter().copied().filter(|cpu| !used.contains(cpu)).collect();
    if ask.cpus > free.len() {
        return Err(Refusal::Cpus { asked: ask.cpus, free: free.len(), all: machine.cpus.len() });
    }
    let cpus = free.into_iter().take(ask.cpus).collect();
    let counted: u64 = taken.values().map(|place| place.memory).sum();
    if let Some(most) = machine.memory
        && counted.saturating_add(ask.memory) > most
    {
        return Err(Refusal::Memory { asked: ask.memory, said: ask.says_memory, most, taken: counted });
    }
    Ok(Place { cpus, device, memory: ask.memory })
}

/// GPUs that nobody else computes on.
fn own(machine: &Machine, taken: &Taken, ask: &Ask) -> Result<Vec<String>, Refusal> {
    let wanted = ask.gpus as usize;
    let mut named: Vec<&Gpu> = machine.gpus.iter().filter(|gpu| gpu.is(ask.product.as_deref())).collect();
    let is_large = |gpu: &Gpu| gpu.memory.is_none_or(|memory| memory >= ask.gpu_memory);
    let large: Vec<&Gpu> = named.iter().copied().filter(|gpu| is_large(gpu)).collect();
    if large.len() < wanted && named.len() >= wanted {
        // Of the largest as many as are asked for, the smallest is the one that does not do.
        named.sort_by_key(|gpu| Reverse(gpu.memory));
        return Err(Refusal::SmallGpu { needs: ask.gpu_memory, gpu: named[wanted - 1].clone() });
    }
    let is_free = |gpu: &&Gpu| !taken.values().any(|place| place.device.is_on(&gpu.id));
    let free: Vec<String> = large.iter().copied().filter(is_free).map(|gpu| gpu.id.clone()).collect();
    if free.len() < wanted {
        return Err(Refusal::Gpus {
            asked: wanted,
            product: ask.product.clone(),
            free: free.len(),
            all: large.len(),
        });
    }
    Ok(free.into_iter().take(wanted).collect())
}

/// A part of the GPU that has most left, as large as the model needs at least; nothing where none has so much left.
fn part(machine: &Machine, division: &Division, taken: &Taken, ask: &Ask) -> Option<Part> {
    let parts = division.gpus.iter().filter_map(|id| {
        let gpu = machine.gpus.iter().find(|gpu| gpu.id == *id)?;
        let mut left = WHOLE;
        for place in taken.values() {
            match &place.device {
                Device::Own(gpus) if gpus.contains(id) => return None,
                Device::Part(part) if part.gpu == *id => left = left.saturating_sub(part.thousandths),
                Device::Any | Device::Cpu | Device::Own(_) | Device::Part(_) => {}
            }
        }
        let needed = gpu.memory.map_or(0, |memory| thousandths(ask.gpu_memory, memory));
        let thousandths = (WHOLE / u64::from(division.parts.max(1))).max(needed).max(1);
        (thousandths <= left).then(|| (left, Part { gpu: id.clone(), thousandths }))
    });
    // Of those with as much left, the first.
    parts.min_by_key(|(left, _)| Reverse(*left)).map(|(_, part)| part)
}

/// How many thousandths of a memory these bytes are at least.
fn thousandths(bytes: u64, memory: u64) -> u64 {
    let parts = (u128::from(bytes) * 1000).div_ceil(u128::from(memory.max(1)));
    u64::try_from(parts).unwrap_or(u64::MAX)
}

impl Device {
    fn is_on(&self, gpu: &str) -> bool {
        match self {
            Device::Any | Device::Cpu => false,
            Device::Own(gpus) => gpus.iter().any(|own| own == gpu),
            Device::Part(part) => part.gpu == gpu,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB: u64 = 1_000_000_000;

    fn machine() -> Machine {
        let gpu = |id: &str, product: &str, memory| Gpu {
            id: id.to_owned(),
            product: product.to_owned(),
            memory: Some(memory),
        };
        Machine {
            cpus: vec![0, 1, 2, 3],
            memory: Some(10 * GB),
            gpus: vec![gpu("0", "NVIDIA L4", 24 * GB), gpu("1", "NVIDIA H200", 150 * GB)],
        }
    }

    fn all(parts: u32) -> Division {
        Division { gpus: vec!["0".to_owned(), "1".to_owned()], parts }
    }

    fn take_of(division: &Division, asks: &[Ask]) -> Result<Vec<Place>, Refusal> {
        let mut taken = Taken::new();
        for (index, ask) in asks.iter().enumerate() {
            let place = place(&machine(), division, &taken, ask)?;
            taken.insert(index.to_string(), place);
        }
        Ok(taken.into_values().collect())
    }

    fn take(asks: &[Ask]) -> Result<Vec<Place>, Refusal> {
        take_of(&all(1), asks)
    }

    fn devices(division: &Division, asks: &[Ask]) -> Vec<Device> {
        take_of(division, asks).unwrap().into_iter().map(|place| place.device).collect()
    }

    fn own(gpu: &str) -> Device {
        Device::Own(vec![gpu.to_owned()])
    }

    fn part(gpu: &str, thousandths: u64) -> Device {
        Device::Part(Part { gpu: gpu.to_owned(), thousandths })
    }

    fn shares(gpu_memory: u64) -> Ask {
        Ask { shares: true, gpu_memory, ..Ask::default() }
    }

    #[test]
    fn replicas_with_cpus_of_their_own_get_different_ones_and_others_share() {
        let ask = Ask { cpus: 2, ..Ask::default() };
        let places = take(&[ask.clone(), Ask::default(), ask.clone()]).unwrap();
        assert_eq!(
            places.iter().map(|p| p.cpus.clone()).collect::<Vec<_>>(),
            [vec![0, 1], vec![], vec![2, 3]]
        );
        let refusal = take(&[ask.clone(), ask, Ask { cpus: 1, ..Ask::default() }]).unwrap_err();
        assert_eq!(refusal, Refusal::Cpus { asked: 1, free: 0, all: 4 });
    }

    #[test]
    fn memory_is_counted_until_it_is_full() {
        let ask = Ask { memory: 4 * GB, ..Ask::default() };
        assert!(take(&[ask.clone(), ask.clone()]).is_ok());
        let refusal = take(&[ask.clone(), ask.clone(), ask]).unwrap_err();
        assert_eq!(refusal, Refusal::Memory { asked: 4 * GB, said: false, most: 10 * GB, taken: 8 * GB });
    }

    #[test]
    fn a_gpu_is_given_once_and_by_its_name() {
        let ask = |product: &str| Ask { gpus: 1, product: Some(product.to_owned()), ..Ask::default() };
        assert_eq!(take(&[ask("NVIDIA-H200")]).unwrap()[0].device, own("1"));
        let any = Ask { gpus: 1, ..Ask::default() };
        assert_eq!(take(&[any.clone(), any.clone()]).unwrap()[1].device, own("1"));
        assert_eq!(
            take(&[any.clone(), any.clone(), any]).unwrap_err(),
            Refusal::Gpus { asked: 1, product: None, free: 0, all: 2 }
        );
        assert_eq!(
            take(&[ask("B300")]).unwrap_err(),
            Refusal::Gpus { asked: 1, product: Some("B300".to_owned()), free: 0, all: 0 }
        );
    }

    #[test]
    fn a_gpu_that_is_too_small_is_not_given() {
        let ask = |gpus, gpu_memory| Ask { gpus, gpu_memory, ..Ask::default() };
        assert_eq!(take(&[ask(1, 30 * GB)]).unwrap()[0].device, own("1"));
        for (gpus, needs, index) in [(2, 30 * GB, 0), (1, 200 * GB, 1)] {
            let gpu = machine().gpus[index].clone();
            assert_eq!(take(&[ask(gpus, needs)]).unwrap_err(), Refusal::SmallGpu { needs, gpu });
        }
    }

    #[test]
    fn who_asks_for_none_gets_a_gpu_that_has_most_left_and_no_more_than_its_part() {
        let ask = shares(0);
        // One each, while there are as many.
        assert_eq!(devices(&all(1), &[ask.clone(), ask.clone()]), [part("0", 900), part("1", 900)]);
        let both = devices(&all(2), &vec![ask.clone(); 5]);
        let expected = [part("0", 450), part("1", 450), part("0", 450), part("1", 450), Device::Cpu];
        assert_eq!(both, expected);
        // A division that has become finer leaves what is taken as it is.
        let mut taken = Taken::new();
        for (parts, expected) in [(1, part("0", 900)), (4, part("1", 225)), (4, part("1", 225))] {
            let place = place(&machine(), &all(parts), &taken, &ask).unwrap();
            assert_eq!(place.device, expected);
            taken.insert(taken.len().to_string(), place);
        }
    }

    #[test]
    fn a_part_is_never_less_than_the_model_needs() {
        // 12 GB are half of the L4 and 80 thousandths of the H200.
        assert_eq!(devices(&all(10), &[shares(12 * GB)]), [part("0", 500)]);
        assert_eq!(devices(&all(10), &vec![shares(12 * GB); 3])[1..], [part("1", 90), part("1", 90)]);
        assert_eq!(devices(&all(1), &[shares(140 * GB)]), [Device::Cpu]);
    }

    #[test]
    fn own_gpus_and_parts_are_not_of_the_same_gpu() {
        let asks = Ask { gpus: 1, ..Ask::default() };
        let only = Division { gpus: vec!["1".to_owned()], parts: 1 };
        let expected = [own("0"), part("1", 900)];
        assert_eq!(devices(&only, &[asks.clone(), shares(0)]), expected);
        assert_eq!(devices(&only, &[shares(0), asks.clone()]), [part("1", 900), own("0")]);
        assert_eq!(devices(&all(1), &[asks.clone(), asks, shares(0)])[2], Device::Cpu);
    }

    #[test]
    fn where_nobody_knows_of_a_gpu_nothing_is_said_of_one() {
        let none = Machine { gpus: Vec::new(), ..machine() };
        let place = place(&none, &Division::default(), &Taken::new(), &shares(0)).unwrap();
        assert!(place.device.variables().is_empty());
        assert_eq!(take(&[Ask::default()]).unwrap()[0].device, Device::Any);
    }

    #[test]
    fn a_process_is_told_its_device() {
        let said = |device: Device| {
            let words: Vec<String> =
                device.variables().iter().map(|(name, value)| format!("{name}={value}")).collect();
            words.join(" ")
        };
        assert_eq!(said(Device::Cpu), "WHARF_DEVICE=cpu");
        assert_eq!(said(Device::Own(vec!["a".into(), "b".into()])), "CUDA_VISIBLE_DEVICES=a,b");
        assert_eq!(said(part("a", 45)), "CUDA_VISIBLE_DEVICES=a WHARF_GPU_MEMORY_FRACTION=0.045");
    }
}
