//! The bitmap in front of each block's data: one bit a sector, most significant
//! first. In a dynamic disk 1 says "written", 0 "never written"; in a differencing
//! one 1 says that the sector is here, 0 that it is the parent's.

use super::inspect::Sparse;
use super::raw::SECTOR;
use crate::error::Result;
use crate::image::check::{Finding, Severity};
use crate::image::sector_bitmap::BitOrder;
use crate::storage::ReadAt;

/// Which bit of a byte of a bitmap is the first of its eight sectors.
pub const BIT_ORDER: BitOrder = BitOrder::MostFirst;

/// Looks, in a dynamic disk, for sectors that are marked as never written and
/// hold data all the same. Programs disagree on what the guest sees there, which
/// is why such data is never given up; it is told as a note.
pub fn check(
    file: &dyn ReadAt,
    sparse: &Sparse,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    const ENOUGH: usize = 16;
    let before = findings.len();
    let mut bitmap = vec![0; usize::try_from(sparse.bitmap_len).unwrap_or(0)];
    let sectors = sparse.block_size / SECTOR;
    for extent in sparse.table.extents() {
        let Some(block) = extent.piece.block() else { continue };
        file.read_at(extent.place, &mut bitmap)?;
        if bitmap.iter().all(|byte| *byte == 0xFF) {
            continue;
        }
        for sector in 0..sectors {
            let bit = BIT_ORDER.bit(sector);
            let byte =
                usize::try_from(sector / 8).ok().and_then(|index| bitmap.get(index));
            if byte.is_none_or(|byte| byte & bit != 0) {
                continue;
            }
            let offset = extent.place + sparse.bitmap_len + sector * SECTOR;
            let mut data = [0; 512];
            file.read_at(offset, &mut data)?;
            if data.iter().any(|byte| *byte != 0) {
                findings.push(Finding::new(
                    Severity::Note,
                    format!("sector {sector} of block {block}"),
                    offset,
                    "zeros, for its bit in the sector bitmap is clear",
                    "data",
                ));
                if findings.len() - before >= ENOUGH {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}
