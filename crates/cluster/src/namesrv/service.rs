//! The name server's door: every request code of its port, one method each.
//!
//! It decodes, asks the [`RouteTable`] under a short lock, and encodes. What writes a file is answered later, from a
//! thread that may wait for the disk. (Java: `DefaultRequestProcessor`, `ClientRequestProcessor`, `ZoneRouteRPCHook`.)

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use env::Env;
use remoting::{Connection, Handler, Replies, Service};
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};
use wire::{
    body::{
        DataVersion, KvTable,
        register::RegisterBrokerBody,
        route::{BrokerData, GetBrokerMemberGroupResponse, TopicRouteData},
        topic::TopicConfigTable,
    },
    code::{RequestCode, ResponseCode, version},
    fastjson,
    frame::{Frame, Kind},
    hash::crc32,
    header::{
        field,
        namesrv::{
            AddWritePermResponse, BrokerHeartbeat, DeleteTopicInNamesrv, GetBrokerMemberGroup,
            GetKvResponse, GetRouteInfo, OneBroker, OneBrokerName, OneCluster, OneKey, PutKv,
            QueryDataVersionResponse, RegisterBroker, RegisterBrokerResponse,
            WipeWritePermResponse,
        },
        topic::OneTopic,
    },
    names::ORDER_TOPIC_NAMESPACE,
};

use super::{
    Expired, KvConfig, KvError, Options, Registration, RouteTable, SettingError, TopicsWanted,
    table::MASTER_ID,
};

/// Bytes of a registration when inflated; a hundred thousand topics take 10 MB.
const INFLATED_BYTES_MAX: u64 = 64 << 20;

/// A running name server; a clone is the same one.
#[derive(Clone)]
pub struct NameServer(Arc<Shared>);

struct Shared {
    table: Mutex<RouteTable>,
    kv: KvConfig,
    options: Mutex<Arc<Options>>,
    /// Held while settings change, the file included; readers of the options never wait for it.
    changing: Mutex<()>,
    env: Env,
    view: Option<AddressView>,
    started_at: Duration,
    /// Connections that brokers registered over, to be closed when they expire.
    brokers: Mutex<HashMap<u64, Connection>>,
}

/// In the all-in-one process with no address configured: how its own broker shows up in answers.
///
/// Wherever the registered address would be told, the asking client is told the address under which it reached the
/// name server, with the broker's port: if that way led here, it leads to the broker as well. Peers that came over IPv6
/// see the registered address, since old clients cut addresses at the first colon.
#[derive(Clone, Debug)]
pub struct AddressView {
    /// The address that the broker in this process registers with.
    pub registered: SocketAddr,
}

impl AddressView {
    /// Returns what a client that reached us at `local` is to be told instead of `address`.
    fn seen_from(&self, address: &str, local: SocketAddr) -> Option<String> {
        let ours = address == self.registered.to_string();
        (ours && local.is_ipv4())
            .then(|| SocketAddr::new(local.ip(), self.registered.port()).to_string())
    }
}

impl NameServer {
    /// Opens the KV configuration; serves once it is given to listeners, and forgets silent brokers while
    /// [`NameServer::spawn_scan`] runs.
    pub fn open(
        options: Options,
        view: Option<AddressView>,
        env: Env,
    ) -> Result<NameServer, KvError> {
        let kv =
            KvConfig::open(env.disk.clone(), options.kv_config_path.clone(), options.kv_bytes_max)?;
        Ok(NameServer(Arc::new(Shared {
            table: Mutex::new(RouteTable::new(options.bounds)),
            kv,
            started_at: env.clock.monotonic(),
            options: Mutex::new(Arc::new(options)),
            changing: Mutex::new(()),
            env,
            view,
            brokers: Mutex::new(HashMap::new()),
        })))
    }

    /// Looks for silent brokers every `scanNotActiveBrokerInterval`; abort the task to stop.
    pub fn spawn_scan(&self) -> JoinHandle<()> {
        let server = self.clone();
        tokio::spawn(async move {
            loop {
                let interval = server.0.options().scan_not_active_broker_interval;
                server.0.env.clock.sleep(interval).await;
                server.scan();
            }
        })
    }

