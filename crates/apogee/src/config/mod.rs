//! Configuration: layers of `KEY=VALUE` over the defaults of the crates' own options.
//!
//! From weakest to strongest: defaults of the invocation ([`Style`]), `NAMESRV_ADDR`, property files in the order given,
//! `APOGEE_<KEY>` of the environment, `--set`, and the named flags. A value that is not allowed stops the start and says
//! where it stands and what is allowed; a key that means nothing here is kept, and reported once.

pub(crate) mod ask;
mod form;
mod keeper;
mod keys;
pub(crate) mod page;
mod properties;
mod tls;

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
};

pub(crate) use keeper::Keeper;
pub(crate) use keys::{KEYS, Origin};
pub(crate) use tls::{NeedClientAuth, ServerMode, TlsSettings};

/// Options of every part of the process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings {
    /// The broker's rules.
    pub(crate) broker: broker::Options,
    /// The store below them.
    pub(crate) store: store::options::Options,
    /// The bounds of each server.
    pub(crate) limits: remoting::Limits,
    /// TLS of servers, and towards name servers.
    pub(crate) tls: TlsSettings,
    /// The name server.
    pub(crate) namesrv: cluster::namesrv::Options,
    /// The broker's side of name servers.
    pub(crate) registration: cluster::registration::Options,
    /// The process itself.
    pub(crate) process: Process,
}

/// Options of the process: addresses, ports, threads.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    /// Host or address to listen on.
    pub(crate) bind_address: String,
    /// Port of the broker, or of a name server alone, where one is said.
    pub(crate) listen_port: Option<u16>,
    /// Port of a name server beside a broker.
    pub(crate) namesrv_port: u16,
    /// Port of metrics and health beside a broker; none if negative.
    pub(crate) http_port: i32,
    /// Host or address on which they are.
    pub(crate) http_address: String,
    /// Topics, and groups on topics, whose metrics have series of their own.
    pub(crate) metrics_series_max: usize,
    /// What clients reach the broker by, where it is said.
    pub(crate) advertise: Option<String>,
    /// Threads of the runtime; 0 for the machine's.
    pub(crate) worker_threads: usize,
}

impl Default for Process {
    fn default() -> Process {
        Process {
            bind_address: "127.0.0.1".into(),
            listen_port: None,
            namesrv_port: 9876,
            http_port: 8082,
            http_address: "127.0.0.1".into(),
            metrics_series_max: 1_000,
            advertise: None,
            worker_threads: 0,
        }
    }
}

/// Whose defaults hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// Ours: loopback, `./data`.
    Apogee,
    /// The original's: all interfaces, `~/store`, a broker named after its host.
    Original,
}

/// Where a value was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    File(PathBuf, usize),
    Environment(String),
    Flag(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::File(path, line) => write!(f, "{}:{line}", path.display()),
            Source::Environment(name) => write!(f, "environment {name}"),
            Source::Flag(name) => f.write_str(name),
        }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("cannot read `{}`: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{at}: `{key}={value}` is not allowed: {key} is {allowed}")]
    NotAllowed { at: Source, key: String, value: String, allowed: String },
    #[error("{at}: `{key}={value}` cannot be served: {reason}")]
    Refused { at: Source, key: String, value: String, reason: &'static str },
    #[error("{at}: `{text}` is not KEY=VALUE")]
    NoPair { at: Source, text: String },
}

/// A key without effect here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ignored {
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) at: Source,
    /// RocketMQ knows it; otherwise it may be misspelt.
    pub(crate) original: bool,
}

/// What was said, in layers; see the module.
#[derive(Debug, Clone)]
pub(crate) struct Layers {
    pub(crate) style: Style,
    pub(crate) files: Vec<PathBuf>,
    /// `KEY=VALUE` of `--set`.
    pub(crate) sets: Vec<String>,
    /// Keys that have a flag of their own: flag, key, value.
    pub(crate) flags: Vec<(&'static str, &'static str, String)>,
    /// Names and values of the environment.
    pub(crate) environment: Vec<(String, String)>,
    /// The user's home, where the original keeps its store.
    pub(crate) home: PathBuf,
    /// The host's name, which the original calls its broker.
    pub(crate) host_name: String,
}

