import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.OutputStreamWriter;
import java.io.Writer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Queue;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.client.consumer.rebalance.AllocateMessageQueueAveragely;
import org.apache.rocketmq.client.producer.LocalTransactionState;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.TransactionMQProducer;
import org.apache.rocketmq.client.producer.selector.SelectMessageQueueByHash;
import org.apache.rocketmq.client.utils.MessageUtil;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.compression.CompressionType;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/**
 * The stock Java client and ours on the same topics: what one sends the other consumes, feature by feature, both ways.
 *
 * Ours is the program that interop.peer names, which is told by lines what to do; see interop/rust/peer.rs.
 */
public final class Peers {
    private static Peer rust;

    public static void main(String[] args) throws Exception {
        Interop.endOnFailure();
        Set<String> only = new HashSet<>(Arrays.asList(args));
        Interop.producer = Interop.producer("main");
        rust = new Peer(System.getProperty("interop.peer"));
        Interop.check(only, "plain", Peers::plain);
        Interop.check(only, "batch", () -> batch(new Topics("peers-batch"), "batch"));
        Interop.check(only, "batch in one record", Peers::wholeBatch);
        Interop.check(only, "compressed", Peers::compressed);
        Interop.check(only, "delays", Peers::delays);
        Interop.check(only, "ordered", Peers::ordered);
        Interop.check(only, "transactions", Peers::transactions);
        Interop.check(only, "conditions", Peers::conditions);
        Interop.check(only, "dead letters", Peers::deadLetters);
        Interop.check(only, "requests", Peers::requests);
        Interop.check(only, "one group", Peers::oneGroup);
        rust.process.destroy();
        Interop.finish();
    }

    static void plain() throws Exception {
        Topics topics = new Topics("plain");
        Map<String, String> sent = new TreeMap<>();
        Map<String, String> got = new TreeMap<>();
        for (int i = 0; i < 20; i++) {
            String body = "h\u00e9llo \u4e2d\u6587 \ud83d\ude80 " + i;
            String key = rust.ask("send", topics.toJava, body, "tag=t" + i, "key=a" + i, "key=b", "colour=gr\u00fcn")[1];
            sent.put(key, body + " t" + i + " a" + i + " b gr\u00fcn");
        }
        for (MessageExt message : Interop.drain(topics.toJava, "*", 20)) {
            got.put(message.getMsgId(), Interop.string(message.getBody()) + " " + message.getTags() + " " + message.getKeys()
                + " " + message.getUserProperty("colour"));
        }
        Interop.equal("from Rust to Java", sent, got);
        sent.clear();
        got.clear();
        for (int i = 0; i < 20; i++) {
            String body = "h\u00e9llo \u4e2d\u6587 \ud83d\ude80 " + i;
            Message message = new Message(topics.toRust, "t" + i, "a" + i + " b", Interop.text(body));
            message.putUserProperty("colour", "gr\u00fcn");
            sent.put(Interop.send(message).getMsgId(), body + " t" + i + " a" + i + " b gr\u00fcn");
        }
        for (Got message : topics.drain("*", 20)) {
            got.put(message.key, message.body + " " + message.tag + " " + message.keys + " " + message.colour);
        }
        Interop.equal("from Java to Rust", sent, got);
    }

    /** In topics whose queues are of batches; there a filter looks at the batch, which has no tag. */
    static void wholeBatch() throws Exception {
        Topics topics = new Topics("peers-whole", Collections.singletonMap("+queue.type", "BatchCQ"));
        batch(topics, "*");
        Set<Long> records = new HashSet<>();
        Interop.drain(topics.toJava, "*", 100).forEach(message -> records.add(message.getCommitLogOffset()));
        Interop.equal("records", 1, records.size());
    }

