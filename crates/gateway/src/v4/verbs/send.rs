//! Sends: all of a run are one publish, answered when the log has them as safe as each was asked to be.
//!
//! Decoding borrows; body and strings stay slices of the frame until the record is encoded. A send whose mark has been
//! reached when `publish` returns is answered in the run's own write; the others of the run wait together, once for
//! `written` and once for `synced`, so that one that need not wait for the device never does.
//!
//! Java: `SendMessageProcessor`, `AbstractSendMessageProcessor`.

use broker::api::{
    Needs, Payload, Publish, PublishError, PublishRun, Recall, RecallError, Receipt, SendBack,
    Ticket,
};
use bytes::BytesMut;
use remoting::{Answers, Replies};
use smallvec::SmallVec;
use wire::{
    code::{RequestCode, ResponseCode},
    frame::{Codec, Frame, Kind},
    header::send::{ConsumerSendMsgBack, RecallMessage, SendMessage},
};

use crate::v4::{
    V4,
    errors::Refusal,
    session::{Answer, Session, answers, finish, refuse, success},
};

/// Tells whether a request is answered by [`send`].
pub(crate) fn is_send(code: RequestCode) -> bool {
    matches!(
        code,
        RequestCode::SEND_MESSAGE | RequestCode::SEND_MESSAGE_V2 | RequestCode::SEND_BATCH_MESSAGE
    )
}

/// SEND_MESSAGE, SEND_MESSAGE_V2 and SEND_BATCH_MESSAGE: publishes those of the run, and leaves the others alone.
pub(crate) fn send(session: &Session, run: &[Frame], replies: &mut Replies) {
    let mut asked: SmallVec<[&Frame; 8]> = SmallVec::with_capacity(run.len());
    let mut items = PublishRun::with_capacity(run.len());
    for request in run.iter().filter(|request| is_send(request.request_code())) {
        match decode(request) {
            Ok(publish) => {
                asked.push(request);
                items.push(publish);
            }
            Err(refusal) => {
                if let Some(frame) = finish(request, Err(refusal)) {
                    replies.push(&frame);
                }
            }
        }
    }
    let Some(first) = asked.first() else { return };
    let broker = &session.door.broker;
    let topics = broker.topics_version();
    let published = broker.publish(&session.caller(first), items);
    // whoever asks for the route once this is answered finds the topic that a send has created; and a message without
    // its topic, after a kill, would be found by nobody
    let settle = match broker.topics_version() != topics {
        true => Settle::Announced,
        false if broker.is_saved() => Settle::Not,
        false => Settle::Saved,
    };
    let marks = broker.store().marks();
    let (written, synced) = (marks.written.get(), marks.synced.get());
    let mut until_written = Waiting::new(Needs::Written, settle);
    let mut until_synced = Waiting::new(Needs::Synced, settle);
    for (request, published) in asked.into_iter().zip(published) {
        if request.kind != Kind::Request {
            continue;
        }
        let ticket = match published {
            Ok(ticket) => ticket,
            Err(error) => {
                replies.push(&session.door.with_send_fields(refuse(request, error.into())));
                continue;
            }
        };
        let (reached, waiting) = match ticket.needs {
            Needs::Written => (written, &mut until_written),
            Needs::Synced => (synced, &mut until_synced),
        };
        if ticket.end <= reached && settle == Settle::Not {
            let sent = Sent::new(request, ticket.receipt);
            replies.encode(|out| sent.encode(ResponseCode::SUCCESS, &session.door, out));
        } else {
            waiting.add(request, ticket);
        }
    }
    until_written.start(session, replies);
    until_synced.start(session, replies);
}

/// Reads a send of any of the three codes.
pub(super) fn decode(request: &Frame) -> Result<Publish, Refusal> {
    let asked: SendMessage<'_> = request.header()?;
    let share = |text| request.ext.share(text);
    let body = request.body_bytes();
    let is_batch = asked.batch || request.request_code() == RequestCode::SEND_BATCH_MESSAGE;
    Ok(Publish {
        group: share(asked.producer_group),
        topic: share(asked.topic),
        template: share(asked.default_topic),
        template_queues: asked.default_topic_queue_nums,
        queue_id: asked.queue_id,
        sys_flag: asked.sys_flag,
        flag: asked.flag,
        born_at: asked.born_timestamp,
        properties: share(asked.properties),
        reconsume_times: asked.reconsume_times,
        reconsume_times_max: asked.max_reconsume_times,
        unit_mode: asked.unit_mode,
        payload: if is_batch { Payload::Batch(body) } else { Payload::One(body) },
    })
}

impl V4 {
    /// Adds what every answer to a send carries.
    pub(super) fn with_send_fields(&self, mut response: Frame) -> Frame {
        for (name, value) in &*self.send_fields {
            response.ext.put(name, value);
        }
        response
    }
}

/// A stored send whose producer has not been told yet.
struct Sent {
    opaque: i32,
    codec: Codec,
    receipt: Receipt,
}

impl Sent {
    fn new(request: &Frame, receipt: Receipt) -> Sent {
        Sent { opaque: request.opaque, codec: request.codec, receipt }
    }

    fn refused(&self, refusal: Refusal) -> Frame {
        Frame::response(refusal.code, self.opaque, self.codec).with_remark(refusal.remark)
    }

