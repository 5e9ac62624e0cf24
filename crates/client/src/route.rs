//! Routes: where the queues of a topic are, as the name servers say and as this client remembers.
//!
//! A route is kept as long as somebody asks for it, and asked for again every `poll_name_server_interval`; while no name
//! server answers, the last one known stays in use. Java: `MQClientInstance`, `TopicRouteData`, `TopicPublishInfo`.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use env::Clock;
use tokio::sync::Mutex as AsyncMutex;
use tracing::{info, warn};
use wire::{
    body::{MessageQueue, route::TopicRouteData},
    code::{RequestCode, ResponseCode},
    fastjson,
    frame::Frame,
    header::namesrv::GetRouteInfo,
    names::{AUTO_CREATE_TOPIC, perm},
};

use crate::{
    ClientBuilder,
    client::Core,
    error::{RequestError, RouteError},
    inbound::Inbound,
    lines::{Lines, succeeded, unanswered},
};

/// Most queues of one topic that are believed; a name server that says more is not understood.
const QUEUES_MAX: usize = 65_536;
/// Queues of a topic that a send creates (Java: `defaultTopicQueueNums`).
pub(crate) const CREATED_QUEUES: i32 = 4;
/// How soon a route is asked for again on behalf of sends that went unanswered.
const DOUBT_INTERVAL: Duration = Duration::from_secs(1);
/// A route that nobody has asked for this long is forgotten.
const UNUSED_AFTER: Duration = Duration::from_secs(600);

/// Where the queues of a topic are.
#[derive(Debug)]
pub(crate) struct Route {
    data: TopicRouteData,
    /// Queues to send to, spread over the brokers in their order.
    pub(crate) writable: Vec<Arc<MessageQueue>>,
    /// Queues to read from, in the order that all members of a group share.
    pub(crate) readable: Vec<MessageQueue>,
    addresses: HashMap<String, BTreeMap<i64, String>>,
}

impl Route {
    /// Reads a route for `topic`, which may be the template's (`queues_max`).
    fn new(topic: &str, data: TopicRouteData, queues_max: Option<i32>) -> Result<Route, String> {
        let brokers = data.broker_datas.iter();
        let addresses: HashMap<String, BTreeMap<i64, String>> = brokers
            .map(|broker| (broker.broker_name.clone(), broker.broker_addrs.clone()))
            .collect();
        let has_master = |broker: &str| addresses.get(broker).is_some_and(|at| at.contains_key(&0));
        let mut writable: Vec<(String, i32)> = Vec::new();
        let mut readable: Vec<(String, i32)> = Vec::new();
        for queues in &data.queue_datas {
            if perm::can_write(queues.perm) && has_master(&queues.broker_name) {
                let count = queues_max.unwrap_or(i32::MAX).min(queues.write_queue_nums);
                writable.push((queues.broker_name.clone(), count));
            }
            if perm::can_read(queues.perm) && addresses.contains_key(&queues.broker_name) {
                readable.push((queues.broker_name.clone(), queues.read_queue_nums));
            }
        }
        writable.sort();
        // The queues of an order topic are those that its configuration says, wherever they are now.
        if let Some(order) = data.order_topic_conf.as_deref().filter(|order| !order.is_empty()) {
            let pairs = order.split(';').filter_map(|pair| {
                let (broker, count) = pair.split_once(':')?;
                Some((broker.to_owned(), count.parse().ok()?))
            });
            writable = pairs.collect();
        }
        let list = |sets: Vec<(String, i32)>| -> Result<Vec<MessageQueue>, String> {
            let sum: i64 = sets.iter().map(|(_, count)| i64::from((*count).max(0))).sum();
            if sum > QUEUES_MAX as i64 {
                return Err(format!("it names {sum} queues, more than {QUEUES_MAX}"));
            }
            let queues = sets.into_iter().flat_map(|(broker_name, count)| {
                (0..count).map(move |queue_id| MessageQueue {
                    broker_name: broker_name.clone(),
                    queue_id,
                    topic: topic.to_owned(),
                })
            });
            Ok(queues.collect())
        };
        let writable = list(writable)?.into_iter().map(Arc::new).collect();
        let mut readable = list(readable)?;
        // As Java's `MessageQueue` compares: topic, broker, id.
        readable.sort_by(|a, b| (&a.broker_name, a.queue_id).cmp(&(&b.broker_name, b.queue_id)));
        Ok(Route { data, writable, readable, addresses })
    }

