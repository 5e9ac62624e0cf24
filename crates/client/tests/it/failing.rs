//! Servers that are away, die, say nothing or say no; and calls that cannot be.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use apogee_client::{
    Client, ConsumeError, Consumed, Filter, Message, Receipt, RequestError, ResponseCode,
    RouteError, SendError,
};
use env::{Clock, sim::SimClock};
use futures_util::FutureExt as _;
use remoting::{Connection, Handler, Limits, Listeners, Replies, Server, Service};
use tokio::sync::mpsc;
use wire::{
    body::route::{BrokerData, QueueData, TopicRouteData},
    code::RequestCode,
    fastjson,
    frame::{Frame, Kind},
    header::send::{SendMessage, SendMessageResponse},
};

use crate::harness::{PATIENCE, Seen, loopback, ran_alone, until};

/// What a broker of these tests does with a send.
#[derive(Clone, Copy)]
enum Does {
    Stores,
    Refuses(ResponseCode),
    /// Closes the connection instead of answering.
    Dies,
    Silent,
    /// Answers nothing before so many wait.
    AnswersOnly(usize),
}

/// A broker that does as it is told, and notes the properties of what it was sent.
#[derive(Clone)]
struct Fake {
    script: Arc<Mutex<Vec<Does>>>,
    last: Does,
    got: Seen,
    /// How many waited for an answer at most.
    most_waiting: Arc<AtomicUsize>,
}

struct FakeSession(Fake, Connection, Vec<Frame>);

impl Service for Fake {
    fn connected(&self, connection: &Connection) -> Box<dyn Handler> {
        Box::new(FakeSession(self.clone(), connection.clone(), Vec::new()))
    }
}

impl Handler for FakeSession {
    fn run(&mut self, run: &mut Vec<Frame>, replies: &mut Replies) {
        for request in run.drain(..) {
            let is_send = matches!(
                request.request_code(),
                RequestCode::SEND_MESSAGE_V2 | RequestCode::SEND_BATCH_MESSAGE
            );
            if !is_send {
                if request.kind == Kind::Request {
                    replies.push(&request.respond(ResponseCode::SUCCESS));
                }
                continue;
            }
            if let Does::AnswersOnly(_) = self.0.last {
                let header = SendMessageResponse { msg_id: "id", ..SendMessageResponse::default() };
                self.2.push(request.respond(ResponseCode::SUCCESS).with_header(&header));
                continue;
            }
            let header: SendMessage<'_> = request.header().expect("a send");
            self.0.got.note(header.properties.as_bytes());
            let mut script = self.0.script.lock().expect("no panic");
            match if script.is_empty() { self.0.last } else { script.remove(0) } {
                Does::Stores => {
                    let header =
                        SendMessageResponse { msg_id: "id", ..SendMessageResponse::default() };
                    replies.push(&request.respond(ResponseCode::SUCCESS).with_header(&header));
                }
                Does::Refuses(code) => replies.push(&request.respond(code).with_remark("no")),
                Does::Dies => self.1.close(),
                Does::Silent | Does::AnswersOnly(_) => {}
            }
        }
        if let Does::AnswersOnly(count) = self.0.last {
            self.0.most_waiting.fetch_max(self.2.len(), SeqCst);
            if self.2.len() >= count {
                self.2.drain(..).for_each(|answer| replies.push(&answer));
            }
        }
    }
}

/// A name server that knows one route for all topics.
#[derive(Clone)]
struct FakeNames {
    route: Arc<Mutex<Option<TopicRouteData>>>,
    asked: Arc<AtomicUsize>,
}

impl Service for FakeNames {
    fn connected(&self, _connection: &Connection) -> Box<dyn Handler> {
        Box::new(self.clone())
    }
}

impl Handler for FakeNames {
    fn run(&mut self, run: &mut Vec<Frame>, replies: &mut Replies) {
        for request in run.drain(..) {
            self.asked.fetch_add(1, SeqCst);
            let route = self.route.lock().expect("no panic");
            replies.push(&match &*route {
                Some(route) => {
                    request.respond(ResponseCode::SUCCESS).with_body(fastjson::encode(route))
                }
                None => request.respond(ResponseCode::TOPIC_NOT_EXIST),
            });
        }
    }
}

/// Serves until it is dropped.
fn serve(service: impl Service) -> (Server, SocketAddr) {
    let listeners = Listeners::bind(&[loopback()]).expect("a free port");
    let address = listeners.addresses()[0];
    (listeners.serve(Arc::new(service), Limits::default(), Clock::real()), address)
}

