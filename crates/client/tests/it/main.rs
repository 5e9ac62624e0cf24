//! The client against a name server and brokers in this process, and against servers that misbehave.

mod consuming;
mod credentials;
mod encrypted;
mod failing;
mod harness;
mod measuring;
mod namespaces;
mod pulling;
mod sending;
mod spans;
mod tracing;
