//! Reads metrics in Prometheus' text format (Prometheus documentation, "Exposition formats").

use std::collections::HashMap;

/// One line: a metric's name, labels and value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample<'a> {
    /// Name.
    pub name: &'a str,
    labels: &'a str,
    /// Value.
    pub value: f64,
}

impl Sample<'_> {
    /// Its labels.
    pub fn labels(&self) -> HashMap<String, String> {
        let mut labels = HashMap::new();
        let mut rest = self.labels;
        while let Some((name, after)) = rest.split_once("=\"") {
            let mut value = String::new();
            let mut chars = after.char_indices();
            let mut end = after.len();
            while let Some((at, c)) = chars.next() {
                match c {
                    '"' => {
                        end = at + 1;
                        break;
                    }
                    '\\' => value.extend(chars.next().map(|(_, c)| if c == 'n' { '\n' } else { c })),
                    c => value.push(c),
                }
            }
            labels.insert(name.trim_matches([',', ' ']).to_owned(), value);
            rest = &after[end..];
        }
        labels
    }
}

/// Every line that is a sample; what cannot be read is left out.
pub fn samples(text: &str) -> impl Iterator<Item = Sample<'_>> {
    text.lines().filter_map(sample)
}

fn sample(line: &str) -> Option<Sample<'_>> {
    if line.starts_with('#') {
        return None;
    }
    let (name, labels, rest) = match line.split_once('{') {
        Some((name, rest)) => {
            let (labels, value) = rest.rsplit_once('}')?;
            (name, labels, value)
        }
        None => {
            let (name, value) = line.split_once(' ')?;
            (name, "", value)
        }
    };
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample { name, labels, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_has_a_name_labels_and_a_value() {
        let text = "# HELP a x\na{b=\"c\\\"d,e=\",f=\"g\"} 1.5 1700000\nh 2\ni{ 1\n}{\nj x\n";
        let all: Vec<Sample<'_>> = samples(text).collect();
        assert_eq!(
            all.iter().map(|sample| (sample.name, sample.value)).collect::<Vec<_>>(),
            [("a", 1.5), ("h", 2.0)]
        );
        let labels = all[0].labels();
        assert_eq!((labels["b"].as_str(), labels["f"].as_str()), ("c\"d,e=", "g"));
    }
}
