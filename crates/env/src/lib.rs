//! The ground: every effect on the world (disk, clock, randomness, threads) goes through here, real or simulated.
//!
//! [`Env`] is a handful of cheap handles that each crate above takes at its start. In production they are the machine's;
//! in a test they are a [`sim::SimDisk`] and a [`sim::SimClock`], so that a whole store with all its crashes runs in one
//! thread from one seed.
//!
//! Invariant: no other crate names `std::fs`, `SystemTime`, `Instant::now` or `thread::spawn`.

mod clock;
mod disk;
mod real;
pub mod sim;
mod worker;

use std::sync::{Arc, Mutex, PoisonError};

pub use clock::{Clock, Millis, Sleep};
pub use disk::{DirEntry, DirLock, Disk, File, Open, Space, read_whole, write_whole};
pub use real::RealDisk;
pub use worker::{Step, Wake, Worker, WorkerHandle, spawn_worker};

/// The handles to the world that a component is given at its start; cheap to clone.
#[derive(Clone)]
pub struct Env {
    /// Wall clock, monotonic clock and sleeping.
    pub clock: Clock,
    /// Files, directories and their locks.
    pub disk: Arc<dyn Disk>,
    randomness: Arc<Mutex<fastrand::Rng>>,
}

impl Env {
    /// Returns the machine itself: its file systems, its clock, and randomness seeded by the operating system.
    pub fn real() -> Env {
        Env::new(Clock::real(), Arc::new(RealDisk::new()), fastrand::Rng::new())
    }

    /// Assembles an environment from its parts; a simulation passes its own disk, clock and seeded generator.
    pub fn new(clock: Clock, disk: Arc<dyn Disk>, randomness: fastrand::Rng) -> Env {
        Env { clock, disk, randomness: Arc::new(Mutex::new(randomness)) }
    }

    /// Returns a generator of its own for the caller, forked from this environment's; not for secrets.
    pub fn fork_rng(&self) -> fastrand::Rng {
        self.randomness.lock().unwrap_or_else(PoisonError::into_inner).fork()
    }
}
