//! Large numbers of things: `600`, `200k`, `1.5M`.

use super::{Form, number, split_number, text_scalar, wrong};

pub(super) const FORM: Form =
    Form { pattern: r"^[0-9]+(\.[0-9]+)?(k|M|G)?$", expected: "a number, such as 600, 200k or 1.5M" };

/// How many of something.
#[derive(Clone, Debug)]
pub struct Count {
    text: String,
    value: u64,
}

impl Count {
    /// # Errors
    /// A sentence for the person who wrote the text.
    pub fn parse(text: &str) -> Result<Count, String> {
        let (digits, suffix) = split_number(text);
        let scale = match suffix {
            "" => 1.0,
            "k" => 1e3,
            "M" => 1e6,
            "G" => 1e9,
            _ => return wrong(text, FORM),
        };
        match number(digits) {
            Some(number) if number * scale < 9e15 => {
                Ok(Count { text: text.to_owned(), value: (number * scale).round() as u64 })
            }
            _ => wrong(text, FORM),
        }
    }

    /// The number itself.
    pub fn get(&self) -> u64 {
        self.value
    }
}

/// Two texts for one number are equal: `1000` and `1k`.
impl PartialEq for Count {
    fn eq(&self, other: &Count) -> bool {
        self.value == other.value
    }
}

text_scalar!(Count, FORM, numbers);
