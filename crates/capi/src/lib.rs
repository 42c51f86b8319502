//! slimdisk for C: the disk and task objects of Virtual Server 2005, with the documented
//! names, arguments, values and result codes.
//!
//! ```text
//! C program --handle, pointers--> this crate --Host, HardDisk, Task--> slimdisk
//!                <--HRESULT-----            <--Result<_, Error>--
//! ```
//!
//! `include/slimdisk.h` is the documentation of every function, and `docs/c-abi.md` has the
//! table of what was documented, what is answered here, and why where that differs. This
//! crate only translates: text, handles, errors to the codes that each member documents.
//!
//! What keeps it sound stands in three places. `handle`: a handle is a number in a table
//! and never followed, so a wrong one is told and cannot crash. `pointer` and `text`: the
//! only places that follow a pointer of the caller. `abi`: the one door, where panics end.

#[macro_use]
mod abi;
mod extended;
mod floppy;
mod handle;
mod hard_disk;
pub mod hresult;
mod library;
mod pointer;
mod property;
mod string_list;
mod task;
mod task_collection;
mod text;
mod virtual_server;
