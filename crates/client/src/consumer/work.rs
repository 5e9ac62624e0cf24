//! Handing messages to the application, and what becomes of them by what it says.
//!
//! Java: `ConsumeMessageConcurrentlyService`, `ConsumeMessageOrderlyService`.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::sync::OwnedSemaphorePermit;
use tracing::{Instrument as _, error, warn};
use wire::{
    body::client::ConsumeDirectlyResult, code::RequestCode, frame::Frame,
    header::send::ConsumerSendMsgBack,
};

use crate::{error::ConsumeError, message::ReceivedMessage, span};

use super::{MessageModel, push::Shared, queue::Assigned};

/// How soon messages that could not be sent back are handed over again.
const AGAIN_HERE: Duration = Duration::from_secs(5);
/// The delay level of a message whose handler took too long.
const TIMEOUT_LEVEL: i32 = 3;

/// What came of a message, or of a batch, whose order does not matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consumed {
    /// It is done.
    Done,
    /// It is to be tried again: first in 10 s, then ever later, up to `max_reconsume_times`.
    Retry,
    /// It is to be tried again after the time of a delay level of the broker, 1 to 18 by default; 0 is
    /// [`Consumed::Retry`].
    RetryAtLevel(u8),
    /// It is to be kept among the group's dead letters, and not tried again.
    DeadLetter,
}

/// What came of messages that stay in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ordered {
    /// They are done.
    Done,
    /// They are to be tried again, before anything else of their queue, after `suspend_current_queue_time`.
    Suspend,
    /// The same, after this time, 10 ms to 30 s.
    SuspendFor(Duration),
}

type Call<T> = Arc<dyn Fn(Vec<ReceivedMessage>) -> BoxFuture<'static, T> + Send + Sync>;

/// The application's handler.
pub(crate) enum Handler {
    One(Arc<dyn Fn(ReceivedMessage) -> BoxFuture<'static, Consumed> + Send + Sync>),
    Many(Call<Consumed>),
    Ordered(Call<Ordered>),
}

impl Handler {
    pub(super) fn one<F, R>(handler: F) -> Handler
    where
        F: Fn(ReceivedMessage) -> R + Send + Sync + 'static,
        R: Future<Output = Consumed> + Send + 'static,
    {
        Handler::One(Arc::new(move |message| Box::pin(handler(message))))
    }

    pub(super) fn many<F, R>(handler: F) -> Handler
    where
        F: Fn(Vec<ReceivedMessage>) -> R + Send + Sync + 'static,
        R: Future<Output = Consumed> + Send + 'static,
    {
        Handler::Many(Arc::new(move |messages| Box::pin(handler(messages))))
    }

    pub(super) fn ordered<F, R>(handler: F) -> Handler
    where
        F: Fn(Vec<ReceivedMessage>) -> R + Send + Sync + 'static,
        R: Future<Output = Ordered> + Send + 'static,
    {
        Handler::Ordered(Arc::new(move |messages| Box::pin(handler(messages))))
    }

    pub(super) fn is_ordered(&self) -> bool {
        matches!(self, Handler::Ordered(_))
    }

    /// Calls the handler.
    fn call(&self, mut messages: Vec<ReceivedMessage>) -> BoxFuture<'static, Verdict> {
        match self {
            Handler::One(call) => match messages.pop() {
                Some(message) => Box::pin(call(message).map(Verdict::Consumed)),
                None => Box::pin(std::future::ready(Verdict::Consumed(Consumed::Done))),
            },
            Handler::Many(call) => Box::pin(call(messages).map(Verdict::Consumed)),
            Handler::Ordered(call) => Box::pin(call(messages).map(Verdict::Ordered)),
        }
    }
}

/// What a handler said, or what is to be said for it.
enum Verdict {
    Consumed(Consumed),
    Ordered(Ordered),
    Panicked,
    TimedOut,
}

impl Verdict {
    /// Whether the messages are done.
    fn is_content(&self) -> bool {
        matches!(self, Verdict::Consumed(Consumed::Done) | Verdict::Ordered(Ordered::Done))
    }
}

impl Shared {
    /// Brings the messages of a queue to the handler until the queue is given up.
    pub(super) async fn hand_over(self: Arc<Self>, assigned: Arc<Assigned>) {
        let batch_max = match self.handler {
            Handler::One(_) => 1,
            Handler::Many(_) | Handler::Ordered(_) => self.options.batch_max,
        };
        loop {
            let messages = assigned.take(batch_max);
            let permit = tokio::select! {
                biased;
                () = assigned.ended() => return,
                () = assigned.filled.notified(), if messages.is_empty() => continue,
                permit = self.permits.clone().acquire_owned(), if !messages.is_empty() => permit,
            };
            let Ok(permit) = permit else { return };
            assigned.meters.awaited(&messages, self.member.core.clock.now());
            if self.handler.is_ordered() {
                self.consume_in_order(&assigned, messages, permit).await;
            } else {
                let (shared, assigned) = (self.clone(), assigned.clone());
                tokio::spawn(async move {
                    shared.consume_anyhow(&assigned, messages).await;
                    drop(permit);
                });
            }
        }
    }

