//! Which of the free devices a container should get. Pure.
//!
//! Whole GPUs that nobody shares: those that are nearest to each other, without tearing apart what is near among the rest (as go-gpuallocator's
//! best-effort policy). Shares and parts: one that few use, or one that many use.

use std::collections::HashMap;

use crate::config::Preference;
use crate::gpu::Nearness;
use crate::resources::{Device, Offer};

/// More GPUs than this are not tried in all combinations.
const EXACT: usize = 16;

/// What was asked makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Nonsense {
    /// A device that is not there.
    #[error("{resource} has no device {id}")]
    Unknown {
        /// Of which resource.
        resource: String,
        /// Which.
        id: String,
    },
    /// Sizes that cannot be.
    #[error("{wanted} of {available} devices cannot be preferred with {required} of them required")]
    Size {
        /// How many are wanted.
        wanted: usize,
        /// How many there are to choose from.
        available: usize,
        /// How many must be among them.
        required: usize,
    },
}

/// Prefers `size` of `available`, with all of `required` among them. The order is that of the offer.
///
/// # Errors
/// [`Nonsense`].
pub fn prefer(
    offer: &Offer,
    available: &[String],
    required: &[String],
    size: usize,
    taste: &Taste<'_>,
) -> Result<Vec<String>, Nonsense> {
    let place = |id: &String| {
        let found = offer.devices.iter().position(|device| device.id == *id);
        found.ok_or_else(|| Nonsense::Unknown { resource: offer.resource.clone(), id: id.clone() })
    };
    let mut free: Vec<usize> = available.iter().chain(required).map(place).collect::<Result<_, _>>()?;
    free.sort_unstable();
    free.dedup();
    let mut required: Vec<usize> = required.iter().map(place).collect::<Result<_, _>>()?;
    required.sort_unstable();
    required.dedup();
    if size < required.len() || size > free.len() {
        return Err(Nonsense::Size { wanted: size, available: free.len(), required: required.len() });
    }
    let whole = offer.replicas == 1 && offer.devices.iter().all(|device| device.unit == device.gpu);
    let mut chosen = if whole {
        near(&offer.devices, &free, &required, size, taste.nearness)
    } else {
        by_use(&offer.devices, &free, required, size, taste.preference)
    };
    chosen.sort_unstable();
    Ok(chosen.into_iter().map(|at| offer.devices[at].id.clone()).collect())
}

/// What is preferred.
#[derive(Clone, Copy, Debug)]
pub struct Taste<'a> {
    /// How near GPUs are to each other.
    pub nearness: &'a Nearness,
    /// Which of shared GPUs, or of parts.
    pub preference: Preference,
}

/// Devices one by one: of GPUs and then of units that few use, or that many use. Those that are chosen count as used.
fn by_use(
    devices: &[Device],
    free: &[usize],
    required: Vec<usize>,
    size: usize,
    preference: Preference,
) -> Vec<usize> {
    let mut chosen = required;
    while chosen.len() < size {
        let used = |same: &dyn Fn(&Device) -> bool| {
            let is_used = |at: &usize| !free.contains(at) || chosen.contains(at);
            (0..devices.len()).filter(|at| same(&devices[*at]) && is_used(at)).count()
        };
        let key = |at: &usize| {
            let this = &devices[*at];
            let of_gpu = used(&|device| device.gpu == this.gpu);
            let of_unit = used(&|device| device.unit == this.unit);
            match preference {
                Preference::Distributed => (of_gpu, of_unit, *at),
                Preference::Packed => (usize::MAX - of_gpu, usize::MAX - of_unit, *at),
            }
        };
        let next = free.iter().copied().filter(|at| !chosen.contains(at)).min_by_key(key);
        // There are at least `size` free ones, which the caller made sure of.
        let Some(next) = next else { return chosen };
        chosen.push(next);
    }
    chosen
}

/// GPUs that are near to each other.
fn near(
    devices: &[Device],
    free: &[usize],
    required: &[usize],
    size: usize,
    nearness: &Nearness,
) -> Vec<usize> {
    if size == 0 || size == free.len() {
        return free[..size].to_vec();
    }
    let scores: Vec<Vec<u32>> = free
        .iter()
        .map(|one| {
            free.iter().map(|other| nearness.score(&devices[*one].gpu, &devices[*other].gpu)).collect()
        })
        .collect();
    let must: Vec<usize> = (0..free.len()).filter(|at| required.contains(&free[*at])).collect();
    let chosen = if free.len() <= EXACT { best(&scores, &must, size) } else { greedy(&scores, must, size) };
    chosen.into_iter().map(|at| free[at]).collect()
}

