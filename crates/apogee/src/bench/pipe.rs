//! One pipelined connection: the hot loop of the generator.
//!
//! A [`Load`] says what to write next and takes the answers; the pipe moves bytes. Reading and writing alternate on
//! one task, so a server that waits for its answers to be read cannot be waited for in turn.

use std::{future::Future, io, pin::pin, time::Duration};

use anyhow::{Context, Result, bail};
use tokio::{
    io::Interest,
    net::TcpStream,
    time::{Instant, sleep_until},
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
}

impl Pipe {
    /// Connects to `host:port`.
    pub(super) async fn connect(address: &str) -> Result<Pipe> {
        let stream = TcpStream::connect(address)
            .await
            .with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Pipe { stream, scanner: Scanner::default(), buffer: vec![0; READ_BYTES], filled: 0 })
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
            let ready = ready_before(self.stream.ready(interest), limit).await?;
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
    limit: Instant,
) -> io::Result<bool> {
    let ready = pin!(ready);
    tokio::select! {
        biased;
        ready = ready => ready.map(|_| true),
        () = sleep_until(limit) => Ok(false),
    }
}
