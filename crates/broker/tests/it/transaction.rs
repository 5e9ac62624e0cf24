//! Transactions: half messages, their ends, checks, and what a start makes of them.

use std::{sync::Arc, time::Duration};

use broker::{Release, Session, api::*};
use bytes::Bytes;
use env::sim::Crash;
use wire::{
    body::client::{HeartbeatData, ProducerData},
    id::OffsetId,
    names::{TRANS_CHECK_MAX_TIME_TOPIC, TRANS_HALF_TOPIC, TRANS_OP_HALF_TOPIC, system_flag},
    properties,
    record::{CheckCrc, Record},
};

use crate::world::{Client, START, World, caller, from, now, records, to};

/// A half message of group `p`.
pub(crate) fn half(key: &str) -> Publish {
    half_with(key, "")
}

fn half_with(key: &str, more: &str) -> Publish {
    let text = format!("UNIQ_KEY\u{1}{key}\u{2}TRAN_MSG\u{1}true\u{2}PGROUP\u{1}p\u{2}{more}");
    let payload = Payload::One(key.as_bytes().to_vec().into());
    Publish {
        properties: text.into(),
        payload,
        sys_flag: system_flag::TRANSACTION_PREPARED,
        ..to("t")
    }
}

/// Where a half record lies.
pub(crate) type Place = (i64, i64);

pub(crate) fn place(receipt: &Receipt) -> Place {
    (receipt.log_offsets[0] as i64, receipt.queue_offset)
}

pub(crate) fn end(world: &World, place: Place, verdict: Verdict) -> Result<Ended, EndError> {
    end_with(world, place, verdict, |_| {})
}

fn end_with(
    world: &World,
    (log_offset, queue_offset): Place,
    verdict: Verdict,
    change: impl FnOnce(&mut EndTransaction),
) -> Result<Ended, EndError> {
    let group = "p".into();
    let mut request =
        EndTransaction { group, log_offset, queue_offset, verdict, from_check: false };
    change(&mut request);
    let ended = now(world.broker.end_transaction(request));
    world.store.step_all();
    ended
}

pub(crate) fn producer(world: &World, client: &Arc<Client>) -> Session {
    let session = world.broker.connect(client.clone());
    say_hello(&session);
    session
}

fn say_hello(session: &Session) {
    let producer_data_set = vec![ProducerData { group_name: "p".into() }];
    let data =
        HeartbeatData { client_id: "c".into(), producer_data_set, ..HeartbeatData::default() };
    session.heartbeat(&caller(), data).unwrap();
}

/// What a producer was asked since the last look.
pub(crate) fn asked(client: &Client) -> Vec<Arc<TransactionCheck>> {
    let told = std::mem::take(&mut *client.told.lock().unwrap());
    let checks = told.into_iter().filter_map(|command| match command {
        ClientCommand::CheckTransaction(check) => Some(check),
        ClientCommand::ConsumersChanged { .. } | ClientCommand::OffsetsReset(_) => None,
    });
    checks.collect()
}

/// The bodies of a queue of topic `t`, or of queue 0 of another.
pub(crate) fn bodies(world: &World, topic: &str) -> Vec<String> {
    let mut bodies = Vec::new();
    let mut offset = world.broker.min_offset(topic, 0);
    while offset < world.broker.max_offset(topic, 0) {
        let pulled = world.pull(Pull { topic: topic.into(), ..from("t", offset) }).unwrap();
        bodies.extend(records(&pulled).into_iter().map(|(body, ..)| body));
        offset = pulled.next;
    }
    bodies
}

/// The properties of the last record of queue 0.
fn last_properties(world: &World, topic: &str) -> String {
    let last = world.broker.max_offset(topic, 0) - 1;
    let pulled = world.pull(Pull { topic: topic.into(), ..from("t", last) }).unwrap();
    records(&pulled).pop().unwrap().2
}

