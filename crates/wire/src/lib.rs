//! RocketMQ's vocabulary and bytes.
