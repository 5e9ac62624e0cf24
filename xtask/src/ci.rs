//! Everything that must hold before a change lands, in the order in which it fails soonest.
//!
//! It edits nothing. Each step is a command that one can run by hand; its time is printed behind it.

use std::process::Command;
use std::time::Instant;

use crate::process::{root, run as run_command, scratch};
use crate::{examples, handover, interop, monitoring, scenarios};

const DENY: &str = "0.20.2";

type Step = fn() -> anyhow::Result<()>;

/// Runs every step, or those that are named, and stops at the first that fails.
pub(crate) fn run(words: &[String]) -> anyhow::Result<()> {
    let steps: [(&str, Step); 12] = [
        ("format", || cargo(&["fmt", "--all", "--check"])),
        ("clippy", || cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])),
        // README's second command; the tidy test is one of these
        ("test", || cargo(&["test", "--workspace"])),
        ("docs", || {
            let mut doc = command(&["doc", "--workspace", "--no-deps"]);
            run_command(doc.env("RUSTDOCFLAGS", "-D warnings"))
        }),
        ("fuzz", || run_command(command(&["build"]).current_dir(root().join("fuzz")))),
        ("deny", deny),
        ("release", || cargo(&["build", "--release", "--package", "apogee"])),
        ("scenarios", scenarios::check),
        ("examples", || examples::run(&[])),
        ("monitoring", || monitoring::run(&[])),
        ("interop", || interop::run(&[])),
        ("handover", || handover::run(&[])),
    ];
    for (name, step) in steps {
        if words.is_empty() || words.iter().any(|word| word == name) {
            eprintln!("== {name}");
            let began = Instant::now();
            step()?;
            eprintln!("== {name}: {} s", began.elapsed().as_secs());
        }
    }
    Ok(())
}

fn command(words: &[&str]) -> Command {
    let mut cargo = Command::new("cargo");
    cargo.args(words).current_dir(root());
    cargo
}

fn cargo(words: &[&str]) -> anyhow::Result<()> {
    run_command(&mut command(words))
}

/// Licences, sources and duplicate versions; the advisory database is not among the registries that a build may reach.
fn deny() -> anyhow::Result<()> {
    let tools = scratch().join("tools");
    let binary = tools.join("bin/cargo-deny");
    if !binary.exists() {
        let version = format!("cargo-deny@{DENY}");
        let mut install = command(&["install", "--locked", "--no-default-features", &version]);
        run_command(install.arg("--root").arg(&tools))?;
    }
    run_command(
        Command::new(binary).args(["check", "licenses", "bans", "sources"]).current_dir(root()),
    )
}
