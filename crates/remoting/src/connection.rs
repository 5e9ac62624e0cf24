//! A handle to one connection: who is at the other end, and how to ask it something.
//!
//! The handle and the task that drives the socket share a [`Link`]. Others only ever queue encoded frames there (within
//! a bound) and wake the task; the socket itself belongs to the task alone.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use env::Clock;
use futures_util::task::AtomicWaker;
use tokio::sync::{Notify, oneshot};
use wire::frame::{Frame, Kind};

use crate::Answers;

/// A handle to one connection; cheap to clone, and no longer of use once the connection is gone.
#[derive(Clone)]
pub struct Connection(pub(crate) Arc<Link>);

impl Connection {
    /// Returns a number that no other connection of this process has had.
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// Returns the peer's address; an IPv4-mapped IPv6 address is given as the IPv4 address that it is.
    pub fn remote(&self) -> SocketAddr {
        self.0.remote
    }

    /// Returns the address of our end: the one under which the peer reached us.
    pub fn local(&self) -> SocketAddr {
        self.0.local
    }

    /// Tells whether the connection is over.
    pub fn is_gone(&self) -> bool {
        self.0.outbox().gone
    }

    /// Completes once the connection is over.
    pub async fn closed(&self) {
        let told = self.0.buried.notified();
        if !self.is_gone() {
            told.await;
        }
    }

    /// Queues `frame` as a oneway request to the peer and returns its number.
    pub fn push(&self, frame: Frame) -> Result<i32, PushError> {
        self.0.queue(frame, Kind::Oneway, None)
    }

    /// Sends `frame` as a request with a number of its own and waits for the peer's answer.
    ///
    /// The request is queued when this returns; the time begins when the future is first polled. Any number of calls may
    /// be under way; each waits for its own answer only.
    pub fn call(
        &self,
        frame: Frame,
        timeout: Duration,
    ) -> impl Future<Output = Result<Frame, CallError>> {
        let (sender, answer) = oneshot::channel();
        let link = &*self.0;
        // Encoded here and not in the future: of those there may be a million, and a frame is large.
        let queued = link.queue(frame, Kind::Request, Some(sender));
        let queued = queued.map(|opaque| ForgetCall { link, opaque });
        async move {
            let _forget = queued?;
            tokio::select! {
                biased;
                answer = answer => answer.map(|frame| *frame).map_err(|_| CallError::Gone),
                () = link.clock.sleep(timeout) => Err(CallError::Timeout(timeout)),
            }
        }
    }

    /// Closes the connection at once; what is queued is dropped.
    pub fn close(&self) {
        self.0.condemn(CloseReason::Dismissed);
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({} {} to {})", self.0.id, self.0.remote, self.0.local)
    }
}

/// Removes a call whose caller has gone away or run out of time.
struct ForgetCall<'a> {
    link: &'a Link,
    opaque: i32,
}

impl Drop for ForgetCall<'_> {
    fn drop(&mut self) {
        self.link.outbox().calls.remove(&self.opaque);
    }
}

/// Why a frame could not be queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// The connection is over.
    #[error("the connection is closed")]
    Gone,
    /// The peer does not take what it is sent: the connection's outbox is at its bound.
    #[error("{queued} bytes already wait for the peer")]
    Full {
        /// Bytes in the outbox.
        queued: usize,
    },
    /// Too many calls wait for an answer of this peer.
    #[error("{0} calls already wait for the peer's answers")]
    TooManyCalls(usize),
}

/// Why a call has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The connection closed before the answer came; the peer may or may not have acted.
    #[error("the connection closed before the answer came")]
    Gone,
    /// No answer within the caller's time; the peer may or may not have acted.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The request was not sent.
    #[error(transparent)]
    NotSent(#[from] PushError),
}

/// Why a connection ended; also the label of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CloseReason {
    /// The peer closed it.
    ByPeer,
    /// The socket failed.
    Broken,
    /// This side stops.
    Shutdown,
    /// This side's owner closed it ([`Connection::close`]), or its handler failed.
    Dismissed,
    /// Nothing was sent or received for `idle_timeout`.
    Idle,
    /// The bytes are no remoting frame.
    BadFrame,
    /// A frame larger than `frame_bytes_max` was announced.
    FrameTooLarge,
    /// A frame was begun and not finished within `frame_timeout`.
    HalfFrame,
    /// The peer did not read its answers within `drain_timeout`.
    SlowReader,
    /// The server held too much for slow readers, and this one had been blocked longest.
    OutboundPressure,
    /// The peers could not agree on TLS, or one spoke plain text where it is enforced.
    Tls,
}

impl CloseReason {
    pub(crate) const COUNT: usize = CloseReason::ALL.len();

    /// Every reason, in the order of their numbers.
    pub const ALL: [CloseReason; 11] = [
        CloseReason::ByPeer,
        CloseReason::Broken,
        CloseReason::Shutdown,
        CloseReason::Dismissed,
        CloseReason::Idle,
        CloseReason::BadFrame,
        CloseReason::FrameTooLarge,
        CloseReason::HalfFrame,
        CloseReason::SlowReader,
        CloseReason::OutboundPressure,
        CloseReason::Tls,
    ];

    /// Tells whether an operator should hear of it: the peer broke a rule or a bound.
    pub(crate) fn is_peers_fault(self) -> bool {
        match self {
            CloseReason::ByPeer
            | CloseReason::Broken
            | CloseReason::Shutdown
            | CloseReason::Dismissed
            | CloseReason::Idle => false,
            CloseReason::BadFrame
            | CloseReason::FrameTooLarge
            | CloseReason::HalfFrame
            | CloseReason::SlowReader
            | CloseReason::OutboundPressure
            | CloseReason::Tls => true,
        }
    }
}

