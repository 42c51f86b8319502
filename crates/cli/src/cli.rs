//! The command line: what can be typed, and what `--help`, the manual pages and
//! the completions say about it. All four come from these definitions.
//!
//! The types here end at [`commands::run`](crate::commands::run): no command
//! sees them.

mod new_image;
mod output;
mod search;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueHint};
use clap_complete::Shell;

pub use self::new_image::*;
pub use self::output::*;
pub use self::search::*;

/// Makes dynamically expanding virtual disks small again
///
/// A dynamically expanding disk image grows and never shrinks. slimdisk finds the
/// blocks of the image that hold nothing (space that the guest's own file systems
/// call free, and zeros), gives them up, moves the rest together and cuts the
/// file: in place, without temporary space, without mounting anything and without
/// root. The capacity that the guest sees stays the same.
///
/// The image is sound at every instant. A run that is interrupted, killed or that
/// loses power leaves an image that works, and running again continues.
#[derive(Debug, Parser)]
#[command(
    name = "slimdisk",
    version,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    after_help = SHORT_EXAMPLES,
    after_long_help = concat_sections(&[SHORT_EXAMPLES, EXIT_STATUS, ENVIRONMENT]),
    max_term_width = 100
)]
pub struct Cli {
    /// When to use colours
    #[arg(
        long,
        global = true,
        value_enum,
        value_name = "WHEN",
        default_value = "auto",
        display_order = 100
    )]
    pub color: Color,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Joins the sections that follow the options in the long help.
fn concat_sections(sections: &[&str]) -> String {
    sections.join("\n\n")
}

const SHORT_EXAMPLES: &str = "\
Examples:
  slimdisk plan disk.vhd         what could be won, and why not more
  slimdisk compact disk.vhd      win it
  slimdisk info disk.vhd         what is it, and what is in it";

/// The documented table of exit codes; a test holds
/// [`ExitCode`](crate::exit_code::ExitCode) against it.
pub const EXIT_STATUS: &str = "\
Exit status:
    0  done, or nothing to do
    1  the system failed a read or a write, or something unforeseen
    2  the command line makes no sense
    3  not a sound disk image
    4  a sound image, but of a type that this does not apply to (fixed, in a saved state)
    5  no such file or folder
    6  permission denied, or the file or its medium is read-only
    7  the host's disk is full
    8  the parent image cannot be found, or is another one
    9  the host is shutting down
   75  the image is in use; try again later
  130  interrupted (Ctrl-C) at a sound point; run again to continue
  143  terminated (SIGTERM) at a sound point; run again to continue

  With several disks it is the code of the first that failed; the others are still
  done. An interruption ends the run and outranks earlier failures.";

const ENVIRONMENT: &str = "\
Environment:
  NO_COLOR   if set and not empty, no colours
  COLUMNS    the width to draw and wrap for, in place of the terminal's";

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show what an image is, and the partitions and volumes in it
    ///
    /// Shows what the image says of itself, how much of it is allocated, the
    /// guest's partitions and volumes, and whether the free map of each volume can
    /// be trusted. Writes nothing, not even a timestamp, and works on a read-only
    /// file.
    #[command(after_help = "\
Examples:
  slimdisk info disk.vhd
  slimdisk info --json disk.vhd | jq '.volumes[].free_bytes'")]
    Info(InfoArgs),

    /// Show what compacting would win, and why not more
    ///
    /// The same as `compact --dry-run`: looks at everything that `compact` looks at
    /// and writes nothing. The size it promises is the size that `compact` reaches,
    /// to the byte.
    #[command(after_help = "\
Examples:
  slimdisk plan disk.vhd
  slimdisk plan --mode full disk.vhd
  slimdisk plan --json *.vhd | jq '.file_size_before - .file_size_after'")]
    Plan(PlanArgs),

    /// Draw a picture of the image's blocks
    ///
    /// Draws which blocks are used, free, zero or absent, once in the order of the
    /// guest's disk and once in the order of the file. Where there are more blocks
    /// than room, a cell stands for several and shows the state that predominates,
    /// or that they are mixed. Writes nothing to the image.
    #[command(after_help = "\
