//! How long a thousand services take to be read, checked, rendered and printed: `cargo run --release -p wharf-manifests --example thousand`.
#![expect(clippy::print_stdout, reason = "a bench tells a person what it found")]

use std::time::Instant;

use wharf_manifests::{Mode, Settings, State};
use wharf_spec::{Document, Object, check};

fn main() {
    let example = include_str!("../../../examples/production.yaml");
    let text: String = (0..1000)
        .map(|index| {
            format!("---\n{}", example.replace("name: assistant\n", &format!("name: assistant-{index}\n")))
        })
        .collect();
    let settings = Settings::default();

    let start = Instant::now();
    let documents = Document::read("production.yaml", &text).expect("the example is YAML");
    let objects = documents.iter().map(|document| check(document).0.expect("the example is a service"));
    let services: Vec<_> = objects
        .filter_map(|object| match object {
            Object::Service(service) => Some(service),
            Object::Model(_) | Object::Foreign(..) => None,
        })
        .collect();
    let read = start.elapsed();

    let start = Instant::now();
    let rendered: Vec<_> = services
        .iter()
        .flat_map(|service| {
            let rendered =
                wharf_manifests::service(service, &State::fresh(service), &settings, Mode::Managed);
            rendered.expect("the example can be rendered")
        })
        .collect();
    let built = start.elapsed();

    let start = Instant::now();
    let yaml = wharf_manifests::print_yaml(&rendered);
    let printed = start.elapsed();
    println!(
        "{} services, {} objects, {:.1} MB of YAML: read and checked in {:.2} s, rendered in {:.2} s, printed in {:.2} s",
        services.len(),
        rendered.len(),
        yaml.len() as f64 / 1e6,
        read.as_secs_f64(),
        built.as_secs_f64(),
        printed.as_secs_f64()
    );
}
