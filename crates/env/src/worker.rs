//! Work that runs beside the requests: a synchronous `step`, which is a named thread in production and a plain call in a
//! simulation.
//!
//! Invariant: every thread has a name and an owner who joins it. A worker is never interrupted within a step. One that
//! panics ends the process: what it was to write or to announce would be missing from then on, and nobody would know.

use std::{
    any::Any,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    process,
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
    /// Lets the present step end, then ends and joins the thread.
    pub fn stop(self) {}
}

impl Drop for WorkerHandle {
    fn drop(&mut self) {
        self.wake.stop();
        if let Some(thread) = self.thread.take() {
            // A panic does not come this far: it has ended the process.
            let _ = thread.join();
        }
    }
}

/// Runs `worker` on a thread of its own named `name` (cut to 15 bytes by Linux), until it is done or its handle goes.
/// `wake` is the one that others hold; a wake serves one worker. A panic of the worker is told on standard error and
/// aborts the process.
pub fn spawn_worker(
    name: &str,
    clock: &Clock,
    mut worker: impl Worker + 'static,
    wake: &Wake,
) -> io::Result<WorkerHandle> {
    let (clock, own, worker_name) = (clock.clone(), wake.clone(), name.to_owned());
    let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
        // Whoever calls `wake` before this line leaves `called` set, and the first step comes anyway.
        let _ = own.0.thread.set(thread::current());
        let steps =
            catch_unwind(AssertUnwindSafe(|| step_until_stopped(&mut worker, &clock, &own)));
        if let Err(panic) = steps {
            eprintln!("worker `{worker_name}` panicked ({}): the process ends", why(&*panic));
            process::abort();
        }
    })?;
    Ok(WorkerHandle { wake: wake.clone(), thread: Some(thread) })
}

fn step_until_stopped(worker: &mut impl Worker, clock: &Clock, wake: &Wake) {
    while !wake.0.stopped.load(Ordering::SeqCst) {
        wake.0.called.store(false, Ordering::SeqCst);
        match worker.step() {
            Step::Again => {}
            Step::Done => return,
            Step::Idle => {
                while !wake.0.called.load(Ordering::SeqCst) {
                    thread::park();
                }
            }
            Step::IdleUntil(deadline) => {
                while !wake.0.called.load(Ordering::SeqCst) {
                    let left = deadline.saturating_sub(clock.monotonic());
                    if left.is_zero() {
                        break;
                    }
                    thread::park_timeout(left);
                }
            }
        }
    }
}

fn why(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
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

    struct Panics;

    impl Worker for Panics {
        fn step(&mut self) -> Step {
            panic!("the disk spoke Latin")
        }
    }

    #[test]
    fn a_worker_that_panics_says_so_and_takes_the_process_with_it() {
        const IN_CHILD: &str = "APOGEE_TEST_PANIC";
        if std::env::var_os(IN_CHILD).is_some() {
            let handle = spawn_worker("log-writer", &Clock::real(), Panics, &Wake::new());
            // The parent sees a success if the process lives on.
            let _ = handle.expect("a thread starts").thread.take().expect("not joined").join();
            return;
        }
        let name = "worker::tests::a_worker_that_panics_says_so_and_takes_the_process_with_it";
        let child = process::Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", name, "--nocapture"])
            .env(IN_CHILD, "1")
            .output()
            .expect("it runs");
        assert!(!child.status.success(), "{child:?}");
        let told = String::from_utf8_lossy(&child.stderr);
        let expected = "worker `log-writer` panicked (the disk spoke Latin): the process ends";
        assert!(told.contains(expected), "{told}");
    }
}
