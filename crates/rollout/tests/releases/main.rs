//! Releases from their beginning to their end in a small world, by seconds: replicas that start, gateways that follow late, requests that take
//! a while, and a driver that dies.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a panic is their report")]

mod crashes;
mod driver;
mod properties;
mod scenarios;
mod stories;
mod world;
