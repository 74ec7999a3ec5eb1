//! How a task will be launched, which policies choose and judge. Each field has a file of its own, with its job keys, its comparison,
//! what counts as wider and the host's rules. This file has the list of fields and the loops over it. Nothing here does I/O.

pub mod field;
mod accelerator;
pub mod access;
mod architecture;
mod changes;
pub mod disk_bytes;
mod disk_rate;
pub mod disks;
mod egress;
mod extensions;
mod firmware;
mod forward;
mod grace;
pub mod machine;
pub mod nics;
mod persist;
mod port_range;
pub(crate) mod ports;
mod resources;
mod rules;
pub mod seed;
mod warnings;

use serde::{Deserialize, Serialize};

use crate::{host_facts::HostFacts, job::block::TaskBlock, quota::Usage, secrets::Secrets};

pub use crate::architecture::Architecture;
pub use crate::firmware::{Firmware, FirmwareKind, SecureBoot};
pub use crate::rate::Rate;
pub use access::{Access, AccessLevel};
pub use changes::{Change, listed, shown};
pub use disks::{Disk, DiskImage, DiskName};
pub use egress::Egress;
pub use forward::Forward;
pub use grace::Grace;
pub use machine::{Machine, MachineKind};
pub use nics::Nic;
pub use port_range::PortRange;
pub use ports::{PortMap, PortRequest, Protocol};
pub(crate) use rules::violation;
pub use rules::{CPU_MAX, Findings, Rules, Violation, cpus};
pub use seed::Seed;

use changes::Changes;
use field::{AskedField, Key, LaunchField};

