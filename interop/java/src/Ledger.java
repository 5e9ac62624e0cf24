import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.rocketmq.client.QueryResult;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.PullResult;
import org.apache.rocketmq.client.consumer.PullStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.producer.LocalTransactionState;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.client.producer.TransactionListener;
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
 * read TOPIC...              prints the same fields, and those of the record, of every message there is
 * keys TOPIC KEY...          prints the same for what the key index finds
 * consume TOPIC GROUP COUNT  consumes with a group until COUNT came, prints them, and commits
 * schedule TOPIC PREFIX COUNT GAP  sends COUNT messages that are due GAP ms after each other, and prints topic, key and time of
 *                            each acknowledged one
 * fill                       one of each kind of record, for the committed stores
 */
public final class Ledger {
    public static void main(String[] args) throws Exception {
        Interop.endOnFailure();
        switch (args[0]) {
            case "write":
                write(args[1], args[2], Integer.parseInt(args[3]));
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
            case "schedule":
                schedule(args[1], args[2], Integer.parseInt(args[3]), Integer.parseInt(args[4]));
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

    private static void schedule(String topic, String prefix, int count, int gap) throws Exception {
        Interop.producer = Interop.producer("ledger");
        Interop.create(topic);
        long now = System.currentTimeMillis();
        for (int i = 1; i <= count; i++) {
            long due = now + (long) i * gap;
            String key = prefix + "-" + i;
            Message message = new Message(topic, "timed", key, Interop.text("due " + due));
            MessageAccessor.putProperty(message, "TIMER_DELIVER_MS", "" + due);
            if (Interop.producer.send(message).getSendStatus() == SendStatus.SEND_OK) {
                System.out.println(String.join("\t", topic, key, "" + due));
            }
        }
        System.out.flush();
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
        DefaultMQPullConsumer consumer = new DefaultMQPullConsumer("G-ledger");
        consumer.setInstanceName("ledger-" + System.nanoTime());
        consumer.start();
        List<MessageQueue> queues = new ArrayList<>();
        Interop.eventually(topic + " routed", () -> queues.addAll(consumer.fetchSubscribeMessageQueues(topic)));
        Collections.sort(queues);
        for (MessageQueue queue : queues) {
            long min = consumer.minOffset(queue);
            long max = consumer.maxOffset(queue);
            System.out.println(String.join("\t", "@queue", topic, "" + queue.getQueueId(), "" + min, "" + max));
            for (long at = min; at < max; ) {
                PullResult result = consumer.pull(queue, "*", at, 32);
                if (result.getPullStatus() == PullStatus.FOUND) {
                    for (MessageExt message : result.getMsgFoundList()) {
                        print(message);
                    }
                }
                if (result.getNextBeginOffset() <= at) {
                    throw new AssertionError("stuck at " + at + ": " + result);
                }
                at = result.getNextBeginOffset();
            }
        }
        System.out.flush();
        consumer.shutdown();
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
        TransactionMQProducer producer = new TransactionMQProducer("P-golden-transactions");
        producer.setInstanceName("transactions");
        producer.setTransactionListener(new TransactionListener() {
            @Override
            public LocalTransactionState executeLocalTransaction(Message message, Object verdict) {
                return (LocalTransactionState) verdict;
            }

            @Override
            public LocalTransactionState checkLocalTransaction(MessageExt message) {
                return LocalTransactionState.UNKNOW;
            }
        });
        producer.start();
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
