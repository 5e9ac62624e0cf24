import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.exception.RequestTimeoutException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.RequestCallback;
import org.apache.rocketmq.client.utils.MessageUtil;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/** Requests that wait for the reply of a consumer, which came with 4.6. */
public final class Requests implements Interop.Body {
    private static final long WAIT_MS = 5_000;

    @Override
    public void run() throws Exception {
        String topic = Interop.topic("requests");
        Interop.create(topic);
        DefaultMQProducer replier = Interop.producer("replier");
        DefaultMQPushConsumer consumer = Interop.start(Interop.group("requests"), topic, "*", false, (messages, context) -> {
            for (MessageExt message : messages) {
                try {
                    replier.send(MessageUtil.createReplyMessage(message, Interop.text("re: " + Interop.string(message.getBody()))));
                } catch (Exception gone) {
                    // who asked is not known to the broker yet, or has stopped waiting; it asks again
                }
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        try {
            for (int i = 0; i < 5; i++) {
                String body = "request " + i;
                Interop.eventually("a reply to " + body, () -> reply(topic, body).equals("re: " + body));
            }
            Interop.eventually("a reply to a callback", () -> later(topic, "callback").equals("re: callback"));
        } finally {
            consumer.shutdown();
            replier.shutdown();
        }
        String unheard = Interop.topic("requests-unheard");
        Interop.create(unheard);
        Interop.eventually("the end of a request that nobody hears", () -> {
            try {
                throw new AssertionError("nobody replied " + reply(unheard, "hello"));
            } catch (RequestTimeoutException noReply) {
                return true;
            }
        });
    }

    private static String reply(String topic, String body) throws Exception {
        return Interop.string(Interop.producer.request(new Message(topic, Interop.text(body)), WAIT_MS).getBody());
    }

    private static String later(String topic, String body) throws Exception {
        CompletableFuture<String> reply = new CompletableFuture<>();
        Interop.producer.request(new Message(topic, Interop.text(body)), new RequestCallback() {
            @Override
            public void onSuccess(Message message) {
                reply.complete(Interop.string(message.getBody()));
            }

            @Override
            public void onException(Throwable cause) {
                reply.completeExceptionally(cause);
            }
        }, WAIT_MS);
        return reply.get(2 * WAIT_MS, TimeUnit.MILLISECONDS);
    }
}
