//! One pipelined connection: the hot loop of the generator.
//!
//! A [`Load`] says what to write next and takes the answers; the pipe moves bytes. Reading and writing alternate on
//! one task, so a server that waits for its answers to be read cannot be waited for in turn.

use std::{future::Future, io, os::fd::OwnedFd, pin::pin, time::Duration};

use anyhow::{Context, Result, bail};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::TcpStream,
    time::Instant,
};

use super::scan::{Answer, Scanner};

/// What a load wants of its pipe now.
#[derive(Debug)]
pub(super) enum Next {
    /// The load's `run` holds bytes to write.
    Run,
    /// Nothing before this moment, unless an answer comes.
    Later(Instant),
    /// Nothing before an answer comes.
    Answer,
    /// All was sent and answered.
    Done,
}

/// A source of requests and a sink of answers.
pub(super) trait Load {
    /// Prepares the next run of whole frames, if there is one.
    fn next(&mut self, now: Instant) -> Next;
    /// The run prepared last.
    fn run(&self) -> &[u8];
    /// Takes one answer.
    fn answer(&mut self, answer: &Answer<'_>, now: Instant);
}

/// No answer for so long means that the server is gone.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Room for the answers of one read; grows for a frame that is longer.
const READ_BYTES: usize = 512 << 10;

/// A connection with what was read and not yet taken.
#[derive(Debug)]
pub(super) struct Pipe {
    stream: TcpStream,
    scanner: Scanner,
    buffer: Vec<u8>,
    filled: usize,
    timer: FineTimer,
}

impl Pipe {
    /// Connects to `host:port`.
    pub(super) async fn connect(address: &str) -> Result<Pipe> {
        let stream = TcpStream::connect(address)
            .await
            .with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Pipe {
            stream,
            scanner: Scanner::default(),
            buffer: vec![0; READ_BYTES],
            filled: 0,
            timer: FineTimer::new()?,
        })
    }

    /// Runs `load` to its end.
    pub(super) async fn drive(&mut self, load: &mut impl Load) -> Result<()> {
        let mut run_len = 0;
        let mut written = 0;
        let mut heard = Instant::now();
        loop {
            let mut progressed = false;
            let now = Instant::now();
            let mut later = None;
            if written == run_len {
                match load.next(now) {
                    Next::Run => (run_len, written) = (load.run().len(), 0),
                    Next::Later(at) => later = Some(at),
                    Next::Answer => {}
                    Next::Done => return Ok(()),
                }
            }
            if written < run_len {
                match self.stream.try_write(&load.run()[written..]) {
                    Ok(0) => bail!("the server closed the connection"),
                    Ok(count) => {
                        written += count;
                        progressed = true;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error.into()),
                }
            }
            match self.stream.try_read(&mut self.buffer[self.filled..]) {
                Ok(0) => bail!("the server closed the connection"),
                Ok(count) => {
                    self.filled += count;
                    progressed = true;
                    heard = Instant::now();
                    self.take(load, heard)?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
            if progressed {
                // the other connections share this thread
                tokio::task::yield_now().await;
                continue;
            }
            let interest = if written < run_len {
                Interest::READABLE | Interest::WRITABLE
            } else {
                Interest::READABLE
            };
            let limit = later.unwrap_or(heard + SILENCE_MAX);
            let ready = ready_before(self.stream.ready(interest), self.timer.until(limit)).await?;
            if !ready && later.is_none() && Instant::now() >= heard + SILENCE_MAX {
                bail!("no answer for {} s", SILENCE_MAX.as_secs());
            }
        }
    }

    fn take(&mut self, load: &mut impl Load, now: Instant) -> Result<()> {
        let mut at = 0;
        while let Some((len, answer)) = self.scanner.next(&self.buffer[at..self.filled])? {
            load.answer(&answer, now);
            at += len;
        }
        self.buffer.copy_within(at..self.filled, 0);
        self.filled -= at;
        if self.filled == self.buffer.len() {
            self.buffer.resize(2 * self.filled, 0);
        }
        Ok(())
    }
}

/// Waits for readiness, but not past `limit`; says whether it came.
async fn ready_before<T>(
    ready: impl Future<Output = io::Result<T>>,
    limit: impl Future<Output = io::Result<()>>,
) -> io::Result<bool> {
    let (ready, limit) = (pin!(ready), pin!(limit));
    tokio::select! {
        biased;
        ready = ready => ready.map(|_| true),
        ended = limit => ended.map(|()| false),
    }
}

/// A timer of the kernel: the runtime's own counts whole milliseconds, which is more than a message takes.
#[derive(Debug)]
struct FineTimer(AsyncFd<OwnedFd>);

impl FineTimer {
    #[expect(
        deprecated,
        reason = "its successor is unsafe for descriptors that may change; an owned one does not"
    )]
    fn new() -> io::Result<FineTimer> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        Ok(FineTimer(AsyncFd::with_interest(
            timerfd_create(TimerfdClockId::Monotonic, flags)?,
            Interest::READABLE,
        )?))
    }

    async fn until(&self, at: Instant) -> io::Result<()> {
        // zero would disarm it
        let left = at.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        let once = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: i64::from(left.subsec_nanos()),
            },
        };
        timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &once)?;
        loop {
            let mut ready = self.0.readable().await?;
            match rustix::io::read(self.0.get_ref(), &mut [0; 8]) {
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
