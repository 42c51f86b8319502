//! `IVMHardDisk`.

#![expect(unsafe_code, reason = "functions with names for C")]

use slimdisk::host::HardDisk;
use slimdisk::image::ImageType;

use crate::abi::Failure;
use crate::handle::{Handle, IVMHardDisk, IVMTask, give};
use crate::hresult::{E_INVALIDARG, E_NOTIMPL, S_FALSE, S_OK, VM_E_WRONG_HD_IMAGE_TYPE};
use crate::pointer::Out;
use crate::property;
use crate::text::{Text, give_path};

/// Only pointers to it would exist, and there are none.
#[repr(C)]
pub struct IVMSecurity([u8; 0]);

/// `VMHardDiskType` of a type.
pub fn number_of(image_type: ImageType) -> i32 {
    match image_type {
        ImageType::Dynamic => 0,
        ImageType::Fixed => 1,
        ImageType::Differencing => 2,
    }
}

/// The type of a new image.
///
/// # Errors
///
/// `VM_E_WRONG_HD_IMAGE_TYPE` for all but `vmDiskType_Dynamic` and
/// `vmDiskType_FixedSize`.
pub fn new_type(number: i32) -> Result<ImageType, Failure> {
    match number {
        0 => Ok(ImageType::Dynamic),
        1 => Ok(ImageType::Fixed),
        _ => Err(Failure::new(
            VM_E_WRONG_HD_IMAGE_TYPE,
            format!(
                "the new image can be dynamic (0) or fixed (1), not of type {number}"
            ),
        )),
    }
}

/// The target of a merge: an empty path has a code of its own there.
pub fn merge_target(path: std::path::PathBuf) -> Result<std::path::PathBuf, Failure> {
    if path.as_os_str().is_empty() {
        let what = "the path of the new image is empty";
        return Err(Failure::new(E_INVALIDARG, what));
    }
    Ok(path)
}

