//! A broker over a simulated disk and clock, and short words for what the tests ask of it.

use std::{
    future::Future,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use broker::{Broker, Options, api::*};
use bytes::{Bytes, BytesMut};
use env::{
    Env,
    sim::{Crash, SimClock, SimDisk},
};
use store::{FlushDiskType, Store};
use tokio::runtime::{Builder, Runtime};
use wire::{
    code::Language,
    record::{CheckCrc, Record},
};

/// Ms since the epoch at which every world begins.
pub(crate) const START: i64 = 1_700_000_000_000;

pub(crate) struct World {
    pub(crate) clock: SimClock,
    pub(crate) store: Store,
    pub(crate) broker: Broker,
    pub(crate) disk: SimDisk,
    env: Env,
    options: Options,
}

impl World {
    pub(crate) fn new() -> World {
        World::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut Options)) -> World {
        let clock = SimClock::new(START);
        let disk = SimDisk::new(7, clock.clone());
        World::on(clock, disk, change)
    }

    /// A world on a disk that fails in its own way.
    pub(crate) fn on(clock: SimClock, disk: SimDisk, change: impl FnOnce(&mut Options)) -> World {
        let rng = fastrand::Rng::with_seed(7);
        let env = Env::new(clock.clone().into(), Arc::new(disk.clone()), rng);
        let mut options = Options { broker_name: "b".into(), ..Options::default() };
        change(&mut options);
        let (store, broker) = open(&env, &options);
        World { clock, store, broker, disk, env, options }
    }

    /// Ends everything as `crash` does, and opens what is left.
    pub(crate) fn crash(self, crash: Crash) -> World {
        let World { clock, store, broker, disk, env, options } = self;
        // A door answers a send that created a topic when this is done.
        now(broker.saved()).expect("a healthy disk");
        drop((broker, store));
        disk.crash(crash);
        let (store, broker) = open(&env, &options);
        World { clock, store, broker, disk, env, options }
    }

    /// Ms since the world began.
    pub(crate) fn clock_ms(&self) -> i64 {
        self.env.clock.now() - START
    }

    /// Stops everything cleanly and opens it again.
    pub(crate) fn restart(self) -> World {
        self.restart_with(|_| {})
    }

    /// The same, with other options from then on.
    pub(crate) fn restart_with(self, change: impl FnOnce(&mut Options)) -> World {
        let World { clock, store, broker, disk, env, mut options } = self;
        change(&mut options);
        store.step_all();
        broker.shutdown();
        drop(broker);
        store.shutdown().expect("a healthy disk");
        drop(store);
        let (store, broker) = open(&env, &options);
        World { clock, store, broker, disk, env, options }
    }

    /// Sends one message and lets it become visible.
    pub(crate) fn send(&self, item: Publish) -> Result<Receipt, PublishError> {
        let mut answers = self.broker.publish(&caller(), [item].into_iter().collect());
        self.store.step_all();
        answers.pop().expect("one answer for one send").map(|ticket| ticket.receipt)
    }

    pub(crate) fn send_many(&self, topic: &str, count: usize, len: usize) {
        let body = Bytes::from(vec![b'x'; len]);
        for _ in 0..count {
            self.send(Publish { payload: Payload::One(body.clone()), ..to(topic) })
                .expect("accepted");
        }
    }

    /// Runs a pull that is answered without waiting.
    pub(crate) fn pull(&self, request: Pull) -> Result<Pulled, PullError> {
        now(self.broker.pull(&caller(), request))
    }

    /// Lets time pass, and what is due be done.
    pub(crate) fn pass(&self, duration: Duration) {
        self.clock.advance(duration);
        while self.broker.tick() {}
        self.store.step_all();
    }

    /// Puts a file below the directory of the tables.
    pub(crate) fn put_file(&self, name: &str, content: &[u8]) {
        let path = self.store.config_dir().join(name);
        self.env.disk.create_dir_all(path.parent().expect("a directory")).expect("a healthy disk");
        env::write_whole(&*self.env.disk, &path, content).expect("a healthy disk");
    }

    pub(crate) fn remove_file(&self, name: &str) {
        self.env.disk.remove(&self.store.config_dir().join(name)).expect("it is there");
    }

    pub(crate) fn file(&self, name: &str) -> String {
        let path = self.store.config_dir().join(name);
        let bytes = env::read_whole(&*self.env.disk, &path, 1 << 20).expect("readable");
        String::from_utf8(bytes.expect("the file exists")).expect("JSON is text")
    }
}

