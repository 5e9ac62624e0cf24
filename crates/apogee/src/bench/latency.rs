//! `apogee bench latency`: sends at a rate to a waiting consumer; time runs from the scheduled send to the arrival.
//!
//! Sender and consumer are in one process, so one clock measures both ends.

use std::sync::Arc;

use anyhow::{Result, bail};
use clap::Args;
use tokio::time::{Duration, Instant, timeout};

use super::{
    Length, Target, Work,
    control::Control,
    pipe::Pipe,
    produce::{Ring, Sender, Shape},
    pull::{Ask, Reader},
    report::{Line, Tally, measure},
};

/// Flags of `bench latency`.
#[derive(Debug, Args)]
pub(crate) struct Latency {
    #[command(flatten)]
    pub(super) target: Target,
    #[command(flatten)]
    length: Length,
    #[command(flatten)]
    shape: Shape,
    /// Messages a second.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    rate: u64,
    /// Consumer group.
    #[arg(long, default_value = "apogee-bench")]
    group: String,
}

/// Requests in flight: more than any sensible rate needs, so that a stall does not stop the schedule.
const IN_FLIGHT: u32 = 4096;
/// How long the consumer waits for the last messages.
const LAST_MESSAGES: Duration = Duration::from_secs(10);

impl Latency {
    pub(super) async fn run(self) -> Result<()> {
        self.length.check()?;
        if self.shape.size < 8 {
            bail!("--size: a body holds at least its stamp of 8 bytes");
        }
        let brokers = self.target.brokers().await?;
        let broker = &brokers[0];
        let create_us = self.target.create_topics(&brokers[..1]).await?;
        let epoch = Instant::now();
        if self.length.warmup > 0 {
            self.pass(broker, epoch, &Arc::new(Work::new(self.length.warmup, None))).await?;
        }
        let work = self.length.work();
        let measured = measure(&self.target.pid, &work, self.pass(broker, epoch, &work)).await?;
        let (sent, received, out_of_order) = &measured.output;
        let mut line = Line::default();
        line.pair("op", "latency").pair("size", self.shape.size).pair("target_rate", self.rate);
        line.pair("topics", self.target.topics).pair("queues", self.target.queues);
        if let Some(create_us) = create_us {
            line.pair("create_topic_us", format_args!("{create_us:.1}"));
        }
        line.pair("received", received.messages).pair("out_of_order", out_of_order);
        line.run(&self.target.pid, &measured, sent);
        line.percentiles("send_", &sent.latency)
            .percentiles("end_to_end_", &received.latency)
            .print();
        Ok(())
    }

    /// Sends the work and waits until all of it has arrived.
    async fn pass(
        &self,
        broker: &str,
        epoch: Instant,
        work: &Arc<Work>,
    ) -> Result<(Tally, Tally, u64)> {
        let Target { codec, topics, queues, .. } = self.target;
        let mut control = Control::connect(broker, codec).await?;
        let mut reader = Reader::new(false, Some(epoch));
        for at in 0..topics * queues {
            let (topic, queue) = (self.target.topic_name(at % topics), at / topics);
            let (_, max) = control.offsets(&topic, queue).await?;
            let (group, tags) = (&*self.group, Some("*"));
            let ask =
                Ask { group, topic: &topic, queue, max: 32, tags, wait: true, orderly: false };
            reader.add(codec, &ask, max, i64::MAX);
        }
        // the reader's work is what arrives: it ends when as many came as were sent
        let arrivals = Arc::new(Work::new(u64::MAX, None));
        reader.begin(Arc::clone(&arrivals));
        let mut reader_pipe = Pipe::connect(broker).await?;
        let reading = async {
            reader_pipe.drive(&mut reader).await?;
            anyhow::Ok(())
        };
        let sending = async {
            let ring = Ring::new(&self.target, &self.shape, IN_FLIGHT, 0);
            let mut sender = Sender::new(ring, IN_FLIGHT, self.rate as f64).stamped_from(epoch);
            sender.begin(Arc::clone(work));
            Pipe::connect(broker).await?.drive(&mut sender).await?;
            let all_came = async {
                while arrivals.done.load(std::sync::atomic::Ordering::Relaxed)
                    < sender.tally.messages
                {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            // whatever does not come shows in the line as the difference of two counts
            let _ = timeout(LAST_MESSAGES, all_came).await;
            arrivals.finish();
            anyhow::Ok(sender.tally)
        };
        let ((), sent) = tokio::try_join!(reading, sending)?;
        Ok((sent, reader.tally, reader.out_of_order))
    }
}
