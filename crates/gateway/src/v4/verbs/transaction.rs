//! Transactions: a producer ends one, an administrator has one checked again.
//!
//! Producers say the end oneway and go on; who waits for an answer gets it when the end is as safe as a send would be.
//!
//! Java: `EndTransactionProcessor`, `AdminBrokerProcessor#resumeCheckHalfMessage`.

use broker::api::{EndError, EndTransaction, Ended, PublishError, Verdict};
use remoting::Replies;
use wire::{
    code::ResponseCode,
    frame::{Frame, Kind},
    header,
    id::OffsetId,
    names::system_flag::{TRANSACTION_COMMIT, TRANSACTION_ROLLBACK},
};

use super::send::{Reached, wait};
use crate::v4::{
    V4,
    errors::Refusal,
    session::{Answer, Session, answers, success},
};

/// END_TRANSACTION. A producer that does not know yet will be asked: it is answered with success, where the original
/// does not answer at all.
pub(crate) fn end(session: &Session, request: Frame, replies: &mut Replies) {
    let door = session.door.clone();
    replies.later(1, async move {
        let outcome = end_now(&door, &request).await;
        answers(&request, outcome)
    });
}

async fn end_now(door: &V4, request: &Frame) -> Answer {
    let asked: header::transaction::EndTransaction<'_> = request.header()?;
    let verdict = match asked.commit_or_rollback {
        0 => return Ok(success(request)),
        TRANSACTION_COMMIT => Verdict::Commit,
        TRANSACTION_ROLLBACK => Verdict::Rollback,
        other => {
            let problem = format!(
                "commitOrRollback field wrong: it is {other}, allowed are 8 (commit), 12 (roll back) and 0 (not known)"
            );
            return Err(Refusal::new(ResponseCode::SYSTEM_ERROR, problem));
        }
    };
    let end = EndTransaction {
        group: request.ext.share(asked.producer_group),
        log_offset: asked.commit_log_offset,
        queue_offset: asked.tran_state_table_offset,
        verdict,
        from_check: asked.from_transaction_check,
    };
    settle(door, request, door.broker.end_transaction(end).await).await
}

/// RESUME_CHECK_HALF_MESSAGE.
pub(crate) fn resume_check(session: &Session, request: Frame, replies: &mut Replies) {
    let door = session.door.clone();
    replies.later(1, async move {
        let outcome = async {
            let asked: header::transaction::ResumeCheckHalfMessage<'_> = request.header()?;
            let id = OffsetId::parse(asked.msg_id).map_err(|error| {
                let problem = format!("msgId `{}` is no offset message id: {error}", asked.msg_id);
                Refusal::new(ResponseCode::SYSTEM_ERROR, problem)
            })?;
            let resumed = door.broker.resume_check(id).await;
            settle(&door, &request, resumed).await
        };
        let outcome: Answer = outcome.await;
        answers(&request, outcome)
    });
}

/// Answers when what was taken is safe.
async fn settle(door: &V4, request: &Frame, taken: Result<Ended, EndError>) -> Answer {
    let ended = taken?;
    if request.kind == Kind::Request {
        match wait(door, ended.needs, ended.end).await {
            Reached::Yes => {}
            Reached::Late => return Ok(request.respond(ResponseCode::FLUSH_DISK_TIMEOUT)),
            Reached::Never => return Err(PublishError::Stopped.into()),
        }
    }
    Ok(success(request))
}
