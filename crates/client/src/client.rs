//! The client itself: what its producers and consumers share.
//!
//! Connections, routes and heartbeats belong to the client; a producer or consumer is a member that it knows by group.
//! A broker hears of all members over each connection before anything else is asked there, and again every
//! `heartbeat_broker_interval`. One task looks after routes and heartbeats, for as long as somebody holds the client.
//! Java: `MQClientInstance`.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use env::Clock;
use futures_util::future::{BoxFuture, join_all};
use tokio::sync::oneshot;
use tracing::warn;
use wire::{
    body::{
        MessageQueue,
        client::{
            ConsumeDirectlyResult, ConsumerData, ConsumerRunningInfo, HeartbeatData, ProducerData,
        },
    },
    code::RequestCode,
    fastjson,
    frame::Frame,
    header::{client::UnregisterClient, transaction::CheckTransactionState},
    properties::name,
};

use crate::{
    config::ClientBuilder,
    consumer::{PullConsumerBuilder, PushConsumerBuilder},
    error::{InvalidField, RequestError},
    inbound::Inbound,
    lines::{Lines, Signed, succeeded, unanswered},
    message::ReceivedMessage,
    meters::{self, Sends},
    producer::{self, ProducerBuilder},
    route::{Route, Routes},
    trace::{self, Tracer},
    unique::UniqueKeys,
};

/// A client of a RocketMQ cluster; cheap to clone, all clones are one.
///
/// It is dropped with its last producer, consumer and clone.
#[derive(Clone)]
pub struct Client(pub(crate) Arc<Core>);

impl Client {
    /// Begins to build a client that asks these name servers, each `HOST:PORT` or several with `;` between.
    ///
    /// A host is an address or a name, which is resolved at each new connection, within 3 s; up to 4 of its addresses are
    /// tried. The servers are asked one after the other, beginning with the one that answered last.
    pub fn builder(name_servers: impl IntoIterator<Item = impl AsRef<str>>) -> ClientBuilder {
        ClientBuilder::new(name_servers)
    }

    /// Begins to build a producer in `group`, 1 to 120 letters, digits and `%|_-`. A client has one of each group.
    ///
    /// The group matters to transactions only: any producer of it may be asked how one ended.
    pub fn producer(&self, group: impl Into<String>) -> ProducerBuilder {
        let namespace = self.0.config.namespace.clone();
        ProducerBuilder::new(self.0.clone(), namespace, &group.into())
    }

    /// Begins to build a consumer in `group` to whose handler messages are brought. A client has one consumer of each
    /// group, named as groups of producers are.
    pub fn push_consumer(&self, group: impl Into<String>) -> PushConsumerBuilder {
        PushConsumerBuilder::new(self.0.clone(), group.into())
    }

    /// Begins to build a consumer in `group` that asks for messages when it wants them. A client has one consumer of each
    /// group that has subscriptions.
    pub fn pull_consumer(&self, group: impl Into<String>) -> PullConsumerBuilder {
        PullConsumerBuilder::new(self.0.clone(), group.into())
    }

    /// Returns the id under which brokers know this client, and show it: `ADDRESS@INSTANCE`.
    pub fn id(&self) -> &str {
        &self.0.id
    }

    pub(crate) fn start(config: ClientBuilder) -> Client {
        let ip = config.local_ip();
        let instance = config
            .instance_name
            .clone()
            .unwrap_or_else(|| format!("{}#{:016x}", std::process::id(), fastrand::u64(..)));
        let clock = config.clock.clone();
        let (tracer, traces) = config.trace_topic.as_deref().map(Tracer::new).unzip();
        meters::describe();
        let core = Arc::new(Core {
            tracer,
            sends: Sends::default(),
            id: format!("{ip}@{instance}"),
            routes: Routes::new(&config),
            lines: Lines::new(&config),
            unique: UniqueKeys::new(clock.clone(), ip),
            members: Mutex::default(),
            replies: Mutex::default(),
            clock,
            config,
        });
        tokio::spawn(look_after_routes(Arc::downgrade(&core)));
        tokio::spawn(look_after_brokers(Arc::downgrade(&core)));
        if let (Some(topic), Some(traces)) = (core.config.trace_topic.clone(), traces) {
            tokio::spawn(trace::write(Arc::downgrade(&core), topic, traces));
        }
        Client(core)
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Client({})", self.0.id)
    }
}

/// What producers and consumers of one client share.
pub(crate) struct Core {
    pub(crate) id: String,
    pub(crate) config: ClientBuilder,
    pub(crate) clock: Clock,
    pub(crate) routes: Routes,
    pub(crate) unique: UniqueKeys,
    pub(crate) tracer: Option<Tracer>,
    pub(crate) sends: Sends,
    lines: Lines,
    members: Mutex<Members>,
    /// Requests that wait for a reply, by their correlation id.
    replies: Mutex<HashMap<String, oneshot::Sender<ReceivedMessage>>>,
}

