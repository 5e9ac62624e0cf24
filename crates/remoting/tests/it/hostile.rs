//! Peers that do not behave: each costs a bounded amount and is let go.

use std::{cell::RefCell, io, sync::Once};

use remoting::{CloseReason, Limits};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{ECHO, Fixture, LARGE, LARGE_BYTES, PARK, encoded, until};

/// The length field of the largest frame that is allowed.
const LARGEST: [u8; 4] = (LARGEST_BYTES as u32 - 4).to_be_bytes();
const LARGEST_BYTES: usize = 16 << 20;

#[tokio::test]
async fn half_a_frame_is_let_go_even_if_it_drips() {
    let fixture = Fixture::start(Limits::default());
    let mut peer = fixture.peer().await;
    let half = &encoded(ECHO, 2, b"never whole")[..40];
    peer.send(&[&encoded(ECHO, 1, b""), &half[..10]].concat()).await;
    assert!(peer.receive().await.is_some());
    for byte in &half[10..40] {
        // Once the server has closed, the socket says so.
        let _ = peer.stream.write_all(&[*byte]).await;
        fixture.pass(3);
        tokio::task::yield_now().await;
    }
    fixture.until_closed(CloseReason::HalfFrame, 1).await;
    assert!(peer.receive().await.is_none());
}

#[tokio::test]
async fn a_length_alone_allocates_nothing_and_a_frame_gets_room_as_it_arrives() {
    let fixture = Fixture::start(Limits::default());
    let mut peer = fixture.peer().await;
    peer.send(&[&encoded(ECHO, 1, b"")[..], &LARGEST].concat()).await;
    assert!(peer.receive().await.is_some());
    assert_eq!(fixture.metrics().read_bytes(), 0);
    for arrived in 1..=8_usize {
        peer.send(&[0; 1 << 20]).await;
        until(|| fixture.metrics().read_bytes() >= (arrived << 20) - 8192).await;
        assert!(fixture.metrics().read_bytes() <= (2 * arrived) << 20);
    }
    drop(peer);
    until(|| fixture.metrics().read_bytes() == 0).await;
}

#[tokio::test]
async fn large_frames_share_a_budget_and_small_requests_do_not_wait_for_it() {
    const BUDGET: usize = 1 << 20;
    let fixture = Fixture::start(Limits { read_bytes_total_max: BUDGET, ..Limits::default() });
    let mut greedy = Vec::new();
    for _ in 0..8 {
        let mut peer = fixture.peer().await;
        peer.send(&LARGEST).await;
        let _ = peer.stream.try_write(&vec![0; 512 * 1024]);
        greedy.push(peer);
    }
    until(|| fixture.metrics().read_bytes() > BUDGET / 2).await;
    let mut modest = fixture.peer().await;
    for opaque in 0..100 {
        modest.ask(ECHO, opaque, b"").await;
        assert_eq!(modest.receive().await.map(|answer| answer.opaque), Some(opaque));
        assert!(fixture.metrics().read_bytes() <= BUDGET + LARGEST_BYTES);
    }
    // One of them went beyond the bound for a moment, which it did not use.
    fixture.pass(6);
    fixture.until_closed(CloseReason::HalfFrame, 1).await;
    fixture.pass(62);
    fixture.until_closed(CloseReason::HalfFrame, 8).await;
    until(|| fixture.metrics().read_bytes() == 0).await;
}

#[tokio::test]
async fn frames_that_exceed_the_budget_together_get_through_one_after_the_other() {
    static BODY: [u8; 3 << 20] = [7; 3 << 20];
    const BUDGET: usize = 8 << 20;
    let fixture = Fixture::start(Limits { read_bytes_total_max: BUDGET, ..Limits::default() });
    let mut peers = tokio::task::JoinSet::new();
    for opaque in 0..40 {
        let mut peer = fixture.peer().await;
        peers.spawn(async move {
            for _ in 0..3 {
                peer.ask(ECHO, opaque, &BODY).await;
                assert_eq!(peer.receive().await.map(|answer| answer.body_len()), Some(BODY.len()));
            }
            peer
        });
    }
    let mut done = Vec::new();
    while let Some(peer) = peers.join_next().await {
        done.push(peer.expect("every frame gets through"));
        assert!(fixture.metrics().read_bytes() <= BUDGET + LARGEST_BYTES);
    }
    // Nobody keeps what a large frame took.
    assert!(fixture.metrics().read_bytes() <= BUDGET / 2);
}

