//! Windows: the calls on open files that [`control`] knows the rules of, and the
//! questions beside them.

use std::fs::File;
use std::io::Error;
use std::mem::size_of;
use std::ops::Range;
use std::os::windows::io::AsRawHandle;
use std::ptr::{null, null_mut};

use windows_sys::Wdk::Storage::FileSystem::{
    FileFsFullSizeInformation, NtQueryVolumeInformationFile,
};
use windows_sys::Win32::Foundation::RtlNtStatusToDosError;
use windows_sys::Win32::Storage::FileSystem::{
    FILE_ALLOCATION_INFO, FILE_BASIC_INFO, FILE_COMPRESSION_INFO,
    FILE_INFO_BY_HANDLE_CLASS, FILE_STANDARD_INFO, FileAllocationInfo, FileBasicInfo,
    FileCompressionInfo, FileStandardInfo, GetFileInformationByHandleEx,
    GetVolumeInformationByHandleW, SetFileInformationByHandle,
};
use windows_sys::Win32::System::IO::{DeviceIoControl, IO_STATUS_BLOCK};
use windows_sys::Win32::System::Ioctl::{
    DUPLICATE_EXTENTS_DATA, FILE_ALLOCATED_RANGE_BUFFER, FILE_ZERO_DATA_INFORMATION,
    FSCTL_DUPLICATE_EXTENTS_TO_FILE, FSCTL_QUERY_ALLOCATED_RANGES, FSCTL_SET_SPARSE,
    FSCTL_SET_ZERO_DATA,
};

use super::control::{self, Calls, Code, Standing, Volume};

type Result<T, E = Code> = std::result::Result<T, E>;

/// What [`FileFsFullSizeInformation`] fills in.
///
/// Source: `ntifs.h`, `FILE_FS_FULL_SIZE_INFORMATION`.
#[repr(C)]
#[derive(Default)]
struct FullSize {
    total_units: i64,
    /// Units that this user may still have.
    free_for_caller: i64,
    free_units: i64,
    sectors_per_unit: u32,
    bytes_per_sector: u32,
}

const _: () = assert!(size_of::<FullSize>() == 32);

impl Calls for File {
    fn volume(&self) -> Result<Volume> {
        let (mut flags, mut name) = (0, [0; 64]);
        // SAFETY: the handle is open; the flags and the name are writable for the call,
        // the name's size in characters is given, and nothing else is asked for.
        let done = unsafe {
            GetVolumeInformationByHandleW(
                self.as_raw_handle(),
                null_mut(),
                0,
                null_mut(),
                null_mut(),
                &raw mut flags,
                name.as_mut_ptr(),
                buffer_size(name.len())?,
            )
        };
        if done == 0 {
            return Err(last_error());
        }
        let name = name.split(|unit| *unit == 0).next().unwrap_or_default();
        let longest = control::longest_file(&String::from_utf16_lossy(name));
        Ok(Volume { cluster: full_size(self)?.cluster(), flags, longest })
    }

    fn standing(&self) -> Result<Standing> {
        let (mut standard, mut basic) =
            (FILE_STANDARD_INFO::default(), FILE_BASIC_INFO::default());
        // SAFETY: each class fills in the structure that is named after it.
        unsafe {
            information(self, FileStandardInfo, &mut standard)?;
            information(self, FileBasicInfo, &mut basic)?;
        }
        Ok(Standing {
            end: unsigned(standard.EndOfFile)?,
            allocated: unsigned(standard.AllocationSize)?,
            attributes: basic.FileAttributes,
        })
    }

    fn duplicate_extents(
        &self,
        source: &Self,
        from: u64,
        to: u64,
        len: u64,
    ) -> Result<()> {
        let request = DUPLICATE_EXTENTS_DATA {
            FileHandle: source.as_raw_handle(),
            SourceFileOffset: signed(from)?,
            TargetFileOffset: signed(to)?,
            ByteCount: signed(len)?,
        };
        // SAFETY: this call reads a request of this type, whose handle is open.
        unsafe { control(self, FSCTL_DUPLICATE_EXTENTS_TO_FILE, &request) }
    }

    fn allocated_range(&self, asked: Range<u64>) -> (Option<Range<u64>>, Result<()>) {
        let mut found = FILE_ALLOCATED_RANGE_BUFFER::default();
        let (returned, ended) = match allocated_ranges(self, asked, &mut found) {
            Ok(answer) => answer,
            Err(code) => return (None, Err(code)),
        };
        let range = match (unsigned(found.FileOffset), unsigned(found.Length)) {
            (Ok(start), Ok(len)) if len > 0 => start..start.saturating_add(len),
            _ => 0..0,
        };
        match (returned, size_of_val(&found)) {
            (0, _) => (None, ended),
            (returned, size) if returned == size && !range.is_empty() => {
                (Some(range), ended)
            }
            // "No range" would be taken for zeros.
            _ => (None, Err(Code::INVALID_PARAMETER)),
        }
    }

    fn zero_data(&self, range: Range<u64>) -> Result<()> {
        let request = FILE_ZERO_DATA_INFORMATION {
            FileOffset: signed(range.start)?,
            BeyondFinalZero: signed(range.end)?,
        };
        // SAFETY: this call reads a request of this type.
        unsafe { control(self, FSCTL_SET_ZERO_DATA, &request) }
    }

    fn set_sparse(&self) -> Result<()> {
        // SAFETY: this call reads nothing of a request that has no bytes, and then sets
        // the mark.
        unsafe { control(self, FSCTL_SET_SPARSE, &()) }
    }

