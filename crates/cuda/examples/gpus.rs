//! `cargo run -p wharf-cuda --example gpus`: opens every GPU that the driver shows, loads the kernels, and says what it found, or why it found nothing.
#![expect(clippy::print_stdout, reason = "an example talks to a person on a terminal")]

use std::error::Error;
use std::process::ExitCode;

use wharf_cuda::driver::{Gpu, OpenError};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    for index in 0.. {
        match Gpu::open(index) {
            Ok(gpu) => {
                let memory = gpu.memory()?;
                println!(
                    "GPU {index}: {}, compute capability {}.{}, {} multiprocessors, {} of {} MiB free",
                    gpu.name(),
                    gpu.capability().0,
                    gpu.capability().1,
                    gpu.multiprocessors(),
                    memory.free >> 20,
                    memory.total >> 20,
                );
            }
            // All were seen.
            Err(OpenError::NoSuchDevice { .. }) => break,
            Err(error) => {
                println!("error: {error}");
                let mut source = error.source();
                while let Some(error) = source {
                    println!("  because {error}");
                    source = error.source();
                }
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
