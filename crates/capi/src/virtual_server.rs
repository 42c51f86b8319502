//! `IVMVirtualServer`: its members that concern disks and tasks.

#![expect(unsafe_code, reason = "functions with names for C")]

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use slimdisk::Kind;
use slimdisk::host::{Host, HostOptions};

use crate::abi::{Answer, Failure};
use crate::floppy;
use crate::handle::{
    Handle, IVMHardDisk, IVMTask, IVMTaskCollection, IVMVirtualServer,
    SlimdiskStringList, give,
};
use crate::hresult::{
    E_ALREADY_EXISTS, E_BAD_PATHNAME, E_FILE_NOT_FOUND, E_INVALIDARG, E_NOTIMPL,
    E_PATH_NOT_FOUND, E_POINTER, S_OK, VM_E_APP_SHUTTING_DOWN,
};
use crate::pointer::{In, Out, Versioned};
use crate::string_list::StringList;
use crate::task_collection::Collection;
use crate::text::{self, Text, Texts, Unit};

/// How a server is to behave: `SlimdiskServerOptions`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ServerOptions<U> {
    size: usize,
    search_paths: Texts<U>,
    search_path_count: usize,
    parent_folders: Texts<U>,
    parent_folder_count: usize,
    keep_finished_milliseconds: i32,
    follow_parents: i16,
    reserved: i16,
}

// SAFETY: `repr(C)`, its size comes first, and it is made of numbers and pointers.
unsafe impl<U: Unit> Versioned for ServerOptions<U> {}

impl<U: Unit> ServerOptions<U> {
    fn read(self) -> Result<HostOptions, Failure> {
        if self.reserved != 0 {
            let what = "the reserved field of the options is not 0";
            return Err(Failure::new(E_INVALIDARG, what));
        }
        let mut options = HostOptions::default();
        options.search_paths =
            self.search_paths.paths(self.search_path_count, E_POINTER)?;
        options.parents.dirs =
            self.parent_folders.paths(self.parent_folder_count, E_POINTER)?;
        options.parents.follow = self.follow_parents != 0;
        match u64::try_from(self.keep_finished_milliseconds) {
            Ok(0) => {}
            Ok(time) => options.keep_finished = Duration::from_millis(time),
            Err(_) => {
                let what = "a task cannot be kept for less than no time";
                return Err(Failure::new(E_INVALIDARG, what));
            }
        }
        if let Some(folder) = options.parents.dirs.iter().find(|dir| !dir.is_absolute()) {
            return Err(relative(folder));
        }
        Ok(options)
    }
}

/// The rules for paths that every member with a path documents, held against one that
/// the library is not asked for.
pub fn check_path(host: &Host, path: &Path) -> Result<(), Failure> {
    match host.open(path) {
        Err(error)
            if matches!(
                error.kind(),
                Kind::BadPath | Kind::InvalidName | Kind::PathTooLong
            ) =>
        {
            Err(error.into())
        }
        _ => Ok(()),
    }
}

fn relative(path: &Path) -> Failure {
    let what = format!("{}: not the full path of a folder", path.display());
    Failure::new(E_BAD_PATHNAME, what)
}

/// What `SearchPaths` documents for each path.
fn check_search_path(host: &Host, path: &Path) -> Result<(), Failure> {
    if !path.is_absolute() {
        return Err(relative(path));
    }
    if path.file_name().is_some() {
        check_path(host, path)?;
    }
    if path.is_dir() {
        return Ok(());
    }
    let code = match path.parent().is_some_and(Path::is_dir) {
        true => E_FILE_NOT_FOUND,
        false => E_PATH_NOT_FOUND,
    };
    Err(Failure::new(code, format!("{}: there is no such folder", path.display())))
}

/// What a new file at `path` must pass before anything is made.
pub fn check_new_file(host: &Host, path: &Path) -> Result<(), Failure> {
    check_path(host, path)?;
    if path.symlink_metadata().is_ok() {
        let what = format!("{}: there is such a file already", path.display());
        return Err(Failure::new(E_ALREADY_EXISTS, what));
    }
    if host.is_shutting_down() {
        let what = "the server is shutting down and takes no new operations";
        return Err(Failure::new(VM_E_APP_SHUTTING_DOWN, what));
    }
    Ok(())
}

