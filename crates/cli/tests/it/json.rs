//! `--json`: the fields whose names are promised, with their types.

use serde_json::Value;

use crate::command::{allocate_zeros, copy, image, kept_file, objects, run};
use crate::support::Scratch;

/// A field's path and what it must be: `u` a whole number, `n` a number, `s` a
/// string, `a` an array, `z` null, `.` nothing at all.
#[track_caller]
fn has(object: &Value, fields: &[(&str, &str)]) {
    for (path, kind) in fields {
        let found = object.pointer(&format!("/{}", path.replace('.', "/")));
        let right = match (*kind, found) {
            (".", found) => found.is_none(),
            (_, None) => false,
            ("u", Some(v)) => v.is_u64(),
            ("n", Some(v)) => v.is_number(),
            ("s", Some(v)) => v.is_string(),
            ("a", Some(v)) => v.is_array(),
            ("z", Some(v)) => v.is_null(),
            (other, _) => panic!("{other}?"),
        };
        assert!(right, "{path} should be {kind}, is {found:?}\n{object:#}");
    }
}

const REPORT: &[(&str, &str)] = &[
    ("image", "s"),
    ("format", "s"),
    ("type", "s"),
    ("outcome", "s"),
    ("mode", "s"),
    ("virtual_size", "u"),
    ("block_size", "u"),
    ("blocks.total", "u"),
    ("blocks.allocated_before", "u"),
    ("blocks.allocated_after", "u"),
    ("blocks.released_free", "u"),
    ("blocks.released_zero", "u"),
    ("blocks.released_parent", "u"),
    ("blocks.moved", "u"),
    ("file_size_before", "u"),
    ("file_size_after", "u"),
    ("host_bytes_before", "u"),
    ("pinned_bytes", "u"),
    ("children", "a"),
    ("orphaned", "a"),
    ("smaller_blocks", "a"),
    ("volumes", "a"),
    ("volumes.0.partition", "z"),
    ("volumes.0.logical_volume", "z"),
    ("volumes.0.offset", "u"),
    ("volumes.0.length", "u"),
    ("volumes.0.filesystem", "s"),
    ("volumes.0.label", "s"),
    ("volumes.0.state", "s"),
    ("volumes.0.reason", "z"),
    ("volumes.0.used_bytes", "u"),
    ("volumes.0.free_bytes", "u"),
    ("io.bytes_read", "u"),
    ("elapsed_seconds", "n"),
    ("error", "z"),
];

#[test]
fn plan_and_compact_have_the_promised_fields_and_agree_to_the_byte() {
    let test = "plan_and_compact_have_the_promised_fields_and_agree_to_the_byte";
    let scratch = Scratch::new("json-report");
    let Some(disk) = image(test, &scratch) else { return };
    let plan = run(&["plan", "--json"], &[&disk]).ok().object();
    has(&plan, REPORT);
    has(
        &plan,
        &[("io.bytes_written", "."), ("io.flushes", "."), ("host_bytes_after", ".")],
    );
    assert_eq!(plan["outcome"], "planned");
    assert_eq!(plan["volumes"][0]["state"], "trusted");
    assert_eq!(plan["volumes"][0]["filesystem"], "ext4");
    assert_eq!(plan["volumes"][0]["label"], "slim");

    let dry = run(&["compact", "-n", "--json"], &[&disk]).ok().object();
    let without_time = |report: &Value| {
        let mut report = report.clone();
        report["elapsed_seconds"] = 0.into();
        report
    };
    assert_eq!(without_time(&dry), without_time(&plan), "compact --dry-run is plan");

    let done = run(&["compact", "--json", "--verify"], &[&disk]).ok().object();
    has(&done, REPORT);
    has(
        &done,
        &[
            ("host_bytes_after", "u"),
            ("io.bytes_written", "u"),
            ("io.bytes_cloned", "u"),
            ("io.flushes", "u"),
            ("verified", "s"),
        ],
    );
    assert_eq!(done["outcome"], "compacted");
    for same in ["file_size_before", "file_size_after", "pinned_bytes", "kept", "blocks"]
    {
        assert_eq!(done[same], plan[same], "{same}");
    }
    let len = std::fs::metadata(&disk).unwrap().len();
    assert_eq!(done["file_size_after"], len);
    assert!(done["blocks"]["released_free"].as_u64().unwrap() >= 8, "{done:#}");
    assert!(len < 30 << 20, "{len} bytes are left of a file of 6 MiB");
    kept_file(&disk);

    let again = run(&["compact", "--json"], &[&disk]).ok().object();
    assert_eq!(again["outcome"], "nothing_to_do");
    assert_eq!(again["file_size_after"], len);
}

#[test]
fn zeros_alone_are_found_in_prezeroed_mode() {
    let test = "zeros_alone_are_found_in_prezeroed_mode";
    let scratch = Scratch::new("json-prezeroed");
    let Some(disk) = image(test, &scratch) else { return };
    let args = &["plan", "--json", "--mode", "prezeroed"];
    let before = run(args, &[&disk]).ok().object();
    assert_eq!(before["mode"], "prezeroed");
    assert_eq!(before["blocks"]["released_free"], 0);
    allocate_zeros(&disk, 2);
    let after = run(args, &[&disk]).ok().object();
    let zero = |report: &Value| report["blocks"]["released_zero"].as_u64().unwrap();
    assert_eq!(zero(&after), zero(&before) + 2);
}

