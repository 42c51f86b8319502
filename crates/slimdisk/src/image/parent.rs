//! Parents of differencing images: where they are looked for, and the chain of
//! them.
//!
//! ```text
//! child ──names──> parent ──names──> parent ... a dynamic or fixed image
//! ```
//!
//! An image comes from strangers, and so do the paths in it. A path counts only as
//! far as it leads into the child's own folder or one that the user named; a
//! parent is proven by its identity, whatever its name, and opened for reading
//! only.

mod children;
mod name;
mod places;
mod relink;
pub(crate) mod written;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

pub(crate) use self::children::children_but;
pub use self::children::{Children, children_of};
pub use self::name::{ParentName, Style};
use self::places::Places;
pub use self::relink::{ParentNames, relink};
use super::{Image, ImageType, wrong_type};
use crate::error::{Error, Kind, Result};
use crate::storage::{HostFile, Meter};

/// The most images in a chain, the child included. Real ones have a few; each costs
/// an open file and a part of every read.
pub(crate) const DEEPEST: usize = 64;

/// Where parents may be looked for beside the folder of the child.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParentLookup {
    /// Further folders.
    pub dirs: Vec<PathBuf>,
    /// Whether a path that an image names may lead anywhere.
    pub follow: bool,
    /// Whether parents are to stay as they are while they are open.
    pub(crate) steady: bool,
    /// Whether one of them is to be written to.
    pub(crate) merging: bool,
}

/// How a differencing image names its parent.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParentLink {
    /// The parent's identity.
    pub id: [u8; 16],
    /// Another that it may have instead: while a child is merged into its parent, the
    /// parent gets a new one.
    pub or_id: Option<[u8; 16]>,
    /// When the parent had last been changed when the image was made, where that was
    /// noted.
    pub modified: Option<SystemTime>,
    /// Its names, the one to try first at the start.
    pub names: Vec<ParentName>,
    /// Names that are of no use here, in sentences.
    pub notes: Vec<String>,
}

impl ParentLink {
    /// The identities that the parent may have.
    pub fn ids(&self) -> impl Iterator<Item = [u8; 16]> + use<> {
        std::iter::once(self.id).chain(self.or_id)
    }

    /// Whether it leads to the image that has the identity `id`; to none without one.
    #[must_use]
    pub fn leads_to(&self, id: Option<[u8; 16]>) -> bool {
        id.is_some_and(|id| self.ids().any(|known| known == id))
    }

    /// A link to the image that has the identity `id`.
    #[must_use]
    pub fn new(id: [u8; 16], names: Vec<ParentName>) -> Self {
        ParentLink { id, or_id: None, modified: None, names, notes: Vec::new() }
    }
}

/// One parent that was found.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Parent {
    /// The file, links followed.
    #[serde(serialize_with = "as_text")]
    pub path: PathBuf,
    /// Its format's name.
    pub format: &'static str,
    /// How it stores the disk.
    #[serde(rename = "type")]
    pub image_type: ImageType,
    /// Its identity in the usual form.
    pub unique_id: String,
    /// By which of its child's names it was found.
    pub found_by: String,
    /// What is odd about it, in sentences.
    pub notes: Vec<String>,
}

fn as_text<S: serde::Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&path.to_string_lossy())
}

/// The parents of an image, from its own up to the one that has none.
#[derive(Default)]
pub struct Chain {
    parents: Vec<Parent>,
    notes: Vec<String>,
    files: Vec<Arc<Meter<HostFile>>>,
}

impl Chain {
    /// The parents, the image's own first.
    #[must_use]
    pub fn parents(&self) -> &[Parent] {
        &self.parents
    }

    /// Names of parents that are of no use, in sentences.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Bytes read from all of them.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.files.iter().map(|file| file.counts().bytes_read).sum()
    }
}

/// Finds the parents of `image`, which was opened from `path`, and gives it its own.
/// Does nothing for an image that has none.
///
/// # Errors
///
/// [`Kind::ParentNotFound`], [`Kind::ParentMismatch`] if only others were found under
/// the parent's names, [`Kind::InvalidImage`] for a chain that is damaged, closed in
/// itself or too long, and those of [`HostFile::open_read`].
pub fn open_parents(
    image: &mut dyn Image,
    path: &Path,
    lookup: &ParentLookup,
) -> Result<Chain> {
    let Search { chain, images } = find_parents(image, path, lookup, false)?;
    if let Some(parent) = attach(images)? {
        image.set_parent(parent)?;
    }
    Ok(chain)
}

/// A parent that is open for writing.
pub struct Target {
    /// The image, with its own parents.
    pub image: Box<dyn Image>,
    /// Its file, which nobody else has.
    pub file: Arc<Meter<HostFile>>,
    /// Its own parent, which is only read.
    pub above: Option<Arc<dyn Image>>,
    /// It and its parents; the bytes read are those of its parents.
    pub chain: Chain,
}

