//! Servers with access control: each request is signed, and who is refused learns why.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock},
};

use apogee_client::{
    Client, ConsumeError, Consumed, Credentials, Filter, Message, RequestError, SendError,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use env::Clock;
use hmac::{Hmac, KeyInit, Mac};
use remoting::{Connection, Handler, Limits, Listeners, Replies, Server, Service};
use sha1::Sha1;
use wire::{
    body::route::{BrokerData, QueueData, TopicRouteData},
    code::{RequestCode, ResponseCode},
    fastjson,
    frame::{Frame, Kind},
    header::send::SendMessageResponse,
};

use crate::harness::loopback;

/// Name server and broker in one, which serves those only who know the secret.
#[derive(Clone, Default)]
struct Guard {
    address: Arc<OnceLock<SocketAddr>>,
    served: Arc<Mutex<BTreeSet<RequestCode>>>,
    refused: Arc<Mutex<BTreeSet<RequestCode>>>,
    /// Whether routes are for all.
    shows_routes: bool,
}

fn is_signed(request: &Frame) -> bool {
    let mut fields: Vec<_> = request.ext.iter().filter(|(name, _)| *name != "Signature").collect();
    fields.sort_unstable();
    let mut keyed = Hmac::<Sha1>::new_from_slice(b"secret").expect("any key");
    fields.iter().for_each(|(_, value)| keyed.update(value.as_bytes()));
    keyed.update(&request.body_bytes());
    let expected = STANDARD.encode(keyed.finalize().into_bytes());
    request.ext.get("AccessKey") == Some("me") && request.ext.get("Signature") == Some(&*expected)
}

impl Guard {
    fn route(&self) -> TopicRouteData {
        let name = "broker".to_owned();
        let address = self.address.get().expect("it is bound").to_string();
        TopicRouteData {
            broker_datas: vec![BrokerData {
                broker_addrs: [(0, address)].into(),
                broker_name: name.clone(),
                ..BrokerData::default()
            }],
            queue_datas: vec![QueueData {
                broker_name: name,
                perm: 6,
                read_queue_nums: 1,
                write_queue_nums: 1,
                topic_sys_flag: 0,
            }],
            ..TopicRouteData::default()
        }
    }
}

impl Service for Guard {
    fn connected(&self, _connection: &Connection) -> Box<dyn Handler> {
        Box::new(self.clone())
    }
}

impl Handler for Guard {
    fn run(&mut self, run: &mut Vec<Frame>, replies: &mut Replies) {
        for request in run.drain(..) {
            let code = request.request_code();
            let is_signed = is_signed(&request);
            let noted = if is_signed { &self.served } else { &self.refused };
            noted.lock().expect("no panic").insert(code);
            if request.kind != Kind::Request {
                continue;
            }
            let success = request.respond(ResponseCode::SUCCESS);
            replies.push(&match code {
                RequestCode::GET_ROUTEINFO_BY_TOPIC if self.shows_routes => {
                    success.with_body(fastjson::encode(&self.route()))
                }
                _ if !is_signed => {
                    request.respond(ResponseCode::NO_PERMISSION).with_remark("wrong signature")
                }
                RequestCode::GET_ROUTEINFO_BY_TOPIC => {
                    success.with_body(fastjson::encode(&self.route()))
                }
                RequestCode::SEND_MESSAGE_V2 => success.with_header(&SendMessageResponse {
                    msg_id: "id",
                    ..SendMessageResponse::default()
                }),
                _ => success,
            });
        }
    }
}

fn guard(shows_routes: bool) -> (Guard, Server, String) {
    let guard = Guard { shows_routes, ..Guard::default() };
    let listeners = Listeners::bind(&[loopback()]).expect("a free port");
    let address = listeners.addresses()[0];
    guard.address.set(address).expect("once");
    let server = listeners.serve(Arc::new(guard.clone()), Limits::default(), Clock::real());
    (guard, server, address.to_string())
}

#[tokio::test]
async fn every_request_is_signed() {
    let (guard, _server, address) = guard(false);
    let client = Client::builder([&address]).credentials(Credentials::new("me", "secret"));
    let client = client.build().expect("a client");
    let producer = client.producer("g").build().expect("a producer");
    producer.send(Message::new("T", "a body with a ü").tag("a")).await.expect("it is let in");
    producer.send_oneway(Message::new("T", "one way")).await.expect("it leaves");
    producer.shutdown().await;
    assert_eq!(*guard.refused.lock().expect("no panic"), BTreeSet::new());
    let served = guard.served.lock().expect("no panic");
    for code in [
        RequestCode::GET_ROUTEINFO_BY_TOPIC,
        RequestCode::HEART_BEAT,
        RequestCode::SEND_MESSAGE_V2,
        RequestCode::UNREGISTER_CLIENT,
    ] {
        assert!(served.contains(&code), "{served:?}");
    }
}

#[tokio::test]
async fn a_client_that_is_refused_says_why() {
    let (_guard, _server, address) = guard(false);
    for credentials in [Some(Credentials::new("me", "guessed")), None] {
        let mut client = Client::builder([&address]);
        if let Some(credentials) = credentials {
            client = client.credentials(credentials);
        }
        let client = client.build().expect("a client");
        let producer = client.producer("g").build().expect("a producer");
        let error = producer.send(Message::new("T", "body")).await.expect_err("it is refused");
        assert!(matches!(error, SendError::Route(_)), "{error:?}");
        assert!(error.to_string().contains("wrong signature"), "{error}");
    }
    let empty = Client::builder([&address]).credentials(Credentials::new("me", "")).build();
    let error = empty.expect_err("no secret").to_string();
    assert!(error.contains("`credentials`") && !error.contains("secret=\""), "{error}");
}

#[tokio::test]
async fn a_consumer_that_is_refused_does_not_start_and_says_what_to_do() {
    for shows_routes in [false, true] {
        let (guard, _server, address) = guard(shows_routes);
        let client = Client::builder([&address]).credentials(Credentials::new("me", "guessed"));
        let client = client.build().expect("a client");
        let consumer = || client.push_consumer("g").subscribe("T", Filter::all());
        // Twice: what did not start has left its group.
        for _ in 0..2 {
            let started = consumer().start(|_| std::future::ready(Consumed::Done)).await;
            let error = started.err().expect("it is refused");
            assert!(matches!(error, ConsumeError::Denied(_)), "{error:?}");
            let text = error.to_string();
            assert!(text.contains("wrong signature") && text.contains("credentials"), "{text}");
        }
        let started = client.pull_consumer("h").subscribe("T", Filter::all()).start().await;
        assert!(matches!(started.err(), Some(ConsumeError::Denied(_))));
        assert_eq!(*guard.served.lock().expect("no panic"), BTreeSet::new());
    }
}

#[tokio::test]
async fn a_broker_that_refuses_a_producer_has_stored_nothing_and_is_named() {
    let (guard, _server, address) = guard(true);
    let client = Client::builder([&address]).credentials(Credentials::new("me", "guessed"));
    let client = client.build().expect("a client");
    let producer = client.producer("g").build().expect("a producer");
    let error = producer.send(Message::new("T", "body")).await.expect_err("it is refused");
    let SendError::NotStored { last: RequestError::Refused { code, remark, .. }, .. } = &error
    else {
        panic!("{error:?}");
    };
    assert_eq!((*code, remark.as_str()), (ResponseCode::NO_PERMISSION, "wrong signature"));
    assert!(error.to_string().contains(&address), "{error}");
    assert!(!guard.served.lock().expect("no panic").contains(&RequestCode::SEND_MESSAGE_V2));
}
