//! Kill -9 under load: what was acknowledged is there, in order, at its offset.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use tokio::{sync::mpsc, task::JoinSet};

use crate::server::{
    Folder, PATIENCE, Server, acknowledged, connect, create_topic, read_queue, send,
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
