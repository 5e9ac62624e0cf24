//! A table of named records, topics or groups, and its file.
//!
//! The text that the file has for a record is kept, so that a change of one costs a copy of the others and not their
//! serialization. What was changed is in the file once [`Catalog::saved`] says so: one write is under way at a time, and
//! whoever comes meanwhile shares the next. It survives the process then; [`Catalog::sync`], for housekeeping, makes it
//! survive the machine. (Java: `ConfigManager`, which syncs nothing either)

use std::{
    collections::{BTreeMap, HashMap},
    io,
    ops::Range,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use env::Env;
use serde::{Serialize, de::DeserializeOwned};
use store::TableFile;
use wire::{
    body::{
        group::{SubscriptionGroupConfig, SubscriptionGroupTable},
        topic::{TopicConfig, TopicConfigTable},
    },
    fastjson,
};

use crate::{api::NotSaved, blocking};

/// A table whose records are one of its members.
pub(crate) trait Records: Default + Serialize + DeserializeOwned + Send + 'static {
    /// What there is many of.
    type Record: Serialize;
    /// The member's name in the file.
    const MEMBER: &'static str;

    /// Returns the records by name.
    fn records(&mut self) -> &mut BTreeMap<String, Self::Record>;
}

impl Records for TopicConfigTable {
    type Record = TopicConfig;
    const MEMBER: &'static str = "topicConfigTable";

    fn records(&mut self) -> &mut BTreeMap<String, TopicConfig> {
        &mut self.topic_config_table
    }
}

impl Records for SubscriptionGroupTable {
    type Record = SubscriptionGroupConfig;
    const MEMBER: &'static str = "subscriptionGroupTable";

    fn records(&mut self) -> &mut BTreeMap<String, SubscriptionGroupConfig> {
        &mut self.subscription_group_table
    }
}

/// The table and its file.
pub(crate) struct Catalog<T> {
    file: TableFile,
    name: &'static str,
    content: Mutex<Content<T>>,
    /// Counts changes; raised under the lock of `content`.
    changed: AtomicU64,
    /// The change up to which the file has everything.
    written: AtomicU64,
    /// What was written last, for its memory; its lock is held while a write is under way.
    text: Mutex<Vec<u8>>,
    /// Held by the waiter whose write is under way.
    turn: tokio::sync::Mutex<()>,
}

/// A table and the records that its file had.
pub(crate) type Opened<T> = (Catalog<T>, BTreeMap<String, <T as Records>::Record>);

/// The table as it is now.
pub(crate) struct Content<T> {
    /// Everything but the records.
    pub(crate) head: T,
    /// The records as they stand in the file, a new one behind the others: `,\n\t\t"name":{…}` each.
    text: Vec<u8>,
    /// Where in `text` each record stands.
    places: HashMap<Box<str>, Range<usize>>,
}

impl<T: Records> Content<T> {
    pub(crate) fn put(&mut self, name: &str, record: &T::Record) {
        self.remove(name);
        let start = self.text.len();
        self.text.extend_from_slice(b",\n\t\t");
        self.text.extend_from_slice(&fastjson::encode(&name));
        self.text.push(b':');
        for byte in fastjson::encode_pretty(record) {
            self.text.push(byte);
            if byte == b'\n' {
                // Records lie two levels deep.
                self.text.extend_from_slice(b"\t\t");
            }
        }
        self.places.insert(name.into(), start..self.text.len());
    }

    pub(crate) fn remove(&mut self, name: &str) {
        let Some(gone) = self.places.remove(name) else { return };
        for place in self.places.values_mut().filter(|place| place.start > gone.start) {
            *place = place.start - gone.len()..place.end - gone.len();
        }
        self.text.drain(gone);
    }

    /// Writes what `fastjson::encode_pretty` would for the whole table, but for the order of its records.
    fn encode(&self, out: &mut Vec<u8>) {
        let head = fastjson::encode_pretty(&self.head);
        // No text in quotes holds a line break, and other members of this name lie deeper.
        let empty = format!("\n\t\"{}\":{{}}", T::MEMBER);
        let found = head.windows(empty.len()).position(|bytes| bytes == empty.as_bytes());
        let at = found.expect("the member is written also when it is empty") + empty.len() - 1;
        out.clear();
        out.extend_from_slice(&head[..at]);
        if let Some(text) = self.text.get(1..) {
            // Without the first comma.
            out.extend_from_slice(text);
            out.extend_from_slice(b"\n\t");
        }
        out.extend_from_slice(&head[at..]);
    }
}

