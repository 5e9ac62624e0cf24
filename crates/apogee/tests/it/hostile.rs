//! Clients that mean harm, at the whole server: each costs a bounded amount of memory and is let go, and a client that
//! behaves is served all the while.
//!
//! Memory is what the kernel says of the process, so the figures hold slack for what it needs anyway.

use std::{fs, net::SocketAddr};

use bytes::{Bytes, BytesMut};
use remoting::Client;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};
use wire::{
    code::{RequestCode, ResponseCode},
    frame::Frame,
    header::{namesrv::GetRouteInfo, pull::PullMessage},
};

use crate::server::{Folder, PATIENCE, Server, acknowledged, connect, create_topic, send};

const MIB: u64 = 1 << 20;

/// A server that loses patience within two seconds, where it would take a minute.
fn impatient(folder: &Folder) -> Server {
    let set = ["drainTimeoutMs=1000", "frameTimeoutMs=1000", "serverChannelMaxIdleTimeSeconds=5"];
    let flags: Vec<&str> = set.iter().flat_map(|set| ["--set", set]).collect();
    Server::start(folder, &flags)
}

/// Returns the bytes of memory that belong to the process alone (`RssAnon`).
fn memory(server: &Server) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Waits until the server has closed the connection.
async fn let_go(stream: &mut TcpStream) {
    let mut rest = vec![0; 64 * 1024];
    while !matches!(stream.read(&mut rest).await, Ok(0) | Err(_)) {}
}

/// A client that behaves is served; each time a new one, since the server is impatient with those who are silent too.
async fn send_and_expect_success(broker: SocketAddr, topic: &str) {
    let client = connect(broker).await;
    let answer = client.call(send(topic, 0, Bytes::from_static(b"hello")), PATIENCE).await.unwrap();
    assert!(acknowledged(&answer).is_some(), "{answer:?}");
}

/// Fills a queue with 128 MiB.
async fn fill(client: &Client, topic: &str) {
    create_topic(client, topic, 1).await;
    let body = Bytes::from(vec![7; 1 << 20]);
    for _ in 0..128 {
        let answer = client.call(send(topic, 0, body.clone()), PATIENCE).await.unwrap();
        assert!(acknowledged(&answer).is_some(), "{answer:?}");
    }
}

