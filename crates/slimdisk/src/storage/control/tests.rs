use super::model::File;
use super::*;

const UNIT: u64 = 4096;

fn bytes(file: &File) -> Vec<u8> {
    file.clusters.borrow().iter().map(|cluster| cluster.unwrap_or(0)).collect()
}

#[test]
fn bytes_are_shared_inside_a_file_and_between_files() {
    let file = File::refs(8);
    share(&file, &file, UNIT, 5 * UNIT, 2 * UNIT).unwrap();
    assert_eq!(bytes(&file), [0, 1, 2, 3, 4, 1, 2, 7]);
    let other = File::refs(8);
    share(&other, &file, 5 * UNIT, 0, UNIT).unwrap();
    assert_eq!(bytes(&other), [1, 1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn what_cannot_be_shared_is_refused_and_nothing_changes() {
    let ntfs = File::ntfs(8);
    assert_eq!(share(&ntfs, &ntfs, 0, 4 * UNIT, UNIT), Err(Code::NOT_SUPPORTED));
    assert!(ntfs.log.borrow().is_empty(), "NTFS was not even asked");
    let refs = File::refs(8);
    for (from, to, len, code) in [
        (1, 4 * UNIT, UNIT, Code::INVALID_PARAMETER),
        (0, 4 * UNIT + 512, UNIT, Code::INVALID_PARAMETER),
        (0, 4 * UNIT, 100, Code::INVALID_PARAMETER),
        // Behind the end of the target, and of the source.
        (0, 8 * UNIT, UNIT, Code::INVALID_PARAMETER),
        (7 * UNIT, 0, 2 * UNIT, Code::INVALID_PARAMETER),
        (0, UNIT, 2 * UNIT, Code::NOT_SUPPORTED),
        (0, 0, UNIT, Code::NOT_SUPPORTED),
    ] {
        assert_eq!(share(&refs, &refs, from, to, len), Err(code), "{from} {to} {len}");
    }
    let plain = File::refs(8);
    let sparse = File::refs(8).sparse();
    assert_eq!(share(&plain, &sparse, 0, 0, UNIT), Err(Code::NOT_SUPPORTED));
    let guarded = File { integrity: true, ..File::refs(8) };
    assert_eq!(share(&plain, &guarded, 0, 0, UNIT), Err(Code::NOT_SUPPORTED));
    assert_eq!(bytes(&plain), bytes(&File::refs(8)));
}

/// A cluster that is shared too often is a reason to write this once, not to never share
/// again.
#[test]
fn a_cluster_shared_too_often_is_written_instead() {
    let file = File::refs(8);
    file.references.set(1);
    share(&file, &file, 0, 4 * UNIT, UNIT).unwrap();
    let error = share(&file, &file, 0, 5 * UNIT, UNIT).unwrap_err();
    assert_eq!(error, Code::TOO_MANY_REFERENCES);
    assert_eq!(error.to_io().kind(), ErrorKind::StorageFull);
}

#[test]
fn one_call_shares_less_than_4_gib() {
    for cluster in [4096, 64 << 10, 2 << 20] {
        let file = File::new(cluster, SUPPORTS_BLOCK_REFCOUNTING, 4);
        file.end.set(40 << 30);
        share(&file, &file, 0, 20 << 30, 9 << 30).unwrap();
        let log = file.log.borrow();
        assert_eq!(log.len(), 5, "{log:?}");
        assert_eq!(log[4], format!("share {} {} {}", 8_u64 << 30, 28_u64 << 30, 1 << 30));
    }
}

#[test]
fn room_is_set_aside_behind_the_end_alone() {
    let file = File::ntfs(8);
    // A length between two clusters.
    file.end.set(8 * UNIT - 100);
    for (from, len) in [(0, UNIT), (0, 8 * UNIT - 100), (7 * UNIT, UNIT), (0, 0)] {
        reserve(&file, from, len).unwrap();
        assert!(file.log.borrow().is_empty(), "{from} {len}: it has that already");
    }
    reserve(&file, 8 * UNIT, 4 * UNIT).unwrap();
    assert_eq!(*file.log.borrow(), [format!("allocate {}", 12 * UNIT)]);
    assert_eq!(file.end.get(), 8 * UNIT - 100);
    // What is set aside already is not taken back by asking for less.
    reserve(&file, 8 * UNIT, UNIT).unwrap();
    assert_eq!(file.log.borrow().len(), 1);
    file.room.set(3);
    assert_eq!(reserve(&file, 8 * UNIT, 8 * UNIT), Err(Code(112)));
    assert_eq!(reserve(&file, u64::MAX, 1), Err(Code::INVALID_PARAMETER));
    assert_eq!(file.end.get(), 8 * UNIT - 100, "the file is as long as it was");
}

#[test]
fn nothing_is_set_aside_for_files_whose_bytes_get_room_when_written() {
    for attribute in [attribute::SPARSE, attribute::COMPRESSED] {
        let file = File::ntfs(8);
        file.attributes.set(attribute);
        let refused = reserve(&file, 0, 20 * UNIT).unwrap_err();
        assert_eq!(refused.to_io().kind(), ErrorKind::Unsupported);
        assert!(file.log.borrow().is_empty());
    }
}

#[test]
fn holes_come_into_sparse_files_alone() {
    let plain = File::ntfs(64);
    assert_eq!(needs_mark(&plain), Ok(true));
    assert_eq!(punch(&plain, 0, 16 * UNIT), Err(Code::NOT_SUPPORTED));
    assert!(plain.log.borrow().is_empty(), "no zeros were written");
    mark(&plain).unwrap();
    assert_eq!(needs_mark(&plain), Ok(false));
    punch(&plain, 16 * UNIT, 32 * UNIT).unwrap();
    let stored = plain.standing().unwrap().allocated;
    assert_eq!(stored, 32 * UNIT);
    mark(&plain).unwrap();
    assert_eq!(plain.log.borrow().iter().filter(|call| *call == "mark").count(), 1);
}

#[test]
fn a_mark_that_did_not_take_is_noticed() {
    let wine = File { deaf: true, ..File::ntfs(8) };
    assert_eq!(mark(&wine), Err(Code::NOT_SUPPORTED));
    assert_eq!(punch(&wine, 0, UNIT), Err(Code::NOT_SUPPORTED));
    assert!(wine.log.borrow().is_empty());
    let fat = File::new(4096, 0, 8);
    assert_eq!(needs_mark(&fat), Err(Code::NOT_SUPPORTED));
    assert_eq!(mark(&fat), Err(Code::NOT_SUPPORTED));
    let foreign = File { read_only: true, ..File::ntfs(8) };
    assert_eq!(mark(&foreign), Err(Code(5)));
}

/// All the stored ranges, asked for one by one.
fn stored(file: &File, len: u64) -> Vec<Range<u64>> {
    let (mut at, mut found) = (0, Vec::new());
    while let Some(range) = next_data(file, at, len).unwrap() {
        assert!(range.end > at, "it goes on");
        at = range.end;
        found.push(range);
    }
    found
}

#[test]
fn stored_ranges_are_found_one_by_one() {
    let file = File::ntfs(200).sparse();
    let len = 200 * UNIT;
    assert_eq!(stored(&file, len), [0..len]);
    // More ranges than any answer holds.
    for group in (0..192).step_by(32) {
        punch(&file, group * UNIT, 16 * UNIT).unwrap();
    }
    let expected: Vec<_> = (0..6)
        .map(|n: u64| (32 * n + 16) * UNIT..(32 * n + 32) * UNIT)
        .map(|range| range.start..if range.end == 192 * UNIT { len } else { range.end })
        .collect();
    assert_eq!(stored(&file, len), expected);
    // From the middle of a range on, and behind all of them.
    let middle = next_data(&file, 20 * UNIT + 7, len).unwrap().unwrap();
    assert_eq!(middle.end, 32 * UNIT);
    punch(&file, 176 * UNIT, 16 * UNIT).unwrap();
    file.clusters.borrow_mut().truncate(192);
    assert_eq!(next_data(&file, 170 * UNIT, len), Ok(None));
    assert_eq!(next_data(&file, len, len), Ok(None));
    let fat = File::new(4096, 0, 8).sparse();
    assert_eq!(next_data(&fat, 0, 8 * UNIT), Err(Code::INVALID_FUNCTION));
}

/// A deduplicated file or a placeholder can be empty to the file system, and a file that is
/// not sparse has no holes: neither is asked.
#[test]
fn a_file_whose_holes_say_nothing_has_none() {
    let len = 64 * UNIT;
    for attribute in [0x400, 0x1000, 0x4_0000, 0x40_0000] {
        let file = File { kept_elsewhere: true, ..File::ntfs(64).sparse() };
        assert_eq!(next_data(&file, UNIT, len), Ok(None));
        file.attributes.set(attribute::SPARSE | attribute);
        assert_eq!(next_data(&file, UNIT, len), Ok(Some(UNIT..len)), "{attribute:#x}");
        for punched in [needs_mark(&file).map(|_| ()), punch(&file, 0, len), mark(&file)]
        {
            assert_eq!(punched, Err(Code::NOT_SUPPORTED), "{attribute:#x}");
        }
        assert!(file.log.borrow().is_empty());
    }
    let file = File { kept_elsewhere: true, ..File::ntfs(64) };
    assert_eq!(next_data(&file, UNIT, len), Ok(Some(UNIT..len)));
}

/// What is beside the question is no answer, and above all not "all zeros".
#[test]
fn an_answer_beside_the_question_is_none() {
    let len = 64 * UNIT;
    for (answer, from) in [(len..len + UNIT, 0), (0..UNIT, UNIT), (9..9, 9)] {
        let file = File { answer: Some(answer), ..File::ntfs(64).sparse() };
        assert_eq!(next_data(&file, from, len), Err(Code::INVALID_PARAMETER));
    }
    let file = File { answer: Some(0..UNIT), ..File::ntfs(64).sparse() };
    assert_eq!(next_data(&file, UNIT - 1, len), Ok(Some(0..UNIT)));
}

#[test]
fn room_set_aside_is_given_back_and_no_more() {
    let file = File::ntfs(8);
    file.end.set(8 * UNIT - 100);
    reserve(&file, 8 * UNIT, 4 * UNIT).unwrap();
    give_back(&file).unwrap();
    assert_eq!(file.standing().unwrap().allocated, 8 * UNIT);
    assert_eq!(file.end.get(), 8 * UNIT - 100, "the file is as long as it was");
    let sparse = File::ntfs(64).sparse();
    punch(&sparse, 0, 16 * UNIT).unwrap();
    give_back(&sparse).unwrap();
    assert_eq!(sparse.log.borrow().len(), 1, "nothing was set aside");
}

#[test]
fn fat_alone_has_no_long_files() {
    for (name, longest) in [
        ("NTFS", u64::MAX),
        ("FAT32", 0xFFFF_FFFF),
        ("fat", 0xFFFF_FFFF),
        ("exFAT", u64::MAX),
    ] {
        assert_eq!(longest_file(name), longest, "{name}");
    }
}

#[test]
fn holes_give_room_back_in_units_of_the_file_system() {
    for (cluster, unit) in
        [(512, 8 << 10), (4096, 64 << 10), (64 << 10, 64 << 10), (2 << 20, 2 << 20)]
    {
        let volume = Volume { cluster, flags: SUPPORTS_SPARSE_FILES, longest: u64::MAX };
        assert_eq!(volume.hole_unit(), unit);
    }
    let file = File::ntfs(64).sparse();
    punch(&file, UNIT, 30 * UNIT).unwrap();
    // Whole units become holes only; of the rest the bytes are zeros.
    assert_eq!(stored(&file, 64 * UNIT), [0..64 * UNIT]);
    assert!(bytes(&file)[1..31].iter().all(|byte| *byte == 0));
}

#[test]
fn refusals_are_told_from_failures() {
    for code in [1, 50, 120, 124] {
        assert_eq!(Code(code).to_io().kind(), ErrorKind::Unsupported, "{code}");
    }
    #[cfg(windows)]
    for (code, kind) in [
        (87, ErrorKind::InvalidInput),
        (112, ErrorKind::StorageFull),
        (39, ErrorKind::StorageFull),
        (1295, ErrorKind::QuotaExceeded),
        (5, ErrorKind::PermissionDenied),
        (19, ErrorKind::ReadOnlyFilesystem),
    ] {
        assert_eq!(Code(code).to_io().kind(), kind, "{code}");
    }
}

#[test]
fn attributes_that_matter_are_named() {
    assert!(notes(0x20).is_empty());
    for (bits, word) in [
        (attribute::COMPRESSED, "compressed"),
        (attribute::ENCRYPTED, "encrypted"),
        (attribute::SPARSE, "sparse"),
        (attribute::REPARSE_POINT, "deduplicated"),
        (attribute::OFFLINE, "downloaded"),
        (attribute::RECALL_ON_DATA_ACCESS, "downloaded"),
        (attribute::RECALL_ON_OPEN, "downloaded"),
    ] {
        let found = notes(bits | 0x20);
        assert!(matches!(&found[..], [one] if one.contains(word)), "{word}: {found:?}");
    }
    assert_eq!(notes(u32::MAX).len(), 5);
}
