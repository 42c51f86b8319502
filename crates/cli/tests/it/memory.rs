//! A disk of the largest size a VHD can have is planned in little memory.

use std::fs;

use crate::support::{Scratch, have, sh};
use crate::vhd_model::Shape;

#[test]
fn a_full_table_of_2040_gib_is_planned_within_64_mib() {
    let test = "a_full_table_of_2040_gib_is_planned_within_64_mib";
    if !have(test, &["mke2fs", "python3"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let (raw, vhd) = (scratch.path("disk.raw"), scratch.path("disk.vhd"));
    sh(&format!("mke2fs -q -F -t ext4 -E nodiscard {} 2040g", raw.display()));
    Shape::write_full(&vhd, &raw, 2 << 20);
    fs::remove_file(&raw).unwrap();
    // The peak of the child's resident memory, in KiB.
    let measured = sh(&format!(
        "python3 - <<'END'
import resource, subprocess
subprocess.run(['{}', 'plan', '--json', '{}'], check=True, stdout=open('{}', 'w'))
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
END",
        env!("CARGO_BIN_EXE_slimdisk"),
        vhd.display(),
        scratch.path("plan.json").display()
    ));
    let peak: u64 = measured.trim().parse().unwrap();
    let plan = fs::read_to_string(scratch.path("plan.json")).unwrap();
    let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
    assert_eq!(plan["blocks"]["allocated_before"], 1_044_480);
    assert!(plan["blocks"]["released_free"].as_u64().unwrap() > 1_000_000);
    println!("{peak} KiB, {} s", plan["elapsed_seconds"]);
    assert!(peak < 64 << 10, "the plan took {peak} KiB");
}
