//! `info`: what an image is, and what is in it.

use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;
use slimdisk::compact::report::VolumeReport;
use slimdisk::compact::{Examination, Options, examine};
use slimdisk::image::ImageType;
use slimdisk::image::parent::{Parent, ParentLookup};
use slimdisk::partition::{PartitionTable, Scheme};

use super::{Watch, fail, stopped, type_name};
use crate::console::{BOLD, Console, MIND, View};
use crate::exit_code::ExitCode;
use crate::printable::{printable, wrap};
use crate::report::volume_table;
use crate::size::{Size, grouped, percent};
use crate::table::{Side, Table};

/// Tells about one image.
pub fn run(
    disk: &Path,
    parents: &ParentLookup,
    console: &mut Console,
    watch: &Watch,
) -> ExitCode {
    let mut reporter = watch.reporter(disk);
    let mut options = Options::default();
    options.parents = parents.clone();
    let found = examine(disk, &options, false, &mut |p| reporter.step(p));
    drop(reporter);
    match found {
        Ok(Some(found)) => {
            console.object(&Info::new(disk, &found));
            let text = render(disk, &found, console.view());
            console.report(text);
            ExitCode::Done
        }
        Ok(None) => stopped(console, watch),
        Err(error) => fail(console, disk, &error, None, true),
    }
}

/// Why there is nothing to say of the guest's volumes.
fn not_surveyed(found: &Examination) -> Option<String> {
    match (&found.survey, &found.parents_error) {
        (Some(_), _) => None,
        (None, Some(error)) => Some(format!(
            "a differencing image's disk cannot be read without its parents: {}",
            error.chain()
        )),
        (None, None) => Some("the guest's disk was not looked into".to_owned()),
    }
}

/// The object that `--json` prints.
#[derive(Serialize)]
struct Info<'a> {
    image: String,
    format: &'static str,
    #[serde(rename = "type")]
    image_type: ImageType,
    virtual_size: u64,
    block_size: u64,
    blocks: Blocks,
    file_size: u64,
    host_bytes: u64,
    parent: Option<&'a str>,
    parents: &'a [Parent],
    children: Vec<String>,
    details: Vec<Detail<'a>>,
    notes: Vec<&'a str>,
    partition_table: Option<TableInfo<'a>>,
    volumes: Option<&'a [VolumeReport]>,
    not_surveyed: Option<String>,
}

#[derive(Serialize)]
struct Blocks {
    total: u32,
    allocated: u32,
}

#[derive(Serialize)]
struct Detail<'a> {
    name: &'a str,
    value: &'a str,
}

#[derive(Serialize)]
struct TableInfo<'a> {
    scheme: Scheme,
    sector_size: u32,
    untrusted: Option<&'a str>,
    partitions: Vec<PartitionInfo<'a>>,
}

#[derive(Serialize)]
struct PartitionInfo<'a> {
    number: u32,
    offset: u64,
    length: u64,
    #[serde(rename = "type")]
    kind: &'a str,
    name: Option<&'a str>,
}

impl<'a> Info<'a> {
    fn new(disk: &Path, found: &'a Examination) -> Self {
        let facts = &found.facts;
        let survey = found.survey.as_ref();
        Info {
            image: disk.to_string_lossy().into_owned(),
            format: facts.format,
            image_type: facts.image_type,
            virtual_size: facts.virtual_size,
            block_size: facts.block_size,
            blocks: Blocks {
                total: facts.blocks_total,
                allocated: facts.blocks_allocated,
            },
            file_size: found.file_size,
            host_bytes: found.host_bytes,
            parent: facts.parent.as_deref(),
            parents: &found.parents,
            children: children(found).collect(),
            details: facts
                .details
                .iter()
                .map(|(name, value)| Detail { name, value })
                .collect(),
            notes: notes(found).collect(),
            partition_table: table_of(found).map(TableInfo::new),
            volumes: survey.map(|survey| survey.volumes.as_slice()),
            not_surveyed: not_surveyed(found),
        }
    }
}

impl<'a> TableInfo<'a> {
    fn new(table: &'a PartitionTable) -> Self {
        TableInfo {
            scheme: table.scheme,
            sector_size: table.sector_size,
            untrusted: table.untrusted.as_deref(),
            partitions: table
                .partitions
                .iter()
                .map(|partition| PartitionInfo {
                    number: partition.number,
                    offset: partition.range.start,
                    length: partition.range.end.saturating_sub(partition.range.start),
                    kind: &partition.kind,
                    name: partition.name.as_deref(),
                })
                .collect(),
        }
    }
}

