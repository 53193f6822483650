//! Kubernetes quantities: `8`, `500m`, `32Gi`.

use super::{Form, number, split_number, text_scalar, wrong};

pub(super) const FORM: Form = Form {
    pattern: r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$",
    expected: "a quantity as Kubernetes writes it, such as 8, 500m or 32Gi",
};

/// An amount of CPU, memory or storage, never negative.
#[derive(Clone, Debug)]
pub struct Quantity {
    text: String,
    milli: u128,
}

const SUFFIXES: &[(&str, u128)] = &[
    ("", 1_000),
    ("m", 1),
    ("k", 1_000_000),
    ("M", 1_000_000_000),
    ("G", 1_000_000_000_000),
    ("T", 1_000_000_000_000_000),
    ("P", 1_000_000_000_000_000_000),
    ("E", 1_000_000_000_000_000_000_000),
    ("Ki", 1_000 << 10),
    ("Mi", 1_000 << 20),
    ("Gi", 1_000 << 30),
    ("Ti", 1_000 << 40),
    ("Pi", 1_000 << 50),
    ("Ei", 1_000 << 60),
];

impl Quantity {
    /// # Errors
    /// A sentence for the person who wrote the text.
    pub fn parse(text: &str) -> Result<Quantity, String> {
        let (digits, suffix) = split_number(text);
        let scale = SUFFIXES.iter().find(|(name, _)| *name == suffix).map(|(_, scale)| *scale);
        let value = number(digits).filter(|value| *value < 1e12);
        let (Some(scale), Some(value)) = (scale, value) else { return wrong(text, FORM) };
        // Whole numbers stay exact; Kubernetes rounds fractions of its smallest unit up.
        let milli = match digits.parse::<u128>() {
            Ok(whole) => whole * scale,
            Err(_) => (value * scale as f64).ceil() as u128,
        };
        Ok(Quantity { text: text.to_owned(), milli })
    }

    /// In whole units (bytes, cores), fractions rounded up.
    pub fn units(&self) -> u64 {
        u64::try_from(self.milli.div_ceil(1000)).unwrap_or(u64::MAX)
    }

    /// In thousandths of a unit, as CPUs are counted.
    pub fn milli(&self) -> u128 {
        self.milli
    }
}

/// Two texts for one amount are equal: `1000m` and `1`.
impl PartialEq for Quantity {
    fn eq(&self, other: &Quantity) -> bool {
        self.milli == other.milli
    }
}

text_scalar!(Quantity, FORM, numbers);
