//! Who may call and how much: API keys, signed tokens, limits and budgets.
//!
//! This crate decides and remembers; it serves nothing. A front end asks in this order: [`identify`] (or [`KeySet::check`], where there are
//! only keys) says who calls, [`Principal::may_use`] whether they may have the model, [`Limiter::reserve`] whether there is room; every
//! refusal is a [`Denied`], which becomes a [`wharf_api::ApiError`]. When the answer ends, [`Reservation::settle`] says what it took, and
//! a [`usage::UsageRecord`] is what remains of it.
//!
//! Time is an argument ([`Moment`]) of everything that decides. What reads files is [`keys::KeySource`] and [`keys::store`](keys::create);
//! what uses the network is [`token::Issuer`] alone. How several gateways keep one limit is [`shares`].

pub mod denied;
mod identify;
pub mod keys;
pub mod limits;
pub mod moment;
pub mod principal;
pub mod shares;
pub mod token;
pub mod usage;

pub use denied::Denied;
pub use identify::identify;
pub use keys::{KeySet, KeySource, KeysError, WatchedKeys};
pub use limits::{Limited, Limiter, Limits, Reservation};
pub use moment::Moment;
pub use principal::{Models, Principal, Priority};
pub use token::Tokens;
