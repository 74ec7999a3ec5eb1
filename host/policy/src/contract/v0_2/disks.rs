//! Disks in the contract's form: as policies are shown them, and as policies answer.

use std::num::NonZeroU32;

use qhost_model::launch::{Disk, DiskImage, Rate, disk_bytes::MIB};

use super::{
    super::answer::{nonsense, word},
    ROOT, wit,
};
use crate::error::Fault;

/// The digests of disks' images as text; absent for a disk without an image.
pub(super) struct DiskTexts(Vec<Option<String>>);

impl DiskTexts {
    pub(super) fn of(disks: &[Disk]) -> Self {
        let digest = |disk: &Disk| disk.image.as_ref().map(|image| image.sha256.to_string());
        Self(disks.iter().map(digest).collect())
    }
}

/// The root disk, and the disks beside it, in the contract's form.
pub(super) fn disks<'a>(
    root: wit::DiskParam<'a>,
    others: &'a [Disk],
    texts: &'a DiskTexts,
) -> Vec<wit::DiskParam<'a>> {
    let others = others.iter().zip(&texts.0);
    std::iter::once(root)
        .chain(others.map(|(disk, sha256)| data_disk(disk, sha256.as_deref())))
        .collect()
}

pub(super) fn root_disk(
    bytes: Option<u64>,
    persistent: bool,
    limit: Rate,
) -> wit::DiskParam<'static> {
    wit::DiskParam {
        name: ROOT,
        kind: wit::DiskKindParam::Root,
        size_mib: bytes.map(size_mib),
        image: None,
        volume: None,
        read_only: false,
        persistent,
        rate: rate(limit),
    }
}

fn rate(Rate { iops, kib_per_s }: Rate) -> wit::Rate {
    wit::Rate { operations: iops.map(NonZeroU32::get), kib: kib_per_s.map(NonZeroU32::get) }
}

fn data_disk<'a>(disk: &'a Disk, sha256: Option<&'a str>) -> wit::DiskParam<'a> {
    let image = disk.image.as_ref().map(|image| wit::ImageParam {
        source: image.source.as_str(),
        sha256,
        sha512: None,
        checksums: None,
    });
    wit::DiskParam {
        name: disk.name.as_str(),
        kind: if disk.cdrom { wit::DiskKindParam::Cdrom } else { wit::DiskKindParam::Data },
        size_mib: disk.bytes.map(size_mib),
        image,
        volume: disk.volume.as_deref(),
        read_only: disk.read_only,
        persistent: disk.volume.is_some(),
        rate: rate(disk.rate),
    }
}

/// The size in MiB. A size is of whole MiB, and the job's reader keeps it below the contract's largest.
pub(super) fn size_mib(bytes: u64) -> u32 {
    u32::try_from(bytes / MIB).unwrap_or(u32::MAX)
}

/// A launch's disks, as a policy answered.
pub(super) struct Disks {
    pub(super) root: wit::DiskResult,
    pub(super) others: Vec<Disk>,
}

/// Reads the root disk and the disks behind it, which are those that a policy was shown, or fewer.
pub(super) fn disks_in(disks: Vec<wit::DiskResult>, shown: &[Disk]) -> Result<Disks, Fault> {
    let mut disks = disks.into_iter();
    let root = disks.next().filter(|disk| {
        disk.name == ROOT && matches!(disk.kind, wit::DiskKindResult::Root) && !disk.read_only
    });
    let root = root.filter(|disk| disk.volume.is_none()).ok_or_else(|| {
        nonsense(format!("its first disk is not {ROOT} as it was shown: writable, and no volume"))
    })?;
    if root.image.is_some() {
        return Err(nonsense(format!("an image for disk {ROOT:?}, whose image is the task's")));
    }
    let (mut others, mut left) = (vec![], shown.iter());
    for disk in disks {
        // The search goes on from the disk found last, so that a disk of the request that stands before that one is not
        // found.
        let known = left.find(|known| known.name.as_str() == disk.name).ok_or_else(|| {
            let name = word(&disk.name);
            nonsense(format!("a disk {name:?} that the request has not, or has before the disk that stands before it"))
        })?;
        let is_kind = match disk.kind {
            wit::DiskKindResult::Data => !known.cdrom,
            wit::DiskKindResult::Cdrom => known.cdrom,
            wit::DiskKindResult::Root | wit::DiskKindResult::Other(_) => false,
        };
        let is_it = is_kind
            && is_image(disk.image.as_ref(), known.image.as_ref())
            && disk.volume == known.volume
            && disk.persistent == known.volume.is_some()
            && disk.size_mib.is_some() == known.bytes.is_some();
        if !is_it {
            return Err(nonsense(format!(
                "a change of disk {:?} in more than its size, its rate and whether it is read-only",
                word(&disk.name)
            )));
        }
        others.push(Disk {
            bytes: disk.size_mib.map(|size| u64::from(size) * MIB),
            read_only: disk.read_only,
            rate: rate_in(&disk)?,
            ..known.clone()
        });
    }
    Ok(Disks { root, others })
}

/// Whether a disk has the image that a policy was shown.
fn is_image(given: Option<&wit::ImageResult>, known: Option<&DiskImage>) -> bool {
    match (given, known) {
        (None, None) => true,
        (Some(wit::ImageResult { source, sha256, sha512: None, checksums: None }), Some(known)) => {
            source == known.source.as_str()
                && sha256.as_ref().is_some_and(|sha256| *sha256 == known.sha256.to_string())
        }
        (_, _) => false,
    }
}

pub(super) fn rate_in(disk: &wit::DiskResult) -> Result<Rate, Fault> {
    let number = |number: Option<u32>| match number.map(NonZeroU32::try_from) {
        None => Ok(None),
        Some(Ok(number)) => Ok(Some(number)),
        // QEMU takes a rate of 0 for no limit.
        Some(Err(_)) => Err(nonsense(format!("a rate of 0 for disk {:?}", word(&disk.name)))),
    };
    Ok(Rate { iops: number(disk.rate.operations)?, kib_per_s: number(disk.rate.kib)? })
}
