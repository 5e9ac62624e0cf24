//! The binary: the composition of all roles in one process, the commands that send and read, and the load generator.
//!
//! `main` is a table of contents: what was asked (`args`), with what settings (`config`), and who does it
//! (`roles`, `messages`, `bench`).

mod address;
mod args;
mod banner;
mod bench;
mod config;
mod filters;
mod machine;
mod messages;
mod roles;
mod signals;
mod telemetry;
mod tls;

use std::{process::ExitCode, time::Instant};

use args::{Plan, Print, Question, Task};
use config::{KEYS, Layers, Origin, Style};

/// Reads `KEY=VALUE` pairs as the binary does with `--set`, for a broker that is simulated.
///
/// # Errors
/// What stands in the way of a start with them: the pair, and what is allowed.
pub fn options(pairs: Vec<String>) -> Result<(broker::Options, store::Options), String> {
    let layers = Layers {
        style: Style::Apogee,
        files: Vec::new(),
        sets: pairs,
        flags: Vec::new(),
        environment: Vec::new(),
        home: "/".into(),
        host_name: "simulated".into(),
    };
    let settings = layers.load().map_err(|error| error.to_string())?.settings;
    Ok((settings.broker, settings.store))
}

/// Does what the command line asks.
pub fn main() -> ExitCode {
    let began = Instant::now();
    let done = match args::parse() {
        Task::Run(plan) => run(&plan, began),
        Task::Print(layers, print) => print_config(&layers, print),
        Task::Ask(question) => print_answer(question),
        Task::Filter(filter) => filter.run(),
        Task::Send(send) => send.run(),
        Task::Consume(consume) => consume.run(),
        Task::Tail(tail) => tail.run(),
        Task::Bench(bench) => bench.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("apogee: {}", said(&error));
            ExitCode::from(if messages::is_usage(&error) { 2 } else { 1 })
        }
    }
}

/// The error with its causes, each said once: some already quote theirs.
fn said(error: &anyhow::Error) -> String {
    let mut said = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !said.contains(&cause) {
            said = format!("{said}: {cause}");
        }
    }
    said
}

fn run(plan: &Plan, began: Instant) -> anyhow::Result<()> {
    let loaded = plan.layers.load()?;
    telemetry::start(plan.log_format, "info");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(machine::worker_threads(loaded.settings.process.worker_threads))
        .thread_name("apogee")
        .enable_all()
        .build()?;
    runtime.block_on(roles::serve(plan, loaded, began))
}

#[expect(clippy::print_stdout, reason = "printing is what was asked for")]
fn print_answer(question: Question) -> anyhow::Result<()> {
    print!("{}", question.answer()?);
    Ok(())
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
