//! `apogee send`: a message for each argument, line of standard input or file, many under way at a time.
//!
//! Receipts are printed in the order of the messages. After a failure nothing more is begun; what was under way is waited
//! for, and the first failure is told.

use std::{
    fs,
    io::{self, BufRead as _, Read as _},
    path::PathBuf,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Error, Result, anyhow};
use apogee_client::{Message, MessageQueue, Producer};
use bytes::Bytes;
use clap::Args;
use futures_util::stream::{FuturesOrdered, StreamExt as _};
use tokio::sync::mpsc;

use crate::signals::{Stop, stopped};

use super::{Cluster, Usage, find_queue, show::Printer, when};

/// How many messages are under way at most.
const UNDER_WAY_MAX: usize = 64;
/// How long a body may be; brokers take as much by default.
const BODY_BYTES_MAX: usize = 4 << 20;

/// Flags of `apogee send`.
#[derive(Debug, Args)]
pub(crate) struct Send {
    /// The topic; a broker may create it by the first message.
    topic: String,
    /// Bodies, a message each; `-` or none for standard input, each line that is not empty.
    #[arg(value_name = "BODY")]
    bodies: Vec<String>,
    /// Sends a whole file as one message; may be repeated.
    #[arg(long, value_name = "FILE", conflicts_with = "bodies")]
    file: Vec<PathBuf>,
    /// A key that messages can be looked up by; may be repeated.
    #[arg(long)]
    key: Vec<String>,
    /// The tag that consumers choose by.
    #[arg(long)]
    tag: Option<String>,
    /// A property, NAME=VALUE; may be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = crate::bench::name_and_value)]
    property: Vec<(String, String)>,
    /// Delivers after the time of a delay level of the broker, 1 to 18 by default.
    #[arg(long, value_name = "LEVEL", group = "later")]
    delay_level: Option<u8>,
    /// Delivers after a span, as 90s or 1h30m.
    #[arg(long, value_name = "SPAN", group = "later", value_parser = when::span)]
    delay: Option<Duration>,
    /// Delivers at a time: 2026-11-23T10:30:00Z, local as 2026-11-23T10:30, or ms since the epoch.
    #[arg(long, value_name = "TIME", group = "later", value_parser = when::moment)]
    at: Option<i64>,
    /// Messages of one sharding key stay in order: they go to one queue.
    #[arg(long, value_name = "KEY", conflicts_with = "queue")]
    sharding_key: Option<String>,
    /// Sends to this queue: ID or BROKER:ID.
    #[arg(long, value_name = "QUEUE")]
    queue: Option<String>,
    /// Prints a JSON object a line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cluster: Cluster,
}

impl Send {
    /// Sends all, or what was begun before a failure or a signal.
    pub(crate) fn run(self) -> Result<()> {
        super::run(|stop| self.send(stop))
    }

    async fn send(mut self, mut stop: Stop) -> Result<()> {
        let client = self.cluster.client()?;
        let producer = client
            .producer("apogee-send")
            .max_message_size(BODY_BYTES_MAX)
            // never the bound: that is the number under way
            .buffer_bytes_max(2 * UNDER_WAY_MAX * BODY_BYTES_MAX)
            .build()?;
        let queue = match &self.queue {
            Some(wanted) => {
                Some(find_queue(&producer.queues(&self.topic).await?, wanted, &self.topic)?.clone())
            }
            None => None,
        };
        let mut bodies = read(std::mem::take(&mut self.bodies), std::mem::take(&mut self.file));
        let mut printer = Printer::of_receipts(self.json);
        let mut under_way = FuturesOrdered::new();
        let mut failure: Option<Error> = None;
        let mut goes_on = true;
        loop {
            let failed = tokio::select! {
                biased;
                Some(sent) = under_way.next(), if !under_way.is_empty() => match sent {
                    Ok(receipt) => printer.receipt(&receipt).err().map(Error::from),
                    Err(error) => Some(Error::from(error)),
                },
                () = stopped(&mut stop), if goes_on => {
                    goes_on = false;
                    None
                }
                body = bodies.recv(), if goes_on && under_way.len() < UNDER_WAY_MAX => match body {
                    None => {
                        goes_on = false;
                        None
                    }
                    Some(body) => match self.begin(&producer, queue.as_ref(), body).await {
                        Ok(receipt) => {
                            under_way.push_back(receipt);
                            None
                        }
                        Err(error) => Some(error),
                    },
                },
                else => break,
            };
            if let Some(failed) = failed {
                goes_on = false;
                failure.get_or_insert(failed);
            }
        }
        producer.shutdown().await;
        match failure {
            None => Ok(()),
            // what was sent before is known by its receipts
            Some(error) if printer.count() > 0 => {
                let count = printer.count();
                Err(error.context(format!("{count} messages were stored, and then one was not")))
            }
            Some(error) => Err(error),
        }
    }

