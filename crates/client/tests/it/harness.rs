//! A cluster in this process: a name server and brokers on loopback ports, and what tests wait for.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use apogee_client::{Client, ClientBuilder, MessageQueue, Producer, PullConsumer};
use broker::Broker;
use cluster::{
    namesrv::{self, NameServer},
    registration::{self, Registration},
};
use env::Env;
use gateway::v4::V4;
use remoting::{Limits, Listeners, Server, ServerTls};
use store::Store;
use wire::body::topic::TopicConfig;

/// Long enough that only a hang reaches it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A folder that goes when the test does.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new() -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("apogee-client-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
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

/// A name server and its brokers.
pub(crate) struct Cluster {
    pub(crate) address: String,
    pub(crate) brokers: Vec<Running>,
    scratch: Scratch,
    env: Env,
    tls: Option<Arc<ServerTls>>,
    _namesrv: Server,
}

/// A broker that serves.
pub(crate) struct Running {
    pub(crate) broker: Broker,
    pub(crate) address: SocketAddr,
    registration: Arc<Registration>,
    _server: Server,
    _workers: store::Workers,
}

impl Cluster {
    pub(crate) async fn new() -> Cluster {
        Cluster::with(1, |_| {}).await
    }

    /// Starts so many brokers whose options `change` has touched.
    pub(crate) async fn with(brokers: usize, change: impl Fn(&mut broker::Options)) -> Cluster {
        Cluster::start_all(brokers, change, None).await
    }

    /// Starts one broker; it and the name server offer TLS.
    pub(crate) async fn over_tls(tls: Arc<ServerTls>) -> Cluster {
        Cluster::start_all(1, |_| {}, Some(tls)).await
    }

    async fn start_all(
        brokers: usize,
        change: impl Fn(&mut broker::Options),
        tls: Option<Arc<ServerTls>>,
    ) -> Cluster {
        let scratch = Scratch::new();
        let env = Env::real();
        let options = namesrv::Options {
            kv_config_path: scratch.0.join("kvConfig.json"),
            config_store_path: scratch.0.join("namesrv.properties"),
            ..namesrv::Options::default()
        };
        let namesrv = NameServer::open(options, None, env.clone()).expect("a name server");
        let listeners = Listeners::bind(&[loopback()]).expect("a free port").tls(tls.clone());
        let address = listeners.addresses()[0].to_string();
        let server = listeners.serve(Arc::new(namesrv), Limits::default(), env.clock.clone());
        let mut cluster =
            Cluster { address, brokers: Vec::new(), scratch, env, tls, _namesrv: server };
        for at in 0..brokers {
            cluster.start(&format!("broker-{at}"), &change).await;
        }
        cluster
    }

    async fn start(&mut self, name: &str, change: impl Fn(&mut broker::Options)) {
        let env = self.env.clone();
        let listeners = Listeners::bind(&[loopback()]).expect("a free port").tls(self.tls.clone());
        let address = listeners.addresses()[0];
        let mut options = broker::Options {
            broker_name: name.to_owned(),
            store_host: address,
            enable_property_filter: true,
            recall_message_enable: true,
            delay_levels: vec![20; 18],
            ..broker::Options::default()
        };
        change(&mut options);
        let store_options = store::Options {
            store_path_root_dir: self.scratch.0.join(name),
            mapped_file_size_commit_log: 64 << 20,
            message_delay_level: options.delay_levels.clone(),
            ..store::Options::default()
        };
        let (store, _) = Store::open(store_options, env.clone()).expect("the store opens");
        let workers = store.start().expect("threads start");
        let broker = Broker::open(options, store, env.clone()).expect("the broker opens");
        tokio::spawn(broker.clone().run());
        let told = registration::Options {
            name_servers: vec![self.address.clone()],
            broker: name.to_owned(),
            address,
            ha_address: address,
            ..registration::Options::default()
        };
        let registration =
            Arc::new(Registration::start(told, Arc::new(broker.clone()), env.clock.clone()));
        let door = V4::new(broker.clone(), env.clock.clone());
        let server = listeners.serve(Arc::new(door), Limits::default(), env.clock);
        registration.settled().await;
        self.brokers.push(Running {
            broker,
            address,
            registration,
            _server: server,
            _workers: workers,
        });
    }