    /// Has the handler consume messages, and sends back those that it failed at.
    async fn consume_anyhow(&self, assigned: &Assigned, messages: Vec<ReceivedMessage>) {
        let clock = &self.member.core.clock;
        let mut left = messages;
        while !left.is_empty() {
            let level = match self.judge_measured(assigned, left.clone()).await {
                Verdict::Consumed(Consumed::Done) | Verdict::Ordered(Ordered::Done) => None,
                Verdict::Consumed(Consumed::Retry)
                | Verdict::Ordered(Ordered::Suspend | Ordered::SuspendFor(_))
                | Verdict::Panicked => Some(0),
                Verdict::Consumed(Consumed::RetryAtLevel(level)) => Some(i32::from(level)),
                Verdict::Consumed(Consumed::DeadLetter) => Some(-1),
                Verdict::TimedOut => Some(TIMEOUT_LEVEL),
            };
            let mut again = Vec::new();
            match (level, self.member.model) {
                (None, MessageModel::Clustering | MessageModel::Broadcasting) => {
                    assigned.done(&left, clock.now());
                }
                (Some(_), MessageModel::Broadcasting) => {
                    warn!(
                        group = self.member.group,
                        ?left,
                        "failed at; broadcast messages are not tried again"
                    );
                    assigned.done(&left, clock.now());
                }
                (Some(level), MessageModel::Clustering) => {
                    for mut message in left {
                        match self.send_back(&message, level).await {
                            Ok(()) => assigned.done(&[message], clock.now()),
                            Err(error) => {
                                warn!(group = self.member.group, ?message, %error, "cannot be sent back; it is tried again here");
                                message.reconsume_times += 1;
                                again.push(message);
                            }
                        }
                    }
                }
            }
            left = again;
            if !left.is_empty() {
                tokio::select! {
                    () = assigned.ended() => return,
                    () = clock.sleep(AGAIN_HERE) => {}
                }
            }
        }
    }

    /// Has the handler consume messages until it is content with them, or gives up on them.
    async fn consume_in_order(
        &self,
        assigned: &Assigned,
        messages: Vec<ReceivedMessage>,
        permit: OwnedSemaphorePermit,
    ) {
        let clock = &self.member.core.clock;
        let mut left = messages;
        let mut first = Some(permit);
        loop {
            // Only who holds the queue's lock consumes; it is renewed by a task of its own.
            while self.needs_locks() && !assigned.is_locked(clock.monotonic()) {
                first = None;
                tokio::select! {
                    () = assigned.ended() => return,
                    () = clock.sleep(Duration::from_millis(200)) => {}
                }
            }
            let permit = match first.take() {
                Some(permit) => permit,
                None => tokio::select! {
                    biased;
                    () = assigned.ended() => return,
                    Ok(permit) = self.permits.clone().acquire_owned() => permit,
                    else => return,
                },
            };
            let pause = {
                let _in_order = assigned.in_order.lock().await;
                if assigned.is_ended() {
                    return;
                }
                match self.judge_measured(assigned, left.clone()).await {
                    Verdict::Consumed(_) | Verdict::Ordered(Ordered::Done) => {
                        assigned.done(&left, clock.now());
                        return;
                    }
                    Verdict::Ordered(Ordered::SuspendFor(pause)) => pause,
                    Verdict::Ordered(Ordered::Suspend) | Verdict::Panicked | Verdict::TimedOut => {
                        self.options.suspend
                    }
                }
            };
            left = self.give_up_on(assigned, left).await;
            if left.is_empty() {
                return;
            }
            drop(permit);
            let pause = pause.clamp(Duration::from_millis(10), Duration::from_secs(30));
            tokio::select! {
                () = assigned.ended() => return,
                () = clock.sleep(pause) => {}
            }
        }
    }

    /// Makes dead letters of those messages that have failed too often; returns the others.
    async fn give_up_on(
        &self,
        assigned: &Assigned,
        messages: Vec<ReceivedMessage>,
    ) -> Vec<ReceivedMessage> {
        let mut left = Vec::with_capacity(messages.len());
        for mut message in messages {
            let too_often = self
                .options
                .max_reconsume_times
                .is_some_and(|most| message.reconsume_times >= most);
            if too_often && self.member.model == MessageModel::Clustering {
                match self.send_back(&message, -1).await {
                    Ok(()) => {
                        assigned.done(&[message], self.member.core.clock.now());
                        continue;
                    }
                    Err(error) => {
                        warn!(?message, %error, "cannot be made a dead letter; it is tried again")
                    }
                }
            }
            message.reconsume_times += 1;
            left.push(message);
        }
        left
    }