    static void batch(Topics topics, String filter) throws Exception {
        rust.ask("batch", topics.toJava, "100");
        List<Message> messages = new ArrayList<>();
        Set<String> wanted = new TreeSet<>();
        for (int i = 0; i < 100; i++) {
            wanted.add("batch " + i + " k" + i);
            messages.add(new Message(topics.toRust, "batch", "k" + i, Interop.text("batch " + i)));
        }
        Interop.producer.send(messages);
        Set<String> got = new TreeSet<>();
        for (MessageExt message : Interop.drain(topics.toJava, filter, 100)) {
            got.add(Interop.string(message.getBody()) + " " + message.getKeys());
        }
        Interop.equal("from Rust to Java", wanted, got);
        got.clear();
        for (Got message : topics.drain(filter, 100)) {
            got.add(message.body + " " + message.keys);
        }
        Interop.equal("from Java to Rust", wanted, got);
    }

    static void compressed() throws Exception {
        Topics topics = new Topics("peers-compressed");
        StringBuilder text = new StringBuilder();
        while (text.length() < 500_000) {
            text.append("easy to compress \u00e9, ").append(text.length()).append("; ");
        }
        String body = text.toString();
        CompressionType[] types = {CompressionType.ZLIB, CompressionType.LZ4, CompressionType.ZSTD};
        for (CompressionType type : types) {
            rust.ask("pack", type.name().toLowerCase(), topics.toJava, body);
            Interop.producer.setCompressType(type);
            Interop.send(new Message(topics.toRust, Interop.text(body)));
        }
        Interop.producer.setCompressType(CompressionType.ZLIB);
        for (MessageExt message : Interop.drain(topics.toJava, "*", types.length)) {
            Interop.equal("from Rust to Java", true, body.equals(Interop.string(message.getBody())));
            Interop.equal("stored compressed", true, message.getStoreSize() < body.length() / 2);
        }
        for (Got message : topics.drain("*", types.length)) {
            Interop.equal("from Java to Rust", true, body.equals(message.body));
        }
    }

    static void delays() throws Exception {
        Topics topics = new Topics("peers-delays");
        long begin = System.currentTimeMillis();
        rust.ask("send", topics.toJava, "level", "level=1");
        rust.ask("send", topics.toJava, "timer", "in=2500");
        Message level = new Message(topics.toRust, Interop.text("level"));
        level.setDelayTimeLevel(1);
        Interop.send(level);
        Message timer = new Message(topics.toRust, Interop.text("timer"));
        timer.setDelayTimeMs(2500);
        Interop.send(timer);
        Map<String, Long> due = new HashMap<>();
        due.put("level", begin + 1000);
        due.put("timer", begin + 2500);
        for (MessageExt message : Interop.drain(topics.toJava, "*", 2)) {
            Interop.equal("not early in Java", true, message.getStoreTimestamp() >= due.get(Interop.string(message.getBody())));
        }
        for (Got message : topics.drain("*", 2)) {
            Interop.equal("not early in Rust", true, message.storedAt >= due.get(message.body));
        }
    }

    static void ordered() throws Exception {
        Topics topics = new Topics("peers-ordered");
        Map<String, Integer> queues = new TreeMap<>();
        Map<String, List<String>> wanted = new TreeMap<>();
        for (int step = 0; step < 10; step++) {
            for (String key : new String[] {"order-1", "order-2", "\u00f6rder", "4711", "z"}) {
                SendResult result = Interop.producer.send(
                    new Message(topics.toRust, null, key, Interop.text(key + " " + step)), new SelectMessageQueueByHash(), key);
                queues.put(key, result.getMessageQueue().getQueueId());
                String[] sent = rust.ask("send", topics.toJava, key + " " + step, "shard=" + key, "key=" + key);
                Interop.equal("queue of " + key, queues.get(key), Integer.valueOf(sent[2]));
                wanted.computeIfAbsent(key, k -> new ArrayList<>()).add(key + " " + step);
            }
        }
        Map<String, List<String>> got = new TreeMap<>();
        for (Got message : topics.drain("*", 50, "order")) {
            got.computeIfAbsent(message.keys, k -> new ArrayList<>()).add(message.body);
        }
        Interop.equal("from Java to Rust", wanted, got);
        got.clear();
        Queue<MessageExt> inbox = new ConcurrentLinkedQueue<>();
        DefaultMQPushConsumer consumer = Interop.consumer(Interop.group("peers-ordered"), topics.toJava, "*", false);
        consumer.registerMessageListener((MessageListenerOrderly) (messages, context) -> {
            inbox.addAll(messages);
            return ConsumeOrderlyStatus.SUCCESS;
        });
        consumer.start();
        try {
            Interop.eventually("all in order", () -> inbox.size() >= 50);
        } finally {
            consumer.shutdown();
        }
        for (MessageExt message : inbox) {
            got.computeIfAbsent(message.getKeys(), k -> new ArrayList<>()).add(Interop.string(message.getBody()));
        }
        Interop.equal("from Rust to Java", wanted, got);
    }

