//! `apogee bench pull`: reads a backlog, one request in flight for each queue.
//!
//! Bodies are not kept: of each record only its length, its queue offset and, for `bench latency`, the stamp at the
//! front of its body are read. Offsets must follow one another; a gap or a repetition is counted as out of order.

use std::sync::Arc;

use anyhow::{Result, bail};
use clap::Args;
use tokio::{
    task::JoinSet,
    time::{Duration, Instant},
};

use super::{
    Target, Work,
    control::{Control, LOCK_BATCH_MQ, lock_body},
    pipe::{Load, Next, Pipe},
    report::{Line, Tally, measure},
    scan::{Answer, field},
    template::{OPAQUE_BASE, Place, Template, request},
};

const PULL_MESSAGE: i32 = 11;
const SYSTEM_BUSY: i32 = 2;
const PULL_NOT_FOUND: i32 = 19;
const PULL_RETRY_IMMEDIATELY: i32 = 20;
const PULL_OFFSET_MOVED: i32 = 21;

/// Bits of a pull's `sysFlag`.
const FLAG_COMMIT: u32 = 1;
const FLAG_SUSPEND: u32 = 2;
const FLAG_SUBSCRIPTION: u32 = 4;

/// Flags of `bench pull`.
#[derive(Debug, Args)]
pub(crate) struct Pull {
    #[command(flatten)]
    pub(super) target: Target,
    /// Ends after so many messages, reading the backlog again as often as needed; once through it by default.
    #[arg(long)]
    pub(super) messages: Option<u64>,
    /// Ends after so many seconds, reading the backlog again as often as needed.
    #[arg(long)]
    seconds: Option<u64>,
    /// Messages before the measurement begins.
    #[arg(long, default_value_t = 0)]
    pub(super) warmup: u64,
    /// Messages asked for in one request.
    #[arg(long, default_value_t = 32)]
    pub(super) max: u32,
    /// Consumer group.
    #[arg(long, default_value = "apogee-bench")]
    pub(super) group: String,
    /// Tags, as in a subscription.
    #[arg(long, default_value = "*")]
    pub(super) tags: String,
    /// First offset in each queue; where the queue begins by default.
    #[arg(long)]
    from: Option<i64>,
    /// A condition, which the group registers as push consumers do; counted is every message that it is asked of.
    #[arg(long, conflicts_with = "tags")]
    sql: Option<String>,
    /// Holds the locks of all queues, renewed each second, and commits with each pull, as orderly consumers do.
    #[arg(long)]
    orderly: bool,
    /// Reads through a push consumer of `apogee-client`, in a group of its own; once through the backlog at most.
    #[arg(long, conflicts_with_all = [
        "seconds", "from", "sql", "orderly", "topics", "queues", "connections", "codec",
    ])]
    client: bool,
}

