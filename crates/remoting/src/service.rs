//! The seam between transport and doors: what a door implements, and how it answers.

use std::{future::Future, pin::Pin};

use bytes::BytesMut;
use wire::{
    code::{RequestCode, ResponseCode},
    frame::{Frame, Kind},
};

use crate::{Answers, Connection};

/// A door behind one or several listeners: makes a [`Handler`] for every connection.
pub trait Service: Send + Sync + 'static {
    /// Called once per connection, before its first request. The handle may be kept to push requests to the peer.
    fn connected(&self, connection: &Connection) -> Box<dyn Handler>;
}

/// The door's side of one connection. It is dropped when the connection is gone, after every wait it had started.
pub trait Handler: Send {
    /// Takes all requests that one read of the socket brought, in order; oneway frames are among them.
    ///
    /// Each request is answered by pushing its response into `replies` now, or by handing `replies` a future that will.
    /// It must not block: the connection, and others on the same thread, wait. Frames left in `run` are dropped. A frame,
    /// and every slice of it, keeps the whole buffer of its read alive, so what may wait long copies what it needs.
    fn run(&mut self, run: &mut Vec<Frame>, replies: &mut Replies);
}

/// What a handler does with its requests: answer now, wait, or park.
#[derive(Default)]
pub struct Replies {
    pub(crate) now: Answers,
    pub(crate) waits: Vec<Wait>,
}

pub(crate) struct Wait {
    pub(crate) requests: u32,
    pub(crate) kind: WaitKind,
    pub(crate) answers: Pin<Box<dyn Future<Output = Answers> + Send>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitKind {
    Settled,
    Parked,
}

impl Replies {
    /// Answers at once, in the write that ends this run.
    pub fn push(&mut self, frame: &Frame) {
        self.now.push(frame);
    }

    /// Has `write` append whole answers, as [`Answers::encode`] does, to the write that ends this run.
    pub fn encode(&mut self, write: impl FnOnce(&mut BytesMut)) {
        self.now.encode(write);
    }

    /// Answers `requests` requests of the run when `answers` resolves: for work that is already done and only has to
    /// become durable, so it is waited for when the server stops or the peer has closed its side.
    ///
    /// Waits do not wait for each other; answers leave in the order in which they resolve.
    pub fn later<A: Into<Answers>>(
        &mut self,
        requests: u32,
        answers: impl Future<Output = A> + Send + 'static,
    ) {
        self.wait(requests, WaitKind::Settled, answers);
    }

    /// Answers one request when `answer` resolves: for a long poll, which is dropped when the server stops or the peer
    /// has closed its side. Reads belong here as well: a parked answer is not even begun while the peer leaves earlier
    /// ones unread.
    pub fn park<A: Into<Answers>>(&mut self, answer: impl Future<Output = A> + Send + 'static) {
        self.wait(1, WaitKind::Parked, answer);
    }

    fn wait<A: Into<Answers>>(
        &mut self,
        requests: u32,
        kind: WaitKind,
        answers: impl Future<Output = A> + Send + 'static,
    ) {
        let answers = Box::pin(async move { answers.await.into() });
        self.waits.push(Wait { requests, kind, answers });
    }
}

/// A handler for a peer that is not expected to ask: every request is answered with `REQUEST_CODE_NOT_SUPPORTED`.
pub struct NoRequests;

impl Handler for NoRequests {
    fn run(&mut self, run: &mut Vec<Frame>, replies: &mut Replies) {
        for request in run.drain(..) {
            if request.kind == Kind::Request {
                let remark = format!("request code {} is not supported", RequestCode(request.code));
                replies.push(
                    &request.respond(ResponseCode::REQUEST_CODE_NOT_SUPPORTED).with_remark(remark),
                );
            }
        }
    }
}
