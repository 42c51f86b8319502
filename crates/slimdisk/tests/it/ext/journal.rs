//! File systems as a power cut leaves them: the newest allocations are in the
//! journal alone, and the bitmaps on disk call live files free.
//!
//! The judges are the kernel, which mounts and replays, and e2fsck.

use std::fs;
use std::path::{Path, PathBuf};

use super::{
    TOOLS, debugfs, distrusted, dumpe2fs_free, flip, read_bytes, replayed_free,
    scribbled_copy, trusted, write_bytes,
};
use slimdisk::ranges::Ranges;

use crate::support::{Noise, Scratch, have, sh, sh_output, skip};

/// Whether this process may mount loop devices; says so under the name `test`
/// if not.
fn can_mount(test: &str) -> bool {
    let root = sh_output("[ $(id -u) = 0 ] && [ -e /dev/loop-control ]");
    if !root.status.success() {
        skip(test, "the right to mount loop devices");
    }
    root.status.success()
}

/// What happens before the power cut: folders come and go, so that blocks of
/// metadata are freed and revoked, and files are written and synced, so that
/// nobody may lose them.
const WORKLOAD: &str = r#"
    mkdir $mnt/kept $mnt/old
    for i in $(seq 40); do mkdir $mnt/old/$i; cp $pool $mnt/old/$i/f; done
    sync -f $mnt
    rm -rf $mnt/old
    for i in $(seq 20); do
        { echo $i; cat $pool; } | dd of=$mnt/kept/n$i bs=1M iflag=fullblock conv=fsync status=none
        if [ -n "$each" ]; then snapshot $crashed.$i; fi
    done
"#;

/// A crashed file system: the image, and the folder of what must be in `kept`.
struct Crash {
    image: PathBuf,
    kept: PathBuf,
    mnt: PathBuf,
}

/// Makes a file system, works on it and copies it while it is mounted.
fn crash(
    scratch: &Scratch,
    mke2fs: &str,
    mount: &str,
    workload: &str,
    each: bool,
) -> Crash {
    let pool = scratch.path("pool");
    fs::write(&pool, Noise::new(11).bytes(70_000)).unwrap();
    let crash = Crash {
        image: scratch.path("crashed"),
        kept: scratch.path("expected"),
        mnt: scratch.path("mnt"),
    };
    sh(&format!(
        r#"live={live} crashed={crashed} mnt={mnt} pool={pool} kept={kept} each={each}
        rm -rf $live $crashed $kept; mkdir -p $mnt
        truncate -s 64M $live; mke2fs -q -F {mke2fs} $live 2>&1
        # What a power cut leaves is the state of one moment: nothing may be written
        # while it is copied.
        snapshot() {{
            local try
            for try in $(seq 50); do cp $live $1; cmp -s $live $1 && return; done
            return 1
        }}
        again mount -t ext4 -o loop,{mount} $live $mnt
        trap 'exec 9>&-; again umount $mnt' EXIT
        {workload}
        snapshot $crashed
        cp -r $mnt/kept $kept"#,
        live = scratch.path("live").display(),
        crashed = crash.image.display(),
        mnt = crash.mnt.display(),
        pool = pool.display(),
        kept = crash.kept.display(),
        each = if each { "1" } else { "" },
    ));
    crash
}

impl Crash {
    /// Whether a mount of `image` finds every file as it was, and e2fsck the
    /// file system sound.
    fn survives(&self, image: &Path) -> bool {
        let (image, mnt) = (image.display(), self.mnt.display());
        let script = format!(
            "again mount -t ext4 -o loop {image} {mnt}
             diff -r {kept} {mnt}/kept >/dev/null && same=1 || same=
             again umount {mnt}
             e2fsck -fn {image} >/dev/null && [ $same ]",
            kept = self.kept.display()
        );
        sh_output(&script).status.success()
    }

    /// Trusts the image, agrees with a real replay, and proves it with noise.
    fn check(&self, what: &str) {
        let free = trusted(&self.image);
        assert_eq!(free, replayed_free(&self.image), "{what}");
        let noisy = scribbled_copy(&self.image, &free);
        assert!(self.survives(&noisy), "{what}: noise in free ranges did damage");
    }
}

/// A block of the journal with a header.
#[derive(Debug, Clone, Copy)]
struct Block {
    offset: u64,
    kind: u32,
    sequence: u32,
}

/// The journal's blocks with headers from its first live transaction on.
fn journal_blocks(image: &Path, block_size: u64) -> Vec<Block> {
    let bytes = fs::read(image).unwrap();
    let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    let mut first = None;
    let mut blocks = Vec::new();
    for at in (0..bytes.len()).step_by(block_size as usize) {
        if word(at) != 0xC03B_3998 {
            continue;
        }
        let (kind, sequence) = (word(at + 4), word(at + 8));
        if kind == 4 && first.is_none() {
            first = Some(word(at + 24));
        } else if first.is_some_and(|first| sequence >= first) && kind <= 5 {
            blocks.push(Block { offset: at as u64, kind, sequence });
        }
    }
    blocks.sort_by_key(|block| (block.sequence, block.offset));
    blocks
}

