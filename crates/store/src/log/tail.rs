//! The young end of the log in memory: what is not written yet, and as much of what was written as the bound allows.
//!
//! A run of appends leaves one [`Piece`], a shared slice of a chunk, so writer, readers and dispatcher copy nothing. A
//! chunk is used again once its last piece left the tail and no reader holds any of it: the working set stays in cache.
//!
//! Invariant: pieces follow each other without a gap; nothing leaves before it is written.

use std::{
    collections::VecDeque,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Bytes, BytesMut};

use super::append::lock;

/// Bytes of a chunk; a longer record gets a chunk of its own.
const CHUNK_LEN: usize = 256 << 10;
/// Chunks kept for the next use.
const SPARE_CHUNKS_MAX: usize = 8;
/// Pieces kept beside what is unwritten: each costs some 60 bytes, which tiny runs would let grow past the bytes they hold.
const PIECES_MAX: usize = 1 << 15;

/// Neighbouring records, encoded in one run.
#[derive(Clone)]
pub(crate) struct Piece {
    /// Log offset of the first byte.
    pub(crate) at: u64,
    /// Log offset of the next piece: behind a blank, the start of the next file.
    pub(crate) next: u64,
    /// The records, or the 8 bytes of a blank.
    pub(crate) bytes: Bytes,
    /// Whether it is the blank that ends a file.
    pub(crate) ends_file: bool,
}

/// The tail of a log.
pub(crate) struct Tail {
    bytes_max: u64,
    /// At most the shelf's `start`: spares who reads far behind it the lock.
    start: AtomicU64,
    shelf: Mutex<Shelf>,
}

struct Shelf {
    pieces: VecDeque<Piece>,
    /// Log offset of the first piece, or of the next one if there is none.
    start: u64,
    bytes: u64,
    spare: Vec<BytesMut>,
}

impl Tail {
    pub(crate) fn new(bytes_max: u64, start: u64) -> Tail {
        let shelf = Shelf { pieces: VecDeque::new(), start, bytes: 0, spare: Vec::new() };
        Tail { bytes_max, start: AtomicU64::new(start), shelf: Mutex::new(shelf) }
    }

    /// Takes the pieces of a run, which follow the last one.
    pub(crate) fn push(&self, pieces: &mut Vec<Piece>) {
        let mut shelf = lock(&self.shelf);
        for piece in pieces.drain(..) {
            debug_assert!(shelf.pieces.back().is_none_or(|last| last.next == piece.at));
            shelf.bytes += piece.bytes.len() as u64;
            shelf.pieces.push_back(piece);
        }
    }

    /// Returns an empty chunk with room for at least `len` bytes.
    pub(crate) fn chunk(&self, len: usize) -> BytesMut {
        if len > CHUNK_LEN {
            return BytesMut::with_capacity(len);
        }
        let spare = lock(&self.shelf).spare.pop();
        let mut chunk = spare.unwrap_or_default();
        // Takes the whole of a used chunk back: nobody else refers to it.
        chunk.reserve(CHUNK_LEN);
        chunk
    }

    /// Collects pieces from offset `from` on that lie in one file without a hole, at least one if there is one, up to
    /// about `bytes_max`. Returns the offset that follows them.
    pub(crate) fn collect(&self, from: u64, bytes_max: usize, out: &mut Vec<Bytes>) -> u64 {
        let shelf = lock(&self.shelf);
        let first = shelf.pieces.partition_point(|piece| piece.at < from);
        let (mut end, mut bytes) = (from, 0);
        for piece in shelf.pieces.range(first..) {
            if bytes > 0 && bytes + piece.bytes.len() > bytes_max {
                break;
            }
            bytes += piece.bytes.len();
            out.push(piece.bytes.clone());
            end = piece.next;
            if piece.ends_file {
                break;
            }
        }
        end
    }

    /// Returns the slice of a record that the tail holds; `None` if it lies before the tail, or not in one piece of it.
    pub(crate) fn slice(&self, at: u64, len: usize) -> Option<Bytes> {
        if at < self.start.load(Ordering::Acquire) {
            return None;
        }
        let shelf = lock(&self.shelf);
        if at < shelf.start {
            return None;
        }
        let after = shelf.pieces.partition_point(|piece| piece.at <= at);
        let piece = shelf.pieces.get(after.checked_sub(1)?)?;
        let from = usize::try_from(at - piece.at).ok()?;
        let to = from.checked_add(len)?;
        (to <= piece.bytes.len()).then(|| piece.bytes.slice(from..to))
    }

    /// Lets go of the oldest written pieces above the bound.
    pub(crate) fn trim(&self, written: u64) {
        let mut shelf = lock(&self.shelf);
        while shelf.bytes > self.bytes_max || shelf.pieces.len() > PIECES_MAX {
            let Some(piece) = shelf.pieces.pop_front_if(|piece| piece.next <= written) else {
                break;
            };
            shelf.bytes -= piece.bytes.len() as u64;
            shelf.start = piece.next;
            self.start.store(shelf.start, Ordering::Release);
            // Only the last to refer to a chunk gets it.
            if shelf.spare.len() < SPARE_CHUNKS_MAX
                && let Ok(mut chunk) = piece.bytes.try_into_mut()
            {
                chunk.clear();
                shelf.spare.push(chunk);
            }
        }
    }
}
