//! Connections by address: dialled when first needed, shared by all who call, dialled again when lost.
//!
//! Callers who come while one dials wait for that attempt and share how it ends, so a server that is away costs each of
//! them one timeout, not a queue of them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use env::Clock;
use remoting::{CallError, Connection, Limits, PushError, Tls};
use tokio::{net::lookup_host, sync::Mutex as AsyncMutex};
use wire::{code::ResponseCode, frame::Frame};

use crate::{ClientBuilder, Credentials, error::RequestError, inbound::Inbound};

/// How long a name may take to be resolved.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(3);
/// How many addresses of one name are tried.
const ADDRESSES_MAX: usize = 4;

/// The connections of a client.
pub(crate) struct Lines {
    clock: Clock,
    credentials: Option<Arc<Credentials>>,
    tls: Option<Tls>,
    table: Mutex<HashMap<String, Arc<Line>>>,
}

struct Line {
    address: String,
    current: Mutex<Option<remoting::Client>>,
    /// Held by who dials; when and why the last attempt failed.
    dialing: AsyncMutex<Option<(Duration, String)>>,
}

impl Lines {
    pub(crate) fn new(config: &ClientBuilder) -> Lines {
        let (clock, credentials) = (config.clock.clone(), config.credentials.clone());
        Lines { clock, credentials, tls: config.tls.clone(), table: Mutex::default() }
    }

    /// Returns the connection to `address`, and whether this call has dialled it.
    pub(crate) async fn connection(
        &self,
        address: &str,
        make_handler: impl Fn() -> Inbound,
    ) -> Result<(Signed, bool), RequestError> {
        let line = self.line(address);
        if let Some(connection) = line.connection() {
            return Ok((self.signed(connection), false));
        }
        // Boxed, so that who is connected has no room for this in its future.
        Box::pin(self.connect(address, line, make_handler)).await
    }

    async fn connect(
        &self,
        address: &str,
        line: Arc<Line>,
        make_handler: impl Fn() -> Inbound,
    ) -> Result<(Signed, bool), RequestError> {
        let came_at = self.clock.monotonic();
        let mut failure = line.dialing.lock().await;
        if let Some(connection) = line.connection() {
            return Ok((self.signed(connection), false));
        }
        let unreachable =
            |reason| RequestError::Unreachable { address: address.to_owned(), reason };
        if let Some((_, reason)) = failure.as_ref().filter(|(at, _)| *at > came_at) {
            return Err(unreachable(reason.clone()));
        }
        match self.dial(address, make_handler).await {
            Ok(client) => {
                let connection = Connection::clone(&client);
                *line.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(client);
                Ok((self.signed(connection), true))
            }
            Err(reason) => {
                *failure = Some((self.clock.monotonic(), reason.clone()));
                Err(unreachable(reason))
            }
        }
    }

    /// Returns those that are connected now, with their addresses.
    pub(crate) fn connected(&self) -> Vec<(String, Signed)> {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let connected =
            |line: &Arc<Line>| Some((line.address.clone(), self.signed(line.connection()?)));
        table.values().filter_map(connected).collect()
    }

    fn signed(&self, connection: Connection) -> Signed {
        Signed { connection, credentials: self.credentials.clone() }
    }

    /// Closes the connections to addresses that `keep` refuses.
    pub(crate) fn retain(&self, keep: impl Fn(&str) -> bool) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.retain(|address, _| keep(address));
    }

    fn line(&self, address: &str) -> Arc<Line> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = table.get(address) {
            return line.clone();
        }
        let line = Arc::new(Line {
            address: address.to_owned(),
            current: Mutex::default(),
            dialing: AsyncMutex::default(),
        });
        table.insert(address.to_owned(), line.clone());
        line
    }

    async fn dial(
        &self,
        address: &str,
        make_handler: impl Fn() -> Inbound,
    ) -> Result<remoting::Client, String> {
        let resolved = tokio::select! {
            biased;
            resolved = lookup_host(address) => resolved.map_err(|error| error.to_string())?,
            () = self.clock.sleep(RESOLVE_TIMEOUT) => {
                return Err(format!("its name was not resolved within {RESOLVE_TIMEOUT:?}"));
            }
        };
        let mut last = "its name has no address".to_owned();
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        for socket in resolved.take(ADDRESSES_MAX) {
            let (clock, handler) = (self.clock.clone(), make_handler());
            let connected = match &self.tls {
                Some(tls) => {
                    remoting::Client::connect_tls(socket, host, tls, limits(), clock, handler).await
                }
                None => remoting::Client::connect(socket, limits(), clock, handler).await,
            };
            match connected {
                Ok(client) => return Ok(client),
                Err(error) => last = error.to_string(),
            }
        }
        Err(last)
    }
}

/// A connection whose requests say who sends them, if the client has credentials.
#[derive(Clone)]
pub(crate) struct Signed {
    connection: Connection,
    credentials: Option<Arc<Credentials>>,
}

impl Signed {
    /// Sends a request and waits for its answer; it is queued when this returns.
    pub(crate) fn call(
        &self,
        request: Frame,
        timeout: Duration,
    ) -> impl Future<Output = Result<Frame, CallError>> {
        self.connection.call(self.sign(request), timeout)
    }

    /// Queues a request that has no answer.
    pub(crate) fn push(&self, request: Frame) -> Result<i32, PushError> {
        self.connection.push(self.sign(request))
    }

    fn sign(&self, mut request: Frame) -> Frame {
        if let Some(credentials) = &self.credentials {
            credentials.sign(&mut request);
        }
        request
    }
}

/// What a client's connection may cost: a broker is trusted with more than a server trusts its clients with, and the
/// messages under way, and so the calls, are bounded in bytes by the producers.
fn limits() -> Limits {
    Limits {
        outbox_bytes_max: 256 * 1024 * 1024,
        calls_in_flight_max: 1 << 24,
        ..Limits::default()
    }
}

impl Line {
    fn connection(&self) -> Option<Connection> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let connection = Connection::clone(current.as_ref()?);
        (!connection.is_gone()).then_some(connection)
    }
}

/// Says how a call that has no answer ended.
pub(crate) fn unanswered(address: &str, error: &CallError) -> RequestError {
    let (address, reason) = (address.to_owned(), error.to_string());
    match error {
        CallError::NotSent(_) => RequestError::Unreachable { address, reason },
        CallError::Gone | CallError::Timeout(_) => RequestError::Unconfirmed { address, reason },
    }
}

/// Passes an answer of success on.
pub(crate) fn succeeded(address: &str, answer: Frame) -> Result<Frame, RequestError> {
    match answer.response_code() {
        ResponseCode::SUCCESS => Ok(answer),
        code => Err(refused(address, code, &answer)),
    }
}

pub(crate) fn refused(address: &str, code: ResponseCode, answer: &Frame) -> RequestError {
    let remark = answer.remark.as_deref().unwrap_or("no reason was given").to_owned();
    RequestError::Refused { address: address.to_owned(), code, remark }
}