/// Pulls of everything in a queue of 128 messages, as the bytes of many requests.
fn pulls(topic: &str, count: i32) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    for opaque in 0..count {
        let header = PullMessage {
            consumer_group: "hostile",
            topic,
            queue_offset: i64::from(opaque % 128),
            max_msg_nums: 32,
            sys_flag: 4,
            subscription: Some("*"),
            ..PullMessage::default()
        };
        let request = Frame::request(RequestCode::PULL_MESSAGE, &header);
        Frame { opaque, ..request }.encode(&mut bytes);
    }
    bytes.to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_read_nothing_or_slowly_what_they_pulled_pin_little_and_are_let_go() {
    let folder = Folder::new("slow");
    let server = impatient(&folder);
    let broker = server.address("broker");
    let client = connect(broker).await;
    fill(&client, "backlog").await;
    let before = memory(&server);

    let asked = pulls("backlog", 400);
    let mut slow = Vec::new();
    for _ in 0..32 {
        let mut stream = TcpStream::connect(broker).await.unwrap();
        stream.write_all(&asked).await.unwrap();
        slow.push(stream);
    }
    let mut peak = 0;
    for stream in &mut slow {
        // Half of them read a little before they stop.
        let mut little = [0; 1000];
        stream.read_exact(&mut little).await.unwrap();
        send_and_expect_success(broker, "backlog").await;
        peak = peak.max(memory(&server));
    }
    for mut stream in slow {
        let_go(&mut stream).await;
        peak = peak.max(memory(&server));
    }
    // Each may pin a megabyte and one answer, and all together 128 MiB; they asked for 12 GiB.
    let grown = peak.saturating_sub(before) / MIB;
    assert!(grown <= 192, "{grown} MiB for thirty-two slow readers");
    send_and_expect_success(broker, "backlog").await;
    server.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_send_half_a_frame_cost_what_they_sent_and_are_let_go() {
    let folder = Folder::new("half");
    let server = impatient(&folder);
    let broker = server.address("broker");
    let client = connect(broker).await;
    create_topic(&client, "half", 1).await;
    send_and_expect_success(broker, "half").await;
    let before = memory(&server);

    // A length of 16 MiB, and one MiB of what it promises.
    let mut half = (16 * MIB as u32 - 4).to_be_bytes().to_vec();
    half.resize(1 << 20, 0);
    let half = Bytes::from(half);
    let mut clients = JoinSet::new();
    for _ in 0..200 {
        let half = half.clone();
        clients.spawn(async move {
            let mut stream = TcpStream::connect(broker).await.unwrap();
            // The server does not read all of it: its buffers have a bound.
            let _ = stream.write_all(&half).await;
            let_go(&mut stream).await;
        });
    }
    let mut peak = 0;
    while clients.join_next().await.is_some() {
        send_and_expect_success(broker, "half").await;
        peak = peak.max(memory(&server));
    }
    let grown = peak.saturating_sub(before) / MIB;
    // The allocator keeps for a while what buffers left that grew.
    assert!(grown <= 160, "{grown} MiB for 200 MiB of halves; readBytesTotalMax is 64");
    server.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_connections_cost_little_each_and_the_silent_are_let_go() {
    // This process needs a descriptor for each, and the server, which inherits the limit, another.
    let limit = getrlimit(Resource::Nofile);
    let raised = limit.maximum.unwrap_or(u64::MAX).min(12_000);
    setrlimit(Resource::Nofile, Rlimit { current: Some(raised), ..limit }).unwrap();
    let count = raised.saturating_sub(1_500).min(10_000);

    let folder = Folder::new("many");
    let server = impatient(&folder);
    let broker = server.address("broker");
    let client = connect(broker).await;
    create_topic(&client, "many", 1).await;
    let before = memory(&server);
    let mut streams: Vec<TcpStream> = Vec::new();
    let request = {
        let mut bytes = BytesMut::new();
        Frame::request(RequestCode::GET_BROKER_CONFIG, &()).encode(&mut bytes);
        bytes
    };
    for at in 0..count {
        let mut stream = TcpStream::connect(broker).await.unwrap();
        stream.write_all(&request).await.unwrap();
        streams.push(stream);
        if at % 500 == 0 {
            send_and_expect_success(broker, "many").await;
        }
    }
    let grown = memory(&server).saturating_sub(before) / count.max(1);
    assert!(grown <= 20 * 1024, "{grown} bytes a connection");
    for mut stream in streams {
        let_go(&mut stream).await;
    }
    send_and_expect_success(broker, "many").await;
    server.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_parks_thousands_of_pulls_holds_no_more_than_they_need() {
    let folder = Folder::new("parked");
    let server = impatient(&folder);
    let broker = server.address("broker");
    let client = connect(broker).await;
    create_topic(&client, "empty", 1).await;
    let before = memory(&server);
    let header = PullMessage {
        consumer_group: "hostile",
        topic: "empty",
        max_msg_nums: 32,
        sys_flag: 4 | 2,
        suspend_timeout_millis: 3_600_000,
        subscription: Some("*"),
        ..PullMessage::default()
    };
    // Each pull comes with a large request that is answered at once, whose buffer it must not keep.
    let pull = Frame::request(RequestCode::PULL_MESSAGE, &header);
    let large = Frame::request(RequestCode::GET_BROKER_CONFIG, &()).with_body(vec![0; 60_000]);
    let mut pair = BytesMut::new();
    large.encode(&mut pair);
    pull.encode(&mut pair);
    let mut stream = TcpStream::connect(broker).await.unwrap();
    let (mut reader, mut writer) = stream.split();
    let reading = async {
        let mut answers = vec![0; 64 * 1024];
        while !matches!(reader.read(&mut answers).await, Ok(0) | Err(_)) {}
    };
    let writing = async {
        for _ in 0..4_000 {
            writer.write_all(&pair).await.unwrap();
        }
        send_and_expect_success(broker, "other").await;
        memory(&server)
    };
    let grown = tokio::select! {
        () = reading => panic!("let go for parking"),
        peak = writing => peak.saturating_sub(before) / MIB,
    };
    assert!(grown <= 48, "{grown} MiB for four thousand parked pulls");
    drop(stream);
    server.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_of_other_protocols_are_turned_away_at_every_port() {
    let folder = Folder::new("garbage");
    let server = impatient(&folder);
    let ports: [SocketAddr; 2] = [server.address("broker"), server.address("name server")];
    let garbage: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00\x00\x00\x08\x00\x00\x00\xff1234",
        b"\x00\x00\x00\x00\x00\x00\x00\x00",
    ];
    for port in ports {
        for bytes in garbage {
            let mut stream = TcpStream::connect(port).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            let_go(&mut stream).await;
        }
    }
    let client = connect(ports[1]).await;
    let header = GetRouteInfo { topic: "TBW102", ..GetRouteInfo::default() };
    let route = Frame::request(RequestCode::GET_ROUTEINFO_BY_TOPIC, &header);
    let answer = client.call(route, PATIENCE).await.unwrap();
    assert_eq!(answer.response_code(), ResponseCode::SUCCESS, "{:?}", answer.remark);
    server.stop();
}
