//! The rules for qcow2 images. Fields and features are those of QEMU's `docs/interop/qcow2.txt`; limits are QEMU's own
//! (`block/qcow2.h`) or tighter.
//!
//! The first group of rules keeps QEMU inside the file: a backing file, a data file or a snapshot's table would be read
//! with the host's rights (CVE-2014-0144, CVE-2024-32498). The second group keeps the image's tables inside the file
//! and small.

use super::{Ends, Refusal, refused};

// Incompatible features, by bit.
const DIRTY: u64 = 1;
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA_FILE: u64 = 1 << 2;
const COMPRESSION_TYPE: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;
const KNOWN: u64 = DIRTY | CORRUPT | EXTERNAL_DATA_FILE | COMPRESSION_TYPE | EXTENDED_L2;

const L1_TABLE_BYTES: u64 = 32 << 20;
const REFCOUNT_TABLE_BYTES: u64 = 8 << 20;

struct Header<'a> {
    bytes: &'a [u8],
    version: u32,
}

/// Checks the header and gives the disk's size.
pub(super) fn disk_bytes(ends: Ends<'_>) -> Result<u64, Refusal> {
    let mut header = Header { bytes: ends.head, version: 0 };
    header.version = header.u32(4)?;
    header.stands_by_itself()?;
    let cluster = header.clusters()?;
    header.extensions(cluster)?;
    let disk = header.u64(24)?;
    if disk == 0 || i64::try_from(disk).is_err() {
        return refused("qcow2-size", format!("its disk has {disk} bytes; expected 1 to 2^63 - 1"));
    }
    header.tables(ends.bytes, cluster, disk)?;
    Ok(disk)
}

