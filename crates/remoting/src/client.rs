//! The asking end of a connection: dial, call, push; what the server pushes goes to a handler.
//!
//! It is the same connection as a server's, so calls are pipelined and bounded alike. It does not reconnect: its owner
//! knows whether the address is still the right one.

use std::{io, net::SocketAddr, ops::Deref, time::Duration};

use env::Clock;
use tokio::net::TcpStream;

use crate::{Connection, Handler, Limits, Service, Tls, server::Commons, tls};

/// Time to establish a connection (Java: `connectTimeoutMillis`).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Bytes that either direction of a connection within the process holds.
const PIPE_BYTES: usize = 64 * 1024;

/// A connection that this side opened; dropping it closes the connection.
pub struct Client(Connection);

/// Why a peer could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The system refused, or the peer did.
    #[error("cannot connect to `{address}`: {source}")]
    Refused {
        /// Whom we called.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Nobody answered in time.
    #[error("cannot connect to `{address}`: no answer within {CONNECT_TIMEOUT:?}")]
    Timeout {
        /// Whom we called.
        address: SocketAddr,
    },
    /// The peer was there, but there is no TLS between us.
    #[error("cannot connect to `{address}`: the TLS handshake failed: {source}")]
    Tls {
        /// Whom we called.
        address: SocketAddr,
        /// Who refused whom, and why.
        source: io::Error,
    },
}

impl Client {
    /// Connects to `address` within three seconds; requests that the peer pushes go to `handler`.
    pub async fn connect(
        address: SocketAddr,
        limits: Limits,
        clock: Clock,
        handler: impl Handler + 'static,
    ) -> Result<Client, ConnectError> {
        let refused = |source| ConnectError::Refused { address, source };
        let stream = tokio::select! {
            biased;
            stream = TcpStream::connect(address) => stream.map_err(refused)?,
            () = clock.sleep(CONNECT_TIMEOUT) => return Err(ConnectError::Timeout { address }),
        };
        let connection = Commons::new(limits, clock)
            .admit(stream, address, None, |_| Box::new(handler))
            .map_err(refused)?
            .expect("a client's limits admit its one connection");
        Ok(Client(connection))
    }

    /// The same over TLS, handshake included. The certificate has to name `host`, unless `tls` names another.
    ///
    /// A server may refuse the certificate of its client behind the handshake; then the connection ends at once.
    pub async fn connect_tls(
        address: SocketAddr,
        host: &str,
        tls: &Tls,
        limits: Limits,
        clock: Clock,
        handler: impl Handler + 'static,
    ) -> Result<Client, ConnectError> {
        let connect = async {
            let refused = |source| ConnectError::Refused { address, source };
            let stream = TcpStream::connect(address).await.map_err(refused)?;
            stream.set_nodelay(true).map_err(refused)?;
            let local = stream.local_addr().map_err(refused)?;
            let upgraded = tls::upgrade(stream, host, tls).await;
            Ok((upgraded.map_err(|source| ConnectError::Tls { address, source })?, local))
        };
        let (stream, local) = tokio::select! {
            biased;
            connected = connect => connected?,
            () = clock.sleep(CONNECT_TIMEOUT) => return Err(ConnectError::Timeout { address }),
        };
        let connection = Commons::new(limits, clock)
            .adopt(stream, address, local, |_| Box::new(handler))
            .expect("a client's limits admit its one connection");
        Ok(Client(connection))
    }

    /// Connects to a service of this process, without a socket: for simulations. The service sees a client at `remote`.
    pub fn within(
        service: &dyn Service,
        remote: SocketAddr,
        limits: Limits,
        clock: Clock,
        handler: impl Handler + 'static,
    ) -> Client {
        let (near, far) = tokio::io::duplex(PIPE_BYTES);
        let local = SocketAddr::from(([127, 0, 0, 1], 0));
        let commons = |limits| Commons::new(limits, clock.clone());
        let _served = commons(limits.clone())
            .adopt(far, remote, local, |connection| service.connected(connection));
        let connection = commons(limits)
            .adopt(near, local, remote, |_| Box::new(handler))
            .expect("a client's limits admit its one connection");
        Client(connection)
    }
}

impl Deref for Client {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.0
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.0.close();
    }
}
