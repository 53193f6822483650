//! Whether somebody else offers this node's GPUs. Two who give the same GPUs away give each to two pods.

use std::path::{Path, PathBuf};

use crate::config::Paths;
use crate::kubelet::{SOCKET, rpc};

/// How our own sockets begin.
pub(crate) const OURS: &str = "wharf-";
/// The driver for dynamic resource allocation of NVIDIA's GPUs.
const DRA: &str = "gpu.nvidia.com/dra.sock";

/// Somebody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    /// Where it listens.
    pub(crate) socket: PathBuf,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plugin,
    Driver,
    Ours,
}

impl Owner {
    /// A sentence that says who it is and what can be done.
    pub(crate) fn sentence(&self) -> String {
        let socket = self.socket.display();
        match self.kind {
            Kind::Plugin => format!(
                "another device plugin offers this node's GPUs ({socket}); remove it, or set plugin.enabled to false and keep labels and metrics"
            ),
            Kind::Driver => format!(
                "NVIDIA's driver for dynamic resource allocation offers this node's GPUs ({socket}), which cannot share a node with a device \
                 plugin; remove it, or set plugin.enabled to false and keep labels and metrics"
            ),
            Kind::Ours => format!("another wharf node-agent is running on this node ({socket})"),
        }
    }
}

/// Looks for somebody else who listens. `serving`: our sockets are our own.
pub(crate) async fn find(paths: &Paths, serving: bool) -> Option<Owner> {
    for socket in sockets(&paths.device_plugins) {
        let name = socket.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(kind) = kind_of(name, serving) else { continue };
        if rpc::is_alive(&socket).await {
            return Some(Owner { socket, kind });
        }
    }
    let driver = paths.plugins.join(DRA);
    (driver.exists() && rpc::is_alive(&driver).await).then_some(Owner { socket: driver, kind: Kind::Driver })
}

/// Whose a socket is by its name, if it is of somebody who offers GPUs: `nvidia-gpu.sock` is NVIDIA's and HAMi's, `nvidiaGPU-….sock` GKE's.
fn kind_of(name: &str, serving: bool) -> Option<Kind> {
    if name == SOCKET || !name.ends_with(".sock") {
        None
    } else if name.starts_with(OURS) {
        (!serving).then_some(Kind::Ours)
    } else {
        name.to_ascii_lowercase().contains("nvidia").then_some(Kind::Plugin)
    }
}

fn sockets(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort_unstable();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_known_by_the_names_of_their_sockets() {
        for name in ["nvidia-gpu.sock", "nvidia-mig-1g.5gb.sock", "nvidiaGPU-1700000000.sock"] {
            assert_eq!(kind_of(name, true), Some(Kind::Plugin), "{name}");
        }
        for name in ["kubelet.sock", "intel-qat.sock", "nvidia-gpu.lock"] {
            assert_eq!(kind_of(name, false), None, "{name}");
        }
        assert_eq!(
            (kind_of("wharf-gpu.sock", true), kind_of("wharf-gpu.sock", false)),
            (None, Some(Kind::Ours))
        );
    }
}
