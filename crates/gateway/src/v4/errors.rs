//! The broker's refusals as response codes.
//!
//! One exhaustive `match` per error enum of `broker::api`, without `_`: a failure that the broker learns to name cannot be
//! forgotten here. The remark is the error's own message, which says cause and cure.

use broker::api::{
    ClientsError, CommitError, ConfigError, EndError, FindError, GroupError, HeartbeatError,
    ListError, LockError, NotSaved, OffsetError, PublishError, PullError, RecallError, ResetError,
    SendBackError, SubscriptionError, TooManyQueues, TopicError,
};
use bytestring::ByteString;
use store::Fault;
use wire::{
    code::{RequestCode, ResponseCode},
    ext::HeaderError,
};

/// A refusal as it goes over the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// What the client acts on.
    pub(crate) code: ResponseCode,
    /// Cause and cure, for people.
    pub(crate) remark: ByteString,
}

impl Refusal {
    /// Pairs a code with what is to be said about it.
    pub(crate) fn new(code: ResponseCode, remark: impl Into<ByteString>) -> Refusal {
        Refusal { code, remark: remark.into() }
    }

    /// Answers a body that is not what the request code asks for (Java: an exception, SYSTEM_ERROR).
    pub(crate) fn body(code: RequestCode, cause: impl std::fmt::Display) -> Refusal {
        Refusal::new(
            ResponseCode::SYSTEM_ERROR,
            format!("the body of {} cannot be read: {cause}", code),
        )
    }

    /// Answers a request code that nobody serves here.
    pub(crate) fn unsupported(code: RequestCode) -> Refusal {
        Refusal::new(
            ResponseCode::REQUEST_CODE_NOT_SUPPORTED,
            match code.name() {
                Some(name) => format!(" request type {} not supported ({name})", code.0),
                None => format!(" request type {} not supported", code.0),
            },
        )
    }
}

/// Java answers a field that cannot be read with the exception and SYSTEM_ERROR; ours names the field.
impl From<HeaderError> for Refusal {
    fn from(error: HeaderError) -> Refusal {
        Refusal::new(ResponseCode::SYSTEM_ERROR, error.to_string())
    }
}

/// Derives the refusal of an error enum from its `match`.
macro_rules! refusal {
    ($error:ty, |$name:ident| $code:expr) => {
        impl From<$error> for Refusal {
            fn from($name: $error) -> Refusal {
                let code = $code;
                Refusal::new(code, $name.to_string())
            }
        }
    };
}

refusal!(PublishError, |error| publish_code(&error));

fn publish_code(error: &PublishError) -> ResponseCode {
    match error {
        PublishError::BrokerForbidden { .. }
        | PublishError::ForbiddenTopic(_)
        | PublishError::TransactionForbidden { .. } => ResponseCode::NO_PERMISSION,
        PublishError::InvalidTopic(_) | PublishError::InvalidQueue { .. } => {
            ResponseCode::INVALID_PARAMETER
        }
        PublishError::UnknownTopic(_) => ResponseCode::TOPIC_NOT_EXIST,
        PublishError::UnknownGroup(_) => ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST,
        PublishError::IllegalMessage(_) | PublishError::IllegalTimer { .. } => {
            ResponseCode::MESSAGE_ILLEGAL
        }
        PublishError::TimersOff
        | PublishError::SlotCrowded { .. }
        | PublishError::Unsupported { .. }
        | PublishError::NotYet(_)
        | PublishError::Full(_) => ResponseCode::SYSTEM_ERROR,
        PublishError::Busy { .. } => ResponseCode::SYSTEM_BUSY,
        PublishError::DiskFull | PublishError::Stopped => ResponseCode::SERVICE_NOT_AVAILABLE,
    }
}

refusal!(EndError, |error| match &error {
    // The original says so where its send says SYSTEM_BUSY.
    EndError::Publish(PublishError::Busy { .. }) => ResponseCode::SYSTEM_ERROR,
    EndError::Publish(refused) => publish_code(refused),
    EndError::TooLate | EndError::Contradicts { .. } | EndError::Forgotten => {
        ResponseCode::ILLEGAL_OPERATION
    }
    EndError::NotFound
    | EndError::WrongGroup
    | EndError::WrongQueueOffset
    | EndError::WrongLogOffset
    | EndError::Store(_) => ResponseCode::SYSTEM_ERROR,
});

refusal!(PullError, |error| match &error {
    PullError::BrokerForbidden { .. }
    | PullError::LiteForbidden { .. }
    | PullError::GroupForbidden(_)
    | PullError::TopicForbidden(_)
    | PullError::BroadcastForbidden(_)
    | PullError::SubscriptionForbidden { .. } => ResponseCode::NO_PERMISSION,
    PullError::UnknownGroup(_) => ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST,
    PullError::UnknownTopic(_) => ResponseCode::TOPIC_NOT_EXIST,
    PullError::InvalidQueue { .. } => ResponseCode::INVALID_PARAMETER,
    PullError::InvalidExpression(_) => ResponseCode::SUBSCRIPTION_PARSE_FAILED,
    PullError::NoFilterData { .. } => ResponseCode::FILTER_DATA_NOT_EXIST,
    PullError::FilterDataNotLatest => ResponseCode::FILTER_DATA_NOT_LATEST,
    PullError::NoGroupMember | PullError::NotSubscribed => ResponseCode::SUBSCRIPTION_NOT_EXIST,
    PullError::SubscriptionNotLatest => ResponseCode::SUBSCRIPTION_NOT_LATEST,
    PullError::UnsupportedFilter(_) | PullError::Store(_) => ResponseCode::SYSTEM_ERROR,
    PullError::Full(_) => ResponseCode::SYSTEM_BUSY,
});

