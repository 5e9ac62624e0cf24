//! What the process says about its configuration.

use std::{fs, os::unix::fs::symlink, process::Command};

use crate::server::{APOGEE, Folder, Server, command};

fn refused(folder: &Folder, lines: &str) -> String {
    let file = folder.0.join("broker.conf");
    fs::write(&file, lines).unwrap();
    let output = command(folder, &["-c", "broker.conf"]).output().unwrap();
    assert!(!output.status.success(), "it started with\n{lines}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_bad_value_stops_the_start_with_file_line_key_and_range() {
    let folder = Folder::new("bad-value");
    let text = refused(&folder, "# a comment\n\nfileReservedTime = forever\n");
    assert!(text.contains("broker.conf:3"), "{text}");
    assert!(text.contains("fileReservedTime=forever"), "{text}");
    assert!(text.contains("hours from 0 to"), "{text}");
    let text = refused(&folder, "flushDiskType=FSYNC\n");
    assert!(text.contains("ASYNC_FLUSH or SYNC_FLUSH"), "{text}");
}

#[test]
fn what_would_keep_data_elsewhere_or_open_a_door_is_refused_by_name() {
    let folder = Folder::new("refused");
    assert!(refused(&folder, "storeType=defaultRocksDB\n").contains("storeType=defaultRocksDB"));
    assert!(
        refused(&folder, "authenticationEnabled=true\n").contains("authenticationEnabled=true")
    );
    assert!(!folder.0.join("data").exists());
}

#[test]
fn unknown_keys_are_reported_and_do_not_stop_the_start() {
    let folder = Folder::new("unknown");
    fs::write(folder.0.join("broker.conf"), "lisenPort=1\nsendMessageThreadPoolNums=8\n").unwrap();
    let mut command =
        command(&folder, &["-c", "broker.conf", "--listen", "127.0.0.1", "--log-format", "json"]);
    let errors = fs::File::create(folder.0.join("errors")).unwrap();
    let server = Server::spawn_with_errors(&mut command, errors);
    server.stop();
    let events = fs::read_to_string(folder.0.join("errors")).unwrap();
    let unknown = events.lines().filter(|line| line.contains("lisenPort")).count();
    assert_eq!(unknown, 1, "{events}");
    assert!(events.contains("broker.conf:1"), "{events}");
    assert!(events.contains("sendMessageThreadPoolNums"), "{events}");
}

#[test]
fn a_check_finds_all_that_is_wrong_and_starts_nothing() {
    let folder = Folder::new("check");
    let check = |lines: &str| {
        fs::write(folder.0.join("broker.conf"), lines).unwrap();
        let mut command = Command::new(APOGEE);
        command.args(["config", "check", "broker.conf"]).current_dir(&folder.0);
        let output = command.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).unwrap())
    };
    let (is_fine, text) = check("fileReservedTime=forever\nlisenPort=1\nflushDiskType=FSYNC\n");
    assert!(!is_fine);
    for part in ["broker.conf:1: `fileReservedTime", "broker.conf:2: `lisenPort`", "broker.conf:3"]
    {
        assert!(text.contains(part), "{text}");
    }
    let (is_fine, text) = check("listenPort=10911\nsendMessageThreadPoolNums=8\n");
    assert!(is_fine, "{text}");
    assert!(text.contains("has no effect") && text.ends_with("nothing wrong, 1 taken\n"), "{text}");
    assert!(!folder.0.join("data").exists());
}

#[test]
fn under_the_originals_name_its_flags_and_defaults_hold() {
    let folder = Folder::new("mqbroker");
    let link = folder.0.join("mqbroker");
    symlink(APOGEE, &link).unwrap();
    let mut command = Command::new(&link);
    let output =
        command.args(["-p", "-n", "10.0.0.1:9876"]).env("HOME", &folder.0).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains(&format!("storePathRootDir={}/store\n", folder.0.display())), "{text}");
    assert!(text.contains("bindAddress=0.0.0.0\n"), "{text}");
    assert!(text.contains("namesrvAddr=10.0.0.1:9876\n"), "{text}");
    assert!(text.contains("brokerClusterName=DefaultCluster\n"), "{text}");
    let output = Command::new(&link).arg("-m").output().unwrap();
    let important = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(important.contains("brokerName=") && important.len() < text.len());
}

#[test]
fn two_roles_run_as_two_processes() {
    let (names, broker) = (Folder::new("namesrv"), Folder::new("broker"));
    let namesrv = Server::start(&names, &["--role", "namesrv"]);
    let at = format!("namesrvAddr={}", namesrv.address("name server"));
    let broker = Server::start(&broker, &["--role", "broker", "--set", &at]);
    let client = Command::new(APOGEE)
        .args(["bench", "produce", "--create", "--messages", "1000", "--namesrv"])
        .arg(namesrv.address("name server").to_string())
        .output()
        .unwrap();
    let line = String::from_utf8_lossy(&client.stdout);
    assert!(line.contains(" messages=1000 ") && line.contains(" errors=0"), "{line}{client:?}");
    broker.stop();
    namesrv.stop();
}
