//! What quantising did, for people and for programs.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use wharf_model::Model;

use super::{Scheme, Written};

/// What has become of one tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TensorReport {
    /// Name in the new file.
    pub name: String,
    /// Extents, slowest first.
    pub shape: Vec<usize>,
    /// Type before.
    pub from: String,
    /// Type now.
    pub to: String,
    /// Size before.
    pub bytes_before: u64,
    /// Size now.
    pub bytes_after: u64,
    /// Root of the mean square error, divided by the root of the mean square of the weights.
    pub relative_error: f64,
}

/// What has become of a model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The scheme's name.
    pub scheme: String,
    /// Size of the model's files before.
    pub bytes_before: u64,
    /// Size of the new file.
    pub bytes_after: u64,
    /// Weights.
    pub parameters: u64,
    /// Bits of the new file for each weight.
    pub bits_per_weight: f64,
    /// Time that it took.
    pub seconds: f64,
    /// The tensors in the order of the file.
    pub tensors: Vec<TensorReport>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mb = |bytes: u64| bytes as f64 / 1e6;
        writeln!(
            f,
            "{}: {:.1} MB to {:.1} MB ({:.0} %), {:.2} bits per weight, {:.1} s",
            self.scheme,
            mb(self.bytes_before),
            mb(self.bytes_after),
            100.0 * self.bytes_after as f64 / self.bytes_before as f64,
            self.bits_per_weight,
            self.seconds
        )?;
        writeln!(f)?;
        writeln!(f, "  from     to       tensors         MB   error of the worst")?;
        for ((from, to), group) in self.groups() {
            let bytes: u64 = group.iter().map(|tensor| tensor.bytes_after).sum();
            let worst = group.iter().max_by(|a, b| a.relative_error.total_cmp(&b.relative_error));
            let worst = worst.expect("a group has a tensor");
            let count = group.len();
            write!(f, "  {from:<8} {to:<8} {count:>7} {:>10.1}", mb(bytes))?;
            match worst.relative_error > 0.0 {
                true => writeln!(f, "   {:.3} %  {}", 100.0 * worst.relative_error, worst.name)?,
                false => writeln!(f, "   none")?,
            }
        }
        Ok(())
    }
}

impl Report {
    /// The report on a run of `scheme` over `model`.
    pub fn new(scheme: Scheme, model: &Model, written: &Written, took: Duration) -> Report {
        let tensors = written.tensors.clone();
        let bytes_after = tensors.iter().map(|tensor| tensor.bytes_after).sum::<u64>();
        Report {
            scheme: scheme.to_string(),
            bytes_before: model.info.bytes,
            bytes_after,
            parameters: model.info.parameters,
            bits_per_weight: 8.0 * bytes_after as f64 / model.info.parameters as f64,
            seconds: took.as_secs_f64(),
            tensors,
        }
    }

    /// Tensors by their types before and after, in the order in which those appear.
    fn groups(&self) -> Vec<((&str, &str), Vec<&TensorReport>)> {
        let mut groups: Vec<((&str, &str), Vec<&TensorReport>)> = Vec::new();
        for tensor in &self.tensors {
            let key = (tensor.from.as_str(), tensor.to.as_str());
            match groups.iter_mut().find(|(other, _)| *other == key) {
                Some((_, group)) => group.push(tensor),
                None => groups.push((key, vec![tensor])),
            }
        }
        groups
    }
}
