//! Work that runs beside the requests: a synchronous `step`, which is a named thread in production and a plain call in a
//! simulation.
//!
//! Invariant: every thread has a name and an owner who joins it. A worker is never interrupted within a step.

use std::{
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use crate::Clock;

/// Something that has work to do again and again.
pub trait Worker: Send {
    /// Does a bounded piece of work and says when it wants to be called again.
    fn step(&mut self) -> Step;
}

impl<W: Worker + ?Sized> Worker for Box<W> {
    fn step(&mut self) -> Step {
        (**self).step()
    }
}

/// When a [`Worker`] wants its next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// At once: there is more to do.
    Again,
    /// When its [`Wake`] is called.
    Idle,
    /// When its [`Wake`] is called, or at this time of [`Clock::monotonic`].
    IdleUntil(Duration),
    /// Never again.
    Done,
}

/// Rouses an idle worker; cheap to clone, cheap to call when the worker is already awake.
#[derive(Clone, Default)]
pub struct Wake(Arc<WakeState>);

#[derive(Default)]
struct WakeState {
    /// Set by `wake`, taken by the worker before it looks for work, so no call is lost between look and sleep.
    called: AtomicBool,
    stopped: AtomicBool,
    thread: OnceLock<thread::Thread>,
}

impl Wake {
    /// Returns a wake that rouses nobody until a worker is spawned with it.
    pub fn new() -> Wake {
        Wake::default()
    }

    /// Makes the worker take another step soon.
    pub fn wake(&self) {
        // The plain look first keeps a busy worker's line shared among the callers.
        if !self.0.called.load(Ordering::SeqCst)
            && !self.0.called.swap(true, Ordering::SeqCst)
            && let Some(thread) = self.0.thread.get()
        {
            thread.unpark();
        }
    }

    fn stop(&self) {
        self.0.stopped.store(true, Ordering::SeqCst);
        self.0.called.store(true, Ordering::SeqCst);
        if let Some(thread) = self.0.thread.get() {
            thread.unpark();
        }
    }
}

/// The owner's end of a worker thread; dropping it stops and joins the thread.
pub struct WorkerHandle {
    wake: Wake,
    thread: Option<thread::JoinHandle<()>>,
}

impl WorkerHandle {
    /// Lets the present step end, then ends and joins the thread. A panic of the worker is passed on.
    pub fn stop(mut self) {
        if let Err(panic) = self.join() {
            std::panic::resume_unwind(panic);
        }
    }

    fn join(&mut self) -> thread::Result<()> {
        self.wake.stop();
        self.thread.take().map_or(Ok(()), thread::JoinHandle::join)
    }
}

impl Drop for WorkerHandle {
    fn drop(&mut self) {
        // A panic was already printed by the thread itself; raising it here could abort an unwinding owner.
        let _ = self.join();
    }
}

/// Runs `worker` on a thread of its own named `name` (cut to 15 bytes by Linux), until it is done or its handle goes.
/// `wake` is the one that others hold; a wake serves one worker.
pub fn spawn_worker(
    name: &str,
    clock: &Clock,
    mut worker: impl Worker + 'static,
    wake: &Wake,
) -> io::Result<WorkerHandle> {
    let clock = clock.clone();
    let own = wake.clone();
    let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
        // Whoever calls `wake` before this line leaves `called` set, and the first step comes anyway.
        let _ = own.0.thread.set(thread::current());
        while !own.0.stopped.load(Ordering::SeqCst) {
            own.0.called.store(false, Ordering::SeqCst);
            match worker.step() {
                Step::Again => {}
                Step::Done => return,
                Step::Idle => {
                    while !own.0.called.load(Ordering::SeqCst) {
                        thread::park();
                    }
                }
                Step::IdleUntil(deadline) => {
                    while !own.0.called.load(Ordering::SeqCst) {
                        let left = deadline.saturating_sub(clock.monotonic());
                        if left.is_zero() {
                            break;
                        }
                        thread::park_timeout(left);
                    }
                }
            }
        }
    })?;
    Ok(WorkerHandle { wake: wake.clone(), thread: Some(thread) })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    struct Report(mpsc::Sender<()>);

    impl Worker for Report {
        fn step(&mut self) -> Step {
            let _ = self.0.send(());
            Step::Idle
        }
    }

    #[test]
    fn an_idle_worker_steps_once_for_a_wake_and_ends_with_its_handle() {
        let (sender, steps) = mpsc::channel();
        let wake = Wake::new();
        let handle = spawn_worker("test-worker", &Clock::real(), Report(sender), &wake)
            .expect("a thread starts");
        steps.recv().expect("the first step comes by itself");
        wake.wake();
        steps.recv().expect("a wake is never lost");
        handle.stop();
        assert!(steps.recv().is_err(), "the worker is gone");
    }
}
