//! The stock Java jars, and our programs on top of them.
//!
//! Jars come from Maven Central by `interop/java/pom.xml`, into `target/interop/<part>-<version>`; a complete folder is not
//! fetched again. The programs of `interop/java/src` are compiled against the client of each version.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::process::{root, run, scratch};

const DEPENDENCY_PLUGIN: &str =
    "org.apache.maven.plugins:maven-dependency-plugin:3.6.0:copy-dependencies";

/// Which jars of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The client alone.
    Client,
    /// Name server, broker and `mqadmin`.
    Server,
    /// The client and what rides on it: log appenders, OpenMessaging.
    Adapters,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Part::Client => "client",
            Part::Server => "server",
            Part::Adapters => "adapters",
        }
    }
}

/// The folder with the jars of a release, fetched when it is not there yet.
pub(crate) fn jars(part: Part, version: &str) -> anyhow::Result<PathBuf> {
    let folder = scratch().join(format!("{}-{version}", part.name()));
    if folder.join(".complete").exists() {
        return Ok(folder);
    }
    let mut maven = Command::new("mvn");
    maven.args(["-q", "-B", "-f"]).arg(root().join("interop/java/pom.xml"));
    if part != Part::Client {
        maven.arg(format!("-P{}", part.name()));
    }
    maven.arg(format!("-Drocketmq={version}")).arg(DEPENDENCY_PLUGIN);
    maven.arg("-DincludeScope=runtime").arg(format!("-DoutputDirectory={}", folder.display()));
    run(&mut maven)?;
    fs::write(folder.join(".complete"), "")?;
    Ok(folder)
}

/// Returns the class path to run our programs with the client of a release; they are compiled by [`programs`].
pub(crate) fn class_path(version: &str) -> anyhow::Result<String> {
    let jars = jars(Part::Client, version)?;
    Ok(format!("{}:{}/*", classes(version).display(), jars.display()))
}

fn classes(name: &str) -> PathBuf {
    scratch().join(format!("classes-{name}"))
}

/// Compiles our programs against the client of a release and returns the class path to run them.
pub(crate) fn programs(version: &str) -> anyhow::Result<String> {
    // 4.2.0 has no lite pull consumer, transaction listeners, requests and traces; timers came with 5.0
    let names: &[&str] = match version {
        "4.2.0" => &["Interop"],
        "4.9.7" => &["Interop", "LitePull", "Transactions", "Requests", "Traces", "Ledger"],
        _ => &[
            "Interop",
            "LitePull",
            "Transactions",
            "Requests",
            "Traces",
            "Timers",
            "Ledger",
            "Load",
            "Peers",
        ],
    };
    compile(names, &classes(version), class_path(version)?)
}

/// Compiles our programs against what rides on the client of a release and returns the class path to run them.
pub(crate) fn adapters(version: &str) -> anyhow::Result<String> {
    let jars = jars(Part::Adapters, version)?;
    let classes = classes("adapters");
    let class_path = format!("{}:{}/*", classes.display(), jars.display());
    compile(&["Interop", "LogAppenders", "OpenMessaging"], &classes, class_path)
}

fn compile(names: &[&str], classes: &Path, class_path: String) -> anyhow::Result<String> {
    fs::create_dir_all(classes)?;
    let sources = root().join("interop/java/src");
    let mut javac = Command::new("javac");
    javac
        .args(["-nowarn", "-Xlint:none", "-proc:none", "-d"])
        .arg(classes)
        .args(["-cp", &class_path]);
    run(javac.args(names.iter().map(|name| sources.join(format!("{name}.java")))))?;
    Ok(class_path)
}

/// Compiles the program of this name against the server of 5.5.0, whose classes it uses, and returns the command to run it.
pub(crate) fn server_program(name: &str, home: &Path) -> anyhow::Result<Command> {
    let classes = scratch().join(format!("classes-{name}"));
    fs::create_dir_all(&classes)?;
    let jars = jars(Part::Server, "5.5.0")?;
    let class_path = format!("{}:{}/*", classes.display(), jars.display());
    let mut javac = Command::new("javac");
    javac.args(["-nowarn", "-d"]).arg(&classes).args(["-cp", &class_path]);
    run(javac.arg(root().join(format!("interop/java/src/{name}.java"))))?;
    let mut program = java(&class_path, home)?;
    program.arg("-Drmq.logback.configurationFile=rmq.tools.logback.xml").arg(name);
    Ok(program)
}

/// A virtual machine with `home` as its user's home, so that logs and local offsets stay there.
pub(crate) fn java(class_path: &str, home: &Path) -> anyhow::Result<Command> {
    fs::create_dir_all(home.join("tmp")).context("the home of a Java process")?;
    let mut java = Command::new("java");
    // the old releases reach into these packages
    for package in [
        "java.lang",
        "java.util",
        "java.nio",
        "sun.nio.ch",
        "java.util.concurrent",
        "jdk.internal.misc",
        "jdk.internal.ref",
        "sun.security.util",
    ] {
        java.arg(format!("--add-opens=java.base/{package}=ALL-UNNAMED"));
    }
    java.args(["-XX:-UsePerfData", "-XX:+IgnoreUnrecognizedVMOptions"]);
    java.arg(format!("-Duser.home={}", home.display()));
    java.arg(format!("-Djava.io.tmpdir={}", home.join("tmp").display()));
    java.arg(format!("-Drocketmq.client.logRoot={}", home.display()));
    java.arg(format!("-Drocketmq.client.localOffsetStoreDir={}", home.join("offsets").display()));
    java.args(["-cp", class_path]).current_dir(home);
    Ok(java)
}
