import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.locks.LockSupport;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.tools.admin.DefaultMQAdminExt;
import org.apache.rocketmq.tools.admin.api.MessageTrack;
import org.apache.rocketmq.tools.command.MQAdminStartup;

/** What mqadmin says of one message whose groups have consumed it, have not, want another tag, pull, and are gone. */
public final class Tracks {
    private static final String TOPIC = "tracks-topic";

    public static void main(String[] args) throws Exception {
        DefaultMQAdminExt admin = new DefaultMQAdminExt();
        admin.start();
        DefaultMQProducer producer = new DefaultMQProducer("tracks-producers");
        producer.start();
        producer.send(new Message(TOPIC, "one", new byte[3]));
        CountDownLatch gone = new CountDownLatch(1);
        DefaultMQPushConsumer going = push("tracks-gone", "*", gone::countDown);
        gone.await();
        going.shutdown();
        push("tracks-consumed", "*", () -> { });
        push("tracks-filtered", "another", () -> { });
        push("tracks-stuck", "*", LockSupport::park);
        DefaultLitePullConsumer pulling = new DefaultLitePullConsumer("tracks-pulling");
        pulling.subscribe(TOPIC, "*");
        pulling.setAutoCommitIntervalMillis(1000);
        pulling.start();
        String id = producer.send(new Message(TOPIC, "one", "key", new byte[3])).getOffsetMsgId();
        MessageExt message = admin.viewMessage(TOPIC, id);
        // offsets are told once a second
        for (int left = 120; left > 0 && !isSettled(admin.messageTrackDetail(message)); left--) {
            pulling.poll(250);
        }
        MQAdminStartup.main0(new String[] {"queryMsgById", "-t", TOPIC, "-i", id}, null);
        MQAdminStartup.main0(
            new String[] {"queryMsgByUniqueKey", "-t", TOPIC, "-i", message.getMsgId()}, null);
        System.out.println();
        System.exit(0);
    }

    private static boolean isSettled(List<MessageTrack> tracks) {
        int settled = 0;
        for (MessageTrack track : tracks) {
            switch (track.getTrackType()) {
                case CONSUMED:
                case CONSUMED_BUT_FILTERED:
                case NOT_ONLINE:
                case PULL:
                    settled++;
                    break;
                default:
                    break;
            }
        }
        return settled == 4;
    }

    private static DefaultMQPushConsumer push(String group, String tags, Body body) throws Exception {
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(group);
        consumer.setInstanceName(group);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.setPersistConsumerOffsetInterval(1000);
        consumer.subscribe(TOPIC, tags);
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            body.run();
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        return consumer;
    }

    private interface Body {
        void run();
    }
}
