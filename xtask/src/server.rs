//! Servers under test: the original's name server and broker, or ours, started, stopped and killed by us.
//!
//! Both kinds read the same `broker.conf`, so a broker of one kind can take over the folder of the other. Everything
//! stays on loopback. A process that we started is ended by us, also when a check fails.

use std::env;
use std::fmt;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::BytesMut;
use rustix::process::{Pid, Signal, kill_process};

use wire::code::RequestCode;
use wire::frame::Frame;

use crate::java::{self, Part};
use crate::process::{root, run};

const PATIENCE: Duration = Duration::from_secs(120);

/// Whose server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `target/release/apogee`.
    Apogee,
    /// The original, of this release.
    Original(String),
}

impl Kind {
    /// `apogee`, or the release of the original.
    pub(crate) fn parse(text: &str) -> Kind {
        match text {
            "apogee" => Kind::Apogee,
            release => Kind::Original(release.to_owned()),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Apogee => f.write_str("apogee"),
            Kind::Original(release) => f.write_str(release),
        }
    }
}

/// Our binary: `APOGEE_BINARY`, or the release build of this checkout.
pub(crate) fn binary() -> PathBuf {
    env::var_os("APOGEE_BINARY").map_or_else(|| root().join("target/release/apogee"), PathBuf::from)
}

/// Builds our binary, unless the environment names one.
pub(crate) fn build() -> anyhow::Result<()> {
    if env::var_os("APOGEE_BINARY").is_some() {
        return Ok(());
    }
    run(Command::new("cargo")
        .args(["build", "--release", "--package", "apogee"])
        .current_dir(root()))
}

/// What a process serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A name server.
    Namesrv,
    /// A broker that registers with a name server.
    Broker,
    /// Both in one process, without a configuration file: ours alone can.
    All,
}

/// The ports of a deployment, on loopback; a broker also takes its port less two, and one of the original its port plus one.
/// They lie below 32768, from where the system gives ports to clients, which could have taken one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    /// Of the name server.
    pub(crate) namesrv: u16,
    /// Of the broker.
    pub(crate) broker: u16,
}

/// How to start a server.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    /// Whose.
    pub(crate) kind: Kind,
    /// Its folder: configuration, output, home.
    pub(crate) folder: PathBuf,
    /// The broker's store, which another broker may take over.
    pub(crate) store: PathBuf,
    /// What it serves.
    pub(crate) role: Role,
    /// Its port, and the port of the other role that it knows.
    pub(crate) ports: Ports,
    /// Lines of configuration, `key=value`, beyond the usual ones; a later line wins.
    pub(crate) extra: Vec<String>,
    /// Options for a Java process.
    pub(crate) java_options: Vec<String>,
}

impl Spec {
    /// A name server or broker with nothing unusual.
    pub(crate) fn new(kind: &Kind, role: Role, folder: PathBuf, ports: Ports) -> Spec {
        let store = folder.join("store");
        Spec {
            kind: kind.clone(),
            folder,
            store,
            role,
            ports,
            extra: Vec::new(),
            java_options: Vec::new(),
        }
    }

    fn port(&self) -> u16 {
        match self.role {
            Role::Namesrv => self.ports.namesrv,
            Role::Broker | Role::All => self.ports.broker,
        }
    }

    fn configuration(&self) -> String {
        let folder = self.folder.display();
        let mut lines = match self.role {
            Role::Namesrv => vec![
                format!("listenPort={}", self.ports.namesrv),
                "bindAddress=127.0.0.1".to_owned(),
                format!("kvConfigPath={folder}/namesrv/kvConfig.json"),
                format!("configStorePath={folder}/namesrv/namesrv.properties"),
            ],
            Role::Broker | Role::All => vec![
                "brokerClusterName=DefaultCluster".to_owned(),
                "brokerName=broker-a".to_owned(),
                "brokerId=0".to_owned(),
                "brokerRole=ASYNC_MASTER".to_owned(),
                "flushDiskType=ASYNC_FLUSH".to_owned(),
                "brokerIP1=127.0.0.1".to_owned(),
                "brokerIP2=127.0.0.1".to_owned(),
                "bindAddress=127.0.0.1".to_owned(),
                format!("listenPort={}", self.ports.broker),
                format!("namesrvAddr=127.0.0.1:{}", self.ports.namesrv),
                "autoCreateTopicEnable=true".to_owned(),
                "enablePropertyFilter=true".to_owned(),
                "recallMessageEnable=true".to_owned(),
                "diskMaxUsedSpaceRatio=95".to_owned(),
                // On a disk that others have filled, what a test wrote stays for it to read.
                "cleanFileForciblyEnable=false".to_owned(),
                format!("storePathRootDir={}", self.store.display()),
                format!("storePathCommitLog={}/commitlog", self.store.display()),
            ],
        };
        lines.extend(self.extra.iter().cloned());
        lines.push(String::new());
        lines.join("\n")
    }

