//! How many replicas each target asks for. Sums over all replicas are divided by what one should carry, so replicas that still start
//! dilute nothing, and asking twice for the same load gives the same number.

use std::time::Duration;

use crate::history::{Load, Window};
use crate::policy::Targets;

/// What one target is about.
struct Signal {
    /// In the words of a reason.
    what: &'static str,
    target: fn(&Targets) -> Option<f64>,
    /// The load on all replicas together; none where nobody says.
    total: fn(&Window) -> Option<f64>,
    /// It grows while replicas start, although they are for it.
    backlog: bool,
}

/// All targets that add up. One more is one more line.
const SIGNALS: [Signal; 5] = [
    Signal {
        what: "requests at a time",
        target: |t| t.concurrency,
        total: |w| Some(w.gauges.in_flight + w.gauges.queued),
        backlog: true,
    },
    Signal {
        what: "requests/s",
        target: |t| t.requests_per_second,
        total: |w| Some(w.arrivals),
        backlog: false,
    },
    Signal {
        what: "waiting requests",
        target: |t| t.queue,
        total: |w| Some(w.gauges.queued + w.gauges.waiting),
        backlog: true,
    },
    Signal {
        what: "KV caches full",
        target: |t| t.kv_cache,
        total: |w| (w.gauges.endpoints > 0.0).then_some(w.gauges.kv_cache),
        backlog: false,
    },
    Signal {
        what: "tokens in flight",
        target: |t| t.tokens_in_flight,
        total: |w| Some(w.gauges.tokens_in_flight),
        backlog: true,
    },
];

/// What there is, for the guard against asking twice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct There {
    /// Ready, starting, or asked for.
    pub(crate) coming: u32,
    pub(crate) ready: u32,
    /// Requests a second that a loaded replica answers, where it is known.
    pub(crate) answers: Option<f64>,
    /// How long a start takes.
    pub(crate) start: Duration,
}

/// What the target that asks for most asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Ask {
    /// Not rounded.
    pub(crate) replicas: f64,
    /// With the numbers.
    pub(crate) why: String,
    /// A configured target of which nobody says how it stands.
    pub(crate) missing: Option<&'static str>,
}

/// Asks every target over one window.
pub(crate) fn ask(targets: &Targets, load: &Load, window: &Window, there: &There) -> Ask {
    let targets = targets.effective();
    let mut most = Ask::default();
    for Signal { what, target, total, backlog } in &SIGNALS {
        let Some(target) = target(&targets) else { continue };
        let Some(total) = total(window) else {
            // Nobody can say how a replica is when there is none.
            if there.ready > 0 {
                most.missing = Some(what);
            }
            continue;
        };
        let plain = total / target;
        let guarded = if *backlog { guard(plain, load, window, there) } else { plain };
        if guarded > most.replicas || most.why.is_empty() {
            most.replicas = guarded;
            let coming = if guarded < plain { "; replicas for them are starting" } else { "" };
            most.why = format!("{} {what} at {} each{coming}", number(total), number(target));
        }
    }
    most
}

/// Replicas that start are capacity that is coming: what waits for them must not ask for more of them.
///
/// A replica that is asked for now takes a start H to come. With λ requests/s, r ready replicas of μ requests/s each and a backlog B, there
/// will be B' = B + (λ - r·μ)·H by then, and n replicas are enough if they work it off within as long again: n = (λ + B'/H)/μ. The plain ask
/// holds where it is less. As long as μ is unknown, only twice what is coming counts as more.
fn guard(plain: f64, load: &Load, window: &Window, there: &There) -> f64 {
    let coming = f64::from(there.coming);
    if there.coming <= there.ready || plain <= coming {
        return plain;
    }
    match there.answers {
        Some(answers) => {
            let start = there.start.as_secs_f64().max(1.0);
            let missing = (window.arrivals - answers * f64::from(there.ready)).max(0.0);
            let backlog = load.latest.queued + missing * start;
            plain.min(((window.arrivals + backlog / start) / answers).max(coming))
        }
        None if plain < 2.0 * coming => coming,
        None => plain,
    }
}

/// As whole as it is.
pub(crate) fn number(value: f64) -> String {
    if value.fract().abs() < 0.005 || value.abs() >= 1000.0 {
        format!("{value:.0}")
    } else if value.abs() >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Gauges;

    fn there(ready: u32, coming: u32) -> There {
        There { coming, ready, answers: None, start: Duration::from_secs(60) }
    }

    fn window(gauges: Gauges) -> Window {
        Window { gauges, ..Window::default() }
    }

    #[test]
    fn the_target_that_asks_for_most_wins() {
        let targets = Targets { concurrency: Some(8.0), kv_cache: Some(0.8), ..Targets::default() };
        let gauges =
            Gauges { in_flight: 20.0, queued: 4.0, kv_cache: 1.6, endpoints: 2.0, ..Gauges::default() };
        let window = window(gauges);
        let found = ask(&targets, &Load::default(), &window, &there(2, 2));
        assert_eq!((found.replicas, found.why.as_str()), (3.0, "24 requests at a time at 8 each"));
        let full = Window { gauges: Gauges { kv_cache: 2.8, ..gauges }, ..window };
        let found = ask(&targets, &Load::default(), &full, &there(2, 2));
        assert!((found.replicas - 3.5).abs() < 1e-9);
        assert_eq!(found.why, "2.80 KV caches full at 0.80 each");
    }

    #[test]
    fn a_target_of_which_nobody_speaks_is_missing_only_where_a_replica_could() {
        let targets = Targets { kv_cache: Some(0.8), ..Targets::default() };
        let missing = |ready| ask(&targets, &Load::default(), &Window::default(), &there(ready, 1)).missing;
        assert_eq!((missing(0), missing(1)), (None, Some("KV caches full")));
    }

    #[test]
    fn what_waits_for_replicas_that_start_does_not_ask_for_more_of_them() {
        let targets = Targets { concurrency: Some(8.0), ..Targets::default() };
        let asked = |queued, answers| {
            let gauges = Gauges { queued, ..Gauges::default() };
            let window = Window { gauges, arrivals: 1.0, answers: 0.0 };
            let load = Load { latest: gauges, stable: window, ..Load::default() };
            ask(&targets, &load, &window, &There { answers, ..there(0, 1) }).replicas
        };
        // Nobody knows what a replica answers: up to twice what is coming is for what is coming.
        assert_eq!([8.0, 15.0, 24.0].map(|queued| asked(queued, None)), [1.0, 1.0, 3.0]);
        // 1 request/s comes, a replica answers 2; 60 more will have come by the time it is ready. It works 60 off, but not 600.
        assert_eq!(asked(60.0, Some(2.0)), 1.5);
        assert!((asked(600.0, Some(2.0)) - 6.0).abs() < 1e-9);
        assert_eq!(asked(600.0, Some(20.0)), 1.0);
    }
}