/// The configuration that a process starts with.
#[derive(Debug, Clone)]
pub(crate) struct Loaded {
    pub(crate) settings: Settings,
    /// Keys without effect, in the order in which they were said; the last value of each.
    pub(crate) ignored: Vec<Ignored>,
    /// Who said the values that hold, by key.
    said: BTreeMap<&'static str, Source>,
}

/// One thing that was said.
struct Said {
    key: String,
    value: String,
    at: Source,
}

/// What the environment's names of ours begin with.
const PREFIX: &str = "APOGEE_";
/// Names with that prefix that are not keys.
const NOT_KEYS: [&str; 1] = ["APOGEE_LOG"];

impl Layers {
    /// Reads all layers, weakest first.
    pub(crate) fn load(&self) -> Result<Loaded, ConfigError> {
        let mut loaded = Loaded::new(self.defaults());
        for said in self.said()? {
            loaded.take(&said.key, &said.value, &said.at)?;
        }
        loaded.settings.settle();
        let shown = KEYS.iter().map(|key| (key.name.to_owned(), (key.show)(&loaded.settings)));
        let ignored =
            loaded.ignored.iter().map(|ignored| (ignored.key.clone(), ignored.value.clone()));
        loaded.settings.broker.kept = shown.chain(ignored).collect();
        Ok(loaded)
    }

    /// Returns what the layers say, weakest first.
    fn said(&self) -> Result<Vec<Said>, ConfigError> {
        let mut said = Vec::new();
        let mut say = |key: &str, value: &str, at: Source| {
            said.push(Said { key: key.to_owned(), value: value.to_owned(), at });
        };
        for (name, value) in &self.environment {
            if name == "NAMESRV_ADDR" {
                say("namesrvAddr", value, Source::Environment(name.clone()));
            }
        }
        for path in &self.files {
            for pair in properties::parse(&read(path)?) {
                say(&pair.key, &pair.value, Source::File(path.clone(), pair.line));
            }
        }
        for (name, value) in &self.environment {
            if let Some(rest) =
                name.strip_prefix(PREFIX).filter(|_| !NOT_KEYS.contains(&name.as_str()))
            {
                say(&key_of_environment(rest), value, Source::Environment(name.clone()));
            }
        }
        for text in &self.sets {
            let at = Source::Flag("--set");
            let Some((key, value)) = text.split_once('=') else {
                return Err(ConfigError::NoPair { at, text: text.clone() });
            };
            say(key.trim(), value, at);
        }
        for (flag, key, value) in &self.flags {
            say(key, value, Source::Flag(flag));
        }
        Ok(said)
    }

