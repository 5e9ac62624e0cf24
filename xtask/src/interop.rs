//! Stock clients against a server: the Java client in several releases, alone, beside ours and with what rides on it,
//! the Go client, and `mqadmin`.
//!
//! Each suite gets a fresh server, ours unless `--server` names a release of the original, which is the oracle: a suite that
//! does not pass there proves nothing. A suite prints a line per check and `N passed, N failed` at its end; one that fails is
//! run a second time and, if it passes then, named as unsteady.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::capture;
use crate::certificate::Certificate;
use crate::java::{self, Part};
use crate::process::{root, run as run_command, scratch};
use crate::server::{self, Deployment, Kind, Ports, quiet_logging};

const PORTS: Ports = Ports { namesrv: 26_876, broker: 26_911 };
const SUITE_LIMIT: Duration = Duration::from_secs(600);
const SUITES: [&str; 11] = [
    "java-4.2.0",
    "java-4.9.7",
    "java-5.5.0",
    "java-5.5.0-binary",
    "java-5.5.0-tls",
    "logappender",
    "openmessaging",
    "peers",
    "go",
    "mqadmin",
    "sql92",
];
/// The release whose client log appenders and OpenMessaging ride on: the last that has the latter.
const ADAPTERS: &str = "4.9.7";

/// What the broker of a suite is told: half messages are asked for soon and as often as a slow client needs it, and what is
/// ended is known before the original could ask for it.
pub(crate) const BROKER: [&str; 5] = [
    "traceTopicEnable=true",
    "transactionTimeOut=2000",
    "transactionCheckInterval=1000",
    "transactionCheckMax=1000",
    "transactionOpBatchInterval=200",
];

/// Runs the named suites, or all of them.
pub(crate) fn run(words: &[String]) -> anyhow::Result<()> {
    let mut kind = Kind::Apogee;
    let mut suites = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--server" => kind = Kind::parse(words.next().context("--server needs a value")?),
            suite if SUITES.contains(&suite) => suites.push(suite),
            other => bail!("no suite `{other}`; there are {}", SUITES.join(" ")),
        }
    }
    if suites.is_empty() {
        suites = SUITES.to_vec();
    }
    if kind == Kind::Apogee {
        server::build()?;
    }
    let mut failed = Vec::new();
    for suite in suites {
        println!("== {suite} against {kind}");
        let Err(error) = run_suite(suite, &kind) else { continue };
        println!("{suite}: {error:#}");
        // Clients have time-outs of their own, which a machine that others use, too, may exceed.
        println!("== {suite} against {kind}, again");
        match run_suite(suite, &kind) {
            Ok(()) => println!("UNSTEADY, passed the second time: {suite}"),
            Err(error) => {
                println!("{suite}: {error:#}");
                failed.push(suite);
            }
        }
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(" "));
    }
    Ok(())
}

fn run_suite(suite: &str, kind: &Kind) -> anyhow::Result<()> {
    if suite == "sql92" {
        return sql92();
    }
    let home = scratch().join(format!("run-{suite}"));
    let command = match suite {
        "go" => go()?,
        "mqadmin" => Command::new("true"),
        "logappender" => adapter("LogAppenders", &home)?,
        "openmessaging" => adapter("OpenMessaging", &home)?,
        "peers" => peers(&home)?,
        java => java_suite(java, &home)?,
    };
    let mut lines: Vec<String> = BROKER.iter().map(|line| (*line).to_owned()).collect();
    // the original makes a certificate of its own
    if suite.ends_with("-tls") && *kind == Kind::Apogee {
        lines.extend(Certificate::make(&home.join("tls"))?.lines());
        lines.extend(["tls.server.mode=enforcing", "tls.enable=true"].map(str::to_owned));
    }
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let mut servers = Deployment::start(kind, &home.join("servers"), PORTS, &lines)?;
    match suite {
        "mqadmin" => mqadmin(&home)?,
        _ => drive(command, &mut servers)?,
    }
    servers.stop()
}

