//! The few calls around a run: routes, topics, offsets. One at a time, nothing hot.

use std::ops::Range;

use anyhow::{Context, Result, bail};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    scan::{Scanner, field, remark},
    template::{Codec, OPAQUE_BASE, request},
};

const HEART_BEAT: i32 = 34;
pub(super) const LOCK_BATCH_MQ: i32 = 41;
/// What the members of groups call themselves.
const CLIENT_ID: &str = "apogee-bench";
const UPDATE_AND_CREATE_TOPIC: i32 = 17;
const GET_MAX_OFFSET: i32 = 30;
const GET_MIN_OFFSET: i32 = 31;
const GET_ROUTEINFO_BY_TOPIC: i32 = 105;
const GET_BROKER_CLUSTER_INFO: i32 = 106;
const TOPIC_NOT_EXIST: i32 = 17;

/// A connection for calls that wait for their answer.
#[derive(Debug)]
pub(super) struct Control {
    stream: TcpStream,
    codec: Codec,
    /// Of the last request; the server counts those of its own from 0.
    opaque: i32,
    unread: Vec<u8>,
    /// Requests of the server's own that came while an answer was waited for.
    pub(super) told: u64,
}

pub(super) struct Reply {
    pub(super) code: i32,
    pub(super) header: Vec<u8>,
    pub(super) body: Vec<u8>,
}

impl Control {
    /// Connects to `host:port`.
    pub(super) async fn connect(address: &str, codec: Codec) -> Result<Control> {
        let stream = TcpStream::connect(address)
            .await
            .with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Control { stream, codec, opaque: OPAQUE_BASE, unread: Vec::new(), told: 0 })
    }

    async fn call(&mut self, code: i32, fields: &[(&str, &str)]) -> Result<Reply> {
        self.ask(code, fields, &[]).await
    }

    /// Sends a request with a body and waits for its answer, whatever its code.
    pub(super) async fn ask(
        &mut self,
        code: i32,
        fields: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Reply> {
        self.opaque += 1;
        self.stream.write_all(&request(self.codec, code, self.opaque, fields, body)).await?;
        loop {
            if let Some((len, answer)) = Scanner::default().next(&self.unread)? {
                let reply = (answer.opaque == self.opaque).then(|| Reply {
                    code: answer.code,
                    header: answer.header.to_vec(),
                    body: answer.body.to_vec(),
                });
                self.unread.drain(..len);
                match reply {
                    Some(reply) => return Ok(reply),
                    None => self.told += 1,
                }
                continue;
            }
            if self.stream.read_buf(&mut self.unread).await? == 0 {
                bail!("the server closed the connection");
            }
        }
    }

    async fn call_ok(&mut self, what: &str, code: i32, fields: &[(&str, &str)]) -> Result<Reply> {
        let reply = self.call(code, fields).await?;
        ok(what, reply)
    }

    /// Joins a consumer group as push consumers do, with one subscription; it is a member while this connection is open.
    pub(super) async fn join(
        &mut self,
        group: &str,
        topic: &str,
        kind: &str,
        expression: &str,
    ) -> Result<()> {
        let subscription = json!({
            "topic": topic, "subString": expression, "expressionType": kind, "subVersion": 1,
            "classFilterMode": false, "codeSet": [], "tagsSet": [],
        });
        let body = json!({
            "clientID": CLIENT_ID, "producerDataSet": [],
            "consumerDataSet": [{
                "groupName": group, "consumeType": "CONSUME_PASSIVELY", "messageModel": "CLUSTERING",
                "consumeFromWhere": "CONSUME_FROM_FIRST_OFFSET", "unitMode": false,
                "subscriptionDataSet": [subscription],
            }],
        });
        ok("heartbeat", self.ask(HEART_BEAT, &[], body.to_string().as_bytes()).await?)?;
        Ok(())
    }

    /// Locks queues of a topic for a group, as its orderly consumers do.
    pub(super) async fn lock(&mut self, group: &str, topic: &str, queues: u32) -> Result<()> {
        let body = lock_body(group, topic, 0..queues);
        let reply = ok("queue locks", self.ask(LOCK_BATCH_MQ, &[], &body).await?)?;
        let held = String::from_utf8_lossy(&reply.body).matches("queueId").count();
        if held != queues as usize {
            bail!("{held} of {queues} queues are locked: another client holds the rest");
        }
        Ok(())
    }

    /// Creates a topic at a broker, or brings it to this shape.
    pub(super) async fn create_topic(&mut self, topic: &str, queues: u32) -> Result<()> {
        let queues = queues.to_string();
        let fields = [
            ("topic", topic),
            ("defaultTopic", "TBW102"),
            ("readQueueNums", &queues),
            ("writeQueueNums", &queues),
            ("perm", "6"),
            ("topicFilterType", "SINGLE_TAG"),
            ("topicSysFlag", "0"),
            ("order", "false"),
        ];
        self.call_ok(&format!("cannot create topic `{topic}`"), UPDATE_AND_CREATE_TOPIC, &fields)
            .await?;
        Ok(())
    }

    /// The range of offsets of a queue at a broker.
    pub(super) async fn offsets(&mut self, topic: &str, queue: u32) -> Result<(i64, i64)> {
        Ok((self.offset(GET_MIN_OFFSET, topic, queue).await?, self.max_offset(topic, queue).await?))
    }

    /// The offset behind the last message that readers of a queue can see.
    pub(super) async fn max_offset(&mut self, topic: &str, queue: u32) -> Result<i64> {
        self.offset(GET_MAX_OFFSET, topic, queue).await
    }

    async fn offset(&mut self, code: i32, topic: &str, queue: u32) -> Result<i64> {
        let queue_text = queue.to_string();
        let fields = [("topic", topic), ("queueId", queue_text.as_str())];
        let what = format!("offsets of `{topic}` queue {queue}");
        let reply = self.call_ok(&what, code, &fields).await?;
        field(&reply.header, "offset").context("an offset answer without an offset")
    }

    /// Addresses of the masters that a name server knows for `topic`; of all masters when it does not know the topic.
    pub(super) async fn masters(&mut self, topic: &str) -> Result<Vec<String>> {
        let reply = self.call(GET_ROUTEINFO_BY_TOPIC, &[("topic", topic)]).await?;
        let body = match reply.code {
            0 => reply.body,
            TOPIC_NOT_EXIST => {
                self.call_ok("cluster info", GET_BROKER_CLUSTER_INFO, &[]).await?.body
            }
            code => bail!("route of `{topic}`: code {code}: {}", remark(&reply.header)),
        };
        let masters = master_addresses(&String::from_utf8_lossy(&body));
        if masters.is_empty() {
            bail!("the name server knows no broker");
        }
        Ok(masters)
    }
}

