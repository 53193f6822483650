//! What becomes of everything that a model's Jobs have made: it stays while somebody needs it, and a while longer; then a Job removes it. Pure.
//!
//! An artifact is needed; or unused since a moment; or marked for removal, which its Job begins a little later; and gone when the Job has
//! succeeded. The mark is in the status before the Job is there, so that whoever wants to make the same again sees it and waits. Somebody who
//! needs it after all takes the mark away, once nothing of the Job works any more: what was removed by then is made again.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use wharf_manifests::Stored;
use wharf_spec::service::{ArtifactStatus, Removal};

use crate::events::{Happened, event};
use crate::jobs::Fate;
use crate::status::{Says, rfc3339};

/// Between the mark and the Job: the watches of whoever wants the same have shown the mark by then, and what they want is seen here.
const SETTLE_MS: u64 = 10_000;
/// After the first failure; doubled with every other.
const AGAIN_MS: u64 = 60_000;
const AGAIN_AT_MOST_MS: u64 = 6 * 3_600_000;

/// What a decision is made from.
pub(super) struct Seen<'a> {
    pub(super) now_ms: u64,
    /// For how long what is unused stays, in milliseconds.
    pub(super) keep_ms: u64,
    /// What the recipe makes, and how large it is where a Job has just said so.
    pub(super) made: &'a [(Stored, Option<i64>)],
    /// What the status says.
    pub(super) before: &'a [ArtifactStatus],
    /// Who needs what.
    pub(super) users: &'a BTreeMap<Stored, BTreeSet<String>>,
}

/// What is to be done.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Decision {
    /// For the status.
    pub(super) artifacts: Vec<ArtifactStatus>,
    /// Whose Job is to be there: what it removes, and its mark.
    pub(super) start: Vec<(Stored, String)>,
    /// Whose Job is to go, because what it removes is needed.
    pub(super) stop: Vec<(Stored, String)>,
    pub(super) happened: Vec<Happened>,
    /// When something is to be decided though nothing changed, in milliseconds since 1970.
    pub(super) due_ms: Option<u64>,
}

/// Decides. `job` tells how the Job is that removes something under a mark.
pub(super) fn decide(seen: &Seen<'_>, job: impl Fn(&Stored, &str) -> Fate) -> Decision {
    let mut decision = Decision::default();
    for artifact in listed(seen) {
        let stored = of(&artifact);
        let used_by: Vec<String> = seen.users.get(&stored).into_iter().flatten().cloned().collect();
        let artifact = ArtifactStatus { used_by, ..artifact };
        let mark = artifact.removal.as_ref().map(mark);
        let fate = mark.as_ref().map_or(Fate::Absent, |mark| job(&stored, mark));
        let next = match (artifact.used_by.is_empty(), artifact.removal.is_some()) {
            (false, true) if fate == Fate::Works => {
                decision.stop.extend(mark.map(|mark| (stored, mark)));
                Some(ArtifactStatus { unused_since: None, ..artifact })
            }
            (false, _) => Some(ArtifactStatus { unused_since: None, removal: None, ..artifact }),
            (true, false) => Some(unused(seen, artifact)),
            (true, true) => removing(seen, artifact, fate, &mut decision),
        };
        decision.artifacts.extend(next);
    }
    decision.due_ms = decision.artifacts.iter().filter_map(|artifact| due_ms(seen, artifact)).min();
    decision
}

/// What the status says, and what the recipe makes that is not among it, in the order of their names.
fn listed(seen: &Seen<'_>) -> Vec<ArtifactStatus> {
    let known = seen.before.iter().map(|artifact| (of(artifact), artifact.clone()));
    let mut all: BTreeMap<Stored, ArtifactStatus> = known.collect();
    for (stored, bytes) in seen.made {
        let Stored { claim, name } = stored.clone();
        let artifact = all.entry(stored.clone()).or_insert_with(|| ArtifactStatus {
            claim,
            name,
            ..ArtifactStatus::default()
        });
        artifact.bytes = bytes.or(artifact.bytes);
    }
    all.into_values().collect()
}

fn of(artifact: &ArtifactStatus) -> Stored {
    Stored { claim: artifact.claim.clone(), name: artifact.name.clone() }
}

