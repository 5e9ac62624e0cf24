//! What can go wrong, told apart by what the caller can do next.
//!
//! [`InvalidField`]: correct what was passed. [`RouteError`]: create the topic, or look after the name servers.
//! [`RequestError`]: nothing happened, or nobody knows, or the peer said no. The errors of operations are made of these.

use wire::code::ResponseCode;

/// A setting, or a part of a message, that cannot be as it is. Correct it and try again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` cannot be `{value}`: {reason}")]
pub struct InvalidField {
    /// The setting, or the part of the message, by the name of the method that sets it.
    pub field: &'static str,
    /// What it was; long values are cut.
    pub value: String,
    /// Why not, and what would do.
    pub reason: String,
}

impl InvalidField {
    pub(crate) fn new(
        field: &'static str,
        value: impl std::fmt::Display,
        reason: impl std::fmt::Display,
    ) -> InvalidField {
        const VALUE_CHARS_MAX: usize = 80;
        let value: String = value.to_string().chars().take(VALUE_CHARS_MAX).collect();
        InvalidField { field, value: value.escape_debug().to_string(), reason: reason.to_string() }
    }
}

/// Why a request to one server has no good answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// It was not sent, so nothing has happened. Try again later, or elsewhere.
    #[error("`{address}` cannot be reached: {reason}")]
    Unreachable {
        /// Whom it was meant for.
        address: String,
        /// What the system or the transport said.
        reason: String,
    },
    /// It was sent and no answer came: the server may or may not have acted.
    #[error("`{address}` has not answered, and may have acted or not: {reason}")]
    Unconfirmed {
        /// Whom it was sent to.
        address: String,
        /// A timeout, or a connection that was lost.
        reason: String,
    },
    /// The server said no.
    #[error("`{address}` refused with {code}: {remark}")]
    Refused {
        /// Who refused.
        address: String,
        /// Its reason, as a number of the protocol.
        code: ResponseCode,
        /// Its reason, as text.
        remark: String,
    },
    /// The answer cannot be understood: the server speaks another protocol, or another version of it.
    #[error("the answer of `{address}` is malformed: {reason}")]
    Malformed {
        /// Who answered.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl RequestError {
    pub(crate) fn malformed(address: &str, reason: impl std::fmt::Display) -> RequestError {
        RequestError::Malformed { address: address.to_owned(), reason: reason.to_string() }
    }

    /// Whether access control refused. With that of 4.x (`AclException`) it is an error of the system by its code.
    pub(crate) fn is_denial(&self) -> bool {
        match self {
            RequestError::Refused { code: ResponseCode::NO_PERMISSION, .. } => true,
            RequestError::Refused { code: ResponseCode::SYSTEM_ERROR, remark, .. } => {
                remark.contains("AclException")
            }
            RequestError::Refused { .. }
            | RequestError::Unreachable { .. }
            | RequestError::Unconfirmed { .. }
            | RequestError::Malformed { .. } => false,
        }
    }

    /// The server's code, if it answered and refused.
    pub fn code(&self) -> Option<ResponseCode> {
        match self {
            RequestError::Refused { code, .. } => Some(*code),
            RequestError::Unreachable { .. }
            | RequestError::Unconfirmed { .. }
            | RequestError::Malformed { .. } => None,
        }
    }
}

/// Why nobody knows where a topic's queues are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The name servers know no such topic. Create it, or let brokers create topics (`autoCreateTopicEnable`).
    #[error("no name server knows the topic `{topic}`: create it first")]
    NoSuchTopic {
        /// The topic.
        topic: String,
    },
    /// No name server answered. Check their addresses; what is cached is still used.
    #[error("no name server of {tried} answered; the last error: {last}")]
    NameServersAway {
        /// All their addresses.
        tried: String,
        /// What the last one's error was.
        last: RequestError,
    },
    /// The topic has no queue with the permission that is needed, at a broker that is there.
    #[error("the topic `{topic}` has no queue that could be {wanted} now")]
    NoQueue {
        /// The topic.
        topic: String,
        /// `written` or `read`.
        wanted: &'static str,
    },
    /// A broker is not, or no longer, in the topic's route.
    #[error("the route of `{topic}` names no broker `{broker}`")]
    NoBroker {
        /// The topic.
        topic: String,
        /// Name of the broker.
        broker: String,
    },
}