#[tokio::test]
async fn a_frame_over_the_limit_is_refused_after_what_came_before_it_is_answered() {
    let log = Log::start();
    let fixture = Fixture::start(Limits::default());
    let mut peer = fixture.peer().await;
    peer.send(&[&encoded(ECHO, 1, b"")[..], &0x0100_0001_u32.to_be_bytes()].concat()).await;
    assert_eq!(peer.receive().await.map(|answer| answer.opaque), Some(1));
    assert!(peer.receive().await.is_none());
    assert_eq!(fixture.metrics().closed(CloseReason::FrameTooLarge), 1);
    assert!(log.text().contains("FrameTooLarge"), "{}", log.text());
}

#[tokio::test]
async fn bytes_of_other_protocols_close_the_connection_and_the_log_names_them() {
    let cases: [(&[u8], &str); 4] = [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "TLS"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "HTTP"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/2"),
        (b"\x00\x00\x00\x10\x00\x00\x00\x0cnot a header", "BadFrame"),
    ];
    for (bytes, named) in cases {
        let log = Log::start();
        let fixture = Fixture::start(Limits::default());
        let mut peer = fixture.peer().await;
        peer.send(bytes).await;
        assert!(peer.receive().await.is_none(), "{named}");
        assert_eq!(fixture.metrics().closed(CloseReason::BadFrame), 1, "{named}");
        assert!(log.text().contains(named), "{named} is not in {}", log.text());
    }
}

#[tokio::test]
async fn a_client_that_stops_reading_holds_little_and_is_let_go() {
    let limits = Limits::default();
    let fixture = Fixture::start(limits.clone());
    let mut peer = fixture.peer().await;
    let asked: Vec<u8> = (0..1000).flat_map(|opaque| encoded(LARGE, opaque, b"")).collect();
    peer.send(&asked).await;
    // The socket takes some megabytes; then nothing more is made until the peer reads.
    let mut quiet = 0;
    while quiet < 100 {
        let before = fixture.door.made.load(std::sync::atomic::Ordering::SeqCst);
        tokio::task::yield_now().await;
        let moved = fixture.door.made.load(std::sync::atomic::Ordering::SeqCst) != before;
        quiet = if moved || before == 0 { 0 } else { quiet + 1 };
        assert!(
            fixture.metrics().outbound_bytes() <= limits.outbound_bytes_pause + LARGE_BYTES + 4096
        );
    }
    assert!(fixture.metrics().outbound_bytes() > 0);
    fixture.pass(31);
    fixture.until_closed(CloseReason::SlowReader, 1).await;
    assert_eq!(fixture.metrics().outbound_bytes(), 0);
}

#[tokio::test]
async fn a_client_that_reads_slowly_what_it_pinned_is_let_go() {
    let fixture = Fixture::start(Limits::default());
    let mut peer = fixture.peer().await;
    let asked: Vec<u8> = (0..1000).flat_map(|opaque| encoded(LARGE, opaque, b"")).collect();
    peer.send(&asked).await;
    until(|| fixture.metrics().outbound_bytes() > 0).await;
    let mut drops = [0; 1024];
    for _ in 0..40 {
        peer.stream.read_exact(&mut drops).await.expect("a kilobyte a second");
        fixture.pass(1);
        tokio::task::yield_now().await;
    }
    fixture.until_closed(CloseReason::SlowReader, 1).await;
}

#[tokio::test]
async fn a_client_that_reads_byte_by_byte_keeps_nobody_else_waiting() {
    let fixture = Fixture::start(Limits::default());
    let mut slow = fixture.peer().await;
    let asked: Vec<u8> = (0..1000).flat_map(|opaque| encoded(LARGE, opaque, b"")).collect();
    slow.send(&asked).await;
    until(|| fixture.metrics().outbound_bytes() > 0).await;
    let mut other = fixture.peer().await;
    for opaque in 0..20 {
        slow.stream.read_exact(&mut [0]).await.expect("a byte a second");
        // No time passes on the server's clock: what others ask waits for nothing of it.
        other.ask(LARGE, opaque, b"").await;
        assert_eq!(other.receive().await.map(|answer| answer.body_len()), Some(LARGE_BYTES));
        fixture.pass(1);
    }
    assert_eq!(fixture.metrics().connections(), 2);
}

