//! Namespaces: topics and groups that carry one before them at the servers, and are spoken of here without it.
//!
//! ```text
//! T  <->  NAMESPACE%T        %RETRY%g  <->  %RETRY%NAMESPACE%g        %DLQ%g  <->  %DLQ%NAMESPACE%g
//! ```
//! What the application gives is wrapped once, where it comes in, and a name that has the namespace stays as it is; inside
//! of the client all names are those of the servers. The servers' own topics and groups have no namespace.
//! Java: `NamespaceUtil`.

use std::{borrow::Cow, sync::Arc};

use wire::{body::MessageQueue, names};

/// Stands between a namespace and a name (Java: `NamespaceUtil.NAMESPACE_SEPARATOR`).
const SEPARATOR: char = '%';
/// The property by which a message says its producer's namespace (Java: `MessageConst.PROPERTY_INSTANCE_ID`).
pub(crate) const INSTANCE_ID: &str = "INSTANCE_ID";

/// The namespace of a client, or none.
#[derive(Clone, Default)]
pub(crate) struct Namespace(Option<Arc<str>>);

impl Namespace {
    /// Takes a namespace that can be told from the name behind it.
    pub(crate) fn new(namespace: &str) -> Result<Namespace, &'static str> {
        if namespace.is_empty() || namespace.contains(SEPARATOR) || !names::is_legal(namespace) {
            return Err("a namespace has letters, digits and `|_-`, at least one");
        }
        if is_system(namespace) {
            return Err("what begins so is the servers' own, and has no namespace");
        }
        Ok(Namespace(Some(namespace.into())))
    }

    pub(crate) fn name(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// Returns how the servers call a topic or group (Java: `wrapNamespace`).
    pub(crate) fn wrap<'a>(&self, name: &'a str) -> Cow<'a, str> {
        let Some(namespace) = self.name() else { return name.into() };
        let (prefix, rest) = split(name);
        if name.is_empty() || is_system(name) || is_within(namespace, rest).is_some() {
            return name.into();
        }
        format!("{prefix}{namespace}{SEPARATOR}{rest}").into()
    }

    /// Returns how the application calls a topic or group (Java: `withoutNamespace`).
    pub(crate) fn strip<'a>(&self, name: &'a str) -> Cow<'a, str> {
        let (prefix, rest) = split(name);
        match self.name().and_then(|namespace| is_within(namespace, rest)) {
            Some(bare) if prefix.is_empty() => bare.into(),
            Some(bare) => format!("{prefix}{bare}").into(),
            None => name.into(),
        }
    }

    pub(crate) fn wrap_queue(&self, queue: &MessageQueue) -> MessageQueue {
        MessageQueue { topic: self.wrap(&queue.topic).into_owned(), ..queue.clone() }
    }

    pub(crate) fn strip_queue(&self, queue: &MessageQueue) -> MessageQueue {
        MessageQueue { topic: self.strip(&queue.topic).into_owned(), ..queue.clone() }
    }

    /// As [`Namespace::strip_queue`]; without a namespace nothing is copied.
    pub(crate) fn strip_shared(&self, queue: &Arc<MessageQueue>) -> Arc<MessageQueue> {
        match self.0 {
            Some(_) => Arc::new(self.strip_queue(queue)),
            None => queue.clone(),
        }
    }
}

/// Cuts the prefix of a retry or dead-letter topic off.
fn split(name: &str) -> (&'static str, &str) {
    let cut = |prefix: &'static str| Some((prefix, name.strip_prefix(prefix)?));
    cut(names::RETRY_PREFIX).or_else(|| cut(names::DLQ_PREFIX)).unwrap_or(("", name))
}

fn is_within<'a>(namespace: &str, name: &'a str) -> Option<&'a str> {
    name.strip_prefix(namespace)?.strip_prefix(SEPARATOR)
}

/// Groups that are only predefined do have a namespace (Java: `MixAll.isSysConsumerGroup`).
fn is_system(name: &str) -> bool {
    names::is_system_topic(name) || name.starts_with(names::SYSTEM_GROUP_PREFIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `NamespaceUtil` of 5.5.0 makes of names: without and with the namespace `MQ_INST_1`.
    const JAVA: [(&str, &str); 7] = [
        ("T", "MQ_INST_1%T"),
        ("%RETRY%g", "%RETRY%MQ_INST_1%g"),
        ("%DLQ%g", "%DLQ%MQ_INST_1%g"),
        ("other%T", "MQ_INST_1%other%T"),
        ("TBW102", "TBW102"),
        ("rmq_sys_x", "rmq_sys_x"),
        ("CID_RMQ_SYS_x", "CID_RMQ_SYS_x"),
    ];

    #[test]
    fn names_are_wrapped_and_unwrapped_as_java_does_it() {
        let namespace = Namespace::new("MQ_INST_1").expect("a namespace");
        for (bare, wrapped) in JAVA {
            assert_eq!(namespace.wrap(bare), wrapped);
            assert_eq!(namespace.wrap(wrapped), wrapped, "a second time changes nothing");
            assert_eq!(namespace.strip(wrapped), bare);
        }
        assert_eq!(namespace.strip("other%T"), "other%T");
        assert_eq!(namespace.strip("%RETRY%other%g"), "%RETRY%other%g");
        let none = Namespace::default();
        assert_eq!((none.wrap("T"), none.strip("a%T")), ("T".into(), "a%T".into()));
    }

    #[test]
    fn a_namespace_that_could_not_be_found_again_is_refused() {
        for bad in ["", "a%b", "a b", "rmq_sys_a", "CID_RMQ_SYS_a", "TBW102"] {
            assert!(Namespace::new(bad).is_err(), "{bad}");
        }
    }
}
