//! `apogee bench produce`: sends, single or in batches, over pipelined connections.
//!
//! A connection's frames lie one behind the other in a [`Ring`]; a run of them is patched and written at once.
//! `--rate` paces by schedule, and latency is then counted from the scheduled moment, so that a stalled server cannot
//! hide its stall by not being asked.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use anyhow::{Result, bail};
use clap::Args;
use tokio::{
    task::JoinSet,
    time::{Duration, Instant, sleep},
};

use super::{
    Length, Target, Work,
    control::Control,
    pipe::{Load, Next, Pipe},
    report::{Line, Tally, measure},
    scan::{Answer, field, log_offset},
    template::{
        Codec, OPAQUE_BASE, OPAQUE_SPAN, OpaquePlace, Place, Template, digits, make_oneway, request,
    },
};

const END_TRANSACTION: i32 = 37;
const SEND_MESSAGE_V2: i32 = 310;
const SEND_BATCH_MESSAGE: i32 = 320;

/// Flags of `bench produce`.
#[derive(Debug, Args)]
pub(crate) struct Produce {
    #[command(flatten)]
    pub(super) target: Target,
    #[command(flatten)]
    pub(super) length: Length,
    #[command(flatten)]
    pub(super) shape: Shape,
    /// Requests in flight on each connection.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(super) in_flight: u32,
    /// Messages a second over all connections; as many as the server takes when 0.
    #[arg(long, default_value_t = 0)]
    rate: u64,
    /// Measures how long stored messages take to become visible to readers, on a connection of its own.
    #[arg(long)]
    lag: bool,
    /// Ends when as many messages are readable in the topic as were sent: delayed ones, and those of transactions.
    #[arg(long)]
    until_delivered: bool,
    /// Sends through `apogee-client`, a client and a task for each connection, by the routes of the name server.
    #[arg(long, conflicts_with_all = [
        "rate", "lag", "until_delivered", "transaction", "batch", "no_unique_key", "topics", "codec",
    ])]
    client: bool,
}

/// What each message is like.
#[derive(Debug, Clone, Args)]
pub(super) struct Shape {
    /// Body bytes of a message.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(0..=4_194_304))]
    pub(super) size: u32,
    /// Messages in one request.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: u32,
    /// Tag of the messages.
    #[arg(long)]
    pub(super) tag: Option<String>,
    /// User keys on each message, each of them new; the index holds them all.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=16))]
    pub(super) keys: u32,
    /// Leaves out the unique key that every real client puts on a message (and the broker indexes).
    #[arg(long)]
    no_unique_key: bool,
    /// A property of each message, NAME=VALUE; may be repeated. `DELAY=3` is the third delay level.
    #[arg(long, value_parser = name_and_value)]
    pub(super) property: Vec<(String, String)>,
    /// Sends each message as half of a transaction, and commits it.
    #[arg(long, conflicts_with = "batch")]
    transaction: bool,
    /// When messages are due, for `bench timers`.
    #[arg(skip)]
    pub(super) due: Option<Due>,
}

/// The whole seconds that messages are due at, in turn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Due {
    /// The first, ms since the epoch.
    pub(super) first: u64,
    /// How many.
    pub(super) seconds: u64,
}

