//! The dispatcher: follows the log and applies each message to every view.

use std::sync::Arc;

use env::{Step, Worker};

use super::{LastStop, QueueEntry, queue::WriteList};
use crate::{
    Fault, Inner,
    checkpoint::{Checkpoint, Progress},
    log::{append::lock, feed::DispatchItem},
};

/// Items of a step.
const RUN_MAX: usize = 1024;

/// The dispatcher's state; one caller at a time.
#[derive(Default)]
pub(crate) struct Dispatch {
    items: Vec<DispatchItem>,
    list: WriteList,
}

impl Dispatch {
    /// Applies what lies before `upto`; returns whether there is more.
    pub(crate) fn apply(&mut self, store: &Inner, upto: u64) -> Result<bool, Fault> {
        self.items.clear();
        let queue = |topic: &str, id: i32| store.queues.queue(topic, id);
        let next = store.log.next_items(upto, RUN_MAX, &queue, &mut self.items)?;
        let now = store.env.clock.monotonic();
        let mut batch = store.index.as_ref().map(|index| index.batch(store.env.clock.now()));
        for item in self.items.drain(..) {
            if let Some(queue) = &item.queue {
                let entry = QueueEntry {
                    log_offset: item.log_offset,
                    len: item.len,
                    tags_code: item.tags_code,
                };
                let mut pusher = queue.pusher();
                pusher.push(item.queue_offset, entry);
                if pusher.list() {
                    self.list.push(queue.clone(), now);
                }
            }
            if let Some(batch) = &mut batch {
                let end = item.log_offset + u64::from(item.len);
                batch.put(&item.keys, item.log_offset, end, item.stored_at)?;
            }
            if let Some(queue) = &item.queue {
                store.notify(queue, item.queue_offset + 1);
            }
        }
        drop(batch);
        store.log.marks.dispatched.advance(next);
        Ok(next < upto)
    }

    /// Makes everything that was applied durable and saves the checkpoint.
    pub(crate) fn sync(&mut self, store: &Inner, purpose: LastStop) -> Result<(), Fault> {
        while self.list.oldest().is_some() {
            self.list.write_first()?;
        }
        let views = self.list.written_to(store.log.marks.dispatched.get());
        store.queues.set_written_to(views);
        store.queues.sync()?;
        let sealed = match &store.index {
            Some(index) => index.sync(purpose)?.sealed_time,
            None => 0,
        };
        let log = store.log.marks.synced.get();
        let checkpoint = Checkpoint {
            log_time: store.env.clock.now(),
            queues_time: store.env.clock.now(),
            index_time: sealed,
            queues_offset: 0,
            progress: Some(Progress { log, views: views.min(log) }),
            ..Checkpoint::default()
        };
        checkpoint.save(&*store.env.disk, &store.path("checkpoint"))?;
        Ok(())
    }
}

/// The dispatcher thread.
pub(crate) struct Dispatcher(pub(crate) Arc<Inner>);

impl Worker for Dispatcher {
    fn step(&mut self) -> Step {
        let store = &self.0;
        match lock(&store.dispatch).apply(store, store.visible().get()) {
            Ok(true) => Step::Again,
            Ok(false) => Step::Idle,
            Err(error) => {
                tracing::error!(%error, "dispatch stands still");
                Step::Idle
            }
        }
    }
}
