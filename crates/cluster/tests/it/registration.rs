//! A broker and its name servers.

use std::{net::SocketAddr, time::Duration};

use cluster::registration::Options;
use remoting::Client;
use wire::{
    code::RequestCode,
    frame::Frame,
    header::namesrv::{GetRouteInfo, OneKey, PutKv},
};

use crate::harness::{Fake, Running, World, ask, call, text, topic};

fn options(servers: &[SocketAddr]) -> Options {
    Options {
        name_servers: servers.iter().map(ToString::to_string).collect(),
        broker: "x".to_owned(),
        address: "10.0.0.1:10911".parse().unwrap(),
        ha_address: "10.0.0.1:10912".parse().unwrap(),
        ..Options::default()
    }
}

/// Returns the route, empty if there is none.
async fn route(client: &Client, topic: &str) -> String {
    let header = GetRouteInfo { topic, ..GetRouteInfo::default() };
    text(&call(client, Frame::request(RequestCode::GET_ROUTEINFO_BY_TOPIC, &header)).await)
}

async fn until_routed(client: &Client, topic: &str) {
    while route(client, topic).await.is_empty() {}
}

#[tokio::test]
async fn every_name_server_is_told_all_topics_at_once_and_changes_as_they_come() {
    let world = World::new();
    let servers = [world.start(world.options()), world.start(world.options())];
    let topics = Fake::with(&["TBW102", "a"]);
    let registration = world.register(options(&servers.each_ref().map(Running::address)), &topics);
    registration.settled().await;
    for server in &servers {
        assert!(route(&world.client(server).await, "a").await.contains("10.0.0.1:10911"));
    }
    topics.put(topic("b"));
    registration.settled().await;
    for server in &servers {
        assert!(!route(&world.client(server).await, "b").await.is_empty());
    }
    topics.permit(4);
    registration.settled().await;
    for server in &servers {
        assert!(route(&world.client(server).await, "a").await.contains("\"perm\":4"));
    }
    registration.stop().await;
    for server in &servers {
        assert_eq!(route(&world.client(server).await, "a").await, "");
    }
}

#[tokio::test]
async fn a_topic_by_itself_is_told_if_that_is_set() {
    let world = World::new();
    let server = world.start(world.options());
    let topics = Fake::with(&["TBW102", "a"]);
    let single = Options { enable_single_topic_register: true, ..options(&[server.address()]) };
    let registration = world.register(single, &topics);
    registration.settled().await;
    topics.put(topic("b"));
    registration.settled().await;
    let client = world.client(&server).await;
    assert!(!route(&client, "b").await.is_empty());
}

#[tokio::test]
async fn a_dead_name_server_delays_no_other_and_is_told_when_it_is_back() {
    let world = World::new();
    let (living, dying) = (world.start(world.options()), world.start(world.options()));
    let address = dying.address();
    dying.stop().await;
    let topics = Fake::with(&["TBW102", "a"]);
    let registration = world.register(options(&[address, living.address()]), &topics);
    registration.settled().await;
    until_routed(&world.client(&living).await, "a").await;
    let standings = registration.standings();
    assert!(standings[0].1.failure.as_ref().is_some_and(|why| why.contains("cannot connect")));
    assert_eq!(standings[1].1.failure, None);

    let back = world.start_with(world.options(), None, address);
    let client = world.client(&back).await;
    while route(&client, "a").await.is_empty() {
        world.pass(1).await;
    }
    assert_eq!(registration.standings()[0].1.failure, None);
}

#[tokio::test]
async fn a_name_server_that_was_restarted_is_told_everything_again_at_once() {
    let world = World::new();
    let server = world.start(world.options());
    let address = server.address();
    let topics = Fake::with(&["TBW102", "a"]);
    let registration = world.register(options(&[address]), &topics);
    registration.settled().await;
    server.stop().await;
    let server = world.start_with(world.options(), None, address);
    let client = world.client(&server).await;
    while route(&client, "a").await.is_empty() {
        // The attempt that met the closed port is followed by the next some seconds later.
        world.pass(1).await;
    }
    drop(registration);
}

#[tokio::test]
async fn a_registration_is_renewed_before_it_runs_out() {
    let world = World::new();
    let server = world.start(world.options());
    let topics = Fake::with(&["TBW102", "a"]);
    let registration = world.register(options(&[server.address()]), &topics);
    registration.settled().await;
    for _ in 0..20 {
        world.pass(31).await;
        let client = world.client(&server).await;
        // Its answer follows those to whoever has been waiting longer.
        until_routed(&client, "a").await;
    }
}

#[tokio::test]
async fn heartbeats_keep_a_brief_registration_alive() {
    let world = World::new();
    let server = world.start(world.options());
    let topics = Fake::with(&["TBW102", "a"]);
    let brief = Options { enable_slave_acting_master: true, ..options(&[server.address()]) };
    let registration = world.register(brief, &topics);
    registration.settled().await;
    let client = world.client(&server).await;
    for _ in 0..25 {
        world.clock.advance(Duration::from_secs(1));
        for _ in 0..20 {
            assert!(!route(&client, "a").await.is_empty());
        }
    }
}

#[tokio::test]
async fn the_broker_learns_which_topics_are_ordered() {
    let world = World::new();
    let server = world.start(world.options());
    let client = world.client(&server).await;
    let put = PutKv { namespace: Some("ORDER_TOPIC_CONFIG"), key: Some("a"), value: "x:4" };
    ask(&client, Frame::request(RequestCode::PUT_KV_CONFIG, &put)).await;
    let topics = Fake::with(&["TBW102", "a"]);
    world.register(options(&[server.address()]), &topics).settled().await;
    assert_eq!(*topics.ordered.lock().unwrap(), ["a"]);
    let key = OneKey { namespace: put.namespace, key: put.key };
    ask(&client, Frame::request(RequestCode::DELETE_KV_CONFIG, &key)).await;
}

#[tokio::test]
async fn the_deflated_form_is_understood_as_well() {
    let world = World::new();
    let server = world.start(world.options());
    let topics = Fake::with(&["TBW102", "a"]);
    let compressed = Options { compressed_register: true, ..options(&[server.address()]) };
    let registration = world.register(compressed, &topics);
    registration.settled().await;
    assert_eq!(registration.standings()[0].1.failure, None);
    assert!(!route(&world.client(&server).await, "a").await.is_empty());
}
