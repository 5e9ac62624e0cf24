//! RocketMQ's vocabulary and bytes: frames, headers, bodies, log records, names.
//!
//! Pure: nothing here opens a socket or a file, asks for the time or spawns anything, so every
//! decoder can be fuzzed alone and used by tools without a runtime. Bytes from outside never panic
//! here and never allocate more than the given bytes could hold; what the rules make of the decoded
//! values (permissions, limits of the broker, retries) is left to the crates above.

pub mod batch;
pub mod body;
pub mod code;
pub mod compression;
pub mod ext;
pub mod fastjson;
pub mod frame;
pub mod hash;
pub mod header;
pub mod id;
pub mod names;
pub mod properties;
pub mod recall;
pub mod record;
pub mod trace;

mod scan;
