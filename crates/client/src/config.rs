//! What a client is built of: where the name servers are, what it is called, how often it looks round.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use env::Clock;

use crate::{Client, Credentials, Tls, TraceContext, error::InvalidField, namespace::Namespace};

/// Builds a [`Client`]. Made by [`Client::builder`]; each setting has RocketMQ's name and default.
#[derive(Clone)]
pub struct ClientBuilder {
    pub(crate) name_servers: Vec<String>,
    pub(crate) instance_name: Option<String>,
    pub(crate) client_ip: Option<IpAddr>,
    pub(crate) poll_name_server_interval: Duration,
    pub(crate) heartbeat_broker_interval: Duration,
    pub(crate) mq_client_api_timeout: Duration,
    pub(crate) message_bytes_max: usize,
    pub(crate) credentials: Option<Arc<Credentials>>,
    pub(crate) tls: Option<Tls>,
    pub(crate) namespace: Namespace,
    pub(crate) trace_topic: Option<String>,
    pub(crate) trace_context: Option<Arc<dyn TraceContext>>,
    pub(crate) clock: Clock,
    fault: Option<InvalidField>,
}

impl ClientBuilder {
    pub(crate) fn new(name_servers: impl IntoIterator<Item = impl AsRef<str>>) -> ClientBuilder {
        let mut builder = ClientBuilder {
            name_servers: Vec::new(),
            instance_name: None,
            client_ip: None,
            poll_name_server_interval: Duration::from_secs(30),
            heartbeat_broker_interval: Duration::from_secs(30),
            mq_client_api_timeout: Duration::from_secs(3),
            message_bytes_max: 64 * 1024 * 1024,
            credentials: None,
            tls: None,
            namespace: Namespace::default(),
            trace_topic: None,
            trace_context: None,
            clock: Clock::real(),
            fault: None,
        };
        for several in name_servers {
            for one in several.as_ref().split(';').map(str::trim).filter(|one| !one.is_empty()) {
                let port = one.rsplit_once(':').filter(|(host, _)| !host.is_empty());
                if port.is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
                    builder.blame("name_servers", one, "an address is HOST:PORT");
                }
                builder.name_servers.push(one.to_owned());
            }
        }
        builder
    }

    /// Names this client apart from others of its host (Java: `instanceName`): 1 to 512 bytes without control characters,
    /// `/`, `\` and `@`, and without a `.` at its beginning. By default its process and a random number.
    ///
    /// Broadcast consumers keep their offsets under this name, or under `DEFAULT` if none is set: two of one group that run
    /// in one home directory need names that differ, and that stay.
    #[must_use]
    pub fn instance_name(mut self, name: impl Into<String>) -> ClientBuilder {
        let name = name.into();
        if let Err(reason) = wire::names::check_client_name("instance name", &name) {
            self.blame("instance_name", &name, &reason.to_string());
        }
        if name.is_empty() || name.contains(['/', '\\', '@']) || name.starts_with('.') {
            self.blame(
                "instance_name",
                &name,
                "it becomes part of a client id and of a path: no `/`, `@` or `.` first",
            );
        }
        self.instance_name = Some(name);
        self
    }

    /// Sets the address that the client's id begins with. By default that of the interface towards the name server.
    #[must_use]
    pub fn client_ip(mut self, ip: IpAddr) -> ClientBuilder {
        self.client_ip = Some(ip);
        self
    }

    /// Sets how often routes are asked for again, at least 10 ms; 30 s by default (Java: `pollNameServerInterval`). So long
    /// may it take until a new broker, or a topic's new queue, is used; a route that proves wrong is asked for at once.
    #[must_use]
    pub fn poll_name_server_interval(mut self, interval: Duration) -> ClientBuilder {
        self.poll_name_server_interval = self.interval("poll_name_server_interval", interval);
        self
    }

    /// Sets how often brokers hear of this client, 10 ms to 100 s; 30 s by default (Java: `heartbeatBrokerInterval`). A
    /// broker forgets who is silent for two minutes.
    #[must_use]
    pub fn heartbeat_broker_interval(mut self, interval: Duration) -> ClientBuilder {
        self.heartbeat_broker_interval = self.interval("heartbeat_broker_interval", interval);
        if interval > Duration::from_secs(100) {
            let value = format!("{interval:?}");
            self.blame(
                "heartbeat_broker_interval",
                &value,
                "brokers forget silent clients after two minutes",
            );
        }
        self
    }

    /// Sets how long requests other than sends and pulls may take, at least 10 ms; 3 s by default (Java:
    /// `mqClientApiTimeout`).
    #[must_use]
    pub fn mq_client_api_timeout(mut self, timeout: Duration) -> ClientBuilder {
        self.mq_client_api_timeout = self.interval("mq_client_api_timeout", timeout);
        self
    }

    /// Sets how many bytes a received body may have once it is uncompressed; 64 MiB by default. One that has more is
    /// delivered as it came ([`ReceivedMessage::is_compressed`](crate::ReceivedMessage::is_compressed)).
    #[must_use]
    pub fn message_bytes_max(mut self, bytes: usize) -> ClientBuilder {
        self.message_bytes_max = bytes;
        self
    }

    /// Says who the client is, to servers with access control; every request is signed. A server that refuses is told of
    /// by [`RequestError::Refused`](crate::RequestError::Refused), with its reason.
    #[must_use]
    pub fn credentials(mut self, credentials: Credentials) -> ClientBuilder {
        if !credentials.is_complete {
            self.blame(
                "credentials",
                &credentials.access_key,
                "neither access key nor secret key may be empty",
            );
        }
        self.credentials = Some(Arc::new(credentials));
        self
    }

    /// Speaks TLS with all servers, name servers and brokers. By default everything is plain text.
    ///
    /// A server that cannot be trusted, or offers no TLS, is told of by
    /// [`RequestError::Unreachable`](crate::RequestError::Unreachable), with the reason. One that refuses this client's
    /// certificate does so behind the handshake: what was asked ends as lost, and an event of the level `WARN` has the reason.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> ClientBuilder {
        self.tls = Some(tls);
        self
    }

    /// Puts all topics and groups of this client into a namespace, letters, digits and `|_-` (Java: `namespace`). Servers call
    /// them `NAMESPACE%NAME`, in errors and logs, too; what is given and what is received here has the bare name. The
    /// servers' own topics stay outside, and so do the topic of traces and those of replies. Names have the servers'
    /// bounds together with the namespace.
    #[must_use]
    pub fn namespace(mut self, namespace: impl AsRef<str>) -> ClientBuilder {
        let namespace = namespace.as_ref();
        match Namespace::new(namespace) {
            Ok(taken) => self.namespace = taken,
            Err(reason) => self.blame("namespace", namespace, reason),
        }
        self
    }

    /// Writes message traces to a topic, [`TRACE_TOPIC`](crate::TRACE_TOPIC) for the original's tools, which a broker makes
    /// when it is told to (`traceTopicEnable=true`). By default nothing is traced (Java: `enableTrace`, `traceTopic`).
    ///
    /// Each message that a producer sends has a record, and each that a push consumer's handler gets has two. They are
    /// sent in the background, some seconds later or when a producer or consumer shuts down; up to 2048 wait, and what
    /// finds no room is lost with a warning.
    #[must_use]
    pub fn trace_topic(mut self, topic: impl Into<String>) -> ClientBuilder {
        let topic = topic.into();
        if let Err(bad) = wire::names::check_topic(&topic) {
            self.blame("trace_topic", &topic, &bad.to_string());
        }
        self.trace_topic = Some(topic);
        self
    }

    /// Says how the spans of this client are tied to a tracing system. Each message that is sent then carries the context of
    /// its send, as the properties `traceparent` and `tracestate`; those that the application has set stay, and a context
    /// that finds no room beside the message's other properties is left out. A handler's span becomes the child of the
    /// context of its one message, and is linked to those of several. By default no context is written or read.
    ///
    /// With `tracing-opentelemetry`, whose layer must not filter the target `apogee_client::span` at `DEBUG`:
    ///
    /// ```ignore
    /// use std::collections::HashMap;
    /// use opentelemetry::{propagation::TextMapPropagator, trace::TraceContextExt};
    /// use opentelemetry_sdk::propagation::TraceContextPropagator;
    /// use tracing_opentelemetry::OpenTelemetrySpanExt;
    ///
    /// struct OpenTelemetry(TraceContextPropagator);
    ///
    /// impl OpenTelemetry {
    ///     fn read(&self, context: &W3cContext) -> opentelemetry::Context {
    ///         let mut fields = HashMap::from([("traceparent".to_owned(), context.traceparent.clone())]);
    ///         fields.extend(context.tracestate.clone().map(|state| ("tracestate".to_owned(), state)));
    ///         self.0.extract(&fields)
    ///     }
    /// }
    ///
    /// impl TraceContext for OpenTelemetry {
    ///     fn inject(&self, span: &tracing::Span) -> Option<W3cContext> {
    ///         let mut fields = HashMap::new();
    ///         self.0.inject_context(&span.context(), &mut fields);
    ///         let tracestate = fields.remove("tracestate").filter(|state| !state.is_empty());
    ///         Some(W3cContext { traceparent: fields.remove("traceparent")?, tracestate })
    ///     }
    ///     fn extract(&self, span: &tracing::Span, context: &W3cContext) {
    ///         let _ = span.set_parent(self.read(context));
    ///     }
    ///     fn link(&self, span: &tracing::Span, context: &W3cContext) {
    ///         span.add_link(self.read(context).span().span_context().clone());
    ///     }
    /// }
    ///
    /// let client = Client::builder(["127.0.0.1:9876"])
    ///     .trace_context(OpenTelemetry(TraceContextPropagator::new()))
    ///     .build()?;
    /// ```
    #[must_use]
    pub fn trace_context(mut self, context: impl TraceContext) -> ClientBuilder {
        self.trace_context = Some(Arc::new(context));
        self
    }

    /// Sets the clock. For simulations of this project: a clock can be made by its crates alone.
    #[doc(hidden)]
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> ClientBuilder {
        self.clock = clock;
        self
    }

    /// Builds the client. It connects when it first has to.
    ///
    /// # Errors
    /// [`InvalidField`] names the first setting that cannot be.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn build(mut self) -> Result<Client, InvalidField> {
        if self.name_servers.is_empty() {
            self.blame("name_servers", "", "at least one address is needed");
        }
        match self.fault.take() {
            Some(fault) => Err(fault),
            None => Ok(Client::start(self)),
        }
    }

    fn interval(&mut self, field: &'static str, interval: Duration) -> Duration {
        if interval < Duration::from_millis(10) {
            self.blame(field, &format!("{interval:?}"), "at least 10 ms are needed");
        }
        interval
    }

    fn blame(&mut self, field: &'static str, value: &str, reason: &str) {
        if self.fault.is_none() {
            self.fault = Some(InvalidField::new(field, value, reason));
        }
    }

    /// Returns the address that others see this client at, as far as it can be known without asking.
    pub(crate) fn local_ip(&self) -> IpAddr {
        if let Some(ip) = self.client_ip {
            return ip;
        }
        // Connecting a datagram socket sends nothing; it only chooses the interface.
        let anywhere = SocketAddr::from(([192, 0, 2, 1], 9));
        let towards = self.name_servers.iter().find_map(|server| server.parse().ok());
        let towards: SocketAddr = towards.unwrap_or(anywhere);
        let any: SocketAddr = match towards {
            SocketAddr::V4(_) => SocketAddr::from(([0, 0, 0, 0], 0)),
            SocketAddr::V6(_) => SocketAddr::from(([0_u16; 8], 0)),
        };
        let chosen = || {
            let socket = UdpSocket::bind(any).ok()?;
            socket.connect(towards).ok()?;
            Some(socket.local_addr().ok()?.ip())
        };
        chosen().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }
}
