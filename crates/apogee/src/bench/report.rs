//! What a run found: counters by code, percentiles, costs; the progress bar before and the line after.

use std::{collections::BTreeMap, fmt::Write as _, future::Future, io::IsTerminal as _, sync::Arc};

use anyhow::Result;
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::{Duration, Instant, interval};

use super::{
    Work,
    meter::{Reading, anonymous_mib, resident_mib},
    scan::remark,
};

/// Response codes that a report names; the rest stand as `code_N`.
const SYSTEM_BUSY: i32 = 2;
/// Stored, but not flushed or replicated in time.
const STORED: [i32; 3] = [10, 11, 12];

/// What one pipe counted.
#[derive(Debug)]
pub(super) struct Tally {
    /// Messages that were sent and stored, or received.
    pub(super) messages: u64,
    /// Requests answered.
    pub(super) requests: u64,
    /// Body bytes of the messages.
    pub(super) bytes: u64,
    /// Requests answered with each code that means refusal or failure.
    codes: BTreeMap<i32, u64>,
    first_refusal: Option<String>,
    /// Nanoseconds from request to answer, or from sender to receiver.
    pub(super) latency: Histogram<u32>,
}

impl Default for Tally {
    fn default() -> Tally {
        let latency =
            Histogram::new_with_bounds(100, 120_000_000_000, 3).expect("the bounds are in order");
        Tally {
            messages: 0,
            requests: 0,
            bytes: 0,
            codes: BTreeMap::new(),
            first_refusal: None,
            latency,
        }
    }
}

impl Tally {
    /// Counts an answer; says whether its messages count as stored.
    pub(super) fn count(&mut self, code: i32, header: &[u8]) -> bool {
        self.requests += 1;
        if code == 0 {
            return true;
        }
        *self.codes.entry(code).or_default() += 1;
        let stored = STORED.contains(&code);
        if !stored && self.first_refusal.is_none() {
            self.first_refusal = Some(format!("code {code}: {}", remark(header)));
        }
        stored
    }

