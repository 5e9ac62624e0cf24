//! Keeps the steps of each order in order: a sharding key chooses the queue, and an orderly consumer keeps its order.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::{
    collections::{HashMap, HashSet},
    env,
    future::ready,
    time::Duration,
};

use anyhow::{bail, ensure};
use apogee_client::{Client, ConsumeFromWhere, Filter, Message, Ordered};
use tokio::{sync::mpsc, time::timeout};

const STEPS: [&str; 4] = ["created", "paid", "packed", "sent"];

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let name_server = env::args().nth(1).or_else(|| env::var("ROCKETMQ_NAMESRV_ADDR").ok());
    let client = Client::builder([name_server.as_deref().unwrap_or("127.0.0.1:9876")]).build()?;

    let producer = client.producer("ordered").build()?;
    let mut awaited = HashSet::new();
    for step in STEPS {
        for order in ["order-1", "order-2", "order-3", "order-4", "order-5"] {
            let message = Message::new("Ordered", step).sharding_key(order).key(order);
            awaited.insert(producer.send(message).await?.unique_key);
        }
    }

    let (sender, mut inbox) = mpsc::unbounded_channel();
    let consumer = client
        .push_consumer("ordered-readers")
        .subscribe("Ordered", Filter::all())
        .consume_from_where(ConsumeFromWhere::FirstOffset)
        .start_orderly(move |messages| {
            for message in messages {
                let _ = sender.send(message);
            }
            ready(Ordered::Done)
        })
        .await?;
    let mut next: HashMap<String, usize> = HashMap::new();
    while !awaited.is_empty() {
        let Ok(Some(message)) = timeout(Duration::from_secs(60), inbox.recv()).await else {
            bail!("{} of the messages have not come within a minute", awaited.len());
        };
        if !awaited.remove(message.unique_key().unwrap_or_default()) {
            // Delivery is at least once, and an earlier run may have left something.
            continue;
        }
        let order = message.keys().next().unwrap_or_default();
        println!("{order} {:?} from queue {}", message.body(), message.queue().queue_id);
        let next = next.entry(order.to_owned()).or_default();
        ensure!(message.body() == STEPS[*next], "{order} came out of order");
        *next += 1;
    }
    consumer.shutdown().await?;
    producer.shutdown().await;
    Ok(())
}
