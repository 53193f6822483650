//! What is scaled: a Deployment, the processes of one machine.

use std::error::Error;
use std::future::Future;

/// Replicas as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replicas {
    /// Asked for.
    pub wanted: u32,
    /// Taking requests.
    pub ready: u32,
    /// There, but not taking requests yet.
    pub starting: u32,
}

/// Something whose replicas can be counted and set.
pub trait ScaleTarget: Send + Sync {
    /// What may go wrong.
    type Error: Error + Send + Sync + 'static;

    /// Replicas as they are. It is asked at every line of demand, so it should answer from memory.
    fn read(&self) -> impl Future<Output = Result<Replicas, Self::Error>> + Send;

    /// Asks for so many. `reason` is for people.
    fn set(&self, replicas: u32, reason: &str) -> impl Future<Output = Result<(), Self::Error>> + Send;
}
