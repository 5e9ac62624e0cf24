//! What the words of a step ask of a server: one request a verb.
//!
//! Where a header has a struct in `wire` the verb fills that; headers of requests that only servers and SDKs of later
//! releases know are written by field names. `ask CODE field=value` sends any request there is.

use std::time::Duration;

use bytes::BytesMut;
use wire::{
    batch,
    body::{
        MessageQueue, client::SubscriptionData, group::SubscriptionGroupConfig, lock::LockBatch,
    },
    code::RequestCode,
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
};

use crate::{
    actors::expression,
    args::{Args, number, repeated},
    play::{NAMESRV, NOBODY, Play, request_code, unknown},
    script::Said,
};

/// Fills a body up to its `size=`, and is not shown.
pub(crate) const PADDING: char = '.';

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

/// Steps that are a request of a few fields, a line each: words, with the fields that stand there in braces; parameters as
/// `name:field`, with a default behind `=`; the request code; the field of the answer that is asked for, if it is one.
const VERBS: &str = "\
delete topic {topic} | DELETE_TOPIC_IN_BROKER
show topic {topic} | GET_TOPIC_CONFIG
delete group {groupName} clean:cleanOffset=false | DELETE_SUBSCRIPTIONGROUP
show group {group} | GET_SUBSCRIPTIONGROUP_CONFIG
members {consumerGroup} | GET_CONSUMER_LIST_BY_GROUP
offset {consumerGroup} {topic} {queueId} zero:setZeroIfNotFound | QUERY_CONSUMER_OFFSET | offset
commit offset {consumerGroup} {topic} {queueId} {commitOffset} | UPDATE_CONSUMER_OFFSET
max offset {topic} {queueId} | GET_MAX_OFFSET | offset
min offset {topic} {queueId} | GET_MIN_OFFSET | offset
earliest time {topic} {queueId} | GET_EARLIEST_MSG_STORETIME | timestamp
search offset {topic} {queueId} at:timestamp=0 boundary:boundaryType | SEARCH_OFFSET_BY_TIMESTAMP | offset
reset offset {group} {topic} at:timestamp=-1 force:isForce=true queue:queueId offset:offset | INVOKE_BROKER_TO_RESET_OFFSET
clone offset {srcGroup} {destGroup} {topic} offline:offline=false | CLONE_GROUP_OFFSET";

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
            _ => self.of_table(&words, args)?,
        })
    }

    /// The request of a step that [`VERBS`] has.
    fn of_table(&self, words: &[&str], args: &Args) -> Said<Asked> {
        let fits = |line: &'static str| {
            let (pattern, request) = line.split_once(" | ")?;
            let is_parameter = |word: &&str| word.contains(':');
            let (parameters, pattern): (Vec<&str>, Vec<&str>) =
                pattern.split(' ').partition(is_parameter);
            let is_field = |word: &str| word.starts_with('{');
            let fits = pattern.len() == words.len()
                && pattern.iter().zip(words).all(|(want, word)| is_field(want) || want == word);
            fits.then_some((pattern, parameters, request))
        };
        let (pattern, parameters, request) =
            VERBS.lines().find_map(fits).ok_or("no step has these words")?;
        let (code, reads) = match request.split_once(" | ") {
            Some((code, field)) => (code, Reads::Value(field)),
            None => (request, Reads::Plain),
        };
        let mut frame = Frame::request(request_code(code)?, &());
        for (field, word) in pattern.iter().zip(words).filter(|(want, word)| want != word) {
            self.put(&mut frame, field.trim_matches(['{', '}']), word);
        }
        for (name, field) in parameters.iter().filter_map(|text| text.split_once(':')) {
            let (field, default) = match field.split_once('=') {
                Some((field, default)) => (field, Some(default)),
                None => (field, None),
            };
            if let Some(value) = args.get(name).or(default) {
                self.put(&mut frame, field, value);
            }
        }
        Ok(Asked::plain(NOBODY, frame).reading(reads))
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
            self.put(&mut frame, key, &self.with_names(value));
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

    fn lock(&self, code: RequestCode, who: &str, topic: &str, queues: &[&str]) -> Said<Asked> {
        let actor = self.actors.get(who).ok_or_else(|| unknown("client", who))?;
        let queue = |queue: &&str| -> Said<MessageQueue> {
            let (broker_name, topic) = ("broker-a".to_owned(), self.wire(topic));
            Ok(MessageQueue { broker_name, topic, queue_id: number(queue)? })
        };
        let body = LockBatch {
            client_id: actor.client_id.clone(),
            consumer_group: actor.consumer_group()?.to_owned(),
            mq_set: queues.iter().map(queue).collect::<Said<_>>()?,
            only_this_broker: false,
        };
        Ok(Asked::plain(who, Frame::request(code, &()).with_body(fastjson::encode(&body))))
    }

    // ---------------------------------------------------------------------------------------------------- messages

    fn send(&mut self, topic: &str, bodies: &[&str], args: &Args, how: Send) -> Said<Asked> {
        let now = self.stage.clock().now();
        let who = args.get("by").unwrap_or(NOBODY);
        let group = self.producer_group(who, args);
        let size = args.number("size", 0)?;
        let (mut wire_bodies, mut texts) = (Vec::new(), Vec::new());
        for body in bodies {
            let mut bytes = repeated(body).into_bytes();
            bytes.resize(bytes.len().max(size), PADDING as u8);
            wire_bodies.push(bytes);
            texts.push(self.message_properties(args, &group, how));
        }
        let whole = match args.number("whole", false)? {
            true => self.message_properties(args, &group, how),
            false => String::new(),
        };
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
            properties: match how {
                Send::Batch => &whole,
                _ => &texts[0],
            },
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

    /// The group that a step names, or that its client produces in.
    fn producer_group(&self, who: &str, args: &Args) -> String {
        let of_client = self.actors.get(who).and_then(|actor| actor.producer_group());
        match (args.get("group"), of_client) {
            (None, Some(group)) => group.to_owned(),
            (named, _) => self.wire(named.unwrap_or("producers")),
        }
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
            group: group.as_deref().map_or_else(|| actor.consumer_group(), Ok)?,
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
        let group = self.producer_group(who, args);
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
            group = actor.consumer_group()?.to_owned();
            version = actor.subscription(&wire_topic).map_or(0, |data| data.sub_version);
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
        let unique = args.get("unique").map(|text| {
            let of_message = self.known.get(text).and_then(|message| message.get("unique"));
            of_message.map_or(text, String::as_str)
        });
        let topic = self.wire(topic);
        let header = QueryMessage {
            topic: &topic,
            key: unique.or_else(|| args.get("key")).ok_or("`key=` or `unique=` is missing")?,
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