    fn set_allocation(&self, bytes: u64) -> Result<()> {
        let wanted = FILE_ALLOCATION_INFO { AllocationSize: signed(bytes)? };
        // SAFETY: the handle is open, and `wanted` is what this class of information is
        // read from, of the size given and alive for the call.
        let done = unsafe {
            SetFileInformationByHandle(
                self.as_raw_handle(),
                FileAllocationInfo,
                (&raw const wanted).cast(),
                buffer_size(size_of::<FILE_ALLOCATION_INFO>())?,
            )
        };
        if done == 0 { Err(last_error()) } else { Ok(()) }
    }
}

/// Bytes that this user may still write to the volume of a file or folder.
pub fn free_space(file: &File) -> Result<u64> {
    let size = full_size(file)?;
    let units = u64::try_from(size.free_for_caller).unwrap_or(0);
    Ok(units.saturating_mul(size.cluster()))
}

/// Bytes that a compressed or sparse file takes.
pub fn compressed_size(file: &File) -> Result<u64> {
    let mut info = FILE_COMPRESSION_INFO::default();
    // SAFETY: this class fills in the structure that is named after it.
    unsafe { information(file, FileCompressionInfo, &mut info)? };
    Ok(u64::try_from(info.CompressedFileSize).unwrap_or(0))
}

impl FullSize {
    fn cluster(&self) -> u64 {
        u64::from(self.sectors_per_unit).saturating_mul(self.bytes_per_sector.into())
    }
}

fn full_size(file: &File) -> Result<FullSize> {
    let mut found = FullSize::default();
    let mut status = IO_STATUS_BLOCK::default();
    // SAFETY: the handle is open for synchronous use; `found` is what this class of
    // information fills in, of the size given, and both are writable for the call.
    let done = unsafe {
        NtQueryVolumeInformationFile(
            file.as_raw_handle(),
            &raw mut status,
            (&raw mut found).cast(),
            buffer_size(size_of::<FullSize>())?,
            FileFsFullSizeInformation,
        )
    };
    if done < 0 {
        // SAFETY: this call takes any number.
        return Err(Code(unsafe { RtlNtStatusToDosError(done) }));
    }
    Ok(found)
}

/// Asks for a class of information on the file.
///
/// # Safety
///
/// `T` must be the structure that this class fills in, for which all bytes are valid.
unsafe fn information<T>(
    file: &File,
    class: FILE_INFO_BY_HANDLE_CLASS,
    info: &mut T,
) -> Result<()> {
    // SAFETY: the handle is open, and `info` is writable for the call and of the size
    // given; the caller knows that it fits the class.
    let done = unsafe {
        GetFileInformationByHandleEx(
            file.as_raw_handle(),
            class,
            (&raw mut *info).cast(),
            buffer_size(size_of::<T>())?,
        )
    };
    if done == 0 { Err(last_error()) } else { Ok(()) }
}

/// Makes a control call that answers with nothing.
///
/// # Safety
///
/// `T` must be the structure that this call reads, or `()` for none.
unsafe fn control<T>(file: &File, code: u32, request: &T) -> Result<()> {
    let size = size_of::<T>();
    let input = if size == 0 { null() } else { (&raw const *request).cast() };
    let mut returned = 0;
    // SAFETY: the handle is open for synchronous use; the request is of the size given
    // and alive for the call, and the caller knows that it fits the code.
    let done = unsafe {
        DeviceIoControl(
            file.as_raw_handle(),
            code,
            input,
            buffer_size(size)?,
            null_mut(),
            0,
            &raw mut returned,
            null_mut(),
        )
    };
    if done == 0 { Err(last_error()) } else { Ok(()) }
}

/// Asks for the first of a file's stored ranges; returns how many bytes came back, and how
/// the call ended.
fn allocated_ranges(
    file: &File,
    asked: Range<u64>,
    found: &mut FILE_ALLOCATED_RANGE_BUFFER,
) -> Result<(usize, Result<()>)> {
    let asked = FILE_ALLOCATED_RANGE_BUFFER {
        FileOffset: signed(asked.start)?,
        Length: signed(asked.end.saturating_sub(asked.start))?,
    };
    let size = buffer_size(size_of::<FILE_ALLOCATED_RANGE_BUFFER>())?;
    let mut returned = 0;
    // SAFETY: the handle is open for synchronous use; the request reads one range and
    // fills in at most one, each of the size given and alive for the call.
    let done = unsafe {
        DeviceIoControl(
            file.as_raw_handle(),
            FSCTL_QUERY_ALLOCATED_RANGES,
            (&raw const asked).cast(),
            size,
            (&raw mut *found).cast(),
            size,
            &raw mut returned,
            null_mut(),
        )
    };
    let ended = if done == 0 { Err(last_error()) } else { Ok(()) };
    Ok((usize::try_from(returned).unwrap_or(usize::MAX), ended))
}

fn last_error() -> Code {
    let code = Error::last_os_error().raw_os_error();
    Code(code.and_then(|code| u32::try_from(code).ok()).unwrap_or(u32::MAX))
}

fn signed(n: u64) -> Result<i64> {
    i64::try_from(n).map_err(|_| Code::INVALID_PARAMETER)
}

fn unsigned(n: i64) -> Result<u64> {
    u64::try_from(n).map_err(|_| Code::INVALID_PARAMETER)
}

fn buffer_size(size: usize) -> Result<u32> {
    u32::try_from(size).map_err(|_| Code::INVALID_PARAMETER)
}

#[cfg(test)]
#[path = "calls/tests.rs"]
mod tests;