/// Makes, from the list of fields, the type of what a task asks for, the type of a launch, and each loop over all fields.
macro_rules! fields {
    (
        asked { $($(#[$a_attr:meta])* $a:ident: $a_field:ty,)+ }
        chosen { $($(#[$c_attr:meta])* $c:ident: $c_field:ty,)+ }
    ) => {
        /// What a task asks of its launch.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        pub struct Asked {
            $($(#[$a_attr])* pub $a: <$a_field as LaunchField>::Asked,)+
        }

        /// How a task will be launched.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        pub struct Launch {
            $($(#[$a_attr])* pub $a: <$a_field as LaunchField>::Value,)+
            $($(#[$c_attr])* pub $c: <$c_field as LaunchField>::Value,)+
        }

        impl Asked {
            /// Reads what a task's blocks ask for; absent after a problem was noted.
            pub(crate) fn read(task: &TaskBlock<'_>) -> Option<Self> {
                // All fields are read before the result is made, so that the problems of all are reported.
                $(let $a = <$a_field>::read(task);)+
                Some(Self { $($a: $a?),+ })
            }
        }

        impl Launch {
            /// The launch of a task if no policy chooses otherwise: as asked, with tcg where no accelerator was asked for, and ports
            /// on loopback.
            pub fn default_for(asked: &Asked) -> Self {
                Self {
                    $($a: <$a_field>::default_for(&asked.$a),)+
                    $($c: <$c_field>::default_for(&()),)+
                }
            }

            /// The request whose default launch this is.
            pub fn asked(&self) -> Asked {
                Asked { $($a: <$a_field>::asking_for(&self.$a),)+ }
            }

            /// What differs in another launch, field by field.
            pub fn changes_to(&self, other: &Self) -> Vec<Change> {
                let mut changes = Changes::default();
                $(<$a_field>::compare(&self.$a, &other.$a, &mut changes);)+
                $(<$c_field>::compare(&self.$c, &other.$c, &mut changes);)+
                changes.into_vec()
            }

            /// The first field that is wider in a tenant's launch than in this one, which the host's policies have allowed.
            pub fn widened_by(&self, tenant: &Self) -> Option<Change> {
                None
                    $(.or_else(|| <$a_field>::widened(&self.$a, &tenant.$a)))+
                    $(.or_else(|| <$c_field>::widened(&self.$c, &tenant.$c)))+
            }

            /// Checks the launch against what the operator allows and what this host can do.
            pub fn check(&self, asked: &Asked, rules: &Rules, host: &HostFacts) -> Findings {
                let mut findings = Findings::default();
                $(<$a_field>::check(&asked.$a, &self.$a, rules, host, &mut findings);)+
                $(<$c_field>::check(&(), &self.$c, rules, host, &mut findings);)+
                findings
            }

            /// Masks a task's secrets in the values that policies wrote.
            pub fn mask(&mut self, secrets: &Secrets) {
                $(<$a_field>::mask(&mut self.$a, secrets);)+
                $(<$c_field>::mask(&mut self.$c, secrets);)+
            }

            /// What one VM of this launch takes of quotas, if its overlay may grow to so many bytes.
            pub fn usage(&self, overlay_bytes: u64) -> Usage {
                let mut usage = Usage { vms: 1, disk_bytes: overlay_bytes, ..Usage::default() };
                $(<$a_field>::add_to(&self.$a, &mut usage);)+
                $(<$c_field>::add_to(&self.$c, &mut usage);)+
                usage
            }

            /// The fields in one line, without those that have lines of their own.
            pub fn line(&self) -> String {
                let fields = [$(<$a_field>::shown(&self.$a),)+ $(<$c_field>::shown(&self.$c),)+];
                fields.into_iter().flatten().collect::<Vec<_>>().join(", ")
            }
        }

        /// Every field, for reference pages.
        pub const FIELDS: &[FieldAbout] = &[
            $(FieldAbout::of::<$a_field>(<$a_field>::KEYS),)+
            $(FieldAbout::of::<$c_field>(&[]),)+
        ];
    };
}

fields! {
    asked {
        /// The guest's CPUs and memory.
        resources: resources::Field,
        /// The accelerator, which runs the guest's instructions.
        accelerator: accelerator::Field,
        /// The forwarded ports, labels unique.
        ports: ports::Field,
        /// What the guest may reach by itself.
        egress: egress::Field,
        /// The size of the root disk in bytes; absent where it is the image's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        disk_bytes: disk_bytes::Field,
        /// The I/O limits of the root disk.
        #[serde(default, skip_serializing_if = "is_default")]
        disk_rate: disk_rate::Field,
        /// Whether what the guest writes to the root disk is kept for the task's next run.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        persist: persist::Field,
        /// The disks beside the root disk, in the order in which the guest sees them.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        disks: disks::Field,
        /// The seed that sets the guest up when it boots; absent where there is none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seed: seed::Field,
        /// The guest's firmware.
        #[serde(default, skip_serializing_if = "is_default")]
        firmware: firmware::Field,
        /// The machine that QEMU emulates.
        #[serde(default, skip_serializing_if = "is_default")]
        machine: machine::Field,
        /// The guest's network devices.
        #[serde(default = "nics::default", skip_serializing_if = "nics::is_default")]
        nics: nics::Field,
        /// The ways into the guest.
        #[serde(default, skip_serializing_if = "is_default")]
        access: access::Field,
        /// Seconds that the guest has to power off when it is stopped.
        #[serde(default, skip_serializing_if = "is_default")]
        grace_s: grace::Field,
    }
    chosen {
        /// Remarks of policies.
        warnings: warnings::Field,
        /// The contract's pairs of key and value that are for later versions.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        extensions: extensions::Field,
    }
}

/// Whether a field has its default, which records leave out.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What the reference pages say of a field.
#[derive(Debug)]
pub struct FieldAbout {
    /// The field's name.
    pub name: &'static str,
    /// The keys of a job file that ask for the field.
    pub keys: &'static [Key],
    /// The field's form in the contract.
    pub contract: &'static str,
    /// How a tenant's policy may tighten the field.
    pub tighter: &'static str,
}

impl FieldAbout {
    const fn of<F: LaunchField>(keys: &'static [Key]) -> Self {
        Self { name: F::NAME, keys, contract: F::CONTRACT, tighter: F::TIGHTER }
    }
}

/// The keys of a job file that ask for a field of a launch.
pub fn keys() -> impl Iterator<Item = &'static Key> {
    FIELDS.iter().flat_map(|field| field.keys)
}

#[cfg(test)]
mod tests {
    use super::{disk_bytes::MIB, *};
    use crate::host_facts::{Accelerator, Resources};

    fn port(label: &str, host: Option<u16>, bind: [u8; 4]) -> PortMap {
        let (guest, bind) = (80, bind.into());
        PortMap { label: label.into(), guest, host, bind, protocol: Protocol::Tcp }
    }

    fn rate(operations: Option<u32>, kib: Option<u32>) -> Rate {
        let number = |number: Option<u32>| number.and_then(std::num::NonZeroU32::new);
        Rate { iops: number(operations), kib_per_s: number(kib) }
    }

    fn disk(name: &str, bytes: Option<u64>) -> Disk {
        let name = DiskName::try_from(name.to_owned()).unwrap();
        Disk {
            name,
            bytes,
            volume: None,
            image: None,
            cdrom: false,
            read_only: false,
            rate: rate(None, Some(1024)),
        }
    }

    fn volume(name: &str) -> Disk {
        Disk { volume: Some(name.into()), read_only: true, ..disk(name, None) }
    }

    fn seeded() -> Seed {
        Seed {
            kind: seed::SeedKind::CloudInit,
            parts: vec![seed::SeedPart {
                name: seed::PartName::UserData,
                media_type: "text/cloud-config".into(),
                sha256: crate::digest::Sha256::of(b""),
                bytes: 0,
                keys: vec![],
            }],
            hostname: Some("web".into()),
            ssh_keys: vec!["SHA256:a".into()],
        }
    }

    fn seed_of(launch: &mut Launch) -> &mut Seed {
        launch.seed.get_or_insert_with(seeded)
    }

    fn hosts() -> Launch {
        Launch {
            accelerator: Accelerator::Tcg,
            ports: vec![port("any", None, [0; 4]), port("pinned", Some(2000), [127, 0, 0, 1])],
            resources: Resources { cpus: 2, memory_mib: 512 },
            egress: Egress::Isolated,
            disk_bytes: Some(1024),
            disk_rate: rate(Some(100), None),
            persist: false,
            disks: vec![disk("data", Some(2 * MIB)), volume("db")],
            seed: Some(seeded()),
            firmware: Firmware { kind: FirmwareKind::Uefi, secure_boot: SecureBoot::Off },
            machine: Machine { kind: MachineKind::Q35, nested: true, ..Machine::default() },
            nics: nics::default(),
            access: Access { console: AccessLevel::Watch, ..Access::default() },
            grace_s: Grace { seconds: 10 },
            warnings: vec!["slow".into()],
            extensions: vec![("key".into(), "value".into())],
        }
    }

    #[test]
    fn a_task_that_asks_for_a_launch_gets_it() {
        let launch = hosts();
        let again = Launch::default_for(&launch.asked());
        let changes = again.changes_to(&launch);
        // Only policies write these fields.
        let fields: Vec<_> = changes.iter().map(|change| change.field.as_str()).collect();
        assert_eq!(fields, ["warnings.0", "extensions"]);
    }

    /// A row: what a tenant's policy does to the host's launch, and the field that is wider then.
    type Row = (fn(&mut Launch), Option<&'static str>);

    #[test]
    fn each_field_may_be_tightened_and_not_widened() {
        let rows: [Row; 63] = [
            (|_| {}, None),
            (|launch| launch.accelerator = Accelerator::Kvm, Some("accelerator")),
            (|launch| launch.resources.cpus = 1, None),
            (|launch| launch.resources.cpus = 3, Some("resources.cpus")),
            (|launch| launch.resources.memory_mib = 511, None),
            (|launch| launch.resources.memory_mib = 513, Some("resources.memory_mib")),
            (|launch| launch.egress = Egress::Internet, Some("egress")),
            (|launch| launch.disk_bytes = Some(1536), Some("disk_bytes")),
            (|launch| launch.disk_bytes = Some(512), None),
            (|launch| launch.disk_bytes = None, None),
            (|launch| launch.disk_rate = rate(Some(99), None), None),
            (|launch| launch.disk_rate = rate(Some(100), Some(1)), None),
            (|launch| launch.disk_rate = rate(Some(101), None), Some("disk_rate")),
            (|launch| launch.disk_rate = rate(None, Some(1)), Some("disk_rate")),
            (|launch| launch.disks[0].rate = rate(Some(1), Some(1024)), None),
            (|launch| launch.disks[0].rate = rate(None, Some(1023)), None),
            (|launch| launch.disks[0].rate = rate(None, Some(1025)), Some("disks.data.rate")),
            (|launch| launch.disks[0].rate = rate(None, None), Some("disks.data.rate")),
            (|launch| launch.persist = true, Some("persist")),
            (|launch| launch.disks.clear(), None),
            (|launch| launch.disks[0].bytes = Some(MIB), None),
            (|launch| launch.disks[0].read_only = true, None),
            (|launch| launch.disks.swap(0, 1), None),
            (|launch| launch.disks[0].bytes = Some(3 * MIB), Some("disks.data.bytes")),
            (|launch| launch.disks[1].read_only = false, Some("disks.db.read_only")),
            (|launch| launch.disks[1].volume = Some("other".into()), Some("disks.db.volume")),
            (|launch| launch.disks[0].volume = Some("db".into()), Some("disks.data.volume")),
            (|launch| launch.disks.push(disk("new", Some(MIB))), Some("disks.new")),
            (|launch| launch.disks.push(volume("db")), Some("disks.db")),
            (|launch| launch.seed = None, None),
            (|launch| seed_of(launch).parts.clear(), None),
            (|launch| seed_of(launch).ssh_keys.clear(), None),
            (|launch| seed_of(launch).ssh_keys.push("SHA256:b".into()), Some("seed")),
            (|launch| seed_of(launch).parts[0].bytes = 1, Some("seed")),
            (|launch| seed_of(launch).hostname = None, Some("seed")),
            (|launch| launch.firmware.secure_boot = SecureBoot::VendorKeys, None),
            (|launch| launch.firmware = Firmware::default(), Some("firmware.kind")),
            (|launch| launch.machine.nested = false, None),
            (|launch| launch.machine.kind = MachineKind::Pc, Some("machine.kind")),
            (
                |launch| launch.machine.architecture = Architecture::Aarch64,
                Some("machine.architecture"),
            ),
            (|launch| launch.machine.cpu = "qemu64".into(), Some("machine.cpu")),
            (|launch| launch.nics.clear(), None),
            (|launch| launch.nics.push(launch.nics[0].clone()), Some("nics")),
            (|launch| launch.nics[0].network = "other".into(), Some("nics")),
            (|launch| launch.access.console = AccessLevel::None, None),
            (|launch| launch.access.console = AccessLevel::Interact, Some("access.console")),
            (|launch| launch.grace_s.seconds = 9, None),
            (|launch| launch.grace_s.seconds = 11, Some("grace_s")),
            (|launch| launch.warnings.push("more".into()), None),
            (|launch| launch.warnings.clear(), Some("warnings")),
            (|launch| launch.warnings.insert(0, "first".into()), Some("warnings")),
            (|launch| launch.extensions.clear(), Some("extensions")),
            (|launch| launch.extensions.push(("more".into(), String::new())), Some("extensions")),
            (|launch| launch.ports.clear(), None),
            (|launch| launch.ports.push(port("new", None, [127, 0, 0, 1])), Some("ports.new")),
            (|launch| launch.ports.push(launch.ports[1].clone()), Some("ports.pinned")),
            (|launch| launch.ports[0].host = Some(3000), None),
            (|launch| launch.ports[1].host = Some(3000), Some("ports.pinned.host")),
            (|launch| launch.ports[1].host = None, Some("ports.pinned.host")),
            (|launch| launch.ports[0].bind = [127, 0, 0, 1].into(), None),
            (|launch| launch.ports[1].bind = [0; 4].into(), Some("ports.pinned.bind")),
            (|launch| launch.ports[0].guest = 81, Some("ports.any.guest")),
            (|launch| launch.ports[0].protocol = Protocol::Udp, Some("ports.any.protocol")),
        ];
        for (number, (change, wider)) in rows.into_iter().enumerate() {
            let mut tenants = hosts();
            change(&mut tenants);
            let found = hosts().widened_by(&tenants).map(|change| change.field);
            assert_eq!(found.as_deref(), wider, "row {number}");
        }
    }

    #[test]
    fn what_is_wide_of_the_hosts_may_be_narrowed() {
        let host = Launch { egress: Egress::Internet, persist: true, ..hosts() };
        assert_eq!(host.widened_by(&hosts()), None);
        let firmware = Firmware { secure_boot: SecureBoot::VendorKeys, ..hosts().firmware };
        let wider = Launch { firmware, ..hosts() }.widened_by(&hosts()).map(|change| change.field);
        assert_eq!(wider.as_deref(), Some("firmware.secure_boot"));
    }

    /// The JSON is as qhost wrote it before it had these fields.
    #[test]
    fn a_launch_of_an_earlier_record_has_what_each_guest_had_then() {
        let json = serde_json::json!({
            "accelerator": "tcg", "ports": [], "resources": {"cpus": 1, "memory_mib": 64},
            "egress": "isolated", "warnings": []
        });
        let launch: Launch = serde_json::from_value(json.clone()).unwrap();
        assert!(!launch.persist && launch.machine == Machine::default());
        assert_eq!((launch.nics.len(), launch.grace_s.seconds), (1, 30));
        assert_eq!(launch.access.console, AccessLevel::Interact);
        assert_eq!(serde_json::to_value(&launch).unwrap(), json, "and is written so again");
    }
}
