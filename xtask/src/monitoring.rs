//! A Prometheus of Debian's beside a broker: the page is one that it takes, and whatever our alert rules and our
//! dashboard ask has an answer.
//!
//! A query for a metric that nobody exports succeeds and is empty for ever, so success is not enough: each must find
//! something, but for those that are named here, and a rule must do so without the comparison that ends it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::process::{root, run as run_command, scratch};
use crate::server::{self, Deployment, Kind, Ports};

const PORTS: Ports = Ports { namesrv: 26_888, broker: 26_892 };
const METRICS: u16 = 26_893;
const PROMETHEUS: u16 = 26_894;
const LIMIT: Duration = Duration::from_secs(40);
const COUNTED: &str = "1000";
/// Metrics of the operators' page that this broker has no reason to show.
const ABSENT: [&str; 1] = ["rocketmq_half_messages"];

/// Runs all checks.
pub(crate) fn run(words: &[String]) -> anyhow::Result<()> {
    ensure!(words.is_empty(), "takes no words");
    let tools = tools()?;
    server::build()?;
    let home = scratch().join("run-monitoring");
    let servers = home.join("servers");
    let port = format!("httpPort={METRICS}");
    let mut servers = Deployment::start(&Kind::Apogee, &servers, PORTS, &[&port])?;
    // Rates need traffic while Prometheus looks.
    let mut traffic = traffic(&home)?;
    let page = get(METRICS, "/metrics")?;
    check_page(&tools, &home, &page)?;
    let _prometheus = prometheus(&tools, &home)?;

    let mut asked = dashboard()?;
    asked.push(Query::new("scraped", "up{job=\"apogee\"} == 1"));
    let exact = "sum(rocketmq_messages_in_total{topic=\"counted\"})";
    asked.push(Query::new("counted", &format!("{exact} == {COUNTED}")));
    let deadline = Instant::now() + LIMIT;
    let failed = loop {
        writeln!(traffic.input, "now")?;
        let failed = failures(&asked).unwrap_or_else(|error| vec![format!("{error:#}")]);
        if failed.is_empty() || Instant::now() > deadline {
            break failed;
        }
        thread::sleep(Duration::from_millis(500));
    };
    for line in &failed {
        println!("FAILED {line}");
    }
    if !failed.is_empty() {
        for output in ["send.out", "consume.out", "prometheus.out"] {
            println!("{output}:\n{}", fs::read_to_string(home.join(output))?);
        }
    }
    drop(traffic);
    servers.stop()?;
    println!(
        "{} queries, the rules and the page for operators: {} failed",
        asked.len(),
        failed.len()
    );
    ensure!(failed.is_empty(), "{} checks failed", failed.len());
    Ok(())
}

/// The folder with `prometheus` and `promtool`, empty if they are installed: Debian's package, unpacked.
fn tools() -> anyhow::Result<PathBuf> {
    let runs = |tool| Command::new(tool).arg("--version").output().is_ok();
    if runs("prometheus") && runs("promtool") {
        return Ok(PathBuf::new());
    }
    let folder = scratch().join("tools/prometheus");
    let binaries = folder.join("usr/bin");
    if binaries.join("promtool").exists() {
        return Ok(binaries);
    }
    fs::create_dir_all(&folder)?;
    let download = || {
        run_command(Command::new("apt-get").args(["download", "prometheus"]).current_dir(&folder))
    };
    // A machine that has just been made knows no packages yet.
    download().or_else(|_| {
        run_command(Command::new("apt-get").args(["update", "-qq"]))?;
        download()
    })?;
    for entry in fs::read_dir(&folder)? {
        let package = entry?.path();
        if package.extension().is_some_and(|extension| extension == "deb") {
            run_command(Command::new("dpkg").arg("-x").args([&package, &folder]))?;
            fs::remove_file(package)?;
        }
    }
    Ok(binaries)
}

