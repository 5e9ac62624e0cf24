//! The command line: what to do, and the layers of configuration that flags and environment add.
//!
//! Called by one of the original's names (`mqbroker`, `mqnamesrv`, also through a link) the binary takes that script's
//! flags, so that start scripts and charts keep working.

use std::{env, ffi::OsString, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    bench::Bench,
    config::{Layers, Settings, Style, ask},
    filters::Filter,
    messages::{Consume, Send, Tail},
};

/// What the process was asked to do.
pub(crate) enum Task {
    /// Serve.
    Run(Plan),
    /// Print the configuration, and do nothing else.
    Print(Layers, Print),
    /// Answer about the configuration.
    Ask(Question),
    /// Attach, detach or list code filters.
    Filter(Filter),
    /// Send messages.
    Send(Send),
    /// Print the messages that a group gets.
    Consume(Consume),
    /// Look at a topic.
    Tail(Tail),
    /// Measure a server.
    Bench(Bench),
}

/// What to serve, and how.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) roles: Vec<Role>,
    pub(crate) layers: Layers,
    pub(crate) log_format: LogFormat,
}

/// What a configuration is printed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Print {
    /// Every key and its value (`-p`).
    All,
    /// The keys that operators really set (`-m`).
    Common,
    /// The reference page.
    Markdown,
}

/// A part that a process can play.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Tells clients which broker has which topic.
    Namesrv,
    /// Keeps messages.
    Broker,
}

/// How events are written to standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For reading.
    Text,
    /// One JSON object a line.
    Json,
}

/// A messaging server that speaks RocketMQ's protocol and keeps its files.
#[derive(Debug, Parser)]
#[command(name = "apogee", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: Run,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves: name server and broker in one process. The same as no command at all.
    Run(Run),
    /// Prints every key with the value that it would have, or answers about them.
    #[command(args_conflicts_with_subcommands = true)]
    Config {
        #[command(subcommand)]
        question: Option<Question>,
        #[command(flatten)]
        run: Run,
        /// Prints the reference page instead.
        #[arg(long, hide = true)]
        markdown: bool,
    },
    /// Attaches modules of WebAssembly that say which messages of a topic a group gets.
    #[command(subcommand)]
    Filter(Filter),
    /// Sends messages: arguments, lines of standard input, or files.
    Send(Send),
    /// Prints the messages of a topic as a member of a consumer group, and commits what it printed.
    Consume(Consume),
    /// Prints the last messages of a topic, or those from some place on; changes nobody's progress.
    Tail(Tail),
    /// Measures any server of the protocol.
    #[command(subcommand)]
    Bench(Bench),
}

/// What is asked about the configuration.
#[derive(Debug, Subcommand)]
pub(crate) enum Question {
    /// Says what keys mean, what is allowed, what they are here, and who says so.
    Explain {
        /// Keys, or parts of their names.
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<String>,
        #[command(flatten)]
        run: Run,
    },
    /// Looks for all that is wrong with property files; fails if something is.
    Check {
        /// The files, weakest first.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Prints the keys that are not at their defaults, and who set them.
    Diff {
        #[command(flatten)]
        run: Run,
    },
}

/// The flags of a role, and of what works on its files.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Roles of this process.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "namesrv,broker")]
    role: Vec<Role>,
    /// Directory of all data [default: ./data].
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// Host or address to listen on [default: 127.0.0.1].
    #[arg(long, value_name = "HOST")]
    listen: Option<String>,
    /// Host or address that clients reach this broker by, when it is not one of this machine's.
    #[arg(long, value_name = "HOST")]
    advertise: Option<String>,
    /// Port of the name server [default: 9876].
    #[arg(long, value_name = "N")]
    namesrv_port: Option<u16>,
    /// Port of the broker; it also listens on this port less two [default: 10911].
    #[arg(long, value_name = "N")]
    broker_port: Option<u16>,
    /// Port of metrics and health, on loopback; -1 for none [default: 8082].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    http_port: Option<i32>,
    /// Property file with RocketMQ's keys; may be repeated. The original's defaults hold then.
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    config: Vec<PathBuf>,
    /// Sets one key; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// How events are written to standard error; APOGEE_LOG filters them.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

/// The flags of the original's scripts.
#[derive(Debug, Parser)]
#[command(version)]
struct Original {
    /// Property file.
    #[arg(short = 'c', long = "configFile", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Name servers, `host:port;host:port`.
    #[arg(short = 'n', long = "namesrvAddr", value_name = "ADDRESSES")]
    namesrv: Option<String>,
    /// Prints all keys and exits.
    #[arg(short = 'p', long = "printConfigItem")]
    print: bool,
    /// Prints the important keys and exits.
    #[arg(short = 'm', long = "printImportantConfig")]
    print_important: bool,
}

/// Reads the process's command line and environment; ends the process on a wrong flag, as clap does.
pub(crate) fn parse() -> Task {
    let mut words: Vec<OsString> = env::args_os().collect();
    let called = words.first().map(PathBuf::from);
    let called = called.as_deref().and_then(|path| path.file_stem()?.to_str()).unwrap_or_default();
    match called {
        "mqnamesrv" => original(Original::parse_from(words), Role::Namesrv),
        "mqbroker" => original(Original::parse_from(words), Role::Broker),
        _ => {
            if words.is_empty() {
                words.push("apogee".into());
            }
            ours(Arguments::parse_from(words))
        }
    }
}

fn ours(arguments: Arguments) -> Task {
    match arguments.command.unwrap_or(Command::Run(arguments.run)) {
        Command::Run(run) => Task::Run(run.plan()),
        Command::Config { question: Some(question), .. } => Task::Ask(question),
        Command::Config { run, markdown, .. } => {
            Task::Print(run.plan().layers, if markdown { Print::Markdown } else { Print::All })
        }
        Command::Filter(filter) => Task::Filter(filter),
        Command::Send(send) => Task::Send(send),
        Command::Consume(consume) => Task::Consume(consume),
        Command::Tail(tail) => Task::Tail(tail),
        Command::Bench(bench) => Task::Bench(bench),
    }
}

fn original(arguments: Original, role: Role) -> Task {
    let mut layers = layers(Style::Original, arguments.config.into_iter().collect());
    if let Some(namesrv) = arguments.namesrv {
        layers.flags.push(("-n", "namesrvAddr", namesrv));
    }
    if arguments.print || arguments.print_important {
        return Task::Print(layers, if arguments.print { Print::All } else { Print::Common });
    }
    Task::Run(Plan { roles: vec![role], layers, log_format: LogFormat::Text })
}

impl Question {
    /// Returns the answer.
    ///
    /// # Errors
    /// What stands in its way, or the answer, if it is that something is wrong.
    pub(crate) fn answer(self) -> anyhow::Result<String> {
        match self {
            Question::Explain { keys, run } => ask::explain(&run.plan().layers, &keys),
            Question::Check { files } => ask::check(&layers(Style::Original, files)),
            Question::Diff { run } => ask::diff(&run.plan().layers),
        }
    }
}

impl Run {
    /// Returns what a process with these flags would go by.
    pub(crate) fn settings(self) -> anyhow::Result<Settings> {
        Ok(self.plan().layers.load()?.settings)
    }