fn route(brokers: &[(&str, SocketAddr)]) -> TopicRouteData {
    let broker = |(name, address): &(&str, SocketAddr)| BrokerData {
        broker_addrs: [(0, address.to_string())].into(),
        broker_name: (*name).to_owned(),
        ..BrokerData::default()
    };
    let queues = |(name, _): &(&str, SocketAddr)| QueueData {
        broker_name: (*name).to_owned(),
        perm: 6,
        read_queue_nums: 2,
        write_queue_nums: 2,
        topic_sys_flag: 0,
    };
    TopicRouteData {
        broker_datas: brokers.iter().map(broker).collect(),
        queue_datas: brokers.iter().map(queues).collect(),
        ..TopicRouteData::default()
    }
}

struct World {
    client: Client,
    names: FakeNames,
    got: Vec<Seen>,
    most_waiting: Arc<AtomicUsize>,
    addresses: Vec<SocketAddr>,
    servers: Vec<Server>,
}

/// Starts a broker for each script; after its end a broker does the last of it for ever.
fn world(scripts: &[&[Does]]) -> World {
    let mut servers = Vec::new();
    let (mut got, mut addresses) = (Vec::new(), Vec::new());
    let most_waiting = Arc::<AtomicUsize>::default();
    for script in scripts {
        let fake = Fake {
            script: Arc::new(Mutex::new(script.to_vec())),
            last: *script.last().expect("a script"),
            got: Seen::default(),
            most_waiting: most_waiting.clone(),
        };
        got.push(fake.got.clone());
        let (server, address) = serve(fake);
        addresses.push(address);
        servers.push(server);
    }
    let names: Vec<String> = (0..scripts.len()).map(|at| format!("broker-{at}")).collect();
    let pairs: Vec<(&str, SocketAddr)> =
        names.iter().map(String::as_str).zip(addresses.iter().copied()).collect();
    let names =
        FakeNames { route: Arc::new(Mutex::new(Some(route(&pairs)))), asked: Arc::default() };
    let (server, address) = serve(names.clone());
    servers.push(server);
    let client = Client::builder([address.to_string()]).build().expect("a client");
    World { client, names, got, most_waiting, addresses, servers }
}

/// An address where nobody listens.
fn nowhere() -> String {
    let listeners = Listeners::bind(&[loopback()]).expect("a free port");
    listeners.addresses()[0].to_string()
}

#[tokio::test]
async fn name_servers_that_are_away_are_named() {
    let (one, two) = (nowhere(), nowhere());
    let client = Client::builder([format!("{one};{two}")]).build().expect("a client");
    let producer = client.producer("g").build().expect("a producer");
    let error = producer.send(Message::new("T", "body")).await.expect_err("nobody is there");
    let SendError::Route(RouteError::NameServersAway { tried, last }) = error else {
        panic!("{error}");
    };
    assert_eq!(tried, format!("{one};{two}"));
    assert!(matches!(last, RequestError::Unreachable { .. }));
}

#[tokio::test]
async fn one_name_server_is_enough_and_a_known_route_needs_none() {
    let world = world(&[&[Does::Stores]]);
    let (server, address) = serve(world.names.clone());
    let client =
        Client::builder([nowhere(), nowhere(), address.to_string()]).build().expect("a client");
    let producer = client.producer("g").build().expect("a producer");
    producer.send(Message::new("T", "body")).await.expect("it is stored");
    server.shutdown(Duration::ZERO).await;
    producer.send(Message::new("T", "body")).await.expect("it is stored");
    assert_eq!(world.got[0].all().len(), 2);
}

#[tokio::test]
async fn a_topic_that_nobody_has_and_nobody_creates_is_named() {
    let world = world(&[&[Does::Stores]]);
    *world.names.route.lock().expect("no panic") = None;
    let producer = world.client.producer("g").build().expect("a producer");
    let error = producer.send(Message::new("T", "body")).await.expect_err("no topic");
    assert_eq!(error, SendError::Route(RouteError::NoSuchTopic { topic: "T".to_owned() }));
}

#[tokio::test]
async fn what_a_broker_leaves_unanswered_is_sent_to_another_and_the_receipt_says_so() {
    let world = world(&[&[Does::Dies], &[Does::Stores]]);
    let producer = world.client.producer("g").build().expect("a producer");
    let mut unconfirmed = 0;
    for _ in 0..4 {
        let receipt = producer.send(Message::new("T", "body")).await.expect("the other stores it");
        assert_eq!(receipt.queue.broker_name, "broker-1");
        unconfirmed += receipt.unconfirmed_attempts;
    }
    // The first failure has the broker avoided.
    assert_eq!((unconfirmed, world.got[0].all().len(), world.got[1].all().len()), (1, 1, 4));
    assert!(
        world.got[1].all().contains(&world.got[0].all()[0]),
        "both attempts have one unique key"
    );
}