abi! {
    /// Gives back what the guest does not use.
    fn slimdisk_IVMHardDisk_Compact(
        disk: Handle<HardDisk>,
        compact_task: Out<*mut IVMTask>,
    ) {
        let task = compact_task.clear(std::ptr::null_mut())?;
        give(&task, disk.get()?.compact()?);
        Ok(S_OK)
    }

    /// Copies into a new image of another type.
    fn slimdisk_IVMHardDisk_Convert / slimdisk_IVMHardDisk_ConvertW<U>(
        disk: Handle<HardDisk>,
        converted_disk_image_path: Text<U>,
        converted_disk_image_type: i32,
        convert_task: Out<*mut IVMTask>,
    ) {
        let task = convert_task.clear(std::ptr::null_mut())?;
        let path = converted_disk_image_path.path("convertedDiskImagePath")?;
        let disk = disk.get()?;
        give(&task, disk.convert(&path, new_type(converted_disk_image_type)?)?);
        Ok(S_OK)
    }

    /// Merges into the parent.
    fn slimdisk_IVMHardDisk_Merge(
        disk: Handle<HardDisk>,
        merge_task: Out<*mut IVMTask>,
    ) {
        let task = merge_task.clear(std::ptr::null_mut())?;
        give(&task, disk.get()?.merge()?);
        Ok(S_OK)
    }

    /// Merges the whole chain into a new image.
    fn slimdisk_IVMHardDisk_MergeTo / slimdisk_IVMHardDisk_MergeToW<U>(
        disk: Handle<HardDisk>,
        new_disk_image_path: Text<U>,
        new_disk_image_type: i32,
        merge_task: Out<*mut IVMTask>,
    ) {
        let task = merge_task.clear(std::ptr::null_mut())?;
        let path = merge_target(new_disk_image_path.path("newDiskImagePath")?)?;
        let disk = disk.get()?;
        give(&task, disk.merge_to(&path, new_type(new_disk_image_type)?)?);
        Ok(S_OK)
    }

    /// The image's full path.
    fn slimdisk_IVMHardDisk_get_File / slimdisk_IVMHardDisk_get_FileW<U>(
        disk: Handle<HardDisk>,
        file: Out<*mut U>,
    ) {
        let file = file.clear(std::ptr::null_mut())?;
        give_path(&file, disk.get()?.file());
        Ok(S_OK)
    }

    /// The drive of the host that the image is linked to: no image is.
    fn slimdisk_IVMHardDisk_get_HostDriveIdentifier
        / slimdisk_IVMHardDisk_get_HostDriveIdentifierW<U>(
        disk: Handle<HardDisk>,
        host_drive_identifier: Out<*mut U>,
    ) {
        host_drive_identifier.clear(std::ptr::null_mut())?;
        disk.get()?.image_type().map_err(|e| property::of_image(&e))?;
        Ok(S_FALSE)
    }

    /// Free bytes of the volume with the image.
    fn slimdisk_IVMHardDisk_get_HostFreeDiskSpace(
        disk: Handle<HardDisk>,
        host_free_disk_space: Out<u64>,
    ) {
        let space = host_free_disk_space.clear(0)?;
        space.put(disk.get()?.host_free_space().map_err(|e| property::of_volume(&e))?);
        Ok(S_OK)
    }

    /// The parent of a differencing disk.
    fn slimdisk_IVMHardDisk_get_Parent(
        disk: Handle<HardDisk>,
        parent: Out<*mut IVMHardDisk>,
    ) {
        let place = parent.clear(std::ptr::null_mut())?;
        match disk.get()?.parent().map_err(|e| property::of_parent(&e))? {
            Some(parent) => give(&place, parent),
            None => return Ok(S_FALSE),
        }
        Ok(S_OK)
    }

    /// Another place for the parent of a differencing disk.
    fn slimdisk_IVMHardDisk_put_Parent(
        disk: Handle<HardDisk>,
        parent: Handle<HardDisk>,
    ) {
        let (disk, parent) = (disk.get()?, parent.get()?);
        disk.set_parent(&parent).map_err(|e| property::of_parent(&e))?;
        Ok(S_OK)
    }

    /// Who may use the disk: the files' own rights say that here.
    fn slimdisk_IVMHardDisk_get_Security(
        disk: Handle<HardDisk>,
        security: Out<*mut IVMSecurity>,
    ) {
        security.clear(std::ptr::null_mut())?;
        disk.get()?;
        Err(Failure::new(
            E_NOTIMPL,
            "there is no IVMSecurity object: who may use a disk is said by the rights of \
             its file",
        ))
    }

    /// Bytes of the guest's disk.
    fn slimdisk_IVMHardDisk_get_SizeInGuest(
        disk: Handle<HardDisk>,
        size_in_guest: Out<u64>,
    ) {
        let size = size_in_guest.clear(0)?;
        size.put(disk.get()?.size_in_guest().map_err(|e| property::of_image(&e))?);
        Ok(S_OK)
    }

    /// Bytes of the image.
    fn slimdisk_IVMHardDisk_get_SizeOnHost(
        disk: Handle<HardDisk>,
        size_on_host: Out<u64>,
    ) {
        let size = size_on_host.clear(0)?;
        size.put(disk.get()?.size_on_host().map_err(|e| property::of_file(&e))?);
        Ok(S_OK)
    }

    /// How the image stores the disk.
    fn slimdisk_IVMHardDisk_get_Type(disk: Handle<HardDisk>, disk_type: Out<i32>) {
        let place = disk_type.clear(0)?;
        let found = disk.get()?.image_type().map_err(|e| property::of_image(&e))?;
        place.put(number_of(found));
        Ok(S_OK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_two_types_can_be_made() {
        for number in 0..2 {
            assert_eq!(number_of(new_type(number).unwrap()), number);
        }
        assert_eq!(number_of(ImageType::Differencing), 2);
        for number in [-1, 2, 3, 4, i32::MAX] {
            let code = new_type(number).unwrap_err().code;
            assert_eq!(code, VM_E_WRONG_HD_IMAGE_TYPE, "{number}");
        }
    }
}
