//! What the allocator is told holds for a whole process, and has to be told by its first thread: this is one without a test harness, which
//! starts threads.

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn main() {
    what_one_thread_frees_another_takes_again();
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn main() {}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn what_one_thread_frees_another_takes_again() {
    const PIECE: usize = 128 << 20;
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/status").expect("a process has a status");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("it has this line");
        let kilobytes = line.trim().trim_end_matches(" kB");
        kilobytes.parse::<usize>().expect("it is a number") << 10
    };
    wharf_memory::keep_freed();
    drop(std::hint::black_box(vec![1_u8; PIECE]));
    let kept = resident();
    assert!(kept >= PIECE, "of {PIECE} bytes that were freed {kept} are left");
    let other = std::thread::spawn(move || {
        let piece = std::hint::black_box(vec![2_u8; PIECE - (1 << 20)]);
        (piece.len(), resident())
    });
    let (taken, now) = other.join().expect("it only takes memory");
    assert!(now < kept + (8 << 20), "{now} bytes with {taken} in use, {kept} before");
}
