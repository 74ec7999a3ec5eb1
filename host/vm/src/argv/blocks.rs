//! QEMU's block nodes: files by their descriptors, with the format that QEMU is told for each.

use serde_json::json;

use qhost_model::{
    format::Format,
    launch::{Disk, Launch, Rate},
};

use super::{descriptors, devices};
use crate::{DiskOf, ImageOf, limits};

fn file(descriptor: i32, read_only: bool) -> serde_json::Value {
    json!({"driver": "file", "filename": format!("/dev/fdset/{descriptor}"), "read-only": read_only, "locking": "off", "discard": if read_only { "ignore" } else { DISCARD }})
}

/// The nodes of the stored image, read-only and of a stated format, and of the overlay over it. `backing: null` keeps QEMU from following a
/// name inside the image even if inspection had missed one. QEMU locks neither file: other VMs have the same image open, and one VM's lock
/// would keep the next from starting; qhost has leases of its own.
pub(super) fn blocks(format: Format, rate: Rate) -> Vec<serde_json::Value> {
    let image = image("image", format, descriptors::IMAGE);
    let overlay = overlay("disk", "image", descriptors::OVERLAY);
    match format {
        Format::Iso => vec![limited(image, rate, ROOT_RATE)],
        Format::Qcow2 | Format::Raw => vec![image, limited(overlay, rate, ROOT_RATE)],
    }
}

fn image(name: &str, format: Format, descriptor: i32) -> serde_json::Value {
    let image = file(descriptor, true);
    match format {
        Format::Qcow2 => {
            json!({"node-name": name, "driver": "qcow2", "read-only": true, "file": image, "backing": null})
        }
        Format::Raw | Format::Iso => {
            json!({"node-name": name, "driver": "raw", "read-only": true, "file": image})
        }
    }
}

fn overlay(name: &str, image: &str, descriptor: i32) -> serde_json::Value {
    json!({
        "node-name": name,
        "driver": "qcow2",
        "discard": DISCARD,
        "file": file(descriptor, false),
        "backing": image,
    })
}

/// The name of the root disk's throttle group.
pub(super) const ROOT_RATE: &str = "rate";

/// The object for a rate, which block nodes name.
pub(super) fn throttle_group(id: &str, rate: Rate) -> Option<serde_json::Value> {
    let Rate { iops, kib_per_s } = rate;
    let mut limits = serde_json::Map::new();
    if let Some(iops) = iops {
        limits.insert("iops-total".into(), iops.get().into());
    }
    if let Some(kib) = kib_per_s {
        limits.insert("bps-total".into(), (u64::from(kib.get()) << 10).into());
    }
    (!limits.is_empty()).then(|| json!({"qom-type": "throttle-group", "id": id, "limits": limits}))
}

/// Puts a limited block node behind a throttle group, under the node's own name.
fn limited(mut node: serde_json::Value, rate: Rate, group: &str) -> serde_json::Value {
    if rate.is_unlimited() {
        return node;
    }
    let name = node.as_object_mut().and_then(|node| node.remove("node-name"));
    // A node that can be written to is not opened over one that cannot.
    let read_only = node.get("read-only") == Some(&true.into());
    json!({"node-name": name, "driver": "throttle", "read-only": read_only, "throttle-group": group, "file": node})
}

/// A disk beside the root disk, with the descriptors that QEMU has its files by.
pub(super) struct DataDisk<'a> {
    disk: &'a Disk,
    of: &'a DiskOf,
    number: usize,
    backing: Option<Backing<'a>>,
    descriptor: i32,
}

/// The image below an overlay, with the descriptor that QEMU has its file by.
struct Backing<'a> {
    image: &'a ImageOf,
    descriptor: i32,
}

pub(super) fn data_disks<'a>(
    disks: &'a [Disk],
    of: &'a [DiskOf],
) -> impl Iterator<Item = DataDisk<'a>> {
    let mut next = descriptors::DISKS;
    disks.iter().zip(of).enumerate().map(move |(number, (disk, of))| {
        let mut take = || {
            next += 1;
            next - 1
        };
        let backing = of.backing().map(|image| Backing { image, descriptor: take() });
        DataDisk { disk, of, number, backing, descriptor: take() }
    })
}

impl DataDisk<'_> {
    /// The descriptors of the disk's files.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = i32> {
        self.backing.iter().map(|backing| backing.descriptor).chain([self.descriptor])
    }

    /// The disk's nodes, of which the last is the disk itself.
    pub(super) fn blocks(&self) -> Vec<serde_json::Value> {
        let name = format!("data{}", self.number);
        let read_only = self.disk.read_only;
        let (below, disk) = match (&self.backing, &self.of.image) {
            (Some(backing), _) => {
                let below = format!("image{}", self.number);
                let overlay = overlay(&name, &below, self.descriptor);
                (Some(image(&below, backing.image.format, backing.descriptor)), overlay)
            }
            (None, Some(of)) => (None, image(&name, of.format, self.descriptor)),
            (None, None) => {
                let node = json!({
                    "node-name": name,
                    "driver": "raw",
                    "read-only": read_only,
                    "discard": DISCARD,
                    "file": file(self.descriptor, read_only),
                });
                (None, node)
            }
        };
        below.into_iter().chain([limited(disk, self.disk.rate, &self.rate())]).collect()
    }

    /// The disk's throttle group, if the disk is limited.
    pub(super) fn throttle_group(&self) -> Option<serde_json::Value> {
        throttle_group(&self.rate(), self.disk.rate)
    }

    fn rate(&self) -> String {
        format!("rate{}", self.number)
    }

    /// The disk's device. A disk's name has no comma, so that it cannot end the value. Each queue takes QEMU two of its 1024 descriptors,
    /// and without a bound a disk has a queue for each CPU.
    pub(super) fn device(&self, launch: &Launch) -> String {
        let Self { disk, number, .. } = self;
        if disk.cdrom {
            let (node, serial) = (format!("data{number}"), format!("serial={}", disk.name));
            return devices::cd(launch.machine.kind, &node, &serial);
        }
        let queues = launch.resources.cpus.min(limits::DATA_DISK_QUEUES);
        format!(
            "virtio-blk-pci,drive=data{number},serial={},werror=report,rerror=report,num-queues={queues}",
            disk.name
        )
    }
}

/// The value by which space that a guest discards is given back to the host.
const DISCARD: &str = "unmap";

pub(super) fn seed_node(descriptor: i32) -> serde_json::Value {
    json!({"node-name": "seed", "driver": "raw", "read-only": true, "file": file(descriptor, true)})
}

/// The code and the variables of UEFI, as flash memory.
pub(super) fn flash_nodes([code, variables]: [i32; 2]) -> [serde_json::Value; 2] {
    let node = |name: &str, descriptor, read_only| {
        json!({
            "node-name": name,
            "driver": "raw",
            "read-only": read_only,
            "file": file(descriptor, read_only),
        })
    };
    [node("code", code, true), node("variables", variables, false)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_never_written_to_nor_followed() {
        for format in [Format::Raw, Format::Qcow2, Format::Iso] {
            let image = &blocks(format, Rate::default())[0];
            assert_eq!(image["read-only"], true, "{image}");
            assert_eq!(image["file"]["locking"], "off", "{image}");
            let is_qcow2 = format == Format::Qcow2;
            assert_eq!(image.get("backing").is_some_and(serde_json::Value::is_null), is_qcow2);
        }
    }
}
