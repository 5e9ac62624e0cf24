//! A server whose answers the test controls, and a peer that can misbehave.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use env::{Clock, sim::SimClock};
use remoting::{
    Client, CloseReason, Connection, Handler, Limits, Listeners, Metrics, NoRequests, Replies,
    Server, ServerTls, Service,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Semaphore, mpsc},
};
use wire::{
    code::{RequestCode, ResponseCode},
    frame::{Frame, Kind},
};

/// Answers with the request's body.
pub(crate) const ECHO: i32 = 1;
/// Answers when the gate opens: work that is done and becomes durable.
pub(crate) const HOLD: i32 = 2;
/// Answers when the gate opens: a long poll.
pub(crate) const PARK: i32 = 3;
/// Answers with a large shared body.
pub(crate) const LARGE: i32 = 4;

/// Bytes of the answer to `LARGE`.
pub(crate) const LARGE_BYTES: usize = 256 * 1024;

/// A running server with the means to watch and to steer it.
pub(crate) struct Fixture {
    pub(crate) server: Server,
    pub(crate) clock: SimClock,
    pub(crate) door: Door,
    pub(crate) connections: mpsc::UnboundedReceiver<Connection>,
}

/// What all handlers of a fixture share.
#[derive(Clone)]
pub(crate) struct Door {
    /// `HOLD` and `PARK` are answered once each for every permit.
    pub(crate) gate: Arc<Semaphore>,
    /// Requests that reached a handler.
    pub(crate) taken: Arc<AtomicUsize>,
    /// Frames of the largest run.
    pub(crate) run_largest: Arc<AtomicUsize>,
    /// Large answers made.
    pub(crate) made: Arc<AtomicUsize>,
    large: Bytes,
    connected: mpsc::UnboundedSender<Connection>,
}

impl Service for Door {
    fn connected(&self, connection: &Connection) -> Box<dyn Handler> {
        let _ = self.connected.send(connection.clone());
        Box::new(self.clone())
    }
}

impl Handler for Door {
    fn run(&mut self, run: &mut Vec<Frame>, replies: &mut Replies) {
        self.taken.fetch_add(run.len(), Ordering::SeqCst);
        self.run_largest.fetch_max(run.len(), Ordering::SeqCst);
        for request in run.drain(..) {
            if request.kind == Kind::Oneway {
                continue;
            }
            let answer = request.respond(ResponseCode::SUCCESS);
            let gate = self.gate.clone();
            let opened = async move {
                gate.acquire().await.expect("the gate is never closed").forget();
                answer
            };
            match request.code {
                HOLD => replies.later(1, opened),
                PARK => replies.park(opened),
                LARGE => {
                    let (answer, made) = (
                        request.respond(ResponseCode::SUCCESS).with_body(self.large.clone()),
                        self.made.clone(),
                    );
                    replies.park(async move {
                        made.fetch_add(1, Ordering::SeqCst);
                        answer
                    });
                }
                _ => replies
                    .push(&request.respond(ResponseCode::SUCCESS).with_body(request.body_bytes())),
            }
        }
    }
}

impl Fixture {
    pub(crate) fn start(limits: Limits) -> Fixture {
        Fixture::start_on("127.0.0.1:0", limits)
    }

    pub(crate) fn start_tls(limits: Limits, tls: Arc<ServerTls>) -> Fixture {
        Fixture::start_with("127.0.0.1:0", limits, Some(tls))
    }

    pub(crate) fn start_on(address: &str, limits: Limits) -> Fixture {
        Fixture::start_with(address, limits, None)
    }

    fn start_with(address: &str, limits: Limits, tls: Option<Arc<ServerTls>>) -> Fixture {
        let clock = SimClock::new(0);
        let (connected, connections) = mpsc::unbounded_channel();
        let door = Door {
            gate: Arc::new(Semaphore::new(0)),
            taken: Arc::default(),
            run_largest: Arc::default(),
            made: Arc::default(),
            large: Bytes::from(vec![7; LARGE_BYTES]),
            connected,
        };
        let address = address.parse().expect("an address");
        let listeners = Listeners::bind(&[address]).expect("a free port");
        let server = listeners.tls(tls).serve(Arc::new(door.clone()), limits, clock.clone().into());
        Fixture { server, clock, door, connections }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        let mut address = self.server.addresses()[0];
        address.set_ip([127, 0, 0, 1].into());
        address
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        self.server.metrics()
    }

    pub(crate) async fn peer(&self) -> Peer {
        Peer::connect(self.address()).await
    }

    pub(crate) async fn client(&self) -> Client {
        let clock = Clock::from(self.clock.clone());
        Client::connect(self.address(), Limits::default(), clock, NoRequests)
            .await
            .expect("the server accepts")
    }

    /// Lets time pass, in one step.
    pub(crate) fn pass(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    pub(crate) async fn until_closed(&self, reason: CloseReason, count: u64) {
        until(|| self.metrics().closed(reason) >= count).await;
    }
}

/// Waits for a condition that others bring about; a test that waits in vain hangs, and says where.
pub(crate) async fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
}

/// A peer made of a bare socket.
pub(crate) struct Peer {
    pub(crate) stream: TcpStream,
    received: BytesMut,
}

impl Peer {
    pub(crate) async fn connect(address: SocketAddr) -> Peer {
        let stream = TcpStream::connect(address).await.expect("the server accepts");
        Peer { stream, received: BytesMut::new() }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("the server reads");
    }

    pub(crate) async fn ask(&mut self, code: i32, opaque: i32, body: &'static [u8]) {
        self.send(&encoded(code, opaque, body)).await;
    }

    /// Receives the next frame; none if the server closed.
    pub(crate) async fn receive(&mut self) -> Option<Frame> {
        loop {
            let whole = Frame::split(&mut self.received, 64 << 20).expect("frames");
            if let Some(bytes) = whole {
                return Some(Frame::decode(bytes).expect("a frame"));
            }
            match self.stream.read_buf(&mut self.received).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }
}

/// Returns the bytes of a request.
pub(crate) fn encoded(code: i32, opaque: i32, body: &'static [u8]) -> Vec<u8> {
    let mut request = request(code, body);
    request.opaque = opaque;
    let mut bytes = BytesMut::new();
    request.encode_head(body.len(), &mut bytes);
    bytes.extend_from_slice(body);
    bytes.to_vec()
}

pub(crate) fn request(code: i32, body: &'static [u8]) -> Frame {
    Frame::request(RequestCode(code), &()).with_body(Bytes::from_static(body))
}
