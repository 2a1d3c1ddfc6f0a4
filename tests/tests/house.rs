//! The house: rooms stand on floors, a file imports only from floors below its own, third parties stay in their rooms.

use std::path::{Path, PathBuf};

use enginehouse_tests::host::root;

/// Floor and room. `lib.rs` holds the same table for readers.
const FLOORS: [(&str, u8); 22] = [
    ("main", 9),
    ("cli", 8),
    ("worker", 7),
    ("plugins", 6),
    ("assist", 5),
    ("engines", 5),
    ("media", 4),
    ("router", 4),
    ("schedule", 4),
    ("store", 4),
    ("templates", 4),
    ("artifacts", 3),
    ("config", 3),
    ("net", 2),
    ("tasklog", 2),
    ("folders", 1),
    ("task", 1),
    ("clock", 0),
    ("digest", 0),
    ("home", 0),
    ("nearest", 0),
    ("schemas", 0),
];

/// A crate that one room alone may name.
const CONFINED: [(&str, &str); 4] =
    [("wasmtime", "plugins"), ("wasmparser", "plugins"), ("sqlx", "store"), ("notify", "folders")];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Room of a file of `host/src`.
fn room(file: &Path, src: &Path) -> String {
    let first = file.strip_prefix(src).expect("below src").components().next().expect("a part");
    first.as_os_str().to_string_lossy().trim_end_matches(".rs").to_string()
}

fn floor(room: &str) -> u8 {
    FLOORS.iter().find(|(name, _)| *name == room).unwrap_or_else(|| panic!("`{room}` stands on no floor")).1
}

/// Rooms that a file names through `crate::`, tests left out.
fn imports(text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let mut found = Vec::new();
    for line in lines {
        for part in line.split("crate::").skip(1) {
            found.push(part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    found
}

#[test]
fn a_file_imports_only_from_floors_below_its_own() {
    let src = root().join("host/src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    assert!(files.len() > 20, "the sources were not found");
    let mut wrong = Vec::new();
    for file in files {
        let own = room(&file, &src);
        if own == "lib" {
            continue;
        }
        for other in imports(&std::fs::read_to_string(&file).expect("a source")) {
            if other != own && floor(&other) >= floor(&own) {
                wrong.push(format!("{} ({own}, floor {}) imports {other}", file.display(), floor(&own)));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_third_party_stays_in_its_room() {
    let src = root().join("host/src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a source");
        for (name, allowed) in CONFINED {
            let named = text.lines().any(|line| {
                let line = line.trim_start();
                !line.starts_with("//") && line.contains(&format!("{name}::"))
            });
            assert!(!named || room(&file, &src) == allowed, "{} names {name}", file.display());
        }
    }
}

#[test]
fn the_contract_is_the_one_that_was_agreed() {
    // A change of the contract is a decision: record it by updating the digest together with the CHANGELOG.
    let mut text = String::new();
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(root().join("wit")).expect("wit/").map(|e| e.expect("an entry").path()).collect();
    files.sort();
    for file in files {
        let name = file.file_name().expect("a name").to_string_lossy().into_owned();
        text.push_str(&format!("== {name}\n{}", std::fs::read_to_string(&file).expect("a wit file")));
    }
    let golden = root().join("tests/golden/contract.wit.txt");
    let agreed = std::fs::read_to_string(&golden).expect("tests/golden/contract.wit.txt");
    assert!(
        text == agreed,
        "wit/ differs from {}; if that is meant, update it and say so in the CHANGELOG",
        golden.display()
    );
}

#[test]
fn the_readme_maps_every_file() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("README.md");
    let mut files = Vec::new();
    for folder in ["host/src", "plugins", "tests/src", "tests/tests"] {
        sources(&root().join(folder), &mut files);
    }
    let missing: Vec<String> = files
        .iter()
        .map(|file| file.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned())
        .filter(|file| !file.contains("/target/") && !readme.contains(&format!("`{file}`")))
        .collect();
    assert!(missing.is_empty(), "not in the README's map:\n{}", missing.join("\n"));
}

#[test]
fn the_settings_reference_is_what_the_host_prints() {
    let said = enginehouse_tests::host::Host::new().run(&["config", "--reference"]).ok();
    let written = std::fs::read_to_string(root().join("docs/SETTINGS.md")).expect("docs/SETTINGS.md");
    assert!(
        said.stdout == written,
        "docs/SETTINGS.md is out of date: enginehouse config --reference > docs/SETTINGS.md"
    );
}
