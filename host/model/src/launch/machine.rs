//! The machine that QEMU emulates.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    Change, Findings, Rules, architecture,
    changes::Changes,
    field::{AskedField, Key, LaunchField, Place},
    rules::{CPU_MAX, violation},
};
use crate::{
    architecture::Architecture,
    host_facts::HostFacts,
    job::{block::TaskBlock, cursor::Object},
    limits,
    named::named,
    quota::Usage,
    secrets::Secrets,
};

/// The family of QEMU's machines; a guest gets the newest version of it that this host's QEMU has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MachineKind {
    /// A PC with an i440FX chipset: PCI.
    #[default]
    Pc,
    /// A PC with a Q35 chipset: PCI Express.
    Q35,
    /// A machine for aarch64 that is no real board: PCI Express.
    Virt,
}
named!(MachineKind, Pc = "pc", Q35 = "q35", Virt = "virt");

impl MachineKind {
    /// The architecture of the machine's processors.
    pub fn architecture(self) -> Architecture {
        match self {
            Self::Pc | Self::Q35 => Architecture::X86_64,
            Self::Virt => Architecture::Aarch64,
        }
    }

    /// The machine of a guest that asks for none.
    fn default_of(architecture: Architecture) -> Self {
        match architecture {
            Architecture::X86_64 => Self::Pc,
            Architecture::Aarch64 => Self::Virt,
        }
    }
}

/// The machine of a launch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The family, which has the chipset and bus.
    pub kind: MachineKind,
    /// The architecture of the processors, which is the family's.
    #[serde(default, skip_serializing_if = "super::is_default")]
    pub architecture: Architecture,
    /// The CPU model by QEMU's name: 1 to 64 letters, digits, `-`, `_` and `.`.
    pub cpu: String,
    /// Whether the guest may run VMs of its own by hardware virtualization.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nested: bool,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            kind: MachineKind::default(),
            architecture: Architecture::default(),
            cpu: CPU_MAX.into(),
            nested: false,
        }
    }
}

/// Whether a text can be QEMU's name of a CPU model, with nothing else in it.
pub fn is_cpu(name: &str) -> bool {
    (1..=limits::CPU_MODEL_BYTES).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// The field for the machine.
#[derive(Debug)]
pub struct Field;

impl LaunchField for Field {
    type Asked = Machine;
    type Value = Machine;

    const NAME: &'static str = "machine";
    const CONTRACT: &'static str = "`machine`";
    const TIGHTER: &'static str = "make `nested` false";

    fn default_for(asked: &Machine) -> Machine {
        asked.clone()
    }

    fn compare(before: &Machine, after: &Machine, changes: &mut Changes) {
        changes.note("machine.kind", &before.kind, &after.kind);
        changes.note("machine.architecture", &before.architecture, &after.architecture);
        changes.note("machine.cpu", &before.cpu, &after.cpu);
        changes.note("machine.nested", &before.nested, &after.nested);
    }

    fn widened(host: &Machine, tenant: &Machine) -> Option<Change> {
        if host.kind != tenant.kind {
            return Some(Change::new("machine.kind", &host.kind, &tenant.kind));
        }
        if host.architecture != tenant.architecture {
            let (from, to) = (&host.architecture, &tenant.architecture);
            return Some(Change::new("machine.architecture", from, to));
        }
        if host.cpu != tenant.cpu {
            return Some(Change::new("machine.cpu", &host.cpu, &tenant.cpu));
        }
        (tenant.nested && !host.nested)
            .then(|| Change::new("machine.nested", &host.nested, &tenant.nested))
    }

    fn check(
        _: &Machine,
        machine: &Machine,
        rules: &Rules,
        _: &HostFacts,
        findings: &mut Findings,
    ) {
        if !rules.cpus.contains(&machine.cpu) {
            findings.refused.push(violation(
                "cpu-not-allowed",
                "machine.cpu",
                format!("tasks on this host may not have the CPU model {}", machine.cpu),
                format!(
                    "one of {}; or have the operator add it to machine.cpus",
                    rules.cpus.join(", ")
                ),
            ));
        }
        if machine.nested && !rules.nested {
            findings.refused.push(violation(
                "nested-not-allowed",
                "machine.nested",
                "guests on this host may not run VMs of their own".into(),
                "leave nested out; or have the operator set machine.nested = true".into(),
            ));
        }
    }

    fn mask(_: &mut Machine, _: &Secrets) {}

    fn add_to(_: &Machine, _: &mut Usage) {}

    fn shown(machine: &Machine) -> Option<String> {
        let Machine { kind, architecture, cpu, nested } = machine;
        (*machine != Machine::default()).then(|| {
            let nested = if *nested { ", nested" } else { "" };
            let of = match architecture {
                Architecture::X86_64 => "",
                Architecture::Aarch64 => " of aarch64",
            };
            format!("machine {}{of}, CPU {cpu}{nested}", kind.name())
        })
    }
}

impl AskedField for Field {
    const KEYS: &'static [Key] = &[
        Key {
            place: Place::Config,
            name: architecture::ARCHITECTURE,
            required: false,
            schema: || {
                json!({
                    "description": "The architecture that the guest's code is for: x86_64 when absent. The host must have QEMU's emulator and UEFI for it; an aarch64 guest is emulated, and boots by UEFI.",
                    "enum": ["x86_64", "aarch64", null]
                })
            },
        },
        Key {
            place: Place::Config,
            name: architecture::EMULATOR,
            required: false,
            schema: || {
                json!({
                    "description": "The same as architecture, in the words of Nomad's qemu driver: the name of QEMU's program.",
                    "enum": ["qemu-system-x86_64", "qemu-system-aarch64", null]
                })
            },
        },
        Key {
            place: Place::Config,
            name: "machine_type",
            required: false,
            schema: || {
                json!({
                    "description": "QEMU's machine. Of x86_64 guests: pc, which is the default, or q35. Of aarch64 guests: virt alone.",
                    "enum": ["pc", "q35", "virt", null]
                })
            },
        },
        Key {
            place: Place::Config,
            name: "cpu",
            required: false,
            schema: || {
                json!({
                    "description": "QEMU's name of the CPU model, of those that the host's machine.cpus lists; max when absent: all that the accelerator can give.",
                    "type": ["string", "null"],
                    "pattern": "^[A-Za-z0-9._-]{1,64}$"
                })
            },
        },
        Key {
            place: Place::Config,
            name: "nested",
            required: false,
            schema: || {
                json!({
                    "description": "Whether the guest may run VMs of its own by hardware virtualization; false when absent. The host refuses it unless its configuration allows it; an aarch64 guest cannot.",
                    "type": ["boolean", "null"],
                    "default": false
                })
            },
        },
    ];

    fn read(task: &TaskBlock<'_>) -> Option<Machine> {
        let config = task.config.as_ref()?;
        let architecture = architecture::read(config);
        let kind = kind(config, architecture);
        let cpu = match config.optional("cpu") {
            Some(cpu) => {
                let name = cpu.value().as_str().filter(|name| is_cpu(name));
                let expected = "QEMU's name of a CPU model, alone: letters, digits, -, _ and .";
                name.map_or_else(|| cpu.refuse(expected), |name| Some(name.to_owned()))
            }
            None => Some(CPU_MAX.into()),
        };
        let nested = nested(config, architecture);
        Some(Machine { kind: kind?, architecture: architecture?, cpu: cpu?, nested: nested? })
    }

    fn asking_for(value: &Machine) -> Machine {
        value.clone()
    }
}

