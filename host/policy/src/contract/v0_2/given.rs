//! Turns the answers of policies into a launch.

use qhost_model::{
    host_facts::{Accelerator, Resources},
    launch::{
        Access, AccessLevel, Architecture, Egress, Firmware, FirmwareKind, Grace, Launch, Machine,
        MachineKind, Nic, PortMap, Protocol, SecureBoot, Seed,
        disk_bytes::MIB,
        machine::is_cpu,
        seed::{SeedKind, SeedPart, is_hostname},
    },
};

use super::{
    super::answer::{self, ContractBreaches, few, nonsense, unknown, word},
    GivenLaunch, UNLIMITED,
    disks::{Disks, disks_in, rate_in, size_mib},
    wit,
};
use crate::error::Fault;

pub(in super::super) fn launch_in(
    launch: GivenLaunch,
    shown: &Launch,
    breaches: &mut ContractBreaches,
) -> Result<Launch, Fault> {
    few("ports", launch.ports.len())?;
    few("network devices", launch.nics.len())?;
    few("warnings", launch.warnings.len())?;
    breaches.warnings(&launch.warnings);
    answer::extensions(&launch.extensions)?;
    let accelerator = match launch.accelerator {
        wit::AcceleratorResult::Tcg => Accelerator::Tcg,
        wit::AcceleratorResult::Kvm => Accelerator::Kvm,
        wit::AcceleratorResult::Other(name) => return Err(unknown("accelerator", &name)),
    };
    let egress = match launch.egress {
        wit::EgressResult::Isolated => Egress::Isolated,
        wit::EgressResult::Internet => Egress::Internet,
        wit::EgressResult::Listed(_) => return Err(unknown("egress", "listed")),
        wit::EgressResult::Other(name) => return Err(unknown("egress", &name)),
    };
    let Disks { root, others } = disks_in(launch.disks, &shown.disks)?;
    let firmware = firmware_in(launch.firmware, root.persistent)?;
    Ok(Launch {
        accelerator,
        ports: launch.ports.into_iter().map(port_in).collect::<Result<_, _>>()?,
        resources: Resources {
            cpus: launch.resources.cpus,
            memory_mib: launch.resources.memory_mib,
        },
        egress,
        disk_bytes: disk_bytes_in(root.size_mib, shown),
        disk_rate: rate_in(&root)?,
        persist: root.persistent,
        disks: others,
        firmware,
        seed: launch.seed.map(|seed| seed_in(seed, shown)).transpose()?,
        machine: machine_in(&launch.machine, &shown.machine)?,
        nics: launch.nics.into_iter().map(nic_in).collect::<Result<_, _>>()?,
        access: access_in(launch.access)?,
        grace_s: Grace { seconds: launch.grace_seconds },
        warnings: launch.warnings.iter().map(|warning| answer::text(warning)).collect(),
        extensions: launch.extensions,
    })
}

/// The size of the root disk. An earlier qhost let a job ask for a size that is not of whole MiB; a policy that leaves it
/// alone keeps it.
fn disk_bytes_in(size: Option<u32>, shown: &Launch) -> Option<u64> {
    if size == shown.disk_bytes.map(size_mib) {
        shown.disk_bytes
    } else {
        size.map(|size| u64::from(size) * MIB)
    }
}

/// Reads a seed, which is the one that the policy was shown, or less of it.
fn seed_in(given: wit::SeedResult, shown: &Launch) -> Result<Seed, Fault> {
    let kind = match given.kind {
        wit::SeedKindResult::CloudInit => SeedKind::CloudInit,
        wit::SeedKindResult::Ignition => SeedKind::Ignition,
        wit::SeedKindResult::Other(name) => return Err(unknown("seed", &name)),
    };
    let none = || nonsense("a seed where it was shown none".into());
    let before = shown.seed.as_ref().ok_or_else(none)?;
    let mut parts: Vec<SeedPart> = vec![];
    for part in given.parts {
        let is_it = |known: &&SeedPart| {
            known.name.name() == part.name
                && known.media_type == part.media_type
                && known.sha256.to_string() == part.sha256
                && (known.bytes, &known.keys) == (part.bytes, &part.keys)
        };
        let known = before.parts.iter().find(is_it).filter(|known| !parts.contains(known));
        let known = known.ok_or_else(|| {
            nonsense(format!("a part {:?} of a seed that it was not shown", word(&part.name)))
        })?;
        parts.push(known.clone());
    }
    for (index, key) in given.ssh_keys.iter().enumerate() {
        let is_there = given.ssh_keys.iter().take(index).any(|earlier| earlier == key);
        if is_there || !before.ssh_keys.contains(key) {
            return Err(nonsense(format!("an SSH key {:?} that it was not shown", word(key))));
        }
    }
    if let Some(name) = given.hostname.as_ref().filter(|name| !is_hostname(name)) {
        return Err(nonsense(format!("the host name {:?}, which is not valid", word(name))));
    }
    Ok(Seed { kind, parts, hostname: given.hostname, ssh_keys: given.ssh_keys })
}

