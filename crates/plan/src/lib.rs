//! What a model needs before anybody has loaded it: memory, GPUs, parallelism, speed.
//!
//! Everything here is a function of data: the headers of a checkpoint, what is wanted of it, what hardware there is. Nothing is
//! measured, no tensor is read, no machine is asked. Figures are those of the formulas in [`footprint`], [`cpu`] and [`forecast`],
//! which the report shows with their numbers.

pub mod advice;
pub mod cpu;
pub mod fit;
pub mod footprint;
pub mod forecast;
pub mod hardware;
pub mod header;
pub mod inventory;
pub mod report;
pub mod scheme;
pub mod shape;
pub mod shortage;
pub mod split;
pub mod types;

pub use fit::{Placement, Wanted};
pub use footprint::Footprint;
pub use forecast::Forecast;
pub use hardware::Product;
pub use header::{Header, HeaderError, ModelFiles, read};
pub use inventory::Inventory;
pub use report::Report;
pub use scheme::{Scheme, SchemeError};
pub use shape::{Group, Shape};
pub use shortage::Shortage;
