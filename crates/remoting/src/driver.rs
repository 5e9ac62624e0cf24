//! The task of one connection: read, split, hand over, wait, gather, write.
//!
//! It is one state machine polled as a whole. Each round collects answers that have become ready and frames that others
//! queued, sends all of it with gathering writes, and reads once; it sleeps when a round moved nothing.
//!
//! Back-pressure is reading less: above `outbound_bytes_pause` nothing is read and no waiting answer is taken, at
//! `requests_in_flight_max` nothing is read, and over a bound of the whole server only those read that hold nothing of
//! what it bounds.

use std::{
    future::Future,
    io::{self, IoSlice},
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tracing::{debug, warn};
use wire::frame::{Frame, FrameError, Kind};

use crate::{
    Answers, CloseReason, Connection, Handler, READ_BYTES_BASE, Replies,
    connection::Link,
    limits::READ_BYTES_BUSY,
    outbound::PIECES_MAX,
    server::{Commons, Registered},
    service::{Wait, WaitKind},
};

/// Room that is worth a read when the rest of the buffer is still in use.
const READ_BYTES_LEFT_MIN: usize = 512;

/// The gauge of requests in flight moves in steps of this many, so that it costs a busy connection nothing.
const IN_FLIGHT_STEP: u32 = 32;

/// Drives one connection until it ends; resolves to the reason.
pub(crate) struct Driver<S> {
    // Waits and parked answers may use what the handler owns, so they are declared, and dropped, before it.
    settled: FuturesUnordered<Waiting>,
    parked: FuturesUnordered<Waiting>,
    handler: Box<dyn Handler>,
    stream: S,
    commons: Arc<Commons>,
    link: Arc<Link>,
    buffer: BytesMut,
    /// Spare room that the next read is given, unless a large frame wants more; follows what reads bring.
    read_size: usize,
    /// Share of this connection in the server's read buffers.
    read_held: usize,
    /// Whether that share is beyond the bound.
    overdrawn: bool,
    run: Vec<Frame>,
    replies: Replies,
    in_flight: u32,
    in_flight_reported: u32,
    /// Bytes ever sent, and how many that has to be for the peer to count as reading.
    sent: u64,
    sent_goal: u64,
    /// Whether the stream may still hold some of what was sent, as TLS does while its socket is full.
    unflushed: bool,
    phase: Phase,
    detail: String,
    /// Last, so that the connection counts as open until its handler and socket are gone.
    _registered: Registered,
}

enum Phase {
    /// Taking requests.
    Open,
    /// Taking no more; ends when what is in flight is answered and sent.
    Ending(CloseReason),
    /// All is sent and our side closed; reading until the peer closes too, so that no reset overtakes the last answers.
    Lingering(CloseReason),
}

struct Waiting {
    requests: u32,
    answers: Pin<Box<dyn Future<Output = Answers> + Send>>,
}

impl Future for Waiting {
    type Output = (u32, Answers);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<(u32, Answers)> {
        let answers = ready!(self.answers.as_mut().poll(cx));
        Poll::Ready((self.requests, answers))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    pub(crate) fn new(stream: S, registered: Registered, handler: Box<dyn Handler>) -> Driver<S> {
        let Registered { commons, link } = &registered;
        let (commons, link) = (commons.clone(), link.clone());
        Driver {
            settled: FuturesUnordered::new(),
            parked: FuturesUnordered::new(),
            handler,
            stream,
            commons,
            link,
            buffer: BytesMut::new(),
            read_size: READ_BYTES_BASE,
            read_held: 0,
            overdrawn: false,
            run: Vec::new(),
            replies: Replies::default(),
            in_flight: 0,
            in_flight_reported: 0,
            sent: 0,
            sent_goal: 0,
            unflushed: false,
            phase: Phase::Open,
            detail: String::new(),
            _registered: registered,
        }
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        self.link.waker.register(cx.waker());
        if self.link.quiet.swap(false, Relaxed) {
            self.release_buffers();
        }
        if self.commons.is_stopping() && matches!(self.phase, Phase::Open) {
            self.end(CloseReason::Shutdown);
        }
        loop {
            if let Some(reason) = self.link.sentence() {
                return Poll::Ready(reason);
            }
            let mut moved = self.collect_answers(cx);
            match self.write(cx) {
                Ok(wrote) => moved |= wrote,
                Err(error) => return Poll::Ready(self.broken(&error)),
            }
            match self.phase {
                Phase::Open => match self.read(cx) {
                    Ok(read) => moved |= read,
                    Err(error) => return Poll::Ready(self.broken(&error)),
                },
                Phase::Ending(reason) => {
                    if self.settled.is_empty() && self.replies.now.is_empty() && !self.unflushed {
                        if reason != CloseReason::Shutdown {
                            return Poll::Ready(reason);
                        }
                        if let Err(error) = ready!(Pin::new(&mut self.stream).poll_shutdown(cx)) {
                            return Poll::Ready(self.broken(&error));
                        }
                        self.phase = Phase::Lingering(reason);
                        moved = true;
                    }
                }
                Phase::Lingering(reason) => {
                    self.buffer.clear();
                    self.buffer.reserve(READ_BYTES_BASE);
                    match ready!(pin!(self.stream.read_buf(&mut self.buffer)).poll(cx)) {
                        Ok(0) | Err(_) => return Poll::Ready(reason),
                        Ok(_) => moved = true,
                    }
                }
            }
            if !moved {
                return Poll::Pending;
            }
        }
    }

    /// Takes ready answers and queued pushes, while what is unsent leaves room for them.
    fn collect_answers(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        for waits in [&mut self.settled, &mut self.parked] {
            while self.replies.now.len() < self.commons.limits.outbound_bytes_pause {
                let Poll::Ready(Some((requests, answers))) = waits.poll_next_unpin(cx) else {
                    break;
                };
                self.in_flight -= requests;
                self.replies.now.append(answers);
                moved = true;
            }
        }
        if self.replies.now.len() < self.commons.limits.outbound_bytes_pause
            && let Some(mail) = self.link.take_mail()
        {
            self.replies.now.append(mail);
            moved = true;
        }
        if moved {
            self.report_in_flight();
        }
        moved
    }

    /// Writes until everything is sent or the socket is full.
    fn write(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut wrote = false;
        while !self.replies.now.is_empty() {
            let mut slices = [IoSlice::new(&[]); PIECES_MAX];
            let used = self.replies.now.gather(&mut slices);
            match Pin::new(&mut self.stream).poll_write_vectored(cx, &slices[..used]) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(sent)) => {
                    self.replies.now.advance(sent);
                    self.sent += sent as u64;
                    wrote = true;
                }
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => break,
            }
        }
        self.unflushed |= wrote;
        if self.unflushed
            && let Poll::Ready(flushed) = Pin::new(&mut self.stream).poll_flush(cx)
        {
            flushed?;
            self.unflushed = false;
        }
        if wrote {
            self.link.moved_at.store(self.commons.tick(), Relaxed);
        }
        self.note_blocked();
        Ok(wrote)
    }

    /// Keeps the sweep informed of what waits for the peer, and since when.
    fn note_blocked(&mut self) {
        let unsent = self.replies.now.len() + usize::from(self.unflushed);
        let blocked = self.link.blocked_since.load(Relaxed) != 0;
        if unsent == 0 && !blocked {
            return;
        }
        if unsent == 0 {
            self.link.blocked_since.store(0, Relaxed);
        } else if !blocked || self.sent >= self.sent_goal {
            self.sent_goal = self.sent + unsent as u64;
            self.link.blocked_since.store(self.commons.tick(), Relaxed);
        }
        let before = self.link.blocked_bytes.swap(unsent, Relaxed);
        self.commons.outbound_changed(before, unsent);
    }

    /// Reads once and hands over what is whole; true if anything came or is left to hand over.
    fn read(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let room = self.room_for_requests();
        if room == 0 {
            // What the peer has sent meanwhile is late through us, not through the peer.
            self.link.half_since.store(0, Relaxed);
            return Ok(false);
        }
        if self.holds_whole_frame() {
            self.hand_over(room);
            return Ok(true);
        }
        if !self.make_room() {
            return Ok(false);
        }
        let capacity = self.buffer.capacity() - self.buffer.len();
        let Poll::Ready(read) = pin!(self.stream.read_buf(&mut self.buffer)).poll(cx) else {
            if !self.buffer.is_empty() && self.link.half_since.load(Relaxed) == 0 {
                self.link.half_since.store(self.commons.tick(), Relaxed);
            }
            return Ok(false);
        };
        let read = match read {
            // TLS that ends without a farewell. A frame has its length, so nobody is deceived by what is cut off.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
            read => read?,
        };
        if read == 0 {
            self.end(CloseReason::ByPeer);
            return Ok(true);
        }
        self.link.moved_at.store(self.commons.tick(), Relaxed);
        self.follow_read_size(read, capacity);
        self.hand_over(room);
        Ok(true)
    }

    /// Returns how many requests may be taken now; none while a bound of ours or of the server says to wait.
    fn room_for_requests(&self) -> usize {
        let limits = &self.commons.limits;
        if self.replies.now.len() >= limits.outbound_bytes_pause {
            return 0;
        }
        let over_total = (self.in_flight > 0 && self.commons.requests_over_bound())
            || (!self.replies.now.is_empty() && self.commons.outbound_over_bound());
        if over_total {
            self.starve();
            return 0;
        }
        limits
            .requests_in_flight_max
            .saturating_sub(self.in_flight as usize)
            .min(limits.run_frames_max)
    }

    fn holds_whole_frame(&self) -> bool {
        frame_len(&self.buffer).is_some_and(|len| self.buffer.len() >= len)
    }

    /// Makes room to read into; false if the server's read buffers are at their bound.
    ///
    /// A frame gets room as its bytes arrive, at most as much again as is already here: its length alone earns nothing.
    /// Room for more than the frame needs is given only while half of the bound is free, so that frames find room.
    fn make_room(&mut self) -> bool {
        let len = self.buffer.len();
        let missing = frame_len(&self.buffer).map_or(0, |whole| whole.saturating_sub(len));
        let needed = len + missing.min(len).max(1);
        let liked = self.read_size.max(needed);
        if self.buffer.try_reclaim(liked - len) {
            return true;
        }
        // Waits still hold slices of this buffer. The rest of it is used up first, so that what they pin is hardly
        // more than what they hold.
        if missing == 0 && self.buffer.capacity() - len >= READ_BYTES_LEFT_MIN {
            return true;
        }
        let bound = self.commons.limits.read_bytes_total_max;
        let capacity = if self.take_share(liked, bound / 2) {
            liked
        } else if self.take_share(needed, bound) || self.overdraw(needed) {
            needed
        } else {
            self.read_held + READ_BYTES_BASE
        };
        if capacity <= len {
            self.starve();
            return false;
        }
        self.replace_buffer(capacity);
        true
    }

    /// Holds a share of the server's read buffers that is enough for `capacity`, unless that takes it over `bound`.
    fn take_share(&mut self, capacity: usize, bound: usize) -> bool {
        let share = capacity.saturating_sub(READ_BYTES_BASE);
        let taken =
            share <= self.read_held || self.commons.take_read_bytes(share - self.read_held, bound);
        if taken {
            self.read_held = self.read_held.max(share);
        }
        taken
    }

    /// Holds it beyond the bound, if no other connection does: so that frames that fill the bound together, and none of
    /// them whole, get through one after the other.
    fn overdraw(&mut self, capacity: usize) -> bool {
        self.overdrawn = self.overdrawn || self.commons.take_overdraft(&self.link);
        self.overdrawn && self.take_share(capacity, usize::MAX)
    }

    /// Gives back what a large frame took, or what is more than a fair share while room is scarce.
    fn shrink_buffer(&mut self) {
        if self.read_held == 0 {
            return;
        }
        let scarce =
            self.commons.metrics.read_bytes() > self.commons.limits.read_bytes_total_max / 2;
        let kept = if scarce { 0 } else { READ_BYTES_BUSY - READ_BYTES_BASE };
        let len = self.buffer.len();
        if self.read_held <= kept || len > READ_BYTES_BASE {
            return;
        }
        match len {
            0 => self.buffer = BytesMut::new(),
            _ => self.replace_buffer(READ_BYTES_BASE),
        }
        self.give_share();
    }

    fn replace_buffer(&mut self, capacity: usize) {
        let mut buffer = BytesMut::with_capacity(capacity);
        buffer.extend_from_slice(&self.buffer);
        self.buffer = buffer;
    }

    fn starve(&self) {
        self.link.starved.store(true, Relaxed);
        self.commons.note_starving();
    }

    /// Doubles the next read when this one was full, halves it when it was nearly empty.
    fn follow_read_size(&mut self, read: usize, capacity: usize) {
        if read == capacity {
            self.read_size = (self.read_size * 2).min(READ_BYTES_BUSY);
        } else if read < self.read_size / 4 {
            self.read_size = (self.read_size / 2).max(READ_BYTES_BASE);
        }
    }

    /// Splits whole frames off the buffer, answers our calls among them, and gives the requests to the handler.
    fn hand_over(&mut self, frames_max: usize) {
        let mut whole = false;
        let mut fault = None;
        while self.run.len() < frames_max {
            match Frame::split(&mut self.buffer, self.commons.limits.frame_bytes_max) {
                Ok(None) => break,
                Ok(Some(bytes)) => match Frame::decode(bytes) {
                    Ok(frame) => {
                        whole = true;
                        match frame.kind {
                            Kind::Request | Kind::Oneway => self.run.push(frame),
                            Kind::Response => self.link.answer(frame),
                        }
                    }
                    Err(error) => fault = Some(error),
                },
                Err(error) => fault = Some(error),
            }
            if fault.is_some() {
                break;
            }
        }
        if !self.run.is_empty() {
            self.handler.run(&mut self.run, &mut self.replies);
            self.run.clear();
            self.start_waits();
        }
        if let Some(error) = fault {
            self.refuse(&error);
        }
        if whole {
            self.shrink_buffer();
        }
        let half_since = match self.buffer.is_empty() {
            true => 0,
            false if whole || self.link.half_since.load(Relaxed) == 0 => self.commons.tick(),
            false => return,
        };
        self.link.half_since.store(half_since, Relaxed);
    }

    fn start_waits(&mut self) {
        for Wait { requests, kind, answers } in self.replies.waits.drain(..) {
            self.in_flight += requests;
            let waiting = Waiting { requests, answers };
            match kind {
                WaitKind::Settled => self.settled.push(waiting),
                WaitKind::Parked => self.parked.push(waiting),
            }
        }
        self.report_in_flight();
    }

    fn report_in_flight(&mut self) {
        if self.in_flight.abs_diff(self.in_flight_reported) >= IN_FLIGHT_STEP {
            self.commons.requests_changed(self.in_flight_reported, self.in_flight);
            self.in_flight_reported = self.in_flight;
        }
    }

    /// Stops reading for bytes that are no frame; what came before them is still answered.
    fn refuse(&mut self, error: &FrameError) {
        let protocol = guess_protocol(&self.buffer);
        self.detail = match protocol {
            Some("TLS") => "TLS on a port that does not offer it (tls.server.certPath)".to_owned(),
            Some(protocol) => format!("{protocol} on a remoting port"),
            None => error.to_string(),
        };
        self.end(match error {
            FrameError::TooLarge { .. } if protocol.is_none() => CloseReason::FrameTooLarge,
            FrameError::TooLarge { .. }
            | FrameError::Length
            | FrameError::Codec(_)
            | FrameError::Fields
            | FrameError::Json(_) => CloseReason::BadFrame,
        });
    }

    fn end(&mut self, reason: CloseReason) {
        self.phase = Phase::Ending(reason);
        // Answers that wait for the peer's own would hold up a stop for as long as their callers are patient.
        self.link.end_calls();
        let dropped = std::mem::take(&mut self.parked);
        self.in_flight -= dropped.iter().map(|waiting| waiting.requests).sum::<u32>();
        self.report_in_flight();
        self.link.half_since.store(0, Relaxed);
        self.buffer = BytesMut::new();
    }

    fn broken(&mut self, error: &io::Error) -> CloseReason {
        self.detail = error.to_string();
        match error.kind() {
            // Sockets fail otherwise.
            io::ErrorKind::InvalidData => CloseReason::Tls,
            _ => CloseReason::Broken,
        }
    }

    /// Says how things stood when a bound on time or memory was passed.
    fn describe(&self, reason: CloseReason) -> String {
        let unsent = self.replies.now.len();
        match reason {
            CloseReason::HalfFrame => {
                let (here, whole) = (self.buffer.len(), frame_len(&self.buffer).unwrap_or(4));
                format!(
                    "{here} of {whole} bytes of a frame after {:?}",
                    self.commons.limits.frame_timeout
                )
            }
            CloseReason::SlowReader => {
                format!("{unsent} bytes unsent after {:?}", self.commons.limits.drain_timeout)
            }
            CloseReason::OutboundPressure => {
                let max = self.commons.limits.outbound_bytes_total_max;
                format!("{unsent} bytes unsent, and over {max} by all connections")
            }
            CloseReason::ByPeer
            | CloseReason::Broken
            | CloseReason::Shutdown
            | CloseReason::Dismissed
            | CloseReason::Idle
            | CloseReason::BadFrame
            | CloseReason::FrameTooLarge
            | CloseReason::Tls => String::new(),
        }
    }

    fn release_buffers(&mut self) {
        self.replies.now.release();
        self.replies.waits = Vec::new();
        self.run = Vec::new();
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
            self.read_size = READ_BYTES_BASE;
            self.give_share();
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Driver<S> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let reason = ready!(self.poll_end(cx));
        let remote = Connection(self.link.clone()).remote();
        if self.detail.is_empty() {
            self.detail = self.describe(reason);
        }
        let detail = &self.detail;
        if reason.is_peers_fault() {
            warn!(%remote, ?reason, detail, "connection closed");
        } else {
            debug!(%remote, ?reason, detail, "connection closed");
        }
        self.commons.metrics.closed[reason as usize].fetch_add(1, Relaxed);
        Poll::Ready(())
    }
}

