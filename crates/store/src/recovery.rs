//! Opening a directory: lock it, find the end of the log, cut what is torn, bring the views up to it; and closing it.
//!
//! After a clean stop everything in files is whole and only the end has to be found. After a crash the log is trusted up
//! to what the checkpoint calls synced, if we wrote it last; else, as in the original, from the file whose first record
//! is older than the checkpoint by three seconds. From there every record is checked, the log is cut at the first that
//! is not whole, and the rest of the file becomes zeros, so that the original sees the same end.
//!
//! Invariant: when a store is open, log and views agree, whatever crashed before.

use std::{
    collections::HashSet,
    io,
    ops::Range,
    path::Path,
    sync::{Arc, Mutex, OnceLock, atomic::AtomicU64},
};

use env::{Disk, Env, Wake, write_whole};
use wire::{
    body::topic::{TopicConfig, TopicConfigTable},
    record::{BLANK_LEN, CheckCrc, LEN_MIN, Record},
};

use crate::{
    Fault, FlushDiskType, Inner, OpenError, Options, Store,
    checkpoint::Checkpoint,
    keeper::{Keeper, RetentionCounters},
    log::{
        Log,
        append::lock_any,
        reader::{STORED_AT_END, stored_at},
        scan::{Go, Stopped, scan},
    },
    segments::{Layout, LoadError, OpenFiles, Segments},
    table::TableFile,
    views::{Durable, LastStop, Views, dispatch::Dispatch, index::Index},
};

/// What opening a store found and did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Whether the last owner stopped cleanly.
    pub last_stop: LastStop,
    /// Offset from which records were checked.
    pub checked_from: u64,
    /// Offset at which the log goes on.
    pub end: u64,
    /// What was found at the end, if it was neither the end of the files nor the zeros behind the last record: bytes of
    /// a record that was torn or rotten, and that is cut with all that follows.
    pub dropped: Option<Dropped>,
    /// Offset from which messages were brought into the views.
    pub replayed_from: u64,
}

/// What recovery cut off the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// What is wrong with the first record that was cut.
    pub what: String,
    /// Whole records that followed it; they cannot be kept, since offsets are dense.
    pub records_after: u64,
}

