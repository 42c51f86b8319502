//! Windows: who has a file open, as far as the Restart Manager tells: it is there to say
//! which programs keep a file from being replaced.

use std::path::Path;
use std::ptr::null;

use windows_sys::Win32::Foundation::{ERROR_MORE_DATA, ERROR_SUCCESS};
use windows_sys::Win32::System::RestartManager::{
    CCH_RM_SESSION_KEY, RM_PROCESS_INFO, RmEndSession, RmGetList, RmRegisterResources,
    RmStartSession,
};

use super::super::exclusion::Held;
use super::new_file::wide;

/// How many processes are named.
const MOST_NAMED: usize = 3;

/// Who has the file at `path`, up to three processes; `None` if that cannot be told.
pub fn name(path: &Path, _: Held) -> Option<String> {
    let session = Session::about(path)?;
    let found = session.processes()?;
    let names: Vec<String> = found.iter().take(MOST_NAMED).map(process_name).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

fn process_name(process: &RM_PROCESS_INFO) -> String {
    let pid = process.Process.dwProcessId;
    if pid == std::process::id() {
        return "this process itself".to_owned();
    }
    let name = process.strAppName.split(|unit| *unit == 0).next().unwrap_or_default();
    match String::from_utf16_lossy(name) {
        name if name.is_empty() => format!("process {pid}"),
        name => format!("{name} (process {pid})"),
    }
}

/// A question to the Restart Manager.
struct Session(u32);

impl Session {
    fn about(path: &Path) -> Option<Self> {
        let path = wide(path).ok()?;
        let mut key = [0; CCH_RM_SESSION_KEY as usize + 1];
        let mut handle = 0;
        // SAFETY: the handle is writable for the call, and the key has the room that is
        // asked for, with the zero at its end.
        let begun = unsafe { RmStartSession(&raw mut handle, 0, key.as_mut_ptr()) };
        if begun != ERROR_SUCCESS {
            return None;
        }
        let session = Session(handle);
        let names = [path.as_ptr()];
        // SAFETY: the session is open; there is one path, which ends in a zero and lives
        // for the call, and none of the other things.
        let entered = unsafe {
            RmRegisterResources(handle, 1, names.as_ptr(), 0, null(), 0, null())
        };
        (entered == ERROR_SUCCESS).then_some(session)
    }

    fn processes(&self) -> Option<Vec<RM_PROCESS_INFO>> {
        let mut room: u32 = 8;
        // More may come between two questions.
        for _ in 0..3 {
            let mut found = vec![RM_PROCESS_INFO::default(); usize::try_from(room).ok()?];
            let (mut needed, mut count, mut reasons) = (0, room, 0);
            // SAFETY: the session is open; there is room for as many processes as
            // `count` says, and all numbers are writable for the call.
            let told = unsafe {
                RmGetList(
                    self.0,
                    &raw mut needed,
                    &raw mut count,
                    found.as_mut_ptr(),
                    &raw mut reasons,
                )
            };
            match told {
                ERROR_SUCCESS => {
                    found.truncate(usize::try_from(count).ok()?);
                    return Some(found);
                }
                ERROR_MORE_DATA if needed > room => room = needed.min(1024),
                _ => return None,
            }
        }
        None
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: the session was begun, and is ended once. It fails for nobody.
        let _ = unsafe { RmEndSession(self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_told_of_is_named() {
        let mut process = RM_PROCESS_INFO::default();
        process.Process.dwProcessId = 1234;
        assert_eq!(process_name(&process), "process 1234");
        for (slot, unit) in process.strAppName.iter_mut().zip("vmwp.exe".encode_utf16()) {
            *slot = unit;
        }
        assert_eq!(process_name(&process), "vmwp.exe (process 1234)");
        let path = std::env::temp_dir()
            .join(format!("slimdisk-held-{}.img", std::process::id()));
        let file = std::fs::File::create(&path).unwrap();
        // Not every system knows the answer.
        if let Some(names) = name(&path, Held::default()) {
            assert!(names.contains("this process itself"), "{names}");
        }
        drop(file);
        std::fs::remove_file(path).unwrap();
    }
}
