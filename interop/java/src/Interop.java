import java.lang.reflect.Method;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Random;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicIntegerArray;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.MessageSelector;
import org.apache.rocketmq.client.consumer.PullResult;
import org.apache.rocketmq.client.consumer.PullStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyContext;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.client.exception.MQBrokerException;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.impl.factory.MQClientInstance;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageAccessor;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/**
 * What a stock Java client promises its users, checked against whatever server NAMESRV_ADDR names.
 *
 * One source for every client version from 4.2.0 to 5.5.0; what an old client lacks stands in a class of its own.
 * Each check has its own topic and groups, so the order of checks does not matter, but the server's restart comes last.
 * The driver restarts the server when this prints "@restart", and says so with a line on standard input.
 */
public final class Interop {
    static final String RUN =
        System.getProperty("interop.run", Long.toString(System.currentTimeMillis() % 1_000_000_000L, 36));
    static final long PATIENCE_MS = 120_000;
    static final int MANY = Integer.getInteger("interop.many", 100_000);
    static int passed;
    static int failed;
    static DefaultMQProducer producer;

    interface Body {
        void run() throws Exception;
    }

    interface Condition {
        boolean holds() throws Exception;
    }

    public static void main(String[] args) throws Exception {
        endOnFailure();
        Set<String> only = new HashSet<>(Arrays.asList(args));
        producer = producer("main");
        check(only, "sync", Interop::sync);
        check(only, "async", Interop::async);
        check(only, "oneway", Interop::oneway);
        check(only, "batch", Interop::batch);
        check(only, "large", Interop::large);
        check(only, "compressed", Interop::compressed);
        check(only, "tags", Interop::tags);
        check(only, "conditions", Interop::conditions);
        check(only, "queries", Interop::queries);
        check(only, "pull", Interop::pull);
        check(only, "orderly", Interop::orderly);
        check(only, "dead letters", Interop::deadLetters);
        check(only, "delays", Interop::delays);
        check(only, "resets", Interop::resets);
        check(only, "clustering", Interop::clustering);
        check(only, "broadcasting", Interop::broadcasting);
        check(only, "timers by property", Interop::timersByProperty);
        later(only, "lite pull", "LitePull");
        later(only, "transactions", "Transactions");
        later(only, "requests", "Requests");
        later(only, "traces", "Traces");
        later(only, "timers", "Timers");
        if (Boolean.getBoolean("interop.vip")) {
            check(only, "vip channel", Interop::vipChannel);
        }
        check(only, "many", Interop::many);
        check(only, "offsets over a client's restart", () -> offsets(false));
        if (Boolean.getBoolean("interop.restart")) {
            check(only, "offsets over the server's restart", () -> offsets(true));
        }
        finish();
    }

    static void finish() {
        producer.shutdown();
        System.out.println(passed + " passed, " + failed + " failed");
        System.exit(failed == 0 ? 0 : 1);
    }

    /** A check of what an old client lacks, in a class that is compiled for later ones alone. */
    static void later(Set<String> only, String name, String className) {
        Class<?> found;
        try {
            found = Class.forName(className);
        } catch (ClassNotFoundException absent) {
            return;
        }
        check(only, name, () -> ((Body) found.getDeclaredConstructor().newInstance()).run());
    }

    /** A client's threads would keep the process alive after its main thread failed. */
    static void endOnFailure() {
        Thread.currentThread().setUncaughtExceptionHandler((thread, cause) -> {
            cause.printStackTrace();
            System.exit(1);
        });
    }

    static void check(Set<String> only, String name, Body body) {
        if (!only.isEmpty() && !only.contains(name)) {
            return;
        }
        long begin = System.nanoTime();
        String verdict = "ok";
        Throwable cause = null;
        try {
            body.run();
            passed++;
        } catch (Throwable thrown) {
            failed++;
            verdict = "FAILED";
            cause = thrown;
        }
        System.out.printf("%s ... %s (%d ms)%n", name, verdict, (System.nanoTime() - begin) / 1_000_000);
        if (cause != null) {
            cause.printStackTrace(System.out);
        }
        System.out.flush();
    }

    // ---- checks, in the order of main

    static void sync() throws Exception {
        String topic = topic("sync");
        Map<String, Message> sent = new HashMap<>();
        Map<Integer, List<Long>> offsets = new TreeMap<>();
        for (int i = 0; i < 100; i++) {
            Message message = new Message(topic, "tag" + i % 3, "key-" + i, text("body \u00e9\u4e2d " + i));
            message.putUserProperty("number", String.valueOf(i));
            SendResult result = send(message);
            offsets.computeIfAbsent(result.getMessageQueue().getQueueId(), q -> new ArrayList<>()).add(result.getQueueOffset());
            sent.put(result.getMsgId(), message);
        }
        for (List<Long> queue : offsets.values()) {
            for (int i = 0; i < queue.size(); i++) {
                equal("queue offsets are dense", (long) i, queue.get(i));
            }
        }
        Map<String, MessageExt> got = byId(drain(topic, "*", 100));
        equal("message ids", sent.keySet(), got.keySet());
        for (String id : sent.keySet()) {
            Message left = sent.get(id);
            MessageExt right = got.get(id);
            equal("body", string(left.getBody()), string(right.getBody()));
            equal("tag", left.getTags(), right.getTags());
            equal("keys", left.getKeys(), right.getKeys());
            equal("property", left.getUserProperty("number"), right.getUserProperty("number"));
            equal("topic", topic, right.getTopic());
            equal("times", true, right.getStoreTimestamp() > 0 && right.getBornTimestamp() > 0);
        }
    }

