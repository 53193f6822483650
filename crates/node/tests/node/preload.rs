//! Commands that bring things to the node.

use wharf_fake_nvml::Machine;
use wharf_node::Preload;

use crate::support::Host;

fn command(name: &str, script: &str) -> Preload {
    let command = ["/bin/sh", "-c", script].map(str::to_owned).into();
    Preload { name: name.to_owned(), command }
}

#[tokio::test]
async fn commands_run_in_their_order_each_until_it_has_succeeded() {
    let mut host = Host::of(&Machine::of(1));
    let folder = host.folder.path().display().to_string();
    let second = format!("cat {folder}/first > {folder}/second");
    // Fails until somebody says that it may go on.
    let first = format!("test -e {folder}/may && echo model > {folder}/first");
    host.config.preload = vec![command("first", &first), command("second", &second)];
    let agent = host.start();
    let why = agent.says("preload", "Failed").await;
    assert!(why.contains("first") && why.contains("exit status: 1"), "{why}");
    std::fs::write(host.folder.path().join("may"), "").unwrap();
    assert_eq!(agent.says("preload", "Done").await, "first, second");
    assert_eq!(std::fs::read_to_string(host.folder.path().join("second")).unwrap(), "model\n");
}

#[tokio::test]
async fn a_program_that_is_not_there_is_said() {
    let mut host = Host::of(&Machine::of(1));
    host.config.preload =
        vec![Preload { name: "none".to_owned(), command: vec!["/nowhere/wharf".to_owned()] }];
    let why = host.start().says("preload", "Failed").await;
    assert!(why.contains("/nowhere/wharf"), "{why}");
}
