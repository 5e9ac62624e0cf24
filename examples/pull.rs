//! Asks for messages itself: takes all queues, begins at a time, commits, and goes back to the beginning.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::{
    collections::HashSet,
    env,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::ensure;
use apogee_client::{Client, Message};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let name_server = env::args().nth(1).or_else(|| env::var("ROCKETMQ_NAMESRV_ADDR").ok());
    let client = Client::builder([name_server.as_deref().unwrap_or("127.0.0.1:9876")]).build()?;

    let start = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
    let producer = client.producer("pull").build()?;
    let mut sent = HashSet::new();
    for number in 0..20 {
        let receipt = producer.send(Message::new("Pull", format!("line {number}"))).await?;
        sent.insert(receipt.unique_key);
    }

    // Without a subscription the queues are the application's to choose; with one they are shared out in the group.
    let mut consumer = client.pull_consumer("pull-readers").auto_commit(None).start().await?;
    let queues = consumer.queues("Pull").await?;
    consumer.assign(queues.clone())?;
    for round in ["from a time", "from the beginning"] {
        for queue in &queues {
            let offset = match round {
                "from a time" => consumer.offset_for_time(queue, start).await?,
                _ => consumer.first_offset(queue).await?,
            };
            consumer.seek(queue, offset)?;
        }
        let mut awaited = sent.clone();
        let deadline = Instant::now() + Duration::from_secs(60);
        while !awaited.is_empty() {
            ensure!(Instant::now() < deadline, "{} have not come within a minute", awaited.len());
            for message in consumer.poll(Duration::from_secs(5)).await? {
                println!("{round}: {:?}", message.body());
                awaited.remove(message.unique_key().unwrap_or_default());
            }
        }
        consumer.commit().await?;
    }
    for queue in &queues {
        let (first, end) = (consumer.first_offset(queue).await?, consumer.end_offset(queue).await?);
        let committed = consumer.committed(queue).await?;
        println!("queue {} ends at {end}, committed is {committed:?}", queue.queue_id);
        ensure!(first == end || committed == Some(end), "the commit was not kept");
    }
    consumer.shutdown().await?;
    producer.shutdown().await;
    Ok(())
}
