import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Consumer;
import org.apache.rocketmq.client.QueryResult;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.PullResult;
import org.apache.rocketmq.client.consumer.PullStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.store.OffsetStore;
import org.apache.rocketmq.client.consumer.store.ReadOffsetType;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.LocalTransactionState;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.client.producer.TransactionMQProducer;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageAccessor;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/**
 * Writes messages and lists what a server holds, as lines that the driver compares; used for stores that change hands.
 *
 * write TOPIC PREFIX COUNT   sends, and prints topic, queue, queue offset, unique key, key and body of each acknowledged one;
 *                            COUNT 0 goes on until the server is gone
 * batches TOPIC PREFIX COUNT sends batches to a topic that keeps each in one record, and prints the same of their messages
 * read TOPIC...              prints the same fields, and those of the record, of every message there is
 * keys TOPIC KEY...          prints the same for what the key index finds
 * consume TOPIC GROUP COUNT  consumes with a group until COUNT came, prints them, and commits
 * pend TOPIC GROUP WAIT      sends what waits: half messages, delayed and timed messages, and some that GROUP fails to consume,
 *                            and prints topic, key and earliest store time of each that must come after WAIT ms, or at once
 * settle TOPIC GROUP KEY...  ends the half messages when it is asked, until each KEY came, and prints all that came
 * fill                       one of each kind of record, for the committed stores
 */
public final class Ledger {
    /** What the name of a topic ends with whose messages fail at first. */
    private static final String FAILING = "-failing";
    private static final int FAILURES = 4;
    private static final int HALVES = 3;
    private static final long ANSWER_AGAIN_MS = 10_000;

    public static void main(String[] args) throws Exception {
        Interop.endOnFailure();
        switch (args[0]) {
            case "write":
                write(args[1], args[2], Integer.parseInt(args[3]));
                break;
            case "batches":
                batches(args[1], args[2], Integer.parseInt(args[3]));
                break;
            case "read":
                for (int i = 1; i < args.length; i++) {
                    read(args[i]);
                }
                break;
            case "keys":
                keys(args[1], args);
                break;
            case "consume":
                consume(args[1], args[2], Integer.parseInt(args[3]));
                break;
            case "pend":
                pend(args[1], args[2], Long.parseLong(args[3]), args.length < 5);
                break;
            case "settle":
                settle(args[1], args[2], Arrays.asList(args).subList(3, args.length));
                break;
            case "fill":
                fill();
                break;
            default:
                throw new IllegalArgumentException(args[0]);
        }
        System.out.println("@done");
        System.out.flush();
        System.exit(0);
    }

    private static void write(String topic, String prefix, int count) throws Exception {
        Interop.producer = Interop.producer("ledger");
        Interop.producer.setSendMsgTimeout(3000);
        Interop.producer.setRetryTimesWhenSendFailed(0);
        // the topic may be new to this server, or its route still on the way
        Interop.eventually("routed", () -> {
            acknowledge(topic, prefix, 0);
            return true;
        });
        for (int i = 1; count == 0 || i < count; i++) {
            try {
                acknowledge(topic, prefix, i);
            } catch (Exception gone) {
                if (count != 0) {
                    throw gone;
                }
                return;
            }
        }
    }

    private static void batches(String topic, String prefix, int count) throws Exception {
        Interop.producer = Interop.producer("ledger");
        Interop.producer.setRetryTimesWhenSendFailed(0);
        if (!isRouted(topic)) {
            Interop.create(topic, Collections.singletonMap("+queue.type", "BatchCQ"));
        }
        for (int i = 0; i < count; i++) {
            List<Message> batch = new ArrayList<>();
            for (int j = 0; j <= i % 7; j++) {
                batch.add(new Message(topic, "", prefix + "-" + i + "-" + j, Interop.text("body of " + i + "-" + j)));
            }
            SendResult result = Interop.producer.send(batch);
            Interop.equal("status", SendStatus.SEND_OK, result.getSendStatus());
            for (Message message : batch) {
                System.out.println(String.join("\t", topic, "" + result.getMessageQueue().getQueueId(),
                    "" + (result.getQueueOffset() + batch.indexOf(message)),
                    message.getProperty("UNIQ_KEY"), message.getKeys(), Interop.string(message.getBody())));
            }
        }
        System.out.flush();
    }

    private static boolean isRouted(String topic) {
        try {
            return !Interop.producer.fetchPublishMessageQueues(topic).isEmpty();
        } catch (MQClientException unknown) {
            return false;
        }
    }

