//! QEMU's command line. Pure: no I/O, and everything that reaches it is typed, so that no text of a tenant's
//! or a policy's is in it, but for extra arguments that the operator's configuration spells out.

mod blocks;
pub mod descriptors;

use blocks::{DataDisk, ROOT_RATE, blocks, data_disks, flash_nodes, seed_node, throttle_group};
use descriptors::Further;

use qhost_model::{
    format::Format,
    host_facts::Accelerator,
    launch::{DiskName, Egress, FirmwareKind, Forward, Launch, Machine, SecureBoot},
};

/// QEMU's control socket, in the VM's folder.
pub const QMP_SOCKET: &str = "qmp.sock";
/// The guest's serial console, in the same place.
pub const CONSOLE_SOCKET: &str = "console.sock";
/// The overlay, in the same place, unless it outlives its VM.
pub const OVERLAY: &str = "overlay.qcow2";

/// The guest's seed, in the same place.
pub const SEED: &str = "seed.iso";

/// The code of a guest's UEFI, in the same place.
pub const FIRMWARE: &str = "firmware.fd";
/// The variables of a guest's UEFI, in the same place, unless they outlive their VM.
pub const VARIABLES: &str = "variables.fd";

/// The file of those that outlive their VM, beside its overlay: a file for each kind of secure boot, since what a guest wrote to one
/// without it says what another would let boot.
pub fn kept_variables(secure_boot: SecureBoot) -> String {
    format!("variables-{}.fd", secure_boot.name())
}

/// The file of a disk that ends with its VM, in the same place.
pub fn disk_file(name: &DiskName) -> String {
    format!("{DISK_PREFIX}{name}{DISK_SUFFIX}")
}

/// Whether a file of that folder is such a disk's.
pub(super) fn is_disk_file(name: &str) -> bool {
    name.starts_with(DISK_PREFIX) && name.ends_with(DISK_SUFFIX) && !name.contains('/')
}

const DISK_PREFIX: &str = "disk-";
const DISK_SUFFIX: &str = ".raw";

