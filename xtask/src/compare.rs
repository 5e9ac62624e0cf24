//! `cargo xtask compare`: the original and Apogee one after the other, the same work, and the table of it.
//!
//! A [`Session`] is one fresh server with what is measured on it, in order; both kinds of server run the same sessions
//! with the same flags of `apogee bench`. Every figure is kept under `target/compare`, and the table in
//! `docs/performance.md` is written from all that is there, so that rows can be measured on different days.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::PathBuf,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::{
    java,
    process::{output, root, run},
    server::{Kind, Ports, Role, Server, Spec},
};

/// The release that we are compared with.
const RELEASE: &str = "5.5.0";
const PORTS: Ports = Ports { namesrv: 27_876, broker: 27_911 };

const USAGE: &str = "\
usage: cargo xtask compare [ROW]... [--rounds N] [--only original|apogee] [--heap SIZE] [--built] [--table]

  rows: produce wide pull batch latency lone memory sync idle delay retry transaction orderly sql92
        restart topics deep members groups timers client; all of them unless named
  --built measures target/release/apogee as it is
  --table writes docs/performance.md from what was measured before, and measures nothing
";

/// One figure of the table.
struct Figure {
    row: &'static str,
    /// What is measured, with its unit.
    what: &'static str,
    /// Its key: `<step>.<key of the bench line>`.
    key: &'static str,
    /// How many decimals are shown.
    decimals: usize,
    /// What is to be reached, as a ratio to the original or as a figure.
    target: &'static str,
}

const fn figure(
    row: &'static str,
    what: &'static str,
    key: &'static str,
    decimals: usize,
    target: &'static str,
) -> Figure {
    Figure { row, what, key, decimals, target }
}

/// The rows, with what they are called.
const ROWS: [(&str, &str); 21] = [
    ("produce", "1 KiB sends, 4 connections × 64 in flight, async flush"),
    ("wide", "the same, 4 × 256 in flight"),
    ("pull", "pull of that backlog, 32 a request"),
    ("batch", "batches of 64 × 128 B, 4 × 8 in flight"),
    ("latency", "1,000 sends a second with a waiting consumer"),
    ("lone", "one connection, one in flight"),
    ("memory", "anonymous memory after these, more than 4 M messages"),
    ("sync", "1 KiB sends, sync flush, 4 × 64 in flight"),
    ("idle", "empty directory, name server and broker"),
    ("delay", "delayed for a second by level, 1 KiB, until delivered"),
    ("retry", "sent back with a delay of a second, until they come again"),
    ("transaction", "half messages of 1 KiB that are committed at once, until delivered"),
    ("orderly", "pull with queue locks and commits, 32 a request"),
    ("sql92", "pull of 1 KiB messages by a condition on two properties, 32 a request"),
    ("restart", "start after kill -9 with 10 GiB of log"),
    ("topics", "10,000 topics × 4 queues receiving in turn, 4 × 64 in flight"),
    ("deep", "one queue with 50 M messages of 64 B"),
    ("members", "5,000 consumers in one group, a connection each"),
    ("groups", "10,000 groups with a consumer each"),
    ("timers", "1 M messages of 128 B that wait for their time, due 50,000 a second"),
    (
        "client",
        "1 KiB through one client against Apogee's server: the Java client (as `original`) and `apogee-client`",
    ),
];