fn java_suite(suite: &str, home: &Path) -> anyhow::Result<Command> {
    let release = suite.split('-').nth(1).context("a suite has a release")?;
    let class_path = java::programs(release)?;
    let mut command = java::java(&class_path, home)?;
    command.args(["-Xmx512m", "-Dinterop.restart=true"]);
    if suite.ends_with("-binary") {
        command.arg("-Drocketmq.serialize.type=ROCKETMQ");
    }
    if suite.ends_with("-tls") {
        command.arg("-Dtls.enable=true");
    }
    if release == "4.2.0" {
        command.arg("-Dinterop.vip=true");
    }
    command.arg("Interop");
    Ok(command)
}

fn adapter(program: &str, home: &Path) -> anyhow::Result<Command> {
    let mut command = java::java(&java::adapters(ADAPTERS)?, home)?;
    // a consumer that OpenMessaging pulls with looks for its queues once in 20 s otherwise
    command.args(["-Xmx256m", "-Drocketmq.client.rebalance.waitInterval=1000"]);
    // appenders encode text as the platform does
    command.args(["-Dfile.encoding=UTF-8", program]);
    // without it OpenMessaging asks an HTTP server where the name servers are
    command.env("OMS_RMQ_DIRECT_NAME_SRV", "true");
    Ok(command)
}

/// The Java client and ours on the same topics.
fn peers(home: &Path) -> anyhow::Result<Command> {
    run_command(
        Command::new("cargo")
            .args(["build", "--package", "apogee-client", "--example", "peer"])
            .current_dir(root()),
    )?;
    let mut command = java::java(&java::programs("5.5.0")?, home)?;
    let peer = root().join("target/debug/examples/peer");
    command.arg("-Xmx512m").arg(format!("-Dinterop.peer={}", peer.display())).arg("Peers");
    Ok(command)
}

fn go() -> anyhow::Result<Command> {
    let program = scratch().join("go-suite");
    fs::create_dir_all(scratch())?;
    run_command(
        Command::new("go")
            .args(["build", "-o"])
            .arg(&program)
            .arg(".")
            .current_dir(root().join("interop/go")),
    )?;
    Ok(Command::new(program))
}

/// Runs a suite's program to its end, restarts the server when it asks, and fails unless it counts no failure.
fn drive(mut command: Command, servers: &mut Deployment) -> anyhow::Result<()> {
    command.env("NAMESRV_ADDR", format!("127.0.0.1:{}", PORTS.namesrv));
    let noise = fs::File::create(scratch().join("suite.err"))?;
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(noise).spawn()?;
    let mut input = child.stdin.take().context("piped")?;
    let output = BufReader::new(child.stdout.take().context("piped")?);
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let mut verdict = None;
    loop {
        match lines.recv_timeout(SUITE_LIMIT) {
            Ok(line) if line == "@restart" => {
                servers.restart()?;
                input.write_all(b"\n")?;
                input.flush()?;
            }
            Ok(line) => {
                println!("{line}");
                if line.contains(" passed, ") {
                    verdict = Some(line);
                }
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                child.kill()?;
                child.wait()?;
                bail!("silent for {SUITE_LIMIT:?}");
            }
        }
    }
    let status = child.wait()?;
    match verdict {
        Some(line)
            if status.success()
                && line.ends_with(" passed, 0 failed")
                && !line.starts_with("0 ") =>
        {
            Ok(())
        }
        Some(line) => bail!("{line} ({status})"),
        None => bail!(
            "ended with {status} without a verdict; see {}",
            scratch().join("suite.err").display()
        ),
    }
}

