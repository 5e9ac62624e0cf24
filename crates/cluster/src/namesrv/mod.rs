//! The name server: where brokers say what they serve, and clients ask where a topic is.
//!
//! Brokers register with every name server and refresh that; name servers do not know each other. All state but the KV
//! configuration is what brokers said last, so a restarted name server knows everything again within their period.
//!
//! [`RouteTable`] decides, [`NameServer`] is the door in front of it, [`KvConfig`] the one file.

mod kv;
mod options;
mod service;
mod table;

pub use kv::{KvConfig, KvError};
pub use options::{Options, SettingError};
pub use service::{AddressView, NameServer};
pub use table::{
    Bounds, Expired, REGISTRATION_TIMEOUT, RegisterError, Registered, Registration, RouteTable,
    TopicsWanted,
};
