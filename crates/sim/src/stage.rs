//! Where scenarios are played: a broker in this process in virtual time, or a server over the wire.
//!
//! Both give connections of the same kind, so the driver knows nothing of the difference; what differs is how a
//! connection is made, how time passes, and how the broker is ended and started again.

use std::{future::Future, net::SocketAddr, time::Duration};

use env::Clock;
use remoting::{Client, Handler, Limits};

use crate::{script::Said, simulated::Simulated};

/// How long an answer is waited for that has no reason to be late.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// How long what happens behind an answer may take on the wire: dispatch, registration.
pub(crate) const SETTLING: Duration = Duration::from_secs(3);

/// How a broker ends before it starts again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// As an operator ends it.
    Stop,
    /// `kill -9`.
    Kill,
    /// The machine loses its power: what was not synced may be gone. In virtual time only.
    Power,
}

/// Who serves a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    Broker,
    Namesrv,
}

/// Ends the broker and, after some time, starts it again on its store, with these settings besides its own.
pub type Restart = Box<dyn Fn(End, Duration, &[String]) -> Result<(), String>>;

/// A server that runs elsewhere.
pub struct Wire {
    /// Where its broker listens.
    pub broker: SocketAddr,
    /// Where its name server listens.
    pub namesrv: SocketAddr,
    /// The release of the original, if it is that.
    pub original: Option<String>,
    /// How it is restarted.
    pub restart: Restart,
}

/// A stage.
pub(crate) enum Stage<'a> {
    Virtual(Simulated),
    Wire(&'a Wire, Clock),
}

impl Stage<'_> {
    pub(crate) fn clock(&self) -> Clock {
        match self {
            Stage::Virtual(simulated) => simulated.clock(),
            Stage::Wire(_, clock) => clock.clone(),
        }
    }

    pub(crate) fn is_virtual(&self) -> bool {
        matches!(self, Stage::Virtual(_))
    }

    /// The release of the original that this is.
    pub(crate) fn original(&self) -> Option<&str> {
        match self {
            Stage::Virtual(_) => None,
            Stage::Wire(wire, _) => wire.original.as_deref(),
        }
    }

    pub(crate) async fn connect(
        &self,
        door: Door,
        handler: impl Handler + 'static,
    ) -> Said<Client> {
        match self {
            Stage::Virtual(simulated) => simulated.connect(door, handler).await,
            Stage::Wire(wire, clock) => {
                let address = match door {
                    Door::Broker => wire.broker,
                    Door::Namesrv => wire.namesrv,
                };
                let connected = Client::connect(address, Limits::default(), clock.clone(), handler);
                connected.await.map_err(|error| error.to_string())
            }
        }
    }

    /// Completes `future`, letting at most this time pass; `None` when it has not completed then.
    pub(crate) async fn wait<F: Future>(&self, future: F, at_most: Duration) -> Option<F::Output> {
        match self {
            Stage::Virtual(simulated) => simulated.wait(future, at_most).await,
            Stage::Wire(..) => tokio::time::timeout(at_most, future).await.ok(),
        }
    }

    /// Lets time pass.
    pub(crate) async fn pass(&self, time: Duration) {
        match self {
            Stage::Virtual(simulated) => simulated.pass(time).await,
            Stage::Wire(_, clock) => clock.sleep(time).await,
        }
    }

    /// Moves the wall clock alone, by ms.
    pub(crate) fn jump(&self, by: i64) -> Said<()> {
        match self {
            Stage::Virtual(simulated) => {
                simulated.jump(by);
                Ok(())
            }
            Stage::Wire(..) => Err("the clock of a real machine is not moved".to_owned()),
        }
    }

    /// Ends the broker, which all clients have left, and starts it again after `down`.
    pub(crate) async fn restart(&self, how: End, down: Duration, settings: &[String]) -> Said<()> {
        match self {
            Stage::Virtual(simulated) => simulated.restart(how, down, settings).await,
            Stage::Wire(wire, _) => (wire.restart)(how, down, settings),
        }
    }
}
