//! Says why a model does not fit in a place, for whoever refuses to start it there: what a plan shows in a table, in a sentence.

use std::fmt::{self, Display, Formatter};

use crate::advice::{Advice, Place, ask_less};
use crate::fit::Wanted;
use crate::footprint::{Footprint, Load};
use crate::report::units::{bytes, count, plural};
use crate::shape::Shape;

/// What a model needs of a place, and what can be asked of it instead.
#[derive(Clone, Debug, PartialEq)]
pub struct Shortage {
    /// What it needs.
    pub needs: Needs,
    /// What makes it fit in the very place, each for itself. Nothing if no such change is enough.
    pub advice: Vec<Advice>,
}

/// A footprint in a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needs {
    /// What is needed.
    pub footprint: Footprint,
    /// For how much at once.
    pub load: Load,
}

impl Shortage {
    /// Why the model does not fit there.
    pub fn of(shape: &Shape, wanted: &Wanted, place: Place<'_>) -> Shortage {
        let footprint = place.place(shape, wanted).footprint;
        let advice = ask_less(shape, wanted, place);
        Shortage { needs: Needs { footprint, load: wanted.load }, advice }
    }
}

impl Display for Needs {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Needs { footprint, load } = self;
        let Footprint { weights, kv_cache, activations, logits, runtime, total, peak } = footprint;
        let size = |bytes_of: u64| bytes(bytes_of as f64);
        write!(
            f,
            "{} (weights {}, KV cache {} for {} of {} tokens, activations {}, logits {}",
            size(*peak),
            size(*weights),
            size(*kv_cache),
            plural(load.streams, "stream"),
            count(load.context),
            size(*activations),
            size(*logits)
        )?;
        let overhead: u64 = runtime.iter().map(|term| term.bytes).sum();
        let what: Vec<&str> = runtime.iter().map(|term| term.what).collect();
        write!(f, ", {} for {})", size(overhead), what.join(", "))?;
        match peak > total {
            true => write!(f, " while it is loaded, and {} from then on", size(*total)),
            false => Ok(()),
        }
    }
}
