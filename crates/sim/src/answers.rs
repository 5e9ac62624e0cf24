//! How answers read: their header's fields, the messages and the JSON in their bodies.
//!
//! Every message that comes by is remembered under its body, and under the label of the step that asked for it, so that later
//! steps can refer to its places and keys.

use bytes::{Buf, Bytes};
use wire::{
    batch,
    body::{MessageQueue, lock::LockBatchResponse},
    code::{RequestCode, ResponseCode},
    fastjson,
    frame::Frame,
    id::OffsetId,
    names::system_flag,
    properties::{self, name},
    record::{CheckCrc, Numbers, Record},
};

use crate::{
    outcome::{Fields, Item, Outcome},
    play::Play,
    script::Said,
    verbs::{PADDING, Reads},
};

impl Play<'_> {
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
                    let queue = fastjson::decode::<MessageQueue>(key.as_bytes());
                    let key = match queue {
                        Ok(queue) => format!("{}.{}", self.shown(&queue.topic), queue.queue_id),
                        Err(_) => self.shown(key),
                    };
                    self.flatten(&below(&key), value, outcome)
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
            body.advance(record.len as usize);
            let wrapped = system_flag::INNER_BATCH | system_flag::NEED_UNWRAP;
            if record.sys_flag & wrapped != wrapped {
                items.push(self.message(&record));
                continue;
            }
            let inner = batch::iter(Bytes::copy_from_slice(record.body));
            for (inner, queue_offset) in inner.zip(record.numbers.queue_offset..) {
                let inner = inner.map_err(|error| error.to_string())?;
                items.push(self.message(&Record {
                    body: &inner.body,
                    flag: inner.flag,
                    properties: (&*inner.properties).into(),
                    numbers: Numbers { queue_offset, ..record.numbers },
                    ..record.clone()
                }));
            }
        }
        items.iter().for_each(|item| self.remember(item.head.clone(), item));
        Ok(items)
    }

    fn message(&self, record: &Record<'_>) -> Item {
        let id = OffsetId { host: record.store_host, log_offset: record.numbers.log_offset };
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
        put("body", self.body_text(record.body));
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
        let text = String::from_utf8_lossy(body);
        // Traces have these between and behind their fields.
        self.shown(&text.trim_end_matches(PADDING).replace('\u{1}', "|").replace('\u{2}', ";"))
    }

    fn property_fields(&self, text: &str) -> Fields {
        properties::iter(text).map(|(name, value)| (name.to_owned(), self.shown(value))).collect()
    }
}
