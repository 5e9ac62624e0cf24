//! `apogee bench`: drives any server of the remoting protocol, and says what it cost.
//!
//! The generator shares the machine with the server, so it is built to be cheap: requests are encoded once and
//! patched in place ([`template`]), many go out in one write ([`pipe`]), and of the answers only three numbers are
//! read ([`scan`]). Sends and pulls can go through our client instead, which shows what that costs ([`client`]). Each run
//! ends with one line of `key=value` ([`report`]).

mod client;
mod control;
mod latency;
mod members;
mod meter;
mod pipe;
mod produce;
mod pull;
mod report;
mod retry;
mod scan;
mod template;
mod timers;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use tokio::time::{Duration, Instant};

pub(crate) use self::produce::name_and_value;
use self::{
    control::Control,
    template::{Codec, digits},
};

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Sends messages, pipelined over several connections.
    Produce(produce::Produce),
    /// Reads a backlog, one request in flight for each queue.
    Pull(pull::Pull),
    /// Sends at a rate to a waiting consumer and measures from the one to the other.
    Latency(latency::Latency),
    /// Has thousands of consumers join groups, send heartbeats, or ask who else is there.
    Members(members::Members),
    /// Sends a backlog back and waits until it comes again.
    Retry(retry::Retry),
    /// Sends messages that are due later and waits until all have come.
    Timers(timers::Timers),
}

/// Where the server is and how it is driven.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// Name server, HOST:PORT; asked for the brokers of the topic.
    #[arg(long, default_value = "127.0.0.1:9876")]
    namesrv: String,
    /// Broker, HOST:PORT, instead of asking a name server; may be repeated.
    #[arg(long)]
    broker: Vec<String>,
    /// Topic; with --topics, what their names begin with.
    #[arg(long, default_value = "bench")]
    topic: String,
    /// How many topics are used in turn.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    topics: u32,
    /// How many queues of each topic are used.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    queues: u32,
    /// Creates the topics first.
    #[arg(long)]
    create: bool,
    /// Connections, shared out over the brokers.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// Header codec of the requests.
    #[arg(long, value_enum, default_value_t = Codec::Json)]
    codec: Codec,
    /// Process id of a server, whose CPU time and memory are read; may be repeated.
    #[arg(long)]
    pid: Vec<u32>,
    /// Threads of the generator.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    threads: u32,
}

/// How long a run is.
#[derive(Debug, Args)]
pub(crate) struct Length {
    /// Ends after so many messages.
    #[arg(long)]
    messages: Option<u64>,
    /// Ends after so many seconds.
    #[arg(long)]
    seconds: Option<u64>,
    /// Messages before the measurement begins.
    #[arg(long, default_value_t = 0)]
    warmup: u64,
}

impl Bench {
    /// Runs one measurement to its end and prints its line.
    pub(crate) fn run(self) -> Result<()> {
        let target = match &self {
            Bench::Produce(produce) => &produce.target,
            Bench::Pull(pull) => &pull.target,
            Bench::Latency(latency) => &latency.target,
            Bench::Retry(retry) => &retry.target,
            Bench::Timers(timers) => &timers.target,
            Bench::Members(members) => &members.target,
        };
        let threads = target.threads;
        let mut builder = match threads {
            1 => tokio::runtime::Builder::new_current_thread(),
            _ => tokio::runtime::Builder::new_multi_thread(),
        };
        if threads > 1 {
            builder.worker_threads(threads as usize);
        }
        builder.enable_all().build()?.block_on(async {
            match self {
                Bench::Produce(produce) => produce.run().await,
                Bench::Pull(pull) => pull.run().await,
                Bench::Latency(latency) => latency.run().await,
                Bench::Members(members) => members.run().await,
                Bench::Retry(retry) => retry.run().await,
                Bench::Timers(timers) => timers.run().await,
            }
        })
    }
}

impl Target {
    /// The brokers to drive.
    async fn brokers(&self) -> Result<Vec<String>> {
        if !self.broker.is_empty() {
            return Ok(self.broker.clone());
        }
        Control::connect(&self.namesrv, self.codec).await?.masters(&self.topic_name(0)).await
    }

    /// Creates the topics where asked to; microseconds for each, one after the other.
    async fn create_topics(&self, brokers: &[String]) -> Result<Option<f64>> {
        if !self.create {
            return Ok(None);
        }
        let begun = Instant::now();
        for broker in brokers {
            let mut control = Control::connect(broker, self.codec).await?;
            for topic in 0..self.topics {
                control.create_topic(&self.topic_name(topic), self.queues).await?;
            }
        }
        Ok(Some(begun.elapsed().as_secs_f64() * 1e6 / f64::from(self.topics)))
    }

    /// The name of the n-th topic.
    fn topic_name(&self, topic: u32) -> String {
        match self.topics {
            1 => self.topic.clone(),
            _ => format!("{}-{topic:0width$}", self.topic, width = self.topic_digits()),
        }
    }

    fn topic_digits(&self) -> usize {
        digits(u64::from(self.topics - 1))
    }
}

impl Length {
    fn check(&self) -> Result<()> {
        match (self.messages, self.seconds) {
            (None, None) => bail!("say how long: --messages or --seconds"),
            (Some(_), Some(_)) => bail!("--messages or --seconds, not both"),
            _ => Ok(()),
        }
    }

    /// The work of the measured part.
    fn work(&self) -> Arc<Work> {
        let until = self.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        Arc::new(Work::new(self.messages.unwrap_or(u64::MAX), until))
    }
}

/// What all pipes of a run share: how much is left to do, and how much was done.
#[derive(Debug)]
struct Work {
    total: u64,
    left: AtomicU64,
    done: AtomicU64,
    begun: Instant,
    until: Option<Instant>,
}

impl Work {
    fn new(total: u64, until: Option<Instant>) -> Work {
        Work {
            total,
            left: AtomicU64::new(total),
            done: AtomicU64::new(0),
            begun: Instant::now(),
            until,
        }
    }

    /// Takes up to `wanted` messages of what is left.
    fn take(&self, wanted: u64, now: Instant) -> u64 {
        if self.is_over(now) {
            return 0;
        }
        let took = |left: u64| Some(left - wanted.min(left));
        let left = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, took).unwrap_or(0);
        wanted.min(left)
    }

    /// Whether nothing is left to begin.
    fn is_over(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now >= until) || self.left.load(Ordering::Relaxed) == 0
    }

    /// Ends the work before its time.
    fn finish(&self) {
        self.left.store(0, Ordering::Relaxed);
    }

    /// Counts messages as done.
    fn add_done(&self, count: u64) {
        self.done.fetch_add(count, Ordering::Relaxed);
    }

    /// How much is done, from 0 to 1.
    fn share_done(&self) -> f64 {
        match self.until {
            Some(until) => {
                let span = until.duration_since(self.begun).as_secs_f64();
                (self.begun.elapsed().as_secs_f64() / span.max(1e-9)).min(1.0)
            }
            None => self.done.load(Ordering::Relaxed) as f64 / self.total.max(1) as f64,
        }
    }
}
