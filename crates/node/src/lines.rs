//! Lines of Prometheus' text format, named and labelled as the metric table has them. Pure.

use std::fmt::Write;

use wharf_telemetry::metrics::{Kind, Metric};

/// The lines of one metric. Its header comes with the first of them.
pub(crate) struct Lines<'a> {
    text: &'a mut String,
    metric: &'static Metric,
    hostname_label: &'a str,
    begun: bool,
}

impl<'a> Lines<'a> {
    /// None yet. `hostname_label`: what `Hostname` is called.
    pub(crate) fn new(text: &'a mut String, metric: &'static Metric, hostname_label: &'a str) -> Lines<'a> {
        Lines { text, metric, hostname_label, begun: false }
    }

    /// One more, with what `of` says of each label; one without a value is left out.
    pub(crate) fn add(&mut self, value: f64, of: impl Fn(&str) -> String) {
        let Metric { name, kind, labels, help } = self.metric;
        if !self.begun {
            self.begun = true;
            let kind = if matches!(kind, Kind::Counter) { "counter" } else { "gauge" };
            let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        }
        let _ = write!(self.text, "{name}{{");
        let mut first = true;
        for label in *labels {
            let value = of(label);
            if value.is_empty() {
                continue;
            }
            let label = if *label == "Hostname" { self.hostname_label } else { *label };
            let comma = if first { "" } else { "," };
            let _ = write!(self.text, "{comma}{label}=\"{}\"", escaped(&value));
            first = false;
        }
        let _ = writeln!(self.text, "}} {value}");
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
