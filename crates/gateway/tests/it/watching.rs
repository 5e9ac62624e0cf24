//! The door for whoever watches: what it shows is what happened, and nobody who floods it has the broker work.

use std::net::SocketAddr;

use gateway::http::Listener;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};
use wire::code::RequestCode;

use crate::support::{World, pull, request};

async fn serve(world: &World, series_max: usize) -> (SocketAddr, JoinHandle<()>) {
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.address().unwrap();
    (address, listener.serve(world.broker.clone(), world.env.clock.clone(), series_max))
}

/// Sends `head` and returns all that comes until the server closes.
async fn say(address: SocketAddr, head: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    answer
}

async fn get(address: SocketAddr, path: &str) -> String {
    say(address, &format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).await
}

fn value<'p>(page: &'p str, series: &str, labels: &[&str]) -> Option<&'p str> {
    let mut lines = page.lines().filter(|line| {
        line.strip_prefix(series).is_some_and(|rest| rest.starts_with('{'))
            && labels.iter().all(|label| line.contains(label))
    });
    lines.next().and_then(|line| line.rsplit_once(' ')).map(|(_, value)| value)
}

#[tokio::test]
async fn metrics_say_what_came_what_went_and_what_lags() {
    let world = World::new().await;
    for body in ["one", "two", "three"] {
        world.send("T", 0, body).await;
    }
    world.readable("T", 0, 3).await;
    world.done(pull("T", 0, 0)).await;
    let fields =
        [("consumerGroup", "consumers"), ("topic", "T"), ("queueId", "0"), ("commitOffset", "1")];
    world.done(request(RequestCode::UPDATE_CONSUMER_OFFSET, &fields)).await;
    let (address, _task) = serve(&world, 100).await;
    let page = get(address, "/metrics").await;
    assert!(page.contains("content-type: application/openmetrics-text"), "{page}");
    assert!(page.ends_with("# EOF\n"), "{page}");
    let topic = [
        "topic=\"T\"",
        "message_type=\"normal\"",
        "is_system=\"false\"",
        "cluster=\"DefaultCluster\"",
    ];
    assert_eq!(value(&page, "rocketmq_messages_in_total", &topic), Some("3"));
    let group = ["consumer_group=\"consumers\"", "topic=\"T\"", "is_retry=\"false\""];
    assert_eq!(value(&page, "rocketmq_messages_out_total", &group), Some("3"));
    assert_eq!(value(&page, "rocketmq_consumer_lag_messages", &group), Some("2.0"));
    let age = value(&page, "rocketmq_consumer_lag_latency", &group).unwrap();
    assert!(age.parse::<f64>().unwrap() >= 0.0);
    let appended = value(&page, "apogee_log_offset_bytes", &["mark=\"appended\""]).unwrap();
    assert!(appended.parse::<f64>().unwrap() > 0.0);
    assert_eq!(value(&page, "apogee_refused_messages_total", &["reason=\"busy\""]), Some("0"));
}

#[tokio::test]
async fn every_metric_stands_in_the_page_for_operators() {
    let world = World::new().await;
    world.send("T", 0, "one").await;
    let (address, _task) = serve(&world, 100).await;
    let page = get(address, "/metrics").await;
    let known = include_str!("../../../../docs/operating/monitoring.md");
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let names: Vec<String> = types
        .map(|line| match line.split_once(' ').unwrap() {
            (name, "counter") => format!("{name}_total"),
            (name, _) => name.to_owned(),
        })
        .collect();
    assert!(names.len() > 20, "{names:?}");
    for name in names {
        assert!(known.contains(&format!("| `{name}` |")), "`{name}` is not in the page");
    }
}

#[tokio::test]
async fn more_topics_than_seats_are_added_up() {
    let world = World::new().await;
    for (topic, count) in [("Busy", 3), ("Quiet", 1), ("Quieter", 1)] {
        for _ in 0..count {
            world.send(topic, 0, "body").await;
        }
    }
    let (address, _task) = serve(&world, 1).await;
    let page = get(address, "/metrics").await;
    assert_eq!(value(&page, "rocketmq_messages_in_total", &["topic=\"Busy\""]), Some("3"));
    assert_eq!(value(&page, "rocketmq_messages_in_total", &["topic=\"*\""]), Some("2"));
    assert_eq!(value(&page, "rocketmq_messages_in_total", &["topic=\"Quiet\""]), None);
}

#[tokio::test]
async fn health_is_told_and_anything_else_is_refused() {
    let world = World::new().await;
    let (address, _task) = serve(&world, 1).await;
    assert!(get(address, "/health").await.ends_with("\r\n\r\nok\n"));
    assert!(get(address, "/").await.starts_with("HTTP/1.1 404"));
    let posted =
        "POST /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    assert!(say(address, posted).await.starts_with("HTTP/1.1 405"));
    assert!(say(address, "\u{0}\u{1}\u{2} nonsense\r\n\r\n").await.starts_with("HTTP/1.1 400"));
    let endless = format!("GET / HTTP/1.1\r\nLong: {}\r\n\r\n", "x".repeat(64 << 10));
    assert!(say(address, &endless).await.starts_with("HTTP/1.1 431"));
    assert!(get(address, "/health").await.ends_with("ok\n"), "it serves on");
}

#[tokio::test]
async fn a_crowd_is_turned_away_and_those_inside_are_served() {
    let world = World::new().await;
    let (address, _task) = serve(&world, 1).await;
    let mut crowd = Vec::new();
    for _ in 0..64 {
        crowd.push(TcpStream::connect(address).await.unwrap());
    }
    // Everybody inside has been seen once the last of them is answered.
    let last = crowd.last_mut().unwrap();
    last.write_all(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert!(last.read_u8().await.is_ok());
    let mut refused = TcpStream::connect(address).await.unwrap();
    assert!(refused.read_u8().await.is_err(), "the connection is closed");
    drop(crowd);
    while !get(address, "/health").await.ends_with("ok\n") {}
}
