//! The Rust side of `interop/java/src/Peers.java`, which writes it a command a line and reads what comes of it.
//!
//! Words are separated by tabs. A command is answered by one line, `ok` and words, or `error` and the reason; each message
//! that a consumer is handed is a line, `got` and the words of `describe`, at any time.
//!
//! ```text
//! id                                                  the client's id
//! pack zlib|lz4|zstd TOPIC BODY     unique key
//! send TOPIC BODY [tag=T] [key=K] [shard=S] [level=N] [in=MS] [NAME=VALUE]...     unique key, queue, offset
//! batch TOPIC COUNT                                   bodies `batch 0` and so on
//! transact TOPIC commit|rollback|forget BODY          unique key
//! consume NAME TOPIC GROUP once|fail|reply|order FILTER      FILTER is tags, or `sql:` and a condition
//! stop NAME
//! request TOPIC BODY                                  the reply's body
//! ```

#![expect(clippy::print_stdout, reason = "standard output is what Java reads")]

use std::{collections::HashMap, env, future::ready, time::Duration};

use anyhow::{Context, bail};
use apogee_client::{
    Client, Compression, ConsumeFromWhere, Consumed, Filter, Message, Ordered, Producer,
    PushConsumer, ReceivedMessage, Resolution,
};
use tokio::io::{AsyncBufReadExt, BufReader, stdin};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let name_server = env::var("NAMESRV_ADDR").context("NAMESRV_ADDR")?;
    // Brokers ask only producers about transactions that they have heard of.
    let beat = Duration::from_secs(1);
    let client = Client::builder([name_server]).heartbeat_broker_interval(beat).build()?;
    let producer = client
        .producer(format!("peer-{}", std::process::id()))
        .transaction_checker(|message| {
            ready(match message.body().starts_with(b"commit") {
                true => Resolution::Commit,
                false => Resolution::Rollback,
            })
        })
        .build()?;
    let mut peer = Peer { client, producer, consumers: HashMap::new() };
    let mut lines = BufReader::new(stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let words: Vec<&str> = line.split('\t').collect();
        match peer.obey(&words).await {
            Ok(words) => println!("ok\t{words}"),
            Err(reason) => println!("error\t{reason:#}"),
        }
    }
    Ok(())
}

struct Peer {
    client: Client,
    producer: Producer,
    consumers: HashMap<String, PushConsumer>,
}

impl Peer {
    async fn obey(&mut self, words: &[&str]) -> anyhow::Result<String> {
        match words {
            ["id"] => Ok(self.client.id().to_owned()),
            ["send", topic, body, options @ ..] => {
                let message = Message::new(*topic, (*body).to_owned());
                let message = options.iter().try_fold(message, with)?;
                let receipt = self.producer.send(message).await?;
                let (queue, offset) = (receipt.queue.queue_id, receipt.queue_offset);
                Ok(format!("{}\t{queue}\t{offset}", receipt.unique_key))
            }
            ["pack", kind, topic, body] => {
                let kind = match *kind {
                    "lz4" => Compression::Lz4,
                    "zstd" => Compression::Zstd,
                    _ => Compression::Zlib,
                };
                let group = format!("peer-{kind:?}-{}", std::process::id());
                let producer = self.client.producer(group).compress_type(kind).build()?;
                let receipt = producer.send(Message::new(*topic, (*body).to_owned())).await?;
                producer.shutdown().await;
                Ok(receipt.unique_key)
            }
            ["batch", topic, count] => {
                let message = |number| {
                    let message = Message::new(*topic, format!("batch {number}"));
                    message.tag("batch").key(format!("k{number}"))
                };
                let messages = (0..count.parse::<usize>()?).map(message).collect();
                Ok(self.producer.send_batch(messages).await?.len().to_string())
            }
            ["transact", topic, end, body] => {
                let message = Message::new(*topic, (*body).to_owned()).tag("tag");
                let transaction = self.producer.begin_transaction(message).await?;
                let key = transaction.unique_key().to_owned();
                match *end {
                    "commit" => transaction.commit().await?,
                    "rollback" => transaction.rollback().await?,
                    _ => drop(transaction),
                }
                Ok(key)
            }
            ["consume", name, topic, group, kind, filter] => {
                let consumer = self.consume(name, topic, group, kind, filter).await?;
                self.consumers.insert((*name).to_owned(), consumer);
                Ok(String::new())
            }
            ["stop", name] => {
                let consumer = self.consumers.remove(*name).context("no such consumer")?;
                consumer.shutdown().await?;
                Ok(String::new())
            }
            ["request", topic, body] => {
                let message = Message::new(*topic, (*body).to_owned());
                let reply = self.producer.request(message, Duration::from_secs(5)).await?;
                Ok(String::from_utf8_lossy(reply.body()).into_owned())
            }
            other => bail!("no such command: {other:?}"),
        }
    }

    async fn consume(
        &self,
        name: &str,
        topic: &str,
        group: &str,
        kind: &str,
        filter: &str,
    ) -> anyhow::Result<PushConsumer> {
        let filter = match filter.strip_prefix("sql:") {
            Some(condition) => Filter::sql92(condition),
            None => Filter::tags(filter),
        };
        let builder = self
            .client
            .push_consumer(group)
            .subscribe(topic, filter)
            .consume_from_where(ConsumeFromWhere::FirstOffset);
        let (name, producer) = (name.to_owned(), self.producer.clone());
        Ok(match kind {
            "order" => {
                let handler = move |messages: Vec<ReceivedMessage>| {
                    messages.iter().for_each(|message| describe(&name, message));
                    ready(Ordered::Done)
                };
                builder.start_orderly(handler).await?
            }
            "fail" => {
                let handler = move |message: ReceivedMessage| {
                    describe(&name, &message);
                    ready(Consumed::RetryAtLevel(1))
                };
                builder.max_reconsume_times(2).start(handler).await?
            }
            "reply" => {
                let handler = move |message: ReceivedMessage| {
                    describe(&name, &message);
                    let (producer, body) = (producer.clone(), message.body().clone());
                    async move {
                        if let Ok(reply) = message.reply([b"re: ", body.as_ref()].concat()) {
                            // Who asked may not be known to the broker yet, or has stopped waiting; it asks again.
                            let _ = producer.send(reply).await;
                        }
                        Consumed::Done
                    }
                };
                builder.start(handler).await?
            }
            _ => {
                let handler = move |message: ReceivedMessage| {
                    describe(&name, &message);
                    ready(Consumed::Done)
                };
                builder.start(handler).await?
            }
        })
    }
}

fn with(message: Message, option: &&str) -> anyhow::Result<Message> {
    let (name, value) = option.split_once('=').context("an option is NAME=VALUE")?;
    Ok(match name {
        "tag" => message.tag(value),
        "key" => message.key(value),
        "shard" => message.sharding_key(value),
        "level" => message.delay_level(value.parse()?),
        "in" => message.delay(Duration::from_millis(value.parse()?)),
        name => message.property(name, value),
    })
}

/// Name of the consumer, unique key, body, tag, keys, the property `colour`, queue, offset, store time, failures so far.
fn describe(name: &str, message: &ReceivedMessage) {
    println!(
        "got\t{name}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}",
        message.unique_key().unwrap_or_default(),
        String::from_utf8_lossy(message.body()),
        message.tag().unwrap_or_default(),
        message.keys().collect::<Vec<_>>().join(" "),
        message.property("colour").unwrap_or_default(),
        message.queue().queue_id,
        message.queue_offset(),
        message.stored_at(),
        message.reconsume_times(),
    );
}