/// Reads the firmware. UEFI's variables are kept exactly where the root disk is, so that a policy cannot ask for one without
/// the other.
fn firmware_in(firmware: wit::FirmwareResult, persistent: bool) -> Result<Firmware, Fault> {
    let kind = match firmware.kind {
        wit::FirmwareKindResult::Bios => FirmwareKind::Bios,
        wit::FirmwareKindResult::Uefi => FirmwareKind::Uefi,
        wit::FirmwareKindResult::Other(name) => return Err(unknown("firmware", &name)),
    };
    let secure_boot = match firmware.secure_boot {
        wit::SecureBootResult::Off => SecureBoot::Off,
        wit::SecureBootResult::OwnKeys => SecureBoot::OwnKeys,
        wit::SecureBootResult::VendorKeys => SecureBoot::VendorKeys,
        wit::SecureBootResult::Other(name) => return Err(unknown("secure boot", &name)),
    };
    match kind {
        FirmwareKind::Bios if secure_boot != SecureBoot::Off || firmware.keeps_variables => {
            Err(nonsense("secure boot or variables of a firmware that has none, bios".into()))
        }
        FirmwareKind::Uefi if persistent && !firmware.keeps_variables => Err(nonsense(
            "keeps-variables is false beside a root disk that is persistent, and this host keeps both or neither"
                .into(),
        )),
        FirmwareKind::Bios | FirmwareKind::Uefi => Ok(Firmware { kind, secure_boot }),
    }
}

/// Reads the machine. No policy changes the architecture, which the guest's image is built for.
fn machine_in(machine: &wit::MachineResult, shown: &Machine) -> Result<Machine, Fault> {
    let wit::MachineResult { kind, architecture: name, cpu, nested } = machine;
    let architecture = Architecture::named(name).ok_or_else(|| unknown("architecture", name))?;
    if architecture != shown.architecture {
        let (given, shown) = (architecture.name(), shown.architecture.name());
        return Err(nonsense(format!("the architecture {given} where it was shown {shown}")));
    }
    let kind = MachineKind::named(kind).ok_or_else(|| unknown("machine", kind))?;
    if kind.architecture() != architecture {
        let (kind, of) = (kind.name(), architecture.name());
        return Err(nonsense(format!("the machine {kind}, which is none of {of}")));
    }
    if !is_cpu(cpu) {
        return Err(unknown("CPU model", cpu));
    }
    Ok(Machine { kind, architecture, cpu: cpu.clone(), nested: *nested })
}

fn nic_in(nic: wit::NicResult) -> Result<Nic, Fault> {
    let wit::NicResult { name, network, mac, rate } = nic;
    if mac.is_some() || rate != UNLIMITED {
        let name = word(&name);
        return Err(nonsense(format!(
            "an address or a rate of network device {name:?}, which this host cannot give it"
        )));
    }
    Ok(Nic { name: word(&name), network: word(&network) })
}

fn access_in(access: wit::AccessResult) -> Result<Access, Fault> {
    let level = |level: wit::AccessLevelResult| match level {
        wit::AccessLevelResult::None => Ok(AccessLevel::None),
        wit::AccessLevelResult::Watch => Ok(AccessLevel::Watch),
        wit::AccessLevelResult::Interact => Ok(AccessLevel::Interact),
        wit::AccessLevelResult::Other(name) => Err(unknown("access level", &name)),
    };
    Ok(Access {
        console: level(access.console)?,
        display: level(access.display)?,
        agent: level(access.agent)?,
    })
}

fn port_in(port: wit::PortMapResult) -> Result<PortMap, Fault> {
    let protocol = match port.protocol {
        wit::ProtocolResult::Tcp => Protocol::Tcp,
        wit::ProtocolResult::Udp => Protocol::Udp,
        wit::ProtocolResult::Other(name) => return Err(unknown("protocol", &name)),
    };
    let bind = answer::bind(&port.bind)?;
    Ok(PortMap { label: word(&port.label), guest: port.guest, host: port.host, bind, protocol })
}