/// Adds the one that is nearest to those chosen, again and again.
fn greedy(scores: &[Vec<u32>], must: Vec<usize>, size: usize) -> Vec<usize> {
    let mut chosen = must;
    while chosen.len() < size {
        let worth = |at: &usize| chosen.iter().map(|other| scores[*at][*other]).sum::<u32>();
        let others = (0..scores.len()).filter(|at| !chosen.contains(at));
        let Some(next) = others.max_by_key(|at| (worth(at), scores.len() - at)) else { break };
        chosen.push(next);
    }
    chosen
}

/// The set that is worth most together with the best that can be made of the rest.
fn best(scores: &[Vec<u32>], must: &[usize], size: usize) -> Vec<usize> {
    let all: u32 = (1 << scores.len()) - 1;
    let must: u32 = must.iter().map(|at| 1 << at).sum();
    let mut parted = Parted { scores, size: size as u32, known: HashMap::new() };
    let sets = subsets(all & !must, size - must.count_ones() as usize).map(|set| set | must);
    let mut most = (0, (0, 0));
    for set in sets {
        let alone = parted.worth(set);
        let worth = (alone + parted.best(all & !set), alone);
        if most.0 == 0 || worth > most.1 {
            most = (set, worth);
        }
    }
    (0..scores.len()).filter(|at| most.0 & (1 << at) != 0).collect()
}

/// What sets of GPUs are worth when they are parted into sets of one size, and one smaller set if there is a remainder.
struct Parted<'a> {
    scores: &'a [Vec<u32>],
    size: u32,
    known: HashMap<u32, u32>,
}

impl Parted<'_> {
    /// The sum over pairs.
    fn worth(&self, set: u32) -> u32 {
        let members: Vec<usize> = (0..self.scores.len()).filter(|at| set & (1 << at) != 0).collect();
        let pairs = members
            .iter()
            .enumerate()
            .flat_map(|(at, one)| members[at + 1..].iter().map(move |other| (one, other)));
        pairs.map(|(one, other)| self.scores[*one][*other]).sum()
    }

    /// Of the best way to part them.
    fn best(&mut self, set: u32) -> u32 {
        if set == 0 {
            return 0;
        }
        if let Some(known) = self.known.get(&set) {
            return *known;
        }
        // The first is in some set; the smaller one is left for as long as the count does not divide.
        let first = set & set.wrapping_neg();
        let remainder = set.count_ones() % self.size;
        let sizes =
            [(set.count_ones() >= self.size).then_some(self.size), (remainder > 0).then_some(remainder)];
        let mut most = 0;
        for size in sizes.into_iter().flatten() {
            for rest in subsets(set & !first, size as usize - 1) {
                let part = first | rest;
                most = most.max(self.worth(part) + self.best(set & !part));
            }
        }
        self.known.insert(set, most);
        most
    }
}

