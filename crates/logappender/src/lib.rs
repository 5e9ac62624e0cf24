//! Ships the records of a program's log to a topic: a layer for `tracing-subscriber` and a backend for `log` in one.
//!
//! A record is formatted where it is logged, put into a buffer that is bounded in records and in bytes, and sent in the
//! background, many in a request. Logging never waits: what finds the buffer full is dropped and counted. What a broker
//! has not acknowledged is sent again under the same unique key until it is, so a record may come twice and is lost only
//! when the counters say so. Java: `rocketmq-logappender`.
//!
//! ```no_run
//! # fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use apogee_client::Client;
//! use apogee_logappender::LogAppender;
//! use std::time::Duration;
//! use tracing_subscriber::prelude::*;
//!
//! let client = Client::builder(["127.0.0.1:9876"]);
//! let appender = LogAppender::builder(client, "logs").tag("shop").start()?;
//! tracing_subscriber::registry().with(appender.clone()).init();
//! tracing::info!(count = 3, "sold shoes");
//! let counts = appender.shutdown(Duration::from_secs(5));
//! eprintln!("{} records shipped, {} dropped", counts.shipped, counts.dropped);
//! # Ok(()) }
//! ```
//!
//! A program that logs through `log` installs it with `log::set_boxed_logger(Box::new(appender.clone()))` and sets its
//! level with `log::set_max_level`; a layer gets its level as every layer does, from a filter (`with_filter`).
//!
//! # The message
//!
//! The body is UTF-8, by [`Format`] one line or one JSON object. A record longer than `record_bytes_max` is cut, and ends
//! in `…`. The properties are the tag and the key of the [`Builder`], `LEVEL` (`ERROR` to `TRACE`, for SQL92 filters),
//! `APPENDER_TYPE` (`TRACING_APPENDER` or `LOG_APPENDER`) and, on the first record behind a gap, `DROPPED`: how many were
//! dropped there.
//!
//! # What it does not ship
//!
//! The client runs on a thread of the appender's own, and no record of that thread is shipped: neither the client's nor
//! those of the libraries beneath it, so that shipping never causes shipping.

mod buffer;
mod capture;
mod format;

use std::{fmt, io, sync::Arc, time::Duration};

use apogee_client::{Client, ClientBuilder, InvalidField, Message};
use tokio::runtime::{self, Runtime};

use buffer::Buffer;

pub use buffer::Counts;
pub use format::Format;

/// How long `log::Logger::flush` waits at most.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);
/// Long enough for every record that the builder allows, each of its bytes escaped in JSON.
const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
const RECORD_BYTES_MAX: usize = 512 * 1024;

