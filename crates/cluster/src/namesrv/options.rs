//! What can be set about the name server: RocketMQ's keys with the original's defaults, and the bounds of our own.
//!
//! Settings that may change while it runs are listed once, in [`Options::settings`]; GET and UPDATE_NAMESRV_CONFIG are
//! made of that list.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use env::Disk;

use super::table::Bounds;

/// Options of the name server (Java: `NamesrvConfig`).
#[derive(Clone, Debug)]
pub struct Options {
    /// `kvConfigPath`: the file of the KV configuration.
    pub kv_config_path: PathBuf,
    /// `configStorePath`: the file to which changed settings are written.
    pub config_store_path: PathBuf,
    /// `configBlackList`: keys that UPDATE_NAMESRV_CONFIG refuses although they could be changed.
    pub config_black_list: Vec<String>,
    /// `orderMessageEnable` (false): routes carry the topic's order configuration.
    pub order_message_enable: bool,
    /// `returnOrderTopicConfigToBroker` (true): brokers that register are told all order configurations.
    pub return_order_topic_config_to_broker: bool,
    /// `scanNotActiveBrokerInterval` (5 s): period of looking for brokers that are silent for too long.
    pub scan_not_active_broker_interval: Duration,
    /// `supportActingMaster` (false): a slave with the smallest id stands in for the master in routes.
    pub support_acting_master: bool,
    /// `enableAllTopicList` (true): serve the list of all topics.
    pub enable_all_topic_list: bool,
    /// `enableTopicList` (true): serve the other lists of topics.
    pub enable_topic_list: bool,
    /// `needWaitForService` (false): refuse routes for some time after the start.
    pub need_wait_for_service: bool,
    /// `waitSecondsForService` (45): that time in seconds.
    pub wait_seconds_for_service: u64,
    /// `deleteTopicWithBrokerRegistration` (false): drop topics that vanished from a registration.
    pub delete_topic_with_broker_registration: bool,
    /// Our own: how much the route table holds.
    pub bounds: Bounds,
    /// Our own: bytes of keys and values of the KV configuration.
    pub kv_bytes_max: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            kv_config_path: PathBuf::from("namesrv/kvConfig.json"),
            config_store_path: PathBuf::from("namesrv/namesrv.properties"),
            config_black_list: Vec::new(),
            order_message_enable: false,
            return_order_topic_config_to_broker: true,
            scan_not_active_broker_interval: Duration::from_secs(5),
            support_acting_master: false,
            enable_all_topic_list: true,
            enable_topic_list: true,
            need_wait_for_service: false,
            wait_seconds_for_service: 45,
            delete_topic_with_broker_registration: false,
            bounds: Bounds::default(),
            kv_bytes_max: 8 << 20,
        }
    }
}

/// Why settings were not changed; none of them was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// One of them may not be changed while the name server runs.
    #[error("`{key}` may not be changed while the name server runs; these may: {changeable}")]
    Forbidden {
        /// The setting.
        key: String,
        /// The settings that may.
        changeable: String,
    },
    /// A value is not of its kind.
    #[error("`{value}` is no value of `{key}`: {allowed}")]
    Invalid {
        /// The setting.
        key: String,
        /// What it was to become.
        value: String,
        /// What it may be.
        allowed: &'static str,
    },
}

