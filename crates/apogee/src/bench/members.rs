//! `apogee bench members`: consumers that come, stay and look round, without messages.
//!
//! Each has a connection of its own, as a client process has. What they do is what real ones do besides pulling: a
//! heartbeat when they join and every half minute, and the ids of their group at every rebalance, which is the answer that
//! grows with the group.

use std::{iter, sync::Arc};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use tokio::{task::JoinSet, time::Instant};
use wire::{
    body::client::{ConsumerData, HeartbeatData, SubscriptionData},
    fastjson, names,
};

use super::{
    Target, Work,
    control::Control,
    report::{Line, Tally, measure},
};

const HEART_BEAT: i32 = 34;
const GET_CONSUMER_LIST_BY_GROUP: i32 = 38;

/// Flags of `bench members`; `--connections` is how many of them ask at once.
#[derive(Debug, Args)]
pub(crate) struct Members {
    #[command(flatten)]
    pub(super) target: Target,
    /// Consumers.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    members: u32,
    /// Consumer groups that they share out among them.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    groups: u32,
    /// What is measured; before heartbeats and lists all have joined.
    #[arg(long, value_enum, default_value_t = What::Heartbeat)]
    what: What,
    /// How often each of them does it.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

/// What members do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// The first heartbeat: the group has a new member, and the others are told.
    Join,
    /// A heartbeat of one who is known.
    Heartbeat,
    /// Asks for the ids of the group's members.
    List,
}

struct Member {
    control: Control,
    group: String,
    heartbeat: Vec<u8>,
}

/// Members that go one after the other.
#[derive(Default)]
struct Crew {
    members: Vec<Member>,
    tally: Tally,
}

impl Members {
    pub(super) async fn run(self) -> Result<()> {
        if self.groups > self.members {
            bail!("--groups: a group without a member is not there; take no more than --members");
        }
        if self.what == What::Join && self.rounds > 1 {
            bail!("--rounds: a member joins once");
        }
        let brokers = self.target.brokers().await?;
        let create_us = self.target.create_topics(&brokers[..1]).await?;
        let mut crews: Vec<Crew> = iter::repeat_with(Crew::default)
            .take(self.target.connections.min(self.members) as usize)
            .collect();
        for at in 0..self.members {
            let control = Control::connect(&brokers[0], self.target.codec).await?;
            let crew = at as usize % crews.len();
            crews[crew].members.push(self.member(at, control));
        }
        if self.what != What::Join {
            let joined = self.pass(crews, What::Join, 1).await?;
            crews =
                joined.into_iter().map(|crew| Crew { tally: Tally::default(), ..crew }).collect();
        }
        let total = u64::from(self.members) * u64::from(self.rounds);
        let work = Arc::new(Work::new(total, None));
        let run = self.pass(crews, self.what, self.rounds);
        let measured = measure(&self.target.pid, &work, run).await?;
        let mut sum = Tally::default();
        measured.output.iter().for_each(|crew| sum.add(&crew.tally));
        let told: u64 =
            measured.output.iter().flat_map(|crew| &crew.members).map(|m| m.control.told).sum();
        let mut line = Line::default();
        line.pair("op", "members").pair("what", format!("{:?}", self.what).to_lowercase());
        line.pair("members", self.members).pair("groups", self.groups);
        if let Some(create_us) = create_us {
            line.pair("create_topic_us", format_args!("{create_us:.1}"));
        }
        line.pair("told", told).run(&self.target.pid, &measured, &sum);
        line.percentiles("", &sum.latency).print();
        Ok(())
    }

    fn member(&self, at: u32, control: Control) -> Member {
        let group = format!("{}-group-{:05}", self.target.topic, at % self.groups);
        let retry = names::retry_topic(&group);
        let topics = [self.target.topic_name(0), retry];
        let data = ConsumerData {
            group_name: group.clone(),
            subscription_data_set: topics
                .iter()
                .filter_map(|topic| SubscriptionData::parse(topic, "*", SubscriptionData::TAG))
                .collect(),
            ..ConsumerData::default()
        };
        let heartbeat = fastjson::encode(&HeartbeatData {
            client_id: format!("127.0.0.1@{}#{at:012}", std::process::id()),
            consumer_data_set: vec![data],
            ..HeartbeatData::default()
        });
        Member { control, group, heartbeat }
    }

    /// Has every member do it so many times; the crews work side by side.
    async fn pass(&self, crews: Vec<Crew>, what: What, rounds: u32) -> Result<Vec<Crew>> {
        let mut running = JoinSet::new();
        for crew in crews {
            running.spawn(crew.work(what, rounds));
        }
        let mut crews = Vec::new();
        while let Some(crew) = running.join_next().await {
            crews.push(crew??);
        }
        Ok(crews)
    }
}

impl Crew {
    async fn work(mut self, what: What, rounds: u32) -> Result<Crew> {
        for _ in 0..rounds {
            for member in &mut self.members {
                let begun = Instant::now();
                let reply = match what {
                    What::Join | What::Heartbeat => {
                        member.control.ask(HEART_BEAT, &[], &member.heartbeat).await?
                    }
                    What::List => {
                        let fields = [("consumerGroup", member.group.as_str())];
                        member.control.ask(GET_CONSUMER_LIST_BY_GROUP, &fields, &[]).await?
                    }
                };
                if self.tally.count(reply.code, &reply.header) {
                    self.tally.messages += 1;
                    self.tally.bytes += reply.body.len() as u64;
                }
                self.tally.took(begun.elapsed());
            }
        }
        Ok(self)
    }
}
