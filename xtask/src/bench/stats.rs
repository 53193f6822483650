//! What samples say: medians, spreads, verdicts and the exit code. Pure functions.

use serde::{Deserialize, Serialize};

use super::rows::Bar;

/// A bar counts from this many pairs on.
pub(crate) const PAIRS_THAT_COUNT: usize = 7;
/// A spread of the pairs over this share of the median decides nothing.
const WIDEST_SPREAD: f64 = 0.15;
/// A machine that is slower than this share of its best decides nothing.
const SLOWEST_PROBE: f64 = 0.9;

/// The middle of some samples, and of its halves.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) q1: f64,
    pub(crate) q3: f64,
    pub(crate) samples: usize,
}

impl Summary {
    /// Quartiles lie between samples by linear interpolation; `None` without samples.
    pub(crate) fn of(samples: &[f64]) -> Option<Summary> {
        if samples.is_empty() {
            return None;
        }
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let place = share * (sorted.len() - 1) as f64;
            let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
            low + (high - low) * place.fract()
        };
        Some(Summary { median: at(0.5), q1: at(0.25), q3: at(0.75), samples: sorted.len() })
    }

    /// Distance of the quartiles as a share of the median.
    pub(crate) fn spread(&self) -> f64 {
        (self.q3 - self.q1) / self.median
    }
}

/// Ours divided by theirs, pair by pair.
pub(crate) fn ratios(ours: &[f64], theirs: &[f64]) -> Vec<f64> {
    ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect()
}

/// What the machine could do just before a row, in 10⁹ multiply-adds and bytes a second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Probe {
    pub(crate) int8_gmacs: f64,
    pub(crate) f32_gmacs: f64,
    /// Where the machine has such an instruction.
    pub(crate) bf16_gmacs: Option<f64>,
    pub(crate) dram_gbs: f64,
}

impl Probe {
    /// The best of each figure.
    pub(crate) fn best<'a>(probes: impl IntoIterator<Item = &'a Probe>) -> Option<Probe> {
        probes.into_iter().copied().reduce(|a, b| Probe {
            int8_gmacs: a.int8_gmacs.max(b.int8_gmacs),
            f32_gmacs: a.f32_gmacs.max(b.f32_gmacs),
            bf16_gmacs: a.bf16_gmacs.into_iter().chain(b.bf16_gmacs).reduce(f64::max),
            dram_gbs: a.dram_gbs.max(b.dram_gbs),
        })
    }

    /// The smallest share of `best` among the figures.
    pub(crate) fn share_of(&self, best: &Probe) -> f64 {
        let bf16 = self.bf16_gmacs.zip(best.bf16_gmacs).map_or(1.0, |(ours, best)| ours / best);
        let shares = [
            self.int8_gmacs / best.int8_gmacs,
            self.f32_gmacs / best.f32_gmacs,
            self.dram_gbs / best.dram_gbs,
        ];
        shares.into_iter().fold(bf16, f64::min)
    }

    /// Whether the machine was too slow to decide anything.
    pub(crate) fn too_slow(&self, best: &Probe) -> bool {
        self.share_of(best) < SLOWEST_PROBE
    }
}

impl std::fmt::Display for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Probe { int8_gmacs, f32_gmacs, bf16_gmacs, dram_gbs } = self;
        write!(f, "int8 {int8_gmacs:.0} GMAC/s, f32 {f32_gmacs:.0} GMAC/s")?;
        if let Some(peak) = bf16_gmacs {
            write!(f, ", bf16 {peak:.0} GMAC/s")?;
        }
        write!(f, ", memory {dram_gbs:.1} GB/s")
    }
}

/// What a measurement asks of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Work {
    pub(crate) tokens: f64,
    pub(crate) macs: f64,
    pub(crate) bytes: f64,
}

/// What bounds a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Bound {
    Arithmetic,
    Memory,
}

impl Work {
    /// Tokens per second at which `gmacs` or the memory is used up, and which of them.
    pub(crate) fn limit(&self, gmacs: f64, dram_gbs: f64) -> (f64, Bound) {
        let (computing, reading) = (self.macs / (gmacs * 1e9), self.bytes / (dram_gbs * 1e9));
        if computing >= reading {
            (self.tokens / computing, Bound::Arithmetic)
        } else {
            (self.tokens / reading, Bound::Memory)
        }
    }
}

/// What a comparison says about its bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verdict {
    Held,
    Missed,
    /// There is no bar, and the figure is sound.
    NoBar,
    /// The machine was too unsteady, or there were too few pairs.
    Inconclusive,
}

impl Verdict {
    pub(crate) fn of(summary: &Summary, bar: Option<Bar>, probe: &Probe, best: &Probe) -> Verdict {
        if probe.too_slow(best) { Verdict::Inconclusive } else { Verdict::of_samples(summary, bar) }
    }

