//! Findings of a structure check.

use std::fmt;

/// How bad a [`Finding`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// A rule is broken that costs nobody anything; the image is sound.
    Note,
    /// One of two copies is damaged; the other holds. Can be repaired.
    Damaged,
    /// The image is not sound.
    Error,
}

/// One broken rule: which structure, where, and what was there instead.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The structure and its field, in the specification's words.
    pub structure: String,
    /// Its offset in the file in bytes.
    pub offset: u64,
    /// What the specification asks for.
    pub expected: String,
    /// What is there.
    pub actual: String,
}

impl Finding {
    /// A finding of any severity.
    pub fn new(
        severity: Severity,
        structure: impl Into<String>,
        offset: u64,
        expected: impl Into<String>,
        actual: impl Into<String>,
    ) -> Self {
        Finding {
            severity,
            structure: structure.into(),
            offset,
            expected: expected.into(),
            actual: actual.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finding { structure, offset, expected, actual, .. } = self;
        write!(
            f,
            "{structure} (at byte {offset:#x}): expected {expected}, found {actual}"
        )
    }
}
