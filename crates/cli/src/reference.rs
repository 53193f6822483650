//! Generates `docs/reference/cli.md` from the commands themselves; a test fails when the page is stale.

use std::fmt::Write as _;

use clap::CommandFactory;
use expect_test::expect_file;

use crate::args::Cli;

fn page() -> String {
    let mut page = String::from(
        "# Command line reference\n\n\
         Generated from the commands; refresh with `UPDATE_EXPECT=1 cargo test -p wharf --bin wharf reference`.\n",
    );
    let mut root = Cli::command().term_width(100);
    root.build();
    append(&mut page, &root, &[]);
    page
}

fn append(page: &mut String, command: &clap::Command, parents: &[&str]) {
    let path = [parents, &[command.get_name()]].concat();
    let help = command.clone().render_long_help().to_string();
    let help = help.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
    writeln!(page, "\n## {}\n\n```text\n{}\n```", path.join(" "), help.trim_end())
        .expect("writing to a string cannot fail");
    for child in command.get_subcommands().filter(|c| c.get_name() != "help") {
        append(page, child, &path);
    }
}

#[test]
fn the_reference_page_is_fresh() {
    expect_file!["../../../docs/reference/cli.md"].assert_eq(&page());
}
