//! The rules from outside: what a door sees of a broker on a simulated disk and clock.

mod code_filters;
mod delay;
mod filters;
mod groups;
mod kills;
mod lights;
mod lives;
mod model;
mod publish;
mod pull;
mod sql92;
mod timer;
mod topics;
mod traces;
mod transaction;
mod transaction_model;
mod world;
