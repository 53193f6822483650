//! What counts against a limit right now: the last minute's, today's, or what is running.

use std::collections::VecDeque;
use std::time::Duration;

use super::pool::Tick;

/// A minute is this many seconds, and the one that has begun.
const MINUTE: u64 = 60;

/// Spans of ten seconds in it.
const SPANS: usize = 6;

/// How much still counts of uses that were to cease as [`Window::leaving`] said, so long ago.
pub(crate) fn still_counts(leaving: &[u64], age_ms: u64) -> u64 {
    // The second that a use is in, and the last span's remainder.
    let over = (age_ms.saturating_sub(1000) / 10_000) as usize;
    leaving.iter().take(SPANS).skip(over).fold(0, |sum, &uses| sum.saturating_add(uses))
}

/// Uses that count.
#[derive(Clone, Debug)]
pub(crate) enum Window {
    /// Those of the last sixty seconds, each second's as one; a second leaves as a whole, when all of it is old enough.
    Minute {
        /// Second and uses in it, oldest first.
        slots: VecDeque<(u64, u64)>,
        sum: u64,
    },
    /// Those of a UTC day.
    Day { day: u64, sum: u64 },
    /// Those that have not ended.
    Running { sum: u64 },
}

/// When a use was counted, so that it can be taken back from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct When {
    second: u64,
    day: u64,
}

impl When {
    pub(crate) fn of(now: Tick) -> When {
        When { second: now.second(), day: now.day }
    }
}

impl Window {
    pub(crate) fn minute() -> Window {
        Window::Minute { slots: VecDeque::new(), sum: 0 }
    }

    /// How much counts.
    pub(crate) fn sum(&self) -> u64 {
        match self {
            Window::Minute { sum, .. } | Window::Day { sum, .. } | Window::Running { sum } => *sum,
        }
    }

    /// Forgets what no longer counts.
    pub(crate) fn advance(&mut self, now: Tick) {
        match self {
            Window::Minute { slots, sum } => {
                while let Some(&(second, uses)) = slots.front()
                    && second + MINUTE < now.second()
                {
                    *sum -= uses;
                    slots.pop_front();
                }
            }
            Window::Day { day, sum } => {
                // A clock that was set back does not give the day's budget again.
                if now.day > *day {
                    (*day, *sum) = (now.day, 0);
                }
            }
            Window::Running { .. } => {}
        }
    }

    /// Counts uses at a time that is not long past.
    pub(crate) fn add(&mut self, when: When, uses: u64) {
        match self {
            Window::Minute { slots, sum } => {
                *sum += uses;
                match slots.iter_mut().rev().find(|(second, _)| *second <= when.second) {
                    Some((second, there)) if *second == when.second => *there += uses,
                    // Whatever is late counts from the newest second on, so that it stays in order.
                    Some(_) | None => match slots.back_mut() {
                        Some((second, there)) if *second >= when.second => *there += uses,
                        Some(_) | None => slots.push_back((when.second, uses)),
                    },
                }
            }
            Window::Day { sum, .. } | Window::Running { sum } => *sum += uses,
        }
    }

    /// Takes uses back that were counted then; says how many of them still counted.
    pub(crate) fn take_back(&mut self, when: When, uses: u64) -> u64 {
        match self {
            Window::Minute { slots, sum } => {
                let Some((_, there)) = slots.iter_mut().find(|(second, _)| *second == when.second) else {
                    return 0;
                };
                let uses = uses.min(*there);
                *there -= uses;
                *sum -= uses;
                uses
            }
            Window::Day { day, .. } if *day != when.day => 0,
            Window::Day { sum, .. } | Window::Running { sum } => {
                let uses = uses.min(*sum);
                *sum -= uses;
                uses
            }
        }
    }

    /// When this many fewer will count; nothing if they never do by time alone.
    pub(crate) fn until_fewer(&self, now: Tick, uses: u64) -> Option<Duration> {
        match self {
            Window::Minute { slots, .. } => {
                let mut left = uses;
                for &(second, there) in slots {
                    left = left.saturating_sub(there);
                    if left == 0 {
                        return Some(leaves(second, now));
                    }
                }
                None
            }
            Window::Day { .. } => Some(now.rest_of_day),
            Window::Running { .. } => None,
        }
    }

    /// How much ceases to count in each of the next spans of ten seconds; nothing where time alone ends no use.
    pub(crate) fn leaving(&self, now: Tick) -> Vec<u64> {
        let Window::Minute { slots, .. } = self else { return Vec::new() };
        let mut leaving = vec![0; SPANS];
        for &(second, uses) in slots {
            let span = (second + MINUTE).saturating_sub(now.second()) / 10;
            leaving[(span as usize).min(SPANS - 1)] += uses;
        }
        leaving
    }

    /// When none will count, by time alone.
    pub(crate) fn until_none(&self, now: Tick) -> Duration {
        match self {
            Window::Minute { slots, .. } => {
                slots.back().map_or(Duration::ZERO, |&(second, _)| leaves(second, now))
            }
            Window::Day { .. } => now.rest_of_day,
            Window::Running { .. } => Duration::ZERO,
        }
    }
}

/// How long a second's uses still count.
fn leaves(second: u64, now: Tick) -> Duration {
    Duration::from_millis(((second + MINUTE + 1) * 1000).saturating_sub(now.ms))
}
