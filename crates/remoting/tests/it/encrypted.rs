//! TLS: who trusts whom, on the port of plain text; and peers that break it off, or are no peers of TLS.

use std::{sync::Arc, time::Duration};

use env::{Clock, sim::SimClock};
use remoting::{
    CallError, Client, ClientAuth, CloseReason, ConnectError, Limits, NoRequests, ServerTls, Tls,
    TlsError,
};

use crate::{
    certificates::{Authority, Issued},
    harness::{ECHO, Fixture, LARGE, LARGE_BYTES, request, until},
};

/// Longer than any test.
const PATIENCE: Duration = Duration::from_secs(1_000_000);

fn serve(issued: &Issued, client_auth: ClientAuth, enforced: bool) -> Fixture {
    let tls = ServerTls::new(&issued.identity(client_auth), enforced).expect("an identity");
    Fixture::start_tls(Limits::default(), Arc::new(tls))
}

async fn connect(fixture: &Fixture, host: &str, tls: &Tls) -> Result<Client, ConnectError> {
    let (address, clock) = (fixture.address(), Clock::from(SimClock::new(0)));
    Client::connect_tls(address, host, tls, Limits::default(), clock, NoRequests).await
}

async fn echo(client: &Client, body: &'static [u8]) -> Result<(), CallError> {
    let answer = client.call(request(ECHO, body), PATIENCE).await?;
    assert_eq!(answer.body_bytes(), body);
    Ok(())
}

/// Why nobody got through.
fn refusal(connected: Result<Client, ConnectError>) -> String {
    match connected {
        Err(error @ ConnectError::Tls { .. }) => error.to_string(),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it got through"),
    }
}

#[tokio::test]
async fn whoever_is_trusted_and_plain_peers_share_a_port() {
    let authority = Authority::new();
    let fixture = serve(&authority.issue("127.0.0.1"), ClientAuth::None, false);
    let tls = Tls::roots(&authority.pem).expect("roots");
    let encrypted = connect(&fixture, "127.0.0.1", &tls).await.expect("it is trusted");
    let plain = fixture.client().await;
    for client in [&encrypted, &plain] {
        echo(client, b"body").await.expect("an answer");
    }
    let anyone = Tls::dangerously_trust_anyone();
    let unnamed = connect(&fixture, "nobody.example", &anyone).await.expect("all are trusted");
    echo(&unnamed, b"body").await.expect("an answer");
    drop((encrypted, plain, unnamed));
    fixture.until_closed(CloseReason::ByPeer, 3).await;
}

#[tokio::test]
async fn what_does_not_fit_into_the_socket_is_sent_all_the_same() {
    let authority = Authority::new();
    let fixture = serve(&authority.issue("127.0.0.1"), ClientAuth::None, true);
    let tls = Tls::roots(&authority.pem).expect("roots");
    let client = connect(&fixture, "127.0.0.1", &tls).await.expect("it is trusted");
    let body: &'static [u8] = Box::leak(vec![3; 8 << 20].into_boxed_slice());
    let calls = (0..4).map(|_| client.call(request(LARGE, b""), PATIENCE));
    let (large, echoed) = tokio::join!(futures_util::future::join_all(calls), echo(&client, body));
    echoed.expect("an answer");
    for answer in large {
        assert_eq!(answer.expect("an answer").body_len(), LARGE_BYTES);
    }
    fixture.server.shutdown(PATIENCE).await;
    client.closed().await;
}

#[tokio::test]
async fn a_server_that_is_not_trusted_is_refused_with_the_reason() {
    let authority = Authority::new();
    let fixture = serve(&authority.issue("mq.example"), ClientAuth::None, false);
    let stranger = Tls::roots(Authority::new().pem).expect("roots");
    let said = refusal(connect(&fixture, "mq.example", &stranger).await);
    assert!(said.contains("UnknownIssuer"), "{said}");
    fixture.until_closed(CloseReason::Tls, 1).await;

    let tls = Tls::roots(&authority.pem).expect("roots");
    let said = refusal(connect(&fixture, "127.0.0.1", &tls).await);
    assert!(said.contains("127.0.0.1") && said.contains("mq.example"), "{said}");
    let said = refusal(connect(&fixture, "no name", &tls).await);
    assert!(said.contains("`no name`"), "{said}");
    let tls = tls.server_name("mq.example").expect("a name");
    let client = connect(&fixture, "127.0.0.1", &tls).await.expect("that is its name");
    echo(&client, b"body").await.expect("an answer");
}

#[tokio::test]
async fn a_client_has_to_show_a_certificate_where_one_is_required() {
    let (servers, clients) = (Authority::new(), Authority::new());
    let issued = servers.issue("127.0.0.1");
    let unknown = Tls::roots(&servers.pem).expect("roots");
    let shown = |authority: &Authority| {
        let Issued { chain, key } = authority.issue("me");
        unknown.clone().client_certificate(chain, key).expect("a certificate")
    };
    let (known, stranger) = (shown(&clients), shown(&servers));
    let trusted: Vec<u8> = clients.pem.clone().into();
    let fixture = serve(&issued, ClientAuth::Require(trusted.clone()), false);
    for (refused, tls) in [(1, &unknown), (2, &stranger)] {
        // The server says so behind the client's side of the handshake.
        let client = connect(&fixture, "127.0.0.1", tls).await.expect("a handshake");
        echo(&client, b"body").await.expect_err("it is refused");
        fixture.until_closed(CloseReason::Tls, refused).await;
    }
    let optional = serve(&issued, ClientAuth::Optional(trusted), false);
    for (fixture, tls) in [(&fixture, &known), (&optional, &known), (&optional, &unknown)] {
        let client = connect(fixture, "127.0.0.1", tls).await.expect("it is known");
        echo(&client, b"body").await.expect("an answer");
    }
    let client = connect(&optional, "127.0.0.1", &stranger).await.expect("a handshake");
    echo(&client, b"body").await.expect_err("it is refused");
}