    async fn begin(
        &self,
        producer: &Producer,
        queue: Option<&MessageQueue>,
        body: Result<Bytes>,
    ) -> Result<apogee_client::Receipt> {
        let mut message = Message::new(&self.topic, body?);
        for key in &self.key {
            message = message.key(key);
        }
        if let Some(tag) = &self.tag {
            message = message.tag(tag);
        }
        for (name, value) in &self.property {
            message = message.property(name, value);
        }
        if let Some(level) = self.delay_level {
            message = message.delay_level(level);
        }
        if let Some(delay) = self.delay {
            message = message.delay(delay);
        }
        if let Some(at) = self.at {
            message = message.deliver_at(at.unsigned_abs());
        }
        if let Some(key) = &self.sharding_key {
            message = message.sharding_key(key);
        }
        Ok(match queue {
            Some(queue) => producer.submit_to(message, queue).await?,
            None => producer.submit(message).await?,
        })
    }
}

/// Reads the bodies on a thread of its own, a few ahead; it ends with the process.
fn read(bodies: Vec<String>, files: Vec<PathBuf>) -> mpsc::Receiver<Result<Bytes>> {
    let (sender, receiver) = mpsc::channel(8);
    thread::spawn(move || {
        // who is gone wants nothing more
        let give = |body| sender.blocking_send(body).is_ok();
        for file in &files {
            if !give(read_file(file)) {
                return;
            }
        }
        if !files.is_empty() {
            return;
        }
        if bodies.is_empty() {
            read_lines(&give);
        }
        for body in bodies {
            if body == "-" {
                read_lines(&give);
            } else if !give(Ok(body.into())) {
                return;
            }
        }
    });
    receiver
}

fn read_file(path: &PathBuf) -> Result<Bytes> {
    let said = || path.display().to_string();
    let len = fs::metadata(path).with_context(said)?.len();
    if len > BODY_BYTES_MAX as u64 {
        let reason =
            format!("`{}` has {len} bytes, and a message at most {BODY_BYTES_MAX}", said());
        return Err(Usage(reason).into());
    }
    Ok(fs::read(path).with_context(said)?.into())
}

fn read_lines(give: &impl Fn(Result<Bytes>) -> bool) {
    let mut input = io::stdin().lock();
    loop {
        let mut line = Vec::new();
        let body = match input.by_ref().take(BODY_BYTES_MAX as u64 + 2).read_until(b'\n', &mut line)
        {
            Ok(0) => return,
            Ok(_) => {
                let text = line.strip_suffix(b"\n").unwrap_or(&line);
                let len = text.strip_suffix(b"\r").unwrap_or(text).len();
                if len == 0 {
                    continue;
                }
                line.truncate(len);
                Ok(line.into())
            }
            Err(error) => Err(anyhow!(error).context("standard input")),
        };
        let is_whole = body.as_ref().is_ok_and(|body: &Bytes| body.len() <= BODY_BYTES_MAX);
        if !give(body) || !is_whole {
            return;
        }
    }
}