const DESCRIPTOR: u32 = 1;
const COMMIT: u32 = 2;
const REVOKE: u32 = 5;

#[test]
fn lost_data() {
    let test = "ext lost data";
    if !have(test, TOOLS) || !can_mount(test) {
        return;
    }
    let scratch = Scratch::new("ext-lost-data");
    let crash = crash(&scratch, "-t ext4 -b 4096", "defaults", WORKLOAD, false);
    crash.check("ours");
    // The proof that the proof can fail: the bitmaps on disk alone, as tools
    // that do not look at the journal read them.
    let noisy = scribbled_copy(&crash.image, &dumpe2fs_free(&crash.image));
    assert!(!crash.survives(&noisy), "the bitmaps on disk were current after all");
    // An ordinary unmount makes it an ordinary volume.
    assert!(crash.survives(&crash.image));
    assert_eq!(trusted(&crash.image), dumpe2fs_free(&crash.image));
}

#[test]
fn just_mounted() {
    let test = "ext just mounted";
    if !have(test, TOOLS) || !can_mount(test) {
        return;
    }
    let scratch = Scratch::new("ext-just-mounted");
    // The flag is set and the journal empty, or all but empty.
    let image =
        crash(&scratch, "-t ext4 -b 4096", "defaults", "mkdir $mnt/kept", false).image;
    let features = sh(&format!("dumpe2fs -h {} 2>/dev/null", image.display()));
    assert!(features.contains("needs_recovery"));
    assert_eq!(trusted(&image), replayed_free(&image));
}

#[test]
fn every_kind_of_journal() {
    let test = "ext journals";
    if !have(test, TOOLS) || !can_mount(test) {
        return;
    }
    let scratch = Scratch::new("ext-journals");
    for (name, mke2fs, mount) in [
        ("v3 without 64bit", "-t ext4 -b 4096 -O ^64bit", "defaults"),
        ("v3 of 1 KiB blocks", "-t ext4 -b 1024", "defaults"),
        ("v3 with bigalloc", "-t ext4 -b 4096 -O bigalloc -C 16384", "defaults"),
        ("v1", "-t ext4 -b 4096 -O ^metadata_csum", "journal_checksum"),
        ("v1, 32 bits", "-t ext4 -b 1024 -O ^metadata_csum,^64bit", "journal_checksum"),
        (
            "v1, async",
            "-t ext4 -b 4096 -O ^metadata_csum",
            "journal_async_commit,data=writeback",
        ),
        ("no checksums", "-t ext4 -b 4096 -O ^metadata_csum,uninit_bg", "defaults"),
        ("ext3", "-t ext3 -b 4096", "defaults"),
        ("all data", "-t ext4 -b 4096 -J size=16", "data=journal"),
    ] {
        let crash = crash(&scratch, mke2fs, mount, WORKLOAD, false);
        crash.check(name);
        let size = if mke2fs.contains("1024") { 1024 } else { 4096 };
        let blocks = journal_blocks(&crash.image, size);
        for kind in [DESCRIPTOR, COMMIT, REVOKE] {
            // By then the journal of all data has left the revokes behind.
            let found = blocks.iter().any(|block| block.kind == kind);
            assert!(found || name == "all data", "{name}: no block {kind}");
        }
    }
}

#[test]
fn orphans_keep_their_blocks() {
    let test = "ext orphans";
    if !have(test, TOOLS) || !can_mount(test) {
        return;
    }
    let scratch = Scratch::new("ext-orphans");
    for options in ["-O orphan_file", "-O ^orphan_file"] {
        let mke2fs = format!("-t ext4 -b 4096 {options}");
        // A file that is open and deleted when the power goes.
        let orphan = "cp $pool $mnt/o; exec 9<>$mnt/o; sync -f $mnt; rm $mnt/o";
        let workload = format!("{orphan}\n{WORKLOAD}");
        let crash = crash(&scratch, &mke2fs, "defaults", &workload, false);
        let free = trusted(&crash.image);
        // e2fsck replays and cleans up: that frees the orphan and nothing else.
        let cleaned: Ranges = replayed_free(&crash.image).into_iter().collect();
        assert!(free.iter().all(|range| cleaned.covers(range)), "{options}");
        let ours: u64 = free.iter().map(|range| range.end - range.start).sum();
        assert_eq!(cleaned.total() - ours, 70_000_u64.next_multiple_of(4096));
        assert!(crash.survives(&scribbled_copy(&crash.image, &free)), "{options}");
    }
}