    /// Forgets brokers that were silent for too long, and closes their connections.
    pub fn scan(&self) {
        let now = self.0.env.clock.monotonic();
        let expired = self.0.table().expire(now);
        for Expired { broker, address, connection, timeout } in expired {
            warn!(broker, address, timeout_ms = timeout.as_millis(), "broker expired");
            let connection = self.0.brokers().remove(&connection);
            if let Some(connection) = connection {
                connection.close();
            }
        }
    }
}

impl Service for NameServer {
    fn connected(&self, connection: &Connection) -> Box<dyn Handler> {
        Box::new(Session {
            shared: self.0.clone(),
            connection: connection.clone(),
            registered: false,
        })
    }
}

/// One connection to the name server.
struct Session {
    shared: Arc<Shared>,
    connection: Connection,
    /// Whether a broker registered over it: then the connection's end is the broker's.
    registered: bool,
}

impl Handler for Session {
    fn run(&mut self, run: &mut Vec<Frame>, replies: &mut Replies) {
        for request in run.drain(..) {
            let answer = match self.serve(&request) {
                Ok(Answer::Now(answer)) => answer,
                Ok(Answer::Write(write)) => {
                    replies.later(1, write_aside(self.shared.clone(), request, write));
                    continue;
                }
                Err(refusal) => refusal.answer(&request),
            };
            if request.kind == Kind::Request {
                replies.push(&answer);
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.registered {
            return;
        }
        let id = self.connection.id();
        self.shared.brokers().remove(&id);
        for Expired { broker, address, .. } in self.shared.table().disconnected(id) {
            info!(broker, address, "broker disconnected");
        }
    }
}

/// How a request is answered.
#[expect(
    clippy::large_enum_variant,
    reason = "made and taken apart at once, nearly always the large one"
)]
enum Answer {
    Now(Frame),
    Write(Write),
}

/// A request that ends in a file.
enum Write {
    PutKv { namespace: String, key: String, value: String },
    DeleteKv { namespace: String, key: String },
    Settings { properties: String },
}

/// An answer that is an error.
struct Refusal {
    code: ResponseCode,
    remark: String,
}

impl Refusal {
    fn new(code: ResponseCode, remark: impl Into<String>) -> Refusal {
        Refusal { code, remark: remark.into() }
    }

    fn answer(self, request: &Frame) -> Frame {
        request.respond(self.code).with_remark(self.remark)
    }
}

/// Whatever the original lets end as an exception.
impl<E: std::error::Error> From<E> for Refusal {
    fn from(error: E) -> Refusal {
        Refusal::new(ResponseCode::SYSTEM_ERROR, error.to_string())
    }
}

