use std::path::Path;

use slimdisk::compact::Mode;
use slimdisk::{Error, Kind};

use super::*;

fn report(outcome: Outcome) -> Report {
    let mut report = Report::new(Path::new("disk.vhd"), Mode::Quick);
    report.outcome = outcome;
    report.virtual_size = 10 << 30;
    report.block_size = 2 << 20;
    report.blocks.total = 5120;
    report.blocks.allocated_before = 1624;
    report.blocks.allocated_after = 513;
    report.blocks.released_free = 1100;
    report.blocks.released_zero = 11;
    report.blocks.moved = 354;
    report.file_size_before = 1624 * ((2 << 20) + 512) + 22528;
    report.file_size_after = 513 * ((2 << 20) + 512) + 22528;
    report.host_bytes_before = report.file_size_before;
    report.kept.used = 900 << 20;
    report.kept.pinned = 76 << 20;
    report.kept.outside = 50 << 20;
    report.pinned_bytes = 76 << 20;
    report.io.bytes_read = 722 << 20;
    report.elapsed_seconds = 1.94;
    report
}

fn plain(report: &Report, options: &Options) -> String {
    let text = render(report, options, View::default());
    anstream::adapter::strip_str(&text).to_string()
}

#[test]
fn run_tells_before_after_won_and_where_the_rest_is() {
    let mut report = report(Outcome::Compacted);
    report.host_bytes_after = Some(report.file_size_after);
    report.io.bytes_written = Some(710 << 20);
    report.io.flushes = Some(12);
    report.verified = Some("abc".into());
    assert_eq!(
        plain(&report, &Options::default()),
        "\
disk.vhd: won 2.17 GiB (68.4 %)

              file  on the host  blocks
  before  3.17 GiB     3.17 GiB   1,624  of 5,120 (10 GiB disk in blocks of 2 MiB)
  after   1.00 GiB     1.00 GiB     513
  won     2.17 GiB     2.17 GiB   1,111  1,100 free, 11 zero

Where the rest is
  900 MiB  in use by the volumes
   76 MiB  free or zero, but pinned: in a block of 2 MiB that holds live bytes too
   50 MiB  outside every volume
  279 KiB  headers and tables of the image

It took 1.9 s: 354 blocks moved (708 MiB), 722 MiB read, 710 MiB written, 12 flushes, 738 MiB/s.
Verified: the live guest bytes are the same before and after (BLAKE3 abc).

To win more
  - --mode full also looks for zeros in the 900 MiB that volumes call used, which reads all of it
  - 76 MiB are free but pinned: defragmenting the guest's volumes (consolidating their free space) would let go of part of it
"
    );
}

#[test]
fn plan_promises_and_knows_nothing_of_the_host() {
    let report = report(Outcome::Planned);
    let text = plain(&report, &Options::default());
    assert!(
        text.starts_with("disk.vhd: compact would win 2.17 GiB (68.4 %)\n"),
        "{text}"
    );
    assert!(text.contains("\n  then    1.00 GiB                  513\n"), "{text}");
    assert!(text.contains("354 blocks to move"), "{text}");
}

#[test]
fn nothing_won_is_said_with_its_reason_in_bytes() {
    for outcome in [Outcome::Planned, Outcome::NothingToDo] {
        let mut report = report(outcome);
        report.file_size_after = report.file_size_before;
        report.blocks.allocated_after = 1624;
        report.kept = slimdisk::compact::report::KeptBytes::default();
        report.kept.unjudged = 3 << 30;
        report.kept.used = 248 << 20;
        let text = plain(&report, &Options::default());
        assert!(
            text.starts_with(
                "disk.vhd: nothing to win: all 1,624 blocks must stay, 3 GiB are in volumes \
                 whose free map is not trusted or not known\n"
            ),
            "{text}"
        );
        report.blocks.allocated_after = 0;
        let text = plain(&report, &Options::default());
        assert!(text.contains("nothing to win: the image has no block allocated"));
    }
}

