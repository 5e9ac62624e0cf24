//! Kill -9 under load: what was acknowledged is there, in order, at its offset.

use std::{collections::BTreeMap, fs, sync::Arc};

use bytes::Bytes;
use tokio::{sync::mpsc, task::JoinSet};
use wire::{
    body::{
        group::{SubscriptionGroupConfig, SubscriptionGroupTable},
        topic::TopicConfigTable,
    },
    code::{RequestCode, ResponseCode},
    fastjson,
    frame::Frame,
};

use crate::server::{
    Folder, PATIENCE, Server, acknowledged, connect, create_topic, read_queue, send, topic_frame,
};

const ROUNDS: u32 = 20;
const QUEUES: i32 = 4;
/// Senders of each queue, each with one message in flight.
const SENDERS: u32 = 16;
/// Acknowledged messages after which a round's server is killed; it is under full load then.
const KILLED_AFTER: usize = 2_000;

/// What was acknowledged: queue and offset of each body.
type Acknowledged = BTreeMap<(i32, i64), Vec<u8>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_message_survives_twenty_kills_under_load() {
    let folder = Folder::new("kill");
    let mut expected = Acknowledged::new();
    for round in 0..ROUNDS {
        let server = Server::start(&folder, &[]);
        let client = Arc::new(connect(server.address("broker")).await);
        if round == 0 {
            create_topic(&client, "kill", QUEUES).await;
        }
        let (count, mut counted) = mpsc::unbounded_channel();
        let mut senders = JoinSet::new();
        for sender in 0..SENDERS * QUEUES as u32 {
            let (client, count) = (client.clone(), count.clone());
            let queue = (sender % QUEUES as u32) as i32;
            senders.spawn(async move {
                let mut stored = Acknowledged::new();
                for number in 0.. {
                    let body = format!("{round} {sender} {number} {}", "x".repeat(number % 2_000));
                    let frame = send("kill", queue, Bytes::from(body.clone()));
                    let Ok(answer) = client.call(frame, PATIENCE).await else { break };
                    if let Some(offset) = acknowledged(&answer) {
                        stored.insert((queue, offset), body.into_bytes());
                        count.send(()).expect("somebody counts");
                    }
                }
                stored
            });
        }
        for _ in 0..KILLED_AFTER {
            counted.recv().await;
        }
        server.kill();
        while let Some(stored) = senders.join_next().await {
            for (place, body) in stored.unwrap() {
                let before = expected.insert(place, body);
                assert!(before.is_none(), "round {round}: {place:?} was given twice");
            }
        }
    }
    let server = Server::start(&folder, &[]);
    let client = connect(server.address("broker")).await;
    let mut queues = Vec::new();
    for queue in 0..QUEUES {
        queues.push(read_queue(&client, "kill", queue).await);
    }
    for ((queue, offset), body) in &expected {
        let found = queues[*queue as usize].get(*offset as usize);
        assert_eq!(found, Some(body), "queue {queue} offset {offset}");
    }
    assert!(expected.len() >= ROUNDS as usize * KILLED_AFTER);
    server.stop();
}

/// Topics and groups made at the same time, each by a connection of its own.
const MAKERS: u32 = 9;
/// Acknowledged topics and groups after which a round's server is killed.
const TABLES_KILLED_AFTER: usize = 300;

/// The creation of something new: a topic by an administrator, by a first message, or a group.
fn creation(maker: u32, name: &str) -> Frame {
    match maker % 3 {
        0 => topic_frame(name, 1),
        1 => send(name, 0, Bytes::from_static(b"first")),
        _ => {
            let group =
                SubscriptionGroupConfig { group_name: name.to_owned(), ..Default::default() };
            Frame::request(RequestCode::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, &())
                .with_body(fastjson::encode(&group))
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_topic_and_group_survives_kills() {
    let folder = Folder::new("kill-tables");
    let mut expected = [Vec::new(), Vec::new(), Vec::new()];
    for round in 0..6 {
        let server = Server::start(&folder, &[]);
        let (count, mut counted) = mpsc::unbounded_channel();
        let mut makers = JoinSet::new();
        for maker in 0..MAKERS {
            let client = connect(server.address("broker")).await;
            let count = count.clone();
            makers.spawn(async move {
                let mut made = Vec::new();
                for number in 0.. {
                    let name = format!("made-{round}-{maker}-{number}");
                    let Ok(answer) = client.call(creation(maker, &name), PATIENCE).await else {
                        break;
                    };
                    assert_eq!(answer.response_code(), ResponseCode::SUCCESS, "{answer:?}");
                    made.push(name);
                    count.send(()).expect("somebody counts");
                }
                (maker, made)
            });
        }
        for _ in 0..TABLES_KILLED_AFTER {
            counted.recv().await;
        }
        server.kill();
        while let Some(made) = makers.join_next().await {
            let (maker, made) = made.unwrap();
            expected[maker as usize % 3].extend(made);
        }
        // What whoever opens the directory next reads, ours or the original.
        let read = |name: &str| {
            let path = folder.0.join("data/config").join(name);
            fs::read(&path).or_else(|_| fs::read(path.with_extension("json.bak"))).unwrap()
        };
        let topics: TopicConfigTable = fastjson::decode(&read("topics.json")).unwrap();
        for topic in expected[..2].iter().flatten() {
            assert!(topics.topic_config_table.contains_key(topic), "round {round}: {topic}");
        }
        let groups: SubscriptionGroupTable =
            fastjson::decode(&read("subscriptionGroup.json")).unwrap();
        for group in &expected[2] {
            assert!(groups.subscription_group_table.contains_key(group), "round {round}: {group}");
        }
    }
    assert!(expected.iter().all(|made| made.len() > 100), "each kind was made");
}
