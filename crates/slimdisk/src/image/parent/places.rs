//! Looking for a parent in the places that the user allowed.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Component, MAIN_SEPARATOR_STR, Path, PathBuf};
use std::sync::Arc;

use super::name::{ParentName, Parts, Root};
use super::{Parent, ParentLink, ParentLookup, id_text, time_note};
use crate::error::{Error, Kind, Result};
use crate::image::{Image, open, part_of_saved_state};
use crate::storage::{HostFile, Meter};

/// How many entries of a folder are looked at for a name in other letter case.
const MOST_ENTRIES: usize = 65_536;

/// How many links a way may lead over, as for Linux.
const MOST_LINKS: usize = 40;

/// The folders that may be looked into, links followed.
pub struct Places {
    /// The child's own folder, then those the user named.
    allowed: Vec<PathBuf>,
    /// Whether a path may lead anywhere else.
    follow: bool,
    /// Whether writers are to be kept away from parents.
    steady: bool,
    /// Whether the parents are part of what is to be changed.
    merging: bool,
}

/// A parent that is the right one.
pub struct Found {
    pub image: Box<dyn Image>,
    pub file: Arc<Meter<HostFile>>,
    pub parent: Parent,
}

impl Found {
    /// Opens the same file for writing, to the exclusion of everybody else, and has it
    /// prove once more that it is the parent: what was there before may be gone.
    pub fn exclusively(self, link: &ParentLink) -> Result<Self> {
        let Found { image, file, parent } = self;
        // A file that is open already cannot be had alone.
        drop((image, file));
        let path = &parent.path;
        let file = Arc::new(Meter::new(HostFile::open_exclusive(path)?));
        let again = open(file.clone()).and_then(|image| {
            if !link.leads_to(image.facts().unique_id) {
                return Err(Error::new(
                    Kind::ParentMismatch,
                    "another file took the parent's place while it was being opened",
                ));
            }
            settled(&*image, true)?;
            Ok(image)
        });
        Ok(Found { image: again.map_err(|e| e.in_file(path))?, file, parent })
    }
}

/// Fails for a disk that is not what the guest will find.
fn settled(image: &dyn Image, merging: bool) -> Result<()> {
    if merging && image.facts().saved_state {
        return Err(part_of_saved_state());
    }
    image.settled()
}

/// What came of looking for one parent.
#[derive(Default)]
struct Looked {
    /// Files that were there.
    tried: Vec<PathBuf>,
    /// Paths that lead to where the user allowed nothing.
    refused: Vec<String>,
    /// The first file that was there and could not be the parent, with the reason.
    failure: Option<Error>,
}

impl Places {
    pub fn new(child: &Path, lookup: &ParentLookup) -> Result<Self> {
        let mut allowed = vec![folder(child)?];
        for dir in &lookup.dirs {
            let real = crate::storage::real_path(dir).map_err(|e| {
                let what = "a folder to look for parents in cannot be found";
                Error::new(Kind::PathNotFound, what).with_source(e).in_file(dir)
            })?;
            if !real.is_dir() {
                let what =
                    "this is not a folder; name the folder that the parent lies in";
                return Err(Error::new(Kind::PathNotFound, what).in_file(dir));
            }
            allowed.push(real);
        }
        let &ParentLookup { follow, steady, merging, .. } = lookup;
        Ok(Places { allowed, follow, steady, merging })
    }

    /// Finds the parent that `child` names by `link`.
    pub fn find(&self, child: &Path, link: &ParentLink) -> Result<Found> {
        let own = folder(child)?;
        let mut looked = Looked::default();
        for name in &link.names {
            for path in self.candidates(&own, name, &mut looked.refused) {
                if looked.tried.contains(&path) {
                    continue;
                }
                match self.open_proven(&path, name, link) {
                    Ok(found) => return Ok(found),
                    Err(error) => {
                        looked.tried.push(path);
                        looked.failure.get_or_insert(error);
                    }
                }
            }
        }
        Err(looked.failure.unwrap_or_else(|| {
            self.not_found(&own, link, &looked.refused).in_file(child)
        }))
    }

    fn not_found(&self, own: &Path, link: &ParentLink, refused: &[String]) -> Error {
        let mut names: Vec<String> =
            link.names.iter().map(|name| format!("\"{}\"", name.text)).collect();
        names.dedup();
        let mut dirs: Vec<String> = vec![own.display().to_string()];
        let named = self.allowed.iter().filter(|dir| *dir != own);
        dirs.extend(named.map(|dir| dir.display().to_string()));
        let mut what = if names.is_empty() {
            "the image does not name its parent".to_owned()
        } else {
            format!(
                "the parent image {} cannot be found in {}",
                names.join(" or "),
                dirs.join(" or ")
            )
        };
        if let Some(path) = refused.first() {
            what += &format!(
                "; {path} lies elsewhere and was not looked at (--follow-parents allows it)"
            );
        }
        if !names.is_empty() {
            what += "; put it there, or name its folder (--parent-dir)";
        }
        Error::new(Kind::ParentNotFound, what)
    }

