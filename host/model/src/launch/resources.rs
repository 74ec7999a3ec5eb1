//! The CPUs and memory of a guest.

use std::ops::RangeInclusive;

use serde_json::json;

use super::{
    Change, Findings, Rules,
    changes::Changes,
    field::{AskedField, Key, LaunchField, Place},
    rules::violation,
};
use crate::{
    host_facts::{HostFacts, Resources},
    job::block::{Form, TaskBlock},
    limits,
    quota::Usage,
    secrets::Secrets,
};

/// The field for the guest's CPUs and memory.
#[derive(Debug)]
pub struct Field;

impl LaunchField for Field {
    type Asked = Resources;
    type Value = Resources;

    const NAME: &'static str = "resources";
    const CONTRACT: &'static str = "`resources`";
    const TIGHTER: &'static str = "lower each";

    fn default_for(asked: &Resources) -> Resources {
        *asked
    }

    fn compare(before: &Resources, after: &Resources, changes: &mut Changes) {
        let Resources { cpus, memory_mib } = before;
        changes.note("resources.cpus", cpus, &after.cpus);
        changes.note("resources.memory_mib", memory_mib, &after.memory_mib);
    }

    fn widened(host: &Resources, tenant: &Resources) -> Option<Change> {
        let Resources { cpus, memory_mib } = *tenant;
        if cpus > host.cpus {
            return Some(Change::new("resources.cpus", &host.cpus, &cpus));
        }
        let is_wider = memory_mib > host.memory_mib;
        is_wider.then(|| Change::new("resources.memory_mib", &host.memory_mib, &memory_mib))
    }

    fn check(
        _: &Resources,
        resources: &Resources,
        _: &Rules,
        host: &HostFacts,
        findings: &mut Findings,
    ) {
        let Resources { cpus, memory_mib } = *resources;
        let mut check =
            |name: &str, wanted: u32, range: RangeInclusive<u32>, unit: &str, has: &str| {
                if !range.contains(&wanted) {
                    let (least, most) = range.into_inner();
                    findings.impossible.push(violation(
                        "capacity",
                        format!("resources.{name}"),
                        format!("{wanted} {unit}: this host has {most} {has}"),
                        format!("ask for {least} to {most}"),
                    ));
                }
            };
        let range = *limits::CPUS.start()..=host.resources.cpus;
        check("cpus", cpus, range, "CPUs", "CPUs");
        let range = *limits::MEMORY_MIB.start()..=host.free.memory_mib;
        check("memory-mib", memory_mib, range, "MiB of memory", "MiB free");
    }

    fn mask(_: &mut Resources, _: &Secrets) {}

    fn add_to(resources: &Resources, usage: &mut Usage) {
        usage.cpus += u64::from(resources.cpus);
        usage.memory_mib += u64::from(resources.memory_mib);
    }

    fn shown(resources: &Resources) -> Option<String> {
        let Resources { cpus, memory_mib } = resources;
        let plural = if *cpus == 1 { "" } else { "s" };
        Some(format!("{cpus} CPU{plural}, {memory_mib} MiB"))
    }
}

impl AskedField for Field {
    const KEYS: &'static [Key] = &[
        Key {
            place: Place::OwnResources,
            name: "cpus",
            required: false,
            schema: || {
                json!({
                    "description": "Virtual CPUs; 1 when absent.",
                    "anyOf": [{ "$ref": "#/$defs/cpus" }, { "type": "null" }]
                })
            },
        },
        Key {
            place: Place::OwnResources,
            name: "memory_mib",
            required: true,
            schema: || json!({ "$ref": "#/$defs/memory" }),
        },
        Key {
            place: Place::NomadResources,
            name: "Cores",
            required: false,
            schema: || {
                json!({
                    "description": "Virtual CPUs; 1 when absent or 0. CPU, a share in MHz, says nothing of their number.",
                    "anyOf": [{ "$ref": "#/$defs/cpus" }, { "enum": [0, null] }]
                })
            },
        },
        Key {
            place: Place::NomadResources,
            name: "MemoryMB",
            required: true,
            schema: || json!({ "$ref": "#/$defs/memory" }),
        },
    ];

    fn read(task: &TaskBlock<'_>) -> Option<Resources> {
        let resources = task.resources.as_ref()?;
        let (cpus, memory) = match task.form {
            Form::Own => ("cpus", "memory_mib"),
            Form::Nomad => ("Cores", "MemoryMB"),
        };
        // Nomad writes 0 where no number was given.
        let is_given = |cpus: u64| task.form == Form::Own || cpus != 0;
        let cpus =
            resources.optional(cpus).filter(|cpus| cpus.value().as_u64().is_none_or(is_given));
        let cpus = match cpus {
            Some(cpus) => cpus.number(limits::CPUS, "virtual CPUs"),
            None => Some(1),
        };
        let memory_mib = resources
            .required(memory, "the guest's memory in MiB")
            .and_then(|memory| memory.number(limits::MEMORY_MIB, "memory in MiB"));
        Some(Resources { cpus: cpus?, memory_mib: memory_mib? })
    }

    fn asking_for(value: &Resources) -> Resources {
        *value
    }
}