#[derive(Default)]
struct Members {
    producers: HashMap<String, Weak<producer::Shared>>,
    consumers: HashMap<String, Weak<dyn Consumer>>,
}

/// What the client, and through it a broker, wants of a consumer.
pub(crate) trait Consumer: Send + Sync {
    /// Returns what it tells brokers about itself.
    fn data(&self) -> ConsumerData;
    /// Has it look at once which queues are its own.
    fn rebalance(&self);
    /// Sets it to offsets of the queues of `topic`.
    fn reset(self: Arc<Self>, topic: &str, offsets: BTreeMap<MessageQueue, i64>);
    /// Returns the offsets of the next messages to commit, by queue of `topic`.
    fn positions(&self, topic: &str) -> BTreeMap<MessageQueue, i64>;
    /// Returns how it is doing.
    fn running_info(&self) -> ConsumerRunningInfo;
    /// Has it consume one message out of turn.
    fn consume(
        self: Arc<Self>,
        message: ReceivedMessage,
    ) -> BoxFuture<'static, ConsumeDirectlyResult>;
}

impl Core {
    /// Makes a producer known; its group may have one at a time.
    pub(crate) fn add_producer(
        &self,
        group: &str,
        producer: &Arc<producer::Shared>,
    ) -> Result<(), InvalidField> {
        let mut members = self.members();
        if members.producers.get(group).is_some_and(|known| known.strong_count() > 0) {
            return Err(taken(group));
        }
        members.producers.insert(group.to_owned(), Arc::downgrade(producer));
        Ok(())
    }

    /// Makes a consumer known; its group may have one at a time.
    pub(crate) fn add_consumer(
        &self,
        group: &str,
        consumer: Weak<dyn Consumer>,
    ) -> Result<(), InvalidField> {
        let mut members = self.members();
        if members.consumers.get(group).is_some_and(|known| known.strong_count() > 0) {
            return Err(taken(group));
        }
        members.consumers.insert(group.to_owned(), consumer);
        Ok(())
    }