    static void transactions() throws Exception {
        Topics topics = new Topics("peers-transactions");
        String[] bodies = {"commit", "rollback", "commit when asked", "rollback when asked"};
        Set<String> wanted = new TreeSet<>(Arrays.asList(bodies[0], bodies[2]));
        TransactionMQProducer producer = Transactions.producer("P-" + topics.toRust, message ->
            Interop.string(message.getBody()).startsWith("commit")
                ? LocalTransactionState.COMMIT_MESSAGE : LocalTransactionState.ROLLBACK_MESSAGE);
        try {
            for (String body : bodies) {
                rust.ask("transact", topics.toJava, body.contains(" ") ? "forget" : body, body);
                LocalTransactionState verdict = body.contains(" ") ? LocalTransactionState.UNKNOW
                    : body.equals("commit") ? LocalTransactionState.COMMIT_MESSAGE : LocalTransactionState.ROLLBACK_MESSAGE;
                producer.sendMessageInTransaction(new Message(topics.toRust, "tag", Interop.text(body)), verdict);
            }
            Interop.equal("from Rust to Java", wanted, new TreeSet<>(Interop.bodiesOf(Interop.drain(topics.toJava, "tag", 2))));
            Set<String> got = new TreeSet<>();
            topics.drain("tag", 2).forEach(message -> got.add(message.body));
            Interop.equal("from Java to Rust", wanted, got);
        } finally {
            producer.shutdown();
        }
    }

    static void conditions() throws Exception {
        Topics topics = new Topics("peers-conditions");
        for (int i = 0; i < 40; i++) {
            Message message = new Message(topics.toRust, Interop.text("number " + i));
            message.putUserProperty("n", String.valueOf(i));
            message.putUserProperty("colour", i % 2 == 0 ? "red" : "it's blue");
            Interop.send(message);
        }
        Set<String> got = new TreeSet<>();
        topics.drain("sql:n BETWEEN 10 AND 15 AND colour = 'it''s blue'", 3).forEach(message -> got.add(message.body));
        Interop.equal("from Java to Rust", new TreeSet<>(Arrays.asList("number 11", "number 13", "number 15")), got);
    }

    static void deadLetters() throws Exception {
        Topics topics = new Topics("peers-dead");
        Set<String> bodies = Interop.sendSome(topics.toRust, "dead", 2);
        String group = Interop.group("peers-dead");
        // three times each: at once, and twice again
        Map<String, Set<Integer>> times = new TreeMap<>();
        for (Got message : topics.drain("*", 6, "fail", group)) {
            times.computeIfAbsent(message.body, body -> new TreeSet<>()).add(message.times);
        }
        Interop.equal("bodies", bodies, times.keySet());
        for (Set<Integer> each : times.values()) {
            Interop.equal("failures before", new TreeSet<>(Arrays.asList(0, 1, 2)), each);
        }
        Interop.eventually("a topic of dead letters", () ->
            !Interop.producer.getDefaultMQProducerImpl().getmQClientFactory().getMQClientAPIImpl()
                .getTopicRouteInfoFromNameServer("%DLQ%" + group, 3000).getQueueDatas().isEmpty());
        Interop.equal("dead letters", bodies, Interop.bodiesOf(Interop.drain("%DLQ%" + group, "*", 2)));
    }

