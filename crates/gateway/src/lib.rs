//! The doors for clients.
//!
//! A door is a folder: it decodes its protocol, calls the broker's rules, and encodes what comes back. It decides nothing
//! about messages and keeps no state but that of its connections. Today there is one door, [`v4`].

pub mod v4;
