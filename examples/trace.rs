//! Writes down what becomes of a message, and reads it back: when it was sent, to whom it went, and how that ended.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::{env, future::ready, time::Duration};

use anyhow::{Context, bail};
use apogee_client::{Client, ConsumeFromWhere, Consumed, Filter, Message};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

/// A topic of our own; the original's tools look into `apogee_client::TRACE_TOPIC`.
const TRACES: &str = "ExampleTraces";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let name_server = env::args().nth(1).or_else(|| env::var("ROCKETMQ_NAMESRV_ADDR").ok());
    let name_server = name_server.as_deref().unwrap_or("127.0.0.1:9876");
    let client = Client::builder([name_server]).trace_topic(TRACES).build()?;

    let producer = client.producer("trace").build()?;
    let receipt = producer.send(Message::new("Traced", "parcel").key("parcel-7")).await?;
    let (sender, mut inbox) = mpsc::unbounded_channel();
    let consumer = client
        .push_consumer("trace-readers")
        .subscribe("Traced", Filter::all())
        .consume_from_where(ConsumeFromWhere::FirstOffset)
        .start(move |message| {
            let _ = sender.send(message.unique_key().unwrap_or_default().to_owned());
            ready(Consumed::Done)
        })
        .await?;
    loop {
        let key = timeout(Duration::from_secs(60), inbox.recv()).await.ok().flatten();
        if key.context("the message has not come within a minute")? == receipt.unique_key {
            break;
        }
    }
    // Traces go in the background; a shutdown waits for them.
    consumer.shutdown().await?;
    producer.shutdown().await;

    let client = Client::builder([name_server]).build()?;
    let mut reader = client.pull_consumer("trace-tools").start().await?;
    let queues = reader.queues(TRACES).await?;
    reader.assign(queues.iter().cloned())?;
    for queue in &queues {
        reader.seek(queue, 0)?;
    }
    let mut missing = vec!["Pub", "SubBefore", "SubAfter"];
    let deadline = Instant::now() + Duration::from_secs(60);
    while !missing.is_empty() {
        if Instant::now() > deadline {
            bail!("no trace {missing:?} within a minute");
        }
        for message in reader.poll(Duration::from_secs(1)).await? {
            let text = String::from_utf8_lossy(message.body());
            for trace in text.split('\u{2}').filter(|it| it.contains(&receipt.unique_key)) {
                println!("{}", trace.replace('\u{1}', " | "));
                missing.retain(|kind| trace.split('\u{1}').next() != Some(kind));
            }
        }
    }
    Ok(())
}
