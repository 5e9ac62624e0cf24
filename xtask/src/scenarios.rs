//! The scenarios of `scenarios/`, on their three stages: virtual time, our release binary, the original.
//!
//! Scenarios with the same settings share a broker, and all brokers of a stage a name server. In CI the original plays the
//! smoke set only.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use sim::{End, Scenario, Verdict, Wire};

use crate::process::scratch;
use crate::server::{self, Kind, Ports, Role, Server, Spec};

/// How many of the slowest scenarios are shown.
const SHOWN: usize = 5;

const ORIGINAL: &str = "5.5.0";

const USAGE: &str = "usage: cargo xtask scenarios [--stage virtual|apogee|original]... [--smoke] [--bless] [NAME]...";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Virtual,
    Apogee,
    Original,
}

/// Plays the scenarios whose names contain one of `words`, all of them when there are none.
pub(crate) fn run(words: &[String]) -> anyhow::Result<()> {
    let (mut stages, mut names) = (Vec::new(), Vec::new());
    let (mut smoke, mut bless) = (false, false);
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        match word.as_str() {
            "--stage" => stages.push(match rest.next().map(String::as_str) {
                Some("virtual") => Stage::Virtual,
                Some("apogee") => Stage::Apogee,
                Some("original") => Stage::Original,
                _ => bail!("{USAGE}"),
            }),
            "--smoke" => smoke = true,
            "--bless" => bless = true,
            flag if flag.starts_with("--") => bail!("{USAGE}"),
            name => names.push(name.to_owned()),
        }
    }
    let mut scenarios = sim::load(&names).map_err(|error| anyhow!(error))?;
    scenarios.retain(|scenario| !smoke || scenario.smoke);
    ensure!(!scenarios.is_empty(), "no scenario is called so");
    if bless {
        let verdicts = sim::play_virtually(&scenarios);
        let count = sim::bless(&scenarios, &verdicts).map_err(|error| anyhow!(error))?;
        println!("{count} outcomes rewritten");
        return Ok(());
    }
    if stages.is_empty() {
        stages = vec![Stage::Virtual, Stage::Apogee, Stage::Original];
    }
    let mut failed = 0;
    for stage in stages {
        failed += play(stage, &scenarios)?;
    }
    ensure!(failed == 0, "{failed} scenarios failed");
    Ok(())
}

/// What a change is checked with: ours in full, the original's smoke set. Virtual time is a test of `sim`.
pub(crate) fn check() -> anyhow::Result<()> {
    run(&["--stage".to_owned(), "apogee".to_owned()])?;
    run(&["--stage".to_owned(), "original".to_owned(), "--smoke".to_owned()])
}

/// Plays them all on one stage, prints what failed, and returns how many that are.
fn play(stage: Stage, scenarios: &[Scenario]) -> anyhow::Result<usize> {
    let began = Instant::now();
    let verdicts = match stage {
        Stage::Virtual => sim::play_virtually(scenarios),
        Stage::Apogee => {
            server::build()?;
            play_twice(&Kind::Apogee, scenarios)?
        }
        Stage::Original => play_twice(&Kind::parse(ORIGINAL), scenarios)?,
    };
    let failures: Vec<&String> =
        verdicts.iter().filter_map(|verdict| verdict.failure.as_ref()).collect();
    for failure in &failures {
        println!("{failure}");
    }
    let mut slowest: Vec<&Verdict> = verdicts.iter().collect();
    slowest.sort_by_key(|verdict| std::cmp::Reverse(verdict.took));
    for verdict in slowest.iter().take(SHOWN).filter(|verdict| verdict.took.as_secs() > 0) {
        println!("  {:>5.1} s  {}", verdict.took.as_secs_f64(), verdict.name);
    }
    println!(
        "{stage:?}: {} of {} scenarios hold, {} s",
        verdicts.len() - failures.len(),
        verdicts.len(),
        began.elapsed().as_secs()
    );
    Ok(failures.len())
}

