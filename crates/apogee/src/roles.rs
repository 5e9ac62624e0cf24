//! The roles of one process: what is bound, opened, wired and started, in this order; and stopped, in the other.
//!
//! Every port is bound before anything is opened, so a port in use changes nothing on disk. The banner comes when all
//! roles serve.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::absolute,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use broker::Broker;
use cluster::{
    namesrv::{AddressView, NameServer},
    registration::{self, Registration},
};
use env::Env;
use gateway::{
    http,
    v4::{Announce, V4},
};
use remoting::{Listeners, Server, ServerTls};
use store::Store;
use tracing::{info, warn};

use crate::{
    address::{Advertised, advertised, resolve},
    args::{Plan, Role},
    banner::{self, Banner},
    config::{Keeper, Loaded, Process, ServerMode, Settings},
    machine, signals, tls,
};

/// How long connections may take to be answered when the process stops.
const GRACE: Duration = Duration::from_secs(10);

/// Serves until a signal says stop.
pub(crate) async fn serve(plan: &Plan, loaded: Loaded, began: Instant) -> Result<()> {
    let mut stop = signals::listen()?;
    report(&loaded);
    let descriptors = machine::raise_descriptors();
    let env = Env::real();
    let offer = tls::Offer::read(&loaded.settings.tls)?;
    let offered = offer.as_ref().map(|offer| offer.tls.clone());
    let enforced = loaded.settings.tls.server_mode == ServerMode::Enforcing;
    ensure!(
        !enforced || loaded.settings.tls.enable || plan.roles.len() == 1,
        "`tls.server.mode=enforcing` would keep the broker from its own name server: set `tls.enable=true`, too"
    );
    let ports = Ports::bind(plan, &loaded.settings, offered.as_ref()).await?;
    let follows_client = ports.namesrv.is_some()
        && ports.broker.is_some()
        && loaded.settings.process.advertise.is_none();
    let told = advertised(loaded.settings.process.advertise.as_deref(), ports.ip).await?;
    let namesrv_address = ports.namesrv.as_ref().map(|listeners| listeners.addresses()[0]);
    let broker_address = ports.broker.as_ref().map(|listeners| listeners.addresses()[0]);

    let view = broker_address
        .filter(|_| follows_client)
        .map(|address| AddressView { registered: SocketAddr::new(told.ip, address.port()) });
    let namesrv = ports
        .namesrv
        .map(|listeners| NamesrvRole::start(listeners, &loaded.settings, view, &env))
        .transpose()?;
    let mut broker_banner = None;
    let broker = match ports.broker {
        Some(listeners) => {
            let namesrv_addr =
                register_at(&loaded.settings.registration.name_servers, namesrv_address);
            broker_banner = Some(banner::Broker {
                address: listeners.addresses()[0],
                http: ports.http.as_ref().and_then(|listener| listener.address().ok()),
                vip: listeners.addresses().get(1).copied(),
                advertised: told.clone(),
                follows_client,
                data: absolute(&loaded.settings.store.store_path_root_dir)?,
                namesrv_addr: loaded.settings.registration.name_servers.clone(),
            });
            let keeper = Keeper::new(&plan.layers);
            let settings = loaded.settings;
            let listen = (listeners, ports.http);
            Some(BrokerRole::start(listen, settings, told, namesrv_addr, keeper, &env).await?)
        }
        None => None,
    };
    let follow = offer.map(|offer| tokio::spawn(offer.follow(env.clock.clone())));
    info!(descriptors, "serves");
    let transport = match offered {
        None => "plain text",
        Some(_) if enforced => "TLS only",
        Some(_) => "TLS and plain text",
    };
    print(&Banner {
        namesrv: namesrv_address,
        broker: broker_banner,
        transport,
        took: began.elapsed(),
    });

    signals::stopped(&mut stop).await;
    if let Some(broker) = broker {
        broker.stop().await?;
    }
    if let Some(namesrv) = namesrv {
        namesrv.stop().await;
    }
    if let Some(follow) = follow {
        follow.abort();
    }
    info!("stopped");
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the banner is for who started the process")]
fn print(banner: &Banner) {
    print!("{}", banner.text());
}

/// Says once what has no effect.
fn report(loaded: &Loaded) {
    let (original, unknown): (Vec<_>, Vec<_>) =
        loaded.ignored.iter().partition(|ignored| ignored.original);
    if !original.is_empty() {
        let keys: Vec<&str> = original.iter().map(|ignored| ignored.key.as_str()).collect();
        info!(keys = keys.join(" "), "RocketMQ's keys that have no effect here");
    }
    for ignored in unknown {
        warn!(key = ignored.key, value = ignored.value, at = %ignored.at, "unknown key, kept without effect");
    }
}

/// Everything that is listened on.
struct Ports {
    ip: IpAddr,
    namesrv: Option<Listeners>,
    broker: Option<Listeners>,
    http: Option<http::Listener>,
}

/// The broker's port where none is configured.
const BROKER_PORT: u16 = 10_911;
/// How far below the broker's port its twin is, for clients of old that send over a VIP channel.
const VIP_BELOW: u16 = 2;

impl Ports {
    async fn bind(plan: &Plan, settings: &Settings, tls: Option<&Arc<ServerTls>>) -> Result<Ports> {
        let process = &settings.process;
        let ip = resolve(&process.bind_address).await?;
        let has = |role| plan.roles.contains(&role);
        // a name server alone has the key of its own file
        let namesrv_port = match process.listen_port {
            Some(port) if !has(Role::Broker) => port,
            _ => process.namesrv_port,
        };
        let namesrv = has(Role::Namesrv)
            .then(|| Listeners::bind(&[SocketAddr::new(ip, namesrv_port)]))
            .transpose()?;
        let broker = has(Role::Broker)
            .then(|| bind_broker(ip, process.listen_port.unwrap_or(BROKER_PORT)))
            .transpose()?;
        let [namesrv, broker] =
            [namesrv, broker].map(|listeners| listeners.map(|bound| bound.tls(tls.cloned())));
        let http = if has(Role::Broker) { bind_http(process).await? } else { None };
        Ok(Ports { ip, namesrv, broker, http })
    }
}

/// Binds the broker's port and its twin. Port 0 takes a free one whose twin is free as well.
fn bind_broker(ip: IpAddr, port: u16) -> Result<Listeners> {
    if port != 0 {
        let mut addresses = vec![SocketAddr::new(ip, port)];
        addresses.extend(
            port.checked_sub(VIP_BELOW).filter(|vip| *vip > 0).map(|vip| SocketAddr::new(ip, vip)),
        );
        return Ok(Listeners::bind(&addresses)?);
    }
    for _ in 0..100 {
        let free = Listeners::bind(&[SocketAddr::new(ip, 0)])?.addresses()[0].port();
        if let Ok(listeners) =
            Listeners::bind(&[SocketAddr::new(ip, free), SocketAddr::new(ip, free - VIP_BELOW)])
        {
            return Ok(listeners);
        }
    }
    bail!("no free port with a free twin below it")
}

/// Binds the port of metrics and health. Nobody who has not asked for it is kept from serving because it is in use.
async fn bind_http(process: &Process) -> Result<Option<http::Listener>> {
    let Ok(port) = u16::try_from(process.http_port) else { return Ok(None) };
    let address = SocketAddr::new(resolve(&process.http_address).await?, port);
    match http::Listener::bind(address).await {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if process.http_port == Process::default().http_port => {
            warn!(%address, %error, "no metrics: say another `--http-port`");
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("cannot listen on {address} for metrics")),
    }
}

/// The name servers to register at: those configured, and the one in this process.
fn register_at(configured: &[String], own: Option<SocketAddr>) -> Vec<String> {
    let mut targets = configured.to_vec();
    if let Some(own) = own {
        let ip = match own.ip() {
            ip if !ip.is_unspecified() => ip,
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
        let own = SocketAddr::new(ip, own.port()).to_string();
        if !targets.contains(&own) {
            targets.push(own);
        }
    }
    targets
}

/// A name server that serves.
struct NamesrvRole {
    server: Server,
    scan: tokio::task::JoinHandle<()>,
}

impl NamesrvRole {
    fn start(
        listeners: Listeners,
        settings: &Settings,
        view: Option<AddressView>,
        env: &Env,
    ) -> Result<NamesrvRole> {
        let namesrv = NameServer::open(settings.namesrv.clone(), view, env.clone())?;
        let scan = namesrv.spawn_scan();
        let server = listeners.serve(Arc::new(namesrv), settings.limits.clone(), env.clock.clone());
        Ok(NamesrvRole { server, scan })
    }

    async fn stop(self) {
        self.scan.abort();
        self.server.shutdown(GRACE).await;
    }
}

/// A broker that serves.
struct BrokerRole {
    store: Store,
    workers: store::Workers,
    broker: Broker,
    housekeeping: tokio::task::JoinHandle<()>,
    server: Server,
    http: Option<tokio::task::JoinHandle<()>>,
    registration: Arc<Registration>,
}

impl BrokerRole {
    async fn start(
        (listeners, http): (Listeners, Option<http::Listener>),
        settings: Settings,
        told: Advertised,
        namesrv_addr: Vec<String>,
        keeper: Option<Keeper>,
        env: &Env,
    ) -> Result<BrokerRole> {
        let port = listeners.addresses()[0].port();
        let Settings {
            broker: mut options,
            store: store_options,
            limits,
            registration,
            process,
            tls,
            ..
        } = settings;
        let address = SocketAddr::new(told.ip, port);
        options.store_host = address;
        options.memory_bytes = machine::memory_bytes();
        let registration = registration::Options {
            name_servers: namesrv_addr,
            address,
            ha_address: address,
            tls: tls::towards_name_servers(&tls)?,
            ..registration
        };
        let root = store_options.store_path_root_dir.clone();
        let (store, recovered) = Store::open(store_options, env.clone())
            .with_context(|| format!("cannot open the store `{}`", root.display()))?;
        info!(?recovered, "store is open");
        let workers = store.start()?;
        let broker = Broker::open(options, store.clone(), env.clone())?;
        if let Some(keeper) = keeper {
            broker.keep_config_with(Box::new(move |changes| keeper.keep(changes)));
        }
        let housekeeping = tokio::spawn(broker.clone().run());
        let registration = Arc::new(Registration::start(
            registration,
            Arc::new(broker.clone()),
            env.clock.clone(),
        ));
        let door = V4::new(broker.clone(), env.clock.clone()).announcing(announce(&registration));
        let server = listeners.serve(Arc::new(door), limits, env.clock.clone());
        let http = http.map(|listener| {
            listener.serve(broker.clone(), env.clock.clone(), process.metrics_series_max)
        });
        registration.settled().await;
        Ok(BrokerRole { store, workers, broker, housekeeping, server, http, registration })
    }

    /// Stops accepting, answers what is in flight, flushes, deregisters.
    async fn stop(self) -> Result<()> {
        if let Some(http) = self.http {
            http.abort();
        }
        self.server.shutdown(GRACE).await;
        self.housekeeping.abort();
        self.broker.shutdown();
        self.workers.stop();
        self.store
            .shutdown()
            .context("the store could not be closed; it will be recovered at the next start")?;
        // the door is gone, and with it every other handle
        if let Some(registration) = Arc::into_inner(self.registration) {
            registration.stop().await;
        }
        Ok(())
    }
}

/// How long the answer to a change of a topic waits for name servers.
const ANNOUNCE_TIMEOUT: Duration = Duration::from_secs(3);

/// Waits until name servers know of the topics as they are.
fn announce(registration: &Arc<Registration>) -> Announce {
    let registration = Arc::downgrade(registration);
    Arc::new(move || {
        let registration = registration.clone();
        Box::pin(async move {
            if let Some(registration) = registration.upgrade() {
                // whoever cannot be told in time learns it later
                let _ = tokio::time::timeout(ANNOUNCE_TIMEOUT, registration.settled()).await;
            }
        })
    })
}
