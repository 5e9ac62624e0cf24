//! Who serves what: the brokers that registered, and the queues of each topic on them.
//!
//! Pure state: it is told what happened and when, and says what follows. Queue data names only brokers that are
//! registered, a topic has at least one broker, a broker at least one address; whatever removes the last of something
//! removes the thing. (Java: `RouteInfoManager`, whose six maps these are, folded so that none can dangle.)

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use wire::{
    body::{
        DataVersion, TopicList,
        route::{BrokerData, BrokerMemberGroup, ClusterInfo, QueueData, TopicRouteData},
        topic::TopicConfig,
    },
    fastjson::Value,
    names::{perm, topic_flag},
};

/// The id of a set's master; slaves have higher ones (Java: `MixAll.MASTER_ID`).
pub(super) const MASTER_ID: i64 = 0;

/// How long a registration holds if the broker does not say (Java: `DEFAULT_BROKER_CHANNEL_EXPIRED_TIME`).
pub const REGISTRATION_TIMEOUT: Duration = Duration::from_secs(120);

/// Topics that tell brokers of each other; an acting master never shows up in their routes.
const SYNC_BROKER_MEMBER_PREFIX: &str = "rmq_sys_SYNC_BROKER_MEMBER_";

/// The brokers and topics that one name server knows.
#[derive(Debug, Default)]
pub struct RouteTable {
    topics: BTreeMap<String, Topic>,
    brokers: BTreeMap<String, BrokerSet>,
    bounds: Bounds,
}

/// How much a [`RouteTable`] holds.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Topics of all brokers together.
    pub topics_max: usize,
    /// Names of broker sets.
    pub brokers_max: usize,
    /// Brokers of one set.
    pub members_max: usize,
    /// Filter servers of one broker.
    pub filter_servers_max: usize,
    /// Bytes of a name or an address.
    pub name_bytes_max: usize,
    /// How long a registration may ask to hold; asking for more gets this.
    pub timeout_max: Duration,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            topics_max: 1 << 20,
            brokers_max: 1 << 14,
            members_max: 64,
            filter_servers_max: 16,
            name_bytes_max: 512,
            timeout_max: Duration::from_secs(3600),
        }
    }
}

/// The brokers of one name: a master, id 0, and its slaves.
#[derive(Debug)]
struct BrokerSet {
    cluster: String,
    zone: Option<String>,
    acting_master: bool,
    members: BTreeMap<i64, Member>,
}

/// One registered broker.
#[derive(Debug)]
struct Member {
    address: String,
    ha_address: String,
    version: DataVersion,
    filter_servers: Vec<String>,
    heard_at: Duration,
    timeout: Duration,
    connection: u64,
}

/// The queues of one topic by broker name, and for a static topic where its logical queues lie.
#[derive(Debug, Default)]
struct Topic {
    queues: BTreeMap<String, QueueData>,
    mappings: BTreeMap<String, Value>,
}

impl Topic {
    fn forget(&mut self, broker: &str) {
        self.queues.remove(broker);
        self.mappings.remove(broker);
    }
}

/// What a broker says about itself, at its start, periodically, and when a topic changes.
#[derive(Clone, Debug)]
pub struct Registration {
    /// The cluster it belongs to.
    pub cluster: String,
    /// The name of its set.
    pub broker: String,
    /// Its id in the set, 0 for the master.
    pub id: i64,
    /// Where clients reach it.
    pub address: String,
    /// Where its slaves reach it.
    pub ha_address: String,
    /// The zone it stands in.
    pub zone: Option<String>,
    /// How long this registration holds; [`REGISTRATION_TIMEOUT`] if it does not say.
    pub timeout: Option<Duration>,
    /// Whether a slave may stand in for the master; none from brokers that do not know of it.
    pub acting_master: Option<bool>,
    /// The version of its topics.
    pub version: DataVersion,
    /// Its topics: all, or the one that changed.
    pub topics: Vec<TopicConfig>,
    /// Where the logical queues of its static topics lie, by topic (Java: `TopicQueueMappingInfo`).
    pub mappings: BTreeMap<String, Value>,
    /// Its filter servers; none leaves those it had.
    pub filter_servers: Option<Vec<String>>,
    /// The connection it came over; when that closes, the broker is gone.
    pub connection: u64,
}

/// What a registered broker is told: its master, if it is a slave and has one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registered {
    /// The master's address.
    pub master_address: Option<String>,
    /// Where the master serves its slaves.
    pub master_ha_address: Option<String>,
}

