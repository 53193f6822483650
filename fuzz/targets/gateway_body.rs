//! Bodies that the gateway passes on: it must understand them as a parser of JSON does, however they arrive. The first byte says where the
//! body is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};
use wharf_gateway::fuzzing::{ReadBody, read_body};

type Object = Map<String, Value>;

fuzz_target!(|input: &[u8]| {
    let Some((cut, bytes)) = input.split_first() else { return };
    let read = read_body(b"application/json", [bytes]);
    let cut = usize::from(*cut).min(bytes.len());
    let middle = cut.midpoint(bytes.len());
    let pieces = [&bytes[..cut], &bytes[cut..middle], &bytes[middle..]];
    assert_eq!(read, read_body(b"application/json", pieces), "the answer depends on the pieces");
    if let (Ok(read), Ok(object)) = (read, serde_json::from_slice::<Object>(bytes)) {
        assert_eq!(read.body, bytes);
        agrees(&read, object);
    }
    // Forms are other text in the same bytes. One that names two models is refused; any other passes whatever it says.
    let form = read_body(b"multipart/form-data; boundary=X", [bytes]);
    assert_eq!(form, read_body(b"multipart/form-data; boundary=X", pieces), "the form depends on the pieces");
    if let Ok(form) = form {
        assert_eq!(form.body_with_usage, bytes);
    }
});

/// What was read of a body is what is in it.
fn agrees(read: &ReadBody, object: Object) {
    assert_eq!(
        read.model,
        object.get("model").map_or("", |model| model.as_str().expect("others are refused"))
    );
    assert_eq!(read.stream, object.get("stream") == Some(&Value::Bool(true)));
    let mut sent: Object = serde_json::from_slice(&read.body_with_usage).expect("what was JSON stays JSON");
    if !read.stream || read.wants_usage {
        assert_eq!(read.body, read.body_with_usage);
        return;
    }
    let mut options = sent.remove("stream_options").expect("the usage is asked for");
    let asked = options.as_object_mut().and_then(|options| options.remove("include_usage"));
    assert_eq!(asked, Some(Value::Bool(true)));
    let mut given = object;
    // Options that are none are replaced as a whole.
    if let Some(Value::Object(mut given)) = given.remove("stream_options") {
        given.remove("include_usage");
        assert_eq!(options, Value::Object(given));
    }
    assert_eq!(sent, given, "nothing else changes");
}
