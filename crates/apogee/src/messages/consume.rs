//! `apogee consume`: a member of a consumer group that prints what it gets; what is printed is the group's progress.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Result;
use apogee_client::{ConsumeFromWhere, Consumed, Filter, ReceivedMessage};
use clap::Args;
use tokio::sync::{oneshot, watch};

use crate::signals::{Stop, stopped};

use super::{
    Cluster, READERS,
    show::{Form, Printer, unread},
    when::{self, From},
};

/// Flags of `apogee consume`.
#[derive(Debug, Args)]
pub(crate) struct Consume {
    /// The topic.
    topic: String,
    /// Consumer group; its members share the messages.
    #[arg(long, short)]
    group: String,
    /// Takes messages with one of these tags only: `TagA || TagB`.
    #[arg(long, value_name = "TAGS", conflicts_with = "sql")]
    filter: Option<String>,
    /// Takes messages whose properties meet a condition of SQL92 only.
    #[arg(long, value_name = "CONDITION")]
    sql: Option<String>,
    /// Where a group without progress begins: first, last, a time as 2026-11-23T10:30, or how long ago as 15m.
    #[arg(long, default_value = "last", value_name = "PLACE", value_parser = when::group_from)]
    from: From,
    /// Ends after so many messages.
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    cluster: Cluster,
}

impl Consume {
    /// Consumes until enough has come, nobody reads any more, or a signal comes.
    pub(crate) fn run(self) -> Result<()> {
        super::run(|stop| self.consume(stop))
    }

    async fn consume(self, mut stop: Stop) -> Result<()> {
        let client = self.cluster.client()?;
        // A consumer waits for a topic that is not there yet; who typed its name should know.
        client.pull_consumer(READERS).start().await?.queues(&self.topic).await?;
        let filter = match (self.filter, self.sql) {
            (Some(tags), _) => Filter::tags(tags),
            (None, Some(condition)) => Filter::sql92(condition),
            (None, None) => Filter::all(),
        };
        let (ended, end) = oneshot::channel();
        let (released, release) = watch::channel(false);
        let output = Arc::new(Mutex::new(Output {
            printer: Printer::new(self.form),
            count: self.count.unwrap_or(u64::MAX),
            ended: Some(ended),
        }));
        let consumer = client
            .push_consumer(self.group)
            .subscribe(&self.topic, filter)
            .consume_from_where(match self.from {
                From::First => ConsumeFromWhere::FirstOffset,
                From::Time(time) => ConsumeFromWhere::Timestamp(time),
                From::Last | From::Offset(_) => ConsumeFromWhere::LastOffset,
            })
            .concurrency(1)
            .persist_consumer_offset_interval(Duration::from_secs(1))
            .start(move |message| {
                let is_last = output.lock().unwrap_or_else(PoisonError::into_inner).take(&message);
                let mut release = release.clone();
                async move {
                    if is_last {
                        // It is done once nothing more can be handed over: what follows is the next member's.
                        let _ = release.wait_for(|released| *released).await;
                    }
                    Consumed::Done
                }
            })
            .await?;
        let end = tokio::select! {
            end = end => end.unwrap_or(Ok(())),
            () = stopped(&mut stop) => Ok(()),
        };
        if let Err(error) = end {
            // What could not be printed is no progress, so it is not waited for.
            drop(consumer);
            return unread(error);
        }
        // The first look at `shutdown` stops the handing over.
        let (kept, ()) = tokio::join!(biased; consumer.shutdown(), async {
            released.send_replace(true);
        });
        Ok(kept?)
    }
}

/// Where messages go, until the last one that is wanted or that can be printed.
struct Output {
    printer: Printer,
    count: u64,
    ended: Option<oneshot::Sender<io::Result<()>>>,
}

impl Output {
    /// Prints a message; says whether nothing may follow.
    fn take(&mut self, message: &ReceivedMessage) -> bool {
        if self.ended.is_none() {
            return true;
        }
        let printed = self.printer.message(message);
        if printed.is_ok() && self.printer.count() < self.count {
            return false;
        }
        if let Some(ended) = self.ended.take() {
            let _ = ended.send(printed); // a signal may have come first
        }
        true
    }
}
