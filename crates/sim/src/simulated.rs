//! A broker in this process, on a simulated disk and a simulated clock, with its real door.
//!
//! Everything runs on one thread of a tokio runtime whose pool for blocking work has one thread: an empty piece of work
//! given to that pool is done when all before it is. Time stands still until [`Simulated::pass`] moves it, in steps of a
//! tick as the broker's own housekeeping takes them; what is done in no time at all is done before the next step.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use broker::Broker;
use cluster::namesrv::{self, NameServer};
use env::{
    Clock, Env,
    sim::{Crash, SimClock, SimDisk},
};
use gateway::v4::V4;
use remoting::{Client, Handler, Limits, NoRequests};
use store::Store;
use wire::{
    body::register::RegisterBrokerBody, code::RequestCode, fastjson, frame::Frame,
    header::namesrv::RegisterBroker,
};

use crate::{
    script::Said,
    stage::{Door, End},
};

/// When every scenario begins, in ms since the epoch.
const START: i64 = 1_700_000_000_000;
/// How often the broker looks at what is due.
const TICK: Duration = Duration::from_millis(100);
/// Longest waits are passed in this many steps.
const STEPS_MAX: u32 = 2_000;
/// Settings of every broker: small files, since the disk is memory.
const SETTINGS: [&str; 6] = [
    "brokerName=broker-a",
    "storePathRootDir=store",
    "mappedFileSizeCommitLog=16777216",
    "mappedFileSizeConsumeQueue=20000",
    "maxHashSlotNum=100",
    "maxIndexNum=400",
];

/// The simulated machine, and the broker on it.
pub(crate) struct Simulated {
    clock: SimClock,
    disk: SimDisk,
    env: Env,
    settings: Vec<String>,
    life: RefCell<Option<Life>>,
    next_port: Cell<u16>,
}

/// A broker from its start to its end.
#[derive(Clone)]
struct Life {
    store: Store,
    broker: Broker,
    namesrv: NameServer,
    /// The broker's connection to the name server.
    registered: Arc<RefCell<Option<Client>>>,
}

impl Simulated {
    pub(crate) fn new(settings: &[String]) -> Said<Simulated> {
        let clock = SimClock::new(START);
        let disk = SimDisk::new(7, clock.clone());
        let rng = fastrand::Rng::with_seed(7);
        let env = Env::new(clock.clone().into(), Arc::new(disk.clone()), rng);
        let settings =
            SETTINGS.iter().map(|pair| (*pair).to_owned()).chain(settings.iter().cloned());
        let simulated = Simulated {
            clock,
            disk,
            env,
            settings: settings.collect(),
            life: RefCell::new(None),
            next_port: Cell::new(20_000),
        };
        *simulated.life.borrow_mut() = Some(simulated.open(&[])?);
        Ok(simulated)
    }

    fn open(&self, settings: &[String]) -> Said<Life> {
        let settings = self.settings.iter().chain(settings).cloned().collect();
        let (options, store_options) = apogee::options(settings)?;
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let (store, _) =
            Store::open(store_options, self.env.clone()).map_err(|error| text(&error))?;
        let broker =
            Broker::open(options, store.clone(), self.env.clone()).map_err(|error| text(&error))?;
        let namesrv = NameServer::open(namesrv::Options::default(), None, self.env.clone())
            .map_err(|error| text(&error))?;
        Ok(Life { store, broker, namesrv, registered: Arc::default() })
    }

    fn life(&self) -> Life {
        self.life.borrow().clone().expect("a broker runs between two steps")
    }

    pub(crate) fn clock(&self) -> Clock {
        self.env.clock.clone()
    }

    pub(crate) async fn connect(
        &self,
        door: Door,
        handler: impl Handler + 'static,
    ) -> Said<Client> {
        let port = self.next_port.replace(self.next_port.get() + 1);
        let life = self.life();
        if door == Door::Broker {
            let door = V4::new(life.broker, self.clock());
            return Ok(self.dial(&door, port, handler));
        }
        let known = self.dial(&life.namesrv, 10_911, NoRequests);
        let told = self.wait(known.call(registration(&life.broker), TICK), TICK).await;
        told.and_then(Result::ok).ok_or("the broker cannot register")?;
        life.registered.replace(Some(known));
        Ok(self.dial(&life.namesrv, port, handler))
    }

    fn dial(
        &self,
        service: &dyn remoting::Service,
        port: u16,
        handler: impl Handler + 'static,
    ) -> Client {
        let remote = SocketAddr::from(([127, 0, 0, 1], port));
        Client::within(service, remote, Limits::default(), self.clock(), handler)
    }

    pub(crate) async fn wait<F: Future>(&self, future: F, at_most: Duration) -> Option<F::Output> {
        let mut future = pin!(future);
        let deadline = self.clock.monotonic() + at_most;
        loop {
            for _ in 0..3 {
                let polled = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await;
                if let Poll::Ready(output) = polled {
                    return Some(output);
                }
                self.settle().await;
            }
            let left = deadline.saturating_sub(self.clock.monotonic());
            if left.is_zero() {
                return None;
            }
            self.step(left.min(TICK)).await;
        }
    }

    pub(crate) async fn pass(&self, time: Duration) {
        self.settle().await;
        let tick = TICK.max(time / STEPS_MAX);
        let end = self.clock.monotonic() + time;
        while self.clock.monotonic() < end {
            self.step((end - self.clock.monotonic()).min(tick)).await;
        }
    }

    pub(crate) fn jump(&self, by: i64) {
        self.clock.jump(by);
    }

    /// Lets a little time pass, and what is due be done.
    async fn step(&self, time: Duration) {
        self.clock.advance(time);
        let life = self.life();
        while life.broker.tick() {
            life.store.step_all();
        }
        drop(life);
        self.settle().await;
    }

    /// Returns when nothing is left that can be done without time passing.
    async fn settle(&self) {
        for _ in 0..3 {
            for _ in 0..12 {
                tokio::task::yield_now().await;
            }
            tokio::task::spawn_blocking(|| ()).await.expect("the pool outlives its work");
            self.life().store.step_all();
        }
    }

    pub(crate) async fn restart(&self, how: End, down: Duration, settings: &[String]) -> Said<()> {
        self.settle().await;
        let Life { store, broker, .. } =
            self.life.borrow_mut().take().expect("a broker runs between two steps");
        match how {
            End::Stop => {
                broker.shutdown();
                drop(broker);
                store.shutdown().map_err(|fault| fault.to_string())?;
            }
            End::Kill => self.disk.crash(Crash::Process),
            End::Power => self.disk.crash(Crash::Power),
        }
        drop(store);
        self.clock.advance(down);
        *self.life.borrow_mut() = Some(self.open(settings)?);
        Ok(())
    }
}

/// What a broker tells a name server.
fn registration(broker: &Broker) -> Frame {
    let options = broker.options();
    let address = options.store_host.to_string();
    let header = RegisterBroker {
        broker_name: &options.broker_name,
        broker_addr: &address,
        cluster_name: &options.cluster_name,
        ha_server_addr: &address,
        ..RegisterBroker::default()
    };
    let body = RegisterBrokerBody {
        topic_config_serialize_wrapper: broker.topics(),
        ..RegisterBrokerBody::default()
    };
    Frame::request(RequestCode::REGISTER_BROKER, &header).with_body(fastjson::encode(&body))
}
