//! Several processes that train one model: each computes a part of every batch, gradients are summed, and all take the same step.
//!
//! The first process starts the others. Each of them has one end of a socket as its standard input; there is no address to agree
//! on, nobody else can connect, and a process that ends closes it. Parts are added in the order of ranks, so that a run can be
//! repeated to the bit.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use super::compute::StepSums;
use super::error::DistillError;
use super::loss::LossSums;
use super::optimizer::Gradients;

/// A process's place among those that train together.
pub(super) enum Ranks {
    /// The only one.
    Alone,
    /// The first one, and its connections to the others.
    Leader(Vec<Follower>),
    /// One of the others.
    Follower {
        /// Its number, from 1.
        rank: usize,
        /// Processes in all.
        size: usize,
        /// To the first one.
        leader: UnixStream,
    },
}

/// A process that the leader started; killed when dropped.
pub(super) struct Follower {
    rank: usize,
    stream: UnixStream,
    process: Option<Child>,
}

impl Drop for Follower {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            // One that has ended cannot be killed, which is as well.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Ranks {
    /// Starts a process from each command; the first becomes rank 1.
    pub(super) fn lead(commands: Vec<Command>) -> Result<Ranks, DistillError> {
        let mut followers = Vec::new();
        for (index, mut command) in commands.into_iter().enumerate() {
            let rank = index + 1;
            let fail = |source| DistillError::Rank { rank, doing: "starting it", source };
            let (ours, theirs) = UnixStream::pair().map_err(fail)?;
            command.stdin(Stdio::from(OwnedFd::from(theirs)));
            let process = command.spawn().map_err(fail)?;
            followers.push(Follower { rank, stream: ours, process: Some(process) });
        }
        Ok(Ranks::Leader(followers))
    }

    /// The place of a process that [`Ranks::lead`] started.
    pub(super) fn follow(rank: usize, size: usize) -> Result<Ranks, DistillError> {
        let fail = |source| DistillError::Rank { rank: 0, doing: "connecting", source };
        let stream = io::stdin().as_fd().try_clone_to_owned().map_err(fail)?;
        Ok(Ranks::Follower { rank, size, leader: UnixStream::from(stream) })
    }

    pub(super) fn rank(&self) -> usize {
        match self {
            Ranks::Alone | Ranks::Leader(_) => 0,
            Ranks::Follower { rank, .. } => *rank,
        }
    }

    pub(super) fn size(&self) -> usize {
        match self {
            Ranks::Alone => 1,
            Ranks::Leader(followers) => followers.len() + 1,
            Ranks::Follower { size, .. } => *size,
        }
    }

    /// Waits until all have come to the same step.
    pub(super) fn meet(&mut self, step: usize) -> Result<(), DistillError> {
        match self {
            Ranks::Alone => Ok(()),
            Ranks::Follower { leader, .. } => {
                let fail = |source| DistillError::Rank { rank: 0, doing: "meeting it", source };
                leader.write_all(&(step as u64).to_le_bytes()).map_err(fail)
            }
            Ranks::Leader(followers) => {
                for follower in followers {
                    let rank = follower.rank;
                    let fail = |source| DistillError::Rank { rank, doing: "meeting it", source };
                    let mut theirs = [0; 8];
                    follower.stream.read_exact(&mut theirs).map_err(fail)?;
                    if u64::from_le_bytes(theirs) != step as u64 {
                        return Err(fail(io::Error::other("it starts from another step")));
                    }
                }
                Ok(())
            }
        }
    }