    static void async() throws Exception {
        String topic = topic("async");
        create(topic);
        List<byte[]> bodies = new ArrayList<>();
        for (int i = 0; i < 1000; i++) {
            bodies.add(text("async " + i));
        }
        sendAll(topic, bodies, 64);
        equal("bodies", strings(bodies), bodiesOf(drain(topic, "*", 1000)));
    }

    static void oneway() throws Exception {
        String topic = topic("oneway");
        create(topic);
        Set<String> bodies = new HashSet<>();
        for (int i = 0; i < 100; i++) {
            bodies.add("oneway " + i);
            producer.sendOneway(new Message(topic, text("oneway " + i)));
        }
        equal("bodies", bodies, bodiesOf(drain(topic, "*", 100)));
    }

    static void batch() throws Exception {
        String topic = topic("batch");
        Set<String> bodies = new HashSet<>();
        for (int round = 0; round < 4; round++) {
            List<Message> messages = new ArrayList<>();
            for (int i = 0; i < 64; i++) {
                String body = "batch " + round + " " + i;
                Message message = new Message(topic, "even" + i % 2, "k" + i, text(body));
                message.putUserProperty("n", String.valueOf(i));
                messages.add(message);
                bodies.add(body);
            }
            SendResult result = producer.send(messages);
            equal("status", SendStatus.SEND_OK, result.getSendStatus());
            equal("an id for each", 64, result.getMsgId().split(",").length);
            equal("an offset id for each", 64, result.getOffsetMsgId().split(",").length);
        }
        Map<Long, Map<Long, String>> order = new TreeMap<>();
        List<MessageExt> got = drain(topic, "*", 256);
        equal("bodies", bodies, bodiesOf(got));
        for (MessageExt message : got) {
            String number = string(message.getBody()).split(" ")[2];
            equal("property of its own", number, message.getUserProperty("n"));
            equal("key of its own", "k" + number, message.getKeys());
            order.computeIfAbsent((long) message.getQueueId(), q -> new TreeMap<>()).put(message.getQueueOffset(), number);
        }
        for (Map<Long, String> queue : order.values()) {
            int at = 0;
            for (Map.Entry<Long, String> entry : queue.entrySet()) {
                equal("a batch is contiguous in its queue", String.valueOf(at++ % 64), entry.getValue());
            }
        }
        equal("half by tag", 128, drain(topic, "even0", 128).size());
    }

    static void large() throws Exception {
        String topic = topic("large");
        byte[] body = new byte[3_900_000];
        new Random(7).nextBytes(body);
        DefaultMQProducer plain = new DefaultMQProducer("plain-" + RUN);
        plain.setInstanceName("plain-" + RUN);
        plain.setSendMsgTimeout(30_000);
        plain.setCompressMsgBodyOverHowmuch(8 << 20);
        plain.start();
        try {
            for (int i = 0; i < 3; i++) {
                body[0] = (byte) i;
                equal("status", SendStatus.SEND_OK, plain.send(new Message(topic, body)).getSendStatus());
            }
            try {
                plain.setMaxMessageSize(16 << 20);
                plain.send(new Message(topic, new byte[(4 << 20) + 1]));
                throw new AssertionError("a body over 4 MiB was accepted");
            } catch (MQBrokerException refused) {
                equal("code of a body over 4 MiB", 13, refused.getResponseCode());
            }
            equal("the connection lives on", SendStatus.SEND_OK, plain.send(new Message(topic, text("small"))).getSendStatus());
        } finally {
            plain.shutdown();
        }
        Set<Integer> seen = new TreeSet<>();
        for (MessageExt message : drain(topic, "*", 4)) {
            if (message.getBody().length > 5) {
                body[0] = message.getBody()[0];
                equal("body", true, Arrays.equals(body, message.getBody()));
                seen.add((int) body[0]);
            }
        }
        equal("each once", 3, seen.size());
    }

    static void compressed() throws Exception {
        String topic = topic("compressed");
        StringBuilder text = new StringBuilder();
        while (text.length() < 1_000_000) {
            text.append("a body that is easy to compress, line ").append(text.length()).append('\n');
        }
        send(new Message(topic, text(text.toString())));
        MessageExt got = drain(topic, "*", 1).get(0);
        equal("body", text.toString(), string(got.getBody()));
        equal("stored as it was sent, compressed", true, got.getStoreSize() < 400_000);
    }

