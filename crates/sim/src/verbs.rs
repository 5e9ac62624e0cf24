//! What the words of a step ask of a server, and how its answer reads: one request a verb.
//!
//! Where a header has a struct in `wire` the verb fills that; headers of requests that only servers and SDKs of later
//! releases know are written by field names. `ask CODE field=value` sends any request there is.

use std::{net::SocketAddr, time::Duration};

use bytes::{Buf, BytesMut};
use wire::{
    batch,
    body::{
        MessageQueue,
        client::{
            ConsumeFromWhere, ConsumeType, ConsumerData, MessageModel, ProducerData,
            SubscriptionData,
        },
        group::SubscriptionGroupConfig,
        lock::{LockBatch, LockBatchResponse},
    },
    code::{RequestCode, ResponseCode},
    fastjson,
    frame::{Frame, Kind},
    header::{
        pull::PullMessage,
        send::{ConsumerSendMsgBack, QueryMessage, SendMessage, ViewMessage},
        topic::CreateTopic,
    },
    id::{self, OffsetId},
    names::{self, pull_flag, system_flag},
    properties::{self, name},
    record::{CheckCrc, Record},
};

use crate::{
    outcome::{Fields, Item, Outcome},
    play::{Actor, Args, NAMESRV, NOBODY, Play, number, repeated, request_code, unknown},
    script::Said,
};

/// Fills a body up to its `size=`, and is not shown.
const PADDING: char = '.';

/// A request, who sends it, and how its answer reads.
pub(crate) struct Asked {
    pub(crate) who: String,
    pub(crate) frame: Frame,
    /// How long the server may hold it.
    pub(crate) wait: Duration,
    pub(crate) reads: Reads,
}

/// How an answer reads.
#[derive(Clone)]
pub(crate) enum Reads {
    /// Its header, and what its body says in JSON.
    Plain,
    /// One field of its header is what was asked for.
    Value(&'static str),
    /// Where messages lie: their names, their topic.
    Sent(Vec<String>, String),
    /// Messages.
    Messages(Option<String>),
    /// Queues that are locked.
    Locked,
}

impl Asked {
    pub(crate) fn plain(who: &str, frame: Frame) -> Asked {
        Asked { who: who.to_owned(), frame, wait: Duration::ZERO, reads: Reads::Plain }
    }

    fn reading(self, reads: Reads) -> Asked {
        Asked { reads, ..self }
    }
}

/// A step that is a request of a few fields. Words in braces are the fields that stand there, parameters are `name:field`
/// with their default, if they have one, behind `=`.
struct Verb(&'static str, RequestCode, &'static str, Reads);

const VERBS: [Verb; 13] = [
    Verb("delete topic {topic}", RequestCode::DELETE_TOPIC_IN_BROKER, "", Reads::Plain),
    Verb("show topic {topic}", RequestCode::GET_TOPIC_CONFIG, "", Reads::Plain),
    Verb(
        "delete group {groupName}",
        RequestCode::DELETE_SUBSCRIPTIONGROUP,
        "clean:cleanOffset=false",
        Reads::Plain,
    ),
    Verb("show group {group}", RequestCode::GET_SUBSCRIPTIONGROUP_CONFIG, "", Reads::Plain),
    Verb("members {consumerGroup}", RequestCode::GET_CONSUMER_LIST_BY_GROUP, "", Reads::Plain),
    Verb(
        "offset {consumerGroup} {topic} {queueId}",
        RequestCode::QUERY_CONSUMER_OFFSET,
        "zero:setZeroIfNotFound",
        Reads::Value("offset"),
    ),
    Verb(
        "commit offset {consumerGroup} {topic} {queueId} {commitOffset}",
        RequestCode::UPDATE_CONSUMER_OFFSET,
        "",
        Reads::Plain,
    ),
    Verb("max offset {topic} {queueId}", RequestCode::GET_MAX_OFFSET, "", Reads::Value("offset")),
    Verb("min offset {topic} {queueId}", RequestCode::GET_MIN_OFFSET, "", Reads::Value("offset")),
    Verb(
        "earliest time {topic} {queueId}",
        RequestCode::GET_EARLIEST_MSG_STORETIME,
        "",
        Reads::Value("timestamp"),
    ),
    Verb(
        "search offset {topic} {queueId}",
        RequestCode::SEARCH_OFFSET_BY_TIMESTAMP,
        "at:timestamp=0 boundary:boundaryType",
        Reads::Value("offset"),
    ),
    Verb(
        "reset offset {group} {topic}",
        RequestCode::INVOKE_BROKER_TO_RESET_OFFSET,
        "at:timestamp=-1 force:isForce=true queue:queueId offset:offset",
        Reads::Plain,
    ),
    Verb(
        "clone offset {srcGroup} {destGroup} {topic}",
        RequestCode::CLONE_GROUP_OFFSET,
        "offline:offline=false",
        Reads::Plain,
    ),
];

/// Fields whose values are names of topics, groups and clients.
const NAMES: [&str; 10] = [
    "clientId",
    "topic",
    "group",
    "groupName",
    "consumerGroup",
    "producerGroup",
    "srcGroup",
    "destGroup",
    "parentTopic",
    "consumerTopic",
];

impl Verb {
    /// The fields of a step with these words, if it is this one.
    fn fields<'a>(&self, words: &[&'a str]) -> Option<Vec<(&'static str, &'a str)>> {
        let pattern: Vec<&str> = self.0.split(' ').collect();
        let mut fields = Vec::new();
        for (pattern, word) in pattern.iter().zip(words) {
            match pattern.strip_prefix('{').and_then(|field| field.strip_suffix('}')) {
                Some(field) => fields.push((field, *word)),
                None if pattern == word => {}
                None => return None,
            }
        }
        (pattern.len() == words.len()).then_some(fields)
    }
}