/// Nobody needs it; when that has been so for long enough, it is marked.
fn unused(seen: &Seen<'_>, artifact: ArtifactStatus) -> ArtifactStatus {
    let unused_since = artifact.unused_since.clone().unwrap_or_else(|| rfc3339(seen.now_ms));
    let over = seen.now_ms >= millis(&unused_since).saturating_add(seen.keep_ms);
    let removal = over.then(|| Removal { after: rfc3339(seen.now_ms + SETTLE_MS), ..Removal::default() });
    ArtifactStatus { unused_since: Some(unused_since), removal, ..artifact }
}

/// It is marked, and nobody needs it.
fn removing(
    seen: &Seen<'_>,
    artifact: ArtifactStatus,
    fate: Fate,
    decision: &mut Decision,
) -> Option<ArtifactStatus> {
    let removal = artifact.removal.clone().unwrap_or_default();
    match fate {
        Fate::Works => Some(artifact),
        Fate::Absent => {
            if seen.now_ms >= millis(&removal.after) {
                decision.start.push((of(&artifact), mark(&removal)));
            }
            Some(artifact)
        }
        Fate::Done(said) => {
            let freed = said.bytes.or(artifact.bytes).filter(|bytes| *bytes > 0);
            let freed = freed.map_or(String::new(), |bytes| format!(", {:.2} GB", bytes as f64 / 1e9));
            let ArtifactStatus { claim, name, .. } = &artifact;
            let since = artifact.unused_since.as_deref().unwrap_or("long ago");
            let said =
                format!("removed {name} from the volume {claim}{freed}: nothing had used it since {since}");
            decision.happened.push(event(false, "ArtifactRemoved", &said));
            None
        }
        Fate::Failed(why) => {
            let failed = removal.failed.saturating_add(1);
            let wait = AGAIN_MS.saturating_mul(1 << removal.failed.min(20)).min(AGAIN_AT_MOST_MS);
            let removal = Removal { after: rfc3339(seen.now_ms + wait), failed, message: Some(why) };
            let artifact = ArtifactStatus { removal: Some(removal), ..artifact };
            decision.happened.extend(trouble(&artifact).map(|said| event(true, "RemovalFailed", &said)));
            Some(artifact)
        }
    }
}

/// Tells the Jobs apart that remove something one after the other.
fn mark(removal: &Removal) -> String {
    format!("{} {}", removal.after, removal.failed)
}

fn due_ms(seen: &Seen<'_>, artifact: &ArtifactStatus) -> Option<u64> {
    match &artifact.removal {
        _ if !artifact.used_by.is_empty() => None,
        Some(removal) => Some(millis(&removal.after)).filter(|after| *after > seen.now_ms),
        None => artifact.unused_since.as_deref().map(|since| millis(since).saturating_add(seen.keep_ms)),
    }
}

/// A moment that we wrote. One that somebody else wrote in our place is as old as can be.
fn millis(text: &str) -> u64 {
    let moment = text.parse::<Timestamp>().map_or(0, Timestamp::as_millisecond);
    u64::try_from(moment).unwrap_or(0)
}

/// That something could not be removed, for everybody to read; nothing while all goes well.
pub(super) fn says(artifacts: &[ArtifactStatus]) -> Option<Says> {
    let said: Vec<String> = artifacts.iter().filter_map(trouble).collect();
    (!said.is_empty()).then(|| Says::new("Collected", false, "RemovalFailed", said.join("; ")))
}

fn trouble(artifact: &ArtifactStatus) -> Option<String> {
    let ArtifactStatus { claim, name, removal, .. } = artifact;
    let Removal { after, failed, message } = removal.as_ref().filter(|removal| removal.failed > 0)?;
    let why = message.as_deref().unwrap_or("its Job does not say why");
    let tries = if *failed == 1 { "once".to_owned() } else { format!("{failed} times") };
    Some(format!(
        "failed {tries} to remove {name}, which nothing uses, from the volume {claim}: {why}; tried again after {after}"
    ))
}

#[cfg(test)]
mod tests {
    use wharf_spec::job::JobResult;

    use super::*;

    const HOUR: u64 = 3_600_000;