#[test]
fn info_map_and_check_print_one_object() {
    let test = "info_map_and_check_print_one_object";
    let scratch = Scratch::new("json-info");
    let Some(disk) = image(test, &scratch) else { return };
    let info = run(&["info", "--json"], &[&disk]).ok().object();
    has(
        &info,
        &[
            ("image", "s"),
            ("format", "s"),
            ("type", "s"),
            ("virtual_size", "u"),
            ("block_size", "u"),
            ("blocks.total", "u"),
            ("blocks.allocated", "u"),
            ("file_size", "u"),
            ("host_bytes", "u"),
            ("parent", "z"),
            ("details.0.name", "s"),
            ("details.0.value", "s"),
            ("notes", "a"),
            ("partition_table.scheme", "s"),
            ("volumes.0.free_bytes", "u"),
            ("not_surveyed", "z"),
        ],
    );
    assert_eq!(info["virtual_size"], 64 << 20);

    let map = run(&["map", "--json"], &[&disk]).ok().object();
    let sum = |order: &str| -> u64 {
        let runs = map[order].as_array().unwrap();
        let mut at = 0;
        for run in runs {
            assert_eq!(run["offset"], at, "{order} has a gap");
            at += run["length"].as_u64().unwrap();
        }
        at
    };
    assert_eq!(sum("guest"), 64 << 20);
    assert_eq!(sum("file"), std::fs::metadata(&disk).unwrap().len());
    let blocks: u64 =
        map["blocks"].as_object().unwrap().values().map(|v| v.as_u64().unwrap()).sum();
    assert_eq!(blocks, info["blocks"]["total"].as_u64().unwrap());
    let plan = run(&["plan", "--json"], &[&disk]).ok().object();
    for (of_map, of_plan) in [("free", "released_free"), ("zero", "released_zero")] {
        assert_eq!(map["blocks"][of_map], plan["blocks"][of_plan]);
    }
    assert_eq!(map["blocks"]["used"], plan["blocks"]["allocated_after"]);

    let check = run(&["check", "--json"], &[&disk]).ok().object();
    has(&check, &[("image", "s"), ("format", "s"), ("findings", "a"), ("repaired", "a")]);
    assert_eq!(check["sound"], true);
}

#[test]
fn every_disk_has_its_object_even_a_failed_one() {
    let test = "every_disk_has_its_object_even_a_failed_one";
    let scratch = Scratch::new("json-several");
    let Some(disk) = image(test, &scratch) else { return };
    let second = copy(&disk, "second.vhd");
    let missing = scratch.path("missing.vhd");
    let ran = run(&["compact", "--json"], &[&missing, &disk, &second]);
    assert_eq!(ran.code, 5);
    let objects = ran.objects();
    assert_eq!(objects.len(), 3);
    assert_eq!(objects[0]["outcome"], "failed");
    has(
        &objects[0],
        &[("error.kind", "s"), ("error.hresult", "s"), ("error.message", "s")],
    );
    assert_eq!(objects[0]["error"]["kind"], "NotFound");
    assert_eq!(objects[0]["error"]["hresult"], "0x80070002");
    for object in &objects[1..] {
        assert_eq!(object["outcome"], "compacted");
    }
    for command in ["info", "map", "check"] {
        let ran = run(&[command, "--json"], &[&missing]);
        assert_eq!(ran.object()["error"]["kind"], "NotFound", "{command}");
    }
}

#[test]
fn every_line_of_json_progress_is_an_object() {
    let test = "every_line_of_json_progress_is_an_object";
    let scratch = Scratch::new("json-progress");
    let Some(disk) = image(test, &scratch) else { return };
    let missing = scratch.path("missing.vhd");
    let args = &["compact", "--verify", "--progress", "json"];
    let ran = run(args, &[&disk, &missing]);
    let events = objects(&ran.err);
    let of = |kind: &str| events.iter().filter(|e| e["event"] == kind).count();
    assert_eq!(of("error"), 1, "{}", ran.err);
    assert!(of("progress") >= 6, "{}", ran.err);
    let mut phases = Vec::new();
    for event in events.iter().filter(|e| e["event"] == "progress") {
        has(
            event,
            &[
                ("image", "s"),
                ("phase", "s"),
                ("done", "u"),
                ("total", "u"),
                ("elapsed_seconds", "n"),
            ],
        );
        let phase = event["phase"].as_str().unwrap();
        if phases.last() != Some(&phase) {
            phases.push(phase);
        }
        assert!(event["done"].as_u64() <= event["total"].as_u64(), "{event}");
    }
    for phase in ["map", "verify_before", "release", "relocate", "truncate"] {
        assert!(phases.contains(&phase), "{phase} is missing in {phases:?}");
    }
    let mut once = phases.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), phases.len(), "each phase comes once: {phases:?}");
}
