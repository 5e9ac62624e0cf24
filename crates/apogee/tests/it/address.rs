//! Addresses: what routes tell a client, on loopback and through address translation.

use std::{
    net::SocketAddr,
    process::{Command, Output},
};

use wire::{
    code::{RequestCode, ResponseCode},
    frame::Frame,
    header::namesrv::GetRouteInfo,
};

use crate::server::{APOGEE, Folder, PATIENCE, Server, command, connect, create_topic};

async fn route(namesrv: SocketAddr, topic: &str) -> String {
    let client = connect(namesrv).await;
    let header = GetRouteInfo { topic, ..GetRouteInfo::default() };
    let answer = client
        .call(Frame::request(RequestCode::GET_ROUTEINFO_BY_TOPIC, &header), PATIENCE)
        .await
        .unwrap();
    assert_eq!(answer.response_code(), ResponseCode::SUCCESS, "{:?}", answer.remark);
    String::from_utf8(answer.body_bytes().to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn with_nothing_configured_a_route_carries_the_address_that_was_asked() {
    let folder = Folder::new("follows");
    let server = Server::start(&folder, &["--listen", "0.0.0.0"]);
    assert!(server.banner.contains("--advertise"), "{}", server.banner);
    let (namesrv, broker) = (server.address("name server").port(), server.address("broker").port());
    create_topic(&connect(SocketAddr::from(([127, 0, 0, 1], broker))).await, "follows", 1).await;
    for host in ["127.0.0.1", "127.0.0.2", "127.1.2.3"] {
        let body = route(format!("{host}:{namesrv}").parse().unwrap(), "follows").await;
        assert!(body.contains(&format!("\"{host}:{broker}\"")), "{body}");
    }
    server.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_advertised_address_is_what_a_route_carries() {
    let folder = Folder::new("advertised");
    let server = Server::start(&folder, &["--advertise", "127.0.0.9"]);
    let broker = server.address("broker");
    create_topic(&connect(broker).await, "advertised", 1).await;
    let body = route(server.address("name server"), "advertised").await;
    assert!(body.contains(&format!("\"127.0.0.9:{}\"", broker.port())), "{body}");
    server.stop();
}

fn run(program: &str, line: &str) -> Option<Output> {
    Command::new(program).args(line.split_whitespace()).output().ok()
}

fn ip(line: &str) {
    let output = run("ip", line).unwrap();
    assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A server in a network namespace of its own, and a client's namespace beside it, that reaches the server only through
/// a third address that is translated on the way: as published container ports are.
struct Translated {
    server: String,
    client: String,
}

/// The address of the server on its own link, and the one that clients know.
const INSIDE: &str = "10.213.1.2";
const OUTSIDE: &str = "198.51.100.7";

impl Translated {
    /// `None`, with the reason, where this machine does not allow it.
    fn new() -> Result<Translated, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("needs root for network namespaces".into());
        }
        for tool in ["ip", "nft"] {
            if run(tool, "-V").is_none() {
                return Err(format!("needs `{tool}`"));
            }
        }
        let id = std::process::id();
        let nets = Translated { server: format!("apg-s-{id}"), client: format!("apg-c-{id}") };
        let Translated { server, client } = &nets;
        ip(&format!("netns add {server}"));
        ip(&format!("netns add {client}"));
        ip(&format!("-n {client} link add c0 type veth peer name s0 netns {server}"));
        for (net, link, address) in
            [(client, "c0", "10.213.1.1/24"), (server, "s0", "10.213.1.2/24")]
        {
            ip(&format!("-n {net} addr add {address} dev {link}"));
            ip(&format!("-n {net} link set {link} up"));
            ip(&format!("-n {net} link set lo up"));
        }
        // to the client, the server is behind OUTSIDE; its packets are turned to INSIDE when they leave, and there is no
        // other way
        ip(&format!("-n {client} route add {OUTSIDE}/32 via {INSIDE}"));
        let rules = format!(
            "add table ip apg
             add chain ip apg turn {{ type nat hook output priority -100; }}
             add rule ip apg turn ip daddr {OUTSIDE} dnat to {INSIDE}
             add chain ip apg only {{ type filter hook output priority 0; }}
             add rule ip apg only ip daddr {INSIDE} ct status dnat accept
             add rule ip apg only ip daddr {INSIDE} reject"
        );
        let output =
            Command::new("ip").args(["netns", "exec", client, "nft", &rules]).output().unwrap();
        if !output.status.success() {
            return Err(format!(
                "no address translation: {}",
                String::from_utf8_lossy(&output.stderr)
            ));
        }
        ip(&format!("-n {server} route add default via 10.213.1.1"));
        Ok(nets)
    }

    fn within(&self, net: &str, command: &Command) -> Command {
        let mut within = Command::new("ip");
        within.args(["netns", "exec", net]).arg(command.get_program()).args(command.get_args());
        if let Some(folder) = command.get_current_dir() {
            within.current_dir(folder);
        }
        within
    }

    fn bench(&self, namesrv: u16) -> Output {
        let mut bench = Command::new(APOGEE);
        bench.args(["bench", "produce", "--create", "--messages", "100", "--namesrv"]);
        bench.arg(format!("{OUTSIDE}:{namesrv}"));
        self.within(&self.client, &bench).output().unwrap()
    }
}

impl Drop for Translated {
    fn drop(&mut self) {
        for net in [&self.server, &self.client] {
            let _ = run("ip", &format!("netns del {net}"));
        }
    }
}

#[test]
fn behind_address_translation_clients_reach_what_is_advertised() {
    let nets = match Translated::new() {
        Ok(nets) => nets,
        Err(reason) => {
            eprintln!("skipped: {reason}");
            return;
        }
    };
    let folder = Folder::new("nat");
    let advertised = command(&folder, &["--listen", "0.0.0.0", "--advertise", OUTSIDE]);
    let server = Server::spawn(&mut nets.within(&nets.server, &advertised));
    let output = nets.bench(server.address("name server").port());
    let line = String::from_utf8_lossy(&output.stdout);
    assert!(line.contains(" messages=100 "), "{line}{}", String::from_utf8_lossy(&output.stderr));
    server.stop();

    // without it, routes carry what the server can know, which is of no use out there; the banner says what is
    let plain = command(&folder, &["--listen", "0.0.0.0"]);
    let server = Server::spawn(&mut nets.within(&nets.server, &plain));
    assert!(server.banner.contains("--advertise HOST"), "{}", server.banner);
    let output = nets.bench(server.address("name server").port());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && errors.contains(INSIDE), "{errors}");
    server.stop();
}