    /// Returns the address of the broker's master.
    pub(crate) fn master(&self, broker: &str) -> Option<&str> {
        self.addresses.get(broker)?.get(&0).map(String::as_str)
    }

    /// Returns the address of one of the broker's set, by its id, or of another if that one is not there.
    pub(crate) fn member(&self, broker: &str, id: i64) -> Option<(&str, i64)> {
        let set = self.addresses.get(broker)?;
        let found = set.get_key_value(&id).or_else(|| set.first_key_value());
        found.map(|(id, address)| (address.as_str(), *id))
    }

    /// Returns the addresses of all brokers, slaves among them.
    pub(crate) fn all(&self) -> impl Iterator<Item = &str> {
        self.addresses.values().flat_map(BTreeMap::values).map(String::as_str)
    }

    /// Returns the addresses of all masters.
    pub(crate) fn masters(&self) -> impl Iterator<Item = &str> {
        self.addresses.values().filter_map(|set| set.get(&0)).map(String::as_str)
    }
}

/// The name servers, and what they have said.
pub(crate) struct Routes {
    clock: Clock,
    timeout: Duration,
    servers: Vec<String>,
    /// The server that answered last.
    current: AtomicUsize,
    lines: Lines,
    table: Mutex<HashMap<String, Arc<Slot>>>,
}

#[derive(Default)]
struct Slot {
    route: RwLock<Option<Arc<Route>>>,
    /// What a send would find after creating the topic, while nobody knows it.
    template: RwLock<Option<Arc<Route>>>,
    /// Held by who asks; when the last question failed, and how.
    asking: AsyncMutex<Option<(Duration, RouteError)>>,
    used_at: Mutex<Duration>,
    /// When a send went unanswered and the route was asked for again.
    doubted_at: Mutex<Option<Duration>>,
}

impl Routes {
    pub(crate) fn new(config: &ClientBuilder) -> Routes {
        let (clock, timeout) = (config.clock.clone(), config.mq_client_api_timeout);
        let (servers, lines) = (config.name_servers.clone(), Lines::new(config));
        // Clients that share a list do not all ask the same server.
        let current = AtomicUsize::new(fastrand::usize(..servers.len().max(1)));
        Routes { clock, timeout, servers, current, lines, table: Mutex::default() }
    }

    /// Returns the route of `topic`, asked for if it is not known.
    pub(crate) async fn of(&self, topic: &str) -> Result<Arc<Route>, RouteError> {
        let slot = self.slot(topic);
        if let Some(route) = read(&slot.route) {
            return Ok(route);
        }
        self.ask(topic, &slot).await
    }

    /// Returns the route to send to `topic` by: that of the template if there is none and brokers may create topics.
    pub(crate) async fn to_send(&self, topic: &str) -> Result<Arc<Route>, RouteError> {
        let slot = self.slot(topic);
        if let Some(route) = read(&slot.route).or_else(|| read(&slot.template)) {
            return Ok(route);
        }
        // Boxed, so that a send that knows its route has no room for this in its future.
        Box::pin(self.ask_to_send(topic, &slot)).await
    }

    async fn ask_to_send(&self, topic: &str, slot: &Slot) -> Result<Arc<Route>, RouteError> {
        let missing = match self.ask(topic, slot).await {
            Err(missing @ RouteError::NoSuchTopic { .. }) => missing,
            answer => return answer,
        };
        let Ok(data) = self.fetch(AUTO_CREATE_TOPIC).await else { return Err(missing) };
        let route = Route::new(topic, data, Some(CREATED_QUEUES)).map_err(|_| missing)?;
        let route = Arc::new(route);
        write(&slot.template, Some(route.clone()));
        Ok(route)
    }

