//! Label selectors as they stand in a query (Kubernetes documentation, "Labels and Selectors"). Pure.

use kube::core::{Expression, Selector};

/// Reads one; an empty one selects everything.
///
/// # Errors
/// A sentence about what cannot be read.
pub(crate) fn parse(text: &str) -> Result<Selector, String> {
    terms(text).map(|term| expression(term).ok_or_else(|| format!("{term:?} is no label selector"))).collect()
}

/// The parts between commas that are not within parentheses.
fn terms(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0i32;
    text.split(move |c| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    })
    .map(str::trim)
    .filter(|term| !term.is_empty())
}

fn expression(term: &str) -> Option<Expression> {
    let is_key = |key: &str| !key.is_empty() && !key.contains([' ', '(', ')', '=', '!', ',']);
    let key = |key: &str| Some(key.trim().to_owned()).filter(|key| is_key(key));
    let value = |value: &str| value.trim().trim_start_matches('=').trim().to_owned();
    if let Some((name, set)) = term.strip_suffix(')').and_then(|term| term.split_once('(')) {
        let values = set.split(',').map(|value| value.trim().to_owned()).collect();
        let (name, operator) = name.trim().rsplit_once(char::is_whitespace)?;
        return match operator {
            "in" => Some(Expression::In(key(name)?, values)),
            "notin" => Some(Expression::NotIn(key(name)?, values)),
            _ => None,
        };
    }
    if let Some((name, wanted)) = term.split_once("!=") {
        return Some(Expression::NotEqual(key(name)?, value(wanted)));
    }
    if let Some((name, wanted)) = term.split_once('=') {
        return Some(Expression::Equal(key(name)?, value(wanted)));
    }
    match term.strip_prefix('!') {
        Some(name) => Some(Expression::DoesNotExist(key(name)?)),
        None => Some(Expression::Exists(key(term)?)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kube::core::SelectorExt;

    use super::*;

    fn matches(selector: &str, labels: &[(&str, &str)]) -> bool {
        let labels: BTreeMap<String, String> =
            labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        parse(selector).unwrap().matches(&labels)
    }

    #[test]
    fn every_form_of_a_selector_is_read() {
        let labels = [("app", "a"), ("tier", "x"), ("wharf.dev/part", "server")];
        for selector in [
            "",
            "app=a",
            "app==a,tier!=y",
            "app in (a, b),tier notin (y)",
            "app,!gone",
            "wharf.dev/part=server",
            " app = a ",
        ] {
            assert!(matches(selector, &labels), "{selector}");
        }
        for selector in ["app=b", "app!=a", "tier in (y,z)", "tier notin (x)", "gone", "!app"] {
            assert!(!matches(selector, &labels), "{selector}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for selector in ["a b", "a within (b)", "=x", "(a)", "!"] {
            assert!(parse(selector).is_err(), "{selector}");
        }
    }
}
