//! The header says what the library has, and the library has what the header says.

use std::collections::BTreeMap;
use std::fs;

use slimdisk::Kind;
use slimdisk_capi::hresult::{self, TABLE};

use crate::installed::{include, lib};
use crate::support::{have, sh};

fn header() -> String {
    fs::read_to_string(include().join("slimdisk.h")).unwrap()
}

/// The header without comments.
fn code() -> String {
    let header = header();
    let mut code = String::new();
    let mut rest = header.as_str();
    while let Some((before, after)) = rest.split_once("/*") {
        code.push_str(before);
        rest = after.split_once("*/").unwrap().1;
    }
    code + rest
}

/// The names of the functions in a piece of the header, in order.
fn functions(code: &str) -> Vec<String> {
    let names = code.split("HRESULT ").skip(1).filter_map(|rest| {
        let (name, arguments) = rest.split_once('(')?;
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        (plain && name.starts_with("slimdisk_") && arguments.contains(");"))
            .then(|| name.to_owned())
    });
    names.collect()
}

#[test]
fn every_symbol_is_in_the_header_and_every_function_is_a_symbol() {
    let test = "every_symbol_is_in_the_header_and_every_function_is_a_symbol";
    if !have(test, &["nm"]) {
        return;
    }
    let code = code();
    let twins = code.find("typedef wchar_t SlimdiskWChar").unwrap();
    let (here, windows) = code.split_at(twins);
    let mut declared = functions(here);
    let count = declared.len();
    declared.sort();
    declared.dedup();
    assert_eq!(declared.len(), count, "a function is declared twice");
    assert!(count > 60, "{declared:#?}");
    for library in ["libslimdisk.so", "libslimdisk.a"] {
        let dynamic = if library.ends_with("so") { "-D" } else { "-g" };
        let symbols = sh(&format!(
            "nm {dynamic} --defined-only '{}/{library}' 2>/dev/null | awk 'NF == 3'",
            lib().display()
        ));
        let mut exported: Vec<_> =
            symbols.lines().filter_map(|line| line.split(' ').nth(2)).collect();
        if library.ends_with(".a") {
            exported.retain(|name| name.starts_with("slimdisk_"));
        }
        exported.sort_unstable();
        exported.dedup();
        assert_eq!(exported, declared, "{library}");
    }

    // What has text has a twin on Windows, and nothing else has one.
    let mut wanted: Vec<_> = here
        .split("HRESULT ")
        .skip(1)
        .filter_map(|rest| rest.split_once(");"))
        .filter(|(function, _)| {
            function.starts_with("slimdisk_")
                && (function.contains("char ")
                    || function.contains("SlimdiskServerOptions "))
        })
        .map(|(function, _)| format!("{}W", function.split_once('(').unwrap().0))
        .collect();
    let mut twins = functions(windows);
    wanted.sort();
    twins.sort();
    assert_eq!(twins, wanted);
}

#[test]
fn every_function_says_its_codes() {
    let header = header();
    let here = &header[..header.find("UTF-16 on Windows */").unwrap()];
    let mut count = 0;
    // Functions that share a comment stand directly below each other.
    for part in here.split("/* ").skip(1) {
        let Some((comment, declared)) = part.split_once("*/") else { continue };
        if functions(declared).is_empty() {
            continue;
        }
        count += functions(declared).len();
        assert!(comment.contains("Codes: "), "{part}");
        let given =
            declared.contains("char **") && !declared.contains("const char *const");
        assert!(
            !given || comment.contains("slimdisk_FreeString") || {
                // It is always NULL.
                declared.contains("HostDriveIdentifier")
            },
            "{part}"
        );
        let object = ["IVMVirtualServer **", "IVMHardDisk **", "IVMTask **", "List **"];
        let gives = object.iter().any(|object| declared.contains(object));
        assert!(
            !gives || comment.contains("Release") || {
                // Said once above all operations, or by the member that it extends.
                comment.contains("Begins")
                    || comment.contains("with flags")
                    || comment.contains("with a mode")
                    || comment.contains("Cannot")
                    || comment.contains("The same")
            },
            "{part}"
        );
    }
    assert_eq!(count, functions(&code()[..code().find("SlimdiskWChar;").unwrap()]).len());
}

