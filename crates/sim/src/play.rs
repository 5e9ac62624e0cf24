//! The driver: plays the steps of one scenario on a stage, and remembers what later steps refer to.
//!
//! Names of topics, groups and clients carry the scenario's suffix on a shared server, put on and taken off here, so that
//! scenarios do not meet. Most steps are one request: made in `verbs`, sent here over the connection of one of the `actors`,
//! read in `answers`.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use remoting::CallError;
use tokio::task::JoinHandle;
use wire::{
    code::RequestCode,
    frame::{Frame, Kind},
    names,
};

use crate::{
    actors::Actor,
    args::{Args, repeated},
    outcome::{Expected, Fields, Item, Outcome},
    script::{Said, Step, duration},
    stage::{End, PATIENCE, Stage},
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

/// The stage says how long an answer is waited for, not the connection.
const FOREVER: Duration = Duration::from_secs(1_000_000);

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

/// A request on its way.
struct Begun {
    task: JoinHandle<(Result<Frame, CallError>, Duration)>,
    began: Duration,
    reads: Reads,
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
                let inner = args.behind(2);
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
        let call = connection.call(frame, FOREVER);
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
            let answer = connection.call(frame, FOREVER).await;
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

    // ----------------------------------------------------------------------------------------------------- broker

    /// Clients reconnect and say who they are, as real ones do.
    async fn restart(&mut self, how: End, args: &Args) -> Said<Outcome> {
        let down = args.time("down")?.unwrap_or_default();
        let settings: Vec<String> =
            args.others().map(|(key, value)| format!("{key}={value}")).collect();
        self.is_altered |= !settings.is_empty();
        self.start_again(how, down, &settings).await?;
        let members = self.actors.iter().filter(|(_, actor)| actor.is_member());
        for name in members.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
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

pub(crate) fn unknown(what: &str, name: &str) -> String {
    format!("no {what} is called `{name}`")
}

pub(crate) fn request_code(name: &str) -> Said<RequestCode> {
    let found = RequestCode::ALL.iter().find(|code| code.name() == Some(name));
    found.copied().ok_or_else(|| unknown("request code", name))
}
