//! Peers that behave: runs, waits, calls in both directions, stopping.

use std::{sync::atomic::Ordering, time::Duration};

use env::Clock;
use remoting::{CallError, Client, CloseReason, Handler, Limits, PushError, Replies};
use tokio::io::AsyncWriteExt;
use wire::{code::ResponseCode, frame::Frame};

use crate::harness::{ECHO, Fixture, HOLD, LARGE, LARGE_BYTES, PARK, encoded, request, until};

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn requests_that_arrive_together_are_one_run_and_are_answered_in_order() {
    let fixture = Fixture::start(Limits::default());
    let mut peer = fixture.peer().await;
    let together: Vec<u8> = (0..16).flat_map(|opaque| encoded(ECHO, opaque, b"hello")).collect();
    peer.send(&together).await;
    for opaque in 0..16 {
        let answer = peer.receive().await.expect("an answer");
        assert_eq!((answer.opaque, answer.body_len()), (opaque, 5));
    }
    assert_eq!(fixture.door.run_largest.load(Ordering::SeqCst), 16);
}

#[tokio::test]
async fn a_run_is_no_longer_than_its_bound_and_nothing_is_lost_behind_it() {
    let fixture = Fixture::start(Limits { run_frames_max: 3, ..Limits::default() });
    let mut peer = fixture.peer().await;
    let together: Vec<u8> = (0..100).flat_map(|opaque| encoded(ECHO, opaque, b"")).collect();
    peer.send(&together).await;
    for opaque in 0..100 {
        assert_eq!(peer.receive().await.map(|answer| answer.opaque), Some(opaque));
    }
    assert_eq!(fixture.door.run_largest.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn an_answer_that_is_ready_does_not_wait_for_one_that_is_not() {
    let fixture = Fixture::start(Limits::default());
    let mut peer = fixture.peer().await;
    peer.send(&[encoded(HOLD, 1, b""), encoded(LARGE, 2, b""), encoded(ECHO, 3, b"")].concat())
        .await;
    let mut first =
        [peer.receive().await, peer.receive().await].map(|answer| answer.map(|a| a.opaque));
    first.sort();
    assert_eq!(first, [Some(2), Some(3)]);
    fixture.door.gate.add_permits(1);
    assert_eq!(peer.receive().await.map(|answer| answer.opaque), Some(1));
}

#[tokio::test]
async fn a_body_of_any_size_arrives_as_it_was_sent() {
    static BODY: [u8; 5 << 20] = [171; 5 << 20];
    let fixture = Fixture::start(Limits::default());
    let client = fixture.client().await;
    for len in [0, 1, 511, 512, 513, 4095, 65_536, 1 << 20, 5 << 20] {
        let answer = client.call(request(ECHO, &BODY[..len]), MINUTE).await.expect("an answer");
        assert!(answer.body_bytes() == BODY[..len], "a body of {len} bytes changed on the way");
    }
    // What a large frame took is given back at once, the rest when the connection is quiet.
    assert!(fixture.metrics().read_bytes() <= 256 * 1024);
    fixture.pass(5);
    until(|| fixture.metrics().read_bytes() == 0).await;
}

#[tokio::test]
async fn reading_pauses_while_too_many_requests_are_unanswered() {
    let fixture = Fixture::start(Limits { requests_in_flight_max: 8, ..Limits::default() });
    let mut peer = fixture.peer().await;
    let together: Vec<u8> = (0..100).flat_map(|opaque| encoded(PARK, opaque, b"")).collect();
    peer.send(&together).await;
    until(|| fixture.door.taken.load(Ordering::SeqCst) == 8).await;
    // A second connection is served meanwhile, and shows that the first had its chance to go on.
    let client = fixture.client().await;
    client.call(request(ECHO, b""), MINUTE).await.expect("an answer");
    assert_eq!(fixture.door.taken.load(Ordering::SeqCst), 9, "the eight, and the other's one");
    fixture.door.gate.add_permits(100);
    for _ in 0..100 {
        assert!(peer.receive().await.is_some());
    }
}

#[tokio::test]
async fn a_server_that_has_too_many_requests_reads_only_from_those_that_wait_for_none() {
    let fixture = Fixture::start(Limits { requests_in_flight_total_max: 64, ..Limits::default() });
    let mut greedy = fixture.peer().await;
    let together: Vec<u8> = (0..100).flat_map(|opaque| encoded(PARK, opaque, b"")).collect();
    greedy.send(&together).await;
    until(|| fixture.metrics().requests_in_flight() >= 64).await;
    greedy.ask(PARK, 100, b"").await;
    let client = fixture.client().await;
    client.call(request(ECHO, b""), MINUTE).await.expect("an answer");
    assert_eq!(fixture.door.taken.load(Ordering::SeqCst), 101, "the hundred, and the other's one");
    fixture.door.gate.add_permits(101);
    for _ in 0..101 {
        fixture.pass(1);
        assert!(greedy.receive().await.is_some());
    }
    until(|| fixture.metrics().requests_in_flight() == 0).await;
}

/// Answers what the server asks with the body it was asked with.
struct Mirror;

impl Handler for Mirror {
    fn run(&mut self, run: &mut Vec<Frame>, replies: &mut Replies) {
        for asked in run.drain(..) {
            replies.push(&asked.respond(ResponseCode(7)).with_body(asked.body_bytes()));
        }
    }
}

#[tokio::test]
async fn the_server_may_ask_over_a_connection_that_its_client_opened() {
    let mut fixture = Fixture::start(Limits::default());
    let clock = Clock::from(fixture.clock.clone());
    let client = Client::connect(fixture.address(), Limits::default(), clock, Mirror).await;
    let client = client.expect("the server accepts");
    let connection = fixture.connections.recv().await.expect("a connection");
    let (asked, answered) = tokio::join!(
        connection.call(request(40, b"are you there"), MINUTE),
        client.call(request(ECHO, b"and you"), MINUTE),
    );
    let (asked, answered) = (asked.expect("an answer"), answered.expect("an answer"));
    assert_eq!((asked.code, asked.body_len()), (7, 13));
    assert_eq!(answered.body_len(), 7);
    assert_eq!(connection.remote(), client.local());
    assert_eq!(connection.local(), client.remote());
}

#[tokio::test]
async fn a_call_ends_when_its_time_is_over_or_the_connection_is() {
    let fixture = Fixture::start(Limits::default());
    let client = fixture.client().await;
    let (late, ()) = tokio::join!(client.call(request(PARK, b""), MINUTE), async {
        until(|| fixture.door.taken.load(Ordering::SeqCst) == 1).await;
        fixture.pass(60);
    });
    assert_eq!(late.err(), Some(CallError::Timeout(MINUTE)));
    let (cut, ()) = tokio::join!(client.call(request(PARK, b""), MINUTE), async {
        until(|| fixture.door.taken.load(Ordering::SeqCst) == 2).await;
        client.close();
    });
    assert_eq!(cut.err(), Some(CallError::Gone));
    assert!(client.is_gone());
    assert_eq!(client.push(request(ECHO, b"")), Err(PushError::Gone));
}

#[tokio::test]
async fn an_outbox_refuses_what_its_peer_does_not_take() {
    let mut fixture = Fixture::start(Limits::default());
    let _silent = fixture.peer().await;
    let connection = fixture.connections.recv().await.expect("a connection");
    static BODY: [u8; 1 << 20] = [1; 1 << 20];
    let refused = loop {
        tokio::task::yield_now().await;
        if let Err(error) = connection.push(request(40, &BODY)) {
            break error;
        }
    };
    assert!(matches!(refused, PushError::Full { queued } if queued <= 5 << 20), "{refused}");
}

#[tokio::test]
async fn stopping_answers_what_is_in_flight_and_drops_what_is_parked() {
    let fixture = Fixture::start(Limits::default());
    let mut peer = fixture.peer().await;
    peer.send(&[encoded(HOLD, 1, b""), encoded(PARK, 2, b"")].concat()).await;
    until(|| fixture.door.taken.load(Ordering::SeqCst) == 2).await;
    let (address, gate, server) = (fixture.address(), fixture.door.gate.clone(), fixture.server);
    let stopped = tokio::spawn(server.shutdown(MINUTE));
    until(|| std::net::TcpStream::connect(address).is_err()).await;
    gate.add_permits(2);
    assert_eq!(peer.receive().await.map(|answer| answer.opaque), Some(1));
    assert!(peer.receive().await.is_none(), "the parked request has no answer");
    drop(peer);
    stopped.await.expect("stopped");
}

#[tokio::test]
async fn stopping_ends_the_calls_that_wait_for_a_peer() {
    let mut fixture = Fixture::start(Limits::default());
    let mut peer = fixture.peer().await;
    let connection = fixture.connections.recv().await.expect("a connection");
    let asked = connection.clone();
    let call = tokio::spawn(async move { asked.call(request(ECHO, b""), MINUTE).await });
    assert!(peer.receive().await.is_some(), "the question");
    let stopped = tokio::spawn(fixture.server.shutdown(MINUTE));
    // No time passes, and the peer has not closed.
    assert_eq!(call.await.expect("no panic").map(drop), Err(CallError::Gone));
    assert!(connection.call(request(ECHO, b""), MINUTE).await.is_err());
    drop(peer);
    stopped.await.expect("stopped");
}

#[tokio::test]
async fn stopping_does_not_wait_longer_than_its_grace() {
    let fixture = Fixture::start(Limits::default());
    let mut peer = fixture.peer().await;
    peer.ask(HOLD, 1, b"").await;
    until(|| fixture.door.taken.load(Ordering::SeqCst) == 1).await;
    let stopped = tokio::spawn(fixture.server.shutdown(MINUTE));
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!stopped.is_finished());
    fixture.clock.advance(MINUTE);
    stopped.await.expect("stopped");
    assert!(peer.receive().await.is_none());
}

#[tokio::test]
async fn a_peer_that_closed_its_side_still_gets_its_answers() {
    let fixture = Fixture::start(Limits::default());
    let mut peer = fixture.peer().await;
    peer.send(&[encoded(HOLD, 1, b""), encoded(PARK, 2, b""), encoded(LARGE, 3, b"")].concat())
        .await;
    assert_eq!(peer.receive().await.map(|answer| answer.body_len()), Some(LARGE_BYTES));
    peer.stream.shutdown().await.expect("our side closes");
    until(|| fixture.metrics().requests_in_flight() == 0).await;
    fixture.door.gate.add_permits(1);
    assert_eq!(peer.receive().await.map(|answer| answer.opaque), Some(1));
    assert!(peer.receive().await.is_none());
    fixture.until_closed(CloseReason::ByPeer, 1).await;
}

#[tokio::test]
async fn an_ipv4_peer_of_a_dual_stack_listener_is_an_ipv4_peer() {
    let mut fixture = Fixture::start_on("[::]:0", Limits::default());
    let client = fixture.client().await;
    let connection = fixture.connections.recv().await.expect("a connection");
    assert_eq!(connection.remote(), client.local());
    assert_eq!(connection.local(), client.remote());
}
