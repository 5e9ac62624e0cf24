//! The programs of `examples/` against a server: each ends by itself, in time, and says by its status whether it has seen what
//! it promises.

use std::fs;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::certificate::Certificate;
use crate::interop::BROKER;
use crate::process::{root, run as run_command, scratch};
use crate::server::{self, Deployment, Kind, Ports};

const PORTS: Ports = Ports { namesrv: 26_882, broker: 26_886 };
const LIMIT: Duration = Duration::from_secs(180);
/// Needs a server that knows code filters, and the folder of its store.
const FILTER: &str = "filter_wasm";
/// Needs a server with our certificate, and that certificate.
const TLS: &str = "tls_acl";

/// Runs the named examples, or all of them.
pub(crate) fn run(words: &[String]) -> anyhow::Result<()> {
    let all = names()?;
    let mut kind = Kind::Apogee;
    let mut chosen: Vec<&str> = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--server" => kind = Kind::parse(words.next().context("--server needs a value")?),
            name if all.iter().any(|known| known == name) => chosen.push(name),
            other => bail!("no example `{other}`; there are {}", all.join(" ")),
        }
    }
    if chosen.is_empty() {
        chosen = all.iter().map(String::as_str).collect();
    }
    run_command(
        Command::new("cargo")
            .args(["build", "--examples"])
            .args(["--package", "apogee-client", "--package", "apogee-logappender"])
            .current_dir(root()),
    )?;
    if kind == Kind::Apogee {
        server::build()?;
    }
    let home = scratch().join("run-examples");
    let certificate = Certificate::make(&home.join("tls"))?;
    let offered = certificate.lines();
    let broker = [&BROKER[..], &offered.each_ref().map(String::as_str)].concat();
    let mut servers = Deployment::start(&kind, &home.join("servers"), PORTS, &broker)?;
    let mut failed = Vec::new();
    let mut passed = 0;
    for name in chosen {
        if [FILTER, TLS].contains(&name) && kind != Kind::Apogee {
            println!("{name} ... left out: {kind} has no code filters, and no certificate of ours");
            continue;
        }
        let output = home.join(format!("{name}.out"));
        let sink = fs::File::create(&output)?;
        let mut example = Command::new(root().join("target/debug/examples").join(name));
        example.arg(format!("127.0.0.1:{}", PORTS.namesrv));
        match name {
            FILTER => example.arg(home.join("servers/all/data")),
            TLS => example.arg(&certificate.chain),
            _ => &mut example,
        };
        example.stdin(Stdio::null()).stdout(sink.try_clone()?).stderr(sink);
        let began = Instant::now();
        let status = wait(&mut example.spawn().with_context(|| name.to_owned())?)?;
        let took = began.elapsed().as_millis();
        if status.is_some_and(|status| status.success()) {
            println!("{name} ... ok ({took} ms)");
            passed += 1;
            continue;
        }
        let ended = status.map_or_else(|| "did not end".to_owned(), |status| status.to_string());
        println!("{name} ... FAILED ({ended}, {took} ms)\n{}", fs::read_to_string(&output)?);
        failed.push(name);
    }
    servers.stop()?;
    println!("{passed} passed, {} failed", failed.len());
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(" "));
    }
    Ok(())
}

/// The names of the programs in the folder, sorted.
fn names() -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(root().join("examples"))? {
        let file = entry?.file_name().to_string_lossy().into_owned();
        names.extend(file.strip_suffix(".rs").map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

/// Waits for a process to end, and ends it when it takes too long.
fn wait(child: &mut Child) -> anyhow::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        thread::sleep(Duration::from_millis(20));
    }
    child.kill()?;
    child.wait()?;
    Ok(None)
}
