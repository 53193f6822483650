//! Listening sockets: accepting, TLS with reload, time limits, telling connections to end.
