//! NTFS volumes, judged by the tools of ntfs-3g, partclone and Windows' own images.

mod fragmented;
mod hostile;
pub mod image;
mod log;
mod maps;
mod page_files;
mod untrusted;
mod windows;