/// A setting in memory, by kind.
enum Setting<'a> {
    Bool(&'a mut bool),
    Seconds(&'a mut u64),
    Millis(&'a mut Duration),
}

impl Options {
    fn settings(&mut self) -> [(&'static str, Setting<'_>); 9] {
        [
            (
                "deleteTopicWithBrokerRegistration",
                Setting::Bool(&mut self.delete_topic_with_broker_registration),
            ),
            ("enableAllTopicList", Setting::Bool(&mut self.enable_all_topic_list)),
            ("enableTopicList", Setting::Bool(&mut self.enable_topic_list)),
            ("needWaitForService", Setting::Bool(&mut self.need_wait_for_service)),
            ("orderMessageEnable", Setting::Bool(&mut self.order_message_enable)),
            (
                "returnOrderTopicConfigToBroker",
                Setting::Bool(&mut self.return_order_topic_config_to_broker),
            ),
            (
                "scanNotActiveBrokerInterval",
                Setting::Millis(&mut self.scan_not_active_broker_interval),
            ),
            ("supportActingMaster", Setting::Bool(&mut self.support_acting_master)),
            ("waitSecondsForService", Setting::Seconds(&mut self.wait_seconds_for_service)),
        ]
    }

    /// Returns all settings as lines of a properties file.
    pub fn to_properties(&self) -> String {
        let mut text = String::new();
        for (key, setting) in self.clone().settings() {
            text.push_str(&format!("{key}={setting}\n"));
        }
        for (key, path) in
            [("kvConfigPath", &self.kv_config_path), ("configStorePath", &self.config_store_path)]
        {
            text.push_str(&format!("{key}={}\n", path.display()));
        }
        text
    }

    /// Writes all settings to `config_store_path`; a crash leaves the old content, or the old one as `.bak`.
    pub fn save(&self, disk: &dyn Disk) -> io::Result<()> {
        let path = &self.config_store_path;
        let named = |suffix| {
            let mut name = path.clone().into_os_string();
            name.push(suffix);
            PathBuf::from(name)
        };
        let dir = path
            .parent()
            .filter(|dir| !dir.as_os_str().is_empty())
            .unwrap_or_else(|| Path::new("."));
        disk.create_dir_all(dir)?;
        env::write_whole(disk, &named(".tmp"), self.to_properties().as_bytes())?;
        if disk.exists(path)? {
            disk.rename(path, &named(".bak"))?;
        }
        disk.rename(&named(".tmp"), path)?;
        disk.sync_dir(dir)
    }

    /// Takes lines of a properties file; all or none. Java overlooks keys that it does not know, and takes all that it
    /// does but a few.
    pub fn update(&mut self, properties: &str) -> Result<(), SettingError> {
        let mut updated = self.clone();
        let lines = properties.lines().map(str::trim);
        for line in lines.filter(|line| !line.is_empty() && !line.starts_with(['#', '!'])) {
            let (key, value) = line.split_once('=').unwrap_or((line, ""));
            let (key, value) = (key.trim(), value.trim());
            let setting = updated.settings().into_iter().find(|(name, _)| *name == key);
            let Some((_, setting)) = setting.filter(|(name, _)| !self.is_vetoed(name)) else {
                return Err(self.forbidden(key));
            };
            setting.set(value).map_err(|allowed| SettingError::Invalid {
                key: key.to_owned(),
                value: value.to_owned(),
                allowed,
            })?;
        }
        *self = updated;
        Ok(())
    }

    fn is_vetoed(&self, key: &str) -> bool {
        self.config_black_list.iter().any(|black| black == key)
    }

    fn forbidden(&self, key: &str) -> SettingError {
        let mut settings = self.clone();
        let names = settings.settings().map(|(name, _)| name);
        let changeable: Vec<_> = names.into_iter().filter(|name| !self.is_vetoed(name)).collect();
        SettingError::Forbidden { key: key.to_owned(), changeable: changeable.join(", ") }
    }
}

impl Setting<'_> {
    /// Sets the value, or says what is allowed.
    fn set(self, text: &str) -> Result<(), &'static str> {
        match self {
            Setting::Bool(value) => {
                let parsed = text.to_ascii_lowercase().parse();
                *value = parsed.map_err(|_| "true or false")?;
            }
            Setting::Seconds(value) => {
                *value = text.parse().map_err(|_| "a number of seconds")?;
            }
            Setting::Millis(value) => {
                let parsed = text.parse().ok().filter(|millis| (100..=3_600_000).contains(millis));
                *value = Duration::from_millis(parsed.ok_or("milliseconds from 100 to 3600000")?);
            }
        }
        Ok(())
    }
}

impl std::fmt::Display for Setting<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Setting::Bool(value) => write!(f, "{value}"),
            Setting::Seconds(value) => write!(f, "{value}"),
            Setting::Millis(value) => write!(f, "{}", value.as_millis()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_taken_back() {
        let mut options = Options { order_message_enable: true, ..Options::default() };
        let changed = "# by hand\n\norderMessageEnable=false\nwaitSecondsForService = 9\n";
        options.update(changed).unwrap();
        assert!(!options.order_message_enable);
        assert_eq!(options.wait_seconds_for_service, 9);
        assert!(options.to_properties().contains("waitSecondsForService=9\n"));
        assert!(options.to_properties().contains("scanNotActiveBrokerInterval=5000\n"));
    }

    #[test]
    fn a_refused_change_changes_nothing() {
        let mut options =
            Options { config_black_list: vec!["enableTopicList".into()], ..Options::default() };
        let before = options.to_properties();
        let vetoed = options.update("orderMessageEnable=true\nenableTopicList=false");
        assert!(matches!(vetoed, Err(SettingError::Forbidden { .. })));
        let invalid = options.update("orderMessageEnable=true\nscanNotActiveBrokerInterval=soon");
        assert!(matches!(invalid, Err(SettingError::Invalid { .. })));
        assert_eq!(options.to_properties(), before);
    }
    #[test]
    fn a_setting_that_may_not_change_is_refused_by_name_with_those_that_may() {
        let mut options =
            Options { config_black_list: vec!["enableTopicList".into()], ..Options::default() };
        for key in
            ["kvConfigPath", "configBlackList", "rocketmqHome", "unheardOf", "enableTopicList"]
        {
            for text in [format!("{key}=1"), key.to_owned()] {
                let refused = options.update(&text).unwrap_err().to_string();
                assert!(refused.starts_with(&format!("`{key}` may not be changed")), "{refused}");
                assert!(refused.contains("enableAllTopicList, needWaitForService"), "{refused}");
            }
        }
    }
}
