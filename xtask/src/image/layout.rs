//! The image as a file: an OCI layout (image-spec 1.1) in a tar archive, with the `manifest.json` that `docker load` reads beside it.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::Builder;

use super::elf::Machine;
use super::layer::{Entry, Layer, Tree, append, hex};
use super::root::{BINARY, NOBODY};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// When everything was made: the same input gives the same image.
const NEVER: &str = "1970-01-01T00:00:00Z";
/// Ports of model servers, the gateway, endpoint pickers, and their metrics.
const PORTS: [u16; 8] = [8000, 8002, 8080, 8081, 8082, 8443, 9002, 9003];

/// An image for one kind of machine.
pub(super) struct Platform {
    pub(super) machine: Machine,
    pub(super) layers: Vec<Layer>,
}

/// Blobs by the path that their digest gives them.
#[derive(Default)]
struct Blobs(Tree);

impl Blobs {
    /// Keeps a blob and says what refers to it.
    fn keep(&mut self, media_type: &str, bytes: Vec<u8>) -> Value {
        let (digest, size) = (hex(&Sha256::digest(&bytes)), bytes.len());
        self.0.insert(path(&digest), Entry::file(bytes));
        json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": size})
    }

    fn keep_json(&mut self, media_type: &str, document: &Value) -> Value {
        self.keep(media_type, document.to_string().into_bytes())
    }
}

fn path(digest: &str) -> String {
    format!("blobs/sha256/{digest}")
}

/// Writes the image and returns its digest. The file has its name when it is whole.
pub(super) fn write(output: &Path, name: &str, platforms: &[Platform]) -> anyhow::Result<String> {
    let (tree, digest) = tree(name, platforms);
    let partial = output.with_extension("partial");
    let writing = || format!("failed to write {}", partial.display());
    let pack = || -> io::Result<()> {
        let mut builder = Builder::new(io::BufWriter::new(File::create(&partial)?));
        tree.iter().try_for_each(|(path, entry)| append(&mut builder, path, entry))?;
        builder.into_inner()?.flush()
    };
    pack().with_context(writing)?;
    std::fs::rename(&partial, output).with_context(|| format!("failed to name {}", output.display()))?;
    Ok(digest)
}

/// Every file of the layout, and the digest of what its name stands for.
fn tree(name: &str, platforms: &[Platform]) -> (Tree, String) {
    let mut blobs = Blobs::default();
    let mut manifests = Vec::new();
    let mut docker = Vec::new();
    for Platform { machine, layers } in platforms {
        let config = blobs.keep_json(CONFIG, &config(*machine, layers));
        let kept: Vec<Value> =
            layers.iter().map(|layer| blobs.keep(LAYER, layer.compressed.clone())).collect();
        if docker.is_empty() {
            let file = |blob: &Value| {
                blob["digest"].as_str().map(|digest| path(digest.trim_start_matches("sha256:")))
            };
            let layers: Vec<_> = kept.iter().map(file).collect();
            docker.push(json!({"Config": file(&config), "RepoTags": [name], "Layers": layers}));
        }
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": kept, "annotations": labels(),
        });
        let mut manifest = blobs.keep_json(MANIFEST, &manifest);
        manifest["platform"] = json!({"architecture": machine.oci(), "os": "linux"});
        manifests.push(manifest);
    }
    let mut whole = match manifests.as_slice() {
        [one] => one.clone(),
        several => blobs.keep_json(
            INDEX,
            &json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": several, "annotations": labels()}),
        ),
    };
    let tag = name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    // The first is the layout's own name for it, the second what containerd calls it.
    whole["annotations"] =
        json!({"org.opencontainers.image.ref.name": tag, "io.containerd.image.name": name});
    let digest = whole["digest"].as_str().unwrap_or_default().to_owned();
    let Blobs(mut tree) = blobs;
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [whole]});
    let files = [
        ("oci-layout", json!({"imageLayoutVersion": "1.0.0"})),
        ("index.json", index),
        ("manifest.json", Value::Array(docker)),
    ];
    for (place, document) in files {
        tree.insert(place.to_owned(), Entry::file(document.to_string().into_bytes()));
    }
    for folder in ["blobs", "blobs/sha256"] {
        tree.insert(folder.to_owned(), Entry::folder(0o755));
    }
    (tree, digest)
}

/// How the image is run.
fn config(machine: Machine, layers: &[Layer]) -> Value {
    let ports: serde_json::Map<String, Value> =
        PORTS.iter().map(|port| (format!("{port}/tcp"), json!({}))).collect();
    let digests: Vec<String> =
        layers.iter().map(|layer| format!("sha256:{}", layer.content_digest)).collect();
    let history: Vec<Value> =
        layers.iter().map(|layer| json!({"created": NEVER, "created_by": layer.what})).collect();
    json!({
        "created": NEVER,
        "architecture": machine.oci(),
        "os": "linux",
        "config": {
            "User": format!("{NOBODY}:{NOBODY}"),
            "ExposedPorts": ports,
            // The second is for NVIDIA's container runtime: which of the driver's libraries it lends to the container.
            "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "NVIDIA_DRIVER_CAPABILITIES=compute,utility"],
            "Entrypoint": [format!("/{BINARY}")],
            "Cmd": ["--help"],
            "WorkingDir": "/",
            "Labels": labels(),
        },
        "rootfs": {"type": "layers", "diff_ids": digests},
        "history": history,
    })
}

