//! `apogee bench produce --client` and `pull --client`: the same work through `apogee-client`, as a program would do it.
//!
//! What the generator costs then is what the client costs, beside the raw connections' price for the same messages. Sends
//! are submitted by one task for each connection; pulls are those of a push consumer with its defaults.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use anyhow::{Result, bail};
use apogee_client::{Client, ConsumeFromWhere, Consumed, Filter, Message, Producer};
use bytes::Bytes;
use tokio::{sync::Notify, task::JoinSet, time::Instant};

use super::{
    Work,
    produce::Produce,
    pull::Pull,
    report::{Line, Tally, measure},
};

/// `bench produce --client`.
pub(super) async fn produce(bench: &Produce) -> Result<()> {
    let Produce { target, length, shape, in_flight, .. } = bench;
    let brokers = target.brokers().await?;
    target.create_topics(&brokers).await?;
    let mut producers = Vec::new();
    for _ in 0..target.connections {
        let client = Client::builder([&target.namesrv]).build()?;
        let producer = client
            .producer("apogee-bench")
            .compress_msg_body_over_howmuch(usize::MAX)
            // the bound is `in_flight`
            .buffer_bytes_max(u32::MAX as usize)
            .build()?;
        producers.push(producer);
    }
    let drive = async |work: Arc<Work>| {
        let mut tasks = JoinSet::new();
        for producer in &producers {
            tasks.spawn(send(producer.clone(), Sample::new(bench), *in_flight, work.clone()));
        }
        let mut tally = Tally::default();
        while let Some(task) = tasks.join_next().await {
            tally.add(&task??);
        }
        anyhow::Ok(tally)
    };
    if length.warmup > 0 {
        drive(Arc::new(Work::new(length.warmup, None))).await?;
    }
    let work = length.work();
    let measured = measure(&target.pid, &work, drive(work.clone())).await?;
    for producer in producers {
        producer.shutdown().await;
    }
    let tally = &measured.output;
    let mut line = Line::default();
    line.pair("op", "produce").pair("through", "apogee-client").pair("size", shape.size);
    line.pair("connections", target.connections).pair("in_flight", in_flight);
    line.run(&target.pid, &measured, tally).percentiles("", &tally.latency).print();
    Ok(())
}

/// What the messages are made like.
struct Sample {
    message: Message,
    body_bytes: u64,
    keys: u32,
    sender: u32,
    count: u64,
}

impl Sample {
    fn new(bench: &Produce) -> Sample {
        let shape = &bench.shape;
        let body = Bytes::from(vec![b'x'; shape.size as usize]);
        let mut message = Message::new(&bench.target.topic, body);
        if let Some(tag) = &shape.tag {
            message = message.tag(tag);
        }
        for (name, value) in &shape.property {
            message = message.property(name, value);
        }
        let sender = fastrand::u32(..);
        Sample { message, body_bytes: u64::from(shape.size), keys: shape.keys, sender, count: 0 }
    }

    fn next(&mut self) -> Message {
        self.count += 1;
        (0..self.keys).fold(self.message.clone(), |message, at| {
            message.key(format!("{at:X}{:08X}{:016X}", self.sender, self.count))
        })
    }
}

/// Sends until the work is done, with so many messages under way.
async fn send(
    producer: Producer,
    mut sample: Sample,
    in_flight: u32,
    work: Arc<Work>,
) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut under_way = VecDeque::new();
    loop {
        let now = Instant::now();
        while under_way.len() < in_flight as usize && work.take(1, now) == 1 {
            under_way.push_back((now, producer.submit(sample.next()).await?));
        }
        let Some((begun, receipt)) = under_way.pop_front() else { return Ok(tally) };
        receipt.await?;
        tally.took(begun.elapsed());
        tally.requests += 1;
        tally.messages += 1;
        tally.bytes += sample.body_bytes;
        work.add_done(1);
    }
}

/// `bench pull --client`.
pub(super) async fn pull(bench: &Pull) -> Result<()> {
    let target = &bench.target;
    let client = Client::builder([&target.namesrv]).build()?;
    let reader = client.pull_consumer(&bench.group).start().await?;
    let mut backlog = 0;
    for queue in reader.queues(&target.topic).await? {
        backlog += reader.end_offset(&queue).await? - reader.first_offset(&queue).await?;
    }
    let backlog = u64::try_from(backlog)?;
    let messages = bench.messages.unwrap_or_else(|| backlog.saturating_sub(bench.warmup));
    let all = bench.warmup + messages;
    if messages == 0 || all > backlog {
        bail!("the backlog has {backlog} messages: `apogee bench produce` first");
    }
    let work = Arc::new(Work::new(all, None));
    let bytes = Arc::new(AtomicU64::new(0));
    let reached = Arc::new(Notify::new());
    let (counted, sum, told, warmup) = (work.clone(), bytes.clone(), reached.clone(), bench.warmup);
    let consumer = client
        // without progress, so that it begins at the front
        .push_consumer(format!("{}-{:08x}", bench.group, fastrand::u32(..)))
        .subscribe(&target.topic, Filter::tags(&bench.tags))
        .consume_from_where(ConsumeFromWhere::FirstOffset)
        .pull_batch_size(bench.max as usize)
        .start(move |message| {
            sum.fetch_add(message.body().len() as u64, Relaxed);
            let done = counted.done.fetch_add(1, Relaxed) + 1;
            if done == warmup || done == all {
                told.notify_one();
            }
            std::future::ready(Consumed::Done)
        })
        .await?;
    let until = async |wanted: u64| {
        while work.done.load(Relaxed) < wanted {
            reached.notified().await;
        }
        (work.done.load(Relaxed), bytes.load(Relaxed))
    };
    let (messages_before, bytes_before) = until(warmup).await;
    let run = async { Ok(until(all).await) };
    let measured = measure(&target.pid, &work, run).await?;
    let (messages, bytes) = measured.output;
    let mut tally = Tally::default();
    tally.messages = messages - messages_before;
    tally.bytes = bytes - bytes_before;
    consumer.shutdown().await?;
    let mut line = Line::default();
    line.pair("op", "pull").pair("through", "apogee-client").pair("max", bench.max);
    line.pair("backlog", backlog).run(&target.pid, &measured, &tally).print();
    Ok(())
}
