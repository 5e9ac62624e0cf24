//! Sends ten messages and consumes them.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::{collections::HashSet, env, time::Duration};

use anyhow::bail;
use apogee_client::{Client, ConsumeFromWhere, Consumed, Filter, Message};
use tokio::{sync::mpsc, time::timeout};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let name_server = env::args().nth(1).or_else(|| env::var("ROCKETMQ_NAMESRV_ADDR").ok());
    let client = Client::builder([name_server.as_deref().unwrap_or("127.0.0.1:9876")]).build()?;

    let producer = client.producer("quick-start").build()?;
    let mut awaited = HashSet::new();
    for number in 0..10 {
        let message = Message::new("QuickStart", format!("hello {number}"))
            .tag("greeting")
            .key(format!("hello-{number}"))
            .property("number", number.to_string());
        let receipt = producer.send(message).await?;
        println!("sent {number} to queue {} at {}", receipt.queue.queue_id, receipt.queue_offset);
        awaited.insert(receipt.unique_key);
    }

    let (sender, mut inbox) = mpsc::unbounded_channel();
    let consumer = client
        .push_consumer("quick-start-readers")
        .subscribe("QuickStart", Filter::tags("greeting"))
        // By default a new group sees only what comes after it.
        .consume_from_where(ConsumeFromWhere::FirstOffset)
        .start(move |message| {
            let sender = sender.clone();
            async move {
                let _ = sender.send(message);
                Consumed::Done
            }
        })
        .await?;
    while !awaited.is_empty() {
        let Ok(Some(message)) = timeout(Duration::from_secs(60), inbox.recv()).await else {
            bail!("{} of the messages have not come within a minute", awaited.len());
        };
        println!("got {:?} with {:?}", message.body(), message.property("number"));
        awaited.remove(message.unique_key().unwrap_or_default());
    }
    consumer.shutdown().await?;
    producer.shutdown().await;
    Ok(())
}
