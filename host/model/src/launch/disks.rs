//! A guest's data disks, beside its root disk: ephemeral disks, which are empty at first or begin with an image and are removed with the
//! VM; images that are only read, CDs among them; and the tenant's volumes.

mod keys;

use std::fmt;

use serde::{Deserialize, Serialize};
use url::Url;

use super::{
    Change, Findings, Rules,
    changes::Changes,
    disk_bytes::{MIB, check_size},
    field::{AskedField, Key, LaunchField},
    rules::violation,
};
use crate::{
    digest::Sha256,
    host_facts::HostFacts,
    job::{Checksum, ImageRequest, block::TaskBlock},
    limits,
    masks::mask_query,
    quota::Usage,
    rate::Rate,
    secrets::Secrets,
};

/// A disk's name, which the guest sees as its serial number: 1 to 20 letters, digits, `-` and `_`, as a virtio disk can have. The names
/// `root` and `cidata` are taken by the root disk and the seed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DiskName(String);

impl DiskName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DiskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<DiskName> for String {
    fn from(name: DiskName) -> Self {
        name.0
    }
}

/// A text that cannot name a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a disk's name: 1 to 20 letters, digits, - and _; root and cidata are taken by the root disk and the seed"
)]
pub struct NotADiskName;

impl TryFrom<String> for DiskName {
    type Error = NotADiskName;

    fn try_from(text: String) -> Result<Self, NotADiskName> {
        let is_name = (1..=limits::DISK_NAME_BYTES).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
            && !RESERVED.contains(&text.as_str());
        if is_name { Ok(Self(text)) } else { Err(NotADiskName) }
    }
}

/// The names that the root disk and the seed have.
const RESERVED: [&str; 2] = ["root", "cidata"];

/// A disk beside the root disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// The disk's name, unique within the task.
    pub name: DiskName,
    /// The size in bytes of an ephemeral disk, a multiple of 1 MiB; absent for a volume and for a read-only image, which have sizes of
    /// their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// The name of the tenant's volume; absent for an ephemeral disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
    /// The image that the disk begins with; absent for a disk that is empty at first, and for a volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<DiskImage>,
    /// Whether the guest sees the disk as a CD.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cdrom: bool,
    /// Whether the guest cannot write to the disk.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// The disk's I/O limits.
    #[serde(default, skip_serializing_if = "Rate::is_unlimited")]
    pub rate: Rate,
}

/// The image of a data disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskImage {
    /// The URL that serves the image.
    pub source: Url,
    /// The digest of the file as served.
    pub sha256: Sha256,
}

impl DiskImage {
    /// The request that fetches the image.
    pub fn request(&self) -> ImageRequest {
        let Self { source, sha256 } = self;
        let checksum = Checksum::Image { sha256: *sha256 };
        ImageRequest { source: source.clone(), mirrors: vec![], checksum }
    }
}

impl Disk {
    /// Whether the guest's writes go to an overlay over the disk's image.
    pub fn has_overlay(&self) -> bool {
        self.image.is_some() && !self.read_only
    }

    /// How many bytes the guest may write to the disk that are removed with the VM.
    fn ephemeral_bytes(&self) -> u64 {
        let is_image_itself = self.image.is_some() && self.read_only;
        self.bytes.filter(|_| !is_image_itself).unwrap_or_default()
    }

    /// How many bytes these take of the host's disk at most.
    fn stored_bytes(&self) -> u64 {
        let bytes = self.ephemeral_bytes();
        if self.has_overlay() { overlay_bytes(bytes) } else { bytes }
    }

    /// The disk without its image URL's query, which may be secret.
    fn shown(&self) -> Self {
        let mut shown = self.clone();
        shown.image.iter_mut().for_each(|image| mask_query(&mut image.source));
        shown
    }
}

