//! Runs an image without a container engine: unpacked, in a mount namespace of its own, its root mounted read-only, as its user. What a cluster's
//! nodes do to a container of the chart, as far as a file system goes.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use flate2::read::GzDecoder;
use serde_json::Value;
use tar::Archive;

use super::root::{BINARY, NOBODY};
use crate::server::Server;
use crate::{demo, demo_model, environment, shell};

/// What a machine lacks to run an image.
pub(super) fn missing() -> Option<&'static str> {
    let can = shell::works(Command::new("unshare").args(["--mount", "chroot", "/", "true"]));
    (!can).then_some("running an image needs root, unshare (util-linux) and chroot (coreutils)")
}

/// A command that goes on in an unpacked image with the image's program, and sees a folder of models at `/tmp/model`.
pub(super) fn contained(root: &Path, models: Option<&Path>) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh"]).arg(environment::root().join("scripts/contain.sh")).arg(root);
    command.arg(models.unwrap_or(Path::new(""))).arg(NOBODY.to_string()).arg(format!("/{BINARY}"));
    command
}

/// Unpacks the image for this machine from the file, as a runtime would: by its index, its manifest and its layers.
pub(super) fn unpack(file: &Path, into: &Path) -> anyhow::Result<()> {
    let layout = into.with_extension("layout");
    for folder in [into, &layout] {
        if folder.exists() {
            std::fs::remove_dir_all(folder)
                .with_context(|| format!("failed to remove {}", folder.display()))?;
        }
    }
    let open = |path: &Path| File::open(path).with_context(|| format!("failed to open {}", path.display()));
    Archive::new(open(file)?)
        .unpack(&layout)
        .with_context(|| format!("failed to unpack {}", file.display()))?;
    let document = |path: &Path| -> anyhow::Result<Value> {
        let text = std::fs::read(path).with_context(|| format!("failed to read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is no JSON", path.display()))
    };
    let blob = |blob: &Value| -> anyhow::Result<PathBuf> {
        let digest = blob["digest"].as_str().and_then(|digest| digest.strip_prefix("sha256:"));
        Ok(layout.join("blobs/sha256").join(digest.context("a descriptor has no digest")?))
    };
    let mut manifest = document(&blob(&document(&layout.join("index.json"))?["manifests"][0])?)?;
    if let Some(several) = manifest["manifests"].as_array() {
        let machine = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let own = several.iter().find(|one| one["platform"]["architecture"] == machine);
        manifest = document(&blob(own.with_context(|| format!("the image has no {machine}"))?)?)?;
    }
    for layer in manifest["layers"].as_array().context("the manifest has no layers")? {
        let mut archive = Archive::new(GzDecoder::new(open(&blob(layer)?)?));
        archive.set_preserve_permissions(true);
        archive.set_preserve_ownerships(true);
        archive.unpack(into).with_context(|| format!("failed to unpack a layer of {}", file.display()))?;
    }
    std::fs::remove_dir_all(&layout).with_context(|| format!("failed to remove {}", layout.display()))
}

/// Lets the image say its version, serve the demo model, and answer.
pub(super) fn serve(file: &Path) -> anyhow::Result<()> {
    ensure!(missing().is_none(), "{}", missing().unwrap_or_default());
    let root = shell::target()?.join("image-root");
    unpack(file, &root)?;
    println!("{}", shell::output(contained(&root, None).arg("--version"))?.trim());
    let model = demo_model::obtain()?;
    let path =
        model.path.canonicalize().with_context(|| format!("failed to find {}", model.path.display()))?;
    let (folder, name) =
        (path.parent().context("a model lies in a folder")?, path.file_name().unwrap_or_default());
    let runtime = demo::runtime()?;
    let answer = runtime.block_on(async {
        let mut command = contained(&root, Some(folder));
        command.arg("serve").arg("--model").arg(Path::new("/tmp/model").join(name));
        let mut server = Server::serving(command)?;
        let took = server.ready().await?;
        println!(
            "ready after {:.1} s, as user {NOBODY} with a root that cannot be written",
            took.as_secs_f64()
        );
        let mut chat = contained(&root, None);
        let answer = shell::output(chat.args(demo::question(&server.url())));
        server.stop().await?;
        answer
    })?;
    println!("{}", answer.trim());
    ensure!(!model.pinned || answer.contains(demo::ANSWER), "the answer does not mention {}", demo::ANSWER);
    std::fs::remove_dir_all(&root).with_context(|| format!("failed to remove {}", root.display()))
}
