//! Signed tokens before anything of them is proven: with no issuer that is trusted, every one of them is refused.
#![no_main]

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libfuzzer_sys::fuzz_target;
use wharf_access::{Moment, Tokens};

fuzz_target!(|text: &str| {
    check(text);
    // Most bytes are no base64: two lines are also a header and claims as what they mean.
    let (header, claims) = text.split_once('\n').unwrap_or((text, ""));
    check(&format!("{}.{}.AA", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims)));
});

fn check(token: &str) {
    Tokens::looks_like_one(token);
    let tokens = Tokens::default();
    let checked = pin!(tokens.check(token, Moment::now())).poll(&mut Context::from_waker(Waker::noop()));
    match checked {
        Poll::Ready(result) => assert!(result.is_err(), "{token:?} was let in"),
        Poll::Pending => panic!("nobody is asked of {token:?}, so there is nothing to wait for"),
    }
}
