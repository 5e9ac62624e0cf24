//! Attaches a filter in WebAssembly to a group and consumes what it lets through: messages that are urgent by their tag or
//! their body. The second argument is the folder of the broker's data, `./data` unless named; Apogee only.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::{collections::HashSet, env, fs, future::ready, path::PathBuf, time::Duration};

use anyhow::{Context, bail, ensure};
use apogee_client::{Client, ConsumeFromWhere, Consumed, Filter, Message};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

/// Built from `examples/filters/rust`.
const MODULE: &[u8] = include_bytes!("../fixtures/filters/example.wasm");

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let name_server = env::args().nth(1).or_else(|| env::var("ROCKETMQ_NAMESRV_ADDR").ok());
    let client = Client::builder([name_server.as_deref().unwrap_or("127.0.0.1:9876")]).build()?;

    // What `apogee filter attach FilterWasm filter-wasm-readers example.wasm` does.
    let data = PathBuf::from(env::args().nth(2).unwrap_or_else(|| "./data".to_owned()));
    ensure!(data.is_dir(), "{} is not the folder of a broker's data", data.display());
    let folder = data.join("config/filters");
    fs::create_dir_all(&folder).context("the folder of filters")?;
    let module = folder.join("FilterWasm@filter-wasm-readers.wasm");
    fs::write(module.with_extension("new"), MODULE)?;
    fs::rename(module.with_extension("new"), &module)?;
    println!("attached {}; the broker sees it within a second", module.display());
    sleep(Duration::from_secs(2)).await;

    let producer = client.producer("filter-wasm").build()?;
    let mut awaited = HashSet::new();
    for (tag, body) in [("urgent", "by tag"), ("late", "no"), ("late", "URGENT by body")].repeat(5)
    {
        let receipt = producer.send(Message::new("FilterWasm", body).tag(tag)).await?;
        if body != "no" {
            awaited.insert(receipt.unique_key);
        }
    }

    let (sender, mut inbox) = mpsc::unbounded_channel();
    let consumer = client
        .push_consumer("filter-wasm-readers")
        .subscribe("FilterWasm", Filter::all())
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
        println!("got {:?} with tag {:?}", message.body(), message.tag());
        ensure!(message.body() != "no", "the filter let through what is not urgent");
        awaited.remove(message.unique_key().unwrap_or_default());
    }
    consumer.shutdown().await?;
    producer.shutdown().await;
    Ok(())
}
