//! Windows: who has a file open, as the Restart Manager tells it.

use std::path::Path;

use super::super::exclusion::Held;

/// Who has the file at `path`, up to three processes; `None` if that cannot be told.
pub fn name(_: &Path, _: Held) -> Option<String> {
    None
}
