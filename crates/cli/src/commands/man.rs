//! `man`: the manual pages, made from the definitions of the command line.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use crate::cli::Cli;
use crate::exit_code::ExitCode;

/// Writes a page for the command and one for each subcommand into `dir`.
pub fn run(dir: &Path) -> ExitCode {
    let mut command = Cli::command();
    command.build();
    let pages = [&command].into_iter().chain(command.get_subcommands());
    let written = pages.into_iter().try_for_each(|command| {
        let man = Man::new(command.clone())
            .source(concat!("slimdisk ", env!("CARGO_PKG_VERSION")))
            .manual("slimdisk manual");
        let mut page = Vec::new();
        render(&man, command, &mut page)?;
        fs::write(dir.join(man.get_filename()), page)
    });
    match written {
        Ok(()) => ExitCode::Done,
        Err(cause) => {
            let what = format!("cannot write the manual pages to {}", dir.display());
            super::print_error(&what, cause)
        }
    }
}

fn render(man: &Man, command: &Command, page: &mut Vec<u8>) -> io::Result<()> {
    man.render_title(page)?;
    man.render_name_section(page)?;
    man.render_synopsis_section(page)?;
    man.render_description_section(page)?;
    man.render_options_section(page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(page)?;
    }
    let after = command.get_after_long_help().or_else(|| command.get_after_help());
    if let Some(after) = after {
        sections(&after.to_string(), page)?;
    }
    Ok(())
}

/// What follows the options in the help: lines that end in a colon at the margin
/// are headings, the indented ones beneath are kept as they are laid out.
fn sections(text: &str, page: &mut Vec<u8>) -> io::Result<()> {
    let mut open = false;
    for line in text.lines() {
        match line.strip_suffix(':').filter(|heading| !heading.starts_with(' ')) {
            Some(heading) => {
                let close = if open { ".fi\n" } else { "" };
                writeln!(page, "{close}.SH {}\n.nf", heading.to_uppercase())?;
                open = true;
            }
            None => writeln!(page, "{}", roff(line.strip_prefix("  ").unwrap_or(line)))?,
        }
    }
    if open {
        writeln!(page, ".fi")?;
    }
    Ok(())
}

/// A line of text that roff takes as it is.
fn roff(line: &str) -> String {
    let escaped = line.replace('\\', "\\e").replace('-', "\\-");
    if escaped.starts_with(['.', '\'']) { format!("\\&{escaped}") } else { escaped }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roff_takes_no_line_for_a_request() {
        assert_eq!(roff(".x -a \\n"), "\\&.x \\-a \\en");
    }
}
