use std::fs::OpenOptions;
use std::os::windows::fs::FileExt;
use std::path::PathBuf;

use super::*;

fn file(name: &str, len: usize) -> (PathBuf, File) {
    let path =
        std::env::temp_dir().join(format!("slimdisk-{name}-{}.img", std::process::id()));
    std::fs::write(&path, vec![7; len]).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    (path, file)
}

/// What the system does not carry out, it must refuse by one of these.
fn done_or_refused(done: Result<()>) {
    if let Err(code) = done {
        let kind = code.to_io().kind();
        assert_eq!(kind, std::io::ErrorKind::Unsupported, "{code:?}");
    }
}

#[test]
fn the_system_carries_calls_out_or_refuses_them() {
    let (path, file) = file("calls", 300_000);
    let volume = file.volume().unwrap();
    assert!(volume.cluster.is_power_of_two(), "{volume:?}");
    let standing = file.standing().unwrap();
    assert_eq!(standing.end, 300_000);
    assert!(free_space(&file).unwrap() > 0);
    done_or_refused(control::share(&file, &file, 0, 2 * volume.cluster, volume.cluster));
    done_or_refused(control::next_data(&file, 0, 300_000).map(|range| {
        assert_eq!(range.map(|range| range.start), Some(0));
    }));
    let mut found = vec![0; 300_000];
    assert_eq!(file.seek_read(&mut found, 0).unwrap(), 300_000);
    assert!(found.iter().all(|byte| *byte == 7));
    // Asked for directly, past the rules.
    done_or_refused(file.duplicate_extents(&file, 0, volume.cluster, volume.cluster));
    let punched = control::mark(&file).and_then(|()| control::punch(&file, 0, 1 << 16));
    done_or_refused(punched);
    assert_eq!(file.seek_read(&mut found, 0).unwrap(), 300_000);
    let (hole, rest) = found.split_at(1 << 16);
    let kept = if punched.is_ok() { 0 } else { 7 };
    assert!(hole.iter().all(|byte| *byte == kept));
    assert!(rest.iter().all(|byte| *byte == 7));
    drop(file);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn room_set_aside_cuts_nothing() {
    let (path, file) = file("room", 100_000);
    for (from, len) in [(0, 10), (0, 100_000), (50_000, 1000), (100_000, 4 << 20)] {
        done_or_refused(control::reserve(&file, from, len));
        assert_eq!(file.metadata().unwrap().len(), 100_000, "{from} {len}");
    }
    drop(file);
    assert_eq!(std::fs::read(&path).unwrap(), vec![7; 100_000]);
    std::fs::remove_file(path).unwrap();
}
