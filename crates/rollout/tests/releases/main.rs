//! Releases from their beginning to their end in a small world, by seconds: replicas that start, gateways that follow late, requests that take
//! a while, and a driver that dies.

mod crashes;
mod driver;
mod properties;
mod scenarios;
mod stories;
mod world;