    static void requests() throws Exception {
        Topics topics = new Topics("peers-requests");
        rust.ask("consume", "requests", topics.toRust, Interop.group("rust-requests"), "reply", "*");
        Interop.eventually("a reply of Rust", () -> Interop.string(
            Interop.producer.request(new Message(topics.toRust, Interop.text("who?")), 5_000).getBody()).equals("re: who?"));
        rust.ask("stop", "requests");
        DefaultMQPushConsumer consumer = Interop.start(Interop.group("java-requests"), topics.toJava, "*", false, (messages, context) -> {
            for (MessageExt message : messages) {
                try {
                    Interop.producer.send(MessageUtil.createReplyMessage(message,
                        Interop.text("re: " + Interop.string(message.getBody()))));
                } catch (Exception gone) {
                    // who asked is not known to the broker yet, or has stopped waiting; it asks again
                }
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        try {
            Interop.eventually("a reply of Java", () -> rust.ask("request", topics.toJava, "who?")[1].equals("re: who?"));
        } finally {
            consumer.shutdown();
        }
    }

    /** Both are members of one group: each has the share that Java's strategy gives it, and takes over when the other goes. */
    static void oneGroup() throws Exception {
        String topic = Interop.topic("peers-group");
        Interop.create(topic);
        String group = Interop.group("peers-group");
        Interop.Inbox inbox = new Interop.Inbox();
        DefaultMQPushConsumer consumer = Interop.consumer(group, topic, "*", false);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.registerMessageListener(inbox);
        consumer.start();
        try {
            rust.ask("consume", "group", topic, group, "once", "*");
            List<MessageQueue> queues = new ArrayList<>(Interop.producer.fetchPublishMessageQueues(topic));
            queues.sort(null);
            String id = consumer.getDefaultMQPushConsumerImpl().getmQClientFactory().getClientId();
            List<String> members = new ArrayList<>(new TreeSet<>(Arrays.asList(id, rust.ask("id")[1])));
            Set<Integer> share = new TreeSet<>();
            for (MessageQueue queue : new AllocateMessageQueueAveragely().allocate(group, id, queues, members)) {
                share.add(queue.getQueueId());
            }
            Interop.equal("half of the queues", 2, share.size());
            int[] round = {0};
            Interop.eventually("Java has " + share + " and Rust the others", () -> {
                Set<String> sent = oneEach(topic, queues, ++round[0]);
                Interop.eventually("all of a round", () -> {
                    Set<String> got = rust.bodies("group");
                    got.addAll(inbox.bodies());
                    return got.containsAll(sent);
                });
                Set<Integer> javas = queuesOf(inbox.bodies(), sent);
                Set<Integer> rusts = queuesOf(rust.bodies("group"), sent);
                rusts.removeAll(share);
                return javas.equals(share) && rusts.size() == 2 && queuesOf(rust.bodies("group"), sent).size() == 2;
            });
            rust.ask("stop", "group");
            Interop.eventually("Java takes over", () -> Interop.owned(consumer, topic) == 4);
            Set<String> sent = oneEach(topic, queues, ++round[0]);
            Interop.eventually("Java has all", () -> inbox.bodies().containsAll(sent));
        } finally {
            consumer.shutdown();
        }
    }

    private static Set<String> oneEach(String topic, List<MessageQueue> queues, int round) throws Exception {
        Set<String> sent = new HashSet<>();
        for (MessageQueue queue : queues) {
            String body = round + " " + queue.getQueueId();
            Interop.producer.send(new Message(topic, Interop.text(body)), queue);
            sent.add(body);
        }
        return sent;
    }

    private static Set<Integer> queuesOf(Set<String> bodies, Set<String> sent) {
        Set<Integer> queues = new TreeSet<>();
        bodies.stream().filter(sent::contains).forEach(body -> queues.add(Integer.valueOf(body.split(" ")[1])));
        return queues;
    }

    /** A topic for each direction. */
    private static final class Topics {
        final String toJava;
        final String toRust;

        Topics(String name) throws Exception {
            this(name, Collections.emptyMap());
        }

        Topics(String name, Map<String, String> attributes) throws Exception {
            toJava = Interop.topic(name + "-to-java");
            toRust = Interop.topic(name + "-to-rust");
            for (String topic : new String[] {toJava, toRust}) {
                if (attributes.isEmpty()) {
                    Interop.create(topic);
                } else {
                    Interop.create(topic, attributes);
                }
            }
        }

        List<Got> drain(String filter, int count) throws Exception {
            return drain(filter, count, "once");
        }

        List<Got> drain(String filter, int count, String kind) throws Exception {
            return drain(filter, count, kind, Interop.group("rust-" + Interop.SERIAL.incrementAndGet()));
        }

        /** Has Rust read the topic with a new group until `count` messages came, and fails on one more. */
        List<Got> drain(String filter, int count, String kind, String group) throws Exception {
            rust.ask("consume", group, toRust, group, kind, filter);
            Interop.eventually(count + " messages of " + toRust, () -> rust.of(group).size() >= count);
            rust.ask("stop", group);
            List<Got> got = rust.of(group);
            Interop.equal("messages of " + toRust, count, got.size());
            return got;
        }
    }

    /** A message that a consumer in Rust was handed. */
    private static final class Got {
        final String consumer;
        final String key;
        final String body;
        final String tag;
        final String keys;
        final String colour;
        final long storedAt;
        final int times;

        Got(String[] words) {
            consumer = words[1];
            key = words[2];
            body = words[3];
            tag = words[4];
            keys = words[5];
            colour = words[6];
            storedAt = Long.parseLong(words[9]);
            times = Integer.parseInt(words[10]);
        }
    }

    /** The program in Rust. */
    private static final class Peer {
        final Process process;
        private final Writer input;
        private final BlockingQueue<String[]> answers = new LinkedBlockingQueue<>();
        private final Queue<Got> got = new ConcurrentLinkedQueue<>();

        Peer(String program) throws IOException {
            process = new ProcessBuilder(program).redirectError(ProcessBuilder.Redirect.INHERIT).start();
            input = new OutputStreamWriter(process.getOutputStream(), StandardCharsets.UTF_8);
            BufferedReader output = new BufferedReader(new InputStreamReader(process.getInputStream(), StandardCharsets.UTF_8));
            Thread reader = new Thread(() -> {
                try {
                    for (String line = output.readLine(); line != null; line = output.readLine()) {
                        String[] words = line.split("\t", -1);
                        if (words[0].equals("got")) {
                            got.add(new Got(words));
                        } else {
                            answers.add(words);
                        }
                    }
                } catch (IOException ended) {
                    // whoever waits for an answer says so
                }
            });
            reader.setDaemon(true);
            reader.start();
        }

        /** Gives a command and returns what answers it. */
        String[] ask(String... words) throws Exception {
            input.write(String.join("\t", words) + "\n");
            input.flush();
            String[] answer = answers.poll(60, TimeUnit.SECONDS);
            if (answer == null || !answer[0].equals("ok")) {
                throw new IllegalStateException(words[0] + ": " + (answer == null ? "no answer" : String.join(" ", answer)));
            }
            return answer;
        }

        List<Got> of(String consumer) {
            List<Got> list = new ArrayList<>(got);
            list.removeIf(message -> !message.consumer.equals(consumer));
            return list;
        }

        Set<String> bodies(String consumer) {
            Set<String> bodies = new HashSet<>();
            of(consumer).forEach(message -> bodies.add(message.body));
            return bodies;
        }
    }
}
