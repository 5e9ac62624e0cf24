//! The process `apogee`: its allocator, and the library's [`apogee::main`].

use std::process::ExitCode;

/// Gives freed pages back and keeps what is resident low.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    apogee::main()
}
