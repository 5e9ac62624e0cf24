//! Blocks of the log's files in memory, for readers that follow the log behind its tail.
//!
//! Many queues lie interleaved in one log, so neighbouring records of a queue are scattered over a stretch that the
//! readers of other queues need as well: one read of a block serves them all. A lone read at a random place must not pay
//! for a block, so a place counts as followed only when its block is asked for a second time within a short memory, or
//! when the block before it is kept.
//!
//! Invariant: a block holds bytes that are written and never change; at most `bytes_max` are kept, the one that was not
//! used for longest goes first.

use std::{collections::VecDeque, sync::Mutex};

use bytes::{Bytes, BytesMut};

use super::append::lock_any;

/// Distance between the starts of two blocks.
pub(crate) const BLOCK_LEN: u64 = 256 << 10;
/// Bytes that a block has in common with the next one, so that a record which crosses over is whole in the first.
pub(crate) const OVERLAP: u64 = 4 << 10;
/// Blocks whose first miss is remembered.
const MISSES_MAX: usize = 256;

pub(crate) struct Blocks {
    blocks_max: usize,
    shared: Mutex<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Used last at the back.
    kept: VecDeque<(u64, Bytes)>,
    /// Blocks that were asked for once and are not kept; youngest at the back.
    missed: VecDeque<u64>,
    spare: Vec<BytesMut>,
}

/// What is known of a block.
pub(crate) enum Lookup {
    /// Its bytes from its start, at least up to where they were asked for.
    Kept(Bytes),
    /// Asked for lately: worth reading whole.
    Followed,
    /// Not asked for lately.
    Unknown,
}

impl Blocks {
    pub(crate) fn new(bytes_max: u64) -> Blocks {
        let blocks_max = usize::try_from(bytes_max / (BLOCK_LEN + OVERLAP)).unwrap_or(usize::MAX);
        Blocks { blocks_max, shared: Mutex::default() }
    }

    /// Looks for the block that starts at `start` with at least `len` bytes.
    pub(crate) fn look_up(&self, start: u64, len: usize) -> Lookup {
        let mut shared = lock_any(&self.shared);
        // Readers come in the order of the log, so what is wanted is likely young.
        if let Some(place) = shared.kept.iter().rposition(|(kept, _)| *kept == start) {
            let (start, bytes) = if place + 1 == shared.kept.len() {
                let (start, bytes) = &shared.kept[place];
                (*start, bytes.clone())
            } else {
                let block = shared.kept.remove(place).expect("the place was just found");
                shared.kept.push_back(block.clone());
                block
            };
            if bytes.len() >= len {
                return Lookup::Kept(bytes);
            }
            // It was read when the log was shorter.
            shared.kept.retain(|(kept, _)| *kept != start);
            return Lookup::Followed;
        }
        if self.blocks_max == 0 {
            return Lookup::Unknown;
        }
        let before = start.wrapping_sub(BLOCK_LEN);
        let is_next = shared.kept.iter().rev().any(|(kept, _)| *kept == before);
        if is_next || shared.missed.contains(&start) {
            return Lookup::Followed;
        }
        if shared.missed.len() == MISSES_MAX {
            shared.missed.pop_front();
        }
        shared.missed.push_back(start);
        Lookup::Unknown
    }

    /// Returns a buffer of `len` bytes to read a block into.
    pub(crate) fn buffer(&self, len: usize) -> BytesMut {
        let spare = lock_any(&self.shared).spare.pop();
        let mut buffer = spare.unwrap_or_else(|| BytesMut::zeroed((BLOCK_LEN + OVERLAP) as usize));
        buffer.resize(len, 0);
        buffer
    }

    /// Gives a buffer back that was not filled.
    pub(crate) fn give_back(&self, buffer: BytesMut) {
        self.recycle(&mut lock_any(&self.shared), buffer);
    }

    /// Keeps a block and returns it.
    pub(crate) fn keep(&self, start: u64, bytes: BytesMut) -> Bytes {
        let bytes = bytes.freeze();
        let mut shared = lock_any(&self.shared);
        shared.missed.retain(|missed| *missed != start);
        shared.kept.retain(|(kept, _)| *kept != start);
        while shared.kept.len() >= self.blocks_max {
            let Some((_, oldest)) = shared.kept.pop_front() else { break };
            if let Ok(buffer) = oldest.try_into_mut() {
                self.recycle(&mut shared, buffer);
            }
        }
        shared.kept.push_back((start, bytes.clone()));
        bytes
    }

    fn recycle(&self, shared: &mut Shared, buffer: BytesMut) {
        if shared.spare.len() < 4 && buffer.capacity() >= BLOCK_LEN as usize {
            shared.spare.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_followed_when_it_is_asked_for_again_or_the_block_before_is_kept() {
        let blocks = Blocks::new(10 * (BLOCK_LEN + OVERLAP));
        assert!(matches!(blocks.look_up(0, 1), Lookup::Unknown));
        assert!(matches!(blocks.look_up(0, 1), Lookup::Followed));
        blocks.keep(0, blocks.buffer(BLOCK_LEN as usize));
        assert!(matches!(blocks.look_up(0, 1), Lookup::Kept(_)));
        assert!(matches!(blocks.look_up(BLOCK_LEN, 1), Lookup::Followed));
        assert!(matches!(blocks.look_up(3 * BLOCK_LEN, 1), Lookup::Unknown));
    }
}