/// Why a registration was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// A single topic of a broker that is not registered: it has to register all of them.
    #[error("register broker failed")]
    NotRegistered,
    /// The table is at one of its bounds.
    #[error("the name server already knows {max} {what}, no more are taken")]
    Full {
        /// Of what there are too many.
        what: &'static str,
        /// The bound.
        max: usize,
    },
    /// A name or an address that nothing is called by.
    #[error(
        "{name:?} is no name of a {of}: at most {max} bytes without control characters, not blank"
    )]
    Name {
        /// What it was to name.
        of: &'static str,
        /// Its first characters.
        name: String,
        /// The bound.
        max: usize,
    },
}

/// A broker whose registration ran out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expired {
    /// The name of its set.
    pub broker: String,
    /// Its address.
    pub address: String,
    /// The connection it had registered over.
    pub connection: u64,
    /// How long its registration held.
    pub timeout: Duration,
}

impl RouteTable {
    /// Returns an empty table.
    pub fn new(bounds: Bounds) -> RouteTable {
        RouteTable { bounds, ..RouteTable::default() }
    }

    /// Takes a registration that arrived at `now`. `keep_topics` keeps topics that it does not name.
    ///
    /// A broker whose id is held by another address takes it over, unless its state version is older: then nothing
    /// changes and it is told so by an empty answer, as in Java.
    pub fn register(
        &mut self,
        now: Duration,
        registration: Registration,
        keep_topics: bool,
    ) -> Result<Registered, RegisterError> {
        let Registration { cluster, broker, id, address, .. } = &registration;
        let set = self.brokers.get(broker);
        let holder = set.and_then(|set| set.members.get(id));
        if let Some(holder) = holder
            && holder.address != *address
            && holder.version.state_version > registration.version.state_version
        {
            return Ok(Registered::default());
        }
        if holder.is_none() && registration.topics.len() == 1 {
            return Err(RegisterError::NotRegistered);
        }
        self.check_bounds(&registration)?;

        // A slave that became master, or the other way round, comes with the same address and another id.
        let before = set.and_then(|set| set.members.values().find(|m| m.address == *address));
        let version_before = before.map(|member| member.version);
        let filter_servers_before = before.map(|member| member.filter_servers.clone());
        let first = holder.is_none();
        let changed = first || version_before.as_ref() != Some(&registration.version);

        let set = self.brokers.entry(broker.clone()).or_insert_with(|| BrokerSet {
            cluster: cluster.clone(),
            zone: None,
            acting_master: false,
            members: BTreeMap::new(),
        });
        set.cluster.clone_from(cluster);
        set.zone.clone_from(&registration.zone);
        set.acting_master = registration.acting_master.unwrap_or(false);
        set.members.retain(|member_id, member| member_id == id || member.address != *address);
        set.members.insert(
            *id,
            Member {
                address: address.clone(),
                ha_address: registration.ha_address.clone(),
                version: registration.version,
                filter_servers: registration
                    .filter_servers
                    .clone()
                    .or(filter_servers_before)
                    .unwrap_or_default(),
                heard_at: now,
                timeout: registration
                    .timeout
                    .unwrap_or(REGISTRATION_TIMEOUT)
                    .min(self.bounds.timeout_max),
                connection: registration.connection,
            },
        );

        let is_master = *id == MASTER_ID;
        let is_prime_slave = !is_master
            && registration.acting_master.is_some()
            && set.members.keys().next() == Some(id);
        let read_only = is_prime_slave && set.acting_master;
        let master = set.members.get(&MASTER_ID).filter(|_| !is_master);
        let registered = Registered {
            master_address: master.map(|member| member.address.clone()),
            master_ha_address: master.map(|member| member.ha_address.clone()),
        };
        if is_master || is_prime_slave {
            self.take_topics(&registration, changed, read_only, keep_topics);
        }
        Ok(registered)
    }