/// Finds the parents of the differencing image `image`, which was opened from `path`,
/// and opens its own for writing. The image itself is given none.
///
/// # Errors
///
/// Those of [`open_parents`] and of [`HostFile::open_exclusive`]; [`Kind::InUse`] for a
/// parent that is part of a saved state.
pub fn open_target(
    image: &dyn Image,
    path: &Path,
    lookup: &ParentLookup,
) -> Result<Target> {
    let lookup = ParentLookup { steady: true, merging: true, ..lookup.clone() };
    let Search { mut chain, mut images } = find_parents(image, path, &lookup, true)?;
    if images.is_empty() {
        return Err(wrong_type("only a differencing image has a parent"));
    }
    let mut image = images.remove(0);
    let file = chain.files.remove(0);
    let above = attach(images)?;
    if let Some(above) = &above {
        image.set_parent(above.clone())?;
    }
    Ok(Target { image, file, above, chain })
}

/// The parents of an image that were found, its own first, and not yet given to each
/// other.
#[derive(Default)]
struct Search {
    chain: Chain,
    images: Vec<Box<dyn Image>>,
}

/// Finds the parents of `image`; its own is opened for writing if `exclusively`.
fn find_parents(
    image: &dyn Image,
    path: &Path,
    lookup: &ParentLookup,
    exclusively: bool,
) -> Result<Search> {
    let mut search = Search::default();
    let Search { chain, images } = &mut search;
    let Some(mut link) = image.parent_link()? else { return Ok(search) };
    let places = Places::new(path, lookup)?;
    let mut child = path.to_owned();
    let mut ids = vec![image.facts().unique_id];
    loop {
        let refuse = |what: String| Err(Error::invalid(what).in_file(&child));
        if link.id == [0; 16] {
            return refuse(
                "the image does not say which disk its parent is (its parent unique id is \
                 zeros), so no parent can be proven to be the right one"
                    .to_owned(),
            );
        }
        if ids.contains(&Some(link.id)) {
            return refuse(format!(
                "the chain of parents is closed in itself: the disk {} would be its own \
                 ancestor",
                id_text(&link.id)
            ));
        }
        if ids.len() == DEEPEST {
            return refuse(format!("a chain of more than {DEEPEST} images"));
        }
        let mut found = places.find(&child, &link)?;
        if exclusively && images.is_empty() {
            found = found.exclusively(&link)?;
        }
        chain.notes.append(&mut link.notes);
        let id = found.image.facts().unique_id;
        if link.or_id.is_some() && ids.contains(&id) {
            return refuse("the chain of parents is closed in itself".to_owned());
        }
        ids.push(id);
        child.clone_from(&found.parent.path);
        let next = found.image.parent_link().map_err(|e| e.in_file(&child))?;
        chain.parents.push(found.parent);
        chain.files.push(found.file);
        images.push(found.image);
        match next {
            Some(next) => link = next,
            None => return Ok(search),
        }
    }
}

/// Gives each image the one behind it, and hands out the first.
fn attach(mut images: Vec<Box<dyn Image>>) -> Result<Option<Arc<dyn Image>>> {
    let mut above: Option<Arc<dyn Image>> = None;
    while let Some(mut next) = images.pop() {
        if let Some(parent) = above.take() {
            next.set_parent(parent)?;
        }
        above = Some(Arc::from(next));
    }
    Ok(above)
}

/// What the difference between the parent's time of change and the one that the child
/// noted tells.
fn time_note(noted: Option<SystemTime>, found: Option<SystemTime>) -> Option<String> {
    let (noted, found) = (noted?, found?);
    let (span, which) = match found.duration_since(noted) {
        Ok(later) => (later, "later"),
        Err(error) => (error.duration(), "earlier"),
    };
    // Formats count whole seconds, FAT pairs of them.
    (span > Duration::from_secs(2)).then(|| {
        format!(
            "it was last changed {} seconds {which} than its child noted: all is well if it \
             was only copied, restored or compacted, but what was written into it since then \
             does not fit its child",
            span.as_secs()
        )
    })
}

/// The usual form of an identifier whose bytes are in big-endian order.
pub(crate) fn id_text(id: &[u8; 16]) -> String {
    let digits: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut text = String::with_capacity(36);
    for (index, digit) in digits.chars().enumerate() {
        if matches!(index, 8 | 12 | 16 | 20) {
            text.push('-');
        }
        text.push(digit);
    }
    text
}

/// The error of a differencing image that is read before it has its parent.
pub(crate) fn without_parent() -> Error {
    Error::new(
        Kind::ParentNotFound,
        "a differencing image was opened without its parent, so its disk cannot be read",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_that_changed_is_told_of() {
        let noted = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let note = |found| time_note(Some(noted), Some(found));
        assert_eq!(note(noted + Duration::from_secs(2)), None);
        assert_eq!(note(noted - Duration::from_millis(900)), None);
        assert!(
            note(noted + Duration::from_secs(3)).unwrap().contains("3 seconds later")
        );
        let earlier = note(noted - Duration::from_secs(99)).unwrap();
        assert!(earlier.contains("99 seconds earlier"), "{earlier}");
        assert_eq!(time_note(None, Some(noted)), None);
    }
}
