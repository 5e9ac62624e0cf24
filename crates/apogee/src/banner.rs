//! What an operator reads first: what is listening and how open it is, where the data lies, what clients are told, and
//! the next command to try.

use std::{fmt::Write as _, net::SocketAddr, path::PathBuf, time::Duration};

use crate::address::{Advertised, Origin};

/// What the banner tells.
#[derive(Debug)]
pub(crate) struct Banner {
    /// Name server, where it runs.
    pub(crate) namesrv: Option<SocketAddr>,
    /// Broker and its VIP twin, where they run.
    pub(crate) broker: Option<Broker>,
    /// What both speak.
    pub(crate) transport: &'static str,
    /// From the start of the process to here.
    pub(crate) took: Duration,
}

/// The broker's part.
#[derive(Debug)]
pub(crate) struct Broker {
    pub(crate) address: SocketAddr,
    pub(crate) vip: Option<SocketAddr>,
    /// Metrics and health.
    pub(crate) http: Option<SocketAddr>,
    pub(crate) advertised: Advertised,
    /// Routes carry the address by which the asking client reached us.
    pub(crate) follows_client: bool,
    pub(crate) data: PathBuf,
    /// Name servers it registers at, besides one in this process.
    pub(crate) namesrv_addr: Vec<String>,
}

impl Banner {
    /// The text, ending with a newline.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        let mut line = |name: &str, text: &str| {
            writeln!(out, "  {name:<12} {text}").expect("a String takes all");
        };
        if let Some(address) = self.namesrv {
            line("name server", &format!("{address}  {}", security(self.transport, address)));
        }
        if let Some(broker) = &self.broker {
            let vip =
                broker.vip.map(|vip| format!(" (VIP channel {})", vip.port())).unwrap_or_default();
            let how = security(self.transport, broker.address);
            line("broker", &format!("{}{vip}  {how}", broker.address));
            if let Some(address) = broker.http {
                let how = security("plain text", address);
                line("metrics", &format!("http://{address}/metrics  {how}"));
            }
            line("data", &broker.data.display().to_string());
            if !broker.namesrv_addr.is_empty() {
                line("registers at", &broker.namesrv_addr.join(";"));
            }
            line("clients use", &broker.reached_by());
        }
        line("try", &self.next_command());
        let head = format!(
            "Apogee {} (speaks RocketMQ 5.5.0) serves after {:.0} ms\n",
            env!("CARGO_PKG_VERSION"),
            self.took.as_secs_f64() * 1e3
        );
        head + &out
    }

    fn next_command(&self) -> String {
        let loopback = |port: u16| format!("127.0.0.1:{port}");
        match (&self.broker, self.namesrv) {
            (Some(_), Some(namesrv)) => {
                let flag = if namesrv.port() == 9876 {
                    String::new()
                } else {
                    format!(" --namesrv {}", loopback(namesrv.port()))
                };
                format!("apogee bench produce --create --messages 100000{flag}")
            }
            (Some(broker), None) => {
                format!(
                    "apogee bench produce --create --messages 100000 --broker {}",
                    loopback(broker.address.port())
                )
            }
            (None, Some(namesrv)) => {
                format!("apogee run --role broker --set namesrvAddr={}", loopback(namesrv.port()))
            }
            (None, None) => "apogee --help".into(),
        }
    }
}

/// How open a listener is. What this says is what holds: there is no access control yet.
fn security(transport: &str, address: SocketAddr) -> String {
    let reach = if address.ip().is_loopback() {
        "this machine only"
    } else {
        "OPEN TO THE NETWORK: anyone who reaches it may read, write and administer"
    };
    format!("{transport}, no authentication, {reach}")
}

impl Broker {
    fn reached_by(&self) -> String {
        let port = self.address.port();
        let host = &self.advertised.host;
        if self.follows_client {
            let hint = if self.address.ip().is_loopback() {
                ""
            } else {
                "; behind address translation or a published container port: --advertise HOST"
            };
            return format!("the address they asked the name server by, port {port}{hint}");
        }
        match self.advertised.origin {
            Origin::Configured => format!("{host}:{port} (configured)"),
            Origin::Listened => format!("{host}:{port}"),
            Origin::DefaultRoute => format!(
                "{host}:{port} (interface of the default route); if clients cannot reach that: --advertise HOST"
            ),
            Origin::Loopback => format!(
                "{host}:{port} (no other address found); for other machines: --advertise HOST"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn banner(listen: &str, advertised: Advertised, follows_client: bool) -> String {
        let broker = Broker {
            address: format!("{listen}:10911").parse().unwrap(),
            vip: Some(format!("{listen}:10909").parse().unwrap()),
            http: Some("127.0.0.1:8082".parse().unwrap()),
            advertised,
            follows_client,
            data: "/var/data".into(),
            namesrv_addr: Vec::new(),
        };
        let namesrv = format!("{listen}:9876").parse().unwrap();
        let (namesrv, broker, took) = (Some(namesrv), Some(broker), Duration::from_millis(12));
        Banner { namesrv, broker, transport: "plain text", took }.text()
    }

    #[test]
    fn on_loopback_nothing_has_to_be_said_about_addresses() {
        let ip = "127.0.0.1".parse().unwrap();
        let text = banner(
            "127.0.0.1",
            Advertised { host: "127.0.0.1".into(), ip, origin: Origin::Listened },
            true,
        );
        let expected = "\
Apogee 0.1.0 (speaks RocketMQ 5.5.0) serves after 12 ms
  name server  127.0.0.1:9876  plain text, no authentication, this machine only
  broker       127.0.0.1:10911 (VIP channel 10909)  plain text, no authentication, this machine only
  metrics      http://127.0.0.1:8082/metrics  plain text, no authentication, this machine only
  data         /var/data
  clients use  the address they asked the name server by, port 10911
  try          apogee bench produce --create --messages 100000
";
        assert_eq!(text, expected);
    }

    #[test]
    fn an_open_listener_says_so_and_that_advertise_may_be_needed() {
        let ip = "172.17.0.2".parse().unwrap();
        let found = Advertised { host: "172.17.0.2".into(), ip, origin: Origin::DefaultRoute };
        for follows_client in [true, false] {
            let text = banner("0.0.0.0", found.clone(), follows_client);
            assert!(text.contains("OPEN TO THE NETWORK"), "{text}");
            assert!(text.contains("--advertise HOST"), "{text}");
        }
        let configured = Advertised { origin: Origin::Configured, ..found };
        assert!(!banner("0.0.0.0", configured, false).contains("--advertise"));
    }
}
