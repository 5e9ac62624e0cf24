//! `apogee filter`: attaches modules to topics and groups, by files in the broker's directory.
//!
//! A broker that runs sees the change within a second, one that does not at its next start. Whoever may write into the
//! directory may attach; nothing over the wire can. What a module is to export says [`broker::filter::code`].

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use broker::filter::code::{CodeFilter, DIR, SUFFIX, pair_of};
use clap::Subcommand;

use crate::{args::Run, config::Settings};

/// What is done with code filters.
#[derive(Debug, Subcommand)]
pub(crate) enum Filter {
    /// Has a module say which messages of a topic a group gets; in place of one that did.
    Attach {
        /// The topic.
        topic: String,
        /// The consumer group.
        group: String,
        /// A module of WebAssembly, see examples/filters.
        module: PathBuf,
        #[command(flatten)]
        run: Run,
    },
    /// Lets a group get all messages of a topic again.
    Detach {
        /// The topic.
        topic: String,
        /// The consumer group.
        group: String,
        #[command(flatten)]
        run: Run,
    },
    /// Prints what is attached, and what is wrong with it.
    List {
        #[command(flatten)]
        run: Run,
    },
}

impl Filter {
    /// Does it in the directory that the flags name.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self {
            Filter::Attach { topic, group, module, run } => {
                attach(&run.settings()?, &topic, &group, &module)
            }
            Filter::Detach { topic, group, run } => detach(&run.settings()?, &topic, &group),
            Filter::List { run } => list(&run.settings()?),
        }
    }
}

fn attach(settings: &Settings, topic: &str, group: &str, module: &Path) -> anyhow::Result<()> {
    let name = file_name(topic, group)?;
    let said = || module.display().to_string();
    let max = settings.broker.code_filter_module_bytes_max as u64;
    let len = fs::metadata(module).with_context(said)?.len();
    if len > max {
        bail!("`{}` has {len} bytes, more than codeFilterModuleBytesMax, {max}", said());
    }
    let bytes = fs::read(module).with_context(said)?;
    CodeFilter::load(&bytes, settings.broker.code_filter_limits()).with_context(said)?;
    let dir = dir(settings);
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    // A broker never sees half of it.
    let whole = dir.join(format!(".{name}.tmp"));
    fs::write(&whole, bytes).and_then(|()| fs::File::open(&whole)?.sync_all())?;
    fs::rename(&whole, dir.join(&name))?;
    Ok(())
}

fn detach(settings: &Settings, topic: &str, group: &str) -> anyhow::Result<()> {
    let path = dir(settings).join(file_name(topic, group)?);
    match fs::remove_file(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("no module is attached to {topic} and {group}: there is no `{}`", path.display())
        }
        removed => removed.with_context(|| path.display().to_string()),
    }
}

#[expect(clippy::print_stdout, reason = "printing is what was asked for")]
fn list(settings: &Settings) -> anyhow::Result<()> {
    let dir = dir(settings);
    let entries = match fs::read_dir(&dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(|| dir.display().to_string())?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry?.file_name().into_string().ok());
    }
    names.sort();
    for name in &names {
        let Some((topic, group)) = pair_of(name) else { continue };
        let bytes = fs::read(dir.join(name))?;
        let state = match CodeFilter::load(&bytes, settings.broker.code_filter_limits()) {
            Ok(_) => "fine".to_owned(),
            Err(error) => format!("lets nothing through: {error}"),
        };
        println!("{topic} {group} {} bytes, {state}", bytes.len());
    }
    Ok(())
}

fn dir(settings: &Settings) -> PathBuf {
    settings.store.config_dir().join(DIR)
}

fn file_name(topic: &str, group: &str) -> anyhow::Result<String> {
    let name = format!("{topic}@{group}{SUFFIX}");
    match pair_of(&name) {
        Some(pair) if pair == (topic, group) => Ok(name),
        Some(_) | None => bail!("`{topic}` is no name of a topic, or `{group}` none of a group"),
    }
}
