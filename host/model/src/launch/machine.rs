//! The machine that QEMU emulates.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    Change, Findings, Rules,
    changes::Changes,
    field::{AskedField, Key, LaunchField, Place},
    rules::{CPU_MAX, violation},
};
use crate::{
    host_facts::HostFacts, job::block::TaskBlock, limits, named::named, quota::Usage,
    secrets::Secrets,
};

/// QEMU's machine, by the family's name: the newest version of it that this host's QEMU has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MachineKind {
    /// With an i440FX chipset: PCI.
    #[default]
    Pc,
    /// With a Q35 chipset: PCI Express.
    Q35,
}
named!(MachineKind, Pc = "pc", Q35 = "q35");

/// The machine of a launch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Chipset and bus.
    pub kind: MachineKind,
    /// QEMU's name of the CPU model: 1 to 64 letters, digits, `-`, `_` and `.`.
    pub cpu: String,
    /// Whether the guest may run VMs of its own by hardware virtualization.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nested: bool,
}

impl Default for Machine {
    fn default() -> Self {
        Self { kind: MachineKind::default(), cpu: CPU_MAX.into(), nested: false }
    }
}

/// Whether a text can be QEMU's name of a CPU model, with nothing else in it.
pub fn is_cpu(name: &str) -> bool {
    (1..=limits::CPU_MODEL_BYTES).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// The field.
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
        changes.note("machine.cpu", &before.cpu, &after.cpu);
        changes.note("machine.nested", &before.nested, &after.nested);
    }

    fn widened(host: &Machine, tenant: &Machine) -> Option<Change> {
        if host.kind != tenant.kind {
            return Some(Change::new("machine.kind", &host.kind, &tenant.kind));
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
        let Machine { kind, cpu, nested } = machine;
        (*machine != Machine::default()).then(|| {
            let nested = if *nested { ", nested" } else { "" };
            format!("machine {}, CPU {cpu}{nested}", kind.name())
        })
    }
}

impl AskedField for Field {
    const KEYS: &'static [Key] = &[
        Key {
            place: Place::Config,
            name: "machine_type",
            required: false,
            schema: || {
                json!({
                    "description": "QEMU's machine: pc when absent.",
                    "enum": ["pc", "q35", null]
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
                    "description": "Whether the guest may run VMs of its own by hardware virtualization; false when absent. The host refuses it unless its configuration allows it.",
                    "type": ["boolean", "null"]
                })
            },
        },
    ];

    fn read(task: &TaskBlock<'_>) -> Option<Machine> {
        let config = task.config.as_ref()?;
        let kind = match config.optional("machine_type") {
            Some(word) => word.word(MachineKind::ALL, MachineKind::name),
            None => Some(MachineKind::default()),
        };
        let cpu = match config.optional("cpu") {
            Some(cpu) => {
                let name = cpu.value().as_str().filter(|name| is_cpu(name));
                let expected = "QEMU's name of a CPU model, alone: letters, digits, -, _ and .";
                name.map_or_else(|| cpu.refuse(expected), |name| Some(name.to_owned()))
            }
            None => Some(CPU_MAX.into()),
        };
        let nested = config.optional("nested").map_or(Some(false), |nested| nested.boolean());
        Some(Machine { kind: kind?, cpu: cpu?, nested: nested? })
    }

    fn asking_for(value: &Machine) -> Machine {
        value.clone()
    }
}
