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
    control::Control,
    pipe::{Load, Next, Pipe},
    report::{Line, Tally, measure},
    scan::{Answer, field},
    template::{OPAQUE_BASE, Place, Template},
};

const PULL_MESSAGE: i32 = 11;
const SYSTEM_BUSY: i32 = 2;
const PULL_NOT_FOUND: i32 = 19;
const PULL_RETRY_IMMEDIATELY: i32 = 20;
const PULL_OFFSET_MOVED: i32 = 21;

/// Bits of a pull's `sysFlag`.
const FLAG_SUSPEND: u32 = 2;
const FLAG_SUBSCRIPTION: u32 = 4;

/// Flags of `bench pull`.
#[derive(Debug, Args)]
pub(crate) struct Pull {
    #[command(flatten)]
    pub(super) target: Target,
    /// Ends after so many messages, reading the backlog again as often as needed; once through it by default.
    #[arg(long)]
    messages: Option<u64>,
    /// Ends after so many seconds, reading the backlog again as often as needed.
    #[arg(long)]
    seconds: Option<u64>,
    /// Messages before the measurement begins.
    #[arg(long, default_value_t = 0)]
    warmup: u64,
    /// Messages asked for in one request.
    #[arg(long, default_value_t = 32)]
    max: u32,
    /// Consumer group.
    #[arg(long, default_value = "apogee-bench")]
    group: String,
    /// Tags, as in a subscription.
    #[arg(long, default_value = "*")]
    tags: String,
    /// First offset in each queue; where the queue begins by default.
    #[arg(long)]
    from: Option<i64>,
}

impl Pull {
    pub(super) async fn run(self) -> Result<()> {
        let Target { connections, queues, topics, codec, .. } = self.target;
        let again = self.messages.is_some() || self.seconds.is_some();
        let brokers = self.target.brokers().await?;
        let mut readers = Vec::new();
        for at in 0..connections {
            let broker = &brokers[at as usize % brokers.len()];
            readers.push((Pipe::connect(broker).await?, Reader::new(again, None)));
        }
        let mut backlog = 0;
        for (broker_at, broker) in brokers.iter().enumerate() {
            let mut control = Control::connect(broker, codec).await?;
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
                        tags: &self.tags,
                        wait: false,
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
async fn drive(readers: Vec<(Pipe, Reader)>, work: &Arc<Work>) -> Result<Vec<(Pipe, Reader)>> {
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
    pub(super) tags: &'a str,
    /// Whether the broker holds the request until there is a message.
    pub(super) wait: bool,
}

/// A queue being read: its request and how far it is.
#[derive(Debug)]
struct Cursor {
    template: Template,
    offset_place: Place,
    from: i64,
    next: i64,
    end: i64,
    asked_at: Instant,
}

/// Offsets are written with this width; zeros in front are valid to every server.
const OFFSET: &str = "987654012345678";

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
        let flags = FLAG_SUBSCRIPTION | if ask.wait { FLAG_SUSPEND } else { 0 };
        let template = Template::new(
            codec,
            PULL_MESSAGE,
            &[
                ("consumerGroup", ask.group),
                ("topic", ask.topic),
                ("queueId", &ask.queue.to_string()),
                ("queueOffset", OFFSET),
                ("maxMsgNums", &ask.max.to_string()),
                ("sysFlag", &flags.to_string()),
                ("commitOffset", "0"),
                ("suspendTimeoutMillis", if ask.wait { "15000" } else { "0" }),
                ("subscription", ask.tags),
                ("subVersion", "0"),
                ("expressionType", "TAG"),
            ],
            &[],
        );
        let offset_place = Place::of(&template.bytes, OFFSET, 8);
        self.ready.push(self.cursors.len() as u32);
        self.cursors.push(Cursor {
            template,
            offset_place,
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
            self.out_of_order += u64::from(offset as i64 != cursor.next);
            cursor.next = offset as i64 + 1;
            self.tally.messages += 1;
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
        for at in self.ready.drain(..) {
            let cursor = &mut self.cursors[at as usize];
            let frame = &mut cursor.template.bytes;
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
        let before = self.tally.messages;
        match answer.code {
            0 => {
                self.tally.requests += 1;
                self.records(at as usize, answer.body, now);
                self.tally.bytes += answer.body.len() as u64;
                if self.epoch.is_none() {
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
