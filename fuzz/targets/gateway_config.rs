//! Configurations of the gateway: one that was accepted is the same when it is printed and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf_gateway::GatewayConfig;

fuzz_target!(|text: &str| {
    let Ok(config) = serde_saphyr::from_str::<GatewayConfig>(text) else { return };
    // One that contradicts itself says so.
    if config.check().is_err() {
        return;
    }
    let printed = serde_saphyr::to_string(&config).expect("a configuration has a form in YAML");
    let read: GatewayConfig = serde_saphyr::from_str(&printed).expect("what is printed can be read");
    // Not compared as they are: what is not a number equals nothing.
    assert_eq!(format!("{read:?}"), format!("{config:?}"), "{printed}");
});