#[tokio::test]
async fn a_send_whose_answer_is_lost_is_neither_success_nor_failure() {
    let world = world(&[&[Does::Dies]]);
    let once =
        world.client.producer("g").retry_times_when_send_failed(0).build().expect("a producer");
    let error = once.send(Message::new("T", "body")).await.expect_err("no answer");
    assert!(matches!(&error, SendError::Unconfirmed { attempts: 1, .. }), "{error}");
    assert_eq!(world.got[0].all().len(), 1, "it was not sent again");
}

#[tokio::test]
async fn what_may_be_stored_is_sent_again_under_the_same_unique_key() {
    let world = world(&[&[Does::Dies, Does::Stores]]);
    let producer = world.client.producer("g").retry_times_when_send_failed(0);
    let producer = producer.build().expect("a producer");
    let message = Message::new("T", "body");
    let error = producer.send(message.clone()).await.expect_err("no answer");
    let SendError::Unconfirmed { unique_key, .. } = error else { panic!("{error:?}") };
    let receipt = producer.send(message.unique_key(&unique_key)).await.expect("it is stored");
    assert_eq!(receipt.unique_key, unique_key);
    let got = world.got[0].all();
    assert_eq!((got.len(), &got[0]), (2, &got[1]));
}

#[tokio::test]
async fn sends_that_go_unanswered_have_the_route_asked_for_once_a_second() {
    let world = world(&[&[Does::Dies]]);
    let (_server, names) = serve(world.names.clone());
    let clock = SimClock::new(0);
    let client = Client::builder([names.to_string()]).clock(clock.clone().into());
    let client = client.build().expect("a client");
    let producer = client.producer("g").build().expect("a producer");
    let first = producer.queues("T").await.expect("a route").remove(0);
    for asked in 2..4 {
        for _ in 0..3 {
            let error = producer.send_to(Message::new("T", "body"), &first).await;
            assert!(matches!(error, Err(SendError::Unconfirmed { .. })), "{error:?}");
        }
        until(|| world.names.asked.load(SeqCst) >= asked).await;
        assert_eq!(world.names.asked.load(SeqCst), asked);
        clock.advance(Duration::from_secs(1));
    }
}

