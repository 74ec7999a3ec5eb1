//! A guest's data disks, beside its root disk: ephemeral ones, which are removed with the VM, and the tenant's volumes.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    Change, Findings, Rules,
    changes::Changes,
    disk_bytes::{MIB, check_size},
    field::{AskedField, Key, LaunchField, Place},
    rules::violation,
};
use crate::{
    host_facts::HostFacts,
    job::{
        block::TaskBlock,
        cursor::{Cursor, quoted},
    },
    limits, name,
    quota::Usage,
    rate::Rate,
    secrets::Secrets,
};

/// A disk's name, which the guest sees as its serial number: 1 to 20 letters, digits, `-` and `_`, as a virtio disk can have. Not `root` and
/// not `cidata`, which are the root disk and the seed.
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

/// A text names no disk.
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
    /// Its name, unique within the task.
    pub name: DiskName,
    /// The size in bytes, a multiple of 1 MiB, of an ephemeral disk, which begins empty; absent for a volume, which has its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// The tenant's volume that it is; absent for an ephemeral disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
    /// Whether the guest cannot write to it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// Its I/O limits.
    #[serde(default, skip_serializing_if = "Rate::is_unlimited")]
    pub rate: Rate,
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, bytes, volume, read_only, rate } = self;
        match (volume, bytes) {
            (Some(volume), _) => write!(f, "disk {name}, the volume {volume}")?,
            (None, bytes) => write!(f, "disk {name} of {} bytes", bytes.unwrap_or_default())?,
        }
        f.write_str(if *read_only { ", read-only" } else { "" })?;
        if rate.is_unlimited() { Ok(()) } else { write!(f, ", limited to {rate}") }
    }
}

/// The field.
#[derive(Debug)]
pub struct Field;

impl LaunchField for Field {
    type Asked = Vec<Disk>;
    type Value = Vec<Disk>;

    const NAME: &'static str = "disks";
    const CONTRACT: &'static str = "`disks`, of kind `data`";
    const TIGHTER: &'static str =
        "leave disks out, make one smaller, make one read-only, lower its rate";

    fn default_for(asked: &Vec<Disk>) -> Vec<Disk> {
        asked.clone()
    }

    fn compare(before: &Vec<Disk>, after: &Vec<Disk>, changes: &mut Changes) {
        for old in before {
            let Disk { name, bytes, volume, read_only, rate } = old;
            let Some(new) = named(after, name) else {
                changes.note(format_args!("disks.{name}"), &Some(old), &None);
                continue;
            };
            changes.note(format_args!("disks.{name}.bytes"), bytes, &new.bytes);
            changes.note(format_args!("disks.{name}.volume"), volume, &new.volume);
            changes.note(format_args!("disks.{name}.read_only"), read_only, &new.read_only);
            changes.note(format_args!("disks.{name}.rate"), rate, &new.rate);
        }
        for new in after.iter().filter(|new| named(before, &new.name).is_none()) {
            changes.note(format_args!("disks.{}", new.name), &None, &Some(new));
        }
    }

