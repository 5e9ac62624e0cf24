import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.ConcurrentHashMap;
import java.util.function.Function;
import org.apache.rocketmq.client.producer.LocalTransactionState;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.client.producer.TransactionListener;
import org.apache.rocketmq.client.producer.TransactionMQProducer;
import org.apache.rocketmq.client.producer.TransactionSendResult;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/** Transactions with a listener, which came with 4.3: ended at once, or when the broker asks. */
public final class Transactions implements Interop.Body {
    @Override
    public void run() throws Exception {
        String topic = Interop.topic("transactions");
        Interop.create(topic);
        Map<String, Integer> asked = new ConcurrentHashMap<>();
        TransactionMQProducer producer = producer("P-" + topic, message -> {
            String body = Interop.string(message.getBody());
            int times = asked.merge(body, 1, Integer::sum);
            if (body.endsWith("again") && times == 1) {
                return LocalTransactionState.UNKNOW;
            }
            // one that was ended at once may be asked for all the same, when its end is late
            return body.startsWith("commit") ? LocalTransactionState.COMMIT_MESSAGE : LocalTransactionState.ROLLBACK_MESSAGE;
        });
        Map<String, String> ids = new ConcurrentHashMap<>();
        try {
            for (String body : new String[] {"commit", "rollback", "commit when asked", "rollback when asked", "commit when asked again"}) {
                LocalTransactionState verdict = body.equals("commit") ? LocalTransactionState.COMMIT_MESSAGE
                    : body.equals("rollback") ? LocalTransactionState.ROLLBACK_MESSAGE : LocalTransactionState.UNKNOW;
                Message message = new Message(topic, "tag", body.replace(' ', '-'), Interop.text(body));
                message.putUserProperty("colour", "red");
                TransactionSendResult result = producer.sendMessageInTransaction(message, verdict);
                Interop.equal("status", SendStatus.SEND_OK, result.getSendStatus());
                Interop.equal("verdict", verdict, result.getLocalTransactionState());
                ids.put(body, result.getMsgId());
            }
            Interop.eventually("it is asked, and again", () -> asked.getOrDefault("commit when asked again", 0) >= 2
                && asked.containsKey("rollback when asked") && asked.containsKey("commit when asked"));
            Set<String> committed = new TreeSet<>(ids.keySet());
            committed.removeIf(body -> body.startsWith("rollback"));
            Set<String> got = new TreeSet<>();
            for (MessageExt message : Interop.drain(topic, "tag", committed.size())) {
                String body = Interop.string(message.getBody());
                got.add(body);
                Interop.equal("id of " + body, ids.get(body), message.getMsgId());
                Interop.equal("keys of " + body, body.replace(' ', '-'), message.getKeys());
                Interop.equal("property of " + body, "red", message.getUserProperty("colour"));
            }
            Interop.equal("committed", committed, got);
        } finally {
            producer.shutdown();
        }
    }

    /** A running producer that says at once what it is told to, and `check` when it is asked. */
    static TransactionMQProducer producer(String group, Function<MessageExt, LocalTransactionState> check) throws Exception {
        TransactionMQProducer producer = new TransactionMQProducer(group);
        producer.setInstanceName(group + "-" + Interop.SERIAL.incrementAndGet());
        producer.setSendMsgTimeout(30_000);
        // sent twice it would be two messages
        producer.setRetryTimesWhenSendFailed(0);
        // a broker asks whom it has heard of
        producer.setHeartbeatBrokerInterval(1000);
        producer.setPollNameServerInterval(1000);
        producer.setTransactionListener(new TransactionListener() {
            @Override
            public LocalTransactionState executeLocalTransaction(Message message, Object verdict) {
                return (LocalTransactionState) verdict;
            }

            @Override
            public LocalTransactionState checkLocalTransaction(MessageExt message) {
                return check.apply(message);
            }
        });
        producer.start();
        return producer;
    }
}