impl Play<'_> {
    /// Makes the request of a step.
    pub(crate) fn request(&mut self, args: &Args) -> Said<Asked> {
        let words: Vec<&str> = args.words.iter().map(String::as_str).collect();
        let nobody = |frame| Asked::plain(NOBODY, frame);
        Ok(match words[..] {
            ["topic", topic] => nobody(self.create_topic(topic, args)?),
            ["group", group] => nobody(self.create_group(group, args)?),
            ["lock", who, topic, ref queues @ ..] => {
                self.lock(RequestCode::LOCK_BATCH_MQ, who, topic, queues)?.reading(Reads::Locked)
            }
            ["unlock", who, topic, ref queues @ ..] => {
                self.lock(RequestCode::UNLOCK_BATCH_MQ, who, topic, queues)?
            }

            ["send", "batch", topic, ref bodies @ ..] => {
                self.send(topic, bodies, args, Send::Batch)?
            }
            ["send", "oneway", topic, body] => self.send(topic, &[body], args, Send::Oneway)?,
            ["send", "half", topic, body] => self.send(topic, &[body], args, Send::Half)?,
            ["send", "reply", topic, body] => self.send(topic, &[body], args, Send::Reply)?,
            ["send", "back", who, message] => self.send_back(who, message, args)?,
            ["send", topic, body] => self.send(topic, &[body], args, Send::One)?,
            ["commit", message] => self.end_transaction(message, 8, args)?,
            ["rollback", message] => self.end_transaction(message, 12, args)?,
            ["unknown", message] => self.end_transaction(message, 0, args)?,
            ["recall", message] => {
                let message = self.known(message)?;
                let handle = message.get("handle").ok_or("it has no recall handle")?;
                let mut frame = Frame::request(RequestCode::RECALL_MESSAGE, &());
                frame
                    .ext
                    .put("producerGroup", &self.wire(args.get("group").unwrap_or("producers")));
                frame.ext.put("topic", &self.wire(&message["topic"]));
                frame.ext.put("recallHandle", args.get("handle").unwrap_or(handle));
                nobody(frame)
            }
            ["pull", who, topic, queue] => self.pull(Some(who), topic, queue, args)?,
            ["read", topic, queue] => self.pull(None, topic, queue, args)?,
            ["view", message] => {
                let id = self.known(message)?.get("id").ok_or("it has no id")?;
                let offset = OffsetId::parse(id).map_err(|error| error.to_string())?.log_offset;
                let header = ViewMessage { topic: None, offset: offset as i64 };
                nobody(Frame::request(RequestCode::VIEW_MESSAGE_BY_ID, &header))
                    .reading(Reads::Messages(args.label.clone()))
            }
            ["query", topic] => self.query(topic, args)?,

            ["ask", code] => self.any(NOBODY, code, args)?,
            ["ask", who, code] => self.any(who, code, args)?,
            _ => {
                let verb = VERBS.iter().find_map(|verb| Some((verb, verb.fields(&words)?)));
                let (verb, fields) = verb.ok_or("no step has these words")?;
                let mut frame = Frame::request(verb.1, &());
                fields.iter().for_each(|(field, value)| self.put(&mut frame, field, value));
                for parameter in verb.2.split(' ').filter(|text| !text.is_empty()) {
                    let (name, field) = parameter.split_once(':').expect("a parameter and a field");
                    let (field, default) = match field.split_once('=') {
                        Some((field, default)) => (field, Some(default)),
                        None => (field, None),
                    };
                    if let Some(value) = args.get(name).or(default) {
                        self.put(&mut frame, field, value);
                    }
                }
                nobody(frame).reading(verb.3.clone())
            }
        })
    }

    /// Adds a field to a request; names get the scenario's suffix.
    fn put(&self, frame: &mut Frame, field: &str, value: &str) {
        let name = NAMES.contains(&field).then(|| self.wire(value));
        frame.ext.put(field, name.as_deref().unwrap_or(value));
    }

    /// A request by its code and the names of its fields.
    fn any(&self, who: &str, code: &str, args: &Args) -> Said<Asked> {
        let mut frame = Frame::request(request_code(code)?, &());
        if let Some(body) = args.get("body") {
            frame = frame.with_body(self.with_names(body));
        }
        for (key, value) in args.others().filter(|(key, _)| *key != "wait") {
            self.put(&mut frame, key, value);
        }
        Ok(Asked::plain(who, frame))
    }

    /// A text with `<name>` for names of topics, groups and clients.
    pub(crate) fn with_names(&self, body: &str) -> String {
        let mut out = String::new();
        let mut rest = body;
        while let Some((before, behind)) = rest.split_once('<')
            && let Some((name, behind)) = behind.split_once('>')
        {
            out.push_str(before);
            out.push_str(&self.wire(name));
            rest = behind;
        }
        out + rest
    }

    // ---------------------------------------------------------------------------------------------- topics, groups

    fn create_topic(&self, topic: &str, args: &Args) -> Said<Frame> {
        let queues = args.number("queues", 4)?;
        let perm = match args.get("perm").unwrap_or("rw") {
            "rw" => 6,
            "r" => 4,
            "w" => 2,
            other => number(other)?,
        };
        let header = CreateTopic {
            topic: &self.wire(topic),
            default_topic: names::AUTO_CREATE_TOPIC,
            read_queue_nums: args.number("read", queues)?,
            write_queue_nums: args.number("write", queues)?,
            perm,
            topic_filter_type: "SINGLE_TAG",
            topic_sys_flag: Some(args.number("flag", 0)?),
            order: args.number("order", false)?,
            attributes: args.get("attributes"),
            force: None,
        };
        Ok(Frame::request(RequestCode::UPDATE_AND_CREATE_TOPIC, &header))
    }

    /// Parameters are members of the group's configuration, as RocketMQ calls them.
    fn create_group(&self, group: &str, args: &Args) -> Said<Frame> {
        let config = SubscriptionGroupConfig {
            group_name: self.wire(group),
            ..SubscriptionGroupConfig::default()
        };
        let text = fastjson::encode(&config);
        let mut members: fastjson::Unknown =
            fastjson::decode(&text).map_err(|error| error.to_string())?;
        for (key, value) in args.others() {
            if !members.contains_key(key) {
                return Err(format!("a group has no `{key}`"));
            }
            let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
            members.insert(key.to_owned(), value);
        }
        let frame = Frame::request(RequestCode::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, &());
        Ok(frame.with_body(fastjson::encode(&members)))
    }

    // ----------------------------------------------------------------------------------------------------- clients

    pub(crate) async fn producer(&mut self, who: &str, args: &Args) -> Said<Outcome> {
        let group_name = self.wire(args.get("group").unwrap_or("producers"));
        let actor = self.actor(who);
        actor.heartbeat.producer_data_set.push(ProducerData { group_name });
        self.heartbeat(who).await
    }

    pub(crate) async fn consumer(&mut self, who: &str, args: &Args) -> Said<Outcome> {
        let group_name = self.wire(args.get("group").ok_or("`group=` is missing")?);
        let message_model = match args.get("model") {
            Some("broadcasting") => MessageModel::Broadcasting,
            Some("clustering") | None => MessageModel::Clustering,
            Some(other) => return Err(unknown("message model", other)),
        };
        let consume_type = match args.get("type") {
            Some("push") | None => ConsumeType::ConsumePassively,
            Some("pull") => ConsumeType::ConsumeActively,
            Some("pop") => ConsumeType::ConsumePop,
            Some(other) => return Err(unknown("type of consumer", other)),
        };
        let consume_from_where = match args.get("from") {
            Some("last") | None => ConsumeFromWhere::ConsumeFromLastOffset,
            Some("first") => ConsumeFromWhere::ConsumeFromFirstOffset,
            Some("timestamp") => ConsumeFromWhere::ConsumeFromTimestamp,
            Some(other) => return Err(unknown("place to consume from", other)),
        };
        let mut subscription_data_set = self.subscriptions(args)?;
        // as push consumers do of themselves
        if message_model == MessageModel::Clustering
            && consume_type == ConsumeType::ConsumePassively
        {
            let retry = SubscriptionData::parse(&names::retry_topic(&group_name), "*", "TAG");
            subscription_data_set.extend(retry);
        }
        let data = ConsumerData {
            consume_from_where,
            consume_type,
            group_name,
            message_model,
            subscription_data_set,
            unit_mode: args.number("unit", false)?,
        };
        self.actor(who).heartbeat.consumer_data_set = vec![data];
        self.heartbeat(who).await
    }

    /// Adds subscriptions to those of a consumer, or changes them.
    pub(crate) async fn subscribe(&mut self, who: &str, args: &Args) -> Said<Outcome> {
        let new = self.subscriptions(args)?;
        let data = self.actor(who).heartbeat.consumer_data_set.first_mut();
        let old = &mut data.ok_or_else(|| unknown("consumer", who))?.subscription_data_set;
        old.retain(|old| new.iter().all(|new| new.topic != old.topic));
        old.extend(new);
        self.heartbeat(who).await
    }

    fn subscriptions(&mut self, args: &Args) -> Said<Vec<SubscriptionData>> {
        let (expression, kind) = expression(args).unwrap_or_else(|| ("*".to_owned(), "TAG"));
        self.last_version = self.stage.clock().now().max(self.last_version + 1);
        let topics = args.get("topic").unwrap_or_default();
        topics
            .split(',')
            .filter(|topic| !topic.is_empty())
            .map(|topic| {
                let mut data = SubscriptionData::parse(&self.wire(topic), &expression, kind)
                    .ok_or_else(|| format!("`{expression}` is no subscription"))?;
                data.sub_version = args.number("version", self.last_version)?;
                Ok(data)
            })
            .collect()
    }

    fn lock(&self, code: RequestCode, who: &str, topic: &str, queues: &[&str]) -> Said<Asked> {
        let actor = self.actors.get(who).ok_or_else(|| unknown("client", who))?;
        let queue = |queue: &&str| -> Said<MessageQueue> {
            let (broker_name, topic) = ("broker-a".to_owned(), self.wire(topic));
            Ok(MessageQueue { broker_name, topic, queue_id: number(queue)? })
        };
        let body = LockBatch {
            client_id: actor.client_id.clone(),
            consumer_group: consumer_group(actor)?.to_owned(),
            mq_set: queues.iter().map(queue).collect::<Said<_>>()?,
            only_this_broker: false,
        };
        Ok(Asked::plain(who, Frame::request(code, &()).with_body(fastjson::encode(&body))))
    }

    // ---------------------------------------------------------------------------------------------------- messages

    fn send(&mut self, topic: &str, bodies: &[&str], args: &Args, how: Send) -> Said<Asked> {
        let now = self.stage.clock().now();
        let who = args.get("by").unwrap_or(NOBODY);
        let group = match self.actors.get(who) {
            Some(actor) if who != NOBODY => {
                let data = actor.heartbeat.producer_data_set.first();
                data.map_or_else(|| "producers".to_owned(), |data| data.group_name.clone())
            }
            _ => self.wire(args.get("group").unwrap_or("producers")),
        };
        let size = args.number("size", 0)?;
        let (mut wire_bodies, mut texts) = (Vec::new(), Vec::new());
        for body in bodies {
            let mut bytes = repeated(body).into_bytes();
            bytes.resize(bytes.len().max(size), PADDING as u8);
            wire_bodies.push(bytes);
            texts.push(self.message_properties(args, &group, how));
        }
        let topic_name = self.wire(topic);
        let template = self.wire(args.get("template").unwrap_or(names::AUTO_CREATE_TOPIC));
        let mut sys_flag = args.number("sys", 0)?;
        if how == Send::Half {
            sys_flag |= system_flag::TRANSACTION_PREPARED;
        }
        let header = SendMessage {
            producer_group: &group,
            topic: &topic_name,
            default_topic: &template,
            default_topic_queue_nums: args.number("queues", 4)?,
            queue_id: args.number("queue", 0)?,
            sys_flag,
            born_timestamp: args.number("born", now)?,
            flag: args.number("flag", 0)?,
            properties: if how == Send::Batch { "" } else { &texts[0] },
            reconsume_times: args.number("attempt", 0)?,
            unit_mode: args.number("unit", false)?,
            max_reconsume_times: args.get("max").map(number).transpose()?,
            batch: how == Send::Batch,
            broker_name: Some("broker-a"),
        };
        let code = match how {
            Send::One | Send::Oneway | Send::Half => RequestCode::SEND_MESSAGE_V2,
            Send::Batch => RequestCode::SEND_BATCH_MESSAGE,
            Send::Reply => RequestCode::SEND_REPLY_MESSAGE_V2,
        };
        let mut frame = Frame::request(code, &header);
        if how == Send::Oneway {
            frame.kind = Kind::Oneway;
        }
        if how == Send::Batch {
            let mut body = BytesMut::new();
            for (bytes, text) in wire_bodies.iter().zip(&texts) {
                batch::append(&mut body, 0, bytes, text);
            }
            frame = frame.with_body(body.freeze());
        } else {
            frame = frame.with_body(wire_bodies.swap_remove(0));
        }
        let mut labels: Vec<String> = bodies.iter().map(|body| (*body).to_owned()).collect();
        if let (Some(label), [one]) = (&args.label, labels.as_mut_slice()) {
            *one = label.clone();
        }
        Ok(Asked::plain(who, frame).reading(Reads::Sent(labels, topic.to_owned())))
    }

    fn message_properties(&mut self, args: &Args, group: &str, how: Send) -> String {
        self.unique_keys += 1;
        let loader =
            self.suffix.bytes().fold(0u32, |sum, byte| sum.wrapping_mul(31) + u32::from(byte));
        let unique = id::unique_key([127, 0, 0, 1].into(), 1, loader, 0, self.unique_keys);
        let mut text = String::new();
        let mut put = |name: &str, value: Option<&str>| {
            if let Some(value) = value {
                properties::append(&mut text, name, value);
            }
        };
        put(name::UNIQ_KEY, Some(args.get("unique").unwrap_or(&unique)));
        put(name::WAIT, Some("true"));
        put(name::KEYS, args.get("keys"));
        put(name::TAGS, args.get("tags"));
        put(name::DELAY, args.get("delay"));
        if how == Send::Half {
            put(name::TRAN_MSG, Some("true"));
            put(name::PGROUP, Some(group));
        }
        for (name, value) in &args.properties {
            put(name, Some(&self.with_names(&repeated(value))));
        }
        text
    }

    fn send_back(&self, who: &str, message: &str, args: &Args) -> Said<Asked> {
        let actor = self.actors.get(who).ok_or_else(|| unknown("client", who))?;
        let message = self.known(message)?;
        let group = args.get("group").map(|group| self.wire(group));
        let topic = self.wire(&message["topic"]);
        let header = ConsumerSendMsgBack {
            offset: number(args.get("log").unwrap_or(&message["log"]))?,
            group: group.as_deref().map_or_else(|| consumer_group(actor), Ok)?,
            delay_level: args.number("level", 0)?,
            origin_msg_id: message.get("unique").map(String::as_str),
            origin_topic: Some(&topic),
            unit_mode: false,
            max_reconsume_times: args.get("max").map(number).transpose()?,
        };
        Ok(Asked::plain(who, Frame::request(RequestCode::CONSUMER_SEND_MSG_BACK, &header)))
    }

    /// Ends a half message by the places that its send, or its last check, has told.
    fn end_transaction(&self, message: &str, verdict: i32, args: &Args) -> Said<Asked> {
        let who = args.get("by").unwrap_or(NOBODY);
        let message = self.known(message)?;
        let group = match self.actors.get(who).and_then(|a| a.heartbeat.producer_data_set.first()) {
            Some(data) => data.group_name.clone(),
            None => self.wire(args.get("group").unwrap_or("producers")),
        };
        // the original answers no verdict that decides nothing
        let kind = if verdict == 0 { Kind::Oneway } else { Kind::Request };
        let mut frame = Frame::request(RequestCode::END_TRANSACTION, &());
        frame.kind = kind;
        let of_message = |field: &str| message.get(field).map(String::as_str).unwrap_or_default();
        let checked = if message.contains_key("checked") { "true" } else { "false" };
        let fields = [
            ("producerGroup", group.as_str()),
            ("topic", &self.wire(of_message("topic"))),
            ("tranStateTableOffset", args.get("table").unwrap_or_else(|| of_message("offset"))),
            ("commitLogOffset", args.get("log").unwrap_or_else(|| of_message("log"))),
            ("commitOrRollback", &verdict.to_string()),
            ("fromTransactionCheck", args.get("checked").unwrap_or(checked)),
            ("msgId", of_message("unique")),
            ("transactionId", of_message("unique")),
        ];
        for (field, value) in fields {
            frame.ext.put(field, value);
        }
        Ok(Asked::plain(who, frame))
    }

    fn pull(&self, who: Option<&str>, topic: &str, queue: &str, args: &Args) -> Said<Asked> {
        let wire_topic = self.wire(topic);
        let wait = args.time("wait")?.unwrap_or_default();
        let mut sys_flag = 0;
        let mut expression = expression(args);
        let (mut group, mut version) = (self.wire("readers"), 0);
        if let Some(who) = who {
            let actor = self.actors.get(who).ok_or_else(|| unknown("client", who))?;
            group = consumer_group(actor)?.to_owned();
            let data =
                actor.heartbeat.consumer_data_set.iter().flat_map(|d| &d.subscription_data_set);
            let known = data.clone().find(|data| data.topic == wire_topic);
            version = known.map_or(0, |data| data.sub_version);
        } else if expression.is_none() {
            expression = Some(("*".to_owned(), SubscriptionData::TAG));
        }
        if let Some(named) = args.get("group") {
            group = self.wire(named);
        }
        for (is_set, flag) in [
            (args.get("commit").is_some(), pull_flag::COMMIT_OFFSET),
            (!wait.is_zero(), pull_flag::SUSPEND),
            (expression.is_some(), pull_flag::SUBSCRIPTION),
        ] {
            sys_flag |= if is_set { flag } else { 0 };
        }
        let header = PullMessage {
            consumer_group: &group,
            topic: &wire_topic,
            queue_id: number(queue)?,
            queue_offset: args.number("from", 0)?,
            max_msg_nums: args.number("max", 32)?,
            sys_flag: args.number("sys", sys_flag)?,
            commit_offset: args.number("commit", 0)?,
            suspend_timeout_millis: i64::try_from(wait.as_millis()).unwrap_or(i64::MAX),
            subscription: expression.as_ref().map(|(text, _)| text.as_str()),
            sub_version: args.number("version", version)?,
            expression_type: expression.as_ref().map(|(_, kind)| *kind),
            max_msg_bytes: args.get("bytes").map(number).transpose()?,
            ..PullMessage::default()
        };
        let code = if args.number("lite", false)? {
            RequestCode::LITE_PULL_MESSAGE
        } else {
            RequestCode::PULL_MESSAGE
        };
        let frame = Frame::request(code, &header);
        let reads = Reads::Messages(args.label.clone());
        Ok(Asked { wait, ..Asked::plain(who.unwrap_or(NOBODY), frame).reading(reads) })
    }

    fn query(&self, topic: &str, args: &Args) -> Said<Asked> {
        let unique = args.get("unique").map(|message| {
            self.known(message)
                .ok()
                .and_then(|message| message.get("unique"))
                .cloned()
                .unwrap_or_else(|| message.to_owned())
        });
        let topic = self.wire(topic);
        let header = QueryMessage {
            topic: &topic,
            key: unique
                .as_deref()
                .or_else(|| args.get("key"))
                .ok_or("`key=` or `unique=` is missing")?,
            max_num: args.number("max", 32)?,
            begin_timestamp: args.number("from", 0)?,
            end_timestamp: args.number("to", i64::MAX)?,
            index_type: args.get("type"),
            last_key: None,
        };
        let mut frame = Frame::request(RequestCode::QUERY_MESSAGE, &header);
        if unique.is_some() {
            frame.ext.put("_UNIQUE_KEY_QUERY", "true");
        }
        Ok(Asked::plain(NOBODY, frame).reading(Reads::Messages(args.label.clone())))
    }

    // ----------------------------------------------------------------------------------------------------- answers

    /// Reads an answer, and remembers the messages in it.
    pub(crate) fn read(&mut self, reads: Reads, frame: &Frame) -> Said<Outcome> {
        let code = frame.response_code();
        let mut outcome = Outcome {
            head: match code {
                ResponseCode::SUCCESS => "ok".to_owned(),
                code => code.name().map_or_else(|| code.to_string(), str::to_owned),
            },
            fields: self.header_fields(frame),
            items: Vec::new(),
        };
        if code != ResponseCode::SUCCESS {
            return Ok(outcome);
        }
        let body = frame.body_bytes();
        match reads {
            Reads::Plain => self.json_fields(&body, &mut outcome),
            Reads::Value(field) => {
                let value = outcome.fields.get(field).ok_or_else(|| format!("no `{field}`"))?;
                outcome = Outcome { items: Outcome::value(value).items, ..outcome };
            }
            Reads::Sent(labels, topic) => self.remember_sent(&labels, &topic, &outcome.fields),
            Reads::Messages(label) => {
                outcome.items = self.messages(&body)?;
                if let (Some(label), Some(item)) = (label, outcome.items.first()) {
                    self.remember(label, item);
                }
            }
            Reads::Locked => {
                let list: LockBatchResponse =
                    fastjson::decode(&body).map_err(|error| error.to_string())?;
                let mut ids: Vec<i32> = list.lock_ok_mq_set.iter().map(|q| q.queue_id).collect();
                ids.sort_unstable();
                outcome = outcome.with_items(ids.iter().map(ToString::to_string));
            }
        }
        Ok(outcome)
    }

    /// Reads what the server asked of a client.
    pub(crate) fn read_pushed(&mut self, frame: &Frame) -> Said<Outcome> {
        let mut outcome = Outcome { fields: self.header_fields(frame), ..Outcome::ok() };
        let body = frame.body_bytes();
        match frame.request_code() {
            RequestCode::CHECK_TRANSACTION_STATE => {
                outcome.items = self.messages(&body)?;
                for item in &outcome.items {
                    let known = self.known.entry(item.head.clone()).or_default();
                    for (field, of_header) in
                        [("offset", "tranStateTableOffset"), ("log", "commitLogOffset")]
                    {
                        let value = outcome.fields.get(of_header).cloned().unwrap_or_default();
                        known.insert(field.to_owned(), value);
                    }
                    known.insert("checked".to_owned(), "true".to_owned());
                }
            }
            RequestCode::PUSH_REPLY_MESSAGE_TO_CLIENT => {
                let text = frame.ext.get("properties").unwrap_or_default();
                outcome.items.push(Item {
                    head: self.body_text(&body),
                    fields: outcome.fields.clone(),
                    properties: self.property_fields(text),
                });
            }
            _ => self.json_fields(&body, &mut outcome),
        }
        Ok(outcome)
    }

    fn header_fields(&self, frame: &Frame) -> Fields {
        let mut fields: Fields =
            frame.ext.iter().map(|(name, value)| (name.to_owned(), self.shown(value))).collect();
        for (short, long) in [
            ("next", "nextBeginOffset"),
            ("min", "minOffset"),
            ("max", "maxOffset"),
            ("queue", "queueId"),
            ("handle", "recallHandle"),
        ] {
            if let Some(value) = fields.get(long) {
                fields.insert(short.to_owned(), value.clone());
            }
        }
        if let Some(value) = frame.ext.get("queueOffset") {
            fields.insert("offset".to_owned(), value.to_owned());
        }
        if let Some(remark) = &frame.remark {
            fields.insert("remark".to_owned(), self.shown(remark));
        }
        fields
    }

    /// Members of a JSON body by their path, as `a.b`; a list of plain values is the items.
    fn json_fields(&self, body: &[u8], outcome: &mut Outcome) {
        let Ok(value) = fastjson::decode::<fastjson::Value>(body) else {
            // a list of properties, as of a configuration
            for line in String::from_utf8_lossy(body).lines() {
                if let Some((key, value)) = line.split_once('=') {
                    outcome.fields.insert(key.trim().to_owned(), self.shown(value.trim()));
                }
            }
            return;
        };
        self.flatten("", &value, outcome);
    }

    fn flatten(&self, path: &str, value: &fastjson::Value, outcome: &mut Outcome) {
        use serde_json::Value;
        let below =
            |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        match value {
            Value::Object(members) => {
                members.iter().for_each(|(key, value)| {
                    self.flatten(&below(&self.shown(key)), value, outcome)
                });
            }
            Value::Array(list) => {
                for (at, value) in list.iter().enumerate() {
                    if let Value::String(text) = value {
                        let item = Item { head: self.shown(text), ..Item::default() };
                        outcome.items.push(item);
                    }
                    self.flatten(&below(&at.to_string()), value, outcome);
                }
            }
            Value::String(text) => {
                outcome.fields.insert(path.to_owned(), self.shown(text));
            }
            Value::Null => {}
            plain => {
                outcome.fields.insert(path.to_owned(), plain.to_string());
            }
        }
    }

    /// Notes where the messages of a send lie, under their labels.
    fn remember_sent(&mut self, labels: &[String], topic: &str, answer: &Fields) {
        let ids = answer.get("msgId").cloned().unwrap_or_default();
        let uniques = answer.get("transactionId").cloned().unwrap_or_default();
        let mut uniques = uniques.split(',');
        for (at, (label, id)) in labels.iter().zip(ids.split(',')).enumerate() {
            let mut fields = Fields::new();
            let mut put = |name: &str, value: String| drop(fields.insert(name.to_owned(), value));
            put("topic", topic.to_owned());
            put("id", id.to_owned());
            if let Ok(id) = OffsetId::parse(id) {
                put("log", id.log_offset.to_string());
            }
            put("unique", uniques.next().unwrap_or_default().to_owned());
            put("queue", answer.get("queueId").cloned().unwrap_or_default());
            if let Some(first) = answer.get("queueOffset").and_then(|text| text.parse::<i64>().ok())
            {
                put("offset", (first + at as i64).to_string());
            }
            if let Some(handle) = answer.get("recallHandle") {
                put("handle", handle.clone());
            }
            self.known.insert(label.clone(), fields);
        }
    }

    fn remember(&mut self, label: String, item: &Item) {
        let mut fields = item.fields.clone();
        fields.extend(
            item.properties.get(name::UNIQ_KEY).map(|key| ("unique".to_owned(), key.clone())),
        );
        self.known.insert(label, fields);
    }

    /// The records of a body, each remembered by what it holds.
    fn messages(&mut self, mut body: &[u8]) -> Said<Vec<Item>> {
        let mut items = Vec::new();
        while !body.is_empty() {
            let record = Record::decode(body, CheckCrc::Yes).map_err(|error| error.to_string())?;
            let item = self.message(&record);
            body.advance(record.len as usize);
            self.remember(item.head.clone(), &item);
            items.push(item);
        }
        Ok(items)
    }

    fn message(&self, record: &Record<'_>) -> Item {
        let host: SocketAddr = record.store_host;
        let id = OffsetId { host, log_offset: record.numbers.log_offset };
        let properties = self.property_fields(&record.properties);
        let mut fields = Fields::new();
        let mut put = |name: &str, value: String| drop(fields.insert(name.to_owned(), value));
        put("topic", self.shown(record.topic));
        put("queue", record.queue_id.to_string());
        put("offset", record.numbers.queue_offset.to_string());
        put("log", record.numbers.log_offset.to_string());
        put("stored", record.numbers.stored_at.to_string());
        put("born", record.born_at.to_string());
        put("age", (record.numbers.stored_at - record.born_at).to_string());
        put("attempt", record.reconsume_times.to_string());
        put("flag", record.flag.to_string());
        put("sys", record.sys_flag.to_string());
        put("prepared", record.prepared_offset.to_string());
        put("size", record.body.len().to_string());
        put("id", id.to_string());
        for (field, property) in
            [("keys", name::KEYS), ("tags", name::TAGS), ("unique", name::UNIQ_KEY)]
        {
            if let Some(value) = properties.get(property) {
                put(field, value.clone());
            }
        }
        Item { head: self.body_text(record.body), fields, properties }
    }

    fn body_text(&self, body: &[u8]) -> String {
        self.shown(String::from_utf8_lossy(body).trim_end_matches(PADDING))
    }

    fn property_fields(&self, text: &str) -> Fields {
        properties::iter(text).map(|(name, value)| (name.to_owned(), self.shown(value))).collect()
    }
}

