//! Which devices are advertised under which resource. Pure.

use crate::config::{GPU, MIG_PREFIX, MigStrategy, PluginConfig};
use crate::gpu::{Gpu, Inventory, Part};

/// A resource and its devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// `nvidia.com/…`.
    pub resource: String,
    /// How many containers share a device; 1 where it is nobody else's.
    pub replicas: u32,
    /// Whether a container that asks for more than one is refused.
    pub refuses_more_than_one: bool,
    /// What is advertised, in a fixed order.
    pub devices: Vec<Device>,
}

/// What kubelet counts: a GPU, a part of one, or a share in either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Kubelet's name for it: the uuid, and `::n` for a share.
    pub id: String,
    /// Uuid of the GPU or the part.
    pub unit: String,
    /// Uuid of the GPU.
    pub gpu: String,
    /// What NVIDIA's runtime calls it by its place: `0`, or `0:1` for a part.
    pub place: String,
    /// The NUMA node.
    pub numa: Option<u32>,
}

/// The strategy does not fit how the GPUs are split.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("plugin.mig is single, but {0}; split all GPUs alike, or use mixed")]
pub struct Unfit(String);

/// What is advertised of a node.
///
/// # Errors
/// [`Unfit`].
pub fn offers(inventory: &Inventory, config: &PluginConfig) -> Result<Vec<Offer>, Unfit> {
    let mut offers: Vec<Offer> = Vec::new();
    let mut add =
        |resource: &str, device: Device| match offers.iter_mut().find(|offer| offer.resource == resource) {
            Some(offer) => offer.devices.push(device),
            None => offers.push(Offer {
                resource: resource.to_owned(),
                replicas: 1,
                refuses_more_than_one: false,
                devices: vec![device],
            }),
        };
    let single = match config.mig {
        MigStrategy::Single => uniform(inventory)?,
        MigStrategy::None | MigStrategy::Mixed => false,
    };
    for gpu in &inventory.gpus {
        match config.mig {
            MigStrategy::Mixed if gpu.is_split() => {
                for (at, part) in gpu.parts().iter().enumerate() {
                    add(&resource_of(&part.profile), of_part(gpu, part, at));
                }
            }
            MigStrategy::Single if single => {
                gpu.parts().iter().enumerate().for_each(|(at, part)| add(GPU, of_part(gpu, part, at)));
            }
            MigStrategy::None | MigStrategy::Single | MigStrategy::Mixed => add(GPU, whole(gpu)),
        }
    }
    for offer in &mut offers {
        share(offer, config);
    }
    Ok(offers)
}

/// `+` is no letter of a resource's name.
pub(crate) fn resource_of(profile: &str) -> String {
    format!("{MIG_PREFIX}{}", profile.replace('+', "."))
}

/// Whether the GPUs are split, which all are or none, into parts of one profile.
fn uniform(inventory: &Inventory) -> Result<bool, Unfit> {
    let split: Vec<&Gpu> = inventory.gpus.iter().filter(|gpu| gpu.is_split()).collect();
    if split.is_empty() {
        return Ok(false);
    }
    if let Some(whole) = inventory.gpus.iter().find(|gpu| !gpu.is_split()) {
        return Err(Unfit(format!("GPU {} is not split while others are", whole.index)));
    }
    if let Some(empty) = split.iter().find(|gpu| gpu.parts().is_empty()) {
        return Err(Unfit(format!("GPU {} is split into nothing", empty.index)));
    }
    let mut profiles: Vec<&str> =
        split.iter().flat_map(|gpu| gpu.parts()).map(|part| part.profile.as_str()).collect();
    profiles.sort_unstable();
    profiles.dedup();
    match profiles.as_slice() {
        [_] => Ok(true),
        several => Err(Unfit(format!("the GPUs have parts of {}", several.join(", ")))),
    }
}

fn whole(gpu: &Gpu) -> Device {
    Device {
        id: gpu.uuid.clone(),
        unit: gpu.uuid.clone(),
        gpu: gpu.uuid.clone(),
        place: gpu.index.to_string(),
        numa: gpu.numa,
    }
}

fn of_part(gpu: &Gpu, part: &Part, at: usize) -> Device {
    Device {
        id: part.uuid.clone(),
        unit: part.uuid.clone(),
        gpu: gpu.uuid.clone(),
        place: format!("{}:{at}", gpu.index),
        numa: gpu.numa,
    }
}

