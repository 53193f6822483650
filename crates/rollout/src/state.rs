//! What a release remembers between two looks. Small, for people to read in a status, and enough to go on after a kill.

use serde::{Deserialize, Serialize};
use wharf_spec::service::{Colour, Strategy};

use crate::tally::Tally;
use wharf_api::demand::VersionCounts;

/// The form of a state; it goes up when an older Wharf would misread a newer state.
pub const FORMAT: u32 = 1;

/// What a release remembers. The default is a service of which nothing was ever released.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct State {
    /// [`FORMAT`] of whoever wrote it.
    pub format: u32,
    /// How far the release is.
    #[serde(flatten)]
    pub phase: Phase,
    /// Why, in a sentence that a person can act on.
    pub reason: String,
    /// Since when, in milliseconds since 1970; a new share of traffic begins anew.
    pub since_ms: u64,
    /// The version that serves, or that served until a new one takes over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active: Option<Version>,
    /// The version that is being released, or taken back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub candidate: Option<Version>,
    /// The version before, as long as it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<Kept>,
    /// How the present release, or the last one, goes: a change of the strategy is for the next one.
    pub strategy: Strategy,
    /// It waits for `wharf rollout promote`.
    #[serde(skip_serializing_if = "is_false")]
    pub waits_for_promotion: bool,
    /// Somebody has agreed that the candidate gets all traffic.
    #[serde(skip_serializing_if = "is_false")]
    pub agreed: bool,
    /// When every gateway followed the present shares, or was no longer waited for; when somebody agreed, if that was later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub followed_ms: Option<u64>,
    /// Since when the candidate lacks replicas while it has traffic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub short: Option<Shortage>,
    /// What was counted in the present period.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judging: Option<Judging>,
    /// The revision that was taken back: it is not tried again until the object says something else, or somebody says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refused>,
    /// The last command that was answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<Answer>,
}

impl Default for State {
    fn default() -> State {
        State {
            format: FORMAT,
            phase: Phase::Idle,
            reason: String::new(),
            since_ms: 0,
            active: None,
            candidate: None,
            kept: None,
            strategy: Strategy::default(),
            waits_for_promotion: false,
            agreed: false,
            followed_ms: None,
            short: None,
            judging: None,
            refused: None,
            answer: None,
        }
    }
}

/// A state cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadStateError {
    /// It is none.
    #[error("failed to read the state of a release")]
    Malformed(#[source] serde_json::Error),
    /// A newer Wharf wrote it. Guessing could take down what serves, so nothing is done.
    #[error(
        "the state of the release has form {found}, which a newer wharf wrote; this one reads up to {FORMAT}"
    )]
    Newer {
        /// Its form.
        found: u32,
    },
}

impl State {
    /// Reads a state that was kept. Fields that are missing have their defaults, those that nobody knows are left out.
    ///
    /// # Errors
    /// When it is no state, or a newer Wharf wrote it in a form that this one would misread.
    pub fn read(mut value: serde_json::Value) -> Result<State, ReadStateError> {
        // The form first: what else a newer state says may not even parse.
        let found = value.get("format").and_then(serde_json::Value::as_u64).unwrap_or(u64::from(FORMAT));
        if found > u64::from(FORMAT) {
            return Err(ReadStateError::Newer { found: u32::try_from(found).unwrap_or(u32::MAX) });
        }
        // The tag of a flattened enum has no default of its own.
        if let Some(fields) = value.as_object_mut() {
            fields.entry("phase").or_insert_with(|| Phase::default().name().into());
        }
        serde_json::from_value(value).map_err(ReadStateError::Malformed)
    }
}

/// A version of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Version {
    /// Which of two.
    pub colour: Colour,
    /// The newest generation of the object that asks for it.
    pub generation: i64,
    /// Digest of what restarts its replicas.
    pub revision: String,
}