    /** The second delay level is to be of WAIT ms; without TIMERS no message has a time of its own. */
    private static void pend(String topic, String group, long wait, boolean timers) throws Exception {
        Interop.producer = Interop.producer("ledger");
        Interop.producer.setRetryTimesWhenSendFailed(0);
        Interop.create(topic);
        Interop.create(topic + FAILING);
        TransactionMQProducer halves = Transactions.producer("P-" + topic, message -> LocalTransactionState.UNKNOW);
        for (int i = 0; i < HALVES; i++) {
            for (String key : new String[] {"commit-now-" + i, "rollback-now-" + i, "commit-asked-" + i, "rollback-asked-" + i}) {
                LocalTransactionState verdict = !key.contains("-now-") ? LocalTransactionState.UNKNOW : verdict(key);
                long now = System.currentTimeMillis();
                halves.sendMessageInTransaction(new Message(topic, "half", key, Interop.text(key)), verdict);
                if (key.startsWith("commit")) {
                    promise(topic, key, now);
                }
            }
        }
        for (int i = 0; i < 8; i++) {
            Message delayed = new Message(topic, "delayed", "delayed-" + i, Interop.text("delayed"));
            delayed.setDelayTimeLevel(2);
            long now = System.currentTimeMillis();
            Interop.send(delayed);
            promise(topic, delayed.getKeys(), now + wait);
            if (!timers) {
                continue;
            }
            Message timed = new Message(topic, "timed", "timed-" + i, Interop.text("timed"));
            long due = System.currentTimeMillis() + wait + i * 300;
            MessageAccessor.putProperty(timed, "TIMER_DELIVER_MS", "" + due);
            Interop.send(timed);
            promise(topic, timed.getKeys(), due);
        }
        fail(topic, group, wait);
        halves.shutdown();
        System.out.flush();
    }

    /** A group fails to consume some messages, which are to come again; it is not asked for them a second time. */
    private static void fail(String topic, String group, long wait) throws Exception {
        Map<String, Long> failed = new ConcurrentHashMap<>();
        for (int i = 0; i < FAILURES; i++) {
            Interop.send(new Message(topic + FAILING, "failing", "retried-" + i, Interop.text("retried")));
        }
        DefaultMQPushConsumer consumer = Interop.start(group, topic + FAILING, "*", false, (messages, context) -> {
            messages.forEach(message -> failed.putIfAbsent(message.getKeys(), System.currentTimeMillis()));
            context.setDelayLevelWhenNextConsume(2);
            return ConsumeConcurrentlyStatus.RECONSUME_LATER;
        });
        // an offset moves over a message when the broker has it for another time
        OffsetStore offsets = consumer.getDefaultMQPushConsumerImpl().getOffsetStore();
        Interop.eventually("they are sent back", () -> {
            Thread.sleep(100);
            // by itself the client waits ten seconds with the first time
            consumer.getDefaultMQPushConsumerImpl().persistConsumerOffset();
            long sum = 0;
            for (MessageQueue queue : Interop.producer.fetchPublishMessageQueues(topic + FAILING)) {
                sum += Math.max(0, offsets.readOffset(queue, ReadOffsetType.READ_FROM_STORE));
            }
            return failed.size() == FAILURES && sum == FAILURES;
        });
        consumer.shutdown();
        failed.forEach((key, at) -> promise(topic, key, at + wait));
    }

    private static void promise(String topic, String key, long due) {
        System.out.println(String.join("\t", topic, key, "" + due));
    }

    private static LocalTransactionState verdict(String key) {
        return key.startsWith("commit") ? LocalTransactionState.COMMIT_MESSAGE : LocalTransactionState.ROLLBACK_MESSAGE;
    }

