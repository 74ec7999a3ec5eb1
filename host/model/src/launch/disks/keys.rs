//! The key of a job that asks for disks beside the root disk.

use serde_json::json;

use super::{DISK_SIZE, Disk, DiskImage, DiskName, RESERVED, disk_size, is_disk_size, named};
use crate::{
    job::{
        Checksum, ImageRequest,
        block::TaskBlock,
        config,
        cursor::{Cursor, Object, quoted},
    },
    launch::{
        disk_bytes::MIB,
        field::{Key, Place},
    },
    limits, name,
    rate::Rate,
};

pub(super) const KEYS: &[Key] = &[Key {
    place: Place::Config,
    name: "disks",
    required: false,
    schema: || {
        let rate = Rate::schema();
        json!({
            "description": "Up to 15 data disks, in the order in which the guest sees them. With size: empty at first, and removed with its VM. With size, image_source and checksum: begins with the image, and is removed with its VM. With image_source, checksum and read_only or cdrom: the image itself, which the guest can only read. With volume: the volume of that name, which the operator creates with qhost volume create.",
            "anyOf": [
                {
                    "type": "array",
                    "maxItems": limits::DATA_DISKS,
                    "items": {
                        "type": "object",
                        "required": ["name"],
                        "additionalProperties": false,
                        "oneOf": [
                            { "required": ["size"], "properties": { "volume": { "type": "null" }, "image_source": { "type": "null" }, "cdrom": { "enum": [false, null] } } },
                            { "required": ["size", "image_source"], "properties": { "image_source": { "type": ["string", "array"] }, "volume": { "type": "null" }, "read_only": { "enum": [false, null] }, "cdrom": { "enum": [false, null] } } },
                            { "required": ["volume"], "properties": { "size": { "type": "null" }, "image_source": { "type": "null" }, "cdrom": { "enum": [false, null] } } },
                            { "required": ["image_source", "read_only"], "properties": { "image_source": { "type": ["string", "array"] }, "read_only": { "const": true }, "size": { "type": "null" }, "volume": { "type": "null" }, "cdrom": { "enum": [false, null] } } },
                            { "required": ["image_source", "cdrom"], "properties": { "image_source": { "type": ["string", "array"] }, "cdrom": { "const": true }, "size": { "type": "null" }, "volume": { "type": "null" } } }
                        ],
                        "dependentRequired": { "image_source": ["checksum"], "checksum": ["image_source"] },
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
                            "image_source": {
                                "description": "The http or https URL of the image of the disk.",
                                "anyOf": [{ "$ref": "#/$defs/url" }, { "type": "null" }]
                            },
                            "checksum": {
                                "description": "The SHA-256 of that image.",
                                "type": ["string", "null"],
                                "pattern": "^(sha256:)?[0-9A-Fa-f]{64}$"
                            },
                            "cdrom": {
                                "description": "Whether the guest sees the image, an ISO, in a CD drive; false when absent. At most 2.",
                                "type": ["boolean", "null"],
                                "default": false
                            },
                            "read_only": {
                                "description": "Whether the guest cannot write to it; false when absent.",
                                "type": ["boolean", "null"],
                                "default": false
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

/// Reads the disks that a task asks for.
pub(super) fn read(task: &TaskBlock<'_>) -> Option<Vec<Disk>> {
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

/// Reads a disk of the job's list; `before` are the disks read before it.
fn disk(cursor: Cursor<'_>, before: &[Disk]) -> Option<Disk> {
    let keys = ["name", "size", "volume", "image_source", "checksum", "cdrom", "read_only", "rate"];
    let object = cursor.object(&keys)?;
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
    let cdrom = object.optional("cdrom").map_or(Some(false), |it| it.boolean());
    let image = image_in(&object)?;
    let (cdrom, read_only) = (cdrom?, read_only?);
    if cdrom && before.iter().filter(|disk| disk.cdrom).count() >= limits::CDS {
        return object.here().fault("one more CD", format!("at most {} CDs", limits::CDS));
    }
    let is_read = read_only || cdrom;
    let size = object.optional("size");
    let (bytes, volume) = match (size, object.optional("volume"), &image) {
        (Some(size), None, Some(_)) if is_read => {
            return size.refuse_with_hint(
                "no size",
                "the guest only reads this image, which has a size of its own: leave size out; or, for a disk to write to, leave read_only and cdrom out",
            );
        }
        (Some(size), None, _) => (Some(bytes_in(&size)?), None),
        (None, Some(volume), None) => (None, Some(volume_in(&volume, before)?)),
        (None, None, Some(_)) if is_read => (None, None),
        (None, None, Some(_)) => {
            return object.here().fault_with_hint(
                "image_source without size",
                "size, read_only: true or cdrom: true",
                "size makes a disk of that size, which begins with the image and which the guest can write to; with read_only: true, or cdrom: true for an ISO image, the guest only reads the image",
            );
        }
        (Some(size), Some(_), _) => {
            return size.refuse_with_hint(
                "either size or volume, not both",
                "a volume has a size of its own, which qhost volume resize changes",
            );
        }
        (None, Some(volume), Some(_)) => {
            return volume.refuse_with_hint(
                "either volume or image_source, not both",
                "to put an image's files onto a volume, attach both and copy them in the guest",
            );
        }
        (None, None, None) => {
            return object.here().fault_with_hint(
                "neither size nor volume nor image_source",
                "size, volume or image_source",
                "size makes an empty disk that ends with the VM, as in \"10GiB\"; volume names a volume of the tenant's, which is kept; image_source, with checksum, names an image that the disk begins with",
            );
        }
    };
    if cdrom && image.is_none() {
        return object.here().fault("a CD without image_source", "image_source and checksum");
    }
    Some(Disk { name: name?, bytes, volume, image, cdrom, read_only: is_read, rate: rate? })
}

/// Reads the image of a disk. The outer option is absent after a problem was noted, the inner one for a disk without an
/// image.
fn image_in(object: &Object<'_>) -> Option<Option<DiskImage>> {
    if object.optional("image_source").is_none() && object.optional("checksum").is_none() {
        return Some(None);
    }
    let ImageRequest { source, mirrors, checksum } = config::image(object)?;
    match (mirrors.is_empty(), checksum) {
        (true, Checksum::Image { sha256 }) => Some(Some(DiskImage { source, sha256 })),
        (_, _) => object.here().fault_with_hint(
            "mirrors, a list of checksums or a SHA-512",
            "one URL and the SHA-256 of its file",
            "of a data disk's image the SHA-256 of the file is needed: sha256sum FILE",
        ),
    }
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

/// Reads a size as a number of bytes, or as a text with a unit.
fn bytes_in(cursor: &Cursor<'_>) -> Option<u64> {
    let bytes = match cursor.value().as_str() {
        Some(text) => disk_size(text),
        None => cursor.value().as_u64().filter(|bytes| is_disk_size(*bytes)),
    };
    bytes.map_or_else(|| cursor.refuse(DISK_SIZE), Some)
}