fn ok(what: &str, reply: Reply) -> Result<Reply> {
    if reply.code != 0 {
        bail!("{what}: code {}: {}", reply.code, remark(&reply.header));
    }
    Ok(reply)
}

/// The body of LOCK_BATCH_MQ.
pub(super) fn lock_body(group: &str, topic: &str, queues: Range<u32>) -> Vec<u8> {
    let queue = |id| json!({ "brokerName": "bench", "queueId": id, "topic": topic });
    let queues: Vec<_> = queues.map(queue).collect();
    let body = json!({ "clientId": CLIENT_ID, "consumerGroup": group, "mqSet": queues });
    body.to_string().into_bytes()
}

/// The values of `brokerAddrs` maps at key 0, whose keys may stand without quotes.
fn master_addresses(body: &str) -> Vec<String> {
    let mut found = Vec::new();
    for part in body.split("\"brokerAddrs\":{").skip(1) {
        let map = part.split('}').next().unwrap_or_default();
        for entry in map.split(',') {
            let master = entry.strip_prefix("0:").or_else(|| entry.strip_prefix("\"0\":"));
            if let Some(address) = master {
                found.push(address.trim_matches('"').to_owned());
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masters_are_found_in_both_dialects_of_json() {
        let body = r#"{"brokerDatas":[{"brokerAddrs":{0:"127.0.0.1:10911",1:"127.0.0.1:2"},"brokerName":"a"},
            {"brokerAddrs":{"0":"[::1]:10911"},"brokerName":"b"},{"brokerAddrs":{2:"10.0.0.1:1"}}]}"#;
        assert_eq!(master_addresses(body), ["127.0.0.1:10911", "[::1]:10911"]);
    }
}
