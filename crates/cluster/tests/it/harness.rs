//! Name servers that can be stopped and started again, a broker's topics, and a client that asks.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicI32, AtomicU32, Ordering},
    },
    time::Duration,
};

use cluster::{
    namesrv::{AddressView, NameServer, Options},
    registration::{self, Registration, Topics},
};
use env::{Env, RealDisk, sim::SimClock};
use remoting::{Client, Limits, Listeners, NoRequests, Server};
use tokio::{sync::watch, task::JoinHandle};
use wire::{
    body::{
        register::RegisterBrokerBody,
        topic::{TopicConfig, TopicConfigTable},
    },
    code::{RequestCode, ResponseCode},
    fastjson,
    frame::Frame,
    header::namesrv::RegisterBroker,
};

pub(crate) const MINUTE: Duration = Duration::from_secs(60);

/// A clock, a directory, and what runs on them.
pub(crate) struct World {
    pub(crate) clock: SimClock,
    dir: PathBuf,
}

impl World {
    pub(crate) fn new() -> World {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("cluster-it-{}-{number}", std::process::id()));
        World { clock: SimClock::new(1_700_000_000_000), dir }
    }

    fn env(&self) -> Env {
        let disk = Arc::new(RealDisk::new());
        Env::new(self.clock.clone().into(), disk, fastrand::Rng::with_seed(1))
    }

    /// Returns options whose files lie in this world's directory.
    pub(crate) fn options(&self) -> Options {
        Options {
            kv_config_path: self.path("kvConfig.json"),
            config_store_path: self.path("namesrv.properties"),
            ..Options::default()
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(crate) fn start(&self, options: Options) -> Running {
        self.start_with(options, None, "127.0.0.1:0".parse().expect("an address"))
    }

    pub(crate) fn start_with(
        &self,
        options: Options,
        view: Option<AddressView>,
        address: SocketAddr,
    ) -> Running {
        let server = NameServer::open(options, view, self.env()).expect("a readable directory");
        let listeners = Listeners::bind(&[address]).expect("a free port");
        let clock = self.clock.clone().into();
        let listening = listeners.serve(Arc::new(server.clone()), Limits::default(), clock);
        Running { scan: server.spawn_scan(), listening }
    }

    pub(crate) async fn client(&self, server: &Running) -> Client {
        let clock = self.clock.clone().into();
        let client = Client::connect(server.address(), Limits::default(), clock, NoRequests).await;
        client.expect("the name server accepts")
    }

    pub(crate) fn register(&self, options: registration::Options, topics: &Fake) -> Registration {
        Registration::start(options, Arc::new(topics.clone()), self.clock.clone().into())
    }

    /// Lets time pass, and those who wait for it run.
    pub(crate) async fn pass(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
        tokio::task::yield_now().await;
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(Path::new(&self.dir));
    }
}

/// A name server that serves.
pub(crate) struct Running {
    scan: JoinHandle<()>,
    listening: Server,
}

impl Running {
    pub(crate) fn address(&self) -> SocketAddr {
        self.listening.addresses()[0]
    }

    pub(crate) async fn stop(self) {
        self.scan.abort();
        self.listening.shutdown(Duration::ZERO).await;
    }
}

/// The topics of a broker.
#[derive(Clone)]
pub(crate) struct Fake {
    table: Arc<Mutex<TopicConfigTable>>,
    /// Topics by the count of their change.
    changes: Arc<Mutex<Vec<TopicConfig>>>,
    changed: watch::Sender<u64>,
    pub(crate) permission: Arc<AtomicI32>,
    pub(crate) ordered: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    pub(crate) fn with(topics: &[&str]) -> Fake {
        let fake = Fake {
            table: Arc::default(),
            changes: Arc::default(),
            changed: watch::Sender::new(0),
            permission: Arc::new(AtomicI32::new(6)),
            ordered: Arc::default(),
        };
        topics.iter().for_each(|name| fake.put(topic(name)));
        fake
    }

    pub(crate) fn put(&self, topic: TopicConfig) {
        {
            let mut table = self.table.lock().expect("no panic");
            self.changes.lock().expect("no panic").push(topic.clone());
            table.data_version.advance(1_700_000_000_000);
            table.topic_config_table.insert(topic.topic_name.clone(), topic);
        }
        self.changed.send_modify(|version| *version += 1);
    }

    pub(crate) fn permit(&self, permission: i32) {
        self.permission.store(permission, Ordering::SeqCst);
        self.table.lock().expect("no panic").data_version.advance(1_700_000_000_000);
        self.changes.lock().expect("no panic").push(topic("permitted"));
        self.changed.send_modify(|version| *version += 1);
    }
}

impl Topics for Fake {
    fn topics(&self) -> TopicConfigTable {
        self.table.lock().expect("no panic").clone()
    }

    fn changes(&self, after: u64) -> Option<TopicConfigTable> {
        let changes = self.changes.lock().expect("no panic");
        let topics = changes.iter().skip(usize::try_from(after).expect("a small count"));
        let topics = topics.map(|topic| (topic.topic_name.clone(), topic.clone()));
        Some(TopicConfigTable { topic_config_table: topics.collect(), ..self.topics() })
    }

    fn permission(&self) -> i32 {
        self.permission.load(Ordering::SeqCst)
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn set_ordered(&self, topics: &mut dyn Iterator<Item = &str>) {
        *self.ordered.lock().expect("no panic") = topics.map(str::to_owned).collect();
    }
}

pub(crate) fn topic(name: &str) -> TopicConfig {
    TopicConfig {
        topic_name: name.to_owned(),
        read_queue_nums: 4,
        write_queue_nums: 4,
        ..TopicConfig::default()
    }
}

/// Calls and returns whatever comes.
pub(crate) async fn call(client: &Client, request: Frame) -> Frame {
    client.call(request, MINUTE).await.expect("an answer")
}

/// Calls and returns the answer, which is a success.
pub(crate) async fn ask(client: &Client, request: Frame) -> Frame {
    let answer = call(client, request).await;
    assert_eq!(answer.response_code(), ResponseCode::SUCCESS, "{:?}", answer.remark);
    answer
}

pub(crate) fn text(answer: &Frame) -> String {
    String::from_utf8(answer.body_bytes().to_vec()).expect("UTF-8")
}

pub(crate) fn remark(answer: &Frame) -> &str {
    answer.remark.as_deref().unwrap_or_default()
}

/// A registration of the broker `name` at `address`, as its broker would send it.
pub(crate) fn registration_of(name: &str, address: &str, topics: &[&str]) -> Frame {
    let topics = topics.iter().map(|name| ((*name).to_owned(), topic(name)));
    let table = TopicConfigTable {
        topic_config_table: topics.collect::<BTreeMap<_, _>>(),
        ..TopicConfigTable::default()
    };
    let body = RegisterBrokerBody {
        topic_config_serialize_wrapper: table,
        ..RegisterBrokerBody::default()
    };
    let header = RegisterBroker {
        broker_name: name,
        broker_addr: address,
        cluster_name: "c",
        ha_server_addr: "127.0.0.1:10912",
        ..RegisterBroker::default()
    };
    Frame::request(RequestCode::REGISTER_BROKER, &header).with_body(fastjson::encode(&body))
}
