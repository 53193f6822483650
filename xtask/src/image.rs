//! `cargo xtask image`: a container image of one `wharf` for each architecture, made without a container engine.
//!
//! The image holds what the binary needs at run time and nothing else: no shell, no package manager. The same input gives the same bytes, so
//! that an image can be checked by whoever builds it again.

mod elf;
mod layer;
mod layout;
mod libraries;
mod root;
mod trial;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, ensure};

use elf::Program;
use layer::Layer;
use layout::Platform;

use crate::shell;

/// What settings and the chart call the image.
const NAME: &str = concat!("ghcr.io/wharf-dev/wharf:", env!("CARGO_PKG_VERSION"));

/// Build a container image without a container engine: an OCI layout in a tar file, which `docker load` reads too
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  CARGO_PROFILE_RELEASE_STRIP=debuginfo cargo build --release --bin wharf
  cargo xtask image --binary target/release/wharf -o wharf.tar
  cargo xtask image --binary target/release/wharf -o wharf.tar --check          run it, as root's child
  cargo xtask image --binary x86/wharf --binary arm/wharf -o wharf.tar          one image, two architectures

Libraries are taken from this machine, or from --sysroot; those of other architectures where Debian's cross compilers have them. Load it with
`docker load -i`, `podman load -i`, `ctr -n k8s.io images import`, or `skopeo copy oci-archive:wharf.tar docker://…`.")]
pub(crate) struct Args {
    /// A `wharf`; given several times, one for each architecture. Docker, which reads but one, gets the first
    #[arg(long, value_name = "FILE", required = true)]
    binary: Vec<PathBuf>,
    /// Where the image is written
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// What the image is called
    #[arg(long, value_name = "NAME:TAG", default_value = NAME)]
    name: String,
    /// Folder in which the binaries' libraries are looked for
    #[arg(long, value_name = "DIR", default_value = "/")]
    sysroot: PathBuf,
    /// Certificates of authorities, PEM [default: the sysroot's]
    #[arg(long, value_name = "FILE")]
    certificates: Option<PathBuf>,
    /// Unpack the image and serve a model from it, as nobody and with a root that cannot be written. Needs root
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let Args { binary, output, name, sysroot, certificates, check } = args;
    ensure!(
        name.rsplit_once(':').is_some_and(|(name, tag)| !name.is_empty() && !tag.contains('/')),
        "{name} is no NAME:TAG"
    );
    let certificates = match certificates {
        Some(file) => file.clone(),
        None => root::certificates(sysroot)?,
    };
    let platforms = binary
        .iter()
        .map(|binary| platform(binary, sysroot, &certificates))
        .collect::<anyhow::Result<Vec<Platform>>>()?;
    for (index, one) in platforms.iter().enumerate() {
        ensure!(
            platforms[..index].iter().all(|other| other.machine != one.machine),
            "two binaries are for {}",
            one.machine.oci()
        );
    }
    let layers: usize =
        platforms.iter().flat_map(|platform| &platform.layers).map(|layer| layer.compressed.len()).sum();
    let digest = layout::write(output, name, &platforms)?;
    let machines: Vec<&str> = platforms.iter().map(|platform| platform.machine.oci()).collect();
    println!(
        "{}: {name}, {}, {:.1} MB, {digest}",
        output.display(),
        machines.join(" and "),
        layers as f64 / 1e6
    );
    if *check {
        trial::serve(output)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes an image of this binary and lets it serve the demo model; says what the machine lacks for that, if it lacks something.
pub(crate) fn prove(binary: &Path) -> anyhow::Result<Option<&'static str>> {
    if let Some(missing) = trial::missing() {
        return Ok(Some(missing));
    }
    let sysroot = Path::new("/");
    let file = shell::target()?.join("image.tar");
    let platform = platform(binary, sysroot, &root::certificates(sysroot)?)?;
    layout::write(&file, NAME, &[platform])?;
    trial::serve(&file)?;
    std::fs::remove_file(&file).with_context(|| format!("failed to remove {}", file.display()))?;
    Ok(None)
}

/// An image of this binary.
fn platform(binary: &Path, sysroot: &Path, certificates: &Path) -> anyhow::Result<Platform> {
    let bytes = std::fs::read(binary).with_context(|| format!("failed to read {}", binary.display()))?;
    let program =
        Program::parse(&bytes).with_context(|| format!("{} is no program for an image", binary.display()))?;
    let needed = libraries::of(&program, sysroot)
        .with_context(|| format!("failed to find what {} needs at run time", binary.display()))?;
    let system = Layer::pack("what wharf needs at run time", root::system(needed, certificates)?)?;
    let own = Layer::pack("wharf", root::program(bytes))?;
    Ok(Platform { machine: program.machine, layers: vec![system, own] })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// An image of this very test, which is a program as good as any.
    fn build(output: &Path) -> anyhow::Result<()> {
        let (own, sysroot) = (std::env::current_exe()?, Path::new("/"));
        let platform = platform(&own, sysroot, &root::certificates(sysroot)?)?;
        layout::write(output, "example.com/wharf:1", &[platform])?;
        Ok(())
    }

    #[test]
    fn the_same_program_gives_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let files = ["a.tar", "b.tar"].map(|name| folder.path().join(name));
        files.iter().for_each(|file| build(file).unwrap());
        let [a, b] = files.map(|file| std::fs::read(file).unwrap());
        assert!(a == b, "two builds differ");
    }

    #[test]
    fn a_program_runs_in_its_image_as_nobody_who_can_write_nowhere_but_in_tmp() {
        if let Some(missing) = trial::missing() {
            assert!(!crate::environment::in_ci(), "{missing}");
            eprintln!("SKIPPED: {missing}");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("image.tar");
        build(&file).unwrap();
        let unpacked = folder.path().join("root");
        trial::unpack(&file, &unpacked).unwrap();
        let in_image = |args: &[&str]| {
            let mut command: Command = trial::contained(&unpacked, None);
            command.args(args).env_clear().env("IN_IMAGE", "1").output().unwrap()
        };
        let ran = in_image(&["--exact", "image::tests::who_runs_in_the_image_is_nobody", "--nocapture"]);
        let said = String::from_utf8_lossy(&ran.stdout);
        assert!(
            ran.status.success() && said.contains("1 passed"),
            "{said}{}",
            String::from_utf8_lossy(&ran.stderr)
        );
    }

    /// The other side of the test above: it looks around where it runs.
    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "told by the test that starts it, in a place without anything else"
    )]
    fn who_runs_in_the_image_is_nobody() {
        if std::env::var_os("IN_IMAGE").is_none() {
            return;
        }
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = |name: &str| status.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
        assert_eq!(line("Uid:"), "Uid:\t65532\t65532\t65532\t65532");
        assert_eq!(line("Groups:").trim(), "Groups:");
        for place in ["/x", "/etc/x", "/home/nonroot/x", "/usr/local/bin/x"] {
            let error = std::fs::write(place, "x").unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem, "{place}");
        }
        std::fs::write("/tmp/x", "x").unwrap();
        assert!(
            std::fs::read_to_string("/etc/ssl/certs/ca-certificates.crt")
                .unwrap()
                .contains("BEGIN CERTIFICATE")
        );
        assert!(std::fs::read_to_string("/etc/passwd").unwrap().contains("nonroot:x:65532:65532"));
    }
}