    fn widened(host: &Vec<Disk>, tenant: &Vec<Disk>) -> Option<Change> {
        for (index, disk) in tenant.iter().enumerate() {
            let field = |name: &str| format!("disks.{}{name}", disk.name);
            let is_twice = tenant.iter().take(index).any(|earlier| earlier.name == disk.name);
            let Some(from) = named(host, &disk.name).filter(|_| !is_twice) else {
                return Some(Change::new(field(""), &None::<Disk>, disk));
            };
            if disk.volume != from.volume {
                return Some(Change::new(field(".volume"), &from.volume, &disk.volume));
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
                asked.volume == disk.volume && asked.bytes.is_some() == disk.bytes.is_some()
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

    // A disk's name and a volume's are short words that no policy writes.
    fn mask(_: &mut Vec<Disk>, _: &Secrets) {}

    // A volume counts as long as it is there, whether or not a VM has it.
    fn add_to(disks: &Vec<Disk>, usage: &mut Usage) {
        usage.disk_bytes = usage.disk_bytes.saturating_add(ephemeral_bytes(disks));
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
    disks.iter().filter_map(|disk| disk.bytes).fold(0, u64::saturating_add)
}

impl AskedField for Field {
    const KEYS: &'static [Key] = &[Key {
        place: Place::Config,
        name: "disks",
        required: false,
        schema: || {
            let rate = Rate::schema();
            json!({
                "description": "Up to 15 data disks, in the order in which the guest sees them. Each has a size, and is empty at first and removed with its VM; or a volume, by its name, which the operator creates: qhost volume create.",
                "anyOf": [
                    {
                        "type": "array",
                        "maxItems": limits::DATA_DISKS,
                        "items": {
                            "type": "object",
                            "required": ["name"],
                            "additionalProperties": false,
                            "oneOf": [
                                { "required": ["size"], "properties": { "volume": { "type": "null" } } },
                                { "required": ["volume"], "properties": { "size": { "type": "null" } } }
                            ],
                            "properties": {
                                "name": {
                                    "description": "What the guest sees as the disk's serial number: /dev/disk/by-id/virtio-NAME.",
                                    "type": "string",
                                    "pattern": "^[A-Za-z0-9_-]{1,20}$",
                                    "not": { "enum": RESERVED }
                                },
                                "size": {
                                    "description": "A multiple of 1 MiB: a number of bytes, or a number with a unit, as in 10GiB.",
                                    "anyOf": [
                                        { "type": "integer", "minimum": MIB, "maximum": limits::DISK_BYTES_MOST, "multipleOf": MIB },
                                        { "type": "string", "minLength": 1, "maxLength": 32 },
                                        { "type": "null" }
                                    ]
                                },
                                "volume": {
                                    "description": "The name of a volume of the tenant's.",
                                    "type": ["string", "null"],
                                    "pattern": name::VOLUME_PATTERN
                                },
                                "read_only": {
                                    "description": "Whether the guest cannot write to it; false when absent.",
                                    "type": ["boolean", "null"]
                                },
                                "rate": rate
                            }
                        }
                    },
                    { "type": "null" }
                ]
            })
        },
    }];

    fn read(task: &TaskBlock<'_>) -> Option<Vec<Disk>> {
        let Some(disks) = task.config.as_ref()?.optional("disks") else { return Some(vec![]) };
        let mut found: Vec<Disk> = vec![];
        let mut is_sound = true;
        for cursor in disks.array(limits::DATA_DISKS, "disks")? {
            match disk(cursor, &found) {
                Some(disk) => found.push(disk),
                None => is_sound = false,
            }
        }
        is_sound.then_some(found)
    }

    fn asking_for(value: &Vec<Disk>) -> Vec<Disk> {
        value.clone()
    }
}

/// A disk of the job's list, behind those that were read before it.
fn disk(cursor: Cursor<'_>, before: &[Disk]) -> Option<Disk> {
    let object = cursor.object(&["name", "size", "volume", "read_only", "rate"])?;
    let name = object.required("name", "the disk's name").and_then(|cursor| {
        let text = cursor.value().as_str().unwrap_or_default();
        match DiskName::try_from(text.to_owned()) {
            Ok(name) if named(before, &name).is_none() => Some(name),
            Ok(name) => cursor.fault(
                format!("a second disk {}", quoted(name.as_str())),
                "a name that no other disk of the task has",
            ),
            Err(error) => cursor.refuse(error.to_string()),
        }
    });
    let read_only = object.optional("read_only").map_or(Some(false), |it| it.boolean());
    let rate = object.optional("rate").map_or(Some(Rate::default()), Rate::read);
    let (bytes, volume) = match (object.optional("size"), object.optional("volume")) {
        (Some(size), None) => (Some(bytes_in(&size)?), None),
        (None, Some(volume)) => (None, Some(volume_in(&volume, before)?)),
        (Some(size), Some(_)) => {
            return size.refuse_with_hint(
                "either size or volume, not both",
                "a volume has a size of its own, which qhost volume resize changes",
            );
        }
        (None, None) => {
            return object.here().fault_with_hint(
                "neither size nor volume",
                "size or volume",
                "size makes an empty disk that ends with the VM, as in \"10GiB\"; volume names a volume of the tenant's, which is kept",
            );
        }
    };
    Some(Disk { name: name?, bytes, volume, read_only: read_only?, rate: rate? })
}

fn volume_in(cursor: &Cursor<'_>, before: &[Disk]) -> Option<String> {
    let text = cursor.value().as_str().unwrap_or_default();
    if !name::is_volume(text) {
        return cursor.refuse(name::VOLUME);
    }
    if before.iter().any(|disk| disk.volume.as_deref() == Some(text)) {
        return cursor.fault(
            format!("the volume {} a second time", quoted(text)),
            "each volume at most once in a task",
        );
    }
    Some(text.to_owned())
}

/// A size as a number of bytes, or as a text with a unit.
fn bytes_in(cursor: &Cursor<'_>) -> Option<u64> {
    let bytes = match cursor.value().as_str() {
        Some(text) => disk_size(text),
        None => cursor.value().as_u64().filter(|bytes| is_disk_size(*bytes)),
    };
    bytes.map_or_else(|| cursor.refuse(DISK_SIZE), Some)
}

/// What [`disk_size`] reads, for people.
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