const FIGURES: &[Figure] = &[
    figure("produce", "server CPU, µs a message", "produce.server_cpu_us", 2, "≤ 0.10"),
    figure("produce", "messages/s", "produce.rate", 0, "≥ 5, or the limit"),
    figure("produce", "send p99, µs", "produce.p99_us", 0, ""),
    figure("produce", "disk, MiB/s", "produce.disk_mib_per_s", 0, ""),
    figure("produce", "server, cores", "produce.server_cores", 2, ""),
    figure("produce", "generator, µs a message", "produce.generator_cpu_us", 2, ""),
    figure("produce", "all else, cores", "produce.outside_cores", 2, ""),
    figure("wide", "messages/s", "wide.rate", 0, "≥ that of 64 in flight"),
    figure("wide", "server CPU, µs a message", "wide.server_cpu_us", 2, ""),
    figure("wide", "refused as busy, warm", "wide.busy", 0, "none"),
    figure("wide", "refused as busy, cold", "cold.busy", 0, "none"),
    figure("pull", "server CPU, µs a message", "pull.server_cpu_us", 3, "≤ 0.17"),
    figure("pull", "messages/s", "pull.rate", 0, ""),
    figure("batch", "server CPU, µs a message", "batch.server_cpu_us", 3, "≤ 0.125"),
    figure("batch", "messages/s", "batch.rate", 0, ""),
    figure("batch", "longest from acknowledged to visible, ms", "batch.lag_max_ms", 1, "≤ 50 ms"),
    figure("latency", "end to end p50, µs", "latency.end_to_end_p50_us", 0, "≤ 0.5"),
    figure("latency", "end to end p99, µs", "latency.end_to_end_p99_us", 0, "≤ 0.5"),
    figure("lone", "send p50, async flush, µs", "lone.p50_us", 0, "≤ 0.5"),
    figure("memory", "MiB", "memory.server_anon_mib", 0, "≤ 250 MiB"),
    figure("sync", "server CPU, µs a message", "sync.server_cpu_us", 2, "≤ 0.20"),
    figure("sync", "messages/s", "sync.rate", 0, "≥ 2, or the device"),
    figure("sync", "send p50, one in flight, µs", "lone_sync.p50_us", 0, "device + 100 µs"),
    figure("idle", "anonymous memory, MiB", "idle.anon_mib", 1, "≤ 30 MiB"),
    figure("idle", "from exec to the first answer, ms", "idle.start_ms", 0, "≤ 100 ms"),
    figure("delay", "server CPU, µs a message", "delay.server_cpu_us", 2, "≤ 0.20"),
    figure("delay", "messages/s", "delay.rate", 0, "≥ 5, or the limit"),
    figure("retry", "server CPU, µs a message", "retry.server_cpu_us", 2, "≤ 0.20"),
    figure("retry", "messages/s", "retry.rate", 0, "≥ 5, or the limit"),
    figure("transaction", "server CPU, µs a message", "transaction.server_cpu_us", 2, "≤ 0.20"),
    figure("transaction", "messages/s", "transaction.rate", 0, "≥ 5, or the limit"),
    figure("orderly", "server CPU, µs a message", "orderly.server_cpu_us", 3, "≤ 0.20"),
    figure("orderly", "messages/s", "orderly.rate", 0, ""),
    figure("orderly", "the same without, server CPU", "unordered.server_cpu_us", 3, ""),
    figure("sql92", "all match, server CPU, µs a message", "sql_all.server_cpu_us", 3, "≤ 0.20"),
    figure("sql92", "all match, messages/s", "sql_all.rate", 0, ""),
    figure("sql92", "none match, server CPU, µs a message", "sql_none.server_cpu_us", 3, "≤ 0.20"),
    figure("sql92", "none match, messages/s", "sql_none.rate", 0, ""),
    figure("restart", "from exec to the first answer, ms", "restart.start_ms", 0, "≤ 2,000 ms"),
    figure("topics", "creating one, ms", "topics.create_topic_ms", 2, "≤ 1 ms"),
    figure("topics", "messages/s", "topics.rate", 0, "≥ 80 % of one topic's"),
    figure("topics", "server CPU, µs a message", "topics.server_cpu_us", 2, ""),
    figure("topics", "descriptors of the server", "topics.descriptors", 0, "bounded"),
    figure(
        "deep",
        "pull at the front, server µs a message",
        "deep_front.server_cpu_us",
        3,
        "as with an empty queue",
    ),
    figure(
        "deep",
        "pull in the middle, server µs a message",
        "deep_middle.server_cpu_us",
        3,
        "as with an empty queue",
    ),
    figure(
        "deep",
        "pull at the end, server µs a message",
        "deep_end.server_cpu_us",
        3,
        "as with an empty queue",
    ),
    figure(
        "deep",
        "send to it, server µs a message",
        "deep_send.server_cpu_us",
        2,
        "as with an empty queue",
    ),
    figure(
        "deep",
        "send to an empty queue, server µs a message",
        "empty_send.server_cpu_us",
        2,
        "",
    ),
    figure(
        "deep",
        "anonymous memory, MiB",
        "deep_end.server_anon_mib",
        0,
        "as with an empty queue",
    ),
    figure("members", "joining, server µs", "members_join.server_cpu_us", 1, ""),
    figure("members", "heartbeat, server µs", "members_beat.server_cpu_us", 1, "≤ 0.2"),
    figure("members", "the ids of all, server µs", "members_list.server_cpu_us", 1, "≤ 0.2"),
    figure("members", "the ids of all, p99, µs", "members_list.p99_us", 0, ""),
    figure("members", "anonymous memory, MiB", "members_list.server_anon_mib", 0, ""),
    figure("groups", "joining, server µs", "groups_join.server_cpu_us", 1, ""),
    figure("groups", "heartbeat, server µs", "groups_beat.server_cpu_us", 1, "≤ 0.2"),
    figure("groups", "the ids of one, server µs", "groups_list.server_cpu_us", 1, "≤ 0.2"),
    figure("groups", "anonymous memory, MiB", "groups_list.server_anon_mib", 0, ""),
    figure("timers", "taken in, messages/s", "timers.in_rate", 0, ""),
    figure("timers", "taken in, server CPU, µs a message", "timers.in_server_cpu_us", 2, ""),
    figure("timers", "anonymous memory before, MiB", "timers.anon_before_mib", 0, ""),
    figure(
        "timers",
        "anonymous memory, all waiting, MiB",
        "timers.anon_pending_mib",
        0,
        "as before",
    ),
    figure("timers", "delivered, messages/s", "timers.delivered_per_s", 0, "≥ 50,000"),
    figure("timers", "delivered, server CPU, µs a message", "timers.server_cpu_us", 2, "≤ 0.20"),
    figure("timers", "late p50, ms", "timers.late_p50_ms", 0, ""),
    figure("timers", "late at most, ms", "timers.late_max_ms", 0, "≤ 1,000 ms"),
    figure("timers", "before their time", "timers.early", 0, "none"),
    figure("client", "sender CPU, µs a message", "client_send.generator_cpu_us", 2, "≤ 0.20"),
    figure("client", "sent, messages/s", "client_send.rate", 0, ""),
    figure("client", "sender, anonymous memory, MiB", "client_send.generator_anon_mib", 0, ""),
    figure("client", "receiver CPU, µs a message", "client_receive.generator_cpu_us", 2, "≤ 0.20"),
    figure("client", "received, messages/s", "client_receive.rate", 0, ""),
    figure(
        "client",
        "sent one after the other, p50, µs",
        "client_lone.p50_us",
        0,
        "the round trip",
    ),
    figure("client", "the round trip, raw, p50, µs", "client_round_trip.p50_us", 0, ""),
];