    /// Starts it and waits until it serves.
    pub(crate) fn start(&self) -> anyhow::Result<Server> {
        let mut server = self.spawn()?;
        self.wait_until_ready(&mut server)?;
        Ok(server)
    }

    /// Starts it, and waits for nothing.
    pub(crate) fn spawn(&self) -> anyhow::Result<Server> {
        fs::create_dir_all(&self.folder)?;
        let role = match self.role {
            Role::Namesrv => "namesrv",
            Role::Broker => "broker",
            Role::All => "all",
        };
        let file = self.folder.join(format!("{role}.conf"));
        fs::write(&file, self.configuration())?;
        let mut command = match &self.kind {
            Kind::Apogee => self.ours(role, &file),
            Kind::Original(release) => self.original(release, &file)?,
        };
        let output = self.folder.join(format!("{role}.out"));
        let sink = File::create(&output)?;
        command.stdin(Stdio::null()).stdout(sink.try_clone()?).stderr(sink);
        command.env_remove("NAMESRV_ADDR");
        let child = command.spawn().with_context(|| format!("{:?}", command.get_program()))?;
        Ok(Server { child, output })
    }

    /// Waits until it serves, and a broker until it is registered.
    pub(crate) fn wait_until_ready(&self, server: &mut Server) -> anyhow::Result<()> {
        server.wait_until_serving(self.port(), &self.kind)?;
        if self.role != Role::Namesrv {
            self.wait_until_registered()?;
        }
        Ok(())
    }

    /// Brokers say that they are up before they have registered. A name server that is not there yet is no obstacle.
    fn wait_until_registered(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            match clusters(self.ports.namesrv) {
                Ok(text) if text.contains(&format!("127.0.0.1:{}", self.ports.broker)) => {
                    return Ok(());
                }
                Ok(_) => thread::sleep(Duration::from_millis(50)),
                Err(_) => return Ok(()),
            }
        }
        bail!("the broker did not register within {PATIENCE:?}")
    }

    fn ours(&self, role: &str, file: &Path) -> Command {
        let mut command = Command::new(binary());
        command.arg("run").current_dir(&self.folder);
        if self.role == Role::All {
            command.args(self.extra.iter().flat_map(|line| ["--set", line.as_str()]));
        } else {
            command.args(["--role", role, "-c"]).arg(file);
        }
        if self.role != Role::Broker {
            command.arg("--namesrv-port").arg(self.ports.namesrv.to_string());
        }
        if self.role != Role::Namesrv {
            command.arg("--broker-port").arg(self.ports.broker.to_string());
        }
        command
    }

    fn original(&self, release: &str, file: &Path) -> anyhow::Result<Command> {
        let jars = java::jars(Part::Server, release)?;
        let mut command = java::java(&format!("{}/*", jars.display()), &self.folder)?;
        command.args(["-XX:+UseSerialGC", "-XX:MaxDirectMemorySize=1g"]);
        command.env("ROCKETMQ_HOME", quiet_logging(&self.folder)?);
        let (heap, class) = match self.role {
            Role::Namesrv => ("128m", "org.apache.rocketmq.namesrv.NamesrvStartup"),
            Role::Broker => ("512m", "org.apache.rocketmq.broker.BrokerStartup"),
            Role::All => bail!("the original has no such process"),
        };
        let name = if self.role == Role::Broker { "broker" } else { "namesrv" };
        command.args([format!("-Xms{heap}"), format!("-Xmx{heap}")]).args(&self.java_options);
        command.arg(format!("-Drmq.logback.configurationFile=rmq.{name}.logback.xml"));
        command.args([class, "-c"]).arg(file);
        Ok(command)
    }
}

