//! The differences between two launches, field by field.

use std::fmt::Display;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{limits, printable};

/// One field that a policy changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The field, as a path into the launch; a port is named by its label, as in `ports.http.host`.
    pub field: String,
    /// The value before; null where there was none.
    pub from: Value,
    /// The value after; null where there is none.
    pub to: Value,
}

impl Change {
    /// The change of a field from a value to another.
    pub(super) fn new<T: Serialize, U: Serialize>(field: impl Display, from: &T, to: &U) -> Self {
        Self { field: field.to_string(), from: json(from), to: json(to) }
    }
}

/// Collects the fields that differ.
#[derive(Debug, Default)]
pub struct Changes(Vec<Change>);

impl Changes {
    /// Notes a field if it differs. Text and JSON are made only of fields that differ, since most fields of a launch do
    /// not.
    pub(super) fn note<T: PartialEq + Serialize>(&mut self, field: impl Display, from: &T, to: &T) {
        if from != to {
            self.0.push(Change::new(field, from, to));
        }
    }

    pub(super) fn into_vec(self) -> Vec<Change> {
        self.0
    }
}

/// The value as JSON, which can always hold a launch and its parts.
fn json(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

/// Changes in one line: `resources.cpus from 1 to 2, ports.http.host from null to 80`.
pub fn listed(changes: &[Change]) -> String {
    let one = |change: &Change| {
        format!("{} from {} to {}", change.field, shown(&change.from), shown(&change.to))
    };
    changes.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// A value for an error, escaped and cut.
pub fn shown(value: &Value) -> String {
    printable::line(&value.to_string(), limits::SHOWN_CHARS).to_string()
}

#[cfg(test)]
mod tests {
    use crate::{
        host_facts::{Accelerator, Resources},
        launch::{
            Access, AccessLevel, Architecture, Disk, DiskName, Egress, Firmware, FirmwareKind,
            Grace, Launch, Machine, MachineKind, PortMap, Protocol, Rate, SecureBoot, nics,
        },
    };

    fn port(label: &str) -> PortMap {
        let (host, bind) = (None, [127, 0, 0, 1].into());
        PortMap { label: label.into(), guest: 80, host, bind, protocol: Protocol::Tcp }
    }

    fn disk(name: &str) -> Disk {
        let name = DiskName::try_from(name.to_owned()).unwrap();
        Disk {
            name,
            bytes: Some(1 << 20),
            volume: None,
            image: None,
            cdrom: false,
            read_only: false,
            rate: Rate::default(),
        }
    }

    fn before() -> Launch {
        Launch {
            accelerator: Accelerator::Tcg,
            ports: vec![port("a"), port("b")],
            resources: Resources { cpus: 2, memory_mib: 512 },
            egress: Egress::Isolated,
            disk_bytes: None,
            disk_rate: Rate::default(),
            persist: false,
            disks: vec![disk("data")],
            seed: None,
            firmware: Firmware::default(),
            machine: Machine::default(),
            nics: nics::default(),
            access: Access::default(),
            grace_s: Grace::default(),
            warnings: vec!["one".into()],
            extensions: vec![],
        }
    }

    /// A row: a change of a launch, and the fields that then differ.
    type Row = (fn(&mut Launch), &'static [&'static str]);

    #[test]
    fn each_field_that_differs_is_named() {
        let rows: [Row; 33] = [
            (|_| {}, &[]),
            (|launch| launch.accelerator = Accelerator::Kvm, &["accelerator"]),
            (|launch| launch.resources.cpus = 3, &["resources.cpus"]),
            (|launch| launch.resources.memory_mib = 1, &["resources.memory_mib"]),
            (|launch| launch.egress = Egress::Internet, &["egress"]),
            (|launch| launch.disk_bytes = Some(512), &["disk_bytes"]),
            (|launch| launch.disk_rate.iops = std::num::NonZeroU32::new(1), &["disk_rate.iops"]),
            (
                |launch| launch.disk_rate.kib_per_s = std::num::NonZeroU32::new(1),
                &["disk_rate.kib_per_s"],
            ),
            (
                |launch| launch.disks[0].rate.kib_per_s = std::num::NonZeroU32::new(1),
                &["disks.data.rate"],
            ),
            (|launch| launch.persist = true, &["persist"]),
            (|launch| launch.machine.kind = MachineKind::Q35, &["machine.kind"]),
            (
                |launch| launch.machine.architecture = Architecture::Aarch64,
                &["machine.architecture"],
            ),
            (|launch| launch.machine.cpu = "qemu64".into(), &["machine.cpu"]),
            (|launch| launch.machine.nested = true, &["machine.nested"]),
            (|launch| launch.disks.clear(), &["disks.data"]),
            (|launch| launch.disks.push(disk("more")), &["disks.more"]),
            (|launch| launch.disks[0].bytes = None, &["disks.data.bytes"]),
            (|launch| launch.disks[0].read_only = true, &["disks.data.read_only"]),
            (|launch| launch.firmware.kind = FirmwareKind::Uefi, &["firmware.kind"]),
            (|launch| launch.firmware.secure_boot = SecureBoot::OwnKeys, &["firmware.secure_boot"]),
            (|launch| launch.nics.clear(), &["nics"]),
            (|launch| launch.access.console = AccessLevel::Watch, &["access.console"]),
            (|launch| launch.grace_s.seconds = 1, &["grace_s"]),
            (|launch| launch.warnings.push("two".into()), &["warnings.1"]),
            (|launch| launch.warnings.clear(), &["warnings.0"]),
            (|launch| launch.extensions.push(("k".into(), "v".into())), &["extensions"]),
            (|launch| launch.ports[0].guest = 81, &["ports.a.guest"]),
            (|launch| launch.ports[1].host = Some(1), &["ports.b.host"]),
            (|launch| launch.ports[1].bind = [0; 4].into(), &["ports.b.bind"]),
            (|launch| launch.ports[0].protocol = Protocol::Udp, &["ports.a.protocol"]),
            (|launch| drop(launch.ports.remove(0)), &["ports.a"]),
            (|launch| launch.ports.push(port("c")), &["ports.c"]),
            // Two ports with the same label cannot be told apart by it.
            (|launch| launch.ports.push(port("a")), &["ports"]),
        ];
        for (number, (change, fields)) in rows.into_iter().enumerate() {
            let mut after = before();
            change(&mut after);
            let found: Vec<_> =
                before().changes_to(&after).into_iter().map(|one| one.field).collect();
            assert_eq!(found, fields, "row {number}");
        }
    }
}
