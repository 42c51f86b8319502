//! The command line: what can be typed, and what `--help`, the manual pages and
//! the completions say about it. All four come from these definitions.
//!
//! The types here end at [`commands::run`](crate::commands::run): no command
//! sees them.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;
use slimdisk::compact::{Mode, Options, Punch};
use slimdisk::create::{self, Content};
use slimdisk::image::parent::ParentLookup;
use slimdisk::image::vhd::Vhd;
use slimdisk::image::vhdx::Vhdx;
use slimdisk::image::{Format, ImageType};
use slimdisk::{convert, merge};

use crate::progress::Style;
use crate::size;

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

/// When to use colours.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Color {
    /// On a terminal, unless `NO_COLOR` is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

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

/// Holes in the file.
#[derive(Debug, Args)]
pub struct PunchArgs {
    /// Punch holes in the file where its free space lies, and move nothing
    ///
    /// The host gets the room back, inside blocks that hold live data too, and the file
    /// keeps its length. Works on fixed images as well. With --punch=also the image is
    /// compacted first, and holes are punched in what free space is left. Free is what
    /// trusted volumes call free; with --mode full what reads as zeros, too.
    ///
    /// Only for hosts that take disk images with holes, such as QEMU: Hyper-V and WSL
    /// refuse them, and the file system that the image lies on must know holes.
    #[arg(
        long,
        value_enum,
        value_name = "WHAT",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "only"
    )]
    pub punch: Option<PunchArg>,
    /// Mark the file sparse if it is not, so that there can be holes in it on Windows
    ///
    /// The mark stays. Hyper-V and WSL refuse a file that has it. On other systems every
    /// file can have holes, and this changes nothing.
    #[arg(long, requires = "punch")]
    pub make_sparse: bool,
}

/// What is done besides punching holes.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum PunchArg {
    /// Nothing: only punch holes
    Only,
    /// Compact the image first
    Also,
}

/// `create`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("content").required(true).args(["size", "parent"]))]
pub struct CreateArgs {
    /// The new disk image
    #[arg(value_hint = ValueHint::FilePath)]
    pub disk: PathBuf,
    /// The size of the disk: 512M, 40G, 2T
    #[arg(short, long, value_parser = size::parse)]
    pub size: Option<u64>,
    /// Take all of the room at once
    #[arg(long, conflicts_with = "parent")]
    pub fixed: bool,
    /// Make a differencing image that has this one as its parent
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub parent: Option<PathBuf>,
    /// The format of the new image
    ///
    /// By default the one that its name ends in or else its parent has, else vhd.
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub format: Option<FormatArg>,
    /// The size of a block
    ///
    /// In a VHD 512K or 2M (the default) are what all programs read; a VHDX has 1M to
    /// 256M (by default 32M, a differencing one 2M).
    #[arg(long, value_name = "SIZE", value_parser = size::parse, conflicts_with = "fixed")]
    pub block_size: Option<u64>,
    /// Write nothing; show what would be made
    #[arg(short = 'n', long)]
    pub dry_run: bool,
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

/// `convert`.
#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// The disk image
    #[arg(value_hint = ValueHint::FilePath)]
    pub disk: PathBuf,
    /// The new disk image
    #[arg(value_hint = ValueHint::FilePath)]
    pub new: PathBuf,
    /// The type of the new image
    #[arg(long = "type", value_enum, value_name = "TYPE", default_value = "dynamic")]
    pub image_type: NewTypeArg,
    /// The format of the new image
    ///
    /// By default the one that its name ends in, else vhd.
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub format: Option<FormatArg>,
    /// The size of a block
    ///
    /// In a VHD 512K or 2M (the default) are what all programs read; a VHDX has 1M to
    /// 256M (32M by default). In smaller blocks less free space is pinned: `plan` tells
    /// how much less.
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub block_size: Option<u64>,
    /// Leave out what trusted volumes call free
    ///
    /// It reads as zeros in the new image. Without this option every byte is copied.
    #[arg(long)]
    pub leave_out_free: bool,
    /// Also leave out what lies outside every partition
    ///
    /// As with `compact`.
    #[arg(long, requires = "leave_out_free")]
    pub drop_unpartitioned: bool,
    /// Allow NTFS Volume Shadow Copies to be lost
    ///
    /// As with `compact`.
    #[arg(long, requires = "leave_out_free")]
    pub discard_shadow_copies: bool,
    /// Also leave out what is in swap areas and page files
    ///
    /// As with `compact`.
    #[arg(long, requires = "leave_out_free")]
    pub drop_swap: bool,
    /// Read both images and compare them before the new one gets its name
    #[arg(long)]
    pub verify: bool,
    /// Write nothing; show what would be made
    #[arg(short = 'n', long)]
    pub dry_run: bool,
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

/// `merge`.
#[derive(Debug, Args)]
pub struct MergeArgs {
    /// The differencing image
    #[arg(value_hint = ValueHint::FilePath)]
    pub disk: PathBuf,
    /// Merge the whole chain into this new image instead
    #[arg(long, value_name = "NEW", value_hint = ValueHint::FilePath)]
    pub to: Option<PathBuf>,
    /// The type of the new image
    #[arg(
        long = "type",
        value_enum,
        value_name = "TYPE",
        default_value = "dynamic",
        requires = "to"
    )]
    pub image_type: NewTypeArg,
    /// The format of the new image
    ///
    /// By default the one that its name ends in, else vhd.
    #[arg(long, value_enum, value_name = "FORMAT", requires = "to")]
    pub format: Option<FormatArg>,
    /// Read all of the disk before and after, and compare
    #[arg(long)]
    pub verify: bool,
    /// Write nothing; show what would be done
    #[arg(short = 'n', long)]
    pub dry_run: bool,
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