    static void tags() throws Exception {
        String topic = topic("tags");
        // "Aa" and "BB" have one Java hash, by which the server filters; the client tells them apart
        String[] tags = {"A", "B", "C", "Aa", "BB", null};
        for (int i = 0; i < 60; i++) {
            send(new Message(topic, tags[i % 6], text(tags[i % 6] + " " + i)));
        }
        for (String[] row : new String[][] {{"A || C", "20"}, {"Aa", "10"}, {"B", "10"}, {"*", "60"}}) {
            List<MessageExt> got = drain(topic, row[0], Integer.parseInt(row[1]));
            Set<String> wanted = new HashSet<>(Arrays.asList(row[0].split(" \\|\\| ")));
            for (MessageExt message : got) {
                equal(row[0] + " takes " + message.getTags(), true, row[0].equals("*") || wanted.contains(message.getTags()));
            }
        }
    }

    static void conditions() throws Exception {
        String topic = topic("conditions");
        for (int i = 0; i < 60; i++) {
            Message message = new Message(topic, i % 2 == 0 ? "even" : "odd", text("number " + i));
            message.putUserProperty("n", String.valueOf(i));
            if (i % 3 == 0) {
                message.putUserProperty("colour", i % 6 == 0 ? "red" : "it's blue");
            }
            send(message);
        }
        for (String[] row : new String[][] {
            {"n BETWEEN 10 AND 19", "10"},
            {"n > 49.5 AND TAGS = 'even' OR n = 1", "6"},
            {"colour IS NULL", "40"},
            {"colour IN ('red', 'green') AND NOT (n > 29)", "7"},
            {"colour = 'it''s blue'", "10"},
            {"n IS NOT NULL -- all of them\n", "62"},
        }) {
            Inbox inbox = new Inbox();
            DefaultMQPushConsumer consumer = selecting(topic, row[0], inbox);
            int count = Integer.parseInt(row[1]);
            try {
                eventually(count + " messages by " + row[0] + ", got " + inbox.messages.size(), () -> inbox.messages.size() >= count);
                if (row[0].startsWith("n BETWEEN")) {
                    // the consumer waits by now, and is woken by what it wants alone
                    for (int n : new int[] {20, 15}) {
                        Message message = new Message(topic, "later", text("later " + n));
                        message.putUserProperty("n", String.valueOf(n));
                        message.putUserProperty("colour", "red");
                        send(message);
                    }
                    eventually("a later one", () -> inbox.messages.size() > count);
                    equal("the later one", true, inbox.bodies().contains("later 15"));
                }
            } finally {
                consumer.shutdown();
            }
            equal("messages by " + row[0], count + (row[0].startsWith("n BETWEEN") ? 1 : 0), inbox.messages.size());
        }
        try {
            selecting(topic, "n > 'a'", new Inbox());
            throw new AssertionError("a wrong condition was accepted");
        } catch (MQClientException refused) {
            equal("code of a wrong condition", 23, refused.getResponseCode());
        }
    }

    static DefaultMQPushConsumer selecting(String topic, String condition, Inbox inbox) throws Exception {
        DefaultMQPushConsumer consumer = consumer("G-selecting-" + SERIAL.incrementAndGet() + "-" + RUN, topic, "*", false);
        consumer.unsubscribe(topic);
        consumer.subscribe(topic, MessageSelector.bySql(condition));
        consumer.registerMessageListener(inbox);
        consumer.start();
        return consumer;
    }

    static void queries() throws Exception {
        String topic = topic("queries");
        long begin = System.currentTimeMillis() - 60_000;
        List<SendResult> results = new ArrayList<>();
        for (int i = 0; i < 10; i++) {
            results.add(send(new Message(topic, "t", "common only-" + i, text("q" + i))));
        }
        SendResult third = results.get(3);
        equal("by offset id", "q3", string(producer.viewMessage(topic, third.getOffsetMsgId()).getBody()));
        eventually("by key", () -> producer.queryMessage(topic, "only-3", 32, begin, Long.MAX_VALUE).getMessageList().size() == 1);
        eventually("by shared key", () -> producer.queryMessage(topic, "common", 32, begin, Long.MAX_VALUE).getMessageList().size() == 10);
        equal("by unique key", "q3", string(producer.viewMessage(topic, third.getMsgId()).getBody()));
        long total = 0;
        for (MessageQueue queue : producer.fetchPublishMessageQueues(topic)) {
            equal("min offset", 0L, producer.minOffset(queue));
            total += producer.maxOffset(queue);
            equal("before all", 0L, producer.searchOffset(queue, begin));
        }
        equal("max offsets", 10L, total);
        equal("earliest store time", true, producer.earliestMsgStoreTime(third.getMessageQueue()) > 0);
    }