#[test]
fn hints_name_what_would_win_more() {
    let with = |change: &dyn Fn(&mut Report, &mut Options)| {
        let (mut report, mut options) = (report(Outcome::Planned), Options::default());
        change(&mut report, &mut options);
        plain(&report, &options)
    };
    let full = "--mode full also";
    assert!(with(&|_, _| {}).contains(full));
    assert!(!with(&|_, o| o.mode = Mode::Full).contains(full));
    assert!(!with(&|r, _| r.kept.used = 40 << 20).contains(full), "too little");
    assert!(!with(&|r, _| r.outcome = Outcome::Cancelled).contains(full));
    let quick = "--mode quick reads";
    assert!(with(&|_, o| o.mode = Mode::Prezeroed).contains(quick));
    assert!(!with(&|_, _| {}).contains(quick));
    let pinned = "free but pinned";
    assert!(!with(&|r, _| r.pinned_bytes = 40 << 20).contains(pinned), "too little");
    assert!(with(&|r, _| r.pinned_bytes = 200 << 20).contains(pinned));
}

#[test]
fn errors_come_with_what_to_do() {
    let hint = |kind, image_type, known| {
        error_hint(&Error::new(kind, "x"), image_type, known).unwrap_or("none")
    };
    use slimdisk::image::ImageType::{Differencing, Fixed};
    let in_use = Error::new(Kind::InUse, "the file is in use by qemu (1)");
    let shut = error_hint(&in_use, None, true).unwrap();
    assert!(shut.contains("shut the virtual machine down"));
    // A sibling that is in the way of a merge, say.
    assert_eq!(hint(Kind::InUse, None, true), "none");
    assert!(hint(Kind::WrongImageType, Some(Fixed), true).contains("slimdisk convert"));
    assert_eq!(hint(Kind::WrongImageType, Some(Differencing), true), "none");
    assert!(
        hint(Kind::ParentNotFound, Some(Differencing), true).contains("--parent-dir")
    );
    assert!(
        hint(Kind::ParentMismatch, Some(Differencing), true).contains("--parent-dir")
    );
    assert!(hint(Kind::InvalidImage, None, true).contains("slimdisk check"));
    assert_eq!(hint(Kind::InvalidImage, None, false), "none");
    assert_eq!(hint(Kind::NotFound, None, true), "none");
}

#[test]
fn stopped_and_failed_say_what_was_reached() {
    let text = plain(&report(Outcome::Cancelled), &Options::default());
    assert!(
        text.starts_with("disk.vhd: stopped; won 2.17 GiB (68.4 %) so far, run again")
    );
    let text = plain(&report(Outcome::Failed), &Options::default());
    assert!(text.starts_with("disk.vhd: failed, having won 2.17 GiB"), "{text}");
}

#[test]
fn locks_that_could_not_be_had_are_told_when_asked_for_detail() {
    let mut report = report(Outcome::Compacted);
    report.unguarded = vec!["no lease here".into()];
    assert!(!plain(&report, &Options::default()).contains("no lease here"));
    let exact = View { exact: true, ..View::default() };
    assert!(render(&report, &Options::default(), exact).contains("no lease here"));
}

#[test]
fn smaller_blocks_are_named_with_the_command_that_makes_them() {
    let path = Path::new("disk.vhdx");
    let mut found = report(Outcome::Planned);
    found.image = path.display().to_string();
    let text = |report: &Report, options: &Options| {
        let text = plain(report, options);
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let hint = "smaller blocks pin less";
    assert!(!text(&found, &Options::default()).contains(hint));
    let row = |block_size: u64, bytes: u64| {
        let mut row = slimdisk::compact::report::SmallerBlocks::default();
        (row.block_size, row.bytes) = (block_size, bytes);
        row
    };
    found.block_size = 32 << 20;
    found.smaller_blocks = vec![row(1 << 20, 300 << 20), row(2 << 20, 300 << 20)];
    let told = text(&found, &Options::default());
    assert!(
        told.contains(
            "of the 16.0 GiB in blocks of 32 MiB a copy would hold 300 MiB in blocks of 1 \
             MiB, 300 MiB in blocks of 2 MiB: slimdisk convert OLD NEW --block-size 2M \
             --leave-out-free"
        ),
        "{told}"
    );
    let mut options = Options::default();
    options.allow.drop_swap = true;
    found.smaller_blocks = vec![row(512 << 10, 300 << 20)];
    let told = text(&found, &options);
    assert!(told.contains("--block-size 512K --leave-out-free --drop-swap"), "{told}");
    found.smaller_blocks = vec![row(1 << 20, 513 * (32 << 20) - 1)];
    assert!(!text(&found, &Options::default()).contains(hint), "too little");
}
