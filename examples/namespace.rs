//! Keeps two applications apart that use the same names: each has its own namespace.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::{collections::BTreeSet, env, future::ready, time::Duration};

use anyhow::{Context, ensure};
use apogee_client::{Client, ConsumeFromWhere, Consumed, Filter, Message};
use tokio::{sync::mpsc, time::timeout};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let name_server = env::args().nth(1).or_else(|| env::var("ROCKETMQ_NAMESRV_ADDR").ok());
    let name_server = name_server.as_deref().unwrap_or("127.0.0.1:9876");

    let (sender, mut inbox) = mpsc::unbounded_channel();
    let mut consumers = Vec::new();
    let mut sent = BTreeSet::new();
    for namespace in ["berlin", "paris"] {
        let client = Client::builder([name_server]).namespace(namespace).build()?;
        let producer = client.producer("namespace").build()?;
        // The servers call it `berlin%Greetings`; an administrator sees both.
        let receipt = producer.send(Message::new("Greetings", namespace)).await?;
        sent.insert((namespace, receipt.unique_key));
        producer.shutdown().await;

        let sender = sender.clone();
        let consumer = client
            .push_consumer("namespace-readers")
            .subscribe("Greetings", Filter::all())
            .consume_from_where(ConsumeFromWhere::FirstOffset)
            .start(move |message| {
                let _ = sender.send((namespace, message));
                ready(Consumed::Done)
            })
            .await?;
        consumers.push(consumer);
    }
    while !sent.is_empty() {
        let message = timeout(Duration::from_secs(60), inbox.recv()).await;
        let (reader, message) =
            message.ok().flatten().context("a message has not come within a minute")?;
        println!("{reader} got {:?} of {}", message.body(), message.topic());
        ensure!(message.topic() == "Greetings", "the namespace shows");
        ensure!(message.body() == reader, "a message of the other namespace");
        sent.remove(&(reader, message.unique_key().unwrap_or_default().to_owned()));
    }
    for consumer in consumers {
        consumer.shutdown().await?;
    }
    Ok(())
}
