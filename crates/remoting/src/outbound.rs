//! Answers on their way out: encoded heads and shared bodies in the order they are sent.
//!
//! Heads and small bodies are gathered in one buffer, larger bodies stay the slices they are (of the log's tail, of a
//! file block); a gathering write sends both without copying the latter. The bytes held here are what a slow reader
//! pins, so their sum is kept.

use std::{collections::VecDeque, io::IoSlice};

use bytes::{Buf, Bytes, BytesMut};
use wire::frame::Frame;

/// Bodies up to this size are copied behind their head: cheaper than an entry of their own in a gathering write.
const COPY_BYTES_MAX: usize = 512;

/// Pieces that one gathering write takes.
pub(crate) const PIECES_MAX: usize = 64;

/// Capacity that an emptied head buffer keeps for the next answers.
const HEAD_BYTES_KEPT: usize = 64 * 1024;

/// Encoded frames in sending order: what a waiting request resolves to.
#[derive(Default)]
pub struct Answers {
    pieces: VecDeque<Bytes>,
    heads: BytesMut,
    len: usize,
}

impl Answers {
    /// Returns an empty set of answers, as a request that wants no answer resolves to.
    pub fn new() -> Answers {
        Answers::default()
    }

    /// Encodes `frame` behind what is there; a large body is kept as a slice, not copied.
    pub fn push(&mut self, frame: &Frame) {
        let before = self.heads.len();
        frame.encode_head(frame.body_len(), &mut self.heads);
        self.len += self.heads.len() - before;
        for part in &frame.body {
            self.push_part(part.clone());
        }
    }

    /// As [`Answers::push`], with the slices of the body moved instead of shared.
    fn push_whole(&mut self, mut frame: Frame) {
        let before = self.heads.len();
        let body = std::mem::take(&mut frame.body);
        frame.encode_head(body.iter().map(Bytes::len).sum(), &mut self.heads);
        self.len += self.heads.len() - before;
        for part in body {
            self.push_part(part);
        }
    }

    /// Has `write` append whole frames without a body, or with a small one, to what is there.
    pub fn encode(&mut self, write: impl FnOnce(&mut BytesMut)) {
        let before = self.heads.len();
        write(&mut self.heads);
        self.len += self.heads.len() - before;
    }

    /// Returns the number of bytes to send.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Tells whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn push_part(&mut self, part: Bytes) {
        self.len += part.len();
        if part.len() <= COPY_BYTES_MAX {
            self.heads.extend_from_slice(&part);
            return;
        }
        self.close_heads();
        self.pieces.push_back(part);
    }

    fn close_heads(&mut self) {
        if !self.heads.is_empty() {
            self.pieces.push_back(self.heads.split().freeze());
        }
    }

    /// Moves everything of `other` behind what is here.
    pub(crate) fn append(&mut self, mut other: Answers) {
        self.len += other.len;
        if other.pieces.is_empty() && other.heads.len() <= COPY_BYTES_MAX * 4 {
            self.heads.extend_from_slice(&other.heads);
            return;
        }
        self.close_heads();
        self.pieces.append(&mut other.pieces);
        // What is behind the last piece of `other` is the head buffer to continue in, unless ours is the roomier one.
        if other.heads.is_empty() {
            return;
        }
        self.pieces.push_back(other.heads.freeze());
    }

    /// Points `slices` at the first pieces and returns how many were used.
    pub(crate) fn gather<'a>(&'a self, slices: &mut [IoSlice<'a>; PIECES_MAX]) -> usize {
        let mut used = 0;
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            *slice = IoSlice::new(piece);
            used += 1;
        }
        if used < PIECES_MAX && !self.heads.is_empty() {
            slices[used] = IoSlice::new(&self.heads);
            used += 1;
        }
        used
    }

    /// Drops the first `sent` bytes.
    pub(crate) fn advance(&mut self, mut sent: usize) {
        self.len -= sent;
        while let Some(piece) = self.pieces.front_mut() {
            if sent < piece.len() {
                piece.advance(sent);
                return;
            }
            sent -= piece.len();
            self.pieces.pop_front();
        }
        if sent < self.heads.len() {
            self.heads.advance(sent);
        } else if self.heads.capacity() > HEAD_BYTES_KEPT {
            self.heads = BytesMut::new();
        } else {
            self.heads.clear();
        }
    }

    /// Gives up the buffers of an idle connection.
    pub(crate) fn release(&mut self) {
        if self.is_empty() {
            *self = Answers::default();
        }
    }
}

impl From<&Frame> for Answers {
    fn from(frame: &Frame) -> Answers {
        let mut answers = Answers::new();
        answers.push(frame);
        answers
    }
}

impl From<Frame> for Answers {
    fn from(frame: Frame) -> Answers {
        let mut answers = Answers::new();
        answers.push_whole(frame);
        answers
    }
}
