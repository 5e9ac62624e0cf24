//! The binary: the composition of all roles in one process, and the load generator.
//!
//! `main` is a table of contents: what was asked ([`args`]), with what settings ([`config`]), and who does it
//! ([`roles`], [`bench`]).

mod args;
mod bench;
mod config;

use std::process::ExitCode;

use args::{Print, Task};
use config::{KEYS, Layers, Origin};

fn main() -> ExitCode {
    let done = match args::parse() {
        Task::Run(plan) => {
            println!("{plan:?}");
            Ok(())
        }
        Task::Print(layers, print) => print_config(&layers, print),
        Task::Bench(bench) => bench.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("apogee: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "printing is what was asked for")]
fn print_config(layers: &Layers, print: Print) -> anyhow::Result<()> {
    if print == Print::Markdown {
        print!("{}", config::page::markdown());
        return Ok(());
    }
    let settings = layers.load()?.settings;
    for key in KEYS.iter().filter(|key| print == Print::All || key.origin == Origin::Common) {
        println!("{}={}", key.name, (key.show)(&settings));
    }
    Ok(())
}
