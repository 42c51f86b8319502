//! What is looked for on a disk, and where its parents may lie.

use std::path::PathBuf;

use clap::{Args, ValueEnum, ValueHint};
use slimdisk::compact::{Mode, Options, Punch};
use slimdisk::image::parent::ParentLookup;

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

impl From<&ParentArgs> for ParentLookup {
    fn from(parents: &ParentArgs) -> Self {
        let mut lookup = ParentLookup::default();
        lookup.dirs.clone_from(&parents.parent_dir);
        lookup.follow = parents.follow_parents;
        lookup
    }
}
