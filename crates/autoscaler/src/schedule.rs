//! Times at which at least so many replicas run. A schedule is parsed once; whether it holds at a moment is a pure question.

use std::str::FromStr;

use croner::Cron;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

/// A span of time that comes again, and the fewest replicas in it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "Text", into = "Text")]
pub struct Schedule {
    text: Text,
    start: Cron,
    end: Cron,
    zone: TimeZone,
}

/// A schedule as it is written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    start: String,
    end: String,
    #[serde(default = "utc")]
    time_zone: String,
    min: u32,
}

fn utc() -> String {
    "Etc/UTC".to_owned()
}

/// Why a schedule is refused.
#[derive(Debug, thiserror::Error)]
pub enum ScheduleError {
    /// A time is not cron.
    #[error(
        "failed to read the time {text:?} as five fields of cron: minute, hour, day of month, month, day of week"
    )]
    Cron {
        /// What is written.
        text: String,
        /// What is wrong with it.
        source: croner::errors::CronError,
    },
    /// There is no such time zone.
    #[error("failed to find the time zone {name:?}; names look like Europe/Berlin")]
    Zone {
        /// What is written.
        name: String,
        /// What is wrong with it.
        source: jiff::Error,
    },
}

impl Schedule {
    /// At least `min` replicas from each `start` to the next `end`, both five fields of cron in `time_zone`.
    pub fn new(start: &str, end: &str, time_zone: &str, min: u32) -> Result<Schedule, ScheduleError> {
        let cron = |text: &str| {
            Cron::from_str(text).map_err(|source| ScheduleError::Cron { text: text.to_owned(), source })
        };
        let zone = TimeZone::get(time_zone)
            .map_err(|source| ScheduleError::Zone { name: time_zone.to_owned(), source })?;
        let text =
            Text { start: start.to_owned(), end: end.to_owned(), time_zone: time_zone.to_owned(), min };
        Ok(Schedule { start: cron(start)?, end: cron(end)?, zone, text })
    }

    /// Fewest replicas while it holds.
    pub fn min(&self) -> u32 {
        self.text.min
    }

    /// Whether it holds at a moment: it began more recently than it ended.
    pub fn holds_at(&self, wall: Timestamp) -> bool {
        let now = wall.to_zoned(self.zone.clone());
        let last = |cron: &Cron| cron.find_previous_occurrence(&now, true).ok();
        match (last(&self.start), last(&self.end)) {
            (Some(start), Some(end)) => start > end,
            (Some(_), None) => true,
            (None, _) => false,
        }
    }
}

impl PartialEq for Schedule {
    fn eq(&self, other: &Schedule) -> bool {
        self.text == other.text
    }
}

impl TryFrom<Text> for Schedule {
    type Error = ScheduleError;

    fn try_from(text: Text) -> Result<Schedule, ScheduleError> {
        Schedule::new(&text.start, &text.end, &text.time_zone, text.min)
    }
}

impl From<Schedule> for Text {
    fn from(schedule: Schedule) -> Text {
        schedule.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(schedule: &Schedule, at: &str) -> bool {
        schedule.holds_at(at.parse().unwrap())
    }

    #[test]
    fn office_hours_hold_in_their_own_time_zone() {
        let office = Schedule::new("0 8 * * 1-5", "0 18 * * 1-5", "Europe/Berlin", 3).unwrap();
        // Winter: 8:00 in Berlin is 7:00 UTC. Monday.
        assert!(!holds(&office, "2026-01-05T06:59:59Z"));
        assert!(holds(&office, "2026-01-05T07:00:00Z"));
        assert!(holds(&office, "2026-01-05T16:59:59Z"));
        assert!(!holds(&office, "2026-01-05T17:00:00Z"));
        // Summer: 6:00 UTC.
        assert!(holds(&office, "2026-07-06T06:00:00Z"));
        // Saturday.
        assert!(!holds(&office, "2026-01-10T10:00:00Z"));
    }

    #[test]
    fn a_span_over_midnight_holds_on_both_sides() {
        let night = Schedule::new("0 22 * * *", "0 6 * * *", "Etc/UTC", 2).unwrap();
        assert!(holds(&night, "2026-01-05T23:00:00Z"));
        assert!(holds(&night, "2026-01-06T05:59:00Z"));
        assert!(!holds(&night, "2026-01-06T06:00:00Z"));
    }

    #[test]
    fn a_wrong_schedule_says_what_is_wrong() {
        let error = |start, zone| Schedule::new(start, "0 6 * * *", zone, 1).unwrap_err().to_string();
        assert_eq!(
            error("at noon", "Etc/UTC"),
            "failed to read the time \"at noon\" as five fields of cron: minute, hour, day of month, month, day of week"
        );
        assert_eq!(
            error("0 6 * * *", "Moon/Base"),
            "failed to find the time zone \"Moon/Base\"; names look like Europe/Berlin"
        );
    }
}
