//! Merging a VHDX into its parent: chains of every kind, judged by a reader of their own
//! and by qemu-img.

pub mod crash;
mod faults;
mod files;
pub mod judge;
mod renamed;

use std::ops::ControlFlow;
use std::sync::Arc;

use slimdisk::image::{self, Image};
use slimdisk::merge::run::{Done, run};
use slimdisk::storage::Storage;

use self::judge::{Seen, read, shown};
use super::chain::link_to;
use crate::support::Noise;
use crate::vhdx_model::{
    FULL, LogEntry, MIB, PAGE, PARTIAL, Pages, Places, Shape, UNMAPPED,
};

/// A chain, the child first.
#[derive(Clone)]
pub struct Files(pub Vec<Pages>);

impl Files {
    pub fn seen(&self) -> Vec<Seen> {
        self.0.iter().map(|file| read(file).unwrap()).collect()
    }

    /// What the image at `from` shows.
    pub fn shown(&self, from: usize) -> Pages {
        let seen = self.seen();
        shown(&seen[from..].iter().collect::<Vec<_>>())
    }
}

/// Opens the images above the first two, and these two on other storages.
pub fn open_chain(
    files: &Files,
    child: Arc<dyn Storage>,
    parent: &Arc<dyn Storage>,
) -> slimdisk::Result<(Box<dyn Image>, Box<dyn Image>)> {
    let mut above: Option<Arc<dyn Image>> = None;
    for file in files.0[2..].iter().rev() {
        let mut image = image::open(super::PageFile::new(file.clone()))?;
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
    let mut child = image::open(child)?;
    child.set_parent(Arc::from(open_parent()?))?;
    Ok((child, open_parent()?))
}

/// Merges in rounds of `round` bytes.
pub fn merge(
    files: &Files,
    child: Arc<dyn Storage>,
    parent: &Arc<dyn Storage>,
    round: u64,
) -> slimdisk::Result<Done> {
    let (mut child, mut parent) = open_chain(files, child, parent)?;
    let mut done = Done::default();
    let go_on = &mut |_| ControlFlow::Continue(());
    run(&mut *child, &mut *parent, round, &mut done, go_on)?;
    Ok(done)
}

/// What the parent of a random chain is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    Fixed,
    Dynamic,
    Differencing,
}

/// Guest MiB in which something happens, shared by all images of a chain.
struct Scene {
    logical: u32,
    size: u64,
    short: u64,
    spots: Vec<u64>,
}

impl Scene {
    fn random(noise: &mut Noise, kind: Kind) -> Scene {
        let logical = [512, 4096][noise.below(2) as usize];
        // Three chunks of 4 GiB, or a part of one.
        let large = logical == 512 && kind != Kind::Fixed && noise.below(3) == 0;
        let size = if large { 9000 * MIB } else { (2 + noise.below(5)) * 4 * MIB };
        let mut spots: Vec<u64> = match large {
            true => vec![0, 3, 4094, 4095, 4096, 4097, 8190, 8191, 8192, 8999],
            false => (0..size / MIB).collect(),
        };
        while spots.len() > 10 {
            spots.remove(noise.below(spots.len() as u64) as usize);
        }
        let short = noise.below(2) * 4096 * 77;
        Scene { logical, size, short, spots }
    }

    /// The pages of a guest MiB that may hold anything.
    fn pages(&self, mib: u64) -> Vec<u64> {
        let mut noise = Noise::new(mib ^ 0x77);
        let mut pages = vec![0, 255, 1 + noise.below(254), 1 + noise.below(254)];
        pages.sort_unstable();
        pages.dedup();
        pages.into_iter().map(|page| mib * MIB + page * PAGE).collect()
    }