#[test]
fn the_codes_are_those_of_the_table_and_of_the_errors() {
    let mut defined = BTreeMap::new();
    for line in header().lines() {
        let Some(rest) = line.strip_prefix("#define ") else { continue };
        let Some((name, value)) = rest.split_once(char::is_whitespace) else { continue };
        if let Some(number) = value.trim().strip_prefix("SLIMDISK_HRESULT(0x") {
            let number = u32::from_str_radix(number.trim_end_matches(')'), 16).unwrap();
            assert_eq!(defined.insert(name.to_owned(), number), None, "{name} twice");
        }
    }
    let table: BTreeMap<_, _> = TABLE
        .iter()
        .map(|(name, code)| ((*name).to_owned(), code.cast_unsigned()))
        .collect();
    assert_eq!(table.len(), TABLE.len(), "a name is there twice");
    assert_eq!(defined, table);
    let own = |name: &&String| name.starts_with("VM_E_");
    assert_eq!(table.keys().filter(own).count(), 70 + 16);
    for (name, code) in &table {
        // Severity, customer bit and the interfaces' facility.
        assert_eq!(name.starts_with("VM_E_"), code >> 16 == 0xA004, "{name}");
    }

    for (kind, name) in [
        (Kind::Unexpected, "DISP_E_EXCEPTION"),
        (Kind::Io, "DISP_E_EXCEPTION"),
        (Kind::InvalidArgument, "E_INVALIDARG"),
        (Kind::InvalidImage, "VM_E_INVALID_HD_FILE"),
        (Kind::WrongImageType, "VM_E_WRONG_HD_IMAGE_TYPE"),
        (Kind::NotFound, "E_FILE_NOT_FOUND"),
        (Kind::PathNotFound, "E_PATH_NOT_FOUND"),
        (Kind::AlreadyExists, "E_ALREADY_EXISTS"),
        (Kind::InvalidName, "E_INVALID_NAME"),
        (Kind::BadPath, "E_BAD_PATHNAME"),
        (Kind::PathTooLong, "E_BUFFER_OVERFLOW"),
        (Kind::DiskTooLarge, "VM_E_IMAGE_SIZE_TOO_LARGE"),
        (Kind::DiskTooSmall, "VM_E_IMAGE_SIZE_TOO_SMALL"),
        (Kind::FileTooLarge, "VM_E_FILE_TOO_LARGE_FOR_VOLUME"),
        (Kind::AccessDenied, "E_ACCESSDENIED"),
        (Kind::ReadOnly, "VM_E_FILE_READ_ONLY"),
        (Kind::DiskFull, "E_DISK_FULL"),
        (Kind::ParentNotFound, "VM_E_PARENT_PATH_NOT_FOUND"),
        (Kind::ParentMismatch, "VM_E_PARENT_CHILD_ID_MISMATCH"),
        (Kind::ShuttingDown, "VM_E_APP_SHUTTING_DOWN"),
        (Kind::InUse, "E_SHARING_VIOLATION"),
    ] {
        assert_eq!(kind.hresult(), defined[name], "{kind:?}");
        assert_eq!(hresult::of_kind(kind).cast_unsigned(), defined[name], "{kind:?}");
    }
}

#[test]
fn the_header_is_c99_and_cpp_without_a_warning() {
    let test = "the_header_is_c99_and_cpp_without_a_warning";
    if !have(test, &["gcc", "clang"]) {
        return;
    }
    let check = |compiler: &str, language: &str| {
        sh(&format!(
            "{compiler} {language} -Wall -Wextra -Werror -pedantic -fsyntax-only '{}'",
            include().join("slimdisk.h").display()
        ));
    };
    for compiler in ["gcc", "clang"] {
        check(compiler, "-x c -std=c99 -Wstrict-prototypes -Wundef");
        check(compiler, "-x c -std=c11");
    }
    // gcc's part for C++ is a package of its own.
    if have(test, &["g++"]) {
        check("g++", "-x c++ -std=c++11");
    }
}