#[test]
fn log_that_has_gone_round() {
    let test = "ext log wrap";
    if !have(test, TOOLS) || !can_mount(test) {
        return;
    }
    let scratch = Scratch::new("ext-log-wrap");
    // Blocks that begin with the journal's magic number are escaped in it.
    let magic =
        r"for i in $(seq 100); do printf '\xc0\x3b\x39\x98%01020d' 0; done >$pool";
    let workload = format!("{magic}\n{WORKLOAD}");
    let mke2fs = "-t ext4 -b 1024 -J size=1";
    let crash = crash(&scratch, mke2fs, "data=journal", &workload, true);
    crash.check("the last");
    let mut wrapped = 0;
    for copy in (1..=20).map(|i| scratch.path(&format!("crashed.{i}"))) {
        assert_eq!(trusted(&copy), replayed_free(&copy), "{}", copy.display());
        let blocks = journal_blocks(&copy, 1024);
        wrapped += u32::from(blocks.windows(2).any(|w| w[0].offset > w[1].offset));
    }
    assert!(wrapped > 0, "no copy had a log that goes round");
}

#[test]
fn damaged_journal_is_not_trusted_and_an_unfinished_one_is_cut_short() {
    let test = "ext damaged journal";
    if !have(test, TOOLS) || !can_mount(test) {
        return;
    }
    let scratch = Scratch::new("ext-damaged-journal");
    for (mke2fs, mount, everything) in [
        ("-t ext4 -b 4096", "defaults", true),
        ("-t ext4 -b 4096 -O ^metadata_csum", "journal_checksum", false),
    ] {
        let image = crash(&scratch, mke2fs, mount, WORKLOAD, false).image;
        let blocks = journal_blocks(&image, 4096);
        let last = blocks.iter().map(|b| b.sequence).max().unwrap();
        let last_commit = blocks.iter().rfind(|b| b.kind == COMMIT).unwrap();
        assert_eq!(last_commit.sequence, last, "the last transaction is whole");
        for kind in [DESCRIPTOR, COMMIT, REVOKE] {
            for (which, block) in [
                ("first", *blocks.iter().find(|b| b.kind == kind).unwrap()),
                ("last", *blocks.iter().rfind(|b| b.kind == kind).unwrap()),
            ] {
                // Checksums v1 do not cover revoke blocks.
                if kind == REVOKE && !everything {
                    continue;
                }
                let at = if kind == COMMIT { 17 } else { 4000 };
                flip(&image, block.offset + at);
                let reason = distrusted(&image);
                assert!(reason.contains("the journal is damaged"), "{which}: {reason}");
                flip(&image, block.offset + at);
            }
        }
        // A block in the middle that is not there at all: the log seems to end.
        for kind in [DESCRIPTOR, COMMIT] {
            let block = blocks.iter().find(|block| block.kind == kind).unwrap();
            let header = read_bytes(&image, block.offset, 12);
            write_bytes(&image, block.offset, &[0; 12]);
            assert!(distrusted(&image).contains("the journal is damaged (a block of"));
            write_bytes(&image, block.offset, &header);
        }
        // A block of data right after the last descriptor.
        let descriptor = blocks.iter().rfind(|b| b.kind == DESCRIPTOR).unwrap();
        flip(&image, descriptor.offset + 4096 + 100);
        assert!(distrusted(&image).contains("the journal is damaged"));
        flip(&image, descriptor.offset + 4096 + 100);
        let whole = trusted(&image);

        // The power went before the last commit block was written: its
        // transaction never happened, however sound the rest of it is.
        write_bytes(&image, last_commit.offset, &[0; 4096]);
        let without = trusted(&image);
        assert_eq!(without, replayed_free(&image));
        assert_ne!(without, whole);
        if everything {
            flip(&image, descriptor.offset + 4000);
            assert_eq!(trusted(&image), without, "torn, but never committed");
            assert_eq!(without, replayed_free(&image));
        }
    }
}

#[test]
fn fast_commits_are_not_replayed() {
    let test = "ext fast commits";
    if !have(test, TOOLS) || !can_mount(test) {
        return;
    }
    let scratch = Scratch::new("ext-fast-commit");
    let mke2fs = "-t ext4 -b 4096 -O fast_commit -J size=16";
    let crash = crash(&scratch, mke2fs, "defaults", WORKLOAD, false);
    assert!(distrusted(&crash.image).contains("fast commits"));
    assert!(crash.survives(&crash.image));
    trusted(&crash.image);
}