/// The type of a new image.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum NewTypeArg {
    /// Blocks are added when the guest writes to them
    Dynamic,
    /// All of the disk, whether used or not
    Fixed,
}

/// The format of a new image.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum FormatArg {
    /// Virtual PC, Virtual Server, Hyper-V: disks of up to 2040 GiB
    Vhd,
    /// Hyper-V since Windows 8, WSL 2, Docker Desktop: disks of up to 64 TiB
    Vhdx,
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

/// How far to look for blocks to give up.
#[derive(Debug, Args)]
pub struct SearchArgs {
    /// How far to look for blocks to give up
    #[arg(long, value_enum, default_value = "quick")]
    pub mode: ModeArg,
    /// Also give up what lies outside every partition
    ///
    /// Partition tables, the first MiB and the last three of the disk stay. Only for
    /// disks on which you know that nothing hides there: boot loaders, RAID and
    /// volume manager headers may. What of an LVM2 volume group is in no logical
    /// volume goes, too.
    #[arg(long)]
    pub drop_unpartitioned: bool,
    /// Allow NTFS Volume Shadow Copies to be lost
    ///
    /// The old data that shadow copies ("previous versions", restore points) need
    /// lies in clusters that the volume calls free. Without this option a volume
    /// with shadow copies keeps everything.
    #[arg(long)]
    pub discard_shadow_copies: bool,
    /// Also give up what is in swap areas and page files
    ///
    /// Linux swap partitions, and pagefile.sys and swapfile.sys of Windows, hold
    /// nothing that is needed after a shutdown. Only if every volume of the disk was
    /// left in a clean state and no hibernated system is on it; their headers stay.
    #[arg(long)]
    pub drop_swap: bool,
    /// Give up what is free although other images need this one as their parent
    ///
    /// Without it an image that others in its folder name as their parent gives up only
    /// what reads the same afterwards. With it the disk gets another identity as soon as
    /// something else goes, and none of those children can be used any more: only for
    /// children that you no longer need. VHD disks keep their identity, so they are
    /// refused.
    #[arg(long)]
    pub orphan_children: bool,
}

/// Where the parents of a differencing image may be.
#[derive(Debug, Args)]
pub struct ParentArgs {
    /// Also look in this folder for the parents of a differencing image
    ///
    /// They are always looked for in the image's own folder. Can be given several times.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub parent_dir: Vec<PathBuf>,
    /// Follow the paths of parents wherever they lead
    ///
    /// A path in an image comes from whoever made the image. Without this option one
    /// that leads out of the image's own folder and those of --parent-dir is not even
    /// looked at.
    #[arg(long)]
    pub follow_parents: bool,
}

/// How far to look.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ModeArg {
    /// Read the free maps of trusted volumes; look for zeros only where no map speaks
    Quick,
    /// Also look for zeros in used blocks (in a differencing image, for what its parent
    /// shows too), which reads all of them
    Full,
    /// Look for zeros alone; read no file system
    Prezeroed,
}

/// How the outcome is said.
#[derive(Debug, Args)]
pub struct OutputArgs {
    /// Print one JSON object for each disk
    #[arg(long)]
    pub json: bool,
    /// Print errors only (and what --json prints)
    #[arg(short, long)]
    pub quiet: bool,
    /// Print exact bytes and more detail
    #[arg(short, long, conflicts_with = "quiet")]
    pub verbose: bool,
}

