//! A disk of the largest size a VHD can have is planned in little memory.

use std::fs;
use std::os::unix::fs::FileExt;

use crate::support::{Scratch, have, sh};
use crate::vhd_model::Shape;
use crate::vhdx_model::Shape as VhdxShape;

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

/// Makes a VHDX of 64 TiB of which the first blocks have a place each, all of them
/// holes, plans it, and says how much memory that took, in KiB.
fn vhdx_of_64_tib(scratch: &Scratch, block_mib: u64, placed: u64) -> u64 {
    let blocks = (64 << 20) / block_mib;
    let order = vec![(0, 6, 0)];
    let shape =
        VhdxShape { block_mib, blocks: blocks as u32, order, ..Default::default() };
    let (mut file, places) = shape.build(&[0]);
    let first = file.len - shape.block_len();
    let mut table = Vec::new();
    for block in 0..placed {
        let index = shape.index(block as u32);
        table.resize(index as usize * 8, 0);
        table.extend(((first + block * shape.block_len()) | 6).to_le_bytes());
    }
    file.write(places.bat, &table);
    file.set_len(first + placed * shape.block_len());
    let path = scratch.path("disk.vhdx");
    let to = fs::File::create(&path).unwrap();
    to.set_len(file.len).unwrap();
    for page in file.held(0, file.len) {
        to.write_all_at(&file.get(page, 4096), page).unwrap();
    }
    drop((to, file, table));
    let measured = sh(&format!(
        "python3 - <<'END'
import resource, subprocess
subprocess.run(['{}', 'plan', '--json', '{}'], check=True, stdout=open('{}', 'w'))
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
END",
        env!("CARGO_BIN_EXE_slimdisk"),
        path.display(),
        scratch.path("plan.json").display()
    ));
    let plan = fs::read_to_string(scratch.path("plan.json")).unwrap();
    let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
    assert_eq!(plan["blocks"]["allocated_before"], placed);
    assert_eq!(plan["blocks"]["released_zero"], placed);
    let peak = measured.trim().parse().unwrap();
    println!("{block_mib} MiB: {peak} KiB, {} s", plan["elapsed_seconds"]);
    peak
}

#[test]
fn a_vhdx_of_64_tib_is_planned_in_little_memory() {
    let test = "a_vhdx_of_64_tib_is_planned_in_little_memory";
    if !have(test, &["python3"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let peak = vhdx_of_64_tib(&scratch, 32, 400_000);
    assert!(peak < 64 << 10, "the plan took {peak} KiB");
    let peak = vhdx_of_64_tib(&scratch, 1, 1_000_000);
    assert!(peak < 1 << 20, "the plan took {peak} KiB");
}
