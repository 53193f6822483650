//! The server over real sockets with a real engine and a tiny random model: one test binary, a module per topic.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test as the test itself does")]

mod server {
    mod answers;
    mod hostile;
    mod lifecycle;
    mod logs;
    mod probes;
    mod streams;
    mod support;
    mod tls;
    mod traces;
}
