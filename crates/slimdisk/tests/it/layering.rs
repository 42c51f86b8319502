//! One way for data: a module uses only what is upstream of it.

use std::fs;
use std::path::{Path, PathBuf};

/// What each top module may name behind `crate::`.
const UPSTREAM: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("ranges", &[]),
    ("storage", &["error"]),
    ("image", &["error", "ranges", "storage"]),
    ("partition", &["error", "ranges", "storage"]),
    ("volume", &["error", "ranges", "storage"]),
    ("progress", &[]),
    ("report", &["error", "storage"]),
    (
        "compact",
        &[
            "error",
            "ranges",
            "storage",
            "image",
            "partition",
            "volume",
            "progress",
            "report",
        ],
    ),
    ("create", &["error", "storage", "image", "progress", "report"]),
    (
        "convert",
        &[
            "error", "storage", "image", "progress", "report", "compact", "create",
            "volume",
        ],
    ),
    ("merge", &["error", "ranges", "storage", "image", "progress", "report"]),
    ("task", &["error", "progress"]),
    (
        "host",
        &[
            "error", "storage", "image", "progress", "compact", "create", "convert",
            "merge", "task",
        ],
    ),
];

fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn modules_use_only_what_is_upstream() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    let mut uses = 0;
    for file in files {
        let name = file.strip_prefix(&src).unwrap().to_string_lossy().replace('\\', "/");
        let top = name.split(['/', '.']).next().unwrap();
        if top == "lib" {
            continue;
        }
        let (_, allowed) = UPSTREAM
            .iter()
            .find(|(module, _)| *module == top)
            .unwrap_or_else(|| panic!("{name}: give module {top} a row in UPSTREAM"));
        for (number, line) in fs::read_to_string(&file).unwrap().lines().enumerate() {
            let code = line.split("//").next().unwrap();
            for rest in code.split("crate::").skip(1) {
                let used: String = rest
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect();
                uses += 1;
                assert!(
                    used == top || allowed.contains(&used.as_str()),
                    "{name}:{}: {top} must not use crate::{used}",
                    number + 1
                );
            }
        }
    }
    assert!(uses > 5, "the test found no uses at all: has the layout changed?");
}
