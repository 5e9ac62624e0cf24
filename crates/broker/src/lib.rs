//! Messaging rules.
