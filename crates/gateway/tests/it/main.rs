//! The 4.x door over real sockets: every verb once as it should be, and once as it should not.

mod admin;
mod consuming;
mod progress;
mod replies;
mod sending;
mod support;
mod transactions;
mod watching;