    /// Creates a topic with so many queues at each broker.
    pub(crate) async fn topic(&self, topic: &str, queues: i32) {
        for running in &self.brokers {
            let config = TopicConfig {
                topic_name: topic.to_owned(),
                read_queue_nums: queues,
                write_queue_nums: queues,
                ..TopicConfig::default()
            };
            running.broker.create_topics(vec![config]).expect("a topic");
            running.registration.settled().await;
        }
    }

    /// Waits until all that was acknowledged can be read.
    pub(crate) async fn caught_up(&self) {
        for running in &self.brokers {
            running.broker.caught_up().await;
        }
    }

    pub(crate) fn builder(&self) -> ClientBuilder {
        Client::builder([&self.address])
    }

    pub(crate) fn client(&self) -> Client {
        self.builder().build().expect("a client")
    }

    pub(crate) fn producer(&self) -> Producer {
        self.client().producer("producers").build().expect("a producer")
    }

    pub(crate) fn scratch(&self) -> PathBuf {
        self.scratch.0.clone()
    }

    /// Returns the messages that can be read of `topic`, by queue, as text; waits for so many.
    pub(crate) async fn read(
        &self,
        topic: &str,
        count: usize,
    ) -> BTreeMap<MessageQueue, Vec<String>> {
        let mut consumer = self.reader(topic).await;
        let mut found: BTreeMap<MessageQueue, Vec<String>> = BTreeMap::new();
        let mut sum = 0;
        while sum < count {
            let messages = consumer.poll(PATIENCE).await.expect("a poll");
            assert!(!messages.is_empty(), "only {sum} of {count} messages came");
            for message in messages {
                sum += 1;
                let text = String::from_utf8_lossy(message.body()).into_owned();
                found.entry(message.queue().clone()).or_default().push(text);
            }
        }
        found
    }

    /// Returns a consumer that reads all of `topic` from its beginning, and commits nothing.
    pub(crate) async fn reader(&self, topic: &str) -> PullConsumer {
        let consumer = self.client().pull_consumer("readers").auto_commit(None);
        let mut consumer = consumer.start().await.expect("a consumer");
        let queues = consumer.queues(topic).await.expect("a route");
        consumer.assign(queues.clone()).expect("no subscription");
        for queue in &queues {
            consumer.seek(queue, 0).expect("an assigned queue");
        }
        consumer
    }
}

pub(crate) fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// What handlers have got, in the order in which they did.
#[derive(Clone, Default)]
pub(crate) struct Seen(Arc<Mutex<Vec<String>>>);

impl Seen {
    pub(crate) fn note(&self, body: &[u8]) {
        self.0.lock().expect("no panic").push(String::from_utf8_lossy(body).into_owned());
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().expect("no panic").clone()
    }

    pub(crate) fn sorted(&self) -> Vec<String> {
        let mut all = self.all();
        all.sort();
        all
    }

    /// Waits until so many were seen.
    pub(crate) async fn until(&self, count: usize) {
        until(|| self.0.lock().expect("no panic").len() >= count).await;
    }
}

/// Runs a test in a process of its own, where no other test takes memory or has to do with `tracing`; true where that has
/// been done.
pub(crate) fn ran_alone(test: &str) -> bool {
    if std::env::var_os("IS_ALONE").is_some() {
        return false;
    }
    let mut alone = std::process::Command::new(std::env::current_exe().expect("a path"));
    let status = alone.args(["--exact", test]).env("IS_ALONE", "1").status();
    assert!(status.expect("it starts").success());
    true
}

/// Waits for a condition that others bring about; a test that waits in vain hangs, and says where.
pub(crate) async fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
}

pub(crate) fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|number| format!("{number:04}")).collect()
}
