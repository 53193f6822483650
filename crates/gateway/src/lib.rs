//! One endpoint for all models.
mod request;
