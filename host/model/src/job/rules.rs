//! The host's own rules, applied last to the one final launch: a policy can narrow what the host allows, never widen it. Each field of
//! a launch has its own rules; this file has those on extra arguments, which are the task's, and those on two fields at once.

mod architecture;

use super::Task;
use crate::{
    host_facts::HostFacts,
    launch::{Findings, Launch, Rules, Violation, violation},
    limits, printable,
};

/// Checks a task and its launch against what the operator allows and what this host can do.
pub fn check(task: &Task, launch: &Launch, rules: &Rules, host: &HostFacts) -> Findings {
    let mut findings = launch.check(&task.asked, rules, host);
    findings.refused.extend(args(task, rules));
    findings.impossible.extend(architecture::check(launch, host));
    findings.impossible.extend(ports_without_nic(launch));
    findings
}

/// Refuses arguments other than whole groups that the operator has written out: an option and its value, both exact.
fn args(task: &Task, rules: &Rules) -> Option<Violation> {
    let mut rest = task.args.as_slice();
    while let Some(group) =
        rules.args.iter().find(|group| !group.is_empty() && rest.starts_with(group))
    {
        rest = rest.get(group.len()..).unwrap_or_default();
    }
    let first = rest.first()?;
    let allowed: Vec<_> = rules.args.iter().map(shell_words::join).collect();
    Some(violation(
        "argument-not-allowed",
        "args",
        format!(
            "tasks may not pass {:?} to QEMU",
            printable::line(first, limits::SHOWN_CHARS).to_string()
        ),
        match (instead_of(first), allowed.as_slice()) {
            (Some(key), _) => key.into(),
            (None, []) => "this host allows no extra QEMU arguments".into(),
            (None, allowed) => format!("allowed here, exactly: {}", allowed.join("; ")),
        },
    ))
}

/// The hint on the key of a job that stands for an option of QEMU's; absent where no key does.
fn instead_of(option: &str) -> Option<&'static str> {
    // QEMU takes an option with one dash and with two.
    let plain = option.strip_prefix("--").or_else(|| option.strip_prefix('-'))?;
    let (_, key) = INSTEAD.iter().find(|(names, _)| names.contains(&plain))?;
    Some(key)
}

/// Options of QEMU's, each with a hint on what a job says instead.
pub const INSTEAD: &[(&[&str], &str)] = &[
    (&["cpu"], "leave it out: config.cpu is the CPU model, of those that the host allows"),
    (
        &["smp"],
        "leave it out: resources.cpus is how many CPUs the guest has, resources.cores in a job for Nomad",
    ),
    (
        &["m"],
        "leave it out: resources.memory_mib is the guest's memory, resources.memory in a job for Nomad",
    ),
    (&["machine", "M"], "leave it out: config.machine_type is the machine"),
    (&["accel", "enable-kvm", "no-kvm"], "leave it out: config.accelerator is tcg or kvm"),
    (
        &["bios", "pflash", "L"],
        "leave it out: config.firmware is bios or uefi, by the operator's files",
    ),
    (
        &["nographic", "serial", "chardev", "parallel"],
        "leave it out: the guest's serial port is the VM's console, which qhost logs and qhost console show",
    ),
    (
        &["display", "vga", "vnc", "spice", "sdl", "gtk"],
        "leave it out: config.display gives the guest a display, of which qhost screenshot takes pictures",
    ),
    (
        &["drive", "blockdev", "hda", "hdb", "hdc", "hdd", "cdrom", "fda", "snapshot", "boot"],
        "leave it out: config.image_source is the root disk, config.disks are the others, and config.persist keeps what is written",
    ),
    (
        &["netdev", "nic", "net", "redir"],
        "leave it out: config.port_map forwards ports, and config.egress is what the guest may reach",
    ),
    (
        &["device", "object"],
        "leave it out: disks are config.disks, the agent's channel is config.guest_agent, a display is config.display; other devices a guest does not get",
    ),
    (
        &["fw_cfg", "smbios"],
        "leave it out: config.ignition, or config.user_data and the keys beside it, set the guest up",
    ),
    (
        &["virtfs", "fsdev"],
        "leave it out: a volume of config.disks is a disk that outlives the VM; no folder of the host is shared",
    ),
    (
        &["monitor", "qmp", "daemonize", "pidfile", "D", "name", "uuid"],
        "leave it out: qhost runs QEMU and speaks to it; qhost inspect shows the VM",
    ),
];

