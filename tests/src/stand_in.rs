//! The program in QEMU's place (`tests/src/bin/qemu-stand-in.rs`): how it is found as QEMU, and the disk with its
//! deeds.

use std::fs;

use crate::{
    Qhost,
    boot_sector::{self, Then},
    succeed,
};

/// A `PATH` on which the stand-in is found as QEMU; questions about QEMU before a launch reach the real one.
pub fn path(qhost: &Qhost, stand_in: &str) -> String {
    let bin = qhost.folder().join("bin");
    fs::create_dir(&bin).expect("a folder for the stand-in");
    fs::copy(stand_in, bin.join("qemu-system-x86_64")).expect("the stand-in");
    let real = succeed("sh", &["-c", "command -v qemu-system-x86_64"]);
    fs::write(bin.join("real"), real.trim()).expect("where QEMU is");
    format!("{}:{}", bin.display(), std::env::var("PATH").expect("a PATH"))
}

/// A disk that prints a text when QEMU boots it. The stand-in's deeds are on the disk, as everything is that a guest
/// brings.
pub fn disk(says: &str, deeds: &[&str]) -> Vec<u8> {
    let mut disk = boot_sector::disk(says, Then::Hang);
    let text = deeds.join("\n") + "\n\0";
    disk[512..512 + text.len()].copy_from_slice(text.as_bytes());
    disk
}