Examples:
  slimdisk map disk.vhd
  slimdisk map --svg blocks.svg disk.vhd")]
    Map(MapArgs),

    /// Make images as small as what they hold
    ///
    /// Gives up the blocks that hold nothing, moves the remaining ones together and
    /// cuts the file, in place. Needs no option and no temporary space.
    ///
    /// Only what a volume itself proves to be free is given up: a volume that is
    /// dirty, hibernated, encrypted or not understood keeps all its data, and the
    /// report says why. An image that is in use is refused.
    ///
    /// Ctrl-C stops at the next sound point; a second one ends at once, and that is
    /// safe too. Running again continues.
    #[command(after_help = "\
Examples:
  slimdisk compact disk.vhd
  slimdisk compact --verify disk.vhd
  slimdisk compact --punch disk.vhd
  slimdisk compact --output small.vhd disk.vhd
  slimdisk compact --json --progress none *.vhd > reports.jsonl")]
    Compact(CompactArgs),

    /// Make a new disk image
    ///
    /// Makes an empty dynamic image of the size given, a fixed one that takes all of
    /// its room at once, or a differencing one that holds what is changed of its
    /// parent. A folder that is missing is made; a file that is there is never
    /// replaced.
    #[command(after_help = "\
Examples:
  slimdisk create new.vhd --size 40G
  slimdisk create new.vhd --size 500M --fixed
  slimdisk create child.vhd --parent base.vhd")]
    Create(CreateArgs),

    /// Copy a disk into a new image of another type
    ///
    /// Copies what the guest sees, through all parents of a differencing image, into a
    /// new dynamic or fixed image. Zeros take no room in a dynamic one. The source is
    /// left as it is; the new file appears when it is whole, and not at all if the copy
    /// is interrupted.
    #[command(after_help = "\
Examples:
  slimdisk convert fixed.vhd dynamic.vhd
  slimdisk convert dynamic.vhd fixed.vhd --type fixed
  slimdisk convert disk.vhd small.vhd --leave-out-free")]
    Convert(ConvertArgs),

    /// Merge a differencing image into its parent, or a chain into a new image
    ///
    /// Writes what the image holds into its parent, in place. At every instant the
    /// image reads the same through its parent; a merge that was interrupted is
    /// completed by running it again. The image itself stays as it is: remove it when
    /// you no longer need it. A parent that has other children beside it is refused,
    /// for they would show what was merged.
    ///
    /// With --to all of the chain goes into a new image, and nothing else is changed.
    #[command(after_help = "\
Examples:
  slimdisk merge --dry-run child.vhd
  slimdisk merge child.vhd
  slimdisk merge child.vhd --to whole.vhd")]
    Merge(MergeArgs),

    /// Check the structure of an image
    ///
    /// Holds headers, tables and the places of all blocks against the format's
    /// specification. Ends with 3 if the image is not sound. Without --repair it
    /// writes nothing.
    #[command(after_help = "\
Examples:
  slimdisk check disk.vhd
  slimdisk check --repair disk.vhd")]
    Check(CheckArgs),

    /// Print a completion script for a shell
    #[command(after_help = "\
Examples:
  slimdisk completions bash > /etc/bash_completion.d/slimdisk
  slimdisk completions zsh > ~/.zfunc/_slimdisk
  slimdisk completions powershell >> $PROFILE")]
    Completions {
        /// The shell
        shell: Shell,
    },

    /// Write the manual pages into a folder
    ///
    /// Writes slimdisk.1 and one page for each subcommand; pages of these names are
    /// replaced.
    #[command(after_help = "\
Examples:
  slimdisk man /usr/local/share/man/man1")]
    Man {
        /// An existing folder
        #[arg(value_hint = ValueHint::DirPath)]
        dir: PathBuf,
    },
}