    /// The files that `name` may mean, the likeliest first.
    fn candidates(
        &self,
        own: &Path,
        name: &ParentName,
        refused: &mut Vec<String>,
    ) -> Vec<PathBuf> {
        let Some(parts) = name.parts() else { return Vec::new() };
        let Parts { root, up, down } = &parts;
        let mut found = Vec::new();
        if matches!(root, Some(Root::Volume(_))) && !self.follow {
            // To ask where the volume is would be to look at it.
            refused.push(name.text.clone());
        } else if let Some(root) = root {
            // Where the path is one of this system.
            if let Some(root) = root.folder(own) {
                found.extend(self.allowed_file(&root, down, refused));
            }
        } else if let Some(base) = own.ancestors().nth(*up) {
            found.extend(self.allowed_file(base, down, refused));
        }
        for dir in self.allowed.iter().skip(1) {
            found.extend(self.allowed_file(dir, down, refused));
        }
        let file_name = down.last().map(std::slice::from_ref).unwrap_or_default();
        for dir in std::iter::once(own).chain(self.allowed.iter().map(PathBuf::as_path)) {
            found.extend(self.allowed_file(dir, file_name, refused));
        }
        found
    }

    /// Whether a file may lie there; the path is one with links followed.
    fn allows(&self, path: &Path) -> bool {
        self.follow || self.allowed.iter().any(|dir| lies_in(path, dir, |_, _| false))
    }

    /// The same in words alone, as somebody wrote them: Windows goes by no letter's case.
    fn allows_in_words(&self, path: &Path) -> bool {
        self.follow || self.allowed.iter().any(|dir| lies_in(path, dir, is_same_word))
    }

    /// Whether a way down may pass here.
    fn allows_to_pass(&self, path: &Path) -> bool {
        self.allows_in_words(path)
            || self.allowed.iter().any(|dir| lies_in(dir, path, is_same_word))
    }

    /// The file below `base`, if there is one and it lies where it may. What would lie
    /// elsewhere is not even asked for.
    fn allowed_file(
        &self,
        base: &Path,
        down: &[String],
        refused: &mut Vec<String>,
    ) -> Option<PathBuf> {
        let mut path = base.to_owned();
        path.extend(down);
        // In words alone first, then links followed.
        if !self.allows_in_words(&path) {
            refused.push(path.display().to_string());
            return None;
        }
        let found = self.descend(base, down, refused)?;
        let real = crate::storage::real_path(&found).ok()?;
        if !self.allows(&real) {
            refused.push(format!("{} (a link to {})", found.display(), real.display()));
            return None;
        }
        real.is_file().then_some(real)
    }

    /// Follows names downwards; one that is missing may be there in other letters of
    /// the same kind, as it would be found on Windows. Links are followed one by one: what
    /// they lead to may be a share of the network, which learns of whoever looks at it.
    fn descend(
        &self,
        base: &Path,
        down: &[String],
        refused: &mut Vec<String>,
    ) -> Option<PathBuf> {
        let mut path = base.to_owned();
        let mut left: Vec<OsString> = down.iter().rev().map(OsString::from).collect();
        let mut links: Vec<String> = Vec::new();
        while let Some(part) = left.pop() {
            if part == ".." {
                path.pop();
                continue;
            }
            let mut next = path.join(&part);
            if !self.allows_to_pass(&next) {
                refused.extend(links.pop());
                return None;
            }
            if next.symlink_metadata().is_err() {
                if !self.allows_in_words(&path) {
                    return None;
                }
                next = in_other_case(&path, part.to_str()?)?;
            }
            if self.follow || !next.is_symlink() {
                path = next;
                continue;
            }
            let target = fs::read_link(&next).ok()?;
            links.push(format!("{} (a link to {})", next.display(), target.display()));
            if links.len() > MOST_LINKS {
                return None;
            }
            let mut parts = Vec::new();
            for part in target.components() {
                match part {
                    Component::Prefix(prefix) => path = prefix.as_os_str().into(),
                    Component::RootDir => path.push(MAIN_SEPARATOR_STR),
                    Component::CurDir => {}
                    Component::ParentDir => parts.push("..".into()),
                    Component::Normal(name) => parts.push(name.to_owned()),
                }
            }
            left.extend(parts.into_iter().rev());
        }
        Some(path)
    }

