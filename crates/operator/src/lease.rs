//! Which of several operators works: the one that holds a Lease.
//!
//! Whoever finds the Lease unheld, or unchanged for as long as it says, takes it. How long is measured by one's own clock from when a change was
//! seen, so that clocks may differ (as in client-go's `leaderelection`).

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::time::{Instant, sleep, timeout};

/// How long a Lease holds without being renewed.
pub(crate) const HOLDS: Duration = Duration::from_secs(15);

/// A Lease that several want.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Who we are.
    pub(crate) identity: String,
    /// How long it holds.
    pub(crate) holds: Duration,
}

/// What was last seen of it.
#[derive(Default)]
struct Seen {
    version: Option<String>,
    since: Option<Instant>,
}

/// Works with `work` while the Lease is held, and never without: `work` is dropped when it is lost. Returns when `work` does, or when the
/// Lease is lost.
pub(crate) async fn lead<T>(client: &Client, wanted: &Wanted, work: impl Future<Output = T>) -> Option<T> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), &wanted.namespace);
    let mut seen = Seen::default();
    while !attempt(&leases, wanted, &mut seen).await {
        sleep(wanted.holds / 5).await;
    }
    tracing::info!(lease = wanted.name, identity = wanted.identity, "leads");
    tokio::select! {
        done = work => {
            release(&leases, wanted).await;
            Some(done)
        }
        () = keep(&leases, wanted) => {
            tracing::warn!(lease = wanted.name, "leads no longer");
            None
        }
    }
}

/// Renews the Lease until somebody else has it, or it could not be renewed for two thirds of its time.
async fn keep(leases: &Api<Lease>, wanted: &Wanted) {
    let mut renewed = Instant::now();
    let mut seen = Seen::default();
    while renewed.elapsed() < wanted.holds * 2 / 3 {
        sleep(wanted.holds / 5).await;
        if attempt(leases, wanted, &mut seen).await {
            renewed = Instant::now();
        }
    }
}

/// Takes or renews the Lease, if it is ours to have.
async fn attempt(leases: &Api<Lease>, wanted: &Wanted, seen: &mut Seen) -> bool {
    match timeout(wanted.holds / 3, try_attempt(leases, wanted, seen)).await {
        Ok(Ok(held)) => held,
        Ok(Err(error)) => {
            tracing::debug!(error = %wharf_telemetry::log::chain(&error), "failed to renew the lease");
            false
        }
        Err(_) => false,
    }
}

async fn try_attempt(leases: &Api<Lease>, wanted: &Wanted, seen: &mut Seen) -> kube::Result<bool> {
    let Some(mut lease) = leases.get_opt(&wanted.name).await? else {
        let lease = Lease {
            metadata: ObjectMeta { name: Some(wanted.name.clone()), ..ObjectMeta::default() },
            spec: Some(taken(wanted, None)),
        };
        leases.create(&PostParams::default(), &lease).await?;
        return Ok(true);
    };
    if seen.version != lease.metadata.resource_version {
        *seen = Seen { version: lease.metadata.resource_version.clone(), since: Some(Instant::now()) };
    }
    let spec = lease.spec.clone().unwrap_or_default();
    let unchanged = seen.since.map_or(Duration::ZERO, |since| since.elapsed());
    if !may_take(&spec, &wanted.identity, unchanged) {
        return Ok(false);
    }
    lease.spec = Some(taken(wanted, Some(&spec)));
    // Whoever wrote in between makes this fail: the version goes along.
    leases.replace(&wanted.name, &PostParams::default(), &lease).await?;
    Ok(true)
}

/// Whether a Lease that was not changed for so long is ours to take. Pure.
fn may_take(spec: &LeaseSpec, identity: &str, unchanged: Duration) -> bool {
    match spec.holder_identity.as_deref() {
        None | Some("") => true,
        Some(holder) if holder == identity => true,
        Some(_) => {
            let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
            unchanged >= seconds.map_or(HOLDS, Duration::from_secs)
        }
    }
}

fn taken(wanted: &Wanted, before: Option<&LeaseSpec>) -> LeaseSpec {
    let now = MicroTime(Timestamp::now());
    let ours = before.filter(|before| before.holder_identity.as_deref() == Some(&wanted.identity));
    let transitions = before.and_then(|before| before.lease_transitions).unwrap_or(0);
    LeaseSpec {
        holder_identity: Some(wanted.identity.clone()),
        lease_duration_seconds: i32::try_from(wanted.holds.as_secs().max(1)).ok(),
        acquire_time: ours.and_then(|ours| ours.acquire_time.clone()).or(Some(now.clone())),
        renew_time: Some(now),
        lease_transitions: Some(if ours.is_some() || before.is_none() {
            transitions
        } else {
            transitions + 1
        }),
        ..LeaseSpec::default()
    }
}

/// Gives the Lease back, so that the next one need not wait.
async fn release(leases: &Api<Lease>, wanted: &Wanted) {
    if let Err(error) = try_release(leases, wanted).await {
        tracing::debug!(error = %wharf_telemetry::log::chain(&error), "failed to give the lease back; it runs out");
    }
}

async fn try_release(leases: &Api<Lease>, wanted: &Wanted) -> kube::Result<()> {
    let Some(mut lease) = leases.get_opt(&wanted.name).await? else { return Ok(()) };
    if let Some(spec) = lease.spec.as_mut()
        && spec.holder_identity.as_deref() == Some(&wanted.identity)
    {
        spec.holder_identity = None;
        leases.replace(&wanted.name, &PostParams::default(), &lease).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_taken_when_it_is_free_ours_or_was_not_renewed() {
        let held = |by: &str| LeaseSpec {
            holder_identity: Some(by.to_owned()),
            lease_duration_seconds: Some(15),
            ..LeaseSpec::default()
        };
        let (now, late) = (Duration::ZERO, Duration::from_secs(15));
        assert!(may_take(&LeaseSpec::default(), "a", now));
        assert!(may_take(&held(""), "a", now));
        assert!(may_take(&held("a"), "a", now));
        assert!(!may_take(&held("b"), "a", now));
        assert!(may_take(&held("b"), "a", late));
    }
}
