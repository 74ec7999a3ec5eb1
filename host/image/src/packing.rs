//! How a file is packed, told by its first bytes.

/// How a file is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    Gzip,
    Xz,
    Zstd,
}

impl Packing {
    /// How many of a file's first bytes tell.
    pub(super) const HEAD: usize = 6;

    /// By a file's first bytes (RFC 1952, 2.3.1; the .xz file format, 2.1.1.1; RFC 8878, 3.1): names of files often do not say
    /// how they are packed, or say it of what they were made from.
    pub(super) fn of(head: &[u8]) -> Option<Self> {
        match head {
            [0x1f, 0x8b, 0x08, ..] => Some(Self::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            // A zstd file may begin with a frame for others to read, of which there are sixteen kinds.
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
