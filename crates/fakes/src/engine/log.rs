//! What an engine has received, and what became of it.

use bytes::Bytes;
use http::HeaderMap;

use super::fault::Target;

/// A request that an engine has received.
#[derive(Clone, Debug)]
pub struct Received {
    /// Counted from 1.
    pub number: u64,
    /// On which connection, counted from 1.
    pub connection: u64,
    /// `GET` or `POST`.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// All headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// What became of it.
    pub outcome: Outcome,
}

impl Received {
    /// A header's text, empty where it is absent or not text.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }

    /// The body as JSON, null where it is not.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is being answered.
    InFlight,
    /// All of the answer was handed to the connection.
    Answered {
        /// Its status code.
        status: u16,
    },
    /// The client went away before the end of the answer.
    Abandoned,
    /// The engine cut the connection, as it was told to.
    Cut,
}

/// Requests in the order of their arrival, and the numbers that tests ask for.
#[derive(Debug, Default)]
pub(crate) struct Log {
    requests: Vec<(Target, Received)>,
    /// Requests before the first of `requests`.
    forgotten: u64,
    in_flight: usize,
    most_in_flight: usize,
}

impl Log {
    pub(crate) fn add(&mut self, target: Target, mut request: Received) -> u64 {
        request.number = self.forgotten + self.requests.len() as u64 + 1;
        let number = request.number;
        self.requests.push((target, request));
        if target == Target::Generation {
            self.in_flight += 1;
            self.most_in_flight = self.most_in_flight.max(self.in_flight);
        }
        number
    }

    pub(crate) fn end(&mut self, number: u64, target: Target, outcome: Outcome) {
        if target == Target::Generation {
            self.in_flight -= 1;
        }
        let index = number.checked_sub(self.forgotten + 1).and_then(|index| usize::try_from(index).ok());
        if let Some((_, request)) = index.and_then(|index| self.requests.get_mut(index)) {
            request.outcome = outcome;
        }
    }

    /// Drops what was recorded; numbers go on.
    pub(crate) fn forget(&mut self) {
        self.forgotten += self.requests.len() as u64;
        self.requests.clear();
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Received> {
        self.requests.iter().map(|(_, request)| request)
    }

    pub(crate) fn generation(&self) -> impl Iterator<Item = &Received> {
        self.requests.iter().filter(|(target, _)| *target == Target::Generation).map(|(_, request)| request)
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(crate) fn most_in_flight(&self) -> usize {
        self.most_in_flight
    }
}