fn open(env: &Env, options: &Options) -> (Store, Broker) {
    let store_options = store::Options {
        store_path_root_dir: "store".into(),
        mapped_file_size_commit_log: 4 << 20,
        mapped_file_size_consume_queue: 20 * 1000,
        message_delay_level: options.delay_levels.clone(),
        flush_disk_type: if options.sync_flush {
            FlushDiskType::SyncFlush
        } else {
            FlushDiskType::AsyncFlush
        },
        serves_light_queues: options.serves_light_queues(),
        enable_consume_queue_ext: options.enable_calc_filter_bit_map,
        mapped_file_size_consume_queue_ext: 400,
        max_hash_slot_num: 100,
        max_index_num: 400,
        ..store::Options::default()
    };
    let (store, _) = Store::open(store_options, env.clone()).expect("the store opens");
    let broker =
        Broker::open(options.clone(), store.clone(), env.clone()).expect("the broker opens");
    (store, broker)
}

/// Completes a future that waits for nothing, or for work on the blocking pool only.
pub(crate) fn now<F: Future>(future: F) -> F::Output {
    static POOL: LazyLock<Runtime> =
        LazyLock::new(|| Builder::new_current_thread().build().expect("a runtime"));
    let _entered = POOL.enter();
    let mut future = pin!(future);
    for _ in 0..10_000_000 {
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::yield_now(),
        }
    }
    panic!("the future waits");
}

pub(crate) fn caller() -> Caller {
    Caller { remote: address(4711), language: Language::JAVA, version: wire::code::version::OURS }
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A send of a small message to queue 0.
pub(crate) fn to(topic: &str) -> Publish {
    Publish {
        group: "p".into(),
        topic: topic.into(),
        template: "TBW102".into(),
        template_queues: 4,
        queue_id: 0,
        sys_flag: 0,
        flag: 0,
        born_at: START,
        properties: "UNIQ_KEY\u{1}u\u{2}".into(),
        reconsume_times: 0,
        reconsume_times_max: None,
        unit_mode: false,
        payload: Payload::One(Bytes::from_static(b"body")),
    }
}

pub(crate) fn tagged(topic: &str, tag: &str) -> Publish {
    Publish { properties: format!("UNIQ_KEY\u{1}u\u{2}TAGS\u{1}{tag}\u{2}").into(), ..to(topic) }
}

/// A pull of everything from queue 0 that does not wait.
pub(crate) fn from(topic: &str, offset: i64) -> Pull {
    Pull {
        group: "g".into(),
        topic: topic.into(),
        queue_id: 0,
        offset,
        count_max: 32,
        commit: None,
        suspend: None,
        filter: Filter::Expression { kind: "TAG".into(), expression: "*".into() },
        subscription_version: 0,
        lite: false,
    }
}

/// The records of an answer: body, topic and properties.
pub(crate) fn records(pulled: &Pulled) -> Vec<(String, String, String)> {
    let mut out = Vec::new();
    for slice in &pulled.messages {
        let mut rest = &slice[..];
        while !rest.is_empty() {
            let record = Record::decode(rest, CheckCrc::Yes).expect("whole records");
            let body = String::from_utf8_lossy(record.body).into_owned();
            out.push((body, record.topic.to_owned(), record.properties.to_string()));
            rest = &rest[record.len as usize..];
        }
    }
    assert_eq!(out.len(), pulled.count as usize);
    out
}

pub(crate) fn batch(bodies: &[&str]) -> Payload {
    let mut out = BytesMut::new();
    for body in bodies {
        wire::batch::append(&mut out, 0, body.as_bytes(), "");
    }
    Payload::Batch(out.freeze())
}

/// A client's connection that remembers what it was told.
pub(crate) struct Client {
    id: u64,
    pub(crate) told: Mutex<Vec<ClientCommand>>,
    is_closed: AtomicBool,
}

impl Client {
    pub(crate) fn new(id: u64) -> Arc<Client> {
        Arc::new(Client { id, told: Mutex::default(), is_closed: AtomicBool::new(false) })
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Relaxed)
    }

    pub(crate) fn times_told(&self) -> usize {
        self.told.lock().expect("no panic").len()
    }
}

impl ClientChannel for Client {
    fn id(&self) -> u64 {
        self.id
    }

    fn remote(&self) -> SocketAddr {
        address(self.id as u16)
    }

    fn push(&self, command: ClientCommand) -> Result<(), Gone> {
        self.told.lock().expect("no panic").push(command);
        Ok(())
    }

    fn close(&self) {
        self.is_closed.store(true, Relaxed);
    }
}
