//! The reference page of keys, `docs/operating/configuration.md`, written from the table.

use std::fmt::Write as _;

use super::{KEYS, Layers, Origin, Style};

/// What comes before the table.
const HEAD: &str = "\
# Configuration

This page is written by `apogee config --markdown` from the table in `crates/apogee/src/config/keys.rs`; a test compares them.

`apogee run` needs no configuration: name server and broker listen on loopback, and data goes to `./data`.
Called as `mqbroker` or `mqnamesrv`, or with `-c`, the original's defaults hold: all interfaces, `~/store`, a broker named after its host, no SQL92 filters.

Values are taken from, the later ones stronger:

1. `NAMESRV_ADDR` of the environment, for `namesrvAddr`;
2. property files given with `-c`, in their order, in Java's syntax and with RocketMQ's keys;
3. `APOGEE_<KEY>` of the environment, as `APOGEE_LISTEN_PORT=10911` or `APOGEE_listenPort=10911`;
4. `--set KEY=VALUE`;
5. the flags `--listen`, `--advertise`, `--data`, `--namesrv-port`, `--broker-port`.

A value that is not allowed stops the start with its file and line, the key, and what is allowed.
RocketMQ's other keys are accepted and have no effect; they, and unknown ones, are listed once at start.
Keys that would keep data in RocksDB, and those that ask for access control or replication, stop the start, since they are not served yet.

`apogee config explain KEY` says what a key means and who sets it, `apogee config check FILE` what is wrong with a file, and `apogee config diff` what is not at its default.

Keys in **bold** are those that operators really set; those marked *own* are not RocketMQ's.
Where an empty default stands, nothing is said unless the text says what then holds.
";

/// The whole page.
pub(crate) fn markdown() -> String {
    let layers = Layers {
        style: Style::Apogee,
        files: Vec::new(),
        sets: Vec::new(),
        flags: Vec::new(),
        environment: Vec::new(),
        home: "~".into(),
        host_name: "host".into(),
    };
    let settings = layers.load().expect("the defaults are allowed").settings;
    let mut page =
        format!("{HEAD}\n| key | default | allowed | meaning |\n| --- | --- | --- | --- |\n");
    for key in KEYS {
        let name = match key.origin {
            Origin::Common => format!("**`{}`**", key.name),
            Origin::RocketMq => format!("`{}`", key.name),
            Origin::Own => format!("`{}` *own*", key.name),
        };
        let default = (key.show)(&settings);
        let default = if default.is_empty() { String::new() } else { format!("`{default}`") };
        let allowed = (key.allowed)().replace('|', "\\|");
        writeln!(page, "| {name} | {default} | {allowed} | {} |", key.doc)
            .expect("a String takes all");
    }
    page
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_reference_page_is_that_of_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operating/configuration.md");
        let page = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            page == super::markdown(),
            "write it anew: cargo run -p apogee -- config --markdown > docs/operating/configuration.md"
        );
    }
}
