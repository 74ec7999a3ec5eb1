//! What tells formats apart: the bytes that QEMU's own probes look for, and those of what images are packed in.

use super::Ends;

/// What an image bears the signature of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signature {
    Qcow2,
    Iso,
    /// A format that QEMU opens and qhost does not.
    Refused {
        name: &'static str,
        hint: &'static str,
    },
    /// Packed: with the ending of a file's name that makes qhost unpack it.
    Compressed {
        name: &'static str,
        ending: Option<&'static str>,
    },
}

impl Signature {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Iso => "ISO",
            Self::Refused { name, .. } | Self::Compressed { name, .. } => name,
        }
    }
}

const CONVERT: &str = "convert it: qemu-img convert -O qcow2";

const fn refused(name: &'static str) -> Signature {
    Signature::Refused { name, hint: CONVERT }
}

const fn compressed(name: &'static str, ending: &'static str) -> Signature {
    Signature::Compressed { name, ending: Some(ending) }
}

/// Signatures at an offset from the file's beginning.
const AT: &[(Signature, usize, &[u8])] = &[
    (Signature::Qcow2, 0, b"QFI\xfb"),
    // ECMA-119, 8.1, and ECMA-167, 3/9.1: a volume descriptor in sector 16.
    (Signature::Iso, 0x8001, b"CD001"),
    (Signature::Iso, 0x8001, b"NSR02"),
    (Signature::Iso, 0x8001, b"NSR03"),
    (refused("VMDK"), 0, b"KDMV"),
    (refused("VMDK"), 0, b"COWD"),
    (refused("VHD"), 0, b"conectix"),
    (refused("VHDX"), 0, b"vhdxfile"),
    (refused("VDI"), 0x40, &[0x7f, 0x10, 0xda, 0xbe]),
    (refused("QED"), 0, b"QED\0"),
    (refused("LUKS"), 0, b"LUKS\xba\xbe"),
    // The second header of LUKS version 2, where the first was wiped.
    (refused("LUKS"), 0x4000, b"SKUL\xba\xbe"),
    (refused("Parallels"), 0, b"WithoutFreeSpace"),
    (refused("Parallels"), 0, b"WithouFreSpacExt"),
    (refused("Bochs"), 0, b"Bochs Virtual HD Image"),
    (refused("cloop"), 0, b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop"),
    (Signature::Refused { name: "tar or OVA", hint: "take the disk out of it" }, 257, b"ustar"),
    (compressed("gzip", ".gz"), 0, &[0x1f, 0x8b, 0x08]),
    (compressed("xz", ".xz"), 0, b"\xfd7zXZ\0"),
    (compressed("zstd", ".zst"), 0, &[0x28, 0xb5, 0x2f, 0xfd]),
    (Signature::Compressed { name: "bzip2", ending: None }, 4, b"1AY&SY"),
];

/// Every signature that an image bears, each format once.
pub(super) fn found(ends: Ends<'_>) -> Vec<Signature> {
    let at = |&(signature, offset, magic): &(Signature, usize, &[u8])| {
        let found = ends.head.get(offset..).is_some_and(|rest| rest.starts_with(magic));
        found.then_some(signature)
    };
    let mut found: Vec<_> = AT.iter().filter_map(at).collect();
    // A zstd file may begin with a frame for others to read (RFC 8878, 3.1.2), of which there are sixteen kinds.
    if matches!(ends.head, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..]) {
        found.push(compressed("zstd", ".zst"));
    }
    // A fixed VHD has its footer alone, which old versions of its writer made a byte shorter.
    if footer(ends.tail, b"conectix") {
        found.push(refused("VHD"));
    }
    // Signature, version 4, header size 512.
    if contains(ends.tail, b"koly\0\0\0\x04\0\0\x02\0") {
        found.push(refused("DMG"));
    }
    if is_vmdk_descriptor(ends.head) {
        found.push(refused("VMDK"));
    }
    let mut names: Vec<&str> = vec![];
    found.retain(|one| {
        let new = !names.contains(&one.name());
        names.push(one.name());
        new
    });
    found
}

fn footer(tail: &[u8], magic: &[u8]) -> bool {
    [512, 511].iter().any(|size| {
        let at = tail.len().checked_sub(*size);
        at.and_then(|at| tail.get(at..)).is_some_and(|rest| rest.starts_with(magic))
    })
}

fn contains(bytes: &[u8], magic: &[u8]) -> bool {
    bytes.windows(magic.len()).any(|window| window == magic)
}

/// A VMDK's descriptor is text, and names the files that hold the data: any file of the host (CVE-2022-47951). QEMU's
/// probe skips comments and empty lines, and then looks for the version.
fn is_vmdk_descriptor(head: &[u8]) -> bool {
    if head.starts_with(b"# Disk DescriptorFile") {
        return true;
    }
    let mut lines = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let first = lines.find(|line| !line.is_empty() && !line.starts_with(b"#"));
    first.is_some_and(|line| line.starts_with(b"version="))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(head: &[u8], tail: &[u8]) -> Vec<&'static str> {
        let ends = Ends { head, tail, bytes: (head.len() + tail.len()) as u64 };
        found(ends).iter().map(|one| one.name()).collect()
    }

    #[test]
    fn every_signature_is_found() {
        for (signature, offset, magic) in AT {
            let head = [&vec![0; *offset][..], magic].concat();
            assert_eq!(names(&head, &[]), [signature.name()]);
        }
    }

    #[test]
    fn descriptors_of_vmdk() {
        for text in [
            "# Disk DescriptorFile\n",
            "version=1\n",
            "# a\n\n  \r\nversion=3\nCID=1",
            "  version=2",
        ] {
            assert_eq!(names(text.as_bytes(), &[]), ["VMDK"], "{text}");
        }
        assert_eq!(names(b"# a shell script\necho version=1\n", &[]), [""; 0]);
    }

    #[test]
    fn zstd_with_a_frame_for_others_first() {
        for kind in 0x50..=0x5f {
            assert_eq!(names(&[kind, 0x2a, 0x4d, 0x18, 0, 0, 0, 0], &[]), ["zstd"]);
        }
    }

    #[test]
    fn footers() {
        let vhd = [b"conectix".to_vec(), vec![0; 504]].concat();
        assert_eq!(names(&[], &vhd), ["VHD"]);
        assert_eq!(names(&[], &vhd[..511]), ["VHD"]);
        let dmg = [b"koly\0\0\0\x04\0\0\x02\0".to_vec(), vec![0; 500]].concat();
        assert_eq!(names(&[], &dmg), ["DMG"]);
        assert_eq!(names(&vhd, &vhd), ["VHD"], "a dynamic VHD has both");
    }
}