    fn plan(self) -> Plan {
        let style = if self.config.is_empty() { Style::Apogee } else { Style::Original };
        let mut layers = layers(style, self.config);
        layers.sets = self.set;
        let mut flag = |flag, key, value: Option<String>| {
            layers.flags.extend(value.map(|value| (flag, key, value)));
        };
        let namesrv_file = |name| self.data.as_ref().map(|data| format!("{data}/namesrv/{name}"));
        let (kv_config, changed) =
            (namesrv_file("kvConfig.json"), namesrv_file("namesrv.properties"));
        flag("--data", "storePathRootDir", self.data);
        flag("--data", "kvConfigPath", kv_config);
        flag("--data", "configStorePath", changed);
        flag("--listen", "bindAddress", self.listen);
        flag("--advertise", "brokerIP1", self.advertise);
        flag("--namesrv-port", "namesrvPort", self.namesrv_port.map(|port| port.to_string()));
        flag("--broker-port", "listenPort", self.broker_port.map(|port| port.to_string()));
        flag("--http-port", "httpPort", self.http_port.map(|port| port.to_string()));
        let mut roles = self.role;
        roles.dedup();
        Plan { roles, layers, log_format: self.log_format }
    }
}

fn layers(style: Style, files: Vec<PathBuf>) -> Layers {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    Layers {
        style,
        files,
        sets: Vec::new(),
        flags: Vec::new(),
        environment: env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect(),
        home: env::home_dir().unwrap_or_else(|| ".".into()),
        host_name: if host.is_empty() { "DEFAULT_BROKER".into() } else { host },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(words: &[&str]) -> Plan {
        let words = std::iter::once("apogee").chain(words.iter().copied());
        match ours(Arguments::try_parse_from(words).unwrap()) {
            Task::Run(plan) => plan,
            _ => panic!("not a run"),
        }
    }

    #[test]
    fn no_command_is_run() {
        let (bare, run) = (plan(&["--broker-port", "1"]), plan(&["run", "--broker-port", "1"]));
        assert_eq!(bare.roles, [Role::Namesrv, Role::Broker]);
        assert_eq!(bare.layers.flags, run.layers.flags);
        assert_eq!(bare.layers.style, Style::Apogee);
    }

    #[test]
    fn a_file_brings_the_originals_defaults() {
        let plan = plan(&["run", "-c", "a.conf", "-c", "b.conf", "--role", "broker"]);
        assert_eq!((plan.layers.style, plan.layers.files.len()), (Style::Original, 2));
        assert_eq!(plan.roles, [Role::Broker]);
    }

    #[test]
    fn the_originals_flags_are_taken_under_its_names() {
        let arguments =
            Original::try_parse_from(["mqbroker", "-n", "a:1;b:2", "-c", "x.conf"]).unwrap();
        let Task::Run(plan) = original(arguments, Role::Broker) else { panic!("not a run") };
        assert_eq!(plan.layers.flags, [("-n", "namesrvAddr", "a:1;b:2".to_owned())]);
        let arguments = Original::try_parse_from(["mqbroker", "-m"]).unwrap();
        assert!(matches!(original(arguments, Role::Broker), Task::Print(_, Print::Common)));
    }
}
