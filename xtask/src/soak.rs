//! Ten minutes at 70 % of what the server can do: nothing may grow.
//!
//! The capacity is measured first, by the same work without a limit. Then slices of load follow one another on one server;
//! after each, memory and open files are read, and the latency of a few messages that took the whole way meanwhile. After
//! a quarter of warm-up a line is fitted to each, so that one slow slice on a busy machine decides nothing.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::compare::{anonymous_mib, pairs};
use crate::process::{output, scratch};
use crate::server::{self, Kind, Ports, Role, Spec};

const PORTS: Ports = Ports { namesrv: 26_880, broker: 26_896 };
const SLICE_SECONDS: u64 = 15;
/// Files of the log and of the queues stay open up to a bound, which the warm-up has to reach for it to be seen to hold.
const EXTRA: [&str; 2] = ["openFilesMax=16", "mappedFileSizeCommitLog=134217728"];
/// Messages a second whose way from end to end is measured beside the load.
const PROBES: &str = "200";
/// What the second half of the run may have grown by, in parts of the mean, by the fitted line.
const GROWTH_MAX: f64 = 0.10;
/// Latency is noisy: the fitted line may rise by this part of the mean over the whole run.
const LATENCY_GROWTH_MAX: f64 = 0.50;

/// Runs for `words[0]` minutes, ten unless given.
pub(crate) fn run(words: &[String]) -> anyhow::Result<()> {
    let minutes: u64 = words.first().map_or(Ok(10), |word| word.parse())?;
    server::build()?;
    let folder = scratch().join("soak");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let mut spec = Spec::new(&Kind::Apogee, Role::All, folder.clone(), PORTS);
    spec.extra.extend(EXTRA.map(str::to_owned));
    let server = spec.start()?;
    let capacity = capacity(10)?;
    let rate = capacity * 0.7;
    println!("capacity {capacity:.0} messages a second, load {rate:.0}");

    let mut series: [Vec<f64>; 4] = Default::default();
    let deadline = Instant::now() + Duration::from_secs(minutes * 60);
    while Instant::now() < deadline {
        let slice = slice(rate, SLICE_SECONDS)?;
        let memory = anonymous_mib(server.id());
        let files = fs::read_dir(format!("/proc/{}/fd", server.id()))?.count() as f64;
        println!(
            "rate={:.0} anon_mib={memory:.1} fds={files} p50_us={:.1} p99_us={:.1}",
            slice.rate, slice.p50, slice.p99
        );
        ensure!(
            slice.rate > rate * 0.9,
            "the load was not kept up: {:.0} of {rate:.0}",
            slice.rate
        );
        for (values, value) in series.iter_mut().zip([memory, files, slice.p50, slice.p99]) {
            values.push(value);
        }
    }
    server.stop()?;
    fs::remove_dir_all(&folder)?;

    let limits = [GROWTH_MAX, GROWTH_MAX, LATENCY_GROWTH_MAX, LATENCY_GROWTH_MAX];
    let (mut passed, mut failed) = (0, 0);
    for ((name, values), limit) in ["memory", "files", "p50", "p99"].iter().zip(&series).zip(limits)
    {
        let grown = growth(&values[values.len() / 4..]);
        let flat = grown <= limit;
        println!(
            "{name} grew by {:.1} % ... {}",
            grown * 100.0,
            if flat { "ok" } else { "FAILED" }
        );
        *if flat { &mut passed } else { &mut failed } += 1;
    }
    println!("{passed} passed, {failed} failed");
    ensure!(failed == 0, "{failed} of memory, files and latency are not flat");
    Ok(())
}

struct Slice {
    rate: f64,
    p50: f64,
    p99: f64,
}

/// Sends as fast as it goes for some seconds; returns the messages a second.
fn capacity(seconds: u64) -> anyhow::Result<f64> {
    figure(&output(&mut load(None, seconds))?, "rate")
}

/// Sends at `rate`, while [`PROBES`] messages a second go to a waiting consumer on a topic of their own.
fn slice(rate: f64, seconds: u64) -> anyhow::Result<Slice> {
    let load = load(Some(rate), seconds + 2).stdout(Stdio::piped()).spawn()?;
    let mut probe = bench("latency", "soak-probe", seconds);
    let probed = output(probe.args(["--rate", PROBES]))?;
    let loaded = load.wait_with_output()?;
    let loaded = String::from_utf8(loaded.stdout)?;
    for text in [&probed, &loaded] {
        ensure!(figure(text, "errors")? + figure(text, "busy")? == 0.0, "errors: {text}");
    }
    Ok(Slice {
        rate: figure(&loaded, "rate")?,
        p50: figure(&probed, "end_to_end_p50_us")?,
        p99: figure(&probed, "end_to_end_p99_us")?,
    })
}

fn load(rate: Option<f64>, seconds: u64) -> Command {
    let mut bench = bench("produce", "soak", seconds);
    if let Some(rate) = rate {
        bench.arg("--rate").arg(format!("{rate:.0}"));
    }
    bench
}

fn bench(operation: &str, topic: &str, seconds: u64) -> Command {
    let mut bench = Command::new(server::binary());
    bench.args(["bench", operation, "--create", "--topic", topic, "--size", "64"]);
    bench.arg(format!("--namesrv=127.0.0.1:{}", PORTS.namesrv));
    bench.arg(format!("--seconds={seconds}"));
    bench
}

/// Reads a figure of the line that `apogee bench` ends with.
fn figure(text: &str, key: &str) -> anyhow::Result<f64> {
    let line = text.lines().last().unwrap_or_default();
    let found = pairs(line).find(|(name, _)| *name == key);
    found.map(|(_, value)| value).with_context(|| format!("no {key}: {text}"))
}

/// By which part of its mean the fitted line rises from the first value to the last.
fn growth(values: &[f64]) -> f64 {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let middle = (count - 1.0) / 2.0;
    let (mut product, mut square) = (0.0, 0.0);
    for (at, value) in values.iter().enumerate() {
        let at = at as f64 - middle;
        product += at * (value - mean);
        square += at * at;
    }
    product / square * (count - 1.0) / mean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_the_rise_of_the_fitted_line_in_parts_of_the_mean() {
        assert!(growth(&[5.0, 5.0, 5.0, 5.0]).abs() < 1e-9);
        assert!((growth(&[9.0, 10.0, 11.0]) - 0.2).abs() < 1e-9);
        assert!(growth(&[11.0, 10.0, 9.0]) < 0.0);
    }
}
