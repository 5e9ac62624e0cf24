//! The store from outside: what a broker does with it.

mod on_disk;
mod simulated;
mod support;
