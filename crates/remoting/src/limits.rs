//! What a server lets its peers cost: every bound of this crate, with its default.
//!
//! A bound on bytes is checked before the bytes are held, a bound on time is checked once a second by the server's
//! sweep, so that no connection owns a timer. What exceeds a bound is held back when waiting can help (reading pauses,
//! and TCP slows the peer) and let go when it cannot.

use std::time::Duration;

/// The bounds of one server or one client connection.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open connections; one more is accepted and closed at once, with a line in the log.
    pub connections_max: usize,
    /// Bytes of one frame with its length field (Java: `com.rocketmq.remoting.frameMaxLength`).
    pub frame_bytes_max: usize,
    /// Frames handed to a handler at once; the rest of a read waits for the next run.
    pub run_frames_max: usize,
    /// Unanswered requests of one connection; at the bound its reading pauses. A consumer parks one pull per queue it
    /// owns, so this is also the number of queues a client can follow on one connection without delay.
    pub requests_in_flight_max: usize,
    /// Unanswered requests of all connections; over it, those that have some in flight stop reading.
    pub requests_in_flight_total_max: usize,
    /// Bytes of read buffers of all connections beyond the first [`READ_BYTES_BASE`] of each. A connection that would
    /// exceed it waits until others are done with theirs; one at a time may exceed it by the frame that it is reading.
    pub read_bytes_total_max: usize,
    /// Bytes of answers that one connection may hold unsent before it stops taking requests and answers.
    pub outbound_bytes_pause: usize,
    /// Bytes of unsent answers of all connections; over it, those that have been blocked longest are let go.
    pub outbound_bytes_total_max: usize,
    /// Bytes that others may have queued on one connection (server pushes, a client's calls); one more is refused.
    pub outbox_bytes_max: usize,
    /// Requests that this side has sent on one connection and that have no answer yet.
    pub calls_in_flight_max: usize,
    /// Silence in both directions after which a connection is closed (Java: `serverChannelMaxIdleTimeSeconds`).
    pub idle_timeout: Duration,
    /// How long a frame may take from its first byte to its last.
    pub frame_timeout: Duration,
    /// How long answers may wait for a peer that does not read, or reads too slowly: what is queued at some moment has
    /// to be gone this much later.
    pub drain_timeout: Duration,
}

/// Bytes of read buffer that every connection may hold without asking, so that small requests always get through.
///
/// With all connections in use this is `connections_max` times 4 KiB, 64 MiB by default; an idle one holds none.
pub const READ_BYTES_BASE: usize = 4 * 1024;

/// Bytes that the read buffer of a busy connection grows to; only a larger frame makes it larger.
pub(crate) const READ_BYTES_BUSY: usize = 256 * 1024;

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections_max: 16_384,
            frame_bytes_max: 16 * 1024 * 1024,
            run_frames_max: 1024,
            requests_in_flight_max: 16_384,
            requests_in_flight_total_max: 262_144,
            read_bytes_total_max: 64 * 1024 * 1024,
            outbound_bytes_pause: 1024 * 1024,
            outbound_bytes_total_max: 128 * 1024 * 1024,
            outbox_bytes_max: 4 * 1024 * 1024,
            calls_in_flight_max: 65_535,
            idle_timeout: Duration::from_secs(120),
            frame_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(30),
        }
    }
}
