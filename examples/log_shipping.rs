//! Ships the records of `tracing` to a topic, and shows them as whoever watches many programs would.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::{env, time::Duration};

use anyhow::bail;
use apogee_client::Client;
use apogee_logappender::{Format, LogAppender};
use tokio::{
    task::spawn_blocking,
    time::{Instant, timeout_at},
};
use tracing_subscriber::{filter::LevelFilter, prelude::*};

const RECORDS: usize = 5;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let name_server = env::args().nth(1).or_else(|| env::var("ROCKETMQ_NAMESRV_ADDR").ok());
    let client = Client::builder([name_server.as_deref().unwrap_or("127.0.0.1:9876")]);

    // The program that logs. What it would print goes beside this layer.
    let appender = LogAppender::builder(client.clone(), "LogShipping")
        .tag("shop")
        .key(format!("host-{}", std::process::id()))
        .format(Format::Json)
        .start()?;
    tracing_subscriber::registry().with(appender.clone().with_filter(LevelFilter::INFO)).init();
    for order in 1..RECORDS {
        tracing::info!(order, "sold shoes");
        tracing::debug!(order, "is not shipped");
    }
    tracing::warn!(stock = 3, "shoes are running out");
    let counts = spawn_blocking(move || appender.shutdown(Duration::from_secs(30))).await?;
    println!("{} records shipped, {} dropped", counts.shipped, counts.dropped);

    // Whoever watches: nothing is committed, so each who comes sees all that is kept.
    let client = client.build()?;
    let mut watcher = client.pull_consumer("log-watchers").auto_commit(None).start().await?;
    let queues = watcher.queues("LogShipping").await?;
    watcher.assign(queues.clone())?;
    for queue in &queues {
        watcher.seek(queue, 0)?;
    }
    let mine = format!("host-{}", std::process::id());
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut seen = 0;
    while seen < RECORDS {
        let Ok(records) = timeout_at(deadline, watcher.poll(Duration::from_secs(1))).await else {
            bail!("only {seen} of {RECORDS} records have come within a minute");
        };
        for record in records?.iter().filter(|record| record.keys().any(|key| key == mine)) {
            let level = record.property("LEVEL").unwrap_or_default();
            println!("{level:5} {}", String::from_utf8_lossy(record.body()));
            seen += 1;
        }
    }
    watcher.shutdown().await?;
    Ok(())
}
