//! `apogee tail`: looks at a topic without being a member of any group; nobody's progress changes.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use apogee_client::{ConsumeError, MessageQueue, PullConsumer, ReceivedMessage};
use clap::Args;

use crate::signals::stopped;

use super::{
    Cluster, READERS, find_queue,
    show::{Form, Printer, unread},
    when::{self, From},
};

/// How many last messages are looked for without being asked how many.
const LAST: u64 = 10;
/// How long one look at the queues takes at most.
const LOOK: Duration = Duration::from_secs(10);

/// Flags of `apogee tail`.
#[derive(Debug, Args)]
pub(crate) struct Tail {
    /// The topic.
    topic: String,
    /// Begins here instead of N before the end: first, last, offset:N, a time as 2026-11-23T10:30, or how long ago as
    /// 15m.
    #[arg(long, value_name = "PLACE", value_parser = when::from)]
    from: Option<From>,
    /// The last N messages, 10 by default; with --from, the first N from there.
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    count: Option<u64>,
    /// Goes on with what comes, until it is interrupted or, with --from, has printed N.
    #[arg(long, short)]
    follow: bool,
    /// Looks at this queue only: ID or BROKER:ID.
    #[arg(long, value_name = "QUEUE")]
    queue: Option<String>,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    cluster: Cluster,
}

impl Tail {
    /// Prints what was asked for.
    pub(crate) fn run(self) -> Result<()> {
        super::run(|mut stop| async move {
            tokio::select! {
                ended = self.tail() => ended,
                () = stopped(&mut stop) => Ok(()),
            }
        })
    }

    async fn tail(self) -> Result<()> {
        let client = self.cluster.client()?;
        let mut reader = client.pull_consumer(READERS).auto_commit(None).start().await?;
        let mut queues = reader.queues(&self.topic).await?;
        if let Some(wanted) = &self.queue {
            queues = vec![find_queue(&queues, wanted, &self.topic)?.clone()];
        }
        // Where the queues end now.
        let mut ends = BTreeMap::new();
        let mut begins = BTreeMap::new();
        for queue in queues {
            let end = reader.end_offset(&queue).await?;
            begins.insert(queue.clone(), self.begin(&reader, &queue, end).await?);
            ends.insert(queue, end);
        }
        let mut printer = Printer::new(self.form);
        if self.from.is_none() {
            let last = self.last(&mut reader, &begins, &ends).await?;
            for message in &last {
                if let Err(error) = printer.message(message) {
                    return unread(error);
                }
            }
            if !self.follow {
                return Ok(());
            }
            begins.clone_from(&ends);
        }
        let is_left = |queue: &MessageQueue, next: i64| self.follow || next < ends[queue];
        begins.retain(|queue, begin| is_left(queue, *begin));
        assign(&mut reader, &begins)?;
        let count = if self.from.is_some() { self.count.unwrap_or(u64::MAX) } else { u64::MAX };
        while reader
            .assignment()
            .iter()
            .any(|queue| is_left(queue, reader.position(queue).unwrap_or(0)))
        {
            for message in reader.poll(LOOK).await? {
                if !is_left(message.queue(), message.queue_offset()) {
                    continue;
                }
                if let Err(error) = printer.message(&message) {
                    return unread(error);
                }
                if printer.count() >= count {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    async fn begin(
        &self,
        reader: &PullConsumer,
        queue: &MessageQueue,
        end: i64,
    ) -> Result<i64, ConsumeError> {
        let first = reader.first_offset(queue).await?;
        let begin = match self.from {
            None => end - i64::try_from(self.count.unwrap_or(LAST)).unwrap_or(i64::MAX),
            Some(From::First) => first,
            Some(From::Last) => end,
            Some(From::Offset(offset)) => offset,
            Some(From::Time(time)) => reader.offset_for_time(queue, time).await?,
        };
        Ok(begin.clamp(first.min(end), end))
    }

    /// Returns the last messages of all queues before `ends`, by the time at which they were stored.
    async fn last(
        &self,
        reader: &mut PullConsumer,
        begins: &BTreeMap<MessageQueue, i64>,
        ends: &BTreeMap<MessageQueue, i64>,
    ) -> Result<Vec<ReceivedMessage>> {
        let count = usize::try_from(self.count.unwrap_or(LAST))?;
        let mut begins = begins.clone();
        begins.retain(|queue, begin| *begin < ends[queue]);
        assign(reader, &begins)?;
        let mut last: Vec<ReceivedMessage> = Vec::new();
        while begins.keys().any(|queue| reader.position(queue).unwrap_or(0) < ends[queue]) {
            let messages = reader.poll(LOOK).await?;
            last.extend(
                messages
                    .into_iter()
                    .filter(|message| message.queue_offset() < ends[message.queue()]),
            );
            if last.len() > 2 * count {
                keep_last(&mut last, count);
            }
        }
        keep_last(&mut last, count);
        Ok(last)
    }
}

/// Has the reader read these queues from these offsets.
fn assign(reader: &mut PullConsumer, begins: &BTreeMap<MessageQueue, i64>) -> Result<()> {
    reader.assign(begins.keys().cloned())?;
    for (queue, begin) in begins {
        reader.seek(queue, *begin)?;
    }
    Ok(())
}

fn keep_last(messages: &mut Vec<ReceivedMessage>, count: usize) {
    messages.sort_by_key(|message| (message.stored_at(), message.queue_offset()));
    messages.drain(..messages.len().saturating_sub(count));
}