    /// Opens a file for reading and has it prove that it is the parent.
    fn open_proven(
        &self,
        path: &Path,
        name: &ParentName,
        link: &ParentLink,
    ) -> Result<Found> {
        let open_file =
            if self.steady { HostFile::open_steady } else { HostFile::open_read };
        let file = Arc::new(Meter::new(open_file(path)?));
        let image = open(file.clone()).map_err(|e| e.in_file(path))?;
        let facts = image.facts();
        let found = facts.unique_id.map_or_else(|| "none".to_owned(), |id| id_text(&id));
        if !link.leads_to(facts.unique_id) {
            return Err(Error::new(
            Kind::ParentMismatch,
            format!(
                "this is not the parent that the image was made from: its unique id is \
                 {found}, the image names {} (by its {}, \"{}\")",
                id_text(&link.id),
                name.origin,
                name.text
            ),
        )
        .in_file(path));
        }
        settled(&*image, self.merging).map_err(|e| e.in_file(path))?;
        let mut notes = facts.notes;
        notes.extend(time_note(link.modified, file.inner().modified()));
        let parent = Parent {
            path: path.to_owned(),
            format: facts.format,
            image_type: facts.image_type,
            unique_id: found,
            found_by: name.origin.clone(),
            notes,
        };
        Ok(Found { image, file, parent })
    }
}

/// Whether a path is that of a folder, or leads below it; `is_same` tells what else than
/// equal names are the same.
fn lies_in(path: &Path, dir: &Path, is_same: fn(&OsStr, &OsStr) -> bool) -> bool {
    let mut parts = path.components();
    dir.components().all(|dir| match (parts.next(), dir) {
        // A drive, or a server and its share: nobody spells those in one way.
        (Some(Component::Prefix(found)), Component::Prefix(wanted)) => {
            found.as_os_str().eq_ignore_ascii_case(wanted.as_os_str())
        }
        (Some(Component::Normal(found)), Component::Normal(wanted)) => {
            found == wanted || is_same(found, wanted)
        }
        (found, wanted) => found == Some(wanted),
    })
}

/// Whether two names are the same but for their letters' case, and that does not count.
fn is_same_word(one: &OsStr, other: &OsStr) -> bool {
    let lower = |name: &OsStr| name.to_string_lossy().to_lowercase();
    cfg!(windows) && lower(one) == lower(other)
}

/// The one entry of `dir` that differs from `name` in letter case alone.
fn in_other_case(dir: &Path, name: &str) -> Option<PathBuf> {
    let wanted = name.to_lowercase();
    let entries = fs::read_dir(dir).ok()?.take(MOST_ENTRIES).flatten();
    let mut alike = entries.filter(|entry| {
        entry.file_name().to_str().is_some_and(|found| found.to_lowercase() == wanted)
    });
    match (alike.next(), alike.next()) {
        (Some(only), None) => Some(only.path()),
        _ => None,
    }
}

/// The folder of a file, links followed.
fn folder(file: &Path) -> Result<PathBuf> {
    let real = crate::storage::real_path(file)
        .map_err(|e| Error::io("cannot find the file", e).in_file(file))?;
    Ok(real.parent().map_or_else(|| real.clone(), Path::to_owned))
}

#[cfg(test)]
mod tests {
    use super::super::Style;
    use super::*;

