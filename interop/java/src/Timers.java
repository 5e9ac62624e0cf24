import java.util.List;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/** Messages that are due at a time of their own, which came with 5.0, and their recall, which came with 5.3.2. */
public final class Timers implements Interop.Body {
    /** What a busy machine may be late by, over a slot of a second. */
    private static final long LATE_MS = 10_000;

    @Override
    public void run() throws Exception {
        String topic = Interop.topic("timers");
        Interop.create(topic);
        long now = System.currentTimeMillis();
        String[] handles = {
            send(topic, "ms", now + 1500, message -> message.setDelayTimeMs(1500)),
            send(topic, "seconds", now + 3000, message -> message.setDelayTimeSec(3)),
            send(topic, "time", now + 4200, message -> message.setDeliverTimeMs(now + 4200)),
            send(topic, "recalled", now + 4200, message -> message.setDeliverTimeMs(now + 4200)),
            send(topic, "far", now + 60_000, message -> message.setDelayTimeMs(60_000)),
        };
        for (String handle : handles) {
            Interop.equal("a handle", true, handle != null && !handle.isEmpty());
        }
        String id = Interop.producer.recallMessage(topic, handles[3]);
        Interop.equal("an id of the recalled", true, id != null && !id.isEmpty());
        String farId = Interop.producer.recallMessage(topic, handles[4]);
        Interop.equal("ids differ", false, id.equals(farId));
        List<MessageExt> got = Interop.drain(topic, "*", 3);
        for (MessageExt message : got) {
            long due = Long.parseLong(message.getUserProperty("due"));
            long stored = message.getStoreTimestamp();
            Interop.equal(Interop.string(message.getBody()) + " not early", true, stored >= due);
            Interop.equal(Interop.string(message.getBody()) + " not late", true, stored <= due + LATE_MS);
        }
        Interop.equal("bodies", "[ms, seconds, time]", new java.util.TreeSet<>(Interop.bodiesOf(got)).toString());
        try {
            send(topic, "too far", 0, message -> message.setDelayTimeSec(4L * 86_400));
            throw new AssertionError("four days were accepted");
        } catch (org.apache.rocketmq.client.exception.MQBrokerException refused) {
            Interop.equal("too far is illegal", 13, refused.getResponseCode());
        }
        SendResult plain = Interop.send(new Message(topic, Interop.text("plain")));
        Interop.equal("no handle", null, plain.getRecallHandle());
    }

    interface Timed {
        void set(Message message);
    }

    private static String send(String topic, String body, long due, Timed timed) throws Exception {
        Message message = new Message(topic, Interop.text(body));
        message.putUserProperty("due", String.valueOf(due));
        timed.set(message);
        return Interop.send(message).getRecallHandle();
    }
}