    fn stored(name: &str) -> Stored {
        Stored { claim: "c".to_owned(), name: name.to_owned() }
    }

    fn unused_at(since_ms: u64) -> ArtifactStatus {
        ArtifactStatus {
            claim: "c".to_owned(),
            name: "a".to_owned(),
            unused_since: Some(rfc3339(since_ms)),
            ..ArtifactStatus::default()
        }
    }

    fn marked(after_ms: u64, failed: u32) -> ArtifactStatus {
        let removal = Removal { after: rfc3339(after_ms), failed, message: None };
        ArtifactStatus { removal: Some(removal), ..unused_at(0) }
    }

    fn used(artifact: ArtifactStatus) -> ArtifactStatus {
        ArtifactStatus { used_by: vec!["Model m".to_owned()], ..artifact }
    }

    /// What is decided of one artifact, an hour being what is unused stays.
    fn one(now_ms: u64, before: &ArtifactStatus, users: &[&str], fate: &Fate) -> Decision {
        let users = users.iter().map(|user| (*user).to_owned()).collect();
        let seen = Seen {
            now_ms,
            keep_ms: HOUR,
            made: &[],
            before: std::slice::from_ref(before),
            users: &BTreeMap::from([(stored("a"), users)]),
        };
        decide(&seen, |_, _| fate.clone())
    }

    #[test]
    fn what_becomes_of_an_artifact_follows_from_who_needs_it_and_how_its_job_is() {
        let (works, absent) = (Fate::Works, Fate::Absent);
        let done = Fate::Done(JobResult::default());
        let failed = Fate::Failed("busy".to_owned());
        let mark_of = |artifact: &ArtifactStatus| mark(artifact.removal.as_ref().unwrap());
        let fresh = ArtifactStatus { unused_since: None, ..unused_at(0) };
        let after_failure = |failed, after_ms| {
            let removal = Removal { after: rfc3339(after_ms), failed, message: Some("busy".to_owned()) };
            ArtifactStatus { removal: Some(removal), ..unused_at(0) }
        };
        // Before, moment, whether it is needed, its Job; then after, and whether its Job is to be there (+) or to go (-).
        let cases = [
            (
                "used for the first time",
                fresh.clone(),
                5 * HOUR,
                true,
                &absent,
                Some(used(fresh.clone())),
                ' ',
            ),
            ("used no longer", used(fresh.clone()), 5 * HOUR, false, &absent, Some(unused_at(5 * HOUR)), ' '),
            ("not for long", unused_at(0), HOUR - 1000, false, &absent, Some(unused_at(0)), ' '),
            (
                "needed again in time",
                unused_at(0),
                HOUR - 1000,
                true,
                &absent,
                Some(used(fresh.clone())),
                ' ',
            ),
            ("for too long", unused_at(0), HOUR, false, &absent, Some(marked(HOUR + SETTLE_MS, 0)), ' '),
            ("marked a moment ago", marked(9000, 0), 8000, false, &absent, Some(marked(9000, 0)), ' '),
            (
                "marked, and needed after all",
                marked(9000, 0),
                8000,
                true,
                &absent,
                Some(used(fresh.clone())),
                ' ',
            ),
            ("its time has come", marked(9000, 0), 9000, false, &absent, Some(marked(9000, 0)), '+'),
            ("is being removed", marked(9000, 0), 9500, false, &works, Some(marked(9000, 0)), ' '),
            ("removed", marked(9000, 0), 9500, false, &done, None, ' '),
            (
                "needed while it is removed",
                marked(9000, 0),
                9500,
                true,
                &works,
                Some(ArtifactStatus { unused_since: None, ..used(marked(9000, 0)) }),
                '-',
            ),
            ("removed, and needed", marked(9000, 0), 9500, true, &done, Some(used(fresh.clone())), ' '),
            ("failed, and needed", marked(9000, 3), 9500, true, &failed, Some(used(fresh.clone())), ' '),
            ("failed", marked(9000, 0), 10_000, false, &failed, Some(after_failure(1, 70_000)), ' '),
            ("failed again", marked(9000, 1), 10_000, false, &failed, Some(after_failure(2, 130_000)), ' '),
            (
                "failed for days",
                marked(9000, 40),
                10_000,
                false,
                &failed,
                Some(after_failure(41, 10_000 + AGAIN_AT_MOST_MS)),
                ' ',
            ),
        ];
        for (case, before, now_ms, needed, fate, after, job) in cases {
            let users: &[&str] = if needed { &["Model m"] } else { &[] };
            let decision = one(now_ms, &before, users, fate);
            assert_eq!(decision.artifacts.first(), after.as_ref(), "{case}");
            let (start, stop) = match job {
                '+' => (vec![(stored("a"), mark_of(&before))], vec![]),
                '-' => (vec![], vec![(stored("a"), mark_of(&before))]),
                _ => (vec![], vec![]),
            };
            assert_eq!((decision.start, decision.stop), (start, stop), "{case}");
        }
    }

