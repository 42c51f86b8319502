//! Volumes of one file system: see `slimdisk_fuzz::volume`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| slimdisk_fuzz::volume::fuzz("f2fs", data));