    /// Asks again for the route of `topic`, since the one known seems to be wrong.
    pub(crate) async fn renew(&self, topic: &str) {
        let slot = self.slot(topic);
        write(&slot.template, None);
        let _ = self.ask(topic, &slot).await;
    }

    /// Asks again for the route of `topic`, since it may be wrong, at most once a second; nobody waits for it.
    pub(crate) fn renew_in_passing(&self, core: &Arc<Core>, topic: &str) {
        let now = self.clock.monotonic();
        {
            let slot = self.slot(topic);
            let mut doubted_at = slot.doubted_at.lock().unwrap_or_else(PoisonError::into_inner);
            if doubted_at.is_some_and(|at| now.saturating_sub(at) < DOUBT_INTERVAL) {
                return;
            }
            *doubted_at = Some(now);
        }
        let (core, topic) = (core.clone(), topic.to_owned());
        tokio::spawn(async move { core.routes.renew(&topic).await });
    }

    /// Asks again for every route in use, and forgets the others. True if one has changed.
    pub(crate) async fn renew_all(&self) -> bool {
        let now = self.clock.monotonic();
        let slots: Vec<(String, Arc<Slot>)> = {
            let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
            table.retain(|_, slot| {
                let used_at = *slot.used_at.lock().unwrap_or_else(PoisonError::into_inner);
                now.saturating_sub(used_at) < UNUSED_AFTER
            });
            table.iter().map(|(topic, slot)| (topic.clone(), slot.clone())).collect()
        };
        let mut changed = false;
        for (topic, slot) in slots {
            let before = read(&slot.route);
            write(&slot.template, None);
            let after = self.ask(&topic, &slot).await.ok();
            changed |= match (before, after) {
                (Some(before), Some(after)) => !Arc::ptr_eq(&before, &after),
                (before, after) => before.is_some() != after.is_some(),
            };
        }
        changed
    }

    /// Returns every route known now.
    pub(crate) fn known(&self) -> Vec<Arc<Route>> {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table
            .values()
            .filter_map(|slot| read(&slot.route).or_else(|| read(&slot.template)))
            .collect()
    }

    fn slot(&self, topic: &str) -> Arc<Slot> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = match table.get(topic) {
            Some(slot) => slot.clone(),
            None => table.entry(topic.to_owned()).or_default().clone(),
        };
        *slot.used_at.lock().unwrap_or_else(PoisonError::into_inner) = self.clock.monotonic();
        slot
    }

    async fn ask(&self, topic: &str, slot: &Slot) -> Result<Arc<Route>, RouteError> {
        let came_at = self.clock.monotonic();
        let known = read(&slot.route);
        let mut failure = slot.asking.lock().await;
        // Somebody else has asked while this one waited.
        match (read(&slot.route), &known) {
            (Some(route), None) => return Ok(route),
            (Some(route), Some(known)) if !Arc::ptr_eq(&route, known) => return Ok(route),
            (Some(_), Some(_)) | (None, Some(_) | None) => {}
        }
        if let Some((_, error)) = failure.as_ref().filter(|(at, _)| *at > came_at) {
            return Err(error.clone());
        }
        let answer = self.fetch(topic).await;
        let fresh = answer.and_then(|data| {
            let broken = |reason| RouteError::NameServersAway {
                tried: self.servers.join(";"),
                last: RequestError::malformed(&self.servers.join(";"), reason),
            };
            if let Some(known) = known.filter(|known| known.data == data) {
                return Ok(known);
            }
            Route::new(topic, data, None).map(Arc::new).map_err(broken)
        });
        match fresh {
            Ok(route) => {
                if read(&slot.route).is_none_or(|before| !Arc::ptr_eq(&before, &route)) {
                    info!(
                        topic,
                        writable = route.writable.len(),
                        readable = route.readable.len(),
                        "new route"
                    );
                    write(&slot.route, Some(route.clone()));
                    write(&slot.template, None);
                }
                Ok(route)
            }
            Err(error) => {
                if matches!(error, RouteError::NoSuchTopic { .. }) {
                    write(&slot.route, None);
                } else {
                    warn!(topic, %error, "cannot ask for the route");
                }
                *failure = Some((self.clock.monotonic(), error.clone()));
                Err(error)
            }
        }
    }

    /// Asks one name server after the other, beginning with the one that answered last.
    async fn fetch(&self, topic: &str) -> Result<TopicRouteData, RouteError> {
        let header = GetRouteInfo { topic, accept_standard_json_only: Some(true) };
        let question = Frame::request(RequestCode::GET_ROUTEINFO_BY_TOPIC, &header);
        let first = self.current.load(Relaxed);
        let mut last = None;
        for at in 0..self.servers.len() {
            let at = (first + at) % self.servers.len();
            let server = &self.servers[at];
            match self.ask_server(server, question.clone()).await {
                Ok(data) => {
                    self.current.store(at, Relaxed);
                    return Ok(data);
                }
                Err(error) if error.code() == Some(ResponseCode::TOPIC_NOT_EXIST) => {
                    self.current.store(at, Relaxed);
                    return Err(RouteError::NoSuchTopic { topic: topic.to_owned() });
                }
                Err(error) => last = Some(error),
            }
        }
        let tried = self.servers.join(";");
        let last =
            last.unwrap_or_else(|| RequestError::malformed(&tried, "there is no name server"));
        Err(RouteError::NameServersAway { tried, last })
    }

    async fn ask_server(
        &self,
        server: &str,
        question: Frame,
    ) -> Result<TopicRouteData, RequestError> {
        let (connection, _) = self.lines.connection(server, Inbound::deaf).await?;
        let answer = connection.call(question, self.timeout).await;
        let answer = succeeded(server, answer.map_err(|error| unanswered(server, &error))?)?;
        fastjson::decode(&answer.body_bytes())
            .map_err(|error| RequestError::malformed(server, error))
    }
}

