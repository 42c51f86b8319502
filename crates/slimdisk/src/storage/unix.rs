//! Unix.

use std::fs::File;
use std::io::Result;
use std::os::unix::fs::FileExt;

pub fn read_at(file: &File, offset: u64, buf: &mut [u8]) -> Result<()> {
    file.read_exact_at(buf, offset)
}

pub fn write_at(file: &File, offset: u64, data: &[u8]) -> Result<()> {
    file.write_all_at(data, offset)
}
