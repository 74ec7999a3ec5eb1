//! Inspects an image before QEMU opens it: what format it has, how large a disk it makes, and whether opening it could
//! reach beyond it. The rules read only the two ends of the file, so that an image of any size takes the same time and
//! memory.
//!
//! qhost runs qcow2, raw and ISO images. A file that QEMU would take for another format, or for two formats at once, is
//! refused, whatever it was meant to be: a guest writes to a raw disk, and a guest that writes another format's signature
//! there would choose what the host opens next time (CVE-2015-1850). Each rule has a name, which a refusal gives.

mod qcow2;
mod signatures;

use std::{fs::File, io, os::unix::fs::FileExt as _};

use serde::{Deserialize, Serialize};

use qhost_model::format::Format;

use signatures::Signature;

/// The version of the rules. A change of the rules changes it, so that a verdict by older rules is not taken for one by
/// these.
pub(super) const RULES: u32 = 2;

/// An image that may be given to QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspected {
    /// The image's format.
    pub format: Format,
    /// The file's size in bytes.
    pub bytes: u64,
    /// The size in bytes of the disk that a guest sees.
    pub disk_bytes: u64,
}

/// Why an image is not given to QEMU.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason} (check {check})")]
pub struct Refusal {
    /// The rule's name.
    pub check: &'static str,
    /// What was found, and what to do about it.
    pub reason: String,
}

fn refused<T>(check: &'static str, reason: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { check, reason: reason.into() })
}

/// The parts of an image that the rules look at.
#[derive(Clone, Copy)]
struct Ends<'a> {
    head: &'a [u8],
    tail: &'a [u8],
    /// The file's size.
    bytes: u64,
}

impl Ends<'_> {
    /// The head reaches up to an ISO's first volume descriptor, which begins at 32 KiB.
    const HEAD: usize = 36 << 10;
    /// The tail holds a footer of 512 bytes, which may be a little off the end.
    const TAIL: usize = 1 << 10;
}

/// Inspects a file. The outer error is a failed read, the inner one a refusal.
pub fn inspect(file: &File, max_disk_bytes: u64) -> io::Result<Result<Inspected, Refusal>> {
    let bytes = file.metadata()?.len();
    let (mut head, mut tail) = ([0; Ends::HEAD], [0; Ends::TAIL]);
    let head = read_at(file, &mut head, 0)?;
    let tail = read_at(file, &mut tail, bytes.saturating_sub(Ends::TAIL as u64))?;
    Ok(judge(Ends { head, tail, bytes }, max_disk_bytes))
}

fn judge(ends: Ends<'_>, max_disk_bytes: u64) -> Result<Inspected, Refusal> {
    if ends.bytes == 0 {
        return refused("not-empty", "it is empty");
    }
    let found = signatures::found(ends);
    let (format, disk_bytes) = match found.as_slice() {
        // QEMU rounds a raw disk up to whole sectors.
        [] => raw(ends).map(|()| (Format::Raw, ends.bytes.next_multiple_of(512)))?,
        [Signature::Qcow2] if has_boot_signature(ends) => {
            return refused(
                "one-format",
                "it is several things at once: qcow2, a partitioned disk",
            );
        }
        [Signature::Qcow2] => (Format::Qcow2, qcow2::disk_bytes(ends)?),
        // An ISO may have a partition table, which makes it boot from a USB stick as well.
        [Signature::Iso] => (Format::Iso, ends.bytes),
        [Signature::Packed(name)] => {
            let reason = format!(
                "it is {name}-compressed where a disk was expected; unpack it: a host unpacks what it fetches once"
            );
            return refused("format", reason);
        }
        [Signature::Refused { name, hint }] => {
            let reason = format!("its format is {name}; expected qcow2, raw or ISO; {hint}");
            return refused("format", reason);
        }
        several => {
            let names: Vec<_> = several.iter().map(|one| one.name()).collect();
            return refused(
                "one-format",
                format!("it is several things at once: {}", names.join(", ")),
            );
        }
    };
    if disk_bytes <= max_disk_bytes {
        Ok(Inspected { format, bytes: ends.bytes, disk_bytes })
    } else {
        refused(
            "disk-size",
            format!(
                "its disk has {disk_bytes} bytes, more than image.max_disk_bytes, {max_disk_bytes}"
            ),
        )
    }
}

