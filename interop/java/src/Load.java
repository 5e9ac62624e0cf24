import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Semaphore;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;

/**
 * The work of `apogee bench --client` through the stock client, for `cargo xtask compare client`:
 * `Load send|lone|receive TOPIC WARMUP MESSAGES`. Prints what it cost this process once it was warm, as `key=value`.
 */
public final class Load {
    private static final int IN_FLIGHT = 256;
    private static final byte[] BODY = new byte[1024];

    public static void main(String[] words) throws Exception {
        String topic = words[1];
        int warmup = Integer.parseInt(words[2]);
        int messages = Integer.parseInt(words[3]);
        Arrays.fill(BODY, (byte) 'x');
        if (words[0].equals("receive")) {
            receive(topic, warmup, messages);
            System.exit(0);
        }
        DefaultMQProducer producer = new DefaultMQProducer("load");
        producer.setNamesrvAddr(System.getenv("NAMESRV_ADDR"));
        producer.start();
        boolean alone = words[0].equals("lone");
        send(producer, topic, warmup, alone);
        double cpu = cpuSeconds();
        long begun = System.nanoTime();
        long[] took = send(producer, topic, messages, alone);
        report(messages, begun, cpu, took);
        producer.shutdown();
        System.exit(0);
    }

    /** Sends asynchronously with a bound on what is in flight, or one after the other; returns how long each took. */
    private static long[] send(DefaultMQProducer producer, String topic, int count, boolean alone) throws Exception {
        long[] took = new long[count];
        Semaphore room = new Semaphore(IN_FLIGHT);
        for (int at = 0; at < count; at++) {
            Message message = new Message(topic, BODY);
            long begun = System.nanoTime();
            if (alone) {
                producer.send(message);
                took[at] = System.nanoTime() - begun;
                continue;
            }
            int place = at;
            room.acquire();
            producer.send(message, new SendCallback() {
                @Override
                public void onSuccess(SendResult result) {
                    took[place] = System.nanoTime() - begun;
                    room.release();
                }

                @Override
                public void onException(Throwable failure) {
                    failure.printStackTrace();
                    System.exit(1);
                }
            });
        }
        room.acquire(IN_FLIGHT);
        return took;
    }

    private static void receive(String topic, long warmup, long messages) throws Exception {
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer("load-" + System.nanoTime());
        consumer.setNamesrvAddr(System.getenv("NAMESRV_ADDR"));
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(topic, "*");
        AtomicLong got = new AtomicLong();
        CountDownLatch warm = new CountDownLatch(1);
        CountDownLatch all = new CountDownLatch(1);
        consumer.registerMessageListener((MessageListenerConcurrently) (batch, context) -> {
            long count = got.addAndGet(batch.size());
            if (count >= warmup) {
                warm.countDown();
            }
            if (count >= warmup + messages) {
                all.countDown();
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        warm.await();
        double cpu = cpuSeconds();
        long begun = System.nanoTime();
        long before = got.get();
        all.await();
        report(got.get() - before, begun, cpu, new long[1]);
        consumer.shutdown();
    }

    private static void report(long messages, long begun, double cpu, long[] took) throws Exception {
        double seconds = (System.nanoTime() - begun) / 1e9;
        double cost = (cpuSeconds() - cpu) * 1e6 / messages;
        Arrays.sort(took);
        String anonymous = Files.readAllLines(Path.of("/proc/self/status")).stream()
            .filter(line -> line.startsWith("RssAnon:")).findFirst().orElse("0").replaceAll("[^0-9]", "");
        System.out.printf("messages=%d seconds=%.3f rate=%.0f generator_cpu_us=%.3f generator_anon_mib=%.1f p50_us=%.1f p99_us=%.1f%n",
            messages, seconds, messages / seconds, cost, Long.parseLong(anonymous) / 1024.0,
            took[took.length / 2] / 1e3, took[took.length * 99 / 100] / 1e3);
    }

    /** User and system time of this process: fields 14 and 15, in hundredths of a second. */
    private static double cpuSeconds() throws Exception {
        String stat = Files.readString(Path.of("/proc/self/stat"));
        String[] fields = stat.substring(stat.lastIndexOf(')') + 2).split(" ");
        return (Long.parseLong(fields[11]) + Long.parseLong(fields[12])) / 100.0;
    }
}
