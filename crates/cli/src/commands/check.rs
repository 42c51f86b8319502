//! `check`: is the structure sound?

use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;
use slimdisk::image::{Finding, Severity, check_file, repair_file};

use super::fail;
use crate::console::{BAD, BOLD, Console, DIM, GOOD, MIND, View};
use crate::exit_code::ExitCode;
use crate::printable::{printable, wrap};
use crate::size::count;

/// Checks one image, after mending it if `repair`.
pub fn run(disk: &Path, repair: bool, console: &mut Console) -> ExitCode {
    let mut repaired = Vec::new();
    if repair {
        match repair_file(disk) {
            Ok(mended) => repaired = mended,
            Err(error) => return fail(console, disk, &error, None, false),
        }
    }
    let (format, findings) = match check_file(disk) {
        Ok(found) => found,
        Err(error) => return fail(console, disk, &error, None, false),
    };
    let result = Check {
        image: disk.to_string_lossy().into_owned(),
        format,
        sound: findings.iter().all(|finding| finding.severity == Severity::Note),
        repaired,
        findings,
    };
    console.object(&result);
    let text = result.render(repair, console.view());
    console.report(text);
    if result.sound {
        return ExitCode::Done;
    }
    if let Some(hint) = result.hint(repair) {
        console.hint(hint);
    }
    ExitCode::InvalidImage
}

/// The object that `--json` prints.
#[derive(Serialize)]
struct Check {
    image: String,
    format: &'static str,
    sound: bool,
    repaired: Vec<String>,
    findings: Vec<Finding>,
}

impl Check {
    fn count(&self, severity: Severity) -> u64 {
        self.findings.iter().filter(|finding| finding.severity == severity).count() as u64
    }

    fn render(&self, repair: bool, view: View) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail, here and below.
        for mended in &self.repaired {
            let mended = wrap(&printable(mended), view.columns, 10);
            let _ = writeln!(text, "{GOOD}repaired{GOOD:#}: {mended}");
        }
        if repair && self.repaired.is_empty() {
            let _ = writeln!(text, "{DIM}nothing that can be repaired{DIM:#}");
        }
        let counts: Vec<String> = [
            (Severity::Error, "error"),
            (Severity::Damaged, "damaged copy"),
            (Severity::Note, "note"),
        ]
        .into_iter()
        .filter_map(|(severity, noun)| match self.count(severity) {
            0 => None,
            n if n > 1 && severity == Severity::Damaged => {
                Some(format!("{n} damaged copies"))
            }
            n => Some(count(n, noun)),
        })
        .collect();
        let verdict = if self.sound {
            format!("{GOOD}sound{GOOD:#}")
        } else if self.count(Severity::Error) == 0 {
            format!("{MIND}damaged, but readable{MIND:#}")
        } else {
            format!("{BAD}not sound{BAD:#}")
        };
        let image = printable(&self.image);
        let _ = write!(text, "{BOLD}{image}{BOLD:#}: {verdict} ({}", self.format);
        for part in &counts {
            let _ = write!(text, ", {part}");
        }
        text.push_str(")\n");
        for finding in &self.findings {
            let (style, word) = match finding.severity {
                Severity::Note => (DIM, "note"),
                Severity::Damaged => (MIND, "damaged"),
                Severity::Error => (BAD, "error"),
            };
            let sentence = wrap(&printable(&finding.to_string()), view.columns, 11);
            let _ = writeln!(text, "  {style}{word:<7}{style:#}  {sentence}");
        }
        text
    }

    fn hint(&self, repaired: bool) -> Option<&'static str> {
        match (self.count(Severity::Damaged), repaired) {
            (1.., false) => Some("--repair mends the damaged copy from the sound one"),
            _ => None,
        }
    }
}