/// A table's file without white space.
fn compact(world: &World, name: &str) -> String {
    world.file(name).split_whitespace().collect()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_half_message_is_delivered_when_it_is_committed_and_not_before() {
    let world = World::new();
    let receipt = world.send(half("k")).unwrap();
    assert_eq!((receipt.queue_id, receipt.queue_offset), (0, 0), "the producer's queue");
    assert_eq!(receipt.unique_key, "k");
    world.pass(seconds(1));
    assert!(bodies(&world, "t").is_empty());
    end(&world, place(&receipt), Verdict::Commit).unwrap();
    assert_eq!(bodies(&world, "t"), ["k"]);
    let pulled = world.pull(from("t", 0)).unwrap();
    let record = Record::decode(&pulled.messages[0], CheckCrc::Yes).unwrap();
    assert_eq!(record.sys_flag, system_flag::TRANSACTION_COMMIT);
    assert_eq!(record.prepared_offset, receipt.log_offsets[0] as i64);
    assert_eq!(properties::get(&record.properties, "REAL_TOPIC"), None);
    assert_eq!(properties::get(&record.properties, "__transactionId__"), Some("k"));
}

#[test]
fn a_rolled_back_half_message_is_never_delivered() {
    let world = World::new();
    let client = Client::new(1);
    let _session = producer(&world, &client);
    let receipt = world.send(half("k")).unwrap();
    end(&world, place(&receipt), Verdict::Rollback).unwrap();
    assert_eq!(bodies(&world, TRANS_OP_HALF_TOPIC), ["0,"], "at once: it is the only proof");
    world.pass(seconds(100));
    assert!(bodies(&world, "t").is_empty() && asked(&client).is_empty());
    assert_eq!(
        end(&world, place(&receipt), Verdict::Commit),
        Err(EndError::Contradicts { before: Verdict::Rollback })
    );
    assert!(bodies(&world, "t").is_empty());
}

#[test]
fn an_end_may_be_repeated_and_not_reversed() {
    let world = World::new();
    let at = place(&world.send(half("k")).unwrap());
    for _ in 0..3 {
        end(&world, at, Verdict::Commit).unwrap();
    }
    let contradiction = end(&world, at, Verdict::Rollback).unwrap_err();
    assert_eq!(contradiction, EndError::Contradicts { before: Verdict::Commit });
    assert_eq!(
        contradiction.to_string(),
        "the transaction was committed before; its end cannot be changed"
    );
    assert_eq!(bodies(&world, "t"), ["k"]);
    world.pass(seconds(1));
    world.pass(seconds(3));
    assert_eq!(bodies(&world, TRANS_OP_HALF_TOPIC), ["0,"]);
    let appended = world.store.marks().appended.get();
    end(&world, at, Verdict::Commit).unwrap();
    end(&world, at, Verdict::Rollback).unwrap_err();
    assert_eq!(world.store.marks().appended.get(), appended, "nothing is appended");
}

#[test]
fn an_end_that_does_not_fit_its_half_message_is_refused() {
    let world = World::new();
    let (log_offset, queue_offset) = place(&world.send(half("k")).unwrap());
    let plain = world.send(to("t")).unwrap();
    let check = |change: fn(&mut EndTransaction), expected: EndError| {
        for verdict in [Verdict::Commit, Verdict::Rollback] {
            let refused = end_with(&world, (log_offset, queue_offset), verdict, change);
            assert_eq!(refused.unwrap_err(), expected);
        }
    };
    check(|it| it.group = "other".into(), EndError::WrongGroup);
    check(|it| it.queue_offset += 1, EndError::WrongQueueOffset);
    check(|it| it.log_offset += 1, EndError::NotFound);
    check(|it| it.log_offset = -1, EndError::NotFound);
    check(|it| it.log_offset = i64::MAX, EndError::NotFound);
    assert_eq!(end(&world, place(&plain), Verdict::Commit), Err(EndError::NotFound));
    assert_eq!(bodies(&world, "t"), ["body"]);
}

#[test]
fn transactional_sends_can_be_forbidden() {
    let world = World::with(|options| options.reject_transaction_message = true);
    let refused = world.send(half("k")).unwrap_err();
    assert!(matches!(refused, PublishError::TransactionForbidden { .. }));
    // Clients before 4.6.1 send a message back with all its properties.
    let back = Publish { reconsume_times: 1, ..half_with("k", "DELAY\u{1}3\u{2}") };
    world.send(back).unwrap();
}

#[test]
fn a_half_message_is_not_delayed() {
    let world = World::new();
    for (key, more) in [("a", "DELAY\u{1}3\u{2}"), ("b", "TIMER_DELAY_SEC\u{1}60\u{2}")] {
        let receipt = world.send(half_with(key, more)).unwrap();
        end(&world, place(&receipt), Verdict::Commit).unwrap();
        let text = last_properties(&world, "t");
        assert!(!text.contains("DELAY"), "{text}");
    }
    assert_eq!(bodies(&world, "t").len(), 2);
}

#[test]
fn a_half_message_for_an_unknown_topic_creates_it_like_any_send() {
    let world = World::new();
    let receipt = world.send(Publish { topic: "new".into(), queue_id: -1, ..half("k") }).unwrap();
    assert!((0..4).contains(&receipt.queue_id));
    assert_eq!(world.broker.topic("new").unwrap().write_queue_nums, 4);
    let strict = World::with(|options| options.auto_create_topic_enable = false);
    assert!(matches!(strict.send(half("k")), Err(PublishError::UnknownTopic(_))));
}

#[test]
fn a_message_without_a_producer_group_belongs_to_that_of_its_send() {
    let world = World::new();
    let text = "UNIQ_KEY\u{1}k\u{2}TRAN_MSG\u{1}true\u{2}";
    let receipt = world.send(Publish { properties: text.into(), ..to("t") }).unwrap();
    end(&world, place(&receipt), Verdict::Commit).unwrap();
    assert_eq!(bodies(&world, "t"), ["body"]);
}

#[test]
fn an_old_half_message_is_put_back_and_shown_to_a_producer() {
    let world = World::new();
    let client = Client::new(1);
    let _session = producer(&world, &client);
    let first = world.send(Publish { queue_id: 2, flag: 9, ..half("k") }).unwrap();
    world.pass(seconds(29));
    assert!(asked(&client).is_empty());
    world.pass(seconds(1));
    let check = asked(&client).pop().expect("a round every 30 s");
    assert_eq!((&*check.unique_key, check.queue_offset), ("k", 1));
    assert_eq!(&*check.broker_name, "b");
    let shown = Record::decode(&check.record, CheckCrc::Yes).unwrap();
    assert_eq!((shown.topic, shown.queue_id, shown.flag, shown.body), ("t", 2, 9, &b"k"[..]));
    assert_eq!(shown.numbers.log_offset, check.log_offset);
    assert_eq!(properties::get(&shown.properties, "PGROUP"), Some("p"));
    assert_eq!(properties::get(&shown.properties, "TRANSACTION_CHECK_TIMES"), Some("1"));
    assert_eq!(bodies(&world, TRANS_HALF_TOPIC).len(), 2);
    // The producer answers, and the end that it had sent before arrives, too.
    let place_now = (check.log_offset as i64, check.queue_offset);
    end_with(&world, place_now, Verdict::Commit, |it| it.from_check = true).unwrap();
    end(&world, place(&first), Verdict::Commit).unwrap();
    let pulled = world.pull(Pull { queue_id: 2, ..from("t", 0) }).unwrap();
    assert_eq!(records(&pulled).len(), 1, "one final message");
    world.pass(seconds(100));
    assert!(asked(&client).is_empty());
}

#[test]
fn a_late_end_may_name_a_record_that_was_put_back_since() {
    for verdict in [Verdict::Commit, Verdict::Rollback] {
        let world = World::new();
        let client = Client::new(1);
        let _session = producer(&world, &client);
        let first = place(&world.send(half("k")).unwrap());
        for _ in 0..3 {
            world.pass(seconds(30));
        }
        assert_eq!(asked(&client).len(), 3);
        end(&world, first, verdict).unwrap();
        world.pass(seconds(100));
        assert!(asked(&client).is_empty(), "checks end");
        assert_eq!(bodies(&world, "t").len(), usize::from(verdict == Verdict::Commit));
    }
}

#[test]
fn members_of_a_producer_group_are_asked_in_turns() {
    let world = World::new();
    let clients = [Client::new(1), Client::new(2), Client::new(3)];
    let sessions: Vec<Session> = clients.iter().map(|client| producer(&world, client)).collect();
    world.send(half("k")).unwrap();
    for _ in 0..3 {
        world.pass(seconds(30));
    }
    assert!(clients.iter().all(|client| asked(client).len() == 1));
    drop(sessions);
}

#[test]
fn a_half_message_nobody_decides_is_given_up_and_may_be_committed_still() {
    let world = World::with(|options| options.transaction_check_max = 3);
    let client = Client::new(1);
    let _session = producer(&world, &client);
    let first = place(&world.send(half("k")).unwrap());
    for _ in 0..10 {
        world.pass(seconds(30));
    }
    let checks = asked(&client);
    assert_eq!(checks.len(), 3);
    assert_eq!(bodies(&world, TRANS_CHECK_MAX_TIME_TOPIC), ["k"]);
    let text = last_properties(&world, TRANS_CHECK_MAX_TIME_TOPIC);
    assert_eq!(properties::get(&text, "REAL_TOPIC"), Some("t"));
    assert_eq!(properties::get(&text, "TRANSACTION_CHECK_TIMES"), Some("3"));
    let world = world.restart();
    end(&world, first, Verdict::Commit).unwrap();
    let last = (checks[2].log_offset as i64, checks[2].queue_offset);
    end(&world, last, Verdict::Commit).unwrap();
    assert!(end(&world, last, Verdict::Rollback).is_err());
    assert_eq!(bodies(&world, "t"), ["k"]);
}

#[test]
fn checks_of_a_half_message_that_was_given_up_can_be_resumed() {
    let world = World::with(|options| options.transaction_check_max = 1);
    let client = Client::new(1);
    let _session = producer(&world, &client);
    world.send(half("k")).unwrap();
    world.send(half("l")).unwrap();
    world.pass(seconds(30));
    world.pass(seconds(30));
    assert_eq!(bodies(&world, TRANS_CHECK_MAX_TIME_TOPIC), ["k", "l"]);
    assert_eq!(asked(&client).len(), 2);
    let pulled = world.pull(from(TRANS_CHECK_MAX_TIME_TOPIC, 0)).unwrap();
    let record = Record::decode(&pulled.messages[0], CheckCrc::Yes).unwrap();
    let id = OffsetId { host: record.store_host, log_offset: record.numbers.log_offset };
    now(world.broker.resume_check(id)).unwrap();
    world.store.step_all();
    world.pass(seconds(30));
    let check = asked(&client).pop().expect("asked again");
    assert_eq!(check.unique_key, "k");
    end(&world, (check.log_offset as i64, check.queue_offset), Verdict::Commit).unwrap();
    assert_eq!(bodies(&world, "t"), ["k"]);
    assert!(matches!(now(world.broker.resume_check(id)), Err(EndError::Contradicts { .. })));
    let nowhere = OffsetId { log_offset: u64::MAX, ..id };
    assert_eq!(now(world.broker.resume_check(nowhere)), Err(EndError::NotFound));
    let other = place(&world.send(to("t")).unwrap()).0 as u64;
    let plain = OffsetId { log_offset: other, ..id };
    assert_eq!(now(world.broker.resume_check(plain)), Err(EndError::NotFound));
}

#[test]
fn checks_wait_for_a_live_producer() {
    let world = World::new();
    world.send(half("k")).unwrap();
    for _ in 0..100 {
        world.pass(seconds(30));
    }
    assert_eq!(bodies(&world, TRANS_HALF_TOPIC).len(), 1, "not even put back");
    let client = Client::new(1);
    let session = producer(&world, &client);
    world.pass(seconds(30));
    assert_eq!(asked(&client).len(), 1);
    drop(session);
    world.pass(seconds(30));
    assert!(asked(&client).is_empty());
}

#[test]
fn a_half_message_older_than_the_log_keeps_is_given_up() {
    let world = World::with(|options| options.file_reserved_time = 3_600_000);
    world.send(half("k")).unwrap();
    world.pass(seconds(3_600));
    assert!(bodies(&world, TRANS_CHECK_MAX_TIME_TOPIC).is_empty());
    world.pass(seconds(30));
    assert_eq!(bodies(&world, TRANS_CHECK_MAX_TIME_TOPIC), ["k"]);
}

#[test]
fn a_half_message_with_a_time_of_its_own_is_left_alone_until_then() {
    let world = World::new();
    let client = Client::new(1);
    let _session = producer(&world, &client);
    let immune = |seconds: &str| format!("CHECK_IMMUNITY_TIME_IN_SECONDS\u{1}{seconds}\u{2}");
    let long = world.send(half_with("long", &immune("100"))).unwrap();
    world.send(half_with("odd", &immune("soon"))).unwrap();
    world.send(Publish { born_at: START + 1_000_000, ..half("ahead") }).unwrap();
    world.pass(seconds(30));
    let keys: Vec<_> = asked(&client).iter().map(|check| check.unique_key.to_string()).collect();
    assert_eq!(keys, ["odd", "ahead"]);
    for _ in 0..3 {
        world.pass(seconds(30));
    }
    assert!(asked(&client).iter().any(|check| check.unique_key == "long"));
    // Too late for the producer's own end, but not for its answer to the check.
    assert_eq!(end(&world, place(&long), Verdict::Commit), Err(EndError::TooLate));
    end_with(&world, place(&long), Verdict::Commit, |it| it.from_check = true).unwrap();
    assert_eq!(bodies(&world, "t"), ["long"]);
}

#[test]
fn a_half_message_that_is_sent_twice_is_one() {
    let world = World::new();
    let client = Client::new(1);
    let _session = producer(&world, &client);
    let first = place(&world.send(half("k")).unwrap());
    let second = place(&world.send(half("k")).unwrap());
    world.pass(seconds(30));
    assert_eq!(asked(&client).len(), 1);
    end(&world, first, Verdict::Commit).unwrap();
    end(&world, second, Verdict::Commit).unwrap();
    let third = place(&world.send(half("k")).unwrap());
    end(&world, third, Verdict::Commit).unwrap();
    assert!(end(&world, third, Verdict::Rollback).is_err());
    assert_eq!(bodies(&world, "t"), ["k"]);
    world.pass(seconds(100));
    assert!(asked(&client).is_empty());
    let other = Publish {
        properties: half("k").properties.replace("PGROUP\u{1}p", "PGROUP\u{1}q").into(),
        ..half("k")
    };
    let other = place(&world.send(other).unwrap());
    end_with(&world, other, Verdict::Commit, |it| it.group = "q".into()).unwrap();
    assert_eq!(bodies(&world, "t"), ["k", "k"], "another group's key is another key");
}

#[test]
fn ends_are_told_to_the_op_queue_together() {
    let world = World::with(|options| options.transaction_op_msg_max_size = 20);
    for key in 0..10 {
        let at = place(&world.send(half(&key.to_string())).unwrap());
        end(&world, at, Verdict::Commit).unwrap();
    }
    assert_eq!(
        bodies(&world, TRANS_OP_HALF_TOPIC),
        ["0,1,2,3,4,5,6,7,8,9,"],
        "the size is reached"
    );
    let at = place(&world.send(half("k")).unwrap());
    end(&world, at, Verdict::Commit).unwrap();
    world.pass(seconds(1));
    assert_eq!(bodies(&world, TRANS_OP_HALF_TOPIC).len(), 1);
    world.pass(seconds(3));
    assert_eq!(bodies(&world, TRANS_OP_HALF_TOPIC)[1..], ["10,"]);
    let single = World::with(|options| options.store_readable_by = Release::V4_9_7);
    for key in 0..3 {
        let at = place(&single.send(half(&key.to_string())).unwrap());
        end(&single, at, Verdict::Commit).unwrap();
    }
    assert_eq!(bodies(&single, TRANS_OP_HALF_TOPIC), ["0", "1", "2"]);
}

#[test]
fn ends_that_share_an_op_entry_are_told_again_one_by_one_before_4_9_7_gets_the_store() {
    let world = World::new();
    let [_, b, c] = ["a", "b", "c"].map(|key| place(&world.send(half(key)).unwrap()));
    end(&world, b, Verdict::Commit).unwrap();
    end(&world, c, Verdict::Commit).unwrap();
    world.pass(seconds(1));
    world.pass(seconds(4));
    assert_eq!(bodies(&world, TRANS_OP_HALF_TOPIC), ["1,2,"]);
    let d = place(&world.send(half("d")).unwrap());
    end(&world, d, Verdict::Rollback).unwrap();
    let for_4_9_7 = |options: &mut broker::Options| options.store_readable_by = Release::V4_9_7;
    let world = world.restart_with(for_4_9_7);
    world.pass(seconds(1));
    assert_eq!(bodies(&world, TRANS_OP_HALF_TOPIC), ["1,2,", "3,", "1", "2", "3"]);
    // A kill does not undo it, and once is enough.
    let world = world.crash(Crash::Process).restart();
    world.pass(seconds(1));
    assert_eq!(bodies(&world, TRANS_OP_HALF_TOPIC).len(), 5);
    end(&world, d, Verdict::Rollback).unwrap();
    assert!(end(&world, c, Verdict::Rollback).is_err());
    assert_eq!(bodies(&world, "t"), ["b", "c"]);
}

#[test]
fn progress_of_both_queues_is_kept_where_the_original_looks_for_it() {
    let world = World::new();
    let [a, b, c] = ["a", "b", "c"].map(|key| place(&world.send(half(key)).unwrap()));
    end(&world, a, Verdict::Rollback).unwrap();
    end(&world, c, Verdict::Commit).unwrap();
    world.pass(seconds(5));
    world.pass(seconds(5));
    let world = world.restart();
    let file = compact(&world, "consumerOffset.json");
    assert!(file.contains("\"RMQ_SYS_TRANS_HALF_TOPIC@CID_RMQ_SYS_TRANS\":{0:1}"), "{file}");
    assert!(file.contains("\"RMQ_SYS_TRANS_OP_HALF_TOPIC@CID_RMQ_SYS_TRANS\":{0:1}"), "{file}");
    end(&world, b, Verdict::Commit).unwrap();
    let world = world.restart();
    assert_eq!(end(&world, a, Verdict::Rollback).map(drop), Ok(()), "what has ended is remembered");
    assert!(end(&world, c, Verdict::Rollback).is_err());
    assert_eq!(bodies(&world, "t"), ["c", "b"]);
}

#[test]
fn a_late_end_of_one_that_was_given_up_does_not_move_progress_back() {
    let world = World::with(|options| options.transaction_check_max = 1);
    let client = Client::new(1);
    let _session = producer(&world, &client);
    let first = place(&world.send(half("k")).unwrap());
    for key in ["l", "m", "n"] {
        let rolled_back = place(&world.send(half(key)).unwrap());
        end(&world, rolled_back, Verdict::Rollback).unwrap();
    }
    for _ in 0..3 {
        world.pass(seconds(30));
    }
    assert_eq!(bodies(&world, TRANS_CHECK_MAX_TIME_TOPIC), ["k"]);
    let rolled_back = place(&world.send(half("o")).unwrap());
    end(&world, rolled_back, Verdict::Rollback).unwrap();
    let done = "\"RMQ_SYS_TRANS_HALF_TOPIC@CID_RMQ_SYS_TRANS\":{0:5}";
    // From here on nothing is told to the op queue for an hour: a crash would find the progress that is noted until then.
    let world = world.restart_with(|options| options.transaction_op_batch_interval = 3_600_000);
    let before = compact(&world, "consumerOffset.json");
    assert!(before.contains(done), "{before}");
    end(&world, first, Verdict::Commit).unwrap();
    for _ in 0..3 {
        world.pass(seconds(30));
    }
    let after = compact(&world, "consumerOffset.json");
    assert!(after.contains(done), "{after}");
    assert_eq!(bodies(&world, "t"), ["k"]);
}

#[test]
fn a_producer_that_never_answers_is_asked_so_often_and_holds_up_nobody() {
    const SILENT: usize = 200;
    let world = World::with(|options| options.transaction_check_max = 5);
    let client = Client::new(1);
    let session = producer(&world, &client);
    for key in 0..SILENT {
        world.send(half(&format!("silent-{key}"))).unwrap();
    }
    let mut times = std::collections::BTreeMap::<String, usize>::new();
    for round in 0..12 {
        // What others end between the checks goes out at once.
        let key = format!("lively-{round}");
        let lively = place(&world.send(half(&key)).unwrap());
        end(&world, lively, Verdict::Commit).unwrap();
        assert_eq!(bodies(&world, "t").last(), Some(&key));
        world.pass(seconds(30));
        while world.broker.tick() {}
        say_hello(&session);
        for check in asked(&client) {
            *times.entry(check.unique_key.to_string()).or_default() += 1;
        }
    }
    assert_eq!(times.len(), SILENT);
    assert!(times.values().all(|times| *times == 5), "{times:?}");
    assert_eq!(bodies(&world, TRANS_CHECK_MAX_TIME_TOPIC).len(), SILENT);
    // Nothing is left: neither in the half queue nor, put back, behind it.
    let ends =
        [TRANS_HALF_TOPIC, TRANS_OP_HALF_TOPIC].map(|topic| world.broker.max_offset(topic, 0));
    world.pass(seconds(30));
    world.pass(seconds(30));
    let after =
        [TRANS_HALF_TOPIC, TRANS_OP_HALF_TOPIC].map(|topic| world.broker.max_offset(topic, 0));
    assert_eq!(after[0], ends[0]);
    let file = compact(&world, "consumerOffset.json");
    let done = format!("\"RMQ_SYS_TRANS_HALF_TOPIC@CID_RMQ_SYS_TRANS\":{{0:{}}}", after[0]);
    assert!(file.contains(&done), "{file}");
    assert!(compact(&world, "transactionMetrics").contains("\"t\":{\"count\":0,"));
}

#[test]
fn waiting_half_messages_are_counted_by_topic() {
    let world = World::new();
    let at = place(&world.send(half("a")).unwrap());
    world.send(half("b")).unwrap();
    world.pass(seconds(10));
    assert!(compact(&world, "transactionMetrics").contains("\"t\":{\"count\":2,"));
    end(&world, at, Verdict::Commit).unwrap();
    let world = world.restart();
    assert!(compact(&world, "transactionMetrics").contains("\"t\":{\"count\":1,"));
}

#[test]
fn half_messages_outlive_a_kill_and_a_committed_one_is_delivered_once() {
    let world = World::new();
    let [a, b, c] = ["a", "b", "c"].map(|key| place(&world.send(half(key)).unwrap()));
    end(&world, a, Verdict::Commit).unwrap();
    end(&world, b, Verdict::Rollback).unwrap();
    let world = world.crash(Crash::Process);
    assert_eq!(bodies(&world, TRANS_OP_HALF_TOPIC).len(), 2, "rollback, and what was before it");
    let client = Client::new(1);
    let _session = producer(&world, &client);
    world.pass(seconds(30));
    let keys: Vec<_> = asked(&client).iter().map(|check| check.unique_key.to_string()).collect();
    assert_eq!(keys, ["c"]);
    for (place, verdict) in [(a, Verdict::Commit), (b, Verdict::Rollback), (c, Verdict::Commit)] {
        end(&world, place, verdict).unwrap();
    }
    for (place, verdict) in [(a, Verdict::Rollback), (b, Verdict::Commit), (c, Verdict::Rollback)] {
        assert!(matches!(end(&world, place, verdict), Err(EndError::Contradicts { .. })));
    }
    assert_eq!(bodies(&world, "t"), ["a", "c"]);
}

#[test]
fn a_commit_without_op_entry_is_found_by_its_final_message() {
    let world = World::new();
    let at = place(&world.send(half("k")).unwrap());
    end(&world, at, Verdict::Commit).unwrap();
    for again in [Some(Verdict::Commit), Some(Verdict::Rollback), None] {
        let world = World::new();
        let at = place(&world.send(half("k")).unwrap());
        end(&world, at, Verdict::Commit).unwrap();
        // Looks like the final message of another half message, and is none.
        let forged = half("l");
        let other = place(&world.send(forged.clone()).unwrap());
        let text = forged.properties.replace("TRAN_MSG\u{1}true\u{2}", "");
        let sys_flag = system_flag::TRANSACTION_COMMIT;
        world.send(Publish { properties: text.into(), sys_flag, ..forged }).unwrap();
        let world = world.crash(Crash::Process);
        assert!(bodies(&world, TRANS_OP_HALF_TOPIC).is_empty());
        let client = Client::new(1);
        let _session = producer(&world, &client);
        match again {
            Some(Verdict::Commit) => assert!(end(&world, at, Verdict::Commit).is_ok()),
            Some(Verdict::Rollback) => assert!(end(&world, at, Verdict::Rollback).is_err()),
            None => world.pass(seconds(30)),
        }
        world.pass(seconds(30));
        let asked = asked(&client);
        assert!(!asked.is_empty() && asked.iter().all(|check| check.unique_key == "l"));
        end(&world, other, Verdict::Commit).unwrap();
        assert_eq!(bodies(&world, "t"), ["k", "l", "l"]);
    }
}

#[test]
fn a_final_message_is_found_behind_many_with_its_key() {
    let world = World::new();
    let at = place(&world.send(half("k")).unwrap());
    end(&world, at, Verdict::Commit).unwrap();
    for _ in 0..1_500 {
        world.send(Publish { properties: "UNIQ_KEY\u{1}k\u{2}".into(), ..to("t") }).unwrap();
    }
    let world = world.crash(Crash::Process);
    assert!(bodies(&world, TRANS_OP_HALF_TOPIC).is_empty());
    assert!(end(&world, at, Verdict::Rollback).is_err());
    assert!(end(&world, at, Verdict::Commit).is_ok());
    assert_eq!(world.broker.max_offset("t", 0), 1_501);
}

#[test]
fn half_messages_have_a_bound_and_so_has_the_memory_of_ended_ones() {
    let world = World::with(|options| {
        options.half_messages_max = 2;
        options.ended_transactions_max = 2;
    });
    let places = ["a", "b"].map(|key| place(&world.send(half(key)).unwrap()));
    let refused = world.send(half("c")).unwrap_err();
    assert!(refused.to_string().contains("raise `halfMessagesMax`"), "{refused}");
    for at in places {
        end(&world, at, Verdict::Commit).unwrap();
    }
    let c = place(&world.send(half("c")).unwrap());
    end(&world, c, Verdict::Commit).unwrap();
    end(&world, c, Verdict::Commit).unwrap();
    assert_eq!(end(&world, places[0], Verdict::Commit), Err(EndError::Forgotten));
    assert_eq!(bodies(&world, "t"), ["a", "b", "c"]);
}

#[test]
fn a_round_over_many_is_done_in_pieces() {
    let world = World::new();
    let client = Client::new(1);
    let _session = producer(&world, &client);
    for key in 0..300 {
        world.send(half(&key.to_string())).unwrap();
    }
    world.clock.advance(seconds(30));
    assert!(world.broker.tick(), "there is more");
    let first = asked(&client).len();
    assert!((1..300).contains(&first));
    while world.broker.tick() {}
    assert_eq!(first + asked(&client).len(), 300, "each once");
    let body = Bytes::from_static(b"x");
    world.send(Publish { payload: Payload::One(body), ..half("new") }).unwrap();
    world.pass(seconds(30));
    assert_eq!(asked(&client).len(), 301);
}