#[tokio::test]
async fn plain_text_is_refused_where_tls_is_enforced_and_tls_where_it_is_not_offered() {
    let authority = Authority::new();
    let enforced = serve(&authority.issue("127.0.0.1"), ClientAuth::None, true);
    let plain = enforced.client().await;
    assert_eq!(echo(&plain, b"body").await, Err(CallError::Gone));
    enforced.until_closed(CloseReason::Tls, 1).await;

    let without = Fixture::start(Limits::default());
    let tls = Tls::roots(&authority.pem).expect("roots");
    let said = refusal(connect(&without, "127.0.0.1", &tls).await);
    assert!(said.contains("may not offer TLS"), "{said}");
    without.until_closed(CloseReason::BadFrame, 1).await;
}

#[tokio::test]
async fn handshakes_that_are_none_or_end_nowhere_are_closed_and_harm_nobody() {
    let authority = Authority::new();
    let fixture = serve(&authority.issue("127.0.0.1"), ClientAuth::None, true);
    let tls = Tls::roots(&authority.pem).expect("roots");
    let client = connect(&fixture, "127.0.0.1", &tls).await.expect("it is trusted");
    let mut garbage = fixture.peer().await;
    garbage.send(b"\x16garbage, and then some more of it").await;
    fixture.until_closed(CloseReason::Tls, 1).await;

    echo(&client, b"body").await.expect("an answer");
    drop(client);
    fixture.until_closed(CloseReason::ByPeer, 1).await;

    let _silent = fixture.peer().await;
    let mut stalled = fixture.peer().await;
    stalled.send(b"\x16\x03\x01\x02\x00\x01").await;
    until(|| fixture.metrics().connections() == 2).await;
    fixture.pass(121);
    fixture.until_closed(CloseReason::Idle, 2).await;
    let client = connect(&fixture, "127.0.0.1", &tls).await.expect("it is trusted");
    echo(&client, b"body").await.expect("an answer");
}

#[tokio::test]
async fn a_new_certificate_is_shown_to_who_connects_from_then_on() {
    let (old, new) = (Authority::new(), Authority::new());
    let tls = ServerTls::new(&old.issue("127.0.0.1").identity(ClientAuth::None), true);
    let tls = Arc::new(tls.expect("an identity"));
    let fixture = Fixture::start_tls(Limits::default(), tls.clone());
    let trusts_old = Tls::roots(&old.pem).expect("roots");
    let before = connect(&fixture, "127.0.0.1", &trusts_old).await.expect("it is trusted");

    let mut torn = new.issue("127.0.0.1").identity(ClientAuth::None);
    torn.key = old.issue("127.0.0.1").key.into();
    assert!(matches!(tls.renew(&torn), Err(TlsError::Key { .. })));
    connect(&fixture, "127.0.0.1", &trusts_old).await.expect("the one before stays");

    tls.renew(&new.issue("127.0.0.1").identity(ClientAuth::None)).expect("an identity");
    refusal(connect(&fixture, "127.0.0.1", &trusts_old).await);
    let trusts_new = Tls::roots(&new.pem).expect("roots");
    connect(&fixture, "127.0.0.1", &trusts_new).await.expect("it is trusted");
    echo(&before, b"body").await.expect("an answer");
}

#[test]
fn what_is_wrong_with_a_text_is_said() {
    let authority = Authority::new();
    let (one, other) = (authority.issue("a"), authority.issue("b"));
    let none = Tls::roots("").expect_err("no certificate");
    assert!(matches!(none, TlsError::NoCertificate { what: "trusted certificates" }), "{none}");
    let cut = &authority.pem[..authority.pem.len() - 30];
    assert!(matches!(Tls::roots(cut), Err(TlsError::Pem { .. })));
    let empty = "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n";
    assert!(matches!(Tls::roots(empty), Err(TlsError::Certificate { .. })));
    let show = |chain: &str, key: &str| {
        Tls::dangerously_trust_anyone().client_certificate(chain, key).expect_err("it is wrong")
    };
    assert_eq!(show(&one.chain, &one.chain), TlsError::NoKey);
    let encrypted = one.key.replace("PRIVATE", "ENCRYPTED PRIVATE");
    assert!(show(&one.chain, &encrypted).to_string().contains("openssl pkey"));
    assert!(matches!(show(&one.chain, &other.key), TlsError::Key { .. }));
    assert!(matches!(show("", &one.key), TlsError::NoCertificate { what: "certificate chain" }));
    let name = Tls::dangerously_trust_anyone().server_name("no name").expect_err("a blank");
    assert_eq!(name, TlsError::ServerName { name: "no name".to_owned() });
}
