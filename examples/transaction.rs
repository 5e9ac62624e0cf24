//! Commits a message, rolls one back, and forgets a third, which the broker asks about later: see `transactionTimeOut` and
//! `transactionCheckInterval` of its configuration.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::{collections::HashSet, env, future::ready, time::Duration};

use anyhow::{bail, ensure};
use apogee_client::{Client, ConsumeFromWhere, Consumed, Filter, Message, Resolution};
use tokio::{sync::mpsc, time::timeout};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let name_server = env::args().nth(1).or_else(|| env::var("ROCKETMQ_NAMESRV_ADDR").ok());
    let client = Client::builder([name_server.as_deref().unwrap_or("127.0.0.1:9876")]).build()?;

    let producer = client
        .producer("transaction")
        // A real one looks into its database. It must know how each transaction of the group ended, also after a restart.
        .transaction_checker(|message| {
            println!("the broker asks what became of {:?}", message.body());
            ready(match message.body() == "rolled back" {
                true => Resolution::Rollback,
                false => Resolution::Commit,
            })
        })
        .build()?;
    let committed = producer.begin_transaction(Message::new("Transaction", "committed")).await?;
    let rolled = producer.begin_transaction(Message::new("Transaction", "rolled back")).await?;
    let forgotten = producer.begin_transaction(Message::new("Transaction", "forgotten")).await?;
    let rolled_back = rolled.unique_key().to_owned();
    let mut awaited: HashSet<String> =
        [&committed, &forgotten].map(|transaction| transaction.unique_key().to_owned()).into();
    committed.commit().await?;
    rolled.rollback().await?;
    drop(forgotten);

    let (sender, mut inbox) = mpsc::unbounded_channel();
    let consumer = client
        .push_consumer("transaction-readers")
        .subscribe("Transaction", Filter::all())
        .consume_from_where(ConsumeFromWhere::FirstOffset)
        .start(move |message| {
            let _ = sender.send(message);
            ready(Consumed::Done)
        })
        .await?;
    while !awaited.is_empty() {
        let Ok(Some(message)) = timeout(Duration::from_secs(120), inbox.recv()).await else {
            bail!("{} of the messages have not come within two minutes", awaited.len());
        };
        println!("got {:?}", message.body());
        let key = message.unique_key().unwrap_or_default();
        ensure!(key != rolled_back, "the message came that was rolled back");
        awaited.remove(key);
    }
    consumer.shutdown().await?;
    producer.shutdown().await;
    Ok(())
}
