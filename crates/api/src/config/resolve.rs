//! From files, environment and flags to one checked configuration, or to the list of all that is wrong.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};

use super::check::check;
use super::fields::{FIELDS, Field, Section, ServeConfig};

/// Name of the file with the `server:` section.
const SERVER_FILE: &str = "server_config.yaml";
/// Name of the file with the model's name and sampling defaults.
const MODEL_FILE: &str = "model_config.json";

/// A file's path, for messages, and its text.
#[derive(Clone, Debug)]
pub struct SourceFile {
    /// Where it was read.
    pub path: PathBuf,
    /// Its content.
    pub text: String,
}

/// The two files that users write; either may be missing.
#[derive(Clone, Debug, Default)]
pub struct ConfigFiles {
    /// `server_config.yaml`.
    pub server: Option<SourceFile>,
    /// `model_config.json`.
    pub model: Option<SourceFile>,
}

/// A configuration file exists and cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("failed to read {path}")]
pub struct ReadConfigError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

impl ConfigFiles {
    /// Reads both files from a folder. A file that does not exist is no error.
    ///
    /// # Errors
    /// When a file exists and cannot be read as UTF-8 text.
    pub fn read(dir: &Path) -> Result<ConfigFiles, ReadConfigError> {
        let read = |name: &str| {
            let path = dir.join(name);
            match std::fs::read_to_string(&path) {
                Ok(text) => Ok(Some(SourceFile { path, text })),
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(source) => Err(ReadConfigError { path, source }),
            }
        };
        Ok(ConfigFiles { server: read(SERVER_FILE)?, model: read(MODEL_FILE)? })
    }
}

/// Some fields, by name: what the command line sets.
#[derive(Clone, Debug, Default)]
pub struct PartialConfig(Map<String, Value>);

impl PartialConfig {
    /// Sets a field by its [`Field::name`]; `None` leaves it as it was. A name that no field has is a problem
    /// that [`resolve`] reports.
    pub fn set(&mut self, field: &str, value: Option<impl Serialize>) -> &mut Self {
        if let Some(value) = value {
            let value = serde_json::to_value(value).unwrap_or(Value::Null);
            self.0.insert(field.to_owned(), value);
        }
        self
    }
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// An environment variable.
    Env(String),
    /// A command-line flag.
    Flag(String),
    /// The field's default.
    Default,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigProblem {
    /// Where the value was written.
    pub source: Source,
    /// The field, as the file spells its path; empty when the file as a whole is wrong.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::File(path) if self.field.is_empty() => write!(f, "{}: ", path.display())?,
            Source::File(path) => write!(f, "{}: {}: ", path.display(), self.field)?,
            Source::Env(name) => write!(f, "environment variable {name}: ")?,
            Source::Flag(flag) => write!(f, "{flag}: ")?,
            Source::Default => write!(f, "{}: ", self.field)?,
        }
        f.write_str(&self.message)
    }
}

/// Values by field name, each with where it came from; later layers replace earlier ones.
type Layers = BTreeMap<&'static str, (Value, Source)>;

/// Builds the configuration: defaults, then files, then environment, then flags.
///
/// The environment is `WHARF_<FIELD>` for every field but `version`, and `MODEL_PATH`, `MODEL_NAME`, `MAX_TOKENS`, `API_KEY`;
/// empty values count as unset.
///
/// # Errors
/// Every problem of every source at once.
pub fn resolve(
    files: &ConfigFiles,
    env: &BTreeMap<String, String>,
    flags: &PartialConfig,
) -> Result<ServeConfig, Vec<ConfigProblem>> {
    let mut layers = Layers::new();
    let mut problems = Vec::new();
    if let Some(file) = &files.server {
        read_server_file(file, &mut layers, &mut problems);
    }
    if let Some(file) = &files.model {
        read_model_file(file, &mut layers, &mut problems);
    }
    read_env(env, &mut layers, &mut problems);
    read_flags(flags, &mut layers, &mut problems);

    let config = ServeConfig::from_values(|name| layers.get(name).map(|(value, _)| value.clone()));
    for (name, message) in check(&config) {
        let source = layers.get(name).map_or(Source::Default, |(_, source)| source.clone());
        let field = match &source {
            Source::File(_) => file_path_of(name),
            Source::Env(_) | Source::Flag(_) | Source::Default => name.to_owned(),
        };
        problems.push(ConfigProblem { source, field, message });
    }
    if problems.is_empty() { Ok(config) } else { Err(problems) }
}

fn file_path_of(name: &str) -> String {
    match FIELDS.iter().find(|field| field.name == name) {
        Some(Field { section: Section::Server, name, .. }) if *name != "version" => format!("server.{name}"),
        _ => name.to_owned(),
    }
}

