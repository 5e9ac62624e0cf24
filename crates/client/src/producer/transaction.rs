//! Transactions: a message that nobody sees until its producer has said so.
//!
//! A half message is stored, the application does its own work, then commits or rolls back. If the answer is lost, or the
//! producer dies, the broker asks any producer of the group ([`ProducerBuilder::transaction_checker`]).
//! Java: `TransactionMQProducer`.

use std::{future::Future, sync::Arc};

use futures_util::future::BoxFuture;
use tracing::warn;
use wire::{
    code::RequestCode,
    frame::Frame,
    header::transaction::{CheckTransactionState, EndTransaction},
    id::OffsetId,
    names::system_flag,
    properties::name,
};

use crate::{
    error::{InvalidField, RequestError, RouteError, SendError},
    message::{Message, ReceivedMessage},
};

use super::{Producer, ProducerBuilder, Receipt, SendReceipt, Shared, cost, ended};

/// Checks of one producer that may be under way; the broker asks again about those that are dropped.
pub(super) const CHECKS_MAX: usize = 64;

pub(super) type Checker =
    Arc<dyn Fn(ReceivedMessage) -> BoxFuture<'static, Resolution> + Send + Sync>;

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// The message is delivered.
    Commit,
    /// The message is dropped.
    Rollback,
    /// It has not ended yet; the broker asks again later, up to 15 times by default (`transactionCheckMax`), and then lays
    /// the message aside, in `TRANS_CHECK_MAX_TIME_TOPIC`.
    Unknown,
}

impl Resolution {
    fn flag(self) -> i32 {
        match self {
            Resolution::Commit => system_flag::TRANSACTION_COMMIT,
            Resolution::Rollback => system_flag::TRANSACTION_ROLLBACK,
            Resolution::Unknown => 0,
        }
    }
}

impl ProducerBuilder {
    /// Sets what says how a transaction of this group ended, when a broker asks: about any message of the group, also
    /// one of a producer that is gone. At most 64 checks are under way at once; about others the broker asks again.
    #[must_use]
    pub fn transaction_checker<F, R>(mut self, check: F) -> ProducerBuilder
    where
        F: Fn(ReceivedMessage) -> R + Send + Sync + 'static,
        R: Future<Output = Resolution> + Send + 'static,
    {
        self.checker = Some(Arc::new(move |message| Box::pin(check(message))));
        self
    }
}

/// A half message: stored, and seen by nobody. Dropping it leaves it to the check.
#[must_use = "a transaction that is neither committed nor rolled back waits for the broker's check"]
pub struct Transaction {
    producer: Arc<Shared>,
    topic: String,
    receipt: SendReceipt,
}

impl Producer {
    /// Stores a message that consumers see once it is committed.
    ///
    /// # Errors
    /// [`SendError::Invalid`] names `transaction_checker` if the producer has none, `delay` if the message has one;
    /// others as [`Producer::send`].
    ///
    /// ```no_run
    /// # async fn example(client: apogee_client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use apogee_client::{Message, Resolution};
    /// let producer = client
    ///     .producer("payments")
    ///     .transaction_checker(|message| async move {
    ///         println!("what became of {:?}?", message.unique_key());
    ///         Resolution::Unknown
    ///     })
    ///     .build()?;
    /// let transaction = producer.begin_transaction(Message::new("paid", "order 4711")).await?;
    /// // ... the application's own work ...
    /// transaction.commit().await?;
    /// # Ok(()) }
    /// ```
    pub async fn begin_transaction(&self, mut message: Message) -> Result<Transaction, SendError> {
        let shared = &self.0;
        if shared.options.checker.is_none() {
            let reason = "a producer of transactions must be able to say how they ended";
            return Err(InvalidField::new("transaction_checker", "", reason).into());
        }
        if message.is_later || message.is_reply {
            return Err(
                InvalidField::new("delay", &message.topic, "a transaction has no delay").into()
            );
        }
        message.enter(shared.namespace());
        message.put_own(name::TRAN_MSG, "true");
        message.put_own(name::PGROUP, &shared.options.group);
        let room = shared.room(cost(&message)).await?;
        let to = shared.to(&message).await?;
        let topic = message.topic.clone();
        let code = RequestCode::SEND_MESSAGE_V2;
        let parcel = shared.pack(message, code, system_flag::TRANSACTION_PREPARED)?;
        let receipt = Receipt::begin(shared.clone(), parcel, to, room).await?.await?;
        Ok(Transaction { producer: shared.clone(), topic, receipt })
    }
}

