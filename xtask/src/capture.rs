//! Golden bytes from the original: frames on the wire, store folders, request codes.
//!
//! Everything under `fixtures/` but its README is written here, by real 4.9.7 and 5.5.0 clients and servers. The golden
//! tests of `wire` and `store` read it; nothing here uses `wire`, so the two cannot share a mistake.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, thread, time::Duration};

use anyhow::{Context, bail};
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::java::{self, Part};
use crate::process::{output, root, run as run_command};
use crate::recorder::{self, Album, Proxy};
use crate::server::{Kind, Ports, Role, Server, Spec, quiet_logging};

const PORTS: Ports = Ports { namesrv: 39_976, broker: 41_911 };
const RELEASES: [&str; 2] = ["4.9.7", "5.5.0"];
const FIXTURE_BYTES_MAX: u64 = 256 * 1024;

/// Runs the steps whose names begin with one of `words`, or all of them: `codes`, `sql92`, `compression`,
/// `frames-RELEASE-CODEC`, `stores-RELEASE-END`, `stores-5.5.0-extended`.
pub(crate) fn run(words: &[String]) -> anyhow::Result<()> {
    let wanted =
        |step: &str| words.is_empty() || words.iter().any(|word| step.starts_with(word.as_str()));
    if wanted("codes") {
        codes()?;
    }
    if wanted("sql92") {
        sql92(&fixtures().join("sql92/verdicts-5.5.0.txt"))?;
    }
    if wanted("compression") {
        run_command(
            java::server_program("Bodies", &workplace("compression")?)?
                .arg(fixtures().join("compression")),
        )?;
    }
    // a proxy lives as long as this process, so each round has ports of its own
    let rounds = RELEASES.into_iter().flat_map(|release| [(release, "json"), (release, "binary")]);
    for ((release, codec), round) in rounds.zip(1000..) {
        if wanted(&format!("frames-{release}-{codec}")) {
            frames(release, codec, round)?;
        }
    }
    for release in RELEASES {
        for end in [End::Clean, End::Killed] {
            if wanted(&format!("stores-{release}-{}", end.name())) {
                store(release, end)?;
            }
        }
    }
    if wanted("stores-5.5.0-extended") {
        extended_store()?;
    }
    Ok(())
}

fn fixtures() -> PathBuf {
    root().join("fixtures")
}

/// A folder outside the checkout: its path ends up inside some bodies.
fn workplace(name: &str) -> anyhow::Result<PathBuf> {
    let folder = env::temp_dir().join("apogee-capture").join(name);
    recorder::clear(&folder)?;
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

// ---- codes

/// The constants of a class in the server's jars, by value.
fn constants(release: &str, class: &str) -> anyhow::Result<BTreeMap<i32, String>> {
    let jars = java::jars(Part::Server, release)?;
    let text = output(Command::new("javap").args([
        "-constants",
        "-cp",
        &format!("{}/*", jars.display()),
        class,
    ]))?;
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let Some(rest) = line.trim().strip_prefix("public static final int ") else { continue };
        let (name, value) = rest.trim_end_matches(';').split_once(" = ").context("a constant")?;
        found.insert(value.parse()?, name.to_owned());
    }
    Ok(found)
}

fn request_codes(release: &str) -> anyhow::Result<BTreeMap<i32, String>> {
    constants(
        release,
        match release {
            "4.9.7" => "org.apache.rocketmq.common.protocol.RequestCode",
            _ => "org.apache.rocketmq.remoting.protocol.RequestCode",
        },
    )
}

fn codes() -> anyhow::Result<()> {
    let list = |codes: BTreeMap<i32, String>| {
        codes.into_iter().map(|(code, name)| format!("{code} {name}\n")).collect::<String>()
    };
    fs::create_dir_all(fixtures())?;
    fs::write(fixtures().join("request-codes-5.5.0.txt"), list(request_codes("5.5.0")?))?;
    let responses = constants("5.5.0", "org.apache.rocketmq.remoting.protocol.ResponseCode")?;
    fs::write(fixtures().join("response-codes-5.5.0.txt"), list(responses))?;
    Ok(())
}

// ---- sql92

/// Has the original's classes judge the expressions of a file, in place.
pub(crate) fn sql92(file: &Path) -> anyhow::Result<()> {
    run_command(java::server_program("Filters", &workplace("sql92")?)?.arg(file))
}

// ---- frames

