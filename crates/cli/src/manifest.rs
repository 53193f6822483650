//! The commands that read `LLMService` and `Model` objects from files and print what follows from them.

#[cfg(test)]
mod agree;
pub(crate) mod crd;
pub(crate) mod input;
pub(crate) mod render;
pub(crate) mod validate;
