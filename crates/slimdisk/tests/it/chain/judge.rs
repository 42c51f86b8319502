//! 7-Zip and libvhdi, which read chains with code of their own.

use std::path::{Path, PathBuf};

use crate::support::{have, sh, skip};

/// Where `./test` puts libvhdi's Python module, if it is there.
pub fn python(test: &str) -> Option<PathBuf> {
    if !have(test, &["python3"]) {
        return None;
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let dir = std::env::var_os("SLIMDISK_PYTHON")
        .map_or_else(|| target.join("python"), PathBuf::from);
    let there = dir.read_dir().is_ok_and(|entries| {
        entries.flatten().any(|e| e.file_name().to_string_lossy().starts_with("pyvhdi"))
    });
    if !there {
        skip(test, "libvhdi (pip install libvhdi-python)");
        return None;
    }
    Some(dir)
}

/// The SHA-256 of a disk as libvhdi reads it; `paths` from the child to its last parent.
pub fn vhdi_digest(python: &Path, paths: &[PathBuf]) -> String {
    let args: Vec<_> = paths.iter().map(|path| format!("'{}'", path.display())).collect();
    let read = sh(&format!(
        r#"PYTHONPATH={} python3 - {} <<'END'
import hashlib, sys, pyvhdi
above = None
files = []
for path in reversed(sys.argv[1:]):
    file = pyvhdi.file()
    file.open(path)
    if above is not None:
        file.set_parent(above)
    above = file
    files.append(file)
digest = hashlib.sha256()
left = above.get_media_size()
while left:
    data = above.read(min(left, 1 << 20))
    assert data
    digest.update(data)
    left -= len(data)
print(digest.hexdigest())
END"#,
        python.display(),
        args.join(" ")
    ));
    read.trim().to_owned()
}

/// The SHA-256 of a disk as 7-Zip reads it, which finds the parents by their names.
pub fn seven_zip_digest(child: &Path) -> String {
    let read =
        sh(&format!("7zz e -tvhd -so '{}' 2>/dev/null | sha256sum", child.display()));
    read.split(' ').next().unwrap().to_owned()
}

/// The SHA-256 of a disk.
pub fn digest_of(disk: &[u8]) -> String {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    let mut child = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(disk).unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
}