impl Session {
    fn serve(&mut self, request: &Frame) -> Result<Answer, Refusal> {
        debug!(remote = %self.connection.remote(), code = %request.request_code(), "name server asked");
        let topics = |wanted| self.shared.topic_list(request, wanted);
        let answer = match request.request_code() {
            RequestCode::GET_ROUTEINFO_BY_TOPIC => self.route(request)?,
            RequestCode::REGISTER_BROKER => self.register(request)?,
            RequestCode::UNREGISTER_BROKER => self.unregister(request)?,
            RequestCode::QUERY_DATA_VERSION => self.query_data_version(request)?,
            RequestCode::BROKER_HEARTBEAT => self.heartbeat(request)?,
            RequestCode::GET_BROKER_MEMBER_GROUP => self.member_group(request)?,
            RequestCode::GET_BROKER_CLUSTER_INFO => self.cluster_info(request),
            RequestCode::WIPE_WRITE_PERM_OF_BROKER => self.wipe_write_permission(request)?,
            RequestCode::ADD_WRITE_PERM_OF_BROKER => self.add_write_permission(request)?,
            RequestCode::GET_ALL_TOPIC_LIST_FROM_NAMESERVER => topics(TopicsWanted::All)?,
            RequestCode::GET_TOPICS_BY_CLUSTER => {
                topics(TopicsWanted::OfCluster(request.header::<OneCluster<'_>>()?.cluster))?
            }
            RequestCode::GET_SYSTEM_TOPIC_LIST_FROM_NS => topics(TopicsWanted::System)?,
            RequestCode::GET_UNIT_TOPIC_LIST => topics(TopicsWanted::Unit)?,
            RequestCode::GET_HAS_UNIT_SUB_TOPIC_LIST => topics(TopicsWanted::UnitSub)?,
            RequestCode::GET_HAS_UNIT_SUB_UNUNIT_TOPIC_LIST => {
                topics(TopicsWanted::UnitSubNotUnit)?
            }
            RequestCode::DELETE_TOPIC_IN_NAMESRV => self.delete_topic(request)?,
            RequestCode::REGISTER_TOPIC_IN_NAMESRV => self.register_topic(request)?,
            RequestCode::PUT_KV_CONFIG => return put_kv(request),
            RequestCode::GET_KV_CONFIG => self.get_kv(request)?,
            RequestCode::DELETE_KV_CONFIG => return delete_kv(request),
            RequestCode::GET_KVLIST_BY_NAMESPACE => self.list_kv(request)?,
            RequestCode::UPDATE_NAMESRV_CONFIG => return update_settings(request),
            RequestCode::GET_NAMESRV_CONFIG => {
                success(request).with_body(self.shared.options().to_properties())
            }
            unknown => {
                let remark = format!(" request type {unknown} not supported by the name server");
                return Err(Refusal::new(ResponseCode::REQUEST_CODE_NOT_SUPPORTED, remark));
            }
        };
        Ok(Answer::Now(answer))
    }

    fn route(&self, request: &Frame) -> Result<Frame, Refusal> {
        let asked: GetRouteInfo<'_> = request.header()?;
        let options = self.shared.options();
        let up_for = self.shared.env.clock.monotonic().saturating_sub(self.shared.started_at);
        if options.need_wait_for_service && up_for.as_secs() < options.wait_seconds_for_service {
            return Err(Refusal::new(ResponseCode::SYSTEM_ERROR, "name server not ready"));
        }
        let route = self.shared.table().route(asked.topic, options.support_acting_master);
        let Some(mut route) = route else {
            let remark = format!(
                "No topic route info in name server for the topic: {}\nSee \
                 https://rocketmq.apache.org/docs/bestPractice/06FAQ for further details.",
                asked.topic
            );
            return Err(Refusal::new(ResponseCode::TOPIC_NOT_EXIST, remark));
        };
        if options.order_message_enable {
            let order = self.shared.kv.get(ORDER_TOPIC_NAMESPACE, asked.topic);
            route.order_topic_conf = order;
        }
        if request.ext.get(field::ZONE_MODE).is_some_and(|mode| mode.eq_ignore_ascii_case("true"))
            && let Some(zone) =
                request.ext.get(field::ZONE_NAME).filter(|zone| !zone.trim().is_empty())
        {
            keep_zone(&mut route, zone);
        }
        for broker in &mut route.broker_datas {
            self.shared.show_addresses(broker.broker_addrs.values_mut(), &self.connection);
        }
        let standard =
            request.version >= version::V4_9_4 || asked.accept_standard_json_only.unwrap_or(false);
        let body =
            if standard { fastjson::encode_standard(&route) } else { fastjson::encode(&route) };
        Ok(success(request).with_body(body))
    }

    fn register(&mut self, request: &Frame) -> Result<Frame, Refusal> {
        let header: RegisterBroker<'_> = request.header()?;
        if header.broker_name.is_empty() || header.broker_addr.is_empty() {
            let remark = "a registration names its broker and the address";
            return Err(Refusal::new(ResponseCode::SYSTEM_ERROR, remark));
        }
        let body = request.body_bytes();
        if header.body_crc32 != 0 && header.body_crc32 != crc32(&body) as i32 {
            warn!(remote = %self.connection.remote(), "registration with a wrong checksum");
            return Err(Refusal::new(ResponseCode::SYSTEM_ERROR, "crc32 not match"));
        }
        let RegisterBrokerBody { filter_server_list, topic_config_serialize_wrapper: table } =
            registration_body(&body, header.compressed, request.version)?;
        let registration = Registration {
            cluster: header.cluster_name.to_owned(),
            broker: header.broker_name.to_owned(),
            id: header.broker_id,
            address: header.broker_addr.to_owned(),
            ha_address: header.ha_server_addr.to_owned(),
            zone: request.ext.get(field::ZONE_NAME).map(ToString::to_string),
            timeout: header
                .heartbeat_timeout_millis
                .map(|millis| Duration::from_millis(u64::try_from(millis).unwrap_or(0))),
            acting_master: header.enable_acting_master,
            version: table.data_version,
            topics: table.topic_config_table.into_values().collect(),
            mappings: table.topic_queue_mapping_info_map.unwrap_or_default(),
            filter_servers: Some(filter_server_list),
            connection: self.connection.id(),
        };
        let options = self.shared.options();
        let now = self.shared.env.clock.monotonic();
        let new = self.shared.table().version(header.broker_name, header.broker_addr).is_none();
        let keep_topics = !options.delete_topic_with_broker_registration;
        let registered = self.shared.table().register(now, registration, keep_topics)?;
        if new {
            let (broker, address) = (header.broker_name, header.broker_addr);
            info!(broker, id = header.broker_id, address, "broker registered");
        }
        self.registered = true;
        self.shared.brokers().insert(self.connection.id(), self.connection.clone());

        let answer = success(request).with_header(&RegisterBrokerResponse {
            ha_server_addr: registered.master_ha_address.as_deref(),
            master_addr: registered.master_address.as_deref(),
        });
        let orders = options
            .return_order_topic_config_to_broker
            .then(|| self.shared.kv.list(ORDER_TOPIC_NAMESPACE))
            .flatten();
        Ok(match orders {
            Some(table) => answer.with_body(kv_table(table)),
            None => answer,
        })
    }

    fn unregister(&self, request: &Frame) -> Result<Frame, Refusal> {
        let header: OneBroker<'_> = request.header()?;
        self.shared.table().unregister(header.broker_name, header.broker_addr);
        info!(broker = header.broker_name, address = header.broker_addr, "broker unregistered");
        Ok(success(request))
    }

    fn query_data_version(&self, request: &Frame) -> Result<Frame, Refusal> {
        let header: OneBroker<'_> = request.header()?;
        let theirs: DataVersion = fastjson::decode(&request.body_bytes())?;
        let now = self.shared.env.clock.monotonic();
        let mut table = self.shared.table();
        table.heard(header.broker_name, header.broker_addr, now);
        let ours = table.version(header.broker_name, header.broker_addr);
        let changed = ours != Some(&theirs);
        let answer = success(request).with_header(&QueryDataVersionResponse { changed });
        Ok(match ours {
            Some(ours) => answer.with_body(fastjson::encode(ours)),
            None => answer,
        })
    }

    fn heartbeat(&self, request: &Frame) -> Result<Frame, Refusal> {
        let header: BrokerHeartbeat<'_> = request.header()?;
        let now = self.shared.env.clock.monotonic();
        self.shared.table().heard(header.broker_name, header.broker_addr, now);
        Ok(success(request))
    }

    fn member_group(&self, request: &Frame) -> Result<Frame, Refusal> {
        let header: GetBrokerMemberGroup<'_> = request.header()?;
        let group = self.shared.table().member_group(header.cluster_name, header.broker_name);
        let body = GetBrokerMemberGroupResponse { broker_member_group: Some(group) };
        Ok(success(request).with_body(fastjson::encode(&body)))
    }

    fn cluster_info(&self, request: &Frame) -> Frame {
        let mut info = self.shared.table().cluster_info();
        for broker in info.broker_addr_table.values_mut() {
            self.shared.show_addresses(broker.broker_addrs.values_mut(), &self.connection);
        }
        success(request).with_body(fastjson::encode(&info))
    }

    fn wipe_write_permission(&self, request: &Frame) -> Result<Frame, Refusal> {
        let header: OneBrokerName<'_> = request.header()?;
        let wipe_topic_count = self.shared.table().wipe_write_permission(header.broker_name);
        let remote = self.connection.remote();
        info!(%remote, broker = header.broker_name, wipe_topic_count, "write permission wiped");
        Ok(success(request).with_header(&WipeWritePermResponse { wipe_topic_count }))
    }

    fn add_write_permission(&self, request: &Frame) -> Result<Frame, Refusal> {
        let header: OneBrokerName<'_> = request.header()?;
        let add_topic_count = self.shared.table().add_write_permission(header.broker_name);
        let remote = self.connection.remote();
        info!(%remote, broker = header.broker_name, add_topic_count, "write permission restored");
        Ok(success(request).with_header(&AddWritePermResponse { add_topic_count }))
    }

    fn delete_topic(&self, request: &Frame) -> Result<Frame, Refusal> {
        let header: DeleteTopicInNamesrv<'_> = request.header()?;
        let cluster = header.cluster_name.filter(|cluster| !cluster.is_empty());
        self.shared.table().delete_topic(header.topic, cluster);
        Ok(success(request))
    }

    fn register_topic(&self, request: &Frame) -> Result<Frame, Refusal> {
        let header: OneTopic<'_> = request.header()?;
        let route: TopicRouteData = fastjson::decode(&request.body_bytes())?;
        if !self.shared.table().register_topic(header.topic, route.queue_datas) {
            // Java answers success as well, and says so only in its log.
            warn!(topic = header.topic, remote = %self.connection.remote(), "topic of unknown brokers");
        }
        Ok(success(request))
    }

    fn get_kv(&self, request: &Frame) -> Result<Frame, Refusal> {
        let OneKey { namespace, key } = request.header()?;
        let (namespace, key) = (namespace.unwrap_or_default(), key.unwrap_or_default());
        let Some(value) = self.shared.kv.get(namespace, key) else {
            let remark = format!("No config item, Namespace: {namespace} Key: {key}");
            return Err(Refusal::new(ResponseCode::QUERY_NOT_FOUND, remark));
        };
        Ok(success(request).with_header(&GetKvResponse { value: Some(&value) }))
    }

    fn list_kv(&self, request: &Frame) -> Result<Frame, Refusal> {
        let namespace = request.header::<OneKey<'_>>()?.namespace.unwrap_or_default();
        let Some(table) = self.shared.kv.list(namespace) else {
            let remark = format!("No config item, Namespace: {namespace}");
            return Err(Refusal::new(ResponseCode::QUERY_NOT_FOUND, remark));
        };
        Ok(success(request).with_body(kv_table(table)))
    }
}

impl Shared {
    fn topic_list(&self, request: &Frame, wanted: TopicsWanted<'_>) -> Result<Frame, Refusal> {
        let options = self.options();
        let enabled = match wanted {
            TopicsWanted::All => options.enable_all_topic_list,
            TopicsWanted::System => true,
            TopicsWanted::OfCluster(_)
            | TopicsWanted::Unit
            | TopicsWanted::UnitSub
            | TopicsWanted::UnitSubNotUnit => options.enable_topic_list,
        };
        if !enabled {
            return Err(Refusal::new(ResponseCode::SYSTEM_ERROR, "disable"));
        }
        Ok(success(request).with_body(fastjson::encode(&self.table().topics(wanted))))
    }

    fn show_addresses<'a>(
        &self,
        addresses: impl Iterator<Item = &'a mut String>,
        asking: &Connection,
    ) {
        let Some(view) = &self.view else { return };
        for address in addresses {
            if let Some(seen) = view.seen_from(address, asking.local()) {
                *address = seen;
            }
        }
    }

    /// Carries a change out, on a thread that may wait for the disk.
    fn write(&self, write: Write) -> Result<(), Refusal> {
        match write {
            Write::PutKv { namespace, key, value } => Ok(self.kv.put(&namespace, &key, &value)?),
            Write::DeleteKv { namespace, key } => Ok(self.kv.delete(&namespace, &key)?),
            Write::Settings { properties } => {
                let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
                let mut options = (*self.options()).clone();
                options.update(&properties).map_err(|error| match error {
                    SettingError::Forbidden { .. } => {
                        Refusal::new(ResponseCode::NO_PERMISSION, error.to_string())
                    }
                    SettingError::Invalid { .. } => {
                        Refusal::new(ResponseCode::INVALID_PARAMETER, error.to_string())
                    }
                })?;
                options.save(&*self.env.disk)?;
                *self.options_mut() = Arc::new(options);
                info!("settings of the name server changed");
                Ok(())
            }
        }
    }

    fn table(&self) -> MutexGuard<'_, RouteTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn options(&self) -> Arc<Options> {
        self.options_mut().clone()
    }

