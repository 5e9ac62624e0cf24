//! TLS of the process: on every port, by its configuration.

use std::{fs, process::Stdio};

use env::Clock;
use rcgen::{CertificateParams, KeyPair};
use remoting::{Client, Limits, NoRequests, Tls};
use wire::{code::RequestCode, frame::Frame};

use crate::server::{Folder, PATIENCE, Server, command, connect};

/// Writes a certificate for loopback and its key; returns the certificate.
fn issue(folder: &Folder) -> String {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    fs::write(folder.0.join("key.pem"), key.serialize_pem()).unwrap();
    fs::write(folder.0.join("cert.pem"), &pem).unwrap();
    pem
}

const CERTIFICATE: [&str; 4] =
    ["--set", "tls.server.certPath=cert.pem", "--set", "tls.server.keyPath=key.pem"];

#[tokio::test(flavor = "multi_thread")]
async fn an_enforcing_server_registers_over_tls_takes_nothing_else_and_shows_new_certificates() {
    let folder = Folder::new("tls");
    let first = issue(&folder);
    let flags = [
        &CERTIFICATE[..],
        &["--set", "tls.server.mode=enforcing", "--set", "tls.enable=true"],
        &["--set", "tls.client.authServer=true", "--set", "tls.client.trustCertPath=cert.pem"],
    ];
    let mut process = command(&folder, &flags.concat());
    let server = Server::spawn_with_errors(&mut process, Stdio::null());
    assert!(server.banner.contains("TLS only"), "{}", server.banner);
    let (namesrv, broker) = (server.address("name server"), server.address("broker"));
    let trusting = |pem: &str| Tls::roots(pem).unwrap();
    let over = async |address, tls: &Tls| {
        let (limits, clock) = (Limits::default(), Clock::real());
        Client::connect_tls(address, "127.0.0.1", tls, limits, clock, NoRequests).await
    };
    let ask = || Frame::request(RequestCode::GET_BROKER_CLUSTER_INFO, &());
    let client = over(namesrv, &trusting(&first)).await.unwrap();
    let answer = client.call(ask(), PATIENCE).await.unwrap();
    let text = String::from_utf8_lossy(&answer.body_bytes()).into_owned();
    assert!(text.contains(&broker.port().to_string()), "the broker has registered: {text}");
    over(broker, &trusting(&first)).await.unwrap();
    for address in [namesrv, broker] {
        connect(address).await.call(ask(), PATIENCE).await.expect_err("plain text");
    }

    let second = issue(&folder);
    while over(broker, &trusting(&second)).await.is_err() {}
    client.call(ask(), PATIENCE).await.expect("the old connection goes on");
    server.stop();
}

#[test]
fn what_tls_lacks_is_said_at_the_start_with_the_file() {
    let folder = Folder::new("tls-wrong");
    issue(&folder);
    let refused = |flags: &[&str]| {
        let output = command(&folder, flags).stdin(Stdio::null()).output().unwrap();
        assert!(!output.status.success(), "{flags:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let set = |more: &[&'static str]| refused(&[&CERTIFICATE[..], more].concat());
    let text = refused(&["--set", "tls.server.mode=enforcing"]);
    assert!(text.contains("tls.server.certPath") && text.contains("tls.server.keyPath"), "{text}");
    let text = set(&["--set", "tls.server.keyPath=lost.pem"]);
    assert!(text.contains("`lost.pem`"), "{text}");
    let text = set(&["--set", "tls.server.keyPath=cert.pem"]);
    assert!(text.contains("`cert.pem`") && text.contains("no unencrypted private key"), "{text}");
    let text = set(&["--set", "tls.server.need.client.auth=require"]);
    assert!(text.contains("tls.server.trustCertPath"), "{text}");
    let text = set(&["--set", "tls.server.mode=enforcing"]);
    assert!(text.contains("tls.enable=true"), "{text}");
    assert!(!folder.0.join("data").exists());
}