impl Pull {
    pub(super) async fn run(self) -> Result<()> {
        if self.client {
            return super::client::pull(&self).await;
        }
        let Target { connections, queues, topics, codec, .. } = self.target;
        let again = self.messages.is_some() || self.seconds.is_some();
        let brokers = self.target.brokers().await?;
        let mut readers = Vec::new();
        for at in 0..connections {
            let broker = &brokers[at as usize % brokers.len()];
            let mut reader = Reader::new(again, None);
            reader.counts_passed = self.sql.is_some();
            readers.push((Pipe::connect(broker).await?, reader));
        }
        let (mut backlog, mut members) = (0, Vec::new());
        for (broker_at, broker) in brokers.iter().enumerate() {
            let mut control = Control::connect(broker, codec).await?;
            if self.orderly || self.sql.is_some() {
                let (kind, expression) = match &self.sql {
                    Some(sql) => ("SQL92", sql),
                    None => ("TAG", &self.tags),
                };
                for topic in (0..topics).map(|at| self.target.topic_name(at)) {
                    control.join(&self.group, &topic, kind, expression).await?;
                    if self.orderly {
                        control.lock(&self.group, &topic, queues).await?;
                    }
                }
            }
            for at in 0..topics * queues {
                let (topic, queue) = (self.target.topic_name(at % topics), at / topics);
                let (min, max) = control.offsets(&topic, queue).await?;
                let from = self.from.map_or(min, |from| from.clamp(min, max));
                backlog += max - from;
                if max > from {
                    let ask = Ask {
                        group: &self.group,
                        topic: &topic,
                        queue,
                        max: self.max,
                        tags: self.sql.is_none().then_some(&*self.tags),
                        wait: false,
                        orderly: self.orderly,
                    };
                    // a broker's queues go to that broker's connections in turn
                    let own = (connections as usize - broker_at).div_ceil(brokers.len()).max(1);
                    let reader = broker_at + (at as usize % own) * brokers.len();
                    let Some((_, reader)) = readers.get_mut(reader) else {
                        bail!("fewer connections than brokers")
                    };
                    reader.add(codec, &ask, from, max);
                }
            }
            // it stays a member while its connection is open
            members.push(control);
        }
        if backlog == 0 {
            bail!("there is nothing to read: `apogee bench produce` first");
        }
        if self.warmup > 0 {
            let work = Arc::new(Work::new(self.warmup, None));
            readers = drive(readers, &work).await?;
            readers.iter_mut().for_each(|(_, reader)| reader.tally = Tally::default());
        }
        let total = self.messages.unwrap_or(if again { u64::MAX } else { backlog as u64 });
        let until = self.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        let work = Arc::new(Work::new(total, until));
        let measured = measure(&self.target.pid, &work, drive(readers, &work)).await?;
        let mut tally = Tally::default();
        let mut out_of_order = 0;
        for (_, reader) in measured.output.iter() {
            out_of_order += reader.out_of_order;
            tally.add(&reader.tally);
        }
        let mut line = Line::default();
        line.pair("op", "pull").pair("codec", format_args!("{codec:?}").to_string().to_lowercase());
        line.pair("max", self.max)
            .pair("connections", connections)
            .pair("topics", topics)
            .pair("queues", queues);
        line.pair("backlog", backlog).pair("out_of_order", out_of_order);
        line.run(&self.target.pid, &measured, &tally).percentiles("", &tally.latency).print();
        Ok(())
    }
}

/// Runs all readers until the work is done.
pub(super) async fn drive(
    readers: Vec<(Pipe, Reader)>,
    work: &Arc<Work>,
) -> Result<Vec<(Pipe, Reader)>> {
    let mut tasks = JoinSet::new();
    for (mut pipe, mut reader) in readers {
        reader.begin(Arc::clone(work));
        tasks.spawn(async move {
            pipe.drive(&mut reader).await?;
            anyhow::Ok((pipe, reader))
        });
    }
    let mut done = Vec::new();
    while let Some(task) = tasks.join_next().await {
        done.push(task??);
    }
    Ok(done)
}

/// What a pull asks for.
pub(super) struct Ask<'a> {
    pub(super) group: &'a str,
    pub(super) topic: &'a str,
    pub(super) queue: u32,
    pub(super) max: u32,
    /// The subscription; `None` for the one that the group has registered.
    pub(super) tags: Option<&'a str>,
    /// Whether the broker holds the request until there is a message.
    pub(super) wait: bool,
    /// Whether each pull commits what came before it, and the lock of the queue is renewed.
    pub(super) orderly: bool,
}

/// A queue being read: its request and how far it is.
#[derive(Debug)]
struct Cursor {
    template: Template,
    offset_place: Place,
    /// Where the offset to commit stands, and the request that renews the lock.
    orderly: Option<(Place, Vec<u8>)>,
    from: i64,
    next: i64,
    end: i64,
    asked_at: Instant,
}

/// Offsets are written with this width; zeros in front are valid to every server.
const OFFSET: &str = "987654012345678";
const COMMIT: &str = "876540123456789";
/// How often orderly consumers of ours renew their locks; others do it each 20 s.
const RENEWAL: Duration = Duration::from_secs(1);

/// What a reader finds out of timer messages, whose bodies begin with the time that they were due at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Punctuality {
    /// Messages that were stored before they were due.
    pub(super) early: u64,
    /// When the first and the last were stored, ms since the epoch.
    pub(super) first: u64,
    pub(super) last: u64,
}

/// The queues that one connection reads.
#[derive(Debug)]
pub(super) struct Reader {
    cursors: Vec<Cursor>,
    /// Queues whose next request may go out.
    ready: Vec<u32>,
    in_flight: usize,
    again: bool,
    /// Bodies begin with nanoseconds since this moment; latency is then counted from sender to here.
    epoch: Option<Instant>,
    /// Latency is then counted from when a message was due to when it was stored.
    pub(super) punctuality: Option<Punctuality>,
    /// Log offsets of the messages, if they are wanted.
    pub(super) log_offsets: Option<Vec<u64>>,
    /// Whether messages that a filter keeps back count as well.
    counts_passed: bool,
    renew_at: Instant,
    out: Vec<u8>,
    work: Option<Arc<Work>>,
    pub(super) tally: Tally,
    /// Records whose offset did not follow the one before.
    pub(super) out_of_order: u64,
}

