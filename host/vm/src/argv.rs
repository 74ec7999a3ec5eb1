//! QEMU's command line, made without I/O. All values that reach the command line are typed, so that no text of a tenant's or a policy's is
//! in it; extra arguments are those that the operator's configuration spells out.

mod blocks;
pub mod descriptors;
mod devices;

use std::path::Path;

use blocks::{DataDisk, ROOT_RATE, blocks, data_disks, flash_nodes, seed_node, throttle_group};
use descriptors::{Further, Parts};

use qhost_model::{
    format::Format,
    host_facts::Accelerator,
    launch::{
        AccessLevel, Architecture, Egress, FirmwareKind, Forward, Launch, Machine, SecureBoot, Seed,
    },
};

use crate::{DiskOf, files::IGNITION};

/// QEMU's arguments, for a VM with this folder and these disks beside the root disk, in the order of the launch's disks. The arguments in
/// `extra` have passed the host's rules, as groups of arguments that the operator wrote out.
pub fn argv(
    vm: &Path,
    launch: &Launch,
    disks: &[DiskOf],
    extra: &[String],
    format: Format,
    forwards: &[Forward],
) -> Vec<String> {
    let mut argv = Argv(vec![]);
    argv.flag("-nodefaults")
        .flag("-no-user-config")
        .option(
            "-name",
            format!("guest={}", quoted(&vm.file_name().unwrap_or_default().to_string_lossy())),
        )
        // QEMU is paused until the control socket is connected, so that no event is missed.
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
    let disk_files = disks.iter().map(DiskOf::files).sum();
    let disks: Vec<DataDisk<'_>> = data_disks(&launch.disks, disks).collect();
    let is_uefi = launch.firmware.kind == FirmwareKind::Uefi;
    let has_agent = launch.access.agent != AccessLevel::None;
    let seed = launch.seed.as_ref().is_some_and(Seed::is_disk);
    let parts = Parts { disk_files, seed, uefi: is_uefi, agent: has_agent };
    let Further { seed, uefi, agent, .. } = Further::of(parts);
    let disk_descriptors = disks.iter().flat_map(DataDisk::descriptors);
    let further = seed.into_iter().chain(uefi.into_iter().flatten());
    for descriptor in root.iter().copied().chain(disk_descriptors).chain(further) {
        argv.option("-add-fd", format!("fd={descriptor},set={descriptor}"));
    }
    let groups = disks.iter().filter_map(DataDisk::throttle_group);
    for group in throttle_group(ROOT_RATE, launch.disk_rate).into_iter().chain(groups) {
        argv.option("-object", group.to_string());
    }
    let nodes =
        blocks(format, launch.disk_rate).into_iter().chain(disks.iter().flat_map(DataDisk::blocks));
    let flash = uefi.into_iter().flat_map(flash_nodes);
    for node in nodes.chain(seed.map(seed_node)).chain(flash) {
        argv.option("-blockdev", node.to_string());
    }
    let kind = launch.machine.kind;
    let has_cd = format == Format::Iso || launch.disks.iter().any(|disk| disk.cdrom);
    if let Some(controller) = devices::cd_controller(kind).filter(|_| has_cd) {
        argv.option("-device", controller);
    }
    argv.option(
        "-device",
        match format {
            Format::Iso => devices::cd(kind, "image", "bootindex=0"),
            // A full disk is reported to the guest as any failed write is; by default QEMU would pause the guest instead.
            Format::Qcow2 | Format::Raw => {
                "virtio-blk-pci,drive=disk,bootindex=0,werror=report,rerror=report".into()
            }
        },
    );
    for disk in &disks {
        argv.option("-device", disk.device(launch));
    }
    if seed.is_some() {
        // The seed is last, so that the other disks have the names that they have without it.
        argv.option("-device", "virtio-blk-pci,drive=seed,serial=cidata,num-queues=1");
    }
    if launch.seed.as_ref().is_some_and(Seed::is_ignition) {
        // QEMU takes no descriptor here, so the cage shows QEMU this one file of the VM's folder.
        let file = quoted(&vm.join(IGNITION).to_string_lossy());
        argv.option("-fw_cfg", format!("name=opt/com.coreos/config,file={file}"));
    }
    if is_uefi {
        // UEFI would try the network if the disk does not boot.
        argv.option("-boot", "menu=off,strict=on");
    }
    if launch.firmware.secure_boot != SecureBoot::Off {
        // The guest's kernel cannot write the variables that say what may boot; only the firmware can.
        argv.option("-global", "driver=cfi.pflash01,property=secure,value=on");
    }
    if !launch.nics.is_empty() {
        argv.option("-netdev", netdev(launch.egress, forwards))
            // The card has no option ROM: a guest boots from its image, never from the network.
            .option("-device", "virtio-net-pci,netdev=net,romfile=");
    }
    argv.option("-object", "rng-builtin,id=rng")
        .option("-device", "virtio-rng-pci,rng=rng")
        .option("-device", devices::panic(kind))
        // Both sockets listen, so that the next supervisor can connect when the one before was killed.
        .option("-chardev", format!("socket,id=qmp,fd={},server=on,wait=off", descriptors::QMP))
        .option("-mon", "chardev=qmp,mode=control")
        .option(
            "-chardev",
            format!("socket,id=console,fd={},server=on,wait=off", descriptors::CONSOLE),
        )
        .option("-serial", "chardev:console");
    if let Some(agent) = agent {
        argv.option("-chardev", format!("socket,id=agent,fd={agent},server=on,wait=off"))
            .option("-device", "virtio-serial-pci,max_ports=2")
            .option("-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0");
    }
    if launch.access.display != AccessLevel::None {
        argv.option("-device", devices::display(kind));
    }
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

/// The machine with its options. Without graphics, the firmware and boot loaders write to the serial port.
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

/// The CPU's model. `max` is all that the accelerator can give, which under kvm is the host's own CPU.
fn cpu(Machine { cpu, nested, architecture, .. }: &Machine) -> String {
    match (architecture, nested) {
        // The kernel's code for VMs inside of VMs is the largest part of KVM that a guest can attack.
        (Architecture::X86_64, false) => format!("{cpu},vmx=off,svm=off"),
        (Architecture::X86_64, true) | (Architecture::Aarch64, _) => cpu.clone(),
    }
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
mod tests;
