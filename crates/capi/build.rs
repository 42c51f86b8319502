//! Gives the shared library the name that programs are linked to.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let system = std::env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    let unix = std::env::var_os("CARGO_CFG_UNIX").is_some();
    // The number is the ABI's: docs/c-abi.md has the rules for it.
    if matches!(system.as_str(), "macos" | "ios") {
        let name = "-Wl,-install_name,@rpath/libslimdisk.0.dylib";
        println!("cargo::rustc-cdylib-link-arg={name}");
    } else if unix {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libslimdisk.so.0");
    }
}
