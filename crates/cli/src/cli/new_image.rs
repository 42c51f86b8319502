//! What makes and merges images.

use std::path::PathBuf;

use clap::{ArgGroup, Args, ValueEnum, ValueHint};
use slimdisk::create::{self, Content};
use slimdisk::image::vhd::Vhd;
use slimdisk::image::vhdx::Vhdx;
use slimdisk::image::{Format, ImageType};
use slimdisk::{convert, merge};

use super::{OutputArgs, ParentArgs, ProgressArgs};
use crate::size;

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