#[tokio::test]
async fn slow_readers_together_stay_within_the_servers_bound() {
    const BOUND: usize = 4 << 20;
    let fixture = Fixture::start(Limits { outbound_bytes_total_max: BOUND, ..Limits::default() });
    let asked: Vec<u8> = (0..200).flat_map(|opaque| encoded(LARGE, opaque, b"")).collect();
    let mut slow = Vec::new();
    for _ in 0..12 {
        let mut peer = fixture.peer().await;
        peer.send(&asked).await;
        slow.push(peer);
    }
    fixture.until_closed(CloseReason::OutboundPressure, 1).await;
    until(|| fixture.metrics().outbound_bytes() <= BOUND).await;
    let mut reader = fixture.peer().await;
    reader.ask(LARGE, 1, b"").await;
    assert_eq!(reader.receive().await.map(|answer| answer.body_len()), Some(LARGE_BYTES));
}

#[tokio::test]
async fn thousands_of_idle_connections_hold_no_buffers_the_excess_is_refused_and_all_are_let_go() {
    // Both ends live in this process, so each connection takes two descriptors.
    let wanted = 10_000;
    let limit = getrlimit(Resource::Nofile);
    let raised = limit.maximum.unwrap_or(u64::MAX).min(2 * wanted + 500);
    setrlimit(Resource::Nofile, Rlimit { current: Some(raised), ..limit })
        .expect("up to the hard limit");
    let open_max = usize::try_from(wanted.min((raised - 400) / 2) / 2).expect("small");

    let fixture = Fixture::start(Limits { connections_max: open_max, ..Limits::default() });
    let mut peers = Vec::new();
    for _ in 0..open_max {
        let mut peer = fixture.peer().await;
        peer.ask(ECHO, 1, b"hello").await;
        assert!(peer.receive().await.is_some());
        peers.push(peer);
    }
    assert_eq!(fixture.metrics().connections(), open_max);
    let mut refused = fixture.peer().await;
    assert!(refused.receive().await.is_none(), "one too many");
    assert_eq!(fixture.metrics().refused(), 1);

    fixture.pass(5);
    peers[0].ask(ECHO, 2, b"still there").await;
    assert!(peers[0].receive().await.is_some());
    // What a connection costs the whole process is measured where the server has one of its own: `apogee/tests/it/hostile.rs`.
    assert_eq!(fixture.metrics().read_bytes(), 0);

    fixture.pass(121);
    until(|| fixture.metrics().connections() == 0).await;
    assert_eq!(fixture.metrics().closed(CloseReason::Idle), open_max as u64);
}

#[tokio::test]
async fn a_connection_that_is_used_is_not_idle() {
    let fixture = Fixture::start(Limits::default());
    let mut peer = fixture.peer().await;
    for opaque in 0..5 {
        peer.ask(ECHO, opaque, b"").await;
        assert!(peer.receive().await.is_some());
        fixture.pass(100);
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }
    peer.ask(PARK, 9, b"").await;
    fixture.door.gate.add_permits(1);
    assert!(peer.receive().await.is_some());
}

/// The log lines of this thread. One subscriber serves all threads: with one for each, whether a line is logged at all
/// is decided by whichever thread comes to it first.
struct Log;

thread_local! {
    static LINES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Log {
    fn start() -> Log {
        static SUBSCRIBED: Once = Once::new();
        SUBSCRIBED.call_once(|| {
            let subscriber = tracing_subscriber::fmt().with_writer(|| Lines).finish();
            tracing::subscriber::set_global_default(subscriber).expect("the only one");
        });
        LINES.take();
        Log
    }

    fn text(&self) -> String {
        LINES.with_borrow(|lines| String::from_utf8_lossy(lines).into_owned())
    }
}

struct Lines;

impl io::Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        LINES.with_borrow_mut(|lines| lines.extend_from_slice(line));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
