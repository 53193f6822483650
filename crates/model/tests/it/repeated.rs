//! A model whose layers are taken over and over.

use wharf_model::{Model, Role};
use wharf_testkit::TinyModel;

#[test]
fn layers_come_over_and_over_and_what_is_outside_of_them_stays() {
    let file = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
    TinyModel { n_layers: 2, ..TinyModel::default() }.write(file.path()).unwrap();
    let once = Model::open(file.path()).unwrap();
    let model = Model::open(file.path()).unwrap().repeated(5);
    assert_eq!(model.config.layers.len(), 5);
    for role in [Role::Q, Role::Down, Role::FfnNorm] {
        for layer in 0..5 {
            let of = |model: &Model, layer| model.weights.matrix(Some(layer), role).unwrap().data.to_vec();
            assert_eq!(of(&model, layer), of(&once, layer % 2), "{role} of layer {layer}");
        }
        assert!(model.weights.matrix(Some(5), role).is_err());
    }
    let output = |model: &Model| model.weights.matrix(None, Role::Output).unwrap().data.to_vec();
    assert_eq!(output(&model), output(&once));
}
