use slimdisk::image::{Extent, Piece};

use super::terminal::{Characters, all_characters, draw, legend};
use super::*;

const MIB: u64 = 1 << 20;

fn picture(text: &str) -> Picture {
    let mut picture = Picture::default();
    for c in text.chars() {
        let state = match c {
            '#' => State::Used,
            '-' => State::Free,
            '0' => State::Zero,
            '.' => State::Absent,
            'T' => State::Table,
            _ => State::Unused,
        };
        picture.push(state, 1, 2 * MIB);
    }
    picture
}

fn states(cells: &[Cell]) -> String {
    let draw = |cell: &Cell| match cell.state() {
        Some(State::Used) => '#',
        Some(State::Free) => '-',
        Some(State::Zero) => '0',
        Some(State::Parent) => 'p',
        Some(State::Absent) => '.',
        Some(State::Table) => 'T',
        Some(State::Unused) => '_',
        None => '%',
    };
    cells.iter().map(draw).collect()
}

fn plain(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string()
}

#[test]
fn with_room_enough_each_place_has_its_cell() {
    let drawn = "T##--0..#.";
    assert_eq!(states(&picture(drawn).cells(10)), drawn);
    assert_eq!(states(&picture(drawn).cells(1000)), drawn);
    assert_eq!(states(&Picture::default().cells(10)), "");
}

#[test]
fn cells_show_what_predominates_or_that_they_are_mixed() {
    //           |   |   |   |   |
    let drawn = "#####--##..0-----000";
    assert_eq!(states(&picture(drawn).cells(5)), "#%%-0");
}

/// Whatever the sizes, no place is lost, none is counted twice, no cell is empty.
#[test]
fn scaling_keeps_every_place() {
    let mut seed = 7u64;
    let mut next = |n: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(seed >> 33).unwrap() % n
    };
    for _ in 0..500 {
        let mut picture = Picture::default();
        for _ in 0..next(40) {
            let state = STATES[next(STATES.len())];
            picture.push(state, 1 + next(1000) as u64, 0);
        }
        let room = 1 + next(300);
        let cells = picture.cells(room);
        assert_eq!(cells.len() as u64, picture.places().min(room as u64));
        let mut sums = Cell::default();
        let sizes: Vec<u64> = cells
            .iter()
            .map(|cell| {
                cell.shares().for_each(|(state, places)| sums.add(state, places));
                cell.shares().map(|(_, places)| places).sum()
            })
            .collect();
        for state in STATES {
            let drawn: u64 =
                sums.shares().filter(|(s, _)| *s == state).map(|(_, n)| n).sum();
            assert_eq!(drawn, picture.places_in(state));
        }
        let (min, max) = (sizes.iter().min(), sizes.iter().max());
        if let (Some(min), Some(max)) = (min, max) {
            assert!(*min > 0 && max - min <= 1, "cells of {min} to {max} places");
        }
    }
}

#[test]
fn guest_order_ends_with_the_disk() {
    use Verdict::{Absent, Free, Live, Zero};
    let verdicts = [Live, Live, Free, Zero, Absent];
    // Five blocks, the last of which is cut by the disk's end.
    let picture = of_guest(&verdicts, 2 * MIB, 9 * MIB);
    assert_eq!(states(&picture.cells(10)), "##-0.");
    assert_eq!(picture.bytes(State::Used), 4 * MIB);
    assert_eq!(picture.bytes(State::Absent), MIB);
}

/// A file as qemu-img lays it out: footer copy, header, table, blocks out of
/// order, a gap, the footer.
fn small() -> (Layout, Vec<Verdict>) {
    use Verdict::{Absent, Free, Live, Zero};
    let extent_len = 2 * MIB + 512;
    let place = |slot: u64| 2048 + slot * extent_len;
    let extents = vec![
        Extent { place: place(0), piece: Piece::Block(3) },
        Extent { place: place(1), piece: Piece::Block(0) },
        Extent { place: place(2), piece: Piece::Block(2) },
        Extent { place: place(5), piece: Piece::Block(1) },
    ];
    let layout = Layout {
        extents,
        extent_len,
        bitmap_len: 0,
        chunk_blocks: 0,
        partial: Vec::new(),
        modulus: 512,
        remainder: 0,
        reserved: std::iter::once(0..2048).collect(),
        trailer_len: 512,
        end_modulus: 512,
        file_len: place(6) + 512,
    };
    (layout, vec![Live, Free, Zero, Live, Absent, Absent])
}

#[test]
fn small_image_is_drawn_exactly() {
    let (layout, verdicts) = small();
    let guest = of_guest(&verdicts, 2 * MIB, 12 * MIB);
    let file = of_file(&layout, &verdicts);
    let ascii = Characters::Ascii;
    assert_eq!(plain(&draw("Guest", &guest, Some(80), ascii)), "Guest\n  #-0#..\n");
    assert_eq!(plain(&draw("File", &file, Some(80), ascii)), "File\n  T##0__-T\n");
    assert_eq!(
        plain(&draw("File", &file, Some(80), Characters::Unicode)),
        "File\n  T██0__░T\n"
    );
    assert_eq!(
        plain(&legend(&guest, &file, false, ascii)),
        "  \
  # used            2       4 MiB  blocks that must stay
  - free            1       2 MiB  blocks of free space: compact gives them up
  0 zero            1       2 MiB  blocks of zeros: compact gives them up
  . absent          2       4 MiB  blocks that take no room in the file
  T tables               2.50 KiB  headers and tables of the image
  _ unused               4.00 MiB  bytes of the file that no table names
  % mixed                          several of these in one cell
"
    );
}

#[test]
fn large_picture_fills_the_width_and_sixteen_rows() {
    let mut picture = Picture::default();
    picture.push(State::Used, 5000, 0);
    picture.push(State::Absent, 5000, 0);
    let drawn = plain(&draw("x", &picture, Some(40), Characters::Ascii));
    let rows: Vec<&str> = drawn.lines().skip(1).collect();
    assert_eq!(rows.len(), 16);
    assert!(rows.iter().all(|row| row.len() == 40), "{rows:?}");
    assert!(drawn.starts_with("x, a cell is about 16.4 places\n"), "{drawn}");
}

#[test]
fn every_state_has_its_own_character() {
    for characters in [Characters::Ascii, Characters::Unicode] {
        let mut all = all_characters(characters);
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), STATES.len() + 1);
    }
}

#[test]
fn svg_escapes_what_it_is_told() {
    let (layout, verdicts) = small();
    let guest = of_guest(&verdicts, 2 * MIB, 12 * MIB);
    let file = of_file(&layout, &verdicts);
    let drawn = svg::draw("<a&\"b\x1b>.vhd", "6 blocks", &guest, &file);
    assert!(drawn.contains("&lt;a&amp;&quot;b\\u{1b}&gt;.vhd"), "{drawn}");
    assert!(drawn.contains("used: 2 blocks, 4 MiB"));
    assert!(!drawn.contains('\x1b'));
}
