//! TLS of the process: what the configuration names is read, and read again when it changes.
//!
//! Servers have one identity, name server and broker alike; towards name servers a broker is a client. A file that is
//! changed badly changes nothing: connections go on with what was good, and the log says why.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use env::Clock;
use remoting::{ClientAuth, ServerIdentity, ServerTls, Tls};
use tracing::{info, warn};

use crate::config::{NeedClientAuth, ServerMode, TlsSettings};

/// Time between looks at the files (Java: `FileWatchService`, every half second).
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// What servers offer, and where it comes from.
pub(crate) struct Offer {
    /// For each listener.
    pub(crate) tls: Arc<ServerTls>,
    files: Files,
    shown: ServerIdentity,
}

#[derive(Clone)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
    trusted: Option<PathBuf>,
    need_client_auth: NeedClientAuth,
}

impl Offer {
    /// Reads what servers show; none where TLS is disabled, or permitted and no certificate is named.
    pub(crate) fn read(settings: &TlsSettings) -> Result<Option<Offer>> {
        let mode = settings.server_mode;
        if mode == ServerMode::Disabled {
            return Ok(None);
        }
        let (certificate, key) = match (&settings.server_cert_path, &settings.server_key_path) {
            (Some(certificate), Some(key)) => (certificate.clone(), key.clone()),
            (None, None) if mode == ServerMode::Permissive => return Ok(None),
            _ => bail!(
                "TLS takes both `tls.server.certPath` and `tls.server.keyPath`: set the other one, too"
            ),
        };
        let files = Files {
            certificate,
            key,
            trusted: settings.server_trust_cert_path.clone(),
            need_client_auth: settings.server_need_client_auth,
        };
        let shown = files.identity()?;
        let tls = ServerTls::new(&shown, mode == ServerMode::Enforcing)
            .with_context(|| format!("cannot offer TLS with {}", files.names()))?;
        Ok(Some(Offer { tls: Arc::new(tls), files, shown }))
    }

    /// Looks at the files for as long as it is polled.
    pub(crate) async fn follow(self, clock: Clock) {
        let mut last = Ok(self.shown);
        loop {
            clock.sleep(LOOK_INTERVAL).await;
            let files = self.files.clone();
            let read = tokio::task::spawn_blocking(move || files.identity()).await;
            let found = match read {
                Ok(found) => found.map_err(|error| format!("{error:#}")),
                Err(_) => return,
            };
            if found == last {
                continue;
            }
            let renewed = found
                .as_ref()
                .map_err(Clone::clone)
                .and_then(|identity| self.tls.renew(identity).map_err(|error| error.to_string()));
            let files = self.files.names();
            match renewed {
                Ok(()) => info!(files, "a new certificate is shown"),
                Err(error) => warn!(files, error, "the certificate before is still shown"),
            }
            last = found;
        }
    }
}

impl Files {
    fn identity(&self) -> Result<ServerIdentity> {
        let trusted = match (self.need_client_auth, &self.trusted) {
            (NeedClientAuth::None, _) => ClientAuth::None,
            (_, None) => bail!(
                "`tls.server.need.client.auth` takes `tls.server.trustCertPath`: whose certificates clients may show"
            ),
            (NeedClientAuth::Optional, Some(path)) => ClientAuth::Optional(read(path)?),
            (NeedClientAuth::Require, Some(path)) => ClientAuth::Require(read(path)?),
        };
        let (certificate, key) = (read(&self.certificate)?, read(&self.key)?);
        Ok(ServerIdentity { certificate, key, client_auth: trusted })
    }

    fn names(&self) -> String {
        let paths = [Some(&self.certificate), Some(&self.key), self.trusted.as_ref()];
        let names: Vec<_> =
            paths.iter().flatten().map(|path| format!("`{}`", path.display())).collect();
        names.join(", ")
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path)
        .with_context(|| format!("cannot read `{}`, which TLS takes", path.display()))
}

/// How a broker speaks with name servers; none for plain text.
pub(crate) fn towards_name_servers(settings: &TlsSettings) -> Result<Option<Tls>> {
    if !settings.enable {
        return Ok(None);
    }
    let tls = match (&settings.client_trust_cert_path, settings.client_auth_server) {
        (_, false) => Tls::dangerously_trust_anyone(),
        (None, true) => Tls::platform_roots()?,
        (Some(path), true) => {
            Tls::roots(read(path)?).with_context(|| format!("in `{}`", path.display()))?
        }
    };
    let (chain, key) = match (&settings.client_cert_path, &settings.client_key_path) {
        (Some(chain), Some(key)) => (chain, key),
        (chain, key) => {
            ensure!(
                chain.is_none() && key.is_none(),
                "TLS takes both `tls.client.certPath` and `tls.client.keyPath`, or neither"
            );
            return Ok(Some(tls));
        }
    };
    let tls = tls.client_certificate(read(chain)?, read(key)?);
    Ok(Some(tls.with_context(|| format!("in `{}`, `{}`", chain.display(), key.display()))?))
}