#[tokio::test]
async fn a_silent_broker_costs_no_more_than_the_timeout() {
    let world = world(&[&[Does::Silent]]);
    let builder = world.client.producer("g").send_msg_timeout(Duration::from_millis(50));
    let producer = builder.build().expect("a producer");
    let error = producer.send(Message::new("T", "body")).await.expect_err("no answer");
    assert!(matches!(&error, SendError::Unconfirmed { attempts: 1, .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_messages_for_a_slow_broker_take_no_more_than_the_buffer() {
    const BUFFER_BYTES: usize = 256 * 1024;
    // The topic's name and the body, twice, and what a message counts with besides.
    const UNDER_WAY: usize = BUFFER_BYTES / (2 * (1 + 100) + 1_800);
    // None is left that the broker would not answer.
    const COUNT: usize = 1_000_000usize.next_multiple_of(UNDER_WAY);
    let world = world(&[&[Does::AnswersOnly(UNDER_WAY)]]);
    let builder = world.client.producer("g").buffer_bytes_max(BUFFER_BYTES);
    let producer = builder.send_msg_timeout(PATIENCE).build().expect("a producer");
    let (submitted, mut receipts) = mpsc::unbounded_channel();
    let waiting = tokio::spawn(async move {
        let mut stored = 0;
        while let Some(receipt) = receipts.recv().await {
            let receipt: Receipt = receipt;
            stored += usize::from(receipt.await.is_ok());
        }
        stored
    });
    let message = Message::new("T", vec![b'x'; 100]);
    for _ in 0..COUNT {
        let receipt = producer.submit(message.clone()).await.expect("it is under way");
        submitted.send(receipt).expect("somebody waits");
    }
    drop(submitted);
    let stored = waiting.await.expect("no panic");
    assert_eq!((stored, world.most_waiting.load(SeqCst)), (COUNT, UNDER_WAY));
}

#[tokio::test]
async fn a_refusal_is_final_or_tried_elsewhere_by_its_code() {
    let busy = Does::Refuses(ResponseCode::SYSTEM_BUSY);
    let illegal = Does::Refuses(ResponseCode::MESSAGE_ILLEGAL);
    for (does, attempts) in [(busy, 3), (illegal, 1)] {
        let world = world(&[&[does], &[does]]);
        let producer = world.client.producer("g").build().expect("a producer");
        let error = producer.send(Message::new("T", "body")).await.expect_err("no");
        let SendError::NotStored { attempts: tried, last } = error else { panic!("{error}") };
        assert_eq!((tried, last.to_string().contains("no")), (attempts, true));
    }
}

#[tokio::test]
async fn a_broker_that_dies_in_a_batch_leaves_no_doubt_about_the_rest() {
    let world = world(&[&[Does::Stores, Does::Stores, Does::Dies]]);
    let builder = world.client.producer("g").batch_bytes_max(350).retry_times_when_send_failed(0);
    let producer = builder.build().expect("a producer");
    let messages: Vec<Message> = (0..10).map(|at| Message::new("T", format!("{at}"))).collect();
    let error = producer.send_batch(messages).await.expect_err("the third request fails");
    let each = error.in_doubt;
    assert_eq!((error.stored.len(), error.unsent.len()), (2 * each, 10 - 2 * each));
    assert!((1..5).contains(&each));
    assert!(matches!(error.error, SendError::Unconfirmed { .. }), "{error}");
}

#[tokio::test]
async fn a_route_that_has_changed_is_followed() {
    let world = world(&[&[Does::Stores], &[Does::Stores]]);
    let gone: SocketAddr = nowhere().parse().expect("an address");
    let away = route(&[("broker-0", gone)]);
    *world.names.route.lock().expect("no panic") = Some(away);
    let producer = world.client.producer("g").build().expect("a producer");
    let error = producer.send(Message::new("T", "body")).await.expect_err("nobody is there");
    assert!(matches!(error, SendError::NotStored { last: RequestError::Unreachable { .. }, .. }));
    let moved = route(&[("broker-0", world.addresses[1])]);
    *world.names.route.lock().expect("no panic") = Some(moved);
    let receipt = producer.send(Message::new("T", "body")).await.expect("it is found");
    assert_eq!((receipt.unconfirmed_attempts, world.got[1].all().len()), (0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_that_changes_under_load_loses_nothing_and_doubles_nothing_silently() {
    const COUNT: usize = 2_000;
    let mut world = world(&[&[Does::Stores], &[Does::Stores]]);
    *world.names.route.lock().expect("no panic") = Some(route(&[("broker-0", world.addresses[0])]));
    let producer = world.client.producer("g").build().expect("a producer");
    let sends = (0..COUNT).map(|at| {
        let producer = producer.clone();
        tokio::spawn(async move { producer.send(Message::new("T", format!("{at}"))).await })
    });
    let sends: Vec<_> = sends.collect();
    world.got[0].until(1).await;
    *world.names.route.lock().expect("no panic") = Some(route(&[("broker-1", world.addresses[1])]));
    world.servers.remove(0).shutdown(Duration::ZERO).await;
    let mut unconfirmed = 0;
    let mut keys = Vec::new();
    for send in sends {
        let receipt = send.await.expect("no panic").expect("one of the two stores it");
        unconfirmed += receipt.unconfirmed_attempts as usize;
        keys.push(receipt.unique_key);
    }
    let stored = [world.got[0].all(), world.got[1].all()].concat();
    let all = stored.concat();
    assert!(keys.iter().all(|key| all.contains(key)), "nothing acknowledged is lost");
    assert!(stored.len() <= COUNT + unconfirmed, "{} copies, {unconfirmed} told", stored.len());
}

/// Anonymous memory of this process in bytes.
#[cfg(target_os = "linux")]
fn anonymous_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("it can be read");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a line");
    let kib: usize = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib * 1024
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn batches_under_way_take_no_more_memory_than_the_buffer_and_not_much_less() {
    const BUFFER_BYTES: usize = 64 << 20;
    const MESSAGES: usize = 100;
    if ran_alone("failing::batches_under_way_take_no_more_memory_than_the_buffer_and_not_much_less")
    {
        return;
    }
    let world = world(&[&[Does::Silent]]);
    let builder = world.client.producer("g").buffer_bytes_max(BUFFER_BYTES);
    let producer = builder.send_msg_timeout(PATIENCE).build().expect("a producer");
    producer.queues("T").await.expect("a route");
    let batch =
        || (0..MESSAGES).map(|_| Message::new("T", vec![b'x'; 10]).key("k")).collect::<Vec<_>>();
    let mut sends = Vec::new();
    let begin = || Box::pin(tokio::task::unconstrained(producer.send_batch(batch())));
    sends.push(begin());
    while world.got[0].all().is_empty() {
        assert!(sends[0].as_mut().now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    let before = anonymous_bytes();
    // A message that cannot be is refused once there is room for it.
    let probe =
        || tokio::task::unconstrained(producer.submit(Message::new("T", ""))).now_or_never();
    while probe().is_some() {
        let mut send = begin();
        assert!(send.as_mut().now_or_never().is_none());
        sends.push(send);
    }
    let bytes = anonymous_bytes().saturating_sub(before);
    let each = bytes / (sends.len() * MESSAGES);
    assert!(bytes <= BUFFER_BYTES, "{} batches take {each} bytes a message", sends.len());
    assert!(bytes >= BUFFER_BYTES / 2, "{} batches take {each} bytes a message", sends.len());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_is_under_way_takes_no_more_memory_than_the_buffer() {
    const BUFFER_BYTES: usize = 128 << 20;
    if ran_alone("failing::what_is_under_way_takes_no_more_memory_than_the_buffer") {
        return;
    }
    let world = world(&[&[Does::Silent]]);
    let builder = world.client.producer("g").buffer_bytes_max(BUFFER_BYTES);
    let producer = builder.send_msg_timeout(PATIENCE).build().expect("a producer");
    let message = Message::new("T", vec![b'x'; 10]);
    let mut receipts = vec![producer.submit(message.clone()).await.expect("it is under way")];
    let before = anonymous_bytes();
    // Nothing else runs meanwhile, so all of it is in the outbox, too.
    let submit = || tokio::task::unconstrained(producer.submit(message.clone())).now_or_never();
    while let Some(receipt) = submit() {
        receipts.push(receipt.expect("it is under way"));
    }
    let bytes = anonymous_bytes().saturating_sub(before);
    let each = bytes / receipts.len();
    assert!(bytes <= BUFFER_BYTES, "{} messages take {each} bytes each", receipts.len());
}

#[tokio::test]
async fn callers_who_want_the_same_route_share_one_question() {
    let world = world(&[&[Does::Stores]]);
    let producer = world.client.producer("g").build().expect("a producer");
    let sends = (0..50).map(|_| producer.send(Message::new("T", "body")));
    for sent in futures_util::future::join_all(sends).await {
        sent.expect("it is stored");
    }
    assert_eq!(world.names.asked.load(SeqCst), 1);
}

#[tokio::test]
async fn what_cannot_be_is_named_by_its_field() {
    let field = |servers: &[&str]| Client::builder(servers).build().expect_err("a fault").field;
    assert_eq!(field(&[]), "name_servers");
    assert_eq!(field(&["localhost"]), "name_servers");
    assert_eq!(field(&["localhost:99999"]), "name_servers");
    let named = Client::builder(["localhost:9876"]).instance_name("../x").build();
    assert_eq!(named.expect_err("a fault").field, "instance_name");
    let client = Client::builder(["localhost:9876"]).build().expect("a client");
    let producer = |group: &str| client.producer(group);
    assert_eq!(producer("a b").build().err().map(|fault| fault.field), Some("group"));
    assert_eq!(
        producer("g").compress_level(10).build().err().map(|fault| fault.field),
        Some("compress_level")
    );
    let _first = producer("g").build().expect("a producer");
    assert_eq!(producer("g").build().err().map(|fault| fault.field), Some("group"));
    let consume = async |builder: apogee_client::PushConsumerBuilder| match builder
        .start(|_| async { Consumed::Done })
        .await
        .err()
    {
        Some(ConsumeError::Invalid(fault)) => fault.field,
        other => panic!("{other:?}"),
    };
    let consumer = || client.push_consumer("g");
    assert_eq!(consume(consumer()).await, "subscribe");
    assert_eq!(consume(consumer().subscribe("no topic", Filter::all())).await, "topic");
    assert_eq!(consume(consumer().subscribe("T", Filter::tags("||"))).await, "filter");
    assert_eq!(consume(consumer().subscribe("T", Filter::sql92(""))).await, "filter");
    assert_eq!(
        consume(consumer().subscribe("T", Filter::all()).concurrency(0)).await,
        "concurrency"
    );
}
