//! Transactions against a model, over restarts and crashes of process and machine.
//!
//! The model knows what each producer was promised. Whatever generation of a half record an end names: a committed key
//! has one final message, a rolled-back one none, an end is repeated but never reversed, and checks come to an end.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use broker::{Release, Session, api::*};
use env::sim::Crash;
use proptest::prelude::*;
use wire::{body::topic::TopicConfig, names::TRANS_CHECK_MAX_TIME_TOPIC};

use crate::{
    transaction::{Place, asked, bodies, end, half, place, producer},
    world::{Client, World},
};

#[derive(Debug, Clone)]
enum Step {
    /// Sends a half message; a known key is sent again.
    Send(usize),
    /// Ends a key by one of the records that its producer has heard of.
    End {
        key: usize,
        record: usize,
        verdict: Verdict,
    },
    /// Lets time pass; whether each check is answered is up to later steps.
    Pass(u64),
    Come,
    Go,
    Restart,
    /// Ends the process, or the machine once everything is synced.
    Crash(Crash),
    /// Ends the machine at once: what was promised to outlive a process may be gone.
    PowerCut,
    /// Sets the clock by so many seconds.
    Jump(i64),
}

fn step() -> impl Strategy<Value = Step> {
    let verdict = prop_oneof![Just(Verdict::Commit), Just(Verdict::Rollback)];
    prop_oneof![
        6 => (0..12usize).prop_map(Step::Send),
        6 => (0..12usize, 0..4usize, verdict)
            .prop_map(|(key, record, verdict)| Step::End { key, record, verdict }),
        4 => prop_oneof![Just(1), Just(5), Just(31)].prop_map(Step::Pass),
        1 => Just(Step::Come),
        1 => Just(Step::Go),
        1 => Just(Step::Restart),
        2 => prop_oneof![Just(Crash::Process), Just(Crash::Power)].prop_map(Step::Crash),
        1 => Just(Step::PowerCut),
        1 => (-100..100i64).prop_map(Step::Jump),
    ]
}

/// What the model knows of a key.
#[derive(Default)]
struct Known {
    /// Records that its producer has heard of.
    places: Vec<Place>,
    /// How it has ended, as was promised to hold over any crash.
    end: Option<Verdict>,
}

struct Model {
    world: World,
    client: Arc<Client>,
    session: Option<Session>,
    /// Counts power cuts; the keys of an earlier life are not used again.
    life: usize,
    /// What was delivered in earlier lives.
    delivered: Vec<String>,
    keys: BTreeMap<usize, Known>,
    checks_max: usize,
    checks: BTreeMap<usize, usize>,
}

