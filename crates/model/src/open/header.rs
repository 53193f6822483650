//! Reads the configuration of a GGUF model from what stands before its tensors.

use std::path::Path;

use super::OpenError;
use crate::arch::gguf::TensorFacts;
use crate::arch::{Architecture, ConfigError, GgufConfig};
use crate::config::ModelConfig;
use crate::gguf::{Metadata, TensorInfo};

pub(super) fn config_of_gguf(
    metadata: &Metadata,
    tensors: &[TensorInfo],
    path: &Path,
) -> Result<ModelConfig, OpenError> {
    let fail = |source| OpenError::Config { path: path.to_owned(), source };
    let missing = || fail(ConfigError::Missing("general.architecture".into()));
    let name = metadata.str("general.architecture").ok_or_else(missing)?;
    let architecture = Architecture::by_gguf(name)
        .ok_or_else(|| OpenError::Architecture { path: path.to_owned(), found: name.to_owned() })?;
    (architecture.from_gguf)(&GgufConfig::new(metadata, name, &Directory(tensors), None)).map_err(fail)
}

/// Tensors of which only the directory is known.
struct Directory<'a>(&'a [TensorInfo]);

impl TensorFacts for Directory<'_> {
    fn shape(&self, name: &str) -> Option<&[usize]> {
        self.0.iter().find(|tensor| tensor.name == name).map(|tensor| tensor.shape.as_slice())
    }

    /// Ones: that there are factors decides what is read, their values only what is computed.
    fn f32_vector(&self, name: &str) -> Result<Option<Vec<f32>>, ConfigError> {
        Ok(self.shape(name).map(|shape| vec![1.0; shape.iter().product::<usize>().min(1 << 13)]))
    }
}

#[cfg(test)]
mod tests {
    use wharf_testkit::TinyModel;

    use crate::Model;
    use crate::gguf::{GgufError, parse_front};

    #[test]
    fn the_front_of_a_file_tells_its_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        TinyModel::default().write(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let whole = crate::gguf::parse(&bytes).unwrap();
        let start = whole.tensors.iter().map(|tensor| tensor.offset).min().unwrap();
        let front = parse_front(&bytes[..start], bytes.len()).unwrap();
        assert_eq!(front, whole);
        let config = Model::config_of_gguf(&front.metadata, &front.tensors, &path).unwrap();
        assert_eq!(config, Model::open(&path).unwrap().config);
        let short = parse_front(&bytes[..start / 2], bytes.len());
        assert!(matches!(short, Err(GgufError::Truncated { .. })), "{short:?}");
    }
}
