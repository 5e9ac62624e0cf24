//! Brings every message to each of two members of a group.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::{collections::HashSet, env, fs, future::ready, process, time::Duration};

use anyhow::bail;
use apogee_client::{Client, ConsumeFromWhere, Consumed, Filter, Message, MessageModel};
use tokio::{sync::mpsc, time::timeout};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let name_server = env::args().nth(1).or_else(|| env::var("ROCKETMQ_NAMESRV_ADDR").ok());
    let name_server = name_server.as_deref().unwrap_or("127.0.0.1:9876");

    let client = Client::builder([name_server]).build()?;
    let producer = client.producer("broadcast").build()?;
    let (sender, mut inbox) = mpsc::unbounded_channel();
    let mut awaited = HashSet::new();
    for number in 0..10 {
        let receipt = producer.send(Message::new("Broadcast", format!("news {number}"))).await?;
        awaited.extend(["left", "right"].map(|member| (member, receipt.unique_key.clone())));
    }

    // A program that goes on where it stopped keeps this folder; here it would outlive a server whose store is new.
    let offsets = env::temp_dir().join(format!("apogee-broadcast-{}", process::id()));
    let mut consumers = Vec::new();
    for member in ["left", "right"] {
        let sender = sender.clone();
        // Members keep their own progress, in a file below the name of their client.
        let client = Client::builder([name_server]).instance_name(member).build()?;
        let consumer = client
            .push_consumer("broadcast-readers")
            .message_model(MessageModel::Broadcasting)
            .local_offset_store_dir(&offsets)
            .subscribe("Broadcast", Filter::all())
            .consume_from_where(ConsumeFromWhere::FirstOffset)
            .start(move |message| {
                let _ = sender.send((member, message));
                ready(Consumed::Done)
            })
            .await?;
        consumers.push(consumer);
    }
    while !awaited.is_empty() {
        let Ok(Some((member, message))) = timeout(Duration::from_secs(60), inbox.recv()).await
        else {
            bail!("{} deliveries have not come within a minute", awaited.len());
        };
        println!("{member} got {:?}", message.body());
        awaited.remove(&(member, message.unique_key().unwrap_or_default().to_owned()));
    }
    for consumer in consumers {
        consumer.shutdown().await?;
    }
    fs::remove_dir_all(&offsets)?;
    producer.shutdown().await;
    Ok(())
}
