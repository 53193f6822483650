//! Large numbers as users write them: `600`, `200k`, `1.5M`.

use serde::{Deserialize, Deserializer, de};

/// A number, or a text that stands for one.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Number(u64),
    Text(String),
}

pub(super) fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    match Option::<Written>::deserialize(deserializer)? {
        None => Ok(None),
        Some(Written::Number(number)) => Ok(Some(number)),
        Some(Written::Text(text)) => parse(&text)
            .map(Some)
            .ok_or_else(|| de::Error::custom(format!("{text:?} is not a number, such as 600, 200k or 1.5M"))),
    }
}

/// The same forms that `spec.access.limits` takes.
pub(crate) fn parse(text: &str) -> Option<u64> {
    let (digits, scale) = match text.as_bytes().last()? {
        b'k' => (&text[..text.len() - 1], 1e3),
        b'M' => (&text[..text.len() - 1], 1e6),
        b'G' => (&text[..text.len() - 1], 1e9),
        _ => (text, 1.0),
    };
    let plain = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let well_formed = match digits.split_once('.') {
        Some((whole, fraction)) => plain(whole) && plain(fraction),
        None => plain(digits),
    };
    let value = digits.parse::<f64>().ok().filter(|_| well_formed)? * scale;
    (value < 9e15).then_some(value.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn counts_are_read_as_the_spec_reads_them() {
        let good = [("600", 600), ("200k", 200_000), ("1.5M", 1_500_000), ("2G", 2_000_000_000), ("0", 0)];
        for (text, number) in good {
            assert_eq!(parse(text), Some(number), "{text}");
        }
        for bad in ["", "k", "-1", "1e3", "1.", ".5", "1kk", "ten", "99999999999G", "1 k", "NaN", "ä"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