/// Checks a disk's partition table. A disk that says it has a GUID partition table must have the protective entry that
/// keeps older software off it (UEFI 2.10, 5.2.3), alone and in its place; OpenStack's inspector asks for the same. That
/// inspector also checks other partition tables, and this function does not: nothing on the host reads one, a boot sector
/// may be code from end to end, and rescue floppies have no partition at all. The protective entry's CHS address is not
/// checked either, since partitioning tools write it differently.
fn raw(ends: Ends<'_>) -> Result<(), Refusal> {
    const PROTECTIVE: u8 = 0xee;
    if !ends.head.get(512..).is_some_and(|sector| sector.starts_with(b"EFI PART")) {
        return Ok(());
    }
    if !has_boot_signature(ends) {
        return refused(
            "gpt-protective-entry",
            "it has a GUID partition table but no boot signature",
        );
    }
    let entries = ends.head.get(446..510).unwrap_or_default().as_chunks::<16>().0;
    for (number, [status, _, _, _, kind, _, _, _, start @ .., _, _, _, _]) in
        entries.iter().enumerate()
    {
        if !matches!(status, 0 | 0x80) {
            let reason =
                format!("partition {number} has the boot flag {status:#x}; expected 0 or 0x80");
            return refused("partition-boot-flag", reason);
        }
        if *kind == PROTECTIVE && (number != 0 || *start != 1_u32.to_le_bytes()) {
            return refused(
                "gpt-protective-entry",
                format!(
                    "partition {number} is a protective one; expected that first and from sector 1 on"
                ),
            );
        }
    }
    match entries.first() {
        Some([_, _, _, _, PROTECTIVE, ..]) => Ok(()),
        Some(_) | None => refused(
            "gpt-protective-entry",
            "it has a GUID partition table, but its first partition is not the protective one",
        ),
    }
}

fn has_boot_signature(ends: Ends<'_>) -> bool {
    ends.head.get(510..512) == Some(&[0x55, 0xaa])
}

/// Reads as many bytes as there are, up to the buffer's size.
fn read_at<'a>(file: &File, buffer: &'a mut [u8], offset: u64) -> io::Result<&'a [u8]> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(buffer.get(..filled).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn check(image: &[u8], expected: Result<Format, &str>) {
        let head = &image[..image.len().min(Ends::HEAD)];
        let tail = &image[image.len().saturating_sub(Ends::TAIL)..];
        let verdict = judge(Ends { head, tail, bytes: image.len() as u64 }, 1 << 30);
        let found = verdict.as_ref().map(|inspected| inspected.format);
        assert_eq!(found.map_err(|refusal| refusal.check), expected, "{verdict:?}");
    }

    fn with(places: &[(usize, &[u8])]) -> Vec<u8> {
        let mut image = vec![0; 64 << 10];
        for (offset, bytes) in places {
            image[*offset..offset + bytes.len()].copy_from_slice(bytes);
        }
        image
    }

    #[test]
    fn what_is_accepted() {
        check(b"short", Ok(Format::Raw));
        check(&with(&[]), Ok(Format::Raw));
        check(&with(&[(510, &[0x55, 0xaa])]), Ok(Format::Raw));
        check(&with(&[(0x8001, b"CD001")]), Ok(Format::Iso));
        check(
            &with(&[(0x8001, b"CD001"), (510, &[0x55, 0xaa]), (512, b"EFI PART")]),
            Ok(Format::Iso),
        );
        check(b"", Err("not-empty"));
    }

    #[test]
    fn a_guid_partition_table() {
        let table = |entry: usize, kind: u8, start: u8, flag: u8| {
            let at = 446 + 16 * entry;
            with(&[
                (at, &[flag]),
                (at + 4, &[kind]),
                (at + 8, &[start]),
                (510, &[0x55, 0xaa]),
                (512, b"EFI PART"),
            ])
        };
        check(&table(0, 0xee, 1, 0), Ok(Format::Raw));
        check(&table(0, 0xee, 1, 0x80), Ok(Format::Raw));
        check(&table(0, 0xee, 1, 7), Err("partition-boot-flag"));
        check(&table(0, 0xee, 2, 0), Err("gpt-protective-entry"));
        check(&table(1, 0xee, 1, 0), Err("gpt-protective-entry"));
        check(&table(0, 0x83, 1, 0), Err("gpt-protective-entry"));
        check(&with(&[(512, b"EFI PART")]), Err("gpt-protective-entry"));
    }

    #[test]
    fn two_things_at_once() {
        check(&with(&[(0, b"QFI\xfb\0\0\0\x03"), (0x8001, b"CD001")]), Err("one-format"));
        check(&with(&[(0, b"QFI\xfb\0\0\0\x03"), (510, &[0x55, 0xaa])]), Err("one-format"));
        check(&with(&[(0, b"KDMV"), (0x40, &[0x7f, 0x10, 0xda, 0xbe])]), Err("one-format"));
        check(&with(&[(0x8001, b"CD001"), ((64 << 10) - 512, b"conectix")]), Err("one-format"));
    }

    #[test]
    fn the_size_of_the_disk() {
        let verdict = judge(Ends { head: &[1], tail: &[1], bytes: (1 << 30) + 1 }, 1 << 30);
        assert_eq!(verdict.unwrap_err().check, "disk-size");
    }
}
