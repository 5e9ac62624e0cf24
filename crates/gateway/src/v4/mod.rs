//! The 4.x door: remoting verbs on the broker's ports.
//!
//! [`V4`] serves every connection of the listening port and of its VIP twin alike. A connection is a session; what a
//! request code means is one function in `verbs`, a file per family; what a refusal means on the wire is in `errors`.
//!
//! Invariant: every request that wants an answer gets exactly one, also when its header or body cannot be read.

mod errors;
mod session;
mod verbs;

pub use session::{Announce, V4};
