//! Text of the caller, and text for the caller.

#![expect(unsafe_code, reason = "it reads to the NUL, and takes back what it gave")]

use std::ffi::{OsStr, OsString, c_char};
use std::path::{Path, PathBuf};

use crate::abi::Failure;
use crate::hresult::E_INVALIDARG;
use crate::pointer::Cleared;

/// What text is made of: bytes of UTF-8, or on Windows units of UTF-16.
pub trait Unit: Copy + PartialEq + 'static {
    const NUL: Self;
    /// The text that is meant.
    fn decode(units: &[Self]) -> Result<OsString, Failure>;
    /// Its units, without a NUL at the end.
    fn encode(text: &OsStr) -> Vec<Self>;
}

impl Unit for c_char {
    const NUL: Self = 0;

    fn decode(units: &[Self]) -> Result<OsString, Failure> {
        let bytes: Vec<u8> = units.iter().flat_map(|unit| unit.to_ne_bytes()).collect();
        // Unix takes any bytes for a name, and so do we.
        #[cfg(unix)]
        return Ok(std::os::unix::ffi::OsStringExt::from_vec(bytes));
        #[cfg(not(unix))]
        String::from_utf8(bytes)
            .map(OsString::from)
            .map_err(|_| Failure::new(E_INVALIDARG, "the text is not UTF-8"))
    }

    fn encode(text: &OsStr) -> Vec<Self> {
        #[cfg(unix)]
        let bytes = std::os::unix::ffi::OsStrExt::as_bytes(text);
        #[cfg(not(unix))]
        let lossy = text.to_string_lossy();
        #[cfg(not(unix))]
        let bytes = lossy.as_bytes();
        bytes.iter().map(|byte| c_char::from_ne_bytes([*byte])).collect()
    }
}

#[cfg(any(windows, test))]
impl Unit for u16 {
    const NUL: Self = 0;

    fn decode(units: &[Self]) -> Result<OsString, Failure> {
        // Windows takes any units for a name.
        #[cfg(windows)]
        return Ok(std::os::windows::ffi::OsStringExt::from_wide(units));
        #[cfg(not(windows))]
        String::from_utf16(units)
            .map(OsString::from)
            .map_err(|_| Failure::new(E_INVALIDARG, "the text is not UTF-16"))
    }

    fn encode(text: &OsStr) -> Vec<Self> {
        #[cfg(windows)]
        return std::os::windows::ffi::OsStrExt::encode_wide(text).collect();
        #[cfg(not(windows))]
        text.to_string_lossy().encode_utf16().collect()
    }
}

/// Text as it comes from C: NULL, or units up to a NUL that nobody changes during the
/// call. Only a caller from C makes one.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Text<U>(*const U);

impl<U: Unit> Text<U> {
    /// The text; `None` for NULL.
    pub fn read(self) -> Result<Option<OsString>, Failure> {
        if self.0.is_null() {
            return Ok(None);
        }
        if !self.0.is_aligned() {
            return Err(Failure::pointer("the text is not where text can be"));
        }
        // SAFETY: not NULL and aligned; the caller promises a NUL at the end, so all
        // units before it are there, and that nobody changes them during the call.
        let units = unsafe { std::slice::from_raw_parts(self.0, length(self.0)) };
        U::decode(units).map(Some)
    }

    /// The path that the argument `name` must have.
    pub fn path(self, name: &str) -> Result<PathBuf, Failure> {
        match self.read()? {
            Some(text) => Ok(PathBuf::from(text)),
            None => Err(Failure::pointer(&format!("{name} is NULL"))),
        }
    }

    #[cfg(test)]
    pub fn of(units: &[U]) -> Self {
        assert!(units.contains(&U::NUL));
        Text(units.as_ptr())
    }
}

/// An array of text as it comes from C, with its count beside it: NULL, or as many
/// pointers to text.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Texts<U>(*const Text<U>);