    fn check_bounds(&self, registration: &Registration) -> Result<(), RegisterError> {
        let Bounds { topics_max, brokers_max, members_max, filter_servers_max, .. } = self.bounds;
        self.check_names(registration)?;
        match self.brokers.get(&registration.broker) {
            None if self.brokers.len() >= brokers_max => {
                return Err(RegisterError::Full { what: "brokers", max: brokers_max });
            }
            Some(set) => {
                let others = set.members.iter().filter(|(id, member)| {
                    **id != registration.id && member.address != registration.address
                });
                if others.count() >= members_max {
                    let what = "brokers of this name";
                    return Err(RegisterError::Full { what, max: members_max });
                }
            }
            None => {}
        }
        let filter_servers = registration.filter_servers.as_ref().map_or(0, Vec::len);
        if filter_servers > filter_servers_max {
            let what = "filter servers of this broker";
            return Err(RegisterError::Full { what, max: filter_servers_max });
        }
        let unknown = |topic: &&TopicConfig| !self.topics.contains_key(&topic.topic_name);
        if self.topics.len() + registration.topics.len() > topics_max
            && self.topics.len() + registration.topics.iter().filter(unknown).count() > topics_max
        {
            return Err(RegisterError::Full { what: "topics", max: topics_max });
        }
        Ok(())
    }

    /// Names are shown, logged and kept: a retry topic or an old name that the topic grammar refuses is fine, a
    /// megabyte or a line break is not.
    fn check_names(&self, registration: &Registration) -> Result<(), RegisterError> {
        let max = self.bounds.name_bytes_max;
        let check = |of, name: &str| {
            if self.is_name(name) {
                return Ok(());
            }
            Err(RegisterError::Name { of, name: name.chars().take(64).collect(), max })
        };
        let check_if_given =
            |of, name: &str| if name.is_empty() { Ok(()) } else { check(of, name) };
        check_if_given("cluster", &registration.cluster)?;
        check("broker", &registration.broker)?;
        check("broker's address", &registration.address)?;
        check_if_given("broker's address for its slaves", &registration.ha_address)?;
        check_if_given("zone", registration.zone.as_deref().unwrap_or_default())?;
        for server in registration.filter_servers.iter().flatten() {
            check("filter server", server)?;
        }
        registration.topics.iter().try_for_each(|topic| check("topic", &topic.topic_name))
    }

    fn is_name(&self, name: &str) -> bool {
        let is_fit = !name.trim().is_empty() && !name.chars().any(char::is_control);
        is_fit && name.len() <= self.bounds.name_bytes_max
    }

    fn take_topics(
        &mut self,
        registration: &Registration,
        changed: bool,
        read_only: bool,
        keep_topics: bool,
    ) {
        let broker = registration.broker.as_str();
        if !keep_topics && registration.mappings.is_empty() {
            let named = |topic: &str| registration.topics.iter().any(|t| t.topic_name == topic);
            self.drop_queues(broker, |topic| !named(topic));
        }
        for config in &registration.topics {
            let topic = self.topics.entry(config.topic_name.clone()).or_default();
            // A wiped permission stands until the broker's topics change, so equal versions change nothing.
            if changed || !topic.queues.contains_key(broker) {
                let perm = if read_only { config.perm & !perm::WRITE } else { config.perm };
                let queues = QueueData {
                    broker_name: broker.to_owned(),
                    read_queue_nums: config.read_queue_nums,
                    write_queue_nums: config.write_queue_nums,
                    perm,
                    topic_sys_flag: config.topic_sys_flag,
                };
                topic.queues.insert(broker.to_owned(), queues);
            }
        }
        if changed {
            for (name, mapping) in &registration.mappings {
                // A broker speaks for itself alone: a mapping under another name would outlive its queues here.
                let is_own = mapping["bname"].as_str().is_none_or(|named| named == broker);
                if let Some(topic) = self.topics.get_mut(name).filter(|_| is_own) {
                    topic.mappings.insert(broker.to_owned(), mapping.clone());
                }
            }
        }
    }

    /// Takes the queues of one topic on brokers that are registered; if one is not, or the name is none, nothing
    /// changes and false is returned.
    pub fn register_topic(&mut self, topic: &str, queues: Vec<QueueData>) -> bool {
        let known = self.topics.contains_key(topic) || self.topics.len() < self.bounds.topics_max;
        let registered = |queues: &QueueData| self.brokers.contains_key(&queues.broker_name);
        if queues.is_empty() || !known || !self.is_name(topic) || !queues.iter().all(registered) {
            return false;
        }
        let topic = self.topics.entry(topic.to_owned()).or_default();
        topic.queues.extend(queues.into_iter().map(|queues| (queues.broker_name.clone(), queues)));
        true
    }

