//! How a process begins and ends: banner, SIGTERM with everything flushed, the second signal.

use std::{process::Command, sync::Arc};

use bytes::{Bytes, BytesMut};
use rustix::process::Signal;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
    task::JoinSet,
};

use crate::server::{
    APOGEE, Folder, PATIENCE, Server, acknowledged, command, connect, create_topic, pull,
    read_queue, send,
};

#[test]
fn the_banner_says_what_listens_where_the_data_lies_and_what_to_try() {
    let folder = Folder::new("banner");
    let server = Server::start(&folder, &[]);
    for address in [server.address("name server"), server.address("broker")] {
        assert!(address.ip().is_loopback());
    }
    let data = folder.0.join("data");
    assert!(server.banner.contains(&format!("{}", data.display())), "{}", server.banner);
    assert!(server.banner.contains("this machine only"), "{}", server.banner);
    assert!(server.banner.contains("apogee bench produce"), "{}", server.banner);
    assert!(!server.banner.contains("--advertise"), "{}", server.banner);
    server.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn after_sigterm_everything_acknowledged_is_there_and_the_stop_was_clean() {
    let folder = Folder::new("stop");
    let server = Server::start(&folder, &[]);
    let client = connect(server.address("broker")).await;
    create_topic(&client, "stop", 1).await;
    let mut bodies = Vec::new();
    for at in 0..500 {
        let body = format!("message {at}");
        let answer =
            client.call(send("stop", 0, Bytes::from(body.clone())), PATIENCE).await.unwrap();
        assert_eq!(acknowledged(&answer), Some(at));
        bodies.push(body.into_bytes());
    }
    server.stop();
    assert!(!folder.0.join("data/abort").exists(), "a clean stop leaves no abort mark");
    let server = Server::start(&folder, &[]);
    let client = connect(server.address("broker")).await;
    assert_eq!(read_queue(&client, "stop", 0).await, bodies);
    server.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn sends_in_flight_at_sigterm_are_answered_and_kept() {
    let folder = Folder::new("in-flight");
    let server = Server::start(&folder, &[]);
    let client = Arc::new(connect(server.address("broker")).await);
    create_topic(&client, "flight", 1).await;
    let (sender, mut first) = mpsc::unbounded_channel();
    let mut calls = JoinSet::new();
    for at in 0..500 {
        let (client, sender) = (client.clone(), sender.clone());
        calls.spawn(async move {
            let answer = client
                .call(send("flight", 0, Bytes::from(vec![at as u8; 1000])), PATIENCE)
                .await
                .ok()?;
            let offset = acknowledged(&answer)?;
            sender.send(offset).ok()?;
            Some(offset)
        });
    }
    first.recv().await;
    server.signal(Signal::TERM);
    let mut offsets = Vec::new();
    while let Some(offset) = calls.join_next().await {
        offsets.extend(offset.unwrap());
    }
    assert!(server.wait().success());
    let server = Server::start(&folder, &[]);
    let client = connect(server.address("broker")).await;
    let kept = read_queue(&client, "flight", 0).await.len() as i64;
    assert!(offsets.iter().all(|offset| *offset < kept), "{kept} are kept of {offsets:?}");
    server.stop();
}

/// A client that does not read what it asked for would be waited for; the second signal is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_second_signal_ends_the_process_at_once_and_keeps_what_was_acknowledged() {
    let folder = Folder::new("second-signal");
    let server = Server::start(&folder, &[]);
    let client = connect(server.address("broker")).await;
    create_topic(&client, "second", 1).await;
    let body = vec![b'x'; 1 << 20];
    for _ in 0..8 {
        let answer = client.call(send("second", 0, body.clone().into()), PATIENCE).await.unwrap();
        assert!(acknowledged(&answer).is_some());
    }
    let mut deaf = TcpStream::connect(server.address("broker")).await.unwrap();
    let mut asked = BytesMut::new();
    for offset in 0..8 {
        pull("second", 0, offset).encode(&mut asked);
    }
    deaf.write_all(&asked).await.unwrap();
    let mut first_of_answer = [0; 4];
    deaf.read_exact(&mut first_of_answer).await.unwrap();

    server.signal(Signal::TERM);
    while TcpStream::connect(server.address("broker")).await.is_ok() {
        tokio::task::yield_now().await;
    }
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(128 + 15));
    let server = Server::start(&folder, &[]);
    let client = connect(server.address("broker")).await;
    assert_eq!(read_queue(&client, "second", 0).await.len(), 8);
    server.stop();
}

#[test]
fn a_directory_in_use_is_refused_and_named() {
    let folder = Folder::new("locked");
    let server = Server::start(&folder, &[]);
    let output = command(&folder, &[]).output().unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("data"), "{text}");
    server.stop();
}

#[test]
fn a_port_in_use_is_named_and_nothing_is_touched() {
    let folder = Folder::new("port");
    let server = Server::start(&folder, &[]);
    let other = Folder::new("port-other");
    let port = server.address("broker").port().to_string();
    let mut command = Command::new(APOGEE);
    command
        .args(["run", "--namesrv-port", "0", "--broker-port", &port, "--data"])
        .arg(other.0.join("data"));
    let output = command.output().unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains(&port), "{text}");
    assert_eq!(text.matches("in use").count(), 1, "{text}");
    assert!(!other.0.join("data").exists(), "a port in use changes nothing on disk");
    server.stop();
}