/// A run of `apogee bench` on a session's server.
struct Step {
    name: &'static str,
    flags: &'static str,
}

const fn step(name: &'static str, flags: &'static str) -> Step {
    Step { name, flags }
}

/// What both kinds of server are warmed by; the first part is measured as the cold start.
const COLD: Step = step("cold", "produce --topic cold --create --in-flight 256 --messages 300000");
const WARM: Step = step("warm", "produce --topic warm --create --messages 1200000");

/// Steps on one warm server that flushes when it likes.
const ASYNC: &[Step] = &[
    step("produce", "produce --topic main --create --messages 1000000"),
    step("wide", "produce --topic wide --create --in-flight 256 --messages 1000000"),
    step("pull", "pull --topic main --messages 3000000"),
    step(
        "batch",
        "produce --topic batch --create --size 128 --batch 64 --in-flight 8 --messages 4000000 --lag",
    ),
    step("latency", "latency --topic latency --create --rate 1000 --seconds 15 --warmup 3000"),
    step(
        "lone",
        "produce --topic lone --create --connections 1 --in-flight 1 --warmup 5000 --messages 20000",
    ),
    step("memory", "produce --topic memory --create --messages 1000"),
];

/// Steps on one warm server that flushes before it answers.
const SYNC: &[Step] = &[
    step("sync", "produce --topic sync --create --messages 300000"),
    step(
        "lone_sync",
        "produce --topic lone --create --connections 1 --in-flight 1 --warmup 500 --messages 4000",
    ),
];

/// Steps on one warm server, for what the rules cost.
const RULES: &[Step] = &[
    step(
        "delay",
        "produce --topic delay --create --property DELAY=1 --until-delivered --messages 300000",
    ),
    step(
        "rules_fill",
        "produce --topic rules --create --property a=5 --property color=red --messages 500000",
    ),
    step("unordered", "pull --topic rules --messages 1500000"),
    step("orderly", "pull --topic rules --orderly --group orderly --messages 1500000"),
    step(
        "sql_all",
        "pull --topic rules --group all --sql (a>3)AND(color='red') --messages 1500000",
    ),
    step(
        "sql_none",
        "pull --topic rules --group none --sql (a>3)AND(color='blue') --messages 1500000",
    ),
    step("retry", "retry --topic rules --messages 200000"),
    step(
        "transaction",
        "produce --topic transaction --create --transaction --until-delivered --messages 200000",
    ),
];
/// What each figure of a rule needs before it.
const RULES_FILLED: [&str; 3] = ["retry", "orderly", "sql92"];