/// Why a message was not sent, or why nobody knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The message or the call is not as it must be. Nothing was sent.
    #[error(transparent)]
    Invalid(#[from] InvalidField),
    /// There is no place to send it to. Nothing was sent.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// No attempt stored it: sending it again makes no duplicate.
    #[error("not stored after {attempts} attempts; the last error: {last}")]
    NotStored {
        /// How often it was tried.
        attempts: u32,
        /// How the last attempt ended.
        last: RequestError,
    },
    /// An attempt went unanswered, and none was acknowledged: it may be stored. Sent again under the same unique key
    /// ([`Message::unique_key`](crate::Message::unique_key)) it may be there twice, but consumers can tell that both are one.
    /// What a [`BatchError`] returns keeps its unique keys.
    #[error("may be stored or not after {attempts} attempts; the last error: {last}")]
    Unconfirmed {
        /// The message's unique key; of several messages in one request, theirs with `,` between.
        unique_key: String,
        /// How often it was tried.
        attempts: u32,
        /// How the last attempt ended.
        last: RequestError,
    },
    /// The producer has been shut down.
    #[error("the producer has been shut down")]
    Closed,
}

/// Why a batch was not, or not wholly, sent.
#[derive(Debug, thiserror::Error)]
#[error("{} messages were stored; the next {in_doubt} failed, and {} were not tried: {error}", stored.len(), unsent.len())]
pub struct BatchError {
    /// Receipts of the messages that were stored: the first ones of the batch, in order. Do not send these again.
    pub stored: Vec<crate::SendReceipt>,
    /// How many of the messages behind those shared the request that failed, and with it the `error`.
    pub in_doubt: usize,
    /// The messages that are not acknowledged, in order: `in_doubt` ones of the failed request, then those that were never
    /// tried. The former may be stored if the `error` is [`SendError::Unconfirmed`]; they keep their unique keys when they
    /// are sent again.
    pub unsent: Vec<crate::Message>,
    /// Why the first of `unsent` is not acknowledged.
    pub error: SendError,
}

/// Why a request ([`Producer::request`](crate::Producer::request)) has no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// The request itself was not sent, or nobody knows: see [`SendError`].
    #[error(transparent)]
    Send(#[from] SendError),
    /// It was stored, and no reply came in time: who consumes it is slow or away, and may still act on it. Ask again only if
    /// being asked twice does no harm.
    #[error("the request is stored, but no reply came within {0:?}")]
    Timeout(std::time::Duration),
}

/// Why a consumer could not do what was asked of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConsumeError {
    /// A setting or an argument is not as it must be. Nothing was done.
    #[error(transparent)]
    Invalid(#[from] InvalidField),
    /// It is not known where the queues are. The same call may succeed once the topic, or the name servers, are there.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// A server's access control refuses this client, its group or one of its topics. Nothing is consumed; start again with
    /// other credentials, or once the group and the topics are allowed.
    #[error(
        "{0}: give the client credentials that may consume here (`ClientBuilder::credentials`), or allow them the group and its topics"
    )]
    Denied(RequestError),
    /// A server did not do it. Offsets may be asked for and committed again without harm.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The file of a broadcast consumer's offsets cannot be read or written: put the file right, or choose another place
    /// (`local_offset_store_dir`).
    #[error("the offsets in `{path}` cannot be kept: {reason}")]
    OffsetFile {
        /// The file.
        path: String,
        /// What the system said.
        reason: String,
    },
}