fn share(offer: &mut Offer, config: &PluginConfig) {
    let Some(sharing) = config.sharing.iter().find(|sharing| sharing.resource == offer.resource) else {
        return;
    };
    offer.replicas = sharing.replicas;
    offer.refuses_more_than_one = sharing.refuse_more_than_one;
    if sharing.rename {
        offer.resource.push_str(".shared");
    }
    let shares = |device: &Device| {
        let of = device.clone();
        (0..sharing.replicas)
            .map(move |n| Device { id: format!("{}::{n}", of.unit), ..of.clone() })
            .collect::<Vec<_>>()
    };
    offer.devices = offer.devices.iter().flat_map(shares).collect();
}

/// The unit that a device of kubelet's is, or is a share in.
pub fn unit_of(id: &str) -> &str {
    id.split_once("::").map_or(id, |(unit, _)| unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sharing;
    use crate::gpu::Mig;
    use crate::testing::{gpu, part};

    fn of(gpus: Vec<Gpu>) -> Inventory {
        Inventory { gpus, ..Inventory::default() }
    }

    fn names(offers: &[Offer]) -> Vec<(&str, Vec<&str>)> {
        offers
            .iter()
            .map(|offer| {
                (offer.resource.as_str(), offer.devices.iter().map(|device| device.id.as_str()).collect())
            })
            .collect()
    }

    fn with(mig: MigStrategy) -> PluginConfig {
        PluginConfig { mig, ..PluginConfig::default() }
    }

    #[test]
    fn without_mig_every_gpu_is_one_device() {
        let split = Gpu { mig: Mig::On(vec![part("MIG-a", "1g.10gb", 1)]), ..gpu(1) };
        let offers = offers(&of(vec![gpu(0), split]), &with(MigStrategy::None)).unwrap();
        assert_eq!(names(&offers), [("nvidia.com/gpu", vec!["GPU-0", "GPU-1"])]);
    }

    #[test]
    fn mixed_names_parts_by_their_profile() {
        let parts =
            vec![part("MIG-a", "1g.10gb", 1), part("MIG-b", "1g.10gb+me", 2), part("MIG-c", "1g.10gb", 3)];
        let split = Gpu { mig: Mig::On(parts), ..gpu(1) };
        let offers = offers(&of(vec![gpu(0), split]), &with(MigStrategy::Mixed)).unwrap();
        assert_eq!(
            names(&offers),
            [
                ("nvidia.com/gpu", vec!["GPU-0"]),
                ("nvidia.com/mig-1g.10gb", vec!["MIG-a", "MIG-c"]),
                ("nvidia.com/mig-1g.10gb.me", vec!["MIG-b"]),
            ]
        );
        assert_eq!(offers[1].devices[1].place, "1:2");
    }

    #[test]
    fn single_wants_all_gpus_split_alike() {
        let split = |index, parts| Gpu { mig: Mig::On(parts), ..gpu(index) };
        let small = || vec![part("MIG-a", "1g.10gb", 1)];
        let config = with(MigStrategy::Single);
        let alike = of(vec![split(0, small()), split(1, vec![part("MIG-b", "1g.10gb", 1)])]);
        assert_eq!(names(&offers(&alike, &config).unwrap()), [("nvidia.com/gpu", vec!["MIG-a", "MIG-b"])]);
        let none = of(vec![gpu(0), gpu(1)]);
        assert_eq!(names(&offers(&none, &config).unwrap()), [("nvidia.com/gpu", vec!["GPU-0", "GPU-1"])]);
        for (wrong, why) in [
            (vec![gpu(0), split(1, small())], "GPU 0 is not split"),
            (vec![split(0, vec![])], "split into nothing"),
            (
                vec![split(0, vec![part("MIG-a", "1g.10gb", 1), part("MIG-b", "2g.20gb", 2)])],
                "1g.10gb, 2g.20gb",
            ),
        ] {
            let error = offers(&of(wrong), &config).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn shares_are_numbered_and_may_have_a_name_of_their_own() {
        let sharing =
            Sharing { resource: GPU.to_owned(), replicas: 2, rename: true, refuse_more_than_one: true };
        let config = PluginConfig { sharing: vec![sharing], ..PluginConfig::default() };
        let offers = offers(&of(vec![gpu(0), gpu(1)]), &config).unwrap();
        let ids = vec!["GPU-0::0", "GPU-0::1", "GPU-1::0", "GPU-1::1"];
        assert_eq!(names(&offers), [("nvidia.com/gpu.shared", ids)]);
        assert_eq!(unit_of("GPU-1::1"), "GPU-1");
        assert!(offers[0].refuses_more_than_one);
    }
}
