//! The signatures that tell formats apart: the bytes that QEMU's own probes look for, and those of formats that images are
//! packed in.

use super::Ends;

/// A format that an image bears the signature of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signature {
    Qcow2,
    Iso,
    /// A format that qhost does not give to a guest.
    Refused {
        name: &'static str,
        hint: &'static str,
    },
    /// A packing that qhost unpacks while the image arrives, once.
    Packed(&'static str),
}

impl Signature {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Iso => "ISO",
            Self::Refused { name, .. } | Self::Packed(name) => name,
        }
    }
}

const CONVERT: &str = "convert it: qemu-img convert -O qcow2";

const fn refused(name: &'static str) -> Signature {
    Signature::Refused { name, hint: CONVERT }
}

const fn archive(name: &'static str) -> Signature {
    Signature::Refused { name, hint: "take the disk out of it" }
}

const fn compressed(name: &'static str) -> Signature {
    Signature::Refused {
        name,
        hint: "unpack it, or pack it with gzip, xz or zstd, which are unpacked here",
    }
}

const fn file_system(name: &'static str) -> Signature {
    Signature::Refused { name, hint: "a guest boots from a whole disk: put it into one" }
}

/// Signatures at an offset from the file's beginning.
const AT: &[(Signature, usize, &[u8])] = &[
    (Signature::Qcow2, 0, b"QFI\xfb"),
    // A volume descriptor stands in sector 16 (ECMA-119, 8.1, and ECMA-167, 3/9.1).
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
    // A LUKS 2 image has a second header, which stays where the first was wiped.
    (refused("LUKS"), 0x4000, b"SKUL\xba\xbe"),
    (refused("Parallels"), 0, b"WithoutFreeSpace"),
    (refused("Parallels"), 0, b"WithouFreSpacExt"),
    (refused("Bochs"), 0, b"Bochs Virtual HD Image"),
    (refused("cloop"), 0, b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop"),
    (archive("tar or OVA"), 257, b"ustar"),
    (archive("zip"), 0, b"PK\x03\x04"),
    (archive("zip"), 0, b"PK\x05\x06"),
    (archive("7z"), 0, b"7z\xbc\xaf\x27\x1c"),
    (archive("RAR"), 0, b"Rar!\x1a\x07"),
    (archive("WIM"), 0, b"MSWIM\0\0\0"),
    (archive("cabinet"), 0, b"MSCF\0\0\0\0"),
    (archive("Unix archive or Debian package"), 0, b"!<arch>\n"),
    (archive("RPM"), 0, &[0xed, 0xab, 0xee, 0xdb]),
    (archive("XAR"), 0, b"xar!\0"),
    (archive("cpio"), 0, b"070701"),
    (archive("cpio"), 0, b"070702"),
    (archive("cpio"), 0, b"070707"),
    (Signature::Packed("gzip"), 0, &[0x1f, 0x8b, 0x08]),
    (Signature::Packed("xz"), 0, b"\xfd7zXZ\0"),
    (Signature::Packed("zstd"), 0, &[0x28, 0xb5, 0x2f, 0xfd]),
    (compressed("bzip2"), 4, b"1AY&SY"),
    (compressed("lz4"), 0, &[0x04, 0x22, 0x4d, 0x18]),
    (compressed("lz4"), 0, &[0x02, 0x21, 0x4c, 0x18]),
    (compressed("lzip"), 0, b"LZIP\x01"),
    (compressed("lzop"), 0, b"\x89LZO\0\r\n\x1a\n"),
    (compressed("compress"), 0, &[0x1f, 0x9d]),
    (
        Signature::Refused { name: "Android sparse", hint: "make a whole disk of it: simg2img" },
        0,
        &[0x3a, 0xff, 0x26, 0xed],
    ),
    (file_system("squashfs"), 0, b"hsqs"),
    (file_system("squashfs"), 0, b"sqsh"),
    (file_system("cramfs"), 0, &[0x45, 0x3d, 0xcd, 0x28]),
    (file_system("EROFS"), 1024, &[0xe2, 0xe1, 0xf5, 0xe0]),
    (
        Signature::Refused {
            name: "ELF, a kernel or program",
            hint: "a guest boots from a whole disk",
        },
        0,
        b"\x7fELF",
    ),
];

/// Every signature that an image bears, each format once.
pub(super) fn found(ends: Ends<'_>) -> Vec<Signature> {
    let at = |&(signature, offset, magic): &(Signature, usize, &[u8])| {
        let found = ends.head.get(offset..).is_some_and(|rest| rest.starts_with(magic));
        found.then_some(signature)
    };
    let mut found: Vec<_> = AT.iter().filter_map(at).collect();
    // A zstd file may begin with a skippable frame (RFC 8878, 3.1.2), of which there are sixteen kinds.
    if matches!(ends.head, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..]) {
        found.push(Signature::Packed("zstd"));
    }
    // A fixed VHD has only a footer, which old versions of its writer made a byte shorter.
    if footer(ends.tail, b"conectix") {
        found.push(refused("VHD"));
    }
    // The footer begins with signature, version 4 and header size 512.
    if contains(ends.tail, b"koly\0\0\0\x04\0\0\x02\0") {
        found.push(refused("DMG"));
    }
    if is_lzma(ends.head) {
        found.push(compressed("lzma"));
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

/// Whether the image is a VMDK's descriptor, a text that names the files with the data: any file of the host (CVE-2022-47951).
/// QEMU's probe skips comments and empty lines, and then looks for the version.
fn is_vmdk_descriptor(head: &[u8]) -> bool {
    if head.starts_with(b"# Disk DescriptorFile") {
        return true;
    }
    let mut lines = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let first = lines.find(|line| !line.is_empty() && !line.starts_with(b"#"));
    first.is_some_and(|line| line.starts_with(b"version="))
}

/// Whether the image is an .lzma file. The format has no magic: properties, a dictionary size, which is mostly a power of two,
/// and the size of the unpacked file, which is mostly left open. xz itself goes by these fields (liblzma, alone_decoder.c).
fn is_lzma(head: &[u8]) -> bool {
    let [0x5d, dictionary @ .., _, _, _, _, _, _, _, _] =
        head.first_chunk::<13>().copied().unwrap_or_default()
    else {
        return false;
    };
    let dictionary = u32::from_le_bytes(dictionary);
    let one_bit = dictionary.is_power_of_two();
    let size = head.get(5..13).and_then(|size| size.try_into().ok()).map(u64::from_le_bytes);
    one_bit
        && dictionary >= 4096
        && size.is_some_and(|size| size == u64::MAX || (1..1 << 38).contains(&size))
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
    fn lzma_which_has_no_magic() {
        let head = |dictionary: u32, size: u64| {
            [&[0x5d][..], &dictionary.to_le_bytes(), &size.to_le_bytes(), &[0; 100]].concat()
        };
        for size in [u64::MAX, 10 << 30] {
            assert_eq!(names(&head(8 << 20, size), &[]), ["lzma"]);
        }
        for (dictionary, size) in
            [(0, u64::MAX), (12345, u64::MAX), (8 << 20, 0), (8 << 20, 1 << 40)]
        {
            assert_eq!(names(&head(dictionary, size), &[]), [""; 0]);
        }
        assert_eq!(names(&[0x5d, 0, 0, 0x80, 0], &[]), [""; 0], "too short for one");
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
