//! Differencing images merged into their parents: judged by the tests' own reader of
//! chains, by 7-Zip, libvhdi and qemu-img, and by the guests' own tools.

mod crash;
mod faults;
#[cfg(unix)]
mod files;
mod judged;
#[cfg(unix)]
mod killed;
mod refused;

use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use slimdisk::image::{self, Image};
use slimdisk::merge::run::{Done, run};
use slimdisk::merge::{Merging, Options, Outcome, Report};
use slimdisk::progress::Hook;
use slimdisk::storage::Storage;

use crate::chain::slices;
use crate::chain_model::read_chain;
use crate::faults::MemFile;
use crate::support::Scratch;

/// A chain whose child is to be merged: the child, the parent to be written to, and
/// what the parent is to be read through.
pub struct Opened {
    pub child: Box<dyn Image>,
    pub parent: Box<dyn Image>,
}

/// Opens a chain with `parent` in place of its second file; a view of it of its own is
/// given to the child, as the library does.
pub fn open_chain(
    chain: &[Vec<u8>],
    parent: &Arc<dyn Storage>,
) -> slimdisk::Result<Opened> {
    let mut above: Option<Arc<dyn Image>> = None;
    for file in chain[2..].iter().rev() {
        let mut image = image::open(Arc::new(MemFile::new(file.clone())))?;
        if let Some(parent) = above.take() {
            image.set_parent(parent)?;
        }
        above = Some(Arc::from(image));
    }
    let open_parent = || {
        let mut image = image::open(parent.clone())?;
        if let Some(above) = &above {
            image.set_parent(above.clone())?;
        }
        slimdisk::Result::Ok(image)
    };
    let mut child = image::open(Arc::new(MemFile::new(chain[0].clone())))?;
    child.set_parent(Arc::from(open_parent()?))?;
    Ok(Opened { child, parent: open_parent()? })
}

/// Merges in rounds of `round` bytes.
pub fn merge(
    chain: &[Vec<u8>],
    parent: &Arc<dyn Storage>,
    round: u64,
) -> slimdisk::Result<Done> {
    let mut opened = open_chain(chain, parent)?;
    let mut done = Done::default();
    let go_on = &mut |_| ControlFlow::Continue(());
    run(&mut *opened.child, &mut *opened.parent, round, &mut done, go_on)?;
    Ok(done)
}

/// A chain in files: `child.vhd`, `parent.vhd`, and `bottom.vhd` where there is one.
pub struct Files {
    pub scratch: Scratch,
    pub paths: Vec<PathBuf>,
    /// What the child shows.
    pub disk: Vec<u8>,
}

/// A time long gone, which the parent has before a merge.
pub fn long_ago() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)
}

impl Files {
    pub fn new(test: &str, chain: &[Vec<u8>]) -> Files {
        let scratch = Scratch::new(test);
        let names = ["child.vhd", "parent.vhd", "bottom.vhd"];
        let paths: Vec<_> = names.iter().map(|name| scratch.path(name)).collect();
        let paths = paths[..chain.len()].to_vec();
        let disk = Vec::new();
        let mut files = Files { scratch, paths, disk };
        files.write(chain);
        files
    }

    /// Has the files hold another chain, or the same anew.
    pub fn write(&mut self, chain: &[Vec<u8>]) {
        for (path, file) in self.paths.iter().zip(chain) {
            fs::write(path, file).unwrap();
            let file = fs::File::options().write(true).open(path).unwrap();
            file.set_modified(long_ago()).unwrap();
        }
        self.disk = read_chain(&slices(chain));
    }

    pub fn read(&self) -> Vec<Vec<u8>> {
        self.paths.iter().map(|path| fs::read(path).unwrap()).collect()
    }

    /// What the child shows now.
    pub fn shown(&self) -> Vec<u8> {
        read_chain(&slices(&self.read()))
    }

    /// What the parent shows without its child.
    pub fn shown_by_parent(&self) -> Vec<u8> {
        read_chain(&slices(&self.read())[1..])
    }

    pub fn modified(&self) -> SystemTime {
        fs::metadata(&self.paths[1]).unwrap().modified().unwrap()
    }

    pub fn prepare(&self, options: &Options) -> slimdisk::Result<Merging> {
        Merging::prepare(&self.paths[0], options)
    }

    pub fn merge(&self, hook: &mut Hook<'_>) -> Report {
        let mut options = Options::default();
        options.verify = true;
        self.prepare(&options).unwrap().run(hook)
    }

    /// Merges, and holds the result to what a whole merge is.
    pub fn complete(&self) -> Report {
        let report = self.merge(&mut |_| ControlFlow::Continue(()));
        assert_eq!(report.outcome, Outcome::Merged, "{report:?}");
        assert!(report.verified.is_some());
        assert!(self.shown() == self.disk);
        assert!(self.shown_by_parent() == self.disk);
        assert!(self.modified() > long_ago());
        report
    }
}

/// A child of a parent without holes: dynamic, 64 blocks of 64 KiB, a third of them
/// there; the child has something in every second.
pub fn plain_chain(noise: &mut crate::support::Noise) -> Vec<Vec<u8>> {
    use crate::chain_model::{Child, id_in, random_bits};
    use crate::vhd_model::Shape;
    let shape = |seed, order: Vec<(u32, usize)>| Shape {
        block_size: 65536,
        blocks: 64,
        order,
        aligned: true,
        spare_entries: 0,
        batmap: false,
        creator: *b"win ",
        seed,
    };
    let every = |n: u32| (0..64).filter(|b| b % n == 0).map(|b| (b, 0)).collect();
    let parent = shape(noise.next(), every(3)).build(&[]);
    let bits: Vec<Vec<u8>> = (0..64).map(|_| random_bits(noise, 128)).collect();
    let child = shape(noise.next(), every(2));
    let child = Child::new(child.clone(), id_in(&parent), "parent.vhd")
        .build(|b| bits[b as usize].clone(), |b| child.data(b));
    vec![child, parent]
}
