//! Events on standard error: for reading, or one JSON object a line; `APOGEE_LOG` filters them.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;

use crate::args::LogFormat;

/// Begins to write events; once for a process. `default_filter` holds where `APOGEE_LOG` says nothing.
pub(crate) fn start(format: LogFormat, default_filter: &str) {
    let filter =
        EnvFilter::try_from_env("APOGEE_LOG").unwrap_or_else(|_| EnvFilter::new(default_filter));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(io::stderr().is_terminal()).with_target(false).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}