    private static void settle(String topic, String group, List<String> keys) throws Exception {
        Interop.producer = Interop.producer("ledger");
        Interop.eventually("routed", () -> !Interop.producer.fetchPublishMessageQueues(topic).isEmpty());
        Map<String, Long> answered = new ConcurrentHashMap<>();
        TransactionMQProducer halves = Transactions.producer("P-" + topic, message -> {
            // the original asks again until its op queue knows of the answer, and delivers what is committed twice twice
            long now = System.currentTimeMillis();
            Long last = answered.get(message.getKeys());
            if (last != null && now < last + ANSWER_AGAIN_MS) {
                return LocalTransactionState.UNKNOW;
            }
            answered.put(message.getKeys(), now);
            return verdict(message.getKeys());
        });
        // a producer is known to the brokers of topics that it has sent to
        Interop.eventually("known", () -> halves.send(new Message(topic + "-hello", Interop.text("hello"))) != null);
        Interop.Inbox again = new Interop.Inbox();
        DefaultMQPushConsumer consumer = Interop.start(group, topic + FAILING, "*", false, again);
        Set<String> missing = new HashSet<>(keys);
        DefaultMQPullConsumer reader = reader();
        try {
            Interop.eventually("all came", () -> {
                for (MessageExt message : again.messages) {
                    missing.remove(message.getKeys());
                }
                for (MessageQueue queue : reader.fetchSubscribeMessageQueues(topic)) {
                    each(reader, queue, message -> missing.remove(message.getKeys()));
                }
                Thread.sleep(200);
                return missing.isEmpty() && answered.keySet().stream().filter(key -> key.startsWith("rollback-asked-")).count() == HALVES;
            });
        } catch (AssertionError late) {
            throw new AssertionError("missing " + missing + ", asked " + answered.keySet(), late);
        }
        // what comes twice has some time to do so
        Thread.sleep(2_000);
        reader.shutdown();
        read(topic);
        again.messages.forEach(Ledger::print);
        consumer.shutdown();
        halves.shutdown();
    }

    private static void acknowledge(String topic, String prefix, int i) throws Exception {
        String key = prefix + "-" + i;
        StringBuilder body = new StringBuilder("body of " + key);
        while (body.length() < 20 + i % 7 * 100) {
            body.append('.');
        }
        SendResult result = Interop.producer.send(new Message(topic, "tag" + i % 3, key, Interop.text(body.toString())));
        if (result.getSendStatus() == SendStatus.SEND_OK) {
            System.out.println(String.join("\t", topic, "" + result.getMessageQueue().getQueueId(), "" + result.getQueueOffset(),
                result.getMsgId(), key, body));
            System.out.flush();
        }
    }

    private static void read(String topic) throws Exception {
        DefaultMQPullConsumer consumer = reader();
        List<MessageQueue> queues = new ArrayList<>();
        Interop.eventually(topic + " routed", () -> queues.addAll(consumer.fetchSubscribeMessageQueues(topic)));
        Collections.sort(queues);
        for (MessageQueue queue : queues) {
            long min = consumer.minOffset(queue);
            long max = consumer.maxOffset(queue);
            System.out.println(String.join("\t", "@queue", topic, "" + queue.getQueueId(), "" + min, "" + max));
            each(consumer, queue, Ledger::print);
        }
        System.out.flush();
        consumer.shutdown();
    }

    private static DefaultMQPullConsumer reader() throws Exception {
        DefaultMQPullConsumer consumer = new DefaultMQPullConsumer("G-ledger");
        consumer.setInstanceName("ledger-" + System.nanoTime());
        consumer.start();
        return consumer;
    }

    private static void each(DefaultMQPullConsumer consumer, MessageQueue queue, Consumer<MessageExt> take) throws Exception {
        long max = consumer.maxOffset(queue);
        for (long at = consumer.minOffset(queue); at < max; ) {
            PullResult result = consumer.pull(queue, "*", at, 32);
            if (result.getPullStatus() == PullStatus.FOUND) {
                result.getMsgFoundList().forEach(take);
            }
            if (result.getNextBeginOffset() <= at) {
                throw new AssertionError("stuck at " + at + ": " + result);
            }
            at = result.getNextBeginOffset();
        }
    }

    private static void keys(String topic, String[] args) throws Exception {
        Interop.producer = Interop.producer("ledger");
        Interop.eventually("routed", () -> !Interop.producer.fetchPublishMessageQueues(topic).isEmpty());
        for (int i = 2; i < args.length; i++) {
            String key = args[i];
            QueryResult[] found = new QueryResult[1];
            Interop.eventually("key " + key + " of " + topic, () -> {
                found[0] = Interop.producer.queryMessage(topic, key, 32, 0, Long.MAX_VALUE);
                return !found[0].getMessageList().isEmpty();
            });
            for (MessageExt message : found[0].getMessageList()) {
                print(message);
            }
        }
    }

