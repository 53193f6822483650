//! Traces of a role, where OpenTelemetry's variables name a collector.

use anyhow::Context;
use wharf_otlp::{Export, Settings};
use wharf_telemetry::trace::Tracer;

use crate::Env;
use crate::exit::{BadInput, Failure};

/// Sends traces, or does nothing.
pub(crate) struct Traces(Option<Export>);

impl Traces {
    /// Reads the variables. `role` is what collectors call the process unless they say otherwise.
    pub(crate) fn start(env: &Env, role: &str) -> Result<Traces, Failure> {
        let settings = Settings::from_env(env, role).context("failed to set up traces").bad_input()?;
        let export = settings.map(Export::start).transpose().context("failed to set up traces")?;
        Ok(Traces(export))
    }

    /// What begins traces.
    pub(crate) fn tracer(&self) -> Tracer {
        self.0.as_ref().map(Export::tracer).unwrap_or_default()
    }

    /// Sends what waits, unless somebody does not want to wait; call it when nothing is served any more, outside of a runtime.
    pub(crate) fn stop(self, served: &Result<(), Failure>) {
        let is_impatient = matches!(served, Err(Failure::Interrupted));
        if let Some(export) = self.0.filter(|_| !is_impatient) {
            export.stop();
        }
    }
}
