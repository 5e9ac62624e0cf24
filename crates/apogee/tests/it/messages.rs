//! `apogee send`, `consume` and `tail` as scripts and people use them, against a server that serves.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::server::{APOGEE, Folder, Server};

/// A command against a server, which hears nothing from outside.
fn command(server: &Server, words: &[&str]) -> Command {
    let mut command = Command::new(APOGEE);
    command.args(words).env_remove("APOGEE_LOG").env_remove("ROCKETMQ_NAMESRV_ADDR");
    command.env("NAMESRV_ADDR", server.address("name server").to_string());
    command
}

/// Runs a command to its end: its exit code, the lines that it printed, and what it complained of.
fn run_with(command: &mut Command, input: &[u8]) -> (i32, Vec<String>, String) {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // who has no use for its input may be gone
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    let lines = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    (output.status.code().unwrap(), lines, String::from_utf8(output.stderr).unwrap())
}

fn run(server: &Server, words: &[&str]) -> (i32, Vec<String>, String) {
    run_with(&mut command(server, words), b"")
}

/// What a command prints that is expected to do what it is asked for, and to say nothing else.
fn printed(server: &Server, words: &[&str]) -> Vec<String> {
    let (code, lines, complaint) = run(server, words);
    assert_eq!((code, complaint.as_str()), (0, ""), "{words:?}");
    lines
}

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

/// Sends numbers as lines, to one queue.
fn send_numbers(server: &Server, topic: &str, range: std::ops::Range<u32>) {
    let mut command = command(server, &["send", topic, "--sharding-key", "one", "--json"]);
    let (code, receipts, complaint) = run_with(&mut command, numbers(range).join("\n").as_bytes());
    assert_eq!((code, complaint.as_str()), (0, ""));
    let offset = |line: &String| serde_json::from_str::<Value>(line).unwrap()["offset"].as_i64();
    assert!(receipts.is_sorted_by_key(offset), "receipts come in the order of the lines");
}

#[test]
fn what_is_sent_is_seen_with_all_its_parts() {
    let folder = Folder::new("messages");
    let server = Server::start(&folder, &[]);
    let words = [
        "send",
        "orders",
        "17 shoes",
        "--key=k1",
        "--key=k2",
        "--tag=shoes",
        "--property=shop=berlin",
        "--json",
    ];
    let receipts = printed(&server, &words);
    let receipt: Value = serde_json::from_str(&receipts[0]).unwrap();
    let seen = printed(&server, &["tail", "orders", "--json"]);
    let seen: Value = serde_json::from_str(&seen[0]).unwrap();
    for part in ["messageId", "offsetId", "broker", "queue", "offset", "topic"] {
        assert!(!seen[part].is_null(), "{part}");
        assert_eq!(seen[part], receipt[part], "{part}");
    }
    assert_eq!((&seen["body"], &seen["tag"]), (&"17 shoes".into(), &"shoes".into()));
    assert_eq!(seen["keys"], serde_json::json!(["k1", "k2"]));
    assert_eq!(seen["properties"]["shop"], "berlin");
    let line = printed(&server, &["tail", "orders"]).remove(0);
    assert!(line.ends_with(" tag=shoes key=k1 key=k2 shop=berlin  17 shoes"), "{line}");

    let file = folder.0.join("body");
    std::fs::write(&file, b"\x1b[2Jtwo\nlines\xff").unwrap();
    printed(&server, &["send", "files", "--file", file.to_str().unwrap()]);
    let line = printed(&server, &["tail", "files"]).remove(0);
    assert!(line.ends_with("  \\u{1b}[2Jtwo\\nlines\u{fffd}"), "a terminal is safe: {line}");
    let seen: Value =
        serde_json::from_str(&printed(&server, &["tail", "files", "--json"])[0]).unwrap();
    assert_eq!(seen["bodyHex"], "1b5b324a74776f0a6c696e6573ff");
    server.stop();
}

