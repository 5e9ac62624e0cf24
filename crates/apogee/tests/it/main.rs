//! The binary as its users meet it: started as a process, talked to over sockets, stopped and killed by signals.

mod address;
mod config;
mod filter;
mod hostile;
mod kill;
mod messages;
mod server;
mod stop;
mod tls;