    static void pull() throws Exception {
        String topic = topic("pull");
        for (int i = 0; i < 100; i++) {
            send(new Message(topic, "t" + i % 2, text("p" + i)));
        }
        DefaultMQPullConsumer consumer = new DefaultMQPullConsumer(group("pull"));
        consumer.setInstanceName("pull-" + RUN);
        consumer.start();
        try {
            Set<String> got = new HashSet<>();
            for (MessageQueue queue : consumer.fetchSubscribeMessageQueues(topic)) {
                long max = consumer.maxOffset(queue);
                for (long at = 0; at < max; ) {
                    PullResult result = consumer.pull(queue, "t1", at, 7);
                    equal("next moves on", true, result.getNextBeginOffset() > at);
                    equal("max", max, result.getMaxOffset());
                    if (result.getPullStatus() == PullStatus.FOUND) {
                        got.addAll(bodiesOf(result.getMsgFoundList()));
                    }
                    at = result.getNextBeginOffset();
                }
                PullResult past = consumer.pull(queue, "*", max + 100, 7);
                equal("past the end", PullStatus.OFFSET_ILLEGAL, past.getPullStatus());
                equal("past the end, next", max, past.getNextBeginOffset());
                equal("at the end", PullStatus.NO_NEW_MSG, consumer.pull(queue, "*", max, 7).getPullStatus());
                consumer.updateConsumeOffset(queue, 5);
                consumer.getDefaultMQPullConsumerImpl().getOffsetStore().persistAll(Collections.singleton(queue));
                eventually("committed offset", () -> consumer.fetchConsumeOffset(queue, true) == 5);
            }
            equal("filtered by tag", 50, got.size());
        } finally {
            consumer.shutdown();
        }
    }

    static void orderly() throws Exception {
        String topic = topic("orderly");
        create(topic);
        String group = group("orderly");
        Map<Integer, List<Integer>> seen = new TreeMap<>();
        Set<DefaultMQPushConsumer> working = Collections.synchronizedSet(new HashSet<>());
        List<DefaultMQPushConsumer> consumers = new ArrayList<>();
        try {
            join(consumers, group, topic, seen, working);
            eventually("alone it owns all", () -> owned(consumers.get(0), topic) == 4);
            sendInOrder(topic, 0, 200);
            eventually("it works", () -> working.size() == 1);
            join(consumers, group, topic, seen, working);
            sendInOrder(topic, 200, 400);
            eventually("queues shared", () -> owned(consumers.get(0), topic) == 2 && owned(consumers.get(1), topic) == 2);
            sendInOrder(topic, 400, 600);
            eventually("all consumed", () -> count(seen) >= 600);
            equal("consumers that worked", 2, working.size());
            consumers.remove(0).shutdown();
            eventually("the one that stays owns all", () -> owned(consumers.get(0), topic) == 4);
            sendInOrder(topic, 600, 700);
            eventually("nothing is lost", () -> count(seen) >= 700);
            synchronized (seen) {
                equal("queues", 4, seen.size());
                for (Map.Entry<Integer, List<Integer>> queue : seen.entrySet()) {
                    List<Integer> wanted = new ArrayList<>();
                    for (int i = queue.getValue().get(0); i < 700; i += 4) {
                        wanted.add(i);
                    }
                    equal("order in queue " + queue.getKey(), wanted, queue.getValue());
                }
            }
        } finally {
            consumers.forEach(DefaultMQPushConsumer::shutdown);
        }
    }

    static void sendInOrder(String topic, int from, int to) throws Exception {
        for (int i = from; i < to; i++) {
            producer.send(new Message(topic, text("" + i)), (queues, message, number) -> {
                List<MessageQueue> sorted = new ArrayList<>(queues);
                Collections.sort(sorted);
                return sorted.get((Integer) number % sorted.size());
            }, i);
        }
    }

    static int count(Map<Integer, List<Integer>> seen) {
        synchronized (seen) {
            return seen.values().stream().mapToInt(List::size).sum();
        }
    }

    static void join(List<DefaultMQPushConsumer> consumers, String group, String topic, Map<Integer, List<Integer>> seen,
        Set<DefaultMQPushConsumer> working) throws Exception {
        DefaultMQPushConsumer consumer = consumer(group, topic, "*", false);
        consumer.registerMessageListener((MessageListenerOrderly) (messages, context) -> {
            synchronized (seen) {
                for (MessageExt message : messages) {
                    seen.computeIfAbsent(message.getQueueId(), q -> new ArrayList<>()).add(Integer.parseInt(string(message.getBody())));
                }
            }
            working.add(consumer);
            return ConsumeOrderlyStatus.SUCCESS;
        });
        consumer.start();
        consumers.add(consumer);
    }