impl Reader {
    /// A reader without queues yet.
    pub(super) fn new(again: bool, epoch: Option<Instant>) -> Reader {
        Reader {
            cursors: Vec::new(),
            ready: Vec::new(),
            in_flight: 0,
            again,
            epoch,
            punctuality: None,
            log_offsets: None,
            counts_passed: false,
            renew_at: Instant::now() + RENEWAL,
            out: Vec::new(),
            work: None,
            tally: Tally::default(),
            out_of_order: 0,
        }
    }

    /// Adds a queue, read from offset `from` up to `end`.
    pub(super) fn add(
        &mut self,
        codec: super::template::Codec,
        ask: &Ask<'_>,
        from: i64,
        end: i64,
    ) {
        let flag = |is_set, flag| if is_set { flag } else { 0 };
        let flags = flag(ask.tags.is_some(), FLAG_SUBSCRIPTION)
            | flag(ask.wait, FLAG_SUSPEND)
            | flag(ask.orderly, FLAG_COMMIT);
        let mut template = Template::new(
            codec,
            PULL_MESSAGE,
            &[
                ("consumerGroup", ask.group),
                ("topic", ask.topic),
                ("queueId", &ask.queue.to_string()),
                ("queueOffset", OFFSET),
                ("maxMsgNums", &ask.max.to_string()),
                ("sysFlag", &flags.to_string()),
                ("commitOffset", COMMIT),
                ("suspendTimeoutMillis", if ask.wait { "15000" } else { "0" }),
                ("subscription", ask.tags.unwrap_or_default()),
                ("subVersion", "0"),
                ("expressionType", "TAG"),
            ],
            &[],
        );
        let offset_place = Place::of(&template.bytes, OFFSET, 8);
        let commit_place = Place::of(&template.bytes, COMMIT, 8);
        commit_place.write(&mut template.bytes, 0);
        let orderly = ask.orderly.then(|| {
            let body = lock_body(ask.group, ask.topic, ask.queue..ask.queue + 1);
            (commit_place, request(codec, LOCK_BATCH_MQ, 1, &[], &body))
        });
        self.ready.push(self.cursors.len() as u32);
        self.cursors.push(Cursor {
            template,
            offset_place,
            orderly,
            from,
            next: from,
            end,
            asked_at: Instant::now(),
        });
    }

    /// Starts on new work, from the front of each queue.
    pub(super) fn begin(&mut self, work: Arc<Work>) {
        self.work = Some(work);
        self.ready = (0..self.cursors.len() as u32).collect();
        for cursor in &mut self.cursors {
            cursor.next = cursor.from;
        }
    }

    /// Reads the records of a body: how many, and where the queue goes on.
    fn records(&mut self, at: usize, body: &[u8], now: Instant) {
        let mut rest = body;
        let cursor = &mut self.cursors[at];
        while let Some(len) = number::<4>(rest, 0) {
            let Some((record, after)) = rest.split_at_checked(len as usize) else { break };
            let Some(offset) = number::<8>(record, 20) else { break };
            self.out_of_order += u64::from(offset as i64 != cursor.next && !self.counts_passed);
            cursor.next = offset as i64 + 1;
            self.tally.messages += u64::from(!self.counts_passed);
            if let Some(found) = &mut self.punctuality
                && let (Some(due), Some(stored)) = (body_stamp(record), stored_at(record))
            {
                found.early += u64::from(stored < due);
                found.first = found.first.min(stored);
                found.last = found.last.max(stored);
                self.tally.took(Duration::from_millis(stored.saturating_sub(due)));
            }
            if let (Some(all), Some(at)) = (&mut self.log_offsets, number::<8>(record, 28)) {
                all.push(at);
            }
            if let Some(epoch) = self.epoch
                && let Some(stamp) = body_stamp(record)
            {
                self.tally.took(now.saturating_duration_since(epoch + Duration::from_nanos(stamp)));
            }
            rest = after;
        }
    }
}

