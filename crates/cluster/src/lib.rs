//! What nodes say to each other: the name server, and a broker's registration with it.
//!
//! Both sides speak the original's codes, so either can be the original's.

pub mod namesrv;
pub mod registration;
