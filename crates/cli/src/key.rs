//! `wharf key`: API keys in a file. Decides what a key may be told to be, and how keys are shown.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Subcommand, ValueEnum};
use jiff::{SignedDuration, Timestamp};
use wharf_access::Limits;
use wharf_access::keys::{self, KeyRecord, KeysError, NewKey};
use wharf_access::principal::{Models, Priority};

use crate::args::Output;
use crate::exit::{self, BadInput, Failure};

/// Make, list and take back API keys
#[derive(clap::Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Create(Create),
    List(List),
    Revoke(Revoke),
}

/// Make a key: it is printed once, and only its SHA-256 is kept
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  wharf key create ci --file keys.yaml
  wharf key create night-batch --file keys.yaml --model assistant --tokens-per-day 2000000 --priority bulk
  wharf key create guest --file keys.yaml --expires 30d > guest.key")]
struct Create {
    /// What people call the key
    #[arg(value_name = "NAME")]
    name: String,
    /// File that keeps keys; made if it is not there
    #[arg(long, value_name = "FILE", default_value = "keys.yaml")]
    file: PathBuf,
    /// Model that it may use; may be given several times [default: all]
    #[arg(long, value_name = "MODEL")]
    model: Vec<String>,
    /// Requests a minute, instead of the service's limit
    #[arg(long, value_name = "N")]
    requests_per_minute: Option<u64>,
    /// Tokens a minute, instead of the service's limit
    #[arg(long, value_name = "N")]
    tokens_per_minute: Option<u64>,
    /// Requests at the same time, instead of the service's limit
    #[arg(long, value_name = "N")]
    concurrent: Option<u64>,
    /// Tokens a day, instead of the service's limit
    #[arg(long, value_name = "N")]
    tokens_per_day: Option<u64>,
    /// Who goes first when not everybody can
    #[arg(long, value_enum, default_value = "default")]
    priority: Rank,
    /// When it ends: a time from now (12h, 30d) or a moment (2027-01-01T00:00:00Z)
    #[arg(long, value_name = "WHEN")]
    expires: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Rank {
    System,
    Interactive,
    Default,
    Bulk,
}

/// Show the keys of a file
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  wharf key list --file keys.yaml
  wharf key list --output json")]
struct List {
    /// File that keeps keys
    #[arg(long, value_name = "FILE", default_value = "keys.yaml")]
    file: PathBuf,
    /// A table, or one JSON document
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

/// Take a key back: gateways refuse it within seconds
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  wharf key revoke ci --file keys.yaml")]
struct Revoke {
    /// The key's id, or its name
    #[arg(value_name = "ID|NAME")]
    key: String,
    /// File that keeps keys
    #[arg(long, value_name = "FILE", default_value = "keys.yaml")]
    file: PathBuf,
}

/// Runs the command to its end.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    match &args.command {
        Command::Create(args) => create(args),
        Command::List(args) => list(args),
        Command::Revoke(args) => revoke(args),
    }
}

fn create(args: &Create) -> Result<(), Failure> {
    let now = Timestamp::now();
    let new = NewKey {
        name: args.name.clone(),
        models: match args.model.is_empty() {
            true => Models::All,
            false => Models::Only(args.model.clone().into()),
        },
        limits: Limits {
            requests_per_minute: args.requests_per_minute,
            tokens_per_minute: args.tokens_per_minute,
            concurrent: args.concurrent,
            tokens_per_day: args.tokens_per_day,
        },
        priority: match args.priority {
            Rank::System => Priority::System,
            Rank::Interactive => Priority::Interactive,
            Rank::Default => Priority::Default,
            Rank::Bulk => Priority::Bulk,
        },
        not_before: None,
        expires: args.expires.as_deref().map(|text| moment(text, now)).transpose().bad_input()?,
    };
    let created = keys::create(&args.file, new, now).map_err(failure)?;
    eprintln!(
        "made the key {} ({}) in {}; it is shown this once:",
        created.record.name(),
        created.record.id(),
        args.file.display()
    );
    Ok(exit::print(&format!("{}\n", created.secret.reveal()))?)
}

fn list(args: &List) -> Result<(), Failure> {
    let keys = keys::list(&args.file).map_err(failure)?;
    let text = match args.output {
        Output::Text => table(&keys),
        Output::Json => {
            serde_json::to_string_pretty(&keys).context("failed to write the keys as JSON")? + "\n"
        }
    };
    Ok(exit::print(&text)?)
}

fn revoke(args: &Revoke) -> Result<(), Failure> {
    let key = keys::revoke(&args.file, &args.key).map_err(failure)?;
    eprintln!("took the key {} ({}) back", key.name(), key.id());
    Ok(())
}

fn table(keys: &[KeyRecord]) -> String {
    let models = |key: &KeyRecord| match &key.models {
        Models::All => "all".to_owned(),
        Models::Only(names) if names.is_empty() => "none".to_owned(),
        Models::Only(names) => names.join(","),
    };
    let state = |key: &KeyRecord| match (key.revoked, key.expires) {
        (true, _) => "revoked".to_owned(),
        (false, Some(end)) if end <= Timestamp::now() => format!("expired {end}"),
        (false, Some(end)) => format!("until {end}"),
        (false, None) => "valid".to_owned(),
    };
    let mut rows = vec![["ID", "NAME", "MODELS", "PRIORITY", "STATE"].map(str::to_owned)];
    for key in keys {
        let priority = key.priority.name().to_owned();
        rows.push([key.id().to_owned(), key.name().to_owned(), models(key), priority, state(key)]);
    }
    let widths: Vec<usize> =
        (0..5).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    rows.iter()
        .map(|row| {
            let cells: Vec<String> =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            format!("{}\n", cells.join("  ").trim_end())
        })
        .collect()
}

/// `30d`, `12h`, or a moment in RFC 3339.
fn moment(text: &str, now: Timestamp) -> anyhow::Result<Timestamp> {
    let explained =
        || format!("--expires {text}: give a time from now (12h, 30d) or a moment (2027-01-01T00:00:00Z)");
    let hours = |number: &str, factor: i64| number.parse::<u32>().ok().map(|n| i64::from(n) * factor);
    let from_now = text
        .strip_suffix('d')
        .and_then(|number| hours(number, 24))
        .or_else(|| text.strip_suffix('h').and_then(|number| hours(number, 1)));
    match from_now {
        Some(hours) => now.checked_add(SignedDuration::from_hours(hours)).with_context(explained),
        None => text.parse().with_context(explained),
    }
}

/// What is in the file, and which key is meant, is the user's input.
fn failure(error: KeysError) -> Failure {
    match error {
        KeysError::Random => Failure::Failed(error.into()),
        _ => Failure::BadInput(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_a_time_from_now_or_a_moment() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(moment("2d", now).unwrap().to_string(), "2026-01-03T00:00:00Z");
        assert_eq!(moment("12h", now).unwrap().to_string(), "2026-01-01T12:00:00Z");
        assert_eq!(moment("2027-01-01T00:00:00Z", now).unwrap().to_string(), "2027-01-01T00:00:00Z");
        assert!(moment("soon", now).unwrap_err().to_string().contains("--expires soon"));
    }
}