/// How many bytes the overlay of a disk of so many bytes takes of the host's disk at most: qcow2's tables take less than a thousandth of it
/// and a MiB.
pub fn overlay_bytes(bytes: u64) -> u64 {
    bytes.saturating_add(bytes / 1000).saturating_add(MIB)
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, bytes, volume, image, cdrom, read_only, rate } = self;
        write!(f, "{} {name}", if *cdrom { "CD" } else { "disk" })?;
        if let Some(volume) = volume {
            write!(f, ", the volume {volume}")?;
        }
        if let Some(image) = image {
            write!(f, ", the image {}", image.sha256)?;
        }
        if let Some(bytes) = bytes {
            write!(f, " of {bytes} bytes")?;
        }
        f.write_str(if *read_only && !*cdrom { ", read-only" } else { "" })?;
        if rate.is_unlimited() { Ok(()) } else { write!(f, ", limited to {rate}") }
    }
}

/// The field for the data disks.
#[derive(Debug)]
pub struct Field;

impl LaunchField for Field {
    type Asked = Vec<Disk>;
    type Value = Vec<Disk>;

    const NAME: &'static str = "disks";
    const CONTRACT: &'static str = "`disks`, of kinds `data` and `cdrom`";
    const TIGHTER: &'static str =
        "leave disks out, make one smaller, make one read-only, lower its rate";

    fn default_for(asked: &Vec<Disk>) -> Vec<Disk> {
        asked.clone()
    }

    fn compare(before: &Vec<Disk>, after: &Vec<Disk>, changes: &mut Changes) {
        for old in before {
            let Disk { name, bytes, volume, image, cdrom, read_only, rate } = old;
            let Some(new) = named(after, name) else {
                changes.note(format_args!("disks.{name}"), &Some(old.shown()), &None);
                continue;
            };
            changes.note(format_args!("disks.{name}.bytes"), bytes, &new.bytes);
            changes.note(format_args!("disks.{name}.volume"), volume, &new.volume);
            changes.note(format_args!("disks.{name}.image"), image, &new.image);
            changes.note(format_args!("disks.{name}.cdrom"), cdrom, &new.cdrom);
            changes.note(format_args!("disks.{name}.read_only"), read_only, &new.read_only);
            changes.note(format_args!("disks.{name}.rate"), rate, &new.rate);
        }
        for new in after.iter().filter(|new| named(before, &new.name).is_none()) {
            changes.note(format_args!("disks.{}", new.name), &None, &Some(new.shown()));
        }
    }

    fn widened(host: &Vec<Disk>, tenant: &Vec<Disk>) -> Option<Change> {
        for (index, disk) in tenant.iter().enumerate() {
            let field = |name: &str| format!("disks.{}{name}", disk.name);
            let is_twice = tenant.iter().take(index).any(|earlier| earlier.name == disk.name);
            let Some(from) = named(host, &disk.name).filter(|_| !is_twice) else {
                return Some(Change::new(field(""), &None::<Disk>, &disk.shown()));
            };
            if disk.volume != from.volume {
                return Some(Change::new(field(".volume"), &from.volume, &disk.volume));
            }
            if disk.image != from.image {
                return Some(Change::new(field(".image"), &from.image, &disk.image));
            }
            if disk.cdrom != from.cdrom {
                return Some(Change::new(field(".cdrom"), &from.cdrom, &disk.cdrom));
            }
            if disk.bytes > from.bytes {
                return Some(Change::new(field(".bytes"), &from.bytes, &disk.bytes));
            }
            if from.read_only && !disk.read_only {
                return Some(Change::new(field(".read_only"), &from.read_only, &disk.read_only));
            }
            if disk.rate.is_wider_than(&from.rate) {
                return Some(Change::new(field(".rate"), &from.rate, &disk.rate));
            }
        }
        None
    }

