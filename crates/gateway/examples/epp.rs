//! Development only: an endpoint picker of its own process, for `cargo xtask verify-epp`.
//!
//! Its only argument is a configuration file; its first line of output is the ext-proc address. SIGTERM drains it.

use std::error::Error;
use std::io::Write as _;
use std::path::Path;

use tokio::signal::unix::{SignalKind, signal};
use wharf_gateway::epp::{Epp, EppConfig};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("give a configuration file")?;
    let epp = Epp::bind(EppConfig::read(Path::new(&path))?)?;
    let mut output = std::io::stdout();
    let addresses = epp.addresses();
    writeln!(output, "{} {}", addresses.grpc, addresses.metrics)?;
    output.flush()?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stopped = async move {
        terminate.recv().await;
    };
    epp.serve(stopped).await?;
    Ok(())
}
