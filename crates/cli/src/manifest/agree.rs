//! Words that two crates must have in common, where neither may depend on the other.

use wharf_optimize::quantize::{Calibrates, SCHEMES};
use wharf_spec::service::QUANTIZE;

#[test]
fn schemes_have_the_same_names_in_yaml_as_on_the_command_line() {
    let yaml: Vec<&str> = QUANTIZE.iter().map(|scheme| scheme.name()).collect();
    let command: Vec<&str> = SCHEMES.iter().map(|(name, _)| *name).collect();
    assert_eq!(yaml, command);
    for (scheme, (name, theirs)) in QUANTIZE.iter().zip(SCHEMES) {
        assert_eq!(serde_json::to_value(scheme).unwrap(), *name);
        assert_eq!(scheme.can_calibrate(), theirs.calibrates() != Calibrates::Never, "{name}");
        assert_eq!(
            scheme.makes_gguf(),
            matches!(theirs, wharf_optimize::quantize::Scheme::Gguf(_)),
            "{name}"
        );
    }
}
