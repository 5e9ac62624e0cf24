//! `apogee bench timers`: messages that are due at whole seconds, all of which wait before the first is.
//!
//! The line tells what it costs to take them in (`in_`) and to keep them, and what it costs to deliver them. How late each came is
//! read off the messages themselves, from the time that it was due, in its body, to the time that the server stored it.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use anyhow::{Result, bail};
use clap::Args;
use tokio::time::{Duration, sleep};

use super::{
    Target, Work,
    control::Control,
    meter::anonymous_mib,
    pipe::Pipe,
    produce::{Due, Lag, Ring, Sender, Shape, drive, epoch_millis},
    pull::{self, Ask, Punctuality, Reader},
    report::{Line, Tally, measure},
};

/// Flags of `bench timers`.
#[derive(Debug, Args)]
pub(crate) struct Timers {
    #[command(flatten)]
    pub(super) target: Target,
    #[command(flatten)]
    shape: Shape,
    /// How many messages.
    #[arg(long, default_value_t = 1_000_000)]
    messages: u64,
    /// Seconds until the first are due; all must be sent by then.
    #[arg(long, default_value_t = 60)]
    lead: u64,
    /// Seconds that they are due in, as many in each.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    over: u64,
    /// Requests in flight on each connection.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    in_flight: u32,
}

impl Timers {
    pub(super) async fn run(mut self) -> Result<()> {
        let first = (epoch_millis() / 1000 + self.lead) * 1000;
        self.shape.due = Some(Due { first, seconds: self.over });
        let Timers { target, shape, messages, .. } = &self;
        if shape.size < 8 {
            bail!("--size: a body holds at least its time of 8 bytes");
        }
        let brokers = target.brokers().await?;
        let [broker] = &brokers[..] else { bail!("--broker: one, please") };
        target.create_topics(&brokers).await?;
        let mut senders = Vec::new();
        for at in 0..target.connections {
            let ring = Ring::new(target, shape, self.in_flight, at);
            senders.push((Pipe::connect(broker).await?, Sender::new(ring, self.in_flight, 0.0)));
        }
        let mut readable = Lag::open(target, broker).await?;

        let anon_before = anonymous_mib(&target.pid);
        let work = Arc::new(Work::new(*messages, None));
        let sent = measure(&target.pid, &work, drive(&mut senders, &work)).await?;
        let mut tally = Tally::default();
        sent.output.iter().for_each(|(_, sender)| tally.add(&sender.tally));
        let Some(left) = first.checked_sub(epoch_millis()) else {
            bail!("--lead: sending took longer than that");
        };
        // what is left of the lead belongs to neither part
        sleep(Duration::from_millis(left.saturating_sub(500))).await;
        let anon_pending = anonymous_mib(&target.pid);
        let count = tally.messages;
        let wait = async {
            readable.wait_for(count).await?;
            Ok(())
        };
        let delivered = measure(&target.pid, &work, wait).await?;
        let (late, punctuality) = self.read_back(broker, count).await?;
        let seconds = punctuality.last.saturating_sub(punctuality.first).max(1) as f64 / 1e3;
        let mut line = Line::default();
        line.pair("op", "timers").pair("size", shape.size).pair("came", late.messages);
        line.pair("in_rate", format_args!("{:.0}", sent.rate(count)));
        line.pair("in_server_cpu_us", format_args!("{:.3}", sent.server_cpu_us(count)));
        line.pair("anon_before_mib", format_args!("{anon_before:.1}"));
        line.pair("anon_pending_mib", format_args!("{anon_pending:.1}"));
        line.pair("early", punctuality.early);
        line.pair("delivered_per_s", format_args!("{:.0}", count as f64 / seconds));
        for (key, quantile) in [("late_p50_ms", 0.5), ("late_p99_ms", 0.99), ("late_max_ms", 1.0)] {
            let late = late.latency.value_at_quantile(quantile) as f64 / 1e6;
            line.pair(key, format_args!("{late:.0}"));
        }
        line.run(&target.pid, &delivered, &tally).print();
        Ok(())
    }

    /// Reads all of the topic.
    async fn read_back(&self, broker: &str, count: u64) -> Result<(Tally, Punctuality)> {
        let Target { codec, topics, queues, .. } = self.target;
        let mut reader = Reader::new(false, None);
        reader.punctuality = Some(Punctuality { early: 0, first: u64::MAX, last: 0 });
        let mut control = Control::connect(broker, codec).await?;
        for at in 0..topics * queues {
            let (topic, queue) = (self.target.topic_name(at % topics), at / topics);
            let (min, max) = control.offsets(&topic, queue).await?;
            let (group, tags) = ("apogee-bench", Some("*"));
            let ask =
                Ask { group, topic: &topic, queue, max: 32, tags, wait: false, orderly: false };
            reader.add(codec, &ask, min, max);
        }
        let work = Arc::new(Work::new(u64::MAX, None));
        let readers = vec![(Pipe::connect(broker).await?, reader)];
        let readers = pull::drive(readers, &work).await?;
        let Some((_, reader)) = readers.into_iter().next() else { bail!("the reader is gone") };
        if work.done.load(Relaxed) < count {
            bail!("{} of {count} messages can be read", work.done.load(Relaxed));
        }
        let Some(punctuality) = reader.punctuality else { bail!("the reader has lost count") };
        Ok((reader.tally, punctuality))
    }
}