/// Reads a property, `NAME=VALUE`.
pub(crate) fn name_and_value(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it is NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Produce {
    pub(super) async fn run(self) -> Result<()> {
        self.length.check()?;
        if self.client {
            return super::client::produce(&self).await;
        }
        let Target { connections, queues, topics, codec, .. } = self.target;
        let brokers = self.target.brokers().await?;
        let create_us = self.target.create_topics(&brokers).await?;
        let mut senders = Vec::new();
        for at in 0..connections {
            let broker = &brokers[at as usize % brokers.len()];
            let ring = Ring::new(&self.target, &self.shape, self.in_flight, at);
            let pace = self.rate as f64 / f64::from(connections);
            senders.push((Pipe::connect(broker).await?, Sender::new(ring, self.in_flight, pace)));
        }
        if self.length.warmup > 0 {
            let work = Arc::new(Work::new(self.length.warmup, None));
            let run = drive(&mut senders, &work);
            senders = measure(&self.target.pid, &work, run).await?.output;
            for (_, sender) in &mut senders {
                sender.tally = Tally::default();
            }
        }
        let watch = match self.lag {
            true => Some(Lag::open(&self.target, &brokers[0]).await?),
            false => None,
        };
        let mut readable = match self.until_delivered {
            true => Some(Lag::open(&self.target, &brokers[0]).await?),
            false => None,
        };
        let work = self.length.work();
        let stored = Arc::clone(&work);
        let watch = watch.map(|lag| tokio::spawn(lag.watch(stored)));
        let run = async {
            let senders = drive(&mut senders, &work).await?;
            if let Some(readable) = &mut readable {
                readable.wait_for(work.done.load(Relaxed)).await?;
            }
            Ok(senders)
        };
        let measured = measure(&self.target.pid, &work, run).await?;
        work.finish();
        let mut tally = Tally::default();
        for (_, sender) in &measured.output {
            tally.add(&sender.tally);
        }
        let mut line = Line::default();
        line.pair("op", "produce")
            .pair("codec", format_args!("{codec:?}").to_string().to_lowercase());
        line.pair("size", self.shape.size).pair("batch", self.shape.batch);
        line.pair("connections", connections).pair("in_flight", self.in_flight);
        line.pair("topics", topics).pair("queues", queues);
        if let Some(create_us) = create_us {
            line.pair("create_topic_us", format_args!("{create_us:.1}"));
        }
        line.run(&self.target.pid, &measured, &tally).percentiles("", &tally.latency);
        if let Some(watch) = watch {
            line.pair("lag_max_ms", format_args!("{:.1}", watch.await??.as_secs_f64() * 1e3));
        }
        line.print();
        Ok(())
    }
}

/// Runs all senders until the work is done.
pub(super) async fn drive(
    senders: &mut Vec<(Pipe, Sender)>,
    work: &Arc<Work>,
) -> Result<Vec<(Pipe, Sender)>> {
    let mut tasks = JoinSet::new();
    for (mut pipe, mut sender) in senders.drain(..) {
        sender.begin(Arc::clone(work));
        tasks.spawn(async move {
            pipe.drive(&mut sender).await?;
            anyhow::Ok((pipe, sender))
        });
    }
    let mut done = Vec::new();
    while let Some(task) = tasks.join_next().await {
        done.push(task??);
    }
    Ok(done)
}

/// Watches how far readers are behind: the time between the acknowledgement of a message and the first look at the
/// queues that finds it visible.
pub(super) struct Lag {
    control: Control,
    queues: Vec<(String, u32)>,
    visible_before: i64,
}

/// Time between looks at the queues.
const LOOK: Duration = Duration::from_millis(5);

impl Lag {
    pub(super) async fn open(target: &Target, broker: &str) -> Result<Lag> {
        let topic = |at| target.topic_name(at % target.topics);
        let queues =
            (0..target.topics * target.queues).map(|at| (topic(at), at / target.topics)).collect();
        Lag::of(target, broker, queues).await
    }

    /// Looks at these queues; what is readable now does not count.
    pub(super) async fn of(
        target: &Target,
        broker: &str,
        queues: Vec<(String, u32)>,
    ) -> Result<Lag> {
        let control = Control::connect(broker, target.codec).await?;
        let mut lag = Lag { control, queues, visible_before: 0 };
        lag.visible_before = lag.visible().await?;
        Ok(lag)
    }

    async fn visible(&mut self) -> Result<i64> {
        let mut sum = 0;
        for (topic, queue) in &self.queues {
            sum += self.control.max_offset(topic, *queue).await?;
        }
        Ok(sum - self.visible_before)
    }

    /// Looks until so many messages are readable, or their number stands still for a minute.
    pub(super) async fn wait_for(&mut self, count: u64) -> Result<()> {
        let (mut most, mut since) = (0, Instant::now());
        loop {
            let visible = u64::try_from(self.visible().await?).unwrap_or(0);
            if visible >= count {
                return Ok(());
            }
            if visible > most {
                (most, since) = (visible, Instant::now());
            }
            if since.elapsed() > LAG_MAX {
                bail!("only {visible} of {count} messages were delivered");
            }
            sleep(LOOK).await;
        }
    }

    /// Looks until all that the work stored is visible; returns the longest lag seen.
    async fn watch(mut self, work: Arc<Work>) -> Result<Duration> {
        let mut acknowledged: VecDeque<(Instant, u64)> = VecDeque::new();
        let mut longest = Duration::ZERO;
        loop {
            let over = work.is_over(Instant::now());
            let now = Instant::now();
            let done = work.done.load(Relaxed);
            if acknowledged.back().is_none_or(|(_, count)| *count < done) {
                acknowledged.push_back((now, done));
            }
            let visible = u64::try_from(self.visible().await?).unwrap_or(0);
            while acknowledged.front().is_some_and(|(_, count)| *count <= visible) {
                acknowledged.pop_front();
            }
            if let Some((at, _)) = acknowledged.front() {
                longest = longest.max(at.elapsed());
            } else if over {
                return Ok(longest);
            }
            if longest > LAG_MAX {
                return Ok(longest);
            }
            sleep(LOOK).await;
        }
    }
}

/// Whoever is further behind is not waited for.
const LAG_MAX: Duration = Duration::from_secs(60);

/// How many bytes of frames are written at once, unless one frame is longer.
const RUN_BYTES: usize = 256 << 10;

/// Frames of one length, one behind the other, and where each is patched.
#[derive(Debug)]
pub(super) struct Ring {
    frames: Vec<u8>,
    frame_len: usize,
    slots: usize,
    opaque: OpaquePlace,
    born_at: Place,
    queue: Place,
    topic: Option<Place>,
    unique: Vec<Place>,
    /// When each is due, and where that is written; the body begins with it, too.
    due: Option<(Place, Due)>,
    /// How a half message is committed.
    commit: Option<Commit>,
    /// Where the body of a message that is not a batch begins.
    body_at: usize,
    topics: u64,
    queues: u64,
    /// Messages in one frame.
    batch: u64,
    body_bytes: u64,
    /// Frames prepared so far; the first is offset for each connection, so that they do not all fill one queue.
    count: u64,
    unique_count: u64,
}

/// END_TRANSACTION, and where the places of the half message stand in it.
#[derive(Debug)]
struct Commit {
    frame: Vec<u8>,
    log_offset: Place,
    queue_offset: Place,
}

impl Commit {
    fn new(codec: Codec, topic: &str) -> Commit {
        const LOG: &str = "7531902468753190246";
        const QUEUE: &str = "8642013579864201357";
        let fields = [
            ("topic", topic),
            ("producerGroup", GROUP),
            ("tranStateTableOffset", QUEUE),
            ("commitLogOffset", LOG),
            ("commitOrRollback", "8"),
            ("fromTransactionCheck", "false"),
            ("msgId", "bench"),
            ("transactionId", "bench"),
        ];
        let mut frame = request(codec, END_TRANSACTION, 1, &fields, &[]);
        make_oneway(codec, &mut frame);
        let place = |text| Place::of(&frame, text, 8);
        Commit { log_offset: place(LOG), queue_offset: place(QUEUE), frame }
    }
}

const GROUP: &str = "apogee-bench";
const DUE: &str = "1230984567123";
const BORN: &str = "1234567890123";
/// A unique key has 32 characters: sixteen say who sent it, sixteen count.
const COUNT: &str = "8642086420864208";

impl Ring {
    /// Encodes the frames of the n-th connection.
    pub(super) fn new(target: &Target, shape: &Shape, in_flight: u32, connection: u32) -> Ring {
        let mut properties = String::new();
        let mut pair = |name: &str, value: &str| {
            properties.push_str(&format!("{name}\u{1}{value}\u{2}"));
        };
        // differs for each run and connection, as a client's address and start time do
        let sender = format!("{:08X}{connection:08X}", fastrand::u32(..));
        if !shape.no_unique_key {
            pair("UNIQ_KEY", &format!("{sender}{COUNT}"));
        }
        if shape.keys > 0 {
            let keys: Vec<String> =
                (0..shape.keys).map(|at| format!("{at:X}{sender}{COUNT}")).collect();
            pair("KEYS", &keys.join(" "));
        }
        if let Some(tag) = &shape.tag {
            pair("TAGS", tag);
        }
        for (name, value) in &shape.property {
            pair(name, value);
        }
        if shape.due.is_some() {
            pair("TIMER_DELIVER_MS", DUE);
        }
        if shape.transaction {
            pair("TRAN_MSG", "true");
            pair("PGROUP", GROUP);
        }
        pair("WAIT", "true");
        let body = vec![b'x'; shape.size as usize];
        let batched = shape.batch > 1;
        let whole_body =
            if batched { batch_body(&body, properties.as_bytes(), shape.batch) } else { body };
        let queue_text = "?".repeat(digits(u64::from(target.queues - 1)));
        let topic_text = "?".repeat(target.topic_digits());
        let topic_name = match target.topics {
            1 => target.topic.clone(),
            _ => format!("{}-{topic_text}", target.topic),
        };
        let template = Template::new(
            target.codec,
            if batched { SEND_BATCH_MESSAGE } else { SEND_MESSAGE_V2 },
            &[
                ("a", GROUP),
                ("b", &topic_name),
                ("c", "TBW102"),
                ("d", "4"),
                ("e", &queue_text),
                ("f", if shape.transaction { "4" } else { "0" }),
                ("g", BORN),
                ("h", "0"),
                ("i", &properties),
                ("j", "0"),
                ("k", "false"),
                ("m", if batched { "true" } else { "false" }),
            ],
            &whole_body,
        );
        let bytes = &template.bytes;
        let topic = (target.topics > 1)
            .then(|| Place::of(bytes, &format!("-{topic_text}"), 8).without_first());
        // JSON keeps the order of the fields, so the queue stands behind the topic
        let queue = Place::of(bytes, &queue_text, field_start(target.codec, bytes, "e"));
        let mut unique = Vec::new();
        let mut from = 8;
        while super::scan::find(&bytes[from..], COUNT.as_bytes()).is_some() {
            let place = Place::of(bytes, COUNT, from);
            from = place.end();
            unique.push(place);
        }
        let slots = (RUN_BYTES / bytes.len()).clamp(1, in_flight as usize);
        Ring {
            frame_len: bytes.len(),
            slots,
            opaque: template.opaque,
            born_at: Place::of(bytes, BORN, 8),
            due: shape.due.map(|due| (Place::of(bytes, DUE, 8), due)),
            commit: shape.transaction.then(|| Commit::new(target.codec, &topic_name)),
            queue,
            topic,
            unique,
            body_at: bytes.len() - whole_body.len(),
            topics: u64::from(target.topics),
            queues: u64::from(target.queues),
            batch: u64::from(shape.batch),
            body_bytes: u64::from(shape.size) * u64::from(shape.batch),
            count: u64::from(connection),
            unique_count: 0,
            frames: bytes.repeat(slots),
        }
    }

    /// Patches up to `wanted` frames from the front; the first gets `opaque`. Returns how many.
    fn prepare(&mut self, wanted: usize, opaque: impl Fn(usize) -> i32) -> usize {
        let born_at = epoch_millis();
        let count = wanted.min(self.slots);
        for slot in 0..count {
            let frame = &mut self.frames[slot * self.frame_len..][..self.frame_len];
            self.opaque.write(frame, opaque(slot));
            self.born_at.write(frame, born_at);
            if let Some(topic) = self.topic {
                topic.write(frame, self.count % self.topics);
            }
            self.queue.write(frame, (self.count / self.topics) % self.queues);
            if let Some((place, due)) = self.due {
                let at = due.first + (self.count / self.queues) % due.seconds * 1000;
                place.write(frame, at);
                frame[self.body_at..][..8].copy_from_slice(&at.to_be_bytes());
            }
            self.count += 1;
            for place in &self.unique {
                self.unique_count += 1;
                place.write(frame, self.unique_count);
            }
        }
        count
    }

    /// Writes eight bytes at the front of a frame's body.
    pub(super) fn stamp(&mut self, slot: usize, stamp: u64) {
        let at = slot * self.frame_len + self.body_at;
        self.frames[at..at + 8].copy_from_slice(&stamp.to_be_bytes());
    }
}

/// Where the value of a field of one letter may begin.
fn field_start(codec: Codec, frame: &[u8], name: &str) -> usize {
    let before = match codec {
        Codec::Json => format!("\"{name}\":\""),
        Codec::Rocketmq => format!("\0\u{1}{name}\0\0\0"),
    };
    Place::of(frame, &before, 8).end()
}

/// Now, as clients write it; from the system's clock, as clients do.
pub(super) fn epoch_millis() -> u64 {
    u64::try_from(env::Clock::real().now()).unwrap_or(0)
}

/// The body of SEND_BATCH_MESSAGE: each message with its own length, flag and properties.
fn batch_body(body: &[u8], properties: &[u8], count: u32) -> Vec<u8> {
    let mut one = Vec::new();
    let total = 4 + 4 + 4 + 4 + 4 + body.len() + 2 + properties.len();
    one.extend_from_slice(&(total as u32).to_be_bytes());
    one.extend_from_slice(&[0; 12]); // magic, body CRC, flag: the broker reads only the flag
    one.extend_from_slice(&(body.len() as u32).to_be_bytes());
    one.extend_from_slice(body);
    one.extend_from_slice(&(properties.len() as u16).to_be_bytes());
    one.extend_from_slice(properties);
    one.repeat(count as usize)
}

/// Requests of one connection that wait for their answers.
#[derive(Debug)]
pub(super) struct Sender {
    ring: Ring,
    run_len: usize,
    /// Commits of half messages that were answered, and those that are being written.
    commits: Vec<u8>,
    committing: Vec<u8>,
    work: Option<Arc<Work>>,
    /// When each request was sent (or due), by the low bits of its number.
    sent_at: Vec<Instant>,
    sent: u64,
    answered: u64,
    in_flight: u64,
    /// Messages a second; 0 for as many as are taken.
    pace: f64,
    begun: Instant,
    /// Requests sent before `begun`.
    sent_before: u64,
    stamped: Option<Instant>,
    pub(super) tally: Tally,
}

impl Sender {
    /// A sender of a ring's frames.
    pub(super) fn new(ring: Ring, in_flight: u32, pace: f64) -> Sender {
        let now = Instant::now();
        Sender {
            ring,
            run_len: 0,
            commits: Vec::new(),
            committing: Vec::new(),
            work: None,
            sent_at: vec![now; (2 * in_flight as usize).next_power_of_two()],
            sent: 0,
            answered: 0,
            in_flight: u64::from(in_flight),
            pace,
            begun: now,
            sent_before: 0,
            stamped: None,
            tally: Tally::default(),
        }
    }

    /// Has each body begin with the nanoseconds from `epoch` to its scheduled moment.
    pub(super) fn stamped_from(mut self, epoch: Instant) -> Sender {
        self.stamped = Some(epoch);
        self
    }

    /// Starts on new work.
    pub(super) fn begin(&mut self, work: Arc<Work>) {
        self.work = Some(work);
        self.begun = Instant::now();
        self.sent_before = self.sent;
    }

    /// How long a sender of a high rate waits at least, so that it measures the server and not its own timer.
    fn breath(&self) -> Duration {
        Duration::from_micros(if self.pace > 20_000.0 { 200 } else { 0 })
    }

    /// When the n-th request from now on is due.
    fn due(&self, ahead: u64) -> Instant {
        let requests = (self.sent + ahead - self.sent_before) as f64;
        self.begun + Duration::from_secs_f64(requests * self.ring.batch as f64 / self.pace)
    }
}

impl Load for Sender {
    fn next(&mut self, now: Instant) -> Next {
        let Some(work) = &self.work else { return Next::Done };
        self.committing.clear();
        if !self.commits.is_empty() {
            std::mem::swap(&mut self.commits, &mut self.committing);
            return Next::Run;
        }
        let idle = self.sent == self.answered;
        let mut room = self.in_flight - (self.sent - self.answered);
        if room < self.in_flight.div_ceil(4) && self.pace == 0.0 {
            return Next::Answer; // a quarter at a time: fewer and longer writes
        }
        if self.pace > 0.0 {
            let mut ready = 0;
            while ready < room.min(self.ring.slots as u64) && self.due(ready) <= now {
                ready += 1;
            }
            if ready == 0 {
                if room == 0 {
                    return Next::Answer; // behind the schedule: what is due waits for room
                }
                return match (work.is_over(now), idle) {
                    (true, true) => Next::Done,
                    (true, false) => Next::Answer,
                    (false, _) => Next::Later(self.due(0).max(now + self.breath())),
                };
            }
            room = ready;
        }
        let batch = self.ring.batch;
        let wanted = room.min(self.ring.slots as u64);
        let took = work.take(wanted * batch, now);
        let count = took.div_ceil(batch) as usize;
        if count == 0 {
            return if idle { Next::Done } else { Next::Answer };
        }
        let first = self.sent;
        let opaque =
            |slot: usize| OPAQUE_BASE + ((first + slot as u64) % u64::from(OPAQUE_SPAN)) as i32;
        let prepared = self.ring.prepare(count, opaque);
        debug_assert_eq!(prepared, count, "a run fits the ring");
        let mask = self.sent_at.len() - 1;
        for slot in 0..count {
            let at = if self.pace > 0.0 { self.due(slot as u64) } else { now };
            self.sent_at[(first as usize + slot) & mask] = at;
            if let Some(epoch) = self.stamped {
                self.ring.stamp(slot, u64::try_from((at - epoch).as_nanos()).unwrap_or(0));
            }
        }
        self.sent += count as u64;
        self.run_len = count * self.ring.frame_len;
        Next::Run
    }

    fn run(&self) -> &[u8] {
        match self.committing.is_empty() {
            true => &self.ring.frames[..self.run_len],
            false => &self.committing,
        }
    }

    fn answer(&mut self, answer: &Answer<'_>, now: Instant) {
        if answer.opaque < OPAQUE_BASE {
            return; // a request of the server's own
        }
        self.answered += 1;
        let mask = self.sent_at.len() - 1;
        let number = (answer.opaque - OPAQUE_BASE) as usize;
        self.tally.took(now.saturating_duration_since(self.sent_at[number & mask]));
        if self.tally.count(answer.code, answer.header) {
            self.tally.messages += self.ring.batch;
            self.tally.bytes += self.ring.body_bytes;
            if let Some(commit) = &mut self.ring.commit
                && let Some(log_offset) = log_offset(answer.header)
                && let Some(queue_offset) = field(answer.header, "queueOffset")
            {
                commit.log_offset.write(&mut commit.frame, log_offset);
                commit.queue_offset.write(&mut commit.frame, queue_offset.unsigned_abs());
                self.commits.extend_from_slice(&commit.frame);
            }
            if let Some(work) = &self.work {
                work.add_done(self.ring.batch);
            }
        }
    }
}
