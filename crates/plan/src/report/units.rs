//! Writes quantities for people: three figures and a unit.

/// `16.1 GB`: decimal units, as vendors and `wharf inspect` have them.
pub(crate) fn bytes(n: f64) -> String {
    scaled(n, &["B", "kB", "MB", "GB", "TB", "PB"])
}

/// `1.56 TB/s`.
pub(crate) fn bytes_per_second(n: f64) -> String {
    format!("{}/s", bytes(n))
}

/// `312 TFLOP`; a multiply-add is two.
pub(crate) fn operations(n: f64) -> String {
    scaled(n, &["FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP"])
}

/// `4.21 ms`.
pub(crate) fn seconds(n: f64) -> String {
    match n {
        n if n < 1e-3 => format!("{} µs", figures(n * 1e6)),
        n if n < 1.0 => format!("{} ms", figures(n * 1e3)),
        n => format!("{} s", figures(n)),
    }
}

/// `8.03 billion`.
pub(crate) fn parameters(n: u64) -> String {
    match n as f64 {
        n if n >= 1e12 => format!("{} trillion", figures(n / 1e12)),
        n if n >= 1e9 => format!("{} billion", figures(n / 1e9)),
        n if n >= 1e6 => format!("{} million", figures(n / 1e6)),
        n => format!("{n}"),
    }
}

/// Whole numbers with commas.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 stream`, `2,048 tokens`.
pub(crate) fn plural(n: u64, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{} {one}s", count(n)) }
}

fn scaled(n: f64, units: &[&str]) -> String {
    let mut n = n;
    for unit in units {
        if n < 999.5 || *unit == units[units.len() - 1] {
            return format!("{} {unit}", figures(n));
        }
        n /= 1000.0;
    }
    format!("{n}")
}

/// Three significant figures.
pub(crate) fn figures(n: f64) -> String {
    match n.abs() {
        n if n < 9.995 => format!("{n:.2}"),
        n if n < 99.95 => format!("{n:.1}"),
        n => count(n.round() as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_have_three_figures() {
        assert_eq!(bytes(16_060_000_000.0), "16.1 GB");
        assert_eq!(bytes(999.7), "1.00 kB");
        assert_eq!(bytes_per_second(2.039e12), "2.04 TB/s");
        assert_eq!(operations(3.12e14), "312 TFLOP");
        assert_eq!(seconds(0.00421), "4.21 ms");
        assert_eq!(seconds(12e-6), "12.0 µs");
        assert_eq!(parameters(8_030_261_248), "8.03 billion");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(figures(12_345.6), "12,346");
    }
}