const TIMERS: Step = step(
    "timers",
    "timers --topic timers --create --size 128 --messages 1000000 --lead 90 --over 20",
);

const SYNC_WARM: Step = step("warm", "produce --topic warm --create --messages 300000");
const FILL: Step = step("fill", "produce --topic fill --create --in-flight 256 --messages 9000000");
const TOPICS: Step =
    step("topics", "produce --topic many --topics 10000 --create --messages 1000000");
const DEEP_FILL: Step = step(
    "deep_fill",
    "produce --topic deep --queues 1 --create --connections 1 --size 64 --batch 64 --in-flight 32 --messages 50000000 --lag",
);
const DEEP: &[Step] = &[
    step("deep_front", "pull --topic deep --queues 1 --connections 1 --from 0 --messages 320000"),
    step(
        "deep_middle",
        "pull --topic deep --queues 1 --connections 1 --from 25000000 --messages 320000",
    ),
    step(
        "deep_end",
        "pull --topic deep --queues 1 --connections 1 --from 49600000 --messages 320000",
    ),
    step("deep_send", "produce --topic deep --queues 1 --size 64 --messages 500000"),
    step("empty_send", "produce --topic empty --queues 1 --create --size 64 --messages 500000"),
];
const MEMBERS: &[Step] = &[
    step("members_join", "members --create --members 5000 --connections 64 --what join"),
    step("members_beat", "members --members 5000 --connections 64 --what heartbeat --rounds 10"),
    step("members_list", "members --members 5000 --connections 16 --what list --rounds 2"),
];
const GROUPS: &[Step] = &[
    step(
        "groups_join",
        "members --create --members 10000 --groups 10000 --connections 64 --what join",
    ),
    step(
        "groups_beat",
        "members --members 10000 --groups 10000 --connections 64 --what heartbeat --rounds 10",
    ),
    step(
        "groups_list",
        "members --members 10000 --groups 10000 --connections 64 --what list --rounds 10",
    ),
];

/// Steps of our client, and the same for the Java client's `Load`, on one warm server of ours.
const CLIENT: &[Step] = &[
    step(
        "client_send",
        "produce --client --topic client --create --connections 1 --in-flight 256 --warmup 300000 --messages 1000000",
    ),
    step("client_receive", "pull --client --topic client --warmup 300000 --messages 1000000"),
    step(
        "client_lone",
        "produce --client --topic lone --create --connections 1 --in-flight 1 --warmup 5000 --messages 20000",
    ),
    step(
        "client_round_trip",
        "produce --topic lone --connections 1 --in-flight 1 --warmup 5000 --messages 20000",
    ),
];
const JAVA_CLIENT: &[Step] = &[
    step("client_send", "send client 300000 1000000"),
    step("client_receive", "receive client 300000 1000000"),
    step("client_lone", "lone lone 5000 20000"),
];

/// What was asked for.
struct Asked {
    rows: Vec<String>,
    rounds: usize,
    kinds: Vec<Kind>,
    heap: String,
}

/// Runs the task.
pub(crate) fn run_task(words: &[String]) -> Result<()> {
    let mut asked = Asked {
        rows: Vec::new(),
        rounds: 3,
        kinds: vec![Kind::Original(RELEASE.into()), Kind::Apogee],
        heap: "4g".into(),
    };
    let (mut built, mut table_only) = (false, false);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} wants a value\n{USAGE}"));
        match word.as_str() {
            "--rounds" => asked.rounds = value()?.parse().context("--rounds")?,
            "--heap" => asked.heap = value()?.clone(),
            "--only" => {
                let only = value()?.clone();
                asked.kinds.retain(|kind| name(kind) == only);
            }
            "--built" => built = true,
            "--table" => table_only = true,
            row if ROWS.iter().any(|(known, _)| *known == row) => asked.rows.push(row.to_owned()),
            _ => bail!("`{word}`?\n{USAGE}"),
        }
    }
    let mut results = Results::load()?;
    if !table_only && !built {
        run(Command::new("cargo")
            .args(["build", "--release", "-p", "apogee"])
            .current_dir(root()))?;
    }
    if !table_only {
        asked.measure(&mut results)?;
    }
    results.write_table()
}

