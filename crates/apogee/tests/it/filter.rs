//! `apogee filter`: what it puts into the broker's directory, and what it refuses to.

use std::{fs, process::Command};

use crate::server::{APOGEE, Folder};

fn filter(folder: &Folder, words: &[&str]) -> (bool, String) {
    let mut command = Command::new(APOGEE);
    command.arg("filter").args(words).arg("--data").arg(folder.0.join("data"));
    let output = command.current_dir(&folder.0).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

#[test]
fn a_module_is_attached_listed_and_detached() {
    let folder = Folder::new("filter");
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/filters/example.wasm");
    assert_eq!(filter(&folder, &["list"]), (true, String::new()));
    assert_eq!(filter(&folder, &["attach", "orders", "billing", example]), (true, String::new()));
    let attached = folder.0.join("data/config/filters/orders@billing.wasm");
    assert_eq!(fs::read(&attached).unwrap(), fs::read(example).unwrap());
    assert_eq!(fs::read_dir(attached.parent().unwrap()).unwrap().count(), 1);
    let (_, said) = filter(&folder, &["list"]);
    assert!(said.starts_with("orders billing ") && said.ends_with(" bytes, fine\n"), "{said}");
    assert_eq!(filter(&folder, &["detach", "orders", "billing"]), (true, String::new()));
    let (is_done, said) = filter(&folder, &["detach", "orders", "billing"]);
    assert!(!is_done && said.contains("no module is attached to orders and billing"), "{said}");
}

#[test]
fn what_is_no_filter_is_not_attached() {
    let folder = Folder::new("no-filter");
    fs::write(folder.0.join("text.wasm"), "text").unwrap();
    let (is_done, said) = filter(&folder, &["attach", "orders", "billing", "text.wasm"]);
    assert!(!is_done && said.contains("text.wasm") && said.contains("no module"), "{said}");
    let (is_done, said) = filter(&folder, &["attach", "../orders", "billing", "text.wasm"]);
    assert!(!is_done && said.contains("`../orders` is no name"), "{said}");
    assert!(!folder.0.join("data").exists());
}
