//! A name server over real sockets, asked by clients and told by brokers, on a clock that stands still until the test
//! moves it.

mod harness;
mod namesrv;
mod registration;