impl<S> Driver<S> {
    fn give_share(&mut self) {
        self.commons.give_read_bytes(std::mem::take(&mut self.read_held));
        if std::mem::take(&mut self.overdrawn) {
            self.commons.give_overdraft();
        }
    }
}

impl<S> Drop for Driver<S> {
    fn drop(&mut self) {
        self.link.bury();
        self.give_share();
        self.commons.requests_changed(self.in_flight_reported, 0);
        self.commons.outbound_changed(self.link.blocked_bytes.swap(0, Relaxed), 0);
    }
}

/// Returns the length of the frame at the front with its length field, once that field is here.
fn frame_len(buffer: &[u8]) -> Option<usize> {
    let length = buffer.first_chunk::<4>()?;
    Some(4 + usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX - 4))
}

/// Names the protocol of a peer that does not speak remoting, for the log.
fn guess_protocol(bytes: &[u8]) -> Option<&'static str> {
    const METHODS: [&[u8]; 6] = [b"GET ", b"POST", b"PUT ", b"HEAD", b"DELE", b"OPTI"];
    match bytes {
        [0x16, 0x03, ..] => Some("TLS"),
        [b'P', b'R', b'I', b' ', ..] => Some("HTTP/2"),
        _ if METHODS.iter().any(|method| bytes.starts_with(method)) => Some("HTTP"),
        [b'A', b'M', b'Q', b'P', ..] => Some("AMQP"),
        [b'S', b'S', b'H', b'-', ..] => Some("SSH"),
        _ => None,
    }
}
