//! `apogee bench retry`: sends a backlog back, as a group does that cannot handle it, until it comes again.

use std::sync::Arc;

use anyhow::{Result, bail};
use clap::Args;
use tokio::time::Instant;

use super::{
    Target, Work,
    control::Control,
    pipe::{Load, Next, Pipe},
    produce::Lag,
    pull::{self, Ask, Reader},
    report::{Line, Tally, measure},
    scan::Answer,
    template::{OPAQUE_BASE, Place, Template},
};

const CONSUMER_SEND_MSG_BACK: i32 = 36;
/// How many requests lie in one run.
const RUN_MAX: usize = 64;

/// Flags of `bench retry`.
#[derive(Debug, Args)]
pub(crate) struct Retry {
    #[command(flatten)]
    pub(super) target: Target,
    /// How many messages of the backlog; all by default.
    #[arg(long)]
    messages: Option<usize>,
    /// The delay level asked for; the broker chooses when 0.
    #[arg(long, default_value_t = 1)]
    level: u32,
    /// Consumer group.
    #[arg(long, default_value = "apogee-bench-retry")]
    group: String,
    /// Requests in flight on each connection.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    in_flight: u32,
}

impl Retry {
    pub(super) async fn run(self) -> Result<()> {
        let Target { codec, topics, queues, connections, .. } = self.target;
        let brokers = self.target.brokers().await?;
        let [broker] = &brokers[..] else { bail!("--broker: one, please") };
        let mut control = Control::connect(broker, codec).await?;
        let topic = self.target.topic_name(0);
        control.join(&self.group, &topic, "TAG", "*").await?;
        let mut reader = Reader::new(false, None);
        reader.log_offsets = Some(Vec::new());
        for at in 0..topics * queues {
            let (topic, queue) = (self.target.topic_name(at % topics), at / topics);
            let (min, max) = control.offsets(&topic, queue).await?;
            let (group, tags) = (&*self.group, Some("*"));
            let ask =
                Ask { group, topic: &topic, queue, max: 32, tags, wait: false, orderly: false };
            reader.add(codec, &ask, min, max);
        }
        let all = Arc::new(Work::new(u64::MAX, None));
        let readers = pull::drive(vec![(Pipe::connect(broker).await?, reader)], &all).await?;
        let read = readers.into_iter().find_map(|(_, reader)| reader.log_offsets);
        let mut log_offsets = read.unwrap_or_default();
        log_offsets.truncate(self.messages.unwrap_or(usize::MAX));
        if log_offsets.is_empty() {
            bail!("there is nothing to send back: `apogee bench produce` first");
        }

        let again = vec![(format!("%RETRY%{}", self.group), 0)];
        let mut readable = Lag::of(&self.target, broker, again).await?;
        let share = log_offsets.len().div_ceil(connections as usize);
        let mut loads = Vec::new();
        for offsets in log_offsets.chunks(share) {
            loads.push((Pipe::connect(broker).await?, self.back(&topic, offsets.to_vec())));
        }
        let work = Arc::new(Work::new(log_offsets.len() as u64, None));
        let run = async {
            let (mut tally, mut tasks) = (Tally::default(), tokio::task::JoinSet::new());
            for (mut pipe, mut back) in loads {
                tasks.spawn(async move {
                    pipe.drive(&mut back).await?;
                    anyhow::Ok(back.tally)
                });
            }
            while let Some(task) = tasks.join_next().await {
                tally.add(&task??);
            }
            readable.wait_for(tally.messages).await?;
            Ok(tally)
        };
        let measured = measure(&self.target.pid, &work, run).await?;
        let tally = &measured.output;
        let mut line = Line::default();
        line.pair("op", "retry").pair("level", self.level);
        line.pair("connections", connections).pair("in_flight", self.in_flight);
        line.run(&self.target.pid, &measured, tally).percentiles("", &tally.latency).print();
        Ok(())
    }

    fn back(&self, topic: &str, offsets: Vec<u64>) -> Back {
        const OFFSET: &str = "7531902468753190246";
        let fields = [
            ("offset", OFFSET),
            ("group", &*self.group),
            ("delayLevel", &*self.level.to_string()),
            ("originMsgId", "bench"),
            ("originTopic", topic),
            ("unitMode", "false"),
            ("maxReconsumeTimes", "16"),
        ];
        let template = Template::new(self.target.codec, CONSUMER_SEND_MSG_BACK, &fields, &[]);
        Back {
            offset: Place::of(&template.bytes, OFFSET, 8),
            template,
            offsets,
            sent_at: Vec::new(),
            answered: 0,
            in_flight: self.in_flight as usize,
            out: Vec::new(),
            tally: Tally::default(),
        }
    }
}

/// The messages that one connection sends back.
struct Back {
    template: Template,
    offset: Place,
    offsets: Vec<u64>,
    /// When each that was sent was.
    sent_at: Vec<Instant>,
    answered: usize,
    in_flight: usize,
    out: Vec<u8>,
    tally: Tally,
}

impl Load for Back {
    fn next(&mut self, now: Instant) -> Next {
        let sent = self.sent_at.len();
        if self.answered == self.offsets.len() {
            return Next::Done;
        }
        let room = self.in_flight - (sent - self.answered);
        let until = self.offsets.len().min(sent + room.min(RUN_MAX));
        if until == sent || room < self.in_flight.div_ceil(4) {
            return Next::Answer;
        }
        self.out.clear();
        for at in sent..until {
            let frame = &mut self.template.bytes;
            self.template.opaque.write(frame, OPAQUE_BASE + at as i32);
            self.offset.write(frame, self.offsets[at]);
            self.out.extend_from_slice(frame);
            self.sent_at.push(now);
        }
        Next::Run
    }

    fn run(&self) -> &[u8] {
        &self.out
    }

    fn answer(&mut self, answer: &Answer<'_>, now: Instant) {
        let at = answer.opaque.wrapping_sub(OPAQUE_BASE);
        let Some(sent_at) = usize::try_from(at).ok().and_then(|at| self.sent_at.get(at)) else {
            return; // a request of the server's own
        };
        self.answered += 1;
        self.tally.took(now.saturating_duration_since(*sent_at));
        if self.tally.count(answer.code, answer.header) {
            self.tally.messages += 1;
        }
    }
}
