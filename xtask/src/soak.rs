//! Ten minutes at 70 % of what the server can do: nothing may grow.
//!
//! The capacity is measured first, by the same work without a limit. Then slices of load follow one another on one server;
//! after each, memory, open files and latency are read. After a quarter of warm-up a line is fitted to each,
//! so that one slow slice on a busy machine decides nothing.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::compare::{anonymous_mib, pairs};
use crate::process::{output, scratch};
use crate::server::{self, Kind, Ports, Role, Spec};

const PORTS: Ports = Ports { namesrv: 39_880, broker: 42_911 };
const SLICE_SECONDS: u64 = 15;
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
    let server = Spec::new(&Kind::Apogee, Role::All, folder.clone(), PORTS).start()?;
    let capacity = slice(None, 10)?;
    let rate = capacity.rate * 0.7;
    println!("capacity {:.0} messages a second, load {rate:.0}", capacity.rate);

    let mut series: [Vec<f64>; 4] = Default::default();
    let deadline = Instant::now() + Duration::from_secs(minutes * 60);
    while Instant::now() < deadline {
        let slice = slice(Some(rate), SLICE_SECONDS)?;
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

/// Sends to a waiting consumer at `rate`, or as fast as it goes, and reads what `apogee bench` says of it.
fn slice(rate: Option<f64>, seconds: u64) -> anyhow::Result<Slice> {
    let mut bench = Command::new(server::binary());
    bench.args([
        "bench",
        "latency",
        "--create",
        "--topic",
        "soak",
        "--connections",
        "1",
        "--size",
        "64",
    ]);
    bench.arg("--namesrv").arg(format!("127.0.0.1:{}", PORTS.namesrv));
    bench.arg("--seconds").arg(seconds.to_string());
    bench.arg("--rate").arg(format!("{:.0}", rate.unwrap_or(10_000_000.0)));
    let text = output(&mut bench)?;
    let figure = |key: &str| {
        let line = text.lines().last().unwrap_or_default();
        pairs(line)
            .find(|(name, _)| *name == key)
            .map(|(_, value)| value)
            .with_context(|| format!("no {key}: {text}"))
    };
    ensure!(figure("errors")? == 0.0, "errors: {text}");
    Ok(Slice {
        rate: figure("rate")?,
        p50: figure("end_to_end_p50_us")?,
        p99: figure("end_to_end_p99_us")?,
    })
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
