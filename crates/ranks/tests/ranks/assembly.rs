//! Who is let into a group, and what those hear who are not.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use wharf_ranks::{AssemblyError, Ending, Fate, GroupOptions, Identity, Kind, WorkerError, assemble, join};
use wharf_testkit::TinyModel;

use crate::group::{PATIENCE, group_options, identity, open, setup};

/// What leader and worker say when a worker that is changed by `change` wants to join.
fn refused(change: impl FnOnce(&mut Identity)) -> (String, String) {
    let model = open(&TinyModel::default());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut worker = identity(&model, Kind::Tensor, 2, 1);
    change(&mut worker);
    let joining = std::thread::spawn(move || join(&address, &worker, &group_options()).err().unwrap());
    let fate = Arc::new(Fate::default());
    let leader = identity(&model, Kind::Tensor, 2, 0);
    let error = assemble(listener, &leader, &group_options(), &setup(), &fate).err().unwrap();
    assert!(matches!(error, AssemblyError::Mismatch(_)));
    let worker = joining.join().unwrap();
    (error.to_string(), worker.to_string())
}

#[test]
fn a_rank_that_differs_is_refused_and_both_sides_say_why() {
    for (change, why) in [
        (
            Box::new(|rank: &mut Identity| rank.version = "2".into()) as Box<dyn FnOnce(&mut Identity)>,
            "runs wharf 2",
        ),
        (Box::new(|rank| rank.size = 3), "one of 3 tensor-parallel ranks"),
        (Box::new(|rank| rank.kind = Kind::Pipeline), "pipeline-parallel"),
        (
            Box::new(|rank| {
                let other = TinyModel { seed: 2, ..TinyModel::default() };
                rank.model = wharf_ranks::model_digest(&open(&other));
            }),
            "has another model",
        ),
    ] {
        let (leader, worker) = refused(change);
        assert!(leader.contains(why), "{leader}");
        assert!(worker.contains("refused this rank: rank 1") && worker.contains(why), "{worker}");
    }
}

#[test]
fn strangers_change_nothing_and_missing_ranks_are_named() {
    let model = open(&TinyModel::default());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    // Says nothing; says something else; does not know the key.
    let silent = TcpStream::connect(address).unwrap();
    let mut foreign = TcpStream::connect(address).unwrap();
    foreign.write_all(b"GET / HTTP/1.1\r\nHost: ranks\r\n\r\n").unwrap();
    let rank = identity(&model, Kind::Tensor, 3, 1);
    let without_key = std::thread::spawn(move || {
        let options = GroupOptions { key: "guess".into(), ..group_options() };
        join(&address.to_string(), &rank, &options).err().unwrap()
    });
    let leader = identity(&model, Kind::Tensor, 3, 0);
    let options = GroupOptions { assembly: Duration::from_secs(2), ..group_options() };
    let error = assemble(listener, &leader, &options, &setup(), &Arc::new(Fate::default())).err().unwrap();
    assert_eq!(error.to_string(), "ranks [1, 2] of 3 have not joined within 2 s");
    let error = without_key.join().unwrap();
    assert!(matches!(error, WorkerError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("the group has another key"), "{error}");
    // Sent away without an answer.
    assert!(matches!(foreign.read(&mut [0]), Ok(0) | Err(_)));
    drop(silent);
}

#[test]
fn a_group_that_ends_while_it_comes_together_is_not_waited_for() {
    let model = open(&TinyModel::default());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let fate = Arc::new(Fate::default());
    let ending = Arc::clone(&fate);
    let leader = identity(&model, Kind::Tensor, 2, 0);
    let end =
        std::thread::spawn(move || ending.end(Ending::Lost("rank 1 has ended with exit status: 2".into())));
    let options = GroupOptions { assembly: PATIENCE * 60, ..group_options() };
    let error = assemble(listener, &leader, &options, &setup(), &fate).err().unwrap();
    assert_eq!(error.to_string(), "rank 1 has ended with exit status: 2");
    end.join().unwrap();
}

#[test]
fn a_leader_that_is_not_there_is_an_error_that_says_where() {
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let model = open(&TinyModel::default());
    let options = GroupOptions { assembly: Duration::from_millis(300), ..group_options() };
    let error = join(&address.to_string(), &identity(&model, Kind::Tensor, 2, 1), &options).err().unwrap();
    assert_eq!(error.to_string(), format!("failed to reach the leader at {address} within 0.3 s"));
}