/// A process that ends when it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // an error means that it has ended already
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spawn(command: &mut Command, output: &Path) -> anyhow::Result<Running> {
    let sink = File::create(output)?;
    command.stdout(sink.try_clone()?).stderr(sink);
    let shown = format!("{:?}", command.get_program());
    Ok(Running(command.spawn().context(shown)?))
}

struct Traffic {
    /// Each line becomes a message.
    input: std::process::ChildStdin,
    _members: [Running; 2],
}

/// Lets messages be put and got, some be left and some wait; a producer and a consumer stay.
fn traffic(home: &Path) -> anyhow::Result<Traffic> {
    let namesrv = format!("--namesrv=127.0.0.1:{}", PORTS.namesrv);
    let apogee = |words: &[&str]| {
        let mut command = Command::new(server::binary());
        command.args(words).arg(&namesrv).stdin(Stdio::null());
        command
    };
    let bench = ["bench", "produce", "--create", "--topic", "counted", "--messages", COUNTED];
    run_command(&mut apogee(&bench))?;
    // Half of it is left: a lag.
    run_command(
        apogee(&["consume", "counted", "-g", "half", "--from=first", "-n", "500"])
            .stdout(Stdio::null()),
    )?;
    run_command(apogee(&["send", "later", "--delay=1h", "body"]).stdout(Stdio::null()))?;
    // A consumer ends when there is no such topic, so it waits for none.
    run_command(apogee(&["send", "flowing", "first"]).stdout(Stdio::null()))?;
    let mut sender =
        spawn(apogee(&["send", "flowing"]).stdin(Stdio::piped()), &home.join("send.out"))?;
    let input = sender.0.stdin.take().context("piped")?;
    let consume = ["consume", "flowing", "-g", "watching", "--from=first"];
    let consumer = spawn(&mut apogee(&consume), &home.join("consume.out"))?;
    Ok(Traffic { input, _members: [sender, consumer] })
}

/// Has promtool look for what is unusual in our page, in which the names of counters are as OpenMetrics wants them; promtool
/// reads the older text.
fn check_page(tools: &Path, home: &Path, page: &str) -> anyhow::Result<()> {
    let mut older = page.to_owned();
    for line in page.lines() {
        let counter = line.strip_prefix("# TYPE ").and_then(|it| it.strip_suffix(" counter"));
        for word in ["HELP", "TYPE"].into_iter().filter(|_| counter.is_some()) {
            let name = format!("# {word} {}", counter.unwrap_or_default());
            older = older.replace(&format!("{name} "), &format!("{name}_total "));
        }
    }
    let file = home.join("metrics.txt");
    fs::write(&file, older)?;
    let mut lint = Command::new(tools.join("promtool"));
    let lint = lint.args(["check", "metrics"]).stdin(File::open(&file)?);
    let status = lint.status()?;
    ensure!(status.success(), "promtool finds fault with /metrics: {status}");
    Ok(())
}

/// Starts a Prometheus that scrapes our broker each second and has our rules.
fn prometheus(tools: &Path, home: &Path) -> anyhow::Result<Running> {
    let rules = root().join("deploy/prometheus/alerts.yml");
    run_command(Command::new(tools.join("promtool")).args(["check", "rules"]).arg(&rules))?;
    let data = home.join("prometheus");
    if data.exists() {
        fs::remove_dir_all(&data)?;
    }
    let file = home.join("prometheus.yml");
    let text = format!(
        "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\n\
         rule_files: [\"{}\"]\n\
         scrape_configs:\n  - job_name: apogee\n    static_configs: [{{ targets: [\"127.0.0.1:{METRICS}\"] }}]\n",
        rules.display()
    );
    fs::write(&file, text)?;
    let mut command = Command::new(tools.join("prometheus"));
    command.arg(format!("--config.file={}", file.display()));
    command.arg(format!("--storage.tsdb.path={}", data.display()));
    command.arg(format!("--web.listen-address=127.0.0.1:{PROMETHEUS}"));
    spawn(command.stdin(Stdio::null()), &home.join("prometheus.out"))
}

/// A question, and where it stands.
struct Query {
    place: String,
    text: String,
}

