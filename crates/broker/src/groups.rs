//! Subscription groups: what a consumer group may do, and how often it tries again.
//!
//! The truth is a map of shared configurations for the paths of messages; `subscriptionGroup.json`, a versioned table,
//! follows it. A group that nobody has created appears with its first heartbeat, pull or send-back, if
//! `autoCreateSubscriptionGroup`. (Java: `SubscriptionGroupManager`)

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use bytestring::ByteString;
use wire::{
    body::group::{SubscriptionGroupConfig, SubscriptionGroupTable},
    names,
};

use crate::{
    Options,
    api::{GroupError, TableFull},
    attributes,
    catalog::{Catalog, Content, Opened},
};

/// Bit of a forbidden topic in the forbidden table (Java: `PermName.INDEX_PERM_READ`).
const FORBIDDEN_READ: i32 = 1 << 2;

/// group → topic → bits
type Forbidden = BTreeMap<String, BTreeMap<String, i32>>;

/// All subscription groups of the broker.
pub(crate) struct Groups {
    catalog: Arc<Catalog<SubscriptionGroupTable>>,
    live: RwLock<HashMap<ByteString, Arc<SubscriptionGroupConfig>>>,
    /// What is forbidden, by group and topic: pulls look here.
    forbidden: RwLock<Forbidden>,
    /// Held while a group is created or changed, so that table and maps agree.
    changing: Mutex<()>,
    clock: env::Clock,
    groups_max: usize,
    queues_max: i32,
    serves_lights: bool,
}

impl Groups {
    /// Takes over the table and creates the groups of the original's tools.
    pub(crate) fn new(
        (catalog, stored): Opened<SubscriptionGroupTable>,
        options: &Options,
        clock: env::Clock,
    ) -> Groups {
        const OWN: [&str; 8] = [
            "TOOLS_CONSUMER",
            "FILTERSRV_CONSUMER",
            "SELF_TEST_C_GROUP",
            "CID_ONS-HTTP-PROXY",
            "CID_ONSAPI_PULL",
            "CID_ONSAPI_PERMISSION",
            "CID_ONSAPI_OWNER",
            "CID_RMQ_SYS_TRANS",
        ];
        let groups = Groups {
            live: RwLock::default(),
            forbidden: RwLock::new(catalog.with_head(|head| head.forbidden_table.clone())),
            changing: Mutex::new(()),
            clock,
            groups_max: options.groups_max,
            queues_max: options.topic_queues_max,
            serves_lights: options.enable_lmq,
            catalog: Arc::new(catalog),
        };
        let missing: Vec<SubscriptionGroupConfig> =
            OWN.into_iter().filter(|name| !stored.contains_key(*name)).map(group_named).collect();
        let live = stored.values().chain(&missing);
        *groups.live.write().unwrap_or_else(PoisonError::into_inner) = live
            .map(|config| (config.group_name.as_str().into(), Arc::new(config.clone())))
            .collect();
        if !missing.is_empty() {
            groups.catalog.change(|content| {
                missing.iter().for_each(|config| content.put(&config.group_name, config));
            });
        }
        groups
    }

    /// Returns a group that exists, as those of light queues always do.
    pub(crate) fn get(&self, name: &str) -> Option<Arc<SubscriptionGroupConfig>> {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        live.or_else(|| {
            let is_light = self.serves_lights && names::is_light(name);
            (is_light && names::check_group(name).is_ok()).then(|| Arc::new(group_named(name)))
        })
    }

    /// Returns the group, created if it is missing and may be; none when its name is no name or the table is full.
    pub(crate) fn find(
        &self,
        name: &str,
        options: &Options,
    ) -> Option<Arc<SubscriptionGroupConfig>> {
        self.get(name).or_else(|| {
            let may_create = options.auto_create_subscription_group
                || name.starts_with(names::SYSTEM_GROUP_PREFIX);
            (may_create && names::check_group(name).is_ok()).then(|| self.create(name))?
        })
    }

    /// Returns the table, for those who ask for all of it.
    pub(crate) fn table(&self) -> SubscriptionGroupTable {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        let groups = live.iter().map(|(name, config)| (name.to_string(), (**config).clone()));
        let subscription_group_table = groups.collect();
        drop(live);
        self.catalog
            .with_head(|head| SubscriptionGroupTable { subscription_group_table, ..head.clone() })
    }

    /// Says whether an administrator has forbidden the group to read the topic.
    pub(crate) fn is_forbidden(&self, group: &str, topic: &str) -> bool {
        let forbidden = self.forbidden.read().unwrap_or_else(PoisonError::into_inner);
        let topics = forbidden.get(group);
        topics.and_then(|topics| topics.get(topic)).is_some_and(|bits| bits & FORBIDDEN_READ != 0)
    }

