//! The ground: every effect (disk, clock, randomness) goes through here, real or simulated.