/// A big-endian number of `N` bytes.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes: &[u8; N] = bytes.get(at..)?.first_chunk()?;
    Some(bytes.iter().fold(0, |value, byte| (value << 8) | u64::from(*byte)))
}

/// When a record was stored; its host of birth has 8 bytes, or 20 when it is IPv6.
fn stored_at(record: &[u8]) -> Option<u64> {
    let is_v6 = number::<4>(record, 36)? & (1 << 4) != 0;
    number::<8>(record, if is_v6 { 68 } else { 56 })
}

/// The first eight bytes of a record's body; hosts have 8 bytes, or 20 when they are IPv6.
fn body_stamp(record: &[u8]) -> Option<u64> {
    const BORN_HOST_V6: u64 = 1 << 4;
    const STORE_HOST_V6: u64 = 1 << 5;
    let flags = number::<4>(record, 36)?;
    let longer = |bit: u64| if flags & bit == 0 { 0 } else { 12 };
    number::<8>(record, 88 + longer(BORN_HOST_V6) + longer(STORE_HOST_V6))
}

impl Load for Reader {
    fn next(&mut self, now: Instant) -> Next {
        let Some(work) = &self.work else { return Next::Done };
        let over =
            work.is_over(now) || work.done.load(std::sync::atomic::Ordering::Relaxed) >= work.total;
        if over || self.ready.is_empty() {
            if self.epoch.is_some() {
                // long polls stay out when the work is over
                return if over {
                    Next::Done
                } else {
                    Next::Later(now + Duration::from_millis(20))
                };
            }
            return if self.in_flight == 0 { Next::Done } else { Next::Answer };
        }
        self.out.clear();
        if now >= self.renew_at {
            self.renew_at = now + RENEWAL;
            let locks = self.cursors.iter().filter_map(|cursor| cursor.orderly.as_ref());
            locks.for_each(|(_, lock)| self.out.extend_from_slice(lock));
        }
        for at in self.ready.drain(..) {
            let cursor = &mut self.cursors[at as usize];
            let frame = &mut cursor.template.bytes;
            if let Some((commit, _)) = &cursor.orderly {
                commit.write(frame, cursor.next.max(0) as u64);
            }
            cursor.template.opaque.write(frame, OPAQUE_BASE + at as i32);
            cursor.offset_place.write(frame, cursor.next.max(0) as u64);
            cursor.asked_at = now;
            self.in_flight += 1;
            self.out.extend_from_slice(frame);
        }
        Next::Run
    }

    fn run(&self) -> &[u8] {
        &self.out
    }

    fn answer(&mut self, answer: &Answer<'_>, now: Instant) {
        let at = answer.opaque.wrapping_sub(OPAQUE_BASE) as u32;
        if answer.opaque < OPAQUE_BASE || at as usize >= self.cursors.len() {
            return; // a request of the server's own
        }
        self.in_flight -= 1;
        let (before, next_before) = (self.tally.messages, self.cursors[at as usize].next);
        match answer.code {
            0 => {
                self.tally.requests += 1;
                self.records(at as usize, answer.body, now);
                self.tally.bytes += answer.body.len() as u64;
                if self.epoch.is_none() && self.punctuality.is_none() {
                    let asked_at = self.cursors[at as usize].asked_at;
                    self.tally.took(now.saturating_duration_since(asked_at));
                }
            }
            PULL_NOT_FOUND | PULL_RETRY_IMMEDIATELY | PULL_OFFSET_MOVED => {}
            code => {
                self.tally.count(code, answer.header);
            }
        }
        let cursor = &mut self.cursors[at as usize];
        if matches!(answer.code, 0 | PULL_RETRY_IMMEDIATELY | PULL_OFFSET_MOVED)
            && let Some(next) = field(answer.header, "nextBeginOffset")
        {
            cursor.next = next;
        }
        if self.counts_passed {
            self.tally.messages += (cursor.next - next_before).max(0) as u64;
        }
        let ended =
            cursor.next >= cursor.end || (answer.code == PULL_NOT_FOUND && self.epoch.is_none());
        if ended && self.again {
            cursor.next = cursor.from;
        }
        let failed = !matches!(
            answer.code,
            0 | SYSTEM_BUSY | PULL_NOT_FOUND | PULL_RETRY_IMMEDIATELY | PULL_OFFSET_MOVED
        );
        if !failed && (self.again || !ended) {
            self.ready.push(at);
        }
        if let Some(work) = &self.work {
            work.add_done(self.tally.messages - before);
        }
    }
}
