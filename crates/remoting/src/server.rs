//! Several listeners to one service, what their connections share, and the sweep that enforces bounds on time.
//!
//! The sweep is the only timer: once a second it compares the ticks that connections left behind with the limits, and
//! ends what is overdue. [`Server::shutdown`] stops accepting, lets every connection answer what it has taken, and ends
//! what is left when the grace is over.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use env::Clock;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Notify,
    task::JoinHandle,
};
use tracing::{debug, warn};

use crate::{
    CloseReason, Connection, Handler, Limits, Metrics, ServerTls, Service,
    connection::{Link, LinkParts},
    driver::Driver,
    tls::Detected,
};

/// Connections that the kernel may hold before we accept them (Java: hard-coded in `NettyRemotingServer`).
const BACKLOG: u32 = 1024;

/// Time between two sweeps, and the unit of every tick.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Ticks without traffic after which a connection gives its buffers back.
const QUIET_TICKS: u32 = 5;

/// Ticks within which the frame of a connection whose read buffer goes beyond the bound has to be whole.
const OVERDRAFT_TICKS: u32 = 5;

/// Bound sockets that do not serve yet, so that all ports of a process are taken before anything starts.
pub struct Listeners {
    listeners: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
    tls: Option<Arc<ServerTls>>,
}

/// An address could not be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on `{address}`: {source}")]
pub struct BindError {
    /// The address asked for.
    pub address: SocketAddr,
    /// What the system said.
    pub source: io::Error,
}

impl Listeners {
    /// Binds every address; port 0 lets the system choose. Needs a tokio runtime.
    pub fn bind(addresses: &[SocketAddr]) -> Result<Listeners, BindError> {
        let mut bound = Listeners { listeners: Vec::new(), addresses: Vec::new(), tls: None };
        for &address in addresses {
            let listener = listen(address).map_err(|source| BindError { address, source })?;
            let actual = listener.local_addr().map_err(|source| BindError { address, source })?;
            bound.listeners.push(listener);
            bound.addresses.push(actual);
        }
        Ok(bound)
    }

    /// Returns the addresses in the order in which they were asked for, with the ports the system chose.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Offers TLS on all of them, or demands it; by default there is none, and who begins with it is closed.
    #[must_use]
    pub fn tls(mut self, tls: Option<Arc<ServerTls>>) -> Listeners {
        self.tls = tls;
        self
    }