fn labels() -> Value {
    json!({
        "org.opencontainers.image.title": "wharf",
        "org.opencontainers.image.description": "Large language models as services: operator, gateway, engine",
        "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
        "org.opencontainers.image.licenses": env!("CARGO_PKG_LICENSE"),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn platform(machine: Machine) -> Platform {
        let layer = |name: &'static str| {
            let tree = Tree::from([(format!("{name}-{}", machine.oci()), Entry::file(b"x".to_vec()))]);
            Layer::pack(name, tree).unwrap()
        };
        Platform { machine, layers: vec![layer("system"), layer("wharf")] }
    }

    /// Files of the archive by path.
    fn written(platforms: &[Platform]) -> std::collections::BTreeMap<String, Vec<u8>> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("image.tar");
        write(&file, "example.com/wharf:1", platforms).unwrap();
        let mut archive = tar::Archive::new(File::open(file).unwrap());
        let mut files = std::collections::BTreeMap::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let (path, mut bytes) = (entry.path().unwrap().display().to_string(), Vec::new());
            entry.read_to_end(&mut bytes).unwrap();
            files.insert(path, bytes);
        }
        files
    }

    /// What a descriptor refers to, once its digest and size are right.
    fn follow(files: &std::collections::BTreeMap<String, Vec<u8>>, blob: &Value) -> Vec<u8> {
        let digest = blob["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        let bytes = &files[&path(digest)];
        assert_eq!(
            (hex(&Sha256::digest(bytes)), blob["size"].as_u64()),
            (digest.to_owned(), Some(bytes.len() as u64))
        );
        bytes.clone()
    }

    fn json(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    #[test]
    fn every_digest_and_size_is_that_of_what_it_refers_to() {
        let files = written(&[platform(Machine::X86)]);
        assert_eq!(json(&files["oci-layout"])["imageLayoutVersion"], "1.0.0");
        let manifest = json(&follow(&files, &json(&files["index.json"])["manifests"][0]));
        let config = json(&follow(&files, &manifest["config"]));
        for (layer, diff) in manifest["layers"]
            .as_array()
            .unwrap()
            .iter()
            .zip(config["rootfs"]["diff_ids"].as_array().unwrap())
        {
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(follow(&files, layer).as_slice()).read_to_end(&mut plain).unwrap();
            assert_eq!(diff.as_str().unwrap(), format!("sha256:{}", hex(&Sha256::digest(&plain))));
        }
        assert_eq!(
            (&config["architecture"], &config["config"]["User"]),
            (&json!("amd64"), &json!("65532:65532"))
        );
        let docker = &json(&files["manifest.json"])[0];
        assert_eq!(docker["RepoTags"], json!(["example.com/wharf:1"]));
        assert!(files.contains_key(docker["Config"].as_str().unwrap()));
        assert!(
            docker["Layers"]
                .as_array()
                .unwrap()
                .iter()
                .all(|layer| files.contains_key(layer.as_str().unwrap()))
        );
    }

    #[test]
    fn the_containerfile_runs_the_same_program_in_the_same_way() {
        let file = include_str!("../../../deploy/Containerfile");
        let config = &config(Machine::X86, &[])["config"];
        let ports = PORTS.map(|port| port.to_string()).join(" ");
        let env: Vec<&str> =
            config["Env"].as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect();
        for line in [
            format!("USER {}", config["User"].as_str().unwrap()),
            format!("EXPOSE {ports}"),
            format!("ENTRYPOINT {}", config["Entrypoint"]),
            format!("CMD {}", config["Cmd"]),
            format!("WORKDIR {}", config["WorkingDir"].as_str().unwrap()),
            format!("ENV {}", env.join(" ")),
        ] {
            assert!(file.lines().any(|one| one == line), "deploy/Containerfile does not say {line}");
        }
    }

    #[test]
    fn two_machines_are_one_image_under_one_name() {
        let files = written(&[platform(Machine::X86), platform(Machine::Arm)]);
        let index = json(&files["index.json"]);
        let named = &index["manifests"][0];
        assert_eq!((index["manifests"].as_array().unwrap().len(), &named["mediaType"]), (1, &json!(INDEX)));
        assert_eq!(named["annotations"]["org.opencontainers.image.ref.name"], "1");
        let both = json(&follow(&files, named));
        for (manifest, machine) in both["manifests"].as_array().unwrap().iter().zip(["amd64", "arm64"]) {
            assert_eq!(manifest["platform"]["architecture"], machine);
            let config = json(&follow(&files, &json(&follow(&files, manifest))["config"]));
            assert_eq!(config["architecture"], machine);
        }
        assert_eq!(json(&files["manifest.json"]).as_array().unwrap().len(), 1);
    }
}
