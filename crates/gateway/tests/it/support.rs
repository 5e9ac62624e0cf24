//! A broker with its door in this process, and a client that speaks to it.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use broker::Broker;
use env::Env;
use gateway::v4::V4;
use remoting::{Client, Handler, Limits, Listeners, Replies, Server};
use serde::Serialize;
use store::Store;
use tokio::sync::mpsc;
use wire::{
    code::{RequestCode, ResponseCode},
    fastjson,
    frame::Frame,
};

/// Long enough that only a hang reaches it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A folder that goes when the test does.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("apogee-gateway-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("the temporary directory can be written");
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A broker that serves, and one client.
pub(crate) struct World {
    pub(crate) client: Client,
    pub(crate) broker: Broker,
    address: SocketAddr,
    pub(crate) env: Env,
    _server: Server,
    _workers: store::Workers,
    _scratch: Scratch,
}

impl World {
    pub(crate) async fn new() -> World {
        World::with(|_, _| {}).await
    }

    /// Starts a broker whose options `change` has touched.
    pub(crate) async fn with(
        change: impl FnOnce(&mut store::Options, &mut broker::Options),
    ) -> World {
        let scratch = Scratch::new();
        let env = Env::real();
        let mut store_options = store::Options {
            store_path_root_dir: scratch.0.clone(),
            mapped_file_size_commit_log: 64 << 20,
            ..store::Options::default()
        };
        let mut broker_options = broker::Options { ..broker::Options::default() };
        change(&mut store_options, &mut broker_options);
        let (store, _) = Store::open(store_options, env.clone()).expect("the store opens");
        let workers = store.start().expect("threads start");
        let broker = Broker::open(broker_options, store, env.clone()).expect("the broker opens");
        tokio::spawn(broker.clone().run());
        let door = V4::new(broker.clone(), env.clock.clone());
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let listeners = Listeners::bind(&[loopback]).expect("a port is free");
        let address = listeners.addresses()[0];
        let server = listeners.serve(Arc::new(door), Limits::default(), env.clock.clone());
        let client = connect(address, &env, Silent).await;
        World {
            client,
            broker,
            address,
            env,
            _server: server,
            _workers: workers,
            _scratch: scratch,
        }
    }

    /// Connects once more; what the broker pushes comes out of the receiver.
    pub(crate) async fn another(&self) -> (Client, mpsc::UnboundedReceiver<Frame>) {
        let (sender, pushed) = mpsc::unbounded_channel();
        (connect(self.address, &self.env, Pushed(sender)).await, pushed)
    }

    /// Connects once more, with a client that answers as `handler` does.
    pub(crate) async fn connect(&self, handler: impl Handler + 'static) -> Client {
        connect(self.address, &self.env, handler).await
    }

    /// Asks the first client's connection.
    pub(crate) async fn ask(&self, request: Frame) -> Frame {
        ask(&self.client, request).await
    }

    /// Asks and expects success.
    pub(crate) async fn done(&self, request: Frame) -> Frame {
        done(&self.client, request).await
    }

    /// Asks each of `requests` and compares code and a part of the remark.
    pub(crate) async fn refuses(&self, requests: Vec<(Frame, ResponseCode, &str)>) {
        for (request, code, remark) in requests {
            let response = self.ask(request.clone()).await;
            let said = response.remark.as_deref().unwrap_or_default();
            assert_eq!(response.response_code(), code, "{request:?} was answered {said}");
            assert!(said.contains(remark), "{request:?} was answered `{said}`, not `{remark}`");
        }
        // The connection lives on.
        self.done(request(RequestCode::GET_BROKER_RUNTIME_INFO, &[])).await;
    }

    /// Sends `body` to a queue of `topic` and returns the answer.
    pub(crate) async fn send(&self, topic: &str, queue_id: i32, body: &str) -> Frame {
        self.done(send(topic, queue_id, body)).await
    }

    /// Waits until `count` messages of the queue can be read.
    pub(crate) async fn readable(&self, topic: &str, queue_id: i32, count: i64) {
        while self.broker.max_offset(topic, queue_id) < count {
            tokio::task::yield_now().await;
        }
    }
}

async fn connect(address: SocketAddr, env: &Env, handler: impl Handler + 'static) -> Client {
    Client::connect(address, Limits::default(), env.clock.clone(), handler)
        .await
        .expect("the server accepts")
}

pub(crate) async fn ask(client: &Client, request: Frame) -> Frame {
    client.call(request, PATIENCE).await.expect("each request is answered")
}

pub(crate) async fn done(client: &Client, request: Frame) -> Frame {
    let response = ask(client, request.clone()).await;
    let (code, remark) = (response.response_code(), &response.remark);
    assert_eq!(code, ResponseCode::SUCCESS, "{request:?} was answered {remark:?}");
    response
}

struct Silent;

impl Handler for Silent {
    fn run(&mut self, _run: &mut Vec<Frame>, _replies: &mut Replies) {}
}

struct Pushed(mpsc::UnboundedSender<Frame>);

impl Handler for Pushed {
    fn run(&mut self, run: &mut Vec<Frame>, _replies: &mut Replies) {
        run.drain(..).for_each(|frame| drop(self.0.send(frame)));
    }
}

#[derive(Serialize)]
struct NoHeader {}

/// A request with these ext fields.
pub(crate) fn request(code: RequestCode, fields: &[(&str, &str)]) -> Frame {
    let mut frame = Frame::request(code, &NoHeader {});
    fields.iter().for_each(|(name, value)| frame.ext.put(name, value));
    frame
}

/// A request with a JSON body.
pub(crate) fn with_body(code: RequestCode, body: &impl Serialize) -> Frame {
    request(code, &[]).with_body(fastjson::encode(body))
}

/// A send as the Java client of today sends it.
pub(crate) fn send(topic: &str, queue_id: i32, body: &str) -> Frame {
    send_with(topic, queue_id, body, &format!("UNIQ_KEY\u{1}KEY-{body}\u{2}WAIT\u{1}true\u{2}"))
}

pub(crate) fn send_with(topic: &str, queue_id: i32, body: &str, properties: &str) -> Frame {
    let queue_id = queue_id.to_string();
    let fields = [
        ("a", "producers"),
        ("b", topic),
        ("c", "TBW102"),
        ("d", "4"),
        ("e", queue_id.as_str()),
        ("f", "0"),
        ("g", "1700000000000"),
        ("h", "0"),
        ("i", properties),
        ("j", "0"),
        ("k", "false"),
        ("m", "false"),
        ("n", "broker-a"),
    ];
    request(RequestCode::SEND_MESSAGE_V2, &fields).with_body(body.to_owned())
}

/// A pull that carries its subscription.
pub(crate) fn pull(topic: &str, queue_id: i32, offset: i64) -> Frame {
    let (queue_id, offset) = (queue_id.to_string(), offset.to_string());
    let fields = [
        ("consumerGroup", "consumers"),
        ("topic", topic),
        ("queueId", queue_id.as_str()),
        ("queueOffset", offset.as_str()),
        ("maxMsgNums", "32"),
        ("sysFlag", "4"),
        ("commitOffset", "0"),
        ("suspendTimeoutMillis", "0"),
        ("subscription", "*"),
        ("subVersion", "0"),
        ("expressionType", "TAG"),
    ];
    request(RequestCode::PULL_MESSAGE, &fields)
}

/// Returns `frame` with one field set to something else.
pub(crate) fn but(mut frame: Frame, name: &str, value: &str) -> Frame {
    frame.ext.put(name, value);
    frame
}