/// `info`.
#[derive(Debug, Args)]
pub struct InfoArgs {
    /// The disk image
    #[arg(value_hint = ValueHint::FilePath)]
    pub disk: PathBuf,
    /// Where parents may be.
    #[command(flatten)]
    pub parents: ParentArgs,
    /// How it is said.
    #[command(flatten)]
    pub output: OutputArgs,
    /// How progress is shown.
    #[command(flatten)]
    pub progress: ProgressArgs,
}

/// `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The disk images
    #[arg(required = true, value_name = "DISK", value_hint = ValueHint::FilePath)]
    pub disks: Vec<PathBuf>,
    /// Give room back by holes in the file, too
    #[command(flatten)]
    pub punch: PunchArgs,
    /// How far to look.
    #[command(flatten)]
    pub search: SearchArgs,
    /// Where parents may be.
    #[command(flatten)]
    pub parents: ParentArgs,
    /// How it is said.
    #[command(flatten)]
    pub output: OutputArgs,
    /// How progress is shown.
    #[command(flatten)]
    pub progress: ProgressArgs,
}

/// `map`.
#[derive(Debug, Args)]
pub struct MapArgs {
    /// The disk image
    #[arg(value_hint = ValueHint::FilePath)]
    pub disk: PathBuf,
    /// Draw into a new SVG file instead of the terminal
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub svg: Option<PathBuf>,
    /// Replace the SVG file if there is one
    #[arg(long, requires = "svg")]
    pub force: bool,
    /// How far to look.
    #[command(flatten)]
    pub search: SearchArgs,
    /// Where parents may be.
    #[command(flatten)]
    pub parents: ParentArgs,
    /// How it is said.
    #[command(flatten)]
    pub output: OutputArgs,
    /// How progress is shown.
    #[command(flatten)]
    pub progress: ProgressArgs,
}

/// `compact`.
#[derive(Debug, Args)]
pub struct CompactArgs {
    /// The disk images
    #[arg(required = true, value_name = "DISK", value_hint = ValueHint::FilePath)]
    pub disks: Vec<PathBuf>,
    /// Write nothing; show what would be done, as `plan`
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Read the live guest bytes before and after and compare them
    #[arg(long)]
    pub verify: bool,
    /// Let the file's modification time change
    ///
    /// Without it the time is set back to what it was: the guest's data is the same.
    #[arg(long)]
    pub touch: bool,
    /// Write a compacted copy instead, and leave the image as it is
    ///
    /// The copy is the same disk in the same format and is to take the image's place: do
    /// not use both in one machine. Its blocks lie in the order of the guest's disk. Where
    /// the host can, blocks are shared with the image instead of written. The new file
    /// appears when it is whole, and replaces nothing. For dynamic images.
    #[arg(
        short = 'o',
        long = "output",
        value_name = "NEW",
        value_hint = ValueHint::FilePath,
        conflicts_with_all = ["punch", "touch"]
    )]
    pub new: Option<PathBuf>,
    /// Give room back by holes in the file, too
    #[command(flatten)]
    pub punch: PunchArgs,
    /// How far to look.
    #[command(flatten)]
    pub search: SearchArgs,
    /// Where parents may be.
    #[command(flatten)]
    pub parents: ParentArgs,
    /// How it is said.
    #[command(flatten)]
    pub output: OutputArgs,
    /// How progress is shown.
    #[command(flatten)]
    pub progress: ProgressArgs,
}

/// `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The disk image
    #[arg(value_hint = ValueHint::FilePath)]
    pub disk: PathBuf,
    /// Mend what has a sound copy in the image, then check again
    ///
    /// That is one damaged footer of a VHD, one header or region table of a VHDX; a log
    /// in use is replayed. Nothing else is ever mended.
    #[arg(long)]
    pub repair: bool,
    /// How it is said.
    #[command(flatten)]
    pub output: OutputArgs,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn definitions_hold_together() {
        Cli::command().debug_assert();
    }
}
