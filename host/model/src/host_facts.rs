//! The facts about a host that policies and the host's rules decide from: what the host offers and what is in use on it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    architecture::Architecture,
    firmware::{Firmware, FirmwareKind, SecureBoot},
    limits,
    named::named,
};

/// What this host offers, and what is in use on it now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostFacts {
    /// The host's name.
    pub name: String,
    /// QEMU's version.
    pub qemu_version: String,
    /// The accelerators that run guest code.
    pub accelerators: Vec<Accelerator>,
    /// The architectures of guests that the host runs: those with an emulator and a firmware.
    #[serde(default = "own_architecture", skip_serializing_if = "is_own_architecture")]
    pub architectures: Vec<Architecture>,
    /// The firmware that guests of the host's own architecture may have.
    #[serde(default = "bios", skip_serializing_if = "is_bios")]
    pub firmware: Vec<Firmware>,
    /// The resources of the whole host.
    pub resources: Resources,
    /// The resources that are free.
    pub free: Resources,
    /// The ports on which a process listens, ascending.
    pub ports_in_use: Vec<u16>,
    /// What the task's tenant runs now.
    pub tenant_usage: TenantUsage,
}

/// The firmware that every host has.
pub fn bios() -> Vec<Firmware> {
    vec![Firmware::default()]
}

/// The architecture of every host's own processors.
pub fn own_architecture() -> Vec<Architecture> {
    vec![Architecture::X86_64]
}

fn is_own_architecture(architectures: &Vec<Architecture>) -> bool {
    *architectures == own_architecture()
}

/// The firmware that aarch64 guests boot by.
pub const AARCH64_FIRMWARE: Firmware =
    Firmware { kind: FirmwareKind::Uefi, secure_boot: SecureBoot::Off };

impl HostFacts {
    /// The firmware that guests of an architecture may have.
    pub fn firmware_of(&self, architecture: Architecture) -> Vec<Firmware> {
        if !self.architectures.contains(&architecture) {
            return vec![];
        }
        match architecture {
            Architecture::X86_64 => self.firmware.clone(),
            Architecture::Aarch64 => vec![AARCH64_FIRMWARE],
        }
    }

    /// The accelerators that run guests of an architecture.
    pub fn accelerators_of(
        &self,
        architecture: Architecture,
    ) -> impl Iterator<Item = Accelerator> + '_ {
        let is_own = own_architecture().contains(&architecture);
        self.accelerators.iter().copied().filter(move |one| is_own || *one == Accelerator::Tcg)
    }
}

fn is_bios(firmware: &Vec<Firmware>) -> bool {
    *firmware == bios()
}

/// A host for trying policies: it runs tcg and every architecture, has as much as a task can ask for, and runs nothing.
impl Default for HostFacts {
    fn default() -> Self {
        let (cpus, memory_mib) = (*limits::CPUS.end(), *limits::MEMORY_MIB.end());
        let all = Resources { cpus, memory_mib };
        let none = Resources { cpus: 0, memory_mib: 0 };
        let uefi = SecureBoot::ALL
            .iter()
            .map(|secure_boot| Firmware { kind: FirmwareKind::Uefi, secure_boot: *secure_boot });
        Self {
            name: "host".into(),
            qemu_version: "10.0.2".into(),
            accelerators: vec![Accelerator::Tcg],
            architectures: Architecture::ALL.to_vec(),
            firmware: bios().into_iter().chain(uefi).collect(),
            resources: all,
            free: all,
            ports_in_use: vec![],
            tenant_usage: TenantUsage { vms: 0, resources: none, ports: 0 },
        }
    }
}

/// The resources that a tenant's running VMs hold.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TenantUsage {
    /// The number of running VMs.
    pub vms: u32,
    /// The CPUs and memory of these VMs together.
    pub resources: Resources,
    /// The forwarded ports of these VMs together.
    pub ports: u32,
}

/// An accelerator, which runs a guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// QEMU's own translator.
    Tcg,
    /// Hardware virtualization by the Linux kernel.
    Kvm,
}
named!(Accelerator, Tcg = "tcg", Kvm = "kvm");

/// An amount of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Resources {
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
}
