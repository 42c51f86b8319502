//! `IVMTask` and `IVMTask2`.

#![expect(unsafe_code, reason = "functions with names for C")]

use std::time::Duration;

use slimdisk::task::{Task, TaskResult};

use crate::abi::Failure;
use crate::handle::Handle;
use crate::hresult::{E_FAIL, E_POINTER, S_OK, of_kind};
use crate::pointer::Out;
use crate::text::give;

/// `WaitForCompletion` without an end.
const INFINITE: i32 = -1;

/// The longest time that can be waited for, in milliseconds.
const LONGEST: i32 = 4_000_000;

/// How long to wait.
///
/// # Errors
///
/// `E_POINTER` for a time out of range: so it is documented.
fn timeout(milliseconds: i32) -> Result<Option<Duration>, Failure> {
    match u64::try_from(milliseconds) {
        Ok(time) if milliseconds <= LONGEST => Ok(Some(Duration::from_millis(time))),
        Err(_) if milliseconds == INFINITE => Ok(None),
        _ => Err(Failure::new(
            E_POINTER,
            format!(
                "a wait of {milliseconds} milliseconds; from 0 to {LONGEST}, and -1 for no \
                 end, are allowed"
            ),
        )),
    }
}

fn bool_of(value: bool) -> i16 {
    -i16::from(value)
}

abi! {
    /// Waits for the task's end, or for some time.
    fn slimdisk_IVMTask_WaitForCompletion(task: Handle<Task>, timeout: i32) {
        let task = task.get()?;
        task.wait(self::timeout(timeout)?);
        Ok(S_OK)
    }

    /// Asks the task to stop.
    fn slimdisk_IVMTask_Cancel(task: Handle<Task>) {
        if task.get()?.cancel() {
            return Ok(S_OK);
        }
        Err(Failure::new(E_FAIL, "the task cannot be cancelled: it has ended"))
    }

    /// What the task does.
    fn slimdisk_IVMTask_get_Description / slimdisk_IVMTask_get_DescriptionW<U>(
        task: Handle<Task>,
        description: Out<*mut U>,
    ) {
        let description = description.clear(std::ptr::null_mut())?;
        give(&description, task.get()?.description());
        Ok(S_OK)
    }

    /// The task's number.
    fn slimdisk_IVMTask_get_ID(task: Handle<Task>, id: Out<i32>) {
        let id = id.clear(0)?;
        id.put(task.get()?.id().cast_signed());
        Ok(S_OK)
    }

    /// Whether the task can be asked to stop.
    fn slimdisk_IVMTask_get_IsCancelable(task: Handle<Task>, is_cancelable: Out<i16>) {
        let is_cancelable = is_cancelable.clear(0)?;
        is_cancelable.put(bool_of(task.get()?.is_cancelable()));
        Ok(S_OK)
    }

    /// Whether the task has ended.
    fn slimdisk_IVMTask_get_IsComplete(task: Handle<Task>, is_complete: Out<i16>) {
        let is_complete = is_complete.clear(0)?;
        is_complete.put(bool_of(task.get()?.is_complete()));
        Ok(S_OK)
    }

    /// How far the task has come.
    fn slimdisk_IVMTask_get_PercentCompleted(
        task: Handle<Task>,
        percent_completed: Out<i32>,
    ) {
        let percent_completed = percent_completed.clear(0)?;
        percent_completed.put(task.get()?.percent().into());
        Ok(S_OK)
    }

    /// How the task ended.
    fn slimdisk_IVMTask_get_Result(task: Handle<Task>, result: Out<i32>) {
        let result = result.clear(0)?;
        // Whoever asks too early has waited too short a time.
        result.put(task.get()?.result().unwrap_or(TaskResult::TimeOut) as i32);
        Ok(S_OK)
    }

    /// Why the task failed.
    fn slimdisk_IVMTask2_get_Error(task: Handle<Task>, out_error: Out<i32>) {
        let out_error = out_error.clear(S_OK)?;
        if let Some(error) = task.get()?.error() {
            out_error.put(of_kind(error.kind()));
        }
        Ok(S_OK)
    }

    /// Why the task failed, in words.
    fn slimdisk_IVMTask2_get_ErrorDescription
        / slimdisk_IVMTask2_get_ErrorDescriptionW<U>(
        task: Handle<Task>,
        error_description: Out<*mut U>,
    ) {
        let description = error_description.clear(std::ptr::null_mut())?;
        let error = task.get()?.error();
        give(&description, error.map(|error| error.chain()).unwrap_or_default());
        Ok(S_OK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_have_the_documented_range() {
        assert_eq!(timeout(-1).unwrap(), None);
        assert_eq!(timeout(0).unwrap(), Some(Duration::ZERO));
        assert_eq!(timeout(4_000_000).unwrap(), Some(Duration::from_secs(4000)));
        for wrong in [-2, i32::MIN, 4_000_001, i32::MAX] {
            assert_eq!(timeout(wrong).unwrap_err().code, E_POINTER, "{wrong}");
        }
    }

    #[test]
    fn results_have_the_documented_numbers() {
        use TaskResult::*;
        let all = [
            Success,
            Cancelled,
            UnexpectedError,
            OutOfMemory,
            DiskRelatedError,
            IncompatibleSavedState,
            TimeOut,
            IllegalValue,
            ThreadCrash,
        ];
        for (number, result) in (0..).zip(all) {
            assert_eq!(result as i32, number);
        }
    }
}