    /// Forgets a topic, everywhere or on the brokers of one cluster.
    pub fn delete_topic(&mut self, topic: &str, cluster: Option<&str>) {
        let Some(cluster) = cluster else {
            self.topics.remove(topic);
            return;
        };
        let brokers: Vec<String> = self.brokers_of(cluster).map(|(name, _)| name.clone()).collect();
        for broker in brokers {
            self.drop_queues(&broker, |name| name == topic);
        }
    }

    /// Removes the broker at `address` from its set.
    pub fn unregister(&mut self, broker: &str, address: &str) {
        self.remove_members(|name, member| name == broker && member.address == address);
    }

    /// Removes the brokers that had registered over a connection that closed.
    pub fn disconnected(&mut self, connection: u64) -> Vec<Expired> {
        self.remove_members(|_, member| member.connection == connection)
    }

    /// Removes the brokers that were last heard of too long before `now`.
    pub fn expire(&mut self, now: Duration) -> Vec<Expired> {
        self.remove_members(|_, member| member.heard_at + member.timeout < now)
    }

    fn remove_members(&mut self, gone: impl Fn(&str, &Member) -> bool) -> Vec<Expired> {
        let mut removed = Vec::new();
        for (name, set) in &mut self.brokers {
            set.members.retain(|_, member| {
                let gone = gone(name, member);
                if gone {
                    removed.push(Expired {
                        broker: name.clone(),
                        address: member.address.clone(),
                        connection: member.connection,
                        timeout: member.timeout,
                    });
                }
                !gone
            });
        }
        if !removed.is_empty() {
            self.settle_topics(&removed);
        }
        removed
    }

    /// Lets topics follow: those of a vanished set go, those of a set without its master can only be read.
    fn settle_topics(&mut self, removed: &[Expired]) {
        self.brokers.retain(|_, set| !set.members.is_empty());
        for topic in self.topics.values_mut() {
            for Expired { broker, .. } in removed {
                match self.brokers.get(broker) {
                    None => topic.forget(broker),
                    Some(set) if set.acting_master && !set.members.contains_key(&MASTER_ID) => {
                        if let Some(queues) = topic.queues.get_mut(broker) {
                            queues.perm &= !perm::WRITE;
                        }
                    }
                    Some(_) => {}
                }
            }
        }
        self.topics.retain(|_, topic| !topic.queues.is_empty());
    }

    fn drop_queues(&mut self, broker: &str, of: impl Fn(&str) -> bool) {
        self.topics.retain(|name, topic| {
            if of(name) {
                topic.forget(broker);
            }
            !topic.queues.is_empty()
        });
    }

    /// Notes that a broker was heard of at `now`; nothing if it is not registered.
    pub fn heard(&mut self, broker: &str, address: &str, now: Duration) {
        let set = self.brokers.get_mut(broker);
        let members = set.into_iter().flat_map(|set| set.members.values_mut());
        for member in members.filter(|member| member.address == address) {
            member.heard_at = now;
        }
    }

    /// Returns the version of the topics that a broker registered last.
    pub fn version(&self, broker: &str, address: &str) -> Option<&DataVersion> {
        let mut members = self.brokers.get(broker)?.members.values();
        members.find(|member| member.address == address).map(|member| &member.version)
    }

    /// Takes the write permission from all topics of a broker set, in this name server alone; returns their number.
    pub fn wipe_write_permission(&mut self, broker: &str) -> i32 {
        self.set_permission(broker, |perm| perm & !perm::WRITE)
    }

    /// Lets all topics of a broker set be read and written; returns their number.
    pub fn add_write_permission(&mut self, broker: &str) -> i32 {
        self.set_permission(broker, |_| perm::READ | perm::WRITE)
    }

    fn set_permission(&mut self, broker: &str, change: impl Fn(i32) -> i32) -> i32 {
        let mut count = 0;
        for queues in self.topics.values_mut().filter_map(|topic| topic.queues.get_mut(broker)) {
            queues.perm = change(queues.perm);
            count += 1;
        }
        count
    }