fn read_server_file(file: &SourceFile, layers: &mut Layers, problems: &mut Vec<ConfigProblem>) {
    let problem = |field: &str, message: String| ConfigProblem {
        source: Source::File(file.path.clone()),
        field: field.to_owned(),
        message,
    };
    let document = match serde_saphyr::from_str::<Value>(&file.text) {
        Ok(Value::Object(map)) => map,
        Ok(Value::Null) => return,
        Ok(other) => {
            problems
                .push(problem("", format!("expected a mapping with `server:`, found {}", kind_of(&other))));
            return;
        }
        Err(e) => {
            problems.push(problem("", format!("not valid YAML: {e}")));
            return;
        }
    };
    for (key, value) in sorted(document) {
        match (key.as_str(), value) {
            ("server", Value::Object(section)) => {
                read_section(file, Section::Server, "server.", section, layers, problems);
            }
            ("server", Value::Null) => {}
            ("server", other) => {
                problems.push(problem("server", format!("expected a mapping, found {}", kind_of(&other))));
            }
            ("version", value) => {
                let section = Map::from_iter([("version".to_owned(), value)]);
                read_section(file, Section::Server, "", section, layers, problems);
            }
            (other, _) => {
                let hint = suggestion(other, ["server", "version"].into_iter());
                problems.push(problem(other, format!("unknown section{hint}")));
            }
        }
    }
}

fn read_model_file(file: &SourceFile, layers: &mut Layers, problems: &mut Vec<ConfigProblem>) {
    let message = match serde_json::from_str::<Value>(&file.text) {
        Ok(Value::Object(section)) => {
            return read_section(file, Section::Model, "", section, layers, problems);
        }
        Ok(other) => format!("expected an object, found {}", kind_of(&other)),
        Err(e) => format!("not valid JSON: {e}"),
    };
    problems.push(ConfigProblem { source: Source::File(file.path.clone()), field: String::new(), message });
}

fn read_section(
    file: &SourceFile,
    section: Section,
    prefix: &str,
    values: Map<String, Value>,
    layers: &mut Layers,
    problems: &mut Vec<ConfigProblem>,
) {
    let source = Source::File(file.path.clone());
    for (key, value) in sorted(values) {
        let path = format!("{prefix}{key}");
        let known = FIELDS.iter().find(|field| field.name == key);
        let message = match known {
            Some(field) if field.section == section => match (field.check)(&value) {
                Ok(()) => {
                    layers.insert(field.name, (value, source.clone()));
                    continue;
                }
                Err(message) => message,
            },
            Some(field) => match field.section {
                Section::Server => format!("belongs in {SERVER_FILE}, under server:"),
                Section::Model => format!("belongs in {MODEL_FILE}"),
            },
            None => {
                let names = FIELDS.iter().filter(|field| field.section == section).map(|field| field.name);
                format!("unknown field{}", suggestion(&key, names))
            }
        };
        problems.push(ConfigProblem { source: source.clone(), field: path, message });
    }
}

fn read_env(env: &BTreeMap<String, String>, layers: &mut Layers, problems: &mut Vec<ConfigProblem>) {
    for field in FIELDS {
        // The version describes a file, and images like to set WHARF_VERSION to the program's.
        if field.name == "version" {
            continue;
        }
        // The field's own variable wins over the alias, so it is read last.
        for name in field.env_alias.map(str::to_owned).into_iter().chain([field.env()]) {
            let Some(text) = env.get(&name).filter(|text| !text.trim().is_empty()) else { continue };
            // Kubernetes sets WHARF_PORT=tcp://10.0.0.1:80 in pods when some Service is called "wharf", and
            // WHARF_METRICS_PORT when one is called "wharf-metrics".
            if field.name.ends_with("port") && text.starts_with("tcp://") {
                continue;
            }
            let source = Source::Env(name.clone());
            match parse_text(field, text) {
                Ok(value) => {
                    layers.insert(field.name, (value, source));
                }
                Err(message) => {
                    problems.push(ConfigProblem { source, field: field.name.to_owned(), message })
                }
            }
        }
    }
}

/// Text means a string where the field takes one, else a number or a boolean.
fn parse_text(field: &Field, text: &str) -> Result<Value, String> {
    let as_string = Value::String(text.to_owned());
    let Err(message) = (field.check)(&as_string) else { return Ok(as_string) };
    match serde_json::from_str::<Value>(text.trim()) {
        Ok(value) => (field.check)(&value).map(|()| value),
        Err(_) => Err(message),
    }
}

fn read_flags(flags: &PartialConfig, layers: &mut Layers, problems: &mut Vec<ConfigProblem>) {
    for (name, value) in &flags.0 {
        let flag = Source::Flag(format!("--{}", name.replace('_', "-")));
        let message = match FIELDS.iter().find(|field| field.name == name) {
            Some(field) => match (field.check)(value) {
                Ok(()) => {
                    layers.insert(field.name, (value.clone(), flag));
                    continue;
                }
                Err(message) => message,
            },
            None => format!("unknown field{}", suggestion(name, FIELDS.iter().map(|field| field.name))),
        };
        problems.push(ConfigProblem { source: flag, field: name.clone(), message });
    }
}

/// By key: whether a JSON map keeps its file's order depends on what else is built with it.
fn sorted(map: Map<String, Value>) -> BTreeMap<String, Value> {
    map.into_iter().collect()
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}

/// `, did you mean X?` for the closest name, if any is close.
fn suggestion<'a>(unknown: &str, names: impl Iterator<Item = &'a str>) -> String {
    // A key from a hostile file may be megabytes long; no typing error is.
    if unknown.len() > 64 {
        return String::new();
    }
    let closest = names.map(|name| (edit_distance(unknown, name), name)).min();
    match closest {
        Some((distance, name)) if distance <= 1 + name.len() / 4 => format!(", did you mean {name}?"),
        _ => String::new(),
    }
}

/// Levenshtein distance in bytes.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