/// Why an appender does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting cannot be as it is.
    #[error(transparent)]
    Invalid(#[from] InvalidField),
    /// The system gives no thread to ship from.
    #[error("no thread to ship from: {0}")]
    Thread(#[from] io::Error),
}

/// Builds a [`LogAppender`]. Made by [`LogAppender::builder`].
pub struct Builder {
    client: ClientBuilder,
    group: String,
    buffer_records_max: usize,
    buffer_bytes_max: usize,
    record_bytes_max: usize,
    format: Format,
    target: Target,
}

/// What all messages of an appender share.
#[derive(Clone)]
struct Target {
    topic: String,
    tag: Option<String>,
    key: Option<String>,
    sharding_key: Option<String>,
}

impl Builder {
    /// Sets the producer group; `rocketmq_appender` by default, as the original's appenders have.
    #[must_use]
    pub fn group(mut self, group: impl Into<String>) -> Builder {
        self.group = group.into();
        self
    }

    /// Sets the tag of all messages; none by default.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>) -> Builder {
        self.target.tag = Some(tag.into());
        self
    }

    /// Sets the key of all messages, by which they can be looked up: a host or a service, say. None by default.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Builder {
        self.target.key = Some(key.into());
        self
    }

    /// Sends all records to the one queue that this key belongs to, so that they stay in order. By default every request
    /// takes the next queue: records are in order within a queue only, and a broker that is away is done without.
    #[must_use]
    pub fn sharding_key(mut self, key: impl Into<String>) -> Builder {
        self.target.sharding_key = Some(key.into());
        self
    }

    /// Sets how a record becomes a body; [`Format::Line`] by default.
    #[must_use]
    pub fn format(mut self, format: Format) -> Builder {
        self.format = format;
        self
    }

    /// Sets how many records may wait or be under way; 8192 by default.
    #[must_use]
    pub fn buffer_records_max(mut self, records: usize) -> Builder {
        self.buffer_records_max = records;
        self
    }

    /// Sets how many bytes of records may wait or be under way, each with 256 bytes beside its body; 8 MiB by default.
    #[must_use]
    pub fn buffer_bytes_max(mut self, bytes: usize) -> Builder {
        self.buffer_bytes_max = bytes;
        self
    }

    /// Sets from how many bytes on the text of a record (message, fields, spans) is cut; 64 KiB by default, 512 KiB at
    /// most.
    #[must_use]
    pub fn record_bytes_max(mut self, bytes: usize) -> Builder {
        self.record_bytes_max = bytes;
        self
    }

    /// Starts the thread that ships. The name servers are asked when there is a first record, so this works without them.
    ///
    /// # Errors
    /// [`StartError::Invalid`] names the setting that cannot be.
    pub fn start(self) -> Result<LogAppender, StartError> {
        if self.record_bytes_max == 0 || self.record_bytes_max > RECORD_BYTES_MAX {
            return Err(StartError::Invalid(InvalidField {
                field: "record_bytes_max",
                value: self.record_bytes_max.to_string(),
                reason: format!("1 byte to {RECORD_BYTES_MAX} bytes"),
            }));
        }
        self.target.message("-").check(BODY_BYTES_MAX)?;
        // One thread for all that the client does: what is logged there is about shipping.
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("apogee-log")
            .on_thread_start(capture::ignore_this_thread)
            .enable_all()
            .build()?;
        let mut inner = Inner {
            buffer: Arc::new(Buffer::new(self.buffer_records_max, self.buffer_bytes_max)),
            format: self.format,
            record_bytes_max: self.record_bytes_max,
            clock: env::Clock::real(),
            runtime: None,
        };
        {
            let runtime = inner.runtime.insert(runtime);
            let _entered = runtime.enter();
            let client: Client = self.client.build()?;
            let producer = client.producer(self.group).max_message_size(BODY_BYTES_MAX).build()?;
            runtime.spawn(buffer::ship(inner.buffer.clone(), producer, self.target));
        }
        Ok(LogAppender(Arc::new(inner)))
    }
}

impl Target {
    fn message(&self, body: impl Into<bytes::Bytes>) -> Message {
        let mut message = Message::new(&self.topic, body);
        if let Some(tag) = &self.tag {
            message = message.tag(tag);
        }
        if let Some(key) = &self.key {
            message = message.key(key);
        }
        if let Some(key) = &self.sharding_key {
            message = message.sharding_key(key);
        }
        message
    }
}

/// Ships records to a topic; cheap to clone, all clones are one. It is a `tracing_subscriber::Layer` and a `log::Log`.
///
/// When the last clone goes, what still waits is given up: call [`LogAppender::shutdown`] before.
#[derive(Clone)]
pub struct LogAppender(Arc<Inner>);

struct Inner {
    buffer: Arc<Buffer>,
    format: Format,
    record_bytes_max: usize,
    clock: env::Clock,
    runtime: Option<Runtime>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Waiting for its thread is forbidden in asynchronous code, from where this may be called.
            runtime.shutdown_background();
        }
    }
}

impl LogAppender {
    /// Begins to build an appender that ships to `topic`, as a client of its own.
    pub fn builder(client: ClientBuilder, topic: impl Into<String>) -> Builder {
        Builder {
            client,
            group: "rocketmq_appender".to_owned(),
            buffer_records_max: 8192,
            buffer_bytes_max: 8 * 1024 * 1024,
            record_bytes_max: 64 * 1024,
            format: Format::Line,
            target: Target { topic: topic.into(), tag: None, key: None, sharding_key: None },
        }
    }

    /// Returns what has become of the records so far.
    pub fn counts(&self) -> Counts {
        self.0.buffer.counts()
    }

    /// Blocks until what was logged before is shipped or has failed, at most for `limit`; says whether it is.
    pub fn flush(&self, limit: Duration) -> bool {
        capture::is_ignored_thread() || self.0.buffer.flush(limit)
    }

    /// Takes no further records, and blocks until what waits is shipped, at most for `limit`. What is left then counts as
    /// failed, although a broker may still store what is under way. Returns the final counts.
    pub fn shutdown(&self, limit: Duration) -> Counts {
        self.0.buffer.shutdown(limit)
    }
}

impl fmt::Debug for LogAppender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogAppender({:?})", self.counts())
    }
}
