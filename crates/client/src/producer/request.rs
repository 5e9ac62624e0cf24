//! Request and reply: a message whose sender waits until somebody who consumed it has answered.
//!
//! The reply is a message, too ([`ReceivedMessage::reply`]); the broker that takes it pushes it to this client over the
//! connection that it has with it. Java: `DefaultMQProducerImpl.request`, `RequestFutureHolder`.

use std::{sync::Arc, time::Duration};

use wire::properties::name;

use crate::{
    client::Core,
    error::{InvalidField, ReplyError, SendError},
    message::{Message, ReceivedMessage, TTL},
};

use super::Producer;

impl Producer {
    /// Sends a message and waits up to `timeout`, which begins with the call, for the reply of whoever consumes it
    /// ([`ReceivedMessage::reply`]). The send itself ends by `send_msg_timeout`. Dropping the
    /// future waits no longer.
    ///
    /// # Errors
    /// [`ReplyError::Timeout`] if the message was stored and no reply came: it may still be consumed.
    ///
    /// ```no_run
    /// # async fn example(producer: apogee_client::Producer) -> Result<(), Box<dyn std::error::Error>> {
    /// use apogee_client::Message;
    /// let question = Message::new("questions", "what do you get if you multiply six by nine?");
    /// let answer = producer.request(question, std::time::Duration::from_secs(3)).await?;
    /// println!("{:?}", answer.body());
    /// # Ok(()) }
    /// ```
    pub async fn request(
        &self,
        mut message: Message,
        timeout: Duration,
    ) -> Result<ReceivedMessage, ReplyError> {
        let core = self.0.core();
        message.enter(self.0.namespace());
        if message.is_later || message.is_reply {
            let reason = "nobody waits for the reply to a delayed message, or to a reply";
            return Err(SendError::from(InvalidField::new("delay", &message.topic, reason)).into());
        }
        message.check(self.0.options.max_message_size).map_err(SendError::from)?;
        let deadline = core.clock.monotonic() + timeout;
        // The brokers of the topic are those that replies come through, so they must know where this client is.
        let route = core.routes.to_send(&message.topic).await.map_err(SendError::from)?;
        core.beat_route(&route).await;
        let id = core.unique.next();
        message.put_own(name::CORRELATION_ID, &id);
        message.put_own(name::REPLY_TO_CLIENT, &core.id);
        message.put_own(TTL, &timeout.as_millis().to_string());
        let reply = core.await_reply(&id);
        let _forget = Forget { core, id: &id };
        self.send(message).await?;
        tokio::select! {
            biased;
            Ok(reply) = reply => Ok(reply),
            () = core.clock.sleep_until(deadline) => Err(ReplyError::Timeout(timeout)),
        }
    }
}

/// Forgets a request whose sender waits no longer.
struct Forget<'a> {
    core: &'a Arc<Core>,
    id: &'a str,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.core.forget_reply(self.id);
    }
}