/// Journals written by debugfs: checksums v2, which no kernel of today writes,
/// and bitmaps that are escaped, revoked and written again.
#[test]
fn journals_of_debugfs() {
    let test = "ext debugfs journals";
    if !have(test, TOOLS) {
        return;
    }
    let scratch = Scratch::new("ext-debugfs-journal");
    let (image, clean) = (scratch.path("a.img"), scratch.path("clean.img"));
    for (options, open) in [
        ("^metadata_csum,^64bit", "jo"),
        ("^metadata_csum,64bit", "jo"),
        ("^metadata_csum,uninit_bg", "jo"),
        ("^64bit", "jo -c -v 2"),
        ("64bit", "jo -c -v 2"),
        ("^64bit", "jo -c -v 3"),
        ("64bit", "jo -c -v 3"),
    ] {
        let name = format!("{open}, {options}");
        sh(&format!(
            "rm -f {0}; truncate -s 40M {0}; mke2fs -q -F -t ext4 -b 1024 -O {options} {0}",
            clean.display()
        ));
        // A group with nothing at its start, neither a copy of the superblock nor
        // anything else: its bitmap may begin with the journal's magic number.
        let dump = sh(&format!("dumpe2fs {} 2>/dev/null", clean.display()));
        let (group, text) = dump
            .split("\nGroup ")
            .filter_map(|text| Some((text.split_once(':')?.0.parse::<u64>().ok()?, text)))
            .find(|(group, text)| {
                let first = format!("Free blocks: {}-", group * 8192 + 1);
                text.contains(&first) && !text.contains("BLOCK_UNINIT")
            })
            .unwrap();
        let number = |after: &str| -> u64 {
            let rest = text.split(after).nth(1).unwrap();
            rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
        };
        let bitmap = number("Block bitmap at ");
        let line = text.lines().find(|line| line.contains(" free blocks, ")).unwrap();
        let free: u64 = line.split_whitespace().next().unwrap().parse().unwrap();
        let mut commands = String::new();
        for (byte, bits) in [0xC0, 0x3B, 0x39, 0x98u8].into_iter().enumerate() {
            for bit in (0..8).filter(|bit| bits & (1 << bit) != 0) {
                let block = group * 8192 + 1 + byte as u64 * 8 + bit;
                commands += &format!("setb {block}\n");
            }
        }
        let left = free - commands.lines().count() as u64;
        fs::copy(&clean, &image).unwrap();
        debugfs(
            &image,
            &format!(
                "{commands}set_bg {group} free_blocks_count {left}\n\
                 set_bg {group} checksum calc"
            ),
        );
        let used = read_bytes(&image, bitmap * 1024, 1024);
        assert_eq!(used[..4], [0xC0, 0x3B, 0x39, 0x98], "{name}");
        let descriptors = read_bytes(&image, 2048, 1024);
        let file = scratch.path("blocks");
        fs::write(&file, [used, descriptors].concat()).unwrap();

        let before = trusted(&clean);
        let write = format!("jw -b {bitmap},2 {}", file.display());
        let revoke = format!("jw -r {bitmap},2");
        for (transactions, applies) in [
            (vec![write.as_str()], true),
            (vec![write.as_str(), revoke.as_str()], false),
            (vec![revoke.as_str(), write.as_str()], true),
            (vec![write.as_str(), revoke.as_str(), write.as_str()], true),
        ] {
            fs::copy(&clean, &image).unwrap();
            debugfs(&image, &format!("{open}\n{}\njc", transactions.join("\n")));
            let free = trusted(&image);
            assert_eq!(free, replayed_free(&image), "{name}: {transactions:?}");
            assert_eq!(free != before, applies, "{name}: {transactions:?}");
        }
    }
}

/// The superblock may be in the journal too, and then that one counts.
#[test]
fn superblock_in_the_journal() {
    let test = "ext superblock in the journal";
    if !have(test, TOOLS) {
        return;
    }
    let scratch = Scratch::new("ext-superblock-in-journal");
    let (image, clean) = (scratch.path("a.img"), scratch.path("clean.img"));
    let file = scratch.path("block");
    sh(&format!(
        "truncate -s 40M {0}; mke2fs -q -F -t ext4 -b 1024 {0}",
        clean.display()
    ));
    let journalled = |change: &str| {
        fs::copy(&clean, &image).unwrap();
        debugfs(&image, &format!("feature needs_recovery\n{change}"));
        fs::write(&file, read_bytes(&image, 1024, 1024)).unwrap();
        fs::copy(&clean, &image).unwrap();
        debugfs(&image, &format!("jo\njw -b 1 {}\njc", file.display()));
    };
    journalled("");
    trusted(&image);
    journalled("ssv state 3");
    assert!(distrusted(&image).contains("recorded errors"));
    journalled("ssv uuid 00112233-4455-6677-8899-aabbccddeeff");
    assert!(distrusted(&image).contains("belongs to another file system"));
    journalled("ssv blocks_count 40961");
    assert!(distrusted(&image).contains("the volume was cut off"));
}