impl Query {
    fn new(place: &str, text: &str) -> Query {
        Query { place: place.to_owned(), text: text.to_owned() }
    }

    /// Asks it; an error says that it failed or found nothing.
    fn ask(&self) -> anyhow::Result<()> {
        let found = api(&format!("query?query={}", encoded(&self.text)))?;
        let is_empty = found["result"].as_array().is_none_or(Vec::is_empty);
        ensure!(!is_empty, "{}: nothing answers `{}`", self.place, self.text);
        Ok(())
    }
}

/// The queries of the dashboard, for all clusters and brokers.
fn dashboard() -> anyhow::Result<Vec<Query>> {
    let text = fs::read_to_string(root().join("deploy/grafana/apogee.json"))?;
    let dashboard: Value = serde_json::from_str(&text)?;
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().context("panels")? {
        let title = panel["title"].as_str().context("a title")?;
        for target in panel["targets"].as_array().context("targets")? {
            let text = target["expr"].as_str().context("an expression")?;
            let text = text.replace("$cluster", ".*").replace("$broker", ".*");
            ensure!(!text.contains("$_"), "{title}: a variable that is not substituted: {text}");
            queries.push(Query::new(title, &text));
        }
    }
    // What a variable can be is the values of a label.
    for variable in dashboard["templating"]["list"].as_array().context("variables")? {
        let text = variable["query"].as_str().unwrap_or_default();
        if let Some((metric, label)) =
            text.strip_prefix("label_values(").and_then(|it| it.strip_suffix(')')?.split_once(", "))
        {
            queries.push(Query::new(label, &format!("{metric}{{{label}!=\"\"}}")));
        }
    }
    Ok(queries)
}

/// What is not as it should be: queries, rules, and metrics of the operators' page that are not there.
fn failures(asked: &[Query]) -> anyhow::Result<Vec<String>> {
    let mut failed = Vec::new();
    let mut note = |outcome: anyhow::Result<()>| {
        failed.extend(outcome.err().map(|error| format!("{error:#}")));
    };
    asked.iter().for_each(|query| note(query.ask()));
    let found = api("rules")?;
    let rules = found["groups"].as_array().into_iter().flatten();
    let rules: Vec<&Value> =
        rules.flat_map(|group| group["rules"].as_array().into_iter().flatten()).collect();
    ensure!(!rules.is_empty(), "no rules are loaded");
    for rule in rules {
        let [name, text, health, error] =
            ["name", "query", "health", "lastError"].map(|key| rule[key].as_str().unwrap_or(""));
        if health != "ok" {
            note(Err(anyhow::anyhow!("{name} is {health}: {error}")));
        }
        let (left, _) = text.rsplit_once(" > ").with_context(|| format!("{name}: {text}"))?;
        note(Query::new(name, left).ask());
    }
    let names = api("label/__name__/values")?;
    let names: BTreeSet<&str> =
        names.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let page = fs::read_to_string(root().join("docs/operating/monitoring.md"))?;
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    for (name, _) in rows.filter(|(name, _)| !ABSENT.contains(name)) {
        let is_there = names.contains(name) || names.contains(format!("{name}_bucket").as_str());
        if !is_there {
            note(Err(anyhow::anyhow!("`{name}` of the page for operators is not exported")));
        }
    }
    Ok(failed)
}

/// Asks Prometheus's HTTP API.
fn api(what: &str) -> anyhow::Result<Value> {
    let text = get(PROMETHEUS, &format!("/api/v1/{what}"))?;
    let mut answer: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    ensure!(answer["status"] == "success", "{what}: {text}");
    Ok(answer["data"].take())
}

fn get(port: u16, path: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    // of this version an answer comes in one piece
    write!(stream, "GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let Some((_, body)) = answer.split_once("\r\n\r\n") else {
        bail!("{path} is answered by {answer:?}");
    };
    Ok(body.to_owned())
}

fn encoded(text: &str) -> String {
    let of = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(of).collect()
}
