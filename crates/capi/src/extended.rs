//! What the old interfaces had no word for: modes, plans, reports, chains, and how far
//! exactly a task has come.

#![expect(unsafe_code, reason = "functions with names for C")]

use slimdisk::compact::{Mode, Options as CompactOptions, Phase};
use slimdisk::convert::Options as ConvertOptions;
use slimdisk::host::HardDisk;
use slimdisk::merge::Options as MergeOptions;
use slimdisk::task::Task;
use slimdisk::{Error, Kind};

use crate::abi::Failure;
use crate::handle::{Handle, IVMTask, give};
use crate::hard_disk::{merge_target, new_type};
use crate::hresult::{E_INVALIDARG, S_FALSE, S_OK};
use crate::pointer::Out;
use crate::text::{self, Text};

// SLIMDISK_FLAG_...
const VERIFY: u32 = 1;
const TOUCH: u32 = 2;
const DROP_UNPARTITIONED: u32 = 4;
const DROP_SWAP: u32 = 8;
const DISCARD_SHADOW_COPIES: u32 = 16;
const PRESERVE: u32 = 32;
const LEAVE_OUT_FREE: u32 = 64;
const ORPHAN_CHILDREN: u32 = 128;

/// Fails for flags that an operation does not have: what they ask for would not be done.
fn check_flags(flags: u32, known: u32) -> Result<(), Failure> {
    if flags & !known == 0 {
        return Ok(());
    }
    let what = format!("flags {:#x}, which this operation does not have", flags & !known);
    Err(Failure::new(E_INVALIDARG, what))
}

fn compact_options(mode: i32, flags: u32) -> Result<CompactOptions, Failure> {
    let known = VERIFY
        | TOUCH
        | DROP_UNPARTITIONED
        | DROP_SWAP
        | DISCARD_SHADOW_COPIES
        | PRESERVE
        | ORPHAN_CHILDREN;
    check_flags(flags, known)?;
    let mut options = CompactOptions::default();
    options.mode = match mode {
        0 => Mode::Quick,
        1 => Mode::Full,
        2 => Mode::Prezeroed,
        _ => {
            let what = format!("there is no mode {mode}");
            return Err(Failure::new(E_INVALIDARG, what));
        }
    };
    options.verify = flags & VERIFY != 0;
    options.touch = flags & TOUCH != 0;
    options.drop_unpartitioned = flags & DROP_UNPARTITIONED != 0;
    options.allow.drop_swap = flags & DROP_SWAP != 0;
    options.allow.discard_shadow_copies = flags & DISCARD_SHADOW_COPIES != 0;
    options.preserve = flags & PRESERVE != 0;
    options.orphan_children = flags & ORPHAN_CHILDREN != 0;
    Ok(options)
}

fn convert_options(
    image_type: i32,
    block_size: u32,
    flags: u32,
) -> Result<ConvertOptions, Failure> {
    let known =
        VERIFY | DROP_UNPARTITIONED | DROP_SWAP | DISCARD_SHADOW_COPIES | LEAVE_OUT_FREE;
    check_flags(flags, known)?;
    let mut options = ConvertOptions::new(new_type(image_type)?);
    options.block_size = (block_size != 0).then_some(block_size.into());
    options.verify = flags & VERIFY != 0;
    options.drop_unpartitioned = flags & DROP_UNPARTITIONED != 0;
    options.allow.drop_swap = flags & DROP_SWAP != 0;
    options.allow.discard_shadow_copies = flags & DISCARD_SHADOW_COPIES != 0;
    options.leave_out_free = flags & LEAVE_OUT_FREE != 0;
    Ok(options)
}

fn json(of: &impl serde::Serialize) -> Result<String, Failure> {
    serde_json::to_string(of).map_err(|e| {
        Error::new(Kind::Unexpected, "cannot write the answer as JSON")
            .with_source(e)
            .into()
    })
}

