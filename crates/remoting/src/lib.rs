//! The 4.x transport: connections, server and client of the remoting protocol.
//!
//! One task drives one connection. It reads what the socket has, splits every whole frame off, hands the *run* of
//! requests to the connection's [`Handler`] at once, and sends the answers of the run with one gathering write; so the
//! cost of a wake-up and of the system calls is shared by all that is in flight. Answers that have to wait (a long
//! poll, a flush) are futures that the same task polls: no task is spawned for a request, none blocks another.
//!
//! Both sides may ask: a [`Connection`] pushes requests to its peer and routes their answers back, so the server's end
//! of a client's connection is as good for calls as a [`Client`].
//!
//! Either end may speak TLS ([`Client::connect_tls`], [`Listeners::tls`]); a server does on the port of plain text.
//!
//! Everything a peer can make grow has a bound in [`Limits`]. This crate knows frames, but no request code.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::{sync::Arc, time::Duration};
//! use remoting::{Client, Connection, Handler, Limits, Listeners, NoRequests, Replies, Service};
//! use wire::{code::{RequestCode, ResponseCode}, frame::Frame};
//!
//! struct Echo;
//! impl Service for Echo {
//!     fn connected(&self, _connection: &Connection) -> Box<dyn Handler> { Box::new(Echo) }
//! }
//! impl Handler for Echo {
//!     fn run(&mut self, run: &mut Vec<Frame>, replies: &mut Replies) {
//!         for request in run.drain(..) {
//!             replies.push(&request.respond(ResponseCode::SUCCESS).with_body(request.body_bytes()));
//!         }
//!     }
//! }
//!
//! let clock = env::Clock::real();
//! let listeners = Listeners::bind(&["127.0.0.1:0".parse()?])?;
//! let address = listeners.addresses()[0];
//! let server = listeners.serve(Arc::new(Echo), Limits::default(), clock.clone());
//! let client = Client::connect(address, Limits::default(), clock, NoRequests).await?;
//! let answer = client.call(Frame::request(RequestCode::HEART_BEAT, &()), Duration::from_secs(3)).await?;
//! server.shutdown(Duration::from_secs(3)).await;
//! # Ok(()) }
//! ```

mod client;
mod connection;
mod driver;
mod limits;
mod metrics;
mod outbound;
mod server;
mod service;
mod tls;

pub use client::{Client, ConnectError};
pub use connection::{CallError, CloseReason, Connection, PushError};
pub use limits::{Limits, READ_BYTES_BASE};
pub use metrics::Metrics;
pub use outbound::Answers;
pub use server::{BindError, Listeners, Server};
pub use service::{Handler, NoRequests, Replies, Service};
pub use tls::{ClientAuth, ServerIdentity, ServerTls, Tls, TlsError};
