//! A store that changes hands: the original writes, ours goes on, the original goes on, and the other way round.
//!
//! Each round runs three brokers one after the other on one folder, and ends each by SIGTERM, or by SIGKILL while it is being
//! written to. After every change of hands a stock client must find every acknowledged message at its queue offset, queue
//! offsets without a gap, what the key index knew, and groups where they stopped. The name server is never of the first
//! broker's kind, so each kind of broker also registers with the other's name server. While a broker runs and is written to,
//! the other kind must refuse its folder, and what it spoils before it does must be put right: a refused original removes
//! index files and the `abort` mark. With 5.5.0 a topic of batches goes along. Rounds run two at a time, since brokers of the
//! original mostly sleep when they stop.
//!
//! Four more rounds hand over a store in which messages wait: half messages, delayed and timed ones, and retries. The second
//! broker must deliver each once and not before its time, ask for the half messages, and never show what is rolled back.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};

use crate::java;
use crate::process::{output, scratch};
use crate::server::{self, Kind, Ports, Role, Server, Spec};

/// Of the rounds that run at the same time.
const LANES: [Ports; 2] =
    [Ports { namesrv: 26_978, broker: 26_931 }, Ports { namesrv: 26_988, broker: 26_961 }];
/// How far above the broker's port the one that must be refused would listen.
const INTRUDER: u16 = 20;
const TOPIC: &str = "handover";
/// Its queues are of batches, which no release before 5.0 has.
const BATCHED: &str = "batched";
const GROUP: &str = "G-handover";
const MESSAGES: usize = 250;
const BATCHES: usize = 60;
/// For how long what waits has to, which is the second delay level in [`WAITING`]: longer than a broker takes to stop.
const WAIT_MS: &str = "35000";
/// What a broker is told in which messages wait.
const WAITING: [&str; 5] = [
    "messageDelayLevel=1s 35s",
    "transactionTimeOut=2000",
    "transactionCheckInterval=1000",
    "transactionCheckMax=1000",
    "transactionOpBatchInterval=200",
];

/// How a broker ends its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// SIGTERM.
    Stop,
    /// SIGKILL under load.
    Kill,
}

/// A round by its name: who begins and ends, who comes between, and how each ends its turn.
struct Plan {
    name: String,
    release: &'static str,
    first: Kind,
    second: Kind,
    end: End,
    /// Messages wait in the store; nobody comes third.
    is_waiting: bool,
}