/// QEMU's arguments. `extra` has passed the host's rules: it is made of groups that the operator wrote out.
pub fn argv(
    vm: &str,
    launch: &Launch,
    extra: &[String],
    format: Format,
    forwards: &[Forward],
) -> Vec<String> {
    let mut argv = Argv(vec![]);
    argv.flag("-nodefaults")
        .flag("-no-user-config")
        .option("-name", format!("guest={}", quoted(vm)))
        // Paused until the control socket is connected, so that no event is missed.
        .flag("-S")
        .option("-machine", machine(launch))
        .option("-accel", accel(launch.accelerator))
        .option("-cpu", cpu(&launch.machine))
        .option("-smp", format!("cpus={}", launch.resources.cpus))
        .option("-m", format!("size={}M", launch.resources.memory_mib))
        .option(
            "-sandbox",
            "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        )
        .option("-display", "none");
    let root: &[i32] = match format {
        Format::Iso => &[descriptors::IMAGE],
        Format::Qcow2 | Format::Raw => &[descriptors::IMAGE, descriptors::OVERLAY],
    };
    let disks: Vec<DataDisk<'_>> = data_disks(&launch.disks).collect();
    let is_uefi = launch.firmware.kind == FirmwareKind::Uefi;
    let Further { seed, uefi, .. } = Further::of(disks.len(), launch.seed.is_some(), is_uefi);
    let disk_descriptors = disks.iter().map(|disk| disk.descriptor);
    let further = seed.into_iter().chain(uefi.into_iter().flatten());
    for descriptor in root.iter().copied().chain(disk_descriptors).chain(further) {
        argv.option("-add-fd", format!("fd={descriptor},set={descriptor}"));
    }
    let groups = disks.iter().filter_map(DataDisk::throttle_group);
    for group in throttle_group(ROOT_RATE, launch.disk_rate).into_iter().chain(groups) {
        argv.option("-object", group.to_string());
    }
    let nodes =
        blocks(format, launch.disk_rate).into_iter().chain(disks.iter().map(DataDisk::block));
    let flash = uefi.into_iter().flat_map(flash_nodes);
    for node in nodes.chain(seed.map(seed_node)).chain(flash) {
        argv.option("-blockdev", node.to_string());
    }
    argv.option(
        "-device",
        match format {
            Format::Iso => "ide-cd,drive=image,bootindex=0",
            // A full disk is told to the guest as any failed write is; QEMU would pause it instead.
            Format::Qcow2 | Format::Raw => {
                "virtio-blk-pci,drive=disk,bootindex=0,werror=report,rerror=report"
            }
        },
    );
    for disk in &disks {
        argv.option("-device", disk.device(launch.resources.cpus));
    }
    if seed.is_some() {
        // Last, so that the disks have the names that they have without it.
        argv.option("-device", "virtio-blk-pci,drive=seed,serial=cidata,num-queues=1");
    }
    if is_uefi {
        // It would try the network once the disk does not boot.
        argv.option("-boot", "menu=off,strict=on");
    }
    if launch.firmware.secure_boot != SecureBoot::Off {
        // The guest's kernel cannot write the variables that say what may boot; only the firmware can.
        argv.option("-global", "driver=cfi.pflash01,property=secure,value=on");
    }
    if !launch.nics.is_empty() {
        argv.option("-netdev", netdev(launch.egress, forwards))
            // No option ROM: a guest boots from its image, never from the network.
            .option("-device", "virtio-net-pci,netdev=net,romfile=");
    }
    argv.option("-object", "rng-builtin,id=rng")
        .option("-device", "virtio-rng-pci,rng=rng")
        .option("-device", "pvpanic")
        // Both listen, so that the next supervisor can connect when the one before was killed.
        .option("-chardev", format!("socket,id=qmp,fd={},server=on,wait=off", descriptors::QMP))
        .option("-mon", "chardev=qmp,mode=control")
        .option(
            "-chardev",
            format!("socket,id=console,fd={},server=on,wait=off", descriptors::CONSOLE),
        )
        .option("-serial", "chardev:console");
    for argument in extra {
        argv.flag(argument);
    }
    argv.0
}

struct Argv(Vec<String>);

impl Argv {
    fn flag(&mut self, flag: &str) -> &mut Self {
        self.0.push(flag.to_owned());
        self
    }

    fn option(&mut self, flag: &str, value: impl Into<String>) -> &mut Self {
        self.0.extend([flag.to_owned(), value.into()]);
        self
    }
}

/// A value in QEMU's own option syntax, where a comma ends it unless doubled.
fn quoted(value: &str) -> String {
    value.replace(',', ",,")
}

/// Without graphics the firmware and boot loaders write to the serial port.
fn machine(Launch { machine, firmware, .. }: &Launch) -> String {
    let flash = match firmware.kind {
        FirmwareKind::Bios => "",
        FirmwareKind::Uefi => ",pflash0=code,pflash1=variables",
    };
    let smm = match firmware.secure_boot {
        SecureBoot::Off => "",
        SecureBoot::OwnKeys | SecureBoot::VendorKeys => ",smm=on",
    };
    format!("{},usb=off,dump-guest-core=off,graphics=off{flash}{smm}", machine.kind.name())
}

/// `max` is all that the accelerator can give; under kvm that is the host's own CPU.
fn cpu(Machine { cpu, nested, .. }: &Machine) -> String {
    // The kernel's code for VMs inside of VMs is the largest part of KVM that a guest can attack.
    format!("{cpu}{}", if *nested { "" } else { ",vmx=off,svm=off" })
}

fn accel(accelerator: Accelerator) -> String {
    match accelerator {
        Accelerator::Tcg => {
            format!("tcg,thread=multi,tb-size={}", qhost_cage::limits::TCG_TB_SIZE_MIB)
        }
        Accelerator::Kvm => "kvm".into(),
    }
}

fn netdev(egress: Egress, forwards: &[Forward]) -> String {
    let restrict = match egress {
        Egress::Isolated => "on",
        Egress::Internet => "off",
    };
    let mut netdev = format!("user,id=net,ipv6=off,restrict={restrict}");
    for Forward { bind, host, guest, protocol, .. } in forwards {
        netdev += &format!(",hostfwd={}:{bind}:{host}-:{guest}", protocol.name());
    }
    netdev
}

#[cfg(test)]
mod tests {
    use qhost_model::{
        host_facts::Resources,
        launch::{Access, Disk, Firmware, Grace, MachineKind, Nic, Protocol, Rate},
    };

    use super::*;

    fn launch() -> Launch {
        Launch {
            accelerator: Accelerator::Tcg,
            ports: vec![],
            resources: Resources { cpus: 2, memory_mib: 64 },
            egress: Egress::Isolated,
            disk_bytes: None,
            disk_rate: Rate::default(),
            persist: false,
            disks: vec![],
            seed: None,
            firmware: Firmware::default(),
            machine: Machine::default(),
            nics: vec![Nic { name: "net".into(), network: "user".into() }],
            access: Access::default(),
            grace_s: Grace::default(),
            warnings: vec![],
            extensions: vec![],
        }
    }

    fn forward(protocol: Protocol, host: u16) -> Forward {
        let (label, bind) = ("x,y=z".into(), [127, 0, 0, 1].into());
        Forward { label, bind, host, guest: 80, protocol }
    }

    /// A launch, an image's format and forwarded ports, and what the command line then has.
    struct Row {
        launch: Launch,
        format: Format,
        forwards: Vec<Forward>,
        has: &'static [&'static str],
    }

    #[test]
    fn each_choice_is_an_option() {
        let raw = |launch, has| Row { launch, format: Format::Raw, forwards: vec![], has };
        let of = |format, has| Row { launch: launch(), format, forwards: vec![], has };
        let rows = [
            raw(launch(), &["guest=a,,b", "cpus=2", "size=64M", "tcg,thread=multi,tb-size=64"]),
            raw(Launch { accelerator: Accelerator::Kvm, ..launch() }, &["kvm"]),
            raw(launch(), &["pc,usb=off,dump-guest-core=off,graphics=off", "max,vmx=off,svm=off"]),
            raw(
                Launch {
                    machine: Machine { kind: MachineKind::Q35, cpu: "host".into(), nested: true },
                    ..launch()
                },
                &["q35,usb=off,dump-guest-core=off,graphics=off", "host"],
            ),
            raw(launch(), &["user,id=net,ipv6=off,restrict=on"]),
            raw(
                Launch { egress: Egress::Internet, ..launch() },
                &["user,id=net,ipv6=off,restrict=off"],
            ),
            of(Format::Raw, &["fd=5,set=5", "fd=6,set=6"]),
            of(Format::Qcow2, &["fd=5,set=5", "fd=6,set=6"]),
            of(Format::Iso, &["fd=5,set=5", "ide-cd,drive=image,bootindex=0"]),
            Row {
                forwards: vec![forward(Protocol::Tcp, 2000), forward(Protocol::Udp, 2001)],
                ..raw(
                    launch(),
                    &[
                        "user,id=net,ipv6=off,restrict=on,hostfwd=tcp:127.0.0.1:2000-:80,hostfwd=udp:127.0.0.1:2001-:80",
                    ],
                )
            },
        ];
        for (number, row) in rows.into_iter().enumerate() {
            let found = argv("a,b", &row.launch, &["-extra".into()], row.format, &row.forwards);
            for option in row.has {
                assert!(found.iter().any(|one| one == option), "row {number}: no {option}");
            }
            assert_eq!(found.last().map(String::as_str), Some("-extra"));
            let writes = found.iter().any(|one| one == "fd=6,set=6");
            assert_eq!(writes, row.format != Format::Iso, "row {number}: an overlay");
        }
    }

    #[test]
    fn disks_are_in_the_order_of_the_launch_and_the_seed_is_behind_them() {
        let disk = |name: &str, read_only| Disk {
            name: DiskName::try_from(name.to_owned()).unwrap(),
            bytes: None,
            volume: Some("db".into()),
            read_only,
            rate: Rate::default(),
        };
        let launch = Launch { disks: vec![disk("b", false), disk("a", true)], ..launch() };
        let found = argv("vm", &launch, &[], Format::Raw, &[]);
        let with = |start: &str| -> Vec<&String> {
            found.iter().filter(|one| one.starts_with(start)).collect()
        };
        assert_eq!(with("fd="), ["fd=5,set=5", "fd=6,set=6", "fd=7,set=7", "fd=8,set=8"]);
        let devices = with("virtio-blk-pci");
        let names: Vec<_> = devices.iter().filter_map(|device| device.split(',').nth(2)).collect();
        assert_eq!(names, ["bootindex=0", "serial=b", "serial=a"]);
        let node = |name: &str| {
            let nodes = found.iter().filter_map(|one| serde_json::from_str(one).ok());
            nodes.into_iter().find(|node: &serde_json::Value| node["node-name"] == name).unwrap()
        };
        for (name, descriptor, read_only) in [("data0", 7, false), ("data1", 8, true)] {
            let node = node(name);
            assert_eq!(node["read-only"], read_only);
            assert_eq!(node["file"]["read-only"], read_only);
            assert_eq!(node["file"]["filename"], format!("/dev/fdset/{descriptor}"));
        }
        let of = |disks, has_seed, is_uefi| {
            let Further { seed, uefi, first_free } = Further::of(disks, has_seed, is_uefi);
            (seed, uefi, first_free)
        };
        assert_eq!(of(0, false, false), (None, None, 7));
        assert_eq!(of(2, true, false), (Some(9), None, 10));
        assert_eq!(of(2, true, true), (Some(9), Some([10, 11]), 12));
        assert_eq!(of(1, false, true), (None, Some([8, 9]), 10));
    }

    #[test]
    fn a_limited_disk_is_asked_through_a_throttle_group() {
        let rate = |operations, kib| Rate {
            iops: std::num::NonZeroU32::new(operations),
            kib_per_s: std::num::NonZeroU32::new(kib),
        };
        let disk = |name: &str, rate| Disk {
            name: DiskName::try_from(name.to_owned()).unwrap(),
            bytes: Some(1 << 20),
            volume: None,
            read_only: false,
            rate,
        };
        let disks = vec![disk("free", Rate::default()), disk("slow", rate(7, 2))];
        let launch = Launch { disk_rate: rate(0, 4), disks, ..launch() };
        let found = argv("vm", &launch, &[], Format::Raw, &[]);
        let json = || found.iter().filter_map(|one| serde_json::from_str(one).ok());
        let groups: Vec<serde_json::Value> =
            json().filter(|one: &serde_json::Value| one["qom-type"].is_string()).collect();
        let limits: Vec<_> = groups.iter().map(|group| (&group["id"], &group["limits"])).collect();
        let expected = [
            (serde_json::json!("rate"), serde_json::json!({"bps-total": 4096})),
            (serde_json::json!("rate1"), serde_json::json!({"iops-total": 7, "bps-total": 2048})),
        ];
        assert_eq!(limits, expected.iter().map(|(id, limits)| (id, limits)).collect::<Vec<_>>());
        let node = |name: &str| json().find(|one| one["node-name"] == name).unwrap();
        for (name, group, driver) in [("disk", "rate", "qcow2"), ("data1", "rate1", "raw")] {
            let node = node(name);
            assert_eq!(
                (&node["driver"], &node["throttle-group"]),
                (&"throttle".into(), &group.into())
            );
            assert_eq!(node["file"]["driver"], driver);
        }
        assert_eq!(node("data0")["driver"], "raw");
    }

    #[test]
    fn a_guest_without_a_network_device_has_no_network() {
        let launch = Launch { nics: vec![], ..launch() };
        let found = argv("vm", &launch, &[], Format::Raw, &[]);
        assert!(!found.iter().any(|one| one == "-netdev" || one.contains("virtio-net")));
    }
}
