//! A world that a test owns: a disk in memory with faults, and a clock that is moved by hand.

mod clock;

pub use clock::SimClock;
