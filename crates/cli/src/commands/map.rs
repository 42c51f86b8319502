//! `map`: a picture of the blocks.

use std::path::{Path, PathBuf};

use serde::Serialize;
use slimdisk::compact::{Examination, Options, examine};
use slimdisk::{Error, Kind};

use super::{Watch, fail, stopped};
use crate::console::{BOLD, Console};
use crate::exit_code::ExitCode;
use crate::new_file;
use crate::picture::terminal::{self, Characters};
use crate::picture::{self, Picture, State, svg};
use crate::printable::printable;
use crate::size::{Size, count, grouped};

/// The file to draw into.
pub struct SvgFile {
    /// Its path.
    pub path: PathBuf,
    /// Whether to replace one that is there.
    pub replace: bool,
}

/// Draws one image.
pub fn run(
    disk: &Path,
    options: &Options,
    svg: Option<&SvgFile>,
    console: &mut Console,
    watch: &Watch,
) -> ExitCode {
    // Says no before a search that may take long.
    if let Some(svg) = svg
        && let Err(error) = new_file::refuse(&svg.path, svg.replace, disk)
    {
        return fail_svg(console, &error);
    }
    let mut reporter = watch.reporter(disk);
    let found = examine(disk, options, true, &mut |p| reporter.step(p));
    drop(reporter);
    let found = match found {
        Ok(Some(found)) => found,
        Ok(None) => return stopped(console, watch),
        Err(error) => return fail(console, disk, &error, None, true),
    };
    if let Some(error) = &found.parents_error {
        return fail(console, disk, error, Some(found.facts.image_type), true);
    }
    let drawing = match Drawing::new(disk, &found) {
        Ok(drawing) => drawing,
        Err(error) => {
            return fail(console, disk, &error, Some(found.facts.image_type), true);
        }
    };
    if let Some(svg) = svg {
        let text =
            svg::draw(&drawing.name, &drawing.subtitle, &drawing.guest, &drawing.file);
        let written = new_file::refuse(&svg.path, svg.replace, disk)
            .and_then(|()| new_file::write(&svg.path, text.as_bytes(), svg.replace));
        if let Err(error) = written {
            return fail_svg(console, &error);
        }
        console.note(&format!("drawn into {}", printable(&svg.path.to_string_lossy())));
    } else {
        let text = drawing.render(console);
        console.report(text);
    }
    console.object(&drawing.object());
    ExitCode::Done
}

fn fail_svg(console: &Console, error: &Error) -> ExitCode {
    console.error(error);
    error.kind().into()
}

struct Drawing {
    image: String,
    name: String,
    subtitle: String,
    file_size: u64,
    block_size: u64,
    virtual_size: u64,
    guest: Picture,
    file: Picture,
}

impl Drawing {
    fn new(disk: &Path, found: &Examination) -> Result<Self, Error> {
        let facts = &found.facts;
        let (Some(layout), Some(survey)) = (&found.layout, &found.survey) else {
            return Err(Error::new(
                Kind::WrongImageType,
                "the image has no blocks that come and go, so there is no map",
            ));
        };
        let subtitle = format!(
            "{} of {}, {} of them in the file; disk {}, file {}",
            count(u64::from(facts.blocks_total), "block"),
            Size(facts.block_size),
            grouped(u64::from(facts.blocks_allocated)),
            Size(facts.virtual_size),
            Size(found.file_size)
        );
        let name = disk.file_name().unwrap_or(disk.as_os_str());
        Ok(Drawing {
            image: disk.to_string_lossy().into_owned(),
            name: name.to_string_lossy().into_owned(),
            subtitle,
            file_size: found.file_size,
            block_size: facts.block_size,
            virtual_size: facts.virtual_size,
            guest: picture::of_guest(
                &survey.verdicts,
                facts.block_size,
                facts.virtual_size,
            ),
            file: picture::of_file(layout, &survey.verdicts),
        })
    }

    fn render(&self, console: &Console) -> String {
        let view = console.view();
        let characters = Characters::of_locale();
        let image = printable(&self.image);
        let orders = [("Guest's disk", &self.guest), ("File", &self.file)];
        let [guest, file] = orders
            .map(|(title, order)| terminal::draw(title, order, view.columns, characters));
        let legend = terminal::legend(&self.guest, &self.file, view.exact, characters);
        format!("{BOLD}{image}{BOLD:#}: {}\n\n{guest}\n{file}\n{legend}", self.subtitle)
    }

    fn object(&self) -> Object<'_> {
        let blocks = |state| self.guest.places_in(state);
        Object {
            image: &self.image,
            virtual_size: self.virtual_size,
            block_size: self.block_size,
            file_size: self.file_size,
            blocks: BlockStates {
                used: blocks(State::Used),
                free: blocks(State::Free),
                zero: blocks(State::Zero),
                parent: blocks(State::Parent),
                absent: blocks(State::Absent),
            },
            table_bytes: self.file.bytes(State::Table),
            unused_bytes: self.file.bytes(State::Unused),
            guest: runs(&self.guest),
            file: runs(&self.file),
        }
    }
}

/// The object that `--json` prints.
#[derive(Serialize)]
struct Object<'a> {
    image: &'a str,
    virtual_size: u64,
    block_size: u64,
    file_size: u64,
    blocks: BlockStates,
    table_bytes: u64,
    unused_bytes: u64,
    /// Neighbouring blocks in one state, in the order of the guest's disk.
    guest: Vec<Run>,
    /// Neighbouring bytes in one state, in the order of the file.
    file: Vec<Run>,
}

#[derive(Serialize)]
struct BlockStates {
    used: u64,
    free: u64,
    zero: u64,
    parent: u64,
    absent: u64,
}

#[derive(Serialize)]
struct Run {
    offset: u64,
    length: u64,
    state: State,
}

fn runs(picture: &Picture) -> Vec<Run> {
    let mut offset = 0;
    let run = |run: &picture::Run| {
        let start = offset;
        offset += run.bytes;
        Run { offset: start, length: run.bytes, state: run.state }
    };
    picture.runs().iter().map(run).collect()
}