fn name(kind: &Kind) -> &'static str {
    match kind {
        Kind::Apogee => "apogee",
        Kind::Original(_) => "original",
    }
}

impl Asked {
    fn wants(&self, row: &str) -> bool {
        self.rows.is_empty() || self.rows.iter().any(|wanted| wanted == row)
    }

    fn wants_step(&self, step: &str) -> bool {
        let prefix = format!("{step}.");
        FIGURES.iter().any(|figure| figure.key.starts_with(&prefix) && self.wants(figure.row))
    }

    fn measure(&self, results: &mut Results) -> Result<()> {
        for round in 0..self.rounds {
            for kind in &self.kinds {
                eprintln!("== round {} of {}: {}", round + 1, self.rounds, name(kind));
                self.short_sessions(kind, results)?;
                // what takes minutes is done once
                if round == 0 {
                    self.long_sessions(kind, results)?;
                }
                results.save()?;
            }
        }
        Ok(())
    }

    fn short_sessions(&self, kind: &Kind, results: &mut Results) -> Result<()> {
        if ASYNC.iter().any(|step| self.wants_step(step.name)) {
            let session = Session::start(kind, &self.heap, &[])?;
            session.step(&COLD, results)?;
            session.step(&WARM, results)?;
            // a row builds on those before it: the backlog of `pull`, the messages of `memory`
            let last = ASYNC.iter().rposition(|step| self.wants_step(step.name)).unwrap_or(0);
            let all = self.wants("memory");
            for (at, step) in ASYNC.iter().enumerate() {
                let needed = step.name == "produce" && self.wants("pull");
                if at <= last && (all || needed || self.wants_step(step.name)) {
                    session.step(step, results)?;
                }
            }
            session.stop()?;
        }
        if RULES.iter().any(|step| self.wants_step(step.name)) {
            let session = Session::start(kind, &self.heap, &[])?;
            session.step(&WARM, results)?;
            let is_filled = RULES_FILLED.iter().any(|row| self.wants(row));
            for step in RULES {
                if self.wants_step(step.name) || step.name == "rules_fill" && is_filled {
                    session.step(step, results)?;
                }
            }
            session.stop()?;
        }
        if self.wants("client") {
            // the figures belong to whose client it is
            let server = Session::start(&Kind::Apogee, &self.heap, &[])?;
            let session = Session { kind: kind.clone(), ..server };
            session.step(&WARM, results)?;
            match kind {
                Kind::Apogee => {
                    CLIENT.iter().try_for_each(|step| session.step(step, results))?;
                }
                Kind::Original(release) => {
                    let class_path = java::programs(release)?;
                    for step in JAVA_CLIENT {
                        session.java_step(&class_path, step, results)?;
                    }
                }
            }
            session.stop()?;
        }
        if self.wants("sync") {
            let session = Session::start(kind, &self.heap, &["flushDiskType=SYNC_FLUSH"])?;
            session.step(&SYNC_WARM, results)?;
            for step in SYNC {
                session.step(step, results)?;
            }
            session.stop()?;
        }
        if self.wants("idle") {
            let session = Session::start(kind, &self.heap, &[])?;
            results.add("idle.start_ms", kind, session.started_after.as_secs_f64() * 1e3, "");
            sleep(Duration::from_secs(5));
            let anon: f64 = session.processes().iter().map(|pid| anonymous_mib(*pid)).sum();
            results.add("idle.anon_mib", kind, anon, "");
            session.stop()?;
        }
        Ok(())
    }

    fn long_sessions(&self, kind: &Kind, results: &mut Results) -> Result<()> {
        if self.wants("restart") {
            let session = Session::start(kind, &self.heap, &[])?;
            session.step(&FILL, results)?;
            let session = session.kill_and_start()?;
            results.add("restart.start_ms", kind, session.started_after.as_secs_f64() * 1e3, "");
            session.stop()?;
        }
        if self.wants("topics") {
            let session = Session::start(kind, &self.heap, &[])?;
            session.step(&WARM, results)?;
            session.step(&TOPICS, results)?;
            let descriptors = fs::read_dir(format!("/proc/{}/fd", session.broker.id()))?.count();
            results.add("topics.descriptors", kind, descriptors as f64, "");
            session.stop()?;
        }
        for (row, steps) in [("members", MEMBERS), ("groups", GROUPS)] {
            if self.wants(row) {
                let session = Session::start(kind, &self.heap, &[])?;
                session.step(&WARM, results)?;
                for step in steps {
                    session.step(step, results)?;
                }
                session.stop()?;
            }
        }
        if self.wants("timers") {
            let session = Session::start(kind, &self.heap, &[])?;
            session.step(&WARM, results)?;
            session.step(&TIMERS, results)?;
            session.stop()?;
        }
        if self.wants("deep") {
            let session = Session::start(kind, &self.heap, &[])?;
            session.step(&DEEP_FILL, results)?;
            for step in DEEP {
                session.step(step, results)?;
            }
            session.stop()?;
        }
        Ok(())
    }
}

