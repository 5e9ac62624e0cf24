//! The door for whoever watches: `/metrics` for Prometheus, `/health` for probes, over HTTP/1.1.
//!
//! It only reads. Connections are few and short-lived by their bounds, and however many ask, the broker is looked at
//! once a second at most: a flood costs what its bytes cost.

mod metrics;

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use broker::Broker;
use bytes::Bytes;
use env::Clock;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode, body::Incoming, header, server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Mutex, Semaphore},
    task::JoinHandle,
};

use metrics::Seats;

/// Connections at once; further ones are closed as they come.
const CONNECTIONS_MAX: usize = 64;
/// Bytes that the head of a request may have.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// How long a client may take for the head of its next request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a look at the broker is good for.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// A bound port.
pub struct Listener(TcpListener);

impl Listener {
    /// Binds a port; port 0 takes a free one.
    ///
    /// # Errors
    /// The system's.
    pub async fn bind(address: SocketAddr) -> io::Result<Listener> {
        Ok(Listener(TcpListener::bind(address).await?))
    }

    /// Returns the address that is listened on.
    ///
    /// # Errors
    /// The system's.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Serves until the task is aborted. Not more than `series_max` topics, and groups on topics, get series of their own.
    pub fn serve(self, broker: Broker, clock: Clock, series_max: usize) -> JoinHandle<()> {
        let page =
            Mutex::new(Page { seats: Seats::new(series_max), text: Bytes::new(), until: None });
        let door = Arc::new(Door { broker, clock, page });
        tokio::spawn(self.accept(door))
    }

    async fn accept(self, door: Arc<Door>) {
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let stream = match self.0.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, most likely: others give theirs back in time.
                    tracing::warn!(%error, "no HTTP connection could be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(seat) = room.clone().try_acquire_owned() else { continue };
            let door = door.clone();
            tokio::spawn(async move {
                door.talk(stream).await;
                drop(seat);
            });
        }
    }
}

struct Door {
    broker: Broker,
    clock: Clock,
    page: Mutex<Page>,
}

/// The text of the last look.
struct Page {
    seats: Seats,
    text: Bytes,
    until: Option<Duration>,
}

impl Door {
    async fn talk(self: Arc<Self>, stream: TcpStream) {
        let service = service_fn(|request| {
            let door = self.clone();
            async move { Ok::<_, Infallible>(door.answer(&request).await) }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service);
        if let Err(error) = served.await {
            tracing::debug!(%error, "an HTTP connection ended early");
        }
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        }
        match request.uri().path() {
            "/metrics" => {
                let mut response = Response::new(Full::new(self.metrics().await));
                response.headers_mut().insert(header::CONTENT_TYPE, metrics::CONTENT_TYPE);
                response
            }
            "/health" => match self.broker.health() {
                Ok(()) => plain(StatusCode::OK, "ok\n"),
                Err(why) => plain(StatusCode::SERVICE_UNAVAILABLE, why),
            },
            _ => plain(StatusCode::NOT_FOUND, "there are /metrics and /health\n"),
        }
    }

    /// Returns the page, of a new look if the last one is too old. Whoever comes during a look waits for it.
    async fn metrics(&self) -> Bytes {
        let mut page = self.page.lock().await;
        let now = self.clock.monotonic();
        if page.until.is_none_or(|until| now >= until) {
            let figures = self.broker.figures().await;
            page.text = metrics::text(&figures, &mut page.seats).into();
            page.until = Some(now + LOOK_PERIOD);
        }
        page.text.clone()
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response
}