    private static void consume(String topic, String group, int count) throws Exception {
        Interop.producer = Interop.producer("ledger");
        Interop.eventually("routed", () -> !Interop.producer.fetchPublishMessageQueues(topic).isEmpty());
        Interop.Inbox inbox = new Interop.Inbox();
        DefaultMQPushConsumer consumer = Interop.start(group, topic, "*", false, inbox);
        // a message is in the inbox before it counts as consumed: what is under way must end before offsets are committed
        consumer.setAwaitTerminationMillisWhenShutdown(Interop.PATIENCE_MS);
        Interop.eventually(count + " consumed by " + group, () -> inbox.messages.size() >= count);
        consumer.shutdown();
        inbox.messages.forEach(Ledger::print);
    }

    private static void print(MessageExt message) {
        System.out.println(String.join("\t", message.getTopic(), "" + message.getQueueId(), "" + message.getQueueOffset(),
            message.getMsgId(), "" + message.getKeys(), abbreviated(message.getBody()),
            "at=" + message.getCommitLogOffset(), "size=" + message.getStoreSize(), "sysflag=" + message.getSysFlag(),
            "flag=" + message.getFlag(), "born=" + message.getBornTimestamp(), "stored=" + message.getStoreTimestamp(),
            "reconsumed=" + message.getReconsumeTimes(), "prepared=" + message.getPreparedTransactionOffset(),
            "crc=" + message.getBodyCRC(), "tags=" + message.getTags()));
    }

    private static String abbreviated(byte[] body) {
        String text = Interop.string(body);
        return text.length() <= 1000 ? text : text.substring(0, 40) + "+" + (text.length() - 40);
    }

    /** Plain, keyed, batched, compressed, delayed, retried and transactional messages, and committed offsets of two groups. */
    private static void fill() throws Exception {
        Interop.producer = Interop.producer("fill");
        String plain = "golden-plain";
        Interop.create(plain);
        for (int i = 0; i < 300; i++) {
            Message message = new Message(plain, i % 4 == 3 ? null : "tag" + i % 4, "key-" + i + " shared", Interop.text("plain \u4e2d\u6587 " + i));
            message.setFlag(i % 2 == 0 ? 0 : 7);
            message.putUserProperty("number", "" + i);
            Interop.send(message);
        }
        String batch = "golden-batch";
        Interop.create(batch);
        for (int round = 0; round < 3; round++) {
            List<Message> messages = new ArrayList<>();
            for (int i = 0; i < 16; i++) {
                messages.add(new Message(batch, "b", "batch-" + round + "-" + i, Interop.text("batch " + round + " " + i)));
            }
            Interop.producer.send(messages);
        }
        String compressed = "golden-compressed";
        Interop.create(compressed);
        Interop.send(new Message(compressed, Interop.text(String.join("", Collections.nCopies(2000, "repeat ")))));
        String delayed = "golden-delayed";
        Interop.create(delayed);
        for (int level : new int[] {1, 3, 18}) {
            Message message = new Message(delayed, "d", "delayed-" + level, Interop.text("level " + level));
            message.setDelayTimeLevel(level);
            Interop.send(message);
        }
        transactions("golden-transactions");
        consumeGolden("golden-retried", "G-golden-retry", 4, true);
        consumeGolden(plain, "G-golden", 300, false);
    }

    private static void transactions(String topic) throws Exception {
        Interop.create(topic);
        TransactionMQProducer producer = Transactions.producer("P-golden-transactions", message -> LocalTransactionState.UNKNOW);
        for (LocalTransactionState verdict : LocalTransactionState.values()) {
            producer.sendMessageInTransaction(new Message(topic, "x", "transaction-" + verdict, Interop.text("" + verdict)), verdict);
        }
        producer.shutdown();
    }

    /** Consumes a topic with a group; the first delivery of each message fails when `retry` is asked for. */
    private static void consumeGolden(String topic, String group, int count, boolean retry) throws Exception {
        if (retry) {
            Interop.create(topic);
            Interop.sendSome(topic, "retried", count);
        }
        AtomicInteger consumed = new AtomicInteger();
        DefaultMQPushConsumer consumer = Interop.start(group, topic, "*", false, (messages, context) -> {
            if (retry && messages.get(0).getReconsumeTimes() == 0) {
                context.setDelayLevelWhenNextConsume(1);
                return ConsumeConcurrentlyStatus.RECONSUME_LATER;
            }
            consumed.addAndGet(messages.size());
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        Interop.eventually(group + " consumed", () -> consumed.get() >= count);
        consumer.shutdown();
    }
}
