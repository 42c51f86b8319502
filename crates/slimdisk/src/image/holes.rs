//! Punching holes where bytes of the disk lie, the same for all formats.

#![forbid(unsafe_code)]

use std::ops::Range;

use super::Image;
use crate::error::{Error, Kind, Result};
use crate::storage::Storage;

/// Where the bytes `ranges` of the disk lie in the file. All of them must be the image's
/// own, so that nothing else can be hit: no table, no bitmap, no header.
pub fn places(image: &dyn Image, ranges: &[Range<u64>]) -> Result<Vec<Range<u64>>> {
    let lost = |at: u64| {
        let what = "a hole is to be punched where nothing of the guest's disk lies";
        Error::new(Kind::Unexpected, what).at(at)
    };
    let block_size = image.facts().block_size;
    let mut places = Vec::with_capacity(ranges.len());
    for range in ranges {
        if range.end > image.len() {
            return Err(lost(range.start));
        }
        let mut at = range.start;
        while at < range.end {
            let place = image.place(at).ok_or_else(|| lost(at))?;
            let len = (range.end - at).min(place.end.saturating_sub(place.start));
            if len == 0 {
                return Err(lost(at));
            }
            if let Some(number) = at.checked_div(block_size) {
                let block = u32::try_from(number).map_err(|_| lost(at))?;
                let within = at - number * block_size;
                let own = image.own_bytes(block)?;
                if own.is_some_and(|own| !own.covers(&(within..within + len))) {
                    return Err(lost(at));
                }
            }
            places.push(place.start..place.start + len);
            at += len;
        }
    }
    Ok(places)
}

/// Punches all of them. Durable when it returns.
pub fn punch(file: &dyn Storage, places: Vec<Range<u64>>) -> Result<()> {
    for place in places {
        file.punch(place)?;
    }
    file.flush()
}
