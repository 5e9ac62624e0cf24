//! The dialling end of TLS: whom it trusts, and what it shows of itself.

use std::{io, sync::Arc};

use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        self, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
        pki_types::{CertificateDer, ServerName, UnixTime},
        sign::SingleCertAndKey,
    },
};

use super::{TlsError, certified, provider, roots};

/// How a client speaks TLS (1.2 or 1.3): whose certificates it trusts, and its own, if servers ask for one.
///
/// A server's certificate has to name the host that was dialled. Name servers send clients to brokers by address, so
/// certificates of brokers need that address as a subject alternative name, or clients one
/// [`server_name`](Tls::server_name) for all servers.
#[derive(Clone, Debug)]
pub struct Tls {
    config: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
}

impl Tls {
    /// Trusts servers whose certificates one of these vouches for, or that are among these: PEM, one or several.
    ///
    /// # Errors
    /// [`TlsError`] says what is wrong with the text.
    pub fn roots(pem: impl AsRef<[u8]>) -> Result<Tls, TlsError> {
        Ok(Tls::trusting(roots(pem.as_ref())?))
    }

    /// Trusts whom this machine trusts: the system's own store, or what `SSL_CERT_FILE` and `SSL_CERT_DIR` name.
    ///
    /// # Errors
    /// [`TlsError::PlatformRoots`] if there is none.
    pub fn platform_roots() -> Result<Tls, TlsError> {
        let found = rustls_native_certs::load_native_certs();
        let mut store = RootCertStore::empty();
        // Systems keep certificates of old in their stores that nobody can read any more.
        let (added, _) = store.add_parsable_certificates(found.certs);
        if added == 0 {
            let reason = found.errors.first().map(ToString::to_string);
            let reason = reason.unwrap_or_else(|| "its store is empty".to_owned());
            return Err(TlsError::PlatformRoots { reason });
        }
        Ok(Tls::trusting(store))
    }

    /// Trusts every server. Nobody can listen, but anybody who is between can be the server: for tests only. It is what
    /// Java's clients do unless they are told otherwise (`tls.client.authServer`).
    pub fn dangerously_trust_anyone() -> Tls {
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider has TLS 1.2 and 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone(provider())))
            .with_no_client_auth();
        Tls { config: Arc::new(config), server_name: None }
    }

    /// Shows a certificate to servers that ask for one: the chain with its own certificate first, and its private key,
    /// both PEM; the key unencrypted, PKCS #8, PKCS #1 or SEC 1.
    ///
    /// # Errors
    /// [`TlsError`] says what is wrong with the texts, or that the key is that of another certificate.
    pub fn client_certificate(
        mut self,
        chain: impl AsRef<[u8]>,
        key: impl AsRef<[u8]>,
    ) -> Result<Tls, TlsError> {
        let certified = certified(chain.as_ref(), key.as_ref())?;
        Arc::make_mut(&mut self.config).client_auth_cert_resolver =
            Arc::new(SingleCertAndKey::from(certified));
        Ok(self)
    }

    /// Expects this name or address in the certificates of all servers, instead of the host that was dialled.
    ///
    /// # Errors
    /// [`TlsError::ServerName`] if it is neither.
    pub fn server_name(mut self, name: impl AsRef<str>) -> Result<Tls, TlsError> {
        self.server_name = Some(server_name(name.as_ref())?);
        Ok(self)
    }

    fn trusting(roots: RootCertStore) -> Tls {
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider has TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Tls { config: Arc::new(config), server_name: None }
    }
}

fn server_name(name: &str) -> Result<ServerName<'static>, TlsError> {
    let unbracketed = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    ServerName::try_from(unbracketed.unwrap_or(name).to_owned())
        .map_err(|_| TlsError::ServerName { name: name.to_owned() })
}

/// Begins to speak TLS with the server at the other end, which was dialled as `host`.
pub(crate) async fn upgrade(
    stream: TcpStream,
    host: &str,
    tls: &Tls,
) -> io::Result<TlsStream<TcpStream>> {
    let name = match &tls.server_name {
        Some(name) => name.clone(),
        None => {
            server_name(host).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?
        }
    };
    let connector = TlsConnector::from(tls.config.clone());
    connector.connect(name, stream).await.map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
            io::Error::new(error.kind(), "the server closed; it may not offer TLS")
        }
        _ => error,
    })
}

/// Takes any certificate, but still wants its key to be there.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
