//! What OpenTelemetry's variables say about traces. Off unless one of them names a collector. Pure.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use wharf_telemetry::trace::Sampler;

/// Where spans go, which, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The whole URL.
    pub endpoint: String,
    /// Sent with each batch: keys of collectors, mostly.
    pub headers: HashMap<String, String>,
    /// For one batch to be taken.
    pub timeout: Duration,
    /// Which traces are kept.
    pub sampler: Sampler,
    /// What says where spans are from, `service.name` included.
    pub resource: BTreeMap<String, String>,
    /// A span waits for others at most this long.
    pub delay: Duration,
    /// Spans that wait; one more is dropped.
    pub queue: usize,
    /// Spans in a batch.
    pub batch: usize,
}

/// A variable that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the variable {name} is {value:?}; {wanted}")]
pub struct SettingError {
    name: String,
    value: String,
    wanted: &'static str,
}

impl Settings {
    /// Reads the variables of OpenTelemetry's specification. None where no collector is named or traces are turned off.
    ///
    /// # Errors
    /// When a variable that counts cannot be understood.
    pub fn from_env(env: &BTreeMap<String, String>, service: &str) -> Result<Option<Settings>, SettingError> {
        // An empty variable counts as none.
        let get = |name: &str| env.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
        // What is said of traces alone goes first.
        let of_traces = |what: &str| {
            let names = [format!("OTEL_EXPORTER_OTLP_TRACES_{what}"), format!("OTEL_EXPORTER_OTLP_{what}")];
            names.into_iter().find_map(|name| get(&name).map(|value| (name.clone(), value.to_owned())))
        };
        let is_off = get("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
            || get("OTEL_TRACES_EXPORTER") == Some("none");
        let endpoint = match (get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"), get("OTEL_EXPORTER_OTLP_ENDPOINT")) {
            (Some(whole), _) => whole.to_owned(),
            (None, Some(base)) => format!("{}/v1/traces", base.trim_end_matches('/')),
            (None, None) => return Ok(None),
        };
        if is_off {
            return Ok(None);
        }
        if !(endpoint.starts_with("http://") || endpoint.starts_with("https://")) {
            return Err(error("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint, "write http://… or https://…"));
        }
        if let Some((name, value)) = of_traces("PROTOCOL")
            && value != "http/protobuf"
        {
            return Err(error(&name, &value, "only http/protobuf is spoken, mostly on port 4318"));
        }
        if let Some(other) = get("OTEL_TRACES_EXPORTER").filter(|one| *one != "otlp") {
            return Err(error("OTEL_TRACES_EXPORTER", other, "write otlp or none"));
        }
        let headers = match of_traces("HEADERS") {
            Some((name, value)) => pairs(&name, &value)?.into_iter().collect(),
            None => HashMap::new(),
        };
        let mut resource = match get("OTEL_RESOURCE_ATTRIBUTES") {
            Some(value) => pairs("OTEL_RESOURCE_ATTRIBUTES", value)?,
            None => BTreeMap::new(),
        };
        if let Some(name) = get("OTEL_SERVICE_NAME") {
            resource.insert("service.name".to_owned(), name.to_owned());
        }
        resource.entry("service.name".to_owned()).or_insert_with(|| service.to_owned());
        let number = |name: &str, default: u64| match get(name) {
            Some(value) => value
                .parse()
                .ok()
                .filter(|count| *count > 0)
                .ok_or_else(|| error(name, value, "write a number above 0")),
            None => Ok(default),
        };
        let timeout = match of_traces("TIMEOUT") {
            Some((name, value)) => value.parse().map_err(|_| error(&name, &value, "write milliseconds"))?,
            None => 10_000,
        };
        Ok(Some(Settings {
            endpoint,
            headers,
            timeout: Duration::from_millis(timeout),
            sampler: sampler(get("OTEL_TRACES_SAMPLER"), get("OTEL_TRACES_SAMPLER_ARG"))?,
            resource,
            delay: Duration::from_millis(number("OTEL_BSP_SCHEDULE_DELAY", 5_000)?),
            queue: number("OTEL_BSP_MAX_QUEUE_SIZE", 2_048)? as usize,
            batch: number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512)? as usize,
        }))
    }
}

fn sampler(name: Option<&str>, argument: Option<&str>) -> Result<Sampler, SettingError> {
    let ratio = || match argument {
        None => Ok(1.0),
        Some(text) => text
            .parse()
            .ok()
            .filter(|ratio| (0.0..=1.0).contains(ratio))
            .ok_or_else(|| error("OTEL_TRACES_SAMPLER_ARG", text, "write a share from 0 to 1")),
    };
    let (follows_parent, ratio) = match name {
        None | Some("parentbased_always_on") => (true, 1.0),
        Some("parentbased_always_off") => (true, 0.0),
        Some("parentbased_traceidratio") => (true, ratio()?),
        Some("always_on") => (false, 1.0),
        Some("always_off") => (false, 0.0),
        Some("traceidratio") => (false, ratio()?),
        Some(other) => {
            let wanted =
                "write always_on, always_off or traceidratio, with parentbased_ before it or without";
            return Err(error("OTEL_TRACES_SAMPLER", other, wanted));
        }
    };
    Ok(Sampler { follows_parent, ratio })
}

/// `a=1,b=2`, with values percent-encoded where they have to be.
fn pairs(name: &str, text: &str) -> Result<BTreeMap<String, String>, SettingError> {
    text.split(',')
        .filter(|pair| !pair.trim().is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').ok_or_else(|| error(name, text, "write a=1,b=2"))?;
            Ok((key.trim().to_owned(), decoded(value.trim())))
        })
        .collect()
}

/// What is no good encoding stays as it is.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let hex = |at: usize| after.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        match (first, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &after[2..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

fn error(name: &str, value: &str, wanted: &'static str) -> SettingError {
    // A header may be a key.
    let value = if name.ends_with("HEADERS") { "***" } else { value };
    SettingError { name: name.to_owned(), value: value.to_owned(), wanted }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Settings>, String> {
        let env = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Settings::from_env(&env, "wharf-gateway").map_err(|error| error.to_string())
    }

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318/");

    #[test]
    fn nothing_is_sent_unless_a_collector_is_named() {
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]), Ok(None));
        assert_eq!(read(&[ENDPOINT, ("OTEL_SDK_DISABLED", "true")]), Ok(None));
        assert_eq!(read(&[ENDPOINT, ("OTEL_TRACES_EXPORTER", "none")]), Ok(None));
        assert_eq!(read(&[("OTEL_TRACES_SAMPLER", "nonsense")]), Ok(None));
    }

    #[test]
    fn an_endpoint_is_enough() {
        let settings = read(&[ENDPOINT]).unwrap().unwrap();
        assert_eq!(settings.endpoint, "http://collector:4318/v1/traces");
        assert_eq!((settings.sampler, settings.timeout), (Sampler::ALL, Duration::from_secs(10)));
        assert_eq!(settings.resource["service.name"], "wharf-gateway");
        let own = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://traces.example/in");
        assert_eq!(read(&[ENDPOINT, own]).unwrap().unwrap().endpoint, "https://traces.example/in");
    }

    #[test]
    fn the_variables_of_the_specification_count() {
        let settings = read(&[
            ENDPOINT,
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20b, x=1"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "250"),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
            ("OTEL_SERVICE_NAME", "llm"),
            ("OTEL_RESOURCE_ATTRIBUTES", "k8s.namespace.name=demo,service.name=other"),
            ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ]);
        let settings = settings.unwrap().unwrap();
        assert_eq!((settings.headers["api-key"].as_str(), settings.headers["x"].as_str()), ("a b", "1"));
        assert_eq!(settings.sampler, Sampler { follows_parent: true, ratio: 0.25 });
        assert_eq!((settings.timeout.as_millis(), settings.delay.as_millis()), (250, 100));
        let named =
            (settings.resource["service.name"].as_str(), settings.resource["k8s.namespace.name"].as_str());
        assert_eq!(named, ("llm", "demo"));
    }

    #[test]
    fn what_cannot_be_used_is_said_in_words_and_without_keys() {
        let refused = |name, value| read(&[ENDPOINT, (name, value)]).unwrap_err();
        assert!(refused("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc").contains("only http/protobuf"));
        assert!(refused("OTEL_TRACES_SAMPLER", "jaeger_remote").contains("always_on"));
        assert!(
            read(&[ENDPOINT, ("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "2")])
                .is_err()
        );
        assert!(refused("OTEL_BSP_MAX_QUEUE_SIZE", "0").contains("above 0"));
        assert!(
            read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318")]).unwrap_err().contains("write http://")
        );
        let headers = refused("OTEL_EXPORTER_OTLP_HEADERS", "secret");
        assert!(headers.contains("OTLP_HEADERS") && !headers.contains("secret"), "{headers}");
    }
}
