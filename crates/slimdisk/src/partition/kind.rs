//! What partition types mean, in words.
//!
//! Sources: UEFI specification 2.10, section 5.3.3 (GPT types) and 5.2.1; the
//! Discoverable Partitions Specification; Microsoft, `PARTITION_INFORMATION_GPT`;
//! for MBR types, which nobody registers, the list of fdisk and that of Andries
//! Brouwer.

/// Why a partition of a Windows dynamic disk is no volume of its own: a volume
/// may be put together from pieces of several disks, and a stripe's first piece
/// starts like a whole volume.
const DYNAMIC: &str = "belongs to a Windows dynamic disk";
const POOL: &str = "belongs to a storage pool";

/// The words for an MBR type byte, and why it is opaque if it is.
pub(super) fn of_mbr(kind: u8) -> (String, Option<&'static str>) {
    let words = match kind {
        0x01 => "FAT12",
        0x04 | 0x06 | 0x0E => "FAT16",
        0x07 => "NTFS/exFAT/HPFS",
        0x0B | 0x0C => "FAT32",
        0x11 | 0x14 | 0x16 | 0x1B | 0x1C | 0x1E => "hidden FAT",
        0x17 => "hidden NTFS/HPFS",
        0x12 => "recovery (vendor)",
        0x27 => "Windows recovery",
        0x42 => return ("Windows dynamic disk (LDM)".into(), Some(DYNAMIC)),
        0x39 => "Plan 9",
        0x63 => "GNU Hurd",
        0x80 | 0x81 => "Minix",
        0x82 => "Linux swap/Solaris",
        0x83 => "Linux",
        0x84 => "hibernation",
        0x8E => "Linux LVM",
        0xA5 => "FreeBSD",
        0xA6 => "OpenBSD",
        0xA8 => "Apple UFS",
        0xA9 => "NetBSD",
        0xAB => "Apple boot",
        0xAF => "Apple HFS+",
        0xBE => "Solaris boot",
        0xBF => "Solaris",
        0xDA => "data without file system",
        0xE7 => return ("Windows storage space".into(), Some(POOL)),
        0xEB => "BeFS/Haiku",
        0xEE => "GPT protective",
        0xEF => "EFI system",
        0xFB => "VMware VMFS",
        0xFC => "VMware swap",
        0xFD => "Linux RAID",
        _ => return (format!("type {kind:#04x}"), None),
    };
    (words.into(), None)
}

/// The words for a GPT type, given as its canonical text, and why it is opaque if
/// it is.
pub(super) fn of_gpt(guid: &str) -> (String, Option<&'static str>) {
    let words = match guid {
        "C12A7328-F81F-11D2-BA4B-00A0C93EC93B" => "EFI system",
        "21686148-6449-6E6F-744E-656564454649" => "BIOS boot",
        "024DEE41-33E7-11D3-9D69-0008C781F39F" => "MBR partition scheme",
        "E3C9E316-0B5C-4DB8-817D-F92DF00215AE" => "Microsoft reserved",
        "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7" => "basic data",
        "DE94BBA4-06D1-4D40-A16A-BFD50179D6AC" => "Windows recovery",
        "5808C8AA-7E8F-42E0-85D2-E1E90434CFB3" => {
            return ("Windows dynamic disk database (LDM)".into(), Some(DYNAMIC));
        }
        "AF9B60A0-1431-4F62-BC68-3311714A69AD" => {
            return ("Windows dynamic disk (LDM)".into(), Some(DYNAMIC));
        }
        "E75CAF8F-F680-4CEE-AFA3-B001E56EFC2D" => {
            return ("Windows storage space".into(), Some(POOL));
        }
        "558D43C5-A1AC-43C0-AAC8-D1472B2923D1" => "Windows storage replica",
        "0FC63DAF-8483-4772-8E79-3D69D8477DE4" => "Linux",
        "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709" => "Linux root (x86-64)",
        "44479540-F297-41B2-9AF7-D131D5F0458A" => "Linux root (x86)",
        "B921B045-1DF0-41C3-AF44-4C6F280D3FAE" => "Linux root (ARM64)",
        "933AC7E1-2EB4-4F13-B844-0E14E2AEF915" => "Linux home",
        "3B8F8425-20E0-4F3B-907F-1A25A76F98E8" => "Linux server data",
        "4D21B016-B534-45C2-A9FB-5C16E091FD2D" => "Linux variable data",
        "BC13C2FF-59E6-4262-A352-B275FD6F7172" => "Linux extended boot",
        "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F" => "Linux swap",
        "A19D880F-05FC-4D3B-A006-743F0F84911E" => "Linux RAID",
        "E6D6D379-F507-44C2-A23C-238F2A3DF928" => "Linux LVM",
        "CA7D7CCB-63ED-4C53-861C-1742536059CC" => "Linux LUKS",
        "8DA63339-0007-60C0-C436-083AC8230908" => "Linux reserved",
        "48465300-0000-11AA-AA11-00306543ECAC" => "Apple HFS+",
        "7C3457EF-0000-11AA-AA11-00306543ECAC" => "Apple APFS",
        "53746F72-6167-11AA-AA11-00306543ECAC" => {
            return ("Apple CoreStorage".into(), Some(POOL));
        }
        "52414944-0000-11AA-AA11-00306543ECAC" => {
            return ("Apple RAID".into(), Some("belongs to an Apple RAID set"));
        }
        "426F6F74-0000-11AA-AA11-00306543ECAC" => "Apple boot",
        "83BD6B9D-7F41-11DC-BE0B-001560B84F0F" => "FreeBSD boot",
        "516E7CB6-6ECF-11D6-8FF8-00022D09712B" => "FreeBSD UFS",
        "516E7CB5-6ECF-11D6-8FF8-00022D09712B" => "FreeBSD swap",
        "516E7CBA-6ECF-11D6-8FF8-00022D09712B" => "FreeBSD ZFS",
        "6A898CC3-1DD2-11B2-99A6-080020736631" => "Solaris/Apple ZFS",
        "AA31E02A-400F-11DB-9590-000C2911D1B8" => "VMware VMFS",
        "FE3A2A5D-4F32-41A7-B725-ACCC3285A309" => "ChromeOS kernel",
        "3CB8E202-3B7E-47DD-8A3C-7FF2A13CFCEC" => "ChromeOS root",
        _ => return (format!("type {guid}"), None),
    };
    (words.into(), None)
}
