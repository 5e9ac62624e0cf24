//! The log, its views and the tables.

pub mod checkpoint;
mod fault;
pub mod options;
pub mod views;

pub use fault::*;