/// How progress is shown, on stderr.
#[derive(Debug, Args)]
pub struct ProgressArgs {
    /// How to show progress on stderr
    #[arg(long, value_enum, value_name = "STYLE", default_value = "auto")]
    pub progress: ProgressArg,
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ProgressArg {
    /// A bar on a terminal, else a line now and then in long runs
    Auto,
    /// A bar with rate and time left (lines where stderr is no terminal)
    Bar,
    /// A line every few seconds
    Lines,
    /// A JSON object a line
    Json,
    /// Nothing
    None,
}

impl From<ModeArg> for Mode {
    fn from(mode: ModeArg) -> Self {
        match mode {
            ModeArg::Quick => Mode::Quick,
            ModeArg::Full => Mode::Full,
            ModeArg::Prezeroed => Mode::Prezeroed,
        }
    }
}

impl PunchArgs {
    /// Enters what they ask for.
    pub fn enter(&self, options: &mut Options) {
        options.punch = self.punch.map(Into::into);
        options.make_sparse = self.make_sparse;
    }
}

impl From<PunchArg> for Punch {
    fn from(punch: PunchArg) -> Self {
        match punch {
            PunchArg::Only => Punch::Only,
            PunchArg::Also => Punch::Also,
        }
    }
}

impl From<NewTypeArg> for ImageType {
    fn from(new: NewTypeArg) -> Self {
        match new {
            NewTypeArg::Dynamic => ImageType::Dynamic,
            NewTypeArg::Fixed => ImageType::Fixed,
        }
    }
}

impl From<FormatArg> for &'static dyn Format {
    fn from(format: FormatArg) -> Self {
        match format {
            FormatArg::Vhd => &Vhd,
            FormatArg::Vhdx => &Vhdx,
        }
    }
}

impl From<&SearchArgs> for Options {
    fn from(search: &SearchArgs) -> Self {
        let mut options = Options::default();
        options.mode = search.mode.into();
        options.drop_unpartitioned = search.drop_unpartitioned;
        options.allow.discard_shadow_copies = search.discard_shadow_copies;
        options.allow.drop_swap = search.drop_swap;
        options.orphan_children = search.orphan_children;
        options
    }
}

impl From<&CreateArgs> for create::Options {
    fn from(args: &CreateArgs) -> Self {
        let content = match (&args.parent, args.size.unwrap_or_default()) {
            (Some(parent), _) => Content::Differencing { parent: parent.clone() },
            (None, size) if args.fixed => Content::Fixed { size },
            (None, size) => Content::Dynamic { size },
        };
        let mut options = create::Options::new(content);
        options.format = args.format.map(Into::into);
        options.block_size = args.block_size;
        options.parents = (&args.parents).into();
        options
    }
}

impl From<&ConvertArgs> for convert::Options {
    fn from(args: &ConvertArgs) -> Self {
        let mut options = convert::Options::new(args.image_type.into());
        options.format = args.format.map(Into::into);
        options.block_size = args.block_size;
        options.leave_out_free = args.leave_out_free;
        options.drop_unpartitioned = args.drop_unpartitioned;
        options.allow.discard_shadow_copies = args.discard_shadow_copies;
        options.allow.drop_swap = args.drop_swap;
        options.verify = args.verify;
        options.parents = (&args.parents).into();
        options
    }
}

impl From<&MergeArgs> for merge::Options {
    fn from(args: &MergeArgs) -> Self {
        let mut options = merge::Options::default();
        options.verify = args.verify;
        options.parents = (&args.parents).into();
        options
    }
}

impl From<&MergeArgs> for convert::Options {
    fn from(args: &MergeArgs) -> Self {
        let mut options = convert::Options::new(args.image_type.into());
        options.format = args.format.map(Into::into);
        options.whole_chain = true;
        options.verify = args.verify;
        options.parents = (&args.parents).into();
        options
    }
}

impl From<&ParentArgs> for ParentLookup {
    fn from(parents: &ParentArgs) -> Self {
        let mut lookup = ParentLookup::default();
        lookup.dirs.clone_from(&parents.parent_dir);
        lookup.follow = parents.follow_parents;
        lookup
    }
}

impl ProgressArg {
    /// The style to use, with stderr as it is.
    pub fn style(self, quiet: bool) -> Style {
        match self {
            ProgressArg::Auto if quiet => Style::None,
            ProgressArg::Auto => Style::for_stderr(),
            ProgressArg::Bar => Style::Bar,
            ProgressArg::Lines => Style::Lines,
            ProgressArg::Json => Style::Json,
            ProgressArg::None => Style::None,
        }
    }
}

impl From<Color> for anstream::ColorChoice {
    fn from(color: Color) -> Self {
        match color {
            Color::Auto => anstream::ColorChoice::Auto,
            Color::Always => anstream::ColorChoice::Always,
            Color::Never => anstream::ColorChoice::Never,
        }
    }
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
