//! The server over real sockets with a real engine and a tiny random model: one test binary, a module per topic.

mod server {
    mod answers;
    mod hostile;
    mod lifecycle;
    mod probes;
    mod streams;
    mod support;
    mod tls;
}
