//! The broker's side of the name servers: tell each of them what is served here, and keep telling.
//!
//! Every name server has a task and a connection of its own, so a slow or dead one delays nobody. The whole table goes
//! out at the start, after a reconnect and every `registerNameServerPeriod`; in between, what changed goes out at once.
//! The connection stays open, since a name server takes its end for the broker's. (Java: `BrokerOuterAPI`, and
//! `registerBrokerAll` of `BrokerController`.)

use std::{future, io, net::SocketAddr, sync::Arc, time::Duration};

use env::Clock;
use remoting::{CallError, Client, ConnectError, Limits, NoRequests, Tls};
use tokio::{net::lookup_host, sync::watch, task::JoinHandle};
use tracing::{debug, info, warn};
use wire::{
    body::{
        KvTable,
        register::RegisterBrokerBody,
        route::{QueueData, TopicRouteData},
        topic::TopicConfigTable,
    },
    code::{RequestCode, ResponseCode},
    ext::HeaderError,
    fastjson,
    frame::Frame,
    hash::crc32,
    header::{
        namesrv::{BrokerHeartbeat, OneBroker, QueryDataVersionResponse, RegisterBroker},
        topic::OneTopic,
    },
};

/// Time to wait for a name server's answer to a single topic and to a farewell (Java: `registerSingleTopicAll`).
const SHORT_TIMEOUT: Duration = Duration::from_secs(3);

/// Time until a name server that could not be told is tried again, unless the next period is sooner.
const RETRY_INTERVAL: Duration = Duration::from_secs(3);

/// Who registers, where, and how often.
#[derive(Clone, Debug)]
pub struct Options {
    /// `namesrvAddr`: the name servers as `host:port`; a name is resolved again at every registration.
    pub name_servers: Vec<String>,
    /// `brokerClusterName`.
    pub cluster: String,
    /// `brokerName`.
    pub broker: String,
    /// `brokerId`: 0 for a master.
    pub id: i64,
    /// The address that clients are told.
    pub address: SocketAddr,
    /// The address that slaves are told.
    pub ha_address: SocketAddr,
    /// `registerNameServerPeriod` (30 s), held within 10 s and 60 s as in the original.
    pub register_name_server_period: Duration,
    /// `registerBrokerTimeoutMills` (24 s): time to wait for a name server's answer.
    pub register_broker_timeout: Duration,
    /// `forceRegister` (true): register every time, not only when the name server says that its version is another.
    pub force_register: bool,
    /// `compressedRegister` (false): send the deflated form.
    pub compressed_register: bool,
    /// `enableSingleTopicRegister` (false): tell of a changed topic by REGISTER_TOPIC_IN_NAMESRV.
    pub enable_single_topic_register: bool,
    /// `enableSlaveActingMaster` (false): say so, and keep the registration alive by heartbeats.
    pub enable_slave_acting_master: bool,
    /// `brokerHeartbeatInterval` (1 s): period of those heartbeats.
    pub broker_heartbeat_interval: Duration,
    /// `brokerNotActiveTimeoutMillis` (10 s): how long the registration then holds without one.
    pub broker_not_active_timeout: Duration,
    /// `tls.enable`: speak TLS with name servers, and how.
    pub tls: Option<Tls>,
}

impl Default for Options {
    fn default() -> Options {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        Options {
            name_servers: Vec::new(),
            cluster: "DefaultCluster".to_owned(),
            broker: "broker".to_owned(),
            id: 0,
            address: nowhere,
            ha_address: nowhere,
            register_name_server_period: Duration::from_secs(30),
            register_broker_timeout: Duration::from_secs(24),
            force_register: true,
            compressed_register: false,
            enable_single_topic_register: false,
            enable_slave_acting_master: false,
            broker_heartbeat_interval: Duration::from_secs(1),
            broker_not_active_timeout: Duration::from_secs(10),
            tls: None,
        }
    }
}

/// Where the topics to register come from: the broker.
pub trait Topics: Send + Sync + 'static {
    /// Returns all topics and their version.
    fn topics(&self) -> TopicConfigTable;

    /// The same with only the topics that were created or changed after [`Topics::changed`] was `after`; none if that is
    /// too long ago to be known.
    fn changes(&self, after: u64) -> Option<TopicConfigTable>;

    /// Returns the bits that the broker's own permission leaves of a topic's.
    fn permission(&self) -> i32;

    /// Returns a number that rises with every change of what the other two return.
    fn changed(&self) -> watch::Receiver<u64>;

    /// Takes the names of topics that a name server has an order configuration for.
    fn set_ordered(&self, topics: &mut dyn Iterator<Item = &str>);
}

