//! The OpenAI-compatible model server over one engine.
//!
//! This crate decides how requests reach the engine and how its tokens leave as HTTP: endpoints, streaming, stop
//! strings, keys, limits, health, draining. It computes nothing itself and reads no environment.
//!
//! [`Server::bind`] opens the ports of a checked configuration; [`Server::serve`] answers health checks while the model
//! loads, then everything, until told to drain. [`run`] is both.

mod body;
mod chat;
mod choices;
mod completions;
mod drain;
mod health;
mod ids;
mod middleware;
mod prepare;
mod record;
mod respond;
mod router;
mod serve;
mod spans;
mod state;
mod stop;
mod stream;
mod system;
mod text;
mod tokenize;
mod workers;

pub use serve::{Addresses, BoxError, ServeError, Server, run, runtime};
pub use state::Loaded;
pub use text::{ChatInput, Decoder, RenderError, Text};
pub use wharf_access::KeysError;
pub use wharf_listen::{BindError, TlsError};
