//! Delays messages by a level and to a time of their own, and recalls one before it is due.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::{
    env,
    future::ready,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, ensure};
use apogee_client::{Client, ConsumeFromWhere, Consumed, Filter, Message};
use tokio::{sync::mpsc, time::timeout};

fn now() -> anyhow::Result<u64> {
    Ok(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let name_server = env::args().nth(1).or_else(|| env::var("ROCKETMQ_NAMESRV_ADDR").ok());
    let client = Client::builder([name_server.as_deref().unwrap_or("127.0.0.1:9876")]).build()?;

    let producer = client.producer("schedule").build()?;
    let start = now()?;
    // Level 3 of a broker's 18 is 10 s by default.
    let by_level = producer.send(Message::new("Schedule", "by level").delay_level(3)).await?;
    let due = start + 4_000;
    let timed = producer.send(Message::new("Schedule", "to a time").deliver_at(due)).await?;
    let far = Message::new("Schedule", "recalled").delay(Duration::from_secs(6));
    let recalled = producer.send(far).await?;
    let handle = recalled.recall_handle.context("the broker gave no recall handle")?;
    println!("recalled {}", producer.recall("Schedule", &handle).await?);

    let (sender, mut inbox) = mpsc::unbounded_channel();
    let consumer = client
        .push_consumer("schedule-readers")
        .subscribe("Schedule", Filter::all())
        .consume_from_where(ConsumeFromWhere::FirstOffset)
        .start(move |message| {
            let _ = sender.send(message);
            ready(Consumed::Done)
        })
        .await?;
    let mut awaited = vec![(by_level.unique_key, start + 10_000), (timed.unique_key, due)];
    // The last that is awaited is due after the recalled one was.
    while !awaited.is_empty() {
        let message = timeout(Duration::from_secs(60), inbox.recv()).await;
        let message = message.ok().flatten().context("a message has not come within a minute")?;
        let key = message.unique_key().unwrap_or_default();
        ensure!(key != recalled.unique_key, "the recalled message came");
        let Some(at) = awaited.iter().position(|(awaited, _)| awaited == key) else { continue };
        let (_, due) = awaited.swap_remove(at);
        let now = now()?;
        ensure!(now >= due, "{:?} came {} ms too early", message.body(), due - now);
        println!("got {:?}, {} ms after it was due", message.body(), now - due);
    }
    consumer.shutdown().await?;
    producer.shutdown().await;
    Ok(())
}