    async fn judge_measured(&self, assigned: &Assigned, messages: Vec<ReceivedMessage>) -> Verdict {
        let clock = &self.member.core.clock;
        let (begun, count) = (clock.monotonic(), messages.len());
        let verdict = self.judge_traced(messages).await;
        let took = clock.monotonic().saturating_sub(begun);
        assigned.meters.processed(verdict.is_content(), took, count);
        verdict
    }

    async fn judge_traced(&self, messages: Vec<ReceivedMessage>) -> Verdict {
        let core = &self.member.core;
        let Some(tracer) = &core.tracer else { return self.judge(messages).await };
        let group = core.config.namespace.strip(&self.member.group);
        let handling = tracer.handling(core, &group, &messages);
        let verdict = self.judge(messages).await;
        let code = match verdict {
            Verdict::Consumed(Consumed::Done) | Verdict::Ordered(Ordered::Done) => 0,
            Verdict::TimedOut => 1,
            Verdict::Panicked => 2,
            Verdict::Consumed(_) | Verdict::Ordered(_) => 4,
        };
        tracer.handled(core, &group, &handling, code);
        verdict
    }

    async fn judge(&self, messages: Vec<ReceivedMessage>) -> Verdict {
        let span = span::process(&self.member.core, &self.member.group, &messages);
        let calling = async { self.handler.call(messages).await }.instrument(span.clone());
        let calling = AssertUnwindSafe(calling).catch_unwind();
        let verdict = tokio::select! {
            biased;
            verdict = calling => verdict.unwrap_or_else(|_| {
                error!(group = self.member.group, "the handler panicked");
                Verdict::Panicked
            }),
            () = self.member.core.clock.sleep(self.options.consume_timeout) => {
                error!(group = self.member.group, timeout = ?self.options.consume_timeout, "the handler took too long");
                Verdict::TimedOut
            }
        };
        match verdict {
            Verdict::Consumed(Consumed::Done) | Verdict::Ordered(Ordered::Done) => {}
            Verdict::Consumed(_) | Verdict::Ordered(_) => span::fail(&span, "retry"),
            Verdict::Panicked => span::fail(&span, "panic"),
            Verdict::TimedOut => span::fail(&span, "timeout"),
        }
        verdict
    }

    /// Gives a message back to its broker, to be delivered again after a delay level: 0 for the broker's choice,
    /// negative to become a dead letter.
    async fn send_back(&self, message: &ReceivedMessage, level: i32) -> Result<(), ConsumeError> {
        let queue = self.member.core.config.namespace.wrap_queue(message.queue());
        let address = self.member.master(&queue).await?;
        let origin = message.offset_id();
        let max = self.options.max_reconsume_times.and_then(|most| i32::try_from(most).ok());
        let header = ConsumerSendMsgBack {
            offset: message.log_offset() as i64,
            group: &self.member.group,
            delay_level: level,
            origin_msg_id: Some(&origin),
            origin_topic: Some(&queue.topic),
            unit_mode: false,
            max_reconsume_times: max,
        };
        let request = Frame::request(RequestCode::CONSUMER_SEND_MSG_BACK, &header);
        self.member.core.call(&address, request).await?;
        Ok(())
    }

    /// Has the handler consume a message that a broker sends for a test; nothing becomes of it otherwise.
    pub(super) async fn consume_directly(&self, message: ReceivedMessage) -> ConsumeDirectlyResult {
        let clock = &self.member.core.clock;
        let begun = clock.monotonic();
        let (consume_result, remark) = match self.judge(vec![message]).await {
            Verdict::Consumed(Consumed::Done) | Verdict::Ordered(Ordered::Done) => {
                ("CR_SUCCESS", None)
            }
            Verdict::Consumed(_) | Verdict::Ordered(_) => ("CR_LATER", None),
            Verdict::Panicked => ("CR_THROW_EXCEPTION", Some("the handler panicked".to_owned())),
            Verdict::TimedOut => ("CR_LATER", Some("the handler took too long".to_owned())),
        };
        let spent = clock.monotonic().saturating_sub(begun);
        ConsumeDirectlyResult {
            auto_commit: true,
            consume_result: consume_result.to_owned(),
            order: self.handler.is_ordered(),
            remark,
            spent_time_mills: i64::try_from(spent.as_millis()).unwrap_or(i64::MAX),
        }
    }
}