/// Records what a client, a broker, a name server and `mqadmin` of one release say to each other.
fn frames(release: &str, codec: &str, proxy_ports: u16) -> anyhow::Result<()> {
    let folder = fixtures().join("frames").join(format!("{release}-{codec}"));
    recorder::clear(&folder)?;
    let work = workplace(&format!("frames-{release}-{codec}"))?;
    let names: HashMap<i32, String> = request_codes(release)?.into_iter().collect();
    let to_namesrv = Album::new(folder.join("namesrv"), names.clone())?;
    let to_broker = Album::new(folder.join("broker"), names)?;
    let proxy = Proxy { port: PORTS.broker + proxy_ports, target: PORTS.broker, rename: None };
    recorder::start(&proxy, to_broker)?;
    let rename = (format!("127.0.0.1:{}", PORTS.broker), format!("127.0.0.1:{}", proxy.port));
    let proxy =
        Proxy { port: PORTS.namesrv + proxy_ports, target: PORTS.namesrv, rename: Some(rename) };
    recorder::start(&proxy, to_namesrv)?;
    let namesrv_address = format!("127.0.0.1:{}", proxy.port);

    let java_options: Vec<String> = match codec {
        "binary" => vec!["-Drocketmq.serialize.type=ROCKETMQ".to_owned()],
        _ => Vec::new(),
    };
    let kind = Kind::parse(release);
    let mut namesrv = Spec::new(&kind, Role::Namesrv, work.join("namesrv"), PORTS);
    namesrv.java_options.clone_from(&java_options);
    let mut broker = Spec::new(&kind, Role::Broker, work.join("broker"), PORTS);
    broker.java_options.clone_from(&java_options);
    broker.extra.push(format!("namesrvAddr={namesrv_address}"));
    let namesrv = namesrv.start()?;
    let broker = broker.start()?;

    let class_path = java::programs(release)?;
    for program in [&["Interop"][..], &["Ledger", "fill"]] {
        let mut client = java::java(&class_path, &work)?;
        client.args(&java_options).arg("-Dinterop.many=200").args(program);
        client.env("NAMESRV_ADDR", &namesrv_address);
        run_command(&mut client)?;
    }
    for words in administration() {
        let jars = java::jars(Part::Server, release)?;
        let mut admin = java::java(&format!("{}/*", jars.display()), &work)?;
        admin.args(&java_options).arg("-Drmq.logback.configurationFile=rmq.tools.logback.xml");
        admin.env("ROCKETMQ_HOME", quiet_logging(&work)?);
        admin.env("NAMESRV_ADDR", &namesrv_address);
        admin.arg("org.apache.rocketmq.tools.command.MQAdminStartup").args(words);
        run_command(&mut admin)?;
    }
    broker.stop()?;
    namesrv.stop()
}

/// `mqadmin` lines whose frames are worth keeping; none of them shows a path or a host.
fn administration() -> Vec<Vec<&'static str>> {
    [
        "updateTopic -c DefaultCluster -t admin-topic -r 4 -w 4",
        "topicList",
        "topicRoute -t admin-topic",
        "topicStatus -t golden-plain",
        "clusterList",
        "updateSubGroup -c DefaultCluster -g admin-group",
        "consumerProgress -g G-golden",
        "updateOrderConf -t admin-topic -v broker-a:4 -m put",
        "updateOrderConf -t admin-topic -m get",
        "wipeWritePerm -b broker-a",
        "addWritePerm -b broker-a",
        "deleteSubGroup -c DefaultCluster -g admin-group",
        "deleteTopic -c DefaultCluster -t admin-topic",
    ]
    .into_iter()
    .map(|line| line.split(' ').collect())
    .collect()
}

// ---- stores

/// How the broker that wrote a store ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// By SIGTERM: everything flushed, no abort mark.
    Clean,
    /// By SIGKILL.
    Killed,
}

impl End {
    fn name(self) -> &'static str {
        match self {
            End::Clean => "clean",
            End::Killed => "killed",
        }
    }
}

