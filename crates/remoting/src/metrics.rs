//! What a server counts about itself: gauges that bounds are checked against, and totals.
//!
//! Gauges of bytes move only when a connection's share changes by a block or when it is blocked, so that the path of a
//! message touches no counter that another core writes.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use crate::CloseReason;

/// Gauges and totals of one server, readable at any time.
#[derive(Default)]
pub struct Metrics {
    /// Open connections.
    pub(crate) connections: AtomicUsize,
    /// Bytes of read buffers beyond the base of each connection.
    pub(crate) read_bytes: AtomicUsize,
    /// Bytes of answers whose peers did not take them at once.
    pub(crate) outbound_bytes: AtomicUsize,
    /// Requests handed to handlers that wait for their answers.
    pub(crate) requests_in_flight: AtomicUsize,
    pub(crate) accepted: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) closed: [AtomicU64; CloseReason::COUNT],
}

impl Metrics {
    /// Returns the number of open connections.
    pub fn connections(&self) -> usize {
        self.connections.load(Relaxed)
    }

    /// Returns the bytes held by read buffers beyond [`crate::READ_BYTES_BASE`] of each connection.
    pub fn read_bytes(&self) -> usize {
        self.read_bytes.load(Relaxed)
    }

    /// Returns the bytes of answers whose peers did not take them at once.
    pub fn outbound_bytes(&self) -> usize {
        self.outbound_bytes.load(Relaxed)
    }

    /// Returns the number of requests whose answers are still awaited.
    pub fn requests_in_flight(&self) -> usize {
        self.requests_in_flight.load(Relaxed)
    }

    /// Returns how many connections were accepted since the start.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Relaxed)
    }

    /// Returns how many connections were turned away because `connections_max` were open.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// Returns how many connections were closed for `reason` since the start.
    pub fn closed(&self, reason: CloseReason) -> u64 {
        self.closed[reason as usize].load(Relaxed)
    }
}
