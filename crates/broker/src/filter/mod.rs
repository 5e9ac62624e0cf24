//! What a group wants of a topic.
//!
//! `tag` compares hashes that stand in queue entries; [`sql92`] evaluates a condition over a record's properties, and
//! `registry` keeps the conditions of groups, with their bits in the maps of `bloom`. A `MessageFilter` is what
//! one pull goes by: what the queue entry can tell is asked first, since a record has to be read.
//! (Java: `ExpressionMessageFilter`, `ExpressionForRetryMessageFilter`)

mod bloom;
pub mod code;
pub(crate) mod registry;
pub mod sql92;
pub(crate) mod tag;

use std::sync::Arc;

use bytestring::ByteString;
use store::ExtUnit;
use wire::{
    names,
    properties::{self, name},
    record::{CheckCrc, Record},
};

use self::{
    code::Attached,
    registry::{Registered, Registry},
    sql92::Condition,
    tag::TagFilter,
};

/// What a pull lets through; cheap to clone.
#[derive(Clone)]
pub(crate) enum MessageFilter {
    /// What the queue entries tell is enough.
    Tags(TagFilter),
    /// The condition of a pull itself.
    Condition(Arc<Condition>),
    /// The condition that a group has registered.
    Registered(Arc<Registered>),
    /// Retries of a group: of each topic the group's condition on it (`filterSupportRetry`).
    Retries { group: ByteString },
    /// What passes this, and a module that an administrator has attached.
    Code { first: Box<MessageFilter>, code: Arc<Attached> },
}

impl MessageFilter {
    /// Returns the filter by a condition on a topic; on a retry topic the conditions on the real topics may count.
    pub(crate) fn conditional(
        filter: MessageFilter,
        topic: &str,
        group: &ByteString,
        supports_retry: bool,
    ) -> MessageFilter {
        match supports_retry && topic.starts_with(names::RETRY_PREFIX) {
            true => MessageFilter::Retries { group: group.clone() },
            false => filter,
        }
    }

    /// What queue entries tell of the message.
    pub(crate) fn tags(&self) -> TagFilter {
        match self {
            Self::Tags(tags) => tags.clone(),
            Self::Code { first, .. } => first.tags(),
            Self::Condition(_) | Self::Registered(_) | Self::Retries { .. } => TagFilter::All,
        }
    }

    /// Whether each message may take long.
    pub(crate) fn is_slow(&self) -> bool {
        matches!(self, Self::Code { .. })
    }

    /// Whether records have to be looked into.
    pub(crate) fn needs_records(&self) -> bool {
        !matches!(self, Self::Tags(_))
    }

    /// Whether a message of which the queue's extension says this may be wanted.
    pub(crate) fn may_match(&self, unit: &ExtUnit) -> bool {
        match self {
            Self::Registered(registered) => registered.may_match(unit),
            Self::Code { first, .. } => first.may_match(unit),
            Self::Tags(_) | Self::Condition(_) | Self::Retries { .. } => true,
        }
    }

    /// Whether this record is wanted; one that cannot be read is not.
    pub(crate) fn passes(&self, record: &[u8], registry: &Registry) -> bool {
        let condition = match self {
            Self::Tags(_) => return true,
            Self::Condition(condition) => condition,
            Self::Registered(registered) => &registered.condition,
            Self::Code { first, code } => {
                return first.passes(record, registry)
                    && Record::decode(record, CheckCrc::No)
                        .is_ok_and(|record| code.passes(&record));
            }
            Self::Retries { group } => {
                let Ok(record) = Record::decode(record, CheckCrc::No) else { return false };
                let topic = properties::get(&record.properties, name::RETRY_TOPIC);
                let registered = topic.and_then(|topic| registry.get(topic, group));
                return registered
                    .is_none_or(|filter| filter.condition.matches(&record.properties));
            }
        };
        Record::decode(record, CheckCrc::No)
            .is_ok_and(|record| condition.matches(&record.properties))
    }
}