/// Runs every round, or those whose names contain one of `words`.
pub(crate) fn run(words: &[String]) -> anyhow::Result<()> {
    server::build()?;
    let mut plans = Vec::new();
    for release in ["5.5.0", "4.9.7"] {
        java::programs(release)?;
        let original = Kind::parse(release);
        for (first, second) in [(&original, &Kind::Apogee), (&Kind::Apogee, &original)] {
            for (end, is_waiting) in [(End::Stop, true), (End::Stop, false), (End::Kill, false)] {
                let name = if is_waiting {
                    format!("{first}-{second}-waiting")
                } else {
                    format!("{first}-{second}-{first}-{end:?}").to_lowercase()
                };
                if words.is_empty() || words.iter().any(|word| name.contains(word.as_str())) {
                    let (first, second) = (first.clone(), second.clone());
                    plans.push(Plan { name, release, first, second, end, is_waiting });
                }
            }
        }
    }
    let total = plans.len();
    ensure!(total > 0, "no round is called {words:?}");
    // popped from the end
    plans.reverse();
    let plans = Mutex::new(plans);
    let failed = AtomicUsize::new(0);
    let next = || plans.lock().expect("no lane panics with it").pop();
    thread::scope(|scope| {
        for ports in LANES {
            let (next, failed) = (&next, &failed);
            scope.spawn(move || {
                while let Some(plan) = next() {
                    let began = Instant::now();
                    let outcome = Round::new(&plan, ports).and_then(|round| round.play(&plan));
                    let (name, ms) = (&plan.name, began.elapsed().as_millis());
                    match outcome {
                        Ok(()) => println!("{name} ... ok ({ms} ms)"),
                        Err(error) => {
                            failed.fetch_add(1, Ordering::Relaxed);
                            println!("{name} ... FAILED ({ms} ms): {error:#}");
                        }
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    println!("{} passed, {failed} failed", total - failed);
    ensure!(failed == 0, "{failed} rounds failed");
    Ok(())
}

/// One folder, one name server, and what its clients were promised.
struct Round {
    folder: PathBuf,
    class_path: String,
    namesrv: Spec,
    /// Lines of acknowledged messages: topic, queue, queue offset, unique key, key, body.
    acknowledged: Vec<String>,
    /// The same of messages that went in batches.
    batched: Vec<String>,
    has_batches: bool,
    /// How many of them the group has consumed and committed.
    consumed: usize,
}

impl Round {
    fn new(plan: &Plan, ports: Ports) -> anyhow::Result<Round> {
        let folder = scratch().join("handover").join(&plan.name);
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        Ok(Round {
            class_path: java::class_path(plan.release)?,
            namesrv: Spec::new(&plan.second, Role::Namesrv, folder.join("namesrv"), ports),
            folder,
            acknowledged: Vec::new(),
            batched: Vec::new(),
            has_batches: plan.release == "5.5.0",
            consumed: 0,
        })
    }

    fn play(mut self, plan: &Plan) -> anyhow::Result<()> {
        let _namesrv = self.namesrv.start().context("name server")?;
        if plan.is_waiting {
            return self.play_waiting(plan);
        }
        for (turn, kind) in [&plan.first, &plan.second, &plan.first].into_iter().enumerate() {
            let context = format!("turn {turn} of {kind}");
            let broker = self.broker(kind, 0).start().with_context(|| context.clone())?;
            self.turn(turn, kind, broker, plan.end).with_context(|| context.clone())?;
        }
        Ok(())
    }

    /// What waits in the first's store comes from the second.
    fn play_waiting(&self, plan: &Plan) -> anyhow::Result<()> {
        let start = |kind| {
            let mut spec = self.broker(kind, 0);
            spec.extra.extend(WAITING.map(str::to_owned));
            if *kind == Kind::Apogee {
                spec.extra.push(format!("storeReadableBy={}", plan.release));
            }
            spec.start().with_context(|| format!("start of {kind}"))
        };
        let first = start(&plan.first)?;
        let mut pend = vec!["pend", TOPIC, GROUP, WAIT_MS];
        if plan.release == "4.9.7" {
            pend.push("without timers, which it does not have");
        }
        let promised = lines(&self.ledger(&pend)?);
        match plan.end {
            End::Stop => first.stop()?,
            End::Kill => first.kill()?,
        }
        let begun = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        let _second = start(&plan.second)?;
        let keys = promised
            .iter()
            .map(|line| line.split('\t').nth(1).context("a key"))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let came = self.ledger(&[&["settle", TOPIC, GROUP][..], &keys].concat())?;
        let waited = check_came(&promised, &lines(&came), i64::try_from(begun)?)?;
        println!("{}: {waited} of {} came from the second", plan.name, promised.len());
        Ok(())
    }

    /// A broker of this round whose port lies `above` the usual one.
    fn broker(&self, kind: &Kind, above: u16) -> Spec {
        let ports = self.namesrv.ports;
        let ports = Ports { broker: ports.broker + above, ..ports };
        let folder = self.folder.join(format!("broker-{kind}-{}", ports.broker));
        let mut spec = Spec::new(kind, Role::Broker, folder, ports);
        spec.store = self.folder.join("store");
        // a few hundred messages span several files of each kind
        spec.extra = [
            "mappedFileSizeCommitLog=65536",
            "mappedFileSizeConsumeQueue=1000",
            "mapperFileSizeBatchConsumeQueue=920",
            "maxHashSlotNum=200",
            "maxIndexNum=800",
        ]
        .map(str::to_owned)
        .to_vec();
        spec.java_options = vec!["-XX:TieredStopAtLevel=1".to_owned()];
        spec
    }

    /// What one broker inherits is checked, then it is written to and ended; meanwhile the other kind tries its folder.
    fn turn(&mut self, turn: usize, kind: &Kind, broker: Server, end: End) -> anyhow::Result<()> {
        self.check_messages(TOPIC, &self.acknowledged)?;
        self.check_messages(BATCHED, &self.batched)?;
        self.check_keys()?;
        let other = match kind {
            Kind::Apogee => Kind::parse("5.5.0"),
            Kind::Original(_) => Kind::Apogee,
        };
        let spec = self.broker(&other, INTRUDER);
        let mut intruder = spec.spawn()?;
        let prefix = format!("turn{turn}");
        let count = MESSAGES.to_string();
        self.acknowledged.extend(lines(&self.ledger(&["write", TOPIC, &prefix, &count])?));
        if self.has_batches {
            let count = BATCHES.to_string();
            let written = self.ledger(&["batches", BATCHED, &prefix, &count])?;
            self.batched.extend(lines_of(BATCHED, &written));
        }
        self.consume()?;
        check_refused(spec.wait_until_ready(&mut intruder), kind, &other)?;
        self.wait_for_mark()?;
        match end {
            End::Stop => broker.stop(),
            End::Kill => self.kill_under_load(&prefix, broker),
        }
    }

    /// An original that is refused removes the `abort` mark on its way out; a broker of ours writes it again.
    fn wait_for_mark(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.folder.join("store/abort").exists() {
            ensure!(Instant::now() < deadline, "the mark of an open store is gone");
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Ends the broker while a client writes to it; what was acknowledged counts, the rest may be there or not.
    fn kill_under_load(&mut self, prefix: &str, broker: Server) -> anyhow::Result<()> {
        let mut client = self.client(&["write", TOPIC, &format!("{prefix}-load"), "0"])?;
        let mut child =
            client.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let written = BufReader::new(child.stdout.take().context("piped")?).lines();
        let mut broker = Some(broker);
        for (count, line) in written.enumerate() {
            let line = line?;
            if line.starts_with(TOPIC) {
                self.acknowledged.push(line);
            }
            if count == MESSAGES {
                broker.take().context("killed once")?.kill()?;
            }
        }
        ensure!(broker.is_none(), "the writer ended before the broker");
        child.wait()?;
        Ok(())
    }

    fn check_messages(&self, topic: &str, acknowledged: &[String]) -> anyhow::Result<()> {
        if acknowledged.is_empty() {
            return Ok(());
        }
        let text = self.ledger(&["read", topic])?;
        let mut next: BTreeMap<&str, i64> = BTreeMap::new();
        let mut found = HashMap::new();
        for line in text.lines() {
            let fields: Vec<&str> = line.split('\t').collect();
            match fields[..] {
                ["@queue", _, _, min, max] => {
                    ensure!(min == "0", "a queue begins at {min} and ends at {max}")
                }
                [of, queue, offset, unique, key, body, ..] if of == topic => {
                    let wanted = next.entry(queue).or_default();
                    ensure!(
                        offset.parse() == Ok(*wanted),
                        "queue {queue}: offset {wanted} is missing, {offset} is there"
                    );
                    *wanted += 1;
                    found.insert((queue, offset), (unique, key, body));
                }
                _ => {}
            }
        }
        for line in acknowledged {
            let fields: Vec<&str> = line.split('\t').collect();
            let [_, queue, offset, unique, key, body] = fields[..] else {
                bail!("a line of {line}")
            };
            ensure!(
                found.get(&(queue, offset)) == Some(&(unique, key, body)),
                "lost or changed: {line}"
            );
        }
        Ok(())
    }

    /// The key index is asked for some keys of each turn, and for the newest.
    fn check_keys(&self) -> anyhow::Result<()> {
        let step = (self.acknowledged.len() / 20).max(1);
        let sample = self.acknowledged.iter().rev().step_by(step).collect::<Vec<_>>();
        if sample.is_empty() {
            return Ok(());
        }
        let keys = sample
            .iter()
            .map(|line| line.split('\t').nth(4).context("a key"))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let text = self.ledger(&[&["keys", TOPIC][..], &keys].concat())?;
        for line in sample {
            ensure!(
                text.lines().any(|found| found.starts_with(line.as_str())),
                "not found by its key: {line}"
            );
        }
        Ok(())
    }

    /// The group gets what it has not had yet, exactly, and its offsets are on disk afterwards.
    fn consume(&mut self) -> anyhow::Result<()> {
        let text = self.ledger(&["read", TOPIC])?;
        let all = lines(&text).len();
        let wanted = all - self.consumed;
        let got = lines(&self.ledger(&["consume", TOPIC, GROUP, &wanted.to_string()])?).len();
        ensure!(got == wanted, "{GROUP} got {got} messages instead of {wanted}");
        self.consumed = all;
        let file = self.folder.join("store/config/consumerOffset.json");
        let deadline = Instant::now() + Duration::from_secs(30);
        while committed(&file) != Some(all) {
            ensure!(
                Instant::now() < deadline,
                "{:?} committed on disk instead of {all}",
                committed(&file)
            );
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn client(&self, words: &[&str]) -> anyhow::Result<Command> {
        let mut client = java::java(&self.class_path, &self.folder.join("client"))?;
        // it lives for a second or two
        client.args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
        client.arg("Ledger").args(words);
        client.env("NAMESRV_ADDR", format!("127.0.0.1:{}", self.namesrv.ports.namesrv));
        Ok(client)
    }

    fn ledger(&self, words: &[&str]) -> anyhow::Result<String> {
        output(&mut self.client(words)?)
    }
}

/// Each that was promised came, at its time or later, and nothing else did; a retry, which is promised once at least, may come
/// twice. Returns how many were stored after `begun`.
fn check_came(promised: &[String], came: &[String], begun: i64) -> anyhow::Result<usize> {
    let mut stored: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    for line in came {
        let key = line.split('\t').nth(4).context("a key")?;
        let time = line.split('\t').find_map(|field| field.strip_prefix("stored="));
        stored.entry(key).or_default().push(time.context("a store time")?.parse()?);
    }
    ensure!(!promised.is_empty(), "nothing was promised");
    let mut later = 0;
    for line in promised {
        let fields: Vec<&str> = line.split('\t').collect();
        let [_, key, due] = fields[..] else { bail!("a line of {line}") };
        let due: i64 = due.parse()?;
        let times = stored.remove(key).with_context(|| format!("{key} did not come"))?;
        ensure!(
            times.iter().all(|time| *time >= due),
            "{key} is due at {due} and was stored at {times:?}"
        );
        ensure!(
            times.len() == 1 || key.starts_with("retried-"),
            "{key} came at {times:?}, and should once"
        );
        later += usize::from(times[0] >= begun);
    }
    ensure!(stored.is_empty(), "came and should not: {:?}", stored.keys());
    Ok(later)
}

/// The other kind must refuse the folder of a running broker, and say why.
fn check_refused(outcome: anyhow::Result<()>, running: &Kind, other: &Kind) -> anyhow::Result<()> {
    let Err(refused) = outcome else {
        bail!("{other} opened the folder of a running {running}");
    };
    let text = format!("{refused:#}").to_lowercase();
    ensure!(
        text.contains("lock") || text.contains("in use by another process"),
        "{other} ended for another reason: {text}"
    );
    Ok(())
}

/// The lines that stand for messages.
fn lines(text: &str) -> Vec<String> {
    lines_of(TOPIC, text)
}

fn lines_of(topic: &str, text: &str) -> Vec<String> {
    text.lines().filter(|line| line.starts_with(topic)).map(str::to_owned).collect()
}

/// The sum of the group's offsets in the table on disk.
fn committed(file: &Path) -> Option<usize> {
    let text: String = fs::read_to_string(file).ok()?.split_whitespace().collect();
    let (_, offsets) =
        text.split_once("\"offsetTable\":")?.1.split_once(&format!("\"{TOPIC}@{GROUP}\":{{"))?;
    let offsets = offsets.split_once('}')?.0;
    offsets.split(',').map(|pair| pair.split_once(':')?.1.parse::<usize>().ok()).sum()
}
