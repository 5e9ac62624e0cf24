//! The store from outside: what a broker does with it.

mod keeper;
mod on_disk;
mod simulated;
mod support;