/// Asks a name server which brokers there are, and returns its answer as text.
fn clusters(namesrv_port: u16) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", namesrv_port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut request = BytesMut::new();
    Frame::request(RequestCode::GET_BROKER_CLUSTER_INFO, &()).encode(&mut request);
    stream.write_all(&request)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Writes a logging set-up that says nothing, which the 4.x programs insist on; returns what is to be `ROCKETMQ_HOME`.
pub(crate) fn quiet_logging(folder: &Path) -> anyhow::Result<&Path> {
    let conf = folder.join("conf");
    fs::create_dir_all(&conf)?;
    for role in ["broker", "namesrv", "tools"] {
        fs::write(
            conf.join(format!("logback_{role}.xml")),
            "<configuration><root level=\"OFF\"/></configuration>\n",
        )?;
    }
    Ok(folder)
}

/// A name server and a broker: two processes of the original, or one of ours.
#[derive(Debug)]
pub(crate) struct Deployment {
    specs: Vec<Spec>,
    running: Vec<Server>,
}

impl Deployment {
    /// Starts one in an emptied folder, its broker with some lines of configuration beyond the usual ones.
    pub(crate) fn start(
        kind: &Kind,
        folder: &Path,
        ports: Ports,
        broker: &[&str],
    ) -> anyhow::Result<Deployment> {
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        let roles: &[(Role, &str)] = match kind {
            Kind::Apogee => &[(Role::All, "all")],
            Kind::Original(_) => &[(Role::Namesrv, "namesrv"), (Role::Broker, "broker")],
        };
        let specs = roles
            .iter()
            .map(|(role, name)| {
                let mut spec = Spec::new(kind, *role, folder.join(name), ports);
                if *role != Role::Namesrv {
                    spec.extra = broker.iter().map(|line| (*line).to_owned()).collect();
                }
                spec
            })
            .collect();
        let mut deployment = Deployment { specs, running: Vec::new() };
        deployment.resume()?;
        Ok(deployment)
    }

    fn resume(&mut self) -> anyhow::Result<()> {
        for spec in &self.specs {
            self.running.push(spec.start()?);
        }
        Ok(())
    }

    /// Stops every process, the last started first.
    pub(crate) fn stop(&mut self) -> anyhow::Result<()> {
        while let Some(server) = self.running.pop() {
            server.stop()?;
        }
        Ok(())
    }

    /// Stops and starts again, on the same folder.
    pub(crate) fn restart(&mut self) -> anyhow::Result<()> {
        self.stop()?;
        self.resume()
    }
}

/// A running server; killed when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    output: PathBuf,
}

impl Server {
    fn wait_until_serving(&mut self, port: u16, kind: &Kind) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                bail!("ended with {status} while it started:\n{}", self.last_lines());
            }
            // the original listens before it has recovered
            let ready = match kind {
                Kind::Apogee => TcpStream::connect(("127.0.0.1", port)).is_ok(),
                Kind::Original(_) => fs::read_to_string(&self.output)?.contains("boot success"),
            };
            if ready {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(50));
        }
        bail!("does not serve after {PATIENCE:?}:\n{}", self.last_lines());
    }

    /// The end of what it printed.
    pub(crate) fn last_lines(&self) -> String {
        let text = fs::read_to_string(&self.output).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as an operator does, with SIGTERM, and waits.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        self.signal(Signal::TERM)?;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if self.child.try_wait()?.is_some() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        bail!("does not stop within {PATIENCE:?}:\n{}", self.last_lines());
    }

    /// Ends it with SIGKILL and waits.
    pub(crate) fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let id = i32::try_from(self.child.id())?;
        kill_process(Pid::from_raw(id).context("a process id")?, signal)?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // an error means that it has ended already
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