/// How far a release is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase")]
pub enum Phase {
    /// Nothing is released.
    #[default]
    Idle,
    /// The model is fetched or optimised, or there is no room yet; nothing of the new version runs.
    Preparing,
    /// Strategy Recreate: the old version finishes its requests and goes.
    Draining,
    /// Replicas of the new version start and answer their first prompts.
    Warming,
    /// The new version has a share of traffic.
    Shifting {
        /// Which step of the strategy, from 0; with Rolling, the replicas that were replaced.
        step: u32,
        /// Share of traffic in percent.
        weight: u32,
    },
    /// The new version has all traffic, and the old one could take over again.
    Verifying,
    /// The new version serves.
    Promoted,
    /// The new version is taken back.
    RollingBack,
    /// The new version was taken back; what served before serves.
    RolledBack,
    /// The first version there ever was does not work. It goes on when it does after all.
    Failed,
}

impl Phase {
    /// Its name, without its numbers.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Idle => "Idle",
            Phase::Preparing => "Preparing",
            Phase::Draining => "Draining",
            Phase::Warming => "Warming",
            Phase::Shifting { .. } => "Shifting",
            Phase::Verifying => "Verifying",
            Phase::Promoted => "Promoted",
            Phase::RollingBack => "RollingBack",
            Phase::RolledBack => "RolledBack",
            Phase::Failed => "Failed",
        }
    }

    /// Nothing more will happen by itself.
    pub fn is_settled(self) -> bool {
        match self {
            Phase::Idle | Phase::Promoted | Phase::RolledBack | Phase::Failed => true,
            Phase::Preparing
            | Phase::Draining
            | Phase::Warming
            | Phase::Shifting { .. }
            | Phase::Verifying
            | Phase::RollingBack => false,
        }
    }

    /// Replicas of the candidate run, and it is not being taken back.
    pub(crate) fn runs_candidate(self) -> bool {
        match self {
            Phase::Warming | Phase::Shifting { .. } | Phase::Verifying | Phase::Failed => true,
            Phase::Idle
            | Phase::Preparing
            | Phase::Draining
            | Phase::Promoted
            | Phase::RollingBack
            | Phase::RolledBack => false,
        }
    }
}

/// The version before, which may take over again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Kept {
    /// It.
    pub version: Version,
    /// Its replicas: as many as it had, fewer when less is wanted since.
    pub replicas: u32,
    /// Until when it stays, in milliseconds since 1970.
    pub until_ms: u64,
}

/// Replicas are missing under traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Shortage {
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
    /// Some of them start: more are wanted than before.
    pub starting: bool,
}

/// What is counted in a period.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Judging {
    /// The new version.
    pub candidate: Tally,
    /// The old one at the same time.
    pub active: Tally,
    /// The old one while the new one got ready.
    pub before: VersionCounts,
}

/// A revision that was taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refused {
    /// It.
    pub revision: String,
    /// Generation that brought it.
    pub generation: i64,
    /// Why.
    pub reason: String,
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// Its sequence.
    pub sequence: u64,
    /// Whether it was done.
    pub done: bool,
    /// What was done, or why not.
    pub message: String,
}

fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_survives_being_kept() {
        let state = State {
            phase: Phase::Shifting { step: 1, weight: 25 },
            active: Some(Version { colour: Colour::Blue, generation: 3, revision: "a".into() }),
            judging: Some(Judging::default()),
            ..State::default()
        };
        let value = serde_json::to_value(&state).unwrap();
        assert_eq!((&value["phase"], &value["weight"]), (&"Shifting".into(), &25.into()));
        assert_eq!(State::read(value).unwrap(), state);
    }

    #[test]
    fn a_state_of_a_near_relative_is_read() {
        for known in [serde_json::json!({"phase": "Idle", "mood": "good"}), serde_json::json!({})] {
            assert_eq!(State::read(known).unwrap(), State::default());
        }
    }

    #[test]
    fn a_state_of_a_newer_form_is_not_guessed_at() {
        let error = State::read(serde_json::json!({"format": 2, "phase": "Dancing"})).unwrap_err();
        assert!(error.to_string().contains("newer"), "{error}");
        assert!(State::read(serde_json::json!({"phase": "Dancing"})).is_err());
    }
}
