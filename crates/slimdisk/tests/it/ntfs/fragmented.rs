//! Files in many pieces: `$MFT` and `hiberfil.sys` with attribute lists.

use std::fs;
use std::io::Write;

use super::image::*;
use crate::support::{Scratch, have, sh};

#[test]
fn mft_and_hiberfil_with_attribute_lists() {
    let test = "ntfs mft_and_hiberfil_with_attribute_lists";
    if !have(test, &["mkntfs", "ntfs-3g", "ntfscat", "ntfsinfo"]) {
        return;
    }
    let scratch = Scratch::new("ntfs-fragmented");
    let image = mkntfs(&scratch, "volume.img", 20 << 20, "-c 512");
    {
        let mounted = mount(&image, "");
        let path = |kind: &str, number: u32| {
            mounted.dir.join(format!("folder {}/{kind} {number}", number % 20))
        };
        for number in 0..20 {
            fs::create_dir(mounted.dir.join(format!("folder {number}"))).unwrap();
        }
        // Fill the volume with files of two clusters each and delete every other
        // one: what grows now grows in pieces of two.
        let mut count = 0;
        while fs::write(path("filler", count), [0x55; 1024]).is_ok() {
            count += 1;
        }
        for number in (0..count).step_by(2) {
            fs::remove_file(path("filler", number)).unwrap();
        }
        for number in 0..count / 2 + 700 {
            fs::write(path("new", number), "x").unwrap();
        }
        let create = |name: &str| fs::File::create(mounted.dir.join(name)).unwrap();
        let mut files = [create("hiberfil.sys"), create("another")];
        for number in 0..900 {
            for file in &mut files {
                let word = if number == 0 { b"hibr" } else { b"more" };
                file.write_all(&word.repeat(256)).unwrap();
            }
        }
    }
    let info = |number: &str| sh(&format!("ntfsinfo -i {number} {}", image.display()));
    let list = "$ATTRIBUTE_LIST";
    assert!(info("0").contains(list), "ntfs-3g has not fragmented $MFT enough");
    let by_path = sh(&format!("ntfsinfo -F /hiberfil.sys {}", image.display()));
    assert!(by_path.contains(list), "ntfs-3g has not fragmented hiberfil.sys enough");
    assert!(reason(&fs::read(&image).unwrap()).contains("is hibernated"));

    {
        let mounted = mount(&image, ",remove_hiberfile");
        assert!(!mounted.dir.join("hiberfil.sys").exists());
    }
    let bytes = fs::read(&image).unwrap();
    let free = trusted(&bytes);
    let bits = sh(&format!("ntfscat -i 6 {} | od -An -v -tu1", image.display()));
    let bits: Vec<u8> =
        bits.split_whitespace().map(|byte| byte.parse().unwrap()).collect();
    let clusters = Layout::of(&bytes).clusters;
    let count = (0..clusters).filter(|n| bits[n / 8] >> (n % 8) & 1 == 0).count();
    assert!(free.len() > 500, "{}", free.len());
    assert_eq!(
        free.iter().map(|range| range.end - range.start).sum::<u64>(),
        512 * count as u64
    );

    // A piece of $MFT that only an extension record names is known to be in use.
    let pieces = sh(&format!("ntfsinfo -v -i 0 {}", image.display()));
    let extension = pieces
        .split("Dumping attribute ")
        .find(|part| part.starts_with("$DATA") && !part.contains("record 0 "))
        .unwrap();
    let last = extension.lines().rev().find(|line| line.starts_with("\t\t\t0x")).unwrap();
    let lcn = last.split_whitespace().nth(1).unwrap().trim_start_matches("0x");
    let lcn = usize::from_str_radix(lcn, 16).unwrap();
    let mut spoilt = bytes.clone();
    let bit = Layout::of(&bytes).data(&bytes, 6, 0x80) + lcn / 8;
    assert_ne!(spoilt[bit] & 1 << (lcn % 8), 0);
    spoilt[bit] &= !(1 << (lcn % 8));
    let words = format!("cluster {lcn} free, which $MFT uses");
    assert!(reason(&spoilt).contains(&words), "{}", reason(&spoilt));
}
