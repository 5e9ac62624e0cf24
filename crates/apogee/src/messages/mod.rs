//! `apogee send`, `apogee consume` and `apogee tail`: messages from and for the terminal, through `apogee-client`.
//!
//! Standard output has a line for each message and nothing else, standard error the rest. Whoever runs them in a script
//! can trust the end: 0 when all that was asked for is done, or as much of it as was begun when a signal came; 2 when the
//! command has to be corrected; 1 with what went wrong and what to do about it, in one line.

mod consume;
mod send;
mod show;
mod tail;
mod when;

use std::{env, fmt::Display};

use anyhow::{Error, Result, anyhow};
use apogee_client::{Client, ConsumeError, InvalidField, MessageQueue, RouteError, SendError};
use clap::Args;

use crate::{
    args::LogFormat,
    signals::{self, Stop},
    telemetry,
};

pub(crate) use self::{consume::Consume, send::Send, tail::Tail};

/// The group under which messages are looked at: brokers know it, and it has no progress.
const READERS: &str = "TOOLS_CONSUMER";

/// Which cluster.
#[derive(Debug, Args)]
struct Cluster {
    /// Name servers, HOST:PORT, several with `;` between; by default $ROCKETMQ_NAMESRV_ADDR, $NAMESRV_ADDR or
    /// 127.0.0.1:9876.
    #[arg(long, value_name = "ADDRESSES")]
    namesrv: Option<String>,
}

impl Cluster {
    fn client(&self) -> Result<Client> {
        let from_environment = ["ROCKETMQ_NAMESRV_ADDR", "NAMESRV_ADDR"]
            .into_iter()
            .filter_map(|name| env::var(name).ok())
            .find(|value| !value.trim().is_empty());
        let named = self.namesrv.clone().or(from_environment);
        let named = named.unwrap_or_else(|| "127.0.0.1:9876".to_owned());
        Ok(Client::builder([named]).build()?)
    }
}

/// What is asked for cannot be; who typed it has to correct it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

/// Whether the command has to be corrected, rather than the world.
pub(crate) fn is_usage(error: &Error) -> bool {
    error.is::<Usage>()
        || error.is::<InvalidField>()
        || matches!(error.downcast_ref(), Some(SendError::Invalid(_)))
        || matches!(error.downcast_ref(), Some(ConsumeError::Invalid(_)))
}

/// Runs a command to its end. Whoever reads our output slowly keeps one thread, and the other keeps the membership.
fn run<R: Future<Output = Result<()>>>(work: impl FnOnce(Stop) -> R) -> Result<()> {
    // What goes wrong for good is the command's own last line.
    telemetry::start(LogFormat::Text, "error");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async { work(signals::listen()?).await.map_err(with_cure) })
}

/// Adds what to do to errors that only say what is wrong.
fn with_cure(error: Error) -> Error {
    let ((Some(SendError::Route(route)), _, _)
    | (_, Some(ConsumeError::Route(route)), _)
    | (_, _, Some(route))) = (error.downcast_ref(), error.downcast_ref(), error.downcast_ref())
    else {
        return error;
    };
    match route {
        RouteError::NameServersAway { .. } => {
            anyhow!("{error:#}; start one, or say where with --namesrv")
        }
        RouteError::NoSuchTopic { .. } | RouteError::NoQueue { .. } => error,
        RouteError::NoBroker { .. } => anyhow!("{error:#}; is the broker running?"),
    }
}

/// Finds a queue by its id, or by `BROKER:ID`, among those of a topic.
fn find_queue<'a>(
    queues: &'a [MessageQueue],
    wanted: &str,
    topic: impl Display,
) -> Result<&'a MessageQueue> {
    let (broker, id) =
        wanted.rsplit_once(':').map_or((None, wanted), |(broker, id)| (Some(broker), id));
    let id: i32 =
        id.parse().map_err(|_| Usage(format!("--queue is ID or BROKER:ID, not `{wanted}`")))?;
    let is_it = |queue: &&MessageQueue| {
        queue.queue_id == id && broker.is_none_or(|broker| queue.broker_name == broker)
    };
    queues.iter().find(is_it).ok_or_else(|| {
        let all: Vec<String> = queues
            .iter()
            .map(|queue| format!("{}:{}", queue.broker_name, queue.queue_id))
            .collect();
        Usage(format!("`{topic}` has no queue `{wanted}`; there are {}", all.join(" "))).into()
    })
}
