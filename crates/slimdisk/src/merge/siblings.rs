//! Other images that depend on the two that are merged.

use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};
use crate::image::parent::{Children, children_but, children_of};

/// Fails if an image other than `child` names the disk `id`, the image at `parent`, as
/// its parent: it would show what is merged where it had shown what was there before.
/// Only the folders of the two are known to be looked at.
pub fn refuse(child: &Path, parent: &Path, id: &[u8; 16]) -> Result<()> {
    let mut looked = vec![children_but(child, parent, id)];
    if child.parent() != parent.parent() {
        looked.push(children_of(child, id));
    }
    // Both are paths with links followed.
    let sibling = looked.iter().flat_map(|c| &c.paths).next();
    if let Some(sibling) = sibling {
        return Err(in_use(
            format!(
                "{} has the same parent and would show what is merged into it: merge or \
                 remove it first, or have `merge --to NEW` make a disk of its own",
                sibling.display()
            ),
            child,
        ));
    }
    let folders = [parent, child].into_iter().filter_map(Path::parent);
    if let Some((folder, _)) =
        folders.zip(&looked).find(|(_, children)| children.incomplete)
    {
        return Err(in_use(
            format!(
                "not every image in {} could be looked at (one is in use, may not be read, \
                 or there are too many), so another one may have the same parent and would \
                 show what is merged into it",
                folder.display()
            ),
            child,
        ));
    }
    Ok(())
}

fn in_use(what: String, child: &Path) -> Error {
    Error::new(Kind::InUse, what).in_file(child)
}

/// What to do with a child that has been merged.
pub fn what_now(child: &Path, id: Option<&[u8; 16]>) -> String {
    let name = |path: &Path| {
        path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
    };
    let Children { paths, .. } = id.map(|id| children_of(child, id)).unwrap_or_default();
    let names: Vec<String> = paths.iter().map(PathBuf::as_path).map(name).collect();
    if names.is_empty() {
        format!(
            "{} is redundant now, for its parent shows the same alone; it may be removed, \
             unless an image elsewhere names it as its parent",
            name(child)
        )
    } else {
        format!(
            "{} shows what its parent shows alone, but {} names it as its parent: it is \
             needed until that has been merged, too",
            name(child),
            names.join(", ")
        )
    }
}