/// What the handles, the sweep and the driving task of one connection share.
pub(crate) struct Link {
    id: u64,
    remote: SocketAddr,
    local: SocketAddr,
    clock: Clock,
    outbox_bytes_max: usize,
    calls_in_flight_max: usize,
    next_opaque: AtomicI32,
    outbox: Mutex<Outbox>,
    /// Whether the outbox holds something; saves the task the lock.
    mail: AtomicBool,
    /// Tells those who wait for the end.
    buried: Notify,
    /// Wakes the driving task.
    pub(crate) waker: AtomicWaker,
    /// A reason to end at once, as its number plus one.
    sentence: AtomicU8,
    /// When bytes last moved either way, in ticks of the sweep.
    pub(crate) moved_at: AtomicU32,
    /// Since when a frame is incomplete; 0 if none is.
    pub(crate) half_since: AtomicU32,
    /// Since when what was then queued has been waiting for the peer; 0 if nothing waits.
    pub(crate) blocked_since: AtomicU32,
    /// Unsent bytes, as the task last reported them.
    pub(crate) blocked_bytes: AtomicUsize,
    /// Set by the sweep on a quiet connection: let go of buffers.
    pub(crate) quiet: AtomicBool,
    /// Set by the task: reading waits for the server's budget of read buffers or of requests.
    pub(crate) starved: AtomicBool,
}

#[derive(Default)]
struct Outbox {
    queued: Answers,
    /// Boxed, so that a call that waits has no room for an answer yet.
    calls: HashMap<i32, oneshot::Sender<Box<Frame>>>,
    /// Nothing of the peer is read any more, so no call has an answer.
    deaf: bool,
    gone: bool,
}

/// What a [`Link`] is made of.
pub(crate) struct LinkParts {
    pub(crate) id: u64,
    pub(crate) remote: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) clock: Clock,
    pub(crate) outbox_bytes_max: usize,
    pub(crate) calls_in_flight_max: usize,
    pub(crate) tick: u32,
}

impl Link {
    pub(crate) fn new(parts: LinkParts) -> Arc<Link> {
        Arc::new(Link {
            id: parts.id,
            remote: unmapped(parts.remote),
            local: unmapped(parts.local),
            clock: parts.clock,
            outbox_bytes_max: parts.outbox_bytes_max,
            calls_in_flight_max: parts.calls_in_flight_max,
            next_opaque: AtomicI32::new(0),
            outbox: Mutex::new(Outbox::default()),
            mail: AtomicBool::new(false),
            buried: Notify::new(),
            waker: AtomicWaker::new(),
            sentence: AtomicU8::new(0),
            moved_at: AtomicU32::new(parts.tick),
            half_since: AtomicU32::new(0),
            blocked_since: AtomicU32::new(0),
            blocked_bytes: AtomicUsize::new(0),
            quiet: AtomicBool::new(false),
            starved: AtomicBool::new(false),
        })
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Orders the task to end at once; the first reason given stands.
    pub(crate) fn condemn(&self, reason: CloseReason) {
        let _ = self.sentence.compare_exchange(
            0,
            reason as u8 + 1,
            Ordering::AcqRel,
            Ordering::Relaxed,
        );
        self.waker.wake();
    }

    pub(crate) fn sentence(&self) -> Option<CloseReason> {
        let number = self.sentence.load(Ordering::Acquire);
        CloseReason::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }

    /// Takes what others have queued.
    pub(crate) fn take_mail(&self) -> Option<Answers> {
        if !self.mail.load(Ordering::Acquire) {
            return None;
        }
        let mut outbox = self.outbox();
        self.mail.store(false, Ordering::Release);
        Some(std::mem::take(&mut outbox.queued))
    }

    /// Gives an answer of the peer to the call that waits for it; one that came too late is dropped.
    pub(crate) fn answer(&self, frame: Frame) {
        let call = self.outbox().calls.remove(&frame.opaque);
        if let Some(call) = call {
            let _ = call.send(Box::new(frame));
        }
    }

    /// Ends all calls and refuses further ones, while answers still go out.
    pub(crate) fn end_calls(&self) {
        let calls = {
            let mut outbox = self.outbox();
            outbox.deaf = true;
            std::mem::take(&mut outbox.calls)
        };
        drop(calls);
    }

    /// Ends all calls and refuses everything.
    pub(crate) fn bury(&self) {
        self.end_calls();
        {
            let mut outbox = self.outbox();
            outbox.gone = true;
            outbox.queued = Answers::new();
        }
        self.buried.notify_waiters();
    }

    fn queue(
        &self,
        mut frame: Frame,
        kind: Kind,
        call: Option<oneshot::Sender<Box<Frame>>>,
    ) -> Result<i32, PushError> {
        frame.opaque = self.next_opaque.fetch_add(1, Ordering::Relaxed);
        frame.kind = kind;
        {
            let mut outbox = self.outbox();
            if outbox.gone {
                return Err(PushError::Gone);
            }
            if outbox.queued.len() >= self.outbox_bytes_max {
                return Err(PushError::Full { queued: outbox.queued.len() });
            }
            if let Some(call) = call {
                if outbox.deaf {
                    return Err(PushError::Gone);
                }
                if outbox.calls.len() >= self.calls_in_flight_max {
                    return Err(PushError::TooManyCalls(outbox.calls.len()));
                }
                outbox.calls.insert(frame.opaque, call);
            }
            outbox.queued.push(&frame);
            self.mail.store(true, Ordering::Release);
        }
        self.waker.wake();
        Ok(frame.opaque)
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives an IPv4-mapped IPv6 address as IPv4: a dual-stack listener shows every IPv4 peer in the mapped form.
fn unmapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(_) => address,
        IpAddr::V6(ip) => SocketAddr::new(ip.to_canonical(), address.port()),
    }
}
