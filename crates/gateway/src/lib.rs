//! The doors for clients.
//!
//! A door is a folder: it decodes its protocol, calls the broker's rules, and encodes what comes back. It decides nothing
//! about messages and keeps no state but that of its connections. [`v4`] is that of clients and
//! administrators, [`http`] that of whoever watches.

pub mod http;
pub mod v4;