    /// Starts to accept connections for `service`, on all addresses alike.
    pub fn serve(self, service: Arc<dyn Service>, limits: Limits, clock: Clock) -> Server {
        let commons = Commons::new(limits, clock);
        let mut tasks: Vec<JoinHandle<()>> = Vec::new();
        for listener in self.listeners {
            let (service, commons) = (service.clone(), commons.clone());
            tasks.push(tokio::spawn(accept(listener, self.tls.clone(), service, commons)));
        }
        let sweep = tokio::spawn(sweep(commons.clone()));
        Server { commons, addresses: self.addresses, accepting: tasks, sweep }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// A running server; dropping it closes everything at once.
pub struct Server {
    commons: Arc<Commons>,
    addresses: Vec<SocketAddr>,
    accepting: Vec<JoinHandle<()>>,
    sweep: JoinHandle<()>,
}

impl Server {
    /// Returns the addresses that are listened on.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Returns what the server counts about itself.
    pub fn metrics(&self) -> &Metrics {
        &self.commons.metrics
    }

    /// Stops accepting, answers what is in flight, and closes; parked answers are dropped. What is not done after
    /// `grace` is closed as it is.
    pub async fn shutdown(mut self, grace: Duration) {
        for task in std::mem::take(&mut self.accepting) {
            task.abort();
            let _ = task.await;
        }
        self.commons.stop();
        let deadline = self.commons.clock.sleep(grace);
        tokio::select! {
            biased;
            () = self.commons.wait_until_empty() => {}
            () = deadline => {
                self.commons.condemn_all(CloseReason::Shutdown);
                self.commons.wait_until_empty().await;
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.iter().for_each(JoinHandle::abort);
        self.sweep.abort();
        self.commons.condemn_all(CloseReason::Shutdown);
    }
}

async fn accept(
    listener: TcpListener,
    tls: Option<Arc<ServerTls>>,
    service: Arc<dyn Service>,
    commons: Arc<Commons>,
) {
    loop {
        match listener.accept().await {
            Ok((stream, remote)) => {
                let handler = |connection: &Connection| service.connected(connection);
                if let Err(error) = commons.admit(stream, remote, tls.as_ref(), handler) {
                    debug!(%remote, %error, "connection lost before it was served");
                }
            }
            Err(error) => {
                // Out of descriptors, most likely: those in use must close before another can open.
                warn!(%error, "cannot accept a connection");
                commons.clock.sleep(SWEEP_INTERVAL).await;
            }
        }
    }
}

async fn sweep(commons: Arc<Commons>) {
    let mut refused_before = 0;
    loop {
        tokio::select! {
            () = commons.clock.sleep(SWEEP_INTERVAL) => {}
            () = commons.pressure.notified() => {}
        }
        commons.sweep();
        let refused = commons.metrics.refused();
        if refused > refused_before {
            let (max, more) = (commons.limits.connections_max, refused - refused_before);
            warn!(refused = more, connections_max = max, "connections refused: too many are open");
            refused_before = refused;
        }
    }
}

/// What all connections of one server share: bounds, gauges, the coarse clock, and the list of themselves.
pub(crate) struct Commons {
    pub(crate) limits: Limits,
    pub(crate) metrics: Metrics,
    pub(crate) clock: Clock,
    tick: AtomicU32,
    stopping: AtomicBool,
    links: Mutex<HashMap<u64, Arc<Link>>>,
    /// The connection whose read buffer goes beyond the bound, and since when.
    overdraft: Mutex<Option<(Arc<Link>, u32)>>,
    /// Whether some connection waits for what others hold.
    starving: AtomicBool,
    /// Told whenever the last connection goes.
    empty: Notify,
    /// Told when slow readers hold more than the server allows, or read buffers are free that others wait for.
    pressure: Notify,
}

/// A connection's entry in the list of its server; the connection counts as open until this is dropped.
pub(crate) struct Registered {
    pub(crate) commons: Arc<Commons>,
    pub(crate) link: Arc<Link>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.commons.links().remove(&self.link.id());
        if self.commons.metrics.connections.fetch_sub(1, Relaxed) == 1 {
            self.commons.empty.notify_waiters();
        }
    }
}

impl Commons {
    pub(crate) fn new(limits: Limits, clock: Clock) -> Arc<Commons> {
        let tick = AtomicU32::new(tick_of(&clock));
        Arc::new(Commons {
            limits,
            metrics: Metrics::default(),
            clock,
            tick,
            stopping: AtomicBool::new(false),
            links: Mutex::new(HashMap::new()),
            overdraft: Mutex::new(None),
            starving: AtomicBool::new(false),
            empty: Notify::new(),
            pressure: Notify::new(),
        })
    }

    /// Starts the task of a new connection, unless there are too many: then the stream is closed and `None` returned.
    pub(crate) fn admit(
        self: &Arc<Commons>,
        stream: TcpStream,
        remote: SocketAddr,
        tls: Option<&Arc<ServerTls>>,
        handler: impl FnOnce(&Connection) -> Box<dyn Handler>,
    ) -> io::Result<Option<Connection>> {
        let local = stream.local_addr();
        let Some(registered) = self.register(remote, *local.as_ref().unwrap_or(&remote)) else {
            return Ok(None);
        };
        local?;
        stream.set_nodelay(true)?;
        Ok(Some(match tls {
            Some(tls) => start(Detected::new(stream, tls.clone()), registered, handler),
            None => start(stream, registered, handler),
        }))
    }

    /// The same over any stream.
    pub(crate) fn adopt(
        self: &Arc<Commons>,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        remote: SocketAddr,
        local: SocketAddr,
        handler: impl FnOnce(&Connection) -> Box<dyn Handler>,
    ) -> Option<Connection> {
        self.register(remote, local).map(|registered| start(stream, registered, handler))
    }

    fn register(self: &Arc<Commons>, remote: SocketAddr, local: SocketAddr) -> Option<Registered> {
        let open = self.metrics.connections.fetch_add(1, Relaxed);
        if open >= self.limits.connections_max {
            self.metrics.connections.fetch_sub(1, Relaxed);
            self.metrics.refused.fetch_add(1, Relaxed);
            return None;
        }
        self.metrics.accepted.fetch_add(1, Relaxed);
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        let link = Link::new(LinkParts {
            id: NEXT_ID.fetch_add(1, Relaxed),
            remote,
            local,
            clock: self.clock.clone(),
            outbox_bytes_max: self.limits.outbox_bytes_max,
            calls_in_flight_max: self.limits.calls_in_flight_max,
            tick: self.tick(),
        });
        self.links().insert(link.id(), link.clone());
        Some(Registered { commons: self.clone(), link })
    }

    /// Returns the time of the last sweep in seconds since some point, never 0.
    pub(crate) fn tick(&self) -> u32 {
        self.tick.load(Relaxed)
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Relaxed)
    }

    /// Takes a share of the server's read buffers, unless that takes them over `bound`.
    pub(crate) fn take_read_bytes(&self, bytes: usize, bound: usize) -> bool {
        self.metrics
            .read_bytes
            .fetch_update(Relaxed, Relaxed, |held| {
                held.checked_add(bytes).filter(|&sum| sum <= bound)
            })
            .is_ok()
    }

    pub(crate) fn give_read_bytes(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.metrics.read_bytes.fetch_sub(bytes, Relaxed);
        if self.starving.swap(false, Relaxed) {
            self.pressure.notify_one();
        }
    }

    /// Lets one connection at a time take read buffers beyond the bound.
    pub(crate) fn take_overdraft(&self, link: &Arc<Link>) -> bool {
        let mut overdraft = self.overdraft();
        if overdraft.is_none() {
            *overdraft = Some((link.clone(), self.tick()));
            return true;
        }
        false
    }

    pub(crate) fn give_overdraft(&self) {
        *self.overdraft() = None;
        if self.starving.swap(false, Relaxed) {
            self.pressure.notify_one();
        }
    }

    /// Notes that a connection waits for read buffers or for requests to be answered.
    pub(crate) fn note_starving(&self) {
        self.starving.store(true, Relaxed);
    }

    fn overdraft(&self) -> MutexGuard<'_, Option<(Arc<Link>, u32)>> {
        self.overdraft.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn requests_changed(&self, before: u32, now: u32) {
        change(&self.metrics.requests_in_flight, before as usize, now as usize);
    }

    pub(crate) fn requests_over_bound(&self) -> bool {
        self.metrics.requests_in_flight() > self.limits.requests_in_flight_total_max
    }

    pub(crate) fn outbound_changed(&self, before: usize, now: usize) {
        change(&self.metrics.outbound_bytes, before, now);
        if now > before && self.outbound_over_bound() {
            self.pressure.notify_one();
        }
    }

    pub(crate) fn outbound_over_bound(&self) -> bool {
        self.metrics.outbound_bytes() > self.limits.outbound_bytes_total_max
    }

    /// Ends what is overdue, has quiet connections let go of their buffers, and wakes those that wait for a budget.
    fn sweep(&self) {
        let tick = tick_of(&self.clock);
        self.tick.store(tick, Relaxed);
        let overdue = |since: u32, timeout: Duration| {
            since != 0
                && u128::from(tick.saturating_sub(since)) > timeout.as_millis().div_ceil(1000)
        };
        let links = self.links();
        for link in links.values() {
            let moved_at = link.moved_at.load(Relaxed);
            if overdue(link.half_since.load(Relaxed), self.limits.frame_timeout) {
                link.condemn(CloseReason::HalfFrame);
            } else if overdue(link.blocked_since.load(Relaxed), self.limits.drain_timeout) {
                link.condemn(CloseReason::SlowReader);
            } else if overdue(moved_at, self.limits.idle_timeout) {
                link.condemn(CloseReason::Idle);
            } else if tick.saturating_sub(moved_at) == QUIET_TICKS {
                link.quiet.store(true, Relaxed);
                link.waker.wake();
            } else if link.starved.swap(false, Relaxed) {
                link.waker.wake();
            }
        }
        self.relieve_pressure(&links);
        drop(links);
        if let Some((link, since)) = &*self.overdraft()
            && tick.saturating_sub(*since) > OVERDRAFT_TICKS
        {
            link.condemn(CloseReason::HalfFrame);
        }
    }

    /// Lets go of the readers that have been blocked longest until the rest is within the bound.
    fn relieve_pressure(&self, links: &HashMap<u64, Arc<Link>>) {
        let excess =
            self.metrics.outbound_bytes().saturating_sub(self.limits.outbound_bytes_total_max);
        if excess == 0 {
            return;
        }
        let mut blocked: Vec<&Arc<Link>> =
            links.values().filter(|link| link.blocked_since.load(Relaxed) != 0).collect();
        blocked.sort_by_key(|link| link.blocked_since.load(Relaxed));
        let mut freed = 0;
        for link in blocked {
            if freed >= excess {
                break;
            }
            freed += link.blocked_bytes.load(Relaxed);
            link.condemn(CloseReason::OutboundPressure);
        }
    }

    fn stop(&self) {
        self.stopping.store(true, Relaxed);
        self.links().values().for_each(|link| link.waker.wake());
    }

    pub(crate) fn condemn_all(&self, reason: CloseReason) {
        self.links().values().for_each(|link| link.condemn(reason));
    }

    async fn wait_until_empty(&self) {
        loop {
            let told = self.empty.notified();
            if self.metrics.connections() == 0 {
                return;
            }
            told.await;
        }
    }

    fn links(&self) -> MutexGuard<'_, HashMap<u64, Arc<Link>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn start(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    registered: Registered,
    handler: impl FnOnce(&Connection) -> Box<dyn Handler>,
) -> Connection {
    let connection = Connection(registered.link.clone());
    let handler = handler(&connection);
    tokio::spawn(Driver::new(stream, registered, handler));
    connection
}

/// Moves a gauge by the difference of one holder's shares.
fn change(gauge: &std::sync::atomic::AtomicUsize, before: usize, now: usize) {
    if now > before {
        gauge.fetch_add(now - before, Relaxed);
    } else if before > now {
        gauge.fetch_sub(before - now, Relaxed);
    }
}

fn tick_of(clock: &Clock) -> u32 {
    u32::try_from(clock.monotonic().as_secs()).unwrap_or(u32::MAX - 1) + 1
}