/// Has a broker write one message of each kind into small files, and keeps its folder and what a client saw in it.
fn store(release: &str, end: End) -> anyhow::Result<()> {
    let name = format!("{release}-{}", end.name());
    let work = workplace(&format!("store-{name}"))?;
    let kind = Kind::parse(release);
    let namesrv = Spec::new(&kind, Role::Namesrv, work.join("namesrv"), PORTS);
    let mut broker = Spec::new(&kind, Role::Broker, work.join("broker"), PORTS);
    broker.extra = small_files();
    let _namesrv = namesrv.start()?;
    let running = broker.start()?;
    let class_path = java::programs(release)?;
    let client = |words: &[&str]| -> anyhow::Result<String> {
        let mut client = java::java(&class_path, &work)?;
        client.args(["Ledger"]).args(words);
        client.env("NAMESRV_ADDR", format!("127.0.0.1:{}", PORTS.namesrv));
        output(&mut client)
    };
    client(&["fill"])?;
    let seen = client(&[
        "read",
        "golden-plain",
        "golden-batch",
        "golden-compressed",
        "golden-delayed",
        "golden-transactions",
        "golden-retried",
    ])?;
    // the tables are written each five seconds; a killed broker keeps what it wrote
    wait_for_offsets(&broker.store, "G-golden")?;
    finish(running, end)?;
    keep(&name, &broker, &seen)
}

/// Has a broker with extended queues store messages while a group with a condition is there, and keeps its folder.
fn extended_store() -> anyhow::Result<()> {
    let name = "5.5.0-extended";
    let work = workplace(&format!("store-{name}"))?;
    let kind = Kind::parse("5.5.0");
    let namesrv = Spec::new(&kind, Role::Namesrv, work.join("namesrv"), PORTS);
    let mut broker = Spec::new(&kind, Role::Broker, work.join("broker"), PORTS);
    broker.extra = small_files();
    let extension = [
        "enableConsumeQueueExt=true",
        "enableCalcFilterBitMap=true",
        "mappedFileSizeConsumeQueueExt=300",
    ];
    broker.extra.extend(extension.map(str::to_owned));
    let _namesrv = namesrv.start()?;
    let running = broker.start()?;
    let class_path = java::programs("5.5.0")?;
    let client = |words: &[&str]| -> anyhow::Result<String> {
        let mut client = java::java(&class_path, &work)?;
        client.arg("-Dinterop.run=golden").args(words);
        client.env("NAMESRV_ADDR", format!("127.0.0.1:{}", PORTS.namesrv));
        output(&mut client)
    };
    client(&["Interop", "conditions"])?;
    let seen = client(&["Ledger", "read", "conditions-golden"])?;
    running.stop()?;
    keep(name, &broker, &seen)
}

/// Keeps a broker's folder, its file sizes, and what a client saw.
fn keep(name: &str, broker: &Spec, seen: &str) -> anyhow::Result<()> {
    let folder = fixtures().join("stores").join(name);
    recorder::clear(&folder)?;
    pack(&broker.store, &folder.join("store"))?;
    let seen: String =
        seen.lines().filter(|line| *line != "@done").map(|line| format!("{line}\n")).collect();
    fs::write(folder.join("messages.tsv"), seen)?;
    fs::write(folder.join("broker.conf"), broker.extra.join("\n") + "\n")?;
    Ok(())
}

fn finish(running: Server, end: End) -> anyhow::Result<()> {
    match end {
        End::Clean => running.stop(),
        End::Killed => running.kill(),
    }
}

fn wait_for_offsets(store: &Path, group: &str) -> anyhow::Result<()> {
    for _ in 0..600 {
        let text = fs::read_to_string(store.join("config/consumerOffset.json")).unwrap_or_default();
        if text.contains(group) {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(50));
    }
    bail!("{group} is not in consumerOffset.json")
}

/// File sizes that make a few hundred messages span several files of each kind.
fn small_files() -> Vec<String> {
    [
        "mappedFileSizeCommitLog=65536",
        "mappedFileSizeConsumeQueue=1000",
        "maxHashSlotNum=200",
        "maxIndexNum=800",
        "timerWheelEnable=false",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// Copies a folder, each file compressed on its own; a file keeps its name and gets `.gz`.
fn pack(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name().into_string().ok().context("a file name")?;
        if entry.file_type()?.is_dir() {
            // a RocksDB that the file queues do not use
            if name != "rocksdbstore" {
                pack(&entry.path(), &to.join(name))?;
            }
            continue;
        }
        let target = to.join(format!("{name}.gz"));
        let mut packed = GzEncoder::new(File::create(&target)?, Compression::best());
        packed.write_all(&fs::read(entry.path())?)?;
        packed.finish()?;
        if fs::metadata(&target)?.len() > FIXTURE_BYTES_MAX {
            bail!("{} is over {FIXTURE_BYTES_MAX} bytes", target.display());
        }
    }
    Ok(())
}