    /// Leaves the sums over all processes with each of them. Whether to go on after this step is the leader's `go_on`.
    pub(super) fn all_reduce(
        &mut self,
        gradients: &mut Gradients,
        sums: &mut StepSums,
        go_on: bool,
    ) -> Result<bool, DistillError> {
        match self {
            Ranks::Alone => Ok(go_on),
            Ranks::Leader(followers) => {
                for Follower { rank, stream, .. } in &mut *followers {
                    let fail =
                        |source| DistillError::Rank { rank: *rank, doing: "adding its gradients", source };
                    for gradient in &mut *gradients {
                        add(stream, gradient).map_err(fail)?;
                    }
                    let part = receive_sums(stream).map_err(fail)?;
                    sums.loss.divergence += part.loss.divergence;
                    sums.loss.ce += part.loss.ce;
                    sums.features += part.features;
                }
                for Follower { rank, stream, .. } in followers {
                    let fail =
                        |source| DistillError::Rank { rank: *rank, doing: "sending it the sums", source };
                    gradients.iter().try_for_each(|gradient| send(stream, gradient)).map_err(fail)?;
                    send_sums(stream, sums).map_err(fail)?;
                    stream.write_all(&[u8::from(go_on)]).map_err(fail)?;
                }
                Ok(go_on)
            }
            Ranks::Follower { leader, .. } => {
                let mut exchange = || {
                    gradients.iter().try_for_each(|gradient| send(leader, gradient))?;
                    send_sums(leader, sums)?;
                    for gradient in &mut *gradients {
                        leader.read_exact(bytemuck::cast_slice_mut(gradient))?;
                    }
                    *sums = receive_sums(leader)?;
                    let mut go_on = [0];
                    leader.read_exact(&mut go_on)?;
                    Ok(go_on[0] == 1)
                };
                exchange().map_err(|source| DistillError::Rank {
                    rank: 0,
                    doing: "exchanging gradients",
                    source,
                })
            }
        }
    }
}

/// Sends numbers as they are in memory: both ends are on one machine.
fn send(stream: &mut UnixStream, numbers: &[f32]) -> io::Result<()> {
    stream.write_all(bytemuck::cast_slice(numbers))
}

/// Numbers added at a time, so that they stay in the cache.
const PART: usize = 1 << 16;

/// Adds what is received to `sums`.
fn add(stream: &mut UnixStream, sums: &mut [f32]) -> io::Result<()> {
    let mut numbers = vec![0.0; PART];
    for sums in sums.chunks_mut(PART) {
        let part = &mut numbers[..sums.len()];
        stream.read_exact(bytemuck::cast_slice_mut(part))?;
        sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += *part);
    }
    Ok(())
}

fn send_sums(stream: &mut UnixStream, sums: &StepSums) -> io::Result<()> {
    let StepSums { loss: LossSums { divergence, ce }, features } = sums;
    [divergence, ce, features].into_iter().try_for_each(|x| stream.write_all(&x.to_le_bytes()))
}

fn receive_sums(stream: &mut UnixStream) -> io::Result<StepSums> {
    let mut number = || {
        let mut bytes = [0; 8];
        stream.read_exact(&mut bytes).map(|()| f64::from_le_bytes(bytes))
    };
    Ok(StepSums { loss: LossSums { divergence: number()?, ce: number()? }, features: number()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_ranks_end_with_the_sums_and_the_leaders_word() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut leader = Ranks::Leader(vec![Follower { rank: 1, stream: ours, process: None }]);
        let mut follower = Ranks::Follower { rank: 1, size: 2, leader: theirs };
        let sums = |x: f64| StepSums { loss: LossSums { divergence: x, ce: 2.0 * x }, features: 0.0 };
        let other = std::thread::spawn(move || {
            let (mut gradients, mut own) = (vec![vec![1.0; 100_000], vec![2.0]], sums(1.0));
            follower.meet(5).unwrap();
            let go_on = follower.all_reduce(&mut gradients, &mut own, true).unwrap();
            (gradients, own, go_on)
        });
        let (mut gradients, mut own) = (vec![vec![0.5; 100_000], vec![0.25]], sums(3.0));
        leader.meet(5).unwrap();
        assert!(!leader.all_reduce(&mut gradients, &mut own, false).unwrap());
        assert_eq!((gradients[0][99_999], gradients[1][0]), (1.5, 2.25));
        assert_eq!(own, sums(4.0));
        assert_eq!(other.join().unwrap(), (gradients, own, false));
    }

    #[test]
    fn a_process_that_ends_is_an_error_not_a_wait() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        let mut leader = Ranks::Leader(vec![Follower { rank: 1, stream: ours, process: None }]);
        let error = leader.all_reduce(&mut vec![vec![0.0]], &mut StepSums::default(), true).unwrap_err();
        assert!(error.to_string().contains("process 1"), "{error}");
    }
}