/// Asks the original's classes again what they say of the expressions that our unit test is held to.
fn sql92() -> anyhow::Result<()> {
    let fixture = root().join("fixtures/sql92/verdicts-5.5.0.txt");
    let again = scratch().join("verdicts.txt");
    fs::copy(&fixture, &again)?;
    capture::sql92(&again)?;
    if fs::read(&fixture)? != fs::read(&again)? {
        bail!("{} differs from the fixture", again.display());
    }
    println!("1 passed, 0 failed");
    Ok(())
}

// ---- mqadmin

/// Runs each line of `interop/mqadmin/session.txt` and compares what it prints with what stands below it there.
fn mqadmin(home: &Path) -> anyhow::Result<()> {
    let session = fs::read_to_string(root().join("interop/mqadmin/session.txt"))?;
    let jars = java::jars(Part::Server, "5.5.0")?;
    let (mut passed, mut failed) = (0, 0);
    let session =
        session.lines().filter(|line| !line.starts_with("//")).collect::<Vec<_>>().join("\n");
    for step in session
        .split("\n$ ")
        .map(|step| step.trim_start_matches("$ ").trim())
        .filter(|step| !step.is_empty())
    {
        let (line, wanted) = step.split_once('\n').unwrap_or((step, ""));
        let mut admin = match line.strip_prefix("java ") {
            Some(program) => java::server_program(program, home)?,
            None => {
                let mut admin = java::java(&format!("{}/*", jars.display()), home)?;
                admin.arg("-Drmq.logback.configurationFile=rmq.tools.logback.xml");
                admin.arg("org.apache.rocketmq.tools.command.MQAdminStartup").args(line.split(' '));
                admin
            }
        };
        admin.env("ROCKETMQ_HOME", quiet_logging(home)?).stdin(Stdio::null());
        admin.env("NAMESRV_ADDR", format!("127.0.0.1:{}", PORTS.namesrv));
        let output = admin.output()?;
        let printed =
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        match difference(wanted, &printed) {
            None if output.status.success() => {
                passed += 1;
                println!("{line} ... ok");
            }
            difference => {
                failed += 1;
                println!("{line} ... FAILED ({})", output.status);
                println!("  {}", difference.unwrap_or_default());
                println!("  printed:\n{printed}");
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    if failed > 0 || passed == 0 {
        bail!("{failed} of mqadmin's answers differ");
    }
    Ok(())
}

/// What keeps `printed` from being `wanted`, where a `*` stands for any text within a line, blanks count as one, and the
/// order of lines does not matter; a line `...` allows lines that were not named.
fn difference(wanted: &str, printed: &str) -> Option<String> {
    let squeezed = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines =
        |text: &str| text.lines().map(squeezed).filter(|line| !line.is_empty()).collect::<Vec<_>>();
    let mut left = lines(printed);
    let mut others = false;
    for pattern in lines(wanted) {
        if pattern == "..." {
            others = true;
            continue;
        }
        let Some(found) = left.iter().position(|line| matches(&pattern, line)) else {
            return Some(format!("not printed: {pattern}"));
        };
        left.remove(found);
    }
    left.first().filter(|_| !others).map(|line| format!("not expected: {line}"))
}

fn matches(pattern: &str, line: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == line,
        Some((head, rest)) => line.strip_prefix(head).is_some_and(|line| {
            (0..=line.len())
                .filter(|at| line.is_char_boundary(*at))
                .any(|at| matches(rest, &line[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text_within_a_line() {
        assert!(matches("a*c", "abbc"));
        assert!(matches("a*", "a"));
        assert!(matches("*b*", "abc"));
        assert!(!matches("a*c", "abcd"));
    }

    #[test]
    fn lines_may_come_in_any_order_but_none_may_be_missing_or_new() {
        assert_eq!(difference("a\nb 1", "b   1\n\na\n"), None);
        assert_eq!(difference("a\nb", "a").as_deref(), Some("not printed: b"));
        assert_eq!(difference("a", "a\nb").as_deref(), Some("not expected: b"));
        assert_eq!(difference("a\n...", "a\nb"), None);
    }
}
