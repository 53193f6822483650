//! What a fake engine in a process of its own is told on its standard input: a line for each order.

use std::io::{self, Write as _};
use std::str::FromStr;
use std::time::Duration;

use tokio::sync::mpsc;

use super::{FakeEngine, Fault, Health, Target};

/// What an engine should do from now on.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    /// Every completion fails so: `close`, `reset`, `stall`, `status CODE`, `reset-after N`, `truncate-after N`, `stall-after N`, `end-after N`,
    /// `trickle BYTES PAUSE_MS`.
    Fail(Fault),
    /// Probes hear so: `healthy`, `unhealthy`, `flap GOOD BAD`.
    Health(Health),
    /// `refuse`: new connections are refused.
    Refuse,
    /// `heal`: everything is as at the start.
    Heal,
}

impl FromStr for Order {
    type Err = String;

    fn from_str(line: &str) -> Result<Order, String> {
        let unknown = || format!("no order is {line:?}");
        let words: Vec<&str> = line.split_whitespace().collect();
        let (verb, numbers) = words.split_first().ok_or_else(unknown)?;
        let numbers: Vec<u32> =
            numbers.iter().map(|word| word.parse().map_err(|_| unknown())).collect::<Result<_, _>>()?;
        let ms = |ms: u32| Duration::from_millis(ms.into());
        let fault = |fault| Ok(Order::Fail(fault));
        match (*verb, numbers.as_slice()) {
            ("close", []) => fault(Fault::CloseBeforeHead),
            ("reset", []) => fault(Fault::ResetBeforeHead),
            ("stall", []) => fault(Fault::StallBeforeHead),
            ("status", [code]) => fault(Fault::status(u16::try_from(*code).map_err(|_| unknown())?)),
            ("reset-after", [n]) => fault(Fault::ResetAfter(*n as usize)),
            ("truncate-after", [n]) => fault(Fault::TruncateAfter(*n as usize)),
            ("stall-after", [n]) => fault(Fault::StallAfter(*n as usize)),
            ("end-after", [n]) => fault(Fault::EndAfter(*n as usize)),
            ("trickle", [bytes, pause]) => {
                fault(Fault::Trickle { bytes: *bytes as usize, pause: ms(*pause) })
            }
            ("healthy", []) => Ok(Order::Health(Health::Good)),
            ("unhealthy", []) => Ok(Order::Health(Health::Bad)),
            ("flap", [good, bad]) => Ok(Order::Health(Health::Flapping { good: *good, bad: *bad })),
            ("refuse", []) => Ok(Order::Refuse),
            ("heal", []) => Ok(Order::Heal),
            _ => Err(unknown()),
        }
    }
}

impl FakeEngine {
    /// Does as it is told.
    ///
    /// # Errors
    /// When it should listen again and cannot.
    pub async fn obey(&self, order: Order) -> io::Result<()> {
        match order {
            Order::Fail(fault) => self.fail(Target::Generation, fault),
            Order::Health(health) => self.configure(|config| config.health = health),
            Order::Refuse => self.refuse().await,
            Order::Heal => {
                self.configure(|config| config.health = Health::Good);
                self.heal().await?;
            }
        }
        Ok(())
    }

    /// Does as each line of standard input says and prints `done`, until there are no more: whoever gives orders is gone.
    ///
    /// # Errors
    /// A line that is no order; what [`FakeEngine::obey`] says.
    pub async fn obey_standard_input(&self) -> io::Result<()> {
        let (sender, mut lines) = mpsc::channel(1);
        // Reading a terminal or a pipe cannot be given up, so it has a thread of its own, which ends with the process.
        std::thread::spawn(move || {
            for line in io::stdin().lines() {
                if sender.blocking_send(line).is_err() {
                    return;
                }
            }
        });
        while let Some(line) = lines.recv().await {
            self.obey(line?.parse().map_err(io::Error::other)?).await?;
            let mut output = io::stdout();
            writeln!(output, "done")?;
            output.flush()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_words_and_numbers() {
        let cases = [
            ("reset-after 3", Ok(Order::Fail(Fault::ResetAfter(3)))),
            ("status 503", Ok(Order::Fail(Fault::status(503)))),
            ("flap 2 3\n", Ok(Order::Health(Health::Flapping { good: 2, bad: 3 }))),
            ("heal", Ok(Order::Heal)),
            ("reset-after", Err("no order is \"reset-after\"".to_owned())),
            ("reset-after many", Err("no order is \"reset-after many\"".to_owned())),
            ("status 70000", Err("no order is \"status 70000\"".to_owned())),
            ("", Err("no order is \"\"".to_owned())),
        ];
        for (line, order) in cases {
            assert_eq!(line.parse(), order, "{line}");
        }
    }
}