impl Header<'_> {
    fn stands_by_itself(&self) -> Result<(), Refusal> {
        if self.version == 1 {
            return refused(
                "format",
                "it is a QCOW image of version 1; expected version 2 or 3; convert it: qemu-img convert -O qcow2",
            );
        }
        if !matches!(self.version, 2 | 3) {
            return refused(
                "qcow2-version",
                format!("it is qcow2 of version {}; expected 2 or 3", self.version),
            );
        }
        if self.u64(8)? != 0 || self.u32(16)? != 0 {
            return refused(
                "qcow2-backing-file",
                "it names a backing file, another file on the host; flatten it: qemu-img convert -O qcow2",
            );
        }
        if self.u32(32)? != 0 {
            return refused("qcow2-encryption", "it is encrypted; expected a plain image");
        }
        if self.u32(60)? != 0 {
            return refused(
                "qcow2-snapshots",
                "it has snapshots; expected none: qemu-img snapshot -d",
            );
        }
        let features = self.features()?;
        if features & EXTERNAL_DATA_FILE != 0 {
            return refused(
                "qcow2-data-file",
                "it keeps its data in another file on the host; convert it: qemu-img convert -O qcow2",
            );
        }
        if features & CORRUPT != 0 {
            return refused(
                "qcow2-corrupt",
                "it is marked corrupt; repair it: qemu-img check -r all",
            );
        }
        if features & DIRTY != 0 {
            return refused(
                "qcow2-dirty",
                "it was not closed properly; repair it: qemu-img check -r all",
            );
        }
        match features & !KNOWN {
            0 => Ok(()),
            unknown => {
                refused("qcow2-features", format!("it needs unknown features, {unknown:#x}"))
            }
        }
    }

    /// Checks the cluster size and gives it in bytes.
    fn clusters(&self) -> Result<u64, Refusal> {
        let bits = self.u32(20)?;
        let least = if self.features()? & EXTENDED_L2 != 0 { 14 } else { 9 };
        if !(least..=21).contains(&bits) {
            return refused(
                "qcow2-cluster-bits",
                format!("its clusters have 2^{bits} bytes; expected 2^{least} to 2^21"),
            );
        }
        let order = if self.version == 3 { self.u32(96)? } else { 4 };
        if order > 6 {
            return refused(
                "qcow2-refcount-order",
                format!("its reference counts have 2^{order} bits; expected up to 2^6"),
            );
        }
        Ok(1 << bits)
    }

    fn extensions(&self, cluster: u64) -> Result<(), Refusal> {
        const END: u32 = 0;
        const FEATURE_NAMES: u32 = 0x6803_f857;
        let length = if self.version == 3 { u64::from(self.u32(100)?) } else { 72 };
        let expected = if self.version == 3 { 104..=cluster } else { 72..=72 };
        if !expected.contains(&length) || !length.is_multiple_of(8) {
            return refused(
                "qcow2-header-length",
                format!(
                    "its header has {length} bytes; expected 104 to a cluster's {cluster}, in eights"
                ),
            );
        }
        let compression = self.bytes.get(104).filter(|_| length > 104).copied().unwrap_or(0);
        let expected = u8::from(self.features()? & COMPRESSION_TYPE != 0);
        if compression != expected {
            return refused(
                "qcow2-compression-type",
                format!(
                    "its compression type is {compression}; expected {expected} by its features"
                ),
            );
        }
        let end = cluster.min(self.bytes.len() as u64);
        let mut at = length;
        while at + 8 <= end {
            let place = usize::try_from(at).unwrap_or(usize::MAX);
            let (kind, length) = (self.u32(place)?, u64::from(self.u32(place.saturating_add(4))?));
            at = at + 8 + length.next_multiple_of(8);
            if at > end {
                return refused(
                    "qcow2-header-extension",
                    format!(
                        "the header extension {kind:#x} has {length} bytes, more than its cluster holds"
                    ),
                );
            }
            let name = match kind {
                END => return Ok(()),
                FEATURE_NAMES => continue,
                0xe279_2aca => "the format of a backing file",
                0x4441_5441 => "the name of a data file",
                0x0537_be77 => "an encryption header",
                0x2385_2875 => "dirty bitmaps",
                _ => "an unknown one",
            };
            return refused(
                "qcow2-header-extension",
                format!(
                    "it has the header extension {kind:#x}, {name}; convert it: qemu-img convert -O qcow2"
                ),
            );
        }
        // A list without an end mark fills its cluster, and a list that fills its cluster was seen whole.
        if end == cluster {
            Ok(())
        } else {
            refused(
                "qcow2-header-extension",
                format!("its header extensions do not end within {end} bytes"),
            )
        }
    }

    /// Checks that both tables lie in the file, behind the header, each from a cluster's beginning on.
    fn tables(&self, file: u64, cluster: u64, disk: u64) -> Result<(), Refusal> {
        let entries = u64::from(self.u32(36)?);
        let entry = if self.features()? & EXTENDED_L2 != 0 { 16 } else { 8 };
        // An L2 table fills a cluster, and each of its entries is for a cluster of the disk.
        let needed = disk.div_ceil(cluster).div_ceil(cluster / entry);
        if entries < needed {
            return refused(
                "qcow2-l1-table",
                format!("its L1 table has {entries} entries; expected {needed} for its disk"),
            );
        }
        let place = |at| self.u64(at);
        within(
            "qcow2-l1-table",
            "L1 table",
            place(40)?,
            entries * 8,
            L1_TABLE_BYTES,
            (file, cluster),
        )?;
        let counts = u64::from(self.u32(56)?) * cluster;
        if counts == 0 {
            return refused("qcow2-refcount-table", "it has no table of reference counts");
        }
        within(
            "qcow2-refcount-table",
            "table of reference counts",
            place(48)?,
            counts,
            REFCOUNT_TABLE_BYTES,
            (file, cluster),
        )
    }

    fn features(&self) -> Result<u64, Refusal> {
        if self.version == 3 { self.u64(72) } else { Ok(0) }
    }

    fn u32(&self, at: usize) -> Result<u32, Refusal> {
        self.number(at).map(u32::from_be_bytes)
    }

    fn u64(&self, at: usize) -> Result<u64, Refusal> {
        self.number(at).map(u64::from_be_bytes)
    }

    fn number<const N: usize>(&self, at: usize) -> Result<[u8; N], Refusal> {
        let bytes = self.bytes.get(at..).and_then(|rest| rest.first_chunk().copied());
        bytes.map_or_else(|| refused("qcow2-header-length", "its qcow2 header is cut off"), Ok)
    }
}