/// How a message is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Send {
    One,
    Oneway,
    Batch,
    Half,
    Reply,
}

/// The subscription that a step names.
fn expression(args: &Args) -> Option<(String, &'static str)> {
    let tags = args.get("tags").map(|tags| (tags.to_owned(), SubscriptionData::TAG));
    tags.or_else(|| args.get("sql").map(|sql| (sql.to_owned(), SubscriptionData::SQL92)))
}

fn consumer_group(actor: &Actor) -> Said<&str> {
    let data = actor.heartbeat.consumer_data_set.first();
    data.map(|data| data.group_name.as_str()).ok_or_else(|| "it is no consumer".to_owned())
}

/// Says whether a step changes nothing, so that it may be tried again.
pub(crate) fn is_reading(words: &[String]) -> bool {
    let first = words.first().map(String::as_str).unwrap_or_default();
    let second = words.get(1).map(String::as_str).unwrap_or_default();
    match first {
        "pull" | "read" | "show" | "members" | "view" | "query" | "offset" | "min" | "max"
        | "earliest" | "search" => true,
        "ask" => {
            let code = words.last().map(String::as_str).unwrap_or_default();
            code.starts_with("GET_") || code.starts_with("QUERY_") || second == NAMESRV
        }
        _ => false,
    }
}
