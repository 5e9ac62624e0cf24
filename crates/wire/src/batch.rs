//! The body of a client's batch: messages back to back, without what the header says for all.
//!
//! ```text
//! item length int | magic int (0) | body CRC int (0) | flag int | body length int | body
//!                 | properties length short | properties
//! ```
//!
//! Java: `MessageDecoder.encodeMessages`, `decodeMessages`. Magic and CRC are written as 0 and
//! ignored. The rules of a batch (one topic, no delay) are the broker's.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use bytestring::ByteString;
use thiserror::Error;

/// Smallest item: all lengths and numbers, empty body and properties.
const ITEM_LEN_MIN: usize = 22;

/// One message of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The user's flag.
    pub flag: i32,
    /// The message's body, as sent.
    pub body: Bytes,
    /// The message's own properties.
    pub properties: ByteString,
}

/// Why a batch body could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BatchError {
    /// An item, or a length inside it, says more bytes than there are, or fewer than it needs.
    #[error("a batch item's length does not fit the body")]
    Length,
    /// The properties of an item are not UTF-8.
    #[error("the properties of a batch item are not UTF-8")]
    NotText,
}

/// Iterates over the items of `body`, as slices of it. The first error ends the iteration.
pub fn iter(mut body: Bytes) -> impl Iterator<Item = Result<Item, BatchError>> {
    std::iter::from_fn(move || {
        if body.is_empty() {
            return None;
        }
        let item = take(&mut body);
        if item.is_err() {
            body.clear();
        }
        Some(item)
    })
}

/// Counts the items of `body` by their lengths, up to the first that is wrong.
pub fn count(mut body: &[u8]) -> usize {
    let mut count = 0;
    while let Some(len) = body.first_chunk::<4>() {
        let len = u32::from_be_bytes(*len) as usize;
        let Some(rest) = body.get(len..).filter(|_| len >= ITEM_LEN_MIN) else { break };
        body = rest;
        count += 1;
    }
    count
}

/// Appends one message to a batch body.
///
/// # Panics
/// If the body is longer than `i32::MAX` or the properties than [`crate::properties::LEN_MAX`].
pub fn append(out: &mut BytesMut, flag: i32, body: &[u8], properties: &str) {
    assert!(properties.len() <= crate::properties::LEN_MAX, "properties are limited by the caller");
    let len = i32::try_from(ITEM_LEN_MIN + body.len() + properties.len());
    out.put_i32(len.expect("a body is limited by the caller"));
    out.put_i32(0);
    out.put_i32(0);
    out.put_i32(flag);
    out.put_i32(body.len() as i32);
    out.put_slice(body);
    out.put_i16(properties.len() as i16);
    out.put_slice(properties.as_bytes());
}

fn take(batch: &mut Bytes) -> Result<Item, BatchError> {
    let len = batch.try_get_i32().map_err(|_| BatchError::Length)?;
    let rest = (len as usize).wrapping_sub(4);
    if len < ITEM_LEN_MIN as i32 || rest > batch.len() {
        return Err(BatchError::Length);
    }
    let mut item = batch.split_to(rest);
    item.advance(8);
    let flag = item.get_i32();
    let body_len = usize::try_from(item.get_i32()).map_err(|_| BatchError::Length)?;
    if body_len > item.len() {
        return Err(BatchError::Length);
    }
    let body = item.split_to(body_len);
    let properties_len = item.try_get_i16().map_err(|_| BatchError::Length)?;
    if usize::try_from(properties_len) != Ok(item.len()) {
        return Err(BatchError::Length);
    }
    let properties = ByteString::try_from(item).map_err(|_| BatchError::NotText)?;
    Ok(Item { flag, body, properties })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_wrong_length_ends_the_batch() {
        let mut out = BytesMut::new();
        append(&mut out, 1, b"a", "");
        append(&mut out, 2, b"b", "k\u{1}v\u{2}");
        let good = out.freeze();
        assert_eq!((iter(good.clone()).count(), count(&good)), (2, 2));
        assert_eq!((count(&good[..good.len() - 1]), count(&[0; 40])), (1, 0));
        let torn: Vec<_> = iter(good.slice(..good.len() - 1)).collect();
        assert_eq!(torn[0].as_ref().map(|item| item.flag), Ok(1));
        assert_eq!(torn[1], Err(BatchError::Length));
        assert_eq!(torn.len(), 2);
    }

    proptest! {
        #[test]
        fn batches_come_back(items in prop::collection::vec((any::<i32>(), any::<Vec<u8>>(), ".{0,20}"), 0..6)) {
            let mut out = BytesMut::new();
            for (flag, body, properties) in &items {
                append(&mut out, *flag, body, properties);
            }
            let read: Result<Vec<_>, _> = iter(out.freeze()).collect();
            let read = read.unwrap().into_iter().map(|i| (i.flag, i.body.to_vec(), i.properties.to_string()));
            prop_assert!(read.eq(items));
        }

        #[test]
        fn any_bytes_are_an_answer(bytes: Vec<u8>) {
            for item in iter(bytes.into()) {
                let _ = item;
            }
        }
    }
}
