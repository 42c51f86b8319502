//! `IVMTaskCollection`, and what `For Each` goes by.

#![expect(unsafe_code, reason = "functions with names for C")]

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use slimdisk::host::Host;
use slimdisk::task::Task;

use crate::abi::Failure;
use crate::handle::{Handle, IEnumVMTask, IVMTask, give};
use crate::hresult::{DISP_E_BADINDEX, S_FALSE, S_OK};
use crate::pointer::{Out, OutArray};

/// The tasks of a server as they were when it was asked: a loop from 1 to the count meets
/// each once, whatever begins and ends meanwhile.
#[derive(Clone)]
pub struct Collection {
    host: Host,
    tasks: Arc<Vec<Task>>,
}

impl Collection {
    pub fn of(host: &Host) -> Self {
        Collection { tasks: Arc::new(host.tasks()), host: host.clone() }
    }

    /// The task at `index`, from 1, if the server still has it.
    fn item(&self, index: i32) -> Result<Task, Failure> {
        let found = usize::try_from(index)
            .ok()
            .and_then(|index| index.checked_sub(1))
            .and_then(|index| self.tasks.get(index));
        let Some(task) = found else {
            let what = format!("there is no task {index} among {}", self.tasks.len());
            return Err(Failure::new(DISP_E_BADINDEX, what));
        };
        if !self.is_listed(task) {
            let what = format!("task {} ended long ago and is forgotten", task.id());
            return Err(Failure::new(DISP_E_BADINDEX, what));
        }
        Ok(task.clone())
    }

    fn is_listed(&self, task: &Task) -> bool {
        self.host.tasks().iter().any(|listed| listed.id() == task.id())
    }
}

/// A place in a collection.
#[derive(Clone)]
pub struct Cursor {
    collection: Collection,
    next: Arc<Mutex<usize>>,
}

impl Cursor {
    fn new(collection: Collection, next: usize) -> Self {
        Cursor { collection, next: Arc::new(Mutex::new(next)) }
    }

    fn place(&self) -> MutexGuard<'_, usize> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next `count` tasks, or fewer at the end; forgotten ones are passed over.
    fn advance(&self, count: usize) -> Vec<Task> {
        let mut place = self.place();
        let mut found = Vec::new();
        while found.len() < count
            && let Some(task) = self.collection.tasks.get(*place)
        {
            *place += 1;
            if self.collection.is_listed(task) {
                found.push(task.clone());
            }
        }
        found
    }
}

abi! {
    /// How many tasks.
    fn slimdisk_IVMTaskCollection_get_Count(
        tasks: Handle<Collection>,
        count: Out<i32>,
    ) {
        let count = count.clear(0)?;
        count.put(i32::try_from(tasks.get()?.tasks.len()).unwrap_or(i32::MAX));
        Ok(S_OK)
    }

    /// One of the tasks.
    fn slimdisk_IVMTaskCollection_get_Item(
        tasks: Handle<Collection>,
        index: i32,
        task: Out<*mut IVMTask>,
    ) {
        let task = task.clear(std::ptr::null_mut())?;
        give(&task, tasks.get()?.item(index)?);
        Ok(S_OK)
    }

    /// One after the other.
    fn slimdisk_IVMTaskCollection_get__NewEnum(
        tasks: Handle<Collection>,
        enumerator: Out<*mut IEnumVMTask>,
    ) {
        let enumerator = enumerator.clear(std::ptr::null_mut())?;
        give(&enumerator, Cursor::new(tasks.get()?, 0));
        Ok(S_OK)
    }

    /// The next tasks.
    fn slimdisk_IEnumVMTask_Next(
        enumerator: Handle<Cursor>,
        count: u32,
        tasks: OutArray<*mut IVMTask>,
        fetched: Out<u32>,
    ) {
        // As for IEnumVARIANT: who asks for one sees from the code whether it came.
        let fetched = match fetched.is_null() && count == 1 {
            true => None,
            false => Some(fetched.clear(0)?),
        };
        let places = tasks.clear(count, std::ptr::null_mut())?;
        let found = enumerator.get()?.advance(count as usize);
        let number = u32::try_from(found.len()).unwrap_or(u32::MAX);
        for (index, task) in found.into_iter().enumerate() {
            if let Some(place) = places.at(index) {
                give(&place, task);
            }
        }
        if let Some(fetched) = fetched {
            fetched.put(number);
        }
        Ok(if number == count { S_OK } else { S_FALSE })
    }

    /// Passes tasks over.
    fn slimdisk_IEnumVMTask_Skip(enumerator: Handle<Cursor>, count: u32) {
        let passed = enumerator.get()?.advance(count as usize).len();
        Ok(if passed == count as usize { S_OK } else { S_FALSE })
    }

    /// Back to the first.
    fn slimdisk_IEnumVMTask_Reset(enumerator: Handle<Cursor>) {
        *enumerator.get()?.place() = 0;
        Ok(S_OK)
    }

    /// Another one at the same place.
    fn slimdisk_IEnumVMTask_Clone(
        enumerator: Handle<Cursor>,
        copy: Out<*mut IEnumVMTask>,
    ) {
        let copy = copy.clear(std::ptr::null_mut())?;
        let cursor = enumerator.get()?;
        let place = *cursor.place();
        give(&copy, Cursor::new(cursor.collection, place));
        Ok(S_OK)
    }
}
