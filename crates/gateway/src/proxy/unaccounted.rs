//! The line of a request that no exchange counts: it was refused, or answered without an endpoint, or its client left before that.

use std::time::Instant;

use wharf_api::ApiError;
use wharf_telemetry::log::milliseconds;
use wharf_telemetry::trace::Trace;

use super::Arrival;
use crate::exchange::CLIENT_LEFT;
use crate::spans;

/// Says how a request ended when it is dropped, unless an exchange does.
pub(super) struct Unaccounted {
    started: Instant,
    path: &'static str,
    trace: Trace,
    status: u16,
    /// The error's code.
    code: Option<&'static str>,
    is_followed: bool,
}

impl Unaccounted {
    pub(super) fn of(arrival: &Arrival) -> Unaccounted {
        let Arrival { id: _, started, path, trace } = arrival;
        let (started, trace) = (*started, trace.clone());
        Unaccounted { started, path, trace, status: CLIENT_LEFT, code: None, is_followed: false }
    }

    /// It was answered here.
    pub(super) fn answered(&mut self, status: u16) {
        self.status = status;
    }

    /// It was refused here.
    pub(super) fn refused(&mut self, error: &ApiError) {
        self.status = error.status();
        self.code = error.code();
    }

    /// An exchange has it now.
    pub(super) fn follow(mut self) {
        self.is_followed = true;
    }
}

impl Drop for Unaccounted {
    fn drop(&mut self) {
        if !self.is_followed {
            let duration_ms = milliseconds(self.started.elapsed());
            tracing::info!(status = self.status, duration_ms, code = self.code, "request ended");
            if self.trace.is_kept() {
                self.trace.end(spans::ended(self.path, self.status), []);
            }
        }
    }
}
