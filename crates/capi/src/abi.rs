//! The one door: what each call goes through on its way in and out.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use slimdisk::Error;

use crate::hresult::{self, DISP_E_EXCEPTION, E_POINTER, HResult};

/// A call that failed: its code, and a sentence for people.
#[derive(Debug)]
pub struct Failure {
    pub code: HResult,
    pub what: String,
}

/// How a call ends: `S_OK` or `S_FALSE`, or a failure.
pub type Answer = Result<HResult, Failure>;

impl Failure {
    pub fn new(code: HResult, what: impl Into<String>) -> Self {
        Failure { code, what: what.into() }
    }

    /// `E_POINTER`.
    pub fn pointer(what: &str) -> Self {
        Self::new(E_POINTER, what)
    }

    /// An error of the library under another code than its kind's usual one.
    pub fn with_code(code: HResult, error: &Error) -> Self {
        Self::new(code, error.chain())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::with_code(hresult::of_kind(error.kind()), &error)
    }
}

thread_local! {
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// The sentence of this thread's most recent failure.
pub fn last_failure() -> Option<String> {
    // None while the thread ends.
    LAST.try_with(|last| last.borrow().clone()).ok().flatten()
}

fn remember(what: String) {
    let _ = LAST.try_with(|last| last.replace(Some(what)));
}

/// Does the work of a call: no panic gets out, and a failure's sentence is kept for
/// `slimdisk_LastErrorDescription`.
pub fn guard(work: impl FnOnce() -> Answer) -> HResult {
    // After a panic nothing of the call's own is used again, and what it shares with
    // others is behind locks that are whole at every moment.
    let failure = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(code)) => return code,
        Ok(Err(failure)) => failure,
        Err(panic) => Failure::new(
            DISP_E_EXCEPTION,
            format!(
                "slimdisk met a bug of its own, please report it: {}",
                text_of(&*panic)
            ),
        ),
    };
    remember(failure.what);
    failure.code
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "a panic without words",
    }
}

/// Declares functions of the C ABI. Each body is an [`Answer`] and goes through
/// [`guard`].
///
/// A function with text has a type parameter, and becomes two on Windows: the second name
/// is the one for UTF-16.
///
/// The pointers among the arguments are of types that only a caller from C makes (see
/// `pointer` and `text`), so the functions need not be `unsafe` themselves.
macro_rules! abi {
    () => {};
    (
        $(#[$meta:meta])*
        fn $name:ident($($arg:ident: $type:ty),* $(,)?) $body:block
        $($rest:tt)*
    ) => {
        $(#[$meta])*
        // No other library has symbols that begin with `slimdisk_`, so this one stands in
        // nobody's way.
        #[unsafe(no_mangle)]
        pub extern "C" fn $name($($arg: $type),*) -> crate::hresult::HResult {
            crate::abi::guard(move || $body)
        }
        abi! { $($rest)* }
    };
    (
        $(#[$meta:meta])*
        fn $name:ident / $wide:ident<$unit:ident>($($arg:ident: $type:ty),* $(,)?)
        $body:block
        $($rest:tt)*
    ) => {
        const _: () = {
            type $unit = std::ffi::c_char;
            abi! { $(#[$meta])* fn $name($($arg: $type),*) $body }
        };
        #[cfg(windows)]
        const _: () = {
            type $unit = u16;
            abi! { $(#[$meta])* fn $wide($($arg: $type),*) $body }
        };
        abi! { $($rest)* }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hresult::S_OK;

    #[test]
    fn a_panic_ends_at_the_door() {
        let quiet = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let text = guard(|| panic!("{} legs", 3));
        let told = last_failure().unwrap();
        let str = guard(|| panic!("no legs"));
        let other = guard(|| std::panic::panic_any(7));
        std::panic::set_hook(quiet);
        assert_eq!([text, str, other], [DISP_E_EXCEPTION; 3]);
        assert!(told.ends_with("please report it: 3 legs"), "{told}");
        assert!(last_failure().unwrap().ends_with("without words"));
    }

    #[test]
    fn the_last_failure_is_the_threads_own_and_stays_after_success() {
        assert_eq!(guard(|| Err(Failure::pointer("mine"))), E_POINTER);
        std::thread::spawn(|| {
            assert_eq!(last_failure(), None);
            guard(|| Err(Failure::pointer("theirs")));
        })
        .join()
        .unwrap();
        assert_eq!(guard(|| Ok(S_OK)), S_OK);
        assert_eq!(last_failure().as_deref(), Some("mine"));
    }
}
