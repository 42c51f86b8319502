//! How breaches of the specification's rules are told.

use crate::image::check::{Finding, Severity};

/// What was found wrong so far.
pub type Findings = Vec<Finding>;

/// The image is not sound.
pub fn error(
    findings: &mut Findings,
    structure: impl Into<String>,
    offset: u64,
    expected: impl Into<String>,
    actual: impl Into<String>,
) {
    findings.push(Finding::new(Severity::Error, structure, offset, expected, actual));
}

/// One of two copies is damaged.
pub fn damaged(
    findings: &mut Findings,
    structure: impl Into<String>,
    offset: u64,
    expected: impl Into<String>,
    actual: impl Into<String>,
) {
    findings.push(Finding::new(Severity::Damaged, structure, offset, expected, actual));
}

/// A rule is broken that costs nobody anything.
pub fn note(
    findings: &mut Findings,
    structure: impl Into<String>,
    offset: u64,
    expected: impl Into<String>,
    actual: impl Into<String>,
) {
    findings.push(Finding::new(Severity::Note, structure, offset, expected, actual));
}

/// Whether the image is sound so far.
pub fn is_sound(findings: &Findings) -> bool {
    findings.iter().all(|finding| finding.severity != Severity::Error)
}
