//! Where the answer begins soonest.
//!
//! The cost is an estimate of the work before the first token, in prompt tokens:
//!
//! ```text
//! prefill · (tokens ahead + own tokens · (1 - cached)) + decode · requests + queue · waiting · mean + kv · mean · u / (1 - u)
//!   + adapter, if it must be loaded + session · own tokens, if the session was elsewhere
//! ```
//!
//! Adding what is cached and what waits in one unit makes the two comparable: an endpoint with the whole prompt cached is left as soon
//! as its queue costs more than computing the prompt elsewhere. Dynamo's router has the same form with blocks as the unit. Our own
//! requests are known at once; the endpoint's metrics, which are older, only add what we did not send.

use super::{Candidate, Setting};

pub(super) fn cost(candidate: &Candidate, setting: &Setting<'_>) -> f64 {
    let weights = setting.weights;
    let requests = f64::from(candidate.in_flight) + f64::from(candidate.others);
    let is_hot_spot = requests + 1.0 > setting.hot_spot;
    let cached = if is_hot_spot { 0.0 } else { candidate.cached };
    let ahead = candidate.pending_tokens as f64;
    let foreign_waiting = f64::from(candidate.waiting.min(candidate.others));
    let used = candidate.kv_cache.clamp(0.0, 0.99);
    let mut cost = weights.prefill * (ahead + setting.tokens * (1.0 - cached))
        + weights.decode * requests
        + weights.queue * foreign_waiting * setting.mean_tokens
        + weights.kv_cache * setting.mean_tokens * used / (1.0 - used);
    if is_hot_spot || !candidate.has_adapter {
        cost += weights.adapter;
    }
    if is_hot_spot || !candidate.has_session {
        cost += weights.session * setting.tokens;
    }
    cost
}
