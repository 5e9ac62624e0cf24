//! Speaks TLS with a server that it verifies, and says who it is, for servers with access control.
//!
//! The second argument is a file of certificates to trust (PEM); without it those count that the machine trusts. The access
//! key and its secret come from `ROCKETMQ_ACCESS_KEY` and `ROCKETMQ_SECRET_KEY`.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::{env, fs, future::ready, time::Duration};

use anyhow::{Context, ensure};
use apogee_client::{Client, ConsumeFromWhere, Consumed, Credentials, Filter, Message, Tls};
use tokio::{sync::mpsc, time::timeout};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let name_server = env::args().nth(1).or_else(|| env::var("ROCKETMQ_NAMESRV_ADDR").ok());
    let name_server = name_server.as_deref().unwrap_or("127.0.0.1:9876");
    let tls = match env::args().nth(2) {
        Some(path) => Tls::roots(fs::read(&path).with_context(|| path.clone())?)?,
        None => Tls::platform_roots()?,
    };
    let variable = |name, otherwise: &str| env::var(name).unwrap_or_else(|_| otherwise.to_owned());
    let credentials = Credentials::new(
        variable("ROCKETMQ_ACCESS_KEY", "rocketmq-example"),
        variable("ROCKETMQ_SECRET_KEY", "not-a-secret"),
    );
    let client =
        Client::builder([name_server]).tls(tls.clone()).credentials(credentials).build()?;

    let producer = client.producer("tls-acl").build()?;
    let receipt = producer.send(Message::new("Confidential", "for your eyes only")).await?;
    println!("sent {} over TLS, signed", receipt.unique_key);

    let (sender, mut inbox) = mpsc::unbounded_channel();
    let consumer = client
        .push_consumer("tls-acl-readers")
        .subscribe("Confidential", Filter::all())
        .consume_from_where(ConsumeFromWhere::FirstOffset)
        .start(move |message| {
            let _ = sender.send(message);
            ready(Consumed::Done)
        })
        .await?;
    loop {
        let message = timeout(Duration::from_secs(60), inbox.recv()).await.ok().flatten();
        let message = message.context("the message has not come within a minute")?;
        if message.unique_key() == Some(&receipt.unique_key) {
            println!("got {:?}", message.body());
            break;
        }
    }
    consumer.shutdown().await?;
    producer.shutdown().await;

    // Whoever expects somebody else gets no further than the handshake.
    let client = Client::builder([name_server]);
    let client = client.tls(tls.server_name("somebody.else.example")?).build()?;
    let refused = client.producer("tls-acl").build()?.send(Message::new("Confidential", "?")).await;
    let refused = refused.err().context("a server with another name was trusted")?;
    ensure!(refused.to_string().contains("TLS"), "{refused}");
    println!("a server that is not who it should be: {refused}");
    Ok(())
}
