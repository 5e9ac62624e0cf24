import io.openmessaging.BytesMessage;
import io.openmessaging.Future;
import io.openmessaging.KeyValue;
import io.openmessaging.Message;
import io.openmessaging.MessagingAccessPoint;
import io.openmessaging.OMS;
import io.openmessaging.OMSBuiltinKeys;
import io.openmessaging.consumer.PullConsumer;
import io.openmessaging.consumer.PushConsumer;
import io.openmessaging.producer.Producer;
import io.openmessaging.producer.SendResult;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.rocketmq.common.message.MessageExt;

/**
 * The OpenMessaging API on the original's implementation of it: a producer in all its ways to send, a consumer that is
 * brought messages and one that asks for them, what each acknowledges, and the headers of messages on their way.
 */
public final class OpenMessaging {
    static final int MANY = 100;
    static MessagingAccessPoint point;

    public static void main(String[] args) throws Exception {
        Interop.endOnFailure();
        Interop.producer = Interop.producer("oms");
        point = OMS.getMessagingAccessPoint("oms:rocketmq://" + System.getenv("NAMESRV_ADDR") + "/default:default");
        point.startup();
        Set<String> all = Collections.emptySet();
        Interop.check(all, "oms producer", OpenMessaging::producer);
        Interop.check(all, "oms push consumer", OpenMessaging::pushConsumer);
        Interop.check(all, "oms pull consumer", OpenMessaging::pullConsumer);
        point.shutdown();
        Interop.finish();
    }

    /** Sends a third by each way; a stock consumer gets all, by the ids that their senders were told. */
    static void producer() throws Exception {
        String topic = created("oms-producer");
        Producer producer = started("producer");
        Set<String> ids = new HashSet<>();
        List<Future<SendResult>> results = new ArrayList<>();
        for (int i = 0; i < MANY; i++) {
            ids.add(producer.send(message(producer, topic, "sync " + i), timeout(10_000)).messageId());
            results.add(producer.sendAsync(message(producer, topic, "async " + i)));
            producer.sendOneway(message(producer, topic, "oneway " + i));
        }
        for (Future<SendResult> result : results) {
            ids.add(result.get(Interop.PATIENCE_MS).messageId());
        }
        Set<String> bodies = new HashSet<>();
        Set<String> got = new HashSet<>();
        for (MessageExt message : Interop.drain(topic, "blue", 3 * MANY)) {
            String body = Interop.string(message.getBody());
            bodies.add(body);
            got.add(message.getMsgId());
            Interop.equal("a property", body, message.getUserProperty("copy"));
            Interop.equal("a tag", "blue", message.getTags());
        }
        for (String way : new String[] {"sync ", "async ", "oneway "}) {
            for (int i = 0; i < MANY; i++) {
                Interop.equal("a message", true, bodies.contains(way + i));
            }
        }
        Interop.equal("ids", 2 * MANY, ids.size());
        Interop.equal("ids that came", true, got.containsAll(ids));
        producer.shutdown();
    }

    /** What its listener acknowledges does not come again, not to the next member of the group either. */
    static void pushConsumer() throws Exception {
        String topic = created("oms-push");
        Producer producer = started("push");
        Map<String, Message> first = new ConcurrentHashMap<>();
        PushConsumer consumer = pushing(topic, first);
        Set<String> old = send(producer, topic, "old");
        Interop.eventually("all come", () -> first.keySet().containsAll(old));
        for (Message message : first.values()) {
            String body = Interop.string(message.getBody(byte[].class));
            KeyValue system = message.sysHeaders();
            Interop.equal("destination", topic, system.getString(Message.BuiltinKeys.DESTINATION));
            Interop.equal("a user header", body, message.userHeaders().getString("copy"));
            Interop.equal("born", true, system.getLong(Message.BuiltinKeys.BORN_TIMESTAMP) > 0);
            Interop.equal("stored", true, system.getLong(Message.BuiltinKeys.STORE_TIMESTAMP) > 0);
        }
        consumer.suspend();
        Interop.equal("suspended", true, consumer.isSuspended());
        consumer.resume();
        consumer.shutdown();
        Set<String> fresh = send(producer, topic, "fresh");
        Map<String, Message> second = new ConcurrentHashMap<>();
        PushConsumer next = pushing(topic, second);
        Interop.eventually("the rest comes", () -> second.keySet().containsAll(fresh));
        Interop.equal("nothing again", fresh, new HashSet<>(second.keySet()));
        next.shutdown();
        producer.shutdown();
    }