/// Opens and recovers a directory.
pub(crate) fn open(options: Options, env: Env) -> Result<(Store, Recovered), OpenError> {
    check(&options)?;
    let root = options.store_path_root_dir.clone();
    let disk = &*env.disk;
    disk.create_dir_all(&options.config_dir()).map_err(failed("cannot create", &root))?;
    let dir_lock = match disk.lock(&root.join("lock"), b"lock") {
        Ok(dir_lock) => dir_lock,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            return Err(OpenError::Locked(root));
        }
        Err(error) => return Err(failed("cannot lock", &root)(error)),
    };
    let crashed = disk.exists(&root.join("abort")).map_err(failed("cannot look into", &root))?;
    let last_stop = if crashed { LastStop::Crash } else { LastStop::Clean };
    let checkpoint = Checkpoint::load(disk, &root.join("checkpoint"))
        .map_err(failed("cannot read the checkpoint of", &root))?;
    let segments = load_segments(&options, &env)?;

    let log_min = segments.range().start;
    let trusted = trusted(&segments, last_stop, checkpoint.as_ref())?;
    let (end, dropped) = find_end(&segments, trusted.log, &options)?;
    if let Some(dropped) = &dropped {
        tracing::warn!(end, what = dropped.what, after = dropped.records_after, "the log is cut");
    }
    segments.truncate(end).map_err(failed("cannot cut the log of", &root))?;
    // What a killed process left may be in the page cache only; from here on it is called synced.
    segments.sync(trusted.log.min(end)..end).map_err(failed("cannot sync the log of", &root))?;
    // From here on the directory is not clean, whatever happens.
    mark_open(disk, &root).map_err(failed("cannot write into", &root))?;

    // A view that was deleted is rebuilt, and the other with it.
    let batch_topics =
        batch_topics(&options, &env).map_err(failed("cannot read topics of", &root))?;
    let is_whole = views_exist(&options, disk, !batch_topics.is_empty());
    let is_whole = is_whole.map_err(failed("cannot list", &root))?;
    let applied = if is_whole { trusted.views.clamp(log_min, end) } else { log_min };
    let log = Arc::new(Log::new(&options, env.clock.clone(), segments, applied, end));
    let store_time = |at| log.store_time(at);
    let views = Arc::new(Views::open(
        &options,
        &env,
        batch_topics,
        last_stop,
        log_min..applied,
        checkpoint.as_ref(),
        &store_time,
    )?);
    // Weak, since what waits in the log for its dispatch refers to queues.
    let for_queues = Arc::downgrade(&log);
    views.queues.set_store_time(Box::new(move |at, _| for_queues.upgrade()?.store_time(at)));
    let dispatch = Dispatch::new(log.clone(), views.clone(), &options, env.clock.clone());
    let mut inner = Inner {
        log,
        views,
        dispatch: Arc::new(dispatch),
        retention: RetentionCounters::default(),
        unconsumed_hook: OnceLock::new(),
        intrusions: AtomicU64::new(0),
        keeper: Mutex::new(Keeper::new(&options, &env.clock, Durable::default())),
        keeper_wake: Wake::new(),
        lock: Mutex::new(Some(dir_lock)),
        last_stop,
        options,
        env,
    };
    let durable = sync_views(&inner, LastStop::Crash)?;
    inner.keeper = Mutex::new(Keeper::new(&inner.options, &inner.env.clock, durable));
    inner.dispatch.followed().follow(inner.dispatch.wake.clone());
    if inner.options.flush_disk_type == FlushDiskType::SyncFlush {
        inner.log.marks.written.follow(inner.log.flusher_wake().clone());
    }
    let recovered =
        Recovered { last_stop, checked_from: trusted.log, end, dropped, replayed_from: applied };
    Ok((Store(Arc::new(inner)), recovered))
}

/// Writes the mark that says that the directory is in use, or was when its owner crashed.
pub(crate) fn mark_open(disk: &dyn Disk, root: &Path) -> io::Result<()> {
    write_whole(disk, &root.join("abort"), std::process::id().to_string().as_bytes())?;
    disk.sync_dir(root)
}

/// Returns the topics whose queues are of batches. What says so is the broker's, and it must be known before the log is
/// replayed.
fn batch_topics(options: &Options, env: &Env) -> io::Result<HashSet<String>> {
    let file = TableFile::new(env.disk.clone(), options.config_dir().join("topics.json"));
    let topics = file.load::<TopicConfigTable>()?.topic_config_table.into_values();
    Ok(topics.filter(TopicConfig::is_batched).map(|topic| topic.topic_name).collect())
}

/// Whether there are queues, and an index if there is to be one.
fn views_exist(options: &Options, disk: &dyn Disk, has_batches: bool) -> io::Result<bool> {
    let root = &options.store_path_root_dir;
    if options.message_index_enable && !disk.exists(&root.join("index"))? {
        return Ok(false);
    }
    if has_batches && !disk.exists(&root.join("batchconsumequeue"))? {
        return Ok(false);
    }
    let queues = root.join("consumequeue");
    Ok(has_files(disk, &queues)?
        || has_batches
            && disk.exists(&queues)?
            && has_files(disk, &root.join("batchconsumequeue"))?)
}

