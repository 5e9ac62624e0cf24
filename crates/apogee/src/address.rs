//! Where to listen, and what clients are told to connect to.
//!
//! A broker has one advertised address: what is configured; else the address it listens on, when that is one; else that
//! of the interface with the default route; else loopback. Behind address translation no server can know its outside
//! address, so the banner says when `--advertise` is needed.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use anyhow::{Context, Result};

/// Finds the address to listen on for a host or an address.
pub(crate) async fn resolve(host: &str) -> Result<IpAddr> {
    if let Ok(address) = host.trim_matches(['[', ']']).parse() {
        return Ok(address);
    }
    let found = tokio::net::lookup_host((host, 0))
        .await
        .with_context(|| format!("cannot resolve `{host}`"))?;
    let found: Vec<IpAddr> = found.map(|address| address.ip()).collect();
    // records and clients of old know only IPv4
    let chosen = found.iter().find(|address| address.is_ipv4()).or_else(|| found.first());
    chosen.copied().with_context(|| format!("`{host}` has no address"))
}

/// What clients are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Advertised {
    /// The broker's host as routes have it: an address, or the name that was configured.
    pub(crate) host: String,
    /// The address in records and message ids.
    pub(crate) ip: IpAddr,
    /// Where it came from.
    pub(crate) origin: Origin,
}

/// Where an advertised address came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// `brokerIP1` or `--advertise`.
    Configured,
    /// The address that is listened on.
    Listened,
    /// The interface of the default route.
    DefaultRoute,
    /// Nothing better is there.
    Loopback,
}

/// Chooses the advertised address.
pub(crate) async fn advertised(configured: Option<&str>, listened: IpAddr) -> Result<Advertised> {
    if let Some(host) = configured {
        let ip = resolve(host).await.context("the advertised host")?;
        return Ok(Advertised { host: bracketed(host, ip), ip, origin: Origin::Configured });
    }
    let (ip, origin) = if !listened.is_unspecified() {
        (listened, Origin::Listened)
    } else if let Some(ip) = default_route() {
        (ip, Origin::DefaultRoute)
    } else {
        (IpAddr::V4(Ipv4Addr::LOCALHOST), Origin::Loopback)
    };
    Ok(Advertised { host: bracketed(&ip.to_string(), ip), ip, origin })
}

/// An IPv6 address stands in brackets where a port follows.
fn bracketed(host: &str, ip: IpAddr) -> String {
    if ip.is_ipv6() && host.parse::<IpAddr>().is_ok() {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

/// The local address that packets to the world would carry. Connecting a datagram socket sends nothing.
fn default_route() -> Option<IpAddr> {
    let world = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 9));
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(world).ok()?;
    let local = socket.local_addr().ok()?.ip();
    (!local.is_unspecified()).then_some(local)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(configured: Option<&str>, listened: &str) -> (String, Origin) {
        let advertised = advertised(configured, listened.parse().unwrap()).await.unwrap();
        (advertised.host, advertised.origin)
    }

    #[tokio::test]
    async fn what_is_configured_goes_before_what_is_listened_on() {
        assert_eq!(
            check(Some("10.1.2.3"), "0.0.0.0").await,
            ("10.1.2.3".into(), Origin::Configured)
        );
        assert_eq!(check(Some("::1"), "0.0.0.0").await, ("[::1]".into(), Origin::Configured));
        assert_eq!(check(Some("localhost"), "0.0.0.0").await.0, "localhost");
        assert_eq!(check(None, "127.0.0.1").await, ("127.0.0.1".into(), Origin::Listened));
        assert_eq!(check(None, "::1").await.0, "[::1]");
    }
}