    fn check(
        asked: &Vec<Disk>,
        disks: &Vec<Disk>,
        rules: &Rules,
        _: &HostFacts,
        findings: &mut Findings,
    ) {
        for (index, disk) in disks.iter().enumerate() {
            let is_twice = disks.iter().take(index).any(|earlier| earlier.name == disk.name);
            let is_asked = named(asked, &disk.name).is_some_and(|asked| {
                asked.volume == disk.volume
                    && asked.bytes.is_some() == disk.bytes.is_some()
                    && asked.image == disk.image
                    && asked.cdrom == disk.cdrom
            });
            if is_twice || !is_asked {
                findings.refused.push(violation(
                    "disk-not-requested",
                    format!("disks.{}", disk.name),
                    format!("{disk} is not a disk of the task, or is in the launch twice"),
                    "a policy may leave a task's disk out and set its size, rate and read_only; it may not add or rename any"
                        .into(),
                ));
            }
            // Without a size, nothing would bound what the guest writes over the image.
            if disk.has_overlay() && (disk.bytes.is_none() || disk.cdrom) {
                findings.refused.push(violation(
                    "disk-not-writable",
                    format!("disks.{}.read_only", disk.name),
                    format!("{disk} has no size, so that its guest cannot write to it"),
                    "a policy leaves read_only true; a job sets size for a disk to write to".into(),
                ));
            }
            if let Some(bytes) = disk.bytes {
                check_size(format!("disks.{}.bytes", disk.name), bytes, rules, findings);
            }
        }
        let all = ephemeral_bytes(disks);
        if all > rules.data_bytes {
            findings.refused.push(violation(
                "disks-not-allowed",
                Self::NAME,
                format!("ephemeral disks may have {} bytes together on this host, and these have {all}", rules.data_bytes),
                "ask for less, or for a volume (qhost volume create); or have the operator raise overlay.max_bytes".into(),
            ));
        }
    }

    // Disk and volume names are short words that no policy writes, so that only URLs are masked.
    fn mask(disks: &mut Vec<Disk>, _: &Secrets) {
        let images = disks.iter_mut().filter_map(|disk| disk.image.as_mut());
        images.for_each(|image| mask_query(&mut image.source));
    }

    // The quota counts a volume as long as it exists, and not when a VM has it.
    fn add_to(disks: &Vec<Disk>, usage: &mut Usage) {
        let stored = disks.iter().map(Disk::stored_bytes);
        usage.disk_bytes = stored.fold(usage.disk_bytes, u64::saturating_add);
    }

    fn shown(disks: &Vec<Disk>) -> Option<String> {
        let all: Vec<_> = disks.iter().map(Disk::to_string).collect();
        (!all.is_empty()).then(|| all.join(", "))
    }
}

fn named<'d>(disks: &'d [Disk], name: &DiskName) -> Option<&'d Disk> {
    disks.iter().find(|disk| disk.name == *name)
}

/// The sizes of the ephemeral disks together.
fn ephemeral_bytes(disks: &[Disk]) -> u64 {
    disks.iter().map(Disk::ephemeral_bytes).fold(0, u64::saturating_add)
}

impl AskedField for Field {
    const KEYS: &'static [Key] = keys::KEYS;

    fn read(task: &TaskBlock<'_>) -> Option<Vec<Disk>> {
        keys::read(task)
    }

    fn asking_for(value: &Vec<Disk>) -> Vec<Disk> {
        value.clone()
    }
}

/// The sizes that [`disk_size`] reads, in words for people.
pub const DISK_SIZE: &str = "a size in whole MiB, from 1 MiB to 4294967295 MiB: a number of bytes, or one with a unit, as in \"10GiB\"";

/// The size of a disk that a text says: a number of bytes, or with a unit, as in `10GiB`; a multiple of 1 MiB. Absent where it says
/// none.
///
/// # Examples
/// ```
/// use qhost_model::launch::disks::disk_size;
///
/// assert_eq!(disk_size("1GiB"), Some(1 << 30));
/// assert_eq!(disk_size("1GB"), None, "which is no multiple of 1 MiB");
/// ```
pub fn disk_size(text: &str) -> Option<u64> {
    let bytes = text.parse::<bytesize::ByteSize>().ok()?.as_u64();
    is_disk_size(bytes).then_some(bytes)
}

fn is_disk_size(bytes: u64) -> bool {
    (MIB..=limits::DISK_BYTES_MOST).contains(&bytes) && bytes.is_multiple_of(MIB)
}