fn children(found: &Examination) -> impl Iterator<Item = String> + '_ {
    found.children.paths.iter().map(|path| path.to_string_lossy().into_owned())
}

fn table_of(found: &Examination) -> Option<&PartitionTable> {
    found.survey.as_ref()?.table.as_ref()
}

/// What is odd with the image or its partition table.
fn notes(found: &Examination) -> impl Iterator<Item = &str> {
    let table = table_of(found).into_iter().flat_map(|table| &table.notes);
    let table = table.chain(found.survey.iter().flat_map(|survey| &survey.notes));
    found.facts.notes.iter().chain(table).map(String::as_str)
}

fn render(disk: &Path, found: &Examination, view: View) -> String {
    let facts = &found.facts;
    let image = printable(&disk.to_string_lossy());
    let size = |bytes: u64| Size(bytes).maybe_exact(view.exact);
    let mut rows: Vec<(&str, String)> = vec![
        ("format", format!("{}, {}", facts.format, type_name(facts.image_type))),
        ("virtual size", size(facts.virtual_size)),
        ("file size", size(found.file_size)),
        ("on the host", size(found.host_bytes)),
    ];
    if facts.block_size > 0 {
        let (used, all) =
            (u64::from(facts.blocks_allocated), u64::from(facts.blocks_total));
        let blocks = format!(
            "{} of {} allocated ({})",
            grouped(used),
            grouped(all),
            percent(used, all)
        );
        rows.push(("block size", size(facts.block_size)));
        rows.push(("blocks", blocks));
    }
    if let Some(parent) = &facts.parent {
        rows.push(("parent", printable(parent)));
    }
    rows.extend(children(found).map(|child| ("child", printable(&child))));
    rows.extend(facts.details.iter().map(|(name, value)| (*name, printable(value))));
    let mut text = format!("{BOLD}{image}{BOLD:#}\n");
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    for (name, value) in &rows {
        let value = wrap(value, view.columns, width + 4);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {name:<width$}  {value}");
    }
    section(&mut text, "Parents", parents(&found.parents));
    if let Some(survey) = &found.survey {
        if let Some(table) = &survey.table {
            section(&mut text, &scheme(table), partitions(table, view));
        }
        section(&mut text, "Volumes", volume_table(&survey.volumes, view));
    }
    let why = not_surveyed(found);
    let why = why.as_deref().into_iter();
    let untrusted = table_of(found).and_then(|table| table.untrusted.as_deref());
    let notes: Vec<&str> = why.chain(untrusted).chain(notes(found)).collect();
    if !notes.is_empty() {
        text.push('\n');
    }
    for note in notes {
        let note = wrap(&printable(note), view.columns, 6);
        let _ = writeln!(text, "{MIND}note{MIND:#}: {note}");
    }
    text
}

fn section(text: &mut String, heading: &str, lines: Vec<String>) {
    if lines.is_empty() {
        return;
    }
    // Writing to a string cannot fail.
    let _ = writeln!(text, "\n{BOLD}{heading}{BOLD:#}");
    for line in lines {
        let _ = writeln!(text, "  {line}");
    }
}

fn parents(parents: &[Parent]) -> Vec<String> {
    if parents.is_empty() {
        return Vec::new();
    }
    let columns =
        ["file", "type", "unique id", "found by"].map(|name| (name, Side::Left));
    let mut table = Table::new(&columns);
    for parent in parents {
        table.row([
            printable(&parent.path.to_string_lossy()),
            format!("{}, {}", parent.format, type_name(parent.image_type)),
            parent.unique_id.clone(),
            printable(&parent.found_by),
        ]);
    }
    table.lines()
}

fn scheme(table: &PartitionTable) -> String {
    let scheme = match table.scheme {
        Scheme::Mbr => "MBR",
        Scheme::Gpt => "GPT",
        _ => "none",
    };
    format!("Partitions ({scheme}, sectors of {} bytes)", table.sector_size)
}

fn partitions(found: &PartitionTable, view: View) -> Vec<String> {
    if found.partitions.is_empty() {
        return Vec::new();
    }
    let mut table = Table::new(&[
        ("number", Side::Right),
        ("at byte", Side::Right),
        ("size", Side::Right),
        ("type", Side::Left),
        ("name", Side::Left),
    ]);
    for partition in &found.partitions {
        let length = partition.range.end.saturating_sub(partition.range.start);
        table.row([
            partition.number.to_string(),
            grouped(partition.range.start),
            Size(length).maybe_exact(view.exact),
            printable(&partition.kind),
            partition.name.as_deref().map(printable).unwrap_or_default(),
        ]);
    }
    table.lines()
}
