//! Request-reply over the wire: both forms of the send, and what is pushed to the client that asked.

use remoting::{Client, Handler, Replies};
use tokio::sync::mpsc;
use wire::{
    body::client::{HeartbeatData, ProducerData},
    code::{RequestCode, ResponseCode},
    frame::Frame,
    properties,
};

use crate::{
    consuming::bodies,
    support::{World, ask, but, done, pull, request, send_with, with_body},
};

/// A requester: shows what it is pushed, and answers each with the next of these codes.
struct Requester {
    pushed: mpsc::UnboundedSender<Frame>,
    codes: Vec<ResponseCode>,
}

impl Handler for Requester {
    fn run(&mut self, run: &mut Vec<Frame>, replies: &mut Replies) {
        for frame in run.drain(..) {
            let code = self.codes.remove(0);
            replies.push(&frame.respond(code).with_remark("says who asked"));
            self.pushed.send(frame).expect("the test listens");
        }
    }
}

/// Connects a requester that the broker knows as `c`.
async fn requester(
    world: &World,
    codes: Vec<ResponseCode>,
) -> (Client, mpsc::UnboundedReceiver<Frame>) {
    let (pushed, shown) = mpsc::unbounded_channel();
    let client = world.connect(Requester { pushed, codes }).await;
    let producer_data_set = vec![ProducerData { group_name: "requesters".into() }];
    let hello =
        HeartbeatData { client_id: "c".into(), producer_data_set, ..HeartbeatData::default() };
    done(&client, with_body(RequestCode::HEART_BEAT, &hello)).await;
    (client, shown)
}

fn text(to: &str) -> String {
    format!("MSG_TYPE\u{1}reply\u{2}CORRELATION_ID\u{1}77\u{2}REPLY_TO_CLIENT\u{1}{to}\u{2}")
}

/// A reply with the short names of version 2.
fn reply_v2(body: &str, to: &str) -> Frame {
    let code = RequestCode::SEND_REPLY_MESSAGE_V2;
    Frame { code: code.0, ..but(send_with("T", 1, body, &text(to)), "h", "3") }
}

/// A reply with names written out.
fn reply_v1(body: &str, to: &str) -> Frame {
    let text = text(to);
    let fields = [
        ("producerGroup", "repliers"),
        ("topic", "T"),
        ("defaultTopic", "TBW102"),
        ("defaultTopicQueueNums", "4"),
        ("queueId", "1"),
        ("sysFlag", "0"),
        ("bornTimestamp", "1700000000000"),
        ("flag", "3"),
        ("properties", text.as_str()),
        ("reconsumeTimes", "0"),
        ("unitMode", "false"),
        ("batch", "false"),
    ];
    request(RequestCode::SEND_REPLY_MESSAGE, &fields).with_body(body.to_owned())
}

#[tokio::test]
async fn a_reply_of_either_form_is_pushed_to_who_asked_and_stored() {
    let world = World::new().await;
    let (_asking, mut pushed) = requester(&world, vec![ResponseCode::SUCCESS; 2]).await;
    for (offset, reply) in [reply_v2("one", "c"), reply_v1("two", "c")].into_iter().enumerate() {
        let body = reply.body_bytes();
        let name = if reply.ext.get("a").is_some() { "a" } else { "producerGroup" };
        let group = reply.ext.get(name).unwrap().to_owned();
        let answer = world.done(reply).await;
        assert_eq!(answer.ext.get("queueId"), Some("1"));
        assert_eq!(answer.ext.get("queueOffset"), Some(&*offset.to_string()));
        let frame = pushed.recv().await.expect("it is pushed");
        assert_eq!(frame.request_code(), RequestCode::PUSH_REPLY_MESSAGE_TO_CLIENT);
        assert_eq!(frame.body_bytes(), body);
        let field = |name: &str| frame.ext.get(name).unwrap_or_default();
        assert_eq!((field("topic"), field("queueId"), field("flag")), ("T", "1", "3"));
        assert_eq!(field("producerGroup"), group);
        assert!(field("bornHost").starts_with("127.0.0.1:"), "{}", field("bornHost"));
        assert!(field("storeTimestamp").parse::<i64>().is_ok_and(|time| time > 0));
        let properties = field("properties");
        assert_eq!(properties::get(properties, "CORRELATION_ID"), Some("77"));
        assert!(properties::get(properties, "PUSH_REPLY_TIME").is_some());
    }
    world.readable("T", 1, 2).await;
    assert_eq!(bodies(&world.done(pull("T", 1, 0)).await), ["one", "two"]);
}

#[tokio::test]
async fn who_replies_is_told_what_became_of_the_push() {
    let world = World::new().await;
    let (asking, mut pushed) = requester(&world, vec![ResponseCode::SYSTEM_ERROR]).await;
    let refused = ResponseCode::SYSTEM_ERROR;
    world.refuses(vec![(reply_v2("a", "c"), refused, "says who asked")]).await;
    assert_eq!(&*pushed.recv().await.expect("it was pushed").body_bytes(), b"a");
    world
        .refuses(vec![
            (reply_v2("b", "nobody"), refused, "channel of <nobody> not found"),
            (but(reply_v2("c", "c"), "i", "KEYS\u{1}k\u{2}"), refused, "REPLY_TO_CLIENT"),
            (but(reply_v1("d", "c"), "bornTimestamp", "soon"), refused, "bornTimestamp"),
            (but(reply_v2("e", "c"), "e", "9"), ResponseCode::INVALID_PARAMETER, "9"),
        ])
        .await;
    // What could not be pushed is stored; what was no send is neither.
    world.readable("T", 1, 3).await;
    assert_eq!(bodies(&world.done(pull("T", 1, 0)).await), ["a", "b", "c"]);
    // One that leaves its question open holds up nobody but who replies to it.
    drop(asking);
    let gone = ask(&world.client, reply_v2("f", "c")).await;
    assert_eq!(gone.response_code(), refused);
    assert!(pushed.recv().await.is_none());
}
