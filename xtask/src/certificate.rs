//! A certificate for servers under test, made by the system's `openssl`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::run;

/// For loopback, vouching for itself. Those that `openssl req -x509` makes by default say that they vouch for others, which
/// no server's should.
const REQUEST: &str = "\
[req]
distinguished_name=name
x509_extensions=extensions
prompt=no
[name]
CN=apogee
[extensions]
subjectAltName=IP:127.0.0.1,DNS:localhost
basicConstraints=critical,CA:FALSE
";

/// A certificate and its key, in files.
pub(crate) struct Certificate {
    /// The certificate, as PEM.
    pub(crate) chain: PathBuf,
    key: PathBuf,
}

impl Certificate {
    /// Makes one in a folder.
    pub(crate) fn make(folder: &Path) -> anyhow::Result<Certificate> {
        fs::create_dir_all(folder)?;
        fs::write(folder.join("request.conf"), REQUEST)?;
        let words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -config request.conf";
        run(Command::new("openssl")
            .args(words.split(' '))
            .args(["-keyout", "key.pem", "-out", "cert.pem"])
            .current_dir(folder))?;
        Ok(Certificate { chain: folder.join("cert.pem"), key: folder.join("key.pem") })
    }

    /// The lines of configuration that have a server offer TLS with it.
    pub(crate) fn lines(&self) -> [String; 2] {
        [
            format!("tls.server.certPath={}", self.chain.display()),
            format!("tls.server.keyPath={}", self.key.display()),
        ]
    }
}
