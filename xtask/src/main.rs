//! Project automation: `cargo xtask <task>`; the table in `main` is the list of tasks.

#![expect(clippy::print_stdout, reason = "a program for people who run tasks")]

mod capture;
mod certificate;
mod ci;
mod compare;
mod examples;
mod handover;
mod interop;
mod java;
mod monitoring;
mod process;
mod recorder;
mod scenarios;
mod server;
mod soak;
#[cfg(test)]
mod tidy;

use std::env;
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask <task>

  capture [STEP]...              record golden bytes from the original under fixtures/
  ci [STEP]...                   all that must hold before a change lands: format clippy test docs fuzz deny
                                 release scenarios examples monitoring interop handover
  examples [NAME]... [--server apogee|VERSION]
                                 run the programs of examples/ against a server; all of them unless named
  handover [ROUND]...            pass a store between the original's broker and ours, in both directions
  interop [SUITE]... [--server apogee|VERSION]
                                 run stock clients against a server: java-4.2.0 java-4.9.7 java-5.5.0
                                 java-5.5.0-binary java-5.5.0-tls peers logappender openmessaging go mqadmin sql92; all of them
                                 unless named
  monitoring                     a Prometheus (Debian's) beside a broker: the page, the alert rules, the dashboard's queries
  scenarios [--stage virtual|apogee|original]... [--smoke] [--bless] [NAME]...
                                 play scenarios/ in virtual time, on our binary and on the original; --bless writes
                                 the outcomes of virtual time into the files
  soak [MINUTES]                 70 % load on ours, and nothing may grow
  compare [ROW]... [--rounds N] [--only original|apogee] [--heap SIZE] [--table]
                                 the original and Apogee on the same work, into docs/performance.md
";

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let Some((task, rest)) = words.split_first() else {
        eprint!("{USAGE}");
        return ExitCode::from(2);
    };
    let result = match task.as_str() {
        "capture" => capture::run(rest),
        "ci" => ci::run(rest),
        "examples" => examples::run(rest),
        "handover" => handover::run(rest),
        "interop" => interop::run(rest),
        "monitoring" => monitoring::run(rest),
        "scenarios" => scenarios::run(rest),
        "soak" => soak::run(rest),
        "compare" => compare::run_task(rest),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask {task}: {error:#}");
            ExitCode::FAILURE
        }
    }
}
