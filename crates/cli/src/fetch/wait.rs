//! `wharf fetch --await PATH`: waits until somebody else has put something at a path. Files of Wharf get their names when they are whole, so
//! being there is being ready.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::exit::Failure;
use crate::stop::Signals;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A log should tell that somebody waits, and not be full of it.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// Waits for `path`, or the first signal.
pub(super) async fn for_path(path: &Path) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let mut look = tokio::time::interval(LOOK_EVERY);
    let mut said: Option<Instant> = None;
    loop {
        tokio::select! {
            () = signals.next() => return Err(Failure::Interrupted),
            _ = look.tick() => {
                if path.exists() {
                    eprintln!("{} is there", path.display());
                    return Ok(());
                }
                if said.is_none_or(|last| last.elapsed() >= SAY_EVERY) {
                    eprintln!("waiting for {}", path.display());
                    said = Some(Instant::now());
                }
            }
        }
    }
}