impl Topics for broker::Broker {
    fn topics(&self) -> TopicConfigTable {
        broker::Broker::topics(self)
    }

    fn changes(&self, after: u64) -> Option<TopicConfigTable> {
        self.topic_changes(after)
    }

    fn permission(&self) -> i32 {
        self.options().broker_permission
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.topics_changed()
    }

    fn set_ordered(&self, topics: &mut dyn Iterator<Item = &str>) {
        self.mark_ordered_topics(topics);
    }
}

/// How things stand with one name server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The change, as counted by [`Topics::changed`], up to which it was told or could not be.
    pub attempted: Option<u64>,
    /// Why the last attempt failed; none while it knows us.
    pub failure: Option<String>,
}

/// A broker's running registration with all its name servers.
pub struct Registration {
    servers: Vec<Server>,
    topics: Arc<dyn Topics>,
    stop: watch::Sender<bool>,
}

struct Server {
    name: String,
    standing: watch::Receiver<Standing>,
    task: JoinHandle<()>,
}

impl Registration {
    /// Starts to register with every name server in parallel.
    pub fn start(options: Options, topics: Arc<dyn Topics>, clock: Clock) -> Registration {
        let options = Arc::new(options);
        let stop = watch::Sender::new(false);
        let servers = options.name_servers.iter().map(|name| {
            let (sender, standing) = watch::channel(Standing::default());
            let follower = Follower {
                name: name.clone(),
                options: options.clone(),
                topics: topics.clone(),
                clock: clock.clone(),
                standing: sender,
                line: None,
            };
            let task = tokio::spawn(follower.follow(stop.subscribe()));
            Server { name: name.clone(), standing, task }
        });
        Registration { servers: servers.collect(), topics, stop }
    }

    /// Waits until every name server has been told, or was found unreachable, of all that has changed so far.
    pub async fn settled(&self) {
        let version = *self.topics.changed().borrow();
        for server in &self.servers {
            let mut standing = server.standing.clone();
            let _ = standing.wait_for(|standing| standing.attempted >= Some(version)).await;
        }
    }

    /// Returns each name server and how things stand with it.
    pub fn standings(&self) -> Vec<(String, Standing)> {
        self.servers.iter().map(|s| (s.name.clone(), s.standing.borrow().clone())).collect()
    }

