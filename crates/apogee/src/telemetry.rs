//! Events on standard error: for reading, or one JSON object a line; `APOGEE_LOG` filters them.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;

use crate::args::LogFormat;

/// The filter where `APOGEE_LOG` says nothing.
const DEFAULT_FILTER: &str = "info";

/// Begins to write events; once for a process.
pub(crate) fn start(format: LogFormat) {
    let filter =
        EnvFilter::try_from_env("APOGEE_LOG").unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(io::stderr().is_terminal()).with_target(false).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}
