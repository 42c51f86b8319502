//! Lists of text: what stands for a VARIANT with an array of strings.

#![expect(unsafe_code, reason = "functions with names for C")]

use std::ffi::OsString;
use std::sync::Arc;

use crate::abi::Failure;
use crate::handle::Handle;
use crate::hresult::{DISP_E_BADINDEX, S_OK};
use crate::pointer::Out;
use crate::text::give;

/// Strings that do not change.
#[derive(Clone, Debug)]
pub struct StringList(Arc<Vec<OsString>>);

impl From<Vec<OsString>> for StringList {
    fn from(texts: Vec<OsString>) -> Self {
        StringList(Arc::new(texts))
    }
}

impl StringList {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The text at `index`, from 0 as in an array of the automation types.
    fn item(&self, index: i32) -> Result<&OsString, Failure> {
        let text = usize::try_from(index).ok().and_then(|index| self.0.get(index));
        text.ok_or_else(|| {
            let what = format!("there is no text {index} in a list of {}", self.len());
            Failure::new(DISP_E_BADINDEX, what)
        })
    }
}

abi! {
    /// How many there are.
    fn slimdisk_StringList_get_Count(list: Handle<StringList>, count: Out<i32>) {
        let count = count.clear(0)?;
        count.put(i32::try_from(list.get()?.len()).unwrap_or(i32::MAX));
        Ok(S_OK)
    }

    /// One of them.
    fn slimdisk_StringList_get_Item / slimdisk_StringList_get_ItemW<U>(
        list: Handle<StringList>,
        index: i32,
        text: Out<*mut U>,
    ) {
        let text = text.clear(std::ptr::null_mut())?;
        give(&text, list.get()?.item(index)?);
        Ok(S_OK)
    }
}
