//! The driver: plays the steps of one scenario on a stage, and remembers what later steps refer to.
//!
//! Actors are clients with a connection of their own; whatever is asked in nobody's name goes over one more. Names of topics,
//! groups and clients carry the scenario's suffix on a shared server, put on and taken off here, so that scenarios do not
//! meet. Most steps are one request, made and read in `verbs`.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap},
    str::FromStr,
    time::Duration,
};

use remoting::{CallError, Client, Handler, Replies};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use wire::{
    body::client::HeartbeatData,
    code::{RequestCode, ResponseCode},
    fastjson,
    frame::{Frame, Kind},
    header::client::UnregisterClient,
    names,
};

use crate::{
    outcome::{Expected, Fields, Item, Outcome},
    script::{Said, Step, duration},
    stage::{Door, End, PATIENCE, Stage},
    verbs::{Asked, Reads},
};

/// Who asks when nobody is named.
pub(crate) const NOBODY: &str = "";
/// Who asks the name server.
pub(crate) const NAMESRV: &str = "namesrv";
/// Names that are the same for everybody, besides the system's.
const SHARED_NAMES: [&str; 2] = ["DefaultCluster", "broker-a"];

/// How long a request may take to reach a server on this machine.
const BEGINNING: Duration = Duration::from_millis(100);

/// One scenario on its way.
pub(crate) struct Play<'a> {
    pub(crate) stage: &'a Stage<'a>,
    pub(crate) suffix: String,
    pub(crate) actors: BTreeMap<String, Actor>,
    /// Messages by label or body, and instants.
    pub(crate) known: HashMap<String, Fields>,
    begun: HashMap<String, Begun>,
    /// Settings that were changed, as they were.
    changed_settings: BTreeMap<String, String>,
    /// Whether the broker was started with settings of this scenario.
    is_altered: bool,
    pub(crate) unique_keys: u16,
    /// Of subscriptions: newer ones have a higher one, also within a millisecond.
    pub(crate) last_version: i64,
}

/// A client.
pub(crate) struct Actor {
    pub(crate) client_id: String,
    pub(crate) heartbeat: HeartbeatData,
    connection: Option<Client>,
    pushed: mpsc::UnboundedReceiver<Pushed>,
    /// What it received last, when that waits for an answer.
    asked: Option<Pushed>,
}

/// A request of the server, and where its answer goes.
struct Pushed(Frame, Option<oneshot::Sender<Frame>>);

/// A request on its way.
struct Begun {
    task: JoinHandle<(Result<Frame, CallError>, Duration)>,
    began: Duration,
    reads: Reads,
}

/// What stands in a step, with `$references` put in.
pub(crate) struct Args {
    pub(crate) words: Vec<String>,
    pub(crate) named: Vec<(String, String)>,
    pub(crate) properties: Vec<(String, String)>,
    pub(crate) label: Option<String>,
    used: RefCell<BTreeSet<String>>,
}

