//! Clients: producers and consumers with a connection each, what they tell the broker and what it asks of them.
//!
//! A client connects when it first has something to say, and again when its connection is gone; who it is it says in its
//! heartbeat only. What the server asks waits here until a step looks for it.

use std::time::Duration;

use remoting::{Answers, Client, Connection, Handler, Replies};
use tokio::sync::{mpsc, oneshot};
use wire::{
    body::client::{
        ConsumeFromWhere, ConsumeType, ConsumerData, HeartbeatData, MessageModel, ProducerData,
        SubscriptionData,
    },
    code::{RequestCode, ResponseCode},
    fastjson,
    frame::{Frame, Kind},
    header::client::UnregisterClient,
    names,
};

use crate::{
    args::Args,
    outcome::Outcome,
    play::{NAMESRV, NOBODY, Play, request_code, unknown},
    script::Said,
    stage::Door,
    verbs::Asked,
};

/// A client.
pub(crate) struct Actor {
    pub(crate) client_id: String,
    pub(crate) heartbeat: HeartbeatData,
    pub(crate) connection: Option<Client>,
    pushed: mpsc::UnboundedReceiver<Pushed>,
    /// What it received last, when that waits for an answer.
    asked: Option<Pushed>,
}

/// A request of the server, and where its answer goes.
struct Pushed(Frame, Option<oneshot::Sender<Frame>>);

impl Actor {
    /// The group that it consumes in.
    pub(crate) fn consumer_group(&self) -> Said<&str> {
        let data = self.heartbeat.consumer_data_set.first();
        data.map(|data| data.group_name.as_str()).ok_or_else(|| "it is no consumer".to_owned())
    }

    /// The group that it produces in.
    pub(crate) fn producer_group(&self) -> Option<&str> {
        self.heartbeat.producer_data_set.first().map(|data| data.group_name.as_str())
    }

    /// Whether its heartbeat makes it a member of any group.
    pub(crate) fn is_member(&self) -> bool {
        self.consumer_group().is_ok() || self.producer_group().is_some()
    }

    /// What it has subscribed to.
    pub(crate) fn subscription(&self, topic: &str) -> Option<&SubscriptionData> {
        let data = self.heartbeat.consumer_data_set.first()?;
        data.subscription_data_set.iter().find(|data| data.topic == topic)
    }
}

