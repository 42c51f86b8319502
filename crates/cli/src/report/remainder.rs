//! Where the bytes are that stay: the answer to "why not more?".

use slimdisk::compact::Report;

use crate::console::View;
use crate::size::{Size, count};

/// One share of what stays: bytes, and where they belong.
struct Share {
    bytes: u64,
    what: String,
}

fn shares(report: &Report) -> Vec<Share> {
    let kept = &report.kept;
    let block = Size(report.block_size);
    let data = report.blocks.allocated_after.saturating_mul(report.block_size);
    let tables = report.file_size_after.saturating_sub(data);
    [
        (kept.used, "in use by the volumes".to_owned()),
        (
            kept.pinned,
            format!("free or zero, but pinned: in a block of {block} that holds live bytes too"),
        ),
        (kept.unjudged, "in volumes whose free map is not trusted or not known".to_owned()),
        (kept.outside, "outside every volume".to_owned()),
        (kept.inherited, "the parent's: room in blocks that the image holds in part".to_owned()),
        (tables, "headers and tables of the image".to_owned()),
    ]
    .into_iter()
    .map(|(bytes, what)| Share { bytes, what })
    .collect()
}

/// The shares as lines, sizes in a column. They sum up to the file.
pub fn lines(report: &Report, view: View) -> Vec<String> {
    let shown: Vec<(String, String)> = shares(report)
        .into_iter()
        .filter(|share| share.bytes > 0)
        .map(|share| (Size(share.bytes).maybe_exact(view.exact), share.what))
        .collect();
    let width = shown.iter().map(|(size, _)| size.len()).max().unwrap_or_default();
    shown.iter().map(|(size, what)| format!("{size:>width$}  {what}")).collect()
}

/// Why nothing can be won, in one phrase: the largest share.
pub fn reason(report: &Report) -> String {
    let blocks = report.blocks.allocated_after;
    if blocks == 0 {
        return "the image has no block allocated".to_owned();
    }
    let total = count(blocks, "block");
    let all = if blocks == 1 { "its" } else { "all" };
    let largest = shares(report)
        .into_iter()
        .filter(|share| share.bytes > 0)
        .max_by_key(|share| share.bytes);
    match largest {
        Some(Share { bytes, what }) => {
            format!("{all} {total} must stay, {} are {what}", Size(bytes))
        }
        None => format!("{all} {total} must stay"),
    }
}
