//! Shares of a whole: `2%`, `0.5%`.

use super::{Form, number, split_number, text_scalar, wrong};

pub(super) const FORM: Form =
    Form { pattern: r"^[0-9]+(\.[0-9]+)?%$", expected: "a share with its sign, such as 2% or 0.5%" };

/// A share of a whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Percent {
    text: String,
    ratio: f64,
}

impl Percent {
    /// # Errors
    /// A sentence for the person who wrote the text.
    pub fn parse(text: &str) -> Result<Percent, String> {
        let (digits, sign) = split_number(text);
        match number(digits) {
            Some(number) if sign == "%" => Ok(Percent { text: text.to_owned(), ratio: number / 100.0 }),
            _ => wrong(text, FORM),
        }
    }

    /// 0.02 for `2%`.
    pub fn ratio(&self) -> f64 {
        self.ratio
    }
}

text_scalar!(Percent, FORM);
