//! A world that a test owns: a disk in memory with faults, and a clock that is moved by hand.

mod clock;
mod disk;

pub use clock::SimClock;
pub use disk::{Crash, SimDisk};
