//! The accepting end of TLS: on the port of plain text, told apart by the first byte, as the original does
//! (Java: `NettyRemotingServer.TlsModeHandler`).
//!
//! A connection is driven from its first moment, before it is known what it speaks, so that it counts and has the bounds
//! of all others: one that says nothing, or stops half-way through its handshake, is closed after `idle_timeout`.

use std::{
    fmt,
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{
    Accept, TlsAcceptor,
    rustls::{ServerConfig, server::WebPkiClientVerifier, sign::SingleCertAndKey},
    server::TlsStream,
};

use super::{TlsError, certified, provider, roots};

/// First byte of a TLS handshake; a frame that began with it would have 369 MB.
const HANDSHAKE: u8 = 0x16;

/// What a server shows of itself, and asks of its clients.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerIdentity {
    /// The certificate chain, the server's own certificate first, as PEM.
    pub certificate: Vec<u8>,
    /// The private key as PEM: unencrypted, PKCS #8, PKCS #1 or SEC 1.
    pub key: Vec<u8>,
    /// Whether clients show certificates.
    pub client_auth: ClientAuth,
}

/// Whether a server asks its clients for certificates.
#[derive(Clone, PartialEq, Eq)]
pub enum ClientAuth {
    /// It asks for none.
    None,
    /// A certificate that is shown must be vouched for by one of these (PEM).
    Optional(Vec<u8>),
    /// One must be shown, and be vouched for by one of these (PEM).
    Require(Vec<u8>),
}

impl fmt::Debug for ServerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerIdentity")
    }
}

/// TLS of a server, for [`Listeners::tls`](crate::Listeners::tls).
///
/// Each TLS connection holds up to about 100 KiB beyond what [`Limits`](crate::Limits) counts.
pub struct ServerTls {
    enforced: bool,
    config: Mutex<Arc<ServerConfig>>,
}

impl ServerTls {
    /// Offers TLS; with `enforced`, connections that do not begin with it are closed.
    ///
    /// # Errors
    /// [`TlsError`] says what is wrong with the identity.
    pub fn new(identity: &ServerIdentity, enforced: bool) -> Result<ServerTls, TlsError> {
        Ok(ServerTls { enforced, config: Mutex::new(configured(identity)?) })
    }

    /// Has connections from now on meet another identity; those that are open go on.
    ///
    /// # Errors
    /// [`TlsError`] says what is wrong with it; the one before stays.
    pub fn renew(&self, identity: &ServerIdentity) -> Result<(), TlsError> {
        let config = configured(identity)?;
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    fn accept(&self, stream: TcpStream) -> Accept<TcpStream> {
        let config = self.config.lock().unwrap_or_else(PoisonError::into_inner).clone();
        TlsAcceptor::from(config).accept(stream)
    }
}

fn configured(identity: &ServerIdentity) -> Result<Arc<ServerConfig>, TlsError> {
    let certified = certified(&identity.certificate, &identity.key)?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the provider has TLS 1.2 and 1.3");
    let verifier = |pem: &[u8], required: bool| {
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots(pem)?), provider());
        let verifier = if required { verifier } else { verifier.allow_unauthenticated() };
        verifier.build().map_err(|error| TlsError::Certificate {
            what: "trusted certificates",
            reason: error.to_string(),
        })
    };
    let builder = match &identity.client_auth {
        ClientAuth::None => builder.with_no_client_auth(),
        ClientAuth::Optional(pem) => builder.with_client_cert_verifier(verifier(pem, false)?),
        ClientAuth::Require(pem) => builder.with_client_cert_verifier(verifier(pem, true)?),
    };
    Ok(Arc::new(builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))))
}

/// An accepted stream whose first byte says what it is.
pub(crate) enum Detected {
    Silent(TcpStream, Arc<ServerTls>),
    Plain(TcpStream),
    Greeting(Box<Accept<TcpStream>>),
    Tls(Box<TlsStream<TcpStream>>),
    /// Refused, or shut down before it was known.
    Over,
}

impl Detected {
    pub(crate) fn new(stream: TcpStream, tls: Arc<ServerTls>) -> Detected {
        Detected::Silent(stream, tls)
    }

    /// Goes on until there is a stream to talk over.
    ///
    /// Both reading and writing come here, so whichever of the two is polled later drives the handshake.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&mut dyn Duplex>> {
        loop {
            match self {
                Detected::Silent(stream, _) => {
                    let mut byte = [0];
                    let peeked = ready!(stream.poll_peek(cx, &mut ReadBuf::new(&mut byte)))?;
                    let Detected::Silent(stream, tls) = std::mem::replace(self, Detected::Over)
                    else {
                        unreachable!("it was silent");
                    };
                    *self = match byte {
                        [HANDSHAKE] if peeked > 0 => {
                            Detected::Greeting(Box::new(tls.accept(stream)))
                        }
                        _ if peeked > 0 && tls.enforced => {
                            return Poll::Ready(Err(io::Error::new(
                                io::ErrorKind::InvalidData,
                                "plain text where TLS is enforced (tls.server.mode)",
                            )));
                        }
                        _ => Detected::Plain(stream),
                    };
                }
                Detected::Greeting(accept) => {
                    let accepted = ready!(Pin::new(&mut **accept).poll(cx));
                    *self = Detected::Over;
                    *self = Detected::Tls(Box::new(accepted?));
                }
                Detected::Plain(_) | Detected::Tls(_) | Detected::Over => break,
            }
        }
        Poll::Ready(match self {
            Detected::Plain(stream) => Ok(stream),
            Detected::Tls(stream) => Ok(&mut **stream),
            Detected::Silent(..) | Detected::Greeting(_) | Detected::Over => {
                Err(io::ErrorKind::NotConnected.into())
            }
        })
    }
}

trait Duplex: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Duplex for S {}

impl AsyncRead for Detected {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = ready!(self.get_mut().poll_open(cx))?;
        Pin::new(stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Detected {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let stream = ready!(self.get_mut().poll_open(cx))?;
        Pin::new(stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = ready!(self.get_mut().poll_open(cx))?;
        Pin::new(stream).poll_write_vectored(cx, slices)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Detected::Tls(stream) => Pin::new(stream).poll_flush(cx),
            // Nothing is taken before the stream is open, and a socket keeps nothing back.
            _ => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Detected::Silent(stream, _) | Detected::Plain(stream) => {
                Pin::new(stream).poll_shutdown(cx)
            }
            Detected::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            stream => {
                *stream = Detected::Over;
                Poll::Ready(Ok(()))
            }
        }
    }
}
