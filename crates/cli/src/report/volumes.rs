//! The guest's volumes as a table, with the reasons why a free map is not
//! believed beneath.

use slimdisk::compact::report::{VolumeReport, VolumeState};

use crate::console::View;
use crate::printable::{printable, wrap};
use crate::size::Size;
use crate::table::{Side, Table};

/// The table's lines, then a line for each reason.
pub fn volume_table(volumes: &[VolumeReport], view: View) -> Vec<String> {
    if volumes.is_empty() {
        return Vec::new();
    }
    let mut columns = vec![
        ("partition", Side::Right),
        ("filesystem", Side::Left),
        ("label", Side::Left),
        ("size", Side::Right),
        ("used", Side::Right),
        ("free", Side::Right),
        ("free map", Side::Left),
    ];
    if view.exact {
        columns.insert(1, ("at byte", Side::Right));
    }
    let logical = volumes.iter().any(|volume| volume.logical_volume.is_some());
    if logical {
        columns.insert(1, ("logical volume", Side::Left));
    }
    let mut table = Table::new(&columns);
    let unknown = || "-".to_owned();
    let size = |bytes: u64| Size(bytes).maybe_exact(view.exact);
    for volume in volumes {
        let mut row = vec![
            volume.partition.map_or_else(|| "whole disk".to_owned(), |n| n.to_string()),
            volume.filesystem.as_deref().map_or_else(unknown, printable),
            volume.label.as_deref().map_or_else(unknown, printable),
            size(volume.length),
            volume.used_bytes.map_or_else(unknown, size),
            volume.free_bytes.map_or_else(unknown, size),
            state(volume.state).to_owned(),
        ];
        if view.exact {
            row.insert(1, crate::size::grouped(volume.offset));
        }
        if logical {
            let name = volume.logical_volume.as_deref();
            row.insert(1, name.map(printable).unwrap_or_default());
        }
        table.row(row);
    }
    let mut lines = table.lines();
    for volume in volumes {
        if let Some(reason) = &volume.reason {
            let name = volume_name(volume);
            let indent = name.len() + 4;
            let reason = wrap(&printable(reason), view.columns, indent);
            lines.push(format!("{name}: {reason}"));
        }
    }
    lines
}

/// What to call a volume in a sentence: "partition 2", "whole disk", "vg0/root".
pub fn volume_name(volume: &VolumeReport) -> String {
    if let Some(name) = &volume.logical_volume {
        return printable(name);
    }
    match volume.partition {
        Some(number) => format!("partition {number}"),
        None => "whole disk".to_owned(),
    }
}

fn state(state: VolumeState) -> &'static str {
    match state {
        VolumeState::Trusted => "trusted",
        VolumeState::Untrusted => "not trusted",
        VolumeState::Unknown => "unknown",
    }
}
