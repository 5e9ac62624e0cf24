import ch.qos.logback.classic.LoggerContext;
import ch.qos.logback.classic.joran.JoranConfigurator;
import java.io.ByteArrayInputStream;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.TreeMap;
import org.apache.log4j.PropertyConfigurator;
import org.apache.logging.log4j.core.config.ConfigurationSource;
import org.apache.logging.log4j.core.config.Configurator;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/**
 * The original's appenders, set up as their users do, in the language of each logging library: what is logged reaches a
 * consumer of the topic, under the tag, in the layout of the appender and with the property that names its kind.
 */
public final class LogAppenders {
    static final int MANY = 200;

    interface Log {
        void say(String level, String text);
    }

    public static void main(String[] args) throws Exception {
        Interop.endOnFailure();
        Interop.producer = Interop.producer("appenders");
        Set<String> all = Collections.emptySet();
        Interop.check(all, "log4j 1.2", LogAppenders::log4j1);
        Interop.check(all, "log4j 2", LogAppenders::log4j2);
        Interop.check(all, "logback", LogAppenders::logback);
        Interop.finish();
    }

    static void log4j1() throws Exception {
        String topic = created("log4j1");
        Properties settings = new Properties();
        settings.put("log4j.logger.shop", "INFO, mq");
        settings.put("log4j.appender.mq", "org.apache.rocketmq.logappender.log4j.RocketmqLog4jAppender");
        settings.put("log4j.appender.mq.Tag", "log4j1");
        settings.put("log4j.appender.mq.Topic", topic);
        settings.put("log4j.appender.mq.ProducerGroup", Interop.group("log4j1"));
        settings.put("log4j.appender.mq.NameServerAddress", System.getenv("NAMESRV_ADDR"));
        settings.put("log4j.appender.mq.layout", "org.apache.log4j.PatternLayout");
        settings.put("log4j.appender.mq.layout.ConversionPattern", "%p %c - %m");
        PropertyConfigurator.configure(settings);
        org.apache.log4j.Logger log = org.apache.log4j.Logger.getLogger("shop.orders");
        logged(topic, "log4j1", "LOG4J_APPENDER", (level, text) -> log.log(org.apache.log4j.Level.toLevel(level), text));
        org.apache.log4j.LogManager.shutdown();
    }

    static void log4j2() throws Exception {
        String topic = created("log4j2");
        String settings = "<Configuration><Appenders><RocketMQ name='mq' producerGroup='" + Interop.group("log4j2")
            + "' nameServerAddress='" + System.getenv("NAMESRV_ADDR") + "' topic='" + topic + "' tag='log4j2'>"
            + "<PatternLayout pattern='%p %c - %m'/></RocketMQ></Appenders>"
            + "<Loggers><Logger name='shop' level='info'><AppenderRef ref='mq'/></Logger><Root level='off'/></Loggers></Configuration>";
        org.apache.logging.log4j.core.LoggerContext context = Configurator.initialize(
            LogAppenders.class.getClassLoader(), new ConfigurationSource(new ByteArrayInputStream(Interop.text(settings))));
        org.apache.logging.log4j.Logger log = context.getLogger("shop.orders");
        logged(topic, "log4j2", "LOG4J2_APPENDER", (level, text) -> log.log(org.apache.logging.log4j.Level.toLevel(level), text));
        Configurator.shutdown(context);
    }

    static void logback() throws Exception {
        String topic = created("logback");
        String settings = "<configuration><appender name='mq' class='org.apache.rocketmq.logappender.logback.RocketmqLogbackAppender'>"
            + "<tag>logback</tag><topic>" + topic + "</topic><producerGroup>" + Interop.group("logback") + "</producerGroup>"
            + "<nameServerAddress>" + System.getenv("NAMESRV_ADDR") + "</nameServerAddress>"
            + "<layout><pattern>%p %c - %m</pattern></layout></appender>"
            + "<logger name='shop' level='INFO'><appender-ref ref='mq'/></logger></configuration>";
        LoggerContext context = new LoggerContext();
        JoranConfigurator configurator = new JoranConfigurator();
        configurator.setContext(context);
        configurator.doConfigure(new ByteArrayInputStream(Interop.text(settings)));
        ch.qos.logback.classic.Logger log = context.getLogger("shop.orders");
        logged(topic, "logback", "LOGBACK_APPENDER", (level, text) -> {
            switch (level) {
                case "DEBUG": log.debug(text); break;
                case "INFO": log.info(text); break;
                case "WARN": log.warn(text); break;
                default: log.error(text);
            }
        });
        context.stop();
    }

    static String created(String name) throws Exception {
        String topic = Interop.topic(name);
        Interop.create(topic);
        // appenders send one way, and a broker of the original drops what waits too long while it warms up
        Interop.send(new Message(topic, "warm", Interop.text("not a record")));
        return topic;
    }

    static void logged(String topic, String tag, String kind, Log log) throws Exception {
        String[] levels = {"DEBUG", "INFO", "WARN", "ERROR"};
        List<String> wanted = new ArrayList<>();
        for (int i = 0; i < MANY; i++) {
            String level = levels[i % levels.length];
            log.say(level, "sold \u00e9\u4e2d " + i);
            if (!level.equals("DEBUG")) {
                wanted.add(level + " shop.orders - sold \u00e9\u4e2d " + i);
            }
        }
        Map<String, MessageExt> got = new TreeMap<>();
        for (MessageExt message : Interop.drain(topic, tag, wanted.size())) {
            got.put(Interop.string(message.getBody()), message);
            Interop.equal("topic", topic, message.getTopic());
            Interop.equal("tag", tag, message.getTags());
            Interop.equal("kind", kind, message.getProperty("APPENDER_TYPE"));
        }
        Collections.sort(wanted);
        Interop.equal("records", wanted, new ArrayList<>(got.keySet()));
    }
}