#[test]
fn a_group_goes_on_exactly_where_the_last_command_ended() {
    let folder = Folder::new("messages-group");
    let server = Server::start(&folder, &[]);
    send_numbers(&server, "numbers", 0..100);
    let consume = |count: &str| {
        let words = ["consume", "numbers", "--group=g", "--from=first", "--body", "-n", count];
        printed(&server, &words)
    };
    assert_eq!(consume("1"), numbers(0..1));
    assert_eq!(consume("41"), numbers(1..42));
    assert_eq!(consume("58"), numbers(42..100));

    send_numbers(&server, "numbers", 100..103);
    let mut child = command(&server, &["consume", "numbers", "--group=g", "--body"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.by_ref().take(3).map(Result::unwrap).collect::<Vec<_>>(), numbers(100..103));
    interrupt(&child);
    assert_eq!((child.wait().unwrap().code(), lines.next().is_none()), (Some(0), true));
    send_numbers(&server, "numbers", 103..104);
    assert_eq!(consume("1"), numbers(103..104), "what was printed before ctrl-c is committed");
    server.stop();
}

#[test]
fn a_topic_is_looked_at_from_its_end_from_an_offset_from_a_time_and_on() {
    let folder = Folder::new("messages-tail");
    let server = Server::start(&folder, &[]);
    send_numbers(&server, "numbers", 0..50);
    let tail = |words: &[&str]| printed(&server, &[&["tail", "numbers", "--body"], words].concat());
    assert_eq!(tail(&[]), numbers(40..50));
    assert_eq!(tail(&["-n", "3"]), numbers(47..50));
    assert_eq!(tail(&["--from=first"]), numbers(0..50));
    assert_eq!(tail(&["--from=offset:48"]), numbers(48..50));
    assert_eq!(tail(&["--from=1h", "-n", "2"]), numbers(0..2));
    assert_eq!(tail(&["--from=last"]), [""; 0]);

    let mut follow = command(&server, &["tail", "numbers", "--body", "-n", "1", "--follow"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "49");
    send_numbers(&server, "numbers", 50..60);
    assert_eq!(lines.by_ref().take(10).map(Result::unwrap).collect::<Vec<_>>(), numbers(50..60));
    // Whoever has read enough closes the pipe.
    drop(lines);
    send_numbers(&server, "numbers", 60..61);
    assert_eq!(follow.wait().unwrap().code(), Some(0));
    server.stop();
}

#[test]
fn filters_choose_and_a_queue_can_be_named() {
    let folder = Folder::new("messages-filter");
    let server = Server::start(&folder, &["--set", "enablePropertyFilter=true"]);
    for (tag, price) in [("a", "price=5"), ("b", "price=15"), ("c", "price=25")] {
        printed(
            &server,
            &["send", "orders", tag, "--tag", tag, "--property", price, "--queue", "2"],
        );
    }
    let consume = |group: &str, filter: [&str; 2], count: &str| {
        let words = ["consume", "orders", "-g", group, "--from=first", "--body", "-n", count];
        printed(&server, &[&words[..], &filter].concat())
    };
    assert_eq!(consume("tags", ["--filter", "a || c"], "2"), ["a", "c"]);
    assert_eq!(consume("sql", ["--sql", "price > 10"], "2"), ["b", "c"]);
    assert_eq!(printed(&server, &["tail", "orders", "--queue", "2", "--body"]), ["a", "b", "c"]);
    assert_eq!(printed(&server, &["tail", "orders", "--queue", "1", "--body"]), [""; 0]);
    let (code, _, complaint) =
        run(&server, &["consume", "orders", "-g", "bad", "--sql", "price >"]);
    assert_eq!(code, 1);
    assert!(complaint.contains("price"), "{complaint}");
    server.stop();
}

#[test]
fn the_exit_code_says_who_has_to_do_something_and_one_line_says_what() {
    let folder = Folder::new("messages-errors");
    let server = Server::start(&folder, &[]);
    printed(&server, &["send", "orders", "first"]);
    let cases: [(&[&str], i32, &str); 9] = [
        (&["send", "orders", "x", "--key", "a b"], 2, "`key` cannot be `a b`"),
        (&["send", "no topic", "x"], 2, "no topic"),
        (&["send", "orders", "x", "--queue", "99"], 2, "no queue `99`; there are "),
        (&["send", "orders", "--file", "/nowhere/at/all"], 1, "/nowhere/at/all"),
        (&["consume", "orders", "--group", "a b"], 2, "`group` cannot be `a b`"),
        (&["consume", "missing", "--group", "g"], 1, "`missing`: create it first"),
        (&["tail", "missing"], 1, "`missing`: create it first"),
        (&["tail", "orders", "--namesrv", "127.0.0.1:1"], 1, "or say where with --namesrv"),
        (&["tail", "orders", "--namesrv", "nowhere"], 2, "an address is HOST:PORT"),
    ];
    for (words, expected, cure) in cases {
        let (code, lines, complaint) = run(&server, words);
        assert_eq!(
            (code, lines.len(), complaint.lines().count()),
            (expected, 0, 1),
            "{words:?} {complaint}"
        );
        assert!(complaint.contains(cure), "{complaint}");
    }
    for words in [
        &["consume", "orders"][..],
        &["tail", "orders", "--from", "soon"],
        &["send", "t", "b", "--at=1", "--delay=1s"],
    ] {
        assert_eq!(run(&server, words).0, 2, "{words:?}");
    }
    server.stop();
}

#[test]
fn the_client_can_be_measured_beside_raw_connections() {
    let folder = Folder::new("messages-bench");
    let server = Server::start(&folder, &[]);
    let address = server.address("name server").to_string();
    let bench = |words: &[&str]| {
        let line =
            printed(&server, &[&["bench"], words, &["--client", "--namesrv", &address]].concat());
        assert!(
            line[0].contains(" through=apogee-client ") && line[0].contains(" generator_cpu_us="),
            "{line:?}"
        );
        line[0].split(' ').find_map(|pair| pair.strip_prefix("messages=")?.parse::<u64>().ok())
    };
    let produce = ["produce", "--create", "--messages", "2000", "--warmup", "100", "--size", "100"];
    assert_eq!(bench(&produce), Some(2000));
    // The warm-up ends with an answer, which has more than the hundredth message.
    let pulled = bench(&["pull", "--warmup", "100"]).unwrap();
    assert!((1..=2000).contains(&pulled), "{pulled}");
    server.stop();
}

fn interrupt(child: &Child) {
    kill_process(Pid::from_raw(child.id() as i32).unwrap(), Signal::INT).unwrap();
}