    #[test]
    fn every_try_has_a_mark_of_its_own() {
        let marks: BTreeSet<String> = [marked(1000, 0), marked(1000, 1), marked(2000, 0)]
            .iter()
            .map(|artifact| mark(artifact.removal.as_ref().unwrap()))
            .collect();
        assert_eq!(marks.len(), 3);
    }

    #[test]
    fn what_the_recipe_makes_is_listed_before_its_jobs_run_and_sizes_stay() {
        let before =
            ArtifactStatus { bytes: Some(7), ..used(ArtifactStatus { unused_since: None, ..unused_at(0) }) };
        let made = [(stored("a"), None), (stored("b"), Some(9))];
        let user = || BTreeSet::from(["Model m".to_owned()]);
        let seen = Seen {
            now_ms: 0,
            keep_ms: HOUR,
            made: &made,
            before: &[before],
            users: &BTreeMap::from([(stored("a"), user()), (stored("b"), user())]),
        };
        let decision = decide(&seen, |_, _| Fate::Absent);
        let sizes: Vec<(&str, Option<i64>)> =
            decision.artifacts.iter().map(|artifact| (artifact.name.as_str(), artifact.bytes)).collect();
        assert_eq!(sizes, [("a", Some(7)), ("b", Some(9))]);
        assert_eq!(decision.due_ms, None);
    }

    #[test]
    fn it_says_when_it_wants_to_decide_again() {
        let due = |now_ms, before: &ArtifactStatus, fate| one(now_ms, before, &[], fate).due_ms;
        assert_eq!(due(0, &unused_at(0), &Fate::Absent), Some(HOUR));
        assert_eq!(due(8000, &marked(9000, 0), &Fate::Absent), Some(9000));
        // Its Job tells when it has ended.
        assert_eq!(due(9500, &marked(9000, 0), &Fate::Works), None);
        assert_eq!(due(0, &marked(9000, 0), &Fate::Failed("busy".to_owned())), Some(AGAIN_MS));
    }

    #[test]
    fn what_was_removed_and_what_could_not_be_is_told_in_sentences() {
        let said = Fate::Done(JobResult { bytes: Some(4_680_000_000), ..JobResult::default() });
        let told = one(9500, &marked(9000, 0), &[], &said).happened;
        let expected = "removed a from the volume c, 4.68 GB: nothing had used it since 1970-01-01T00:00:00Z";
        assert_eq!(told, [event(false, "ArtifactRemoved", expected)]);
        let decision = one(10_000, &marked(9000, 1), &[], &Fate::Failed("read-only file system".to_owned()));
        let expected = "failed 2 times to remove a, which nothing uses, from the volume c: read-only file system; \
                        tried again after 1970-01-01T00:02:10Z";
        assert_eq!(decision.happened, [event(true, "RemovalFailed", expected)]);
        let says = says(&decision.artifacts).unwrap();
        assert_eq!((says.kind, says.holds, says.message.as_str()), ("Collected", false, expected));
        assert_eq!(super::says(&[marked(9000, 0)]), None);
    }

    #[test]
    fn a_moment_that_somebody_else_wrote_keeps_nothing_for_ever() {
        let nonsense = ArtifactStatus { unused_since: Some("yesterday".to_owned()), ..unused_at(0) };
        assert!(one(HOUR, &nonsense, &[], &Fate::Absent).artifacts[0].removal.is_some());
    }
}