    /// Says goodbye to every name server; takes at most three seconds.
    pub async fn stop(mut self) {
        let _ = self.stop.send(true);
        for server in std::mem::take(&mut self.servers) {
            let _ = server.task.await;
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.servers.iter().for_each(|server| server.task.abort());
    }
}

/// The task of one name server.
struct Follower {
    name: String,
    options: Arc<Options>,
    topics: Arc<dyn Topics>,
    clock: Clock,
    standing: watch::Sender<Standing>,
    line: Option<Line>,
}

/// A connection to a name server, and what it was told over it.
struct Line {
    client: Client,
    told: Option<Told>,
}

struct Told {
    /// The change, as counted by [`Topics::changed`], up to which it was told.
    version: u64,
    permission: i32,
    /// When everything was told last.
    all_at: Duration,
}

/// Why a name server could not be told.
#[derive(Debug, thiserror::Error)]
enum TellError {
    #[error("cannot resolve `{name}`: {source}")]
    Unresolved { name: String, source: io::Error },
    #[error("no address within {SHORT_TIMEOUT:?}")]
    ResolveTimeout,
    #[error(transparent)]
    Unreachable(#[from] ConnectError),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("refused with {code}: {remark}")]
    Refused { code: ResponseCode, remark: String },
    #[error("the answer is malformed: {0}")]
    Header(#[from] HeaderError),
    #[error("the answer is malformed: {0}")]
    Body(#[from] fastjson::Error),
}

impl Follower {
    async fn follow(mut self, mut stop: watch::Receiver<bool>) {
        let mut changed = self.topics.changed();
        loop {
            let version = *changed.borrow_and_update();
            let outcome = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                outcome = self.tell(version) => outcome,
            };
            let again_at = self.note(version, outcome);
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                () = self.beat_until(again_at) => {}
                Ok(()) = changed.changed() => {}
            }
        }
        self.say_goodbye().await;
    }

    /// Publishes how the last attempt ended and returns when the next is due.
    fn note(&mut self, version: u64, outcome: Result<(), TellError>) -> Duration {
        let failure = outcome.err().map(|error| error.to_string());
        let before = self.standing.borrow().clone();
        match &failure {
            Some(failure) if before.failure.as_ref() != Some(failure) => {
                warn!(name_server = self.name, failure, "cannot register");
            }
            None if before.attempted.is_none() || before.failure.is_some() => {
                info!(name_server = self.name, address = %self.options.address, "registered");
            }
            _ => {}
        }
        let period = self.period();
        let now = self.clock.monotonic();
        let told_all_at = self.told().map(|told| told.all_at);
        let again_at = match (&failure, told_all_at) {
            (None, Some(all_at)) => all_at + period,
            _ => now + RETRY_INTERVAL.min(period),
        };
        if failure.is_some() {
            self.line = None;
        }
        self.standing.send_replace(Standing { attempted: Some(version), failure });
        again_at
    }

    fn period(&self) -> Duration {
        let (least, most) = (Duration::from_secs(10), Duration::from_secs(60));
        self.options.register_name_server_period.clamp(least, most)
    }

    fn told(&self) -> Option<&Told> {
        self.line.as_ref()?.told.as_ref()
    }

    /// Waits until `deadline` or the loss of the connection, sending heartbeats if they are wanted.
    async fn beat_until(&self, deadline: Duration) {
        let lost = async {
            match &self.line {
                Some(line) => line.client.closed().await,
                None => future::pending().await,
            }
        };
        let beats = async {
            if !self.options.enable_slave_acting_master {
                return future::pending().await;
            }
            loop {
                self.clock.sleep(self.options.broker_heartbeat_interval).await;
                self.send_heartbeat();
            }
        };
        tokio::select! {
            () = self.clock.sleep_until(deadline) => {}
            () = lost => {}
            () = beats => {}
        }
    }

    fn send_heartbeat(&self) {
        let Some(line) = &self.line else { return };
        let header = BrokerHeartbeat {
            cluster_name: &self.options.cluster,
            broker_addr: &self.options.address.to_string(),
            broker_name: &self.options.broker,
            ..BrokerHeartbeat::default()
        };
        if let Err(error) = line.client.push(Frame::oneway(RequestCode::BROKER_HEARTBEAT, &header))
        {
            debug!(name_server = self.name, %error, "heartbeat not sent");
        }
    }

    /// Tells the name server what it does not know: everything if that is due, else what has changed. `version` is the
    /// last change that was seen.
    async fn tell(&mut self, version: u64) -> Result<(), TellError> {
        let permission = self.topics.permission();
        let now = self.clock.monotonic();
        let due = self.told().is_none_or(|told| told.all_at + self.period() <= now);
        if due || self.line.as_ref().is_none_or(|line| line.client.is_gone()) {
            self.connect().await?;
        }
        let line = self.line.as_ref().expect("connected above, or before");
        let known = line.told.as_ref().filter(|told| !due && told.permission == permission);
        let known = known.and_then(|told| Some((told, self.topics.changes(told.version)?)));
        let all_at = match known {
            None => {
                self.tell_all(line, permission).await?;
                now
            }
            Some((told, changes)) => match self.tell_some(line, changes, permission).await {
                // It has forgotten us meanwhile, perhaps.
                Err(TellError::Refused { .. }) => {
                    self.tell_all(line, permission).await?;
                    now
                }
                told_some => told_some.map(|()| told.all_at)?,
            },
        };
        let told = Told { version, permission, all_at };
        self.line.as_mut().expect("still there").told = Some(told);
        Ok(())
    }

    /// Resolves the name again, and connects unless the connection leads to one of its addresses.
    async fn connect(&mut self) -> Result<(), TellError> {
        let name = &self.name;
        let resolved = tokio::select! {
            resolved = lookup_host(name.as_str()) => resolved,
            () = self.clock.sleep(SHORT_TIMEOUT) => return Err(TellError::ResolveTimeout),
        };
        let unresolved = |source| TellError::Unresolved { name: name.clone(), source };
        let mut addresses: Vec<SocketAddr> = resolved.map_err(unresolved)?.collect();
        let current = self.line.as_ref().filter(|line| !line.client.is_gone());
        if current.is_some_and(|line| addresses.contains(&line.client.remote())) {
            return Ok(());
        }
        addresses.sort_by_key(SocketAddr::is_ipv6);
        let Some(address) = addresses.first() else {
            return Err(unresolved(io::ErrorKind::NotFound.into()));
        };
        let (limits, clock) = (Limits::default(), self.clock.clone());
        let client = match &self.options.tls {
            Some(tls) => {
                let host = name.rsplit_once(':').map_or(name.as_str(), |(host, _)| host);
                Client::connect_tls(*address, host, tls, limits, clock, NoRequests).await?
            }
            None => Client::connect(*address, limits, clock, NoRequests).await?,
        };
        self.line = Some(Line { client, told: None });
        Ok(())
    }

    async fn tell_all(&self, line: &Line, permission: i32) -> Result<(), TellError> {
        let table = self.topics.topics();
        // Only who is known can be unchanged, so the first registration of a connection is always sent.
        if !self.options.force_register
            && line.told.is_some()
            && !self.is_outdated(line, &table).await?
        {
            return Ok(());
        }
        self.register(line, table, permission).await
    }

    async fn tell_some(
        &self,
        line: &Line,
        changes: TopicConfigTable,
        permission: i32,
    ) -> Result<(), TellError> {
        if !self.options.enable_single_topic_register {
            if changes.topic_config_table.is_empty() {
                return Ok(());
            }
            return self.register(line, changes, permission).await;
        }
        for topic in changes.topic_config_table.values() {
            let queues = QueueData {
                broker_name: self.options.broker.clone(),
                perm: topic.perm & permission,
                read_queue_nums: topic.read_queue_nums,
                topic_sys_flag: topic.topic_sys_flag,
                write_queue_nums: topic.write_queue_nums,
            };
            let route = TopicRouteData { queue_datas: vec![queues], ..TopicRouteData::default() };
            let header = OneTopic { topic: &topic.topic_name };
            let request = Frame::request(RequestCode::REGISTER_TOPIC_IN_NAMESRV, &header);
            let request = request.with_body(fastjson::encode(&route));
            succeeded(line.client.call(request, SHORT_TIMEOUT).await?)?;
        }
        Ok(())
    }

    /// Asks whether the name server knows another version of our topics than this.
    async fn is_outdated(&self, line: &Line, table: &TopicConfigTable) -> Result<bool, TellError> {
        let request =
            Frame::request(RequestCode::QUERY_DATA_VERSION, &self.header(&self.address()))
                .with_body(fastjson::encode(&table.data_version));
        let answer = line.client.call(request, self.options.register_broker_timeout).await?;
        Ok(succeeded(answer)?.header::<QueryDataVersionResponse>()?.changed)
    }

    async fn register(
        &self,
        line: &Line,
        mut table: TopicConfigTable,
        permission: i32,
    ) -> Result<(), TellError> {
        for topic in table.topic_config_table.values_mut() {
            topic.perm &= permission;
        }
        let table = TopicConfigTable {
            data_version: table.data_version,
            mapping_data_version: table.mapping_data_version,
            topic_config_table: table.topic_config_table,
            topic_queue_mapping_info_map: table.topic_queue_mapping_info_map,
            ..TopicConfigTable::default()
        };
        let body = RegisterBrokerBody {
            filter_server_list: Vec::new(),
            topic_config_serialize_wrapper: table,
        };
        let compressed = self.options.compressed_register;
        let body = if compressed { body.deflate() } else { body.encode() };
        let acting = self.options.enable_slave_acting_master;
        let holds = i64::try_from(self.options.broker_not_active_timeout.as_millis());
        let header = RegisterBroker {
            broker_name: &self.options.broker,
            broker_addr: &self.address(),
            cluster_name: &self.options.cluster,
            ha_server_addr: &self.options.ha_address.to_string(),
            broker_id: self.options.id,
            heartbeat_timeout_millis: acting.then_some(holds.unwrap_or(i64::MAX)),
            enable_acting_master: Some(acting),
            compressed,
            body_crc32: crc32(&body) as i32,
        };
        let request = Frame::request(RequestCode::REGISTER_BROKER, &header).with_body(body);
        let answer = line.client.call(request, self.options.register_broker_timeout).await?;
        let orders = succeeded(answer)?.body_bytes();
        if !orders.is_empty() {
            let orders: KvTable = fastjson::decode(&orders)?;
            self.topics.set_ordered(&mut orders.table.keys().map(String::as_str));
        }
        Ok(())
    }

    async fn say_goodbye(&self) {
        let Some(line) = self.line.as_ref().filter(|line| !line.client.is_gone()) else { return };
        let request = Frame::request(RequestCode::UNREGISTER_BROKER, &self.header(&self.address()));
        match line.client.call(request, SHORT_TIMEOUT).await {
            Ok(_) => info!(name_server = self.name, "unregistered"),
            Err(error) => warn!(name_server = self.name, %error, "cannot unregister"),
        }
    }

    fn header<'a>(&'a self, broker_addr: &'a str) -> OneBroker<'a> {
        OneBroker {
            broker_name: &self.options.broker,
            broker_addr,
            cluster_name: &self.options.cluster,
            broker_id: self.options.id,
        }
    }

    fn address(&self) -> String {
        self.options.address.to_string()
    }
}

/// Returns the answer if it says success.
fn succeeded(answer: Frame) -> Result<Frame, TellError> {
    match answer.response_code() {
        ResponseCode::SUCCESS => Ok(answer),
        code => {
            let remark = answer.remark.map(|remark| remark.to_string()).unwrap_or_default();
            Err(TellError::Refused { code, remark })
        }
    }
}
