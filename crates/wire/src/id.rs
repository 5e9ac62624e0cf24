//! Message ids: text in upper-case hex that tells where a message lies, or who made it.
//!
//! ```text
//! offset message id   store host IP (4 | 16) | port int | commit-log offset long      32 | 56 chars
//! unique key          client IP (4 | 16) | pid short | loader hash int
//!                     | ms since the first of the month int | counter short           32 | 56 chars
//! ```
//!
//! The offset id is the server's and addresses a record; the unique key (property `UNIQ_KEY`) is the
//! client's and is only compared. Java: `MessageDecoder.createMessageId`, `MessageClientIDSetter`.

use std::net::{IpAddr, SocketAddr};

use thiserror::Error;

/// Where a record lies: the broker that stored it and its place in the commit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OffsetId {
    /// Address of the broker that stored the record.
    pub host: SocketAddr,
    /// Commit-log offset of the record, in bytes.
    pub log_offset: u64,
}

/// A text that is no offset message id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not an offset message id: 32 or 56 hex digits with a port below 65536 were expected")]
pub struct NotAnId;

impl OffsetId {
    /// Appends the id's text, 32 or 56 characters, to `out`.
    pub fn write(&self, out: &mut String) {
        hex_ip(self.host.ip(), out);
        hex(u64::from(self.host.port()), 8, out);
        hex(self.log_offset, 16, out);
    }

    /// Reads an id's text. Digits of either case are accepted.
    pub fn parse(text: &str) -> Result<OffsetId, NotAnId> {
        let ip_digits = text.len().checked_sub(24).ok_or(NotAnId)?;
        if !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(NotAnId);
        }
        let number = |from: usize, to: usize| u128::from_str_radix(&text[from..to], 16);
        let ip = number(0, ip_digits).map_err(|_| NotAnId)?;
        let ip = match ip_digits {
            8 => IpAddr::from((ip as u32).to_be_bytes()),
            32 => IpAddr::from(ip.to_be_bytes()),
            _ => return Err(NotAnId),
        };
        let port = number(ip_digits, ip_digits + 8).map_err(|_| NotAnId)?;
        let port = u16::try_from(port).map_err(|_| NotAnId)?;
        let log_offset = number(ip_digits + 8, ip_digits + 24).map_err(|_| NotAnId)? as u64;
        Ok(OffsetId { host: SocketAddr::new(ip, port), log_offset })
    }
}

impl std::fmt::Display for OffsetId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = String::with_capacity(56);
        self.write(&mut text);
        f.write_str(&text)
    }
}

/// Writes a client's unique key: who (`ip`, `pid`, `loader`: any number of the process), when
/// (`ms_of_month` since the first of the month, local time) and which (`counter`, wrapping).
pub fn unique_key(ip: IpAddr, pid: u16, loader: u32, ms_of_month: u32, counter: u16) -> String {
    let mut out = String::with_capacity(56);
    hex_ip(ip, &mut out);
    hex(u64::from(pid), 4, &mut out);
    hex(u64::from(loader), 8, &mut out);
    hex(u64::from(ms_of_month), 8, &mut out);
    hex(u64::from(counter), 4, &mut out);
    out
}

fn hex_ip(ip: IpAddr, out: &mut String) {
    match ip {
        IpAddr::V4(ip) => hex(u64::from(u32::from(ip)), 8, out),
        IpAddr::V6(ip) => {
            let bits = u128::from(ip);
            hex((bits >> 64) as u64, 16, out);
            hex(bits as u64, 16, out);
        }
    }
}

/// Appends the low `digits` hex digits of `value`.
fn hex(value: u64, digits: u32, out: &mut String) {
    let mut text = [0; 16];
    let text = &mut text[..digits as usize];
    let mut rest = value;
    for digit in text.iter_mut().rev() {
        *digit = b"0123456789ABCDEF"[(rest & 0xF) as usize];
        rest >>= 4;
    }
    out.push_str(std::str::from_utf8(text).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_offset_id_is_that_of_java() {
        let id = OffsetId { host: "127.0.0.1:10911".parse().unwrap(), log_offset: 0x1234 };
        assert_eq!(id.to_string(), "7F00000100002A9F0000000000001234");
        assert_eq!(OffsetId::parse("7f00000100002A9F0000000000001234"), Ok(id));
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for text in
            ["", "7F", "7F00000100012A9F0000000000001234", "+F00000100002A9F0000000000001234"]
        {
            assert_eq!(OffsetId::parse(text), Err(NotAnId), "{text}");
        }
        assert_eq!(OffsetId::parse(&"é".repeat(16)), Err(NotAnId));
    }

    #[test]
    fn a_unique_key_has_its_parts_in_order() {
        let key = unique_key([10, 11, 24, 180].into(), 0xBEEF, 0x18B4_AAC2, 7, 1);
        assert_eq!(key, "0A0B18B4BEEF18B4AAC2000000070001");
    }

    proptest! {
        #[test]
        fn ids_come_back(ip: IpAddr, port: u16, log_offset: u64) {
            let id = OffsetId { host: SocketAddr::new(ip, port), log_offset };
            prop_assert_eq!(OffsetId::parse(&id.to_string()), Ok(id));
        }
    }
}