    /** What it has received and acknowledged does not come again; what it has only received does. */
    static void pullConsumer() throws Exception {
        String topic = created("oms-pull");
        Producer producer = started("pull");
        Set<String> sent = send(producer, topic, "pulled");
        PullConsumer consumer = pulling(topic);
        Map<String, String> got = receive(consumer, MANY);
        Interop.equal("all come", sent, new HashSet<>(got.values()));
        for (String id : got.keySet()) {
            consumer.ack(id);
        }
        consumer.shutdown();
        Set<String> fresh = send(producer, topic, "fresh");
        PullConsumer second = pulling(topic);
        Interop.equal("nothing again", fresh, new HashSet<>(receive(second, MANY).values()));
        second.shutdown();
        PullConsumer third = pulling(topic);
        Interop.equal("not acknowledged, so again", fresh, new HashSet<>(receive(third, MANY).values()));
        Interop.equal("no more", null, third.receive(timeout(500)));
        third.shutdown();
        producer.shutdown();
    }

    // ---- what the checks are written in

    static String created(String name) throws Exception {
        String topic = Interop.topic(name);
        Interop.create(topic);
        return topic;
    }

    static Producer started(String name) {
        Producer producer = point.createProducer(OMS.newKeyValue().put("rmq.producer.group", Interop.group("oms-" + name)));
        producer.startup();
        return producer;
    }

    static BytesMessage message(Producer producer, String topic, String body) {
        BytesMessage message = producer.createBytesMessage(topic, Interop.text(body));
        message.putUserHeaders("copy", body);
        message.putUserHeaders("TAGS", "blue");
        return message;
    }

    static Set<String> send(Producer producer, String topic, String prefix) {
        Set<String> bodies = new HashSet<>();
        for (int i = 0; i < MANY; i++) {
            producer.send(message(producer, topic, prefix + " " + i));
            bodies.add(prefix + " " + i);
        }
        return bodies;
    }

    static KeyValue timeout(int millis) {
        return OMS.newKeyValue().put(Message.BuiltinKeys.TIMEOUT, millis);
    }

    static KeyValue member(String topic) {
        return OMS.newKeyValue().put(OMSBuiltinKeys.CONSUMER_ID, Interop.group(topic));
    }

    static PushConsumer pushing(String topic, Map<String, Message> inbox) throws Exception {
        PushConsumer consumer = point.createPushConsumer(member(topic));
        consumer.attachQueue(topic, (message, context) -> {
            inbox.put(Interop.string(message.getBody(byte[].class)), message);
            context.ack();
        });
        consumer.startup();
        return consumer;
    }

    static PullConsumer pulling(String topic) {
        PullConsumer consumer = point.createPullConsumer(member(topic));
        consumer.attachQueue(topic);
        consumer.startup();
        return consumer;
    }

    /** Receives so many messages: their bodies, by id. */
    static Map<String, String> receive(PullConsumer consumer, int count) {
        Map<String, String> got = new HashMap<>();
        long deadline = System.currentTimeMillis() + Interop.PATIENCE_MS;
        while (got.size() < count && System.currentTimeMillis() < deadline) {
            Message message = consumer.receive(timeout(1000));
            if (message != null) {
                String body = Interop.string(message.getBody(byte[].class));
                got.put(message.sysHeaders().getString(Message.BuiltinKeys.MESSAGE_ID), body);
            }
        }
        return got;
    }
}
