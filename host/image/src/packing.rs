//! Tells by a file's first bytes how the file is packed.

/// The packings that are unpacked as a file arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    Gzip,
    Xz,
    Zstd,
}

impl Packing {
    /// How many of a file's first bytes tell the packing.
    pub(super) const HEAD: usize = 6;

    /// Tells the packing by a file's first bytes (RFC 1952, 2.3.1; the .xz file format, 2.1.1.1; RFC 8878, 3.1). A file's name
    /// often does not tell its packing, or tells the packing of a file that it was made from.
    pub(super) fn of(head: &[u8]) -> Option<Self> {
        match head {
            [0x1f, 0x8b, 0x08, ..] => Some(Self::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            // A zstd file may begin with a skippable frame, of which there are sixteen kinds.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Self::Zstd),
            _ => None,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_files_are_packed() {
        for (head, expected) in [
            (&b"\x1f\x8b\x08\0\0\0"[..], Some(Packing::Gzip)),
            (b"\xfd7zXZ\0", Some(Packing::Xz)),
            (b"\x28\xb5\x2f\xfd\x24\0", Some(Packing::Zstd)),
            (b"\x53\x2a\x4d\x18\0\0", Some(Packing::Zstd)),
            (b"\xfd7zXZ", None),
            (b"QFI\xfb\0\0", None),
            (b"", None),
        ] {
            assert_eq!(Packing::of(head), expected, "{head:?}");
        }
    }
}