impl Play<'_> {
    /// Makes a client, which is not connected yet.
    pub(crate) fn actor(&mut self, name: &str) -> &mut Actor {
        let client_id = format!("{name}{}", self.suffix);
        self.actors.entry(name.to_owned()).or_insert_with(|| Actor {
            heartbeat: HeartbeatData { client_id: client_id.clone(), ..HeartbeatData::default() },
            client_id,
            connection: None,
            pushed: mpsc::unbounded_channel().1,
            asked: None,
        })
    }

    /// The connection of a client, made if there is none.
    pub(crate) async fn connection(&mut self, name: &str) -> Said<Connection> {
        let stage = self.stage;
        if name != NOBODY && name != NAMESRV && !self.actors.contains_key(name) {
            return Err(unknown("client", name));
        }
        let actor = self.actor(name);
        if let Some(client) = actor.connection.as_ref().filter(|client| !client.is_gone()) {
            // the name server of virtual time is told of topics with each connection
            if name != NAMESRV {
                return Ok((**client).clone());
            }
        }
        let door = if name == NAMESRV { Door::Namesrv } else { Door::Broker };
        let (sender, pushed) = mpsc::unbounded_channel();
        let client = stage.connect(door, Receiving(sender)).await?;
        let connection = (*client).clone();
        (actor.connection, actor.pushed) = (Some(client), pushed);
        Ok(connection)
    }

    /// Tells the broker who the client is.
    pub(crate) async fn heartbeat(&mut self, name: &str) -> Said<Outcome> {
        let actor = self.actors.get(name).ok_or_else(|| unknown("client", name))?;
        let frame = Frame::request(RequestCode::HEART_BEAT, &())
            .with_body(fastjson::encode(&actor.heartbeat));
        self.ask(Asked::plain(name, frame)).await
    }

    /// Takes the client out of all its groups.
    pub(crate) async fn leave(&mut self, name: &str) -> Said<Outcome> {
        let actor = self.actors.get_mut(name).ok_or_else(|| unknown("client", name))?;
        let data = &actor.heartbeat;
        let consumes = data.consumer_data_set.iter().map(|data| (true, data.group_name.clone()));
        let produces = data.producer_data_set.iter().map(|data| (false, data.group_name.clone()));
        let groups: Vec<(bool, String)> = consumes.chain(produces).collect();
        let client_id = actor.client_id.clone();
        let mut outcome = Outcome::ok();
        for (consumes, group) in &groups {
            let header = UnregisterClient {
                client_id: &client_id,
                producer_group: (!consumes).then_some(group),
                consumer_group: consumes.then_some(group),
            };
            let frame = Frame::request(RequestCode::UNREGISTER_CLIENT, &header);
            outcome = self.ask(Asked::plain(name, frame)).await?;
        }
        let actor = self.actor(name);
        actor.heartbeat =
            HeartbeatData { client_id: actor.client_id.clone(), ..HeartbeatData::default() };
        Ok(outcome)
    }

    /// Waits for a request of the server with this code; others are passed over.
    pub(crate) async fn receives(
        &mut self,
        name: &str,
        what: &[&str],
        wait: Duration,
    ) -> Said<Outcome> {
        let (stage, clock) = (self.stage, self.stage.clock());
        let actor = self.actors.get_mut(name).ok_or_else(|| unknown("client", name))?;
        let code = match what {
            ["nothing"] => None,
            [code] => Some(request_code(code)?),
            _ => return Err("`receives` wants a request code, or `nothing`".to_owned()),
        };
        let deadline = clock.monotonic() + wait;
        loop {
            let left = deadline.saturating_sub(clock.monotonic());
            let Some(Some(pushed)) = stage.wait(actor.pushed.recv(), left).await else {
                return Ok(match code {
                    None => Outcome::ok(),
                    Some(_) => Outcome { head: "TIMEOUT".to_owned(), ..Outcome::default() },
                });
            };
            let came = pushed.0.request_code();
            match code {
                None => {
                    let head = came.name().map_or_else(|| came.to_string(), str::to_owned);
                    return Ok(Outcome { head, ..Outcome::default() });
                }
                Some(code) if code == came => {
                    let frame = pushed.0.clone();
                    actor.asked = Some(pushed);
                    return self.read_pushed(&frame);
                }
                Some(_) => {}
            }
        }
    }

    /// Answers what a client received last.
    pub(crate) fn answers(&mut self, name: &str, code: &str, args: &Args) -> Said<Outcome> {
        let code = response_code(code)?;
        let body = args.get("body").map(|body| self.with_names(body));
        let remark = args.get("remark").map(str::to_owned);
        let actor = self.actors.get_mut(name).ok_or_else(|| unknown("client", name))?;
        let asked = actor.asked.take();
        let Some(Pushed(request, Some(sender))) = asked else {
            return Err(format!("`{name}` was asked nothing that wants an answer"));
        };
        let mut frame = request.respond(code);
        for (key, value) in args.others() {
            frame.ext.put(key, value);
        }
        if let Some(body) = body {
            frame = frame.with_body(body);
        }
        frame.remark = remark.map(Into::into);
        sender.send(frame).map_err(|_| "the connection is gone".to_owned())?;
        Ok(Outcome::ok())
    }

    pub(crate) async fn producer(&mut self, who: &str, args: &Args) -> Said<Outcome> {
        let group_name = self.wire(args.get("group").unwrap_or("producers"));
        let actor = self.actor(who);
        actor.heartbeat.producer_data_set.push(ProducerData { group_name });
        self.heartbeat(who).await
    }

    pub(crate) async fn consumer(&mut self, who: &str, args: &Args) -> Said<Outcome> {
        let group_name = self.wire(args.get("group").ok_or("`group=` is missing")?);
        let message_model = match args.get("model") {
            Some("broadcasting") => MessageModel::Broadcasting,
            Some("clustering") | None => MessageModel::Clustering,
            Some(other) => return Err(unknown("message model", other)),
        };
        let consume_type = match args.get("type") {
            Some("push") | None => ConsumeType::ConsumePassively,
            Some("pull") => ConsumeType::ConsumeActively,
            Some("pop") => ConsumeType::ConsumePop,
            Some(other) => return Err(unknown("type of consumer", other)),
        };
        let consume_from_where = match args.get("from") {
            Some("last") | None => ConsumeFromWhere::ConsumeFromLastOffset,
            Some("first") => ConsumeFromWhere::ConsumeFromFirstOffset,
            Some("timestamp") => ConsumeFromWhere::ConsumeFromTimestamp,
            Some(other) => return Err(unknown("place to consume from", other)),
        };
        let mut subscription_data_set = self.subscriptions(args)?;
        // as push consumers do of themselves
        if message_model == MessageModel::Clustering
            && consume_type == ConsumeType::ConsumePassively
        {
            let retry = SubscriptionData::parse(&names::retry_topic(&group_name), "*", "TAG");
            subscription_data_set.extend(retry);
        }
        let data = ConsumerData {
            consume_from_where,
            consume_type,
            group_name,
            message_model,
            subscription_data_set,
            unit_mode: args.number("unit", false)?,
        };
        self.actor(who).heartbeat.consumer_data_set = vec![data];
        self.heartbeat(who).await
    }

    /// Adds subscriptions to those of a consumer, or changes them.
    pub(crate) async fn subscribe(&mut self, who: &str, args: &Args) -> Said<Outcome> {
        let new = self.subscriptions(args)?;
        let data = self.actor(who).heartbeat.consumer_data_set.first_mut();
        let old = &mut data.ok_or_else(|| unknown("consumer", who))?.subscription_data_set;
        old.retain(|old| new.iter().all(|new| new.topic != old.topic));
        old.extend(new);
        self.heartbeat(who).await
    }

    fn subscriptions(&mut self, args: &Args) -> Said<Vec<SubscriptionData>> {
        let (expression, kind) = expression(args).unwrap_or_else(|| ("*".to_owned(), "TAG"));
        self.last_version = self.stage.clock().now().max(self.last_version + 1);
        let topics = args.get("topic").unwrap_or_default();
        topics
            .split(',')
            .filter(|topic| !topic.is_empty())
            .map(|topic| {
                let mut data = SubscriptionData::parse(&self.wire(topic), &expression, kind)
                    .ok_or_else(|| format!("`{expression}` is no subscription"))?;
                data.sub_version = args.number("version", self.last_version)?;
                Ok(data)
            })
            .collect()
    }
}

/// Takes what the server asks of a client.
struct Receiving(mpsc::UnboundedSender<Pushed>);

impl Handler for Receiving {
    fn run(&mut self, run: &mut Vec<Frame>, replies: &mut Replies) {
        for frame in run.drain(..) {
            if frame.kind == Kind::Oneway {
                let _ = self.0.send(Pushed(frame, None));
                continue;
            }
            let (sender, answer) = oneshot::channel();
            let _ = self.0.send(Pushed(frame, Some(sender)));
            replies.park(async move { answer.await.map(Answers::from).unwrap_or_default() });
        }
    }
}

/// The subscription that a step names.
pub(crate) fn expression(args: &Args) -> Option<(String, &'static str)> {
    let tags = args.get("tags").map(|tags| (tags.to_owned(), SubscriptionData::TAG));
    tags.or_else(|| args.get("sql").map(|sql| (sql.to_owned(), SubscriptionData::SQL92)))
}

fn response_code(name: &str) -> Said<ResponseCode> {
    if name == "ok" {
        return Ok(ResponseCode::SUCCESS);
    }
    let found = ResponseCode::ALL.iter().find(|code| code.name() == Some(name));
    found.copied().ok_or_else(|| unknown("response code", name))
}
