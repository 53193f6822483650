//! Reads YAML and remembers on which line everything stood.

use std::collections::HashMap;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_saphyr::Spanned;

use super::{Problem, Severity};

/// One document of a file of YAML.
#[derive(Clone, Debug)]
pub struct Document {
    file: String,
    value: Value,
    /// JSON pointer to line.
    lines: HashMap<String, u64>,
}

/// A text is not YAML.
#[derive(Debug, thiserror::Error)]
#[error("failed to read {file} as YAML: {reason}")]
pub struct ReadError {
    file: String,
    reason: String,
}

impl Document {
    /// The documents in `text`; empty ones are left out. `file` is what complaints call it.
    ///
    /// # Errors
    /// When the text is not YAML, or a key is there twice.
    pub fn read(file: &str, text: &str) -> Result<Vec<Document>, ReadError> {
        let nodes: Vec<Spanned<Node>> = serde_saphyr::from_multiple(text)
            .map_err(|error| ReadError { file: file.to_owned(), reason: error.to_string() })?;
        let documents = nodes.into_iter().filter(|node| !matches!(node.value, Node::Scalar(Value::Null)));
        Ok(documents
            .map(|node| {
                let mut lines = HashMap::new();
                lines.insert(String::new(), node.referenced.line());
                let value = flatten(node.value, &mut String::new(), &mut lines);
                Document { file: file.to_owned(), value, lines }
            })
            .collect())
    }

    /// What it says.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// Line of the field at a JSON pointer, or of the nearest field around it that is there.
    fn line(&self, pointer: &str) -> u64 {
        let mut pointer = pointer;
        loop {
            match (self.lines.get(pointer), pointer.rfind('/')) {
                (Some(line), _) => return *line,
                (None, Some(end)) => pointer = &pointer[..end],
                (None, None) => return 1,
            }
        }
    }

    /// An error that somebody found who knows more than the document, with the field at `path`.
    pub fn error(&self, path: &str, message: String) -> Problem {
        self.problem(Severity::Error, path, message)
    }

    /// A problem with the field at `path`, which is as `spec.scaling.max` or `spec.access.viewers[0]`.
    pub(super) fn problem(&self, severity: Severity, path: &str, message: String) -> Problem {
        let text = |pointer: &str| self.value.pointer(pointer).and_then(Value::as_str).unwrap_or("?");
        Problem {
            severity,
            file: self.file.clone(),
            line: self.line(&pointer(path)),
            object: format!("{} {}", text("/kind"), text("/metadata/name")),
            path: path.to_owned(),
            message,
        }
    }
}

/// `spec.access.viewers[0]` as the JSON pointer `/spec/access/viewers/0`.
pub(super) fn pointer(path: &str) -> String {
    let parts = path.split(['.', '[']).filter(|part| !part.is_empty());
    parts.map(|part| format!("/{}", part.trim_end_matches(']'))).collect()
}

enum Node {
    Scalar(Value),
    List(Vec<Spanned<Node>>),
    Map(Vec<(Spanned<String>, Node)>),
}

/// The value, and the line of each part of it: that of the key, where there is one.
fn flatten(node: Node, at: &mut String, lines: &mut HashMap<String, u64>) -> Value {
    match node {
        Node::Scalar(value) => value,
        Node::List(items) => {
            let values = items.into_iter().enumerate().map(|(index, item)| {
                let end = at.len();
                at.push_str(&format!("/{index}"));
                lines.insert(at.clone(), item.referenced.line());
                let value = flatten(item.value, at, lines);
                at.truncate(end);
                value
            });
            Value::Array(values.collect())
        }
        Node::Map(entries) => {
            let mut map = Map::new();
            for (key, node) in entries {
                let end = at.len();
                at.push('/');
                at.push_str(&key.value.replace('~', "~0").replace('/', "~1"));
                lines.insert(at.clone(), key.referenced.line());
                let value = flatten(node, at, lines);
                at.truncate(end);
                map.insert(key.value, value);
            }
            Value::Object(map)
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_none<E: de::Error>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Node::Map(map))
    }
}
