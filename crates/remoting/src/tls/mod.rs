//! TLS on either end of a connection, and what both ends read: certificates and private keys as PEM.
//!
//! Whoever uses this brings bytes; files are the business of others. All that can be wrong with them is said here, before
//! anything is dialled or accepted.

mod client;
mod server;

use std::sync::Arc;

use tokio_rustls::rustls::{
    self, RootCertStore,
    crypto::{CryptoProvider, ring},
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    sign::CertifiedKey,
};

pub use client::Tls;
pub use server::{ClientAuth, ServerIdentity, ServerTls};
pub(crate) use {client::upgrade, server::Detected};

/// Why certificates, a key or a name cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// What should be PEM is not, or is cut.
    #[error("{what}: this is no PEM text: {reason}")]
    Pem {
        /// Which of the texts.
        what: &'static str,
        /// What the reader stumbled over.
        reason: String,
    },
    /// The PEM text has no certificate.
    #[error("{what}: there is no `BEGIN CERTIFICATE` in it")]
    NoCertificate {
        /// Which of the texts.
        what: &'static str,
    },
    /// The PEM text has no private key that could be read without a password.
    #[error(
        "private key: there is no unencrypted private key in it; `openssl pkey -in KEY -out PLAIN` makes one of an encrypted one"
    )]
    NoKey,
    /// A certificate is damaged, or of a kind that cannot be used.
    #[error("{what}: the certificate cannot be used: {reason}")]
    Certificate {
        /// Which of the texts.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The private key is damaged, of an unknown kind, or that of another certificate.
    #[error("private key: it does not fit the certificate: {reason}")]
    Key {
        /// What is wrong with it.
        reason: String,
    },
    /// The name is neither a host name nor an address.
    #[error("server name: `{name}` is neither a host name nor an address")]
    ServerName {
        /// The name.
        name: String,
    },
    /// This machine names no certificate that it trusts.
    #[error("roots of this machine: none could be read: {reason}")]
    PlatformRoots {
        /// What stood in the way.
        reason: String,
    },
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Reads trusted certificates: at least one.
fn roots(pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let what = "trusted certificates";
    let mut store = RootCertStore::empty();
    for certificate in certificates(what, pem)? {
        store
            .add(certificate)
            .map_err(|error| TlsError::Certificate { what, reason: error.to_string() })?;
    }
    Ok(store)
}

/// Reads a chain, the end's own certificate first, and the key that belongs to it.
fn certified(chain: &[u8], key: &[u8]) -> Result<CertifiedKey, TlsError> {
    let what = "certificate chain";
    let chain = certificates(what, chain)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| match error {
        pem::Error::NoItemsFound => TlsError::NoKey,
        error => TlsError::Pem { what: "private key", reason: error.to_string() },
    })?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
        rustls::Error::InvalidCertificate(error) => {
            TlsError::Certificate { what, reason: error.to_string() }
        }
        error => TlsError::Key { reason: error.to_string() },
    })
}

fn certificates(what: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| TlsError::Pem { what, reason: error.to_string() })?;
    if found.is_empty() { Err(TlsError::NoCertificate { what }) } else { Ok(found) }
}
