//! When to look again although nothing happened.

use crate::release::Release;
use crate::state::Phase;
use crate::{DRAIN_LIMIT_MS, FOLLOW_LIMIT_MS, SETTLE_MS, UNREADY_LIMIT_MS, VERIFY_LIMIT_MS};

impl Release<'_> {
    /// The next moment at which a limit of this state passes. It may be one at which nothing changes; it is never late.
    pub(crate) fn look_again(&self) -> Option<u64> {
        let state = &self.state;
        let mut moments = Vec::new();
        if let Some(kept) = &state.kept {
            moments.extend([kept.until_ms, kept.until_ms.saturating_add(DRAIN_LIMIT_MS)]);
        }
        let deadline = self.policy.deadline_ms;
        let after: &[u64] = match state.phase {
            Phase::Idle | Phase::Preparing | Phase::Promoted | Phase::RolledBack | Phase::Failed => &[],
            Phase::Draining | Phase::RollingBack => &[DRAIN_LIMIT_MS],
            Phase::Warming => &[deadline],
            Phase::Shifting { .. } => &[FOLLOW_LIMIT_MS, deadline],
            Phase::Verifying => &[SETTLE_MS, VERIFY_LIMIT_MS],
        };
        moments.extend(after.iter().map(|ms| state.since_ms.saturating_add(*ms)));
        if let Some(short) = state.short {
            let limit = if short.starting { deadline } else { UNREADY_LIMIT_MS };
            moments.push(short.since_ms.saturating_add(limit));
        }
        if let (Phase::Shifting { step, weight: _ }, Some(followed_ms)) = (state.phase, state.followed_ms) {
            let lasts = usize::try_from(step).ok().and_then(|step| self.policy.steps.get(step));
            let over = followed_ms.saturating_add(lasts.map_or(0, |portion| portion.for_ms));
            moments.extend([over, over.saturating_add(deadline), followed_ms.saturating_add(deadline)]);
        }
        moments.into_iter().filter(|moment| *moment > self.seen.now_ms).min()
    }
}
