//! Who a client is to servers with access control: every request carries a signature (Java: `AclClientRPCHook`,
//! `AclSigner`).
//!
//! What is signed: the values of all header fields, in the order of their names, then the body. The secret key stays here.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use wire::frame::Frame;

/// An access key with its secret, for servers with access control (Java: `SessionCredentials`).
///
/// ```no_run
/// use apogee_client::{Client, Credentials};
///
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let secret = std::env::var("ROCKETMQ_SECRET_KEY")?;
/// let client = Client::builder(["mq.example:9876"])
///     .credentials(Credentials::new("orders-service", secret))
///     .build()?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Credentials {
    pub(crate) access_key: String,
    pub(crate) is_complete: bool,
    security_token: Option<String>,
    keyed: Hmac<Sha1>,
}

impl Credentials {
    /// Takes an access key and the secret key that belongs to it; neither may be empty.
    pub fn new(access_key: impl Into<String>, secret_key: impl AsRef<str>) -> Credentials {
        let (access_key, secret_key) = (access_key.into(), secret_key.as_ref());
        Credentials {
            is_complete: !access_key.is_empty() && !secret_key.is_empty(),
            access_key,
            security_token: None,
            keyed: Hmac::new_from_slice(secret_key.as_bytes()).expect("a key of any length"),
        }
    }

    /// Adds the token that came with temporary keys.
    #[must_use]
    pub fn security_token(mut self, token: impl Into<String>) -> Credentials {
        self.security_token = Some(token.into());
        self
    }

    /// Signs a request.
    pub(crate) fn sign(&self, request: &mut Frame) {
        request.ext.put("AccessKey", &self.access_key);
        if let Some(token) = &self.security_token {
            request.ext.put("SecurityToken", token);
        }
        let mut fields: Vec<(&str, &str)> = request.ext.iter().collect();
        fields.sort_unstable();
        let mut keyed = self.keyed.clone();
        fields.into_iter().for_each(|(_, value)| keyed.update(value.as_bytes()));
        keyed.update(&request.body_bytes());
        let signature = STANDARD.encode(keyed.finalize().into_bytes());
        request.ext.put("Signature", &signature);
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("access_key", &self.access_key).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::code::RequestCode;

    fn request(fields: &[(&str, &str)]) -> Frame {
        let mut request = Frame::request(RequestCode::SEND_MESSAGE_V2, &());
        fields.iter().for_each(|(name, value)| request.ext.put(name, value));
        request
    }

    #[test]
    fn requests_are_signed_as_by_the_clients_of_the_original() {
        // Signed by `AclClientRPCHook` of 5.5.0.
        let mut send = request(&[("b", "topic"), ("a", "group"), ("i", "KEYS\u{1}k\u{2}ü")]);
        send = send.with_body("body");
        let credentials = Credentials::new("me", "secret");
        credentials.sign(&mut send);
        assert_eq!(send.ext.get("AccessKey"), Some("me"));
        assert_eq!(send.ext.get("Signature"), Some("rPvUkFqomUncVVjuQ2wFh49ChXM="));
        let mut ask = request(&[("topic", "T")]);
        credentials.security_token("token").sign(&mut ask);
        assert_eq!(ask.ext.get("SecurityToken"), Some("token"));
        assert_eq!(ask.ext.get("Signature"), Some("g/mL1+A7x+AwLM0X/Z4y0mfL1ls="));
    }

    #[test]
    fn the_secret_is_not_shown() {
        let shown = format!("{:?}", Credentials::new("me", "very secret"));
        assert!(shown.contains("me") && !shown.contains("secret"), "{shown}");
    }
}