/// A fresh name server and broker of one kind; a process each, as the original has them.
struct Session {
    kind: Kind,
    folder: PathBuf,
    namesrv: Server,
    broker: Server,
    spec: Spec,
    /// From the exec of the broker to its first answer.
    started_after: Duration,
}

impl Session {
    fn start(kind: &Kind, heap: &str, extra: &[&str]) -> Result<Session> {
        touch_memory();
        let folder = root().join("target/compare").join(name(kind));
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        let spec = |role, name| Spec::new(kind, role, folder.join(name), PORTS);
        let namesrv = spec(Role::Namesrv, "namesrv").start()?;
        let java_options = [
            &format!("-Xms{heap}"),
            &format!("-Xmx{heap}"),
            "-XX:-UseSerialGC",
            "-XX:+UseG1GC",
            "-XX:MaxDirectMemorySize=15g",
        ];
        let broker_spec = Spec {
            extra: extra.iter().map(|line| (*line).to_owned()).collect(),
            java_options: java_options.map(str::to_owned).to_vec(),
            ..spec(Role::Broker, "broker")
        };
        let (broker, started_after) = start_timed(&broker_spec)?;
        Ok(Session {
            kind: kind.clone(),
            folder,
            namesrv,
            broker,
            spec: broker_spec,
            started_after,
        })
    }

    fn processes(&self) -> [u32; 2] {
        [self.namesrv.id(), self.broker.id()]
    }

    /// Runs a step and keeps its figures.
    fn step(&self, step: &Step, results: &mut Results) -> Result<()> {
        let mut command = Command::new(root().join("target/release/apogee"));
        command.arg("bench").args(step.flags.split(' '));
        command.arg(format!("--broker=127.0.0.1:{}", PORTS.broker));
        command.arg(format!("--namesrv=127.0.0.1:{}", PORTS.namesrv));
        command.arg(format!("--pid={}", self.broker.id()));
        self.keep(step, &output(&mut command)?, &format!("apogee bench {}", step.flags), results)
    }

    /// Has the Java client do a step.
    fn java_step(&self, class_path: &str, step: &Step, results: &mut Results) -> Result<()> {
        let mut command = java::java(class_path, &self.folder.join("client"))?;
        command.args(["-Xmx1g", "Load"]).args(step.flags.split(' '));
        command.env("NAMESRV_ADDR", format!("127.0.0.1:{}", PORTS.namesrv));
        self.keep(step, &output(&mut command)?, "", results)
    }

    fn keep(&self, step: &Step, line: &str, shown: &str, results: &mut Results) -> Result<()> {
        eprintln!("{:<12} {}", step.name, line.trim());
        for (key, value) in pairs(line) {
            results.add(&format!("{}.{key}", step.name), &self.kind, value, shown);
            if key == "create_topic_us" {
                results.add(
                    &format!("{}.create_topic_ms", step.name),
                    &self.kind,
                    value / 1e3,
                    shown,
                );
            }
        }
        results.save()
    }

    fn kill_and_start(self) -> Result<Session> {
        self.broker.kill()?;
        let (broker, started_after) = start_timed(&self.spec)?;
        Ok(Session { broker, started_after, ..self })
    }

    fn stop(self) -> Result<()> {
        self.broker.stop()?;
        self.namesrv.stop()?;
        Ok(fs::remove_dir_all(&self.folder)?)
    }
}

/// Touches memory that nobody uses, so that the host of a virtual machine has given it before a server needs it for its
/// page cache: a first touch can take longer than a message, and whoever is measured first would pay.
fn touch_memory() {
    const PIECE: usize = 256 << 20;
    const TOUCHED_MAX: usize = 12 << 30;
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).unwrap_or("0");
    let kib = line.split_whitespace().next().and_then(|word| word.parse::<usize>().ok());
    let len = (kib.unwrap_or(0) / 2 * 1024).min(TOUCHED_MAX);
    let touched: Vec<Vec<u8>> = (0..len / PIECE).map(|_| vec![1; PIECE]).collect();
    std::hint::black_box(&touched);
}