    fn options_mut(&self) -> MutexGuard<'_, Arc<Options>> {
        self.options.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn brokers(&self) -> MutexGuard<'_, HashMap<u64, Connection>> {
        self.brokers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn put_kv(request: &Frame) -> Result<Answer, Refusal> {
    let PutKv { namespace, key, value } = request.header()?;
    let (Some(namespace), Some(key)) = (namespace, key) else {
        return Err(Refusal::new(ResponseCode::SYSTEM_ERROR, "namespace or key is null"));
    };
    let (namespace, key, value) = (namespace.to_owned(), key.to_owned(), value.to_owned());
    Ok(Answer::Write(Write::PutKv { namespace, key, value }))
}

fn delete_kv(request: &Frame) -> Result<Answer, Refusal> {
    let OneKey { namespace, key } = request.header()?;
    let (namespace, key) = (namespace.unwrap_or_default(), key.unwrap_or_default());
    Ok(Answer::Write(Write::DeleteKv { namespace: namespace.to_owned(), key: key.to_owned() }))
}

fn update_settings(request: &Frame) -> Result<Answer, Refusal> {
    let properties = String::from_utf8(request.body_bytes().to_vec())?;
    Ok(Answer::Write(Write::Settings { properties }))
}

/// Reads a registration in the form that a broker of `version` sends.
fn registration_body(
    body: &[u8],
    deflated: bool,
    version: i32,
) -> Result<RegisterBrokerBody, Refusal> {
    if body.is_empty() {
        return Ok(RegisterBrokerBody::default());
    }
    if version < version::V3_0_11 {
        let table: TopicConfigTable = fastjson::decode(body)?;
        return Ok(RegisterBrokerBody {
            topic_config_serialize_wrapper: table,
            ..Default::default()
        });
    }
    Ok(match deflated {
        true => RegisterBrokerBody::inflate(body, version, INFLATED_BYTES_MAX)?,
        false => RegisterBrokerBody::decode(body)?,
    })
}

async fn write_aside(shared: Arc<Shared>, request: Frame, write: Write) -> remoting::Answers {
    let written = tokio::task::spawn_blocking(move || shared.write(write)).await;
    let answer = match written.unwrap_or_else(|panic| Err(panic.into())) {
        Ok(()) => success(&request),
        Err(refusal) => refusal.answer(&request),
    };
    match request.kind {
        Kind::Request => answer.into(),
        Kind::Oneway | Kind::Response => remoting::Answers::new(),
    }
}

fn success(request: &Frame) -> Frame {
    request.respond(ResponseCode::SUCCESS)
}

fn kv_table(table: BTreeMap<String, String>) -> Vec<u8> {
    fastjson::encode(&KvTable { table })
}

/// Leaves the brokers of one zone, and those whose master is gone: reading a slave elsewhere beats not reading.
fn keep_zone(route: &mut TopicRouteData, zone: &str) {
    let is_kept = |broker: &BrokerData| {
        let here = broker.zone_name.as_ref().is_some_and(|name| name.eq_ignore_ascii_case(zone));
        here || !broker.broker_addrs.contains_key(&MASTER_ID)
    };
    let (kept, removed): (Vec<_>, Vec<_>) =
        std::mem::take(&mut route.broker_datas).into_iter().partition(is_kept);
    route.broker_datas = kept;
    for broker in removed {
        route.queue_datas.retain(|queues| queues.broker_name != broker.broker_name);
        for address in broker.broker_addrs.values() {
            route.filter_server_table.remove(address);
        }
    }
}
