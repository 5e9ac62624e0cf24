//! What can be set about TLS, by the names of the original's system properties (Java: `TlsSystemConfig`).

use std::path::PathBuf;

/// Options of TLS.
#[derive(Debug, Clone, Default)]
pub(crate) struct TlsSettings {
    /// What servers do about it.
    pub(crate) server_mode: ServerMode,
    /// Their certificate chain.
    pub(crate) server_cert_path: Option<PathBuf>,
    /// Their private key.
    pub(crate) server_key_path: Option<PathBuf>,
    /// Whether clients show certificates.
    pub(crate) server_need_client_auth: NeedClientAuth,
    /// Who vouches for those.
    pub(crate) server_trust_cert_path: Option<PathBuf>,
    /// Whether a broker speaks TLS with name servers.
    pub(crate) enable: bool,
    /// Whether it looks at their certificates.
    pub(crate) client_auth_server: bool,
    /// Who vouches for those.
    pub(crate) client_trust_cert_path: Option<PathBuf>,
    /// The certificate chain that it shows.
    pub(crate) client_cert_path: Option<PathBuf>,
    /// The private key of that.
    pub(crate) client_key_path: Option<PathBuf>,
}

/// What servers do about TLS (Java: `TlsMode`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum ServerMode {
    /// They close who begins with it.
    Disabled,
    /// They serve it beside plain text, if they have a certificate.
    #[default]
    Permissive,
    /// They close who begins without it.
    Enforcing,
}

/// Whether clients show certificates (Java: `ClientAuth`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum NeedClientAuth {
    /// They are not asked for one.
    #[default]
    None,
    /// One that is shown has to be good.
    Optional,
    /// They have to show a good one.
    Require,
}
