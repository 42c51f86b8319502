//! Pointers through which a call answers.

#![expect(unsafe_code, reason = "it writes where the caller says")]

use crate::abi::Failure;
use crate::hresult::E_INVALIDARG;

/// Where a result goes, as it comes from C.
///
/// Nobody in Rust makes one (there is no constructor but for tests), so it holds what a
/// caller from C passed, who promises by the header: NULL, or a place for a `T` that is
/// nobody else's during the call.
#[repr(transparent)]
pub struct Out<T>(*mut T);

impl<T> Out<T> {
    /// Puts `nothing` there, so that a caller never finds an old value after a failure.
    ///
    /// # Errors
    ///
    /// `E_POINTER` for NULL, and for a place where no `T` can be.
    pub fn clear(self, nothing: T) -> Result<Cleared<T>, Failure> {
        if self.0.is_null() {
            return Err(Failure::pointer("a place for the result is needed: it is NULL"));
        }
        if !self.0.is_aligned() {
            return Err(Failure::pointer("the place for the result is no place for it"));
        }
        let place = Cleared(self.0);
        place.put(nothing);
        Ok(place)
    }

    /// Whether the caller does not want this result.
    pub fn is_null(&self) -> bool {
        self.0.is_null()
    }

    #[cfg(test)]
    pub fn to(place: &mut T) -> Self {
        Out(place)
    }
}

/// A place that was looked at and cleared.
pub struct Cleared<T>(*mut T);

impl<T> Cleared<T> {
    /// Puts the result there; the old one is overwritten, not dropped.
    pub fn put(&self, value: T) {
        // SAFETY: not NULL and aligned, as `clear` has seen; writable and nobody else's
        // during the call, as the caller promises by the header. `write` reads nothing,
        // so it does not matter what was there.
        unsafe { self.0.write(value) }
    }
}

/// Room for several results, as it comes from C: NULL, or room for as many as its
/// count says.
#[repr(transparent)]
pub struct OutArray<T>(*mut T);

impl<T: Copy> OutArray<T> {
    /// Puts `nothing` in all `count` places.
    ///
    /// # Errors
    ///
    /// As [`Out::clear`].
    pub fn clear(self, count: u32, nothing: T) -> Result<ClearedArray<T>, Failure> {
        if count > 0 {
            Out(self.0).clear(nothing)?;
        }
        let places = ClearedArray { first: self.0, count: count as usize };
        for index in 0..places.count {
            places.put(index, nothing);
        }
        Ok(places)
    }

    #[cfg(test)]
    pub fn to(places: &mut [T]) -> Self {
        OutArray(places.as_mut_ptr())
    }
}

/// Several places that were looked at and cleared.
pub struct ClearedArray<T> {
    first: *mut T,
    count: usize,
}

impl<T> ClearedArray<T> {
    /// The place at `index`; `None` where the caller has no room.
    pub fn at(&self, index: usize) -> Option<Cleared<T>> {
        // The caller promises room for `count` in one piece, so this stays within it.
        (index < self.count).then(|| Cleared(self.first.wrapping_add(index)))
    }

    fn put(&self, index: usize, value: T) {
        if let Some(place) = self.at(index) {
            place.put(value);
        }
    }
}

/// A structure of the caller that is only read, as it comes from C.
#[repr(transparent)]
pub struct In<T>(*const T);

/// A structure that begins with its size in bytes, so that a program tells which version
/// of it the program knows.
///
/// # Safety
///
/// `repr(C)`, a `usize` first, and all bytes are values of it.
pub unsafe trait Versioned: Copy {}

impl<T: Versioned> In<T> {
    /// A copy of it; `None` for NULL.
    ///
    /// # Errors
    ///
    /// `E_POINTER` for a place where none can be, `E_INVALIDARG` for one of another size.
    pub fn read(self) -> Result<Option<T>, Failure> {
        if self.0.is_null() {
            return Ok(None);
        }
        if !self.0.is_aligned() {
            return Err(Failure::pointer("the structure is not where one can be"));
        }
        // SAFETY: not NULL and aligned; the caller promises by the header that at least
        // the size is there, which comes first.
        let size = unsafe { self.0.cast::<usize>().read() };
        if size != size_of::<T>() {
            let what = format!(
                "a structure of {size} bytes; this version of slimdisk knows one of {}: \
                 set its size to its sizeof",
                size_of::<T>()
            );
            return Err(Failure::new(E_INVALIDARG, what));
        }
        // SAFETY: as above, and it says of itself that it is whole; `Versioned` says that
        // all bytes are values.
        Ok(Some(unsafe { self.0.read() }))
    }

    #[cfg(test)]
    pub fn from(structure: &T) -> Self {
        In(structure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hresult::E_POINTER;

    #[test]
    fn a_place_is_looked_at_and_cleared_before_use() {
        let mut value = 7_u32;
        let place = Out::to(&mut value).clear(0).unwrap();
        assert_eq!(value, 0);
        place.put(9);
        assert_eq!(value, 9);
        let null = Out::<u32>(std::ptr::null_mut());
        assert!(null.is_null());
        assert_eq!(null.clear(0).err().unwrap().code, E_POINTER);
        let mut bytes = [0_u64; 2];
        let odd = bytes.as_mut_ptr().cast::<u8>().wrapping_add(1).cast::<u32>();
        assert_eq!(Out(odd).clear(5).err().unwrap().code, E_POINTER);
        assert_eq!(bytes, [0; 2]);
    }

    #[test]
    fn a_structure_says_which_version_it_is() {
        #[repr(C)]
        #[derive(Clone, Copy)]
        struct Both {
            size: usize,
            value: u16,
        }
        // SAFETY: `repr(C)`, its size comes first, and it is made of numbers.
        unsafe impl Versioned for Both {}
        let both = Both { size: size_of::<Both>(), value: 7 };
        assert_eq!(In::from(&both).read().unwrap().unwrap().value, 7);
        assert!(In::<Both>(std::ptr::null()).read().unwrap().is_none());
        for size in [0, size_of::<usize>(), size_of::<Both>() + 8, usize::MAX] {
            let other = Both { size, ..both };
            let code = In::from(&other).read().err().unwrap().code;
            assert_eq!(code, E_INVALIDARG, "{size}");
        }
        let odd = In((&raw const both).wrapping_byte_add(1));
        assert_eq!(odd.read().err().unwrap().code, E_POINTER);
    }

    #[test]
    fn room_for_several_is_cleared_whole() {
        let mut values = [7, 7, 7, 7];
        let places = OutArray::to(&mut values).clear(3, 0).unwrap();
        places.at(1).unwrap().put(5);
        assert!(places.at(3).is_none());
        assert_eq!(values, [0, 5, 0, 7]);
        let null = OutArray::<u32>(std::ptr::null_mut());
        assert_eq!(null.clear(1, 0).err().unwrap().code, E_POINTER);
        OutArray::<u32>(std::ptr::null_mut()).clear(0, 0).unwrap();
    }
}
