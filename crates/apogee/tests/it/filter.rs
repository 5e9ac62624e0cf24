//! `apogee filter`: what it puts into the broker's directory, and what it refuses to.

use std::{fs, process::Command};

use bytes::Bytes;
use remoting::Client;
use wire::record::{CheckCrc, Record};

use crate::server::{
    APOGEE, Folder, PATIENCE, Server, acknowledged, connect, create_topic, pull, send,
};

fn filter(folder: &Folder, words: &[&str]) -> (bool, String) {
    let mut command = Command::new(APOGEE);
    command.arg("filter").args(words).arg("--data").arg(folder.0.join("data"));
    let output = command.current_dir(&folder.0).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

#[test]
fn a_module_is_attached_listed_and_detached() {
    let folder = Folder::new("filter");
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/filters/example.wasm");
    assert_eq!(filter(&folder, &["list"]), (true, String::new()));
    assert_eq!(filter(&folder, &["attach", "orders", "billing", example]), (true, String::new()));
    let attached = folder.0.join("data/config/filters/orders@billing.wasm");
    assert_eq!(fs::read(&attached).unwrap(), fs::read(example).unwrap());
    assert_eq!(fs::read_dir(attached.parent().unwrap()).unwrap().count(), 1);
    let (_, said) = filter(&folder, &["list"]);
    assert!(said.starts_with("orders billing ") && said.ends_with(" bytes, fine\n"), "{said}");
    assert_eq!(filter(&folder, &["detach", "orders", "billing"]), (true, String::new()));
    let (is_done, said) = filter(&folder, &["detach", "orders", "billing"]);
    assert!(!is_done && said.contains("no module is attached to orders and billing"), "{said}");
}

#[test]
fn what_is_no_filter_is_not_attached() {
    let folder = Folder::new("no-filter");
    fs::write(folder.0.join("text.wasm"), "text").unwrap();
    let (is_done, said) = filter(&folder, &["attach", "orders", "billing", "text.wasm"]);
    assert!(!is_done && said.contains("text.wasm") && said.contains("no module"), "{said}");
    let (is_done, said) = filter(&folder, &["attach", "../orders", "billing", "text.wasm"]);
    assert!(!is_done && said.contains("`../orders` is no name"), "{said}");
    assert!(!folder.0.join("data").exists());
}

/// What a group gets of queue 0 by pulls like a stock consumer's: a pull ends early when its filters take long.
async fn got(client: &Client, topic: &str, group: &str) -> Vec<String> {
    let (mut bodies, mut from) = (Vec::new(), 0);
    loop {
        let mut request = pull(topic, 0, from);
        request.ext.put("consumerGroup", group);
        let answer = client.call(request, PATIENCE).await.unwrap();
        let body = answer.body_bytes();
        let mut rest = &body[..];
        while !rest.is_empty() {
            let record = Record::decode(rest, CheckCrc::Yes).unwrap();
            bodies.push(String::from_utf8(record.body.to_vec()).unwrap());
            rest = &rest[record.len as usize..];
        }
        let field = |name| answer.ext.get(name).unwrap().parse::<i64>().unwrap();
        from = field("nextBeginOffset");
        if from >= field("maxOffset") {
            return bodies;
        }
    }
}

#[tokio::test]
async fn a_stock_consumer_gets_what_the_module_lets_through_until_it_is_detached() {
    let folder = Folder::new("filter-served");
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/filters/example.wasm");
    assert_eq!(filter(&folder, &["attach", "orders", "billing", example]), (true, String::new()));
    let server = Server::start(&folder, &[]);
    let client = connect(server.address("broker")).await;
    create_topic(&client, "orders", 1).await;
    let sent = ["whenever", "URGENT: ship it", "no hurry", "also URGENT"];
    for body in sent {
        let answer = client.call(send("orders", 0, Bytes::from(body)), PATIENCE).await.unwrap();
        assert!(acknowledged(&answer).is_some(), "{:?}", answer.remark);
    }
    let everything = async |group| while got(&client, "orders", group).await != sent {};
    tokio::time::timeout(PATIENCE, everything("shipping")).await.expect("no filter is theirs");
    assert_eq!(got(&client, "orders", "billing").await, ["URGENT: ship it", "also URGENT"]);
    // The server looks again, each second.
    assert_eq!(filter(&folder, &["detach", "orders", "billing"]), (true, String::new()));
    tokio::time::timeout(PATIENCE, everything("billing")).await.expect("it is detached");
    server.stop();
}