    pub(crate) fn consumer(&self, group: &str) -> Option<Arc<dyn Consumer>> {
        self.members().consumers.get(group)?.upgrade()
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a connection to a broker, which knows our members once it is there.
    pub(crate) async fn connection(
        self: &Arc<Core>,
        address: &str,
    ) -> Result<Signed, RequestError> {
        let handler = || Inbound::new(self, address);
        let (connection, is_new) = self.lines.connection(address, handler).await?;
        if is_new {
            // What it says to this is said again by what it is asked next.
            let _ = Box::pin(self.greet(address, &connection)).await;
        }
        Ok(connection)
    }

    /// Asks a broker something; an answer that is not a success is an error.
    pub(crate) async fn call(
        self: &Arc<Core>,
        address: &str,
        request: Frame,
    ) -> Result<Frame, RequestError> {
        let answer = self.call_for(address, request, self.config.mq_client_api_timeout).await?;
        succeeded(address, answer)
    }

    /// Asks a broker something within `timeout` and returns whatever it answers.
    pub(crate) async fn call_for(
        self: &Arc<Core>,
        address: &str,
        request: Frame,
        timeout: Duration,
    ) -> Result<Frame, RequestError> {
        let connection = self.connection(address).await?;
        connection.call(request, timeout).await.map_err(|error| unanswered(address, &error))
    }

    /// Tells a broker who is here.
    async fn greet(&self, address: &str, connection: &Signed) -> Result<(), RequestError> {
        let Some(heartbeat) = self.heartbeat() else { return Ok(()) };
        let request =
            Frame::request(RequestCode::HEART_BEAT, &()).with_body(fastjson::encode(&heartbeat));
        let answer = connection.call(request, self.config.mq_client_api_timeout).await;
        let answer = answer.map_err(|error| unanswered(address, &error));
        let taken = answer.and_then(|answer| succeeded(address, answer)).map(drop);
        taken.inspect_err(|error| warn!(broker = address, %error, "a heartbeat was not taken"))
    }

    fn heartbeat(&self) -> Option<HeartbeatData> {
        let (producers, consumers): (Vec<ProducerData>, Vec<Arc<dyn Consumer>>) = {
            let mut members = self.members();
            members.producers.retain(|_, producer| producer.strong_count() > 0);
            members.consumers.retain(|_, consumer| consumer.strong_count() > 0);
            let producers = members.producers.keys();
            (
                producers.map(|group| ProducerData { group_name: group.clone() }).collect(),
                members.consumers.values().filter_map(Weak::upgrade).collect(),
            )
        };
        if producers.is_empty() && consumers.is_empty() {
            return None;
        }
        Some(HeartbeatData {
            client_id: self.id.clone(),
            consumer_data_set: consumers.iter().map(|consumer| consumer.data()).collect(),
            producer_data_set: producers,
            ..HeartbeatData::default()
        })
    }

    /// Tells every broker of the routes in use who is here: slaves, too, if there are consumers.
    pub(crate) async fn beat(self: &Arc<Core>) {
        let routes = self.routes.known();
        let reads = self.members().consumers.values().any(|consumer| consumer.strong_count() > 0);
        let addresses: BTreeSet<&str> = match reads {
            true => routes.iter().flat_map(|route| route.all()).collect(),
            false => routes.iter().flat_map(|route| route.masters()).collect(),
        };
        join_all(addresses.into_iter().map(|address| self.beat_at(address))).await;
    }

    /// Tells the brokers of one route who is here, and returns why some do not know it now.
    pub(crate) async fn beat_route(self: &Arc<Core>, route: &Route) -> Vec<RequestError> {
        let beats = route.all().map(|address| self.beat_at(address));
        join_all(beats).await.into_iter().filter_map(Result::err).collect()
    }

    async fn beat_at(self: &Arc<Core>, address: &str) -> Result<(), RequestError> {
        let handler = || Inbound::new(self, address);
        let connected = self.lines.connection(address, handler).await;
        let (connection, _) = connected.inspect_err(|error| warn!(%error, "no heartbeat"))?;
        self.greet(address, &connection).await
    }

    /// Tells every connected broker that a group has no member here any more.
    pub(crate) async fn leave(&self, producer_group: Option<&str>, consumer_group: Option<&str>) {
        {
            let mut members = self.members();
            if let Some(group) = producer_group {
                members.producers.remove(group);
            }
            if let Some(group) = consumer_group {
                members.consumers.remove(group);
            }
        }
        let header = UnregisterClient { client_id: &self.id, producer_group, consumer_group };
        let request = Frame::request(RequestCode::UNREGISTER_CLIENT, &header);
        let timeout = self.config.mq_client_api_timeout;
        let connected = self.lines.connected();
        join_all(connected.iter().map(|(_, line)| line.call(request.clone(), timeout))).await;
    }

    /// Waits for the reply with this correlation id; dropping the receiver does not forget it, [`Core::forget_reply`] does.
    pub(crate) fn await_reply(&self, correlation_id: &str) -> oneshot::Receiver<ReceivedMessage> {
        let (sender, receiver) = oneshot::channel();
        self.replies().insert(correlation_id.to_owned(), sender);
        receiver
    }

    pub(crate) fn forget_reply(&self, correlation_id: &str) {
        self.replies().remove(correlation_id);
    }

    pub(crate) fn take_reply(&self, reply: ReceivedMessage) {
        let waiting = reply.property(name::CORRELATION_ID).and_then(|id| self.replies().remove(id));
        if let Some(waiting) = waiting {
            let _ = waiting.send(reply);
        }
    }

    fn replies(&self) -> MutexGuard<'_, HashMap<String, oneshot::Sender<ReceivedMessage>>> {
        self.replies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the producer of a half message how its transaction ended.
    pub(crate) fn check_transaction(
        self: &Arc<Core>,
        address: &str,
        header: &CheckTransactionState<'_>,
        message: ReceivedMessage,
    ) {
        let group = message.property(name::PGROUP).unwrap_or_default();
        let producer = self.members().producers.get(group).and_then(Weak::upgrade);
        match producer {
            Some(producer) => producer.check(address, header, message),
            None => warn!(group, "a broker asks how a transaction of another group ended"),
        }
    }
}

fn taken(group: &str) -> InvalidField {
    InvalidField::new(
        "group",
        group,
        "this client has a member of that group already; use it, or another client",
    )
}

/// Keeps routes fresh, and lets go of brokers that no route names.
async fn look_after_routes(core: Weak<Core>) {
    loop {
        let Some(sleep) =
            core.upgrade().map(|core| core.clock.sleep(core.config.poll_name_server_interval))
        else {
            return;
        };
        sleep.await;
        let Some(core) = core.upgrade() else { return };
        let changed = core.routes.renew_all().await;
        let routes = core.routes.known();
        let named: BTreeSet<&str> = routes.iter().flat_map(|route| route.all()).collect();
        core.lines.retain(|address| named.contains(address));
        if changed {
            let consumers: Vec<_> =
                core.members().consumers.values().filter_map(Weak::upgrade).collect();
            consumers.iter().for_each(|consumer| consumer.rebalance());
        }
    }
}

/// Keeps brokers informed of who is here.
async fn look_after_brokers(core: Weak<Core>) {
    loop {
        let Some(sleep) =
            core.upgrade().map(|core| core.clock.sleep(core.config.heartbeat_broker_interval))
        else {
            return;
        };
        sleep.await;
        let Some(core) = core.upgrade() else { return };
        core.beat().await;
    }
}