    /// Forbids the group to read the topic, or lets it again. All groups together may be forbidden as many topics as
    /// there may be groups.
    pub(crate) fn forbid(
        &self,
        group: &str,
        topic: &str,
        is_forbidden: bool,
    ) -> Result<(), GroupError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.get(group).is_none() {
            return Err(GroupError::Unknown(group.into()));
        }
        let mut forbidden = self.forbidden.write().unwrap_or_else(PoisonError::into_inner);
        let held: usize = forbidden.values().map(BTreeMap::len).sum();
        if is_forbidden && held >= self.groups_max {
            let table = "forbidden topics of groups";
            return Err(TableFull { table, max: self.groups_max, key: "groupsMax" }.into());
        }
        let topics = forbidden.entry(group.to_owned()).or_default();
        let bits = topics.entry(topic.to_owned()).or_insert(0);
        *bits = if is_forbidden { *bits | FORBIDDEN_READ } else { *bits & !FORBIDDEN_READ };
        topics.retain(|_, bits| *bits != 0);
        forbidden.retain(|_, topics| !topics.is_empty());
        let changed = forbidden.clone();
        drop(forbidden);
        self.store(|content| content.head.forbidden_table = changed);
        Ok(())
    }

    /// Creates and changes groups on an administrator's behalf: all of them or, on the first error, none. Attributes are
    /// changes, as a topic's.
    pub(crate) fn update(
        &self,
        mut configs: Vec<SubscriptionGroupConfig>,
    ) -> Result<(), GroupError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut created = 0;
        for config in &mut configs {
            names::check_group(&config.group_name)
                .map_err(|bad| GroupError::InvalidName(bad.to_string()))?;
            // The group's retry topic gets as many.
            if !(0..=self.queues_max).contains(&config.retry_queue_nums) {
                return Err(GroupError::Invalid(format!(
                    "retryQueueNums of group {} is {}, allowed are 0 to {}",
                    config.group_name, config.retry_queue_nums, self.queues_max
                )));
            }
            let known = self.get(&config.group_name);
            created += usize::from(known.is_none());
            let current = known.as_ref().map(|known| &known.attributes);
            config.attributes = attributes::alter(&attributes::GROUP, current, &config.attributes)
                .map_err(GroupError::Invalid)?;
        }
        self.check_room(created)?;
        self.put(configs);
        Ok(())
    }

    /// Returns the table's file, for those who wait for it, and for housekeeping.
    pub(crate) fn catalog(&self) -> &Arc<Catalog<SubscriptionGroupTable>> {
        &self.catalog
    }

    /// Forgets a group and what it was forbidden.
    pub(crate) fn delete(&self, name: &str) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.live.write().unwrap_or_else(PoisonError::into_inner).remove(name).is_none() {
            return;
        }
        self.forbidden.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        self.store(|content| {
            content.remove(name);
            content.head.forbidden_table.remove(name);
        });
        tracing::info!(group = name, "subscription group deleted");
    }

    fn create(&self, name: &str) -> Option<Arc<SubscriptionGroupConfig>> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.get(name).is_none() {
            if let Err(full) = self.check_room(1) {
                tracing::warn!(group = name, error = %full, "subscription group not created");
                return None;
            }
            self.put(vec![group_named(name)]);
            tracing::info!(group = name, "subscription group created");
        }
        self.get(name)
    }

    /// Stores configurations in table and map. The caller holds `changing`.
    fn put(&self, configs: Vec<SubscriptionGroupConfig>) {
        if configs.is_empty() {
            return;
        }
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        for config in &configs {
            live.insert(config.group_name.as_str().into(), Arc::new(config.clone()));
        }
        drop(live);
        self.store(|content| {
            configs.iter().for_each(|config| content.put(&config.group_name, config));
        });
    }

    /// Changes the table as its next version.
    fn store(&self, change: impl FnOnce(&mut Content<SubscriptionGroupTable>)) {
        let now = self.clock.now();
        self.catalog.change(|content| {
            change(content);
            content.head.data_version.advance(now);
        });
    }

    fn check_room(&self, more: usize) -> Result<(), TableFull> {
        let held = self.live.read().unwrap_or_else(PoisonError::into_inner).len();
        if held + more > self.groups_max {
            return Err(TableFull {
                table: "subscription groups",
                max: self.groups_max,
                key: "groupsMax",
            });
        }
        Ok(())
    }
}

fn group_named(name: &str) -> SubscriptionGroupConfig {
    SubscriptionGroupConfig { group_name: name.to_owned(), ..SubscriptionGroupConfig::default() }
}