    /// An image with random blocks, of `fullness` eighths of the spots.
    fn image(
        &self,
        noise: &mut Noise,
        kind: Kind,
        fullness: u64,
        parent: Option<(&Shape, &str)>,
    ) -> (Shape, Pages, Places) {
        let block_mib = [1, 1, 2, 4][noise.below(4) as usize];
        let block_len = block_mib * MIB;
        let mut numbers: Vec<u32> =
            self.spots.iter().map(|mib| (mib / block_mib) as u32).collect();
        numbers.dedup();
        if kind == Kind::Fixed {
            numbers = (0..(self.size / block_len) as u32).collect();
        }
        for i in (1..numbers.len()).rev() {
            numbers.swap(i, noise.below(i as u64 + 1) as usize);
        }
        let (mut order, mut entries) = (Vec::new(), Vec::new());
        for block in numbers {
            let gap = if noise.below(5) == 0 { noise.below(3) } else { 0 };
            match noise.below(8) {
                _ if kind == Kind::Fixed => order.push((block, FULL, 0)),
                n if n >= fullness => {
                    if noise.below(2) == 0 {
                        entries.push((block, noise.below(4)));
                    }
                }
                0 => entries.push((block, noise.below(4))),
                1 => order.push((block, [1, UNMAPPED][noise.below(2) as usize], gap)),
                _ if parent.is_some() && noise.below(3) > 0 => {
                    order.push((block, PARTIAL, gap));
                }
                _ => order.push((block, FULL, gap)),
            }
        }
        let shape = Shape {
            block_mib,
            blocks: (self.size / block_len) as u32,
            short: self.short,
            logical: self.logical,
            order,
            entries,
            flags: u32::from(kind == Kind::Fixed),
            link: parent.map(|(shape, name)| link_to(shape, name)),
            seed: noise.next(),
            regions: [[0, 1, 2], [2, 0, 1], [1, 2, 0]][noise.below(3) as usize],
            ..Shape::default()
        };
        let mut content = Noise::new(noise.next());
        let content = std::cell::RefCell::new(&mut content);
        let (mut file, places) = shape.build_with(|block| {
            let mut content = content.borrow_mut();
            let mut data = Vec::new();
            for mib in 0..block_mib {
                let mib = u64::from(block) * block_mib + mib;
                if !self.spots.contains(&mib) {
                    continue;
                }
                for at in self.pages(mib) {
                    let bytes = match content.below(4) {
                        0 => continue,
                        // The same in all images.
                        1 => Noise::new(at).bytes(4096),
                        _ => content.bytes(4096),
                    };
                    data.push((at - u64::from(block) * block_len, bytes));
                }
            }
            data
        });
        if parent.is_some() {
            self.scatter_bits(noise, &shape, &mut file);
        }
        if noise.below(4) == 0 {
            // What an interrupted run has left behind the last block.
            for _ in 0..1 + noise.below(4) {
                let at = file.len;
                file.write(at + 4096 * noise.below(200), &noise.bytes(8192));
                file.set_len(at + MIB);
            }
        }
        self.dirty(noise, &shape, &mut file, &places);
        (shape, file, places)
    }

    /// Random bits for all sectors that may hold anything, of blocks that are not present,
    /// too, where nobody may look.
    fn scatter_bits(&self, noise: &mut Noise, shape: &Shape, file: &mut Pages) {
        let seen = read(file).unwrap();
        let sector = u64::from(self.logical);
        for mib in &self.spots {
            let block = mib / shape.block_mib;
            if seen.bitmaps[(block / seen.ratio()) as usize] == 0 {
                continue;
            }
            let (bits_at, len) = seen.bits_at(block);
            if noise.below(8) == 0 {
                file.write(bits_at, &vec![0xFF; len as usize]);
                continue;
            }
            for page in self.pages(*mib) {
                for at in (page..page + PAGE).step_by(sector as usize) {
                    let number = (at - block * shape.block_len()) / sector;
                    let mut byte = file.get(bits_at + number / 8, 1);
                    if noise.below(2) == 0 {
                        byte[0] |= 1 << (number % 8);
                    }
                    file.write(bits_at + number / 8, &byte);
                }
            }
        }
    }

    /// Sometimes a log that must be replayed: what it holds is not in its place.
    fn dirty(&self, noise: &mut Noise, shape: &Shape, file: &mut Pages, places: &Places) {
        if noise.below(3) > 0 {
            return;
        }
        let seen = read(file).unwrap();
        let mut at = vec![places.bat, places.metadata, places.metadata + (64 << 10)];
        at.extend(seen.bitmaps.iter().filter(|place| **place != 0));
        let data = seen.blocks.iter().find(|(state, _)| *state == FULL);
        at.extend(data.map(|(_, place)| *place));
        let pages: Vec<_> = at.iter().map(|at| (*at, file.get(*at, 4096))).collect();
        for at in &at {
            file.write(*at, &noise.bytes(4096));
        }
        let entry = LogEntry { pages, ..LogEntry::default() };
        shape.with_log(file, places, noise.below(250) * PAGE, &[entry]);
    }
}

/// A random chain of which the first two are to be merged.
pub fn random_chain(noise: &mut Noise, kind: Kind) -> Files {
    let scene = Scene::random(noise, kind);
    let mut files = Vec::new();
    let fullness = noise.below(9);
    let parent = if kind == Kind::Differencing {
        let (bottom, file, _) = scene.image(noise, Kind::Dynamic, 7, None);
        files.push(file);
        scene.image(noise, kind, fullness, Some((&bottom, "bottom.vhdx")))
    } else {
        scene.image(noise, kind, fullness, None)
    };
    files.insert(0, parent.1);
    let fullness = 2 + noise.below(7);
    let (_, child, _) = scene.image(
        noise,
        Kind::Differencing,
        fullness,
        Some((&parent.0, "parent.vhdx")),
    );
    files.insert(0, child);
    Files(files)
}

pub fn random_kind(noise: &mut Noise) -> Kind {
    match noise.below(8) {
        0 => Kind::Fixed,
        1..4 => Kind::Dynamic,
        _ => Kind::Differencing,
    }
}
