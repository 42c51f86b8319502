use std::time::{Duration, SystemTime};

use super::*;

#[test]
fn copies_arrive_where_nothing_can_be_shared() {
    let path = std::env::temp_dir()
        .join(format!("slimdisk-plain-copy-{}.img", std::process::id()));
    let data: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    std::fs::write(&path, &data).unwrap();
    let host = HostFile::open_exclusive(&path).unwrap();
    host.cloning_refused.store(true, Relaxed);
    let copied = host.copy_within(1, 3_000_000, 2_500_000).unwrap();
    assert_eq!(copied, Copied::default());
    drop(host);
    let found = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(found == [&data, &data[1..2_500_001]].concat());
}

#[test]
fn only_a_hole_up_to_the_end_ends_the_data() {
    assert_eq!(data_of(5..9, 3, 20), 5..9);
    assert_eq!(data_of(2..90, 3, 20), 3..20);
    assert_eq!(data_of(5..5, 3, 20), 5..20);
    assert_eq!(data_of(1..2, 3, 20), 3..20);
    assert!(data_of(30..40, 3, 20).is_empty());
}

#[test]
fn times_are_given_back_whatever_was_written() {
    let path =
        std::env::temp_dir().join(format!("slimdisk-times-{}.img", std::process::id()));
    std::fs::write(&path, [0; 10]).unwrap();
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let file = File::options().write(true).open(&path).unwrap();
    file.set_modified(long_ago).unwrap();
    drop(file);
    let host = HostFile::open_exclusive(&path).unwrap();
    let times = host.times().unwrap();
    host.write_at(0, &[1; 20]).unwrap();
    host.flush().unwrap();
    host.set_len(15).unwrap();
    host.restore_times(times).unwrap();
    host.flush().unwrap();
    drop(host);
    let metadata = path.metadata().unwrap();
    assert_eq!((metadata.modified().unwrap(), metadata.len()), (long_ago, 15));
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn room_set_aside_leaves_the_file_as_it_is() {
    let path =
        std::env::temp_dir().join(format!("slimdisk-aside-{}.img", std::process::id()));
    std::fs::write(&path, [7; 5000]).unwrap();
    let host = HostFile::open_exclusive(&path).unwrap();
    for range in [0..10, 4000..5000, 0..1 << 20, 5000..1 << 21] {
        host.reserve(range).unwrap();
        assert_eq!(host.os().metadata().unwrap().len(), 5000);
    }
    host.write_at(5000, &[8; 10]).unwrap();
    host.give_back().unwrap();
    drop(host);
    let found = std::fs::read(&path).unwrap();
    assert!(found == [vec![7; 5000], vec![8; 10]].concat());
    std::fs::remove_file(&path).unwrap();
}

#[cfg(windows)]
#[test]
fn holes_are_refused_in_a_file_that_is_not_marked() {
    let path = std::env::temp_dir()
        .join(format!("slimdisk-unmarked-{}.img", std::process::id()));
    std::fs::write(&path, [7; 100_000]).unwrap();
    let host = HostFile::open_exclusive(&path).unwrap();
    let error = host.hole_size().unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidArgument);
    assert!(error.what().contains("--punch"), "{error}");
    assert!(host.punch(0..1 << 16).is_err());
    drop(host);
    assert_eq!(std::fs::read(&path).unwrap(), [7; 100_000]);
    for device in ["NUL", r"\\.\PhysicalDrive0", "con.vhd"] {
        let error = HostFile::open_read(device.as_ref()).err().unwrap();
        assert_eq!(error.kind(), Kind::InvalidArgument, "{error}");
    }
    std::fs::remove_file(&path).unwrap();
}

/// On Windows nobody could make one.
#[cfg(unix)]
#[test]
fn a_change_is_noticed_without_a_lease() {
    use std::io::Write;
    use std::thread::sleep;
    let path =
        std::env::temp_dir().join(format!("slimdisk-steady-{}.img", std::process::id()));
    std::fs::write(&path, [0; 10]).unwrap();
    let mut host = HostFile::open_read(&path).unwrap();
    host.steady = host.state().ok();
    host.still_exclusive().unwrap();
    // Long enough for the coarsest clock that dates are taken from.
    sleep(Duration::from_millis(50));
    let mut other = File::options().write(true).open(&path).unwrap();
    other.write_all(&[1; 10]).unwrap();
    drop(other);
    assert_eq!(host.still_exclusive().unwrap_err().kind(), Kind::InUse);
    drop(host);
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_flush_that_failed_is_not_forgotten() {
    let path =
        std::env::temp_dir().join(format!("slimdisk-flush-{}.img", std::process::id()));
    std::fs::write(&path, [0; 10]).unwrap();
    let host = HostFile::open_exclusive(&path).unwrap();
    host.flush().unwrap();
    host.flush_failed.store(true, Relaxed);
    assert_eq!(host.flush().unwrap_err().kind(), Kind::Io);
    drop(host);
    std::fs::remove_file(&path).unwrap();
}
