//! Label and field selectors. Pure.

use serde_json::Value;

use super::failure::Failure;

/// Which objects a list or a watch is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<(String, bool, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    Exists,
    Absent,
    In(Vec<String>),
    NotIn(Vec<String>),
}

impl Selector {
    /// Reads both selectors; an empty one selects everything.
    pub(crate) fn parse(labels: &str, fields: &str) -> Result<Selector, Failure> {
        let mut selector = Selector::default();
        for term in split(labels) {
            selector.labels.push(requirement(&term)?);
        }
        for term in split(fields) {
            let (path, equal, value) = if let Some((path, value)) = term.split_once("!=") {
                (path, false, value)
            } else if let Some((path, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
                (path, true, value)
            } else {
                return Err(Failure::bad_request(format!("invalid field selector: {term:?}")));
            };
            selector.fields.push((path.trim().to_owned(), equal, value.trim().to_owned()));
        }
        Ok(selector)
    }

    /// Whether the object is selected.
    pub(crate) fn matches(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        self.labels.iter().all(|requirement| requirement.holds(labels))
            && self.fields.iter().all(|(path, equal, value)| (text_at(object, path) == *value) == *equal)
    }
}

impl Requirement {
    fn holds(&self, labels: &Value) -> bool {
        let label = labels[&self.key].as_str();
        match &self.test {
            Test::Exists => label.is_some(),
            Test::Absent => label.is_none(),
            Test::In(values) => label.is_some_and(|label| values.iter().any(|value| value == label)),
            Test::NotIn(values) => label.is_none_or(|label| values.iter().all(|value| value != label)),
        }
    }
}

/// The text at a dotted path, empty where there is none.
fn text_at(object: &Value, path: &str) -> String {
    match path.split('.').fold(object, |value, name| &value[name]) {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Terms between commas that are not inside parentheses.
fn split(text: &str) -> Vec<String> {
    let mut terms = vec![String::new()];
    let mut depth = 0;
    for c in text.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        match terms.last_mut() {
            Some(term) if c != ',' || depth > 0 => term.push(c),
            _ => terms.push(String::new()),
        }
    }
    terms.retain(|term| !term.trim().is_empty());
    terms.iter().map(|term| term.trim().to_owned()).collect()
}

fn requirement(term: &str) -> Result<Requirement, Failure> {
    let made = |key: &str, test: Test| Ok(Requirement { key: key.trim().to_owned(), test });
    let one = |value: &str| vec![value.trim().to_owned()];
    if let Some((key, list)) = term.split_once(" notin ") {
        return made(key, Test::NotIn(values(list)?));
    }
    if let Some((key, list)) = term.split_once(" in ") {
        return made(key, Test::In(values(list)?));
    }
    if let Some((key, value)) = term.split_once("!=") {
        return made(key, Test::NotIn(one(value)));
    }
    if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        return made(key, Test::In(one(value)));
    }
    match term.strip_prefix('!') {
        Some(key) => made(key, Test::Absent),
        None if term.contains([' ', '(']) => {
            Err(Failure::bad_request(format!("unable to parse requirement: {term:?}")))
        }
        None => made(term, Test::Exists),
    }
}

fn values(list: &str) -> Result<Vec<String>, Failure> {
    let inner = list.trim().strip_prefix('(').and_then(|list| list.strip_suffix(')'));
    let inner =
        inner.ok_or_else(|| Failure::bad_request(format!("expected a list in parentheses: {list:?}")))?;
    Ok(inner.split(',').map(|value| value.trim().to_owned()).collect())
}

/// A `LabelSelector` object as the text that list requests carry.
pub(crate) fn label_selector_text(selector: &Value) -> String {
    let equal = selector["matchLabels"].as_object().into_iter().flatten();
    let equal = equal.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or("")));
    let expressions = selector["matchExpressions"].as_array().into_iter().flatten();
    let expressions = expressions.map(|expression| {
        let key = expression["key"].as_str().unwrap_or("");
        let list: Vec<&str> =
            expression["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        match expression["operator"].as_str() {
            Some("In") => format!("{key} in ({})", list.join(",")),
            Some("NotIn") => format!("{key} notin ({})", list.join(",")),
            Some("DoesNotExist") => format!("!{key}"),
            _ => key.to_owned(),
        }
    });
    equal.chain(expressions).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(labels: &str, fields: &str) -> bool {
        let object = json!({
            "metadata": {"name": "n", "namespace": "ns", "labels": {"a": "1", "b": "2"}}, "status": {"phase": "Running"},
        });
        Selector::parse(labels, fields).unwrap().matches(&object)
    }

    #[test]
    fn labels_are_compared_as_each_operator_says() {
        for selected in
            ["", "a", "a=1", "a==1,b=2", "a!=2", "c!=1", "a in (1,3)", "c notin (1)", "!c", "a in (1, 2),!c"]
        {
            assert!(check(selected, ""), "{selected}");
        }
        for refused in ["c", "a=2", "a!=1", "a in (2,3)", "b notin (2)", "!a"] {
            assert!(!check(refused, ""), "{refused}");
        }
    }

    #[test]
    fn fields_are_compared_as_text() {
        assert!(check("", "metadata.name=n,metadata.namespace==ns,status.phase!=Failed"));
        assert!(!check("", "metadata.name!=n"));
        assert!(Selector::parse("", "name").is_err());
        assert!(Selector::parse("a in b", "").is_err());
    }

    #[test]
    fn selectors_of_objects_have_a_text() {
        let selector = json!({"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b", "operator": "In", "values": ["2", "3"]},
            {"key": "c", "operator": "DoesNotExist"}]});
        assert_eq!(label_selector_text(&selector), "a=1,b in (2,3),!c");
    }
}
