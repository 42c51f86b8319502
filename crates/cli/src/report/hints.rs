//! What the user can do: to win more, or about an error.

use slimdisk::compact::report::VolumeState;
use slimdisk::compact::{Mode, Options, Outcome, Report};
use slimdisk::image::ImageType::{self, Differencing};
use slimdisk::{Error, Kind};

use super::volume_name;
use crate::size::Size;

/// The first MiB and the last three of a disk stay whatever is asked for.
const DISK_ENDS: u64 = 4 << 20;

/// What would win more than this report tells of. Less than two blocks, or than a
/// twentieth of the file, is not worth a hint.
pub fn to_win_more(report: &Report, options: &Options) -> Vec<String> {
    let ended = matches!(
        report.outcome,
        Outcome::Planned | Outcome::Compacted | Outcome::NothingToDo
    );
    if !ended {
        return Vec::new();
    }
    let least = report.block_size.saturating_mul(2).max(report.file_size_after / 20);
    let worth = |bytes: u64| bytes >= least.max(1);
    let kept = &report.kept;
    let mut hints = Vec::new();
    let mut untrusted = Vec::new();
    for volume in &report.volumes {
        let Some(reason) = &volume.reason else { continue };
        if volume.state != VolumeState::Untrusted {
            continue;
        }
        let name = volume_name(volume);
        if !reason.to_lowercase().contains("shadow cop") {
            untrusted.push(name);
        } else if !options.allow.discard_shadow_copies {
            hints.push(format!(
                "--discard-shadow-copies trusts {name} although its restore points and \
                 previous versions may be lost by it"
            ));
        }
    }
    if !untrusted.is_empty() && worth(kept.unjudged) {
        hints.push(format!(
            "do what the reason above asks for, to have {} trusted: {} are kept because \
             nobody can say what of it is free",
            untrusted.join(", "),
            Size(kept.unjudged)
        ));
    }
    let unknown = report.volumes.iter().any(|v| v.state == VolumeState::Unknown);
    if unknown && worth(kept.unjudged) && options.mode != Mode::Prezeroed {
        hints.push(format!(
            "fill the free space of volumes with an unknown free map with zeros in the \
             guest, and compact again: zeros are found there whatever the file system \
             ({} are kept for it)",
            Size(kept.unjudged)
        ));
    }
    match options.mode {
        Mode::Quick if worth(kept.used) && report.image_type == Some(Differencing) => {
            hints.push(format!(
                "--mode full also looks for blocks that the parent shows the same, in the \
                 {} that volumes call used, which reads all of it",
                Size(kept.used)
            ));
        }
        Mode::Quick if worth(kept.used) => hints.push(format!(
            "--mode full also looks for zeros in the {} that volumes call used, which \
             reads all of it",
            Size(kept.used)
        )),
        Mode::Prezeroed => hints.push(
            "--mode quick reads the free maps of the guest's file systems, which finds \
             free space that is not zero"
                .to_owned(),
        ),
        _ => {}
    }
    let swap: u64 = report.volumes.iter().filter_map(|volume| volume.swap_bytes).sum();
    if !options.allow.drop_swap && worth(swap) {
        hints.push(format!(
            "--drop-swap gives up most of the {} of swap areas and page files, if every \
             volume was left by a full shutdown",
            Size(swap)
        ));
    }
    let ends = DISK_ENDS.max(report.block_size.saturating_mul(2));
    if !options.drop_unpartitioned
        && worth(kept.outside.saturating_sub(ends))
        && report
            .volumes
            .iter()
            .any(|v| v.partition.is_some() || v.logical_volume.is_some())
    {
        hints.push(format!(
            "--drop-unpartitioned gives up most of the {} outside every volume, if \
             you know that nothing hides there",
            Size(kept.outside)
        ));
    }
    hints.extend(smaller_blocks(report, options));
    if worth(report.pinned_bytes) {
        hints.push(format!(
            "{} are free but pinned: defragmenting the guest's volumes (consolidating \
             their free space) would let go of part of it",
            Size(report.pinned_bytes)
        ));
    }
    hints
}

/// What a copy in smaller blocks would win.
fn smaller_blocks(report: &Report, options: &Options) -> Option<String> {
    let now = report.blocks.allocated_after.saturating_mul(report.block_size);
    // The largest of those that win the most: small blocks make large tables.
    let best = report
        .smaller_blocks
        .iter()
        .min_by_key(|smaller| (smaller.bytes, std::cmp::Reverse(smaller.block_size)))?;
    let least = best.block_size.saturating_mul(2).max(report.file_size_after / 20);
    if now.saturating_sub(best.bytes) < least {
        return None;
    }
    let sizes: Vec<String> = report
        .smaller_blocks
        .iter()
        .map(|smaller| {
            format!("{} in blocks of {}", Size(smaller.bytes), Size(smaller.block_size))
        })
        .collect();
    let mut allowed = String::new();
    for (flag, is_set) in [
        (" --drop-unpartitioned", options.drop_unpartitioned),
        (" --discard-shadow-copies", options.allow.discard_shadow_copies),
        (" --drop-swap", options.allow.drop_swap),
    ] {
        if is_set {
            allowed.push_str(flag);
        }
    }
    let block_size = match best.block_size {
        size if size < 1 << 20 => format!("{}K", size >> 10),
        size => format!("{}M", size >> 20),
    };
    Some(format!(
        "smaller blocks pin less: of the {} in blocks of {} a copy would hold {}: slimdisk \
         convert OLD NEW --block-size {block_size} --leave-out-free{allowed}",
        Size(now),
        Size(report.block_size),
        sizes.join(", ")
    ))
}

/// What the user can do about `error`, if anything.
pub fn error_hint(
    error: &Error,
    image_type: Option<ImageType>,
    known_format: bool,
) -> Option<&'static str> {
    Some(match error.kind() {
        Kind::WrongImageType => match image_type {
            Some(ImageType::Fixed) => {
                "to make an expanding image of it: slimdisk convert OLD NEW"
            }
            _ => return None,
        },
        Kind::ParentNotFound => {
            "a differencing image holds only what differs from its parent; put the parent \
             beside it, or name the parent's folder with --parent-dir"
        }
        Kind::ParentMismatch => {
            "a copy that was made by exporting or converting the parent is another disk; \
             name the folder of the right one with --parent-dir"
        }
        // Others say themselves what is to be done.
        Kind::InUse if error.what().contains("in use by") => {
            "shut the virtual machine down, or detach the disk, and try again (a saved \
             or paused machine still uses it)"
        }
        Kind::AccessDenied => {
            "run as the file's owner, or have the file's rights changed"
        }
        Kind::ReadOnly => {
            "make the file writable (chmod u+w FILE; attrib -r FILE) if it is yours to \
             change"
        }
        Kind::DiskFull => {
            "make some room on the host's disk and run again; the image is sound"
        }
        Kind::InvalidImage if known_format => {
            "`slimdisk check` lists all that is wrong with it, and --repair mends what \
             has a sound copy in it"
        }
        _ => return None,
    })
}
