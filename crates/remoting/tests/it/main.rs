//! What a peer can do to a server, and what it costs: every bound of `Limits`, over real sockets, on a clock that stands
//! still until the test moves it.

mod certificates;
mod encrypted;
mod harness;
mod hostile;
mod talking;