    /// Tells the producer where the message lies (Java: `SendMessageResponseHeader`); `code` says how safe it is.
    fn encode(&self, code: ResponseCode, door: &V4, out: &mut BytesMut) {
        let receipt = &self.receipt;
        Frame::encode_response(code, self.opaque, self.codec, out, |fields| {
            for (name, value) in &*door.send_fields {
                fields.text(name, value);
            }
            fields.text("msgId", &receipt.message_ids());
            fields.number("queueId", receipt.queue_id.into());
            fields.number("queueOffset", receipt.queue_offset);
            if !receipt.unique_key.is_empty() {
                fields.text("transactionId", &receipt.unique_key);
            }
            if receipt.is_inner_batch {
                fields.text("batchUniqId", &receipt.unique_key);
            }
            if let Some(handle) = &receipt.recall_handle {
                fields.text("recallHandle", handle);
            }
        });
    }
}

/// What a run waits for beside its mark.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Settle {
    Not,
    /// Topics were changed a moment ago, and are not in their file yet.
    Saved,
    /// The run itself changed topics: name servers are to know, too.
    Announced,
}

/// The sends of one run that wait for the same mark.
struct Waiting {
    needs: Needs,
    /// The highest end among them: a mark rises over a whole run at once, nearly always.
    end: u64,
    sent: Vec<Sent>,
    settle: Settle,
}

impl Waiting {
    fn new(needs: Needs, settle: Settle) -> Waiting {
        Waiting { needs, end: 0, sent: Vec::new(), settle }
    }

    fn add(&mut self, request: &Frame, ticket: Ticket) {
        self.end = self.end.max(ticket.end);
        self.sent.push(Sent::new(request, ticket.receipt));
    }

    /// Hands the wait to the connection, if there is anything to wait for.
    fn start(self, session: &Session, replies: &mut Replies) {
        if self.sent.is_empty() {
            return;
        }
        let requests = self.sent.len() as u32;
        let door = session.door.clone();
        replies.later(requests, async move { self.outcome(&door).await });
    }

    async fn outcome(self, door: &V4) -> Answers {
        let settled = async {
            match self.settle {
                Settle::Not => Ok(()),
                Settle::Saved => door.settled(false).await,
                Settle::Announced => door.settled(true).await,
            }
        };
        let (settled, reached) = tokio::join!(settled, wait(door, self.needs, self.end));
        let mut answers = Answers::new();
        for sent in &self.sent {
            if let Err(refusal) = &settled {
                answers.push(&door.with_send_fields(sent.refused(refusal.clone())));
                continue;
            }
            let code = match reached {
                Reached::Yes => ResponseCode::SUCCESS,
                Reached::Late => ResponseCode::FLUSH_DISK_TIMEOUT,
                Reached::Never => {
                    let refused = sent.refused(PublishError::Stopped.into());
                    answers.push(&door.with_send_fields(refused));
                    continue;
                }
            };
            answers.encode(|out| sent.encode(code, door, out));
        }
        answers
    }
}

/// How waiting for a mark ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reached {
    Yes,
    /// Not within `syncFlushTimeout`: stored, but not known to be on the device.
    Late,
    /// The log failed.
    Never,
}

pub(super) async fn wait(door: &V4, needs: Needs, end: u64) -> Reached {
    let marks = door.broker.store().marks();
    let poisoned = match needs {
        Needs::Written => marks.written.wait_for(end).await.is_err(),
        Needs::Synced => {
            let timeout = door.broker.sync_flush_timeout();
            tokio::select! {
                biased;
                reached = marks.synced.wait_for(end) => reached.is_err(),
                () = door.clock.sleep(timeout) => return Reached::Late,
            }
        }
    };
    if poisoned { Reached::Never } else { Reached::Yes }
}

/// CONSUMER_SEND_MSG_BACK.
pub(crate) fn send_back(session: &Session, request: Frame, replies: &mut Replies) {
    let caller = session.caller(&request);
    let door = session.door.clone();
    replies.later(1, async move {
        let outcome = async {
            let asked: ConsumerSendMsgBack<'_> = request.header()?;
            let back = SendBack {
                group: request.ext.share(asked.group),
                log_offset: asked.offset,
                delay_level: asked.delay_level,
                reconsume_times_max: asked.max_reconsume_times,
                unit_mode: asked.unit_mode,
            };
            let ticket = door.broker.send_back(&caller, back).await?;
            // it may have created the retry topic
            door.settled(false).await?;
            if let Some(ticket) = ticket
                && wait(&door, ticket.needs, ticket.end).await == Reached::Never
            {
                return Err(PublishError::Stopped.into());
            }
            Ok(success(&request))
        };
        let outcome: Answer = outcome.await;
        answers(&request, outcome)
    });
}

/// RECALL_MESSAGE.
pub(crate) fn recall(session: &Session, request: Frame, replies: &mut Replies) {
    let caller = session.caller(&request);
    let door = session.door.clone();
    replies.later(1, async move {
        let outcome = async {
            let asked: RecallMessage<'_> = request.header()?;
            let recall = Recall {
                group: asked.producer_group.map(|group| request.ext.share(group)),
                topic: request.ext.share(asked.topic),
                handle: request.ext.share(asked.recall_handle),
            };
            let ticket = door.broker.recall(&caller, &recall)?;
            // A sync that is late is no failure here: the mark is stored.
            if wait(&door, ticket.needs, ticket.end).await == Reached::Never {
                return Err(RecallError::Publish(PublishError::Stopped).into());
            }
            let mut response = success(&request);
            let [(name, region), _] = &*door.send_fields;
            response.ext.put(name, region);
            response.ext.put("msgId", &ticket.receipt.unique_key);
            Ok(response)
        };
        let outcome: Answer = outcome.await;
        answers(&request, outcome)
    });
}