/// Does what reads a whole disk on a thread that is ours: the caller's may have little
/// stack, and the standard library would keep notes about it.
fn elsewhere<T: Send + 'static>(
    work: impl FnOnce() -> slimdisk::Result<T> + Send + 'static,
) -> slimdisk::Result<T> {
    let thread = std::thread::Builder::new()
        .name("slimdisk plan".to_owned())
        .spawn(work)
        .map_err(|e| Error::io("cannot start a thread", e))?;
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// `SLIMDISK_PHASE_...`
fn number_of(phase: Option<Phase>) -> i32 {
    match phase {
        None => 0,
        Some(Phase::Map) => 1,
        Some(Phase::Search) => 2,
        Some(Phase::VerifyBefore) => 3,
        Some(Phase::Release) => 4,
        Some(Phase::Relocate) => 5,
        Some(Phase::Truncate) => 6,
        Some(Phase::VerifyAfter) => 7,
        Some(Phase::Copy) => 8,
        Some(Phase::Merge) => 9,
        // One that came after this was written.
        Some(_) => -1,
    }
}

abi! {
    /// Compacts as is wished, a differencing disk too.
    fn slimdisk_HardDisk_Compact(
        disk: Handle<HardDisk>,
        mode: i32,
        flags: u32,
        task: Out<*mut IVMTask>,
    ) {
        let task = task.clear(std::ptr::null_mut())?;
        let disk = disk.get()?;
        give(&task, disk.compact_with(&compact_options(mode, flags)?)?);
        Ok(S_OK)
    }

    /// What compacting would do.
    fn slimdisk_HardDisk_Plan / slimdisk_HardDisk_PlanW<U>(
        disk: Handle<HardDisk>,
        mode: i32,
        flags: u32,
        report: Out<*mut U>,
    ) {
        let place = report.clear(std::ptr::null_mut())?;
        let disk = disk.get()?;
        let options = compact_options(mode, flags)?;
        let report = elsewhere(move || disk.plan(&options))?;
        if let Some(cause) = &report.cause {
            let code = crate::hresult::of_kind(cause.kind());
            return Err(Failure::with_code(code, cause));
        }
        text::give(&place, json(&report)?);
        Ok(S_OK)
    }

    /// Copies into a new image as is wished.
    fn slimdisk_HardDisk_Convert / slimdisk_HardDisk_ConvertW<U>(
        disk: Handle<HardDisk>,
        image_path: Text<U>,
        image_type: i32,
        block_size: u32,
        flags: u32,
        task: Out<*mut IVMTask>,
    ) {
        let task = task.clear(std::ptr::null_mut())?;
        let path = image_path.path("imagePath")?;
        let disk = disk.get()?;
        let options = convert_options(image_type, block_size, flags)?;
        give(&task, disk.convert_with(&path, &options)?);
        Ok(S_OK)
    }

    /// Merges into the parent as is wished.
    fn slimdisk_HardDisk_Merge(
        disk: Handle<HardDisk>,
        flags: u32,
        task: Out<*mut IVMTask>,
    ) {
        let task = task.clear(std::ptr::null_mut())?;
        let disk = disk.get()?;
        check_flags(flags, VERIFY)?;
        let mut options = MergeOptions::default();
        options.verify = flags & VERIFY != 0;
        give(&task, disk.merge_with(&options)?);
        Ok(S_OK)
    }

    /// Merges the whole chain into a new image as is wished.
    fn slimdisk_HardDisk_MergeTo / slimdisk_HardDisk_MergeToW<U>(
        disk: Handle<HardDisk>,
        image_path: Text<U>,
        image_type: i32,
        block_size: u32,
        flags: u32,
        task: Out<*mut IVMTask>,
    ) {
        let task = task.clear(std::ptr::null_mut())?;
        let path = merge_target(image_path.path("imagePath")?)?;
        let disk = disk.get()?;
        let mut options = convert_options(image_type, block_size, flags)?;
        options.whole_chain = true;
        give(&task, disk.convert_with(&path, &options)?);
        Ok(S_OK)
    }

    /// All parents of a differencing disk.
    fn slimdisk_HardDisk_get_Chain / slimdisk_HardDisk_get_ChainW<U>(
        disk: Handle<HardDisk>,
        chain: Out<*mut U>,
    ) {
        let chain = chain.clear(std::ptr::null_mut())?;
        text::give(&chain, json(&disk.get()?.chain()?)?);
        Ok(S_OK)
    }

    /// The step the task is in.
    fn slimdisk_Task_get_Phase(task: Handle<Task>, phase: Out<i32>) {
        let phase = phase.clear(0)?;
        phase.put(number_of(task.get()?.phase()));
        Ok(S_OK)
    }

    /// Bytes done in this step.
    fn slimdisk_Task_get_BytesDone(task: Handle<Task>, bytes: Out<u64>) {
        let bytes = bytes.clear(0)?;
        bytes.put(task.get()?.bytes_done());
        Ok(S_OK)
    }

    /// Bytes to do in this step.
    fn slimdisk_Task_get_BytesTotal(task: Handle<Task>, bytes: Out<u64>) {
        let bytes = bytes.clear(0)?;
        bytes.put(task.get()?.bytes_total());
        Ok(S_OK)
    }

    /// How fast it goes.
    fn slimdisk_Task_get_BytesPerSecond(task: Handle<Task>, bytes: Out<u64>) {
        let bytes = bytes.clear(0)?;
        let Some(rate) = task.get()?.bytes_per_second() else { return Ok(S_FALSE) };
        bytes.put(rate);
        Ok(S_OK)
    }

    /// How long this step will take yet.
    fn slimdisk_Task_get_TimeLeft(task: Handle<Task>, milliseconds: Out<u64>) {
        let place = milliseconds.clear(0)?;
        let Some(left) = task.get()?.time_left() else { return Ok(S_FALSE) };
        place.put(u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
        Ok(S_OK)
    }

    /// What was done and won.
    fn slimdisk_Task_get_Report / slimdisk_Task_get_ReportW<U>(
        task: Handle<Task>,
        report: Out<*mut U>,
    ) {
        let place = report.clear(std::ptr::null_mut())?;
        let Some(report) = task.get()?.report_json() else { return Ok(S_FALSE) };
        text::give(&place, report);
        Ok(S_OK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_modes_and_flags_are_refused() {
        assert!(compact_options(1, 63).is_ok());
        for (mode, flags) in [(3, 0), (-1, 0), (0, LEAVE_OUT_FREE), (0, 1 << 31)] {
            let code = compact_options(mode, flags).unwrap_err().code;
            assert_eq!(code, E_INVALIDARG, "{mode} {flags:#x}");
        }
        assert!(convert_options(0, 0, 1 | 4 | 8 | 16 | 64).is_ok());
        for flags in [TOUCH, PRESERVE, 1 << 20] {
            let code = convert_options(0, 0, flags).unwrap_err().code;
            assert_eq!(code, E_INVALIDARG, "{flags:#x}");
        }
    }

    #[test]
    fn flags_mean_what_the_header_says() {
        let options = compact_options(2, VERIFY | DROP_SWAP).unwrap();
        assert_eq!(options.mode, Mode::Prezeroed);
        assert!(options.verify && options.allow.drop_swap);
        assert!(!options.touch && !options.preserve && !options.drop_unpartitioned);
        assert!(!options.allow.discard_shadow_copies);
        let options = compact_options(0, TOUCH | DROP_UNPARTITIONED).unwrap();
        assert!(options.touch && options.drop_unpartitioned && !options.verify);
        let options = compact_options(0, DISCARD_SHADOW_COPIES | PRESERVE).unwrap();
        assert!(options.allow.discard_shadow_copies && options.preserve);
        let options = convert_options(1, 1 << 20, LEAVE_OUT_FREE).unwrap();
        assert_eq!(options.block_size, Some(1 << 20));
        assert!(options.leave_out_free && !options.verify);
    }
}
