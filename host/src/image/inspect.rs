//! Looks at an image before QEMU does: what it is, how large a disk it makes, and whether it names other files.
//!
//! A qcow2 image can name a backing file or a data file, and QEMU would read those with the host's rights
//! (CVE-2024-32498). Rules that are not met refuse the image; they follow QEMU's `docs/interop/qcow2.txt`.

use std::{fs::File, io, os::unix::fs::FileExt as _};

use super::Format;

/// An image that may be given to QEMU.
pub(super) struct Inspected {
    pub(super) format: Format,
    /// The file's size.
    pub(super) bytes: u64,
    /// The disk's size.
    pub(super) disk_bytes: u64,
}

/// Formats that QEMU knows and qhost does not run, by what their files hold at an offset.
const REFUSED: &[(&str, usize, &[u8])] = &[
    ("VMDK", 0, b"KDMV"),
    ("VMDK", 0, b"COWD"),
    ("VMDK", 0, b"# Disk DescriptorFile"),
    ("VHD", 0, b"conectix"),
    ("VHDX", 0, b"vhdxfile"),
    ("VDI", 0x40, &[0x7f, 0x10, 0xda, 0xbe]),
    ("QED", 0, b"QED\0"),
    ("LUKS", 0, b"LUKS\xba\xbe"),
    ("Parallels", 0, b"WithoutFreeSpace"),
    ("Parallels", 0, b"WithouFreSpacExt"),
    ("Bochs", 0, b"Bochs Virtual HD Image"),
];

const QCOW_MAGIC: &[u8] = b"QFI\xfb";
/// ECMA-119, 8.1: the identifier of the first volume descriptor, in sector 16.
const ISO_MAGIC: (u64, &[u8]) = (0x8001, b"CD001");
/// Incompatible features that concern nothing but this file: compression type, extended L2 entries.
const HARMLESS_FEATURES: u64 = 1 << 3 | 1 << 4;
const EXTERNAL_DATA_FILE: u64 = 1 << 2;
const CORRUPT: u64 = 1 << 1;

/// The outer result is the disk's, the inner the image's: the reason why it is refused.
pub(super) fn inspect(file: &File, max_disk_bytes: u64) -> io::Result<Result<Inspected, String>> {
    let bytes = file.metadata()?.len();
    let mut header = [0; 512];
    let read = read_at(file, &mut header, 0)?;
    let header = header.get(..read).unwrap_or_default();
    let mut iso = [0; ISO_MAGIC.1.len()];
    let is_iso = read_at(file, &mut iso, ISO_MAGIC.0)? == iso.len() && iso == *ISO_MAGIC.1;
    let verdict = judge(header, is_iso, bytes).and_then(|(format, disk_bytes)| {
        match disk_bytes <= max_disk_bytes {
            true => Ok(Inspected { format, bytes, disk_bytes }),
            false => Err(format!(
                "its disk has {disk_bytes} bytes, more than image.max_disk_bytes, {max_disk_bytes}"
            )),
        }
    });
    Ok(verdict)
}

fn judge(header: &[u8], is_iso: bool, bytes: u64) -> Result<(Format, u64), String> {
    if bytes == 0 {
        return Err("it is empty".into());
    }
    let at = |(_, offset, magic): &&(&str, usize, &[u8])| {
        header.get(*offset..).is_some_and(|rest| rest.starts_with(magic))
    };
    if let Some((name, _, _)) = REFUSED.iter().find(at) {
        return Err(format!(
            "it is a {name} image; expected qcow2, raw or ISO; convert it: qemu-img convert -O qcow2"
        ));
    }
    match (header.starts_with(QCOW_MAGIC), is_iso) {
        (true, true) => Err("it is both a qcow2 and an ISO image".into()),
        (true, false) => qcow2(header).map(|disk| (Format::Qcow2, disk)),
        (false, true) => Ok((Format::Iso, bytes)),
        // QEMU rounds a raw disk up to whole sectors.
        (false, false) => Ok((Format::Raw, bytes.next_multiple_of(512))),
    }
}

/// Judges a qcow2 header and gives the disk's size.
fn qcow2(header: &[u8]) -> Result<u64, String> {
    let short = || "its qcow2 header is cut off".to_owned();
    let be32 = |at: usize| be(header, at).map(u32::from_be_bytes).ok_or_else(short);
    let be64 = |at: usize| be(header, at).map(u64::from_be_bytes).ok_or_else(short);
    let version = be32(4)?;
    if !matches!(version, 2 | 3) {
        return Err(format!("it is qcow2 of version {version}; expected 2 or 3"));
    }
    if be64(8)? != 0 || be32(16)? != 0 {
        return Err("it names a backing file, another file on the host; flatten it: qemu-img convert -O qcow2".into());
    }
    if be32(32)? != 0 {
        return Err("it is encrypted".into());
    }
    let features = if version == 3 { be64(72)? } else { 0 };
    if features & EXTERNAL_DATA_FILE != 0 {
        return Err(
            "it keeps its data in another file on the host; convert it: qemu-img convert -O qcow2"
                .into(),
        );
    }
    if features & CORRUPT != 0 {
        return Err("it is marked corrupt; repair it: qemu-img check -r all".into());
    }
    if features & !HARMLESS_FEATURES != 0 {
        return Err(format!(
            "it needs qcow2 features {features:#x}, of which some are unknown or unsafe"
        ));
    }
    match be64(24)? {
        0 => Err("its disk is empty".into()),
        disk => Ok(disk),
    }
}

fn be<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// Reads as much as there is, up to the buffer's size.
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(version: u32, edit: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut header = vec![0; 512];
        header[..4].copy_from_slice(QCOW_MAGIC);
        header[4..8].copy_from_slice(&version.to_be_bytes());
        header[24..32].copy_from_slice(&(1_u64 << 20).to_be_bytes());
        edit(&mut header);
        header
    }

    fn check(header: &[u8], is_iso: bool, expected: Result<Format, &str>) {
        match (judge(header, is_iso, 1 << 20), expected) {
            (Ok((format, _)), Ok(expected)) => assert_eq!(format, expected),
            (Err(reason), Err(expected)) => assert!(reason.contains(expected), "{reason}"),
            (verdict, expected) => panic!("{verdict:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn formats() {
        check(&header(3, |_| {}), false, Ok(Format::Qcow2));
        check(&header(2, |_| {}), false, Ok(Format::Qcow2));
        check(&[0; 512], true, Ok(Format::Iso));
        check(b"short", false, Ok(Format::Raw));
        check(&header(3, |_| {}), true, Err("both"));
        check(b"KDMV....", false, Err("VMDK"));
        check(b"vhdxfile", false, Err("VHDX"));
    }

    #[test]
    fn qcow2_that_is_refused() {
        check(&header(1, |_| {}), false, Err("version 1"));
        check(&header(3, |h| h[15] = 1), false, Err("backing file"));
        check(&header(2, |h| h[19] = 9), false, Err("backing file"));
        check(&header(3, |h| h[35] = 1), false, Err("encrypted"));
        check(&header(3, |h| h[79] = 4), false, Err("another file"));
        check(&header(3, |h| h[79] = 2), false, Err("corrupt"));
        check(&header(3, |h| h[79] = 32), false, Err("0x20"));
        check(&header(3, |h| h[24..32].fill(0)), false, Err("empty"));
        check(&header(3, |_| {})[..40], false, Err("cut off"));
    }
}