/// The version in the form *v.s.bbb.t ee*: version, build, 0 for a release, edition.
fn version() -> String {
    let (major, minor, patch) = (
        env!("CARGO_PKG_VERSION_MAJOR"),
        env!("CARGO_PKG_VERSION_MINOR"),
        env!("CARGO_PKG_VERSION_PATCH"),
    );
    let kind = if env!("CARGO_PKG_VERSION_PRE").is_empty() { 0 } else { 1 };
    format!("{major}.{minor}.{patch:0>3}.{kind} SE")
}

fn texts(paths: Vec<PathBuf>) -> StringList {
    StringList::from(
        paths.into_iter().map(PathBuf::into_os_string).collect::<Vec<OsString>>(),
    )
}

fn create_host_drive(host: &Host, path: &Path) -> Answer {
    check_new_file(host, path)?;
    Err(Failure::new(
        E_NOTIMPL,
        "a disk that is linked to a drive of the host cannot be made: how such an image \
         names its drive was never published",
    ))
}

abi! {
    /// A new server.
    fn slimdisk_CreateVirtualServer / slimdisk_CreateVirtualServerW<U>(
        options: In<ServerOptions<U>>,
        server: Out<*mut IVMVirtualServer>,
    ) {
        let server = server.clear(std::ptr::null_mut())?;
        let options = match options.read()? {
            Some(options) => options.read()?,
            None => HostOptions::default(),
        };
        let paths = options.search_paths.clone();
        let host = Host::with_options(options);
        for path in &paths {
            check_search_path(&host, path)?;
        }
        give(&server, host);
        Ok(S_OK)
    }

    /// No new operations; the running ones stop, and it returns when they have.
    fn slimdisk_VirtualServer_ShutDown(server: Handle<Host>) {
        server.get()?.shut_down();
        Ok(S_OK)
    }

    /// Whether the server was told to shut down.
    fn slimdisk_VirtualServer_get_IsShuttingDown(
        server: Handle<Host>,
        is_shutting_down: Out<i16>,
    ) {
        let is_shutting_down = is_shutting_down.clear(0)?;
        is_shutting_down.put(-i16::from(server.get()?.is_shutting_down()));
        Ok(S_OK)
    }

    /// A hard disk by the path of its image.
    fn slimdisk_IVMVirtualServer_GetHardDisk / slimdisk_IVMVirtualServer_GetHardDiskW<U>(
        server: Handle<Host>,
        image_path: Text<U>,
        hard_disk: Out<*mut IVMHardDisk>,
    ) {
        let hard_disk = hard_disk.clear(std::ptr::null_mut())?;
        let path = image_path.path("imagePath")?;
        give(&hard_disk, server.get()?.open(&path)?);
        Ok(S_OK)
    }

    /// The images under the search paths and some more.
    fn slimdisk_IVMVirtualServer_GetHardDiskFiles
        / slimdisk_IVMVirtualServer_GetHardDiskFilesW<U>(
        server: Handle<Host>,
        additional_search_paths: Texts<U>,
        count: usize,
        hard_disk_files: Out<*mut SlimdiskStringList>,
    ) {
        let files = hard_disk_files.clear(std::ptr::null_mut())?;
        let server = server.get()?;
        let additional = additional_search_paths.paths(count, E_INVALIDARG)?;
        give(&files, texts(server.hard_disk_files(&additional)?));
        Ok(S_OK)
    }

    /// A new dynamic disk.
    fn slimdisk_IVMVirtualServer_CreateDynamicVirtualHardDisk
        / slimdisk_IVMVirtualServer_CreateDynamicVirtualHardDiskW<U>(
        server: Handle<Host>,
        image_path: Text<U>,
        size: i32,
        disk_task: Out<*mut IVMTask>,
    ) {
        let task = disk_task.clear(std::ptr::null_mut())?;
        let path = image_path.path("imagePath")?;
        give(&task, server.get()?.create_dynamic(&path, size.into())?);
        Ok(S_OK)
    }

    /// A new fixed disk.
    fn slimdisk_IVMVirtualServer_CreateFixedVirtualHardDisk
        / slimdisk_IVMVirtualServer_CreateFixedVirtualHardDiskW<U>(
        server: Handle<Host>,
        image_path: Text<U>,
        size: i32,
        disk_task: Out<*mut IVMTask>,
    ) {
        let task = disk_task.clear(std::ptr::null_mut())?;
        let path = image_path.path("imagePath")?;
        give(&task, server.get()?.create_fixed(&path, size.into())?);
        Ok(S_OK)
    }

    /// A new differencing disk.
    fn slimdisk_IVMVirtualServer_CreateDifferencingVirtualHardDisk
        / slimdisk_IVMVirtualServer_CreateDifferencingVirtualHardDiskW<U>(
        server: Handle<Host>,
        image_path: Text<U>,
        parent_path: Text<U>,
        disk_task: Out<*mut IVMTask>,
    ) {
        let task = disk_task.clear(std::ptr::null_mut())?;
        let path = image_path.path("imagePath")?;
        let parent = parent_path.path("parentPath")?;
        give(&task, server.get()?.create_differencing(&path, &parent)?);
        Ok(S_OK)
    }

    /// A new disk linked to a drive of the host, which cannot be made.
    fn slimdisk_IVMVirtualServer_CreateHostDriveVirtualHardDisk
        / slimdisk_IVMVirtualServer_CreateHostDriveVirtualHardDiskW<U>(
        server: Handle<Host>,
        image_path: Text<U>,
        host_drive_identifier: Text<U>,
        _mount_read_only: i16,
        disk_task: Out<*mut IVMTask>,
    ) {
        disk_task.clear(std::ptr::null_mut())?;
        let path = image_path.path("imagePath")?;
        host_drive_identifier.path("hostDriveIdentifier")?;
        create_host_drive(&server.get()?, &path)
    }

    /// A new floppy disk.
    fn slimdisk_IVMVirtualServer_CreateFloppyDiskImage
        / slimdisk_IVMVirtualServer_CreateFloppyDiskImageW<U>(
        server: Handle<Host>,
        image_path: Text<U>,
        image_type: i32,
    ) {
        let path = image_path.path("imagePath")?;
        floppy::create(&server.get()?, &path, image_type)
    }

    /// The tasks.
    fn slimdisk_IVMVirtualServer_get_Tasks(
        server: Handle<Host>,
        tasks: Out<*mut IVMTaskCollection>,
    ) {
        let tasks = tasks.clear(std::ptr::null_mut())?;
        give(&tasks, Collection::of(&server.get()?));
        Ok(S_OK)
    }

    /// The search paths.
    fn slimdisk_IVMVirtualServer_get_SearchPaths(
        server: Handle<Host>,
        search_paths: Out<*mut SlimdiskStringList>,
    ) {
        let search_paths = search_paths.clear(std::ptr::null_mut())?;
        give(&search_paths, texts(server.get()?.search_paths()));
        Ok(S_OK)
    }

    /// Other search paths.
    fn slimdisk_IVMVirtualServer_put_SearchPaths
        / slimdisk_IVMVirtualServer_put_SearchPathsW<U>(
        server: Handle<Host>,
        search_paths: Texts<U>,
        count: usize,
    ) {
        let server = server.get()?;
        let paths = search_paths.paths(count, E_POINTER)?;
        for path in &paths {
            check_search_path(&server, path)?;
        }
        server.set_search_paths(paths)?;
        Ok(S_OK)
    }

    /// The version.
    fn slimdisk_IVMVirtualServer_get_Version / slimdisk_IVMVirtualServer_get_VersionW<U>(
        server: Handle<Host>,
        version: Out<*mut U>,
    ) {
        let place = version.clear(std::ptr::null_mut())?;
        server.get()?;
        text::give(&place, self::version());
        Ok(S_OK)
    }
}
