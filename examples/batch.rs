//! Sends a thousand messages in a few requests, and reads them back several at a time.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::{collections::HashSet, env, future::ready, time::Duration};

use anyhow::bail;
use apogee_client::{Client, ConsumeFromWhere, Consumed, Filter, Message};
use tokio::{sync::mpsc, time::timeout};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let name_server = env::args().nth(1).or_else(|| env::var("ROCKETMQ_NAMESRV_ADDR").ok());
    let client = Client::builder([name_server.as_deref().unwrap_or("127.0.0.1:9876")]).build()?;

    let producer = client.producer("batch").batch_bytes_max(256 * 1024).build()?;
    let messages = (0..1000)
        .map(|number| Message::new("Batch", format!("{number}")).key(format!("number-{number}")));
    // Split where it exceeds the bound; the messages of one request are stored all or none, in one queue.
    let receipts = producer.send_batch(messages.collect()).await?;
    let places: HashSet<_> = receipts.iter().map(|receipt| receipt.queue.queue_id).collect();
    println!("{} messages are stored, in {} queues", receipts.len(), places.len());
    let mut awaited: HashSet<_> = receipts.into_iter().map(|receipt| receipt.unique_key).collect();

    let (sender, mut inbox) = mpsc::unbounded_channel();
    let consumer = client
        .push_consumer("batch-readers")
        .subscribe("Batch", Filter::all())
        .consume_from_where(ConsumeFromWhere::FirstOffset)
        .consume_message_batch_max_size(100)
        .pull_batch_size(100)
        .start_batches(move |messages| {
            let _ = sender.send(messages);
            ready(Consumed::Done)
        })
        .await?;
    while !awaited.is_empty() {
        let Ok(Some(messages)) = timeout(Duration::from_secs(60), inbox.recv()).await else {
            bail!("{} of the messages have not come within a minute", awaited.len());
        };
        println!("got {} at once", messages.len());
        for message in messages {
            awaited.remove(message.unique_key().unwrap_or_default());
        }
    }
    consumer.shutdown().await?;
    producer.shutdown().await;
    Ok(())
}
