//! What the allocator is told holds for a whole process, so this has one of its own.
#![cfg(all(target_os = "linux", target_env = "gnu"))]

const PIECE: usize = 128 << 20;

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("a process has a status");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("it has this line");
    let kilobytes = line.trim().trim_end_matches(" kB");
    kilobytes.parse::<usize>().expect("it is a number") << 10
}

#[test]
fn what_one_thread_frees_another_takes_again() {
    wharf_memory::keep_freed();
    drop(std::hint::black_box(vec![1_u8; PIECE]));
    let kept = resident();
    assert!(kept >= PIECE, "of {PIECE} bytes that were freed {kept} are left");
    let other = std::thread::spawn(|| {
        let piece = std::hint::black_box(vec![2_u8; PIECE - (1 << 20)]);
        (piece.len(), resident())
    });
    let (taken, now) = other.join().expect("it only takes memory");
    assert!(now < kept + (8 << 20), "{now} bytes with {taken} in use, {kept} before");
}