impl<'a> Play<'a> {
    pub(crate) fn new(stage: &'a Stage<'a>, suffix: String) -> Play<'a> {
        Play {
            stage,
            suffix,
            actors: BTreeMap::new(),
            known: HashMap::new(),
            begun: HashMap::new(),
            changed_settings: BTreeMap::new(),
            is_altered: false,
            unique_keys: 0,
            last_version: 0,
        }
    }

    /// Plays one step; `expected` says how many messages are worth waiting for.
    pub(crate) async fn step(&mut self, step: &Step, expected: &Expected) -> Said<Outcome> {
        let args = self.args(step)?;
        let words: Vec<&str> = args.words.iter().map(String::as_str).collect();
        let outcome = match words[..] {
            ["producer", name] => self.producer(name, &args).await?,
            ["consumer", name] => self.consumer(name, &args).await?,
            ["subscribe", name] => self.subscribe(name, &args).await?,
            ["heartbeat", name] => self.heartbeat(name).await?,
            ["leave", name] => self.leave(name).await?,
            ["die", name] => {
                self.actors.remove(name).ok_or_else(|| unknown("client", name))?;
                Outcome::ok()
            }
            [name, "receives", ref what @ ..] => {
                let wait = args.time("wait")?.unwrap_or(PATIENCE);
                self.receives(name, what, wait).await?
            }
            [name, "answers", code] => self.answers(name, code, &args)?,
            ["begin", label, ..] => {
                let label = label.trim_end_matches(':').to_owned();
                let inner = Args { words: args.words[2..].to_vec(), ..args };
                let outcome = self.begin(label, &inner).await?;
                inner.check_used()?;
                return Ok(outcome);
            }
            ["end", label] => self.end(label, args.time("wait")?.unwrap_or(PATIENCE)).await?,
            ["after", time] => {
                self.stage.pass(duration(time)?).await;
                Outcome::ok()
            }
            ["jump", by] => {
                let ms = |time: &str| duration(time).map(|time| time.as_millis() as i64);
                let back = by.strip_prefix('-').map(|time| ms(time).map(|ms| -ms));
                self.stage.jump(back.unwrap_or_else(|| ms(by.trim_start_matches('+')))?)?;
                Outcome::ok()
            }
            ["mark", name] => {
                let now = self.stage.clock().now().to_string();
                self.known.insert(name.to_owned(), [("value".to_owned(), now)].into());
                Outcome::ok()
            }
            ["restart"] => self.restart(End::Stop, &args).await?,
            ["kill"] => self.restart(End::Kill, &args).await?,
            ["power", "cut"] => self.restart(End::Power, &args).await?,
            ["config"] => self.config(&args).await?,
            ["pull", ..] | ["read", ..] if args.get("wait").is_some() => {
                self.pull_until(&args, expected).await?
            }
            _ => {
                let asked = self.request(&args)?;
                self.ask(asked).await?
            }
        };
        args.check_used()?;
        Ok(outcome)
    }

    /// Undoes what others on the same server would notice.
    pub(crate) async fn tidy_up(&mut self) -> Said<()> {
        if self.is_altered {
            self.start_again(End::Stop, Duration::ZERO, &[]).await?;
        }
        if !self.changed_settings.is_empty() {
            let settings = std::mem::take(&mut self.changed_settings);
            self.change_settings(&settings).await?;
        }
        Ok(())
    }

    // ---------------------------------------------------------------------------------------------------- names

    /// The name as it goes over the wire.
    pub(crate) fn wire(&self, name: &str) -> String {
        let long = repeated(name);
        let plain =
            name.trim_start_matches(names::RETRY_PREFIX).trim_start_matches(names::DLQ_PREFIX);
        let is_shared = names::is_system_topic(plain)
            || names::is_system_group(plain)
            || plain.ends_with(names::REPLY_TOPIC_SUFFIX)
            || SHARED_NAMES.contains(&plain)
            || !names::is_legal(plain)
            || plain.is_empty()
            || long != name;
        if is_shared { long } else { format!("{name}{}", self.suffix) }
    }

    /// A text as it is shown: without the suffix of names.
    pub(crate) fn shown(&self, text: &str) -> String {
        if self.suffix.is_empty() { text.to_owned() } else { text.replace(&self.suffix, "") }
    }

    /// What is known under a name.
    pub(crate) fn known(&self, name: &str) -> Said<&Fields> {
        self.known.get(name).ok_or_else(|| unknown("message", name))
    }

    /// Replaces `$name.field` and `$instant`, both with `+10s` or `-1` behind them.
    pub(crate) fn resolve(&self, text: &str) -> Said<String> {
        let Some(at) = text.find('$') else { return Ok(text.to_owned()) };
        let rest = &text[at + 1..];
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let name_len = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        let (name, mut rest) = rest.split_at(name_len);
        let mut field = "value";
        if let Some(behind) = rest.strip_prefix('.') {
            let len = behind.find(|c| !is_name(c)).unwrap_or(behind.len());
            (field, rest) = behind.split_at(len);
        }
        let value = self.known(name)?.get(field);
        let mut value = value.ok_or_else(|| format!("`{name}` has no `{field}`"))?.clone();
        if let Some(by) = rest.strip_prefix(['+', '-']) {
            let len = by.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(by.len());
            let (by, behind) = by.split_at(len);
            let by = by.parse().or_else(|_| duration(by).map(|time| time.as_millis() as i64))?;
            let sum = |number: i64| if rest.starts_with('-') { number - by } else { number + by };
            value =
                value.parse().map(sum).map_err(|_| format!("`{value}` is no number"))?.to_string();
            rest = behind;
        }
        Ok(format!("{}{value}{}", &text[..at], self.resolve(rest)?))
    }

    fn args(&self, step: &Step) -> Said<Args> {
        let pairs = |pairs: &[(String, String)]| -> Said<Vec<(String, String)>> {
            pairs.iter().map(|(key, value)| Ok((key.clone(), self.resolve(value)?))).collect()
        };
        Ok(Args {
            words: step.words.iter().map(|word| self.resolve(word)).collect::<Said<_>>()?,
            named: pairs(&step.named)?,
            properties: pairs(&step.properties)?,
            label: step.label.clone(),
            used: RefCell::default(),
        })
    }

    // --------------------------------------------------------------------------------------------------- requests

    /// Sends a request and reads its answer.
    pub(crate) async fn ask(&mut self, asked: Asked) -> Said<Outcome> {
        let Asked { who, frame, wait, reads } = asked;
        let is_oneway = frame.kind == Kind::Oneway;
        let connection = self.connection(&who).await?;
        if is_oneway {
            connection.push(frame).map_err(|error| error.to_string())?;
            return Ok(Outcome::ok());
        }
        let call = connection.call(frame, Duration::from_secs(86_400));
        match self.stage.wait(call, wait + PATIENCE).await {
            Some(answer) => self.answer(reads, answer),
            None => Ok(Outcome { head: "TIMEOUT".to_owned(), ..Outcome::default() }),
        }
    }

    fn answer(&mut self, reads: Reads, answer: Result<Frame, CallError>) -> Said<Outcome> {
        match answer {
            Ok(frame) => self.read(reads, &frame),
            Err(_) => Ok(Outcome { head: "CLOSED".to_owned(), ..Outcome::default() }),
        }
    }

    async fn begin(&mut self, label: String, args: &Args) -> Said<Outcome> {
        let Asked { who, frame, reads, .. } = self.request(args)?;
        let connection = self.connection(&who).await?;
        let clock = self.stage.clock();
        let began = clock.monotonic();
        let task = tokio::spawn(async move {
            let answer = connection.call(frame, Duration::from_secs(86_400)).await;
            (answer, clock.monotonic())
        });
        self.begun.insert(label, Begun { task, began, reads });
        // it has been received when the step is over
        self.stage.pass(if self.stage.is_virtual() { Duration::ZERO } else { BEGINNING }).await;
        Ok(Outcome::ok())
    }

    async fn end(&mut self, label: &str, at_most: Duration) -> Said<Outcome> {
        let mut begun = self.begun.remove(label).ok_or_else(|| unknown("request", label))?;
        let Some(ended) = self.stage.wait(&mut begun.task, at_most).await else {
            return Ok(Outcome { head: "TIMEOUT".to_owned(), ..Outcome::default() });
        };
        let (answer, at) = ended.map_err(|error| error.to_string())?;
        let mut outcome = self.answer(begun.reads, answer)?;
        let took = (at - begun.began).as_millis();
        outcome.fields.insert("took".to_owned(), took.to_string());
        Ok(outcome)
    }

    /// Pulls on until as many messages came as are expected, or the time is over.
    async fn pull_until(&mut self, args: &Args, expected: &Expected) -> Said<Outcome> {
        let clock = self.stage.clock();
        let began = clock.monotonic();
        let wait = args.time("wait")?.unwrap_or_default();
        let mut items: Vec<Item> = Vec::new();
        let mut from: Option<String> = None;
        loop {
            let left = (began + wait).saturating_sub(clock.monotonic());
            let mut asked = self.request(args)?;
            if let Some(from) = &from {
                asked.frame.ext.put("queueOffset", from);
            }
            asked.frame.ext.put("suspendTimeoutMillis", &left.as_millis().to_string());
            asked.wait = left;
            let mut outcome = self.ask(asked).await?;
            let is_refused = !outcome.head.starts_with("PULL_") && outcome.head != "ok";
            items.append(&mut outcome.items);
            let is_over = clock.monotonic() >= began + wait;
            if is_refused || is_over || items.len() >= expected.items.len().max(1) {
                outcome.items = items;
                if !outcome.items.is_empty() {
                    outcome.head = "ok".to_owned();
                }
                let took = (clock.monotonic() - began).as_millis();
                outcome.fields.insert("took".to_owned(), took.to_string());
                return Ok(outcome);
            }
            from = outcome.fields.get("next").cloned();
            if outcome.head == "PULL_NOT_FOUND" {
                self.stage.pass(Duration::from_millis(10)).await;
            }
        }
    }

    // ----------------------------------------------------------------------------------------------------- actors

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
    async fn connection(&mut self, name: &str) -> Said<remoting::Connection> {
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

    pub(crate) async fn heartbeat(&mut self, name: &str) -> Said<Outcome> {
        let actor = self.actors.get(name).ok_or_else(|| unknown("client", name))?;
        let frame = Frame::request(RequestCode::HEART_BEAT, &())
            .with_body(fastjson::encode(&actor.heartbeat));
        self.ask(Asked::plain(name, frame)).await
    }

    async fn leave(&mut self, name: &str) -> Said<Outcome> {
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
    async fn receives(&mut self, name: &str, what: &[&str], wait: Duration) -> Said<Outcome> {
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
                    Some(_) => Outcome { head: "nothing".to_owned(), ..Outcome::default() },
                });
            };
            let came = pushed.0.request_code();
            match code {
                None => return Ok(Outcome { head: came.to_string(), ..Outcome::default() }),
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
    fn answers(&mut self, name: &str, code: &str, args: &Args) -> Said<Outcome> {
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

    // ----------------------------------------------------------------------------------------------------- broker

    /// Clients reconnect and say who they are, as real ones do.
    async fn restart(&mut self, how: End, args: &Args) -> Said<Outcome> {
        let down = args.time("down")?.unwrap_or_default();
        let settings: Vec<String> =
            args.others().map(|(key, value)| format!("{key}={value}")).collect();
        self.is_altered |= !settings.is_empty();
        self.start_again(how, down, &settings).await?;
        let is_member = |actor: &Actor| {
            !actor.heartbeat.consumer_data_set.is_empty()
                || !actor.heartbeat.producer_data_set.is_empty()
        };
        let members: Vec<String> = self
            .actors
            .iter()
            .filter(|(_, actor)| is_member(actor))
            .map(|(name, _)| name.clone())
            .collect();
        for name in members {
            self.heartbeat(&name).await?;
        }
        Ok(Outcome::ok())
    }

    async fn start_again(&mut self, how: End, down: Duration, settings: &[String]) -> Said<()> {
        for actor in self.actors.values_mut() {
            actor.connection = None;
        }
        // sockets close on the runtime, which stands still while a process is started
        self.stage.pass(Duration::from_millis(10)).await;
        self.stage.restart(how, down, settings).await
    }

    /// Changes settings at run time, until the scenario is over.
    async fn config(&mut self, args: &Args) -> Said<Outcome> {
        let settings: BTreeMap<String, String> =
            args.others().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let frame = Frame::request(RequestCode::GET_BROKER_CONFIG, &());
        let connection = self.connection(NOBODY).await?;
        let call = connection.call(frame, PATIENCE);
        let answer = self.stage.wait(call, PATIENCE).await.ok_or("no answer")?;
        let text = answer.map_err(|error| error.to_string())?.body_bytes();
        for line in String::from_utf8_lossy(&text).lines() {
            let Some((key, value)) = line.split_once('=') else { continue };
            if settings.contains_key(key.trim()) {
                let (key, value) = (key.trim().to_owned(), value.trim().to_owned());
                self.changed_settings.entry(key).or_insert(value);
            }
        }
        self.change_settings(&settings).await
    }

    async fn change_settings(&mut self, settings: &BTreeMap<String, String>) -> Said<Outcome> {
        let body: String = settings.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
        let frame = Frame::request(RequestCode::UPDATE_BROKER_CONFIG, &()).with_body(body);
        self.ask(Asked::plain(NOBODY, frame)).await
    }
}

impl Args {
    /// The value of a parameter.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.used.borrow_mut().insert(key.to_owned());
        self.named.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// A parameter that is a number.
    pub(crate) fn number<T: FromStr>(&self, key: &str, default: T) -> Said<T> {
        self.get(key).map_or(Ok(default), |text| number(text))
    }

    /// A parameter that is a time.
    pub(crate) fn time(&self, key: &str) -> Said<Option<Duration>> {
        self.get(key).map(duration).transpose()
    }

    /// The parameters that nobody has asked for, for steps that take any.
    pub(crate) fn others(&self) -> impl Iterator<Item = (&str, &str)> {
        let used = std::mem::take(&mut *self.used.borrow_mut());
        let all = self.named.iter().map(|(key, _)| key.clone()).collect();
        *self.used.borrow_mut() = all;
        self.named
            .iter()
            .filter(move |(key, _)| !used.contains(key))
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }

    fn check_used(&self) -> Said<()> {
        let used = self.used.borrow();
        match self.named.iter().find(|(key, _)| !used.contains(key) && key != "wait") {
            Some((key, _)) => Err(format!("this step knows no `{key}=`")),
            None => Ok(()),
        }
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
            replies
                .park(async move { answer.await.map(remoting::Answers::from).unwrap_or_default() });
        }
    }
}

pub(crate) fn unknown(what: &str, name: &str) -> String {
    format!("no {what} is called `{name}`")
}

pub(crate) fn number<T: FromStr>(text: &str) -> Said<T> {
    text.parse().map_err(|_| format!("`{text}` is no number here"))
}

/// `x*127` is a hundred and twenty-seven x.
pub(crate) fn repeated(text: &str) -> String {
    match text.rsplit_once('*') {
        Some((unit, count)) if !unit.is_empty() => match count.parse() {
            Ok(count) => unit.repeat(count),
            Err(_) => text.to_owned(),
        },
        _ => text.to_owned(),
    }
}

pub(crate) fn request_code(name: &str) -> Said<RequestCode> {
    let found = RequestCode::ALL.iter().find(|code| code.name() == Some(name));
    found.copied().ok_or_else(|| unknown("request code", name))
}

fn response_code(name: &str) -> Said<ResponseCode> {
    if name == "ok" {
        return Ok(ResponseCode::SUCCESS);
    }
    let found = ResponseCode::ALL.iter().find(|code| code.name() == Some(name));
    found.copied().ok_or_else(|| unknown("response code", name))
}
