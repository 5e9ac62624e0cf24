//! Plays scenarios and says how they came out; rewrites outcomes on demand.
//!
//! On the wire a step that only reads is tried again for a while, since dispatch and registration follow an answer there;
//! in virtual time nothing is left over when a step is done, so every outcome is exact at once.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use env::Clock;
use futures_util::{StreamExt, stream};

use crate::{
    outcome::Expected,
    play::Play,
    script::{self, Said, Scenario, Step},
    simulated::Simulated,
    stage::{SETTLING, Stage, Wire},
    verbs::is_reading,
};

/// Scenarios that share a server at the same time.
const AT_ONCE: usize = 12;

/// How one scenario came out.
#[derive(Debug)]
pub struct Verdict {
    /// File and title.
    pub name: String,
    /// How long it took.
    pub took: Duration,
    /// What is wrong, if anything is.
    pub failure: Option<String>,
    /// Outcomes to be written in place of others, by step.
    rewrites: Vec<Rewrite>,
}

/// An outcome that came, for the lines of a step.
#[derive(Debug)]
struct Rewrite {
    line: usize,
    lines_below: usize,
    outcome: Vec<String>,
}

/// The folder of the scenarios.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios")
}

/// Reads every scenario whose file or title contains one of `words`; all of them when there are none.
pub fn load(words: &[String]) -> Result<Vec<Scenario>, String> {
    let text = |error: std::io::Error| error.to_string();
    let listed = fs::read_dir(folder()).map_err(text)?;
    let mut paths =
        listed.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, _>>().map_err(text)?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    let mut scenarios = Vec::new();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let content = fs::read_to_string(&path).map_err(text)?;
        scenarios.extend(script::parse(&format!("scenarios/{name}"), &content)?);
    }
    let wanted = |scenario: &Scenario| {
        let name = scenario.name().to_lowercase();
        words.is_empty() || words.iter().any(|word| name.contains(&word.to_lowercase()))
    };
    scenarios.retain(wanted);
    Ok(scenarios)
}

/// Plays scenarios in virtual time, each on a machine of its own.
pub fn play_virtually(scenarios: &[Scenario]) -> Vec<Verdict> {
    let play = |scenario: &Scenario| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(1)
            .build()
            .map_err(|error| error.to_string())?;
        let _inside = runtime.enter();
        let stage = Stage::Virtual(Simulated::new(&scenario.broker)?);
        runtime.block_on(play(scenario, &stage, String::new()))
    };
    let clock = Clock::real();
    let verdict = |scenario: &Scenario| {
        let began = clock.monotonic();
        let outcome = play(scenario);
        let (failure, rewrites) = match outcome {
            Ok(played) => (played.failure, played.rewrites),
            Err(error) => (Some(format!("{}: {error}", scenario.name())), Vec::new()),
        };
        Verdict { name: scenario.name(), took: clock.monotonic() - began, failure, rewrites }
    };
    scenarios.iter().map(verdict).collect()
}

/// Plays scenarios of one set of settings on a server, many at once; those that restart or change the broker, alone.
pub fn play_on(wire: &Wire, scenarios: &[&Scenario]) -> Result<Vec<Verdict>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let stage = Stage::Wire(wire, Clock::real());
    let (alone, together): (Vec<&Scenario>, Vec<&Scenario>) =
        scenarios.iter().copied().partition(|scenario| is_alone(scenario));
    let verdict = |scenario: &'_ Scenario| {
        let (stage, scenario) = (&stage, scenario.clone());
        async move {
            let began = stage.clock().monotonic();
            let suffix = format!("-{:06x}", fastrand::u32(..0x100_0000));
            let played = play(&scenario, stage, suffix).await;
            let failure = match played {
                Ok(played) => judge(&scenario, wire.original.as_deref(), played.failure),
                Err(error) => Some(format!("{}: {error}", scenario.name())),
            };
            let took = stage.clock().monotonic() - began;
            Verdict { name: scenario.name(), took, failure, rewrites: Vec::new() }
        }
    };
    Ok(runtime.block_on(async {
        let playing = stream::iter(together.into_iter().map(&verdict)).buffered(AT_ONCE);
        let mut verdicts: Vec<Verdict> = playing.collect().await;
        for scenario in alone {
            verdicts.push(verdict(scenario).await);
        }
        verdicts
    }))
}

/// A scenario that is marked to fail on a release has to.
fn judge(scenario: &Scenario, original: Option<&str>, failure: Option<String>) -> Option<String> {
    match (&scenario.differs, original) {
        (Some((release, why)), Some(original)) if release == original => match failure {
            Some(_) => None,
            None => Some(format!(
                "{}: passes on {release}, although it is marked to differ there: {why}",
                scenario.name()
            )),
        },
        _ => failure,
    }
}

fn is_alone(scenario: &Scenario) -> bool {
    let is_global = |step: &Step| {
        matches!(
            step.words.first().map(String::as_str),
            Some("restart" | "kill" | "power" | "config")
        )
    };
    scenario.steps.iter().any(is_global)
}