    /** One message fails twice and is well the third time, one fails until it is a dead letter. */
    static void deadLetters() throws Exception {
        String topic = topic("dead");
        create(topic);
        String group = group("dead");
        Map<String, List<Integer>> attempts = new HashMap<>();
        DefaultMQPushConsumer consumer = consumer(group, topic, "*", false);
        consumer.setMaxReconsumeTimes(2);
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            MessageExt message = messages.get(0);
            synchronized (attempts) {
                attempts.computeIfAbsent(string(message.getBody()), body -> new ArrayList<>()).add(message.getReconsumeTimes());
            }
            context.setDelayLevelWhenNextConsume(1);
            boolean isWell = message.getReconsumeTimes() == 2 && string(message.getBody()).equals("at last");
            return isWell ? ConsumeConcurrentlyStatus.CONSUME_SUCCESS : ConsumeConcurrentlyStatus.RECONSUME_LATER;
        });
        consumer.start();
        try {
            SendResult bad = send(new Message(topic, "tag", "key", text("bad")));
            send(new Message(topic, text("at last")));
            List<MessageExt> dead = new ArrayList<>();
            DefaultMQPullConsumer puller = new DefaultMQPullConsumer(group("dead-reader"));
            puller.setInstanceName("dead-" + RUN);
            puller.start();
            try {
                eventually("a dead letter", () -> {
                    for (MessageQueue queue : puller.fetchSubscribeMessageQueues("%DLQ%" + group)) {
                        PullResult result = puller.pull(queue, "*", 0, 32);
                        if (result.getPullStatus() == PullStatus.FOUND) {
                            dead.addAll(result.getMsgFoundList());
                        }
                    }
                    return !dead.isEmpty();
                });
            } finally {
                puller.shutdown();
            }
            equal("dead letters", 1, dead.size());
            equal("body", "bad", string(dead.get(0).getBody()));
            equal("tag", "tag", dead.get(0).getTags());
            equal("attempt", 3, dead.get(0).getReconsumeTimes());
            equal("where it came from", topic, dead.get(0).getProperty("RETRY_TOPIC"));
            equal("its key", bad.getMsgId(), dead.get(0).getProperty("UNIQ_KEY"));
            eventually("three attempts of each", () -> {
                synchronized (attempts) {
                    return attempts.values().stream().allMatch(list -> list.size() == 3);
                }
            });
            for (List<Integer> list : attempts.values()) {
                equal("attempts", Arrays.asList(0, 1, 2), list);
            }
        } finally {
            consumer.shutdown();
        }
    }

    static void delays() throws Exception {
        String topic = topic("delays");
        create(topic);
        Map<String, Long> came = Collections.synchronizedMap(new HashMap<>());
        DefaultMQPushConsumer consumer = start(group("delays"), topic, "*", false, (messages, context) -> {
            messages.forEach(message -> came.putIfAbsent(string(message.getBody()), System.currentTimeMillis()));
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        try {
            long[] waits = {0, 1_000, 5_000, 10_000};
            long begin = System.currentTimeMillis();
            for (int level = waits.length - 1; level >= 0; level--) {
                Message message = new Message(topic, text("level " + level));
                message.setDelayTimeLevel(level);
                send(message);
            }
            eventually("all came", () -> came.size() == waits.length);
            for (int level = 0; level < waits.length; level++) {
                long waited = came.get("level " + level) - begin;
                equal("level " + level + " is not early, after " + waited + " ms", true, waited >= waits[level]);
            }
        } finally {
            consumer.shutdown();
        }
    }

    /** A message of its own time, asked for by the properties that clients of 5.0 and later set. */
    static void timersByProperty() throws Exception {
        String topic = topic("timers-by-property");
        create(topic);
        long now = System.currentTimeMillis();
        String[][] rows = {{"TIMER_DELAY_SEC", "2", "2000"}, {"TIMER_DELAY_MS", "2600", "2600"}, {"TIMER_DELIVER_MS", "" + (now + 3300), "3300"}};
        for (String[] row : rows) {
            Message message = new Message(topic, text(row[0]));
            MessageAccessor.putProperty(message, row[0], row[1]);
            message.putUserProperty("due", "" + (now + Long.parseLong(row[2])));
            send(message);
        }
        for (MessageExt message : drain(topic, "*", rows.length)) {
            long early = Long.parseLong(message.getUserProperty("due")) - message.getStoreTimestamp();
            equal(string(message.getBody()) + " is not early, by " + early + " ms", true, early <= 0);
        }
    }

    /** A group is sent back to the beginning while it consumes, and to the end while it does not. */
    static void resets() throws Exception {
        String topic = topic("resets");
        create(topic);
        String group = group("resets");
        Inbox inbox = new Inbox();
        Set<String> all = sendSome(topic, "old", 20);
        DefaultMQPushConsumer consumer = start(group, topic, "*", false, inbox);
        try {
            eventually("all of them", () -> inbox.countIn(all) == 20);
            Thread.sleep(2_000); // it commits what it has
            reset(consumer, topic, group, 0);
            eventually("all of them again", () -> inbox.countIn(all) >= 40);
        } finally {
            consumer.shutdown();
        }
        Set<String> skipped = sendSome(topic, "skipped", 20);
        DefaultMQPushConsumer admin = start(group("resets-admin"), topic, "*", false, new Inbox());
        try {
            reset(admin, topic, group, -1);
        } finally {
            admin.shutdown();
        }
        Inbox later = new Inbox();
        DefaultMQPushConsumer again = start(group, topic, "*", false, later);
        try {
            Set<String> fresh = sendSome(topic, "fresh", 20);
            eventually("what came later", () -> later.countIn(fresh) == 20);
            equal("of those that were skipped", 0, later.countIn(skipped));
        } finally {
            again.shutdown();
        }
    }

    static void reset(DefaultMQPushConsumer by, String topic, String group, long timestamp) throws Exception {
        MQClientInstance client = by.getDefaultMQPushConsumerImpl().getmQClientFactory();
        Set<String> brokers = new HashSet<>();
        producer.fetchPublishMessageQueues(topic).forEach(queue -> brokers.add(queue.getBrokerName()));
        for (String broker : brokers) {
            eventually("address of " + broker, () -> client.findBrokerAddressInPublish(broker) != null);
            client.getMQClientAPIImpl().invokeBrokerToResetOffset(client.findBrokerAddressInPublish(broker), topic, group, timestamp, true, 10_000);
        }
    }

    static void clustering() throws Exception {
        String topic = topic("clustering");
        create(topic);
        String group = group("clustering");
        Set<String> wanted = Collections.synchronizedSet(new HashSet<>());
        Inbox first = new Inbox();
        Inbox second = new Inbox();
        Inbox third = new Inbox();
        DefaultMQPushConsumer a = start(group, topic, "*", false, first);
        DefaultMQPushConsumer b = null;
        DefaultMQPushConsumer c = null;
        try {
            eventually("alone it owns all", () -> owned(a, topic) == 4);
            wanted.addAll(sendSome(topic, "alone", 100));
            eventually("alone it gets all", () -> first.bodies().containsAll(wanted));

            DefaultMQPushConsumer joined = b = start(group, topic, "*", false, second);
            eventually("two share", () -> owned(a, topic) == 2 && owned(joined, topic) == 2);
            DefaultMQPushConsumer last = c = start(group, topic, "*", false, third);
            eventually("three share", () -> owned(a, topic) + owned(joined, topic) + owned(last, topic) == 4
                && owned(a, topic) > 0 && owned(joined, topic) > 0 && owned(last, topic) > 0);
            Set<String> shared = sendSome(topic, "shared", 300);
            wanted.addAll(shared);
            eventually("together they get all", () -> union(first, second, third).containsAll(wanted));
            equal("the second works", true, !Collections.disjoint(second.bodies(), shared));
            equal("the third works", true, !Collections.disjoint(third.bodies(), shared));
            equal("each of them once", 300, first.countIn(shared) + second.countIn(shared) + third.countIn(shared));

            b.shutdown();
            c.shutdown();
            b = c = null;
            eventually("the one that stays owns all", () -> owned(a, topic) == 4);
            wanted.addAll(sendSome(topic, "after", 100));
            eventually("nothing is lost", () -> union(first, second, third).containsAll(wanted));
        } finally {
            for (DefaultMQPushConsumer consumer : Arrays.asList(a, b, c)) {
                if (consumer != null) {
                    consumer.shutdown();
                }
            }
        }
    }

    static void broadcasting() throws Exception {
        String topic = topic("broadcasting");
        create(topic);
        String group = group("broadcasting");
        Inbox first = new Inbox();
        Inbox second = new Inbox();
        DefaultMQPushConsumer a = start(group, topic, "*", true, first);
        DefaultMQPushConsumer b = start(group, topic, "*", true, second);
        try {
            eventually("each owns all", () -> owned(a, topic) == 4 && owned(b, topic) == 4);
            Set<String> sent = sendSome(topic, "all", 100);
            eventually("the first gets all", () -> first.bodies().equals(sent));
            eventually("the second gets all", () -> second.bodies().equals(sent));
            equal("each once", 200, first.countIn(sent) + second.countIn(sent));
        } finally {
            a.shutdown();
            b.shutdown();
        }
    }

    static void vipChannel() throws Exception {
        equal("the client's default", true, producer.isSendMessageWithVIPChannel());
        equal("sent over it", SendStatus.SEND_OK, send(new Message(topic("vip"), text("vip"))).getSendStatus());
    }

    static void many() throws Exception {
        String topic = topic("many");
        create(topic);
        String group = group("many");
        AtomicIntegerArray times = new AtomicIntegerArray(MANY);
        AtomicInteger distinct = new AtomicInteger();
        AtomicInteger duplicates = new AtomicInteger();
        MessageListenerConcurrently listener = (messages, context) -> {
            for (MessageExt message : messages) {
                if (times.incrementAndGet(ByteBuffer.wrap(message.getBody()).getInt()) == 1) {
                    distinct.incrementAndGet();
                } else {
                    duplicates.incrementAndGet();
                }
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        };
        DefaultMQPushConsumer a = start(group, topic, "*", false, listener);
        DefaultMQPushConsumer b = start(group, topic, "*", false, listener);
        try {
            eventually("queues shared", () -> owned(a, topic) == 2 && owned(b, topic) == 2);
            List<byte[]> bodies = new ArrayList<>();
            for (int i = 0; i < MANY; i++) {
                bodies.add(Arrays.copyOf(ByteBuffer.allocate(4).putInt(i).array(), 128));
            }
            sendAll(topic, bodies, 256);
            eventually("all arrive", () -> distinct.get() == MANY);
            long stored = 0;
            for (MessageQueue queue : producer.fetchPublishMessageQueues(topic)) {
                stored += producer.maxOffset(queue);
            }
            equal("stored", (long) MANY, stored);
            equal("duplicates", 0, duplicates.get());
        } finally {
            a.shutdown();
            b.shutdown();
        }
    }

    static void offsets(boolean restartServer) throws Exception {
        String topic = topic(restartServer ? "server-offsets" : "client-offsets");
        String group = group(restartServer ? "server-offsets" : "client-offsets");
        create(topic);
        Inbox before = new Inbox();
        DefaultMQPushConsumer first = start(group, topic, "*", false, before);
        // a new group on an empty queue begins at its end, whenever it gets to ask for it
        eventually("the first owns all", () -> owned(first, topic) == 4);
        Set<String> old = sendSome(topic, "old", 40);
        eventually("consumed before", () -> before.bodies().equals(old));
        first.shutdown();
        Set<String> fresh = sendSome(topic, "fresh", 10);
        if (restartServer) {
            producer.shutdown();
            System.out.println("@restart");
            System.out.flush();
            if (System.in.read() < 0) {
                throw new AssertionError("the driver went away");
            }
            producer = producer("again");
            eventually("the server is back", () -> !producer.fetchPublishMessageQueues(topic).isEmpty());
            fresh.addAll(sendSome(topic, "after", 10));
        }
        Inbox after = new Inbox();
        DefaultMQPushConsumer second = start(group, topic, "*", false, after);
        try {
            eventually("goes on where it stopped", () -> after.bodies().containsAll(fresh));
            equal("nothing again", fresh, after.bodies());
        } finally {
            second.shutdown();
        }
        equal("everything is still there", 40 + fresh.size(), drain(topic, "*", 40 + fresh.size()).size());
    }

    // ---- what the checks are written in

    static String topic(String name) {
        return name.replace(' ', '_') + "-" + RUN;
    }

    static String group(String name) {
        return "G-" + name + "-" + RUN;
    }

    static DefaultMQProducer producer(String name) throws Exception {
        DefaultMQProducer made = new DefaultMQProducer("P-" + name + "-" + RUN);
        made.setInstanceName(name + "-" + RUN);
        made.setSendMsgTimeout(30_000);
        made.setRetryTimesWhenSendAsyncFailed(0);
        made.start();
        return made;
    }

    /** Creates an empty topic of four queues and waits until it is routed. */
    /** With attributes, which clients before 5.0 do not know, and of whose public methods none passes them on. */
    static void create(String topic, Map<String, String> attributes) throws Exception {
        Object admin = producer.getDefaultMQProducerImpl().getmQClientFactory().getMQAdminImpl();
        Method create = admin.getClass().getMethod(
            "createTopic", String.class, String.class, int.class, int.class, Map.class);
        eventually(topic + " is created", () -> {
            create.invoke(admin, "TBW102", topic, 4, 0, attributes);
            return true;
        });
        create(topic);
    }

    static void create(String topic) throws Exception {
        // a broker that has just started may not be registered yet
        eventually(topic + " is created", () -> {
            for (Method method : DefaultMQProducer.class.getMethods()) {
                Class<?>[] types = method.getParameterTypes();
                if (method.getName().equals("createTopic") && types.length == 3) {
                    method.invoke(producer, "TBW102", topic, 4);
                } else if (method.getName().equals("createTopic") && types.length == 4 && types[3] == Map.class) {
                    method.invoke(producer, "TBW102", topic, 4, Collections.emptyMap());
                }
            }
            return true;
        });
        eventually(topic + " is routed", () -> producer.fetchPublishMessageQueues(topic).size() == 4);
    }

    static SendResult send(Message message) throws Exception {
        SendResult result = producer.send(message);
        equal("status", SendStatus.SEND_OK, result.getSendStatus());
        return result;
    }

    static Set<String> sendSome(String topic, String prefix, int count) throws Exception {
        Set<String> bodies = new HashSet<>();
        for (int i = 0; i < count; i++) {
            send(new Message(topic, text(prefix + " " + i)));
            bodies.add(prefix + " " + i);
        }
        return bodies;
    }

    /** Sends all, `window` at a time in flight; one refused as busy was not stored and is sent again. */
    static void sendAll(String topic, List<byte[]> bodies, int window) throws Exception {
        Semaphore free = new Semaphore(window);
        CountDownLatch left = new CountDownLatch(bodies.size());
        AtomicReference<Throwable> wrong = new AtomicReference<>();
        ConcurrentLinkedQueue<byte[]> again = new ConcurrentLinkedQueue<>();
        int next = 0;
        while (wrong.get() == null && left.getCount() > 0) {
            if (!free.tryAcquire(10, TimeUnit.MILLISECONDS)) {
                continue;
            }
            byte[] refused = again.poll();
            if (refused == null && next == bodies.size()) {
                free.release();
                left.await(10, TimeUnit.MILLISECONDS);
                continue;
            }
            byte[] body = refused != null ? refused : bodies.get(next++);
            producer.send(new Message(topic, body), new SendCallback() {
                @Override
                public void onSuccess(SendResult result) {
                    if (result.getSendStatus() != SendStatus.SEND_OK) {
                        wrong.set(new AssertionError(result.toString()));
                    }
                    left.countDown();
                    free.release();
                }

                @Override
                public void onException(Throwable cause) {
                    if (cause instanceof MQBrokerException && ((MQBrokerException) cause).getResponseCode() == 2) {
                        again.add(body);
                    } else {
                        wrong.set(cause);
                    }
                    free.release();
                }
            });
        }
        if (wrong.get() != null) {
            throw new AssertionError("async send", wrong.get());
        }
    }

    static DefaultMQPushConsumer consumer(String group, String topic, String tags, boolean broadcasting) throws Exception {
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(group);
        consumer.setInstanceName(group + "-" + SERIAL.incrementAndGet());
        consumer.setConsumeThreadMin(2);
        consumer.setConsumeThreadMax(4);
        consumer.setPersistConsumerOffsetInterval(1000);
        if (broadcasting) {
            // MessageModel changed its package with 5.0
            for (Method method : DefaultMQPushConsumer.class.getMethods()) {
                if (method.getName().equals("setMessageModel")) {
                    for (Object model : method.getParameterTypes()[0].getEnumConstants()) {
                        if (model.toString().equals("BROADCASTING")) {
                            method.invoke(consumer, model);
                        }
                    }
                }
            }
        }
        consumer.subscribe(topic, tags);
        return consumer;
    }

    static final AtomicInteger SERIAL = new AtomicInteger();

    static DefaultMQPushConsumer start(String group, String topic, String tags, boolean broadcasting, MessageListenerConcurrently listener)
        throws Exception {
        DefaultMQPushConsumer consumer = consumer(group, topic, tags, broadcasting);
        consumer.registerMessageListener(listener);
        consumer.start();
        return consumer;
    }

    /** Reads a topic with a new group until `count` messages came, and fails on one more. */
    static List<MessageExt> drain(String topic, String tags, int count) throws Exception {
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = start("G-drain-" + SERIAL.incrementAndGet() + "-" + RUN, topic, tags, false, inbox);
        try {
            eventually(count + " messages of " + topic + " by " + tags + ", got " + inbox.messages.size(), () -> inbox.messages.size() >= count);
        } finally {
            consumer.shutdown();
        }
        equal("messages of " + topic + " by " + tags, count, inbox.messages.size());
        return new ArrayList<>(inbox.messages);
    }

    static int owned(DefaultMQPushConsumer consumer, String topic) {
        int count = 0;
        for (MessageQueue queue : consumer.getDefaultMQPushConsumerImpl().getRebalanceImpl().getProcessQueueTable().keySet()) {
            count += queue.getTopic().equals(topic) ? 1 : 0;
        }
        return count;
    }

    static void eventually(String what, Condition condition) throws Exception {
        long deadline = System.currentTimeMillis() + PATIENCE_MS;
        Exception last = null;
        while (System.currentTimeMillis() < deadline) {
            try {
                if (condition.holds()) {
                    return;
                }
            } catch (Exception notYet) {
                last = notYet;
            }
            Thread.sleep(20);
        }
        throw new AssertionError("not within " + PATIENCE_MS + " ms: " + what, last);
    }

    static void equal(String what, Object wanted, Object got) {
        if (!Objects.equals(wanted, got)) {
            throw new AssertionError(what + ": wanted " + wanted + ", got " + got);
        }
    }

    static Map<String, MessageExt> byId(List<MessageExt> messages) {
        Map<String, MessageExt> map = new HashMap<>();
        for (MessageExt message : messages) {
            map.put(message.getMsgId(), message);
        }
        return map;
    }

    static Set<String> bodiesOf(Iterable<MessageExt> messages) {
        Set<String> bodies = new HashSet<>();
        for (MessageExt message : messages) {
            bodies.add(string(message.getBody()));
        }
        return bodies;
    }

    static Set<String> strings(List<byte[]> bodies) {
        Set<String> strings = new HashSet<>();
        for (byte[] body : bodies) {
            strings.add(string(body));
        }
        return strings;
    }

    static Set<String> union(Inbox... inboxes) {
        Set<String> all = new HashSet<>();
        for (Inbox inbox : inboxes) {
            all.addAll(inbox.bodies());
        }
        return all;
    }

    static byte[] text(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    static String string(byte[] bytes) {
        return new String(bytes, StandardCharsets.UTF_8);
    }

    /** Keeps what a consumer was handed. */
    static final class Inbox implements MessageListenerConcurrently {
        final ConcurrentLinkedQueue<MessageExt> messages = new ConcurrentLinkedQueue<>();

        @Override
        public ConsumeConcurrentlyStatus consumeMessage(List<MessageExt> batch, ConsumeConcurrentlyContext context) {
            messages.addAll(batch);
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        }

        Set<String> bodies() {
            return bodiesOf(messages);
        }

        int countIn(Set<String> wanted) {
            int count = 0;
            for (MessageExt message : messages) {
                count += wanted.contains(string(message.getBody())) ? 1 : 0;
            }
            return count;
        }
    }
}
