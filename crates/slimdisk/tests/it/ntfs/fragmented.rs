//! Files in many pieces: `$MFT` and `hiberfil.sys` with attribute lists.

use std::fs;

use super::image::*;
use crate::support::{Scratch, have, sh};

#[test]
fn mft_and_hiberfil_with_attribute_lists() {
    let test = "ntfs mft_and_hiberfil_with_attribute_lists";
    if !have(test, &["mkntfs", "ntfs-3g", "ntfscat", "ntfsinfo"]) {
        return;
    }
    let scratch = Scratch::new("ntfs-fragmented");
    let image = mkntfs(&scratch, "volume.img", 12 << 20, "-c 512");
    {
        let mounted = mount(&image, "");
        let dir = mounted.dir.join("folder");
        fs::create_dir(&dir).unwrap();
        // Fill the volume with files of two clusters each and delete every other
        // one: what grows now grows in pieces of two.
        let mut count = 0;
        while fs::write(dir.join(format!("filler {count}")), [0x55; 1024]).is_ok() {
            count += 1;
        }
        println!("COUNT {count}");
        for number in (0..count).step_by(2) {
            fs::remove_file(dir.join(format!("filler {number}"))).unwrap();
        }
        for number in 0..count / 2 + 600 {
            fs::write(dir.join(format!("new {number}")), "x").unwrap();
        }
        let mut sleep = b"hibr".to_vec();
        sleep.resize(300_000, 0x11);
        fs::write(mounted.dir.join("hiberfil.sys"), sleep).unwrap();
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

    // A piece of $MFT that only an extension record names counts as in use too.
    let pieces = sh(&format!("ntfsinfo -v -i 0 {} ", image.display()));
    let last = pieces
        .lines()
        .filter_map(|line| line.split_once("LCN:"))
        .filter_map(|(_, rest)| {
            let number = rest.split_whitespace().next()?;
            u64::from_str_radix(number.trim_start_matches("0x"), 16).ok()
        })
        .last();
    println!("{last:?}");
}