fn has_files(disk: &dyn Disk, queues: &Path) -> io::Result<bool> {
    for topic in disk.list(queues)?.into_iter().filter(|entry| entry.is_dir) {
        let topic = queues.join(topic.name);
        for queue in disk.list(&topic)?.into_iter().filter(|entry| entry.is_dir) {
            if !disk.list(&topic.join(queue.name))?.is_empty() {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Brings the views up to the log, which is synced, makes both durable and says so in the checkpoint.
fn sync_views(store: &Inner, purpose: LastStop) -> Result<Durable, Fault> {
    store.dispatch.finish()?;
    let durable = store.views.sync(purpose)?;
    store.save_checkpoint(durable, store.log.marks.synced.get())?;
    Ok(durable)
}

/// Writes and syncs everything and notes that the stop was clean.
pub(crate) fn close(store: &Arc<Inner>) -> Result<(), Fault> {
    let log = &store.log;
    log.close();
    if !log.write_all() {
        return Err(if log.is_poisoned() { Fault::Poisoned } else { Fault::DiskFull });
    }
    if !log.sync() {
        return Err(Fault::Poisoned);
    }
    sync_views(store, LastStop::Clean)?;
    store.views.index.as_ref().map_or(Ok(()), Index::restore)?;
    match store.env.disk.remove(&store.path("abort")) {
        // Another broker, refused, was faster.
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    store.env.disk.sync_dir(&store.options.store_path_root_dir)?;
    lock_any(&store.lock).take();
    Ok(())
}

fn check(options: &Options) -> Result<(), OpenError> {
    let file_len = options.mapped_file_size_commit_log;
    let file_len_min = (LEN_MIN + 8) as u64;
    if !(file_len_min..=i32::MAX as u64).contains(&file_len) {
        return Err(OpenError::Option {
            key: "mappedFileSizeCommitLog",
            why: format!("{file_len} is not between {file_len_min} and {}", i32::MAX),
        });
    }
    if options.commit_log_roots().is_empty() {
        return Err(OpenError::Option {
            key: "storePathCommitLog",
            why: "every path is read only: none can take messages".to_owned(),
        });
    }
    Ok(())
}

fn load_segments(options: &Options, env: &Env) -> Result<Segments, OpenError> {
    let layout = Layout {
        roots: options.commit_log_roots(),
        read_only: options.read_only_commit_log_store_paths.clone(),
        file_len: options.mapped_file_size_commit_log,
    };
    let open_files = OpenFiles::new(options.open_files_max);
    Segments::load(env.disk.clone(), open_files, layout).map_err(|error| match error {
        LoadError::FileLen { path, found, expected } => {
            OpenError::FileLen { key: "mappedFileSizeCommitLog", path, found, expected }
        }
        LoadError::Io { path, source } => OpenError::Io { what: "cannot list", path, source },
    })
}

/// How much is whole without being looked at.
struct Trusted {
    /// The log before this offset, which begins a record or a file.
    log: u64,
    /// The views of everything before this offset.
    views: u64,
}

fn trusted(
    segments: &Segments,
    last_stop: LastStop,
    checkpoint: Option<&Checkpoint>,
) -> Result<Trusted, OpenError> {
    let Range { start, end } = segments.range();
    let inside = |offset: u64| (start..=end).contains(&offset);
    if let Some(progress) = checkpoint.and_then(|checkpoint| checkpoint.progress)
        && inside(progress.log)
    {
        return Ok(Trusted { log: progress.log, views: progress.views.min(progress.log) });
    }
    match last_stop {
        // The original looks at the last three files; what is before them it does not look at either.
        LastStop::Clean => {
            let files = segments.list();
            let first = files.get(files.len().saturating_sub(3));
            Ok(Trusted { log: first.map_or(0, |file| file.start()), views: u64::MAX })
        }
        LastStop::Crash => {
            let from = match checkpoint {
                Some(checkpoint) => file_older_than(segments, checkpoint)?,
                None => start,
            };
            Ok(Trusted { log: from, views: from })
        }
    }
}

/// Returns the start of the newest file whose first record is older than what the original's checkpoint vouches for; the
/// first file if there is none (Java: `CommitLog.isMappedFileMatchedRecover`).
fn file_older_than(segments: &Segments, checkpoint: &Checkpoint) -> Result<u64, Fault> {
    let (mut head, start) = ([0; STORED_AT_END], segments.range().start);
    for file in segments.list().iter().rev() {
        segments.read_at(file.start(), &mut head)?;
        let time = stored_at(&head);
        let vouched = match u64::try_from(checkpoint.queues_offset) {
            Ok(offset) if offset > 0 => file.start() <= offset,
            _ => true,
        };
        if vouched && time.is_some_and(|time| time > 0 && time <= checkpoint.trusted_time()) {
            return Ok(file.start());
        }
    }
    Ok(start)
}

/// Checks records from `from` on and returns where they end, with what was wrong there.
fn find_end(
    segments: &Segments,
    from: u64,
    options: &Options,
) -> Result<(u64, Option<Dropped>), OpenError> {
    let check_crc = if options.check_crc_on_recover { CheckCrc::Yes } else { CheckCrc::No };
    let range = from..segments.range().end;
    let (mut bad, mut doubtful) = (None, None);
    let (end, stopped) = scan(segments, range.clone(), |at, bytes| {
        Ok::<_, Fault>(match check_record(at, bytes, check_crc) {
            Ok(certainty) => {
                doubtful = (certainty == Certainty::Doubtful).then_some(at);
                Go::On
            }
            Err(what) => {
                bad = Some((what, bytes.len() as u64));
                Go::StopBefore
            }
        })
    })?;
    if let Some(end) = doubtful {
        let what = "the properties of the last record are torn".to_owned();
        return Ok((end, Some(Dropped { what, records_after: 0 })));
    }
    let what = match (stopped, &bad) {
        (Stopped::ByVisitor, Some((what, _))) => what.clone(),
        (Stopped::AtMisfit, _) => "a record or blank that does not fit its file".to_owned(),
        (Stopped::AtNothing, _) if !is_zero(segments, end)? => {
            "bytes that begin no record".to_owned()
        }
        _ => return Ok((end, None)),
    };
    // Its length may be right although its bytes are not: then what follows tells rot from a torn end.
    let mut records_after = 0;
    if let Some((_, len)) = bad {
        scan(segments, end + len..range.end, |at, bytes| {
            let is_whole = check_record(at, bytes, check_crc).is_ok();
            records_after += u64::from(is_whole);
            Ok::<_, Fault>(if is_whole { Go::On } else { Go::StopBefore })
        })?;
    }
    Ok((end, Some(Dropped { what, records_after })))
}

/// How sure it is that bytes are a whole record.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Certainty {
    Sure,
    /// Only the body has a CRC. A tear behind it leaves zeros in the properties, more than a client writes there; yet if
    /// another record follows, this one was written to its end.
    Doubtful,
}

fn check_record(at: u64, bytes: &[u8], check_crc: CheckCrc) -> Result<Certainty, String> {
    let record = Record::decode(bytes, check_crc).map_err(|error| error.to_string())?;
    if record.numbers.log_offset != at {
        return Err(format!("a record of offset {}", record.numbers.log_offset));
    }
    if record.topic.contains('\0') {
        return Err("a torn topic".to_owned());
    }
    Ok(if looks_torn(&record.properties) { Certainty::Doubtful } else { Certainty::Sure })
}

/// Whether properties have the zeros of a tear: to their end, where a write was cut short, or a whole sector of them,
/// where one was lost. A client may put single zeros into a value.
fn looks_torn(properties: &str) -> bool {
    const SECTOR: &str = match std::str::from_utf8(&[0; 512]) {
        Ok(zeros) => zeros,
        Err(_) => unreachable!(),
    };
    properties.ends_with('\0') || properties.contains(SECTOR)
}

fn is_zero(segments: &Segments, at: u64) -> Result<bool, Fault> {
    let mut head = [0; BLANK_LEN];
    segments.read_at(at, &mut head)?;
    Ok(head == [0; BLANK_LEN])
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::Io { what, path, source }
}

#[cfg(test)]
mod tests {
    use super::looks_torn;

    #[test]
    fn zeros_in_a_property_are_no_tear_but_zeros_to_the_end_or_over_a_sector_are() {
        assert!(!looks_torn("KEYS\u{1}a\0b\u{2}UNIQ_KEY\u{1}1\u{2}"));
        assert!(looks_torn("KEYS\u{1}a\0\0\0"));
        assert!(looks_torn(&format!("KEYS\u{1}a{}b\u{2}", "\0".repeat(512))));
    }
}