    /// Records how long something took.
    pub(super) fn took(&mut self, span: Duration) {
        self.latency.saturating_record(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Adds what another pipe counted.
    pub(super) fn add(&mut self, other: &Tally) {
        self.messages += other.messages;
        self.requests += other.requests;
        self.bytes += other.bytes;
        for (code, count) in &other.codes {
            *self.codes.entry(*code).or_default() += count;
        }
        self.first_refusal = self.first_refusal.take().or_else(|| other.first_refusal.clone());
        self.latency.add(&other.latency).expect("histograms have the same bounds");
    }
}

/// A measured run.
#[derive(Debug)]
pub(super) struct Measured<T> {
    /// What the run gave.
    pub(super) output: T,
    seconds: f64,
    before: Reading,
    after: Reading,
}

impl<T> Measured<T> {
    /// Messages a second.
    pub(super) fn rate(&self, messages: u64) -> f64 {
        messages as f64 / self.seconds
    }

    /// CPU of the servers for each message, in microseconds.
    pub(super) fn server_cpu_us(&self, messages: u64) -> f64 {
        self.after.since(&self.before).server_cpu_s * 1e6 / messages.max(1) as f64
    }
}

/// Runs `run` with a progress bar on a terminal, and reads the meters around it.
pub(super) async fn measure<T>(
    servers: &[u32],
    work: &Arc<Work>,
    run: impl Future<Output = Result<T>>,
) -> Result<Measured<T>> {
    let bar = if std::io::stderr().is_terminal() { bar() } else { ProgressBar::hidden() };
    let before = Reading::now(servers);
    let begun = Instant::now();
    tokio::pin!(run);
    let mut ticks = interval(Duration::from_millis(200));
    let output = loop {
        tokio::select! {
            output = &mut run => break output,
            _ = ticks.tick() => {
                let done = work.done.load(std::sync::atomic::Ordering::Relaxed);
                bar.set_position((work.share_done() * 1000.0) as u64);
                bar.set_message(format!("{done} messages, {:.0}/s", done as f64 / begun.elapsed().as_secs_f64()));
            }
        }
    };
    let seconds = begun.elapsed().as_secs_f64();
    let after = Reading::now(servers);
    bar.finish_and_clear();
    Ok(Measured { output: output?, seconds, before, after })
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{elapsed} [{bar:40}] {msg}")
        .expect("the template is well formed");
    ProgressBar::new(1000).with_style(style.progress_chars("=> "))
}

/// The line of `key=value` at the end.
#[derive(Debug, Default)]
pub(super) struct Line {
    text: String,
}

impl Line {
    /// Adds a pair; a value with spaces is quoted.
    pub(super) fn pair(&mut self, key: &str, value: impl std::fmt::Display) -> &mut Line {
        let value = value.to_string();
        let gap = if self.text.is_empty() { "" } else { " " };
        let value = if value.contains(char::is_whitespace) { format!("{value:?}") } else { value };
        write!(self.text, "{gap}{key}={value}").expect("a String takes all");
        self
    }

    /// Adds the percentiles of a histogram of nanoseconds, in microseconds.
    pub(super) fn percentiles(&mut self, prefix: &str, latency: &Histogram<u32>) -> &mut Line {
        for (name, quantile) in
            [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999), ("max", 1.0)]
        {
            let value = latency.value_at_quantile(quantile) as f64 / 1e3;
            self.pair(&format!("{prefix}{name}_us"), format_args!("{value:.1}"));
        }
        self
    }

    /// Adds counts, rates and costs of a run.
    pub(super) fn run<T>(
        &mut self,
        servers: &[u32],
        measured: &Measured<T>,
        tally: &Tally,
    ) -> &mut Line {
        let seconds = measured.seconds;
        let messages = tally.messages.max(1) as f64;
        self.pair("messages", tally.messages).pair("requests", tally.requests);
        self.pair("seconds", format_args!("{seconds:.3}"));
        self.pair("rate", format_args!("{:.0}", tally.messages as f64 / seconds));
        self.pair("mib_per_s", format_args!("{:.1}", tally.bytes as f64 / seconds / 1_048_576.0));
        let busy = tally.codes.get(&SYSTEM_BUSY).copied().unwrap_or(0);
        let refused: u64 = tally
            .codes
            .iter()
            .filter(|(code, _)| !STORED.contains(code))
            .map(|(_, count)| count)
            .sum();
        self.pair("busy", busy).pair("errors", refused - busy);
        for (code, count) in &tally.codes {
            self.pair(&format!("code_{code}"), count);
        }
        if let Some(refusal) = &tally.first_refusal {
            self.pair("first_refusal", refusal);
        }
        let cost = measured.after.since(&measured.before);
        if !servers.is_empty() {
            self.pair("server_cpu_us", format_args!("{:.3}", cost.server_cpu_s * 1e6 / messages));
            self.pair("server_cores", format_args!("{:.2}", cost.server_cpu_s / seconds));
            self.pair("server_anon_mib", format_args!("{:.1}", anonymous_mib(servers)));
            self.pair("server_rss_mib", format_args!("{:.1}", resident_mib(servers)));
        }
        self.pair("generator_cpu_us", format_args!("{:.3}", cost.own_cpu_s * 1e6 / messages));
        let own = anonymous_mib(&[std::process::id()]);
        self.pair("generator_anon_mib", format_args!("{own:.1}"));
        self.pair("outside_cores", format_args!("{:.2}", cost.outside_cpu_s / seconds));
        self.pair(
            "disk_mib_per_s",
            format_args!("{:.1}", cost.disk_written_bytes as f64 / seconds / 1_048_576.0),
        )
    }

    /// Prints the line.
    #[expect(clippy::print_stdout, reason = "the line is what `bench` is run for")]
    pub(super) fn print(&self) {
        println!("{}", self.text);
    }
}