/// Starts a broker and waits for its first answer.
fn start_timed(spec: &Spec) -> Result<(Server, Duration)> {
    let begun = Instant::now();
    let mut broker = spec.spawn()?;
    let answered = first_answer(PORTS.broker, broker.id())?;
    spec.wait_until_ready(&mut broker)?;
    Ok((broker, answered.duration_since(begun)))
}

/// Asks for the queues' end of a topic until there is an answer, whatever it says.
fn first_answer(port: u16, process: u32) -> Result<Instant> {
    let header = br#"{"code":30,"extFields":{"topic":"TBW102","queueId":"0"},"flag":0,"language":"JAVA","opaque":1,"version":513}"#;
    let mut frame = Vec::new();
    frame.extend_from_slice(&(header.len() as u32 + 4).to_be_bytes());
    frame.extend_from_slice(&(header.len() as u32).to_be_bytes());
    frame.extend_from_slice(header);
    let deadline = Instant::now() + Duration::from_secs(300);
    while Instant::now() < deadline {
        let asked = TcpStream::connect(("127.0.0.1", port)).and_then(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_secs(120)))?;
            stream.write_all(&frame)?;
            stream.read_exact(&mut [0; 8])
        });
        if asked.is_ok() {
            return Ok(Instant::now());
        }
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        if stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z')) {
            bail!("the server on port {port} has ended; its folder under target/compare says why");
        }
        sleep(Duration::from_millis(1));
    }
    bail!("no answer on port {port}");
}

pub(crate) fn anonymous_mib(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0)
        / 1024.0
}

/// The numbers of a line of `key=value`.
pub(crate) fn pairs(line: &str) -> impl Iterator<Item = (&str, f64)> {
    line.split_whitespace().filter_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        Some((key, value.parse().ok()?))
    })
}

/// All figures: by key and kind, the newest rounds last.
struct Results {
    path: PathBuf,
    figures: BTreeMap<String, BTreeMap<String, Vec<f64>>>,
    commands: BTreeMap<String, String>,
    /// Keys that were measured now: older rounds of them are forgotten first.
    fresh: Vec<String>,
}

impl Results {
    fn load() -> Result<Results> {
        let path = root().join("target/compare/results.json");
        let mut results = Results {
            path,
            figures: BTreeMap::new(),
            commands: BTreeMap::new(),
            fresh: Vec::new(),
        };
        if let Ok(text) = fs::read_to_string(&results.path) {
            let value: Value = serde_json::from_str(&text)?;
            results.figures = serde_json::from_value(value["figures"].clone())?;
            results.commands = serde_json::from_value(value["commands"].clone())?;
        }
        Ok(results)
    }

    fn save(&self) -> Result<()> {
        fs::create_dir_all(self.path.parent().context("a folder")?)?;
        let value = json!({ "figures": self.figures, "commands": self.commands });
        Ok(fs::write(&self.path, serde_json::to_string_pretty(&value)?)?)
    }

    fn add(&mut self, key: &str, kind: &Kind, value: f64, command: &str) {
        let fresh = format!("{} {key}", name(kind));
        let figures = self
            .figures
            .entry(key.to_owned())
            .or_default()
            .entry(name(kind).to_owned())
            .or_default();
        if !self.fresh.contains(&fresh) {
            figures.clear();
            self.fresh.push(fresh);
        }
        figures.push(value);
        if !command.is_empty() {
            let step = key.split('.').next().unwrap_or_default();
            self.commands.insert(step.to_owned(), command.to_owned());
        }
    }

    fn median(&self, key: &str, kind: &str) -> Option<f64> {
        let mut figures = self.figures.get(key)?.get(kind)?.clone();
        figures.sort_by(f64::total_cmp);
        let middle = figures.len() / 2;
        match figures.len() {
            0 => None,
            len if len % 2 == 1 => Some(figures[middle]),
            _ => Some(f64::midpoint(figures[middle - 1], figures[middle])),
        }
    }

