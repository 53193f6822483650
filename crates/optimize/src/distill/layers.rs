//! Decides which of the teacher's layers a shallower student starts from.

/// Parses a list of layers such as `0,2,4-10,29`: ascending, without repetition, all below `layers`.
///
/// # Errors
/// A sentence that quotes the part that is wrong.
pub fn parse_list(list: &str, layers: usize) -> Result<Vec<usize>, String> {
    let mut kept = Vec::new();
    for part in list.split(',').map(str::trim) {
        let number = |text: &str| {
            text.trim().parse::<usize>().map_err(|_| {
                format!("{part:?} in --keep-layers is no layer; write numbers and ranges such as 0,2,4-10")
            })
        };
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(part)?, number(part)?),
        };
        if first > last {
            return Err(format!("the range {part:?} in --keep-layers runs backwards"));
        }
        if last >= layers {
            return Err(format!(
                "--keep-layers names layer {last}, but the teacher has layers 0 to {}",
                layers - 1
            ));
        }
        if kept.last().is_some_and(|previous| *previous >= first) {
            return Err(format!("--keep-layers is not ascending at {part:?}"));
        }
        kept.extend(first..=last);
    }
    Ok(kept)
}

/// `wanted` of `layers` layers, spread evenly, the first and the last among them. The outermost layers translate between
/// tokens and the residual stream and are the ones that a model misses most.
///
/// # Errors
/// When there are not so many.
pub fn spread(wanted: usize, layers: usize) -> Result<Vec<usize>, String> {
    if wanted == 0 || wanted > layers {
        return Err(format!("--layers must be between 1 and the teacher's {layers}, not {wanted}"));
    }
    if wanted == 1 {
        return Ok(vec![0]);
    }
    // Rounded to the nearest, ties up; neighbours differ by at least (layers - 1) / (wanted - 1) >= 1, so none repeats.
    Ok((0..wanted).map(|i| (i * (layers - 1) * 2 + wanted - 1) / (2 * (wanted - 1))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_numbers_and_ranges() {
        assert_eq!(parse_list("0,2,4-6, 9", 10).unwrap(), [0, 2, 4, 5, 6, 9]);
        for (list, complaint) in [
            ("", "no layer"),
            ("1,x", "\"x\""),
            ("3-1", "backwards"),
            ("0,10", "0 to 9"),
            ("2,2", "ascending"),
            ("1-3,2", "ascending"),
        ] {
            let error = parse_list(list, 10).unwrap_err();
            assert!(error.contains(complaint), "{list}: {error}");
        }
    }

    #[test]
    fn a_spread_keeps_both_ends_and_repeats_nothing() {
        assert_eq!(spread(15, 30).unwrap()[..3], [0, 2, 4]);
        for layers in 1..40 {
            for wanted in 2..=layers {
                let kept = spread(wanted, layers).unwrap();
                assert_eq!(kept.len(), wanted);
                assert_eq!((kept[0], kept[wanted - 1]), (0, layers - 1));
                assert!(kept.windows(2).all(|pair| pair[0] < pair[1]), "{wanted} of {layers}: {kept:?}");
            }
        }
        assert!(spread(0, 4).is_err() && spread(5, 4).is_err());
    }
}