impl<T: Records> Catalog<T> {
    /// Reads the file; returns the records beside what keeps their texts.
    pub(crate) fn open(env: &Env, dir: &Path, name: &'static str) -> io::Result<Opened<T>> {
        let file = TableFile::new(env.disk.clone(), dir.join(name));
        let mut head: T = file.load()?;
        let records = std::mem::take(head.records());
        let mut content = Content { head, text: Vec::new(), places: HashMap::new() };
        records.iter().for_each(|(name, record)| content.put(name, record));
        let catalog = Catalog {
            file,
            name,
            content: Mutex::new(content),
            changed: AtomicU64::new(0),
            written: AtomicU64::new(0),
            text: Mutex::default(),
            turn: tokio::sync::Mutex::new(()),
        };
        Ok((catalog, records))
    }

    /// Changes the table in memory; [`Catalog::saved`] waits until the file has it.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Content<T>)) {
        let mut content = lock(&self.content);
        change(&mut content);
        self.changed.fetch_add(1, Ordering::Release);
    }

    /// Returns something of the table without its records.
    pub(crate) fn with_head<R>(&self, read: impl FnOnce(&T) -> R) -> R {
        read(&lock(&self.content).head)
    }

    /// Says whether the file has every change.
    pub(crate) fn is_saved(&self) -> bool {
        self.written.load(Ordering::Acquire) >= self.changed.load(Ordering::Acquire)
    }

    /// Waits until the file has every change made so far.
    pub(crate) async fn saved(self: &Arc<Self>) -> Result<(), NotSaved> {
        let wanted = self.changed.load(Ordering::Acquire);
        let is_done = || self.written.load(Ordering::Acquire) >= wanted;
        if is_done() {
            return Ok(());
        }
        let _turn = self.turn.lock().await;
        if is_done() {
            return Ok(());
        }
        let catalog = Arc::clone(self);
        blocking(move || catalog.write()).await
    }

    /// Writes what has changed, on this thread. After an error the next call tries again.
    pub(crate) fn write(&self) -> Result<(), NotSaved> {
        let mut text = lock(&self.text);
        let changed = {
            let content = lock(&self.content);
            let changed = self.changed.load(Ordering::Acquire);
            if self.written.load(Ordering::Acquire) >= changed {
                return Ok(());
            }
            content.encode(&mut text);
            changed
        };
        self.file.write(&text).map_err(|error| self.not_saved(&error))?;
        self.written.store(changed, Ordering::Release);
        Ok(())
    }

    /// Makes what was written survive a crash of the machine.
    pub(crate) fn sync(&self) -> Result<(), NotSaved> {
        self.file.sync().map_err(|error| self.not_saved(&error))
    }

    fn not_saved(&self, error: &io::Error) -> NotSaved {
        tracing::error!(file = self.name, %error, "table not written");
        NotSaved { file: self.name, why: error.to_string() }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use env::sim::{SimClock, SimDisk};

    use super::*;

    fn topic(name: &str) -> TopicConfig {
        TopicConfig { topic_name: name.to_owned(), ..TopicConfig::default() }
    }

    #[test]
    fn the_file_is_what_the_whole_table_would_be_written_as() {
        let clock = SimClock::new(0);
        let disk = Arc::new(SimDisk::new(1, clock.clone()));
        let env = Env::new(clock.into(), disk.clone(), fastrand::Rng::with_seed(1));
        let dir = PathBuf::from("/config");
        let open = || Catalog::<TopicConfigTable>::open(&env, &dir, "topics.json").expect("opens");
        let mut expected = TopicConfigTable::default();
        expected.rest.insert("later".to_owned(), serde_json::json!({"topicConfigTable": {}}));
        for names in [&[][..], &["a"], &["a", "b\"\n\t\"topicConfigTable\":{}", "c"]] {
            expected.data_version.advance(5);
            let head = TopicConfigTable { topic_config_table: BTreeMap::new(), ..expected.clone() };
            let (catalog, _) = open();
            catalog.change(|content| content.head = head);
            catalog.change(|content| content.put("gone", &topic("gone")));
            for name in names {
                expected.topic_config_table.insert((*name).to_owned(), topic(name));
                catalog.change(|content| content.put(name, &topic("changed")));
            }
            catalog.change(|content| content.remove("gone"));
            // In the order of names, which is that of the expected table.
            for name in names {
                catalog.change(|content| content.put(name, &topic(name)));
            }
            assert!(!catalog.is_saved());
            catalog.write().expect("room");
            assert!(catalog.is_saved());
            let bytes = env::read_whole(&*disk, &dir.join("topics.json"), 1 << 20);
            let bytes = bytes.expect("reads").expect("written");
            assert_eq!(
                String::from_utf8_lossy(&bytes),
                String::from_utf8_lossy(&fastjson::encode_pretty(&expected))
            );
            assert_eq!(open().1, expected.topic_config_table);
        }
    }
}