fn read(slot: &RwLock<Option<Arc<Route>>>) -> Option<Arc<Route>> {
    slot.read().unwrap_or_else(PoisonError::into_inner).clone()
}

fn write(slot: &RwLock<Option<Arc<Route>>>, route: Option<Arc<Route>>) {
    *slot.write().unwrap_or_else(PoisonError::into_inner) = route;
}

#[cfg(test)]
mod tests {
    use wire::body::route::{BrokerData, QueueData};

    use super::*;

    fn data(queues: &[(&str, i32, i32, i32)]) -> TopicRouteData {
        let broker = |name: &str, id: i64| BrokerData {
            broker_addrs: [(id, format!("{name}:10911"))].into(),
            broker_name: name.to_owned(),
            ..BrokerData::default()
        };
        TopicRouteData {
            broker_datas: vec![broker("a", 0), broker("b", 0), broker("slave", 1)],
            queue_datas: queues
                .iter()
                .map(|(broker, perm, read, write)| QueueData {
                    broker_name: (*broker).to_owned(),
                    perm: *perm,
                    read_queue_nums: *read,
                    write_queue_nums: *write,
                    topic_sys_flag: 0,
                })
                .collect(),
            ..TopicRouteData::default()
        }
    }

    fn counts(data: TopicRouteData, queues_max: Option<i32>) -> Result<(usize, usize), String> {
        Route::new("T", data, queues_max).map(|route| (route.writable.len(), route.readable.len()))
    }

    #[test]
    fn only_queues_that_are_there_and_permitted_count() {
        let all = [("b", 6, 4, 2), ("a", 4, 1, 1), ("slave", 6, 3, 3), ("gone", 6, 5, 5)];
        assert_eq!(counts(data(&all), None), Ok((2, 8)));
        assert_eq!(counts(data(&[("a", 6, 8, 8)]), Some(4)), Ok((4, 8)));
        assert_eq!(counts(data(&[("a", 6, -1, -7)]), None), Ok((0, 0)));
        assert!(counts(data(&[("a", 6, i32::MAX, 1)]), None).is_err());
    }

    #[test]
    fn an_order_topic_has_the_queues_of_its_configuration() {
        let order = Some("a:2;b:1;nonsense".to_owned());
        let data = TopicRouteData { order_topic_conf: order, ..data(&[("a", 6, 8, 8)]) };
        assert_eq!(counts(data, None), Ok((3, 8)));
    }
}
