//! A client of RocketMQ, over the remoting protocol: for Apogee and for the original, from 4.x on.
//!
//! A [`Client`] knows the name servers and keeps connections, routes and heartbeats. It makes [`Producer`]s,
//! [`PushConsumer`]s and [`PullConsumer`]s, which share them. Everything is asynchronous, on tokio; nothing has a thread.
//!
//! # Send
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use apogee_client::{Client, Message};
//!
//! let client = Client::builder(["127.0.0.1:9876"]).build()?;
//! let producer = client.producer("shop").build()?;
//! let receipt = producer.send(Message::new("orders", "17 shoes").tag("shoes").key("order-4711")).await?;
//! println!("{} in queue {} at {}", receipt.unique_key, receipt.queue.queue_id, receipt.queue_offset);
//! producer.shutdown().await;
//! # Ok(()) }
//! ```
//!
//! [`Producer::send`] is done when a broker has stored the message. [`Producer::submit`] returns as soon as the message
//! is on its way, so one task keeps thousands under way; what is under way is bounded in bytes
//! ([`ProducerBuilder::buffer_bytes_max`]), and whoever exceeds the bound waits. A send that fails is tried at other
//! brokers, under the same unique key. Each error says whether the message may be stored ([`SendError`]).
//!
//! There are [`batches`](Producer::send_batch), [`one queue for each key`](Message::sharding_key),
//! [`delay levels`](Message::delay_level), [`times`](Message::deliver_at) that can be [`recalled`](Producer::recall),
//! [`transactions`](Producer::begin_transaction), and [`requests`](Producer::request) with
//! [`replies`](ReceivedMessage::reply).
//!
//! # Consume
//!
//! ```no_run
//! # async fn example(client: apogee_client::Client) -> Result<(), Box<dyn std::error::Error>> {
//! use apogee_client::{Consumed, Filter};
//!
//! let consumer = client
//!     .push_consumer("billing")
//!     .subscribe("orders", Filter::tags("shoes || boots"))
//!     .start(|message| async move {
//!         println!("{:?}", message.body());
//!         Consumed::Done
//!     })
//!     .await?;
//! tokio::signal::ctrl_c().await?;
//! consumer.shutdown().await?;
//! # Ok(()) }
//! ```
//!
//! The members of a group share a topic's queues. A handler says what became of a message: [`Consumed::Done`], or
//! [`Consumed::Retry`] to have it again later, from any member, until it is a dead letter. Delivery is at least once: a
//! message may come again when a member dies, so use [`ReceivedMessage::unique_key`] where it matters.
//! [`PushConsumerBuilder::start_orderly`] keeps the order of each queue; [`PullConsumer`] leaves it to the application
//! when to ask and what to commit.
//!
//! # Ask for messages
//!
//! A [`PullConsumer`] has messages only when it polls. It shares the queues of its subscriptions with its group, or reads
//! those that it is assigned from where it likes, by offset or by time. What it has polled is committed by the polls
//! that follow, or by [`PullConsumer::commit`] alone ([`PullConsumerBuilder::auto_commit`]).
//!
//! # When something fails
//!
//! An error says what to do next. [`InvalidField`] names a setting or a part of a message to correct; whatever
//! holds one has done nothing. [`RouteError`] is about a topic that is not there, or about name servers. [`RequestError`]
//! tells apart a server that was not asked, one that may have acted, and one that refused. Errors of sends also say
//! whether there would be a duplicate if the same were sent again:
//!
//! ```no_run
//! # async fn example(producer: apogee_client::Producer, order: apogee_client::Message) {
//! use apogee_client::SendError;
//!
//! match producer.send(order.clone()).await {
//!     Ok(receipt) => println!("stored as {}", receipt.offset_id),
//!     Err(SendError::Invalid(fault)) => panic!("a mistake in this program: {fault}"),
//!     Err(error @ (SendError::Route(_) | SendError::NotStored { .. } | SendError::Closed)) => {
//!         println!("{error}: `order` can be sent again later, and will be there once");
//!     }
//!     Err(SendError::Unconfirmed { unique_key, .. }) => {
//!         // It may be there twice then, under one unique key.
//!         let _again = producer.send(order.unique_key(unique_key)).await;
//!     }
//! }
//! # }
//! ```
//!
//! Consumers go on by themselves: what fails in the background (heartbeats, pulls, commits) is tried again, and is an event
//! of `tracing`, of the level `WARN`.
//!
//! # Follow a message
//!
//! Sends, handlers and polls run in spans of `tracing` named `send`, `process` and `receive`, with the fields of
//! OpenTelemetry's conventions for messaging (`messaging.destination.name`, `messaging.message.id` and so on). They are of
//! the level `DEBUG` and the target `apogee_client::span`; while they are disabled they cost nothing to speak of.
//! With [`ClientBuilder::trace_context`] a message also carries the trace that it belongs to, as the properties
//! `traceparent` and `tracestate`, and the handler's span continues it.
//!
//! # Measure
//!
//! The client measures through the facade of the crate `metrics`, under the names and labels of the original's newer
//! clients. Handles are kept, so a recorder is installed before the client is built.
//!
//! | name | unit | labels beside `topic` and `client_id` | what |
//! | --- | --- | --- | --- |
//! | `rocketmq_send_cost_time` | ms | `invocation_status` | a send with all its attempts, for each message |
//! | `rocketmq_delivery_latency` | ms | `consumer_group` | from when a message was stored, by the broker's clock, until it came; of the first of each pull |
//! | `rocketmq_await_time` | ms | `consumer_group` | from when a message came until a handler had room for it |
//! | `rocketmq_process_time` | ms | `consumer_group`, `invocation_status` | the handler, for each message that it had |
//! | `rocketmq_consumer_cached_messages` | messages | `consumer_group` | what has come and is not done |
//! | `rocketmq_consumer_cached_bytes` | bytes | `consumer_group` | the bodies of those |
//!
//! The first four are histograms, the others gauges; `invocation_status` is `success` or `failure`. Those of consumers are
//! of push consumers; what is tried again counts under its retry topic. Sends that nobody answers
//! ([`Producer::send_oneway`]) are not measured.
//!
//! # Stop
//!
//! [`Producer::shutdown`] waits for what is under way; [`PushConsumer::shutdown`] waits for handlers and keeps the progress.
//! Who only drops them loses nothing that was acknowledged, but consumes some messages again. The client ends with
//! the last clone, producer and consumer.
//!
//! # Over TLS, and by name
//!
//! [`ClientBuilder::tls`] says whom to trust, [`ClientBuilder::credentials`] who the client is:
//!
//! ```no_run
//! # fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use apogee_client::{Client, Credentials, Tls};
//!
//! let tls = Tls::roots(std::fs::read("ca.pem")?)?
//!     .client_certificate(std::fs::read("orders.pem")?, std::fs::read("orders.key")?)?;
//! let client = Client::builder(["mq.example:9876"])
//!     .tls(tls)
//!     .credentials(Credentials::new("orders", std::env::var("ROCKETMQ_SECRET_KEY")?))
//!     .build()?;
//! # Ok(()) }
//! ```
//!
//! # What it leaves to others
//!
//! POP is not in it.

mod client;
mod compression;
mod config;
mod consumer;
mod credentials;
mod error;
mod inbound;
mod lines;
mod message;
mod meters;
mod namespace;
mod producer;
mod route;
mod span;
mod trace;
mod unique;

pub use client::Client;
pub use config::ClientBuilder;
pub use consumer::{
    AllocateStrategy, ConsumeFromWhere, Consumed, Filter, MessageModel, Ordered, PullConsumer,
    PullConsumerBuilder, PushConsumer, PushConsumerBuilder,
};
pub use credentials::Credentials;
#[doc(hidden)]
pub use env::Clock;
pub use error::{
    BatchError, ConsumeError, InvalidField, ReplyError, RequestError, RouteError, SendError,
};
pub use message::{Message, ReceivedMessage};
pub use producer::{
    Producer, ProducerBuilder, Receipt, Resolution, SendReceipt, SendStatus, Transaction,
};
pub use remoting::{Tls, TlsError};
pub use span::{TraceContext, W3cContext};
pub use wire::{
    body::MessageQueue, code::ResponseCode, compression::Kind as Compression, names::TRACE_TOPIC,
};
