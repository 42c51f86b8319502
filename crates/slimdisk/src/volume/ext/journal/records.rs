//! What transactions say, gathered until the end of the log is known.
//!
//! Source: the kernel's `fs/jbd2/recovery.c` and `revoke.c`.

use std::collections::HashMap;

use super::super::UNMOUNT;
use super::super::overlay::Entry;
use super::damaged;
use crate::error::{Error, Result};

/// Block tags, and revoke records, that one replay may have: 16 GiB of blocks.
const MAX_RECORDS: usize = 1 << 22;

/// A data block of the log.
pub(super) struct Write {
    pub entry: Entry,
    pub sequence: u32,
    /// Whether it matches its tag's checksum.
    pub sound: bool,
}

/// What transactions want written, and what they forbid earlier ones to write.
#[derive(Default)]
pub(super) struct Records {
    pub writes: Vec<Write>,
    /// Blocks with the newest transaction that revokes them.
    revoked: HashMap<u64, u32>,
}

/// Whether transaction `a` is later than `b`; the numbers wrap.
pub(super) fn later(a: u32, b: u32) -> bool {
    let ahead = a.wrapping_sub(b);
    ahead != 0 && ahead < 1 << 31
}

impl Records {
    /// Adds a later transaction's records to these.
    pub(super) fn take(&mut self, transaction: &mut Records) -> Result<()> {
        self.writes.append(&mut transaction.writes);
        for (block, sequence) in transaction.revoked.drain() {
            self.revoke(block, sequence);
        }
        self.check_size()
    }

    pub(super) fn revoke(&mut self, block: u64, sequence: u32) {
        let newest = self.revoked.entry(block).or_insert(sequence);
        if later(sequence, *newest) {
            *newest = sequence;
        }
    }

    pub(super) fn check_size(&self) -> Result<()> {
        if self.writes.len() > MAX_RECORDS || self.revoked.len() > MAX_RECORDS {
            return Err(Error::invalid(format!(
                "the journal holds more than can be replayed here: {UNMOUNT}"
            )));
        }
        Ok(())
    }

    /// The last unrevoked write of each block, in ascending order of blocks.
    pub(super) fn into_writes(mut self) -> Result<Vec<Entry>> {
        self.writes.retain(|write| {
            let revoked = self.revoked.get(&write.entry.block);
            revoked.is_none_or(|revoked| later(write.sequence, *revoked))
        });
        if let Some(write) = self.writes.iter().find(|write| !write.sound) {
            return Err(damaged("a data block", write.sequence));
        }
        // The sort is stable: the last of equals is the latest.
        self.writes.sort_by_key(|write| write.entry.block);
        let mut entries: Vec<Entry> = Vec::new();
        for Write { entry, .. } in self.writes {
            match entries.last_mut() {
                Some(last) if last.block == entry.block => *last = entry,
                _ => entries.push(entry),
            }
        }
        Ok(entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(block: u64, sequence: u32, source: u64) -> Write {
        Write { entry: Entry { block, source, escaped: false }, sequence, sound: true }
    }

    #[test]
    fn numbers_of_transactions_wrap() {
        assert!(later(2, 1) && !later(1, 2) && !later(1, 1));
        assert!(later(0, u32::MAX) && !later(u32::MAX, 0));
    }

    #[test]
    fn a_revoke_covers_its_own_transaction_and_earlier_ones() {
        for first in [1, u32::MAX - 1, u32::MAX] {
            let second = first.wrapping_add(1);
            let third = second.wrapping_add(1);
            let mut records = Records::default();
            // Block 5 is revoked twice; the order in the log does not matter.
            records.revoke(5, second);
            records.revoke(5, first);
            for (sequence, source) in [(first, 10), (second, 20), (third, 30)] {
                records.writes.extend([5, 6].map(|b| write(b, sequence, source + b)));
            }
            records.revoke(6, third);
            let entries = records.into_writes().unwrap();
            let left: Vec<_> = entries.iter().map(|e| (e.block, e.source)).collect();
            assert_eq!(left, [(5, 35)]);
        }
    }

    #[test]
    fn the_last_write_counts_and_every_live_one_must_be_sound() {
        let writes = vec![write(9, 1, 1), write(3, 1, 2), write(9, 1, 3), write(9, 2, 4)];
        let entries = Records { writes, ..Records::default() }.into_writes().unwrap();
        let left: Vec<_> = entries.iter().map(|e| (e.block, e.source)).collect();
        assert_eq!(left, [(3, 2), (9, 4)]);

        let torn = || vec![Write { sound: false, ..write(9, 1, 1) }, write(9, 2, 4)];
        assert!(Records { writes: torn(), ..Records::default() }.into_writes().is_err());
        let revoked = [(9, 1)].into();
        assert!(Records { writes: torn(), revoked }.into_writes().is_ok());
    }
}
