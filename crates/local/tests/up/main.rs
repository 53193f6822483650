//! Scenarios of a whole supervisor with real processes: engines are fake, everything between them and the client is not.

#![expect(clippy::unwrap_used, reason = "helpers of tests are no tests to the lint")]

mod ends;
mod engines;
mod places;
mod releases;
mod scaling;
mod steering;
mod support;
