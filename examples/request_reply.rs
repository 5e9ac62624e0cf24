//! Asks a question by a message and waits for the answer of whoever consumes it.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::{env, time::Duration};

use anyhow::ensure;
use apogee_client::{
    Client, ConsumeFromWhere, Consumed, Filter, Message, Producer, ReceivedMessage,
};

async fn answer(producer: Producer, question: ReceivedMessage) -> Consumed {
    let answer = [b"re: ", question.body().as_ref()].concat();
    let reply = match question.reply(answer) {
        Ok(reply) => producer.send(reply).await.err().map(|error| error.to_string()),
        Err(no_request) => Some(no_request.to_string()),
    };
    if let Some(reason) = reply {
        // Nobody waits for it for long, so it is not tried again.
        println!("no reply was sent: {reason}");
    }
    Consumed::Done
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let name_server = env::args().nth(1).or_else(|| env::var("ROCKETMQ_NAMESRV_ADDR").ok());
    let client = Client::builder([name_server.as_deref().unwrap_or("127.0.0.1:9876")]).build()?;
    let producer = client.producer("request-reply").build()?;

    let replier = producer.clone();
    let consumer = client
        .push_consumer("request-reply-answerers")
        .subscribe("RequestReply", Filter::all())
        .consume_from_where(ConsumeFromWhere::FirstOffset)
        .start(move |question| answer(replier.clone(), question))
        .await?;
    for number in 0..3 {
        let question = format!("what is {number}?");
        let message = Message::new("RequestReply", question.clone());
        let reply = producer.request(message, Duration::from_secs(60)).await?;
        println!("{question} {:?}", reply.body());
        ensure!(reply.body() == format!("re: {question}").as_bytes(), "that is another's answer");
    }
    consumer.shutdown().await?;
    producer.shutdown().await;
    Ok(())
}
