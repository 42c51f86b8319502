//! The digest of the live guest bytes, for `--verify`.

use super::survey::Verdict;
use super::{Hook, Phase, Progress};
use crate::error::Result;
use crate::image::Image;

const PIECE: usize = 1 << 20;

/// Hashes the number and the data of every live block, and in a differencing image of
/// those that are zeros or what the parent shows, in the guest's order, so that it is the
/// same wherever the blocks lie.
/// `None` if the hook asked to stop.
///
/// A block that is live but has no place any more reads as zeros here and so
/// changes the digest, unless zeros is what it held.
pub fn digest(
    image: &dyn Image,
    verdicts: &[Verdict],
    phase: Phase,
    hook: &mut Hook<'_>,
) -> Result<Option<blake3::Hash>> {
    let block_size = image.facts().block_size;
    let is_child = image.parent().is_some();
    let must_stay = |verdict: &Verdict| match verdict {
        Verdict::Live | Verdict::Parent => true,
        // Zeros that a wrong entry would have the parent show through.
        Verdict::Zero => is_child,
        Verdict::Absent | Verdict::Free | Verdict::Blank => false,
    };
    let live = || (0u32..).zip(verdicts).filter(|(_, v)| must_stay(v)).map(|(b, _)| b);
    let total = live().count() as u64 * block_size;
    let mut hasher = blake3::Hasher::new();
    let mut buf = vec![0; PIECE];
    let mut done = 0;
    for block in live() {
        hasher.update(&block.to_le_bytes());
        let mut at = 0;
        while at < block_size {
            let len = usize::try_from(block_size - at).unwrap_or(PIECE).min(PIECE);
            let (piece, _) = buf.split_at_mut(len);
            if image.is_allocated(block) || image.parent().is_some() {
                image.read_block(block, at, piece)?;
            } else {
                piece.fill(0);
            }
            hasher.update(piece);
            at += len as u64;
        }
        done += block_size;
        if hook(Progress { phase, done, total }).is_break() {
            return Ok(None);
        }
    }
    Ok(Some(hasher.finalize()))
}

#[cfg(test)]
mod tests {
    use std::ops::{ControlFlow, Range};
    use std::sync::Arc;

    use super::*;
    use crate::error::Error;
    use crate::image::{Facts, Layout, Move, Release};
    use crate::storage::ReadAt;

    const BLOCK: usize = 4096;

    /// Blocks of one byte each; `None` has no place.
    #[derive(Clone)]
    struct Blocks {
        own: Vec<Option<u8>>,
        parent: Option<Arc<dyn Image>>,
    }

    impl ReadAt for Blocks {
        fn len(&self) -> u64 {
            (self.own.len() * BLOCK) as u64
        }

        fn read_at(&self, _: u64, _: &mut [u8]) -> Result<()> {
            Err(Error::invalid("nobody reads the guest's view"))
        }
    }

    impl Image for Blocks {
        fn facts(&self) -> Facts {
            Facts {
                format: "test",
                image_type: crate::image::ImageType::Dynamic,
                virtual_size: self.len(),
                unique_id: None,
                block_size: BLOCK as u64,
                blocks_total: u32::try_from(self.own.len()).unwrap_or(0),
                blocks_allocated: 0,
                details: Vec::new(),
                notes: Vec::new(),
                parent: None,
                saved_state: false,
                geometry: None,
            }
        }

        fn settled(&self) -> Result<()> {
            Ok(())
        }

        fn compactable(&self) -> Result<()> {
            Ok(())
        }

        fn parent(&self) -> Option<&Arc<dyn Image>> {
            self.parent.as_ref()
        }

        fn layout(&self) -> Option<Layout> {
            None
        }

        fn is_allocated(&self, block: u32) -> bool {
            self.own.get(block as usize).is_some_and(Option::is_some)
        }

        fn read_block(&self, block: u32, offset: u64, buf: &mut [u8]) -> Result<()> {
            match (self.own.get(block as usize), &self.parent) {
                (Some(Some(byte)), _) => buf.fill(*byte),
                (_, Some(parent)) => return parent.read_block(block, offset, buf),
                _ => return Err(Error::invalid("no place")),
            }
            Ok(())
        }

        fn next_data_in_block(&self, _: u32, _: u64) -> Result<Option<Range<u64>>> {
            Ok(None)
        }

