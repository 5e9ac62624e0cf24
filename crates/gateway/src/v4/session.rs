//! One connection of the 4.x door: takes runs of requests, gives each to its verb, and pushes what the broker has to say.
//!
//! The sends of a run are one `publish`; whatever can be answered at once is answered in the run's own write. Only what
//! must wait (a long poll, a mark of the log, a cold read) becomes a future of the connection's task.

use std::{any::Any, future::Future, net::SocketAddr, pin::Pin, sync::Arc};

use broker::{
    Broker,
    api::{Caller, ClientChannel, ClientCommand, Gone},
};
use env::Clock;
use remoting::{Answers, Connection, Handler, Replies, Service};
use wire::{
    code::{RequestCode, ResponseCode},
    frame::{Frame, Kind},
    properties::name,
};

use super::{
    errors::Refusal,
    verbs::{
        admin, client, group, lock, offset, pull, query, relay, reply, send, topic, transaction,
    },
};

/// The 4.x door in front of one broker; serves any number of listeners.
#[derive(Clone)]
pub struct V4 {
    pub(crate) broker: Broker,
    pub(crate) clock: Clock,
    /// What every answer to a send carries: `MSG_REGION` and `TRACE_ON`.
    pub(crate) send_fields: Arc<[(&'static str, String); 2]>,
    pub(crate) announce: Option<Announce>,
}

/// Resolves when name servers know of every change of a topic made so far, or cannot be told.
pub type Announce = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

impl V4 {
    /// Makes the door; `clock` measures how long a send waits for a sync.
    pub fn new(broker: Broker, clock: Clock) -> V4 {
        let options = broker.options();
        let send_fields = [
            (name::MSG_REGION, options.region_id.clone()),
            (name::TRACE_ON, options.asks_for_traces().to_string()),
        ];
        V4 { broker, clock, send_fields: Arc::new(send_fields), announce: None }
    }

    /// Has the creation and deletion of topics answered only when name servers know of it, as in the original: who
    /// asks for a route next finds it.
    pub fn announcing(self, announce: Announce) -> V4 {
        V4 { announce: Some(announce), ..self }
    }
}

impl Service for V4 {
    fn connected(&self, connection: &Connection) -> Box<dyn Handler> {
        let clients = self.broker.connect(Arc::new(Channel(connection.clone())));
        let inquiry = relay::Inquiry::new(connection.clone(), self.clock.clone());
        Box::new(Session { door: self.clone(), clients, inquiry, remote: connection.remote() })
    }
}

/// The door's side of one connection; dropping it says goodbye to the broker.
pub(crate) struct Session {
    pub(crate) door: V4,
    pub(crate) clients: broker::Session,
    pub(crate) inquiry: relay::Inquiry,
    remote: SocketAddr,
}

/// What a verb comes to.
pub(crate) type Answer = Result<Frame, Refusal>;

impl Handler for Session {
    fn run(&mut self, run: &mut Vec<Frame>, replies: &mut Replies) {
        send::send(self, run, replies);
        for request in run.drain(..) {
            self.serve(request, replies);
        }
    }
}

impl Session {
    /// Returns who asks, as the rules want to know it.
    pub(crate) fn caller(&self, request: &Frame) -> Caller {
        Caller { remote: self.remote, language: request.language, version: request.version }
    }

    fn serve(&self, request: Frame, replies: &mut Replies) {
        let broker = &self.door.broker;
        let caller = || self.caller(&request);
        let topics = broker.topics_version();
        /// Answers when the verb is done with its reads, without holding up anything else of the connection.
        macro_rules! park {
            ($verb:path) => {{
                let broker = broker.clone();
                return replies
                    .park(async move { answers(&request, $verb(&broker, &request).await) });
            }};
        }
        let answer = match request.request_code() {
            // What waits, or reads the log: futures.
            RequestCode::PULL_MESSAGE | RequestCode::LITE_PULL_MESSAGE => {
                return pull::pull(self, request, replies);
            }
            RequestCode::QUERY_MESSAGE => park!(query::by_key),
            RequestCode::VIEW_MESSAGE_BY_ID => park!(query::by_id),
            RequestCode::CONSUMER_SEND_MSG_BACK => {
                return send::send_back(self, request, replies);
            }
            RequestCode::RECALL_MESSAGE => return send::recall(self, request, replies),
            RequestCode::SEND_REPLY_MESSAGE | RequestCode::SEND_REPLY_MESSAGE_V2 => {
                return reply::reply(self, request, replies);
            }
            RequestCode::END_TRANSACTION => return transaction::end(self, request, replies),
            RequestCode::RESUME_CHECK_HALF_MESSAGE => {
                return transaction::resume_check(self, request, replies);
            }
            RequestCode::SEARCH_OFFSET_BY_TIMESTAMP => park!(offset::at_time),
            RequestCode::GET_MAX_OFFSET => park!(offset::max),
            RequestCode::GET_EARLIEST_MSG_STORETIME => park!(offset::earliest_store_time),
            RequestCode::GET_TOPIC_STATS_INFO => park!(topic::stats),
            RequestCode::DELETE_TOPIC_IN_BROKER => {
                let door = self.door.clone();
                return replies.later(1, async move {
                    let answer = match topic::delete(&door.broker, &request).await {
                        Ok(frame) => door.settled(true).await.map(|()| frame),
                        refused => refused,
                    };
                    answers(&request, answer)
                });
            }
            RequestCode::GET_CONSUME_STATS => park!(group::consume_stats),
            RequestCode::GET_BROKER_CONSUME_STATS => park!(group::all_consume_stats),
            RequestCode::QUERY_CONSUME_TIME_SPAN => park!(group::time_spans),
            RequestCode::GET_CONSUMER_RUNNING_INFO => park!(relay::running_info),
            RequestCode::CONSUME_MESSAGE_DIRECTLY => park!(relay::consume),
            RequestCode::INVOKE_BROKER_TO_GET_CONSUMER_STATUS => park!(relay::status),
            RequestCode::INVOKE_BROKER_TO_RESET_OFFSET => park!(offset::reset),
            RequestCode::QUERY_CONSUME_QUEUE => park!(admin::list_queue),
            RequestCode::CLEAN_EXPIRED_CONSUMEQUEUE => park!(admin::clean_queues),
            RequestCode::CLEAN_UNUSED_TOPIC => park!(admin::clean_topics),
            RequestCode::DELETE_EXPIRED_COMMITLOG => park!(admin::delete_expired_log),
            RequestCode::UPDATE_BROKER_CONFIG => {
                let broker = broker.clone();
                return replies.later(1, async move {
                    answers(&request, admin::update_config(&broker, &request).await)
                });
            }

            RequestCode::SEND_MESSAGE
            | RequestCode::SEND_MESSAGE_V2
            | RequestCode::SEND_BATCH_MESSAGE => return,

            RequestCode::QUERY_CONSUMER_OFFSET => park!(offset::query),
            RequestCode::UPDATE_CONSUMER_OFFSET => offset::commit(broker, &request),
            RequestCode::GET_MIN_OFFSET => offset::min(broker, &request),
            RequestCode::GET_ALL_CONSUMER_OFFSET => offset::all(broker, &request),
            RequestCode::GET_ALL_DELAY_OFFSET => offset::delays(broker, &request),
            RequestCode::CLONE_GROUP_OFFSET => offset::clone(broker, &request),
            RequestCode::QUERY_CORRECTION_OFFSET => offset::slowest(broker, &request),

            RequestCode::HEART_BEAT => client::heartbeat(&self.clients, &caller(), &request),
            RequestCode::UNREGISTER_CLIENT => client::unregister(&self.clients, &request),
            RequestCode::CHECK_CLIENT_CONFIG => client::check(broker, &request),
            RequestCode::GET_CONSUMER_LIST_BY_GROUP => client::consumer_ids(broker, &request),
            RequestCode::GET_CONSUMER_CONNECTION_LIST => {
                client::consumer_connection(broker, &request)
            }
            RequestCode::GET_PRODUCER_CONNECTION_LIST => {
                client::producer_connection(broker, &request)
            }

            RequestCode::GET_ALL_PRODUCER_INFO => client::producers(broker, &request),
            RequestCode::QUERY_SUBSCRIPTION_BY_CONSUMER => group::subscription(broker, &request),

            RequestCode::LOCK_BATCH_MQ => lock::lock(broker, &request),
            RequestCode::UNLOCK_BATCH_MQ => lock::unlock(broker, &request),

            RequestCode::UPDATE_AND_CREATE_TOPIC => topic::create(broker, &request),
            RequestCode::UPDATE_AND_CREATE_TOPIC_LIST => topic::create_list(broker, &request),
            RequestCode::GET_TOPIC_CONFIG => topic::get(broker, &request),
            RequestCode::GET_ALL_TOPIC_CONFIG => topic::all(broker, &request),
            RequestCode::GET_SYSTEM_TOPIC_LIST_FROM_BROKER => topic::system(broker, &request),
            RequestCode::QUERY_TOPIC_CONSUME_BY_WHO => topic::consumed_by(broker, &request),

            RequestCode::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP => group::create(broker, &request),
            RequestCode::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST => {
                group::create_list(broker, &request)
            }
            RequestCode::DELETE_SUBSCRIPTIONGROUP => group::delete(broker, &request),
            RequestCode::GET_SUBSCRIPTIONGROUP_CONFIG => group::get(broker, &request),
            RequestCode::GET_ALL_SUBSCRIPTIONGROUP_CONFIG => group::all(broker, &request),
            RequestCode::QUERY_TOPICS_BY_CONSUMER => group::topics(broker, &request),
            RequestCode::UPDATE_AND_GET_GROUP_FORBIDDEN => group::forbid(broker, &request),

            RequestCode::GET_BROKER_CONFIG => admin::config(broker, &request),
            RequestCode::VIEW_BROKER_STATS_DATA => admin::stats(broker, &request),
            RequestCode::GET_BROKER_RUNTIME_INFO => admin::runtime_info(broker, &request),
            RequestCode::GET_BROKER_HA_STATUS => admin::ha_status(broker, &request),
            RequestCode::GET_BROKER_EPOCH_CACHE => admin::epochs(),
            RequestCode::GET_TIMER_CHECK_POINT => admin::timer_checkpoint(broker, &request),
            RequestCode::GET_TIMER_METRICS => admin::timer_metrics(broker, &request),

            code => Err(Refusal::unsupported(code)),
        };
        let code = request.request_code();
        let changes_topics = matches!(
            code,
            RequestCode::UPDATE_AND_CREATE_TOPIC | RequestCode::UPDATE_AND_CREATE_TOPIC_LIST
        ) || (code == RequestCode::HEART_BEAT
            && broker.topics_version() != topics);
        let may_change = changes_topics
            || matches!(
                code,
                RequestCode::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP
                    | RequestCode::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST
                    | RequestCode::DELETE_SUBSCRIPTIONGROUP
                    | RequestCode::UPDATE_AND_GET_GROUP_FORBIDDEN
                    | RequestCode::HEART_BEAT
            );
        let must_settle = may_change && (changes_topics || !broker.is_saved()) && answer.is_ok();
        if must_settle && request.kind == Kind::Request {
            let door = self.door.clone();
            return replies.later(1, async move {
                let settled = door.settled(changes_topics).await;
                answers(&request, settled.and(answer))
            });
        }
        if let Some(frame) = finish(&request, answer) {
            replies.push(&frame);
        }
    }
}

impl V4 {
    /// Waits until the changes of topics and groups made so far survive a kill and, if `announced`, until name servers
    /// know of them or cannot be told.
    pub(crate) async fn settled(&self, announced: bool) -> Result<(), Refusal> {
        let told = async {
            if let Some(announce) = self.announce.as_ref().filter(|_| announced) {
                announce().await;
            }
        };
        let (saved, ()) = tokio::join!(self.broker.saved(), told);
        Ok(saved?)
    }
}

/// Makes the response to `request` of what a verb came to; a oneway request has none.
pub(crate) fn finish(request: &Frame, answer: Answer) -> Option<Frame> {
    if request.kind != Kind::Request {
        return None;
    }
    Some(answer.unwrap_or_else(|refusal| refuse(request, refusal)))
}

/// The same, encoded.
pub(crate) fn answers(request: &Frame, answer: Answer) -> Answers {
    finish(request, answer).map(Answers::from).unwrap_or_default()
}

/// Makes the response that refuses `request`.
pub(crate) fn refuse(request: &Frame, refusal: Refusal) -> Frame {
    request.respond(refusal.code).with_remark(refusal.remark)
}

/// Makes the response that has nothing to say but success.
pub(crate) fn success(request: &Frame) -> Frame {
    request.respond(ResponseCode::SUCCESS)
}

/// Returns the connection of a client; none for one of another door.
pub(crate) fn connection_of(channel: &dyn ClientChannel) -> Option<Connection> {
    let channel: &dyn Any = channel;
    channel.downcast_ref::<Channel>().map(|channel| channel.0.clone())
}

/// The broker's way to the client behind a connection.
struct Channel(Connection);

impl ClientChannel for Channel {
    fn id(&self) -> u64 {
        self.0.id()
    }

    fn remote(&self) -> SocketAddr {
        self.0.remote()
    }

    fn push(&self, command: ClientCommand) -> Result<(), Gone> {
        let frame = client::command(command);
        self.0.push(frame).map(drop).map_err(|_| Gone)
    }

    fn close(&self) {
        self.0.close();
    }
}
