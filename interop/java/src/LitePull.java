import java.util.ArrayList;
import java.util.Collection;
import java.util.HashSet;
import java.util.Set;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageQueue;

/** The lite pull consumer, which came with 4.6: assign and seek, and subscribe with offsets that last. */
public final class LitePull implements Interop.Body {
    @Override
    public void run() throws Exception {
        String topic = Interop.topic("litepull");
        Interop.create(topic);
        Set<String> sent = Interop.sendSome(topic, "lite", 100);
        assigned(topic, sent);
        subscribed(topic, sent);
    }

    private static void assigned(String topic, Set<String> sent) throws Exception {
        DefaultLitePullConsumer consumer = consumer("assigned");
        consumer.setAutoCommit(false);
        // no seek right after assign: it interrupts whatever pull thread of the client runs by then, and a 5.5.0 client
        // can lose what that thread was about to hand over
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.start();
        try {
            Collection<MessageQueue> queues = new ArrayList<>(consumer.fetchMessageQueues(topic));
            Interop.equal("queues", 4, queues.size());
            consumer.assign(queues);
            Interop.equal("all from the first offset", sent, poll(consumer, 100));
            MessageQueue one = queues.iterator().next();
            long max = Interop.producer.maxOffset(one);
            consumer.seek(one, max - 5);
            Interop.equal("five again after seek", 5, poll(consumer, 5).size());
            consumer.seekToBegin(one);
            Interop.equal("one queue again after seek to its begin", (int) max, poll(consumer, (int) max).size());
            consumer.seekToEnd(one);
            Interop.producer.send(new Message(topic, Interop.text("late")), one);
            Set<String> late = new HashSet<>();
            late.add("late");
            Interop.equal("only the new one after seek to the end", late, poll(consumer, 1));
            sent.add("late");
            Interop.equal("offset by time", 0L, consumer.offsetForTimestamp(one, System.currentTimeMillis() - 600_000));
        } finally {
            consumer.shutdown();
        }
    }

    private static void subscribed(String topic, Set<String> sent) throws Exception {
        DefaultLitePullConsumer first = consumer("subscribed");
        first.subscribe(topic, "*");
        first.start();
        Interop.equal("all by subscription", sent, poll(first, sent.size()));
        first.commitSync();
        first.shutdown();
        Interop.send(new Message(topic, Interop.text("next")));
        DefaultLitePullConsumer second = consumer("subscribed");
        second.subscribe(topic, "*");
        second.start();
        try {
            Set<String> next = new HashSet<>();
            next.add("next");
            Interop.equal("goes on after its restart", next, poll(second, 1));
        } finally {
            second.shutdown();
        }
    }

    private static DefaultLitePullConsumer consumer(String name) {
        DefaultLitePullConsumer consumer = new DefaultLitePullConsumer(Interop.group("lite-" + name));
        consumer.setInstanceName(name + "-" + Interop.RUN + "-" + Interop.SERIAL.incrementAndGet());
        consumer.setPullBatchSize(10);
        return consumer;
    }

    /** Polls until `count` different ones came, and fails when one more is there; a seek may meet a pull that is under way. */
    private static Set<String> poll(DefaultLitePullConsumer consumer, int count) throws Exception {
        Set<String> got = new HashSet<>();
        Interop.eventually(count + " polled", () -> {
            got.addAll(Interop.bodiesOf(consumer.poll(200)));
            return got.size() >= count;
        });
        got.addAll(Interop.bodiesOf(consumer.poll(100)));
        Interop.equal("polled", count, got.size());
        return got;
    }
}
