//! `$LogFile`: what a Windows that went away without a word leaves behind.

use super::image::*;
use super::untrusted::{DATA, Volume, assert_has};

/// A restart page of the log as Windows writes it.
#[derive(Clone, Copy)]
struct Page {
    magic: [u8; 4],
    version: (u16, u16),
    lsn: u64,
    in_use: u16,
    flags: u16,
    torn: bool,
}

/// As a sound Windows leaves it.
const CLOSED: Page = Page {
    magic: *b"RSTR",
    version: (1, 1),
    lsn: 5000,
    in_use: 0,
    flags: 2,
    torn: false,
};

impl Page {
    fn bytes(&self, log_size: u64) -> Vec<u8> {
        let mut page = vec![0; 4096];
        let mut put = |at: usize, bytes: &[u8]| {
            page[at..at + bytes.len()].copy_from_slice(bytes);
        };
        put(0, &self.magic);
        put(4, &[0x1E, 0, 9, 0]);
        if self.magic == *b"CHKD" {
            put(8, &self.lsn.to_le_bytes());
        }
        put(16, &4096u32.to_le_bytes());
        put(20, &4096u32.to_le_bytes());
        put(24, &0x30u16.to_le_bytes());
        put(26, &self.version.1.to_le_bytes());
        put(28, &self.version.0.to_le_bytes());
        put(0x1E, &[5, 0]);
        // The restart area: one client, "NTFS", in use or free.
        put(0x30, &self.lsn.to_le_bytes());
        put(0x38, &1u16.to_le_bytes());
        let free = if self.in_use == 0xFFFF { 0u16 } else { 0xFFFF };
        put(0x3A, &free.to_le_bytes());
        put(0x3C, &self.in_use.to_le_bytes());
        put(0x3E, &self.flags.to_le_bytes());
        let bits = 67 - (64 - log_size.leading_zeros());
        put(0x40, &bits.to_le_bytes());
        put(0x44, &0xE0u16.to_le_bytes());
        put(0x46, &0x40u16.to_le_bytes());
        put(0x48, &log_size.to_le_bytes());
        put(0x54, &[0x30, 0, 0x40, 0]);
        put(0x70 + 16, &[0xFF; 4]);
        put(0x70 + 28, &8u32.to_le_bytes());
        put(0x70 + 32, b"N\0T\0F\0S\0");
        for sector in 0..8 {
            put(sector * 512 + 510, &[5, 0]);
        }
        if self.torn {
            put(7 * 512 + 510, &[4, 0]);
        }
        page
    }
}

#[test]
fn log_not_closed() {
    let Some(volume) = Volume::new("ntfs log_not_closed", &[]) else { return };
    let log = |first: Page, second: Page| {
        volume.with(|bytes, layout| {
            let at = layout.data(bytes, 2, DATA);
            let size = u64(bytes, layout.attribute(bytes, 2, DATA) + 48);
            bytes[at..at + 4096].copy_from_slice(&first.bytes(size));
            bytes[at + 4096..at + 8192].copy_from_slice(&second.bytes(size));
        })
    };
    let both = |page: Page| log(page, page);

    // ntfs-3g takes the same pages for clean and unclean.
    let open = Page { flags: 0, ..CLOSED };
    let fast = Page { version: (2, 0), ..CLOSED };
    let closed_nt = Page { in_use: 0xFFFF, flags: 0, ..CLOSED };
    for page in [CLOSED, closed_nt] {
        trusted(&both(page));
        assert_eq!(volume.probe(&both(page)), 0);
    }
    assert_has(&reason(&both(open)), "not closed cleanly");
    assert_eq!(volume.probe(&both(open)), 15);
    assert_has(&reason(&both(fast)), "fast startup");
    assert_ne!(volume.probe(&both(fast)), 0);
    let chkdsk = Page { magic: *b"CHKD", ..CLOSED };
    trusted(&both(chkdsk));
    assert_has(&reason(&both(Page { flags: 0, ..chkdsk })), "not closed cleanly");

    // The newer page counts, and of two alike the worse one.
    let newer = |page: Page| Page { lsn: 6000, ..page };
    trusted(&log(open, newer(CLOSED)));
    trusted(&log(newer(CLOSED), open));
    reason(&log(CLOSED, newer(open)));
    reason(&log(newer(open), CLOSED));
    reason(&log(newer(fast), CLOSED));
    reason(&log(CLOSED, open));

    // A torn or foreign page means a crash.
    let torn = Page { torn: true, ..CLOSED };
    assert_has(&reason(&log(torn, CLOSED)), "not written completely");
    assert_has(&reason(&log(CLOSED, torn)), "not written completely");
    assert_has(&reason(&both(Page { magic: *b"RCRD", ..CLOSED })), "signature");
    assert_has(&reason(&both(Page { version: (1, 2), ..CLOSED })), "version 1.2");

    // An emptied log is emptied wholly.
    for at in [0, 4096, 65535, 65536, 1 << 20] {
        let bytes = volume.with(|bytes, layout| {
            let start = layout.data(bytes, 2, DATA);
            bytes[start + at] = 0xFE;
        });
        assert_has(&reason(&bytes), "$LogFile");
    }
}
