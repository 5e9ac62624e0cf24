//! Where a group's progress is kept: at the queue's broker, or in a file of this member.
//!
//! The file is Java's: `offsets.json`, an object of queues with their offsets, under the client's and the group's name.
//! It is replaced whole, so a crash leaves the old or the new one.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use env::{Disk, RealDisk};
use wire::{
    body::{MessageQueue, progress::ResetOffsets},
    code::{RequestCode, ResponseCode},
    fastjson,
    frame::Frame,
    header::offset::{OffsetResponse, QueryConsumerOffset, UpdateConsumerOffset},
};

use crate::{
    error::{ConsumeError, InvalidField, RequestError},
    lines::{refused, succeeded},
};

use super::Membership;

/// Longest file that is read, in bytes: about 100,000 queues.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// A group's progress.
pub(crate) enum Offsets {
    /// Kept by brokers.
    Remote,
    /// Kept in a file.
    Local(LocalOffsets),
}

/// The file of a broadcast consumer.
pub(crate) struct LocalOffsets {
    path: PathBuf,
    table: Mutex<BTreeMap<MessageQueue, i64>>,
}

impl Offsets {
    pub(super) fn remote() -> Offsets {
        Offsets::Remote
    }

    /// Opens the file below `dir`, by default `.rocketmq_offsets` in the user's home (Java: `rocketmq.client.localOffsetStoreDir`).
    pub(super) fn local(
        dir: Option<PathBuf>,
        instance: &str,
        group: &str,
    ) -> Result<Offsets, ConsumeError> {
        let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".rocketmq_offsets"));
        let dir = dir.or_else(home).ok_or_else(|| {
            InvalidField::new(
                "local_offset_store_dir",
                "",
                "there is no home directory to keep offsets in; set one",
            )
        })?;
        let path = dir.join(instance).join(group).join("offsets.json");
        let bytes = env::read_whole(&RealDisk::new(), &path, FILE_BYTES_MAX)
            .map_err(|error| file_error(&path, &error))?;
        let table = match bytes {
            None => BTreeMap::new(),
            Some(bytes) => {
                let read: Result<ResetOffsets, _> = fastjson::decode(&bytes);
                read.map_err(|error| file_error(&path, &error))?.offset_table
            }
        };
        Ok(Offsets::Local(LocalOffsets { path, table: Mutex::new(table) }))
    }

    /// Returns the progress in a queue; none if there is none yet.
    pub(crate) async fn read(
        &self,
        member: &Membership,
        queue: &MessageQueue,
    ) -> Result<Option<i64>, ConsumeError> {
        if let Offsets::Local(local) = self {
            let table = local.table.lock().unwrap_or_else(PoisonError::into_inner);
            return Ok(table.get(queue).copied());
        }
        let address = member.master(queue).await?;
        let header = QueryConsumerOffset {
            consumer_group: &member.group,
            topic: &queue.topic,
            queue_id: queue.queue_id,
            set_zero_if_not_found: None,
        };
        let request = Frame::request(RequestCode::QUERY_CONSUMER_OFFSET, &header);
        let timeout = member.core.config.mq_client_api_timeout;
        let answer = member.core.call_for(&address, request, timeout).await?;
        match answer.response_code() {
            ResponseCode::SUCCESS => {
                let header: OffsetResponse =
                    answer.header().map_err(|error| RequestError::malformed(&address, error))?;
                Ok(Some(header.offset).filter(|offset| *offset >= 0))
            }
            ResponseCode::QUERY_NOT_FOUND => Ok(None),
            code => Err(refused(&address, code, &answer).into()),
        }
    }

    /// Keeps the progress in some queues, and returns when it is kept.
    pub(crate) async fn write(
        &self,
        member: &Membership,
        progress: &[(MessageQueue, i64)],
    ) -> Result<(), ConsumeError> {
        if let Offsets::Local(local) = self {
            return local.write(progress);
        }
        let mut outcome = Ok(());
        let timeout = member.core.config.mq_client_api_timeout;
        for (queue, offset) in progress {
            let header = UpdateConsumerOffset {
                consumer_group: &member.group,
                topic: &queue.topic,
                queue_id: Some(queue.queue_id),
                commit_offset: Some(*offset),
            };
            let request = Frame::request(RequestCode::UPDATE_CONSUMER_OFFSET, &header);
            let told = async {
                let address = member.master(queue).await?;
                let answer = member.core.call_for(&address, request, timeout).await?;
                succeeded(&address, answer)?;
                Ok(())
            };
            outcome = outcome.and(told.await);
        }
        outcome
    }
}

impl LocalOffsets {
    fn write(&self, progress: &[(MessageQueue, i64)]) -> Result<(), ConsumeError> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.extend(progress.iter().cloned());
        let text = fastjson::encode(&ResetOffsets { offset_table: table.clone() });
        let disk = RealDisk::new();
        let kept = match self.path.parent() {
            Some(dir) => disk.create_dir_all(dir),
            None => Ok(()),
        };
        kept.and_then(|()| env::write_whole(&disk, &self.path, &text))
            .map_err(|error| file_error(&self.path, &error))
    }
}

fn file_error(path: &std::path::Path, error: &dyn std::fmt::Display) -> ConsumeError {
    ConsumeError::OffsetFile { path: path.display().to_string(), reason: error.to_string() }
}
