//! The house rules that no compiler checks, as tests: they run with `cargo test --workspace`.
//!
//! What is documented is compared with what is there: crate edges with the table in `docs/ARCHITECTURE.md`, request codes and
//! files on disk with `docs/compatibility.md` and with what the original has, rules with their scenarios. Configuration
//! keys are compared with their page by the crate that defines them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use wire::code::RequestCode;

use crate::process::root;

const TRACKED_BYTES_MAX: u64 = 256 * 1024;

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every Rust file of ours, relative to the root.
fn sources() -> Vec<PathBuf> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(root().join(folder)).expect("a folder of sources") {
            let entry = entry.expect("an entry");
            let path = folder.join(entry.file_name());
            if entry.file_type().expect("a type").is_dir() {
                if entry.file_name() != "target" {
                    walk(&path, found);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    for folder in ["crates", "xtask", "fuzz"] {
        walk(Path::new(folder), &mut found);
    }
    found
}

/// The rows of the first table of a page whose head has a cell `head`, as trimmed cells.
fn table(page: &str, head: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| -> Vec<String> {
        line.trim().trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    page.lines()
        .skip_while(|line| !(line.starts_with('|') && cells(line).iter().any(|cell| cell == head)))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(cells)
        .collect()
}

/// Crate, and the crates of ours that it depends on.
fn edges(manifest: &str, ours: &BTreeSet<String>) -> BTreeSet<String> {
    let mut section = "";
    let mut found = BTreeSet::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line;
        } else if section == "[dependencies]" {
            let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
            // What users link has a package name of its own.
            let name = name.strip_prefix("apogee-").unwrap_or(name);
            if ours.contains(name) {
                found.insert(name.to_owned());
            }
        }
    }
    found
}

#[test]
fn crates_use_only_what_the_architecture_allows() {
    let rows = table(&read("docs/ARCHITECTURE.md"), "may use");
    assert!(!rows.is_empty(), "docs/ARCHITECTURE.md has no table with a column `may use`");
    let allowed: BTreeMap<String, BTreeSet<String>> = rows
        .into_iter()
        .map(|row| {
            let last = row.last().expect("cells");
            (
                row[0].trim_matches('`').to_owned(),
                last.split(", ").map(|name| name.trim_matches('`').to_owned()).collect(),
            )
        })
        .collect();
    let mut manifests = vec![root().join("xtask")];
    manifests.extend(
        fs::read_dir(root().join("crates"))
            .expect("crates")
            .map(|entry| entry.expect("a crate").path()),
    );
    let names = manifests
        .iter()
        .map(|path| path.file_name().expect("a name").to_string_lossy().into_owned());
    let ours: BTreeSet<String> = names.collect();
    for folder in manifests {
        let name = folder.file_name().expect("a name").to_string_lossy().into_owned();
        let may = allowed
            .get(&name)
            .unwrap_or_else(|| panic!("`{name}` is not in the table of docs/ARCHITECTURE.md"));
        let uses = edges(&read(folder.join("Cargo.toml")), &ours);
        let more: Vec<_> = uses.difference(may).collect();
        assert!(
            more.is_empty() || may.contains("all"),
            "`{name}` uses {more:?}, which docs/ARCHITECTURE.md does not allow"
        );
    }
}

#[test]
fn every_module_says_what_it_is() {
    let silent: Vec<_> = sources()
        .into_iter()
        .filter(|path| {
            let text = read(path);
            let first =
                text.lines().find(|line| !line.trim().is_empty() && !line.starts_with("#!["));
            !first.is_some_and(|line| line.starts_with("//!"))
        })
        .collect();
    assert!(silent.is_empty(), "no `//!` header: {silent:?}");
}

#[test]
fn nothing_is_left_over_from_debugging() {
    let words = [
        concat!("db", "g!("),
        concat!("FIX", "ME"),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
    ];
    for path in sources() {
        let text = read(&path);
        for word in words {
            assert!(!text.contains(word), "`{word}` in {}", path.display());
        }
    }
}

#[test]
fn no_tracked_file_is_large() {
    let Ok(listed) = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output()
    else {
        return;
    };
    let listed = String::from_utf8(listed.stdout).expect("file names are UTF-8");
    for name in listed.split('\0').filter(|name| !name.is_empty()) {
        let length = fs::metadata(root().join(name)).map_or(0, |metadata| metadata.len());
        assert!(length <= TRACKED_BYTES_MAX, "{name} has {length} bytes");
    }
}

#[test]
fn every_request_code_of_the_original_is_ours_by_its_name() {
    let ours: BTreeMap<i32, &str> =
        RequestCode::ALL.iter().map(|code| (code.0, code.name().expect("a name"))).collect();
    for line in read("fixtures/request-codes-5.5.0.txt").lines() {
        let (code, name) = line.split_once(' ').expect("code and name");
        assert_eq!(ours.get(&code.parse().expect("a number")), Some(&name), "code {code}");
    }
}

#[test]
fn every_request_code_has_a_line_in_the_compatibility_page() {
    let page: BTreeSet<(String, String)> = table(&read("docs/compatibility.md"), "code")
        .into_iter()
        .map(|row| (row[0].clone(), row[1].trim_matches('`').to_owned()))
        .collect();
    let ours: BTreeSet<(String, String)> = RequestCode::ALL
        .iter()
        .map(|code| (code.0.to_string(), code.name().expect("a name").to_owned()))
        .collect();
    assert_eq!(
        ours.difference(&page).collect::<Vec<_>>(),
        Vec::<&(String, String)>::new(),
        "codes without a line"
    );
    assert_eq!(
        page.difference(&ours).collect::<Vec<_>>(),
        Vec::<&(String, String)>::new(),
        "lines without a code"
    );
}

#[test]
fn every_file_that_the_original_keeps_has_a_line_in_the_compatibility_page() {
    let page = read("docs/compatibility.md");
    for store in fs::read_dir(root().join("fixtures/stores")).expect("stores") {
        let store = store.expect("a store").path().join("store");
        for folder in [store.clone(), store.join("config")] {
            for entry in fs::read_dir(&folder).expect("a folder") {
                let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
                let name = name.trim_end_matches(".gz").trim_end_matches(".bak");
                assert!(
                    name == "config" || page.contains(name),
                    "docs/compatibility.md does not name `{name}`"
                );
            }
        }
    }
}

#[test]
fn every_rule_links_its_scenarios_and_every_scenario_proves_a_rule() {
    let rows = table(&read("docs/compatibility.md"), "rule");
    let mut linked = BTreeSet::new();
    for row in rows {
        let [rule, scenarios] = row.as_slice() else {
            panic!("{row:?} is no rule with its scenarios")
        };
        if scenarios != "not yet" {
            linked.extend(scenarios.split(", ").map(|name| name.trim_matches('`').to_owned()));
        }
        assert!(!scenarios.is_empty(), "`{rule}` links no scenario and does not say `not yet`");
    }
    let there: BTreeSet<String> = fs::read_dir(root().join("scenarios"))
        .expect("scenarios")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|name| name.ends_with(".txt"))
        .collect();
    assert_eq!(
        linked.difference(&there).collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "links to nothing"
    );
    assert_eq!(
        there.difference(&linked).collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "no rule links"
    );
}
