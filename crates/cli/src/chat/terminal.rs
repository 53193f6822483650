//! The conversation on a terminal: reads lines, keeps the history, answers.
//!
//! Lines come from a thread of their own because a blocking read cannot be cancelled by Ctrl-C; the thread
//! is never joined, the process ends without it.

use std::io::{BufRead, IsTerminal};

use anyhow::Context;
use serde_json::Value;
use tokio::sync::mpsc;

use super::interrupts::{Interrupts, Reaction};
use super::{Chat, Ending, describe, message};
use crate::exit::{self, Failure};
use crate::stop::Signals;

const HELP: &str = "\
/reset   forget the conversation
/help    show this
/exit    leave (so does Ctrl-D)";

/// What one typed line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Nothing,
    Say(&'a str),
    Reset,
    Help,
    Exit,
    Unknown(&'a str),
}

fn read_line(line: &str) -> Line<'_> {
    match line.trim() {
        "" => Line::Nothing,
        "/reset" => Line::Reset,
        "/help" => Line::Help,
        "/exit" | "/quit" => Line::Exit,
        text => match text.strip_prefix('/') {
            // A path or a slash within text is something to say; a lone word is a mistyped command.
            Some(word) if word.chars().all(|c| c.is_ascii_alphabetic()) => Line::Unknown(text),
            _ => Line::Say(text),
        },
    }
}

/// Talks until the user leaves.
pub(super) async fn converse(chat: &Chat, signals: &mut Signals) -> Result<(), Failure> {
    let interactive = std::io::stdin().is_terminal();
    if interactive {
        eprintln!("talking to {} at {}; /help lists commands", chat.model, chat.place());
    }
    let mut lines = spawn_line_reader()?;
    let mut interrupts = Interrupts::default();
    let mut history = chat.opening();
    loop {
        if interactive {
            exit::print("> ")?;
        }
        let line = tokio::select! {
            line = lines.recv() => line,
            () = signals.next() => match interrupts.interrupted() {
                Reaction::Leave => return Err(Failure::Interrupted),
                Reaction::Stay => {
                    eprintln!("\npress Ctrl-C again to leave");
                    continue;
                }
            },
        };
        let Some(line) = line else { return Ok(()) };
        let line = line.context("failed to read from standard input")?;
        interrupts.typed();
        match read_line(&line) {
            Line::Nothing => {}
            Line::Exit => return Ok(()),
            Line::Help => eprintln!("{HELP}"),
            Line::Unknown(word) => eprintln!("{word} is not a command; /help lists them"),
            Line::Reset => {
                history = chat.opening();
                eprintln!("the conversation is forgotten");
            }
            Line::Say(text) => {
                match answer(chat, &mut history, text, signals).await {
                    Ok(Ending::Complete) => {}
                    Ok(Ending::Interrupted) => {
                        interrupts.interrupted();
                        eprintln!("press Ctrl-C again to leave");
                    }
                    // A person can try again; a script must learn of the failure.
                    Err(error) if interactive => eprintln!("\nerror: {error:#}"),
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
}

/// One turn. What failed is taken out of the history again, so that the conversation can go on.
async fn answer(
    chat: &Chat,
    history: &mut Vec<Value>,
    text: &str,
    signals: &mut Signals,
) -> anyhow::Result<Ending> {
    history.push(message("user", text));
    match chat.answer(history, signals, &mut exit::print).await {
        Ok((answer, ending)) => {
            exit::print("\n")?;
            eprintln!("{}", describe(&answer));
            history.push(message("assistant", &answer.answer));
            Ok(ending)
        }
        Err(error) => {
            history.pop();
            Err(error)
        }
    }
}

fn spawn_line_reader() -> anyhow::Result<mpsc::UnboundedReceiver<std::io::Result<String>>> {
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::Builder::new()
        .name("standard input".into())
        .spawn(move || {
            for line in std::io::stdin().lock().lines() {
                if sender.send(line).is_err() {
                    return;
                }
            }
        })
        .context("failed to start the thread that reads standard input")?;
    Ok(receiver)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_commands_only_when_they_are_one_word() {
        for (line, expected) in [
            ("  \n", Line::Nothing),
            ("/reset", Line::Reset),
            (" /exit ", Line::Exit),
            ("/rest", Line::Unknown("/rest")),
            ("/etc/passwd is what?", Line::Say("/etc/passwd is what?")),
            ("hello /help", Line::Say("hello /help")),
        ] {
            assert_eq!(read_line(line), expected);
        }
    }
}
