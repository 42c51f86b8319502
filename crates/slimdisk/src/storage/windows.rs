//! Windows.

use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::os::windows::fs::FileExt;

pub fn read_at(file: &File, mut offset: u64, mut buf: &mut [u8]) -> Result<()> {
    while !buf.is_empty() {
        match file.seek_read(buf, offset)? {
            0 => return Err(Error::from(ErrorKind::UnexpectedEof)),
            n => (buf, offset) = (buf.split_at_mut(n).1, offset + n as u64),
        }
    }
    Ok(())
}

pub fn write_at(file: &File, mut offset: u64, mut data: &[u8]) -> Result<()> {
    while !data.is_empty() {
        match file.seek_write(data, offset)? {
            0 => return Err(Error::from(ErrorKind::WriteZero)),
            n => (data, offset) = (data.split_at(n).1, offset + n as u64),
        }
    }
    Ok(())
}
