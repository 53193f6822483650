//! Sources of models: one that was accepted is the same when it is written and read again, and shows no secret.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf_api::SourceUrl;

fuzz_target!(|text: &str| {
    match text.parse::<SourceUrl>() {
        Ok(source) => {
            let written = source.to_string();
            assert_eq!(written.parse(), Ok(source.clone()), "{written:?}");
            let shown = source.shown();
            if let SourceUrl::Web(web) = &source {
                assert!(web.query.is_none() || !shown.contains('?'), "{shown:?}");
            }
            assert!(!shown.chars().any(char::is_control), "{shown:?}");
        }
        // Errors are printed: what they quote must not move the cursor.
        Err(error) => assert!(!error.to_string().chars().any(char::is_control), "{error:?}"),
    }
});
