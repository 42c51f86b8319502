//! Handles: what C has of an object.
//!
//! ```text
//! C: IVMTask * = 0x8000000000000030 --+
//!                                     v
//! table:  0x...10 server x1 | 0x...20 disk x1 | 0x...30 task x2
//! ```
//!
//! A handle looks like a pointer and is a number in a table. It is never followed, and
//! numbers are not used twice: NULL, a handle that was released, one of another type and
//! plain garbage are all told from a good one, whatever the caller did.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::collections::btree_map::Entry::Vacant;
use std::marker::PhantomData;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::abi::Failure;
use crate::pointer::Cleared;

/// What a handle stands for: cheap clones of what the library has.
pub trait Object: Clone + Send + Sync + Sized + 'static {
    /// What C calls it.
    const NAME: &'static str;
    /// What its pointers point to, for C.
    type Opaque;
    fn wrap(self) -> Entry;
    fn unwrap(entry: &Entry) -> Option<&Self>;
}

macro_rules! objects {
    ($($opaque:ident: $variant:ident = $type:ty,)*) => {
        $(
            /// Only pointers to it exist.
            #[repr(C)]
            pub struct $opaque([u8; 0]);

            impl Object for $type {
                const NAME: &'static str = stringify!($opaque);
                type Opaque = $opaque;

                fn wrap(self) -> Entry {
                    Entry::$variant(self)
                }

                fn unwrap(entry: &Entry) -> Option<&Self> {
                    match entry {
                        Entry::$variant(object) => Some(object),
                        _ => None,
                    }
                }
            }
        )*

        /// An object of any type.
        #[derive(Clone)]
        pub enum Entry {
            $($variant($type),)*
        }
    };
}

objects! {
    IVMVirtualServer: Server = slimdisk::host::Host,
    IVMHardDisk: Disk = slimdisk::host::HardDisk,
    IVMTask: Task = slimdisk::task::Task,
    IVMTaskCollection: Tasks = crate::task_collection::Collection,
    IEnumVMTask: Cursor = crate::task_collection::Cursor,
    SlimdiskStringList: Strings = crate::string_list::StringList,
}

/// A handle as it comes from C.
#[repr(transparent)]
pub struct Handle<T: Object>(*mut T::Opaque, PhantomData<T>);

impl<T: Object> Handle<T> {
    /// The object.
    ///
    /// # Errors
    ///
    /// `E_POINTER` for what is not a handle of this type.
    pub fn get(&self) -> Result<T, Failure> {
        let table = read();
        let found = table.objects.get(&self.0.addr());
        match found.and_then(|(entry, _)| T::unwrap(entry)) {
            Some(object) => Ok(object.clone()),
            None => {
                Err(Failure::pointer(&format!("this is no handle of an {}", T::NAME)))
            }
        }
    }
}

/// A handle of any type, as it comes from C.
#[repr(transparent)]
pub struct AnyHandle(*mut std::ffi::c_void);

impl AnyHandle {
    /// One more holder.
    pub fn retain(&self) -> Result<(), Failure> {
        let mut table = write();
        let Some((_, count)) = table.objects.get_mut(&self.0.addr()) else {
            return Err(Failure::pointer("this is no handle"));
        };
        *count = count
            .checked_add(1)
            .ok_or_else(|| Failure::pointer("the handle has too many holders"))?;
        Ok(())
    }

    /// One holder fewer; the last one's handle is gone.
    pub fn release(&self) -> Result<(), Failure> {
        let mut table = write();
        let address = self.0.addr();
        let Some((_, count)) = table.objects.get_mut(&address) else {
            return Err(Failure::pointer("this is no handle"));
        };
        *count -= 1;
        if *count == 0 {
            let gone = table.objects.remove(&address);
            // The last of an object may take its time to go; others need not wait.
            drop(table);
            drop(gone);
        }
        Ok(())
    }
}

/// Gives the caller a handle of `object`, with one holder.
pub fn give<T: Object>(to: &Cleared<*mut T::Opaque>, object: T) {
    let address = write().add(object.wrap());
    to.put(std::ptr::without_provenance_mut(address));
}

/// How many handles there are.
pub fn count() -> usize {
    read().objects.len()
}

/// Addresses that no program on any common system has, so that following one by mistake
/// stops the program at once.
const FIRST: usize = 1 << (usize::BITS - 1);

/// Handles look like pointers to something, and may be used as such in a C program's own
/// tables.
const STEP: usize = 16;

struct Table {
    next: usize,
    objects: BTreeMap<usize, (Entry, u32)>,
}

static TABLE: RwLock<Table> =
    RwLock::new(Table { next: FIRST, objects: BTreeMap::new() });

// The table is whole at every moment, so a panic elsewhere does not spoil it.

fn read() -> RwLockReadGuard<'static, Table> {
    TABLE.read().unwrap_or_else(PoisonError::into_inner)
}

fn write() -> RwLockWriteGuard<'static, Table> {
    TABLE.write().unwrap_or_else(PoisonError::into_inner)
}

impl Table {
    fn add(&mut self, entry: Entry) -> usize {
        // In 32 bits the numbers come round one day; a number in use is passed over.
        loop {
            let address = self.next;
            self.next = address.checked_add(STEP).unwrap_or(FIRST);
            if let Vacant(place) = self.objects.entry(address) {
                place.insert((entry, 1));
                return address;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hresult::E_POINTER;
    use crate::pointer::Out;
    use crate::string_list::StringList;
    use slimdisk::host::Host;

    fn handle(object: StringList) -> *mut SlimdiskStringList {
        let mut place = std::ptr::null_mut();
        give(&Out::to(&mut place).clear(std::ptr::null_mut()).unwrap(), object);
        place
    }

    #[test]
    fn wrong_handles_are_told() {
        let place = handle(StringList::from(vec!["a".into()]));
        let as_list = |place| Handle::<StringList>(place, PhantomData).get();
        assert_eq!(as_list(place).unwrap().len(), 1);
        let as_host = Handle::<Host>(place.cast(), PhantomData).get();
        assert_eq!(as_host.unwrap_err().code, E_POINTER, "another type");
        assert_eq!(as_list(std::ptr::null_mut()).unwrap_err().code, E_POINTER);
        let garbage = std::ptr::without_provenance_mut(12345);
        assert_eq!(as_list(garbage).unwrap_err().code, E_POINTER);

        let any = AnyHandle(place.cast());
        any.retain().unwrap();
        any.release().unwrap();
        assert!(as_list(place).is_ok(), "one holder is left");
        any.release().unwrap();
        assert_eq!(as_list(place).unwrap_err().code, E_POINTER, "released");
        assert_eq!(any.release().unwrap_err().code, E_POINTER);
        assert_eq!(any.retain().unwrap_err().code, E_POINTER);
        assert_ne!(handle(StringList::from(Vec::new())), place, "used twice");
    }

    #[test]
    fn numbers_that_come_round_pass_over_those_in_use() {
        let mut table = Table { next: FIRST, objects: BTreeMap::new() };
        let entry = || StringList::from(Vec::new()).wrap();
        let first = table.add(entry());
        table.next = usize::MAX - STEP + 1;
        table.add(entry());
        assert_eq!(table.add(entry()), first + STEP);
    }
}