fn within(
    check: &'static str,
    name: &str,
    offset: u64,
    length: u64,
    most: u64,
    (file, cluster): (u64, u64),
) -> Result<(), Refusal> {
    if length > most {
        return refused(check, format!("its {name} has {length} bytes; expected up to {most}"));
    }
    if offset < cluster || !offset.is_multiple_of(cluster) {
        return refused(
            check,
            format!(
                "its {name} is at {offset}; expected it behind the header, at a multiple of {cluster}"
            ),
        );
    }
    if offset.checked_add(length).is_some_and(|end| end <= file) {
        Ok(())
    } else {
        refused(
            check,
            format!("its {name} is at {offset} with {length} bytes, outside of the file's {file}"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Format, tests::check};

    /// An image of 1 MiB with clusters of 64 KiB and empty tables.
    fn image(version: u32, edit: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut image = vec![0; 192 << 10];
        image[..4].copy_from_slice(b"QFI\xfb");
        let mut number =
            |at: usize, value: u32| image[at..at + 4].copy_from_slice(&value.to_be_bytes());
        number(4, version);
        number(20, 16);
        number(28, 1 << 20);
        number(36, 1);
        number(44, 64 << 10);
        number(52, 128 << 10);
        number(56, 1);
        if version == 3 {
            number(96, 4);
            number(100, 104);
        }
        edit(&mut image);
        image
    }

    fn put(at: usize, bytes: &[u8]) -> impl FnOnce(&mut [u8]) {
        move |image| image[at..at + bytes.len()].copy_from_slice(bytes)
    }

    #[test]
    fn what_is_accepted() {
        for version in [2, 3] {
            check(&image(version, |_| {}), Ok(Format::Qcow2));
        }
        check(&image(3, put(104, &[0x68, 0x03, 0xf8, 0x57, 0, 0, 0, 8])), Ok(Format::Qcow2));
        let zstd = |image: &mut [u8]| {
            image[79] = 8;
            image[103] = 112;
            image[104] = 1;
        };
        check(&image(3, zstd), Ok(Format::Qcow2));
        check(&image(3, |image| image[79] = 16), Ok(Format::Qcow2));
    }

    #[test]
    fn every_rule() {
        let extension = |kind: u32, length: u32| {
            move |image: &mut [u8]| {
                image[104..108].copy_from_slice(&kind.to_be_bytes());
                image[108..112].copy_from_slice(&length.to_be_bytes());
            }
        };
        for (image, rule) in [
            (image(1, |_| {}), "format"),
            (image(4, |_| {}), "qcow2-version"),
            (image(3, put(15, &[1])), "qcow2-backing-file"),
            (image(2, put(19, &[9])), "qcow2-backing-file"),
            (image(3, put(35, &[1])), "qcow2-encryption"),
            (image(3, put(35, &[2])), "qcow2-encryption"),
            (image(3, put(63, &[1])), "qcow2-snapshots"),
            (image(3, put(79, &[4])), "qcow2-data-file"),
            (image(3, put(79, &[2])), "qcow2-corrupt"),
            (image(3, put(79, &[1])), "qcow2-dirty"),
            (image(3, put(79, &[32])), "qcow2-features"),
            (image(3, put(72, &[0x80])), "qcow2-features"),
            (image(3, put(23, &[8])), "qcow2-cluster-bits"),
            (image(3, put(23, &[22])), "qcow2-cluster-bits"),
            (image(3, put(23, &[63])), "qcow2-cluster-bits"),
            (image(3, put(99, &[7])), "qcow2-refcount-order"),
            (image(3, put(103, &[96])), "qcow2-header-length"),
            (image(3, put(103, &[105])), "qcow2-header-length"),
            (image(3, put(100, &[0xff])), "qcow2-header-length"),
            (image(3, put(79, &[8])), "qcow2-compression-type"),
            (image(3, extension(0xe279_2aca, 5)), "qcow2-header-extension"),
            (image(3, extension(0x4441_5441, 5)), "qcow2-header-extension"),
            (image(3, extension(0x0537_be77, 16)), "qcow2-header-extension"),
            (image(3, extension(0x2385_2875, 24)), "qcow2-header-extension"),
            (image(3, extension(0x1234_5678, 0)), "qcow2-header-extension"),
            (image(3, extension(0x6803_f857, u32::MAX)), "qcow2-header-extension"),
            // The extension is as long as the part of the file that the rules read, and more of the file follows.
            (image(3, extension(0x6803_f857, (36 << 10) - 112)), "qcow2-header-extension"),
            (image(3, put(28, &[0; 4])), "qcow2-size"),
            (image(3, put(24, &[0x80])), "qcow2-size"),
            (image(3, put(24, &[0x40])), "qcow2-l1-table"),
            (image(3, put(39, &[0])), "qcow2-l1-table"),
            (image(3, put(36, &[0xff])), "qcow2-l1-table"),
            (image(3, put(40, &[0x7f])), "qcow2-l1-table"),
            (image(3, put(47, &[1])), "qcow2-l1-table"),
            (image(3, put(44, &[0; 4])), "qcow2-l1-table"),
            (image(3, put(59, &[0])), "qcow2-refcount-table"),
            (image(3, put(56, &[0xff])), "qcow2-refcount-table"),
            (image(3, put(48, &[0xff; 8])), "qcow2-refcount-table"),
            (image(3, put(52, &[0; 4])), "qcow2-refcount-table"),
            (image(3, |_| {})[..100].to_vec(), "qcow2-header-length"),
            (image(3, |_| {})[..8].to_vec(), "qcow2-header-length"),
        ] {
            check(&image, Err(rule));
        }
    }
}