    /// Returns where a topic's queues are; `acting_master` shows the first slave of a set without a master as master.
    pub fn route(&self, topic_name: &str, acting_master: bool) -> Option<TopicRouteData> {
        let topic = self.topics.get(topic_name)?;
        let acting_master = acting_master && !topic_name.starts_with(SYNC_BROKER_MEMBER_PREFIX);
        let mut route = TopicRouteData {
            queue_datas: topic.queues.values().cloned().collect(),
            ..TopicRouteData::default()
        };
        if !topic.mappings.is_empty() {
            route.topic_queue_mapping_by_broker = Some(topic.mappings.clone());
        }
        for (name, queues) in &topic.queues {
            let set = &self.brokers[name];
            let mut data = set.data(name);
            let writable = queues.perm & perm::WRITE != 0;
            if acting_master
                && set.acting_master
                && !writable
                && !set.members.contains_key(&MASTER_ID)
                && let Some((_, address)) = data.broker_addrs.pop_first()
            {
                data.broker_addrs.insert(MASTER_ID, address);
            }
            route.broker_datas.push(data);
            for member in set.members.values().filter(|member| !member.filter_servers.is_empty()) {
                let servers = member.filter_servers.clone();
                route.filter_server_table.insert(member.address.clone(), servers);
            }
        }
        Some(route)
    }

    /// Returns all clusters with their brokers, and all brokers with their addresses.
    pub fn cluster_info(&self) -> ClusterInfo {
        let mut info = ClusterInfo::default();
        for (name, set) in &self.brokers {
            info.broker_addr_table.insert(name.clone(), set.data(name));
            let names = info.cluster_addr_table.entry(set.cluster.clone()).or_default();
            names.insert(name.clone());
        }
        info
    }

    /// Returns the addresses of one broker set, none if it is unknown.
    pub fn member_group(&self, cluster: &str, broker: &str) -> BrokerMemberGroup {
        BrokerMemberGroup {
            cluster: cluster.into(),
            broker_name: broker.to_owned(),
            broker_addrs: self
                .brokers
                .get(broker)
                .map(|set| set.data(broker).broker_addrs)
                .unwrap_or_default(),
        }
    }

    /// Returns the topics that `wanted` says yes to.
    pub fn topics(&self, wanted: TopicsWanted<'_>) -> TopicList {
        if wanted == TopicsWanted::System {
            return self.system_topics();
        }
        let mut list = TopicList::default();
        for (name, topic) in &self.topics {
            // Java looks at the flags of whichever broker comes first, too: they are the same on all of them.
            let flags = topic.queues.values().next().map_or(0, |queues| queues.topic_sys_flag);
            let (unit, unit_sub) =
                (flags & topic_flag::UNIT != 0, flags & topic_flag::UNIT_SUBSCRIBED != 0);
            let matches = match wanted {
                TopicsWanted::All => true,
                TopicsWanted::OfCluster(cluster) => {
                    topic.queues.keys().any(|broker| self.brokers[broker].cluster == cluster)
                }
                TopicsWanted::System => false,
                TopicsWanted::Unit => unit,
                TopicsWanted::UnitSub => unit_sub,
                TopicsWanted::UnitSubNotUnit => unit_sub && !unit,
            };
            if matches {
                list.topic_list.push(name.clone());
            }
        }
        list
    }

    fn system_topics(&self) -> TopicList {
        let sets = || self.brokers.iter();
        let names: BTreeSet<&String> =
            sets().flat_map(|(name, set)| [name, &set.cluster]).collect();
        let any = sets().flat_map(|(_, set)| set.members.values()).next();
        TopicList {
            broker_addr: any.map(|member| member.address.clone()),
            topic_list: names.into_iter().cloned().collect(),
        }
    }

    fn brokers_of(&self, cluster: &str) -> impl Iterator<Item = (&String, &BrokerSet)> {
        self.brokers.iter().filter(move |(_, set)| set.cluster == cluster)
    }
}

/// Which topics a list is to name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicsWanted<'a> {
    /// All.
    All,
    /// Those with queues in a cluster.
    OfCluster(&'a str),
    /// The names of clusters and brokers, which are topics for administration.
    System,
    /// Those of a unit.
    Unit,
    /// Those subscribed to by a unit.
    UnitSub,
    /// Those subscribed to by a unit that are not of one.
    UnitSubNotUnit,
}

impl BrokerSet {
    fn data(&self, name: &str) -> BrokerData {
        let addresses = self.members.iter().map(|(id, member)| (*id, member.address.clone()));
        BrokerData {
            cluster: self.cluster.clone(),
            broker_name: name.to_owned(),
            broker_addrs: addresses.collect(),
            zone_name: self.zone.clone(),
            enable_acting_master: self.acting_master,
        }
    }
}

#[cfg(test)]
mod tests;