impl Transaction {
    /// Returns the unique key of the message, by which the check knows it.
    pub fn unique_key(&self) -> &str {
        &self.receipt.unique_key
    }

    /// Delivers the message.
    ///
    /// # Errors
    /// Whatever the error, the broker asks later how the transaction ended: the checker must know, so nothing is to be done
    /// about it here.
    pub async fn commit(self) -> Result<(), SendError> {
        self.end(Resolution::Commit).await
    }

    /// Drops the message.
    ///
    /// # Errors
    /// As [`Transaction::commit`].
    pub async fn rollback(self) -> Result<(), SendError> {
        self.end(Resolution::Rollback).await
    }

    async fn end(self, resolution: Resolution) -> Result<(), SendError> {
        let Transaction { producer, topic, receipt } = self;
        let core = producer.core();
        let route = core.routes.to_send(&topic).await?;
        let broker = receipt.queue.broker_name.clone();
        let Some(address) = route.master(&broker) else {
            return Err(RouteError::NoBroker { topic, broker }.into());
        };
        let key = &receipt.unique_key;
        let malformed = |error| ended(key, 1, 0, RequestError::malformed(address, error));
        let id = OffsetId::parse(&receipt.offset_id).map_err(malformed)?;
        let header = EndTransaction {
            topic: Some(&topic),
            producer_group: &producer.options.group,
            tran_state_table_offset: receipt.queue_offset,
            commit_log_offset: id.log_offset as i64,
            commit_or_rollback: resolution.flag(),
            from_transaction_check: false,
            msg_id: &receipt.unique_key,
            transaction_id: Some(&receipt.unique_key),
        };
        let request = Frame::request(RequestCode::END_TRANSACTION, &header);
        core.call(address, request).await.map(drop).map_err(|last| ended(key, 1, 0, last))
    }
}

impl Shared {
    /// Has the application say how a transaction ended, and passes it on to the broker that asks.
    pub(crate) fn check(
        self: &Arc<Shared>,
        address: &str,
        header: &CheckTransactionState<'_>,
        message: ReceivedMessage,
    ) {
        let Some(checker) = self.options.checker.clone() else {
            warn!(group = self.options.group, "no checker can say how a transaction ended");
            return;
        };
        let Ok(permit) = self.checks.clone().try_acquire_owned() else { return };
        let (shared, address) = (self.clone(), address.to_owned());
        let (queue_offset, log_offset) = (header.tran_state_table_offset, header.commit_log_offset);
        let key = message.unique_key().unwrap_or(header.msg_id).to_owned();
        let transaction_id = header.transaction_id.to_owned();
        tokio::spawn(async move {
            let _permit = permit;
            let topic = message.property(name::REAL_TOPIC).unwrap_or_else(|| message.topic());
            let topic = shared.namespace().wrap(topic).into_owned();
            let resolution = checker(message).await;
            let header = EndTransaction {
                topic: Some(&topic),
                producer_group: &shared.options.group,
                tran_state_table_offset: queue_offset,
                commit_log_offset: log_offset,
                commit_or_rollback: resolution.flag(),
                from_transaction_check: true,
                msg_id: &key,
                transaction_id: Some(&transaction_id),
            };
            let told = match shared.core().connection(&address).await {
                Ok(connection) => {
                    let request = Frame::oneway(RequestCode::END_TRANSACTION, &header);
                    connection.push(request).map(drop).map_err(|error| error.to_string())
                }
                Err(error) => Err(error.to_string()),
            };
            if let Err(reason) = told {
                warn!(reason, "the end of a transaction cannot be told; the broker will ask again");
            }
        });
    }
}