    /// Replaces the part of `docs/performance.md` between the marks, or begins the page.
    fn write_table(&self) -> Result<()> {
        let path = root().join("docs/performance.md");
        let page = fs::read_to_string(&path).unwrap_or_else(|_| format!("{PAGE}{BEGIN}\n{END}\n"));
        let (before, rest) =
            page.split_once(BEGIN).context("the page has lost the mark where the table begins")?;
        let (_, after) =
            rest.split_once(END).context("the page has lost the mark where the table ends")?;
        let table = self.table()?;
        fs::write(&path, format!("{before}{BEGIN}\n{table}{END}{after}"))?;
        eprintln!("wrote {}", path.display());
        Ok(())
    }

    fn table(&self) -> Result<String> {
        let mut text = machine()?;
        text.push_str("\n| work | measured | original | Apogee | Apogee / original | to reach |\n");
        text.push_str("| --- | --- | ---: | ---: | ---: | --- |\n");
        for (row, work) in ROWS {
            let mut work = work;
            for figure in FIGURES.iter().filter(|figure| figure.row == row) {
                let [original, apogee] =
                    ["original", "apogee"].map(|kind| self.median(figure.key, kind));
                if original.is_none() && apogee.is_none() {
                    continue;
                }
                let show = |value: Option<f64>| {
                    value.map_or_else(String::new, |value| grouped(value, figure.decimals))
                };
                let ratio = match (original, apogee) {
                    (Some(original), Some(apogee)) if original > 0.0 => {
                        format!("{:.3}", apogee / original)
                    }
                    _ => String::new(),
                };
                let Figure { what, target, .. } = figure;
                writeln!(
                    text,
                    "| {work} | {what} | {} | {} | {ratio} | {target} |",
                    show(original),
                    show(apogee)
                )?;
                work = "";
            }
        }
        text.push_str("\nCommands, each with `--broker` and `--pid` of the server:\n\n");
        for (step, command) in &self.commands {
            writeln!(text, "- {step}: `{command}`")?;
        }
        Ok(text)
    }
}

const BEGIN: &str = "<!-- written by `cargo xtask compare` from here -->";
const END: &str = "<!-- to here -->";
const PAGE: &str = "# Performance\n\n";

/// A number with its thousands set apart.
fn grouped(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut out = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at) % 3 == 0 && out != "-" {
            out.push(',');
        }
        out.push(digit);
    }
    out + rest
}

/// What it was measured on.
fn machine() -> Result<String> {
    let first = |path: &str, name: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map_or_else(String::new, |(_, value)| value.trim().to_owned())
    };
    let said = |program: &str, flags: &[&str]| {
        let output =
            Command::new(program).args(flags).current_dir(root()).stderr(Stdio::piped()).output();
        let output =
            output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
        String::from_utf8_lossy(&output).lines().next().unwrap_or_default().to_owned()
    };
    let cores = std::thread::available_parallelism()?;
    let memory: f64 =
        first("/proc/meminfo", "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0.0);
    Ok(format!(
        "Measured on {cores} cores of {} with {:.0} GiB of memory, Linux {}, {}, server and generator together.\n\
         Original: RocketMQ {RELEASE} on {}, 4 GiB heap, warmed by 1.5 M messages.\n\
         Apogee: commit {}, {}.\n\
         Medians of all rounds; one round where a row takes minutes.\n",
        first("/proc/cpuinfo", "model name"),
        memory / 1_048_576.0,
        said("uname", &["-r"]),
        said("date", &["+%Y-%m-%d"]),
        said("java", &["-version"]),
        said("git", &["rev-parse", "--short", "HEAD"]),
        said("rustc", &["--version"]),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_belongs_to_a_row_and_every_row_has_one() {
        for figure in FIGURES {
            assert!(ROWS.iter().any(|(row, _)| *row == figure.row), "{}", figure.key);
        }
        for (row, _) in ROWS {
            assert!(FIGURES.iter().any(|figure| figure.row == row), "{row}");
        }
    }

    #[test]
    fn numbers_are_shown_with_their_thousands_apart() {
        assert_eq!(grouped(1_234_567.0, 0), "1,234,567");
        assert_eq!(grouped(123.456, 2), "123.46");
        assert_eq!(grouped(1234.5, 1), "1,234.5");
        assert_eq!(grouped(0.0, 0), "0");
    }

    #[test]
    fn only_numbers_of_a_line_are_figures() {
        let found: Vec<_> = pairs("op=pull codec=json rate=12.5 busy=0").collect();
        assert_eq!(found, [("rate", 12.5), ("busy", 0.0)]);
    }
}
