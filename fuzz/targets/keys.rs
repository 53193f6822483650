//! Files of keys, and headers that show one. The first line is the header, the rest the file.
#![no_main]

use std::path::Path;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use wharf_access::keys::{KeyDocument, bearer, from_entries};
use wharf_access::{KeySet, Moment};

fuzz_target!(|bytes: &[u8]| {
    let line = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    let (header, text) = bytes.split_at(line);
    let Ok(text) = std::str::from_utf8(text) else { return };
    let place = Path::new("keys");
    let keys = from_entries(place, [("entry", text)]).unwrap_or_default();
    if let Ok(value) = HeaderValue::from_bytes(header) {
        let headers = HeaderMap::from_iter([(AUTHORIZATION, value)]);
        // A key is let in exactly where a header that shows it is; the moment is no key's business here.
        let now = Moment::now();
        let by_header = keys.check(&headers, now).map(|principal| principal.id.clone());
        let by_key =
            bearer(&headers).and_then(|key| keys.check_key(key, now)).map(|principal| principal.id.clone());
        assert_eq!(by_header, by_key);
    }
    let Ok(document) = serde_saphyr::from_str::<KeyDocument>(text) else { return };
    for record in document.keys {
        // An entry of a Secret that we write is one that we read.
        let written = record.to_yaml().expect("a record has a form in YAML");
        let read = from_entries(place, [("entry", written.as_str())]).expect("what was written can be read");
        assert_eq!(ids(&read), [format!("key:{}", id(&record))], "{written}");
    }
});

fn ids(keys: &KeySet) -> Vec<String> {
    keys.all(Moment::now()).map(|(principal, _)| principal.id.to_string()).collect()
}

/// The id that a record has once it is complete.
fn id(record: &wharf_access::keys::KeyRecord) -> String {
    if record.id().is_empty() { record.sha256()[..12].to_owned() } else { record.id().to_owned() }
}
