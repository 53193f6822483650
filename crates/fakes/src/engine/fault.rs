//! How a fake engine fails, for which requests and how often. Pure: nothing here touches a socket.

use std::time::Duration;

/// What goes wrong with an answer. Token counts tell where in a stream; an answer that is not streamed is one piece, so a count
/// above 0 then means half of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// The request is read and never answered.
    StallBeforeHead,
    /// The connection is closed before anything is answered.
    CloseBeforeHead,
    /// The connection is reset before anything is answered.
    ResetBeforeHead,
    /// The answer stops after so many tokens, and the connection stays open.
    StallAfter(usize),
    /// The connection is reset (RST) after so many tokens.
    ResetAfter(usize),
    /// The connection is closed (FIN) after so many tokens, in the middle of the body.
    TruncateAfter(usize),
    /// The stream ends as HTTP wants it after so many tokens, without a last chunk and without `[DONE]`.
    EndAfter(usize),
    /// After so many tokens comes an event that is not JSON; then the stream goes on.
    MalformedAfter(usize),
    /// The stream says that the engine failed, in an `error` event, and ends.
    ErrorEventAfter(usize),
    /// Every piece of the body is sent so many bytes at a time, with a pause after each.
    Trickle {
        /// Bytes sent at once.
        bytes: usize,
        /// Pause after them.
        pause: Duration,
    },
    /// An answer without a body of ours.
    Status {
        /// The status code.
        code: u16,
        /// Seconds in `Retry-After`.
        retry_after: Option<u32>,
    },
    /// The `Content-Length` of an answer that is not streamed is off by so many bytes.
    WrongLength(i64),
}

impl Fault {
    /// An answer with this status code and no `Retry-After`.
    pub fn status(code: u16) -> Fault {
        Fault::Status { code, retry_after: None }
    }

    /// Whether it does away with the whole answer.
    pub(crate) fn is_before_head(&self) -> bool {
        match self {
            Fault::StallBeforeHead
            | Fault::CloseBeforeHead
            | Fault::ResetBeforeHead
            | Fault::Status { .. } => true,
            Fault::StallAfter(_)
            | Fault::ResetAfter(_)
            | Fault::TruncateAfter(_)
            | Fault::EndAfter(_)
            | Fault::MalformedAfter(_)
            | Fault::ErrorEventAfter(_)
            | Fault::Trickle { .. }
            | Fault::WrongLength(_) => false,
        }
    }
}

/// Requests that a fault is meant for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Completions, chat completions and embeddings.
    Generation,
    /// `/health` and `/ready`.
    Probes,
    /// `/metrics`.
    Metrics,
    /// Every request.
    All,
}

impl Target {
    fn covers(self, request: Target) -> bool {
        self == Target::All || self == request
    }
}

/// How often a fault happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Times(usize),
    Always,
}

/// The faults in force, in the order in which they were asked for.
#[derive(Debug, Default)]
pub(crate) struct Faults(Vec<(Target, Fault, Left)>);

impl Faults {
    pub(crate) fn always(&mut self, target: Target, fault: Fault) {
        self.0.push((target, fault, Left::Always));
    }

    pub(crate) fn next(&mut self, times: usize, target: Target, fault: Fault) {
        self.0.push((target, fault, Left::Times(times)));
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// The fault of a request of this kind, which is thereby used up once.
    pub(crate) fn take(&mut self, request: Target) -> Option<Fault> {
        let index =
            self.0.iter().position(|(target, _, left)| target.covers(request) && *left != Left::Times(0))?;
        let (_, fault, left) = &mut self.0[index];
        let fault = fault.clone();
        if let Left::Times(times) = left {
            *times -= 1;
        }
        self.0.retain(|(_, _, left)| *left != Left::Times(0));
        Some(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counted_faults_are_used_up_in_order_and_only_by_their_target() {
        let mut faults = Faults::default();
        faults.next(1, Target::Generation, Fault::status(500));
        faults.next(2, Target::All, Fault::status(503));
        assert_eq!(faults.take(Target::Probes), Some(Fault::status(503)));
        assert_eq!(faults.take(Target::Generation), Some(Fault::status(500)));
        assert_eq!(faults.take(Target::Generation), Some(Fault::status(503)));
        assert_eq!(faults.take(Target::Generation), None);
    }

    #[test]
    fn a_standing_fault_lasts_until_cleared() {
        let mut faults = Faults::default();
        faults.always(Target::Metrics, Fault::StallBeforeHead);
        assert_eq!(faults.take(Target::Metrics), Some(Fault::StallBeforeHead));
        assert_eq!(faults.take(Target::Metrics), Some(Fault::StallBeforeHead));
        faults.clear();
        assert_eq!(faults.take(Target::Metrics), None);
    }
}
