//! What concerns the library as a whole, and every handle and text of it.

#![expect(unsafe_code, reason = "functions with names for C")]

use crate::abi::last_failure;
use crate::handle::{self, AnyHandle};
use crate::hresult::{S_FALSE, S_OK};
use crate::pointer::Out;
use crate::text::{Given, give};

/// The ABI's number: the one in the shared library's name, with a count of what has been
/// added since. `SLIMDISK_ABI_VERSION` in the header is the same.
const ABI_VERSION: u32 = 0x0000_0002;

abi! {
    /// The number of the ABI.
    fn slimdisk_AbiVersion(version: Out<u32>) {
        version.clear(0)?.put(ABI_VERSION);
        Ok(S_OK)
    }

    /// The version of slimdisk.
    fn slimdisk_Version / slimdisk_VersionW<U>(version: Out<*mut U>) {
        let version = version.clear(std::ptr::null_mut())?;
        give(&version, env!("CARGO_PKG_VERSION"));
        Ok(S_OK)
    }

    /// The sentence of this thread's most recent failure.
    fn slimdisk_LastErrorDescription / slimdisk_LastErrorDescriptionW<U>(
        description: Out<*mut U>,
    ) {
        let description = description.clear(std::ptr::null_mut())?;
        let Some(what) = last_failure() else { return Ok(S_FALSE) };
        give(&description, what);
        Ok(S_OK)
    }

    /// Takes text back.
    fn slimdisk_FreeString / slimdisk_FreeStringW<U>(text: Given<U>) {
        text.free()?;
        Ok(S_OK)
    }

    /// One more holder of a handle.
    fn slimdisk_AddRef(object: AnyHandle) {
        object.retain()?;
        Ok(S_OK)
    }

    /// One holder of a handle fewer.
    fn slimdisk_Release(object: AnyHandle) {
        object.release()?;
        Ok(S_OK)
    }

    /// How many handles there are.
    fn slimdisk_OpenHandles(count: Out<usize>) {
        count.clear(0)?.put(handle::count());
        Ok(S_OK)
    }
}