        fn release(&mut self, _: &[Release]) -> Result<()> {
            Ok(())
        }

        fn relocate(&mut self, _: &[Move]) -> Result<()> {
            Ok(())
        }

        fn truncate(&mut self) -> Result<()> {
            Ok(())
        }

        fn still_exclusive(&self) -> Result<()> {
            Ok(())
        }
    }

    fn digest_of(image: &Blocks, verdicts: &[Verdict]) -> blake3::Hash {
        let mut seen = Vec::new();
        let found = digest(image, verdicts, Phase::VerifyBefore, &mut |at| {
            seen.push((at.done, at.total));
            ControlFlow::Continue(())
        });
        let kept =
            verdicts.iter().filter(|v| matches!(v, Verdict::Live | Verdict::Parent));
        let total = (kept.count() * BLOCK) as u64;
        let steps = (1..=total / BLOCK as u64).map(|n| (n * BLOCK as u64, total));
        assert_eq!(seen, steps.collect::<Vec<_>>());
        found.unwrap().unwrap()
    }

    fn dynamic(own: &[Option<u8>]) -> Blocks {
        Blocks { own: own.to_vec(), parent: None }
    }

    #[test]
    fn what_must_stay_counts_and_nothing_else() {
        use Verdict::{Absent, Free, Live, Parent, Zero};
        let verdicts = [Live, Parent, Free, Zero, Absent, Live];
        let own = [Some(1), Some(2), Some(3), Some(0), None, Some(4)];
        let before = digest_of(&dynamic(&own), &verdicts);
        for changed in 0..own.len() {
            let mut image = dynamic(&own);
            image.own[changed] =
                image.own[changed].map_or(Some(7), |byte| Some(byte ^ 1));
            let same = digest_of(&image, &verdicts) == before;
            assert_eq!(
                same,
                matches!(verdicts[changed], Free | Zero | Absent),
                "{changed}"
            );
        }
        // Two blocks that have changed places.
        let mut image = dynamic(&own);
        image.own.swap(0, 5);
        assert!(digest_of(&image, &verdicts) != before);
    }

    #[test]
    fn a_lost_block_is_zeros_and_not_what_was_read_before_it() {
        let verdicts = [Verdict::Live; 2];
        let lost = digest_of(&dynamic(&[Some(5), None]), &verdicts);
        assert!(lost == digest_of(&dynamic(&[Some(5), Some(0)]), &verdicts));
        assert!(lost != digest_of(&dynamic(&[Some(5), Some(5)]), &verdicts));
    }

    #[test]
    fn a_block_that_went_to_the_parent_is_read_there() {
        let verdicts = [Verdict::Live, Verdict::Parent];
        let child = |own: &[Option<u8>], above: &[Option<u8>]| Blocks {
            own: own.to_vec(),
            parent: Some(Arc::new(dynamic(above))),
        };
        let before =
            digest_of(&child(&[Some(1), Some(6)], &[Some(9), Some(6)]), &verdicts);
        let went = digest_of(&child(&[Some(1), None], &[Some(9), Some(6)]), &verdicts);
        assert!(before == went);
        let other = digest_of(&child(&[Some(1), None], &[Some(9), Some(8)]), &verdicts);
        assert!(before != other);
    }

    #[test]
    fn zeros_of_a_child_are_not_to_show_the_parent() {
        let child = |own: &[Option<u8>]| Blocks {
            own: own.to_vec(),
            parent: Some(Arc::new(dynamic(&[Some(9)]))),
        };
        let digest = |image: &Blocks| {
            let go_on = &mut |_: Progress| ControlFlow::Continue(());
            digest(image, &[Verdict::Zero], Phase::VerifyAfter, go_on).unwrap().unwrap()
        };
        let before = digest(&child(&[Some(0)]));
        assert!(before != digest(&child(&[None])));
        assert!(before == digest(&child(&[Some(0)])));
    }

    #[test]
    fn it_stops_when_asked() {
        let mut hook = |_: Progress| ControlFlow::Break(());
        let image = dynamic(&[Some(1)]);
        let asked = digest(&image, &[Verdict::Live], Phase::VerifyAfter, &mut hook);
        assert!(asked.unwrap().is_none());
    }
}