impl<U: Unit> Texts<U> {
    /// The paths in it.
    ///
    /// # Errors
    ///
    /// The code `none` if there is no array but should be one, `E_INVALIDARG` for a
    /// NULL in it.
    pub fn paths(self, count: usize, none: i32) -> Result<Vec<PathBuf>, Failure> {
        if count == 0 {
            return Ok(Vec::new());
        }
        if self.0.is_null() || !self.0.is_aligned() {
            return Err(Failure::new(none, "there is no array of paths"));
        }
        let size = size_of::<Text<U>>();
        if count.checked_mul(size).is_none_or(|bytes| isize::try_from(bytes).is_err()) {
            let what = format!("no array has {count} paths");
            return Err(Failure::new(E_INVALIDARG, what));
        }
        // SAFETY: not NULL and aligned; the caller promises `count` pointers there that
        // nobody changes during the call; no longer than anything in memory can be.
        let texts = unsafe { std::slice::from_raw_parts(self.0, count) };
        let path = |text: &Text<U>| match text.read()? {
            Some(text) => Ok(PathBuf::from(text)),
            None => Err(Failure::new(E_INVALIDARG, "one of the paths is NULL")),
        };
        texts.iter().map(path).collect()
    }
}

/// The units before the NUL.
fn length<U: Unit>(text: *const U) -> usize {
    let mut length = 0;
    // SAFETY: whoever calls this has text with a NUL at the end, and all units up to the
    // first one belong to it.
    while unsafe { *text.add(length) } != U::NUL {
        length += 1;
    }
    length
}

/// Gives text to the caller, who gives it back to `slimdisk_FreeString`.
pub fn give<U: Unit>(to: &Cleared<*mut U>, text: impl AsRef<OsStr>) {
    let mut units = U::encode(text.as_ref());
    // A NUL inside would end it early, and it could not be taken back whole.
    units.retain(|unit| *unit != U::NUL);
    units.push(U::NUL);
    to.put(Box::into_raw(units.into_boxed_slice()).cast());
}

/// As [`give`], for a path.
pub fn give_path<U: Unit>(to: &Cleared<*mut U>, path: &Path) {
    give(to, path.as_os_str());
}

/// Text that comes back from the caller.
#[repr(transparent)]
pub struct Given<U>(*mut U);

impl<U: Unit> Given<U> {
    /// Frees it. NULL is nothing to free.
    pub fn free(self) -> Result<(), Failure> {
        if self.0.is_null() {
            return Ok(());
        }
        if !self.0.is_aligned() {
            return Err(Failure::pointer("this text was not given by slimdisk"));
        }
        let units = std::ptr::slice_from_raw_parts_mut(self.0, length(self.0) + 1);
        // SAFETY: `give` made it from a box of units with one NUL, at the end; the caller
        // promises that it is from there, has not been changed and not been freed yet.
        drop(unsafe { Box::from_raw(units) });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pointer::Out;

    fn round<U: Unit>(text: &str) -> OsString {
        let mut place = std::ptr::null_mut::<U>();
        let cleared = Out::to(&mut place).clear(std::ptr::null_mut()).unwrap();
        give::<U>(&cleared, text);
        let back = Text(place.cast_const()).read().unwrap().unwrap();
        Given(place).free().unwrap();
        back
    }

    #[test]
    fn text_comes_back_as_it_went() {
        for text in ["", "disk.vhd", "Größe \u{1F4BE}"] {
            assert_eq!(round::<c_char>(text), text);
            assert_eq!(round::<u16>(text), text);
        }
        assert_eq!(round::<c_char>("a\0b"), "ab");
        assert_eq!(round::<u16>("a\0b"), "ab");
        Given::<u16>(std::ptr::null_mut()).free().unwrap();
    }

    #[test]
    fn null_is_told_from_empty() {
        assert_eq!(Text::<u16>(std::ptr::null()).read().unwrap(), None);
        assert_eq!(Text::of(&[0_u16]).read().unwrap(), Some(OsString::new()));
        let texts = [Text::of(&[97_u16, 0]), Text(std::ptr::null())];
        let array = Texts(texts.as_ptr());
        assert_eq!(array.paths(1, 1).unwrap(), [PathBuf::from("a")]);
        assert_eq!(array.paths(2, 1).unwrap_err().code, E_INVALIDARG);
        assert_eq!(array.paths(usize::MAX / 2, 1).unwrap_err().code, E_INVALIDARG);
        assert_eq!(Texts::<u16>(std::ptr::null()).paths(1, 1).unwrap_err().code, 1);
        assert!(Texts::<u16>(std::ptr::null()).paths(0, 1).unwrap().is_empty());
    }
}