    /// A folder of its own with `vm/child`, `vm/Base.vhd` and `far/Base.vhd` in it.
    fn tree(name: &str) -> PathBuf {
        let top =
            std::env::temp_dir().join(format!("slimdisk-{name}-{}", std::process::id()));
        for file in ["vm/child", "vm/Base.vhd", "far/Base.vhd"] {
            let path = top.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"").unwrap();
        }
        crate::storage::real_path(&top).unwrap()
    }

    fn look(top: &Path, follow: bool, text: &str) -> (Vec<PathBuf>, usize) {
        let lookup = ParentLookup { follow, ..ParentLookup::default() };
        let places = Places::new(&top.join("vm/child"), &lookup).unwrap();
        let name = ParentName::new("", text, Style::Windows);
        let mut refused = Vec::new();
        let mut found = places.candidates(&top.join("vm"), &name, &mut refused);
        found.dedup();
        (found, refused.len())
    }

    /// A path from the root without a drive is how a child that was made on Unix notes
    /// where its parent is; it leads no further than any other.
    #[test]
    fn a_path_from_the_root_is_followed_under_the_same_gate() {
        let top = tree("rooted");
        let rooted = |file: &str| {
            let path = top.join(file);
            let parts = path.components().filter_map(|part| match part {
                Component::Normal(name) => name.to_str(),
                _ => None,
            });
            parts.fold(String::new(), |text, part| text + "\\" + part)
        };
        let (near, far) =
            (top.join("vm").join("Base.vhd"), top.join("far").join("Base.vhd"));
        assert_eq!(look(&top, false, &rooted("vm/Base.vhd")), (vec![near.clone()], 0));
        assert_eq!(look(&top, false, &rooted("far/Base.vhd")), (vec![near.clone()], 1));
        assert_eq!(look(&top, true, &rooted("far/Base.vhd")), (vec![far, near], 0));
        fs::remove_dir_all(top).unwrap();
    }

    /// A link is followed as far as it stays where parents may be, and no step further.
    #[cfg(unix)]
    #[test]
    fn links_are_followed_step_by_step() {
        use std::os::unix::fs::symlink;
        let top = tree("links");
        fs::create_dir_all(top.join("vm/deep/er")).unwrap();
        let real = |path: &str| top.join(path);
        symlink(real("vm/deep"), real("vm/whole")).unwrap();
        symlink("../whole/er/./..", real("vm/deep/round")).unwrap();
        symlink("../../Base.vhd", real("vm/deep/er/up")).unwrap();
        symlink("round/er/up", real("vm/deep/way")).unwrap();
        let near = real("vm/Base.vhd");
        assert_eq!(look(&top, false, r".\whole\round\way"), (vec![near.clone()], 0));
        assert_eq!(look(&top, true, r".\whole\round\way"), (vec![near], 0));
        // Neither the link's end nor what lies on the way to it is there: so nobody looked.
        symlink("/nowhere/at/all", real("vm/out")).unwrap();
        symlink("out/back", real("vm/over")).unwrap();
        symlink("../far/../vm/Base.vhd", real("vm/winding")).unwrap();
        for text in [r".\out\b.vhd", r".\over", r".\winding"] {
            let (found, refused) = look(&top, false, text);
            assert!(found.is_empty() && refused > 0, "{text}: {found:?}");
        }
        // The name alone leads to the same link once more.
        symlink("again", real("vm/again")).unwrap();
        assert_eq!(look(&top, false, r".\again"), (vec![], 0));
        fs::remove_dir_all(top).unwrap();
    }

    #[cfg(windows)]
    #[test]
    fn shares_are_spelt_in_many_ways() {
        let under = |path: &str, dir: &str| {
            lies_in(Path::new(path), Path::new(dir), is_same_word)
        };
        assert!(under(r"\\SERVER\d\VM\b.vhd", r"\\server\D\vm"));
        assert!(under(r"c:\vm\b.vhd", r"C:\vm"));
        assert!(!under(r"\\server\d\vm2\b.vhd", r"\\server\d\vm"));
        // The sign for Kelvin is no K in the name of a server.
        assert!(!under("\\\\nas\u{212a}\\d\\b.vhd", r"\\nask\d"));
    }

    #[cfg(windows)]
    #[test]
    fn drives_and_cases_are_those_of_windows() {
        let top = tree("drives");
        let near = top.join("vm").join("Base.vhd");
        let far = top.join("far").join("Base.vhd");
        let text = near.to_str().unwrap();
        let away = far.to_str().unwrap();
        for text in [
            text.to_owned(),
            text.to_lowercase(),
            text.to_uppercase(),
            text.replace('\\', "/"),
            format!(r"\\?\{text}"),
            r".\BASE.vhd".to_owned(),
            r"..\VM\base.VHD".to_owned(),
        ] {
            let (found, refused) = look(&top, false, &text);
            let same = |path: &PathBuf| lies_in(path, &near, is_same_word);
            assert!(found.iter().all(same) && !found.is_empty(), "{text}: {found:?}");
            assert_eq!(refused, 0, "{text}");
        }
        for text in [
            away.to_owned(),
            format!(r"\\?\{}", away.to_lowercase()),
            r"..\FAR\Base.vhd".to_owned(),
            r"\\server\share\Base.vhd".to_owned(),
            r"\\?\UNC\server\share\Base.vhd".to_owned(),
            r"\\?\Volume{1b3b1146-4076-11e1-84aa-806e6f6e6963}\Base.vhd".to_owned(),
        ] {
            // Only the name alone leads anywhere, to the child's own folder.
            let (found, refused) = look(&top, false, &text);
            assert!(
                found.iter().all(|path| lies_in(path, &near, is_same_word)),
                "{text}"
            );
            assert_eq!(refused, 1, "{text}");
        }
        fs::remove_dir_all(top).unwrap();
    }
}
