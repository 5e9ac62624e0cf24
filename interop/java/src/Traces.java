import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.TreeMap;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.trace.TraceBean;
import org.apache.rocketmq.client.trace.TraceContext;
import org.apache.rocketmq.client.trace.TraceDataEncoder;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/** What clients write of each message into the trace topic, which came with 4.4, found again by the message's id. */
public final class Traces implements Interop.Body {
    private static final String TRACE_TOPIC = "RMQ_SYS_TRACE_TOPIC";

    @Override
    public void run() throws Exception {
        String topic = Interop.topic("traces");
        Interop.create(topic);
        String group = Interop.group("traces");
        DefaultMQProducer producer = new DefaultMQProducer("P-" + topic, true, null);
        producer.setInstanceName("P-" + topic);
        producer.setSendMsgTimeout(30_000);
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(group, true, null);
        consumer.setInstanceName(group);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener(new Interop.Inbox());
        producer.start();
        consumer.start();
        try {
            // a client does not send a trace again that the broker did not take in time
            List<SendResult> all = new ArrayList<>();
            long[] next = {0};
            TreeMap<String, TraceContext> found = new TreeMap<>();
            Interop.eventually("the send and the consumption of one are traced", () -> {
                if (System.currentTimeMillis() >= next[0]) {
                    all.add(producer.send(new Message(topic, "tag", "traced", Interop.text("body"))));
                    next[0] = System.currentTimeMillis() + 10_000;
                }
                for (int i = 0; i < all.size(); i++) {
                    found.clear();
                    for (TraceContext context : traces(all.get(i).getMsgId())) {
                        found.put(context.getTraceType().toString(), context);
                    }
                    if (found.keySet().equals(Set.of("Pub", "SubBefore", "SubAfter"))) {
                        all.subList(0, i).clear();
                        return true;
                    }
                }
                return false;
            });
            SendResult sent = all.get(0);
            TraceContext send = found.get("Pub");
            TraceBean bean = send.getTraceBeans().get(0);
            Interop.equal("group of the send", "P-" + topic, send.getGroupName());
            Interop.equal("the send is well", true, send.isSuccess());
            Interop.equal("topic, tag and keys", topic + " tag traced", bean.getTopic() + " " + bean.getTags() + " " + bean.getKeys());
            Interop.equal("where it is stored", sent.getOffsetMsgId(), bean.getOffsetMsgId());
            Interop.equal("group of the consumption", group, found.get("SubBefore").getGroupName());
            Interop.equal("the consumption is well", true, found.get("SubAfter").isSuccess());
        } finally {
            producer.shutdown();
            consumer.shutdown();
        }
    }

    /** What is traced of the message; the trace topic is indexed by message ids. */
    private static List<TraceContext> traces(String id) throws Exception {
        List<TraceContext> traces = new ArrayList<>();
        for (MessageExt record : Interop.producer.queryMessage(TRACE_TOPIC, id, 32, 0, Long.MAX_VALUE).getMessageList()) {
            for (TraceContext context : TraceDataEncoder.decoderFromTraceDataString(Interop.string(record.getBody()))) {
                if (context.getTraceBeans().stream().anyMatch(bean -> id.equals(bean.getMsgId()))) {
                    traces.add(context);
                }
            }
        }
        return traces;
    }
}