/// Refuses ports of a guest without a network device, to which they would lead.
fn ports_without_nic(launch: &Launch) -> Option<Violation> {
    (launch.nics.is_empty() && !launch.ports.is_empty()).then(|| {
        violation(
            "port-without-nic",
            "ports",
            "ports are to be forwarded to a guest without a network device".into(),
            "leave the ports out too".into(),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        host_facts::Accelerator,
        job,
        launch::{
            AccessLevel, Architecture, Egress, Firmware, FirmwareKind, MachineKind, SecureBoot,
        },
    };

    /// A row: a change to a sound task, launch, rules and host, and the codes of the expected violations.
    struct Row {
        change: fn(&mut Task, &mut Launch, &mut Rules, &mut HostFacts),
        refused: &'static [&'static str],
        impossible: &'static [&'static str],
    }

    const fn fine(change: fn(&mut Task, &mut Launch, &mut Rules, &mut HostFacts)) -> Row {
        Row { change, refused: &[], impossible: &[] }
    }

    const fn refused(
        refused: &'static [&'static str],
        change: fn(&mut Task, &mut Launch, &mut Rules, &mut HostFacts),
    ) -> Row {
        Row { change, refused, impossible: &[] }
    }

    const fn impossible(
        impossible: &'static [&'static str],
        change: fn(&mut Task, &mut Launch, &mut Rules, &mut HostFacts),
    ) -> Row {
        Row { change, refused: &[], impossible }
    }

    /// Makes the launch one of an aarch64 guest, as a job that asks for nothing else has it.
    fn aarch64(launch: &mut Launch) {
        launch.machine.architecture = Architecture::Aarch64;
        launch.machine.kind = MachineKind::Virt;
        launch.firmware = Firmware { kind: FirmwareKind::Uefi, secure_boot: SecureBoot::Off };
    }

    const ROWS: &[Row] = &[
        fine(|_, _, _, _| {}),
        fine(|_, launch, _, _| launch.ports[0].host = Some(1024)),
        refused(&["port-not-allowed"], |_, launch, _, _| launch.ports[0].host = Some(1023)),
        fine(|_, launch, _, _| launch.ports.clear()),
        refused(&["port-not-requested"], |_, launch, _, _| launch.ports[0].guest = 81),
        refused(&["port-not-requested"], |_, launch, _, _| launch.ports[0].label = "x".into()),
        refused(&["port-not-requested"], |_, launch, _, _| {
            launch.ports.push(launch.ports[0].clone());
        }),
        refused(&["bind-not-allowed"], |_, launch, _, _| launch.ports[0].bind = [0; 4].into()),
        fine(|_, launch, rules, _| {
            launch.ports[0].bind = [0; 4].into();
            rules.binds.push([0; 4].into());
        }),
        refused(&["egress-not-allowed"], |_, launch, _, _| launch.egress = Egress::Internet),
        fine(|_, launch, rules, _| {
            launch.egress = Egress::Internet;
            rules.internet = true;
        }),
        fine(|_, launch, rules, _| launch.disk_bytes = Some(rules.disk_bytes)),
        refused(&["disk-not-allowed"], |_, launch, rules, _| {
            launch.disk_bytes = Some(rules.disk_bytes + (1 << 20));
        }),
        refused(&["disk-not-whole"], |_, launch, _, _| launch.disk_bytes = Some((1 << 20) + 512)),
        refused(&["argument-not-allowed"], |task, _, _, _| task.args = vec!["-rtc".into()]),
        fine(|task, _, rules, _| {
            task.args = vec!["-rtc".into(), "base=utc".into()];
            rules.args = vec![task.args.clone()];
        }),
        refused(&["argument-not-allowed"], |task, _, rules, _| {
            task.args = vec!["-rtc".into(), "base=utc,x".into()];
            rules.args = vec![vec!["-rtc".into(), "base=utc".into()]];
        }),
        refused(&["argument-not-allowed"], |task, _, _, _| task.args = vec!["-cpu".into()]),
        refused(&["persist-not-allowed"], |_, launch, _, _| launch.persist = true),
        fine(|_, launch, rules, _| {
            launch.persist = true;
            rules.persist = true;
        }),
        fine(|_, launch, _, _| launch.machine.kind = MachineKind::Q35),
        refused(&["cpu-not-allowed"], |_, launch, _, _| launch.machine.cpu = "qemu64".into()),
        fine(|_, launch, rules, _| {
            launch.machine.cpu = "qemu64".into();
            rules.cpus.push("qemu64".into());
        }),
        refused(&["nested-not-allowed"], |_, launch, _, _| launch.machine.nested = true),
        fine(|_, launch, rules, _| {
            launch.machine.nested = true;
            rules.nested = true;
        }),
        fine(|_, launch, _, _| {
            launch.nics.clear();
            launch.ports.clear();
        }),
        impossible(&["port-without-nic"], |_, launch, _, _| launch.nics.clear()),
        impossible(&["nic-not-offered"], |_, launch, _, _| {
            launch.nics[0].network = "other".into();
        }),
        impossible(&["nic-not-offered"], |_, launch, _, _| {
            launch.nics.push(launch.nics[0].clone());
        }),
        fine(|_, launch, _, _| launch.access.console = AccessLevel::Watch),
        impossible(&["access-not-offered"], |_, launch, _, _| {
            launch.access.console = AccessLevel::None;
        }),
        fine(|_, launch, _, _| {
            launch.access.agent = AccessLevel::Interact;
            launch.access.display = AccessLevel::Watch;
        }),
        impossible(&["access-not-offered"], |_, launch, _, _| {
            launch.access.display = AccessLevel::Interact;
        }),
        fine(|_, launch, _, _| launch.grace_s.seconds = 3600),
        refused(&["grace-too-long"], |_, launch, _, _| launch.grace_s.seconds = 3601),
        fine(|_, launch, _, host| host.resources.cpus = launch.resources.cpus),
        impossible(&["capacity"], |_, launch, _, host| {
            host.resources.cpus = launch.resources.cpus - 1;
        }),
        impossible(&["capacity"], |_, launch, _, host| {
            host.free.memory_mib = launch.resources.memory_mib - 1;
        }),
        impossible(&["capacity"], |_, launch, _, _| launch.resources.cpus = 0),
        impossible(&["accelerator"], |_, launch, _, _| launch.accelerator = Accelerator::Kvm),
        fine(|_, launch, _, host| {
            launch.accelerator = Accelerator::Kvm;
            host.accelerators.push(Accelerator::Kvm);
        }),
        fine(|_, launch, _, _| aarch64(launch)),
        impossible(&["architecture-not-offered"], |_, launch, _, host| {
            aarch64(launch);
            host.architectures = vec![Architecture::X86_64];
        }),
        impossible(&["accelerator"], |_, launch, _, host| {
            aarch64(launch);
            launch.accelerator = Accelerator::Kvm;
            host.accelerators.push(Accelerator::Kvm);
        }),
        impossible(&["nested-not-offered"], |_, launch, rules, _| {
            aarch64(launch);
            launch.machine.nested = true;
            rules.nested = true;
        }),
        impossible(&["firmware-not-offered"], |_, launch, _, _| {
            aarch64(launch);
            launch.firmware = Firmware::default();
        }),
        impossible(&["firmware-not-offered"], |_, launch, _, _| {
            aarch64(launch);
            launch.firmware.secure_boot = SecureBoot::VendorKeys;
        }),
        impossible(&["firmware-not-offered"], |_, launch, _, host| {
            launch.firmware.kind = FirmwareKind::Uefi;
            host.firmware = vec![Firmware::default()];
        }),
    ];

    #[test]
    fn each_rule_at_its_bound() {
        let job = br#"{"name": "x", "driver": "qemu", "resources": {"cpus": 2, "memory_mib": 64}, "config": {
            "image_source": "https://a.example/x", "port_map": {"http": 80},
            "checksum": "0000000000000000000000000000000000000000000000000000000000000000"}}"#;
        let asked = job::parse("job.json", job, "acme", None).unwrap();
        for (number, row) in ROWS.iter().enumerate() {
            let (mut task, mut launch) = (asked.clone(), Launch::default_for(&asked.asked));
            let (mut rules, mut host) = (Rules::default(), HostFacts::default());
            (row.change)(&mut task, &mut launch, &mut rules, &mut host);
            let found = check(&task, &launch, &rules, &host);
            let codes = |found: &[Violation]| {
                found.iter().map(|one| one.code.replace("host.", "")).collect::<Vec<_>>()
            };
            assert_eq!(codes(&found.refused), row.refused, "row {number}");
            assert_eq!(codes(&found.impossible), row.impossible, "row {number}");
        }
    }
}
