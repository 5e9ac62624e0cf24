//! Clients over TLS: a whole cluster that accepts nothing else for its clients.

use std::{future::ready, sync::Arc};

use apogee_client::{ConsumeFromWhere, Consumed, Filter, Message, SendError, Tls};
use rcgen::{CertificateParams, KeyPair};
use remoting::{ClientAuth, ServerIdentity, ServerTls};

use crate::harness::{Cluster, Seen};

#[tokio::test]
async fn messages_go_to_and_fro_over_tls_and_nothing_goes_to_who_is_not_trusted() {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("a name");
    let pem = params.self_signed(&key).expect("a certificate").pem();
    let identity = ServerIdentity {
        certificate: pem.clone().into(),
        key: key.serialize_pem().into(),
        client_auth: ClientAuth::None,
    };
    let tls = Arc::new(ServerTls::new(&identity, false).expect("an identity"));
    let cluster = Cluster::over_tls(tls).await;
    cluster.topic("T", 2).await;
    let client = cluster.builder().tls(Tls::roots(pem).expect("roots")).build().expect("a client");
    let producer = client.producer("g").build().expect("a producer");
    producer.send(Message::new("T", "over TLS")).await.expect("it is stored");
    let seen = Seen::default();
    let handler = {
        let seen = seen.clone();
        move |message: apogee_client::ReceivedMessage| {
            seen.note(message.body());
            ready(Consumed::Done)
        }
    };
    let consumer = client
        .push_consumer("c")
        .subscribe("T", Filter::all())
        .consume_from_where(ConsumeFromWhere::FirstOffset)
        .start(handler)
        .await
        .expect("a consumer");
    seen.until(1).await;
    consumer.shutdown().await.expect("it stops");

    let machine = Tls::platform_roots().expect("this machine trusts somebody");
    let stranger = cluster.builder().tls(machine).build().expect("a client");
    let stranger = stranger.producer("g").build().expect("a producer");
    let error = stranger.send(Message::new("T", "lost")).await.expect_err("it is not trusted");
    assert!(matches!(error, SendError::Route(_)), "{error:?}");
    assert!(error.to_string().contains("TLS handshake failed"), "{error}");
}
