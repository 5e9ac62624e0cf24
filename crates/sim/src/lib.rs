//! Scenarios: what RocketMQ promises, as text that producers, consumers, administrators and the clock play.
//!
//! One driver encodes the requests and decodes the answers; a stage says where they go: to a broker in this process in
//! virtual time, to our binary, or to the original. The language is described in `scenarios/README.md`. This crate is for
//! tests; what starts servers is `xtask`.

mod actors;
mod answers;
mod args;
mod outcome;
mod play;
mod run;
mod script;
mod simulated;
mod stage;
mod verbs;

pub use run::{Verdict, bless, folder, load, play_on, play_virtually};
pub use script::{Scenario, parse};
pub use stage::{End, Restart, Wire};