/// Ports that are free now, so that several checkouts can play at the same time.
fn free_ports() -> anyhow::Result<Ports> {
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let start = 24_000 + 20 * u16::try_from(std::process::id() % 40)?;
    for base in (start..24_980).step_by(20) {
        // beside its own port the broker takes one for its VIP channel and one for replication
        if [base, base + 9, base + 11, base + 12].into_iter().all(is_free) {
            return Ok(Ports { namesrv: base, broker: base + 11 });
        }
    }
    bail!("no free ports between {start} and 25000")
}

/// Plays them all, and those that fail once more with nothing beside them: in real time a machine that others use, too,
/// can miss a moment which virtual time, where nothing is played twice, never misses. What held only then is named.
fn play_twice(kind: &Kind, scenarios: &[Scenario]) -> anyhow::Result<Vec<Verdict>> {
    let mut verdicts = play_on(kind, scenarios)?;
    for verdict in verdicts.iter_mut().filter(|verdict| verdict.failure.is_some()) {
        let alone: Vec<Scenario> =
            scenarios.iter().filter(|scenario| scenario.name() == verdict.name).cloned().collect();
        let first = verdict.failure.take().unwrap_or_default();
        let again = play_on(kind, &alone)?;
        verdict.failure = again.into_iter().find_map(|again| again.failure);
        if verdict.failure.is_none() {
            println!("UNSTEADY, held when played again alone: {}\n{first}", verdict.name);
        }
    }
    Ok(verdicts)
}

fn play_on(kind: &Kind, scenarios: &[Scenario]) -> anyhow::Result<Vec<Verdict>> {
    let ports = free_ports()?;
    let folder = scratch().join("scenarios").join(kind.to_string());
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let _namesrv = Spec::new(kind, Role::Namesrv, folder.join("namesrv"), ports).start()?;
    let mut by_settings: BTreeMap<&[String], Vec<&Scenario>> = BTreeMap::new();
    let is_for = |scenario: &&Scenario| {
        scenario.virtual_only.is_none() && (scenario.ours_only.is_none() || *kind == Kind::Apogee)
    };
    for scenario in scenarios.iter().filter(is_for) {
        by_settings.entry(&scenario.broker).or_default().push(scenario);
    }
    let mut verdicts = Vec::new();
    for (number, (settings, scenarios)) in by_settings.into_iter().enumerate() {
        let folder = folder.join(format!("broker-{number}"));
        let began = Instant::now();
        verdicts.extend(play_with(kind, ports, &folder, settings, &scenarios)?);
        println!(
            "  {kind} with `{}`: {} scenarios, {} s",
            settings.join("` `"),
            scenarios.len(),
            began.elapsed().as_secs()
        );
    }
    Ok(verdicts)
}

/// Plays scenarios on a broker with their settings.
fn play_with(
    kind: &Kind,
    ports: Ports,
    folder: &Path,
    settings: &[String],
    scenarios: &[&Scenario],
) -> anyhow::Result<Vec<Verdict>> {
    let mut spec = Spec::new(kind, Role::Broker, folder.to_owned(), ports);
    spec.extra = settings.to_vec();
    let server = Rc::new(RefCell::new(Some(spec.start().context("broker")?)));
    let running = server.clone();
    let restart = move |how, down, settings: &[String]| {
        let server = running.borrow_mut().take().context("a broker runs between two steps")?;
        let mut spec = spec.clone();
        spec.extra.extend_from_slice(settings);
        *running.borrow_mut() = Some(again(server, how, down, &spec)?);
        Ok(())
    };
    let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let wire = Wire {
        broker: address(ports.broker),
        namesrv: address(ports.namesrv),
        original: match kind {
            Kind::Apogee => None,
            Kind::Original(release) => Some(release.clone()),
        },
        restart: Box::new(move |how, down, settings| {
            restart(how, down, settings).map_err(|error: anyhow::Error| format!("{error:#}"))
        }),
    };
    let verdicts = sim::play_on(&wire, scenarios).map_err(|error| anyhow!(error))?;
    if let Some(server) = server.borrow_mut().take() {
        server.kill()?;
    }
    Ok(verdicts)
}

fn again(server: Server, how: End, down: Duration, spec: &Spec) -> anyhow::Result<Server> {
    match how {
        End::Stop => server.stop()?,
        End::Kill => server.kill()?,
        End::Power => bail!("the power of a real machine is not cut"),
    }
    thread::sleep(down);
    spec.start()
}