    fn defaults(&self) -> Settings {
        let mut settings = Settings::default();
        match self.style {
            Style::Apogee => {
                settings.broker.broker_name = "apogee".into();
                settings.broker.enable_property_filter = true;
                settings.broker.recall_message_enable = true;
                settings.store.store_path_root_dir = "data".into();
                settings.namesrv_files(Path::new("data/namesrv"));
            }
            Style::Original => {
                settings.broker.broker_name = self.host_name.clone();
                settings.store.store_path_root_dir = self.home.join("store");
                settings.namesrv_files(&self.home.join("namesrv"));
                settings.process.bind_address = "0.0.0.0".into();
            }
        }
        settings
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
    let bytes = std::fs::read(path).map_err(unreadable)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// `LISTEN_PORT` and `listenPort` both mean `listenPort`: case, `_` and `.` do not count.
fn key_of_environment(rest: &str) -> String {
    let plain = |text: &str| text.replace(['_', '.'], "").to_ascii_lowercase();
    let wanted = plain(rest);
    let known = KEYS.iter().find(|key| plain(key.name) == wanted);
    known.map_or_else(|| rest.to_owned(), |key| key.name.to_owned())
}

impl Loaded {
    fn new(settings: Settings) -> Loaded {
        Loaded { settings, ignored: Vec::new(), said: BTreeMap::new() }
    }

    fn take(&mut self, key: &str, value: &str, at: &Source) -> Result<(), ConfigError> {
        let value = value.trim();
        if let Some(reason) = keys::refusal(key, value) {
            return Err(ConfigError::Refused {
                at: at.clone(),
                key: key.into(),
                value: value.into(),
                reason,
            });
        }
        let Some(known) = keys::find(key) else {
            self.ignored.retain(|ignored| ignored.key != key);
            self.ignored.push(Ignored {
                key: key.into(),
                value: value.into(),
                at: at.clone(),
                original: keys::is_original(key),
            });
            return Ok(());
        };
        if value.is_empty() {
            return Ok(()); // said, but left open, as in many a template
        }
        if !(known.set)(&mut self.settings, value) {
            let allowed = (known.allowed)();
            return Err(ConfigError::NotAllowed {
                at: at.clone(),
                key: key.into(),
                value: value.into(),
                allowed,
            });
        }
        self.said.insert(known.name, at.clone());
        Ok(())
    }
}

impl Settings {
    fn namesrv_files(&mut self, folder: &Path) {
        self.namesrv.kv_config_path = folder.join("kvConfig.json");
        self.namesrv.config_store_path = folder.join("namesrv.properties");
    }

    /// Copies what two parts share.
    fn settle(&mut self) {
        self.namesrv.config_black_list = self.broker.config_black_list.clone();
        self.registration.cluster = self.broker.cluster_name.clone();
        self.registration.broker = self.broker.broker_name.clone();
        self.registration.id = self.broker.broker_id;
        self.store.max_message_size =
            u32::try_from(self.broker.max_message_size).unwrap_or(u32::MAX);
        self.broker.file_reserved_time =
            i64::try_from(self.store.file_reserved_time.as_millis()).unwrap_or(i64::MAX);
        self.broker.message_index_enable = self.store.message_index_enable;
        self.store.message_delay_level = self.broker.delay_levels.clone();
        self.store.serves_light_queues = self.broker.serves_light_queues();
        self.broker.sync_flush =
            self.store.flush_disk_type == store::options::FlushDiskType::SyncFlush;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers() -> Layers {
        Layers {
            style: Style::Apogee,
            files: Vec::new(),
            sets: Vec::new(),
            flags: Vec::new(),
            environment: Vec::new(),
            home: "/home/me".into(),
            host_name: "box".into(),
        }
    }

    fn set(pairs: &[&str]) -> Result<Loaded, ConfigError> {
        Layers { sets: pairs.iter().map(|pair| (*pair).to_owned()).collect(), ..layers() }.load()
    }

    #[test]
    fn the_stronger_layer_wins() {
        let mut layers = layers();
        layers.environment = vec![
            ("NAMESRV_ADDR".into(), "a:1".into()),
            ("APOGEE_LISTEN_PORT".into(), "1".into()),
            ("APOGEE_brokerName".into(), "env".into()),
            ("PATH".into(), "x".into()),
        ];
        layers.sets = vec!["listenPort=2".into()];
        layers.flags = vec![("--broker-port", "listenPort", "3".into())];
        let loaded = layers.load().unwrap();
        assert_eq!(loaded.settings.process.listen_port, Some(3));
        assert_eq!(loaded.settings.registration.name_servers, ["a:1"]);
        assert_eq!(loaded.settings.broker.broker_name, "env");
        assert!(loaded.ignored.is_empty());
    }

    #[test]
    fn a_value_out_of_range_says_where_it_stands_and_what_is_allowed() {
        let error = set(&["fileReservedTime=soon"]).unwrap_err().to_string();
        assert_eq!(
            error,
            "--set: `fileReservedTime=soon` is not allowed: fileReservedTime is hours from 0 to 1000000"
        );
        assert!(set(&["flushDiskType=sync"]).is_err());
        assert!(matches!(set(&["flushDiskType"]), Err(ConfigError::NoPair { .. })));
    }

    #[test]
    fn a_key_that_switches_rocksdb_on_is_refused_by_name() {
        let error = set(&["storeType=defaultRocksDB"]).unwrap_err().to_string();
        assert!(error.contains("`storeType=defaultRocksDB` cannot be served: RocksDB"), "{error}");
        assert!(set(&["transRocksDBEnable=TRUE"]).is_err());
        assert!(set(&["transRocksDBEnable=false", "storeType=default"]).is_ok());
        assert!(set(&["authenticationEnabled=true"]).is_err());
    }

    #[test]
    fn keys_without_effect_are_kept_and_misspelt_ones_told_from_them() {
        let loaded = set(&["sendMessageThreadPoolNums=8", "lisenPort=1", "lisenPort=2"]).unwrap();
        let seen: Vec<_> =
            loaded.ignored.iter().map(|i| (i.key.as_str(), i.value.as_str(), i.original)).collect();
        assert_eq!(seen, [("sendMessageThreadPoolNums", "8", true), ("lisenPort", "2", false)]);
        let kept = &loaded.settings.broker.kept;
        assert_eq!((kept["lisenPort"].as_str(), kept["fileReservedTime"].as_str()), ("2", "72"));
    }

    #[test]
    fn a_key_is_explained_with_who_set_it_and_a_part_of_one_finds_it() {
        let mut layers = layers();
        layers.sets = vec!["flushDiskType=SYNC_FLUSH".into()];
        let explain = |word: &str| ask::explain(&layers, &[word.to_owned()]).unwrap();
        let text = explain("flushdisktype");
        for part in [
            "flushDiskType  (RocketMQ's)",
            "allowed  ASYNC_FLUSH or SYNC_FLUSH",
            "default  ASYNC_FLUSH",
            "here     SYNC_FLUSH  (--set)",
            "changes  with a start only",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert!(explain("autoCreateTopicEnable").contains("while the broker runs"));
        assert!(explain("sendMessageThreadPoolNums").contains("no effect"));
        assert!(explain("parkedpulls").contains("is part of parkedPullsMax"));
        assert!(ask::explain(&layers, &["nonsense".into()]).is_err());
        assert_eq!(
            ask::diff(&layers).unwrap(),
            "flushDiskType=SYNC_FLUSH  (default: ASYNC_FLUSH, --set)\n"
        );
    }

    #[test]
    fn the_originals_defaults_hold_when_it_is_called_by_their_names() {
        let loaded = Layers { style: Style::Original, ..layers() }.load().unwrap();
        assert_eq!(loaded.settings.process.bind_address, "0.0.0.0");
        assert_eq!(loaded.settings.store.store_path_root_dir, Path::new("/home/me/store"));
        assert_eq!(loaded.settings.broker.broker_name, "box");
        assert_eq!(loaded.settings.broker.cluster_name, "DefaultCluster");
        assert!(!loaded.settings.broker.enable_property_filter);
        assert!(!loaded.settings.broker.recall_message_enable);
        let loaded = layers().load().unwrap();
        assert!(loaded.settings.broker.enable_property_filter);
        assert!(loaded.settings.broker.recall_message_enable);
    }

    #[test]
    fn what_two_parts_share_is_said_once() {
        let loaded = set(&[
            "maxMessageSize=1000",
            "flushDiskType=SYNC_FLUSH",
            "messageDelayLevel=1s 1m",
            "fileReservedTime=2",
            "messageIndexEnable=false",
        ])
        .unwrap();
        assert_eq!(loaded.settings.broker.file_reserved_time, 7_200_000);
        assert!(!loaded.settings.broker.message_index_enable);
        assert_eq!(loaded.settings.store.max_message_size, 1000);
        assert!(loaded.settings.broker.sync_flush);
        assert_eq!(loaded.settings.store.message_delay_level, [1_000, 60_000]);
    }
}
