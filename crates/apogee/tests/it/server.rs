//! A server process on free ports with a directory of its own, and a client that talks to it.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use bytes::Bytes;
use env::Clock;
use remoting::{Client, Limits, NoRequests};
use rustix::process::{Pid, Signal, kill_process};
use wire::{
    code::{RequestCode, ResponseCode},
    frame::Frame,
    header::{
        pull::{PullMessage, PullMessageResponse},
        send::{SendMessage, SendMessageResponse},
        topic::CreateTopic,
    },
    record::{CheckCrc, Record},
};

/// The binary under test.
pub(crate) const APOGEE: &str = env!("CARGO_BIN_EXE_apogee");

/// A call takes no longer, or something is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A directory that goes away with the test.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("{name}-{}-{count}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The command that starts a server in a folder, on free ports, with what is configured outside left out.
pub(crate) fn command(folder: &Folder, flags: &[&str]) -> Command {
    let mut command = Command::new(APOGEE);
    command.arg("run").args(["--namesrv-port", "0", "--broker-port", "0"]);
    command.arg("--data").arg(folder.0.join("data")).args(flags);
    command.current_dir(&folder.0).env_remove("NAMESRV_ADDR");
    command
}

/// A running server.
pub(crate) struct Server {
    child: Child,
    stdout: BufReader<ChildStdout>,
    /// What it printed when it was ready.
    pub(crate) banner: String,
}

impl Server {
    pub(crate) fn start(folder: &Folder, flags: &[&str]) -> Server {
        Server::spawn(&mut command(folder, flags))
    }

    pub(crate) fn spawn(command: &mut Command) -> Server {
        Server::spawn_with_errors(command, Stdio::inherit())
    }

    /// Starts a command and reads the banner, whose last line begins with `try`.
    pub(crate) fn spawn_with_errors(command: &mut Command, errors: impl Into<Stdio>) -> Server {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut banner = String::new();
        while !banner.lines().last().is_some_and(|line| line.trim_start().starts_with("try ")) {
            if stdout.read_line(&mut banner).unwrap() == 0 {
                panic!("ended with {} before it served:\n{banner}", child.wait().unwrap());
            }
        }
        Server { child, stdout, banner }
    }

    /// The address that the banner tells for `name server` or `broker`.
    pub(crate) fn address(&self, name: &str) -> SocketAddr {
        let line = self.banner.lines().find_map(|line| line.trim_start().strip_prefix(name));
        let line = line.unwrap_or_else(|| panic!("no {name} in the banner:\n{}", self.banner));
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// The number of the process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(self.child.id() as i32).unwrap();
        kill_process(id, signal).unwrap();
    }

    /// Waits for the end.
    pub(crate) fn wait(mut self) -> ExitStatus {
        let mut rest = String::new();
        let _ = self.stdout.read_to_string(&mut rest);
        self.child.wait().unwrap()
    }

    /// Ends it as a crash does.
    pub(crate) fn kill(self) {
        self.signal(Signal::KILL);
        self.wait();
    }

    /// Ends it as an operator does, and expects success.
    pub(crate) fn stop(self) {
        self.signal(Signal::TERM);
        let status = self.wait();
        assert!(status.success(), "{status}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) async fn connect(address: SocketAddr) -> Client {
    Client::connect(address, Limits::default(), Clock::real(), NoRequests).await.unwrap()
}

/// The creation of a topic.
pub(crate) fn topic_frame(topic: &str, queues: i32) -> Frame {
    let header = CreateTopic {
        topic,
        default_topic: "TBW102",
        read_queue_nums: queues,
        write_queue_nums: queues,
        perm: 6,
        topic_filter_type: "SINGLE_TAG",
        ..CreateTopic::default()
    };
    Frame::request(RequestCode::UPDATE_AND_CREATE_TOPIC, &header)
}

pub(crate) async fn create_topic(client: &Client, topic: &str, queues: i32) {
    let answer = client.call(topic_frame(topic, queues), PATIENCE).await.unwrap();
    assert_eq!(answer.response_code(), ResponseCode::SUCCESS, "{:?}", answer.remark);
}

/// A send of one message.
pub(crate) fn send(topic: &str, queue_id: i32, body: Bytes) -> Frame {
    let header = SendMessage {
        producer_group: "it",
        topic,
        default_topic: "TBW102",
        default_topic_queue_nums: 4,
        queue_id,
        born_timestamp: Clock::real().now(),
        ..SendMessage::default()
    };
    Frame::request(RequestCode::SEND_MESSAGE_V2, &header).with_body(body)
}

/// The queue offset that a send was acknowledged with; `None` when it was refused.
pub(crate) fn acknowledged(answer: &Frame) -> Option<i64> {
    let header: SendMessageResponse<'_> = answer.header().ok()?;
    (answer.response_code() == ResponseCode::SUCCESS).then_some(header.queue_offset)
}

/// A pull of what there is from an offset on.
pub(crate) fn pull(topic: &str, queue_id: i32, queue_offset: i64) -> Frame {
    const SUBSCRIPTION: i32 = 4;
    let header = PullMessage {
        consumer_group: "it",
        topic,
        queue_id,
        queue_offset,
        max_msg_nums: 1024,
        sys_flag: SUBSCRIPTION,
        subscription: Some("*"),
        ..PullMessage::default()
    };
    Frame::request(RequestCode::PULL_MESSAGE, &header)
}

/// All bodies of a queue from its front, by offset; offsets must follow one another from 0.
pub(crate) async fn read_queue(client: &Client, topic: &str, queue_id: i32) -> Vec<Vec<u8>> {
    let mut bodies: Vec<Vec<u8>> = Vec::new();
    loop {
        let request = pull(topic, queue_id, bodies.len() as i64);
        let answer = client.call(request, PATIENCE).await.unwrap();
        let said: PullMessageResponse = answer.header().unwrap();
        let body = answer.body_bytes();
        let mut rest = &body[..];
        while !rest.is_empty() {
            let record = Record::decode(rest, CheckCrc::Yes).unwrap();
            assert_eq!(
                record.numbers.queue_offset,
                bodies.len() as i64,
                "{topic} queue {queue_id}"
            );
            bodies.push(record.body.to_vec());
            rest = &rest[record.len as usize..];
        }
        if answer.response_code() != ResponseCode::SUCCESS {
            assert_eq!(
                bodies.len() as i64,
                said.max_offset,
                "{topic} queue {queue_id}: {:?}",
                answer.remark
            );
            return bodies;
        }
    }
}