/// Reads the machine's family, which must be one of the architecture; absent after a problem was noted.
fn kind(config: &Object<'_>, architecture: Option<Architecture>) -> Option<MachineKind> {
    let Some(word) = config.optional("machine_type") else {
        return Some(MachineKind::default_of(architecture.unwrap_or_default()));
    };
    if let Some(family) = word.value().as_str().and_then(family) {
        return word.refuse_with_hint(
            format!("a machine without a version: {family}"),
            format!("\"{family}\": a guest has the newest version that this host's QEMU has"),
        );
    }
    let kind = word.word(MachineKind::ALL, MachineKind::name)?;
    let Some(architecture) = architecture.filter(|asked| *asked != kind.architecture()) else {
        return Some(kind);
    };
    let fitting = MachineKind::ALL.iter().filter(|one| one.architecture() == architecture);
    let fitting: Vec<_> = fitting.map(|one| one.name()).collect();
    let (fitting, asked) = (fitting.join(", "), architecture.name());
    word.refuse_with_hint(
        format!("one of {fitting}: the guest's architecture is {asked}"),
        format!(
            "leave machine_type out; or set architecture to \"{}\", whose machine it is",
            kind.architecture().name()
        ),
    )
}

/// The family of a machine that is named with a version, such as `pc-q35-8.2`.
fn family(name: &str) -> Option<&'static str> {
    let of = [("pc-q35-", "q35"), ("pc-i440fx-", "pc"), ("virt-", "virt")];
    of.into_iter().find_map(|(prefix, family)| name.starts_with(prefix).then_some(family))
}

fn nested(config: &Object<'_>, architecture: Option<Architecture>) -> Option<bool> {
    let Some(nested) = config.optional("nested") else { return Some(false) };
    match (nested.boolean()?, architecture) {
        (true, Some(Architecture::Aarch64)) => nested.refuse_with_hint(
            "false, or no nested",
            "an aarch64 guest is emulated, and runs no VMs of its own by hardware virtualization",
        ),
        (asked, _) => Some(asked),
    }
}
