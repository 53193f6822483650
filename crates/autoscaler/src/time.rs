//! What a moment is to a decision. No clock is read here.

use std::time::Duration;

use jiff::Timestamp;

/// One moment, as two clocks say it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Now {
    /// Time since any fixed start. It never goes back; every window is measured with it.
    pub elapsed: Duration,
    /// The clock on the wall, which may jump. Only schedules look at it.
    pub wall: Timestamp,
}

impl Now {
    /// The moment `elapsed` after a start at `began`.
    pub fn after(began: Timestamp, elapsed: Duration) -> Now {
        let wall = jiff::SignedDuration::try_from(elapsed)
            .ok()
            .and_then(|by| began.checked_add(by).ok())
            .unwrap_or(Timestamp::MAX);
        Now { elapsed, wall }
    }
}

/// A duration as a number of seconds in files.
pub(crate) mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(value.as_secs_f64())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let seconds = f64::deserialize(from)?;
        Duration::try_from_secs_f64(seconds).map_err(|e| D::Error::custom(format!("{seconds} seconds: {e}")))
    }
}

/// The same, where there may be none.
pub(crate) mod some_seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Seconds(#[serde(with = "super::seconds")] Duration);

    pub(crate) fn serialize<S: Serializer>(value: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
        value.map(Seconds).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<Seconds>::deserialize(from)?.map(|s| s.0))
    }
}
