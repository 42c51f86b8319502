//! The two headers, of which the one with the greater sequence number counts.
//!
//! ```text
//! 64 KiB: header | 128 KiB: header
//! ```
//!
//! A change is written over the one that does not count, so that there is a sound one
//! at every moment; then over the other, so that there are two. Source: [MS-VHDX] 2.2.2.

use zerocopy::IntoBytes;

use super::raw::{
    HEADER_SIGNATURE, HEADERS_AT, Header, LOG_VERSION, MIB, NO_GUID, VERSION,
};
use super::rules::{Findings, damaged, error, note};
use crate::error::{Error, Kind, Result};
use crate::storage::{ReadAt, Storage, read_struct};

/// A number from which on there might be none left for what is to be changed. Nobody
/// gets there by counting.
const MOST_UPDATES: u64 = u64::MAX - (1 << 32);

pub struct Headers {
    /// The one that counts.
    pub current: Header,
    /// Which of the two places it lies in.
    index: usize,
}

impl Headers {
    /// Reads both; what is wrong goes to `findings`. `None` if none counts, or the one
    /// that does is of a version that nobody knows.
    pub fn read(file: &dyn ReadAt, findings: &mut Findings) -> Result<Option<Self>> {
        if file.len() < MIB {
            error(
                findings,
                "file",
                0,
                "at least a header section of 1048576 bytes",
                format!("{} bytes", file.len()),
            );
            return Ok(None);
        }
        let [first_at, second_at] = HEADERS_AT;
        let first: Header = read_struct(file, first_at)?;
        let second: Header = read_struct(file, second_at)?;
        let (current, index) = match (first.is_sound(), second.is_sound()) {
            (true, true) => {
                let [a, b] = [&first, &second].map(|header| header.sequence_number.get());
                if a == b && first != second {
                    error(
                        findings,
                        "header sequence numbers",
                        second_at + 8,
                        "two numbers that differ, or two headers that are the same",
                        format!("two headers that differ and have the number {a}"),
                    );
                    return Ok(None);
                }
                if b > a { (second, 1) } else { (first, 0) }
            }
            (true, false) => {
                damaged(
                    findings,
                    "second header",
                    second_at,
                    "a sound header, as the first one is",
                    damage(&second),
                );
                (first, 0)
            }
            (false, true) => {
                damaged(
                    findings,
                    "first header",
                    first_at,
                    "a sound header, as the second one is",
                    damage(&first),
                );
                (second, 1)
            }
            (false, false) => {
                for (header, at) in [(first, first_at), (second, second_at)] {
                    error(findings, "header", at, "a sound header", damage(&header));
                }
                return Ok(None);
            }
        };
        let at = if index == 0 { first_at } else { second_at };
        let headers = Headers { current, index };
        Ok(headers.check(at, findings).then_some(headers))
    }

    fn check(&self, at: u64, findings: &mut Findings) -> bool {
        let header = &self.current;
        let version = header.version.get();
        if version != VERSION {
            error(findings, "header version", at + 66, "1", version.to_string());
            return false;
        }
        let log_version = header.log_version.get();
        if log_version != LOG_VERSION {
            let tell = if self.has_log() { error } else { note };
            tell(findings, "header log version", at + 64, "0", log_version.to_string());
            if self.has_log() {
                return false;
            }
        }
        let number = header.sequence_number.get();
        if number > MOST_UPDATES {
            error(
                findings,
                "header sequence number",
                at + 8,
                format!("at most {MOST_UPDATES:#x}, for each change raises it"),
                format!("{number:#x}"),
            );
            return false;
        }
        if header.reserved.iter().any(|byte| *byte != 0) {
            note(findings, "header reserved bytes", at + 80, "zeros", "other bytes");
        }
        true
    }

    /// Where the header that counts lies.
    pub fn offset(&self) -> u64 {
        let [first, second] = HEADERS_AT;
        if self.index == 0 { first } else { second }
    }

    /// Whether the log may hold what has not reached its place yet.
    pub fn has_log(&self) -> bool {
        self.current.log_guid != NO_GUID
    }

    /// Changes both headers, durably.
    pub fn update(
        &mut self,
        file: &dyn Storage,
        change: impl FnOnce(&mut Header),
    ) -> Result<()> {
        let mut header = self.current;
        change(&mut header);
        // Twice: each time over the one that does not count.
        for _ in HEADERS_AT {
            let number =
                header.sequence_number.get().checked_add(1).ok_or_else(|| {
                    Error::new(
                        Kind::InvalidImage,
                        "the header's sequence number cannot be raised any more",
                    )
                    .at(self.offset() + 8)
                })?;
            header.sequence_number.set(number);
            header.checksum.set(header.computed_checksum());
            let other = 1 - self.index;
            let at = HEADERS_AT.get(other).copied().unwrap_or_default();
            file.write_at(at, header.as_bytes())?;
            file.flush()?;
            self.index = other;
            self.current = header;
        }
        Ok(())
    }
}

fn damage(header: &Header) -> String {
    if header.signature == HEADER_SIGNATURE {
        format!(
            "checksum {:#010x} where {:#010x} belongs",
            header.checksum.get(),
            header.computed_checksum()
        )
    } else {
        format!("signature \"{}\"", header.signature.escape_ascii())
    }
}