    /// Of what no probe says anything about.
    pub(crate) fn of_samples(summary: &Summary, bar: Option<Bar>) -> Verdict {
        let sound = summary.samples >= PAIRS_THAT_COUNT && summary.spread() <= WIDEST_SPREAD;
        match bar {
            _ if !sound => Verdict::Inconclusive,
            None => Verdict::NoBar,
            Some(bar) if bar.holds(summary.median) => Verdict::Held,
            Some(_) => Verdict::Missed,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Verdict::Held => "held",
            Verdict::Missed => "MISSED",
            Verdict::NoBar => "",
            Verdict::Inconclusive => "inconclusive",
        }
    }
}

/// 1 when a bar is missed, else 3 when something is inconclusive, else 0.
pub(crate) fn exit_code(verdicts: &[Verdict]) -> u8 {
    if verdicts.contains(&Verdict::Missed) {
        1
    } else if verdicts.contains(&Verdict::Inconclusive) {
        3
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROBE: Probe = Probe { int8_gmacs: 100.0, f32_gmacs: 50.0, bf16_gmacs: None, dram_gbs: 20.0 };

    #[test]
    fn quartiles_lie_between_samples() {
        let found = Summary::of(&[4.0, 1.0, 2.0, 3.0]).unwrap();
        assert_eq!(found, Summary { median: 2.5, q1: 1.75, q3: 3.25, samples: 4 });
        assert_eq!(found.spread(), 0.6);
        assert_eq!(Summary::of(&[7.0]).unwrap().spread(), 0.0);
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn ratios_are_taken_within_pairs() {
        assert_eq!(ratios(&[10.0, 30.0], &[5.0, 10.0]), [2.0, 3.0]);
    }

    fn verdict(samples: &[f64], bar: Option<Bar>, dram_gbs: f64) -> Verdict {
        Verdict::of(&Summary::of(samples).unwrap(), bar, &Probe { dram_gbs, ..PROBE }, &PROBE)
    }

    #[test]
    fn a_bar_is_held_or_missed_by_the_median() {
        let samples = [1.9, 2.0, 2.0, 2.1, 2.1, 2.2, 2.2];
        assert_eq!(verdict(&samples, Some(Bar::AtLeast(2.1)), 20.0), Verdict::Held);
        assert_eq!(verdict(&samples, Some(Bar::AtLeast(2.11)), 20.0), Verdict::Missed);
        assert_eq!(verdict(&samples, Some(Bar::AtMost(2.1)), 20.0), Verdict::Held);
        assert_eq!(verdict(&samples, Some(Bar::AtMost(2.0)), 20.0), Verdict::Missed);
        assert_eq!(verdict(&samples, None, 20.0), Verdict::NoBar);
    }

    #[test]
    fn unsteady_samples_slow_machines_and_too_few_pairs_decide_nothing() {
        let bar = Some(Bar::AtLeast(1.0));
        let wide = [1.6, 1.7, 1.8, 2.0, 2.2, 2.3, 2.4];
        assert_eq!(verdict(&wide, bar, 20.0), Verdict::Inconclusive);
        assert_eq!(verdict(&[2.0; 7], bar, 17.9), Verdict::Inconclusive);
        assert_eq!(verdict(&[2.0; 7], bar, 18.0), Verdict::Held);
        assert_eq!(verdict(&[2.0; 6], bar, 20.0), Verdict::Inconclusive);
    }

    #[test]
    fn a_missed_bar_outweighs_an_inconclusive_row() {
        use Verdict::{Held, Inconclusive, Missed, NoBar};
        assert_eq!(exit_code(&[Held, NoBar]), 0);
        assert_eq!(exit_code(&[Held, Inconclusive]), 3);
        assert_eq!(exit_code(&[Inconclusive, Missed, Held]), 1);
        assert_eq!(exit_code(&[]), 0);
    }

    #[test]
    fn the_best_probe_is_the_best_of_each_figure() {
        let other = Probe { int8_gmacs: 90.0, f32_gmacs: 60.0, bf16_gmacs: Some(7.0), dram_gbs: 10.0 };
        let best = Probe::best([&PROBE, &other]).unwrap();
        assert_eq!(best, Probe { int8_gmacs: 100.0, f32_gmacs: 60.0, bf16_gmacs: Some(7.0), dram_gbs: 20.0 });
        assert_eq!(other.share_of(&best), 0.5);
    }

    #[test]
    fn the_scarcer_of_arithmetic_and_memory_is_the_limit() {
        let work = Work { tokens: 10.0, macs: 100e9, bytes: 10e9 };
        assert_eq!(work.limit(100.0, 20.0), (10.0, Bound::Arithmetic));
        assert_eq!(work.limit(400.0, 10.0), (10.0, Bound::Memory));
    }
}