/// All subsets of so many, those of low bits first.
fn subsets(set: u32, size: usize) -> impl Iterator<Item = u32> {
    let bits: Vec<u32> = (0..32).map(|at| 1 << at).filter(|bit| set & bit != 0).collect();
    let mut places: Option<Vec<usize>> = (size <= bits.len()).then(|| (0..size).collect());
    std::iter::from_fn(move || {
        let now = places.take()?;
        let mut next = now.clone();
        // The last place that can still move on, and all after it right behind.
        if let Some(at) = (0..size).rev().find(|at| next[*at] < bits.len() - size + at) {
            next[at] += 1;
            for after in at + 1..size {
                next[after] = next[after - 1] + 1;
            }
            places = Some(next);
        }
        Some(now.iter().map(|at| bits[*at]).sum())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::gpu::Path;

    fn offer(count: u32) -> Offer {
        let device = |index: u32| {
            let id = format!("GPU-{index}");
            Device { id: id.clone(), unit: id.clone(), gpu: id, place: index.to_string(), numa: None }
        };
        Offer {
            resource: "nvidia.com/gpu".to_owned(),
            replicas: 1,
            refuses_more_than_one: false,
            devices: (0..count).map(device).collect(),
        }
    }

    fn shares(gpus: u32, replicas: u32) -> Offer {
        let device = |gpu: u32, n: u32| Device {
            id: format!("GPU-{gpu}::{n}"),
            unit: format!("GPU-{gpu}"),
            gpu: format!("GPU-{gpu}"),
            place: gpu.to_string(),
            numa: None,
        };
        let devices = (0..gpus).flat_map(|gpu| (0..replicas).map(move |n| device(gpu, n))).collect();
        Offer { replicas, devices, ..offer(0) }
    }

    fn ids(places: &[u32]) -> Vec<String> {
        places.iter().map(|place| format!("GPU-{place}")).collect()
    }

    /// Eight GPUs: pairs at a switch, two pairs at a CPU; NVLinks within each half.
    fn server() -> Nearness {
        let mut nearness = Nearness::default();
        for (one, other) in (0..8_u32).flat_map(|one| (one + 1..8).map(move |other| (one, other))) {
            let (path, links) = match () {
                () if one / 2 == other / 2 => (Path::Switch, 2),
                () if one / 4 == other / 4 => (Path::HostBridge, 1),
                () => (Path::Cpus, 0),
            };
            nearness.note(&format!("GPU-{one}"), &format!("GPU-{other}"), path, links);
        }
        nearness
    }

    fn preferred(available: &[u32], required: &[u32], size: usize) -> Vec<String> {
        let nearness = server();
        let taste = Taste { nearness: &nearness, preference: Preference::Distributed };
        prefer(&offer(8), &ids(available), &ids(required), size, &taste).unwrap()
    }

    #[test]
    fn near_gpus_go_together() {
        assert_eq!(preferred(&[0, 1, 2, 3, 4, 5, 6, 7], &[], 4), ids(&[0, 1, 2, 3]));
        assert_eq!(preferred(&[1, 2, 3, 4, 5], &[], 2), ids(&[2, 3]));
        assert_eq!(preferred(&[0, 2, 5, 6, 7], &[], 3), ids(&[5, 6, 7]));
    }

    #[test]
    fn one_gpu_is_taken_from_where_it_leaves_no_pair_torn() {
        assert_eq!(preferred(&[0, 1, 2, 4, 5], &[], 1), ids(&[0]));
        // A partition into ones is worth nothing however it is made: the first is taken.
        assert_eq!(preferred(&[0, 1, 2, 3, 7], &[], 2), ids(&[0, 1]));
    }

    #[test]
    fn what_is_required_is_there_and_the_rest_is_near_it() {
        assert_eq!(preferred(&[0, 1, 2, 3, 4, 5, 6, 7], &[5], 2), ids(&[4, 5]));
        assert_eq!(preferred(&[0, 1, 2, 3, 4, 6, 7], &[5], 2), ids(&[4, 5]));
    }

    #[test]
    fn sixteen_gpus_take_no_longer_than_a_look() {
        let mut nearness = Nearness::default();
        for (one, other) in (0..16_u32).flat_map(|one| (one + 1..16).map(move |other| (one, other))) {
            let path = if one / 8 == other / 8 { Path::Switch } else { Path::Cpus };
            nearness.note(&format!("GPU-{one}"), &format!("GPU-{other}"), path, 0);
        }
        let taste = Taste { nearness: &nearness, preference: Preference::Distributed };
        let all: Vec<u32> = (0..16).collect();
        let chosen = prefer(&offer(16), &ids(&all), &ids(&[9]), 8, &taste).unwrap();
        assert_eq!(chosen, ids(&[8, 9, 10, 11, 12, 13, 14, 15]));
    }

    #[test]
    fn shares_are_spread_or_packed() {
        let nearness = Nearness::default();
        let offer = shares(3, 3);
        // GPU 0 has one user, GPU 1 two, GPU 2 none.
        let available: Vec<String> = ["GPU-0::1", "GPU-0::2", "GPU-1::2", "GPU-2::0", "GPU-2::1", "GPU-2::2"]
            .map(str::to_owned)
            .into();
        let choose = |preference, size| {
            prefer(&offer, &available, &[], size, &Taste { nearness: &nearness, preference }).unwrap()
        };
        assert_eq!(choose(Preference::Distributed, 1), ["GPU-2::0"]);
        assert_eq!(choose(Preference::Distributed, 3), ["GPU-0::1", "GPU-2::0", "GPU-2::1"]);
        assert_eq!(choose(Preference::Packed, 2), ["GPU-0::1", "GPU-1::2"]);
    }

    #[test]
    fn nonsense_is_refused() {
        let nearness = Nearness::default();
        let taste = Taste { nearness: &nearness, preference: Preference::Distributed };
        let unknown = prefer(&offer(2), &ids(&[7]), &[], 1, &taste);
        assert!(matches!(unknown, Err(Nonsense::Unknown { .. })));
        assert!(matches!(prefer(&offer(2), &ids(&[0]), &[], 2, &taste), Err(Nonsense::Size { .. })));
        assert!(matches!(
            prefer(&offer(2), &ids(&[0, 1]), &ids(&[0, 1]), 1, &taste),
            Err(Nonsense::Size { .. })
        ));
    }

    /// All ways to part the members into sets of a size and one smaller set, by trying.
    fn by_trying(scores: &[Vec<u32>], members: &[usize], size: usize) -> u32 {
        let worth = |set: &[usize]| -> u32 {
            set.iter()
                .enumerate()
                .flat_map(|(at, a)| set[at + 1..].iter().map(move |b| (*a, *b)))
                .map(|(a, b)| scores[a][b])
                .sum()
        };
        if members.len() <= size {
            return worth(members);
        }
        let mut most = 0;
        for mask in 0..1_u32 << members.len() {
            if mask.count_ones() as usize != size {
                continue;
            }
            let chosen = |wanted: bool| -> Vec<usize> {
                let is_in = |at: usize| (mask & (1 << at) != 0) == wanted;
                members.iter().enumerate().filter(|(at, _)| is_in(*at)).map(|(_, member)| *member).collect()
            };
            let (inside, outside) = (chosen(true), chosen(false));
            most = most.max(worth(&inside) + by_trying(scores, &outside, size));
        }
        most
    }

    proptest! {
        #[test]
        fn the_chosen_set_is_of_the_best_partition(
            count in 1_usize..7,
            size in 1_usize..7,
            values in proptest::collection::vec(0_u32..5, 36),
        ) {
            prop_assume!(size <= count);
            let scores: Vec<Vec<u32>> = (0..count)
                .map(|a| (0..count).map(|b| values[a.min(b) * 6 + a.max(b)]).collect())
                .collect();
            let chosen = best(&scores, &[], size);
            prop_assert_eq!(chosen.len(), size);
            let rest: Vec<usize> = (0..count).filter(|at| !chosen.contains(at)).collect();
            let members: Vec<usize> = (0..count).collect();
            let reached = by_trying(&scores, &chosen, size) + by_trying(&scores, &rest, size);
            prop_assert_eq!(reached, by_trying(&scores, &members, size));
        }

        #[test]
        fn what_is_preferred_is_free_complete_and_has_what_is_required(
            gpus in 1_u32..6, replicas in 1_u32..4, free in any::<u32>(), need in any::<u32>(), packed in any::<bool>(),
            more in 0_usize..6,
        ) {
            let offer = if replicas == 1 { offer(gpus) } else { shares(gpus, replicas) };
            let pick = |mask: u32| -> Vec<String> {
                offer.devices.iter().enumerate().filter(|(at, _)| mask & (1 << at) != 0).map(|(_, d)| d.id.clone()).collect()
            };
            let (available, required) = (pick(free), pick(free & need));
            let size = (required.len() + more).min(available.len());
            let nearness = server();
            let preference = if packed { Preference::Packed } else { Preference::Distributed };
            let taste = Taste { nearness: &nearness, preference };
            let chosen = prefer(&offer, &available, &required, size, &taste).unwrap();
            prop_assert_eq!(chosen.len(), size);
            prop_assert!(chosen.iter().all(|id| available.contains(id)));
            prop_assert!(required.iter().all(|id| chosen.contains(id)));
            prop_assert_eq!(&chosen, &prefer(&offer, &available, &required, size, &taste).unwrap());
        }
    }
}