impl Model {
    fn new(per_message: bool, cold_percent: u8) -> Model {
        let checks_max = 3;
        let world = World::with(|options| {
            options.transaction_check_max = checks_max as u32;
            if per_message {
                options.store_readable_by = Release::V4_9_7;
            }
            options.transaction_op_msg_max_size = 10;
        });
        world.disk.set_cold_percent(cold_percent);
        // A topic that was created just before a power cut would be forgotten, and could not be read.
        let topic = TopicConfig { topic_name: "t".to_owned(), ..TopicConfig::default() };
        world.broker.create_topics(vec![topic]).expect("a new topic");
        world.pass(Duration::from_secs(1));
        Model {
            world,
            client: Client::new(1),
            session: None,
            life: 0,
            delivered: Vec::new(),
            keys: BTreeMap::new(),
            checks_max,
            checks: BTreeMap::new(),
        }
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Send(key) => {
                let receipt = self.world.send(half(&self.name(key))).expect("taken");
                self.keys.entry(key).or_default().places.push(place(&receipt));
                self.checks.remove(&key);
            }
            Step::End { key, record, verdict } => {
                let Some(known) = self.keys.get_mut(&key) else { return };
                // The latest, or one from long ago.
                let at = known.places[known.places.len().saturating_sub(1 + record)];
                let ended = end(&self.world, at, verdict);
                match known.end {
                    Some(before) if before != verdict => {
                        assert_eq!(ended, Err(EndError::Contradicts { before }), "key {key}");
                    }
                    Some(_) | None => {
                        ended.unwrap_or_else(|error| panic!("key {key}: {error}"));
                        known.end = Some(verdict);
                    }
                }
            }
            Step::Pass(seconds) => {
                self.world.pass(Duration::from_secs(seconds));
                self.world.pass(Duration::ZERO);
            }
            Step::Come => {
                // One client cannot be there twice: the old session takes it out when it ends.
                self.session = None;
                self.session = Some(producer(&self.world, &self.client));
            }
            Step::Go => self.session = None,
            Step::Restart => {
                self.session = None;
                self.change(World::restart);
            }
            Step::PowerCut => {
                self.session = None;
                let expected = self.expected();
                self.change(|world| world.crash(Crash::Power));
                self.delivered = self.delivered();
                let is_new = |pair: &[String]| pair[0] != pair[1];
                assert!(self.delivered.windows(2).all(is_new), "{:?}", self.delivered);
                assert!(self.delivered.iter().all(|name| expected.contains(name)));
                self.keys.clear();
                self.checks.clear();
                self.life += 1;
            }
            Step::Jump(seconds) => self.world.clock.jump(seconds * 1_000),
            Step::Crash(crash) => {
                self.session = None;
                self.change(|world| {
                    if crash == Crash::Power {
                        // What is promised is what is on the device: let whoever syncs do so.
                        world.pass(Duration::from_secs(1));
                    }
                    world.crash(crash)
                });
            }
        }
        self.hear();
        self.check();
    }

    fn change(&mut self, change: impl FnOnce(World) -> World) {
        let placeholder = World::new();
        let world = std::mem::replace(&mut self.world, placeholder);
        self.world = change(world);
    }

    /// Takes the checks that have arrived.
    fn hear(&mut self) {
        for check in asked(&self.client) {
            let (life, key) = check.unique_key.split_once('.').expect("a name");
            let [life, key]: [usize; 2] = [life, key].map(|text| text.parse().expect("a number"));
            if life != self.life {
                continue;
            }
            let known = self.keys.get_mut(&key).expect("only what was sent");
            assert_eq!(known.end, None, "key {key} has ended");
            known.places.push((check.log_offset as i64, check.queue_offset));
            let checks = self.checks.entry(key).or_default();
            *checks += 1;
            assert!(*checks <= self.checks_max, "key {key} is asked for ever");
        }
    }

    fn check(&self) {
        assert_eq!(self.delivered(), self.expected());
    }

    fn name(&self, key: usize) -> String {
        format!("{}.{key}", self.life)
    }

    fn delivered(&self) -> Vec<String> {
        let mut delivered = bodies(&self.world, "t");
        delivered.sort();
        delivered
    }

    fn expected(&self) -> Vec<String> {
        let committed = self.keys.iter().filter(|(_, known)| known.end == Some(Verdict::Commit));
        let mut expected: Vec<String> = committed.map(|(key, _)| self.name(*key)).collect();
        expected.extend(self.delivered.iter().cloned());
        expected.sort();
        expected
    }

    /// With a producer that never knows, every key that has not ended is given up after its checks.
    fn settle(mut self) {
        self.run(Step::Come);
        // A clock that was set back makes some wait for longer.
        for _ in 0..self.checks_max + 10 {
            self.run(Step::Pass(31));
        }
        let given_up = bodies(&self.world, TRANS_CHECK_MAX_TIME_TOPIC);
        for (key, known) in &self.keys {
            assert!(
                known.end.is_some() || given_up.contains(&self.name(*key)),
                "key {key} neither ended nor was given up"
            );
        }
        for (key, verdict) in (0..12).zip([Verdict::Commit, Verdict::Rollback].into_iter().cycle())
        {
            self.run(Step::End { key, record: 3, verdict });
        }
    }
}

/// `APOGEE_SEEDS=<n>` runs so many lives.
fn cases() -> u32 {
    std::env::var("APOGEE_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(200)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn a_key_ends_once_whatever_happens(
        per_message: bool,
        cold_percent in 0..30u8,
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut model = Model::new(per_message, cold_percent);
        for step in steps {
            model.run(step);
        }
        model.settle();
    }
}
