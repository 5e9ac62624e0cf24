//! Recall handles: what a producer gets for a timer message, and gives back to cancel it.
//!
//! ```text
//! base64url("v1 " topic " " broker name " " deliver time, ms " " unique key), padded with "="
//! ```
//! A reader takes the padding or its absence and ignores words behind the fifth, as Java does
//! (`RecallMessageHandle`, `java.util.Base64.getUrlDecoder`). What the words mean is left to the rules.

use thiserror::Error;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// A text that is no handle; the message is Java's remark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("recall handle is invalid")]
pub struct BadHandle;

/// What a handle says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecallHandle {
    /// Topic that the message is meant for.
    pub topic: String,
    /// Name of the broker that keeps it.
    pub broker: String,
    /// Time that brings a mark of deletion to the message's slot, ms since the epoch, as text: nobody has checked it.
    pub time: String,
    /// The message's unique key.
    pub unique_key: String,
}

impl RecallHandle {
    /// Writes the handle. The parts hold no space.
    pub fn encode(&self) -> String {
        let RecallHandle { topic, broker, time, unique_key } = self;
        encode_base64(format!("v1 {topic} {broker} {time} {unique_key}").as_bytes())
    }

    /// Reads a handle.
    ///
    /// # Errors
    /// [`BadHandle`] when it is no base64url, no UTF-8, of another version, or has fewer than five words.
    pub fn decode(text: &str) -> Result<RecallHandle, BadHandle> {
        let bytes = decode_base64(text).ok_or(BadHandle)?;
        let raw = String::from_utf8(bytes).map_err(|_| BadHandle)?;
        // Java's `split` forgets empty words at the end.
        let mut words = raw.trim_end_matches(' ').split(' ');
        if words.next() != Some("v1") {
            return Err(BadHandle);
        }
        let mut word = || words.next().map(str::to_owned).ok_or(BadHandle);
        Ok(RecallHandle { topic: word()?, broker: word()?, time: word()?, unique_key: word()? })
    }
}

fn encode_base64(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let group = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let sextet = (group >> (18 - 6 * at)) as usize & 63;
            out.push(if at <= chunk.len() { ALPHABET[sextet] as char } else { '=' });
        }
    }
    out
}

fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let bare = text.strip_suffix("==").or_else(|| text.strip_suffix('=')).unwrap_or(text);
    let is_padded = bare.len() < text.len();
    if is_padded && !text.len().is_multiple_of(4) || bare.len() % 4 == 1 {
        return None;
    }
    let mut out = Vec::with_capacity(bare.len() / 4 * 3 + 2);
    for chunk in bare.as_bytes().chunks(4) {
        let mut group = 0u32;
        for byte in chunk {
            let sextet = ALPHABET.iter().position(|letter| letter == byte)?;
            group = group << 6 | sextet as u32;
        }
        group <<= 6 * (4 - chunk.len());
        out.extend_from_slice(&group.to_be_bytes()[1..chunk.len()]);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Made by `RecallMessageHandle.HandleV1.buildHandle` of 5.5.0.
    const GOLDEN: &str = "djEgdG9waWMgYnJva2VyLWEgMTcwMDAwMDAwMDAwMSBVTklRfj8_";

    fn golden() -> RecallHandle {
        RecallHandle {
            topic: "topic".into(),
            broker: "broker-a".into(),
            time: "1700000000001".into(),
            unique_key: "UNIQ~??".into(),
        }
    }

    #[test]
    fn a_handle_is_the_originals() {
        assert_eq!(golden().encode(), GOLDEN);
        assert_eq!(RecallHandle::decode(GOLDEN), Ok(golden()));
    }

    #[test]
    fn what_java_refuses_is_refused_and_what_it_lets_pass_passes() {
        let encode = |text: &str| encode_base64(text.as_bytes());
        for bad in ["", "=", "a", "djE", "+/+/", "djEgdG9waWM", "djEgYSBiIGMgZA="] {
            assert_eq!(RecallHandle::decode(bad), Err(BadHandle), "{bad}");
        }
        for bad in ["v2 t b 1 k", "v1 t b 1", "v1 t b 1 ", "v1"] {
            assert_eq!(RecallHandle::decode(&encode(bad)), Err(BadHandle), "{bad}");
        }
        let handle = RecallHandle::decode(&encode("v1  b x k more")).unwrap();
        assert_eq!((handle.topic.as_str(), handle.unique_key.as_str()), ("", "k"));
        let padded = encode("v1 t b 1 k");
        assert!(padded.ends_with("=="), "{padded}");
        assert_eq!(RecallHandle::decode(&padded), RecallHandle::decode(&padded[..14]));
    }

    proptest! {
        #[test]
        fn bytes_come_back(bytes: Vec<u8>) {
            prop_assert_eq!(decode_base64(&encode_base64(&bytes)), Some(bytes));
        }

        #[test]
        fn any_text_is_an_answer(text in ".{0,60}") {
            let _ = RecallHandle::decode(&text);
        }
    }
}