refusal!(OffsetError, |error| match error {
    OffsetError::NotFound | OffsetError::NotFoundNoZero => ResponseCode::QUERY_NOT_FOUND,
});

/// A queue or the log that cannot be read.
impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Refusal {
        Refusal::new(ResponseCode::SYSTEM_ERROR, fault.to_string())
    }
}

refusal!(CommitError, |error| match &error {
    CommitError::UnknownGroup(_) => ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST,
    CommitError::UnknownTopic(_) => ResponseCode::TOPIC_NOT_EXIST,
    CommitError::UnknownQueue { .. } => ResponseCode::INVALID_PARAMETER,
    CommitError::Full(_) => ResponseCode::SYSTEM_ERROR,
});

refusal!(ResetError, |error| match &error {
    ResetError::UnknownTopic(_) => ResponseCode::TOPIC_NOT_EXIST,
    ResetError::UnknownGroup(_) => ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST,
    ResetError::NotOnline { .. } => ResponseCode::CONSUMER_NOT_ONLINE,
    ResetError::UnknownQueue(_)
    | ResetError::NoQueues
    | ResetError::NothingConsumed(..)
    | ResetError::OldClient { .. }
    | ResetError::OutOfRange { .. }
    | ResetError::Full(_)
    | ResetError::Store(_) => ResponseCode::SYSTEM_ERROR,
});

refusal!(TooManyQueues, |_error| ResponseCode::SYSTEM_ERROR);

refusal!(HeartbeatError, |error| match &error {
    HeartbeatError::NoClientId | HeartbeatError::InvalidName(_) => ResponseCode::INVALID_PARAMETER,
    HeartbeatError::Full(_) => ResponseCode::SYSTEM_BUSY,
});

refusal!(LockError, |error| match &error {
    LockError::InvalidName(_) => ResponseCode::INVALID_PARAMETER,
});

refusal!(ClientsError, |error| match &error {
    ClientsError::NoConsumer(_) | ClientsError::NoProducer(_) => ResponseCode::SYSTEM_ERROR,
    ClientsError::ConsumerNotOnline(_) => ResponseCode::CONSUMER_NOT_ONLINE,
});

refusal!(SubscriptionError, |error| match &error {
    SubscriptionError::Unsupported(_) => ResponseCode::SYSTEM_ERROR,
    SubscriptionError::Invalid(_) => ResponseCode::SUBSCRIPTION_PARSE_FAILED,
});

refusal!(TopicError, |error| match &error {
    TopicError::InvalidName(_) | TopicError::System(_) | TopicError::Invalid(_) => {
        ResponseCode::INVALID_PARAMETER
    }
    TopicError::Unknown(_) => ResponseCode::TOPIC_NOT_EXIST,
    TopicError::Full(_) | TopicError::Store(_) => ResponseCode::SYSTEM_ERROR,
});

/// A change that a kill would undo.
impl From<NotSaved> for Refusal {
    fn from(not_saved: NotSaved) -> Refusal {
        Refusal::new(ResponseCode::SYSTEM_ERROR, not_saved.to_string())
    }
}

refusal!(GroupError, |error| match &error {
    GroupError::InvalidName(_) | GroupError::Invalid(_) => ResponseCode::INVALID_PARAMETER,
    GroupError::Unknown(_) => ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST,
    GroupError::UnknownTopic(_) => ResponseCode::TOPIC_NOT_EXIST,
    GroupError::Full(_) => ResponseCode::SYSTEM_ERROR,
});

refusal!(ConfigError, |error| match &error {
    ConfigError::Forbidden(_) | ConfigError::Fixed(_) => ResponseCode::NO_PERMISSION,
    ConfigError::Invalid { .. } => ResponseCode::INVALID_PARAMETER,
});

refusal!(ListError, |error| match &error {
    ListError::UnknownQueue { .. } | ListError::Store(_) => ResponseCode::SYSTEM_ERROR,
    ListError::Count => ResponseCode::INVALID_PARAMETER,
});

refusal!(FindError, |error| match &error {
    FindError::NotAt(_) | FindError::Store(_) => ResponseCode::SYSTEM_ERROR,
});

refusal!(RecallError, |error| match &error {
    RecallError::Forbidden => ResponseCode::NO_PERMISSION,
    RecallError::NotNow => ResponseCode::SERVICE_NOT_AVAILABLE,
    RecallError::UnknownTopic(_) => ResponseCode::TOPIC_NOT_EXIST,
    RecallError::InvalidHandle(_)
    | RecallError::OtherTopic
    | RecallError::OtherBroker
    | RecallError::InvalidTime => ResponseCode::ILLEGAL_OPERATION,
    RecallError::Publish(_) => ResponseCode::SYSTEM_ERROR,
});

refusal!(SendBackError, |error| match &error {
    SendBackError::UnknownGroup(_) => ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST,
    SendBackError::BrokerForbidden { .. } | SendBackError::TopicForbidden(_) => {
        ResponseCode::NO_PERMISSION
    }
    SendBackError::NoMessage(_) | SendBackError::Batch => ResponseCode::SYSTEM_ERROR,
    SendBackError::Publish(refused) => publish_code(refused),
});
