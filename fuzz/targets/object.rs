//! Objects that users write: any text ends in objects and complaints, and complaints name lines that are there.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf_spec::{Document, check};

fuzz_target!(|text: &str| {
    let Ok(documents) = Document::read("object.yaml", text) else { return };
    for document in &documents {
        let (object, problems) = check(document);
        assert!(object.is_some() || !problems.is_empty(), "there is neither an object nor a reason");
        for problem in problems {
            let line = usize::try_from(problem.line).expect("lines are few");
            assert!((1..=text.split('\n').count()).contains(&line), "{problem:?}");
        }
    }
});
