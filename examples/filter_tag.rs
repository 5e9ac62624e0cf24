//! Consumes only messages with certain tags; the broker leaves out the others.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::{collections::HashSet, env, future::ready, time::Duration};

use anyhow::{bail, ensure};
use apogee_client::{Client, ConsumeFromWhere, Consumed, Filter, Message};
use tokio::{sync::mpsc, time::timeout};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let name_server = env::args().nth(1).or_else(|| env::var("ROCKETMQ_NAMESRV_ADDR").ok());
    let client = Client::builder([name_server.as_deref().unwrap_or("127.0.0.1:9876")]).build()?;

    let producer = client.producer("filter-tag").build()?;
    let mut awaited = HashSet::new();
    for tag in ["shoes", "hats", "boots", "gloves"].repeat(5) {
        let receipt = producer.send(Message::new("FilterTag", tag).tag(tag)).await?;
        if ["shoes", "boots"].contains(&tag) {
            awaited.insert(receipt.unique_key);
        }
    }

    let (sender, mut inbox) = mpsc::unbounded_channel();
    let consumer = client
        .push_consumer("filter-tag-readers")
        .subscribe("FilterTag", Filter::tags("shoes || boots"))
        .consume_from_where(ConsumeFromWhere::FirstOffset)
        .start(move |message| {
            let _ = sender.send(message);
            ready(Consumed::Done)
        })
        .await?;
    while !awaited.is_empty() {
        let Ok(Some(message)) = timeout(Duration::from_secs(60), inbox.recv()).await else {
            bail!("{} of the messages have not come within a minute", awaited.len());
        };
        println!("got {:?}", message.tag());
        let wanted = matches!(message.tag(), Some("shoes" | "boots"));
        ensure!(wanted, "nobody asked for {:?}", message.tag());
        awaited.remove(message.unique_key().unwrap_or_default());
    }
    consumer.shutdown().await?;
    producer.shutdown().await;
    Ok(())
}