struct Played {
    failure: Option<String>,
    rewrites: Vec<Rewrite>,
}

async fn play(scenario: &Scenario, stage: &Stage<'_>, suffix: String) -> Said<Played> {
    let mut play = Play::new(stage, suffix);
    let mut played = Played { failure: None, rewrites: Vec::new() };
    for step in &scenario.steps {
        let expected = expected(step, stage);
        match play_step(&mut play, step, &expected).await {
            Ok(()) => {}
            Err(Unmet { failure, outcome }) => {
                let at = format!("{}:{}", scenario.file, step.line + 1);
                let failure = format!("{at}: {}\n{failure}", step.text);
                played.failure.get_or_insert(failure);
                let rewrite =
                    |outcome| Rewrite { line: step.line, lines_below: step.lines_below, outcome };
                played.rewrites.extend(outcome.map(rewrite));
                if !stage.is_virtual() || played.rewrites.is_empty() {
                    break;
                }
            }
        }
    }
    play.tidy_up().await?;
    Ok(played)
}

/// What must come of a step here.
fn expected(step: &Step, stage: &Stage<'_>) -> Expected {
    let of_original = step.original.as_ref();
    let of_original = of_original.filter(|(release, _)| stage.original() == Some(release));
    match (of_original, &step.outcome) {
        (Some((_, outcome)), _) => outcome.clone(),
        (None, Some(outcome)) => outcome.clone(),
        (None, None) => Expected::default(),
    }
}

/// A step that did not come out as expected, and what would have been.
struct Unmet {
    failure: String,
    outcome: Option<Vec<String>>,
}

async fn play_step(play: &mut Play<'_>, step: &Step, expected: &Expected) -> Result<(), Unmet> {
    let broken = |error: String| Unmet { failure: format!("  {error}"), outcome: None };
    let clock = play.stage.clock();
    let has_time = step.named.iter().any(|(key, _)| key == "wait");
    let again = is_reading(&step.words) && !play.stage.is_virtual() && !has_time;
    let deadline = clock.monotonic() + SETTLING;
    loop {
        let got = play.step(step, expected).await.map_err(broken)?;
        let resolved = expected.resolved(|text| play.resolve(text)).map_err(broken)?;
        if resolved.is_met_by(&got) {
            return Ok(());
        }
        if again && clock.monotonic() < deadline {
            play.stage.pass(Duration::from_millis(50)).await;
            continue;
        }
        let lines = resolved.corrected(&got).written();
        let mut failure = String::new();
        for (what, lines) in [("expected", &resolved.written()), ("got", &lines)] {
            for (at, line) in lines.iter().enumerate() {
                let what = if at == 0 { what } else { "" };
                let _ = writeln!(failure, "  {what:>8}  {line}");
            }
        }
        if let Some(remark) = got.fields.get("remark") {
            let _ = writeln!(failure, "    remark  {remark}");
        }
        return Err(Unmet { failure, outcome: Some(lines) });
    }
}

/// Writes the outcomes that came in virtual time into the files; returns how many steps have changed.
pub fn bless(scenarios: &[Scenario], verdicts: &[Verdict]) -> Result<usize, String> {
    let mut by_file: BTreeMap<&str, Vec<&Rewrite>> = BTreeMap::new();
    for (scenario, verdict) in scenarios.iter().zip(verdicts) {
        by_file.entry(&scenario.file).or_default().extend(&verdict.rewrites);
    }
    let mut count = 0;
    for (file, mut rewrites) in by_file {
        if rewrites.is_empty() {
            continue;
        }
        let path = folder().join("..").join(file);
        let text = fs::read_to_string(&path).map_err(|error| error.to_string())?;
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        rewrites.sort_by_key(|rewrite| std::cmp::Reverse(rewrite.line));
        for rewrite in &rewrites {
            rewrite.apply(&mut lines);
            count += 1;
        }
        fs::write(&path, lines.join("\n") + "\n").map_err(|error| error.to_string())?;
    }
    Ok(count)
}

impl Rewrite {
    fn apply(&self, lines: &mut Vec<String>) {
        let behind = self.line + 1;
        let line = &lines[self.line];
        let (step, before_arrow) = match script::split_outcome(line) {
            Some((step, _)) => (step.trim_end().to_owned(), step.to_owned()),
            None => (line.trim_end().to_owned(), format!("{} ", line.trim_end())),
        };
        // marks of the original and comments stay where they are
        let is_outcome = |line: &String| {
            let line = line.trim_start();
            !line.starts_with("original ") && !line.starts_with('#') && !line.is_empty()
        };
        let mut at = behind;
        for _ in 0..self.lines_below {
            if is_outcome(&lines[at]) {
                lines.remove(at);
            } else {
                at += 1;
            }
        }
        if let [only] = self.outcome.as_slice() {
            lines[self.line] = format!("{before_arrow}=> {only}");
            return;
        }
        lines[self.line] = step;
        for (at, outcome) in self.outcome.iter().enumerate() {
            let arrow = if at == 0 { "=>" } else { "  " };
            lines.insert(behind + at, format!("    {arrow} {outcome}"));
        }
    }
}
