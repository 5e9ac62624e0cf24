//! Consumes only messages whose properties meet a condition in SQL92, which the broker must allow: `enablePropertyFilter`.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::{collections::HashSet, env, future::ready, time::Duration};

use anyhow::{bail, ensure};
use apogee_client::{Client, ConsumeFromWhere, Consumed, Filter, Message};
use tokio::{sync::mpsc, time::timeout};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let name_server = env::args().nth(1).or_else(|| env::var("ROCKETMQ_NAMESRV_ADDR").ok());
    let client = Client::builder([name_server.as_deref().unwrap_or("127.0.0.1:9876")]).build()?;

    let producer = client.producer("filter-sql").build()?;
    let mut awaited = HashSet::new();
    for number in 0..20 {
        let shop = if number % 2 == 0 { "berlin" } else { "paris" };
        let message = Message::new("FilterSql", format!("{number} from {shop}"))
            .property("price", number.to_string())
            .property("shop", shop);
        let receipt = producer.send(message).await?;
        if shop == "berlin" && number > 9 {
            awaited.insert(receipt.unique_key);
        }
    }

    let (sender, mut inbox) = mpsc::unbounded_channel();
    let consumer = client
        .push_consumer("filter-sql-readers")
        .subscribe("FilterSql", Filter::sql92("price > 9 AND shop = 'berlin'"))
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
        println!("got {:?}", message.body());
        ensure!(message.property("shop") == Some("berlin"), "nobody asked for it");
        awaited.remove(message.unique_key().unwrap_or_default());
    }
    consumer.shutdown().await?;
    producer.shutdown().await;
    Ok(())
}
